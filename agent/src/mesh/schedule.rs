//! When probes are due: absolute and open loop, so that neither answers nor lateness shift what comes next. Pure.

use std::time::Duration;

use lagmesh_model::time::{RawNanos, nanos};
use sha2::{Digest, Sha256};

/// Probes leave and answers are taken in so often at least.
const ROUND_MAX: Duration = Duration::from_millis(50);
/// So many rounds go into an interval where that is short: what is due must not look late by a round.
const ROUNDS_PER_INTERVAL: u32 = 10;
/// After a longer stall the schedule starts anew: attempts that nobody made are then no longer counted one by one.
pub const SKIPS_MAX: u64 = 10;

/// The moments `first + n * period`.
#[derive(Debug, Clone)]
pub struct Schedule {
    due: RawNanos,
    period_ns: u64,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Attempts whose moment passed by more than half a period: not to be made, but to be counted.
    pub skipped: u64,
    /// Whether to make an attempt now.
    pub send: bool,
    /// How late our own timer is.
    pub lateness: Duration,
}

impl Schedule {
    /// Starts at `now` plus `phase`; a period below a millisecond is taken as one.
    pub fn new(now: RawNanos, phase: Duration, period: Duration) -> Schedule {
        Schedule { due: now.after(phase), period_ns: nanos(period).max(1_000_000) }
    }

    /// The next moment.
    pub fn next(&self) -> RawNanos {
        self.due
    }

    /// Whether `now` is so late that our own host must have stalled: more than half a period.
    pub fn is_stalled(&self, now: RawNanos) -> bool {
        now.since_ns(self.due) > (self.period_ns / 2).cast_signed()
    }

    /// Takes what is due; `None` if nothing is yet.
    pub fn take(&mut self, now: RawNanos) -> Option<Due> {
        let late_ns = now.0.checked_sub(self.due.0)?;
        let (missed, within_ns) = (late_ns / self.period_ns, late_ns % self.period_ns);
        let send = within_ns <= self.period_ns / 2;
        let skipped = missed + u64::from(!send);
        self.due = RawNanos(self.due.0 + (missed + 1) * self.period_ns);
        Some(Due { skipped: skipped.min(SKIPS_MAX), send, lateness: Duration::from_nanos(late_ns) })
    }

    /// Starts anew after the clock itself did, within one period: schedules that were apart stay apart.
    pub fn restart(&mut self, now: RawNanos) {
        let ahead_ns = (self.due.0 % self.period_ns + self.period_ns - now.0 % self.period_ns) % self.period_ns;
        self.due = RawNanos(now.0 + if ahead_ns > 0 { ahead_ns } else { self.period_ns });
    }
}

/// What is done again once so much time has passed.
#[derive(Debug, Clone, Copy)]
pub struct Every {
    period: Duration,
    done: RawNanos,
}

impl Every {
    /// As if it had just been done.
    pub fn new(period: Duration, now: RawNanos) -> Every {
        Every { period, done: now }
    }

    /// Whether it is time; on a clock that began anew further back it is.
    pub fn is_due(&self, now: RawNanos) -> bool {
        now.checked_since(self.done).is_none_or(|passed| passed >= self.period)
    }

    /// It was done.
    #[must_use]
    pub fn done(self, now: RawNanos) -> Every {
        Every { done: now, ..self }
    }
}

/// Where in the period the probes of a pair start [0, period): hashed, so that agents do not march in step.
pub fn phase(names: &[&str], period: Duration) -> Duration {
    let mut hasher = Sha256::new();
    for name in names {
        hasher.update(name);
        hasher.update([0]);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize()[..8]);
    Duration::from_nanos(u64::from_be_bytes(first) % nanos(period).max(1))
}

/// From one round of the mesh to the next, for probes of that interval: as long as may be, because each waking up costs more than a
/// packet. Rounds begin at whole multiples of it.
pub fn round_of(interval: Duration) -> Duration {
    (interval / ROUNDS_PER_INTERVAL).clamp(Duration::from_millis(1), ROUND_MAX)
}

/// How long it is until the next round begins.
pub fn until_round(now: RawNanos, round: Duration) -> Duration {
    Duration::from_nanos(nanos(round) - now.0 % nanos(round))
}

/// A phase that ends with a round, so that all that is due then leaves together.
pub fn to_round(now: RawNanos, phase: Duration, round: Duration) -> Duration {
    let rest = until_round(now.after(phase), round);
    phase + if rest < round { rest } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);
    const ROUND: Duration = Duration::from_millis(20);

    /// A round is short beside the interval, but no longer than 50 ms and no shorter than the timer's own millisecond.
    #[test]
    fn length_of_rounds() {
        for (interval_ms, expected_ms) in [(60_000, 50), (1_000, 50), (500, 50), (200, 20), (100, 10), (5, 1)] {
            assert_eq!(round_of(Duration::from_millis(interval_ms)), Duration::from_millis(expected_ms));
        }
        assert_eq!(until_round(RawNanos(70_000_000), ROUND), Duration::from_millis(10));
        assert_eq!(until_round(RawNanos(80_000_000), ROUND), ROUND);
    }

    proptest! {
        /// First moments lie on rounds, no earlier than asked for and by less than a round later, and whole periods keep them there; a
        /// clock that begins anew keeps schedules as far apart as they were.
        #[test]
        fn rounds(now in 0_u64..1 << 50, phases_ns in proptest::array::uniform2(0_u64..1_000_000_000), new in 0_u64..1 << 50) {
            let now = RawNanos(now);
            let mut schedules = phases_ns.map(|phase_ns| {
                let phase = to_round(now, Duration::from_nanos(phase_ns), ROUND);
                assert!(phase >= Duration::from_nanos(phase_ns) && phase < Duration::from_nanos(phase_ns) + ROUND);
                Schedule::new(now, phase, PERIOD)
            });
            prop_assert!(schedules.iter().all(|schedule| schedule.next().0.is_multiple_of(nanos(ROUND))));
            let apart = |schedules: &[Schedule; 2]| (schedules[0].next().since_ns(schedules[1].next())).rem_euclid(1_000_000_000);
            let before = apart(&schedules);
            for schedule in &mut schedules {
                schedule.restart(RawNanos(new));
            }
            prop_assert_eq!(apart(&schedules), before);
            for schedule in &schedules {
                prop_assert!(schedule.next() > RawNanos(new) && schedule.next().since_ns(RawNanos(new)) <= 1_000_000_000);
            }
        }
    }

    fn at(ms: u64) -> RawNanos {
        RawNanos(ms * 1_000_000)
    }

    /// Late by half a period is late; later is skipped; what follows stays where it was.
    #[test]
    fn lateness() {
        let table = [
            (0, Some((0, true, 0)), 1000),
            (500, Some((0, true, 500)), 1000),
            (501, Some((1, false, 501)), 1000),
            (1200, Some((1, true, 1200)), 2000),
            (2700, Some((3, false, 2700)), 3000),
            (3_600_000, Some((SKIPS_MAX, true, 3_600_000)), 3_601_000),
        ];
        for (now, expected, next) in table {
            let mut schedule = Schedule::new(at(0), Duration::ZERO, PERIOD);
            let due = schedule.take(at(now)).map(|due| (due.skipped, due.send, due.lateness.as_millis()));
            assert_eq!(due, expected, "at {now}");
            assert_eq!(schedule.next(), at(next), "at {now}");
            assert_eq!(schedule.take(at(now)), None, "at {now}");
        }
    }

    proptest! {
        /// Whatever the timer does (within the bound), each moment that has passed is sent or skipped, exactly once.
        #[test]
        fn each_moment_has_one_fate(wakes in proptest::collection::vec(0_u64..9_000, 1..50)) {
            let mut schedule = Schedule::new(at(0), Duration::ZERO, PERIOD);
            let (mut now, mut fates) = (0, 0);
            for wake in wakes {
                now += wake;
                if let Some(due) = schedule.take(at(now)) {
                    fates += due.skipped + u64::from(due.send);
                }
                let passed = now / 1000 + 1;
                // The moment just passed may still be within its grace of half a period, but take() settles it at once.
                prop_assert_eq!(fates, passed);
            }
        }
    }

    /// It is time after a period, counted from when it was done, and whenever the clock began anew.
    #[test]
    fn every_so_often() {
        let every = Every::new(PERIOD, at(5_000));
        assert_eq!([5_000, 5_999, 6_000, 4_999].map(|ms| every.is_due(at(ms))), [false, false, true, true]);
        assert!(!every.done(at(6_000)).is_due(at(6_999)));
    }

    /// Phases differ between pairs and lie within the period.
    #[test]
    fn phases() {
        let (a, b) = (phase(&["tokyo", "oslo"], PERIOD), phase(&["oslo", "tokyo"], PERIOD));
        assert!(a != b && a < PERIOD && b < PERIOD);
        assert_ne!(phase(&["a", "bc"], PERIOD), phase(&["ab", "c"], PERIOD));
    }
}
