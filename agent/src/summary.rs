//! One task owns everything that was measured: it folds observations, publishes a snapshot twice a second and makes a batch
//! for the spool every export interval.

mod awaited;
mod fold;

use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::{Clock, Progress, Shutdown};
use lagmesh_model::series::Series;
use lagmesh_model::status::AgentStatus;
use lagmesh_model::time::Reading;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout, timeout_at};

use crate::measurement::{Observation, Observations, PeerViews};
use crate::send::Deliveries;
use crate::spool::{Levels, Spool};

pub use awaited::Awaited;
pub use fold::{Around, Summary};

/// How often the state is published.
pub const PUBLISH_PERIOD: Duration = Duration::from_millis(500);
/// The first batch leaves this soon after the start, so that others learn at once that the agent is there.
const FIRST_BATCH_AFTER: Duration = Duration::from_secs(2);
/// How many observations are taken in one round, so that a flood of them cannot hold up the ticks.
const ROUND_MAX: usize = 1024;
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
    /// What is measured.
    pub queue: mpsc::Receiver<Observation>,
    /// What the mesh knows of the peers.
    pub views: PeerViews,
    /// Where batches go.
    pub spool: Spool,
    /// How their delivery goes.
    pub deliveries: watch::Receiver<Deliveries>,
    /// Where the state is published.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
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
    let mut task = Task { context, levels, observations: Some(observations), dropped_observations: 0, dropped_batches: 0 };
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
    /// How many did not fit into the queue.
    dropped_observations: u64,
    /// Batches that did not even fit into the spool's queue.
    dropped_batches: u64,
}

impl Task {
    async fn rounds(&mut self) {
        let period = self.context.export_interval;
        let mut publish = interval(PUBLISH_PERIOD);
        let mut export = interval_at(Instant::now() + period.min(FIRST_BATCH_AFTER), period);
        publish.set_missed_tick_behavior(MissedTickBehavior::Skip);
        export.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut news = Vec::with_capacity(ROUND_MAX);
        loop {
            tokio::select! {
                biased;
                _ = publish.tick() => {
                    self.publish();
                }
                _ = export.tick() => {
                    self.export();
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

    fn take(&mut self, news: &mut Vec<Observation>) {
        let view = self.context.views.borrow().clone();
        for observation in news.drain(..) {
            self.context.awaited.saw(&observation);
            self.context.summary.record(observation, &view);
        }
    }

    fn count_dropped(&mut self) {
        if let Some(observations) = &self.observations {
            self.dropped_observations = observations.dropped();
        }
    }

    fn publish(&mut self) -> Arc<Snapshot> {
        self.count_dropped();
        let now = self.context.clock.now();
        let view = self.context.views.borrow().clone();
        let around = Around {
            clock_epochs: self.context.clock.epochs_started(),
            dropped_observations: self.dropped_observations,
            dropped_batches: self.dropped_batches,
            levels: &self.levels.borrow(),
            deliveries: &self.context.deliveries.borrow(),
        };
        let snapshot = Arc::new(self.context.summary.snapshot(now, &view, &around));
        self.context.snapshots.send_replace(snapshot.clone());
        self.context.progress.mark(now);
        snapshot
    }

    /// Makes a batch and hands it to the spool; the answer comes once it is kept.
    fn export(&mut self) -> Option<oneshot::Receiver<()>> {
        let snapshot = self.publish();
        let batch = self.context.summary.batch(&snapshot);
        match self.context.spool.append(batch, snapshot.made) {
            Ok(kept) => Some(kept),
            Err(e) => {
                self.dropped_batches += 1;
                tracing::error!(error = %e, "batch dropped");
                None
            }
        }
    }
}
