//! A database in trouble is data: the agent runs on, says what is wrong and what to do, and recovers by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::NodeState;
use lagmesh_model::status::Node;
use lagmesh_tests::wait;
use lagmesh_tests::world::World;
use nix::sys::signal::Signal;

use crate::support::ready_world;

/// An agent's back-off is capped below this.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

async fn node(world: &World, region: &str) -> Result<Node> {
    world.agent_status(region).await?.nodes.into_iter().next().context("the agent lists no node")
}

async fn until_node(world: &World, region: &str, state: NodeState) -> Result<Node> {
    wait::until(&format!("the node in {region} is {state}"), NOTICED_WITHIN, || async {
        let node = node(world, region).await?;
        ensure!(node.state == state, "it is {}: {}", node.state, node.why);
        Ok(node)
    })
    .await
}

/// Each trouble has its own name and says what to do; each ends by itself when its cause does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_trouble_has_a_name_and_ends_by_itself() -> Result<()> {
    let mut world = ready_world("trouble").await?;
    let kick = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'lagmesh'";

    let writer = world.server("new-york-db")?;
    writer.app("REVOKE pg_monitor FROM lagmesh").await?;
    writer.app(kick).await?;
    let found = until_node(&world, "new-york", NodeState::MissingGrant).await?;
    ensure!(found.why.contains("pg_monitor"), "{}", found.why);
    world.server("new-york-db")?.app("GRANT pg_monitor TO lagmesh").await?;
    until_node(&world, "new-york", NodeState::Ok).await?;

    let writer = world.server("new-york-db")?;
    writer.app("ALTER ROLE lagmesh PASSWORD 'another'").await?;
    writer.app(kick).await?;
    let found = until_node(&world, "new-york", NodeState::Refused).await?;
    ensure!(found.why.contains("password") || found.why.contains("pg_hba"), "{}", found.why);
    world.server("new-york-db")?.app("ALTER ROLE lagmesh PASSWORD 'lagmesh'").await?;
    until_node(&world, "new-york", NodeState::Ok).await?;

    let writer = world.server("new-york-db")?;
    writer.app("ALTER ROLE lagmesh SET default_transaction_read_only = on").await?;
    writer.app(kick).await?;
    until_node(&world, "new-york", NodeState::ReadOnly).await?;
    let writer = world.server("new-york-db")?;
    writer.app("ALTER ROLE lagmesh RESET default_transaction_read_only").await?;
    writer.app(kick).await?;
    until_node(&world, "new-york", NodeState::Ok).await?;

    world.server("new-york-db")?.app("ALTER TABLE lagmesh.beat RENAME TO gone").await?;
    let found = until_node(&world, "new-york", NodeState::MissingTable).await?;
    ensure!(found.why.contains("bootstrap"), "{}", found.why);
    world.server("new-york-db")?.app("ALTER TABLE lagmesh.gone RENAME TO beat").await?;
    until_node(&world, "new-york", NodeState::Ok).await?;
    world.ready().await?;
    world.stop().await
}

/// An agent that starts before its database waits for it; a database that goes away comes back without help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_down_at_start_is_waited_for() -> Result<()> {
    let mut world = ready_world("down").await?;
    world.stop_agent("dublin", Signal::SIGTERM).await?;
    world.server("dublin-db")?.stop(Signal::SIGINT).await?;
    world.start_agent("dublin")?;
    let found = wait::until("the agent answers", NOTICED_WITHIN, || async { node(&world, "dublin").await }).await?;
    ensure!(found.state != NodeState::Ok, "a dead server cannot be ok");
    let found = until_node(&world, "dublin", NodeState::Unreachable).await?;
    ensure!(!found.why.is_empty() && !found.replayed.is_known(), "{found:?}");
    world.server("dublin-db")?.start().await?;
    until_node(&world, "dublin", NodeState::Ok).await?;
    world.ready().await?;
    world.stop().await
}
