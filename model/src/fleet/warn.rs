//! What is allowed in a fleet file, but probably not meant.

use super::{Cluster, Fleet, Plan};
use crate::ids::RegionName;

pub(super) fn warnings(fleet: &Fleet) -> Vec<String> {
    let mut found = Vec::new();
    vantages(fleet, &mut found);
    plan(fleet, &mut found);
    security(fleet, &mut found);
    applications(fleet, &mut found);
    for cluster in &fleet.clusters {
        self::cluster(cluster, &mut found);
        apart(fleet, cluster, &mut found);
    }
    if fleet.clusters.is_empty() {
        found.push("no cluster: the network is measured, replication is not".to_owned());
    }
    if fleet.collectors.is_empty() {
        found.push(
            "no collector: agents measure, but nothing judges and nothing keeps history; ask each agent for its own status"
                .to_owned(),
        );
    }
    if fleet.judge.suspect_after < fleet.export.interval {
        let (suspect, export) = (fleet.judge.suspect_after, fleet.export.interval);
        let (suspect, export) = (humantime::format_duration(suspect), humantime::format_duration(export));
        found.push(format!(
            "judge.suspect_after ({suspect}) is shorter than export.interval ({export}): evidence comes no sooner than that"
        ));
    }
    found
}

fn vantages(fleet: &Fleet, found: &mut Vec<String>) {
    match fleet.regions.len() {
        1 => found.push("one region: there is no link to measure and nobody outside to judge it".to_owned()),
        2 => found.push(
            "two regions: DOWN is unreachable, because one vantage cannot tell a partition from an outage; \
             add a third region with an agent and no database as a witness"
                .to_owned(),
        ),
        _ => {}
    }
    let nowhere: Vec<&str> = fleet.regions.iter().filter(|r| r.coordinates.is_none()).map(|r| r.name.as_str()).collect();
    if !nowhere.is_empty() && fleet.regions.len() > 1 {
        found.push(format!(
            "no coordinates for {}: their links have no physical floor and wider clock bounds",
            nowhere.join(", ")
        ));
    }
}

/// Regions that too few others probe.
fn plan(fleet: &Fleet, found: &mut Vec<String>) {
    // Two regions have been told of already, whatever the plan.
    if fleet.mesh.plan == Plan::Full || fleet.regions.len() < 3 {
        return;
    }
    let with = |peers: usize| {
        let names = fleet.regions.iter().map(|region| &region.name).filter(|name| fleet.peers_of(name).take(2).count() == peers);
        names.map(RegionName::as_str).collect::<Vec<_>>().join(", ")
    };
    let (lonely, single) = (with(0), with(1));
    if !lonely.is_empty() {
        found.push(format!(
            "the mesh plan lets nobody probe {lonely}: nothing is known of the way there, and no other region can judge it"
        ));
    }
    if !single.is_empty() {
        found.push(format!(
            "the mesh plan lets only one region probe {single}: DOWN is unreachable there, because one vantage cannot tell a \
             partition from an outage; let two regions probe each"
        ));
    }
}

/// Regions of a cluster between whose agents nothing is measured.
fn apart(fleet: &Fleet, cluster: &Cluster, found: &mut Vec<String>) {
    let mut regions: Vec<&RegionName> = cluster.nodes.iter().map(|node| &node.region).collect();
    regions.sort_unstable();
    regions.dedup();
    for (index, a) in regions.iter().enumerate() {
        for b in regions[index + 1..].iter().filter(|b| !fleet.has_link(a, b)) {
            found.push(format!(
                "cluster {} has nodes in {a} and {b}, which the mesh plan does not connect: how late beats are between them is not \
                 measured; connect the two",
                cluster.name
            ));
        }
    }
}

fn security(fleet: &Fleet, found: &mut Vec<String>) {
    let outside = fleet.agents().any(|(_, agent)| !agent.mesh.is_loopback());
    let plain = fleet.collectors.iter().map(|c| &c.otlp).chain(fleet.forwards.iter().map(|f| &f.url));
    let plain = plain.into_iter().any(|url| !url.is_tls() && !url.is_loopback());
    if fleet.insecure && outside {
        found.push("insecure = true: agents start without a mesh key, and then anybody can forge measurements".to_owned());
    }
    if fleet.mesh.third_party && outside {
        found.push(
            "mesh.third_party = true: senders without a key get answers, as long as their requests and to any address that they forge"
                .to_owned(),
        );
    }
    if fleet.insecure && plain {
        found.push("insecure = true: telemetry goes to a collector or on from there in plain text".to_owned());
    }
    if fleet.insecure && !outside && !plain {
        found.push("insecure = true is not needed here: everything is on loopback or uses TLS; take it out".to_owned());
    }
}

/// Second opinions for which nobody or nothing is there.
fn applications(fleet: &Fleet, found: &mut Vec<String>) {
    for region in fleet.regions.iter().filter(|region| region.http_probe.is_some()) {
        if fleet.peers_of(&region.name).next().is_none() {
            found.push(format!("region {} has a http_probe, but no other region probes it", region.name));
        }
    }
    for region in &fleet.regions {
        let Some(sql_probe) = &region.sql_probe else { continue };
        let name = &region.name;
        if fleet.peers_of(name).next().is_none() {
            found.push(format!("region {name} has a sql_probe, but no other region probes it"));
        }
        if fleet.nodes_of(name).next().is_none() {
            found
                .push(format!("region {name} has a sql_probe, but no cluster has a node there: does it lead to another region?"));
        }
        let twin = fleet
            .regions
            .iter()
            .take_while(|other| other.name != *name)
            .find(|other| other.sql_probe.as_ref() == Some(sql_probe));
        if let Some(twin) = twin {
            found.push(format!("regions {} and {name} have the same sql_probe: one of them is measured twice", twin.name));
        }
    }
}

fn cluster(cluster: &Cluster, found: &mut Vec<String>) {
    let name = &cluster.name;
    if cluster.nodes.len() == 1 {
        found.push(format!("cluster {name} has one node only: there is no replication to measure"));
    }
    if cluster.nodes.len() > 1 && cluster.writers_max > cluster.nodes.len() as u64 {
        found.push(format!("cluster {name} allows more writers than it has nodes: a split brain is never reported"));
    }
    for (index, node) in cluster.nodes.iter().enumerate() {
        if let Some(twin) = cluster.nodes[..index].iter().find(|twin| twin.dsn == node.dsn && twin.region == node.region) {
            found.push(format!("nodes {} and {} of cluster {name} have the same dsn and region", twin.name, node.name));
        }
    }
}
