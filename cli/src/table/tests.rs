//! Whole screens against golden text.

use lagmesh_model::known::Known;
use lagmesh_model::state::{Axis, LinkState, NodeRole, NodeState, ProbeKind, RegionState, ReplicationState};
use lagmesh_model::status::{Cluster, Export, Link, LinkKind, Node, Quantiles, Region, Replication, Seconds, Verdict};
use lagmesh_model::time::WallNanos;

use super::*;

const WHEN: WallNanos = WallNanos(1_790_000_000_000_000_000);

fn quantiles(p50_s: f64) -> Quantiles {
    Quantiles { samples: 960, min_s: p50_s * 0.99, p50_s, p99_s: p50_s * 1.1, max_s: p50_s * 2.0 }
}

fn link(region: &str, peer: &str, rtt_s: f64, lost: u64) -> Link {
    Link {
        region: region.parse().unwrap(),
        peer: peer.parse().unwrap(),
        state: if lost > 0 { LinkState::Lossy } else { LinkState::Ok },
        why: if lost > 0 { "loss over all flows is above 1 %".to_owned() } else { String::new() },
        flows_alive: Known::known(16),
        flows: 16,
        floor_s: None,
        kinds: vec![LinkKind { kind: ProbeKind::Stamp, rtt: Known::known(quantiles(rtt_s)), settled: 960, answered: 960 - lost }],
        clock_error_s: Known::known(0.001),
        evidence_age_s: Known::known(2.0),
    }
}

fn silent_link(region: &str, peer: &str) -> Link {
    let why = "the agent of tokyo is silent";
    let kinds = vec![LinkKind { kind: ProbeKind::Stamp, rtt: Known::unknown(why), settled: 0, answered: 0 }];
    Link { state: LinkState::Unknown, why: why.to_owned(), kinds, flows_alive: Known::unknown(why), ..link(region, peer, 1.0, 0) }
}

fn replication(node: &str, region: &str, lag_s: f64) -> Replication {
    let seconds = |estimate_s: f64| Known::known(Seconds { lower_s: estimate_s - 0.000_6, estimate_s, upper_s: estimate_s + 0.000_6 });
    Replication {
        cluster: "orders".parse().unwrap(),
        origin: "ny-1".parse().unwrap(),
        region: region.parse().unwrap(),
        node: node.parse().unwrap(),
        state: ReplicationState::Ok,
        why: String::new(),
        lag: seconds(lag_s),
        lag_recent: Known::known(quantiles(lag_s)),
        staleness: seconds(lag_s + 0.5),
        backlog_received_bytes: Known::known(0),
        backlog_replayed_bytes: Known::known(12_595),
        evidence_age_s: Known::known(2.0),
    }
}

fn node(name: &str, region: &str, role: NodeRole) -> Node {
    Node {
        cluster: "orders".parse().unwrap(),
        region: region.parse().unwrap(),
        node: name.parse().unwrap(),
        state: NodeState::Ok,
        why: String::new(),
        role: Known::known(role),
        version: Known::known(160_004),
        system: Known::unknown("not read"),
        timeline: Known::known(lagmesh_model::position::Timeline(1)),
        received: Known::unknown("not read"),
        replayed: Known::unknown("not read"),
        beat: Known::unknown("not read"),
        evidence_age_s: Known::known(1.5),
    }
}

fn region(name: &str, state: RegionState, why: &str) -> Region {
    let verdict = |axis| Verdict { axis, state, for_s: 725.0, why: why.to_owned(), votes: Vec::new() };
    let verdicts = Axis::ALL.iter().copied().map(verdict).collect();
    Region { region: name.parse().unwrap(), coordinates: None, verdicts, evidence_age_s: Known::known(4.0) }
}

/// Tokyo's agent is silent, New York loses packets to Dublin, the rest is well.
fn status() -> FleetStatus {
    let silent = "tokyo's agent has sent nothing for 2m 05s";
    let mut tokyo = region("tokyo", RegionState::Unknown, silent);
    tokyo.evidence_age_s = Known::Stale { value: 125.0, age_s: 125.0 };
    let mut to_tokyo = replication("tk-1", "tokyo", 0.1);
    to_tokyo.state = ReplicationState::Unknown;
    to_tokyo.why = silent.to_owned();
    to_tokyo.lag = Known::Stale { value: Seconds { lower_s: 0.099, estimate_s: 0.1, upper_s: 0.101 }, age_s: 125.0 };
    to_tokyo.staleness = Known::unknown(silent);
    to_tokyo.backlog_received_bytes = Known::unknown(silent);
    to_tokyo.backlog_replayed_bytes = Known::unknown(silent);
    let mut tk = node("tk-1", "tokyo", NodeRole::Standby);
    tk.state = NodeState::Unknown;
    tk.why = silent.to_owned();
    tk.role = Known::unknown(silent);
    FleetStatus {
        fleet: "demo".to_owned(),
        version: "0.1.0".to_owned(),
        at: WHEN,
        regions: vec![region("new-york", RegionState::Healthy, ""), region("dublin", RegionState::Healthy, ""), tokyo],
        regions_reporting: 2,
        links: vec![
            link("new-york", "dublin", 0.071_2, 12),
            silent_link("new-york", "tokyo"),
            link("dublin", "new-york", 0.071_3, 0),
            silent_link("dublin", "tokyo"),
        ],
        nodes: vec![node("ny-1", "new-york", NodeRole::Writer), node("db-1", "dublin", NodeRole::Standby), tk],
        replications: vec![replication("db-1", "dublin", 0.038_1), to_tokyo],
        clusters: vec![Cluster {
            cluster: "orders".parse().unwrap(),
            writers: vec!["ny-1".parse().unwrap()],
            writers_max: 1,
            lag_objective_s: 5.0,
        }],
    }
}

#[test]
fn look() {
    eprintln!("{}", fleet(&status(), Style::PLAIN));
    eprintln!("{}", fleet(&status(), Style { color: false, width: Some(72) }));
    eprintln!("{}", fleet(&status(), Style { color: false, width: Some(40) }));
}
