//! lagmesh-agent: one per region. It measures the mesh and the replication and exports what it saw.
//!
//! Data flows one way: the mesh and the database part observe, the trackers and the summary fold, the spool keeps, the senders
//! deliver. Modules stand in that order. All of them follow the fleet file that [`reload`] says is in force.

pub mod config;
pub mod reload;
pub mod measurement;
pub mod wall;
pub mod slot;
pub mod mesh;
pub mod database;
pub mod link;
pub mod replication;
pub mod summary;
pub mod spool;
pub mod send;
pub mod http;
mod control;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lagmesh_daemon::backoff::random_seed;
use lagmesh_daemon::{Clock, Hangups, Readiness, RunError, Shutdown, Supervisor, Watchdog, notify};
use lagmesh_model::ids::BootId;
use lagmesh_model::series::Exporter;
use lagmesh_model::time::WallNanos;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::database::DatabaseContext;
use crate::http::Pages;
use crate::measurement::{Observations, Outbox};
use crate::mesh::MeshContext;
use crate::reload::Fleets;
use crate::send::SendContext;
use crate::spool::{OpenError, Settings, Spool, Store};
use crate::summary::{Awaited, Summary, SummaryContext, Viewer};

/// How long an orderly shutdown may take in all.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// How many observations may wait for the summary: ten seconds of a mesh of thirty regions.
const OBSERVATIONS_QUEUE: usize = 16 * 1024;
/// The summary does a round twice a second; the watchdog is not fed when it has not for this long.
const SUMMARY_QUIET_MAX: Duration = Duration::from_secs(10);
/// The mesh thread gets round ten times a second.
const MESH_QUIET_MAX: Duration = Duration::from_secs(10);

/// Runs an agent until `shutdown` is cancelled or a part of it fails.
///
/// # Errors
/// If it cannot start, a part of it fails, or it does not end in time.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    run_under(config, Supervisor::new(shutdown)).await
}

/// The same under a supervisor that may have tasks of its own.
///
/// # Errors
/// The same.
pub async fn run_under(config: Config, mut supervisor: Supervisor) -> Result<(), RunError> {
    start(config, &mut supervisor).await.map_err(RunError::Start)?;
    supervisor.run(SHUTDOWN_DEADLINE).await?;
    Ok(())
}

/// Builds the chain in the order in which data flows.
async fn start(config: Config, supervisor: &mut Supervisor) -> anyhow::Result<()> {
    for warning in config.fleet.warnings() {
        tracing::warn!(warning, "fleet file");
    }
    let clock = Clock::new();
    let begin = clock.now();
    let exporter = exporter(&config);
    let (readiness, watchdog) = (Readiness::new(), Watchdog::new());
    let awaited = Awaited::new(&config.fleet, &config.region, &readiness);

    // What can be refused is asked for before anything runs.
    let hangups = Hangups::install()?;
    let (listener, http) = listen(config.http_listen).await?;
    let store = open_spool(&config, exporter.boot, begin.wall)?;

    let (fleet, fleets) = watch::channel(config.fleet.clone());
    let (observations, queue) = Observations::queue(OBSERVATIONS_QUEUE);
    let (outbox_told, outbox) = watch::channel(Arc::new(Outbox::default()));
    let views = mesh::start(mesh_context(&config, &fleets, &clock, &observations, outbox, &watchdog), supervisor)
        .context("start the mesh")?;
    database::start(database_context(&config, &fleets, &clock, &observations, outbox_told), supervisor)
        .context("start the database part")?;

    let spool = Spool::start(store, config.fleet.export.compression, supervisor)?;
    let last_batch = Shutdown::new();
    let sending = SendContext {
        collectors: config.fleet.collectors.clone(),
        interval: config.fleet.export.interval,
        credentials: config.credentials.clone(),
        files: config.credential_files.clone(),
        hangups: Hangups::install()?,
        spool: spool.clone(),
        clock: clock.clone(),
        last_batch: last_batch.clone(),
    };
    let (deliveries, showing) = send::start(sending, supervisor)?;

    let summary = Summary::new(&config.fleet, exporter.clone(), config.keys.is_some(), begin);
    let (viewer, questions) = Viewer::new();
    let summing = SummaryContext {
        summary,
        region: config.region.clone(),
        fleets,
        queue,
        views,
        spool: spool.clone(),
        deliveries,
        showing,
        questions,
        awaited,
        export_interval: config.fleet.export.interval,
        clock: clock.clone(),
        progress: watchdog.register("summary", SUMMARY_QUIET_MAX),
        last_batch,
    };
    supervisor.spawn("summary", summary::run(summing, observations, supervisor.shutdown()));
    let pages = Pages { viewer, readiness: readiness.clone() };
    supervisor.spawn("http", http::serve(listener, pages, supervisor.shutdown()));
    if let Some(socket) = control::listen(&config.state_dir) {
        supervisor.spawn("control", control::serve(socket, spool, supervisor.shutdown()));
    }
    notify::spawn(supervisor, readiness, watchdog);
    supervisor.spawn("reload", reload::run(config.clone(), fleet, hangups, supervisor.shutdown()));
    tracing::info!(
        fleet = config.fleet.name, region = %config.region, agent = %config.agent, boot = %exporter.boot, version = exporter.version,
        %http, mesh = %config.mesh_listen, state_dir = %config.state_dir.display(), "started"
    );
    Ok(())
}

fn exporter(config: &Config) -> Exporter {
    Exporter {
        fleet: config.fleet.name.clone(),
        region: config.region.clone(),
        agent: config.agent.clone(),
        boot: BootId(random_seed()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listening = || format!("listen on http://{address}; choose another address with --http-listen");
    let listener = TcpListener::bind(address).await.with_context(listening)?;
    let bound = listener.local_addr().with_context(listening)?;
    Ok((listener, bound))
}

fn open_spool(config: &Config, boot: BootId, started: WallNanos) -> Result<Store, OpenError> {
    Store::open(Settings {
        path: config.state_dir.join("spool.db"),
        collectors: config.fleet.collectors.iter().map(|collector| collector.name.clone()).collect(),
        bytes_max: config.fleet.export.spool_bytes_max,
        age_max: config.fleet.export.spool_age_max,
        boot,
        started,
    })
}

fn mesh_context(
    config: &Config,
    fleets: &Fleets,
    clock: &Clock,
    observations: &Observations,
    outbox: watch::Receiver<Arc<Outbox>>,
    watchdog: &Watchdog,
) -> MeshContext {
    MeshContext {
        fleets: fleets.clone(),
        region: config.region.clone(),
        agent: config.agent.clone(),
        listen: config.mesh_listen,
        keys: config.keys.clone(),
        clock: clock.clone(),
        observations: observations.clone(),
        outbox,
        progress: watchdog.register("mesh", MESH_QUIET_MAX),
    }
}

fn database_context(
    config: &Config,
    fleets: &Fleets,
    clock: &Clock,
    observations: &Observations,
    outbox: watch::Sender<Arc<Outbox>>,
) -> DatabaseContext {
    DatabaseContext {
        fleets: fleets.clone(),
        region: config.region.clone(),
        agent: config.agent.clone(),
        clock: clock.clone(),
        observations: observations.clone(),
        outbox,
    }
}
