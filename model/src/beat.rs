//! A heartbeat row: who wrote it, which one it is, when, and where the writer's log stood.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::interval::Interval;
use crate::position::Position;
use crate::time::{Epoch, RawNanos, WallNanos};

/// The version of the heartbeat table's layout that this program writes and reads.
pub const LAYOUT: i16 = 1;

/// How many rows one incarnation of a writer updates in turn, so that a reader that looks late still finds each of the last beats.
pub const SLOTS: u64 = 8;

/// One start of a beat writer on a node: random and positive, so that keys are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub i64);

/// The number of a beat within its incarnation, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sequence(pub u64);

/// Which beat.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BeatId {
    /// The node on which it was written.
    pub origin: NodeName,
    /// The writer's start.
    pub incarnation: Incarnation,
    /// Its number.
    pub sequence: Sequence,
}

/// A writer never sends a beat sooner than this after the one before; another start of it may.
pub fn least_spacing(interval: Duration) -> Duration {
    interval.mul_f64(0.9)
}

/// When the writer sent a beat and when its commit returned, on the writer's measuring clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatTimes {
    /// The writer's clock epoch.
    pub epoch: Epoch,
    /// Before the statement was sent.
    pub sent: RawNanos,
    /// After the commit returned.
    pub acknowledged: RawNanos,
}

/// One heartbeat row as a reader finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeatRow {
    /// Which beat.
    pub id: BeatId,
    /// The writer's clock epoch.
    pub epoch: Epoch,
    /// Before the statement was sent, on the writer's measuring clock.
    pub sent: RawNanos,
    /// The same moment as a wall-clock label.
    pub sent_wall: WallNanos,
    /// How far off that label is at most, as the writer's host claimed then [ns]; `None` if it claimed nothing.
    pub claimed_error_ns: Option<u64>,
    /// When the commit of the beat before this one returned, if it did; on the writer's measuring clock.
    pub previous_acknowledged: Option<RawNanos>,
    /// Where the writer's log stood while this beat was being written (`pg_current_wal_insert_lsn()`): below its own commit.
    pub position: Position,
}

/// What a writer tells its peers over the mesh as soon as a commit has returned: it is true whatever replication does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Which beat.
    pub id: BeatId,
    /// When it was sent and acknowledged.
    pub times: BeatTimes,
    /// Where the writer's log stood between the two.
    pub position: Position,
}

/// What a reader tells the writer over the mesh: it has seen a beat, and how long ago on the reader's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which beat.
    pub id: BeatId,
    /// The node on which it was seen.
    pub node: NodeName,
    /// From visibility to the sending of this message, on the reader's clock.
    pub held: Interval,
}

/// When a beat became visible, on the reader's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visibility {
    /// The start of the newest poll without it (p0).
    pub absent: RawNanos,
    /// The end of the first poll with it (p1).
    pub present: RawNanos,
    /// The best guess between the two, if something is known beyond them; else it is the middle.
    pub guess: Option<RawNanos>,
}

/// The apply lag of one beat: `[p0 - acknowledged - theta.upper, p1 - sent - theta.lower]`, and no less than `sent - acknowledged`
/// because no row is visible before it was sent. `None` only if the stamps are out of order.
///
/// `theta` is the reader's clock minus the writer's at that moment. The lower end may honestly be negative: under
/// synchronous replication, and on a short path, a row may be visible on the standby before the writer's commit returns. An
/// interval wholly below zero is a clock contradiction and comes out as it is.
pub fn apply_lag(visible: &Visibility, times: &BeatTimes, theta: Interval) -> Option<Interval> {
    let Visibility { absent, present, guess } = *visible;
    let first_possible_ns = times.sent.since_ns(times.acknowledged);
    let lower_ns = absent.since_ns(times.acknowledged) - theta.upper_ns();
    let upper_ns = present.since_ns(times.sent) - theta.lower_ns();
    let lower_ns = if upper_ns < 0 { lower_ns } else { lower_ns.max(first_possible_ns) };
    let on_writer = |stamp: RawNanos| stamp.since_ns(times.acknowledged) - theta.estimate_ns();
    let middle_ns = on_writer(absent).max(first_possible_ns).midpoint(on_writer(present));
    let estimate_ns = guess.map(on_writer).filter(|guess_ns| *guess_ns > first_possible_ns).unwrap_or(middle_ns);
    Interval::new(lower_ns, estimate_ns.min(upper_ns).max(lower_ns), upper_ns)
}

/// The staleness at `now` on the reader's clock: `now` minus the commit time of the newest visible beat.
pub fn staleness(now: RawNanos, times: &BeatTimes, theta: Interval) -> Option<Interval> {
    let committed = Interval::between(now.since_ns(times.acknowledged), now.since_ns(times.sent))?;
    let exact = Interval::new(committed.lower_ns(), committed.lower_ns(), committed.upper_ns())?;
    Some(exact - theta)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the clocks' distance, the poll's width and the commit's length, the true lag lies inside the interval.
        #[test]
        fn lag_interval_holds_the_truth(
            theta in -1_000_000_000_000_i64..1_000_000_000_000, error in 0_i64..1_000_000_000, skewed in -1.0..1.0_f64,
            sent in 2_000_000_000_000_u64..3_000_000_000_000, wait in 0_u64..100_000_000, at in 0.0..=1.0_f64,
            lag in 0_u64..10_000_000_000, early in 0_u64..50_000_000, late in 0_u64..50_000_000,
            guessed in proptest::option::of(0_u64..100_000_000),
        ) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "points of test intervals")]
            let (committed, off) = (sent + (wait as f64 * at) as u64, (error as f64 * skewed) as i64);
            let on_reader = |writer: u64| RawNanos(writer.checked_add_signed(theta).unwrap());
            let visible = on_reader(committed + lag);
            let times = BeatTimes { epoch: Epoch(1), sent: RawNanos(sent), acknowledged: RawNanos(sent + wait) };
            let believed = Interval::new(theta - error + off, theta + off, theta + error + off).unwrap();
            let guess = guessed.map(|guessed| RawNanos(visible.0 - early + guessed));
            let seen = Visibility { absent: RawNanos(visible.0 - early), present: RawNanos(visible.0 + late), guess };
            let interval = apply_lag(&seen, &times, believed).unwrap();
            let true_lag = visible.since_ns(on_reader(committed));
            prop_assert!(interval.contains(true_lag), "{:?} {}", interval, true_lag);
        }
    }

    /// Staleness grows by exactly the time that passes.
    #[test]
    fn staleness_grows_in_real_time() {
        let times = BeatTimes { epoch: Epoch(1), sent: RawNanos(1_000), acknowledged: RawNanos(1_400) };
        let theta = Interval::new(-10, 0, 10).unwrap();
        let first = staleness(RawNanos(2_000), &times, theta).unwrap();
        let later = staleness(RawNanos(9_000), &times, theta).unwrap();
        assert_eq!((first.lower_ns(), first.estimate_ns(), first.upper_ns()), (590, 600, 1_010));
        assert_eq!(later - first, Interval::new(7_000 - 420, 7_000, 7_000 + 420).unwrap());
    }
}
