//! `logistic`, `logistic_partial` and `logistic_twin`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use twinmesh_protocol::id::OrganizationId;

use super::{FunctionError, Spread, ask_all, join_with, read_table, require, rows_by_organization, to_value, total};
use crate::{
    maths::{
        collective::{all_gather, all_reduce},
        formula::{Coding, Formula, Frame, Survey},
        logistic::{Fit, Irls, Progress, Statistics},
    },
    sdk::{Host, HostError, table::Table},
    twin::{TwinError, TwinGroup},
};

/// What to fit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// Such as `cens ~ age + horTh`.
    formula: String,
    /// The database's label; the task's first one when absent.
    #[serde(default)]
    database: Option<String>,
    /// Where partials or twins run; everywhere when absent.
    #[serde(default)]
    organizations: Option<Vec<OrganizationId>>,
}

/// What a partial is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartialArguments {
    formula: String,
    #[serde(default)]
    database: Option<String>,
    /// Absent in the first round, which asks what the columns hold.
    #[serde(default)]
    at: Option<At>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    coding: Coding,
    coefficients: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Regression {
    formula: String,
    #[serde(flatten)]
    fit: Fit,
    missing_rows: u64,
    organizations: BTreeMap<OrganizationId, u64>,
}

pub(super) fn partial(host: &Host) -> Result<Value, FunctionError> {
    let arguments: PartialArguments = host.input().arguments()?;
    let formula: Formula = arguments.formula.parse()?;
    let table = read_table(host, arguments.database.as_deref())?;
    match arguments.at {
        None => to_value(&survey(host, &formula, &table)?),
        Some(at) => {
            let frame = frame(host, &formula, &table, &at.coding)?;
            to_value(&statistics(host, &frame, &at.coefficients)?)
        }
    }
}

pub(super) fn central(host: &Host) -> Result<Value, FunctionError> {
    let arguments: Arguments = host.input().arguments()?;
    let formula: Formula = arguments.formula.parse()?;
    let organizations = Spread { organizations: arguments.organizations }.resolve(host)?;
    let ask = |at| PartialArguments { formula: arguments.formula.clone(), database: arguments.database.clone(), at };
    let surveys = ask_all::<Survey>(host, "logistic_partial", &ask(None), &organizations)?;
    let coding = Coding::unite(surveys.iter().map(|result| &result.value))?;
    let mut irls = Irls::new(formula.names(&coding)?);
    loop {
        let at = At { coding: coding.clone(), coefficients: irls.coefficients().to_vec() };
        let results = ask_all::<Statistics>(host, "logistic_partial", &ask(Some(at)), &organizations)?;
        let mut sum = Statistics::zero(irls.coefficients().len());
        for result in &results {
            sum.add(&result.value)?;
        }
        if let Progress::Done(fit) = irls.handle(&sum)? {
            return to_value(&Regression {
                formula: arguments.formula,
                fit,
                missing_rows: total(&surveys, |result| result.value.missing_rows),
                organizations: rows_by_organization(&surveys, |survey| survey.rows),
            });
        }
    }
}

pub(super) fn twin(host: &Host) -> Result<Value, FunctionError> {
    let arguments: Arguments = host.input().arguments()?;
    let formula: Formula = arguments.formula.parse()?;
    let own =
        read_table(host, arguments.database.as_deref()).and_then(|table| Ok((survey(host, &formula, &table)?, table)));
    let (mut group, (own, table)) = join_with(host, arguments.organizations, own)?;
    let surveys = exchange(&mut group, &own)?;
    let coding = Coding::unite(&surveys)?;
    let frame = frame(host, &formula, &table, &coding)?;
    let mut irls = Irls::new(frame.names.clone());
    loop {
        let mut vector = statistics(host, &frame, irls.coefficients())?.to_vector();
        all_reduce(&mut group, &mut vector)?;
        let sum = Statistics::from_vector(irls.coefficients().len(), &vector)?;
        if let Progress::Done(fit) = irls.handle(&sum)? {
            return to_value(&Regression {
                formula: arguments.formula,
                fit,
                missing_rows: total(&surveys, |survey| survey.missing_rows),
                organizations: group
                    .organizations()
                    .iter()
                    .zip(&surveys)
                    .map(|(organization, survey)| (*organization, survey.rows))
                    .collect(),
            });
        }
    }
}

/// Says what the columns hold, when enough rows stand behind it.
fn survey(host: &Host, formula: &Formula, table: &Table) -> Result<Survey, FunctionError> {
    let survey = formula.survey(table)?;
    require(host, survey.rows, || "few rows have all columns filled in".to_owned())?;
    require_rarest(host, formula, table, None)?;
    Ok(survey)
}

/// Refuses when sums over a group of rows would be sums over few.
fn require_rarest(host: &Host, formula: &Formula, table: &Table, coding: Option<&Coding>) -> Result<(), FunctionError> {
    match formula.rarest(table, coding)? {
        Some(rarest) => {
            require(host, rarest.rows, || format!("column `{}` has a value that few rows share", rarest.column))
        }
        None => Ok(()),
    }
}

/// Builds the matrix, when sums over it say little about single rows.
fn frame(host: &Host, formula: &Formula, table: &Table, coding: &Coding) -> Result<Frame, FunctionError> {
    // First, as what the coding lacks would tell of rare categories.
    require_rarest(host, formula, table, Some(coding))?;
    let frame = formula.frame(table, coding)?;
    let rows = frame.rows() as u64;
    require(host, rows, || "few rows have all columns filled in".to_owned())?;
    // As many sums as rows would tell the rows.
    if rows <= frame.names.len() as u64 {
        let what = format!("the model has {} coefficients for {rows} rows here", frame.names.len());
        return Err(FunctionError::TooFew { what, minimum: frame.names.len() as u64 + 1 });
    }
    Ok(frame)
}

/// Sums over the rows, when not a few of them decide: far from a fit, the weights of all rows but a few may vanish.
fn statistics(host: &Host, frame: &Frame, coefficients: &[f64]) -> Result<Statistics, FunctionError> {
    let sum = Statistics::of(frame, coefficients)?;
    let minimum = host.min_rows()?;
    if sum.effective_rows() < minimum as f64 {
        let what = "few rows have an outcome that is uncertain at these coefficients (the data separate the outcomes, \
                    or the coefficients were made up)";
        return Err(FunctionError::TooFew { what: what.to_owned(), minimum });
    }
    Ok(sum)
}

fn exchange(group: &mut TwinGroup, own: &Survey) -> Result<Vec<Survey>, FunctionError> {
    let message = serde_json::to_vec(own).map_err(|error| HostError::Input(error.to_string()))?;
    let messages = all_gather(group, Bytes::from(message))?;
    group
        .organizations()
        .iter()
        .zip(&messages)
        .map(|(organization, message)| {
            serde_json::from_slice(message).map_err(|_| {
                let reason = "it sent something else than its columns; do all twins run the same function?".to_owned();
                TwinError::Broken { organization: *organization, reason }.into()
            })
        })
        .collect()
}
