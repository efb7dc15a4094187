//! What has held for long enough to be believed. Easy to stay in service, hard to leave, and slow to be trusted again.
//!
//! Spans are counted on the collector's raw clock, and only while it watches: after a gap, such as a restart, the state stands and
//! every span begins anew, so that two short outages are never taken for a long one.

use std::time::Duration;

use lagmesh_model::fleet::Judge;
use lagmesh_model::state::RegionState;
use serde::{Deserialize, Serialize};

use super::votes::Finding;

/// The state of one axis of one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hysteresis {
    state: RegionState,
    /// In this state for so long.
    held: Duration,
    #[serde(skip)]
    spans: Spans,
}

/// What has gone on without a break until now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Spans {
    /// Gone for so long.
    gone: Duration,
    /// Gone, by a quorum from two vantages, for so long.
    confirmed: Duration,
    /// Worse than the thresholds, or gone, for so long.
    worse: Duration,
    /// There (good or degraded) for so long.
    there: Duration,
    /// Good for so long.
    good: Duration,
}

impl Default for Hysteresis {
    fn default() -> Hysteresis {
        Hysteresis { state: RegionState::Unknown, held: Duration::ZERO, spans: Spans::default() }
    }
}

impl Hysteresis {
    /// The state.
    pub fn state(&self) -> RegionState {
        self.state
    }

    /// For how long, as far as it was watched.
    pub fn held(&self) -> Duration {
        self.held
    }

    /// Time passes without anything being learnt: the state stands, and whatever led to another one has lost its thread.
    pub fn wait(&mut self, passed: Duration) {
        self.held += passed;
        self.spans = Spans::default();
    }

    /// Takes in the finding of this moment, which has stood for `passed`; returns why the state is what it is.
    pub fn step(&mut self, finding: &Finding, passed: Duration, after: &Judge) -> String {
        self.spans.count(finding, passed);
        self.held += passed;
        let next = self.next(finding, after);
        if next != self.state {
            self.state = next;
            self.held = Duration::ZERO;
        }
        self.why(finding, after)
    }

    fn next(&self, finding: &Finding, after: &Judge) -> RegionState {
        use RegionState as S;
        let suspect = self.spans.gone >= after.suspect_after && self.spans.gone > Duration::ZERO;
        match (self.state, finding) {
            // What was out stays out until it is seen again: silence is no recovery.
            (S::Down, Finding::Missing(_)) => S::Down,
            (S::Recovering, Finding::Missing(_)) => S::Recovering,
            (_, Finding::Missing(_)) => S::Unknown,
            (S::Suspect, Finding::Gone { .. }) if self.spans.confirmed >= after.down_after => S::Down,
            (S::Unknown | S::Healthy | S::Degraded | S::Recovering, Finding::Gone { .. }) if suspect => S::Suspect,
            (S::Unknown, Finding::Good(_)) => S::Healthy,
            (S::Unknown, Finding::Degraded(_)) => S::Degraded,
            (S::Healthy, _) if self.spans.worse >= after.degraded_after => S::Degraded,
            (S::Degraded, Finding::Good(_)) if self.spans.good >= after.healthy_after => S::Healthy,
            (S::Suspect, Finding::Good(_) | Finding::Degraded(_)) if self.spans.there >= after.recover_after => S::Degraded,
            (S::Down, Finding::Good(_) | Finding::Degraded(_)) if self.spans.there >= after.recover_after => S::Recovering,
            (S::Recovering, Finding::Good(_)) if self.spans.good >= after.recovered_after => S::Healthy,
            (state, _) => state,
        }
    }

    fn why(&self, finding: &Finding, after: &Judge) -> String {
        use RegionState as S;
        let now = finding.why();
        let of = |span: Duration, whole: Duration| format!("{} of {} s", span.as_secs(), whole.as_secs());
        match (self.state, finding) {
            (S::Healthy | S::Degraded, Finding::Gone { .. }) => {
                format!("{now}; for {}", of(self.spans.gone, after.suspect_after))
            }
            (S::Healthy, Finding::Degraded(_)) => format!("{now}; for {}", of(self.spans.worse, after.degraded_after)),
            (S::Degraded, Finding::Good(_)) => format!("good again for {}: {now}", of(self.spans.good, after.healthy_after)),
            (S::Suspect, Finding::Gone { confirmed: true, .. }) => {
                format!("{now}; for {}", of(self.spans.confirmed, after.down_after))
            }
            (S::Suspect | S::Down, Finding::Good(_) | Finding::Degraded(_)) => {
                format!("seen again for {}: {now}", of(self.spans.there, after.recover_after))
            }
            (S::Down | S::Recovering, Finding::Missing(_)) => format!("{now}, so the last state stands"),
            (S::Recovering, Finding::Good(_)) => format!("back for {}: {now}", of(self.spans.good, after.recovered_after)),
            _ => now.to_owned(),
        }
    }
}

impl Spans {
    fn count(&mut self, finding: &Finding, passed: Duration) {
        let keep = |holds: bool, span: &mut Duration| *span = if holds { *span + passed } else { Duration::ZERO };
        let gone = matches!(finding, Finding::Gone { .. });
        let degraded = matches!(finding, Finding::Degraded(_));
        let good = matches!(finding, Finding::Good(_));
        keep(gone, &mut self.gone);
        keep(matches!(finding, Finding::Gone { confirmed: true, .. }), &mut self.confirmed);
        keep(gone || degraded, &mut self.worse);
        keep(good || degraded, &mut self.there);
        keep(good, &mut self.good);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RegionState as S;

    const STEP: Duration = Duration::from_millis(500);

    fn good() -> Finding {
        Finding::Good("good".to_owned())
    }
    fn degraded() -> Finding {
        Finding::Degraded("slow".to_owned())
    }
    fn gone(confirmed: bool) -> Finding {
        Finding::Gone { confirmed, why: "gone".to_owned() }
    }
    fn missing() -> Finding {
        Finding::Missing("silent".to_owned())
    }

    /// Feeds findings for so many seconds each and returns the state after each.
    fn run(story: &[(Finding, u32)]) -> Vec<S> {
        let mut hysteresis = Hysteresis::default();
        let after = Judge::default();
        let mut states = Vec::new();
        for (finding, seconds) in story {
            for _ in 0..seconds * 2 {
                hysteresis.step(finding, STEP, &after);
            }
            states.push(hysteresis.state());
        }
        states
    }

    /// Every transition happens at its time and not before.
    #[test]
    fn transitions() {
        type Story = (&'static str, Vec<(Finding, u32)>, Vec<S>);
        let table: Vec<Story> = vec![
            ("unknown at boot until the first measurement", vec![(missing(), 300), (good(), 1)], vec![S::Unknown, S::Healthy]),
            ("a bad first measurement is believed", vec![(degraded(), 1)], vec![S::Degraded]),
            ("gone from the start", vec![(gone(true), 14), (gone(true), 1)], vec![S::Unknown, S::Suspect]),
            (
                "healthy, suspect after 15 s, down after 90 s",
                vec![(good(), 1), (gone(true), 14), (gone(true), 1), (gone(true), 74), (gone(true), 1)],
                vec![S::Healthy, S::Healthy, S::Suspect, S::Suspect, S::Down],
            ),
            ("without a quorum never down", vec![(good(), 1), (gone(false), 86400)], vec![S::Healthy, S::Suspect]),
            (
                "a break restarts the confirmation",
                vec![(good(), 1), (gone(true), 80), (gone(false), 1), (gone(true), 80), (gone(true), 10)],
                vec![S::Healthy, S::Suspect, S::Suspect, S::Suspect, S::Down],
            ),
            (
                "the 43 s partition of 2018 never reaches down",
                vec![(good(), 600), (gone(true), 43), (good(), 29), (good(), 1), (good(), 90)],
                vec![S::Healthy, S::Suspect, S::Suspect, S::Degraded, S::Healthy],
            ),
            (
                "degraded after 30 s, healthy after 120 good seconds without a break",
                vec![(good(), 1), (degraded(), 29), (degraded(), 1), (good(), 119), (degraded(), 1), (good(), 119), (good(), 1)],
                vec![S::Healthy, S::Healthy, S::Degraded, S::Degraded, S::Degraded, S::Degraded, S::Healthy],
            ),
            (
                "down, recovering, healthy",
                vec![(good(), 1), (gone(true), 90), (degraded(), 29), (good(), 1), (good(), 298), (good(), 1)],
                vec![S::Healthy, S::Down, S::Down, S::Recovering, S::Recovering, S::Healthy],
            ),
            (
                "a relapse while recovering is suspect again",
                vec![(good(), 1), (gone(true), 90), (good(), 60), (gone(true), 15)],
                vec![S::Healthy, S::Down, S::Recovering, S::Suspect],
            ),
            ("silence is unknown", vec![(good(), 1), (missing(), 1)], vec![S::Healthy, S::Unknown]),
            ("silence is no recovery", vec![(good(), 1), (gone(true), 90), (missing(), 900)], vec![S::Healthy, S::Down, S::Down]),
        ];
        for (name, story, expected) in table {
            assert_eq!(run(&story), expected, "{name}");
        }
    }

    /// A state survives being stored; what was on its way to the next one does not, nor does it survive time in which nobody looked:
    /// DOWN is never put together from two outages.
    #[test]
    fn a_gap_breaks_every_span() {
        let step = |hysteresis: &mut Hysteresis, seconds| {
            hysteresis.step(&gone(true), Duration::from_secs(seconds), &Judge::default());
            hysteresis.state()
        };
        let mut watched = Hysteresis::default();
        assert_eq!(step(&mut watched, 89), S::Suspect);
        let mut restored: Hysteresis = serde_json::from_str(&serde_json::to_string(&watched).unwrap()).unwrap();
        let mut blind = watched.clone();
        blind.wait(Duration::from_secs(1));
        for gap in [&mut restored, &mut blind] {
            assert_eq!((gap.state(), step(gap, 89), step(gap, 1)), (S::Suspect, S::Suspect, S::Down));
        }
        assert_eq!(step(&mut watched, 1), S::Down);
    }
}
