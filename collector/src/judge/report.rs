//! What a region says about itself, through its own agents.

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::{ClusterName, NodeName, RegionName};
use lagmesh_model::series::Attributes;
use lagmesh_model::state::{Axis, NodeRole, NodeState, ReplicationState, WriteOutcome};
use lagmesh_model::time::Reading;

use super::votes;
use crate::merge::{View, Witness};

/// More than one heartbeat write in this many must fail before it counts: a single one is an event, not a state.
const FAILING_ONE_OF: u64 = 10;

/// A region's word about itself on one axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Report {
    /// All is well.
    Good(String),
    /// It works, worse than it should.
    Degraded(String),
    /// Its own agent cannot reach what it stands beside: nobody knows better.
    Gone(String),
    /// Its agent reports, and knows nothing that helps.
    Mute(String),
    /// No agent of it reports.
    Silent(String),
}

/// One node as its own region's agent sees it.
struct Own<'a> {
    cluster: &'a ClusterName,
    node: &'a NodeName,
    state: NodeState,
    role: Option<NodeRole>,
    witness: Witness<'a>,
}

/// What the region's own agents report.
pub(super) fn of(fleet: &Fleet, view: &View, region: &RegionName, axis: Axis, now: Reading) -> Report {
    let witnesses = votes::fresh(view, region, now);
    if witnesses.is_empty() {
        return Report::Silent("its own agent does not report".to_owned());
    }
    if fleet.nodes_of(region).next().is_none() {
        return Report::Good("it has no node: judged by its agent alone".to_owned());
    }
    let nodes = nodes(fleet, &witnesses, region);
    let gone: Vec<&str> = nodes.iter().filter(|own| is_gone(own.state)).map(|own| own.node.as_str()).collect();
    if !nodes.is_empty() && gone.len() == nodes.len() {
        return Report::Gone(format!("its own agent cannot reach {}", gone.join(", ")));
    }
    match axis {
        Axis::Reads => reads(&nodes, region),
        Axis::Writes => writes(&nodes, region, &votes::origins(fleet, view, region, now)),
    }
}

fn nodes<'a>(fleet: &'a Fleet, witnesses: &[Witness<'a>], region: &RegionName) -> Vec<Own<'a>> {
    let own = |(cluster, node): (&'a lagmesh_model::fleet::Cluster, &'a lagmesh_model::fleet::Node)| {
        let attributes = of_node(&cluster.name, region, &node.name);
        let seen = witnesses.iter().filter_map(|witness| {
            let state = witness.state(&catalogue::NODE_STATE, &attributes, NodeState::ALL)?;
            let role = witness.word(&catalogue::NODE_ROLE, &attributes, Attribute::Role, NodeRole::ALL);
            Some(Own { cluster: &cluster.name, node: &node.name, state, role, witness: witness.clone() })
        });
        // Of several agents one watches and the others stand by; any other word beats "standing by".
        seen.min_by_key(|own| (own.state == NodeState::StandingBy, own.state == NodeState::Unknown))
    };
    fleet.nodes_of(region).filter_map(own).collect()
}

/// The attributes by which a node's own series are known.
pub(crate) fn of_node(cluster: &ClusterName, region: &RegionName, node: &NodeName) -> Attributes {
    Attributes::new().with(Attribute::Cluster, cluster).with(Attribute::Region, region).with(Attribute::Node, node)
}

fn is_gone(state: NodeState) -> bool {
    matches!(state, NodeState::Unreachable | NodeState::Hanging)
}

/// States that hide the node from us and say nothing about users.
fn is_hidden(state: NodeState) -> bool {
    use NodeState::{MissingGrant, MissingTable, Pooled, Refused, Tls, Unknown};
    matches!(state, Refused | Tls | Pooled | MissingGrant | MissingTable | Unknown)
}

/// A node that refuses writes can be read.
fn is_readable(state: NodeState) -> bool {
    is_well(state) || state == NodeState::ReadOnly
}

fn is_well(state: NodeState) -> bool {
    matches!(state, NodeState::Ok | NodeState::StandingBy)
}

fn reads(nodes: &[Own<'_>], region: &RegionName) -> Report {
    let known: Vec<&Own<'_>> = nodes.iter().filter(|own| own.state != NodeState::Unknown).collect();
    if known.is_empty() {
        return Report::Mute("its agent knows nothing about its nodes yet".to_owned());
    }
    let unwell: Vec<String> =
        known.iter().filter(|own| !is_readable(own.state)).map(|own| format!("{} is {}", own.node, own.state)).collect();
    if known.iter().all(|own| is_hidden(own.state)) {
        return Report::Mute(format!("its nodes cannot be watched: {}", unwell.join(", ")));
    }
    let late: Vec<String> = known.iter().flat_map(|own| late(own, region)).collect();
    if !unwell.is_empty() || !late.is_empty() {
        return Report::Degraded([unwell, late].concat().join("; "));
    }
    Report::Good(format!("its agent reads {}", list(&known)))
}

/// What replication towards a node suffers from, where readers feel it. A silent writer is the writer's region's trouble.
fn late(own: &Own<'_>, region: &RegionName) -> Vec<String> {
    let towards = own.witness.having(&catalogue::REPLICATION_STATE, Attribute::Node, own.node.as_str());
    let mut late = Vec::new();
    for attributes in towards.filter(|attributes| attributes.get(Attribute::Region) == Some(region.as_str())) {
        let current = own.witness.gauge(&catalogue::REPLICATION_STATE, attributes).is_some_and(|one| one > 0.5);
        let state = attributes.get(Attribute::State).and_then(ReplicationState::from_word);
        let origin = attributes.get(Attribute::Origin);
        if let (true, Some(state), Some(origin)) = (current, state, origin)
            && (state.is_stuck() || state == ReplicationState::Lagging)
        {
            late.push(format!("replication from {origin} to {} is {state}", own.node));
        }
    }
    late
}

fn writes(nodes: &[Own<'_>], region: &RegionName, origins: &[NodeName]) -> Report {
    let is_writer = |own: &&Own<'_>| {
        matches!(own.role, Some(NodeRole::Writer | NodeRole::Subscriber)) || (own.role.is_none() && origins.contains(own.node))
    };
    let writers: Vec<&Own<'_>> = nodes.iter().filter(is_writer).collect();
    if writers.is_empty() {
        return if nodes.iter().any(|own| own.role == Some(NodeRole::Standby)) {
            Report::Good("no writer here, its nodes are standbys: judged by whether it can be reached".to_owned())
        } else {
            Report::Mute("its agent does not know yet whether a writer is there".to_owned())
        };
    }
    let (gone, there): (Vec<&Own<'_>>, Vec<&Own<'_>>) = writers.iter().copied().partition(|own| is_gone(own.state));
    if there.is_empty() {
        return Report::Gone(format!("its own agent cannot reach the writer {}", list(&gone)));
    }
    if gone.is_empty() && there.iter().all(|own| is_hidden(own.state) && recent_writes(own, region).acknowledged == 0) {
        let states: Vec<String> = there.iter().map(|own| format!("{} is {}", own.node, own.state)).collect();
        return Report::Mute(format!("its writer cannot be watched: {}", states.join(", ")));
    }
    let failing: Vec<Failing> = there.iter().filter_map(|own| failing(own, region)).collect();
    if gone.is_empty() && failing.len() == there.len() && failing.iter().all(|failing| failing.all) {
        return Report::Gone(failing.into_iter().map(|failing| failing.why).collect::<Vec<_>>().join("; "));
    }
    let mut trouble: Vec<String> = gone.iter().map(|own| format!("{} is {}", own.node, own.state)).collect();
    trouble.extend(there.iter().filter(|own| !is_well(own.state)).map(|own| format!("{} is {}", own.node, own.state)));
    trouble.extend(failing.into_iter().map(|failing| failing.why));
    if trouble.is_empty() { Report::Good(format!("{} takes writes", list(&there))) } else { Report::Degraded(trouble.join("; ")) }
}

struct Failing {
    /// No write at all was acknowledged.
    all: bool,
    why: String,
}

/// Whether heartbeat writes failed during the last minute.
fn failing(own: &Own<'_>, region: &RegionName) -> Option<Failing> {
    let Writes { acknowledged, other } = recent_writes(own, region);
    let all = acknowledged + other;
    (other * FAILING_ONE_OF > all).then(|| Failing {
        all: acknowledged == 0,
        why: format!("{other} of {all} heartbeat writes on {} failed in the last minute", own.node),
    })
}

/// Heartbeat writes of the last minute, as far as they were counted.
struct Writes {
    acknowledged: u64,
    other: u64,
}

fn recent_writes(own: &Own<'_>, region: &RegionName) -> Writes {
    let mut writes = Writes { acknowledged: 0, other: 0 };
    for key in own.witness.boot.recent_keys(&catalogue::HEARTBEAT_WRITES) {
        let of_node = |attribute, name: &str| key.attributes.get(attribute) == Some(name);
        if !of_node(Attribute::Node, own.node.as_str())
            || !of_node(Attribute::Cluster, own.cluster.as_str())
            || !of_node(Attribute::Region, region.as_str())
        {
            continue;
        }
        let Some(count) = own.witness.recent_count(&catalogue::HEARTBEAT_WRITES, &key.attributes) else { continue };
        if of_node(Attribute::Outcome, WriteOutcome::Acknowledged.as_str()) {
            writes.acknowledged += count;
        } else {
            writes.other += count;
        }
    }
    writes
}

fn list(nodes: &[&Own<'_>]) -> String {
    nodes.iter().map(|own| own.node.as_str()).collect::<Vec<_>>().join(", ")
}
