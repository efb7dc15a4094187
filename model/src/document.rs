//! A TOML document read table by table: every key is asked for by name, and everything that is wrong is told with its line.

mod error;

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use error::{FileError, FileErrors, nearest};

/// Proof that an error was told; nothing more needs to be said about the value.
#[derive(Debug, Clone, Copy)]
pub struct Reported(());

impl Reported {
    /// For what follows from an error that was told at another key.
    pub fn elsewhere() -> Reported {
        Reported(())
    }
}

/// A value, or an error that was told already.
pub type Found<T> = Result<T, Reported>;

/// The text of a file and what was found wrong with it.
#[derive(Debug)]
pub struct Document<'a> {
    file: &'a str,
    text: &'a str,
    errors: RefCell<Vec<FileError>>,
}

impl<'a> Document<'a> {
    /// A document that has not been parsed yet; `file` is its name in messages.
    pub fn new(file: &'a str, text: &'a str) -> Document<'a> {
        Document { file, text, errors: RefCell::new(Vec::new()) }
    }

    /// The document as a tree; with errors of syntax there is none.
    ///
    /// # Errors
    /// If the text is no TOML; that has been told.
    pub fn parse(&self) -> Found<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let mut told = Ok(());
        let mut line_told = None;
        for error in errors {
            let at = error.span().map_or(self.text.len(), |span| span.start);
            // What follows in the same line is only the echo of the first error.
            if line_told.replace(self.line(at)) != Some(self.line(at)) {
                told = Err(self.tell(at, "syntax", error.message().replace('\n', " ")));
            }
        }
        told.map(|()| table.into_inner())
    }

    /// The line of a byte [1 and up].
    pub fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        before.split(|byte| *byte == b'\n').count()
    }

    /// Tells that something is wrong at a byte of the text.
    pub fn tell(&self, at: usize, key: impl Into<String>, message: impl Into<String>) -> Reported {
        self.errors.borrow_mut().push(FileError { line: self.line(at), key: key.into(), message: message.into() });
        Reported(())
    }

    /// The value if nothing at all was wrong.
    ///
    /// # Errors
    /// Everything that was told.
    pub fn finish<T>(self, value: Found<T>) -> Result<T, FileErrors> {
        let mut errors = self.errors.into_inner();
        match value {
            Ok(value) if errors.is_empty() => Ok(value),
            _ => {
                errors.sort();
                errors.dedup();
                Err(FileErrors { file: self.file.to_owned(), errors })
            }
        }
    }
}

/// One table of the document, or an empty one in place of a table that is not there.
#[derive(Debug)]
pub struct Section<'a> {
    /// The document that it belongs to.
    pub document: &'a Document<'a>,
    path: String,
    at: usize,
    table: Option<&'a DeTable<'a>>,
    known: &'static [&'static str],
}

impl<'a> Section<'a> {
    /// The whole document, which holds none but the `known` keys.
    pub fn top(document: &'a Document<'a>, table: &'a DeTable<'a>, known: &'static [&'static str]) -> Section<'a> {
        let top = Section { document, path: String::new(), at: 0, table: Some(table), known };
        top.tell_unknown();
        top
    }

    fn inner(
        &self,
        key: &str,
        value: &'a Spanned<DeValue<'a>>,
        table: &'a DeTable<'a>,
        known: &'static [&'static str],
    ) -> Section<'a> {
        let inner = Section { document: self.document, path: self.key(key), at: value.span().start, table: Some(table), known };
        inner.tell_unknown();
        inner
    }

    /// The full name of a key of this table.
    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A key with its place and value. A misspelt key is read as the one that was meant: it was told already, and what would
    /// follow from it is not.
    fn entry(&self, key: &str) -> Option<(usize, &'a Spanned<DeValue<'a>>)> {
        let table = self.table?;
        let meant = |word: &str| !self.known.contains(&word) && nearest(word, self.known.iter().copied()) == Some(key);
        let exact = table.iter().find(|(found, _)| found.get_ref() == key);
        let (found, value) = exact.or_else(|| table.iter().find(|(found, _)| meant(found.get_ref())))?;
        Some((found.span().start, value))
    }

    /// Where a key stands, or its table if the key is not written.
    pub fn at(&self, key: &str) -> usize {
        self.entry(key).map_or(self.at, |(at, _)| at)
    }

    /// Tells that something is wrong with a key of this table.
    pub fn tell(&self, key: &str, message: impl Into<String>) -> Reported {
        self.document.tell(self.at(key), self.key(key), message)
    }

    /// Whether no table `[[key]]` is written.
    pub fn has_none(&self, key: &str) -> bool {
        match self.entry(key).map(|(_, value)| value.get_ref()) {
            None => true,
            Some(DeValue::Array(values)) => values.is_empty(),
            Some(_) => false,
        }
    }

    /// Tells that `key` is in the wrong order to `other`, at whichever of the two is written.
    pub fn tell_pair(&self, key: &str, other: &str, message: impl Into<String>) -> Reported {
        let at = self.at(if self.entry(key).is_some() { key } else { other });
        self.document.tell(at, self.key(key), message)
    }

    fn tell_unknown(&self) {
        for (key, _) in self.table.into_iter().flatten().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())) {
            let word = key.get_ref().as_ref();
            let hint = match nearest(word, self.known.iter().copied()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            // A key may hold anything, even a line break; an error is one line.
            let name = word.escape_debug().to_string();
            self.document.tell(key.span().start, self.key(&name), format!("unknown key; {hint}"));
        }
    }

    /// The value of a key, if the key is written.
    ///
    /// # Errors
    /// If it is written and wrong, or missing where it must stand; that has been told.
    pub fn get<T>(&self, key: &str, read: impl FnOnce(&DeValue<'a>) -> Result<T, String>) -> Found<Option<T>> {
        match self.entry(key) {
            None => Ok(None),
            Some((_, value)) => read(value.get_ref()).map(Some).map_err(|message| self.tell(key, message)),
        }
    }

    /// The value of a key that must be written.
    ///
    /// # Errors
    /// If it is written and wrong, or missing where it must stand; that has been told.
    pub fn require<T>(&self, key: &str, read: impl FnOnce(&DeValue<'a>) -> Result<T, String>) -> Found<T> {
        self.get(key, read)?.ok_or_else(|| self.tell(key, "is missing"))
    }

    /// A table inside this one; an empty one if it is not written.
    pub fn section(&self, key: &str, known: &'static [&'static str]) -> Section<'a> {
        let nothing = Section { document: self.document, path: self.key(key), at: self.at(key), table: None, known };
        match self.entry(key).map(|(_, value)| (value, value.get_ref())) {
            Some((value, DeValue::Table(table))) => self.inner(key, value, table, known),
            Some((_, other)) => {
                self.tell(key, format!("must be a table [{}], not {}", nothing.path, kind(other)));
                nothing
            }
            None => nothing,
        }
    }

    /// The tables `[[key]]` inside this one.
    pub fn sections(&self, key: &str, known: &'static [&'static str]) -> Vec<Section<'a>> {
        let brackets = || format!("write it as [[{}]], with two brackets, once for each", self.key(key));
        match self.entry(key).map(|(_, value)| value.get_ref()) {
            None => Vec::new(),
            Some(DeValue::Array(values)) => {
                let tables = values.iter().filter_map(|value| {
                    if let DeValue::Table(table) = value.get_ref() {
                        return Some(self.inner(key, value, table, known));
                    }
                    self.document.tell(value.span().start, self.key(key), brackets());
                    None
                });
                tables.collect()
            }
            Some(_) => {
                self.tell(key, brackets());
                Vec::new()
            }
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// If it is written and wrong, or missing where it must stand; that has been told.
    pub fn switch(&self, key: &str, default: bool) -> Found<bool> {
        let read = |value: &DeValue<'_>| value.as_bool().ok_or_else(|| format!("must be true or false, not {}", kind(value)));
        Ok(self.get(key, read)?.unwrap_or(default))
    }

    /// A whole number in a range.
    ///
    /// # Errors
    /// If it is written and wrong, or missing where it must stand; that has been told.
    pub fn integer(&self, key: &str, range: RangeInclusive<u64>, default: u64) -> Found<u64> {
        let read = |value: &DeValue<'_>| {
            let written = value.as_integer().ok_or_else(|| format!("must be a whole number, not {}", kind(value)))?;
            let number = u64::from_str_radix(written.as_str(), written.radix()).ok();
            number.filter(|number| range.contains(number)).ok_or_else(|| match *range.end() {
                u64::MAX => format!("{written} is below {}", range.start()),
                end => format!("{written} is outside {} to {end}", range.start()),
            })
        };
        Ok(self.get(key, read)?.unwrap_or(default))
    }

    /// A duration as text in a range, never zero.
    ///
    /// # Errors
    /// If it is written and wrong, or missing where it must stand; that has been told.
    pub fn duration(&self, key: &str, range: RangeInclusive<Duration>, default: Duration) -> Found<Duration> {
        Ok(self.get(key, |value| duration(value, &range))?.unwrap_or(default))
    }
}

/// Text in quotes.
///
/// # Errors
/// What is wrong with it.
pub fn text(value: &DeValue<'_>) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("must be text in quotes, not {}", kind(value)))
}

/// Text in quotes that means something.
///
/// # Errors
/// What is wrong with it.
pub fn parsed<T: FromStr<Err: Display>>(value: &DeValue<'_>) -> Result<T, String> {
    text(value)?.parse().map_err(|error: T::Err| error.to_string())
}

/// A number with or without a point, in a range.
///
/// # Errors
/// What is wrong with it.
pub fn number(value: &DeValue<'_>, range: RangeInclusive<f64>) -> Result<f64, String> {
    let written = match value {
        DeValue::Float(float) => float.as_str(),
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
        other => return Err(format!("must be a number, not {}", kind(other))),
    };
    let number = written.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("{written} is outside {} to {}", range.start(), range.end()))
}

fn duration(value: &DeValue<'_>, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    const HOW: &str = "write a duration in quotes, such as \"5s\" or \"250ms\"";
    let written = value.as_str().ok_or_else(|| format!("must be a duration, not {}; {HOW}", kind(value)))?;
    let duration = humantime::parse_duration(written).map_err(|_| format!("{written:?} is no duration; {HOW}"))?;
    if duration.is_zero() {
        return Err("must be longer than zero".to_owned());
    }
    if !range.contains(&duration) {
        let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        return Err(format!("{written:?} is outside {least} to {most}"));
    }
    Ok(duration)
}

/// What a value is, with its article.
fn kind(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}
