//! An agent that nobody answers: no peer, no database, no collector. It must serve all the same, and say what it does not know.

use lagmesh_model::catalogue::SPOOL_BYTES;
use lagmesh_model::state::{LinkState, NodeState, ProbeKind, ReplicationState};

use crate::program::{Home, fleet, free_port, wait_for};

fn dead() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

/// With everything around it dead an agent becomes ready, serves every page, calls nothing healthy that it cannot see, says what
/// to do, and ends in order when asked to.
#[test]
fn everything_else_is_dead() {
    let home = Home::new(&fleet(&[("main", dead()), ("second", dead())]));
    let agent = home.start(&[]);
    assert_eq!(agent.get("/health"), (200, "alive\n".to_owned()));
    wait_for("readiness", || (agent.get("/ready").0 == 200).then_some(()));

    let status = wait_for("a verdict on the node", || {
        let status = agent.status();
        (status.nodes.first()?.state != NodeState::Unknown).then_some(status)
    });
    let node = &status.nodes[0];
    assert_eq!((node.node.as_str(), node.state), ("db-dublin", NodeState::Unreachable), "{node:?}");
    assert!(!node.why.is_empty() && !node.role.is_known() && !node.version.is_known(), "{node:?}");
    let link = status.links.iter().find(|link| link.peer.as_str() == "tokyo").unwrap();
    assert_ne!(link.state, LinkState::Ok, "{link:?}");
    // The host of the test itself may answer ICMP; nobody answers the rest.
    assert!(!link.why.is_empty() && !link.rtt(ProbeKind::Stamp).is_known() && !link.rtt(ProbeKind::Tcp).is_known(), "{link:?}");
    for replication in &status.replications {
        assert_ne!(replication.state, ReplicationState::Ok, "{replication:?}");
        assert!(!replication.lag.is_known() && !replication.staleness.is_known(), "{replication:?}");
    }

    let exports = wait_for("failed deliveries to both", || {
        let exports = agent.status().exports;
        exports.iter().all(|export| export.error.is_some() && export.pending_batches >= 2).then_some(exports)
    });
    assert_eq!(exports.len(), 2);
    assert!(exports.iter().all(|export| !export.acknowledged_age_s.is_known() && export.pending_bytes > 0), "{exports:?}");

    assert_eq!(agent.metric(&["lagmesh_agent_info{"]), Some(1.0));
    assert_eq!(agent.metric(&["lagmesh_node_state{", "db-dublin", "state=\"unreachable\""]), Some(1.0));
    assert_eq!(agent.metric(&["lagmesh_replication_lag_seconds_count"]), None, "unknown is absent");
    assert!(agent.metric(&[&SPOOL_BYTES.prometheus_name(), "collector=\"main\""]).unwrap() > 0.0);

    assert_eq!(agent.terminate().code(), Some(0));
}

/// Two agents never write one spool: the second one says so and ends.
#[test]
fn second_agent_on_one_folder_is_refused() {
    let home = Home::new(&fleet(&[("main", dead())]));
    let _first = home.start(&[]);
    let second = home.command().args(["--region", "dublin", "--mesh-listen", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(70), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
}
