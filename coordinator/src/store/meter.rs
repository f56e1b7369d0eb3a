//! How long the database takes.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

/// From a read of what is in memory to the longest that a request waits for a connection.
const BUCKETS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What kind of transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Kind {
    kind: &'static str,
}

impl Kind {
    pub(super) const READ: Self = Self { kind: "read" };
    pub(super) const WRITE: Self = Self { kind: "write" };
    /// A write that waits for no turn.
    pub(super) const NOTE: Self = Self { kind: "note" };
}

/// The store's instruments; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    waits: Family<Kind, Histogram>,
    transactions: Family<Kind, Histogram>,
}

impl Meter {
    pub(super) fn new() -> Self {
        let histograms = || Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        Self { waits: histograms(), transactions: histograms() }
    }

    /// Notes how long a transaction waited for its beginning, and from now on how long it takes.
    pub(super) fn began(&self, kind: Kind, waited: Duration) -> Timing {
        self.waits.get_or_create(&kind).observe(waited.as_secs_f64());
        Timing { histogram: self.transactions.get_or_create_owned(&kind), began: Instant::now() }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "database_wait",
            "How long transactions waited to begin: for a connection, and writers for their turn",
            Unit::Seconds,
            self.waits.clone(),
        );
        registry.register_with_unit(
            "database_transaction",
            "How long transactions took from their beginning to the end of the commit or rollback",
            Unit::Seconds,
            self.transactions.clone(),
        );
    }
}

/// A transaction that is under way; its end is noted when this is dropped.
#[derive(Debug)]
pub(super) struct Timing {
    histogram: Histogram,
    began: Instant,
}

impl Drop for Timing {
    fn drop(&mut self) {
        self.histogram.observe(self.began.elapsed().as_secs_f64());
    }
}
