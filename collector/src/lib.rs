//! lagmesh-collector: receives what agents saw, merges it exactly, judges regions and links, and serves the result.
//!
//! Data flows one way: what is received goes to the store; what is on disk goes to the engine, which owns the merged view and the
//! judge; what follows is served. Modules stand in that order.

pub mod access;
pub mod listen;
pub mod config;
pub mod tally;
mod varint;
pub mod merge;
pub mod judge;
pub mod packed;
pub mod store;
pub mod history;
pub mod receive;
pub mod snapshot;
pub mod engine;
pub mod forward;
pub mod serve;

#[cfg(test)]
mod fixture;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::limits::open_files;
use lagmesh_daemon::{Clock, Hangups, Readiness, RunError, Shutdown, Supervisor, Watchdog, notify};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::access::{Access, layer, reload};
use crate::config::Config;
use crate::engine::{Engine, Wires};
use crate::forward::ForwardContext;
use crate::history::{Archive, History};
use crate::listen::{Listener, SharedTls};
use crate::receive::Intake;
use crate::serve::Pages;
use crate::store::{JOBS_QUEUE, Opened, Store};
use crate::tally::{Tally, Transport};

/// How long an orderly shutdown may take in all.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// How far the judge's thread steps back behind those that take batches in: it still gets a quarter of a processor that is busy with them.
const ENGINE_NICENESS: i32 = 5;
/// The same of the history's, which nobody waits for.
const HISTORY_NICENESS: i32 = 10;
/// Committed batches that may wait for the engine; beyond, commits wait, then clients.
const COMMITTED_QUEUE: usize = 256;
/// Files beside connections: the store, the logs, the runtime.
const OTHER_FILES: u64 = 256;
/// Scrapes that may wait at once.
const ASKS_QUEUE: usize = 8;
/// The engine does a step twice a second; the watchdog is not fed when it has not for this long.
const ENGINE_QUIET_MAX: Duration = Duration::from_secs(10);

/// A collector that has started: its addresses are bound, its parts run under the supervisor.
#[derive(Debug)]
pub struct Collector {
    /// Where OTLP over gRPC is taken.
    pub grpc: SocketAddr,
    /// Where everything else is served.
    pub http: SocketAddr,
    /// What is still waited for.
    pub readiness: Readiness,
    supervisor: Supervisor,
}

impl Collector {
    /// Starts a collector in this process, in the current tokio runtime; `shutdown` ends it.
    ///
    /// # Errors
    /// If an address or the store cannot be had.
    pub fn start(config: &Config, shutdown: Shutdown) -> Result<Collector, RunError> {
        Collector::start_under(config, Supervisor::new(shutdown))
    }

    /// The same under a supervisor that may have tasks of its own.
    ///
    /// # Errors
    /// The same.
    pub fn start_under(config: &Config, mut supervisor: Supervisor) -> Result<Collector, RunError> {
        let (grpc, http, readiness) = start(config, &mut supervisor).map_err(RunError::Start)?;
        Ok(Collector { grpc, http, readiness, supervisor })
    }

    /// Runs until shutdown or until a part fails.
    ///
    /// # Errors
    /// If a part fails or does not end in time.
    pub async fn run(self) -> Result<(), RunError> {
        Ok(self.supervisor.run(SHUTDOWN_DEADLINE).await?)
    }
}

/// Runs a collector until `shutdown` is cancelled or a part of it fails.
///
/// # Errors
/// If it cannot start, a part of it fails, or it does not end in time.
pub async fn run(config: &Config, shutdown: Shutdown) -> Result<(), RunError> {
    Collector::start(config, shutdown)?.run().await
}

/// Builds the chain in the order in which data flows.
fn start(config: &Config, supervisor: &mut Supervisor) -> anyhow::Result<(SocketAddr, SocketAddr, Readiness)> {
    for warning in config.fleet.warnings() {
        tracing::warn!(warning, "fleet file");
    }
    if config.rules.tokens.is_none() && !config.rules.open_to_read {
        tracing::warn!("nobody may read here, because there are no tokens: give --tokens-file");
    }
    let (clock, tally) = (Clock::new(), Tally::default());
    let (readiness, watchdog) = (Readiness::new(), Watchdog::new());

    let wanted = 2 * listen::CONNECTIONS_MAX as u64 + OTHER_FILES;
    let allowed = open_files(wanted);
    if allowed < wanted {
        tracing::warn!(allowed, wanted, "open files are limited: beyond, agents are turned away; raise LimitNOFILE or ulimit -n");
    }
    // What can be refused is asked for before anything runs.
    let hangups = Hangups::install()?;
    let grpc = Listener::bind(config.grpc_listen, "--grpc-listen")?;
    let http = Listener::bind(config.http_listen, "--http-listen")?;
    let (grpc_address, http_address) = (grpc.address, http.address);
    let Opened { store, restored, set_aside } = Store::open(&config.state_dir)?;
    if set_aside {
        tally.store_set_aside();
    }
    tally.store_rows_left_out(restored.left_out);
    let boots = restored.batches.len();
    let history = History::open(&config.state_dir, config.history, &restored.batches, (clock.clone(), tally.clone()))?;
    let (feed, fed_queue) = History::feed(&tally);
    supervisor.spawn_thread("history", move || {
        step_back(HISTORY_NICENESS);
        history.run(&fed_queue)
    })?;
    let archive = Archive::new(config.state_dir.clone(), clock.clone());

    let (jobs, jobs_queue) = mpsc::channel(JOBS_QUEUE);
    let (committed_told, committed) = mpsc::channel(COMMITTED_QUEUE);
    supervisor.spawn_thread("store", move || store.run(jobs_queue, &committed_told))?;

    let mut engine = Engine::new(config.fleet.clone(), restored, clock.clone(), tally.clone(), feed);
    let (published_told, published) = watch::channel(Arc::new(engine.publish()));
    let (asks, asks_queue) = mpsc::channel(ASKS_QUEUE);
    let wires = Wires {
        committed,
        asks: asks_queue,
        published: published_told,
        jobs: jobs.clone(),
        progress: watchdog.register("engine", ENGINE_QUIET_MAX),
        first: readiness.latch("first judgement"),
    };
    let (runtime, shutdown) = (Handle::current(), supervisor.shutdown());
    supervisor.spawn_thread("engine", move || {
        step_back(ENGINE_NICENESS);
        runtime.block_on(engine.run(wires, shutdown))
    })?;

    let forward = ForwardContext {
        fleet: &config.fleet,
        settings: &config.forward,
        state_dir: &config.state_dir,
        asks: asks.clone(),
        clock: clock.clone(),
        board: tally.board(),
    };
    forward::start(forward, supervisor)?;
    let (rules_told, rules) = watch::channel(Arc::new(config.rules.clone()));
    let access = Access::new(rules, config.limits, clock.clone(), tally.clone());
    tally.certificate_not_after(config.tls.as_ref().and_then(|tls| tls.not_after_s));
    let tls = config.tls.clone().map(SharedTls::new);
    let reload = reload::Reload { files: config.files.clone(), tls: tls.clone(), rules: rules_told, tally: tally.clone() };

    let intake = Intake::new(config.fleet.clone(), jobs, clock.clone(), tally);
    let pages = Pages { published, asks, readiness: readiness.clone(), clock };
    let routes = serve::router(pages).merge(history::router(archive)).merge(receive::http::router(&intake));
    let routes = serve::hardened(layer::guarded(routes, &access, Transport::Http));
    supervisor.spawn("http", http.serve(routes, tls.clone(), access.clone(), supervisor.shutdown()));
    let routes = layer::guarded(receive::grpc::router(&intake), &access, Transport::Grpc);
    supervisor.spawn("grpc", grpc.serve(routes, tls, access, supervisor.shutdown()));
    supervisor.spawn("reload", reload::run(reload, hangups, supervisor.shutdown()));
    notify::spawn(supervisor, readiness.clone(), watchdog);
    tracing::info!(
        fleet = config.fleet.name, version = engine::VERSION, grpc = %grpc_address, http = %http_address, tls = config.tls.is_some(),
        state_dir = %config.state_dir.display(), restored_boots = boots, "started"
    );
    Ok((grpc_address, http_address, readiness))
}

/// Lets the other threads go before this one: what keeps agents waiting goes first. Where the system does not allow that, everything works
/// all the same.
fn step_back(niceness: i32) {
    rustix::process::nice(niceness).ok();
}
