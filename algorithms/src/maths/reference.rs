//! Public data sets with independently computed answers (see `data/README.md`), for the tests of this crate.

use proptest::prelude::*;

use crate::sdk::table::Table;

pub(crate) fn gbsg2() -> Table {
    Table::read("gbsg2.csv", include_bytes!("../../data/gbsg2.csv").as_slice()).unwrap()
}

pub(crate) fn breast_cancer() -> Table {
    Table::read("breast_cancer.csv", include_bytes!("../../data/breast_cancer.csv").as_slice()).unwrap()
}

pub(crate) fn json() -> serde_json::Value {
    serde_json::from_str(include_str!("../../data/reference.json")).unwrap()
}

/// Asserts that `actual` differs from `expected` by at most `tolerance`, relatively.
#[track_caller]
pub(crate) fn assert_close(actual: f64, expected: f64, tolerance: f64) {
    assert!((actual - expected).abs() <= tolerance * expected.abs().max(1e-300), "{actual} is not {expected}");
}

/// Splits `rows` rows over one to `sites` organizations, each of which may end up without any.
pub(crate) fn split(rows: usize, sites: usize) -> impl Strategy<Value = Vec<Vec<usize>>> {
    (1..=sites).prop_flat_map(move |sites| (Just(sites), proptest::collection::vec(0..sites, rows))).prop_map(
        |(sites, owners)| {
            let mut rows = vec![Vec::new(); sites];
            for (row, owner) in owners.into_iter().enumerate() {
                rows[owner].push(row);
            }
            rows
        },
    )
}
