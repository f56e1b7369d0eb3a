//! Model formulas and the design matrices they describe.
//!
//! A formula reads `outcome ~ term + term`. A term is the name of a column; `C(name)` says that the column holds
//! categories even though they look like numbers. A name with characters other than letters, digits, `_` and `.` is
//! written in backticks. The intercept is always part of the model.
//!
//! Categories are coded as in R's `contr.treatment`: the first level in sorted order is the reference, each other one
//! gets a column of zeros and ones named `column_level`. As one organization may lack a level that another has, the
//! organizations first say which levels they have ([`Survey`]), and all build their matrix with the united [`Coding`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::sdk::table::{Table, TableError};

/// The name of the intercept's coefficient.
pub const INTERCEPT: &str = "const";

/// How many categories a column may have.
///
/// More make a column of names or identifiers likely, whose levels are nobody else's business (DataSHIELD's
/// `nfilter.levels.max` is the same).
pub const MAX_LEVELS: usize = 40;

/// A reason for not understanding a formula or not building its matrix.
#[derive(Debug, thiserror::Error)]
pub enum FormulaError {
    /// The text is not a formula.
    #[error("`{formula}` is not a formula like `outcome ~ age + C(stage)`: {reason}")]
    Syntax {
        /// The text.
        formula: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The table does not provide what the formula names.
    #[error(transparent)]
    Table(#[from] TableError),
    /// An outcome is neither 0 nor 1.
    #[error("row {row}: the outcome `{column}` is neither 0 nor 1")]
    Outcome {
        /// The outcome.
        column: String,
        /// The row, counted from 1.
        row: usize,
    },
    /// A categorical column has very many levels.
    #[error("column `{column}` has more than {MAX_LEVELS} categories; is it an identifier?")]
    TooManyLevels {
        /// The column.
        column: String,
    },
    /// A column holds numbers at one organization and words at another.
    #[error(
        "column `{column}` holds numbers at one organization and words at another; write `C({column})` if both are categories"
    )]
    Disagreement {
        /// The column.
        column: String,
    },
    /// No organization has more than one level of a categorical column.
    #[error("column `{column}` has the same value in all rows, so it explains nothing; leave it out")]
    Constant {
        /// The column.
        column: String,
    },
    /// A row holds a level that the coding does not know. Which row is not said: who makes up codings could find out so
    /// what it holds.
    #[error("column `{column}` holds a category that was not announced; did the data change meanwhile?")]
    UnknownLevel {
        /// The column.
        column: String,
    },
    /// The coding says nothing about a column of the formula.
    #[error("the coding does not say what column `{column}` holds")]
    NoCoding {
        /// The column.
        column: String,
    },
}

/// A parsed model formula.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formula {
    outcome: String,
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    column: String,
    categorical: bool,
}

impl std::str::FromStr for Formula {
    type Err = FormulaError;

    fn from_str(text: &str) -> Result<Self, FormulaError> {
        let syntax = |reason: String| FormulaError::Syntax { formula: text.to_owned(), reason };
        let (outcome, right) = text.split_once('~').ok_or_else(|| syntax("there is no `~`".to_owned()))?;
        let outcome = name(outcome).map_err(syntax)?;
        let mut terms: Vec<Term> = Vec::new();
        for part in right.split('+') {
            let part = part.trim();
            let inner = part.strip_prefix("C(").and_then(|rest| rest.strip_suffix(')'));
            let column = name(inner.unwrap_or(part)).map_err(syntax)?;
            if column == "1" && inner.is_none() {
                continue;
            }
            if column == outcome || terms.iter().any(|term| term.column == column) {
                return Err(syntax(format!("`{column}` occurs twice")));
            }
            terms.push(Term { column, categorical: inner.is_some() });
        }
        Ok(Self { outcome, terms })
    }
}

fn name(text: &str) -> Result<String, String> {
    let text = text.trim();
    if let Some(quoted) = text.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
        return if quoted.is_empty() { Err("a name is empty".to_owned()) } else { Ok(quoted.to_owned()) };
    }
    if text.is_empty() {
        return Err("a name is missing".to_owned());
    }
    if text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.') {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is not the name of a column; unusual names are put in backticks, `~` and `+` are the only operators"
    ))
}

/// What one organization says about the columns of a formula.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// How many rows have all the columns filled in.
    pub rows: u64,
    /// How many rows lack one.
    pub missing_rows: u64,
    /// What each explaining column holds: `None` for numbers, else its categories.
    pub columns: BTreeMap<String, Option<BTreeSet<String>>>,
}

/// What all organizations agreed that the explaining columns hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Coding {
    /// `None` for numbers, else the categories in sorted order.
    pub columns: BTreeMap<String, Option<BTreeSet<String>>>,
}

impl Coding {
    /// Unites what the organizations have.
    ///
    /// # Errors
    ///
    /// They disagree about a column, or it has too many categories or just one.
    pub fn unite<'a>(surveys: impl IntoIterator<Item = &'a Survey>) -> Result<Self, FormulaError> {
        let mut columns: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
        for survey in surveys.into_iter().filter(|survey| survey.rows > 0) {
            for (column, levels) in &survey.columns {
                match (columns.get_mut(column), levels) {
                    (None, levels) => {
                        columns.insert(column.clone(), levels.clone());
                    }
                    (Some(None), None) => {}
                    (Some(Some(known)), Some(levels)) => known.extend(levels.iter().cloned()),
                    (Some(None), Some(_)) | (Some(Some(_)), None) => {
                        return Err(FormulaError::Disagreement { column: column.clone() });
                    }
                }
            }
        }
        for (column, levels) in &columns {
            match levels.as_ref().map(BTreeSet::len) {
                Some(..2) => return Err(FormulaError::Constant { column: column.clone() }),
                Some(count) if count > MAX_LEVELS => {
                    return Err(FormulaError::TooManyLevels { column: column.clone() });
                }
                Some(_) | None => {}
            }
        }
        Ok(Self { columns })
    }
}

/// The rows of one organization that have all columns of a formula filled in.
#[derive(Clone)]
pub struct Frame {
    /// The names of the matrix's columns, the intercept first.
    pub names: Vec<String>,
    /// The matrix, row by row.
    pub design: Vec<f64>,
    /// The outcomes, 0 or 1.
    pub outcome: Vec<f64>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").field("names", &self.names).field("rows", &self.rows()).finish_non_exhaustive()
    }
}

impl Frame {
    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.outcome.len()
    }
}

/// The rarest value of a column with few different ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rarest {
    /// The column.
    pub column: String,
    /// How many complete rows hold the value.
    pub rows: u64,
}

enum Cells<'a> {
    Numbers(Vec<Option<f64>>),
    Categories(Vec<Option<&'a str>>),
}

impl Cells<'_> {
    fn is_filled(&self, row: usize) -> bool {
        match self {
            Self::Numbers(cells) => cells[row].is_some(),
            Self::Categories(cells) => cells[row].is_some(),
        }
    }
}

impl Formula {
    /// Says what the table holds in the columns of this formula.
    ///
    /// # Errors
    ///
    /// A column is missing or malformed, an outcome is neither 0 nor 1, or there are too many categories.
    pub fn survey(&self, table: &Table) -> Result<Survey, FormulaError> {
        let columns = self.columns(table, None)?;
        let complete = self.complete(&self.outcomes(table)?, &columns);
        let mut survey = Survey {
            rows: complete.len() as u64,
            missing_rows: (table.rows() - complete.len()) as u64,
            columns: BTreeMap::new(),
        };
        for (term, cells) in self.terms.iter().zip(&columns) {
            let levels = match cells {
                Cells::Numbers(_) => None,
                Cells::Categories(cells) => {
                    let levels: BTreeSet<&str> = complete.iter().filter_map(|&row| cells[row]).collect();
                    self.check_levels(term, levels.len())?;
                    Some(levels.into_iter().map(str::to_owned).collect())
                }
            };
            survey.columns.insert(term.column.clone(), levels);
        }
        Ok(survey)
    }

    /// The names of the coefficients under a coding, the intercept first.
    ///
    /// # Errors
    ///
    /// The coding lacks a column.
    pub fn names(&self, coding: &Coding) -> Result<Vec<String>, FormulaError> {
        let mut names = vec![INTERCEPT.to_owned()];
        for term in &self.terms {
            match self.levels(term, coding)? {
                None => names.push(term.column.clone()),
                Some(levels) => names.extend(levels.iter().skip(1).map(|level| format!("{}_{level}", term.column))),
            }
        }
        Ok(names)
    }

    /// Builds the matrix of the complete rows.
    ///
    /// # Errors
    ///
    /// As [`Formula::survey`]; or the table does not fit the coding.
    pub fn frame(&self, table: &Table, coding: &Coding) -> Result<Frame, FormulaError> {
        let names = self.names(coding)?;
        for term in &self.terms {
            self.check_levels(term, self.levels(term, coding)?.map_or(0, BTreeSet::len))?;
        }
        let columns = self.columns(table, Some(coding))?;
        let outcomes = self.outcomes(table)?;
        let complete = self.complete(&outcomes, &columns);
        let mut frame = Frame {
            design: Vec::with_capacity(complete.len() * names.len()),
            outcome: Vec::with_capacity(complete.len()),
            names,
        };
        for row in complete {
            frame.design.push(1.0);
            for (term, cells) in self.terms.iter().zip(&columns) {
                match cells {
                    Cells::Numbers(cells) => frame.design.extend(cells[row]),
                    Cells::Categories(cells) => {
                        let levels = self.levels(term, coding)?.into_iter().flatten();
                        let position = levels.clone().position(|level| Some(level.as_str()) == cells[row]);
                        let position =
                            position.ok_or_else(|| FormulaError::UnknownLevel { column: term.column.clone() })?;
                        frame.design.extend((1..levels.count()).map(|level| f64::from(level == position)));
                    }
                }
            }
            frame.outcome.extend(outcomes[row]);
        }
        Ok(frame)
    }

    /// The rarest of the values that stand for a group of rows: of the categories, the two outcomes, and columns of two
    /// different numbers. Sums over a matrix with such a column tell sums over the group, so over few rows when it is
    /// small (DataSHIELD's `glmDS` looks at the same). A value that no row holds tells nothing.
    ///
    /// # Errors
    ///
    /// As [`Formula::survey`].
    pub fn rarest(&self, table: &Table, coding: Option<&Coding>) -> Result<Option<Rarest>, FormulaError> {
        let columns = self.columns(table, coding)?;
        let outcomes = self.outcomes(table)?;
        let complete = self.complete(&outcomes, &columns);
        let of_numbers = |cells: &[Option<f64>]| {
            let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
            // Zero has two signs that are one number.
            for value in complete.iter().filter_map(|&row| cells[row]) {
                *counts.entry((value + 0.0).to_bits()).or_default() += 1;
            }
            if counts.len() > 2 { None } else { counts.into_values().min() }
        };
        let mut rarest = vec![(&self.outcome, of_numbers(&outcomes))];
        for (term, cells) in self.terms.iter().zip(&columns) {
            let count = match cells {
                Cells::Numbers(cells) => of_numbers(cells),
                Cells::Categories(cells) => {
                    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
                    for level in complete.iter().filter_map(|&row| cells[row]) {
                        *counts.entry(level).or_default() += 1;
                    }
                    counts.into_values().min()
                }
            };
            rarest.push((&term.column, count));
        }
        let rarest =
            rarest.into_iter().filter_map(|(column, rows)| Some(Rarest { column: column.clone(), rows: rows? }));
        Ok(rarest.min_by_key(|rarest| rarest.rows))
    }

    /// The explaining columns, as the coding says; without one as they look.
    fn columns<'a>(&self, table: &'a Table, coding: Option<&Coding>) -> Result<Vec<Cells<'a>>, FormulaError> {
        let column = |term: &Term| {
            let categorical = match coding {
                Some(coding) => self.levels(term, coding)?.is_some(),
                None => term.categorical || !table.mostly_numbers(&term.column)?,
            };
            self.cells(table, &term.column, categorical)
        };
        self.terms.iter().map(column).collect()
    }

    fn check_levels(&self, term: &Term, count: usize) -> Result<(), FormulaError> {
        if count > MAX_LEVELS {
            return Err(FormulaError::TooManyLevels { column: term.column.clone() });
        }
        Ok(())
    }

    fn levels<'a>(&self, term: &Term, coding: &'a Coding) -> Result<Option<&'a BTreeSet<String>>, FormulaError> {
        let levels = coding.columns.get(&term.column);
        levels.map(Option::as_ref).ok_or_else(|| FormulaError::NoCoding { column: term.column.clone() })
    }

    fn cells<'a>(&self, table: &'a Table, column: &str, categorical: bool) -> Result<Cells<'a>, FormulaError> {
        Ok(if categorical { Cells::Categories(table.texts(column)?) } else { Cells::Numbers(table.numbers(column)?) })
    }

    fn outcomes(&self, table: &Table) -> Result<Vec<Option<f64>>, FormulaError> {
        let outcomes = table.numbers(&self.outcome)?;
        match outcomes.iter().position(|outcome| !matches!(outcome, None | Some(0.0 | 1.0))) {
            Some(index) => Err(FormulaError::Outcome { column: self.outcome.clone(), row: index + 1 }),
            None => Ok(outcomes),
        }
    }

    fn complete(&self, outcomes: &[Option<f64>], columns: &[Cells<'_>]) -> Vec<usize> {
        (0..outcomes.len())
            .filter(|&row| outcomes[row].is_some() && columns.iter().all(|cells| cells.is_filled(row)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        Table::read("t.csv", text.as_bytes()).unwrap()
    }

    fn formula(text: &str) -> Formula {
        text.parse().unwrap()
    }

    #[test]
    fn categories_become_columns_beside_the_first_level() {
        let table = table("y,x,g,s\n1,2,b,1\n0,3,a,2\n1,4,c,1\n0,,a,2\n");
        let formula = formula("y ~ x + g + C(s)");
        let survey = formula.survey(&table).unwrap();
        assert_eq!((survey.rows, survey.missing_rows), (3, 1));
        let frame = formula.frame(&table, &Coding::unite([&survey]).unwrap()).unwrap();
        assert_eq!(frame.names, ["const", "x", "g_b", "g_c", "s_2"]);
        assert_eq!(frame.design, [1., 2., 1., 0., 0., 1., 3., 0., 0., 1., 1., 4., 0., 1., 0.]);
        assert_eq!(frame.outcome, [1.0, 0.0, 1.0]);
    }

    #[test]
    fn organizations_agree_on_the_united_levels() {
        let formula = formula("y~g");
        let (one, two) = (table("y,g\n1,b\n0,b\n"), table("y,g\n1,a\n"));
        let surveys = [formula.survey(&one).unwrap(), formula.survey(&two).unwrap()];
        let coding = Coding::unite(&surveys).unwrap();
        assert_eq!(formula.frame(&one, &coding).unwrap().design, [1., 1., 1., 1.]);
        assert!(matches!(Coding::unite(&surveys[..1]), Err(FormulaError::Constant { .. })));
        let numbers = formula.survey(&table("y,g\n1,3\n")).unwrap();
        assert!(matches!(Coding::unite([&surveys[0], &numbers]), Err(FormulaError::Disagreement { .. })));
        let only_a = Coding { columns: [("g".into(), Some(["a".into()].into()))].into() };
        assert!(matches!(formula.frame(&one, &only_a), Err(FormulaError::UnknownLevel { .. })));
    }

    #[test]
    fn the_rarest_value_is_found_among_complete_rows() {
        let rarest = |text: &str, data: &str| {
            formula(text).rarest(&table(data), None).unwrap().map(|rarest| (rarest.column, rarest.rows))
        };
        let data = "y,g,b,x\n1,a,0,1\n1,a,-0,2\n0,a,0,3\n0,c,5,4\n1,c,5,5\n0,d,5,\n";
        assert_eq!(rarest("y ~ g", data), Some(("g".into(), 1)));
        // The only `d` is in an incomplete row.
        assert_eq!(rarest("y ~ g + x", data).unwrap().1, 2);
        assert_eq!(rarest("y ~ b", data), Some(("y".into(), 3)));
        assert_eq!(rarest("y ~ b", "y,b\n1,1\n0,1\n1,1\n0,0\n"), Some(("b".into(), 1)));
        assert_eq!(rarest("y ~ x", "y,x\n"), None);
        // Outcomes of one kind, and many different numbers.
        assert_eq!(rarest("y ~ x", "y,x\n1,1\n1,2\n1,3\n"), Some(("y".into(), 3)));
    }

    #[test]
    fn a_coding_cannot_make_an_identifier_of_a_number() {
        let levels = |count: usize| Some((0..count).map(|level| level.to_string()).collect());
        let table = table("y,x\n1,1\n0,2\n1,3\n");
        let coding = |count| Coding { columns: [("x".to_owned(), levels(count))].into() };
        assert!(formula("y ~ x").frame(&table, &coding(MAX_LEVELS)).is_ok());
        let error = formula("y ~ x").frame(&table, &coding(MAX_LEVELS + 1)).unwrap_err();
        assert!(matches!(error, FormulaError::TooManyLevels { .. }), "{error}");
        assert_eq!(formula("y ~ x").rarest(&table, Some(&coding(4))).unwrap().unwrap().rows, 1);
    }

    #[test]
    fn malformed_formulas_say_why() {
        for (text, reason) in [
            ("y x", "no `~`"),
            ("y ~ ", "missing"),
            ("y ~ a + a", "twice"),
            ("y ~ y", "twice"),
            ("y ~ a * b", "`a * b` is not"),
            ("y ~ log(a)", "`log(a)` is not"),
        ] {
            let error = text.parse::<Formula>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!(formula("y ~ 1").terms, []);
        assert_eq!(formula("y ~ `tumour size`").terms[0].column, "tumour size");
    }

    #[test]
    fn bad_cells_are_named_by_row() {
        let error = |text: &str, data: &str| formula(text).survey(&table(data)).unwrap_err().to_string();
        assert!(error("y ~ x", "y,x\n1,1\n0,2\n1,oops\n").contains("row 3: column `x` does not hold a number"));
        assert!(error("y ~ x", "y,x\n1,1\n2,2\n").contains("row 2: the outcome `y` is neither 0 nor 1"));
        assert!(error("y ~ z", "y,x\n1,1\n").contains("no column `z`"));
        let many = (0..50).map(|i| format!("1,name{i}\n")).collect::<String>();
        assert!(error("y ~ x", &format!("y,x\n{many}")).contains("more than 40 categories"));
    }
}
