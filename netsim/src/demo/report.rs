//! What the demo found, as data and as text.

use std::fmt::Write as _;

use serde::Serialize;

use super::plot::{Curve, draw};
use super::table::layout;
use crate::evidence::Search;

/// How far a federated value may lie from the pooled one, relative to it.
pub(crate) const TOLERANCE: f64 = 1e-9;

/// A federated value beside the one that the pooled data gives.
#[derive(Debug, Clone, Serialize)]
pub struct Value {
    /// From the federation.
    pub federated: f64,
    /// From the pooled data.
    pub pooled: f64,
    /// Whether it is a count, which must be exact.
    pub exact: bool,
}

impl Value {
    pub(crate) fn count(federated: f64, pooled: f64) -> Self {
        Self { federated, pooled, exact: true }
    }

    pub(crate) fn real(federated: f64, pooled: f64) -> Self {
        Self { federated, pooled, exact: false }
    }

    /// Whether both agree: counts exactly, other values to 1e-9 relative or, where the reference is printed with
    /// fewer digits, to its last digit.
    #[must_use]
    pub fn agrees(&self) -> bool {
        let difference = (self.federated - self.pooled).abs();
        if self.exact {
            return difference == 0.0;
        }
        // The reference file gives regression coefficients with ten decimals.
        difference <= TOLERANCE * self.pooled.abs() || difference <= 0.5e-10 * (1.0 + 1e-6)
    }
}

/// A row of values under a name.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What the values are of.
    pub name: String,
    /// The values, one per column of the section.
    pub values: Vec<Value>,
}

/// One analysis.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// What was asked.
    pub title: String,
    /// How it was computed.
    pub how: String,
    /// From asking to the opened result, in seconds.
    pub seconds: f64,
    /// The heading of the rows' names.
    pub name_header: &'static str,
    /// The headings of the values.
    pub headers: Vec<&'static str>,
    /// How many decimals are shown.
    pub decimals: usize,
    /// The values.
    pub rows: Vec<Row>,
    /// What else there is to say.
    pub notes: Vec<String>,
    #[serde(skip)]
    pub(crate) curves: Vec<Curve>,
}

impl Section {
    fn agrees(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().flat_map(|row| &row.values).all(Value::agrees)
    }

    fn text(&self) -> String {
        let mut headers = vec![self.name_header.to_owned()];
        for header in &self.headers {
            headers.push((*header).to_owned());
            headers.push("POOLED".into());
        }
        headers.push(String::new());
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                let mut cells = vec![row.name.clone()];
                for value in &row.values {
                    let decimals = if value.exact { 0 } else { self.decimals };
                    cells.push(format!("{:.decimals$}", value.federated));
                    cells.push(format!("{:.decimals$}", value.pooled));
                }
                cells.push(if row.values.iter().all(Value::agrees) { "ok".into() } else { "DIFFERS".into() });
                cells
            })
            .collect();
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let mut text = format!("{}  ({:.2} s)\n  {}\n\n", self.title, self.seconds, self.how);
        text.push_str(&layout(&headers, &rows));
        if !self.curves.is_empty() {
            text.push('\n');
            text.push_str(&draw(&self.curves, "days", 66, 17));
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n  {note}");
        }
        text
    }
}

/// How quickly things happened, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub measured: usize,
    /// Half were quicker.
    pub median_ms: f64,
    /// None was slower.
    pub max_ms: f64,
}

impl Latency {
    pub(crate) fn of(mut millis: Vec<f64>) -> Option<Self> {
        millis.sort_by(f64::total_cmp);
        Some(Self { measured: millis.len(), median_ms: *millis.get(millis.len() / 2)?, max_ms: *millis.last()? })
    }

    fn text(&self) -> String {
        format!("median {:.1} ms, at most {:.1} ms, of {}", self.median_ms, self.max_ms, self.measured)
    }
}

/// What was measured of the federation itself.
#[derive(Debug, Clone, Serialize)]
pub struct Evidence {
    /// From the coordinator's record of a task to the start of its run at a node.
    pub post_to_start: Option<Latency>,
    /// From the end of a task's last run to the opened result in the researcher's hands.
    pub end_to_client: Option<Latency>,
    /// Bytes that twins sent to each other from node to node.
    pub twin_bytes_direct: u64,
    /// Bytes that twins sent to each other through the coordinator's relay.
    pub twin_bytes_relayed: u64,
    /// The paths between nodes, with how many node ends report each.
    pub paths: Vec<String>,
    /// The runtime of each node, and why that one.
    pub runtimes: Vec<String>,
    /// The search of the coordinator's database and log.
    pub coordinator: Search,
    /// The same search where the markers must be found: at the hospitals.
    pub control: usize,
}

/// Everything the demo found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How many hospitals.
    pub nodes: usize,
    /// How the rows were dealt.
    pub seed: Option<u64>,
    /// From the first process started to all nodes online, in seconds.
    pub startup_seconds: f64,
    /// From the beginning to the end, in seconds.
    pub total_seconds: f64,
    /// The analyses.
    pub sections: Vec<Section>,
    /// What was measured.
    pub evidence: Evidence,
    /// Whether everything is as it must be.
    pub ok: bool,
}

impl Report {
    /// Whether all values agree, no plaintext came to light, and no twin's byte went through the coordinator.
    pub(crate) fn judge(sections: &[Section], evidence: &Evidence) -> bool {
        sections.iter().all(Section::agrees)
            && evidence.coordinator.findings.is_empty()
            && evidence.control > 0
            && evidence.twin_bytes_relayed == 0
            && evidence.twin_bytes_direct > 0
    }

    /// The report as a person reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for section in &self.sections {
            text.push_str(&section.text());
            text.push('\n');
        }
        let evidence = &self.evidence;
        let _ = writeln!(text, "What was measured in this run\n");
        let missing = || "nothing measured".to_owned();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<26}  {value}");
        };
        line("task recorded to run start", evidence.post_to_start.as_ref().map_or_else(missing, Latency::text));
        line("run end to opened result", evidence.end_to_client.as_ref().map_or_else(missing, Latency::text));
        line("twins' bytes node to node", bytes(evidence.twin_bytes_direct));
        line("… through the coordinator", bytes(evidence.twin_bytes_relayed));
        for path in &evidence.paths {
            line("path", path.clone());
        }
        for runtime in &evidence.runtimes {
            line("runtime", runtime.clone());
        }
        let search = &evidence.coordinator;
        let found = match search.findings.len() {
            0 => "none found".to_owned(),
            n => format!("{n} FOUND"),
        };
        line(
            "plaintext at coordinator",
            format!(
                "{found}: {} markers sought in {} files ({}) of its database and log; the same search finds {} of them at the hospitals",
                search.markers,
                search.files,
                bytes(search.bytes),
                evidence.control,
            ),
        );
        for finding in search.findings.iter().take(5) {
            line("", format!("{} ({}) in {}", finding.marker, finding.form, finding.file));
        }
        let verdict = if self.ok {
            "Every value agrees with the pooled data: counts exactly, others to 1e-9 or the reference's last digit."
        } else {
            "Something is not as it must be: see DIFFERS, FOUND or the bytes above."
        };
        let _ = writeln!(text, "\n{verdict}\n{} nodes, {:.1} s in all.", self.nodes, self.total_seconds);
        text
    }
}

/// A number of bytes as people read it.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} bytes"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_agrees_to_nine_digits_and_a_count_exactly() {
        assert!(Value::count(3.0, 3.0).agrees());
        assert!(!Value::count(3.0, 3.000_000_001).agrees());
        assert!(Value::real(1_807.0 * (1.0 + 0.9e-9), 1_807.0).agrees());
        assert!(!Value::real(1_807.0 * (1.0 + 2e-9), 1_807.0).agrees());
        assert!(!Value::real(f64::NAN, 1.0).agrees());
    }

    #[test]
    fn the_median_and_the_slowest_are_told() {
        let latency = Latency::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((latency.measured, latency.median_ms, latency.max_ms), (3, 2.0, 3.0));
        assert!(Latency::of(vec![]).is_none());
    }
}
