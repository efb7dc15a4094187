//! Where a server stands in its write-ahead log. Positions of different systems or timelines are never compared.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `pg_control_system().system_identifier`: made at initdb, shared by a primary and its physical standbys. Text outside: 64 bits are
/// more than a browser's numbers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SystemIdentifier(pub u64);

/// A timeline id; a promotion starts a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timeline(pub u32);

/// A log sequence number: a byte position in the write-ahead log [bytes]. Printed as PostgreSQL does, `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// A position that says what it is a position of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The system.
    pub system: SystemIdentifier,
    /// The timeline.
    pub timeline: Timeline,
    /// The byte position on that timeline.
    pub lsn: Lsn,
}

impl Position {
    /// How many bytes `self` is ahead of `other` (negative: behind), or `None` if the two cannot be compared.
    pub fn bytes_ahead_of(&self, other: &Position) -> Option<i64> {
        let comparable = self.system == other.system && self.timeline == other.timeline;
        comparable.then(|| self.lsn.0.wrapping_sub(other.lsn.0).cast_signed())
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl From<SystemIdentifier> for String {
    fn from(system: SystemIdentifier) -> String {
        system.to_string()
    }
}

impl TryFrom<String> for SystemIdentifier {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<SystemIdentifier, Self::Error> {
        text.parse().map(SystemIdentifier)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Text that is no `X/Y` in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no log sequence number (two hexadecimal numbers, as in 16/B374D848)")]
pub struct BadLsn(pub String);

impl FromStr for Lsn {
    type Err = BadLsn;
    fn from_str(text: &str) -> Result<Lsn, BadLsn> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(Lsn(u64::from(high) << 32 | u64::from(low)))
        };
        parse().ok_or_else(|| BadLsn(text.to_owned()))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// An LSN survives being printed and read.
        #[test]
        fn lsn_round_trip(lsn: u64) {
            prop_assert_eq!(Lsn(lsn).to_string().parse::<Lsn>().unwrap(), Lsn(lsn));
        }
    }

    /// Positions of different timelines or systems have no distance.
    #[test]
    fn only_one_timeline_compares() {
        let at =
            |system, timeline, lsn| Position { system: SystemIdentifier(system), timeline: Timeline(timeline), lsn: Lsn(lsn) };
        assert_eq!(at(1, 1, 300).bytes_ahead_of(&at(1, 1, 100)), Some(200));
        assert_eq!(at(1, 1, 100).bytes_ahead_of(&at(1, 1, 300)), Some(-200));
        assert_eq!(at(1, 2, 300).bytes_ahead_of(&at(1, 1, 100)), None);
        assert_eq!(at(2, 1, 300).bytes_ahead_of(&at(1, 1, 100)), None);
    }
}
