//! Several rows in one statement, and many numbers in one row.

use sqlx::{AnyConnection, AssertSqlSafe};

use super::engine::Engine;
use super::{Result, StoreError};

/// The most rows in one statement; with it SQLite's bound of 32,766 values is far away.
const MOST: usize = 256;

/// So few rows go in one statement, whatever their number.
const FEW: usize = 8;

/// Rows in groups that a statement takes, in order. Those of more than [`FEW`] are as large as a power of two, so that
/// there are few different statements for the engine to prepare and keep.
pub(super) fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let count = match rows.len() {
            0 => return None,
            few @ 1..=FEW => few,
            many => (1 << many.ilog2()).min(MOST),
        };
        let (chunk, rest) = rows.split_at(count);
        rows = rest;
        Some(chunk)
    })
}

/// An `INSERT` of so many rows: `before` ends in `VALUES`, `after` may say what to return.
///
/// Placeholders are as the connection's engine likes them: PostgreSQL numbers them, while SQLite would look through
/// the names of all for each of them, and `?` has none.
pub(super) fn insert(
    conn: &AnyConnection,
    before: &'static str,
    columns: usize,
    rows: usize,
    after: &'static str,
) -> AssertSqlSafe<String> {
    let placeholder: fn(usize) -> String = match Engine::behind(conn) {
        Engine::Sqlite => |_| "?".into(),
        Engine::Postgres => |number| format!("${number}"),
    };
    let row = |row: usize| {
        let columns: Vec<String> = (1..=columns).map(|column| placeholder(row * columns + column)).collect();
        format!("({})", columns.join(", "))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    // Made of constants and numbers.
    AssertSqlSafe(format!("{before}{}{after}", rows.join(", ")))
}

/// The ids that an `INSERT` returned, each with what is known of its row, in the order in which the rows were given:
/// engines number them so, but do not promise to return them so. Rows of which the same is known are not told apart.
///
/// # Errors
/// When a row is missing, or they were numbered in another order.
pub(super) fn numbered<T: Ord>(mut returned: Vec<(i64, T)>, given: impl IntoIterator<Item = T>) -> Result<Vec<i64>> {
    returned.sort_unstable();
    let (ids, rows): (Vec<i64>, Vec<T>) = returned.into_iter().unzip();
    if rows.into_iter().eq(given) {
        return Ok(ids);
    }
    Err(StoreError::Corrupt {
        value: format!("{ids:?}"),
        expected: "rows numbered in the order in which they were given",
    })
}

/// What gathers the numbers of a column (a constant) in one text, for [`numbers`] to read: a row more costs more than
/// a number more.
macro_rules! gather {
    ($column:literal) => {
        concat!("STRING_AGG(CAST(", $column, " AS TEXT), ',')")
    };
}
pub(super) use gather;

/// Reads numbers that [`gather`] wrote; none where there was no row.
pub(super) fn numbers(text: Option<&str>) -> Result<Vec<i64>> {
    let number = |text: &str| {
        text.parse().map_err(|_| StoreError::Corrupt { value: text.to_owned(), expected: "a list of numbers" })
    };
    text.into_iter().flat_map(|text| text.split(',')).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    #[test]
    fn every_row_is_in_one_group_and_groups_have_few_sizes() {
        let rows: Vec<usize> = (0..1000).collect();
        for count in [0, 1, 2, 3, 8, 9, 100, 256, 257, 1000] {
            let groups: Vec<&[usize]> = chunks(&rows[..count]).collect();
            assert_eq!(groups.concat(), rows[..count]);
            let is_common = |size: usize| size <= FEW || (size.is_power_of_two() && size <= MOST);
            assert!(groups.iter().all(|group| is_common(group.len())));
        }
    }

    #[tokio::test]
    async fn placeholders_are_as_the_engine_likes_them() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::store(directory.path()).await;
        let mut tx = store.read().await.unwrap();
        let sql = insert(tx.conn(), "INSERT INTO t (a, b) VALUES ", 2, 2, " RETURNING a").0;
        let expected = if store.is_shared() { "($1, $2), ($3, $4)" } else { "(?, ?), (?, ?)" };
        assert_eq!(sql, format!("INSERT INTO t (a, b) VALUES {expected} RETURNING a"));
    }

    #[test]
    fn rows_are_numbered_in_the_order_in_which_they_were_given() {
        assert_eq!(numbered(vec![(8, "b"), (7, "a"), (9, "a")], ["a", "b", "a"]).unwrap(), [7, 8, 9]);
        let wrong = [vec![(7, "a"), (8, "b")], vec![(7, "a"), (8, "b"), (9, "b")], vec![(7, "b"), (8, "a"), (9, "a")]];
        for returned in wrong {
            assert!(matches!(numbered(returned, ["a", "b", "a"]), Err(StoreError::Corrupt { .. })));
        }
    }

    #[test]
    fn gathered_numbers_are_read_again() {
        assert!(numbers(None).unwrap().is_empty());
        assert_eq!(numbers(Some("3,-1,86")).unwrap(), [3, -1, 86]);
        assert!(matches!(numbers(Some("3,x")), Err(StoreError::Corrupt { .. })));
    }
}
