//! From a position in a writer's log to the time at which that part of the log was written, as an interval.
//!
//! Where a commit itself ends is unknown inside its own row, so an entry is a position L that the log had reached between two moments,
//! the sending of a beat and the return of its commit. What lies below L was written before the second; what lies above it was written
//! after the first; and something above it, the beat's own commit, was there by the second.
//!
//! Both moments are on our own clock, brought there when the beat was told of: they outlive the writer's clock, its agent and the path
//! to it. Pure.

use std::time::Duration;

use lagmesh_model::interval::{Interval, drift_ns};
use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
use lagmesh_model::time::RawNanos;

/// So many of the newest entries are kept as they came: two minutes at 1 Hz.
const KEPT_WHOLE: usize = 128;
/// Of older ones, those stay that are closest together for their age; with these, gaps are some hundredths of the age after a week.
const ENTRIES_MAX: usize = 512;

/// Where the log of one writer stood, and when.
#[derive(Debug, Default)]
pub(super) struct PositionMap {
    log: Option<(SystemIdentifier, Timeline)>,
    /// By position.
    entries: Vec<Entry>,
}

/// Between two moments the log had reached a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The position.
    pub(super) lsn: Lsn,
    /// What lies above it was written after this.
    pub(super) first: RawNanos,
    /// What lies below it, and something above it, was written before this.
    pub(super) second: RawNanos,
}

/// When the log right above a position was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Above {
    /// Nothing is known to lie there. If something does, it was written after this moment.
    Nothing {
        /// That moment.
        after: RawNanos,
    },
    /// Something lies there.
    Something {
        /// It was written after this.
        after: RawNanos,
        /// The best guess, as if the log had grown evenly.
        guess: RawNanos,
        /// It was written before this.
        before: RawNanos,
    },
}

/// Why a position has no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoTime {
    /// No entry.
    #[error("when the writer wrote its log is not known: it has told of no beat while its clock was known")]
    Empty,
    /// Another log.
    #[error("positions of different systems or timelines cannot be compared")]
    OtherLog,
    /// Before everything that is remembered.
    #[error("the log there was written before anything that is remembered of the writer")]
    TooOld,
}

impl PositionMap {
    /// Takes in that the log had reached `position` between two moments. Entries come in the order of their positions; one on another
    /// timeline begins anew.
    pub(super) fn note(&mut self, position: &Position, first: RawNanos, second: RawNanos) {
        let log = (position.system, position.timeline);
        if self.log != Some(log) {
            self.log = Some(log);
            self.entries.clear();
        }
        let newest = self.entries.last().copied();
        if first > second || newest.is_some_and(|newest| newest.lsn >= position.lsn) {
            return;
        }
        // What lies above this one lies above the one before as well.
        let first = newest.map_or(first, |newest| newest.first.max(first)).min(second);
        self.entries.push(Entry { lsn: position.lsn, first, second });
        if self.entries.len() > ENTRIES_MAX {
            self.thin_out();
        }
    }

    /// When the log right above `reached` was written.
    ///
    /// # Errors
    /// If that cannot be told: says why.
    pub(super) fn above(&self, reached: &Position) -> Result<Above, NoTime> {
        let newest = self.entries.last().ok_or(NoTime::Empty)?;
        if self.log != Some((reached.system, reached.timeline)) {
            return Err(NoTime::OtherLog);
        }
        let below = self.entries.partition_point(|entry| entry.lsn <= reached.lsn);
        let below = below.checked_sub(1).map(|index| self.entries[index]).ok_or(NoTime::TooOld)?;
        if reached.lsn > newest.lsn {
            return Ok(Above::Nothing { after: newest.first });
        }
        let above = self.entries.partition_point(|entry| entry.lsn < reached.lsn);
        Ok(between(below, self.entries[above], reached.lsn))
    }

    /// The newest entry.
    pub(super) fn newest(&self) -> Option<&Entry> {
        self.entries.last()
    }

    /// How fast the log has grown over about `span` before the newest entry [bytes per second]; `None` before it is known for half of that.
    pub(super) fn bytes_per_s(&self, span: Duration) -> Option<f64> {
        let newest = self.entries.last()?;
        let age = |entry: &Entry| newest.second.checked_since(entry.second).unwrap_or(Duration::ZERO);
        let oldest = self.entries.iter().find(|entry| age(entry) <= span)?;
        let bytes = newest.lsn.0 - oldest.lsn.0;
        (age(oldest) * 2 >= span).then(|| bytes as f64 / age(oldest).as_secs_f64())
    }

    /// Drops the older entry that is missed least: whose neighbours are closest together for their age.
    fn thin_out(&mut self) {
        let Some(now) = self.entries.last().map(|newest| newest.second) else { return };
        let old = self.entries.len().saturating_sub(KEPT_WHOLE);
        let gap = |index: usize| {
            let age_ns = now.since_ns(self.entries[index].second).max(1);
            self.entries[index + 1].second.since_ns(self.entries[index - 1].first) as f64 / age_ns as f64
        };
        if let Some(least) = (1..old).min_by(|a, b| gap(*a).total_cmp(&gap(*b))) {
            self.entries.remove(least);
        }
    }
}

impl Above {
    /// How long the log right above a position has been there unreached, if the position was where a node stood at some moment
    /// between `began` and `ended`: zero if nothing is known to lie there, and then no more than its upper end.
    pub(super) fn waiting(&self, began: RawNanos, ended: RawNanos) -> Interval {
        match *self {
            Above::Nothing { after } => interval(0, 0, elapsed(after, ended, Rounded::Up)),
            Above::Something { after, guess, before } => interval(
                // What was not there yet did not wait.
                elapsed(before, began, Rounded::Down).max(0),
                ended.since_ns(guess),
                elapsed(after, ended, Rounded::Up),
            ),
        }
    }

    /// Over how long the writer has written what lies above a position, up to `now`. `newest` is the newest entry: the log goes on at
    /// least to the commit above it, and perhaps until now.
    pub(super) fn unreached(&self, newest: &Entry, now: RawNanos) -> Interval {
        match *self {
            Above::Nothing { after } => interval(0, 0, elapsed(after, now, Rounded::Up)),
            Above::Something { after, guess, before } => interval(
                elapsed(before, newest.first, Rounded::Down).max(0),
                newest.second.since_ns(guess),
                elapsed(after, now, Rounded::Up),
            ),
        }
    }
}

/// What lies right above a position between two entries.
fn between(below: Entry, above: Entry, reached: Lsn) -> Above {
    let middle = |entry: &Entry| entry.first.0.midpoint(entry.second.0);
    let whole = (above.lsn.0 - below.lsn.0).max(1) as f64;
    let part = (reached.0 - below.lsn.0) as f64 / whole;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of the time between two entries")]
    let guess = middle(&below) + (middle(&above).saturating_sub(middle(&below)) as f64 * part) as u64;
    let before = above.second;
    let after = below.first.min(before);
    Above::Something { after, guess: RawNanos(guess).clamp(after, before), before }
}

/// Which way what our own clock may have drifted goes.
#[derive(Debug, Clone, Copy)]
enum Rounded {
    Down,
    Up,
}

/// From one moment to another on our own clock, with what it may have drifted meanwhile [ns].
fn elapsed(from: RawNanos, until: RawNanos, rounded: Rounded) -> i64 {
    let drift_ns = drift_ns(Duration::from_nanos(from.0.abs_diff(until.0))).cast_signed();
    let since_ns = until.since_ns(from);
    match rounded {
        Rounded::Down => since_ns - drift_ns,
        Rounded::Up => since_ns + drift_ns,
    }
}

fn interval(lower_ns: i64, guess_ns: i64, upper_ns: i64) -> Interval {
    let upper_ns = upper_ns.max(lower_ns);
    Interval::new(lower_ns, guess_ns.clamp(lower_ns, upper_ns), upper_ns).expect("the ends were put in order")
}

#[cfg(test)]
mod tests;
