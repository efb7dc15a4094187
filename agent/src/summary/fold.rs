//! Everything that was measured since the start, folded. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use lagmesh_daemon::clock::{Bracket, ClockClaim};
use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::fleet::{Fleet, traffic};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::NodeName;
use lagmesh_model::known::Known;
use lagmesh_model::series::{Attributes, Batch, Exporter, Series};
use lagmesh_model::status::{AgentStatus, Export};
use lagmesh_model::time::{Reading, WallNanos, nanos};

use super::Snapshot;
use super::clocks::Clocks;
use crate::link::Links;
use crate::measurement::{Observation, PeerView, SettledBeat};
use crate::replication::Replications;
use crate::send::Deliveries;
use crate::spool::{Levels, LossReason};

/// The state of the agent: what its trackers and counters hold.
#[derive(Debug)]
pub struct Summary {
    exporter: Exporter,
    began: Reading,
    /// The label of the moment at which counting began.
    start: WallNanos,
    links: Links,
    clocks: Clocks,
    replications: Replications,
    lateness: Exponential,
    mesh_dropped: BTreeMap<&'static str, u64>,
    stamps_refused: BTreeMap<&'static str, u64>,
    /// What the mesh of our region sends by the plan, and what it may send at most [octets per second].
    traffic: f64,
    with_key: bool,
    dscp: u8,
    budget: Option<f64>,
    contradictions: u64,
    batches: u64,
}

/// What a snapshot says of the agent itself.
#[derive(Debug)]
pub struct Around<'a> {
    /// Runs of the measuring clock since the start [1 and up].
    pub clock_epochs: u64,
    /// Steps of the wall clock since the start.
    pub wall_steps: u64,
    /// What our host claims about its wall clock; `None` if it does not say.
    pub claim: Option<ClockClaim>,
    /// Observations that did not fit into the queue.
    pub dropped_observations: u64,
    /// Batches that did not fit into the spool's queue.
    pub dropped_batches: u64,
    /// What waits in the spool.
    pub levels: &'a Levels,
    /// How the deliveries go.
    pub deliveries: &'a Deliveries,
    /// How often replaced credentials were no good.
    pub reload_failures: u64,
    /// When the certificate ends that collectors are shown [s since 1970], if there is one.
    pub certificate_not_after_s: Option<u64>,
}

impl Summary {
    /// Nothing measured yet, by an agent that started at `start` and signs its packets if it has a key.
    pub fn new(fleet: &Arc<Fleet>, exporter: Exporter, with_key: bool, start: Reading) -> Summary {
        Summary {
            traffic: traffic(fleet, &exporter, with_key),
            with_key,
            links: Links::new(fleet, &exporter.region),
            clocks: Clocks::default(),
            replications: Replications::new(fleet, &exporter.region),
            exporter,
            began: start,
            start: start.wall,
            lateness: Exponential::new(),
            mesh_dropped: BTreeMap::new(),
            stamps_refused: BTreeMap::new(),
            dscp: fleet.mesh.dscp,
            budget: fleet.mesh.budget_bits_per_s.map(|bits| bits as f64 / 8.0),
            contradictions: 0,
            batches: 0,
        }
    }

    /// From now on this file is in force: what was measured of who stays goes on, series of who is gone end.
    pub fn reload(&mut self, fleet: &Fleet) {
        self.links.reload(fleet);
        self.replications.reload(fleet);
        self.traffic = traffic(fleet, &self.exporter, self.with_key);
    }

    /// Folds in one observation.
    pub fn record(&mut self, observation: Observation, view: &PeerView) {
        match observation {
            Observation::Probe(probe) => self.links.record_probe(&probe),
            Observation::IcmpSocket(peer, socket) => self.links.record_icmp_socket(&peer, socket),
            Observation::Flow(change) => self.links.record_flow(&change),
            Observation::Losses(peer, losses) => self.links.record_losses(&peer, losses),
            Observation::PathChanged(change) => self.links.record_path_change(&change),
            Observation::Moved(peer, agent) => self.links.record_move(&peer, &agent),
            Observation::Route(flow, route) => self.links.record_route(flow, route),
            Observation::PathMtu { peer, agent, mtu } => self.links.record_mtu(&peer, agent, mtu),
            Observation::Lateness(late) => self.lateness.merge(&late),
            Observation::MeshDropped(reason, count) => *self.mesh_dropped.entry(reason).or_default() += count,
            Observation::StampRefused(reason, count) => *self.stamps_refused.entry(reason).or_default() += count,
            Observation::ClockContradiction(_) => self.contradictions += 1,
            Observation::Node(event) => self.replications.record(event, view),
        }
    }

    /// The clocks of our host were read.
    pub fn read_clocks(&mut self, reading: &Bracket) {
        self.clocks.read(reading);
    }

    /// Brings states up to date: they depend on how long something has lasted. Whoever looks does it, too.
    pub fn step(&mut self, now: Reading, view: &PeerView) {
        self.links.step(now, view);
        self.replications.step(now, view);
    }

    /// Hands over the beats whose lag came out since the last time, each with its origin and the node at which it was seen.
    pub fn take_settled(&mut self, each: impl FnMut(&NodeName, &NodeName, &SettledBeat)) {
        self.replications.take_settled(each);
    }

    /// What is known at `now`; the clocks have been read for it.
    pub fn snapshot(&mut self, now: Reading, view: &PeerView, around: &Around<'_>) -> Snapshot {
        let mut series = Vec::new();
        self.links.series(now, view, &mut series);
        self.replications.series(now, view, &mut series);
        self.push_own(around, &mut series);
        let own = Attributes::new().with(Attribute::Region, &self.exporter.region).with(Attribute::Agent, &self.exporter.agent);
        self.clocks.series(now, &own, self.links.peer_agents(), view, &mut series);
        debug_assert!(
            series.iter().all(|one| one.attributes.fit(one.metric)),
            "every series has the attributes of the catalogue"
        );
        let status = AgentStatus {
            fleet: self.exporter.fleet.clone(),
            region: self.exporter.region.clone(),
            agent: self.exporter.agent.clone(),
            boot: self.exporter.boot,
            version: self.exporter.version.clone(),
            at: now.wall,
            links: self.links.status(now, view),
            nodes: self.replications.nodes(now),
            replications: self.replications.status(now, view),
            exports: exports(now, around),
        };
        Snapshot { made: now, status, series }
    }

    /// The next batch, of what a snapshot says.
    pub fn batch(&mut self, snapshot: Snapshot) -> Batch {
        self.batches += 1;
        self.clocks.batched();
        self.start = start_label(self.start, self.began, snapshot.made);
        Batch {
            exporter: self.exporter.clone(),
            sequence: self.batches,
            start: self.start,
            time: snapshot.made.wall,
            series: snapshot.series,
        }
    }

    fn push_own(&self, around: &Around<'_>, out: &mut Vec<Series>) {
        let region = Attributes::new().with(Attribute::Region, &self.exporter.region);
        let agent = region.clone().with(Attribute::Agent, &self.exporter.agent);
        out.push(Series::histogram(&catalogue::SCHEDULE_LATENESS, region.clone(), self.lateness.clone()));
        let by_reason = [(&catalogue::MESH_DROPPED, &self.mesh_dropped), (&catalogue::MESH_STAMPS_REFUSED, &self.stamps_refused)];
        for (metric, counts) in by_reason {
            for (reason, count) in counts {
                out.push(Series::counter(metric, region.clone().with(Attribute::Reason, reason), *count));
            }
        }
        out.push(Series::gauge(&catalogue::MESH_TRAFFIC, region.clone(), self.traffic));
        out.push(Series::gauge(&catalogue::MESH_DSCP, region.clone(), f64::from(self.dscp)));
        out.extend(self.budget.map(|budget| Series::gauge(&catalogue::MESH_BUDGET, region.clone(), budget)));
        out.push(Series::counter(&catalogue::CLOCK_EPOCHS, region.clone(), around.clock_epochs));
        out.push(Series::counter(&catalogue::CLOCK_CONTRADICTIONS, region.clone(), self.contradictions));
        out.push(Series::counter(&catalogue::CLOCK_STEPS, region.clone(), around.wall_steps));
        if let Some(ClockClaim::Synchronized { error_ns, source }) = around.claim {
            let attributes = region.with(Attribute::Source, source);
            out.push(Series::gauge(&catalogue::CLOCK_CLAIMED_ERROR, attributes, error_ns as f64 / 1e9));
        }
        for (collector, level) in around.levels {
            let target = agent.clone().with(Attribute::Collector, collector);
            out.push(Series::gauge(&catalogue::SPOOL_BYTES, target.clone(), level.bytes as f64));
            let dead = level.dead_letters as f64;
            out.push(Series::gauge(&catalogue::SPOOL_DEAD_LETTERS, target.clone(), dead));
            let dropped = level.dead_letters_dropped;
            out.push(Series::counter(&catalogue::SPOOL_DEAD_LETTERS_DROPPED, target.clone(), dropped));
            for reason in LossReason::ALL {
                let batches = level.lost.get(reason).copied().unwrap_or_default();
                out.push(Series::counter(&catalogue::SPOOL_LOST, target.clone().with(Attribute::Reason, reason), batches));
            }
        }
        for (queue, dropped) in [("observations", around.dropped_observations), ("batches", around.dropped_batches)] {
            out.push(Series::counter(&catalogue::AGENT_DROPPED, agent.clone().with(Attribute::Reason, queue), dropped));
        }
        out.push(Series::counter(&catalogue::AGENT_RELOAD_FAILURES, agent.clone(), around.reload_failures));
        if let Some(end_s) = around.certificate_not_after_s {
            out.push(Series::gauge(&catalogue::AGENT_CERTIFICATE, agent.clone(), end_s as f64));
        }
        out.push(Series::gauge(&catalogue::AGENT_INFO, agent.with(Attribute::Version, &self.exporter.version), 1.0));
    }
}

fn traffic(fleet: &Fleet, exporter: &Exporter, with_key: bool) -> f64 {
    fleet.region(&exporter.region).map_or(0.0, |region| traffic::of_region(fleet, region, with_key).bytes_per_s)
}

/// When counting began, as a label beside one of `now`. It stays what it is, for another start would look like another run; but where the
/// wall clock was set back behind it, it is set back as well, to what the measuring clock says: no count ends before it begins.
fn start_label(label: WallNanos, began: Reading, now: Reading) -> WallNanos {
    if label <= now.wall {
        return label;
    }
    let elapsed = now.raw.checked_since(began.raw).filter(|_| began.epoch == now.epoch);
    // Across two epochs nobody knows how long ago it was.
    let before = elapsed.and_then(|elapsed| now.wall.0.checked_sub(nanos(elapsed)));
    before.map_or(now.wall, WallNanos)
}

fn exports(now: Reading, around: &Around<'_>) -> Vec<Export> {
    let export = |(collector, level): (&_, &crate::spool::Level)| {
        let delivery = around.deliveries.get(collector);
        let acknowledged = delivery.and_then(|delivery| delivery.acknowledged).filter(|at| at.epoch == now.epoch);
        Export {
            collector: Clone::clone(collector),
            pending_bytes: level.bytes,
            pending_batches: level.batches,
            acknowledged_age_s: Known::from_option(
                acknowledged.and_then(|at| now.raw.checked_since(at.raw)).map(|age| age.as_secs_f64()),
                "it has not acknowledged anything since this agent started, or since its clock jumped",
            ),
            error: delivery.and_then(|delivery| delivery.error.clone()),
        }
    };
    around.levels.iter().map(export).collect()
}

#[cfg(test)]
mod tests;
