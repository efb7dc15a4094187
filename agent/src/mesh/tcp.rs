//! TCP connect to the peer region's database ports: connect, then close at once. No octet of SQL.

use std::sync::Arc;

use lagmesh_daemon::{Clock, Shutdown};
use lagmesh_model::fleet::{Address, Fleet};
use lagmesh_model::ids::RegionName;
use lagmesh_model::state::Outcome;
use lagmesh_postgres::conninfo::{ConnInfo, Target};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::mesh::line::outcome_of;
use crate::mesh::opinion::{Attempt, End, Opinion};
use crate::mesh::resolve::Host;
use crate::mesh::rotation::Rotation;

/// The database ports of a region's nodes that can be reached by TCP. A connection string is written for the agents of the node's
/// own region: what is local to them would lead us to our own host, and is left out unless the peer's agent is local, too.
pub fn targets(fleet: &Fleet, region: &RegionName) -> Vec<Address> {
    let local = fleet.region(region).is_some_and(|region| region.agents.iter().all(|agent| agent.mesh.is_loopback()));
    // Only host and port matter: any user will do to complete the connection string.
    let environment = |variable: &str| (variable == "USER").then(|| "lagmesh".to_owned());
    let hosts = fleet.nodes_of(region).filter_map(|(_, node)| ConnInfo::parse(&node.dsn, environment).ok());
    let target = |host: lagmesh_postgres::conninfo::Host| {
        let name = match host.target {
            Target::Socket(_) => return None,
            Target::Name(name) => name,
            Target::Address { ip, .. } => ip.to_string(),
        };
        let address = Address { host: name, port: host.port };
        (local || !address.is_loopback()).then_some(address)
    };
    hosts.flat_map(|conninfo| conninfo.hosts).filter_map(target).collect()
}

/// Probes a region until shutdown.
///
/// # Errors
/// Never: a region that cannot be reached is data.
pub async fn run(opinion: Opinion, targets: Vec<Address>, shutdown: Shutdown) -> anyhow::Result<()> {
    let hosts = targets.into_iter().map(|target| Host::new(target.host, target.port)).collect();
    let rotation = Arc::new(Rotation::new(hosts));
    let give_up = opinion.timing.give_up;
    let attempt = || {
        let (rotation, clock) = (Arc::clone(&rotation), opinion.clock.clone());
        async move { connect(&rotation, &clock, give_up).await }
    };
    opinion.run(attempt, &shutdown).await;
    Ok(())
}

async fn connect(rotation: &Rotation<Host>, clock: &Clock, give_up: std::time::Duration) -> Attempt {
    let (number, host) = rotation.next();
    let before = clock.now();
    let address = match host.address().await {
        Ok(address) => address,
        Err(error) => {
            tracing::debug!(%error, "resolve database host");
            return Attempt::new(before, clock.now(), End::Failed(Outcome::Unresolved));
        }
    };
    let started = clock.now();
    let end = match timeout(give_up, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            let ended = clock.now();
            drop(stream);
            rotation.answered(number);
            return Attempt::new(started, ended, End::Answered);
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => End::Silence,
        Ok(Err(error)) => End::Failed(outcome_of(&error)),
        Err(_) => End::Silence,
    };
    Attempt::new(started, clock.now(), end)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A listening port answers, a closed one refuses, and a refusal has no round-trip time.
    #[tokio::test]
    async fn real_ports() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let clock = Clock::new();
        let open = Rotation::new(vec![Host::new("localhost", port)]);
        let attempt = connect(&open, &clock, Duration::from_secs(5)).await;
        assert_eq!(attempt.end, End::Answered);
        assert!(attempt.ended.raw > attempt.started.raw);
        drop(listener);
        let closed = Rotation::new(vec![Host::new("127.0.0.1", port)]);
        assert_eq!(connect(&closed, &clock, Duration::from_secs(5)).await.end, End::Failed(Outcome::Refused));
    }
}
