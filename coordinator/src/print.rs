//! What commands print: data to stdout, as aligned tables or JSON.

use std::io::Write as _;

use anyhow::Context as _;
use serde::Serialize;

/// Rows under upper-case headers, in columns, without boxes.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headers: &[&str]) -> Self {
        Self { rows: vec![headers.iter().map(ToString::to_string).collect()] }
    }

    pub(crate) fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        // What is in the database cannot move a terminal's cursor.
        let clean = |text: String| text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        self.rows.push(cells.into_iter().map(|cell| clean(cell.into())).collect());
    }

    /// The table as lines, each ended, without trailing blanks.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(move |row| row.get(column)).map(|cell| cell.chars().count());
        let widths: Vec<usize> = (0..columns).map(|column| width(column).max().unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints items as JSON, or the table of them.
pub(crate) fn list<T: Serialize>(
    json: bool,
    items: &[T],
    headers: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> anyhow::Result<()> {
    if json {
        return value(&items);
    }
    let mut table = Table::new(headers);
    for item in items {
        table.row(row(item));
    }
    data(&table.render())
}

/// Prints a value as JSON, indented.
pub(crate) fn value(value: &impl Serialize) -> anyhow::Result<()> {
    data(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Prints data as it is.
pub(crate) fn data(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

/// The text, or a dash.
pub(crate) fn optional(text: Option<impl ToString>) -> String {
    text.map(|text| text.to_string()).filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "-".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&["ID", "NAME", "STATUS"]);
        table.row(["1", "hospital-é", "online"]);
        table.row(["12", "b\u{1b}[2J", ""]);
        assert_eq!(table.render(), "ID  NAME        STATUS\n1   hospital-é  online\n12  b [2J\n");
    }
}
