//! A table of text cells with typed columns.

use std::{collections::BTreeMap, io::Read, path::Path};

/// What an empty cell may look like, besides being empty.
const MISSING: [&str; 6] = ["NA", "N/A", "NaN", "nan", "null", "NULL"];

/// A reason for not getting a table or a column.
///
/// The texts name files, columns and rows, and never what a cell holds.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be opened.
    #[error("cannot open `{file}`")]
    Open {
        /// The file's name.
        file: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is no regular CSV text with a header line.
    #[error("`{file}` line {line} is not valid CSV: {reason}")]
    Malformed {
        /// The file's name.
        file: String,
        /// The line, counted from 1; 0 when unknown.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Two columns have one name.
    #[error("`{file}` has two columns named `{column}`")]
    DuplicateColumn {
        /// The file's name.
        file: String,
        /// The column.
        column: String,
    },
    /// There is no such column.
    #[error("`{file}` has no column `{column}`; it has {known}")]
    UnknownColumn {
        /// The file's name.
        file: String,
        /// The column asked for.
        column: String,
        /// The columns there are.
        known: String,
    },
    /// A cell should hold a number but does not.
    #[error("`{file}` row {row}: column `{column}` does not hold {expected}")]
    Cell {
        /// The file's name.
        file: String,
        /// The column.
        column: String,
        /// The row, counted from 1 without the header.
        row: usize,
        /// What it should hold.
        expected: &'static str,
    },
}

/// A table in memory, by column.
#[derive(Clone)]
pub struct Table {
    name: String,
    names: Vec<String>,
    columns: BTreeMap<String, Column>,
    rows: usize,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("names", &self.names).field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// All cells of a column in one text; cell `i` ends at `ends[i]`.
#[derive(Clone, Default)]
struct Column {
    text: String,
    ends: Vec<usize>,
}

impl Column {
    fn push(&mut self, cell: &str) {
        self.text.push_str(cell);
        self.ends.push(self.text.len());
    }

    fn cells(&self) -> impl Iterator<Item = Option<&str>> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let cell = self.text[start..end].trim();
            start = end;
            (!cell.is_empty() && !MISSING.contains(&cell)).then_some(cell)
        })
    }
}

impl Table {
    /// Reads a CSV file with a header line.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or is not valid.
    pub fn open(path: &Path) -> Result<Self, TableError> {
        let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into());
        let file = std::fs::File::open(path).map_err(|source| TableError::Open { file: name.clone(), source })?;
        Self::read(&name, file)
    }

    /// Reads CSV text with a header line; `name` is how errors call it.
    ///
    /// # Errors
    ///
    /// The text is not valid CSV.
    pub fn read(name: &str, source: impl Read) -> Result<Self, TableError> {
        let malformed = |error: csv::Error| TableError::Malformed {
            file: name.to_owned(),
            line: error.position().map_or(0, csv::Position::line),
            reason: describe(error.kind()),
        };
        let mut reader = csv::Reader::from_reader(source);
        let names: Vec<String> = reader
            .headers()
            .map_err(malformed)?
            .iter()
            .map(|name| name.trim_start_matches('\u{feff}').trim().to_owned())
            .collect();
        let mut cells = vec![Column::default(); names.len()];
        let mut record = csv::StringRecord::new();
        let mut rows = 0;
        while reader.read_record(&mut record).map_err(malformed)? {
            rows += 1;
            for (column, cell) in cells.iter_mut().zip(&record) {
                column.push(cell);
            }
        }
        let mut columns = BTreeMap::new();
        for (column, cells) in names.iter().zip(cells) {
            if columns.insert(column.clone(), cells).is_some() {
                return Err(TableError::DuplicateColumn { file: name.to_owned(), column: column.clone() });
            }
        }
        Ok(Self { name: name.to_owned(), names, columns, rows })
    }

    /// How many rows there are, without the header.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The names of the columns, in the order of the file.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.names
    }

    /// The cells of a column as text; `None` is an empty cell.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub fn texts(&self, column: &str) -> Result<Vec<Option<&str>>, TableError> {
        Ok(self.column(column)?.cells().collect())
    }

    /// The cells of a column as finite numbers; `None` is an empty cell.
    ///
    /// # Errors
    ///
    /// There is no such column, or a cell holds something else; the error names the first such row.
    pub fn numbers(&self, column: &str) -> Result<Vec<Option<f64>>, TableError> {
        self.parse(column, "a number", |cell| cell.parse().ok().filter(|value: &f64| value.is_finite()))
    }

    /// The cells of a column as whole numbers; `None` is an empty cell.
    ///
    /// # Errors
    ///
    /// There is no such column, or a cell holds something else; the error names the first such row.
    pub fn integers(&self, column: &str) -> Result<Vec<Option<i64>>, TableError> {
        self.parse(column, "a whole number", |cell| cell.parse().ok())
    }

    /// Whether most of the cells that are not empty hold numbers.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub fn mostly_numbers(&self, column: &str) -> Result<bool, TableError> {
        let (mut numbers, mut others) = (0_usize, 0_usize);
        for cell in self.column(column)?.cells().flatten() {
            if cell.parse::<f64>().is_ok() { numbers += 1 } else { others += 1 }
        }
        Ok(numbers > others)
    }

    fn parse<T>(
        &self,
        column: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<Option<T>>, TableError> {
        let mut values = Vec::with_capacity(self.rows);
        for (index, cell) in self.column(column)?.cells().enumerate() {
            let value = match cell {
                None => None,
                Some(cell) => Some(parse(cell).ok_or_else(|| TableError::Cell {
                    file: self.name.clone(),
                    column: column.to_owned(),
                    row: index + 1,
                    expected,
                })?),
            };
            values.push(value);
        }
        Ok(values)
    }

    fn column(&self, name: &str) -> Result<&Column, TableError> {
        self.columns.get(name).ok_or_else(|| TableError::UnknownColumn {
            file: self.name.clone(),
            column: name.to_owned(),
            known: self.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        })
    }
}

/// Says what is wrong without quoting the file.
fn describe(kind: &csv::ErrorKind) -> String {
    match kind {
        csv::ErrorKind::Io(error) => format!("cannot read it: {error}"),
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8 text".to_owned(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} cells where the lines before have {expected_len}")
        }
        _ => "it cannot be understood".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Result<Table, TableError> {
        Table::read("t.csv", text.as_bytes())
    }

    #[test]
    fn cells_are_typed_and_may_be_empty() {
        let table = table("\u{feff}a, b\n1,x\nNA,\n 2.5 ,\"y, z\"\n").unwrap();
        assert_eq!((table.rows(), table.columns()), (3, ["a".to_owned(), "b".to_owned()].as_slice()));
        assert_eq!(table.numbers("a").unwrap(), [Some(1.0), None, Some(2.5)]);
        assert_eq!(table.texts("b").unwrap(), [Some("x"), None, Some("y, z")]);
        assert!(table.mostly_numbers("a").unwrap() && !table.mostly_numbers("b").unwrap());
    }

    #[test]
    fn errors_name_file_column_and_row_but_no_cell() {
        let table = table("age\n1\nsecret\n").unwrap();
        let error = table.numbers("age").unwrap_err().to_string();
        assert_eq!(error, "`t.csv` row 2: column `age` does not hold a number");
        let error = table.integers("size").unwrap_err().to_string();
        assert_eq!(error, "`t.csv` has no column `size`; it has `age`");
        assert!(!format!("{table:?}").contains("secret"));
    }

    #[test]
    fn infinite_numbers_and_fractions_are_refused() {
        let table = table("a\ninf\n").unwrap();
        assert!(table.numbers("a").is_err());
        assert!(super::Table::read("t.csv", "a\n1.5\n".as_bytes()).unwrap().integers("a").is_err());
    }

    #[test]
    fn ragged_and_repeated_columns_are_refused() {
        let error = table("a,b\n1,2\nsecret\n").unwrap_err().to_string();
        assert_eq!(error, "`t.csv` line 3 is not valid CSV: it has 1 cells where the lines before have 2");
        assert!(matches!(table("a,a\n1,2\n"), Err(TableError::DuplicateColumn { .. })));
        assert!(matches!(Table::open(Path::new("/nowhere/x.csv")), Err(TableError::Open { .. })));
    }
}
