//! The functions of the built-in image.
//!
//! A *central* function makes subtasks and combines their results; a *partial* one answers from its own rows; a *twin*
//! function runs at all organizations at once, talking to its twins directly, and returns the same result everywhere.
//! Arguments are given by name. No function returns rows, and partials refuse when they have too few.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use twinmesh_protocol::id::OrganizationId;

use crate::{
    maths::{collective::CollectiveError, formula::FormulaError, logistic::LogisticError, survival::SurvivalError},
    sdk::{
        Host, HostError,
        gateway::{GatewayError, SubtaskResult},
        table::{Table, TableError},
    },
    twin::{Options, TwinError, TwinGroup},
};

mod allreduce_bench;
pub(crate) mod fuzzing;
mod kaplan_meier;
mod logistic;
mod secure_sum;
mod summary;

/// A reason for not getting a result.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// There is no such function.
    #[error("there is no function `{method}`; there are {}", names().join(", "))]
    Unknown {
        /// What was asked for.
        method: String,
    },
    /// The node does not provide what is needed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A column cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The gateway, or a subtask.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// A twin.
    #[error(transparent)]
    Twin(#[from] TwinError),
    /// A sum over twins.
    #[error(transparent)]
    Collective(#[from] CollectiveError<TwinError>),
    /// The model's formula.
    #[error(transparent)]
    Formula(#[from] FormulaError),
    /// The model's fit.
    #[error(transparent)]
    Logistic(#[from] LogisticError),
    /// Survival data.
    #[error(transparent)]
    Survival(#[from] SurvivalError),
    /// An answer could say too much about single persons.
    #[error("refused to protect single persons: {what}; at least {minimum} are needed")]
    TooFew {
        /// What there is too little of.
        what: String,
        /// How many there must be.
        minimum: u64,
    },
    /// A total would tell each twin the terms of the others.
    #[error("refused to protect the organizations' terms: {twins} take part, at least {minimum} are needed")]
    TooFewTwins {
        /// How many take part.
        twins: usize,
        /// How many there must be.
        minimum: usize,
    },
    /// An argument does not make sense.
    #[error("argument `{name}` {reason}")]
    Argument {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// A function of the image.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// The name by which tasks call it.
    pub name: &'static str,
    /// How it works with other organizations.
    pub kind: Kind,
    /// What it does, in one sentence.
    pub about: &'static str,
    run: fn(&Host) -> Result<Value, FunctionError>,
}

/// How a function works with other organizations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Makes subtasks of the named partial function.
    Central {
        /// The function of its subtasks.
        partial: &'static str,
    },
    /// Answers for itself.
    Partial,
    /// Talks to the same function at other organizations.
    Twin,
}

/// All functions.
#[must_use]
pub fn functions() -> &'static [Function] {
    &[
        Function {
            name: "summary",
            kind: Kind::Central { partial: "summary_partial" },
            about: "Counts, means, standard deviations and ranges of columns.",
            run: summary::central,
        },
        Function {
            name: "summary_partial",
            kind: Kind::Partial,
            about: "The moments of one organization's columns.",
            run: summary::partial,
        },
        Function {
            name: "kaplan_meier",
            kind: Kind::Central { partial: "kaplan_meier_partial" },
            about: "Survival curves, by group.",
            run: kaplan_meier::central,
        },
        Function {
            name: "kaplan_meier_partial",
            kind: Kind::Partial,
            about: "One organization's events and censorings by time.",
            run: kaplan_meier::partial,
        },
        Function {
            name: "logistic",
            kind: Kind::Central { partial: "logistic_partial" },
            about: "Logistic regression, a subtask per iteration.",
            run: logistic::central,
        },
        Function {
            name: "logistic_partial",
            kind: Kind::Partial,
            about: "One organization's categories, or gradient and information at given coefficients.",
            run: logistic::partial,
        },
        Function {
            name: "logistic_twin",
            kind: Kind::Twin,
            about: "Logistic regression by sums over twins.",
            run: logistic::twin,
        },
        Function {
            name: "secure_sum_twin",
            kind: Kind::Twin,
            about: "The sum of a column, or a count of rows, in which no twin sees another's term.",
            run: secure_sum::twin,
        },
        Function {
            name: "allreduce_bench_twin",
            kind: Kind::Twin,
            about: "Measures sums of long vectors over twins.",
            run: allreduce_bench::twin,
        },
    ]
}

/// Runs the function that the host's input names.
///
/// # Errors
///
/// See [`FunctionError`].
pub fn run(host: &Host) -> Result<Value, FunctionError> {
    let method = &host.input().method;
    match functions().iter().find(|function| function.name == method) {
        Some(function) => (function.run)(host),
        None => Err(FunctionError::Unknown { method: method.clone() }),
    }
}

fn names() -> Vec<&'static str> {
    functions().iter().map(|function| function.name).collect()
}

/// Turns a result into JSON, whose numbers keep all their digits.
fn to_value(result: &impl Serialize) -> Result<Value, FunctionError> {
    serde_json::to_value(result).map_err(|error| HostError::Input(format!("the result: {error}")).into())
}

/// The arguments that every central function takes for itself; the rest is its partials'.
#[derive(Debug, Default, Deserialize)]
struct Spread {
    /// Where the partials run; everywhere when absent.
    organizations: Option<Vec<OrganizationId>>,
}

impl Spread {
    /// The organizations given, or all.
    fn resolve(&self, host: &Host) -> Result<Vec<OrganizationId>, FunctionError> {
        match &self.organizations {
            Some(given) if given.is_empty() => {
                Err(FunctionError::Argument { name: "organizations", reason: "is empty".to_owned() })
            }
            Some(given) => Ok(given.clone()),
            None => Ok(host.gateway().organizations()?.iter().map(|organization| organization.id).collect()),
        }
    }
}

/// Runs a partial function everywhere and returns the results by organization.
fn ask_all<T: DeserializeOwned>(
    host: &Host,
    partial: &str,
    kwargs: &impl Serialize,
    organizations: &[OrganizationId],
) -> Result<Vec<SubtaskResult<T>>, FunctionError> {
    let task = host.gateway().create_subtask(partial, kwargs, organizations)?;
    Ok(host.gateway().results(task)?)
}

/// How many rows each organization used.
fn rows_by_organization<T>(results: &[SubtaskResult<T>], rows: impl Fn(&T) -> u64) -> BTreeMap<OrganizationId, u64> {
    results.iter().map(|result| (result.organization, rows(&result.value))).collect()
}

/// The sum of what several organizations count; at most what can be counted, whatever they say.
fn total<'a, T: 'a>(values: impl IntoIterator<Item = &'a T>, count: impl Fn(&T) -> u64) -> u64 {
    values.into_iter().fold(0, |sum, value| sum.saturating_add(count(value)))
}

/// Refuses when there are some, but too few.
fn require(host: &Host, count: u64, what: impl FnOnce() -> String) -> Result<(), FunctionError> {
    let minimum = host.min_rows()?;
    if count < minimum {
        return Err(FunctionError::TooFew { what: what(), minimum });
    }
    Ok(())
}

/// Joins the twins with what this one brings. Also when it brings nothing but a reason why not: so the others hear of
/// its failure at once, and do not wait for it.
fn join_with<T>(
    host: &Host,
    organizations: Option<Vec<OrganizationId>>,
    own: Result<T, FunctionError>,
) -> Result<(TwinGroup, T), FunctionError> {
    let group = TwinGroup::join(host, &organizations.unwrap_or_default(), Options::default());
    let own = own?;
    Ok((group?, own))
}

/// Reads the run's data, when there is enough of it.
fn read_table(host: &Host, database: Option<&str>) -> Result<Table, FunctionError> {
    let table = host.table(database)?;
    require(host, table.rows() as u64, || "this organization has few rows".to_owned())?;
    Ok(table)
}
