//! What the tests of the pure steps share: fleets, clocks and batches.

use std::fmt::Write as _;
use std::time::Duration;

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::{BootId, RegionName};
use lagmesh_model::series::{Attributes, Batch, Exporter, Series, push_states};
use lagmesh_model::state::{
    Bound, CommitLevel, LinkState, NodeRole, NodeState, ProbeKind, ReplicationState, SlotState, Stage, WriteOutcome,
};
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos};

/// Regions with one agent each, all of which probe each other; those in `nodes` have a node `<region>-db` of the cluster `app`.
pub(crate) fn fleet(regions: &[&str], nodes: &[&str]) -> Fleet {
    planned_fleet(regions, nodes, "plan = \"full\"")
}

/// The same with another plan of the mesh.
pub(crate) fn planned_fleet(regions: &[&str], nodes: &[&str], plan: &str) -> Fleet {
    let mut text = String::from("name = \"demo\"\n");
    for (index, region) in regions.iter().enumerate() {
        let port = 9000 + index;
        write!(text, "[[region]]\nname = \"{region}\"\n[[region.agent]]\nmesh = \"127.0.0.1:{port}\"\n").unwrap();
    }
    if !nodes.is_empty() {
        text.push_str("[[cluster]]\nname = \"app\"\n");
    }
    for region in nodes {
        writeln!(text, "[[cluster.node]]\nname = \"{region}-db\"\nregion = \"{region}\"\ndsn = \"host=127.0.0.1 user=lagmesh\"")
            .unwrap();
    }
    text.push_str("[[collector]]\nname = \"main\"\notlp = \"http://127.0.0.1:4318\"\n[mesh]\n");
    text.push_str(plan);
    Fleet::parse("fleet.toml", &text).expect("the fixture is a fleet file")
}

pub(crate) fn region(name: &str) -> RegionName {
    name.parse().unwrap()
}

/// So many seconds after the start of the test's clock.
pub(crate) fn at(seconds: u64) -> Reading {
    let start = Reading { epoch: Epoch(1), raw: RawNanos(1_000_000_000), wall: WallNanos(1_700_000_000_000_000_000) };
    start.after(Duration::from_secs(seconds))
}

/// A batch that says what a test lets it say.
pub(crate) struct Says(Batch);

impl Says {
    /// Batch `sequence` of the only agent of a region.
    pub(crate) fn new(region: &str, sequence: u64) -> Says {
        let exporter = Exporter {
            fleet: "demo".to_owned(),
            region: region.parse().unwrap(),
            agent: region.parse().unwrap(),
            boot: BootId(7),
            version: "0.1.0".to_owned(),
        };
        Says(Batch { exporter, sequence, start: WallNanos(1), time: WallNanos(1 + sequence), series: Vec::new() })
    }

    fn here(&self) -> Attributes {
        Attributes::new().with(Attribute::Region, &self.0.exporter.region)
    }

    pub(crate) fn link(mut self, peer: &str, state: LinkState) -> Says {
        let attributes = self.here().with(Attribute::Peer, peer);
        push_states(&mut self.0.series, &catalogue::LINK_STATE, &attributes, LinkState::ALL, state);
        self
    }

    /// Whether a kind of probe fails while others get through.
    pub(crate) fn disagreement(mut self, peer: &str, kind: ProbeKind, fails: bool) -> Says {
        let attributes = self.here().with(Attribute::Peer, peer).with(Attribute::Kind, kind);
        self.0.series.push(Series::gauge(&catalogue::LINK_DISAGREEMENT, attributes, if fails { 1.0 } else { 0.0 }));
        self
    }

    /// The peer's wall clock minus the region's [s], lower end first, and whether that refutes what both hosts claim.
    pub(crate) fn wall(mut self, peer: &str, offset_s: [f64; 3], refuted: bool) -> Says {
        let attributes = self.here().with(Attribute::Peer, peer);
        for (bound, seconds) in Bound::ALL.iter().zip(offset_s) {
            let attributes = attributes.clone().with(Attribute::Bound, bound);
            self.0.series.push(Series::gauge(&catalogue::CLOCK_OFFSET, attributes, seconds));
        }
        self.0.series.push(Series::gauge(&catalogue::CLOCK_CLAIMS_REFUTED, attributes, f64::from(u8::from(refuted))));
        self
    }

    /// Its measuring clock from and at the batch, its wall clock minus that one [ns]; its epoch is the last but one.
    pub(crate) fn clocks(mut self, raw: [i64; 2], wall: [i64; 2]) -> Says {
        let own = self.here().with(Attribute::Agent, &self.0.exporter.agent);
        self.0.series.push(Series::whole(&catalogue::CLOCK_EPOCH, own.clone(), -2));
        for (metric, ends) in [(&catalogue::CLOCK_RAW, raw), (&catalogue::CLOCK_WALL, wall)] {
            self.push_ends(metric, &own, ends);
        }
        self
    }

    /// The measuring clock of the only agent of a region, in such an epoch, minus its own [ns].
    pub(crate) fn raw_offset(mut self, peer: &str, epoch: u64, ends: [i64; 2]) -> Says {
        let own = self.here().with(Attribute::Agent, &self.0.exporter.agent);
        let pair = own.with(Attribute::Peer, peer).with(Attribute::PeerAgent, peer);
        self.0.series.push(Series::whole(&catalogue::CLOCK_PEER_EPOCH, pair.clone(), epoch.cast_signed()));
        self.push_ends(&catalogue::CLOCK_RAW_OFFSET, &pair, ends);
        self
    }

    fn push_ends(&mut self, metric: &'static catalogue::Metric, attributes: &Attributes, ends: [i64; 2]) {
        for (bound, end) in [Bound::Lower, Bound::Upper].iter().zip(ends) {
            self.0.series.push(Series::whole(metric, attributes.clone().with(Attribute::Bound, bound), end));
        }
    }

    /// So many stamp probes of so many milliseconds, all answered, since the boot.
    pub(crate) fn rtt(mut self, peer: &str, count: u64, ms: u64) -> Says {
        let attributes = self.here().with(Attribute::Peer, peer).with(Attribute::Kind, "stamp");
        let counted = attributes.clone().with(Attribute::Outcome, "in-time");
        let stamped = self.here().with(Attribute::Peer, peer).with(Attribute::Stamps, "kernel");
        self.0.series.push(Series::counter(&catalogue::LINK_PROBES, counted, count));
        self.0.series.push(Series::counter(&catalogue::LINK_STAMPS, stamped, count));
        self.0.series.push(Series::histogram(&catalogue::LINK_RTT, attributes, distribution(count, ms)));
        self
    }

    /// The region's node, if the region has one.
    pub(crate) fn node(mut self, state: NodeState, role: Option<NodeRole>) -> Says {
        let node = format!("{}-db", self.0.exporter.region);
        let attributes = self.here().with(Attribute::Cluster, "app").with(Attribute::Node, node);
        push_states(&mut self.0.series, &catalogue::NODE_STATE, &attributes, NodeState::ALL, state);
        if let Some(role) = role {
            let with = |role| attributes.clone().with(Attribute::Role, role);
            self.0.series.extend(
                NodeRole::ALL
                    .iter()
                    .map(|one| Series::gauge(&catalogue::NODE_ROLE, with(*one), if *one == role { 1.0 } else { 0.0 })),
            );
            let info = attributes.with(Attribute::Version, "160003").with(Attribute::System, "42");
            self.0.series.push(Series::gauge(&catalogue::NODE_INFO, info, 1.0));
        }
        self
    }

    fn from(&self, origin: &str) -> Attributes {
        let node = format!("{}-db", self.0.exporter.region);
        self.here().with(Attribute::Cluster, "app").with(Attribute::Node, node).with(Attribute::Origin, format!("{origin}-db"))
    }

    pub(crate) fn replication(mut self, origin: &str, state: ReplicationState) -> Says {
        let attributes = self.from(origin);
        push_states(&mut self.0.series, &catalogue::REPLICATION_STATE, &attributes, ReplicationState::ALL, state);
        self
    }

    /// So many beats of so many milliseconds since the boot (bounds 10 ms apart), and so many seconds of staleness.
    pub(crate) fn lag(mut self, origin: &str, count: u64, ms: u64, staleness_s: f64) -> Says {
        for (bound, off) in [(Bound::Lower, 0), (Bound::Estimate, 10), (Bound::Upper, 20)] {
            let attributes = self.from(origin).with(Attribute::Bound, bound).with(Attribute::Basis, "mesh");
            self.0.series.push(Series::gauge(&catalogue::REPLICATION_STALENESS, attributes.clone(), staleness_s));
            let newest = attributes.clone().with(Attribute::Stage, Stage::Visible);
            self.0.series.push(Series::gauge(&catalogue::REPLICATION_DELAY, newest, (ms + off) as f64 / 1e3));
            self.0.series.push(Series::histogram(&catalogue::REPLICATION_LAG, attributes, distribution(count, ms + off)));
        }
        self
    }

    pub(crate) fn writes(mut self, acknowledged: u64, failed: u64) -> Says {
        let node = format!("{}-db", self.0.exporter.region);
        let attributes = self.here().with(Attribute::Cluster, "app").with(Attribute::Node, node).with(Attribute::Stream, "beat");
        for (outcome, count) in [("acknowledged", acknowledged), ("failed", failed)] {
            let attributes = attributes.clone().with(Attribute::Outcome, outcome);
            self.0.series.push(Series::counter(&catalogue::HEARTBEAT_WRITES, attributes, count));
        }
        self
    }

    fn of_node(&self) -> Attributes {
        let node = format!("{}-db", self.0.exporter.region);
        self.here().with(Attribute::Cluster, "app").with(Attribute::Node, node)
    }

    /// What became of the newest row of the ledger, if one was tried of late, and how long ago one was acknowledged [s].
    pub(crate) fn ledger(mut self, newest: Option<(CommitLevel, WriteOutcome)>, acknowledged_age_s: Option<f64>) -> Says {
        let node = self.of_node();
        let fates = newest.into_iter().flat_map(|newest| WriteOutcome::ALL.iter().map(move |outcome| (newest, *outcome)));
        for ((level, newest), outcome) in fates {
            let attributes = node.clone().with(Attribute::Level, level).with(Attribute::Outcome, outcome);
            let value = f64::from(u8::from(outcome == newest));
            self.0.series.push(Series::gauge(&catalogue::HEARTBEAT_LEDGER, attributes, value));
        }
        self.0.series.extend(acknowledged_age_s.map(|age_s| Series::gauge(&catalogue::HEARTBEAT_LEDGER_AGE, node, age_s)));
        self
    }

    /// How many slots the region's node has.
    pub(crate) fn slots(mut self, count: u64) -> Says {
        self.0.series.push(Series::gauge(&catalogue::NODE_SLOTS, self.of_node(), count as f64));
        self
    }

    /// One of them that nobody reads from: what it keeps, what may still be written [bytes], and until when [s].
    pub(crate) fn slot(mut self, name: &str, state: SlotState, numbers: [Option<f64>; 3]) -> Says {
        let attributes = self.of_node().with(Attribute::Slot, name);
        push_states(&mut self.0.series, &catalogue::SLOT_STATE, &attributes, SlotState::ALL, state);
        let metrics = [&catalogue::SLOT_RETAINED, &catalogue::SLOT_SAFE, &catalogue::SLOT_EXHAUSTION];
        let told = metrics.into_iter().zip(numbers).filter_map(|(metric, value)| Some((metric, value?)));
        let gauges = told.chain([(&catalogue::SLOT_ACTIVE, 0.0)]);
        self.0.series.extend(gauges.map(|(metric, value)| Series::gauge(metric, attributes.clone(), value)));
        self
    }

    pub(crate) fn batch(self) -> Batch {
        self.0
    }
}

fn distribution(count: u64, ms: u64) -> Exponential {
    let mut distribution = Exponential::new();
    for _ in 0..count {
        distribution.record_ns(ms * 1_000_000);
    }
    distribution
}
