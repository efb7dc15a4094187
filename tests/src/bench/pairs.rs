//! Which of an agent's round-trip times belongs to which probe of the network's log. Pure.
//!
//! The agent logs each round-trip time with the moment at which it settled it. Which probe it was follows from the order in which
//! answers came.

use std::collections::BTreeMap;

use lagmesh_model::state::Outcome;
use serde::Deserialize;

use crate::real::Real;

/// By how much a moment of the agent's may be before the network's, because the wall clock was brought onto the real one later [ns].
const CLOCKS_NS: i64 = 1_000_000;

/// A round-trip time of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// When it was settled.
    pub(super) at: Real,
    /// The round-trip time [ns].
    pub(super) rtt_ns: i64,
}

/// An answered probe as the network saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// When the answer arrived, but for the time inside the responder.
    pub(super) arrived: Real,
    /// Its round trip without the time inside the responder [ns].
    pub(super) rtt_ns: i64,
    /// How much longer that may have been at most [ns].
    pub(super) within_ns: i64,
}

/// A round-trip time of the agent beside what it was in truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    /// The agent's [ns].
    pub(super) told_ns: i64,
    /// The truth.
    pub(super) truth: Answer,
}

/// What pairing came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Pairs {
    /// The pairs.
    pub(super) found: Vec<Pair>,
    /// Round-trip times that have no probe.
    pub(super) unpaired: u64,
}

impl Pair {
    /// How far the agent is off [ns]; positive: it says more.
    pub(super) fn error_ns(&self) -> i64 {
        self.told_ns - self.truth.rtt_ns
    }
}

/// A line of the agent's log about one probe.
#[derive(Deserialize)]
struct Line {
    message: String,
    peer: String,
    outcome: String,
    rtt_ns: Option<i64>,
    wall_ns: i64,
}

/// The round-trip times in an agent's log, by peer, in the order in which they were settled. `to_real_ns` brings wall-clock stamps
/// onto the real clock.
pub(super) fn told(log: &str, to_real_ns: i64) -> BTreeMap<String, Vec<Told>> {
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    for line in lines.filter(|line| line.message == "probe" && line.outcome == Outcome::InTime.as_str()) {
        if let Some(rtt_ns) = line.rtt_ns {
            told.entry(line.peer).or_default().push(Told { at: Real(line.wall_ns + to_real_ns), rtt_ns });
        }
    }
    told
}

/// Pairs what was told of one peer with its answered probes, both in order of time. A round-trip time is settled at most `slack_ns` after
/// the answer arrived, and `held_ns` more if it is held back until something else has come.
pub(super) fn pair(told: &[Told], answers: &[Answer], slack_ns: i64, held_ns: i64, into: &mut Pairs) {
    let mut next = 0;
    for told in told {
        let settled = |answer: &Answer| answer.arrived + held_ns;
        // What is older than the slack was never told, or the agent took longer than we allow.
        while answers.get(next).is_some_and(|answer| settled(answer) + slack_ns < told.at) {
            next += 1;
        }
        match answers.get(next).filter(|answer| settled(answer) + -CLOCKS_NS <= told.at) {
            Some(answer) => {
                into.found.push(Pair { told_ns: told.rtt_ns, truth: *answer });
                next += 1;
            }
            None => into.unpaired += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn told_at(at_ms: i64, rtt_ns: i64) -> Told {
        Told { at: Real(at_ms * MS), rtt_ns }
    }

    fn answer(at_ms: i64, rtt_ns: i64) -> Answer {
        Answer { arrived: Real(at_ms * MS), rtt_ns, within_ns: 1 }
    }

    fn errors(told: &[Told], answers: &[Answer], held_ms: i64) -> (Vec<i64>, u64) {
        let mut pairs = Pairs::default();
        pair(told, answers, 110 * MS, held_ms * MS, &mut pairs);
        (pairs.found.iter().map(Pair::error_ns).collect(), pairs.unpaired)
    }

    /// Each round-trip time meets its own probe, also where it was settled late.
    #[test]
    fn in_order() {
        let answers = [answer(10, 1000), answer(130, 2000), answer(260, 3000)];
        assert_eq!(errors(&[told_at(11, 1001), told_at(229, 2002), told_at(260, 3003)], &answers, 0), (vec![1, 2, 3], 0));
    }

    /// An answer that was never told spoils nothing after it, and a round-trip time without a probe is counted.
    #[test]
    fn one_without_the_other() {
        let answers = [answer(10, 1000), answer(130, 9000), answer(260, 3000), answer(500, 4000)];
        let told = [told_at(11, 1001), told_at(261, 3005), told_at(400, 7), told_at(501, 4007)];
        assert_eq!(errors(&told, &answers, 0), (vec![1, 5, 7], 1));
    }

    /// What is held back for a while pairs with the probe of that long ago.
    #[test]
    fn held_back() {
        let answers = [answer(10, 1000), answer(1010, 2000)];
        assert_eq!(errors(&[told_at(1011, 1004)], &answers, 1000), (vec![4], 0));
    }

    /// The agent's own lines are read; other lines and other fates tell no round-trip time.
    #[test]
    fn lines() {
        let log = concat!(
            r#"{"timestamp":"2026-01-01T00:00:00Z","level":"TRACE","message":"probe","peer":"p01","outcome":"in-time","rtt_ns":40000123,"wall_ns":5000,"target":"x"}"#,
            "\nno JSON\n",
            r#"{"level":"TRACE","message":"probe","peer":"p01","outcome":"lost","wall_ns":6000}"#,
            "\n",
            r#"{"level":"INFO","message":"probing","peer":"p01"}"#,
        );
        let read = told(log, -1000);
        assert_eq!(read, BTreeMap::from([("p01".to_owned(), vec![Told { at: Real(4000), rtt_ns: 40_000_123 }])]));
    }
}
