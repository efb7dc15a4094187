//! One task owns everything that was measured: it folds observations, brings states up to date twice a second, makes a batch for the
//! spool every export interval, and shows what it knows to those who ask.

mod awaited;
mod clocks;
mod fold;
mod view;

use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::{Clock, Progress, Shutdown};
use lagmesh_model::ids::RegionName;
use lagmesh_model::series::Series;
use lagmesh_model::status::AgentStatus;
use lagmesh_model::time::Reading;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout, timeout_at};

use crate::measurement::{Observation, Observations, PeerViews};
use crate::reload::Fleets;
use crate::send::{Deliveries, Showings};
use crate::spool::{Levels, Spool};

pub use awaited::Awaited;
pub use fold::{Around, Summary};
pub use view::{NoView, Questions, Viewer};

/// How often states are brought up to date.
const STEP_PERIOD: Duration = Duration::from_millis(500);
/// A snapshot that is no older serves all who ask.
const FRESH_FOR: Duration = Duration::from_millis(500);
/// The first batch leaves this soon after the start, so that others learn at once that the agent is there.
const FIRST_BATCH_AFTER: Duration = Duration::from_secs(2);
/// How many observations are taken in one round, so that a flood of them cannot hold up the ticks.
const ROUND_MAX: usize = 1024;
/// Where each single lag is logged.
const BEAT_LOG: &str = "lagmesh::beat";
/// On shutdown: how long to wait for the sources to end, and for the disk to take the last batch.
const SOURCES_WAIT: Duration = Duration::from_secs(1);
const LAST_BATCH_WAIT: Duration = Duration::from_secs(3);

/// What was known at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// When.
    pub made: Reading,
    /// For people.
    pub status: AgentStatus,
    /// For machines.
    pub series: Vec<Series>,
}

/// What the task needs.
#[derive(Debug)]
pub struct SummaryContext {
    /// The state.
    pub summary: Summary,
    /// Our region.
    pub region: RegionName,
    /// The fleet file in force.
    pub fleets: Fleets,
    /// What is measured.
    pub queue: mpsc::Receiver<Observation>,
    /// What the mesh knows of the peers.
    pub views: PeerViews,
    /// Where batches go.
    pub spool: Spool,
    /// How their delivery goes.
    pub deliveries: watch::Receiver<Deliveries>,
    /// With what they are made, and how often that could not be replaced.
    pub showing: Showings,
    /// Those who want to see what is known.
    pub questions: Questions,
    /// What the process waits for before it is ready.
    pub awaited: Awaited,
    /// The time between two batches.
    pub export_interval: Duration,
    /// The clocks.
    pub clock: Clock,
    /// Marked every round.
    pub progress: Progress,
    /// Cancelled by us once the last batch of this run is in the spool.
    pub last_batch: Shutdown,
}

/// Runs until `shutdown`, then takes in what is left and makes the last batch. `observations` is the sending end of the queue,
/// which knows what did not fit.
///
/// # Errors
/// Never; a spool that fails is data.
pub async fn run(context: SummaryContext, observations: Observations, shutdown: Shutdown) -> anyhow::Result<()> {
    let last_batch = context.last_batch.clone().drop_guard();
    let levels = context.spool.levels();
    let mut task =
        Task { context, levels, observations: Some(observations), newest: None, dropped_observations: 0, dropped_batches: 0 };
    shutdown.run_until_cancelled(task.rounds()).await;
    task.finish().await;
    drop(last_batch);
    Ok(())
}

struct Task {
    context: SummaryContext,
    levels: watch::Receiver<Levels>,
    /// Given up on shutdown, because the queue ends only when every sender has.
    observations: Option<Observations>,
    /// The newest snapshot that somebody asked for.
    newest: Option<Arc<Snapshot>>,
    /// How many did not fit into the queue.
    dropped_observations: u64,
    /// Batches that did not even fit into the spool's queue.
    dropped_batches: u64,
}

impl Task {
    async fn rounds(&mut self) {
        let period = self.context.export_interval;
        let mut step = interval(STEP_PERIOD);
        let mut export = interval_at(Instant::now() + period.min(FIRST_BATCH_AFTER), period);
        step.set_missed_tick_behavior(MissedTickBehavior::Skip);
        export.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut news = Vec::with_capacity(ROUND_MAX);
        loop {
            tokio::select! {
                biased;
                _ = step.tick() => self.step(),
                _ = export.tick() => {
                    self.export();
                }
                Some(question) = self.context.questions.recv() => {
                    // Who asked may have gone.
                    question.send(self.show()).unwrap_or_default();
                }
                _ = self.context.queue.recv_many(&mut news, ROUND_MAX) => self.take(&mut news),
            }
        }
    }

    /// The sources have been told to end; what they have still to say belongs to the last batch.
    async fn finish(mut self) {
        let mut news = Vec::with_capacity(ROUND_MAX);
        self.count_dropped();
        self.observations = None;
        let end = Instant::now() + SOURCES_WAIT;
        while let Ok(1..) = timeout_at(end, self.context.queue.recv_many(&mut news, ROUND_MAX)).await {
            self.take(&mut news);
        }
        if let Some(kept) = self.export() {
            match timeout(LAST_BATCH_WAIT, kept).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::warn!("the last batch was not kept"),
                Err(_) => tracing::warn!("the disk has not taken the last batch in time"),
            }
        }
    }

    /// Another fleet file is published before anything is observed by it: looked at after what was observed, it is in time for that.
    fn follow(&mut self) {
        let SummaryContext { fleets, summary, awaited, region, .. } = &mut self.context;
        if fleets.has_changed().unwrap_or(false) {
            let fleet = fleets.borrow_and_update();
            summary.reload(&fleet);
            awaited.reload(&fleet, region);
        }
    }

    fn take(&mut self, news: &mut Vec<Observation>) {
        self.follow();
        let view = self.context.views.borrow().clone();
        for observation in news.drain(..) {
            self.context.awaited.saw(&observation);
            self.context.summary.record(observation, &view);
        }
        self.log_beats();
    }

    /// Whoever wants each single lag finds it in the log: target `lagmesh::beat`, level `debug`.
    fn log_beats(&mut self) {
        if !tracing::enabled!(target: BEAT_LOG, tracing::Level::DEBUG) {
            return;
        }
        self.context.summary.take_settled(|origin, node, settled| {
            let (incarnation, sequence) = settled.beat;
            tracing::debug!(
                target: BEAT_LOG,
                %origin,
                %node,
                incarnation = incarnation.0,
                sequence = sequence.0,
                lower_ns = settled.lag.lower_ns(),
                estimate_ns = settled.lag.estimate_ns(),
                upper_ns = settled.lag.upper_ns(),
                claimed_estimate_ns = settled.claimed_estimate_ns,
                poll_gap_ns = settled.poll_gap_ns,
                poll_ns = settled.poll_ns,
                polls = settled.polls,
                commit_ns = settled.commit_ns,
                theta_width_ns = settled.theta_width_ns,
                "beat"
            );
        });
    }

    fn count_dropped(&mut self) {
        if let Some(observations) = &self.observations {
            self.dropped_observations = observations.dropped();
        }
    }

    fn step(&mut self) {
        self.follow();
        let reading = self.context.clock.bracket();
        let (now, view) = (reading.into(), self.context.views.borrow().clone());
        self.context.summary.read_clocks(&reading);
        self.context.summary.step(now, &view);
        self.context.progress.mark(now);
        self.log_beats();
    }

    /// What is known now, for whoever asks.
    fn show(&mut self) -> Arc<Snapshot> {
        let now = self.context.clock.now().raw;
        let is_fresh = |snapshot: &&Arc<Snapshot>| now.checked_since(snapshot.made.raw).is_some_and(|age| age < FRESH_FOR);
        if let Some(newest) = self.newest.as_ref().filter(is_fresh) {
            return newest.clone();
        }
        let snapshot = Arc::new(self.snapshot());
        self.newest = Some(snapshot.clone());
        snapshot
    }

    fn snapshot(&mut self) -> Snapshot {
        self.follow();
        self.count_dropped();
        let reading = self.context.clock.bracket();
        let (now, view) = (reading.into(), self.context.views.borrow().clone());
        self.context.summary.read_clocks(&reading);
        let around = Around {
            clock_epochs: self.context.clock.epochs_started(),
            wall_steps: self.context.clock.wall_steps(),
            claim: self.context.clock.claim(),
            dropped_observations: self.dropped_observations,
            dropped_batches: self.dropped_batches,
            levels: &self.levels.borrow(),
            deliveries: &self.context.deliveries.borrow(),
            reload_failures: self.context.showing.borrow().failures,
            certificate_not_after_s: self.context.showing.borrow().not_after_s,
        };
        self.context.summary.snapshot(now, &view, &around)
    }

    /// Makes a batch and hands it to the spool; the answer comes once it is kept.
    fn export(&mut self) -> Option<oneshot::Receiver<()>> {
        let snapshot = self.snapshot();
        let made = snapshot.made;
        let batch = self.context.summary.batch(snapshot);
        match self.context.spool.append(batch, made) {
            Ok(kept) => Some(kept),
            Err(e) => {
                self.dropped_batches += 1;
                tracing::error!(error = %e, "batch dropped");
                None
            }
        }
    }
}
