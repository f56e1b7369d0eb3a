//! `kaplan_meier` and `kaplan_meier_partial`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use twinmesh_protocol::id::OrganizationId;

use super::{FunctionError, Spread, ask_all, read_table, require, rows_by_organization, to_value, total};
use crate::{
    maths::survival::{Curve, EventTable, SurvivalError},
    sdk::{Host, gateway::SubtaskResult},
};

/// How the only group is called when no column makes groups.
const ALL: &str = "all";

/// What to estimate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The column with the time to the event or the last observation.
    time: String,
    /// The column that says whether the event happened (1) or not (0).
    event: String,
    /// The column by whose values curves are made.
    #[serde(default)]
    group: Option<String>,
    /// The database's label; the task's first one when absent.
    #[serde(default)]
    database: Option<String>,
    /// Times at which the curve's value is wanted.
    #[serde(default, skip_serializing)]
    at: Vec<f64>,
    /// For the central function alone.
    #[serde(default, skip_serializing)]
    organizations: Option<Vec<OrganizationId>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Partial {
    rows: u64,
    missing_rows: u64,
    groups: BTreeMap<String, EventTable>,
}

#[derive(Debug, Serialize)]
pub(super) struct KaplanMeier {
    rows: u64,
    missing_rows: u64,
    organizations: BTreeMap<OrganizationId, u64>,
    groups: BTreeMap<String, Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    n: u64,
    events: u64,
    median: Option<f64>,
    survival_at: Vec<SurvivalAt>,
    #[serde(flatten)]
    curve: Curve,
}

#[derive(Debug, Serialize)]
struct SurvivalAt {
    time: f64,
    survival: f64,
}

pub(super) fn partial(host: &Host) -> Result<Value, FunctionError> {
    let arguments: Arguments = host.input().arguments()?;
    let table = read_table(host, arguments.database.as_deref())?;
    let (times, events) = (table.numbers(&arguments.time)?, table.numbers(&arguments.event)?);
    let groups = match &arguments.group {
        Some(column) => table.texts(column)?,
        None => vec![Some(ALL); table.rows()],
    };
    let mut observations: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    let mut complete = 0;
    for (row, ((time, event), group)) in times.into_iter().zip(events).zip(groups).enumerate() {
        let (Some(time), Some(event), Some(group)) = (time, event, group) else { continue };
        // Checked here because only here rows have the numbers that they have in the file.
        match EventTable::of([(time, event)]) {
            Ok(_) => observations.entry(group).or_default().push((time, event)),
            Err(SurvivalError::Time { .. }) => return Err(SurvivalError::Time { row: row + 1 }.into()),
            Err(_) => return Err(SurvivalError::Event { row: row + 1 }.into()),
        }
        complete += 1;
    }
    let mut partial = Partial { rows: complete, missing_rows: table.rows() as u64 - complete, groups: BTreeMap::new() };
    for (group, observations) in observations {
        require(host, observations.len() as u64, || "a group has few rows".to_owned())?;
        partial.groups.insert(group.to_owned(), EventTable::of(observations)?);
    }
    to_value(&partial)
}

pub(super) fn central(host: &Host) -> Result<Value, FunctionError> {
    let arguments: Arguments = host.input().arguments()?;
    let organizations = Spread { organizations: arguments.organizations.clone() }.resolve(host)?;
    let results = ask_all(host, "kaplan_meier_partial", &arguments, &organizations)?;
    to_value(&unite(&results, &arguments.at))
}

pub(super) fn unite(results: &[SubtaskResult<Partial>], times: &[f64]) -> KaplanMeier {
    let mut groups: BTreeMap<String, EventTable> = BTreeMap::new();
    for result in results {
        for (group, table) in &result.value.groups {
            let sum = groups.entry(group.clone()).or_default();
            *sum = std::mem::take(sum).merge(table.clone());
        }
    }
    KaplanMeier {
        rows: total(results, |result| result.value.rows),
        missing_rows: total(results, |result| result.value.missing_rows),
        organizations: rows_by_organization(results, |partial| partial.rows),
        groups: groups
            .into_iter()
            .map(|(name, table)| {
                let curve = table.curve();
                let at = |&time: &f64| SurvivalAt { time, survival: curve.survival_at(time) };
                let group = Group {
                    n: table.subjects(),
                    events: table.events(),
                    median: curve.median(),
                    survival_at: times.iter().map(at).collect(),
                    curve,
                };
                (name, group)
            })
            .collect(),
    }
}
