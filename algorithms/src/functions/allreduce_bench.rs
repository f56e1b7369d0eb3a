//! `allreduce_bench_twin`.
#![expect(clippy::disallowed_methods, reason = "shell")]

use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use twinmesh_protocol::id::OrganizationId;

use super::{FunctionError, to_value};
use crate::{
    maths::collective::{Links, all_reduce},
    sdk::{Host, gateway::hex},
    twin::{Options, Replay, TwinGroup},
};

/// The longest vector: 2 GiB.
const MAX_ELEMENTS: usize = 1 << 28;

/// What to measure.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// How many numbers of eight bytes each twin's vector has.
    elements: usize,
    /// How many sums are measured, after one that is not.
    #[serde(default = "three")]
    rounds: usize,
    /// Where twins run; as in the task when absent.
    #[serde(default)]
    organizations: Option<Vec<OrganizationId>>,
}

fn three() -> usize {
    3
}

#[derive(Debug, Serialize)]
struct Measured {
    twins: usize,
    elements: usize,
    rounds: usize,
    vector_bytes: usize,
    /// What this twin sent, over all rounds and the first one that is not measured.
    sent_bytes: usize,
    seconds_per_round: Vec<f64>,
    /// SHA-256 of the last sum's bits; the same at every twin.
    checksum: String,
}

pub(super) fn twin(host: &Host) -> Result<Value, FunctionError> {
    let arguments: Arguments = host.input().arguments()?;
    let Arguments { elements, rounds, organizations } = arguments;
    if elements == 0 || elements > MAX_ELEMENTS {
        return Err(FunctionError::Argument { name: "elements", reason: format!("is not in 1..={MAX_ELEMENTS}") });
    }
    let options = Options { replay: Replay::Connection, ..Options::default() };
    let mut group = TwinGroup::join(host, &organizations.unwrap_or_default(), options)?;
    let rank = group.rank();
    let mut values = vec![0.0; elements];
    let mut seconds_per_round = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        for (index, value) in values.iter_mut().enumerate() {
            *value = 1.0 / (index + rank + round + 1) as f64;
        }
        // Nobody starts the clock while another still fills its vector.
        all_reduce(&mut group, &mut [0.0])?;
        let start = Instant::now();
        all_reduce(&mut group, &mut values)?;
        if round > 0 {
            seconds_per_round.push(start.elapsed().as_secs_f64());
        }
    }
    let mut hash = Sha256::new();
    for value in &values {
        hash.update(value.to_le_bytes());
    }
    to_value(&Measured {
        twins: group.size(),
        elements,
        rounds,
        vector_bytes: elements * size_of::<f64>(),
        sent_bytes: group.sent_bytes(),
        seconds_per_round,
        checksum: hex(&hash.finalize()),
    })
}
