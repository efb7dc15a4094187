//! The database part: for every node of the own region one task that finds out what the node is, writes beats to it if it takes
//! writes, reads the beats of others if it follows them, and says what is wrong with it and what to do. Nothing that goes wrong with
//! a node ends the agent.
//!
//! Shells (`node`, `reader`, `writer`, `ledger`, `levels`) do the I/O and decide nothing; what they ask stands in the pure modules beside them.

mod health;
mod ledger;
mod levels;
mod node;
pub mod poll_plan;
mod reader;
mod schedule;
mod site;
mod trouble;
mod watch;
mod writer;

use std::sync::Arc;

use anyhow::Context as _;
use lagmesh_daemon::{Clock, Supervisor};
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_postgres::ConnInfo;
use tokio::sync::watch as channel;

use crate::measurement::{Observations, Outbox};
use crate::reload::Fleets;
use site::Site;

/// What the database part needs.
#[derive(Debug)]
pub struct DatabaseContext {
    /// The fleet file in force. Our own nodes are the same in all that come.
    pub fleets: Fleets,
    /// Our region: its nodes are watched.
    pub region: RegionName,
    /// Our name.
    pub agent: AgentName,
    /// The clock.
    pub clock: Clock,
    /// Where news go.
    pub observations: Observations,
    /// What the mesh tells the peers.
    pub outbox: channel::Sender<Arc<Outbox>>,
}

/// Starts one task per node of the own region.
///
/// # Errors
/// If a node's connection string cannot be understood. A node that cannot be reached is news, not an error.
pub fn start(context: DatabaseContext, supervisor: &mut Supervisor) -> anyhow::Result<()> {
    let context = Arc::new(context);
    let fleet = Arc::clone(&context.fleets.borrow());
    for (cluster, node) in fleet.nodes_of(&context.region) {
        let mut info = ConnInfo::parse(&node.dsn, |name| std::env::var(name).ok())
            .with_context(|| format!("node {}: dsn in the fleet file", node.name))?;
        info.application_name = Some("lagmesh-agent".to_owned());
        let site = Arc::new(Site::new(&context, cluster, node, info));
        tracing::info!(node = %node.name, agent = %context.agent, "watch node");
        supervisor.spawn(format!("node {}", node.name), node::run(site, supervisor.shutdown()));
    }
    Ok(())
}
