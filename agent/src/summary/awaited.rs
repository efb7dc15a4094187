//! What must have been seen once before the agent calls itself ready. Good or bad does not matter: known matters.

use std::collections::BTreeMap;

use lagmesh_daemon::{Latch, Readiness};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::{NodeName, RegionName};
use lagmesh_model::state::NodeState;

use crate::measurement::{NodeNews, Observation};

/// One latch for each peer and each node of our own that has not been heard of yet.
#[derive(Debug)]
pub struct Awaited {
    peers: BTreeMap<RegionName, Latch>,
    nodes: BTreeMap<NodeName, Latch>,
}

impl Awaited {
    /// Awaits a settled probe to every peer of `region` and the outcome of a first contact with each of its nodes.
    pub fn new(fleet: &Fleet, region: &RegionName, readiness: &Readiness) -> Awaited {
        let peer = |name: &RegionName| (name.clone(), readiness.latch(format!("the first probe to {name}")));
        let node = |name: &NodeName| (name.clone(), readiness.latch(format!("the first contact with node {name}")));
        Awaited {
            peers: fleet.peers_of(region).map(|region| peer(&region.name)).collect(),
            nodes: fleet.nodes_of(region).map(|(_, found)| node(&found.name)).collect(),
        }
    }

    /// Nobody waits for peers that are gone; for new ones nobody waits either, because the process was ready without them.
    pub fn reload(&mut self, fleet: &Fleet, region: &RegionName) {
        self.peers.retain(|peer, _| fleet.has_link(region, peer));
    }

    /// Takes notice of an observation.
    pub fn saw(&mut self, observation: &Observation) {
        match observation {
            Observation::Probe(probe) => {
                self.peers.remove(&probe.peer);
            }
            Observation::Node(event) => match event.news {
                NodeNews::State { state: NodeState::Unknown, .. } | NodeNews::Queries(_) => {}
                _ => {
                    self.nodes.remove(&event.node);
                }
            },
            _ => {}
        }
    }
}
