//! `/metrics`: what agents have counted, merged, and what the collector itself says. Every state of the fleet file's things is there,
//! `unknown` if need be; a value that is not known has no series.

use std::collections::BTreeMap;

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::RegionName;
use lagmesh_model::known::Known;
use lagmesh_model::series::{Attributes, Series, push_states};
use lagmesh_model::state::{LinkState, NodeState, RegionState, ReplicationState, Vote};
use lagmesh_model::status::{FleetStatus, Link, Node, Region, Replication};
use lagmesh_model::time::Reading;

use super::{clocks, node};
use crate::judge::report::of_node;
use crate::merge::{Key, View};

/// Everything that `/metrics` shows beside what the collector counts about itself.
pub fn series(fleet: &Fleet, view: &View, status: &FleetStatus, now: Reading) -> Vec<Series> {
    let mut all: BTreeMap<Key, Series> = BTreeMap::new();
    let mut put = |series: Series| all.insert(Key::of(&series), series);
    for (key, value) in view.totals(now).into_iter().filter(|(key, _)| is_planned(fleet, &key.attributes)) {
        put(Series { metric: key.metric, attributes: key.attributes, value });
    }
    // What agents say comes second: where a state of theirs is fresh, the status says the same.
    let gauges = view.gauges(now).into_iter().filter(|series| is_planned(fleet, &series.attributes));
    for series in gauges.chain(own(fleet, view, status, now)) {
        put(series);
    }
    all.into_values().collect()
}

/// Whether a series is of no link, or of one that the mesh has by the present fleet file: those of a removed one end.
fn is_planned(fleet: &Fleet, attributes: &Attributes) -> bool {
    let name = |attribute| attributes.get(attribute).and_then(|name| name.parse::<RegionName>().ok());
    match (name(Attribute::Region), name(Attribute::Peer)) {
        (Some(region), Some(peer)) => fleet.has_link(&region, &peer),
        _ => true,
    }
}

fn own(fleet: &Fleet, view: &View, status: &FleetStatus, now: Reading) -> Vec<Series> {
    let mut out = Vec::new();
    status.links.iter().for_each(|link| link_state(link, &mut out));
    status.nodes.iter().for_each(|node| node_state(node, &mut out));
    status.replications.iter().for_each(|replication| self::replication(replication, &mut out));
    status.regions.iter().for_each(|region| verdicts(region, &mut out));
    let regions = |state, count: u64| Series::gauge(&catalogue::FLEET_REGIONS, one(Attribute::State, state), count as f64);
    out.push(regions("expected", status.regions.len() as u64));
    out.push(regions("reporting", status.regions_reporting));
    clusters(fleet, view, now, &mut out);
    clocks::series(fleet, view, &status.clocks, now, &mut out);
    out.push(Series::gauge(&catalogue::COLLECTOR_INFO, one(Attribute::Version, &status.version), 1.0));
    out
}

fn one(attribute: Attribute, value: &str) -> Attributes {
    Attributes::new().with(attribute, value)
}

fn link_state(link: &Link, out: &mut Vec<Series>) {
    let attributes = Attributes::new().with(Attribute::Region, &link.region).with(Attribute::Peer, &link.peer);
    push_states(out, &catalogue::LINK_STATE, &attributes, LinkState::ALL, link.state);
}

fn node_state(node: &Node, out: &mut Vec<Series>) {
    let attributes = of_node(&node.cluster, &node.region, &node.node);
    push_states(out, &catalogue::NODE_STATE, &attributes, NodeState::ALL, node.state);
    // As staleness below.
    if let Some(age_s) = node.ledger.current().and_then(|ledger| ledger.acknowledged_age_s) {
        out.push(Series::gauge(&catalogue::HEARTBEAT_LEDGER_AGE, attributes, age_s));
    }
}

fn replication(row: &Replication, out: &mut Vec<Series>) {
    let attributes = of_node(&row.cluster, &row.region, &row.node).with(Attribute::Origin, &row.origin);
    push_states(out, &catalogue::REPLICATION_STATE, &attributes, ReplicationState::ALL, row.state);
    // What the agent exported was true then; this is carried on to now.
    if let Some(staleness) = row.staleness.current() {
        for (bound, seconds) in staleness.each() {
            let attributes = attributes.clone().with(Attribute::Bound, bound).with(Attribute::Basis, row.basis);
            out.push(Series::gauge(&catalogue::REPLICATION_STALENESS, attributes, seconds));
        }
    }
}

fn verdicts(region: &Region, out: &mut Vec<Series>) {
    for verdict in &region.verdicts {
        let attributes = Attributes::new().with(Attribute::Region, &region.region).with(Attribute::Axis, verdict.axis);
        push_states(out, &catalogue::REGION_STATE, &attributes, RegionState::ALL, verdict.state);
        for cast in &verdict.votes {
            let attributes = attributes.clone().with(Attribute::Vantage, &cast.vantage);
            push_states(out, &catalogue::REGION_VOTES, &attributes, Vote::ALL, cast.vote);
        }
    }
    let age = match &region.evidence_age_s {
        Known::Known { value } => Some(*value),
        Known::Stale { age_s, .. } => Some(*age_s),
        Known::Unknown { .. } => None,
    };
    if let Some(age_s) = age {
        let attributes = one(Attribute::Region, region.region.as_str());
        out.push(Series::gauge(&catalogue::REGION_EVIDENCE_AGE, attributes, age_s));
    }
}

fn clusters(fleet: &Fleet, view: &View, now: Reading, out: &mut Vec<Series>) {
    for cluster in &fleet.clusters {
        let attributes = one(Attribute::Cluster, cluster.name.as_str());
        let objective_s = cluster.lag_objective.as_secs_f64();
        out.push(Series::gauge(&catalogue::CLUSTER_LAG_OBJECTIVE, attributes.clone(), objective_s));
        out.push(Series::gauge(&catalogue::CLUSTER_WRITERS_DECLARED, attributes.clone(), cluster.writers_max as f64));
        let mut writers: BTreeMap<String, u64> = BTreeMap::new();
        for node in &cluster.nodes {
            if let Some(system) = node::system(view, cluster, node, now) {
                // A system of which every known node is in recovery is there with no writer: that is known, not absent.
                *writers.entry(system).or_insert(0) += u64::from(node::writes(view, cluster, node, now));
            }
        }
        out.extend(writers.into_iter().map(|(system, count)| {
            Series::gauge(&catalogue::CLUSTER_WRITERS, attributes.clone().with(Attribute::System, system), count as f64)
        }));
    }
}
