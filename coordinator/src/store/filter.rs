//! Lists: conditions and pages put together without ever putting a value into SQL text.

use std::collections::BTreeSet;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::Result;
use super::page::{Direction, PageRequest};

/// How many values are asked for in one question; SQLite binds 32,766 at the most, PostgreSQL 65,535.
const AT_ONCE: usize = 1000;

/// A value bound to a placeholder.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Int(i64),
    Text(String),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// The conditions of a list. Texts are constants; values are bound.
#[derive(Debug, Default, Clone)]
pub(crate) struct Filter {
    sql: String,
    values: Vec<Value>,
}

impl Filter {
    /// Adds a condition; each `?` stands for one of `values`, in order.
    pub(crate) fn and(&mut self, condition: &'static str, values: impl IntoIterator<Item = Value>) {
        self.and_built(condition, values);
    }

    /// Adds that `column` (a constant) matches the pattern with `%` and `_`, whatever the case.
    pub(crate) fn and_like(&mut self, column: &'static str, pattern: Option<&str>) {
        if let Some(pattern) = pattern {
            // PostgreSQL has the backslash for an escape unless told otherwise, SQLite has none; so it is one for
            // both, and stands for itself.
            let pattern = pattern.replace('\\', r"\\");
            self.and_built(&format!(r"LOWER({column}) LIKE LOWER(?) ESCAPE '\'"), [pattern.into()]);
        }
    }

    /// Adds that `column` (a constant) equals the value, if there is one.
    pub(crate) fn and_equal(&mut self, column: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.and_built(&format!("{column} = ?"), [value.into()]);
        }
    }

    /// Adds that `column` (a constant) is one of a few values; nothing is one of none. For many there is [`all_in`].
    pub(crate) fn and_in(&mut self, column: &'static str, values: impl IntoIterator<Item = i64>) {
        let (sql, values) = in_list(column, values);
        self.and_built(&sql, values);
    }

    /// Adds that one of the alternatives holds; none of none does.
    pub(crate) fn and_any(&mut self, alternatives: Vec<(String, Vec<Value>)>) {
        if alternatives.is_empty() {
            return self.and("1 = 0", []);
        }
        let sql: Vec<&str> = alternatives.iter().map(|(sql, _)| sql.as_str()).collect();
        let sql = format!("({})", sql.join(" OR "));
        self.and_built(&sql, alternatives.into_iter().flat_map(|(_, values)| values));
    }

    /// The same conditions as one alternative for [`Filter::and_any`].
    pub(crate) fn into_alternative(self) -> (String, Vec<Value>) {
        let Some(sql) = self.sql.strip_prefix(" WHERE ") else { return ("1 = 1".into(), self.values) };
        // Back from numbered placeholders, which stand in order.
        let mut out = String::with_capacity(sql.len());
        let mut characters = sql.chars().peekable();
        while let Some(character) = characters.next() {
            if character == '$' {
                while characters.next_if(char::is_ascii_digit).is_some() {}
                out.push('?');
            } else {
                out.push(character);
            }
        }
        (format!("({out})"), self.values)
    }

    /// Whether a condition names a column of this table.
    pub(crate) fn mentions(&self, table: &'static str) -> bool {
        let mut rest = self.sql.as_str();
        while let Some((before, after)) = rest.split_once(table) {
            let begins = !before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            if begins && after.starts_with('.') {
                return true;
            }
            rest = after;
        }
        false
    }

    fn and_built(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(if self.sql.is_empty() { " WHERE " } else { " AND " });
        let mut next = self.values.len();
        self.values.extend(values);
        let holds_nul = |value: &Value| matches!(value, Value::Text(text) if text.contains('\0'));
        if self.values.iter().skip(next).any(holds_nul) {
            // No text in the database does, and PostgreSQL does not take the question.
            self.values.truncate(next);
            return self.sql.push_str("1 = 0");
        }
        for character in condition.chars() {
            if character == '?' {
                next += 1;
                self.sql.push_str(&format!("${next}"));
            } else {
                self.sql.push(character);
            }
        }
        debug_assert_eq!(next, self.values.len(), "each `?` of `{condition}` has a value");
    }
}

/// `column IN (…)` for a constant `column`, to be used as a condition or an alternative.
pub(crate) fn in_list(column: &str, values: impl IntoIterator<Item = i64>) -> (String, Vec<Value>) {
    let values: Vec<Value> = values.into_iter().map(Value::Int).collect();
    if values.is_empty() {
        return ("1 = 0".into(), values);
    }
    (format!("{column} IN ({})", vec!["?"; values.len()].join(", ")), values)
}

/// One page of `SELECT {columns} FROM {from}` and how many rows there are on all of them.
///
/// `sortable` maps the wire's names to columns; `default_order` comes last and must make the order total.
pub(crate) async fn page(
    conn: &mut AnyConnection,
    columns: &'static str,
    from: &'static str,
    filter: &Filter,
    request: &PageRequest,
    sortable: &'static [(&'static str, &'static str)],
    default_order: &'static str,
) -> Result<(Vec<AnyRow>, i64)> {
    page_counted(conn, columns, [from, from], filter, request, sortable, default_order).await
}

/// The same where fewer tables are enough to count: `[from, count_from]`.
pub(crate) async fn page_counted(
    conn: &mut AnyConnection,
    columns: &'static str,
    [from, count_from]: [&'static str; 2],
    filter: &Filter,
    request: &PageRequest,
    sortable: &'static [(&'static str, &'static str)],
    default_order: &'static str,
) -> Result<(Vec<AnyRow>, i64)> {
    let count = format!("SELECT COUNT(*) FROM {count_from}{}", filter.sql);
    let total: i64 = bind(&count, &filter.values).fetch_one(&mut *conn).await?.try_get(0)?;

    let mut order = String::new();
    for (name, direction) in request.sort() {
        // The door has checked the names against the same table.
        if let Some((_, column)) = sortable.iter().find(|(known, _)| known == name) {
            order.push_str(column);
            order.push_str(match direction {
                // The engines differ in where nulls go.
                Direction::Up => " NULLS FIRST, ",
                Direction::Down => " DESC NULLS LAST, ",
            });
        }
    }
    let mut values = filter.values.clone();
    values.push(request.limit().into());
    values.push(request.offset().into());
    let sql = format!(
        "SELECT {columns} FROM {from}{} ORDER BY {order}{default_order} LIMIT ${} OFFSET ${}",
        filter.sql,
        values.len() - 1,
        values.len()
    );
    Ok((bind(&sql, &values).fetch_all(&mut *conn).await?, total))
}

/// Every row of `SELECT {columns} FROM {from}` that the filter leaves, in `order`.
pub(crate) async fn all(
    conn: &mut AnyConnection,
    columns: &'static str,
    from: &'static str,
    filter: &Filter,
    order: &'static str,
) -> Result<Vec<AnyRow>> {
    let sql = format!("SELECT {columns} FROM {from}{} ORDER BY {order}", filter.sql);
    Ok(bind(&sql, &filter.values).fetch_all(&mut *conn).await?)
}

/// As [`all`], for the rows of which `column` is one of the values, however many those are: each question is about some of
/// them, so `order` holds among the rows of one value and of those near it, not among all.
pub(crate) async fn all_in(
    conn: &mut AnyConnection,
    columns: &'static str,
    from: &'static str,
    filter: &Filter,
    (column, values): (&'static str, BTreeSet<i64>),
    order: &'static str,
) -> Result<Vec<AnyRow>> {
    let values: Vec<i64> = values.into_iter().collect();
    let mut found = Vec::new();
    for values in values.chunks(AT_ONCE) {
        let mut filter = filter.clone();
        filter.and_in(column, values.iter().copied());
        found.append(&mut all(conn, columns, from, &filter, order).await?);
    }
    Ok(found)
}

fn bind<'q>(sql: &str, values: &[Value]) -> sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments> {
    // Every part of the text is a constant of this crate; values are bound.
    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    for value in values {
        query = match value {
            Value::Int(value) => query.bind(*value),
            Value::Text(value) => query.bind(value.clone()),
        };
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    #[tokio::test]
    async fn rows_are_found_by_more_values_than_an_engine_binds() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::store(directory.path()).await;
        let mut tx = store.write().await.unwrap();
        let sql = "INSERT INTO organization (id, name) VALUES (1, 'a'), (1500, 'b'), (1501, 'other'), (70000, 'c')";
        sqlx::query(sql).execute(tx.conn()).await.unwrap();
        let mut filter = Filter::default();
        filter.and_like("name", Some("_"));
        let values = (1..=70_000).collect();
        let rows = all_in(tx.conn(), "id", "organization", &filter, ("id", values), "id").await.unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.try_get(0).unwrap()).collect();
        assert_eq!(ids, [1, 1500, 70_000]);
        assert!(
            all_in(tx.conn(), "id", "organization", &filter, ("id", BTreeSet::new()), "id").await.unwrap().is_empty()
        );
    }

    #[test]
    fn a_condition_names_a_table_by_its_whole_name() {
        let mut filter = Filter::default();
        filter.and("subnode.id = 1 AND node_config.key = 'a'", []);
        assert!(!filter.mentions("node"));
        filter.and_equal("node.id", Some(3));
        assert!(filter.mentions("node"));
    }
}
