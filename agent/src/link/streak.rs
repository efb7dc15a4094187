//! Whether probes of one kind get through now: the newest fates in the order in which the probes were sent. Pure, of fixed size.

use std::time::Duration;

use lagmesh_model::time::RawNanos;

/// The newest fates of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streak {
    /// When the newest answered probe was sent.
    answered: Option<RawNanos>,
    /// Answers since the last failure.
    answers: u64,
    failing: Option<Failing>,
}

/// Probes without an answer, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failing {
    first: RawNanos,
    last: RawNanos,
    count: u64,
}

impl Streak {
    /// The fate of a probe that was sent at `sent`. Fates come out of order, because a loss is known only when the probe is given up:
    /// what was sent before the newest answered probe is history.
    pub fn record(&mut self, sent: RawNanos, answered: bool) {
        if answered {
            self.answered = self.answered.max(Some(sent));
            self.answers = self.answers.saturating_add(1);
            self.failing = self.failing.filter(|failing| sent < failing.first);
        } else if self.answered.is_none_or(|answered| answered < sent) {
            let failing = self.failing.get_or_insert(Failing { first: sent, last: sent, count: 0 });
            failing.first = failing.first.min(sent);
            failing.last = failing.last.max(sent);
            failing.count = failing.count.saturating_add(1);
            self.answers = 0;
        }
    }

    /// How many probes have failed since the last answer, and the time between the first and the last of them.
    pub fn failures(&self) -> (u64, Duration) {
        self.failing.map_or((0, Duration::ZERO), |failing| {
            (failing.count, failing.last.checked_since(failing.first).unwrap_or(Duration::ZERO))
        })
    }

    /// How many probes were answered since the last failure.
    pub fn answers(&self) -> u64 {
        self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> RawNanos {
        RawNanos(s * 1_000_000_000)
    }

    fn after(fates: &[(u64, bool)]) -> (u64, u64, u64) {
        let mut streak = Streak::default();
        for (sent, answered) in fates {
            streak.record(at(*sent), *answered);
        }
        let (count, span) = streak.failures();
        (count, span.as_secs(), streak.answers())
    }

    /// Only what was sent after the newest answered probe counts as failing, in whatever order fates become known.
    #[test]
    fn order_of_sending_counts() {
        let (yes, no) = (true, false);
        assert_eq!(after(&[]), (0, 0, 0));
        assert_eq!(after(&[(1, no), (3, no), (6, no)]), (3, 5, 0));
        assert_eq!(after(&[(3, no), (1, no), (6, no)]), (3, 5, 0));
        // A loss of before the answer comes in after it.
        assert_eq!(after(&[(5, yes), (4, no), (6, yes)]), (0, 0, 2));
        // An answer that was sent among the failures ends them; one that was sent before them does not.
        assert_eq!(after(&[(1, no), (3, no), (2, yes)]), (0, 0, 1));
        assert_eq!(after(&[(2, no), (3, no), (1, yes)]), (2, 1, 1));
        assert_eq!(after(&[(1, yes), (2, yes), (3, no)]), (1, 0, 0));
    }
}
