//! What a node says of its writes: of those who still need its log, and of commits as applications get them.

use serde::{Deserialize, Serialize};

use crate::beat::{Incarnation, Sequence};
use crate::state::{CommitLevel, SlotState, WriteOutcome};

/// The replication slots of a node, those that keep most of the log first; without temporary ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slots {
    /// The first 64.
    pub slots: Vec<Slot>,
    /// How many more there are.
    pub more: u64,
}

/// One replication slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Its name.
    pub slot: String,
    /// Whether it is a logical one; `None` at a collector.
    #[serde(default)]
    pub logical: Option<bool>,
    /// Whether somebody reads from it.
    pub active: bool,
    /// What the server says of the log that it needs.
    pub state: SlotState,
    /// Log that it keeps [bytes]; `None` if it keeps none.
    pub retained_bytes: Option<u64>,
    /// What may still be written before the server gives it up [bytes]; `None` if there is no limit or it is lost, as `state` says.
    pub safe_bytes: Option<i64>,
    /// When that will be if log goes on as in the last minute [s]; `None` if there is no limit, or no log.
    pub exhaustion_s: Option<f64>,
    /// For how long nobody has read from it [s]; `None` while it is active, before PostgreSQL 17, and at a collector.
    pub inactive_s: Option<f64>,
    /// Why the server gave it up; `None` if it did not, before PostgreSQL 17, and at a collector.
    pub invalidation_reason: Option<String>,
}

/// What the ledger says of writes on a node: its rows are committed at the level that applications get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// What became of the newest row.
    pub outcome: WriteOutcome,
    /// At which level it was written.
    pub level: CommitLevel,
    /// Why it was not acknowledged; empty if it was.
    pub why: String,
    /// The newest row that was acknowledged; `None` if none was yet, and at a collector, which knows only how long ago that was.
    pub acknowledged: Option<(Incarnation, Sequence)>,
    /// How long ago the newest row was acknowledged [s]; `None` if none was yet.
    pub acknowledged_age_s: Option<f64>,
}
