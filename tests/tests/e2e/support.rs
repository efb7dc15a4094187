//! What the tests share: a world that is ready, and what to ask it.

use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::ReplicationState;
use lagmesh_model::status::{FleetStatus, Replication, Seconds};
use lagmesh_tests::plan::Plan;
use lagmesh_tests::wait;
use lagmesh_tests::world::{Options, World};

/// The rest of a fleet file whose agents probe and export ten times a second.
pub(crate) const BUSY: &str =
    "[mesh]\ninterval = \"100ms\"\nflows = 2\ngive_up = \"1s\"\nicmp = false\ntcp = false\n[export]\ninterval = \"100ms\"\n";

/// Beats leave once per second.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

static TLS: Once = Once::new();

/// Clients of this process need it once.
pub(crate) fn install_crypto() {
    TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// A world in which every link and every lag is known.
pub(crate) async fn ready_world(purpose: &str) -> Result<World> {
    let mut world = starting_world(purpose).await?;
    let ready = world.ready().await;
    if ready.is_err() {
        world.keep_folder();
    }
    ready.with_context(|| format!("logs stay in {}", world.folder().display()))?;
    Ok(world)
}

/// A world whose programs have just been started.
pub(crate) async fn starting_world(purpose: &str) -> Result<World> {
    install_crypto();
    let plan = Plan::three_cities(purpose, Duration::from_secs(1), false);
    World::start(plan, &Options { emulated: false, http_port: 0, agent_env: &[] }, &mut |_| {}).await
}

/// The replication towards a region's node, as its own agent sees it.
pub(crate) async fn replication_at_agent(world: &World, region: &str) -> Result<Replication> {
    let status = world.agent_status(region).await?;
    status.replications.into_iter().next().with_context(|| format!("the agent in {region} lists no replication"))
}

/// The replication towards a region's node in the collector's view.
pub(crate) fn replication_in(status: &FleetStatus, region: &str) -> Result<Replication> {
    let found = status.replications.iter().find(|replication| replication.region.as_str() == region);
    found.cloned().with_context(|| format!("the collector lists no replication towards {region}"))
}

/// Waits until both the agent and the collector say that replication towards a region is in one of `states`.
pub(crate) async fn until_state(world: &World, region: &str, states: &[ReplicationState], within: Duration) -> Result<()> {
    wait::until(&format!("replication towards {region} is {states:?}"), within, || async {
        let own = replication_at_agent(world, region).await?;
        let central = replication_in(&world.fleet_status().await?, region)?;
        ensure!(states.contains(&own.state), "the agent says {} ({})", own.state, own.why);
        ensure!(states.contains(&central.state), "the collector says {} ({})", central.state, central.why);
        Ok(())
    })
    .await
}

/// The staleness of a replication, which must be known.
pub(crate) fn staleness(replication: &Replication) -> Result<Seconds> {
    replication.staleness.current().copied().with_context(|| format!("staleness is {:?}", replication.staleness))
}
