//! Replication towards the nodes of our own region: folds what the database part and the mesh tell into lag, staleness, backlog
//! and one state per link (origin -> node). Pure: no clock, no I/O.
//!
//! Which links exist is discovered. A node that is no plain writer has one link from each origin of its cluster that has told of a
//! beat over the mesh or whose beats were seen at the node; before any beat is known there is none. When a cluster has had more origins than the
//! fleet file allows writers (a failover leaves the rows of the old writer behind), those with the newest signs of life stay, and
//! any other only as long as it still beats.

mod confirmed;
pub mod decide;
mod evidence;
mod facts;
mod followers;
mod lag;
mod ledger;
mod node;
mod output;
mod position_map;
mod reach;
mod session_log;
mod told;
mod track;
mod wal;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lagmesh_model::fleet::{self, Fleet};
use lagmesh_model::ids::{AgentName, ClusterName, NodeName, RegionName};
use lagmesh_model::interval::Interval;
use lagmesh_model::series::Series;
use lagmesh_model::state::NodeRole;
use lagmesh_model::status;
use lagmesh_model::time::{Epoch, RawNanos, Reading};

use crate::measurement::{NodeEvent, NodeNews, PeerView, SettledBeat, Sighting, Write};
use followers::Mates;
use node::NodeTrack;
use told::{Heard, Told};
use track::{Track, age};

/// The lag of a beat is not old before this, however short the interval: hosts and networks have hiccups.
const LAG_CURRENT_MIN: Duration = Duration::from_secs(1);

/// All replication towards the nodes of one region.
#[derive(Debug)]
pub struct Replications {
    region: RegionName,
    lag_thresholds: fleet::Replication,
    clusters: BTreeMap<ClusterName, Cluster>,
    nodes: BTreeMap<NodeName, NodeTrack>,
    told: BTreeMap<NodeName, Told>,
    tracks: BTreeMap<Link, Track>,
    epoch: Option<Epoch>,
}

/// What the fleet file says about a cluster.
#[derive(Debug)]
struct Cluster {
    name: ClusterName,
    objective: Duration,
    interval: Duration,
    writers_max: usize,
    /// Its nodes, each with the agents that may beat on it.
    members: BTreeMap<NodeName, Vec<AgentName>>,
    /// Those of them in regions whose agents ours does not talk to, because the plan of the mesh does not connect the two.
    unplanned: BTreeSet<NodeName>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    node: NodeName,
    origin: NodeName,
}

impl Replications {
    /// What the fleet file says of the region; nothing is measured yet.
    pub fn new(fleet: &Fleet, region: &RegionName) -> Replications {
        let own = |(cluster, node): (&fleet::Cluster, &fleet::Node)| {
            let track = NodeTrack::new(cluster.name.clone(), node.name.clone(), cluster.beat_interval, cluster.ledger_interval);
            (node.name.clone(), track)
        };
        let mut replications = Replications {
            region: region.clone(),
            lag_thresholds: fleet.replication.clone(),
            clusters: BTreeMap::new(),
            nodes: fleet.nodes_of(region).map(own).collect(),
            told: BTreeMap::new(),
            tracks: BTreeMap::new(),
            epoch: None,
        };
        replications.reload(fleet);
        replications
    }

    /// From now on this file is in force, in which our own nodes are the same: what came from nodes that are gone ends.
    pub fn reload(&mut self, fleet: &Fleet) {
        let cluster = |cluster: &fleet::Cluster| (cluster.name.clone(), Cluster::new(fleet, cluster, &self.region));
        self.clusters = fleet.clusters.iter().map(cluster).collect();
        let clusters = &self.clusters;
        self.told.retain(|origin, _| clusters.values().any(|cluster| cluster.holds(origin)));
        self.tracks.retain(|link, _| clusters.values().any(|cluster| cluster.holds(&link.origin) && cluster.holds(&link.node)));
    }

    /// Takes in news about a node.
    pub fn record(&mut self, event: NodeEvent, view: &PeerView) {
        let NodeEvent { node, at: now, news, .. } = event;
        self.hear(now, view);
        match news {
            NodeNews::Sighting(sighting) => self.see(&node, sighting, now, view),
            NodeNews::Written(Write { announcement: Some(announcement), outcome, took }) => {
                // Known when the commit returned, not when this was folded in.
                let heard = Heard { announcement: &announcement, at: announcement.times.acknowledged, from: None };
                let offset = || offset_at(heard.at, announcement.times.epoch, now, view);
                self.told.entry(node.clone()).or_default().tell(&heard, offset);
                if let Some(track) = self.nodes.get_mut(&node) {
                    track.record(NodeNews::Written(Write { announcement: Some(announcement), outcome, took }), now);
                }
            }
            news => {
                if let Some(track) = self.nodes.get_mut(&node) {
                    track.record(news, now);
                }
            }
        }
    }

    /// Hands over the beats whose lag came out since the last time, each with its origin and the node at which it was seen. Who never asks
    /// loses nothing but these.
    pub fn take_settled(&mut self, mut each: impl FnMut(&NodeName, &NodeName, &SettledBeat)) {
        for (link, track) in &mut self.tracks {
            track.lag.take_settled().for_each(|beat| each(&link.origin, &link.node, &beat));
        }
    }

    /// The nodes of the region.
    pub fn nodes(&self, now: Reading) -> Vec<status::Node> {
        let status = |(name, node): (&NodeName, &NodeTrack)| node.status(&self.region, &self.mates(name, now), now);
        self.nodes.iter().map(status).collect()
    }

    /// The other nodes of a node's cluster, each with the slots that it uses as far as it is ours.
    fn mates(&self, of: &NodeName, now: Reading) -> Mates {
        let slots =
            |node: &NodeName| self.nodes.get(node).into_iter().flat_map(|track| track.slots_used(now.raw).map(str::to_owned));
        let others = self.clusters.values().filter(|cluster| cluster.holds(of)).flat_map(|cluster| cluster.members.keys());
        Mates { slots: others.filter(|node| *node != of).map(|node| (node.clone(), slots(node).collect())).collect() }
    }

    /// Brings the states up to date.
    pub fn step(&mut self, now: Reading, view: &PeerView) {
        self.status(now, view);
    }

    /// Replication towards them.
    pub fn status(&mut self, now: Reading, view: &PeerView) -> Vec<status::Replication> {
        self.hear(now, view);
        self.links(now).into_iter().map(|link| self.link_status(&link, now, view)).collect()
    }

    /// Everything as series.
    pub fn series(&mut self, now: Reading, view: &PeerView, out: &mut Vec<Series>) {
        for node in self.nodes.values() {
            node.series(&self.region, now, out);
        }
        let links = self.status(now, view);
        for status in &links {
            let link = Link { node: status.node.clone(), origin: status.origin.clone() };
            if let Some(track) = self.tracks.get_mut(&link) {
                track.is_told = true;
                output::link_series(status, &track.lag, out);
            }
        }
        // A link that is none for now, of a standby that has become the writer, may be one again. Its counts stand still until then: if
        // they were left out, whoever subtracts would take all of them for new when they come back.
        for (link, track) in self.tracks.iter().filter(|(_, track)| track.is_told) {
            let is_link = links.iter().any(|status| status.node == link.node && status.origin == link.origin);
            if let Some(cluster) = self.clusters.values().find(|cluster| !is_link && cluster.holds(&link.node)) {
                let attributes = output::link_attributes(&cluster.name, &self.region, &link.origin, &link.node);
                output::link_counts(&attributes, &track.lag.totals, out);
            }
        }
    }

    /// Takes in what the mesh has learnt, for every link at once.
    fn hear(&mut self, now: Reading, view: &PeerView) {
        if self.epoch.replace(now.epoch).is_some_and(|before| before != now.epoch) {
            self.new_epoch(now.raw);
        }
        // The mesh may follow another fleet file a moment later than we do.
        let is_known = |origin: &NodeName| self.clusters.values().any(|cluster| cluster.holds(origin));
        for (origin, heard) in view.announcements.iter().filter(|(origin, _)| is_known(origin)) {
            let offset = || offset_at(heard.at, heard.what.times.epoch, now, view);
            let heard = Heard { announcement: &heard.what, at: heard.at, from: Some(&heard.from) };
            self.told.entry(origin.clone()).or_default().tell(&heard, offset);
        }
        for cluster in self.clusters.values() {
            for origin in cluster.members.keys().filter(|origin| self.told.contains_key(*origin)) {
                for node in cluster.members.keys().filter(|node| *node != origin && self.nodes.contains_key(*node)) {
                    let link = Link { node: node.clone(), origin: origin.clone() };
                    let track = self.tracks.entry(link).or_insert_with(|| Track::new(now.raw));
                    track.hear(&self.told[origin], now, view, cluster.objective);
                }
            }
        }
    }

    fn see(&mut self, node: &NodeName, sighting: Sighting, now: Reading, view: &PeerView) {
        let origin = sighting.row.id.origin.clone();
        // Rows of nodes that the fleet file does not know are waiting to be pruned.
        let Some(cluster) = self.clusters.values().find(|cluster| cluster.holds(&origin) && cluster.holds(node)) else { return };
        if origin == *node {
            return;
        }
        let link = Link { node: node.clone(), origin: origin.clone() };
        let track = self.tracks.entry(link).or_insert_with(|| Track::new(now.raw));
        track.see(sighting, self.told.entry(origin).or_default(), now, view, cluster.objective);
    }

    /// The links that exist now.
    fn links(&self, now: Reading) -> Vec<Link> {
        let mut links = Vec::new();
        for cluster in self.clusters.values() {
            let reads = |node: &&NodeName| self.nodes.get(*node).is_some_and(|node| node.role() != Some(NodeRole::Writer));
            for node in cluster.members.keys().filter(reads) {
                links.extend(self.origins_of(node, cluster, now).into_iter().map(|origin| Link { node: node.clone(), origin }));
            }
        }
        links
    }

    /// The origins that count at a node: those with the newest signs of life, as many as may write, and all that still beat.
    fn origins_of(&self, node: &NodeName, cluster: &Cluster, now: Reading) -> BTreeSet<NodeName> {
        let mut alive: Vec<(Option<RawNanos>, &NodeName)> = Vec::new();
        for (link, track) in self.tracks.iter().filter(|(link, _)| link.node == *node) {
            alive.push((track.sign_of_life(self.told.get(&link.origin)), &link.origin));
        }
        // The node's own beats make it one of the writers.
        if let Some(at) = self.nodes.get(node).and_then(NodeTrack::written_at) {
            alive.push((Some(at), node));
        }
        alive.sort();
        let limit = cluster.interval.mul_f64(decide::WRITER_DOWN_INTERVALS);
        let beats = |at: Option<RawNanos>| at.is_some_and(|at| age(now.raw, at) <= limit);
        let counts = alive.iter().rev().enumerate().filter(|(rank, (at, _))| *rank < cluster.writers_max || beats(*at));
        counts.map(|(_, (_, origin))| (*origin).clone()).filter(|origin| origin != node).collect()
    }

    fn new_epoch(&mut self, now: RawNanos) {
        self.told.values_mut().for_each(Told::clear);
        self.tracks.values_mut().for_each(|track| track.new_epoch(now));
        self.nodes.values_mut().for_each(NodeTrack::new_epoch);
    }
}

/// The clock of `epoch` minus ours at a moment shortly before `now`.
fn offset_at(at: RawNanos, epoch: Epoch, now: Reading, view: &PeerView) -> Option<Interval> {
    let offset = view.offset_of(epoch, now)?;
    // Our own clock is no distance from itself.
    if epoch == now.epoch { Some(offset) } else { Some(offset.widen_for_drift_of_pair(age(now.raw, at))) }
}

impl Cluster {
    fn new(fleet: &Fleet, cluster: &fleet::Cluster, own: &RegionName) -> Cluster {
        let agents_of = |name: &RegionName| -> Vec<AgentName> {
            let region = fleet.region(name);
            region.into_iter().flat_map(|region| region.agents.iter().map(|agent| agent.name.clone())).collect()
        };
        let unplanned = cluster.nodes.iter().filter(|node| node.region != *own && !fleet.has_link(own, &node.region));
        Cluster {
            name: cluster.name.clone(),
            objective: cluster.lag_objective,
            interval: cluster.beat_interval,
            writers_max: usize::try_from(cluster.writers_max).unwrap_or(usize::MAX),
            members: cluster.nodes.iter().map(|node| (node.name.clone(), agents_of(&node.region))).collect(),
            unplanned: unplanned.map(|node| node.name.clone()).collect(),
        }
    }

    /// For how long the lag of a beat is that of the present: each beat's is known once the next one arrives.
    fn current_for(&self) -> Duration {
        self.interval.mul_f64(decide::WRITER_DOWN_INTERVALS).max(LAG_CURRENT_MIN)
    }

    fn holds(&self, node: &NodeName) -> bool {
        self.members.contains_key(node)
    }
}

#[cfg(test)]
mod tests;
