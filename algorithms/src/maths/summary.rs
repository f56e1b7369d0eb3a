//! Mergeable summaries of columns.
//!
//! Moments are updated row by row with Welford's method (Technometrics 4 (1962) 419) and merged pairwise as in Chan,
//! Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979), which stays
//! accurate when the mean is large compared with the spread.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The mergeable summary of one numeric column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// How many cells hold a number.
    pub count: u64,
    /// How many cells are empty.
    pub missing: u64,
    /// The mean of the numbers; 0 without any.
    pub mean: f64,
    /// The sum of squared deviations from the mean.
    pub squares: f64,
    /// The smallest number.
    pub min: Option<f64>,
    /// The largest number.
    pub max: Option<f64>,
}

impl Moments {
    /// Summarizes the cells of a column; `None` is an empty cell.
    pub fn of(cells: impl IntoIterator<Item = Option<f64>>) -> Self {
        let mut moments = Self::default();
        for cell in cells {
            moments.push(cell);
        }
        moments
    }

    /// Takes in one more cell.
    pub fn push(&mut self, cell: Option<f64>) {
        let Some(value) = cell else {
            self.missing += 1;
            return;
        };
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (value - self.mean);
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
    }

    /// Combines the summaries of two disjoint sets of rows.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let missing = self.missing.saturating_add(other.missing);
        if self.count == 0 {
            return Self { missing, ..other };
        }
        if other.count == 0 {
            return Self { missing, ..self };
        }
        let count = self.count.saturating_add(other.count);
        let (own, its, all) = (self.count as f64, other.count as f64, count as f64);
        let delta = other.mean - self.mean;
        Self {
            count,
            missing,
            mean: self.mean + delta * (its / all),
            squares: self.squares + other.squares + delta * delta * (own * its / all),
            min: pick(self.min, other.min, f64::min),
            max: pick(self.max, other.max, f64::max),
        }
    }

    /// The sample standard deviation (divisor `count - 1`), when there are at least two numbers.
    #[must_use]
    pub fn standard_deviation(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.squares / (self.count - 1) as f64).sqrt())
    }
}

fn pick(a: Option<f64>, b: Option<f64>, better: fn(f64, f64) -> f64) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(better(a, b)),
        (one, None) | (None, one) => one,
    }
}

/// How often each value of a categorical column occurs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Occurrences by value.
    pub levels: BTreeMap<String, u64>,
    /// How many cells are empty.
    pub missing: u64,
}

impl Counts {
    /// Counts the cells of a column; `None` is an empty cell.
    pub fn of<'a>(cells: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut counts = Self::default();
        for cell in cells {
            match cell {
                Some(level) => match counts.levels.get_mut(level) {
                    Some(count) => *count += 1,
                    None => {
                        counts.levels.insert(level.to_owned(), 1);
                    }
                },
                None => counts.missing += 1,
            }
        }
        counts
    }

    /// Combines the counts of two disjoint sets of rows.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        for (level, count) in other.levels {
            let sum = self.levels.entry(level).or_insert(0);
            *sum = sum.saturating_add(count);
        }
        self.missing = self.missing.saturating_add(other.missing);
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::maths::reference;

    #[test]
    fn pooled_moments_match_the_reference() {
        let table = reference::gbsg2();
        for (column, expected) in reference::json()["gbsg2"]["mean_sd"].as_object().unwrap() {
            let moments = Moments::of(table.numbers(column).unwrap());
            assert_eq!((moments.count, moments.missing), (686, 0));
            reference::assert_close(moments.mean, expected[0].as_f64().unwrap(), 1e-12);
            reference::assert_close(moments.standard_deviation().unwrap(), expected[1].as_f64().unwrap(), 1e-12);
        }
    }

    #[test]
    fn levels_are_counted_as_in_the_reference() {
        let table = reference::gbsg2();
        let counts = Counts::of(table.texts("horTh").unwrap());
        assert_eq!(counts.levels, BTreeMap::from([("no".to_owned(), 440), ("yes".to_owned(), 246)]));
    }

    #[test]
    fn a_single_number_has_no_standard_deviation() {
        let moments = Moments::of([Some(3.0), None]);
        assert_eq!((moments.count, moments.missing, moments.standard_deviation()), (1, 1, None));
        assert_eq!(Moments::default().merge(moments), moments);
    }

    #[test]
    fn a_large_offset_does_not_destroy_the_variance() {
        let of = |range: std::ops::Range<u32>| Moments::of(range.map(|i| Some(1e9 + f64::from(i % 10))));
        let moments = of(0..333).merge(of(333..500)).merge(of(500..1000));
        reference::assert_close(moments.squares, 8250.0, 1e-8);
    }

    proptest! {
        #[test]
        fn any_split_of_the_rows_gives_the_pooled_moments(sites in reference::split(686, 7)) {
            let table = reference::gbsg2();
            for (column, expected) in reference::json()["gbsg2"]["mean_sd"].as_object().unwrap() {
                let cells: Vec<_> = table.numbers(column).unwrap();
                let merged = sites
                    .iter()
                    .map(|rows| Moments::of(rows.iter().map(|&row| cells[row])))
                    .fold(Moments::default(), Moments::merge);
                let pooled = Moments::of(cells.iter().copied());
                prop_assert_eq!((merged.count, merged.min, merged.max), (686, pooled.min, pooled.max));
                reference::assert_close(merged.mean, expected[0].as_f64().unwrap(), 1e-9);
                reference::assert_close(merged.standard_deviation().unwrap(), expected[1].as_f64().unwrap(), 1e-9);
            }
        }
    }
}
