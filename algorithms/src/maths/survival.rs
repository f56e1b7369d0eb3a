//! Kaplan-Meier curves from merged event tables.
//!
//! An organization sends, per distinct time, how many events and censorings it saw. Summed over organizations these
//! tables hold all that the product-limit estimator of Kaplan and Meier (JASA 53 (1958) 457) needs.

use serde::{Deserialize, Serialize};

/// The 0.975 quantile of the standard normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

/// What happened at one time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// The time, in the unit of the data.
    pub time: f64,
    /// How many subjects had the event.
    pub events: u64,
    /// How many subjects were last seen, without the event.
    pub censored: u64,
}

/// Events and censorings by time, in ascending order of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<EventRow>", into = "Vec<EventRow>")]
pub struct EventTable {
    rows: Vec<EventRow>,
}

/// Reasons for refusing observations or a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SurvivalError {
    /// A time is negative, infinite or not a number.
    #[error("row {row}: the time is not a finite number of at least 0")]
    Time {
        /// The row, counted from 1.
        row: usize,
    },
    /// The event indicator is neither 0 nor 1.
    #[error("row {row}: the event indicator is neither 0 nor 1")]
    Event {
        /// The row, counted from 1.
        row: usize,
    },
    /// Rows of a table are not in ascending order of time.
    #[error("row {row}: the times of the event table do not ascend")]
    Order {
        /// The row, counted from 1.
        row: usize,
    },
}

impl TryFrom<Vec<EventRow>> for EventTable {
    type Error = SurvivalError;

    fn try_from(rows: Vec<EventRow>) -> Result<Self, SurvivalError> {
        for (index, row) in rows.iter().enumerate() {
            if !row.time.is_finite() || row.time < 0.0 {
                return Err(SurvivalError::Time { row: index + 1 });
            }
            if index > 0 && rows[index - 1].time >= row.time {
                return Err(SurvivalError::Order { row: index + 1 });
            }
        }
        Ok(Self { rows })
    }
}

impl From<EventTable> for Vec<EventRow> {
    fn from(table: EventTable) -> Self {
        table.rows
    }
}

impl EventTable {
    /// Tabulates observations: a time and whether the event (1) or censoring (0) happened then.
    ///
    /// # Errors
    ///
    /// Names the first row with an impossible time or indicator.
    pub fn of(observations: impl IntoIterator<Item = (f64, f64)>) -> Result<Self, SurvivalError> {
        let mut rows = Vec::new();
        for (index, (time, event)) in observations.into_iter().enumerate() {
            if !time.is_finite() || time < 0.0 {
                return Err(SurvivalError::Time { row: index + 1 });
            }
            let (events, censored) = match event {
                1.0 => (1, 0),
                0.0 => (0, 1),
                _ => return Err(SurvivalError::Event { row: index + 1 }),
            };
            rows.push(EventRow { time: time + 0.0, events, censored });
        }
        rows.sort_by(|a, b| a.time.total_cmp(&b.time));
        rows.dedup_by(|next, kept| {
            let same = next.time == kept.time;
            if same {
                kept.events += next.events;
                kept.censored += next.censored;
            }
            same
        });
        Ok(Self { rows })
    }

    /// Adds the table of another, disjoint set of subjects.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let mut rows = Vec::with_capacity(self.rows.len() + other.rows.len());
        let (mut own, mut its) = (self.rows.into_iter().peekable(), other.rows.into_iter().peekable());
        loop {
            let next = match (own.peek(), its.peek()) {
                (Some(a), Some(b)) if a.time == b.time => EventRow {
                    time: a.time,
                    events: a.events.saturating_add(b.events),
                    censored: a.censored.saturating_add(b.censored),
                },
                (Some(a), Some(b)) if a.time < b.time => *a,
                (Some(_) | None, Some(b)) => *b,
                (Some(a), None) => *a,
                (None, None) => return Self { rows },
            };
            own.next_if(|row| row.time == next.time);
            its.next_if(|row| row.time == next.time);
            rows.push(next);
        }
    }

    /// The rows, in ascending order of time.
    #[must_use]
    pub fn rows(&self) -> &[EventRow] {
        &self.rows
    }

    /// How many subjects the table describes.
    #[must_use]
    pub fn subjects(&self) -> u64 {
        self.rows.iter().fold(0, |sum, row| sum.saturating_add(row.events).saturating_add(row.censored))
    }

    /// How many of them had the event.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.rows.iter().fold(0, |sum, row| sum.saturating_add(row.events))
    }

    /// The survival curve.
    #[must_use]
    pub fn curve(&self) -> Curve {
        let mut at_risk = self.subjects();
        let (mut survival, mut greenwood) = (1.0_f64, 0.0_f64);
        let points = self
            .rows
            .iter()
            .map(|row| {
                let (n, d) = (at_risk as f64, row.events as f64);
                if row.events > 0 {
                    survival *= 1.0 - d / n;
                }
                greenwood += if row.events == 0 || row.events == at_risk { 0.0 } else { d / (n * (n - d)) };
                let point = Point::new(row, at_risk, survival, greenwood);
                at_risk = at_risk.saturating_sub(row.events).saturating_sub(row.censored);
                point
            })
            .collect();
        Curve { points }
    }
}

/// The estimate at one time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The time, in the unit of the data.
    pub time: f64,
    /// How many subjects were at risk just before.
    pub at_risk: u64,
    /// How many subjects had the event.
    pub events: u64,
    /// How many subjects were censored.
    pub censored: u64,
    /// The estimated probability of surviving beyond this time.
    pub survival: f64,
    /// Greenwood's estimate of the variance of `survival`.
    pub variance: f64,
    /// The lower end of the 95% confidence interval, on the log(-log) scale (Kalbfleisch and Prentice 1980).
    pub lower: f64,
    /// The upper end of the 95% confidence interval.
    pub upper: f64,
}

impl Point {
    fn new(row: &EventRow, at_risk: u64, survival: f64, greenwood: f64) -> Self {
        let (lower, upper) = if survival > 0.0 && survival < 1.0 {
            let spread = Z_95 * greenwood.sqrt() / survival.ln().abs();
            (survival.powf(spread.exp()), survival.powf((-spread).exp()))
        } else {
            (survival, survival)
        };
        Self {
            time: row.time,
            at_risk,
            events: row.events,
            censored: row.censored,
            survival,
            variance: survival * survival * greenwood,
            lower,
            upper,
        }
    }
}

/// A survival curve: a step function that starts at 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// One point for each distinct time, ascending.
    pub points: Vec<Point>,
}

impl Curve {
    /// The estimated probability of surviving beyond `time`.
    #[must_use]
    pub fn survival_at(&self, time: f64) -> f64 {
        let after = self.points.partition_point(|point| point.time <= time);
        after.checked_sub(1).map_or(1.0, |last| self.points[last].survival)
    }

    /// The first time at which the estimate is at most one half, if it gets there.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        // Products such as 3/4 · 2/3 may end up a rounding error above one half.
        self.points.iter().find(|point| point.survival <= 0.5 + 1e-12).map(|point| point.time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::maths::reference;

    fn observations(group: Option<&str>) -> Vec<(f64, f64)> {
        let table = reference::gbsg2();
        let (times, events) = (table.numbers("time").unwrap(), table.numbers("cens").unwrap());
        let groups = table.texts("horTh").unwrap();
        (0..table.rows())
            .filter(|&row| group.is_none() || groups[row] == group)
            .map(|row| (times[row].unwrap(), events[row].unwrap()))
            .collect()
    }

    fn assert_reference(curve: &Curve) {
        let expected = &reference::json()["gbsg2"]["km"];
        for (name, value) in expected.as_object().unwrap() {
            match name.strip_prefix("S(").and_then(|rest| rest.strip_suffix(')')) {
                Some(time) => {
                    reference::assert_close(curve.survival_at(time.parse().unwrap()), value.as_f64().unwrap(), 1e-9);
                }
                None => assert_eq!(curve.median(), value.as_f64()),
            }
        }
    }

    #[test]
    fn the_pooled_curve_matches_the_reference() {
        assert_reference(&EventTable::of(observations(None)).unwrap().curve());
    }

    #[test]
    fn curves_by_group_match_the_reference() {
        for group in ["yes", "no"] {
            let table = EventTable::of(observations(Some(group))).unwrap();
            let expected = &reference::json()["gbsg2"][format!("km_horTh_{group}")];
            assert_eq!(Some(table.subjects()), expected["n"].as_u64());
            assert_eq!(Some(table.events()), expected["events"].as_u64());
            assert_eq!(table.curve().median(), expected["median"].as_f64());
        }
    }

    /// The 6-MP arm of Freireich et al. 1963, with the estimates and standard errors of Kalbfleisch and Prentice (also in
    /// Collett, "Modelling Survival Data in Medical Research").
    #[test]
    fn the_leukaemia_trial_matches_its_published_estimates() {
        let events = [6.0, 6.0, 6.0, 7.0, 10.0, 13.0, 16.0, 22.0, 23.0].map(|time| (time, 1.0));
        let censored = [6.0, 9.0, 10.0, 11.0, 17.0, 19.0, 20.0, 25.0, 32.0, 32.0, 34.0, 35.0].map(|time| (time, 0.0));
        let curve = EventTable::of(events.into_iter().chain(censored)).unwrap().curve();
        let published = [
            (6.0, 21, 0.857, 0.0764),
            (7.0, 17, 0.807, 0.0869),
            (10.0, 15, 0.753, 0.0963),
            (13.0, 12, 0.690, 0.1068),
            (16.0, 11, 0.627, 0.1141),
            (22.0, 7, 0.538, 0.1282),
            (23.0, 6, 0.448, 0.1346),
        ];
        for (time, at_risk, survival, error) in published {
            let point = curve.points.iter().find(|point| point.time == time).unwrap();
            assert_eq!(point.at_risk, at_risk);
            assert!((point.survival - survival).abs() < 6e-4, "{point:?}");
            assert!((point.variance.sqrt() - error).abs() < 6e-5, "{point:?}");
            assert!(point.lower < point.survival && point.survival < point.upper);
        }
        assert_eq!(curve.median(), Some(23.0));
    }

    #[test]
    fn a_curve_that_ends_in_events_reaches_zero() {
        let curve = EventTable::of([(1.0, 1.0), (2.0, 1.0)]).unwrap().curve();
        assert_eq!((curve.survival_at(0.5), curve.survival_at(1.0), curve.survival_at(9.0)), (1.0, 0.5, 0.0));
        assert_eq!(curve.points[1].variance, 0.0);
        assert_eq!(EventTable::default().curve().median(), None);
    }

    #[test]
    fn impossible_observations_are_refused_by_row() {
        assert_eq!(EventTable::of([(1.0, 1.0), (-1.0, 0.0)]), Err(SurvivalError::Time { row: 2 }));
        assert_eq!(EventTable::of([(1.0, 2.0)]), Err(SurvivalError::Event { row: 1 }));
        let unsorted = r#"[{"time":2,"events":1,"censored":0},{"time":1,"events":1,"censored":0}]"#;
        assert!(serde_json::from_str::<EventTable>(unsorted).unwrap_err().to_string().contains("row 2"));
    }

    proptest! {
        #[test]
        fn any_split_of_the_subjects_gives_the_pooled_table(sites in reference::split(686, 7)) {
            let all = observations(None);
            let merged = sites
                .iter()
                .map(|rows| EventTable::of(rows.iter().map(|&row| all[row])).unwrap())
                .fold(EventTable::default(), EventTable::merge);
            prop_assert_eq!(&merged, &EventTable::of(all).unwrap());
            assert_reference(&merged.curve());
        }
    }
}
