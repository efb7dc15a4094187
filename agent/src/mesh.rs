//! The mesh: STAMP probes to the agents of every other region and the reflector that answers theirs, with ICMP and TCP as second
//! opinions. What agents tell each other about beats rides in the same packets.
//!
//! Pure parts: [`stamp`] and [`tlv`] (packets), [`keys`], [`schedule`], [`budget`], [`kernel`] (its stamps), [`flow`], [`direction`]
//! (of losses), [`flow_path`] (whether it changed), [`held`] (what waits for the reflector's word), [`offset`], [`peer`], [`survey`] with
//! [`trace`] and [`mtu`] (what is asked beside the probes), [`bulletin`] (what to tell), [`hearing`] (what was told), [`reflector`],
//! [`engine`] (all of them), [`question`] (what is asked beside them). Shells: [`round`] over [`sender`], [`doors`], [`responder`],
//! [`line`] and [`socket`] (UDP), [`finder`] with [`resolve`], [`opinion`] with [`icmp`], [`tcp`], [`sql`] and [`http`].
//! `fuzzing` holds what the fuzz targets run.

pub mod budget;
pub mod bulletin;
pub mod direction;
pub mod doors;
pub mod engine;
pub mod finder;
pub mod flow;
pub mod flow_path;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod hearing;
pub mod held;
pub mod http;
pub mod icmp;
pub mod kernel;
pub mod keys;
pub mod line;
pub mod mtu;
pub mod offset;
pub mod opinion;
pub mod peer;
pub mod question;
pub mod reflector;
pub mod resolve;
pub mod responder;
pub mod rotation;
pub mod round;
pub mod schedule;
pub mod sender;
pub mod shared;
pub mod socket;
pub mod sql;
pub mod stamp;
pub mod step;
pub mod survey;
pub mod tcp;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "the fuzz targets take a part of it"))]
#[allow(clippy::unwrap_used, reason = "names that are written here are good")]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tlv;
pub mod trace;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lagmesh_daemon::{Clock, Progress, Shutdown, Supervisor};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::{AgentName, RegionName};
use rustix::process::setpriority_process;
use tokio::sync::watch;

use crate::measurement::{Observations, Outbox, PeerView, PeerViews};
use crate::mesh::doors::Doors;
use crate::mesh::engine::{Engine, Reloaded};
use crate::mesh::finder::find_peer;
pub use crate::mesh::keys::{KeyError, MeshKeys};
use crate::mesh::line::Lines;
use crate::mesh::opinion::OpinionContext;
use crate::mesh::round::go_round;
use crate::mesh::shared::{Ends, Shared};
use crate::reload::Fleets;

/// The niceness of the mesh's thread, which needs little time, but in time.
const NICE: i32 = -10;

/// What the mesh needs.
#[derive(Debug)]
pub struct MeshContext {
    /// The fleet file in force.
    pub fleets: Fleets,
    /// Our region.
    pub region: RegionName,
    /// Our name.
    pub agent: AgentName,
    /// Where the reflector listens (UDP).
    pub listen: SocketAddr,
    /// The keys; without any, packets are not authenticated.
    pub keys: Option<MeshKeys>,
    /// The clock.
    pub clock: Clock,
    /// Where observations go.
    pub observations: Observations,
    /// What to tell the peers.
    pub outbox: watch::Receiver<Arc<Outbox>>,
    /// Marked as long as the thread gets round.
    pub progress: Progress,
}

/// Starts the mesh: its thread, and a task for each second opinion. Must be called within a runtime.
///
/// # Errors
/// If the reflector cannot listen, a `sql_probe` cannot be understood, or the thread cannot be started.
pub fn start(context: MeshContext, supervisor: &mut Supervisor) -> anyhow::Result<PeerViews> {
    let doors = Doors::open(context.listen)?;
    opinion::start(opinions(&context), supervisor)?;
    let (views, published) = watch::channel(Arc::new(PeerView::default()));
    let shutdown = supervisor.shutdown();
    supervisor.spawn_thread("mesh", move || {
        // On a busy host probes must not be late. Who may not ask for that goes on like everybody else.
        if let Err(error) = setpriority_process(None, NICE) {
            tracing::debug!(%error, "the mesh thread runs at the usual priority");
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the mesh thread's runtime")?;
        let ended = runtime.block_on(run(context, doors, views, &shutdown));
        // A resolver that hangs must not hold up the end.
        runtime.shutdown_background();
        ended
    })?;
    Ok(published)
}

fn opinions(context: &MeshContext) -> OpinionContext {
    OpinionContext {
        fleets: context.fleets.clone(),
        region: context.region.clone(),
        agent: context.agent.clone(),
        clock: context.clock.clone(),
        observations: context.observations.clone(),
    }
}

async fn run(
    context: MeshContext,
    mut doors: Doors,
    views: watch::Sender<Arc<PeerView>>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let MeshContext { mut fleets, region, agent, listen, keys, clock, observations, outbox, progress } = context;
    tracing::info!(%listen, authenticated = keys.is_some(), "reflecting mesh packets");
    let fleet = Arc::clone(&fleets.borrow_and_update());
    let engine = Engine::new(&fleet, &region, &agent, keys, clock.now());
    let lines = Lines::new(&doors).context("watch the mesh socket")?;
    let shared = Shared::new(engine, clock, Ends { observations, views, progress });
    let find = |peer: usize| find_peer(&shared, &lines, peer, listen.ip());
    let peers: Vec<usize> = shared.with(|engine, _| engine.peers().keys().copied().collect());
    let mut finders: FuturesUnordered<_> = peers.into_iter().map(find).collect();
    let mut parts: FuturesUnordered<Pin<Box<dyn Future<Output = anyhow::Result<()>> + '_>>> = FuturesUnordered::new();
    parts.push(Box::pin(go_round(&shared, &lines, &mut doors)));
    parts.push(Box::pin(follow(&shared, outbox.clone())));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            ended = parts.next() => return ended.unwrap_or(Ok(())),
            // Its peer is gone.
            Some(()) = finders.next() => {}
            Ok(()) = fleets.changed() => {
                let fleet = Arc::clone(&fleets.borrow_and_update());
                finders.extend(reload(&shared, &lines, &fleet, &outbox).into_iter().map(find));
            }
        }
    }
}

/// Takes over another fleet file; returns whom to look for.
fn reload(shared: &Shared, lines: &Lines, fleet: &Arc<Fleet>, outbox: &watch::Receiver<Arc<Outbox>>) -> Vec<usize> {
    let Reloaded { added, removed } = shared.with(|engine, now| {
        let reloaded = engine.reload(fleet, now);
        engine.update(&outbox.borrow());
        reloaded
    });
    for peer in removed {
        lines.close(peer);
    }
    shared.reloaded.notify_waiters();
    added
}

/// Takes over what there is to tell whenever it changes.
async fn follow(shared: &Shared, mut outbox: watch::Receiver<Arc<Outbox>>) -> anyhow::Result<()> {
    loop {
        let news = Arc::clone(&outbox.borrow_and_update());
        shared.with(|engine, _| engine.update(&news));
        if outbox.changed().await.is_err() {
            // Nobody is left who could have something new to tell; what there is stays true.
            return std::future::pending().await;
        }
    }
}
