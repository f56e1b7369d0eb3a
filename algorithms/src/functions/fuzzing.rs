//! What other organizations answer, for those who throw anything at it.

use serde::{Deserialize, de::DeserializeOwned};
use twinmesh_protocol::id::{OrganizationId, RunId};

use super::{kaplan_meier, summary, to_value};
use crate::{
    maths::{
        collective,
        formula::{Coding, Formula, Survey},
        logistic::{Irls, Progress, Statistics},
    },
    sdk::gateway::SubtaskResult,
};

/// The results of a subtask, as a central function takes them: a list of what organizations returned.
pub(crate) fn partials(bytes: &[u8]) {
    if let Some(results) = results(bytes) {
        let _ = to_value(&summary::unite(&results));
    }
    if let Some(results) = results(bytes) {
        let _ = to_value(&kaplan_meier::unite(&results, &[0.0, 1.5, f64::MAX]));
    }
    regression(bytes);
}

/// A message between twins that sum up numbers.
pub(crate) fn vector(bytes: &[u8]) {
    for count in [0, 1, bytes.len() / 8] {
        if let Ok(values) = collective::decode::<u64, ()>(bytes, 1, count) {
            let values: Vec<u64> = values.collect();
            assert_eq!(collective::encode(&values), bytes, "what is written reads as it was");
        }
        if let Ok(values) = collective::decode::<f64, ()>(bytes, 1, count) {
            let values: Vec<f64> = values.collect();
            let _ = Statistics::from_vector(2, &values).map(|sum| Irls::new(names()).handle(&sum));
        }
    }
}

fn results<T: DeserializeOwned>(bytes: &[u8]) -> Option<Vec<SubtaskResult<T>>> {
    let values: Vec<T> = serde_json::from_slice(bytes).ok()?;
    let ids = 1..;
    let result = |(id, value)| SubtaskResult { run: RunId::new(id), organization: OrganizationId::new(id), value };
    Some(ids.zip(values).map(result).collect())
}

/// Columns that organizations have, then their sums, round by round.
fn regression(bytes: &[u8]) {
    #[derive(Deserialize)]
    struct Told {
        surveys: Vec<Survey>,
        rounds: Vec<Vec<Statistics>>,
    }
    let Ok(told) = serde_json::from_slice::<Told>(bytes) else { return };
    let Ok(formula) = "y ~ a + C(b)".parse::<Formula>() else { return };
    let Ok(coding) = Coding::unite(&told.surveys) else { return };
    let Ok(names) = formula.names(&coding) else { return };
    let mut irls = Irls::new(names);
    for round in told.rounds {
        let mut sum = Statistics::zero(irls.coefficients().len());
        if round.iter().any(|statistics| sum.add(statistics).is_err()) {
            return;
        }
        if !matches!(irls.handle(&sum), Ok(Progress::Continue)) {
            return;
        }
    }
}

fn names() -> Vec<String> {
    vec!["(Intercept)".to_owned(), "a".to_owned()]
}
