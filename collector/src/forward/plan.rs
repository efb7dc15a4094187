//! What to do with one snapshot at one target: which part to send next, and what an answer makes of it. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use lagmesh_daemon::Backoff;

use super::answer::{Answer, Reason};

/// How many refusals of one snapshot are looked into by halving what was refused; beyond, a refused part is given up whole. Six bad
/// values among a thousand are found within it.
const REFUSALS_MAX: u32 = 128;

/// After a failure: first and longest wait and jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const BACKOFF_JITTER: f64 = 0.5;
/// The same where somebody has to do something first.
const SLOW: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// Parts of a snapshot that still have to be sent, in order, and what became of the others.
#[derive(Debug)]
pub(crate) struct Plan {
    parts: VecDeque<Range<usize>>,
    refusals: u32,
    outcome: Outcome,
}

/// What became of a snapshot at a target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    /// Values that it has taken.
    pub(crate) taken: u64,
    /// Values that it never will, by reason.
    pub(crate) lost: BTreeMap<Reason, u64>,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next part, now.
    GoOn,
    /// The same part, after a wait; the target may have asked for one.
    Wait(Option<Duration>),
    /// The same part, once somebody may have done something.
    WaitLong,
}

impl Plan {
    /// A plan for values of these weights: no part weighs more than `weight_max`, unless a single value does.
    pub(crate) fn new(weights: impl IntoIterator<Item = usize>, weight_max: usize) -> Plan {
        let (mut parts, mut start, mut end, mut sum) = (VecDeque::new(), 0, 0, 0);
        for weight in weights {
            if end > start && sum + weight > weight_max {
                parts.push_back(start..end);
                (start, sum) = (end, 0);
            }
            end += 1;
            sum += weight;
        }
        if end > start {
            parts.push_back(start..end);
        }
        Plan { parts, refusals: 0, outcome: Outcome::default() }
    }

    /// Which values to send next; `None` if the snapshot is done.
    pub(crate) fn next(&self) -> Option<Range<usize>> {
        self.parts.front().cloned()
    }

    /// What the answer to the next part means.
    pub(crate) fn answered(&mut self, answer: &Answer) -> Step {
        match answer {
            Answer::Taken { unwritten, .. } => {
                let part = self.take();
                let unwritten = (*unwritten).min(part.len() as u64);
                self.outcome.taken += part.len() as u64 - unwritten;
                self.lose(Reason::Unwritten, unwritten);
                Step::GoOn
            }
            Answer::Refused { reason, .. } => {
                self.refusals += 1;
                self.halve(*reason, self.refusals <= REFUSALS_MAX);
                Step::GoOn
            }
            // Halving ends by itself: at single values, after twice as many requests as there are values.
            Answer::TooLarge { .. } => {
                self.halve(Reason::TooLarge, true);
                Step::GoOn
            }
            Answer::Later { after, .. } => Step::Wait(*after),
            Answer::Misconfigured { .. } => Step::WaitLong,
        }
    }

    /// What became of the values, once the plan is done.
    pub(crate) fn outcome(self) -> Outcome {
        self.outcome
    }

    fn take(&mut self) -> Range<usize> {
        self.parts.pop_front().unwrap_or(0..0)
    }

    fn halve(&mut self, reason: Reason, may_halve: bool) {
        let part = self.take();
        if part.len() > 1 && may_halve {
            let middle = part.start + part.len() / 2;
            self.parts.push_front(middle..part.end);
            self.parts.push_front(part.start..middle);
        } else {
            self.lose(reason, part.len() as u64);
        }
    }

    fn lose(&mut self, reason: Reason, count: u64) {
        if count > 0 {
            *self.outcome.lost.entry(reason).or_insert(0) += count;
        }
    }
}

/// How long to wait at one target.
#[derive(Debug)]
pub(crate) struct Pace {
    retry: Backoff,
    slow: Backoff,
}

impl Pace {
    /// A pace whose jitter comes from `seed`.
    pub(crate) fn new(seed: u64) -> Pace {
        let backoff = |(first, cap)| Backoff::try_new(first, cap, BACKOFF_JITTER, seed).expect("the constants make sense");
        Pace { retry: backoff(BACKOFF), slow: backoff(SLOW) }
    }

    /// How long to wait before the next request, if at all.
    pub(crate) fn wait(&mut self, step: Step) -> Option<Duration> {
        match step {
            Step::GoOn => {
                self.retry.reset();
                self.slow.reset();
                None
            }
            // What the target asks for is a minimum: it goes on growing if that did not help.
            Step::Wait(after) => Some(self.retry.next().max(after.unwrap_or_default())),
            Step::WaitLong => Some(self.slow.next()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::forward::answer::RETRY_AFTER_MAX;

    fn refused() -> Answer {
        Answer::Refused { reason: Reason::Refused, why: String::new() }
    }

    fn taken() -> Answer {
        Answer::Taken { unwritten: 0, why: None }
    }

    /// What each kind of answer does to a part of two values: what comes next, what is left, what is taken and lost.
    #[test]
    fn table() {
        let later = |after| Answer::Later { after, why: String::new() };
        let seven = Some(Duration::from_secs(7));
        let cases = [
            (taken(), Step::GoOn, None, 2, None),
            (Answer::Taken { unwritten: 1, why: None }, Step::GoOn, None, 1, Some((Reason::Unwritten, 1))),
            (Answer::Taken { unwritten: 9, why: None }, Step::GoOn, None, 0, Some((Reason::Unwritten, 2))),
            (refused(), Step::GoOn, Some(0..1), 0, None),
            (Answer::TooLarge { why: String::new() }, Step::GoOn, Some(0..1), 0, None),
            (later(None), Step::Wait(None), Some(0..2), 0, None),
            (later(seven), Step::Wait(seven), Some(0..2), 0, None),
            (Answer::Misconfigured { why: String::new() }, Step::WaitLong, Some(0..2), 0, None),
        ];
        for (answer, step, next, taken, lost) in cases {
            let mut plan = Plan::new([1, 1], 10);
            assert_eq!(plan.answered(&answer), step, "{answer:?}");
            assert_eq!(plan.next(), next, "{answer:?}");
            assert_eq!(plan.outcome(), Outcome { taken, lost: lost.into_iter().collect() }, "{answer:?}");
        }
    }

    /// A target that refuses everything is asked a bounded number of times, and everything is counted as refused.
    #[test]
    fn refusal_of_everything_ends() {
        let mut plan = Plan::new(std::iter::repeat_n(1, 100_000), 1000);
        let mut requests = 0;
        while plan.next().is_some() {
            plan.answered(&refused());
            requests += 1;
        }
        assert!(requests <= 2 * (REFUSALS_MAX + 100), "{requests}");
        assert_eq!(plan.outcome().lost, BTreeMap::from([(Reason::Refused, 100_000)]));
    }

    /// Waits grow up to their bound, never fall below what the target asks for, and start again once it takes something.
    #[test]
    fn waits() {
        let mut pace = Pace::new(1);
        let waits: Vec<Duration> = (0..20).filter_map(|_| pace.wait(Step::Wait(None))).collect();
        assert!(waits[0] <= BACKOFF.0 && waits.iter().all(|wait| *wait <= BACKOFF.1) && waits[19] >= BACKOFF.1 / 2);
        assert!(pace.wait(Step::Wait(Some(RETRY_AFTER_MAX))) == Some(RETRY_AFTER_MAX));
        assert!(pace.wait(Step::WaitLong).is_some_and(|wait| wait > BACKOFF.0 && wait <= SLOW.0));
        assert_eq!(pace.wait(Step::GoOn), None);
        assert!(pace.wait(Step::Wait(None)).is_some_and(|wait| wait <= BACKOFF.0));
    }

    proptest! {
        /// Every value is sent in order and ends up as taken or as lost, exactly once; a few bad ones are lost alone; no part weighs
        /// more than it may.
        #[test]
        fn only_the_bad_are_lost(
            weights in prop::collection::vec(1..30_usize, 0..1000),
            bad in prop::collection::btree_set(0..1000_usize, 0..6),
        ) {
            let bad: BTreeSet<usize> = bad.into_iter().filter(|place| *place < weights.len()).collect();
            let mut plan = Plan::new(weights.iter().copied(), 100);
            let mut arrived = Vec::new();
            while let Some(part) = plan.next() {
                prop_assert!(part.len() == 1 || weights[part.clone()].iter().sum::<usize>() <= 100);
                if bad.range(part.clone()).next().is_some() {
                    plan.answered(&refused());
                } else {
                    arrived.extend(part);
                    plan.answered(&taken());
                }
            }
            prop_assert_eq!(&arrived, &(0..weights.len()).filter(|place| !bad.contains(place)).collect::<Vec<_>>());
            let outcome = plan.outcome();
            prop_assert_eq!(outcome.taken, arrived.len() as u64);
            prop_assert_eq!(outcome.lost.values().sum::<u64>(), bad.len() as u64);
        }
    }
}
