//! What is printed: data to stdout, conversation to stderr.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::Value;
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::time::Time;

use super::args::Global;
pub(super) use super::paint::{Paint, Style};
use super::table::{Cell, Table};

/// Where a command prints to.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) json: bool,
    stdout: Paint,
    stderr: Paint,
    pub(super) now: Time,
}

impl Output {
    pub(super) fn new(global: &Global, now: Time) -> Self {
        Self {
            json: global.json,
            stdout: Paint::new(global.color, io::stdout().is_terminal()),
            stderr: Paint::new(global.color, io::stderr().is_terminal()),
            now,
        }
    }

    /// Prints data as it is.
    pub(super) fn text(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Prints a line of data.
    pub(super) fn line(&self, text: impl fmt::Display) -> io::Result<()> {
        self.text(&format!("{text}\n"))
    }

    /// Prints a heading above data.
    pub(super) fn heading(&self, text: &str) -> io::Result<()> {
        self.line(self.stdout.apply(Style::Strong, text))
    }

    /// Prints a value as JSON, indented.
    pub(super) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        Ok(self.line(serde_json::to_string_pretty(&to_json(value)?)?)?)
    }

    /// Prints a value as JSON on one line.
    pub(super) fn json_line(&self, value: &impl Serialize) -> anyhow::Result<()> {
        Ok(self.line(serde_json::to_string(&to_json(value)?)?)?)
    }

    /// Prints items as JSON or as a table.
    pub(super) fn list<T: Serialize>(
        &self,
        items: &[T],
        headers: &[&'static str],
        row: impl Fn(&T) -> Vec<Cell>,
    ) -> anyhow::Result<()> {
        if self.json {
            return self.json(&items);
        }
        let mut table = Table::new(headers);
        for item in items {
            table.row(row(item));
        }
        self.table(&table)
    }

    /// Prints a table.
    pub(super) fn table(&self, table: &Table) -> anyhow::Result<()> {
        Ok(self.text(&table.render(self.stdout))?)
    }

    /// Prints an item as JSON, or field by field.
    pub(super) fn item(&self, item: &impl Serialize, fields: Vec<(&str, Cell)>) -> anyhow::Result<()> {
        if self.json {
            return self.json(item);
        }
        self.fields(fields)
    }

    /// Prints fields under each other.
    pub(super) fn fields(&self, fields: Vec<(&str, Cell)>) -> anyhow::Result<()> {
        let mut table = Table::new(&["", ""]);
        for (name, cell) in fields {
            table.row([Cell::from(name), cell]);
        }
        // Without the line of the empty headers.
        let text = table.render(self.stdout);
        Ok(self.text(text.strip_prefix('\n').unwrap_or(&text))?)
    }

    /// Says something that is no data; nothing with `--json`.
    pub(super) fn say(&self, text: impl fmt::Display) {
        if !self.json {
            note(&text.to_string());
        }
    }

    /// Says what failed, why, and what to try.
    pub(super) fn error(&self, error: &anyhow::Error, hint: Option<&str>) {
        let mut text = format!("{} ", self.stderr.apply(Style::Bad, "error:"));
        let mut last = String::new();
        for (depth, cause) in error.chain().enumerate() {
            let cause = printable(&cause.to_string());
            // A transparent error and the one inside it say the same.
            if cause == last {
                continue;
            }
            if depth > 0 {
                text.push_str("\n  because: ");
            }
            text.push_str(&cause);
            last = cause;
        }
        if let Some(hint) = hint {
            text.push_str(&format!("\n{} {}", self.stderr.apply(Style::Strong, "hint:"), printable(hint)));
        }
        note(&text);
    }

    /// How long ago, for people.
    pub(super) fn ago(&self, at: Option<Time>) -> Cell {
        Cell::optional(at.map(|at| relative(at, self.now)))
    }
}

/// Writes a line to stderr. That nobody listens there is no reason to stop.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A value as JSON with RFC 3339 times.
pub(super) fn to_json(value: &impl Serialize) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(value)?;
    with_zones(&mut value);
    Ok(value)
}

/// Names the zone of every time: the interface leaves it out (contract A.1).
fn with_zones(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(with_zones),
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_time = name.ends_with("_at") || matches!(&**name, "time" | "last_seen");
                match value {
                    Value::String(text) if is_time => {
                        if let Ok(time) = text.parse::<Time>() {
                            *text = time.to_rfc3339();
                        }
                    }
                    // What a result holds is not ours to change.
                    _ if name == "result" => {}
                    value => with_zones(value),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The colour of a status.
pub(super) fn status_cell(status: RunStatus) -> Cell {
    let style = match status {
        RunStatus::Completed => Style::Good,
        RunStatus::Pending | RunStatus::Initializing | RunStatus::Active => Style::Waiting,
        RunStatus::Failed
        | RunStatus::StartFailed
        | RunStatus::NonExistingImage
        | RunStatus::Crashed
        | RunStatus::Killed
        | RunStatus::NotAllowed
        | RunStatus::UnknownError => Style::Bad,
    };
    Cell::styled(status, style)
}

/// Text with its lines and tabs, without what else would steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|character| matches!(character, '\n' | '\t') || !character.is_control()).collect()
}

/// How long ago or ahead a time is, in its largest unit.
pub(super) fn relative(at: Time, now: Time) -> String {
    let (seconds, is_ahead) = if at > now { (at.since(now).as_secs(), true) } else { (now.since(at).as_secs(), false) };
    let text = match seconds {
        0 => return "now".into(),
        1..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min", seconds / 60),
        3600..=86_399 => format!("{} h", seconds / 3600),
        86_400.. => format!("{} d", seconds / 86_400),
    };
    if is_ahead { format!("in {text}") } else { format!("{text} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let at = |seconds: i64| Time::from_micros(seconds * 1_000_000);
        for (seconds, text) in [(0, "now"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (-90_000, "in 1 d")]
        {
            assert_eq!(relative(at(0), at(seconds)), text);
        }
    }

    #[test]
    fn times_in_json_name_their_zone_and_results_stay_as_they_are() {
        let value = json!([{"created_at": "2026-11-23T02:21:12.429374", "name": "2026-11-23T02:21:12",
            "result": {"created_at": "2026-11-23T02:21:12"}}]);
        let expected = json!([{"created_at": "2026-11-23T02:21:12.429Z", "name": "2026-11-23T02:21:12",
            "result": {"created_at": "2026-11-23T02:21:12"}}]);
        assert_eq!(to_json(&value).unwrap(), expected);
    }
}
