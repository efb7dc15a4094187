//! Delivers what the spool keeps: one task per collector, OTLP over HTTP, live batches first.

pub mod answer;
pub mod lanes;
mod post;

use std::collections::BTreeMap;
use std::time::Duration;

use lagmesh_daemon::backoff::random_seed;
use lagmesh_daemon::{Clock, Shutdown, Supervisor};
use lagmesh_model::fleet::Collector;
use lagmesh_model::ids::CollectorName;
use lagmesh_model::time::RawNanos;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::spool::{Level, Levels, ParcelId, Settled, Spool, Unavailable};
use answer::Answer;
use lanes::{Fate, Lane, Lanes, Step};
pub use post::{Authorities, BadAuthorities, Client};

/// How long one request may take in all; a collector answers once the batch is on its disk.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// On shutdown: how long to wait for the last batch to be made, and how long to try to deliver it.
const LAST_BATCH_WAIT: Duration = Duration::from_secs(4);
const LAST_REQUEST_DEADLINE: Duration = Duration::from_secs(2);

/// How the delivery to one collector goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// When it last acknowledged a batch; `None` if it has not since this process started.
    pub acknowledged: Option<RawNanos>,
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
    /// Whom to trust.
    pub authorities: Authorities,
    /// Where from.
    pub spool: Spool,
    /// The clocks.
    pub clock: Clock,
    /// Cancelled once the last batch of this run is in the spool.
    pub last_batch: Shutdown,
}

/// Starts the tasks, named `send <collector>`, and tells how they get on.
///
/// # Errors
/// If there is no way to make a TLS client, such as a machine without certificates of authorities.
pub fn start(context: SendContext, supervisor: &mut Supervisor) -> anyhow::Result<watch::Receiver<Deliveries>> {
    let deliveries = context.collectors.iter().map(|collector| (collector.name.clone(), Delivery::default())).collect();
    let (told, deliveries) = watch::channel(deliveries);
    for collector in context.collectors {
        let sender = Sender {
            client: Client::new(&collector.otlp, &context.authorities, REQUEST_DEADLINE)?,
            lanes: Lanes::new(context.interval, random_seed()),
            levels: context.spool.levels(),
            spool: context.spool.clone(),
            clock: context.clock.clone(),
            last_batch: context.last_batch.clone(),
            told: told.clone(),
            collector: collector.name,
        };
        supervisor.spawn(format!("send {}", sender.collector), sender.run(supervisor.shutdown()));
    }
    Ok(deliveries)
}

struct Sender {
    collector: CollectorName,
    client: Client,
    lanes: Lanes,
    spool: Spool,
    levels: watch::Receiver<Levels>,
    clock: Clock,
    last_batch: Shutdown,
    told: watch::Sender<Deliveries>,
}

impl Sender {
    async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        // A request that is cut off here may have arrived: the batch stays in the spool, and whoever gets it twice can tell.
        shutdown.run_until_cancelled(self.deliver()).await;
        self.deliver_last().await;
        Ok(())
    }

    async fn deliver(&mut self) {
        loop {
            let level = self.level();
            match self.lanes.step(&level, self.clock.now().raw) {
                Step::Send(id, lane) => self.send(id, lane).await,
                Step::Wait(wait) => {
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = self.news() => {}
                    }
                }
                Step::Idle => self.news().await,
            }
        }
    }

    /// One more attempt at the newest batch, so that others see the end of this run.
    async fn deliver_last(&mut self) {
        timeout(LAST_BATCH_WAIT, self.last_batch.cancelled()).await.ok();
        let level = self.level();
        if let Some(newest) = level.newest.filter(|_| level.newest_is_live) {
            timeout(LAST_REQUEST_DEADLINE, self.send(newest, Lane::Live)).await.ok();
        }
    }

    fn level(&mut self) -> Level {
        let levels = self.levels.borrow_and_update();
        levels.get(&self.collector).cloned().expect("the spool has a level for every collector of the fleet file")
    }

    async fn news(&mut self) {
        if self.levels.changed().await.is_err() {
            // The spool has ended, which ends the process.
            std::future::pending::<()>().await;
        }
    }

    async fn send(&mut self, id: ParcelId, lane: Lane) {
        if let Err(e) = self.try_send(id, lane).await {
            tracing::warn!(collector = %self.collector, error = %e, "take a batch from the spool");
            self.lanes.hindered(self.clock.now().raw);
        }
    }

    async fn try_send(&mut self, id: ParcelId, lane: Lane) -> Result<(), Unavailable> {
        let Some(parcel) = self.spool.fetch(&self.collector, id).await? else {
            // The level that named it was out of date, as it may be while the disk fails.
            self.lanes.hindered(self.clock.now().raw);
            return Ok(());
        };
        let answer = self.client.post(&parcel).await;
        let now = self.clock.now().raw;
        tracing::debug!(collector = %self.collector, sequence = parcel.sequence, ?lane, ?answer, "sent a batch");
        let fate = self.lanes.answered(id, lane, &answer, now);
        self.tell(&answer, now);
        match fate {
            Fate::Kept => Ok(()),
            Fate::Delivered => self.spool.settle(&self.collector, id, Settled::Acknowledged).await,
            Fate::GivenUp => {
                let why = answer.trouble();
                tracing::error!(collector = %self.collector, sequence = parcel.sequence, why, "collector refuses a batch for good");
                self.spool.settle(&self.collector, id, Settled::Refused).await
            }
        }
    }

    /// Publishes how it went, and logs it if it went otherwise than before.
    fn tell(&self, answer: &Answer, now: RawNanos) {
        let error = answer.trouble().map(str::to_owned);
        let collector = &self.collector;
        self.told.send_if_modified(|deliveries| {
            let Some(delivery) = deliveries.get_mut(collector) else { return false };
            match &error {
                Some(error) if delivery.error.is_none() => {
                    tracing::warn!(%collector, url = self.client.url(), error, "collector does not take batches, spooling");
                }
                None if delivery.error.is_some() || delivery.acknowledged.is_none() => {
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
