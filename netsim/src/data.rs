//! The data sets of the demo and the values that the pooled data gives.

use std::fmt::Write as _;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use serde_json::Value;

/// German Breast Cancer Study Group 2: 686 patients. Provenance: `algorithms/data/README.md`.
pub const GBSG2: &str = include_str!("../../algorithms/data/gbsg2.csv");

/// Statistics of the pooled data, computed with pandas, lifelines and statsmodels.
const REFERENCE: &str = include_str!("../../algorithms/data/reference.json");

/// The reference values of GBSG2, as in `reference.json`.
///
/// # Panics
/// Never: the file is part of the program, and a test reads it.
#[must_use]
pub fn gbsg2_reference() -> Value {
    let mut all: Value = serde_json::from_str(REFERENCE).expect("the reference values are JSON");
    all["gbsg2"].take()
}

/// Gives row i to part i modulo `parts`; each part has the header line.
#[must_use]
pub fn split_rows(csv: &str, parts: usize) -> Vec<String> {
    let mut lines = csv.lines();
    let header = lines.next().unwrap_or_default();
    let mut result = vec![format!("{header}\n"); parts];
    for (row, line) in lines.filter(|line| !line.is_empty()).enumerate() {
        writeln!(result[row % parts], "{line}").expect("writing to a string");
    }
    result
}

/// Deals the rows in another order, the same for the same seed.
#[must_use]
pub fn shuffle_rows(csv: &str, seed: u64) -> String {
    let mut lines = csv.lines();
    let header = lines.next().unwrap_or_default();
    let mut rows: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    rows.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
    rows.insert(0, header);
    rows.join("\n") + "\n"
}

/// Adds a column that has the same value in every row.
#[must_use]
pub fn with_constant_column(csv: &str, name: &str, value: &str) -> String {
    let mut lines = csv.lines().filter(|line| !line.is_empty());
    let header = lines.next().map(|header| format!("{header},{name}\n"));
    header.into_iter().chain(lines.map(|line| format!("{line},{value}\n"))).collect()
}

/// The values of a numeric column.
///
/// `None` when there is no such column or a cell is no number.
#[must_use]
pub fn numeric_column(csv: &str, name: &str) -> Option<Vec<f64>> {
    let mut lines = csv.lines();
    let unquoted = |cell: &str| cell.trim().trim_matches('"').to_owned();
    let at = lines.next()?.split(',').position(|cell| unquoted(cell) == name)?;
    lines.filter(|line| !line.is_empty()).map(|line| unquoted(line.split(',').nth(at)?).parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_hold_every_row_once_in_turn() {
        let parts = split_rows("h\n1\n2\n3\n4\n5\n", 3);
        assert_eq!(parts, ["h\n1\n4\n", "h\n2\n5\n", "h\n3\n"]);
        let rows: usize = split_rows(GBSG2, 4).iter().map(|part| part.lines().count() - 1).sum();
        assert_eq!(rows, 686);
    }

    #[test]
    fn another_order_has_the_same_rows() {
        let sorted = |csv: &str| {
            let mut lines: Vec<String> = csv.lines().skip(1).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let shuffled = shuffle_rows(GBSG2, 7);
        assert_ne!(shuffled, GBSG2);
        assert_eq!(shuffled, shuffle_rows(GBSG2, 7));
        assert_eq!(sorted(&shuffled), sorted(GBSG2));
        assert_eq!(with_constant_column("a,b\n1,2\n\n3,4\n", "c", "5"), "a,b,c\n1,2,5\n3,4,5\n");
    }

    #[test]
    fn the_reference_is_of_this_data() {
        let reference = gbsg2_reference();
        let ages = numeric_column(GBSG2, "age").unwrap();
        assert_eq!(reference["rows"], ages.len());
        let mean = ages.iter().sum::<f64>() / 686.0;
        assert!((reference["mean_sd"]["age"][0].as_f64().unwrap() - mean).abs() < 1e-9);
        assert_eq!(numeric_column(GBSG2, "horTh"), None);
        assert_eq!(numeric_column(GBSG2, "nothing"), None);
    }
}
