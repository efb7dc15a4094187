//! An agent that dies makes its own cells unknown and nothing else.

use std::time::Duration;

use anyhow::{Result, ensure};
use lagmesh_model::state::{LinkState, ProbeKind, ReplicationState};
use lagmesh_model::status::FleetStatus;
use lagmesh_tests::wait;
use nix::sys::signal::Signal;

use crate::support::{ready_world, replication_in};

fn tokyo_is_unknown(status: &FleetStatus) -> Result<()> {
    for link in status.links.iter().filter(|link| link.region.as_str() == "tokyo") {
        ensure!(link.state == LinkState::Unknown, "{} -> {} is {}", link.region, link.peer, link.state);
        ensure!(!link.rtt(ProbeKind::Stamp).is_known(), "{} -> {} still has an RTT", link.region, link.peer);
    }
    for link in status.links.iter().filter(|link| link.peer.as_str() == "tokyo") {
        ensure!(link.state == LinkState::Unknown, "{} -> {} is {} ({})", link.region, link.peer, link.state, link.why);
    }
    let replication = replication_in(status, "tokyo")?;
    ensure!(replication.state == ReplicationState::Unknown, "replication is {}", replication.state);
    ensure!(!replication.lag.is_known() && !replication.staleness.is_known(), "lag or staleness is still known");
    Ok(())
}

fn rest_is_well(status: &FleetStatus) -> Result<()> {
    for link in status.links.iter().filter(|link| link.region.as_str() != "tokyo" && link.peer.as_str() != "tokyo") {
        ensure!(link.state == LinkState::Ok, "{} -> {} is {} ({})", link.region, link.peer, link.state, link.why);
        ensure!(link.rtt(ProbeKind::Stamp).is_known(), "{} -> {} has no RTT", link.region, link.peer);
    }
    let dublin = replication_in(status, "dublin")?;
    ensure!(dublin.state == ReplicationState::Ok && dublin.lag.is_known(), "Dublin is {} ({})", dublin.state, dublin.why);
    Ok(())
}

/// Tokyo's cells become unknown when Tokyo's agent is killed, the rest stays; all is known again once it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_agent_makes_only_its_own_cells_unknown() -> Result<()> {
    let mut world = ready_world("killed").await?;
    world.stop_agent("tokyo", Signal::SIGKILL).await?;
    wait::until("Tokyo is unknown", Duration::from_secs(15), || async { tokyo_is_unknown(&world.fleet_status().await?) }).await?;
    rest_is_well(&world.fleet_status().await?)?;
    world.start_agent("tokyo")?;
    world.ready().await?;
    world.stop().await
}
