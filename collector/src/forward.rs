//! Passes on what `/metrics` shows to the back ends of the fleet file: Prometheus remote write or OTLP.
//!
//! Once per export interval the same series that a scrape gets are taken down, with a label of time that only grows, into a durable
//! queue. Each target has a cursor of its own there and gets snapshot after snapshot, so that the order of every series is right by
//! construction. A snapshot holds cumulative totals: one that is lost costs resolution in time and no count.

mod answer;
mod board;
mod config;
mod otlp;
mod plan;
mod points;
mod post;
mod queue;
mod remote_write;
mod send;

use std::path::Path;

use anyhow::Context as _;
use lagmesh_daemon::backoff::random_seed;
use lagmesh_daemon::{Clock, Shutdown, Supervisor};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::TargetName;
use lagmesh_model::otlp::Relay;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::engine::Ask;
pub use board::Board;
pub use config::{ForwardArgs, ForwardError, ForwardSettings};
use plan::Pace;
use post::Client;
use queue::{Bounds, Queue, Table};
use send::Sender;

/// `job` of what is passed on, and `service.name` in OTLP.
const JOB: &str = "lagmesh-collector";

/// What the ways out need.
#[derive(Debug)]
pub struct ForwardContext<'a> {
    /// Targets and interval.
    pub fleet: &'a Fleet,
    /// Credentials, whom to trust, and our own name.
    pub settings: &'a ForwardSettings,
    /// The folder of the queue.
    pub state_dir: &'a Path,
    /// Who knows the series.
    pub asks: mpsc::Sender<Ask>,
    /// The clocks.
    pub clock: Clock,
    /// Where it is shown how they get on.
    pub board: &'a Board,
}

/// Starts the tasks `forward take` and `forward <target>`; nothing at all if the fleet file names no target.
///
/// # Errors
/// If the queue or TLS cannot be had.
pub fn start(context: ForwardContext<'_>, supervisor: &mut Supervisor) -> anyhow::Result<()> {
    let ForwardContext { fleet, settings, state_dir, asks, clock, board } = context;
    if fleet.forwards.is_empty() {
        return Ok(());
    }
    let targets: Vec<TargetName> = fleet.forwards.iter().map(|forward| forward.name.clone()).collect();
    let bounds = Bounds { bytes_max: fleet.export.spool_bytes_max, age_max: fleet.export.spool_age_max };
    let queue = Queue::start(Table::open(state_dir, &targets, bounds)?, supervisor)?;
    board.show(queue.levels());
    let relay = Relay {
        service: JOB.to_owned(),
        instance: settings.instance.clone(),
        version: crate::engine::VERSION.to_owned(),
        fleet: fleet.name.clone(),
    };
    for forward in &fleet.forwards {
        let client = Client::new(forward, settings, relay.clone())
            .with_context(|| format!("set up TLS for {}; does the machine have certificates of authorities?", forward.url))?;
        let sender = Sender::new(forward.name.clone(), client, queue.clone(), board.clone(), Pace::new(random_seed()));
        supervisor.spawn(format!("forward {}", forward.name), sender.run(supervisor.shutdown()));
    }
    let every = fleet.export.interval;
    supervisor.spawn("forward take", take(asks, queue, clock, every, supervisor.shutdown()));
    Ok(())
}

/// Takes down what `/metrics` shows, again and again.
async fn take(
    asks: mpsc::Sender<Ask>,
    queue: Queue,
    clock: Clock,
    every: std::time::Duration,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let taken = async {
            tick.tick().await;
            let (ask, answer) = oneshot::channel();
            asks.send(ask).await.ok()?;
            Some((answer.await.ok()?, clock.now()))
        };
        let taken = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            taken = taken => taken,
        };
        // Without an answer the engine has ended, which ends the process.
        let Some((series, made)) = taken else {
            shutdown.cancelled().await;
            return Ok(());
        };
        if let Err(e) = queue.append(series, made).await {
            tracing::warn!(error = %e, "take down a snapshot to pass on");
        }
    }
}
