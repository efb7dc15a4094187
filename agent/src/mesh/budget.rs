//! The belt around the schedule: however wrong the schedule may be, not more is sent than the plan takes. Pure.
//!
//! A bucket of tokens, one per probe, that fills at the rate of all flows together. The schedule may send a probe late by half an
//! interval and the next one in time, so it needs a little more than one interval's worth at once; two are there.

use lagmesh_model::time::{RawNanos, nanos};

/// How many intervals' worth of probes may leave at once.
const INTERVALS_AT_ONCE: u128 = 2;

/// What may still be sent.
#[derive(Debug)]
pub struct Budget {
    /// Probes per interval.
    flows: u128,
    interval_ns: u128,
    /// One probe costs `interval_ns`; each nanosecond brings `flows`.
    credit: u128,
    at: RawNanos,
}

impl Budget {
    /// For so many flows that are probed once per interval each.
    pub fn new(flows: usize, interval: std::time::Duration, now: RawNanos) -> Budget {
        let (flows, interval_ns) = (flows as u128, u128::from(nanos(interval).max(1)));
        Budget { flows, interval_ns, credit: INTERVALS_AT_ONCE * flows * interval_ns, at: now }
    }

    /// From now on for so many flows. Those that are new may send at once, and the others lose nothing that they have.
    pub fn resize(&mut self, flows: usize, now: RawNanos) {
        self.fill(now);
        let flows = flows as u128;
        let new = INTERVALS_AT_ONCE * flows.saturating_sub(self.flows) * self.interval_ns;
        self.flows = flows;
        self.credit = self.credit.saturating_add(new).min(self.credit_max());
    }

    /// Whether one more probe may leave now; it is counted as sent.
    pub fn take(&mut self, now: RawNanos) -> bool {
        self.fill(now);
        let left = self.credit.checked_sub(self.interval_ns);
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }

    fn fill(&mut self, now: RawNanos) {
        let gained = now.checked_since(self.at).map_or(0, |passed| u128::from(nanos(passed)) * self.flows);
        // A clock that began anew brings nothing, and counts from there.
        self.at = now;
        self.credit = self.credit.saturating_add(gained).min(self.credit_max());
    }

    fn credit_max(&self) -> u128 {
        INTERVALS_AT_ONCE * self.flows * self.interval_ns
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::mesh::schedule::Schedule;

    const INTERVAL: Duration = Duration::from_millis(100);

    proptest! {
        /// Whatever our own timer does, the schedule is never held back.
        #[test]
        fn the_schedule_fits(flows in 1_usize..20, wakes in proptest::collection::vec(0_u64..350, 1..200)) {
            let mut now = RawNanos(1_000_000_000);
            let spread = |flow: usize| INTERVAL * u32::try_from(flow).unwrap() / u32::try_from(flows).unwrap();
            let mut schedules: Vec<Schedule> = (0..flows).map(|flow| Schedule::new(now, spread(flow), INTERVAL)).collect();
            let mut budget = Budget::new(flows, INTERVAL, now);
            for wake_ms in wakes {
                now = now.after(Duration::from_millis(wake_ms));
                for schedule in &mut schedules {
                    if schedule.take(now).is_some_and(|due| due.send) {
                        prop_assert!(budget.take(now));
                    }
                }
            }
        }

        /// Whatever asks, and however often, gets no more than the rate and two intervals' worth.
        #[test]
        fn no_more_than_the_rate(flows in 0_usize..20, asks in proptest::collection::vec((0_u64..200, 0_usize..100), 1..50)) {
            let start = RawNanos(1_000_000_000);
            let (mut now, mut budget, mut sent) = (start, Budget::new(flows, INTERVAL, start), 0_u64);
            for (pause_ms, asked) in asks {
                now = now.after(Duration::from_millis(pause_ms));
                sent += (0..asked).filter(|_| budget.take(now)).count() as u64;
            }
            let intervals = now.since_ns(start).cast_unsigned() / nanos(INTERVAL) + 1;
            prop_assert!(sent <= flows as u64 * (2 + intervals));
        }
    }

    /// However flows come and go, the schedule of those that are there is never held back.
    #[test]
    fn flows_come_and_go() {
        let mut now = RawNanos(1_000_000_000);
        let mut schedules = vec![Schedule::new(now, Duration::ZERO, INTERVAL)];
        let mut budget = Budget::new(schedules.len(), INTERVAL, now);
        for (step, flows) in [3, 1, 16, 2, 2, 9, 1, 40].into_iter().cycle().take(400).enumerate() {
            now = now.after(Duration::from_millis(20 + 37 * (step as u64 % 7)));
            schedules.truncate(flows);
            schedules.resize_with(flows, || Schedule::new(now, Duration::ZERO, INTERVAL));
            budget.resize(flows, now);
            for schedule in &mut schedules {
                assert!(schedule.take(now).is_none_or(|due| !due.send || budget.take(now)), "{step}");
            }
        }
        assert!((0..1_000).filter(|_| budget.take(now)).count() <= 2 * schedules.len());
    }

    /// A clock that begins anew further back stops nothing for longer than one that goes on.
    #[test]
    fn a_clock_may_begin_anew() {
        let mut budget = Budget::new(1, INTERVAL, RawNanos(9_000_000_000));
        assert!(budget.take(RawNanos(9_000_000_000)) && budget.take(RawNanos(9_000_000_000)));
        assert!(!budget.take(RawNanos(1_000_000_000)) && budget.take(RawNanos(1_100_000_000)));
    }
}
