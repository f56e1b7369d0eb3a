//! Colours on a terminal.

use super::args::Color;

/// How a text stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Strong,
    Good,
    Bad,
    Waiting,
}

/// Whether to paint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

impl Paint {
    #[cfg(test)]
    pub(super) const fn off() -> Self {
        Self(false)
    }

    pub(super) fn new(color: Color, is_terminal: bool) -> Self {
        Self(match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        })
    }

    pub(super) fn apply(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => return text.into(),
            Style::Strong => "1",
            Style::Good => "32",
            Style::Bad => "31",
            Style::Waiting => "33",
        };
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.into() }
    }
}
