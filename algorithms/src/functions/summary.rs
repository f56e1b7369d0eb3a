//! `summary` and `summary_partial`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use twinmesh_protocol::id::OrganizationId;

use super::{FunctionError, Spread, ask_all, read_table, require, rows_by_organization, to_value, total};
use crate::{
    maths::summary::{Counts, Moments},
    sdk::{Host, gateway::SubtaskResult},
};

/// What to summarize.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// Numeric columns; all that hold numbers when absent.
    #[serde(default)]
    columns: Option<Vec<String>>,
    /// Columns whose values are counted.
    #[serde(default)]
    counts: Vec<String>,
    /// The database's label; the task's first one when absent.
    #[serde(default)]
    database: Option<String>,
    /// For the central function alone.
    #[serde(default, skip_serializing)]
    organizations: Option<Vec<OrganizationId>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Partial {
    rows: u64,
    columns: BTreeMap<String, Moments>,
    counts: BTreeMap<String, Counts>,
}

#[derive(Debug, Serialize)]
pub(super) struct Summary {
    rows: u64,
    organizations: BTreeMap<OrganizationId, u64>,
    columns: BTreeMap<String, Column>,
    counts: BTreeMap<String, Counts>,
}

#[derive(Debug, Serialize)]
struct Column {
    n: u64,
    missing: u64,
    mean: Option<f64>,
    sd: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}

pub(super) fn partial(host: &Host) -> Result<Value, FunctionError> {
    let arguments: Arguments = host.input().arguments()?;
    let table = read_table(host, arguments.database.as_deref())?;
    let columns = match arguments.columns {
        Some(columns) => columns,
        None => {
            let mut numeric = Vec::new();
            for column in table.columns() {
                if !arguments.counts.contains(column) && table.mostly_numbers(column)? {
                    numeric.push(column.clone());
                }
            }
            numeric
        }
    };
    let mut partial = Partial { rows: table.rows() as u64, columns: BTreeMap::new(), counts: BTreeMap::new() };
    for column in columns {
        let moments = Moments::of(table.numbers(&column)?);
        if moments.count > 0 {
            require(host, moments.count, || format!("column `{column}` is filled in few rows"))?;
        }
        partial.columns.insert(column, moments);
    }
    for column in arguments.counts {
        let counts = Counts::of(table.texts(&column)?);
        if let Some(least) = counts.levels.values().min() {
            require(host, *least, || format!("column `{column}` has a value that few rows share"))?;
        }
        partial.counts.insert(column, counts);
    }
    to_value(&partial)
}

pub(super) fn central(host: &Host) -> Result<Value, FunctionError> {
    let arguments: Arguments = host.input().arguments()?;
    let organizations = Spread { organizations: arguments.organizations.clone() }.resolve(host)?;
    to_value(&unite(&ask_all(host, "summary_partial", &arguments, &organizations)?))
}

pub(super) fn unite(results: &[SubtaskResult<Partial>]) -> Summary {
    let mut columns: BTreeMap<String, Moments> = BTreeMap::new();
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    for result in results {
        for (column, moments) in &result.value.columns {
            let sum = columns.entry(column.clone()).or_default();
            *sum = sum.merge(*moments);
        }
        for (column, levels) in &result.value.counts {
            let sum = counts.entry(column.clone()).or_default();
            *sum = std::mem::take(sum).merge(levels.clone());
        }
    }
    Summary {
        rows: total(results, |result| result.value.rows),
        organizations: rows_by_organization(results, |partial| partial.rows),
        columns: columns
            .into_iter()
            .map(|(name, moments)| {
                let column = Column {
                    n: moments.count,
                    missing: moments.missing,
                    mean: (moments.count > 0).then_some(moments.mean),
                    sd: moments.standard_deviation(),
                    min: moments.min,
                    max: moments.max,
                };
                (name, column)
            })
            .collect(),
        counts,
    }
}
