//! When beats are due: on an absolute schedule that does not wait for the last answer and never catches up in a burst. Pure.

use std::time::Duration;

use lagmesh_model::time::{RawNanos, nanos};

/// The schedule of one writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct BeatSchedule {
    due: RawNanos,
    interval_ns: u64,
}

impl BeatSchedule {
    /// Beats every `interval` from `start` on.
    pub(super) fn new(start: RawNanos, interval: Duration) -> BeatSchedule {
        BeatSchedule { due: start, interval_ns: nanos(interval).max(1) }
    }

    /// When the next beat is due.
    pub(super) fn due(&self) -> RawNanos {
        self.due
    }

    /// A beat was sent and has ended: the next one is due at the first moment of the schedule that is not past. Returns how many
    /// were passed over.
    pub(super) fn advance(&mut self, now: RawNanos) -> u64 {
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
            assert_eq!((schedule.advance(RawNanos(now)), schedule.due()), (skipped, RawNanos(due)), "{now}");
        }
    }
}
