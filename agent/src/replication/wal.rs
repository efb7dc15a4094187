//! How much log a node writes, or receives, out of the positions that it is seen at. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::position::{Lsn, SystemIdentifier, Timeline};
use lagmesh_model::time::RawNanos;

use crate::replication::track::age;

/// The rate is that of so long, unless another window is asked for.
const WINDOW: Duration = Duration::from_secs(60);
/// So many totals of a window are remembered.
const MARKS: u32 = 12;
/// A node that was not seen for longer has no rate of the present.
const STALE: Duration = Duration::from_secs(10);

/// Measures how far a position of one node's log advances.
#[derive(Debug)]
pub(super) struct WalMeter {
    /// The rate is that of so long.
    window: Duration,
    log: Option<(Option<SystemIdentifier>, Option<Timeline>)>,
    /// The furthest position on that log: a receiver that starts again is behind it for a while.
    furthest: Option<Lsn>,
    total_bytes: u64,
    marks: VecDeque<(RawNanos, u64)>,
    seen: Option<RawNanos>,
}

impl Default for WalMeter {
    fn default() -> WalMeter {
        WalMeter::over(WINDOW)
    }
}

impl WalMeter {
    /// A meter whose rate is that of so long.
    pub(super) fn over(window: Duration) -> WalMeter {
        WalMeter { window, log: None, furthest: None, total_bytes: 0, marks: VecDeque::new(), seen: None }
    }

    /// The log of a system and timeline was seen to end at `lsn`. What lies between two logs is not counted.
    pub(super) fn see(&mut self, lsn: Lsn, log: (Option<SystemIdentifier>, Option<Timeline>), at: RawNanos) {
        if self.log.replace(log) != Some(log) {
            self.furthest = None;
            self.marks.clear();
        }
        let before = *self.furthest.get_or_insert(lsn);
        self.total_bytes += lsn.0.saturating_sub(before.0);
        self.furthest = Some(before.max(lsn));
        self.seen = Some(at);
        if self.marks.back().is_none_or(|(marked, _)| age(at, *marked) >= self.window / MARKS) {
            self.marks.push_back((at, self.total_bytes));
        }
        while self.marks.get(1).is_some_and(|(marked, _)| age(at, *marked) >= self.window) {
            self.marks.pop_front();
        }
    }

    /// Bytes since the start; `None` if no position was seen.
    pub(super) fn total_bytes(&self) -> Option<u64> {
        self.log.map(|_| self.total_bytes)
    }

    /// Bytes per second over the window [0, ..); `None` before half of it was seen.
    pub(super) fn bytes_per_s(&self, now: RawNanos) -> Option<f64> {
        let seen = self.seen.filter(|seen| age(now, *seen) <= STALE)?;
        let (marked, total) = self.marks.front()?;
        let span = age(seen, *marked);
        (span * 2 >= self.window).then(|| (self.total_bytes - total) as f64 / span.as_secs_f64())
    }

    /// Forgets every stamp of our own clock, which has begun a new epoch.
    pub(super) fn new_epoch(&mut self) {
        self.marks.clear();
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> RawNanos {
        RawNanos(second * 1_000_000_000)
    }

    const LOG: (Option<SystemIdentifier>, Option<Timeline>) = (Some(SystemIdentifier(1)), Some(Timeline(1)));

    /// The rate is that of the last minute, is not told before half of it was seen, and ends with the positions.
    #[test]
    fn rate_of_the_last_minute() {
        let mut meter = WalMeter::default();
        assert_eq!((meter.total_bytes(), meter.bytes_per_s(at(0))), (None, None));
        for second in 0_u64..=200 {
            // A thousand bytes a second, from second 100 on ten thousand.
            meter.see(Lsn(1_000 * second.min(100) + 10_000 * second.saturating_sub(100)), LOG, at(second));
            match second {
                29 => assert_eq!(meter.bytes_per_s(at(second)), None),
                30 | 100 => assert_eq!(meter.bytes_per_s(at(second)), Some(1_000.0)),
                _ => {}
            }
        }
        assert_eq!((meter.total_bytes(), meter.bytes_per_s(at(205))), (Some(1_100_000), Some(10_000.0)));
        assert_eq!(meter.bytes_per_s(at(211)), None);
        meter.see(Lsn(1), (LOG.0, Some(Timeline(2))), at(201));
        assert_eq!((meter.total_bytes(), meter.bytes_per_s(at(201))), (Some(1_100_000), None));
    }

    proptest! {
        /// Whatever positions come, of whatever timelines, the total never falls and no more is remembered than the window needs.
        #[test]
        fn totals_never_fall(looks in prop::collection::vec((0_u64..1 << 40, 1_u32..3, 0_u64..20), 1..200)) {
            let (mut meter, mut second, mut before) = (WalMeter::default(), 0, 0);
            for (lsn, timeline, wait) in looks {
                second += wait;
                meter.see(Lsn(lsn), (None, Some(Timeline(timeline))), at(second));
                let total = meter.total_bytes().unwrap();
                prop_assert!(total >= before && meter.marks.len() <= 14);
                prop_assert!(meter.bytes_per_s(at(second)).is_none_or(|rate| rate >= 0.0));
                before = total;
            }
        }
    }
}
