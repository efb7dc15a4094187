//! Delivers what the spool keeps: one task per collector, OTLP over HTTP, live batches first.

pub mod answer;
pub mod credentials;
pub mod lanes;
mod post;
mod rotate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::stream::FuturesUnordered;
use lagmesh_daemon::backoff::random_seed;
use lagmesh_daemon::{Clock, Hangups, Shutdown, Supervisor};
use lagmesh_model::fleet::Collector;
use lagmesh_model::ids::CollectorName;
use lagmesh_model::time::Reading;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::spool::{Level, Levels, ParcelId, Refusal, Settled, Spool, Unavailable};
use answer::Answer;
use credentials::{CredentialFiles, Credentials};
use lanes::{Fate, Lane, Lanes, Step};
pub use post::{Authorities, BadAuthorities, Client};
pub use rotate::{Showing, Showings};

/// How long one request may take in all; a collector answers once the batch is on its disk.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// On shutdown: how long to wait for the last batch to be made, and how long requests may take before and after it.
const LAST_BATCH_WAIT: Duration = Duration::from_secs(4);
const LAST_REQUEST_DEADLINE: Duration = Duration::from_secs(2);
/// On shutdown: how many batches to deliver at most; the rest is for the next run.
const LAST_BATCHES_MAX: usize = 4;

/// How the delivery to one collector goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// When it last acknowledged a batch; `None` if it has not since this process started.
    pub acknowledged: Option<Reading>,
    /// What is wrong, if the last attempt went wrong.
    pub error: Option<String>,
}

/// How all deliveries go.
pub type Deliveries = BTreeMap<CollectorName, Delivery>;

/// What every sender needs.
#[derive(Debug)]
pub struct SendContext {
    /// To whom.
    pub collectors: Vec<Collector>,
    /// The time between two batches.
    pub interval: Duration,
    /// What to show them, and whom to believe.
    pub credentials: Credentials,
    /// Where that stands, to be read again.
    pub files: CredentialFiles,
    /// Who asks for that.
    pub hangups: Hangups,
    /// Where from.
    pub spool: Spool,
    /// The clocks.
    pub clock: Clock,
    /// Cancelled once the last batch of this run is in the spool.
    pub last_batch: Shutdown,
}

/// A client of each collector.
pub type Clients = BTreeMap<CollectorName, Client>;

/// Starts the tasks, named `send <collector>` and `credentials`, and tells how they get on.
///
/// # Errors
/// If there is no way to make a TLS client, such as a machine without certificates of authorities.
pub fn start(context: SendContext, supervisor: &mut Supervisor) -> anyhow::Result<(watch::Receiver<Deliveries>, Showings)> {
    let clients = Arc::new(rotate::clients(&context.collectors, &context.credentials)?);
    let (showing_told, showing) =
        watch::channel(Showing { clients: clients.clone(), not_after_s: context.credentials.not_after_s, failures: 0 });
    let rotating = rotate::run(context.files, context.collectors.clone(), showing_told, context.hangups, supervisor.shutdown());
    supervisor.spawn("credentials", rotating);
    let deliveries = context.collectors.iter().map(|collector| (collector.name.clone(), Delivery::default())).collect();
    let (told, deliveries) = watch::channel(deliveries);
    for (collector, client) in clients.iter() {
        let sender = Sender {
            client: client.clone(),
            showing: showing.clone(),
            lanes: Lanes::new(context.interval, random_seed()),
            levels: context.spool.levels(),
            spool: context.spool.clone(),
            clock: context.clock.clone(),
            last_batch: context.last_batch.clone(),
            told: told.clone(),
            collector: collector.clone(),
        };
        supervisor.spawn(format!("send {}", sender.collector), sender.run(supervisor.shutdown()));
    }
    Ok((deliveries, showing))
}

/// A batch that was to be sent, and what came of it: its number and the answer, or nothing if it no longer waits.
#[derive(Debug)]
struct Attempt {
    id: ParcelId,
    lane: Lane,
    came_to: Result<Option<(u64, Answer)>, Unavailable>,
}

struct Sender {
    collector: CollectorName,
    client: Client,
    showing: Showings,
    lanes: Lanes,
    spool: Spool,
    levels: watch::Receiver<Levels>,
    clock: Clock,
    last_batch: Shutdown,
    told: watch::Sender<Deliveries>,
}

impl Sender {
    async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut attempts: FuturesUnordered<BoxFuture<'static, Attempt>> = FuturesUnordered::new();
        while !shutdown.is_cancelled() {
            let level = self.level();
            let wait = match self.lanes.step(&level, self.clock.now().raw) {
                Step::Send(id, lane) => {
                    attempts.push(Box::pin(self.attempt(id, lane)));
                    continue;
                }
                Step::Wait(wait) => Some(wait),
                Step::Idle => None,
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                Some(()) = OptionFuture::from(wait.map(sleep)) => {}
                () = news(&mut self.levels) => {}
                Some(attempt) = attempts.next() => {
                    // A disk that hangs does not hold up the end.
                    let cut_off = async {
                        shutdown.cancelled().await;
                        sleep(LAST_REQUEST_DEADLINE).await;
                    };
                    tokio::select! {
                        _ = self.settle(attempt) => {}
                        () = cut_off => {}
                    }
                }
            }
        }
        // A request that is cut off may have arrived: the batch stays in the spool, and whoever gets it twice can tell.
        let finish = async {
            while let Some(attempt) = attempts.next().await {
                self.settle(attempt).await;
            }
        };
        timeout(LAST_REQUEST_DEADLINE, finish).await.ok();
        self.deliver_last().await;
        Ok(())
    }

    /// Tries once more to deliver the newest batch, so that others see the end of this run, and a few before it.
    async fn deliver_last(&mut self) {
        timeout(LAST_BATCH_WAIT, self.last_batch.cancelled()).await.ok();
        let deliver = async {
            for _ in 0..LAST_BATCHES_MAX {
                let level = self.level();
                let next =
                    if level.newest_is_live { level.newest } else { level.run_ends.first().or(level.oldest.first()).copied() };
                let Some(id) = next else { return };
                let attempt = self.attempt(id, Lane::Live).await;
                if self.settle(attempt).await != Some(Fate::Delivered) {
                    return;
                }
            }
        };
        timeout(LAST_REQUEST_DEADLINE, deliver).await.ok();
    }

    fn level(&mut self) -> Level {
        let levels = self.levels.borrow_and_update();
        levels.get(&self.collector).cloned().expect("the spool has a level for every collector of the fleet file")
    }

    /// Sends with what is shown from now on, if that has changed.
    fn take_over(&mut self) {
        if self.showing.has_changed().unwrap_or(false)
            && let Some(client) = self.showing.borrow_and_update().clients.get(&self.collector)
        {
            self.client = client.clone();
        }
    }

    /// Begins to send a batch.
    fn attempt(&mut self, id: ParcelId, lane: Lane) -> impl Future<Output = Attempt> + Send + use<> {
        self.take_over();
        let (spool, collector, client) = (self.spool.clone(), self.collector.clone(), self.client.clone());
        async move {
            let came_to = match spool.fetch(&collector, id).await {
                Ok(Some(parcel)) => Ok(Some((parcel.sequence, client.post(&parcel).await))),
                Ok(None) => Ok(None),
                Err(e) => Err(e),
            };
            Attempt { id, lane, came_to }
        }
    }

    /// What became of a batch; `None` if it did not come to an attempt, or if the spool did not take note of its end.
    async fn settle(&mut self, attempt: Attempt) -> Option<Fate> {
        let id = attempt.id;
        match self.try_settle(attempt).await {
            Ok(Some(fate)) => return Some(fate),
            // The level that named it was out of date, as it may be while the disk fails.
            Ok(None) => {}
            Err(e) => tracing::warn!(collector = %self.collector, error = %e, "take a batch from the spool"),
        }
        self.lanes.hindered(id, self.clock.now().raw);
        None
    }

    async fn try_settle(&mut self, Attempt { id, lane, came_to }: Attempt) -> Result<Option<Fate>, Unavailable> {
        let Some((sequence, answer)) = came_to? else { return Ok(None) };
        let now = self.clock.now();
        tracing::debug!(collector = %self.collector, sequence, ?lane, ?answer, "sent a batch");
        let fate = self.lanes.answered(id, lane, &answer, now.raw);
        self.tell(&answer, now);
        match fate {
            Fate::Kept => {}
            Fate::Delivered => self.spool.settle(&self.collector, id, Settled::Acknowledged).await?,
            Fate::GivenUp => {
                let why = answer.trouble().unwrap_or_default().to_owned();
                self.spool.settle(&self.collector, id, Settled::Refused(Refusal { why, at: now.wall })).await?;
            }
        }
        Ok(Some(fate))
    }

    /// Publishes how it went, and logs it if it went otherwise than before.
    fn tell(&self, answer: &Answer, now: Reading) {
        let error = answer.trouble().map(str::to_owned);
        let collector = &self.collector;
        self.told.send_if_modified(|deliveries| {
            let Some(delivery) = deliveries.get_mut(collector) else { return false };
            match (&error, answer) {
                (Some(why), Answer::Refused { .. }) if delivery.error != error => {
                    tracing::error!(%collector, url = self.client.url(), why, "collector refuses batches for good; see `lagmesh dead-letters list`");
                }
                (Some(why), _) if delivery.error.is_none() => {
                    tracing::warn!(%collector, url = self.client.url(), why, "delivery is in trouble");
                }
                (None, _) if delivery.error.is_some() || delivery.acknowledged.is_none() => {
                    tracing::info!(%collector, "collector takes batches");
                }
                _ => {}
            }
            delivery.error = error;
            if matches!(answer, Answer::Accepted { .. }) {
                delivery.acknowledged = Some(now);
            }
            true
        });
    }
}

async fn news(levels: &mut watch::Receiver<Levels>) {
    if levels.changed().await.is_err() {
        // The spool has ended, which ends the process.
        std::future::pending::<()>().await;
    }
}
