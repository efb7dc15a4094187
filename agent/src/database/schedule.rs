//! When beats are due: on an absolute schedule that does not wait for the last answer and never catches up in a burst. Pure.

use std::time::Duration;

use lagmesh_model::beat::least_spacing;
use lagmesh_model::time::{RawNanos, nanos};

/// The schedule of one writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct BeatSchedule {
    due: RawNanos,
    /// No beat leaves before this moment: readers count on it that beats are not closer together.
    earliest: RawNanos,
    interval_ns: u64,
}

impl BeatSchedule {
    /// Beats every `interval` from `start` on.
    pub(super) fn new(start: RawNanos, interval: Duration) -> BeatSchedule {
        BeatSchedule { due: start, earliest: start, interval_ns: nanos(interval).max(1) }
    }

    /// When the next beat is due.
    pub(super) fn due(&self) -> RawNanos {
        self.due.max(self.earliest)
    }

    /// A beat was sent and has ended: the next one is due at the first moment of the schedule that is not past, or a little later if
    /// this one left late. Returns how many were passed over.
    pub(super) fn advance(&mut self, sent: RawNanos, now: RawNanos) -> u64 {
        self.earliest = sent.after(least_spacing(Duration::from_nanos(self.interval_ns)));
        self.due = RawNanos(self.due.0 + self.interval_ns);
        let Some(late) = now.checked_since(self.due) else { return 0 };
        let skipped = nanos(late).div_ceil(self.interval_ns);
        self.due = RawNanos(self.due.0 + skipped * self.interval_ns);
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow beat costs the beats that were due meanwhile; the phase stays.
    #[test]
    fn skips_without_a_burst() {
        let mut schedule = BeatSchedule::new(RawNanos(1_000), Duration::from_nanos(100));
        let table = [(1_010, 0, 1_100), (1_199, 0, 1_200), (1_201, 0, 1_300), (1_555, 2, 1_600), (1_900, 2, 1_900)];
        for (now, skipped, due) in table {
            assert_eq!((schedule.advance(RawNanos(900), RawNanos(now)), schedule.due()), (skipped, RawNanos(due)), "{now}");
        }
    }

    /// A beat that leaves late pushes those behind it by no more than keeps them apart, until the schedule is met again.
    #[test]
    fn late_beats_keep_their_distance() {
        let mut schedule = BeatSchedule::new(RawNanos(1_000), Duration::from_nanos(100));
        for (sent, due) in [(1_050, 1_140), (1_140, 1_230), (1_230, 1_320), (1_320, 1_410), (1_410, 1_500), (1_500, 1_600)] {
            assert_eq!((schedule.advance(RawNanos(sent), RawNanos(sent + 1)), schedule.due()), (0, RawNanos(due)), "{sent}");
        }
    }
}
