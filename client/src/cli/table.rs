//! Aligned tables with upper-case headers and no boxes.

use super::paint::{Paint, Style};

/// A cell: its text, and how it is painted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: clean(&text.to_string()), style: Style::Plain }
    }
}

impl Cell {
    pub(super) fn styled(text: impl ToString, style: Style) -> Self {
        Self { style, ..Self::from(text) }
    }

    /// The text, or a dash where there is none or it is blank.
    pub(super) fn optional(text: Option<impl ToString>) -> Self {
        let text = text.map(|text| text.to_string()).filter(|text| !text.trim().is_empty());
        Self::from(text.as_deref().unwrap_or("-"))
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Rows under headers.
#[derive(Debug)]
pub(super) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = cells.into_iter().collect();
        row.resize(self.headers.len(), Cell::from(""));
        self.rows.push(row);
    }

    /// The table as lines, each ended, without trailing blanks.
    pub(super) fn render(&self, paint: Paint) -> String {
        let widths: Vec<usize> = (0..self.headers.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].width());
                cells.chain([self.headers[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let headers: Vec<Cell> = self.headers.iter().map(|header| Cell::styled(header, Style::Strong)).collect();
        let mut text = String::new();
        for row in std::iter::once(&headers).chain(&self.rows) {
            let mut blanks = 0;
            for (cell, width) in row.iter().zip(&widths) {
                if cell.width() > 0 {
                    text.extend(std::iter::repeat_n(' ', blanks));
                    blanks = 0;
                    text.push_str(&paint.apply(cell.style, &cell.text));
                }
                blanks += width - cell.width() + 2;
            }
            text.push('\n');
        }
        text
    }
}

/// The text on one line, without what would move a terminal's cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&["ID", "NAME", "STATUS"]);
        table.row(["1".into(), "hospital-a".into(), Cell::styled("online", Style::Good)]);
        table.row(["12".into(), "b".into()]);
        assert_eq!(table.render(Paint::off()), "ID  NAME        STATUS\n1   hospital-a  online\n12  b\n");
    }

    #[test]
    fn what_is_blank_is_a_dash() {
        for blank in [None, Some(""), Some("  ")] {
            assert_eq!(Cell::optional(blank), Cell::from("-"));
        }
    }

    #[test]
    fn what_a_coordinator_sends_cannot_move_the_cursor() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\u{1b}[2J\r\nb".into()]);
        assert_eq!(table.render(Paint::off()), "NAME\na [2J  b\n");
    }

    proptest! {
        #[test]
        fn every_column_begins_at_one_place(rows in prop::collection::vec(("[a-zé ]{1,9}", "[a-z]{1,9}"), 0..9)) {
            let mut table = Table::new(&["ONE", "TWO"]);
            for (one, two) in &rows {
                table.row([one.trim().into(), two.into()]);
            }
            let text = table.render(Paint::off());
            prop_assert_eq!(text.lines().count(), rows.len() + 1);
            let start = text.lines().next().unwrap().find("TWO").unwrap();
            for (line, (_, two)) in text.lines().skip(1).zip(&rows) {
                let tail: String = line.chars().skip(start).collect();
                prop_assert_eq!(&tail, two);
            }
        }
    }
}
