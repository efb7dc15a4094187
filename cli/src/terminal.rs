//! What standard output is.

use std::io::IsTerminal;

use crate::table::Style;

/// How to write to standard output: colours and width only if it is a terminal, and no colours if `NO_COLOR` is set.
pub fn style() -> Style {
    if !std::io::stdout().is_terminal() {
        return Style::PLAIN;
    }
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Style { color, width: terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)) }
}
