//! Reasons below a table: who is concerned, and why; the same reason is told once.

use lagmesh_model::known::Known;

use super::Style;
use super::grid::{Cell, Tone, wrap};
use super::units::seconds;

/// Reasons in the order in which they came up.
#[derive(Debug, Default)]
pub(super) struct Notes {
    groups: Vec<(String, Vec<String>)>,
}

impl Notes {
    /// Adds a reason of `subject`, unless it is empty.
    pub(super) fn add(&mut self, subject: impl Into<String>, why: &str) {
        let subject = subject.into();
        let why = Cell::plain(why.trim()).text;
        match self.groups.iter_mut().find(|(known, _)| *known == why) {
            _ if why.is_empty() => {}
            Some((_, subjects)) if subjects.contains(&subject) => {}
            Some((_, subjects)) => subjects.push(subject),
            None => self.groups.push((why, vec![subject])),
        }
    }

    /// A cell of a value that may be unknown or old; if it is unknown, the reason becomes a note.
    pub(super) fn cell<T>(&mut self, subject: &str, value: &Known<T>, show: impl FnOnce(&T) -> String) -> Cell {
        match value {
            Known::Known { value } => Cell::plain(show(value)),
            Known::Stale { value, age_s } => Cell::new(format!("{} ({} old)", show(value), seconds(*age_s)), Tone::Dim),
            Known::Unknown { why } => {
                self.add(subject, why);
                Cell::new("unknown", Tone::Dim)
            }
        }
    }

    /// The reasons as lines.
    pub(super) fn render(&self, style: Style) -> String {
        let line = |(why, subjects): &(String, Vec<String>)| {
            let text = wrap(&format!("  {}:", subjects.join(", ")), why, style);
            // Each line on its own, or a pager would lose the colour.
            text.lines().map(|line| Tone::Dim.paint(line, style) + "\n").collect::<String>()
        };
        self.groups.iter().map(line).collect()
    }
}
