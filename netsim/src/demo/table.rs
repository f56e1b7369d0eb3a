//! Tables for people: aligned, upper-case headers, no boxes.

/// Lays out rows under headers; columns of numbers should come as text with equal decimals and are right-aligned, the
/// first column is left-aligned.
pub(crate) fn layout(headers: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = headers
        .iter()
        .enumerate()
        .map(|(at, header)| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([header.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::from("  ");
        for (at, (cell, width)) in cells.zip(&widths).enumerate() {
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            if at == 0 {
                text.push_str(cell);
                text.push_str(&pad);
            } else {
                text.push_str("  ");
                text.push_str(&pad);
                text.push_str(cell);
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    };
    let mut text = line(&mut headers.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["age".into(), "53.05".into()], vec!["estrec".into(), "9.1".into()]];
        assert_eq!(layout(&["COLUMN", "MEAN"], &rows), "  COLUMN   MEAN\n  age     53.05\n  estrec    9.1\n");
    }
}
