//! Unknown is a type, not a zero.

use serde::{Deserialize, Serialize};

/// A value that may be known, known but old, or not known at all; the three never look alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Known<T> {
    /// Measured within the last three intervals.
    Known {
        /// The value.
        value: T,
    },
    /// Measured, but too long ago to be trusted as current.
    Stale {
        /// The last value.
        value: T,
        /// How old it is [s].
        age_s: f64,
    },
    /// Never measured, or impossible to tell.
    Unknown {
        /// Why, in words that fit on a status page.
        why: String,
    },
}

impl<T> Known<T> {
    /// A current value.
    #[expect(clippy::self_named_constructors, reason = "the three constructors are called as the three variants")]
    pub fn known(value: T) -> Known<T> {
        Known::Known { value }
    }

    /// No value, and why.
    pub fn unknown(why: impl Into<String>) -> Known<T> {
        Known::Unknown { why: why.into() }
    }

    /// A current value, or unknown for the given reason.
    pub fn from_option(value: Option<T>, why: &str) -> Known<T> {
        value.map_or_else(|| Known::unknown(why), Known::known)
    }

    /// The value if it is current.
    pub fn current(&self) -> Option<&T> {
        match self {
            Known::Known { value } => Some(value),
            Known::Stale { .. } | Known::Unknown { .. } => None,
        }
    }

    /// Whether the value is current.
    pub fn is_known(&self) -> bool {
        self.current().is_some()
    }

    /// The same state of knowledge about a derived value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Known<U> {
        match self {
            Known::Known { value } => Known::Known { value: f(value) },
            Known::Stale { value, age_s } => Known::Stale { value: f(value), age_s },
            Known::Unknown { why } => Known::Unknown { why },
        }
    }
}
