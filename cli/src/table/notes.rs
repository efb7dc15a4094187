//! Reasons below a table: who is concerned, and why; the same reason is told once.

use lagmesh_model::known::Known;

use super::Style;
use super::grid::{Cell, Tone, wrap};

/// Reasons in the order in which they came up.
#[derive(Debug, Default)]
pub(super) struct Notes {
    groups: Vec<Group>,
}

/// One reason and whom it concerns.
#[derive(Debug)]
struct Group {
    why: String,
    subjects: Vec<Subject>,
}

/// Somebody, as a whole or in some parts.
#[derive(Debug)]
struct Subject {
    name: String,
    whole: bool,
    parts: Vec<&'static str>,
}

impl Notes {
    /// Adds a reason of `subject` as a whole, unless it is empty.
    pub(super) fn add(&mut self, subject: &str, why: &str) {
        if let Some(subject) = self.subject(subject, why) {
            subject.whole = true;
        }
    }

    /// Adds a reason of a part of `subject`; it is not told where the whole has the same.
    pub(super) fn add_part(&mut self, subject: &str, part: &'static str, why: &str) {
        if let Some(subject) = self.subject(subject, why) {
            subject.parts.push(part);
        }
    }

    fn subject(&mut self, name: &str, why: &str) -> Option<&mut Subject> {
        let why = Cell::plain(why.trim()).text;
        if why.is_empty() {
            return None;
        }
        let group = find_or_push(&mut self.groups, |group| group.why == why, || Group { why: why.clone(), subjects: Vec::new() });
        let subject = || Subject { name: name.to_owned(), whole: false, parts: Vec::new() };
        Some(find_or_push(&mut group.subjects, |subject| subject.name == name, subject))
    }

    /// A cell of a value that may be unknown or old; if it is unknown, the reason becomes a note.
    pub(super) fn cell<T>(
        &mut self,
        subject: &str,
        part: &'static str,
        value: &Known<T>,
        show: impl FnOnce(&T) -> String,
    ) -> Cell {
        match value {
            Known::Known { value } => Cell::plain(show(value)),
            // How old it is stands beside it as the age of the evidence, or below as the reason.
            Known::Stale { value, .. } => Cell::new(format!("was {}", show(value)), Tone::Dim),
            Known::Unknown { why } => {
                self.add_part(subject, part, why);
                Cell::new("unknown", Tone::Dim)
            }
        }
    }

    /// The reasons as lines.
    pub(super) fn render(&self, style: Style) -> String {
        let line = |group: &Group| {
            let subjects: Vec<String> = group.subjects.iter().map(Subject::to_string).collect();
            let text = wrap(&format!("{}: {}", subjects.join(", "), group.why), style);
            // Each line on its own, or a pager would lose the colour.
            text.lines().map(|line| Tone::Dim.paint(line, style) + "\n").collect::<String>()
        };
        self.groups.iter().map(line).collect()
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Subject { name, whole, parts } = self;
        if *whole { f.write_str(name) } else { write!(f, "{name} ({})", parts.join(", ")) }
    }
}

fn find_or_push<T>(items: &mut Vec<T>, is: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    let at = items.iter().position(is).unwrap_or(items.len());
    if at == items.len() {
        items.push(new());
    }
    &mut items[at]
}
