//! Columns of text, as wide as they must be and no wider than the terminal.

use std::ops::Range;

use super::Style;

/// Between two columns.
const GAP: usize = 2;
/// Before what continues a row.
const INDENT: usize = 4;

/// How a piece of text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// A plain value.
    Plain,
    /// All is well.
    Good,
    /// Look at it.
    Warn,
    /// Something is broken.
    Bad,
    /// Of less weight: headings, what is unknown or old.
    Dim,
    /// The title of a section.
    Title,
}

impl Tone {
    /// The text with its colour, if colours are wanted.
    pub fn paint(self, text: &str, style: Style) -> String {
        let code = match self {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31;1",
            Tone::Dim => "2",
            Tone::Title => "1",
        };
        if style.color && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// What stands there.
    pub text: String,
    /// How it is meant.
    pub tone: Tone,
}

impl Cell {
    /// A piece of text.
    pub fn new(text: impl Into<String>, tone: Tone) -> Cell {
        // Texts come over the network: no control character may reach the terminal.
        Cell { text: text.into().replace(|c: char| c.is_control(), " "), tone }
    }

    /// A plain value.
    pub fn plain(text: impl Into<String>) -> Cell {
        Cell::new(text, Tone::Plain)
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Rows of cells under a heading. Every row has as many cells as the heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    rows: Vec<Vec<Cell>>,
}

impl Grid {
    /// No rows yet.
    pub fn new<H: Into<String>>(head: impl IntoIterator<Item = H>) -> Grid {
        Grid { rows: vec![head.into_iter().map(|text| Cell::new(text, Tone::Dim)).collect()] }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Whether there is a heading only.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().into_iter().flat_map(|columns| 0..columns);
        columns
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max().map_or(0, |width| width))
            .collect()
    }

    /// How wide it is if nothing is broken.
    pub fn width(&self) -> usize {
        self.widths().iter().enumerate().map(|(column, width)| width + if column == 0 { 0 } else { GAP }).sum()
    }

    /// The rows as lines. Columns that do not fit beside the others continue on an indented line below.
    pub fn render(&self, style: Style) -> String {
        let widths = self.widths();
        let lines = lines(&widths, style.width);
        let mut text = String::new();
        for row in &self.rows {
            for (number, columns) in lines.iter().enumerate() {
                let mut pending = if number == 0 { 0 } else { INDENT };
                let cells = row.iter().zip(&widths).skip(columns.start).take(columns.len());
                let mut line = String::new();
                for (cell, width) in cells {
                    if !cell.text.is_empty() {
                        line.push_str(&" ".repeat(pending));
                        line.push_str(&cell.tone.paint(&cell.text, style));
                        pending = 0;
                    }
                    pending += width - cell.width() + GAP;
                }
                if number == 0 || !line.is_empty() {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        }
        text
    }
}

/// The columns of each line of a row.
fn lines(widths: &[usize], limit: Option<usize>) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let (mut first, mut used) = (0, 0);
    for (column, width) in widths.iter().enumerate() {
        if column > first && limit.is_some_and(|limit| used + width > limit) {
            lines.push(first..column);
            (first, used) = (column, INDENT);
        }
        used += width + GAP;
    }
    lines.push(first..widths.len());
    lines
}

/// A sentence below a table: indented, and broken between words.
pub(super) fn wrap(sentence: &str, style: Style) -> String {
    let mut lines = vec![" ".repeat(INDENT / 2)];
    let mut used = INDENT / 2;
    for (number, word) in sentence.split_whitespace().enumerate() {
        let more = word.chars().count();
        if number > 0 && style.width.is_some_and(|width| used + 1 + more > width) {
            lines.push(" ".repeat(INDENT));
            used = INDENT;
        } else if number > 0 {
            lines.iter_mut().last().expect("there is the first line").push(' ');
            used += 1;
        }
        lines.iter_mut().last().expect("there is the first line").push_str(word);
        used += more;
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(["node", "state", "why"]);
        grid.push(vec![Cell::plain("a"), Cell::new("ok", Tone::Good), Cell::plain("")]);
        grid.push(vec![Cell::plain("long-name"), Cell::new("refused", Tone::Bad), Cell::plain("check \x1b[31mit")]);
        grid
    }

    /// Columns stand under each other, and no line ends in spaces.
    #[test]
    fn columns() {
        let text = grid().render(Style::PLAIN);
        assert_eq!(text, "node       state    why\na          ok\nlong-name  refused  check  [31mit\n");
    }

    /// What does not fit beside continues below; colour changes no width.
    #[test]
    fn narrow() {
        let narrow = Style { width: Some(20), ..Style::PLAIN };
        assert_eq!(grid().render(narrow), "node       state\n    why\na          ok\nlong-name  refused\n    check  [31mit\n");
        let colored = grid().render(Style { color: true, ..Style::PLAIN });
        assert!(colored.contains("\x1b[32mok\x1b[0m\n"), "{colored:?}");
    }

    /// Sentences break between words.
    #[test]
    fn sentences() {
        let narrow = Style { width: Some(16), ..Style::PLAIN };
        assert_eq!(wrap("a: one two three four", narrow), "  a: one two\n    three four");
        assert_eq!(wrap("a: one two", Style::PLAIN), "  a: one two");
    }
}
