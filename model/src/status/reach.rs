//! How far log has got.

use serde::{Deserialize, Serialize};

use super::{Seconds, untold};
use crate::known::Known;
use crate::state::Stage;

/// How far the log of one origin has got at one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogReach {
    /// Received, perhaps not yet onto disk.
    pub received: Reach,
    /// On disk.
    pub flushed: Reach,
    /// Replayed.
    pub replayed: Reach,
}

/// What has not got so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reach {
    /// Log that the origin is known to have written and that has not got so far [bytes].
    pub backlog_bytes: Known<u64>,
    /// How long the oldest log that has not got so far has been written, when the node was last looked at; if none is known, zero, and
    /// no more than the upper end.
    pub delay: Known<Seconds>,
}

impl LogReach {
    /// Each with its word.
    pub fn each(&self) -> [(Stage, &Reach); 3] {
        [(Stage::Received, &self.received), (Stage::Flushed, &self.flushed), (Stage::Replayed, &self.replayed)]
    }

    /// What `of` makes of each word.
    pub fn from_each(mut of: impl FnMut(Stage) -> Reach) -> LogReach {
        LogReach { received: of(Stage::Received), flushed: of(Stage::Flushed), replayed: of(Stage::Replayed) }
    }
}

impl Reach {
    /// Not known, for one reason.
    pub fn unknown(why: &str) -> Reach {
        Reach { backlog_bytes: Known::unknown(why), delay: Known::unknown(why) }
    }
}

impl Default for Reach {
    fn default() -> Reach {
        Reach { backlog_bytes: untold(), delay: untold() }
    }
}
