//! Survival curves, drawn in a terminal.

use std::fmt::Write as _;

/// A step function: value 1 before the first time, then the given value from each time on.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) label: String,
    pub(crate) mark: char,
    /// Times, ascending, and the survival from each on, between 0 and 1.
    pub(crate) steps: Vec<(f64, f64)>,
}

impl Curve {
    fn at(&self, time: f64) -> f64 {
        self.steps.iter().take_while(|(from, _)| *from <= time).last().map_or(1.0, |(_, survival)| *survival)
    }

    fn end(&self) -> f64 {
        self.steps.last().map_or(0.0, |(time, _)| *time)
    }
}

/// Draws curves over a common time axis, `width` by `height` characters without the axes; where two meet, the later
/// one is on top.
pub(crate) fn draw(curves: &[Curve], unit: &str, width: usize, height: usize) -> String {
    let end = curves.iter().map(Curve::end).fold(1.0, f64::max);
    let column_time = |column: usize| end * column as f64 / (width.max(2) - 1) as f64;
    let mut grid = vec![vec![' '; width]; height];
    for curve in curves {
        // Beyond its last time a curve says nothing.
        let columns = (0..width).take_while(|&column| column_time(column) <= curve.end() * (1.0 + 1e-9));
        for column in columns {
            let survival = curve.at(column_time(column)).clamp(0.0, 1.0);
            let row = ((1.0 - survival) * (height.max(2) - 1) as f64).round() as usize;
            grid[row.min(height - 1)][column] = curve.mark;
        }
    }
    let mut text = String::new();
    for (row, cells) in grid.iter().enumerate() {
        let share = 1.0 - row as f64 / (height.max(2) - 1) as f64;
        let label = if row % 4 == 0 { format!("{:>4.0}%", share * 100.0) } else { "     ".into() };
        let line: String = cells.iter().collect();
        let _ = writeln!(text, "{label} |{}", line.trim_end());
    }
    let _ = writeln!(text, "      +{}", "-".repeat(width));
    let last = format!("{end:.0} {unit}");
    let _ = writeln!(text, "       0{last:>width$}", width = width - 1);
    for curve in curves {
        let _ = writeln!(text, "       {} {}", curve.mark, curve.label);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_falls_from_one_where_its_steps_say() {
        let curve = Curve { label: "all".into(), mark: '*', steps: vec![(5.0, 0.5), (10.0, 0.0)] };
        let text = draw(&[curve], "days", 11, 5);
        let expected = " 100% |*****\n      |\n      |     *****\n      |\n   0% |          *\n      +-----------\n       0   10 days\n       * all\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn no_curves_and_no_steps_draw_an_empty_frame() {
        assert!(draw(&[], "days", 10, 5).contains('+'));
        let empty = Curve { label: "none".into(), mark: 'x', steps: vec![] };
        assert!(draw(&[empty], "days", 10, 5).contains("x none"));
    }
}
