//! The view and the verdicts, as people and programs ask for them. Pure.
//!
//! Everything that the fleet file names is there, known or not: every region, every link of the mesh's plan, every node. What is not known says
//! why, and never looks like a zero.

mod clocks;
mod link;
mod metrics;
mod node;
mod replication;
#[cfg(test)]
mod tests;
mod writes;

use std::collections::BTreeMap;

use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::RegionName;
use lagmesh_model::known::Known;
use lagmesh_model::status::{Cluster, FleetStatus, Region, Verdict};
use lagmesh_model::time::Reading;

use crate::merge::{View, Witness};

pub use metrics::series;

/// What `/v1/status` says.
pub fn status(
    fleet: &Fleet,
    view: &View,
    mut verdicts: BTreeMap<RegionName, Vec<Verdict>>,
    now: Reading,
    version: &str,
) -> FleetStatus {
    let regions: Vec<Region> = fleet
        .regions
        .iter()
        .map(|region| Region {
            region: region.name.clone(),
            coordinates: region.coordinates,
            verdicts: verdicts.remove(&region.name).into_iter().flatten().collect(),
            evidence_age_s: view.age(&region.name, now),
        })
        .collect();
    let regions_reporting = regions.iter().filter(|region| region.evidence_age_s.is_known()).count() as u64;
    let links = fleet
        .regions
        .iter()
        .flat_map(|from| fleet.peers_of(&from.name).map(|to| link::link(fleet, view, &from.name, to, now)))
        .collect();
    FleetStatus {
        fleet: fleet.name.clone(),
        version: version.to_owned(),
        at: now.wall,
        regions,
        regions_reporting,
        plan: fleet.mesh.plan.as_str().to_owned(),
        links,
        nodes: fleet.nodes().map(|(cluster, node)| node::node(view, cluster, node, now)).collect(),
        replications: replication::all(fleet, view, now),
        clusters: fleet.clusters.iter().map(|cluster| self::cluster(view, cluster, now)).collect(),
        clocks: clocks::clocks(fleet, view, now),
    }
}

fn cluster(view: &View, cluster: &lagmesh_model::fleet::Cluster, now: Reading) -> Cluster {
    let writers = cluster.nodes.iter().filter(|node| node::writes(view, cluster, node, now)).map(|node| node.name.clone());
    Cluster {
        cluster: cluster.name.clone(),
        writers: writers.collect(),
        writers_max: cluster.writers_max,
        lag_objective_s: cluster.lag_objective.as_secs_f64(),
    }
}

/// Where to look for what the agents of a region know: at those whose evidence is fresh, else at the newest of the stale.
fn sources<'a>(view: &'a View, region: &RegionName, now: Reading) -> Vec<Witness<'a>> {
    let mut all = view.witnesses(region, now);
    let fresh = all.iter().filter(|witness| witness.age.fresh).count();
    all.truncate(fresh.max(1));
    all
}

/// Why nothing current is known from a region, if nothing is.
fn silence(sources: &[Witness<'_>], region: &RegionName) -> Option<String> {
    match sources.first().map(|newest| newest.age) {
        Some(age) if age.fresh => None,
        Some(age) => Some(match age.seconds {
            Some(seconds) => format!("the agent of {region} has been silent for {seconds:.0} s"),
            None => format!("the agent of {region} has been silent since before a restart of the collector"),
        }),
        None => Some(format!("no agent of {region} has ever reported here")),
    }
}

/// The age of what the sources say.
fn evidence_age(sources: &[Witness<'_>], region: &RegionName) -> Known<f64> {
    match sources.first() {
        Some(newest) => newest.age.known(),
        None => Known::unknown(format!("no agent of {region} has ever reported here")),
    }
}
