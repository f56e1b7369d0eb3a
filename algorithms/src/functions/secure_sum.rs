//! `secure_sum_twin`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use twinmesh_protocol::id::OrganizationId;

use super::{FunctionError, join_with, read_table, require, to_value};
use crate::{
    maths::{collective::Links, secret_sharing::secure_sum},
    sdk::{Host, gateway::hex, table::Table},
};

/// With two twins, the total less one's own term is the other's.
const MINIMUM_TWINS: usize = 3;

/// What to add up: a column of whole numbers, or the rows in which a column has a value, or all rows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// A column of whole numbers; without it rows are counted.
    #[serde(default)]
    column: Option<String>,
    /// Which rows count; all when absent.
    #[serde(default, rename = "where")]
    filter: Option<Filter>,
    /// The database's label; the task's first one when absent.
    #[serde(default)]
    database: Option<String>,
    /// Where twins run; as in the task when absent.
    #[serde(default)]
    organizations: Option<Vec<OrganizationId>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    column: String,
    equals: String,
}

#[derive(Debug, Serialize)]
struct Total {
    total: i64,
    twins: usize,
    organizations: Vec<OrganizationId>,
    /// SHA-256 over the published partial sums, by rank: the same at every twin, and says nothing about terms.
    evidence: String,
}

pub(super) fn twin(host: &Host) -> Result<Value, FunctionError> {
    let arguments: Arguments = host.input().arguments()?;
    let own = read_table(host, arguments.database.as_deref()).and_then(|table| term(host, &table, &arguments));
    let (mut group, term) = join_with(host, arguments.organizations, own)?;
    if group.size() < MINIMUM_TWINS {
        return Err(FunctionError::TooFewTwins { twins: group.size(), minimum: MINIMUM_TWINS });
    }
    let context = format!("secure_sum task {} organization {}", host.claims().task_id, host.claims().organization_id);
    let sum = secure_sum(&mut group, host.seed(), &context, &[term])?;
    let mut hash = Sha256::new();
    for partial in sum.partials.iter().flatten() {
        hash.update(partial.to_be_bytes());
    }
    to_value(&Total {
        total: sum.totals.first().copied().unwrap_or_default(),
        twins: group.size(),
        organizations: group.organizations().to_vec(),
        evidence: hex(&hash.finalize()),
    })
}

/// This twin's term, over no rows or enough of them. No twin sees it, but the others may have nothing to add, and then
/// the total is this term. The rows that a filter leaves out count as well: without it the total is theirs more.
fn term(host: &Host, table: &Table, arguments: &Arguments) -> Result<i64, FunctionError> {
    let values = match &arguments.column {
        Some(column) => table.integers(column)?,
        None => vec![Some(1); table.rows()],
    };
    let chosen = match &arguments.filter {
        None => vec![true; table.rows()],
        Some(filter) => {
            table.texts(&filter.column)?.into_iter().map(|cell| cell == Some(filter.equals.as_str())).collect()
        }
    };
    let (mut sum, mut counted, mut left_out) = (0_i64, 0, 0);
    for (value, chosen) in values.into_iter().zip(chosen).filter_map(|(value, chosen)| Some((value?, chosen))) {
        if !chosen {
            left_out += 1;
            continue;
        }
        counted += 1;
        sum = sum.checked_add(value).ok_or_else(|| FunctionError::Argument {
            name: "column",
            reason: "names a column whose sum does not fit into 64 bits".to_owned(),
        })?;
    }
    if counted > 0 {
        require(host, counted, || "few rows would be summed".to_owned())?;
    }
    if left_out > 0 {
        require(host, left_out, || "few rows would be left out of the sum".to_owned())?;
    }
    Ok(sum)
}
