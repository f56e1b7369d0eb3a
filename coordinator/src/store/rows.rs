//! Several rows in one statement.

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
pub(super) fn insert(before: &'static str, columns: usize, rows: usize, after: &'static str) -> String {
    let mut sql = String::with_capacity(before.len() + rows * columns * 6 + after.len());
    sql.push_str(before);
    let mut next = 1;
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            if column > 0 {
                sql.push_str(", ");
            }
            sql.push('$');
            sql.push_str(&next.to_string());
            next += 1;
        }
        sql.push(')');
    }
    sql.push_str(after);
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn values_are_numbered_row_by_row() {
        assert_eq!(
            insert("INSERT INTO t (a, b) VALUES ", 2, 2, " RETURNING a"),
            "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) RETURNING a"
        );
    }
}
