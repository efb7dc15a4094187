//! What the parts of the mesh thread share: the engine, the clock, and what was observed and not handed over yet.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::{Clock, Progress};
use lagmesh_model::time::{RawNanos, Reading};
use tokio::sync::{Notify, watch};

use crate::measurement::{Observation, Observations, PeerView, Probe};
use crate::mesh::engine::Engine;
use crate::mesh::schedule::Every;

/// Observations are handed over so often, unless one of them is a change: each handing over wakes another thread.
const HAND_OVER_EVERY: Duration = Duration::from_millis(100);
/// How often the view is published, unless there is an announcement.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// So many are handed over at once, however young they are.
const PENDING_MAX: usize = 1024;

/// What the futures of the mesh thread share.
#[derive(Debug)]
pub struct Shared {
    engine: RefCell<Engine>,
    pub(super) clock: Clock,
    ends: Ends,
    pending: RefCell<Vec<Observation>>,
    /// Whether something that is pending must not wait.
    urgent: Cell<bool>,
    handing_over: Cell<Every>,
    publishing: Cell<Every>,
    /// Rung when another fleet file is in force.
    pub reloaded: Notify,
}

/// Where goes what the mesh has learnt.
#[derive(Debug)]
pub struct Ends {
    /// What was observed.
    pub observations: Observations,
    /// What the peers told.
    pub views: watch::Sender<Arc<PeerView>>,
    /// Marked as long as the thread gets round.
    pub progress: Progress,
}

impl Shared {
    /// Shares an engine.
    pub fn new(engine: Engine, clock: Clock, ends: Ends) -> Shared {
        let now = clock.now().raw;
        Shared {
            engine: RefCell::new(engine),
            clock,
            ends,
            pending: RefCell::default(),
            urgent: Cell::default(),
            handing_over: Cell::new(Every::new(HAND_OVER_EVERY, now)),
            publishing: Cell::new(Every::new(PUBLISH_EVERY, now)),
            reloaded: Notify::new(),
        }
    }

    /// Does something with the engine now; what it observed waits for [`Shared::hand_over`].
    pub fn with<T>(&self, act: impl FnOnce(&mut Engine, Reading) -> T) -> T {
        let mut engine = self.engine.borrow_mut();
        let reading = self.clock.bracket();
        engine.note(reading);
        let result = act(&mut engine, reading.into());
        let mut pending = self.pending.borrow_mut();
        for observation in engine.observations() {
            log(&observation);
            self.urgent.set(self.urgent.get() || is_change(&observation));
            pending.push(observation);
        }
        result
    }

    /// Publishes what was heard, at once if there is an announcement among it, and counts that were not told yet.
    pub fn publish(&self, now: RawNanos) {
        let publishing = self.publishing.get();
        if !publishing.is_due(now) && !self.engine.borrow().has_news() {
            return;
        }
        self.publishing.set(publishing.done(now));
        let claim = self.clock.claim();
        let view = self.with(|engine, now| {
            self.ends.progress.mark(now);
            engine.claim(claim);
            engine.tell_counts();
            engine.view(now.raw)
        });
        if let Some(view) = view {
            self.ends.views.send_replace(Arc::new(view));
        }
    }

    /// Hands over what was observed, if it has waited for long enough.
    pub fn hand_over(&self, now: RawNanos) {
        let handing_over = self.handing_over.get();
        if handing_over.is_due(now) || self.urgent.get() || self.pending.borrow().len() >= PENDING_MAX {
            self.handing_over.set(handing_over.done(now));
            self.hand_over_now();
        }
    }

    fn hand_over_now(&self) {
        let mut unheard = false;
        for observation in self.pending.borrow_mut().drain(..) {
            let is_change = is_change(&observation);
            unheard |= !self.ends.observations.tell(observation) && is_change;
        }
        self.urgent.set(false);
        if unheard {
            self.engine.borrow_mut().say_again();
        }
    }
}

fn is_change(observation: &Observation) -> bool {
    matches!(observation, Observation::Flow(_))
}

/// Whoever wants each single round-trip time finds it in the log, at level `trace`; routes are kept there in any case.
fn log(observation: &Observation) {
    match observation {
        Observation::Probe(Probe { peer, outcome, rtt_ns, at, .. }) => {
            tracing::trace!(peer = %peer, outcome = outcome.as_str(), rtt_ns, wall_ns = at.wall.0, "probe");
        }
        Observation::Route(flow, route) => {
            tracing::info!(peer = %flow.agent, flow = flow.index, cause = %route.cause, reached = route.reached, %route, "route");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::state::Outcome;

    use super::*;
    use crate::mesh::testing::{ends, fleet};

    /// A change that did not fit into the queue is told again once it fits: a dead flow never stays alive by an accident.
    #[test]
    fn changes_are_told_until_they_are_heard() {
        let clock = Clock::new();
        let (oslo, oslo_a) = ("oslo".parse().unwrap(), "oslo-a".parse().unwrap());
        let fleet = Arc::new(fleet(&[("tcp = false", "tcp = false\nflows = 1")]));
        let engine = Engine::new(&fleet, &oslo, &oslo_a, None, clock.now());
        let (observations, mut queue) = Observations::queue(1);
        let shared = Shared::new(engine, clock, ends(observations));
        for _ in 0..2 {
            shared.with(|engine, now| engine.not_sent(0, 0, Outcome::Unreachable, now));
        }
        shared.hand_over_now();
        let mut heard = || std::iter::from_fn(|| queue.try_recv().ok()).any(|said| matches!(said, Observation::Flow(_)));
        assert!(!heard(), "only the first fate fitted");
        shared.with(|engine, now| engine.on_error(0, 0, Outcome::SendError, None, now));
        shared.hand_over_now();
        assert!(heard());
        shared.with(|engine, now| engine.on_error(0, 0, Outcome::SendError, None, now));
        shared.hand_over_now();
        assert!(!heard(), "heard, and not told again");
    }

    /// What is no change waits, and is handed over together with one.
    #[test]
    fn observations_are_handed_over_together() {
        let clock = Clock::new();
        let (oslo, oslo_a) = ("oslo".parse().unwrap(), "oslo-a".parse().unwrap());
        let engine = Engine::new(&Arc::new(fleet(&[])), &oslo, &oslo_a, None, clock.now());
        let (observations, mut queue) = Observations::queue(100);
        let shared = Shared::new(engine, clock, ends(observations));
        let begun = shared.clock.now().raw;
        shared.pending.borrow_mut().push(Observation::MeshDropped("loop", 1));
        shared.hand_over(begun.after(HAND_OVER_EVERY / 2));
        assert!(queue.try_recv().is_err());
        for _ in 0..2 {
            shared.with(|engine, now| engine.not_sent(0, 0, Outcome::Unreachable, now));
        }
        shared.hand_over(begun.after(HAND_OVER_EVERY / 2));
        assert!(matches!(queue.try_recv(), Ok(Observation::MeshDropped(..))));
        assert!(std::iter::from_fn(|| queue.try_recv().ok()).any(|said| is_change(&said)));
        shared.pending.borrow_mut().push(Observation::MeshDropped("loop", 1));
        shared.hand_over(begun.after(HAND_OVER_EVERY * 2));
        assert!(queue.try_recv().is_ok());
    }
}
