//! The one thread that owns view and judge: takes in what is on disk, judges twice a second, and publishes what follows.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::{Clock, Latch, Progress, Shutdown};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::series::Series;
use lagmesh_model::state::RegionState;
use lagmesh_model::status::FleetStatus;
use lagmesh_model::time::Reading;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::history::Feed;
use crate::judge::{Judge, Memory};
use crate::merge::View;
use crate::snapshot;
use crate::store::{Committed, Job, Restored};
use crate::tally::Tally;

/// How often is judged and published.
const STEP: Duration = Duration::from_millis(500);
/// Where a step takes long, as with a thousand regions, the next one comes so many times later: what arrives is never kept waiting for
/// most of the time.
const PAUSE_STEPS: u32 = 4;
/// How often the judge's memory is stored although no state changed: what a crash may cost of a span.
const REMEMBER_EVERY: Duration = Duration::from_secs(10);

/// The version that is published.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is published, and when it was made.
#[derive(Debug)]
pub struct Published {
    /// What `/v1/status` says.
    pub status: FleetStatus,
    /// When.
    pub made: Reading,
}

/// A request for everything that `/metrics` shows.
pub type Ask = oneshot::Sender<Vec<Series>>;

/// View and judge with what they need.
#[derive(Debug)]
pub struct Engine {
    fleet: Arc<Fleet>,
    view: View,
    judge: Judge,
    clock: Clock,
    tally: Tally,
    history: Feed,
    remembered: Option<(Reading, Vec<RegionState>)>,
}

/// What connects the engine to the rest.
#[derive(Debug)]
pub struct Wires {
    /// What is on disk.
    pub committed: mpsc::Receiver<Committed>,
    /// Who asks for `/metrics`.
    pub asks: mpsc::Receiver<Ask>,
    /// Where the status goes.
    pub published: watch::Sender<Arc<Published>>,
    /// The store, for the judge's memory.
    pub jobs: mpsc::Sender<Job>,
    /// Shows the watchdog that judging goes on.
    pub progress: Progress,
    /// Dropped after the first step.
    pub first: Latch,
}

impl Engine {
    /// Takes up what an earlier run left.
    pub fn new(fleet: Arc<Fleet>, restored: Restored, clock: Clock, tally: Tally, history: Feed) -> Engine {
        let mut view = View::new(fleet.export.interval);
        for sum in restored.retired {
            view.accept_retired(sum);
        }
        for (batch, arrived) in restored.batches {
            view.accept(batch, arrived);
        }
        let judge = Judge::new(&fleet, restored.memories);
        Engine { fleet, view, judge, clock, tally, history, remembered: None }
    }

    /// Judges now.
    pub fn publish(&mut self) -> Published {
        let now = self.clock.now();
        let verdicts = self.judge.step(&self.fleet, &self.view, now);
        let status = snapshot::status(&self.fleet, &self.view, verdicts, now, VERSION);
        Published { status, made: now }
    }

    /// Works until shutdown. A step is one piece of work of up to tens of milliseconds, which is not for a thread of the runtime: whoever
    /// waits for that thread would wait for all of it.
    ///
    /// # Errors
    /// Never.
    pub async fn run(mut self, mut wires: Wires, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut pause = pin!(sleep(Duration::ZERO));
        let mut first = Some(wires.first);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = &mut pause => {
                    let began = Instant::now();
                    let published = self.publish();
                    pause.as_mut().reset(Instant::now() + STEP.max(began.elapsed() * PAUSE_STEPS));
                    log_changes(&wires.published.borrow().status, &published.status);
                    if let Some(memories) = self.due_memories(&published) {
                        // A full queue means that the disk is busy with what matters more; the next step tries again.
                        if wires.jobs.try_send(Job::Remember(memories)).is_err() {
                            self.remembered = None;
                        }
                    }
                    wires.progress.mark(published.made);
                    wires.published.send_replace(Arc::new(published));
                    first.take();
                }
                Some(ask) = wires.asks.recv() => {
                    // What has come until now is in the answer, and what comes meanwhile does not keep it waiting.
                    for _ in 0..wires.committed.len() {
                        if let Ok(committed) = wires.committed.try_recv() {
                            self.take(committed);
                        }
                    }
                    self.answer(ask, &wires.published.borrow());
                }
                Some(committed) = wires.committed.recv() => self.take(committed),
            }
        }
        wires.jobs.try_send(Job::Remember(self.judge.memories())).ok();
        Ok(())
    }

    fn take(&mut self, committed: Committed) {
        self.history.offer(&committed);
        match committed {
            Committed::Batch(batch, arrived) => self.view.accept(batch, arrived),
            Committed::Retired(agent, boot) => self.view.retire(&agent, boot),
            Committed::OfRetired(_, _, grown) => grown.into_iter().for_each(|grown| self.view.accept_retired(grown)),
        }
    }

    fn answer(&self, ask: Ask, published: &Published) {
        let mut series = snapshot::series(&self.fleet, &self.view, &published.status, published.made);
        series.extend(self.tally.series(self.clock.now()));
        // Who asked may have hung up.
        ask.send(series).ok();
    }

    fn due_memories(&mut self, published: &Published) -> Option<Vec<Memory>> {
        let states = states(&published.status);
        let due = self.remembered.as_ref().is_none_or(|(at, held)| {
            *held != states || published.made.raw.checked_since(at.raw).is_none_or(|passed| passed >= REMEMBER_EVERY)
        });
        due.then(|| {
            self.remembered = Some((published.made, states));
            self.judge.memories()
        })
    }
}

/// A change of state is news; that it goes on is not.
fn log_changes(before: &FleetStatus, after: &FleetStatus) {
    for (was, region) in before.regions.iter().zip(&after.regions) {
        for (was, is) in was.verdicts.iter().zip(&region.verdicts).filter(|(was, is)| was.state != is.state) {
            tracing::info!(region = %region.region, axis = %is.axis, from = %was.state, to = %is.state, why = is.why, "verdict");
        }
    }
    let (was, is) = (&before.clocks.contradictions, &after.clocks.contradictions);
    for set in is.iter().filter(|set| !was.contains(set)) {
        tracing::warn!(agents = ?set, "what these agents measured of each other's clocks cannot all be true");
    }
    for (was, is) in before.links.iter().zip(&after.links).filter(|(was, is)| was.state != is.state) {
        tracing::info!(region = %is.region, peer = %is.peer, from = %was.state, to = %is.state, "link");
    }
}

fn states(status: &FleetStatus) -> Vec<RegionState> {
    status.regions.iter().flat_map(|region| region.verdicts.iter().map(|verdict| verdict.state)).collect()
}

#[cfg(test)]
mod tests {
    use lagmesh_daemon::{Readiness, Watchdog};
    use lagmesh_model::catalogue;
    use lagmesh_model::series::Value;

    use super::*;
    use crate::fixture::{Says, fleet};
    use crate::history::History;

    /// Who asks is told of everything that was passed on before, however much of it has not been looked at yet.
    #[tokio::test]
    async fn what_has_come_is_in_the_answer() {
        let tally = Tally::default();
        let (feed, _fed) = History::feed(&tally);
        let mut engine = Engine::new(Arc::new(fleet(&["a", "b"], &[])), Restored::default(), Clock::new(), tally, feed);
        let (told, committed) = mpsc::channel(8);
        let (asking, asks) = mpsc::channel(1);
        let (jobs, _jobs) = mpsc::channel(1);
        let published = watch::Sender::new(Arc::new(engine.publish()));
        let (progress, first) = (Watchdog::new().register("engine", STEP), Readiness::new().latch("first"));
        for sequence in 1..=5 {
            let arrived = engine.clock.now();
            told.try_send(Committed::Batch(Says::new("a", sequence).rtt("b", sequence * 10, 20).batch(), arrived)).unwrap();
        }
        let (ask, answer) = oneshot::channel();
        asking.try_send(ask).unwrap();
        let shutdown = Shutdown::new();
        let running = tokio::spawn(engine.run(Wires { committed, asks, published, jobs, progress, first }, shutdown.clone()));
        let series = answer.await.unwrap();
        shutdown.cancel();
        running.await.unwrap().unwrap();
        let probes = series.iter().find(|series| *series.metric == catalogue::LINK_PROBES).map(|series| series.value.clone());
        assert_eq!(probes, Some(Value::Counter(50)));
    }
}
