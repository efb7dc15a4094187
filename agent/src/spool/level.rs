//! What waits in the spool and what it had to give up, as others see it.

use std::collections::BTreeMap;
use std::fmt;

use lagmesh_model::ids::CollectorName;

/// The key of a batch in this spool. Grows with time; negative for a batch that could only be held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParcelId(pub i64);

/// Why a batch was given up before the collector acknowledged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LossReason {
    /// The spool's bound in bytes was reached and this was the oldest.
    SpoolFull,
    /// It was older than the fleet file says is worth keeping.
    TooOld,
    /// The disk is full.
    DiskFull,
    /// The disk failed in another way.
    DiskError,
    /// The spool's file was corrupt and was set aside. What it held is unknown then and counts as one batch.
    Corrupt,
    /// The collector refused it for good.
    Refused,
    /// The agent died before it had made it: what a run had measured after its last batch. How much that was is unknown and counts as
    /// one batch, which the next run tells.
    Died,
}

impl LossReason {
    /// Every reason.
    pub const ALL: &'static [LossReason] = &[
        LossReason::SpoolFull,
        LossReason::TooOld,
        LossReason::DiskFull,
        LossReason::DiskError,
        LossReason::Corrupt,
        LossReason::Refused,
        LossReason::Died,
    ];

    /// The word in metrics and in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            LossReason::SpoolFull => "spool-full",
            LossReason::TooOld => "too-old",
            LossReason::DiskFull => "disk-full",
            LossReason::DiskError => "disk-error",
            LossReason::Corrupt => "corrupt",
            LossReason::Refused => "refused",
            LossReason::Died => "died",
        }
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// So many of the oldest batches, and of the ends of runs, are named: more are not under way at a time.
pub const NAMED_MAX: usize = 8;

/// What waits for one collector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Level {
    /// Batches that it has not acknowledged.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The oldest of them, at most [`NAMED_MAX`], the oldest first.
    pub oldest: Vec<ParcelId>,
    /// The last batch that was made, if it is one of them, or else the newest of them.
    pub newest: Option<ParcelId>,
    /// Whether `newest` is the last batch that was made, and so tells how things stand now.
    pub newest_is_live: bool,
    /// The last batches of runs before this one, at most [`NAMED_MAX`], the oldest first: each holds all counts of its run.
    pub run_ends: Vec<ParcelId>,
    /// Batches given up since this process started, by reason.
    pub lost: BTreeMap<LossReason, u64>,
    /// Batches that it refused for good and that are kept as dead letters.
    pub dead_letters: u64,
    /// Dead letters that had to go since this process started, because the bounds or the disk had no room for them.
    pub dead_letters_dropped: u64,
}

/// What waits, by collector.
pub type Levels = BTreeMap<CollectorName, Level>;
