//! The fleet file: one TOML file, the same in every region, that names regions, clusters, nodes, collectors and thresholds.
//! Secrets never stand in it.

mod address;
mod dsn;
mod forward;
mod plan;
mod read;
#[cfg(test)]
mod tests;
pub mod traffic;
mod warn;

use std::time::Duration;

pub use address::{Address, BadAddress, BadUrl, Url};
pub use forward::{Forward, ForwardKind, HistogramForm};
pub use plan::{Links, Pair, Plan};
pub use read::{EXPORT_KEYS, JUDGE_KEYS, MESH_KEYS, REPLICATION_KEYS};

use crate::document::FileErrors;
use crate::ids::{AgentName, ClusterName, CollectorName, NodeHash, NodeName, RegionName};
use crate::physics::Coordinates;
use crate::state::ProbeKind;

/// The most source ports per peer: more would cost packets and find no more parallel paths.
pub const FLOWS_MAX: u16 = 64;
/// The largest DSCP: it has six bits.
pub const DSCP_MAX: u8 = 63;
/// The shortest interval between two probes of one flow: faster would be load, not measurement.
pub const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The shortest interval between two beats: each is a commit on the customer's writer.
pub const BEAT_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// The longest interval between two beats: the session that beats holds the election, and the server ends it after 30 s without a beat.
pub const BEAT_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// The shortest interval between two rows of the ledger: each is a commit at the level of the applications.
pub const LEDGER_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The longest: the server ends the session of a writer after 30 s without a statement.
pub const LEDGER_INTERVAL_MAX: Duration = Duration::from_secs(20);
/// The shortest interval between two probes of the other kinds: each TCP connection costs the database a process.
pub const OPINION_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The shortest interval between two logins, queries or requests at a peer region: each makes a server there work.
pub const APPLICATION_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// The longest: more rarely shows nothing in time.
pub const APPLICATION_INTERVAL_MAX: Duration = Duration::from_secs(600);
/// The longest wait for an answer: everything that is out is remembered for so long.
pub const GIVE_UP_MAX: Duration = Duration::from_secs(60);
/// The shortest interval between two summaries: each is a transaction on the disk and a request to every collector.
pub const EXPORT_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The longest duration that the fleet file may hold: beyond it stands a slip of the pen.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Everything that one fleet file describes.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// The fleet's name; goes into every export, so that two fleets never mix.
    pub name: String,
    /// Allows a mesh without a key and OTLP without TLS beside loopback.
    pub insecure: bool,
    /// Places, in the order of the file; at least one.
    pub regions: Vec<Region>,
    /// Replicated databases, in the order of the file.
    pub clusters: Vec<Cluster>,
    /// Where agents send what they measured, in the order of the file.
    pub collectors: Vec<Collector>,
    /// To what else collectors pass everything on, in the order of the file.
    pub forwards: Vec<Forward>,
    /// How the network is probed.
    pub mesh: Mesh,
    /// How agents send, and how much they keep while nobody listens.
    pub export: Export,
    /// When replication is called lagging.
    pub replication: Replication,
    /// When a region is called bad, and good again.
    pub judge: Judge,
    /// Who probes whom, as regions and plan say.
    pub links: Links,
}

/// A place with its agents.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// Where it is; without it there is no physical floor.
    pub coordinates: Option<Coordinates>,
    /// Its agents; at least one.
    pub agents: Vec<Agent>,
    /// libpq connection string or URI, without a password, with which agents of its peers log in and query; none: they do not.
    pub sql_probe: Option<String>,
    /// What agents of its peers ask for over HTTP; none: they do not.
    pub http_probe: Option<Url>,
}

/// One lagmesh-agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its name; the region's if it is the region's only agent and has none of its own.
    pub name: AgentName,
    /// Where the other agents reach it (UDP).
    pub mesh: Address,
}

/// One replicated database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// The promised apply lag.
    pub lag_objective: Duration,
    /// The time between two beats.
    pub beat_interval: Duration,
    /// The time between two rows of the ledger.
    pub ledger_interval: Duration,
    /// How many nodes may be out of recovery at once; more is a split brain.
    pub writers_max: u64,
    /// Its servers; at least one.
    pub nodes: Vec<Node>,
}

/// One PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, unique in the fleet.
    pub name: NodeName,
    /// The region whose agents watch it.
    pub region: RegionName,
    /// libpq connection string or URI, without a password.
    pub dsn: String,
}

/// One collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Its name.
    pub name: CollectorName,
    /// Its OTLP/HTTP base URL.
    pub otlp: Url,
}

/// `[mesh]`: how the network is probed.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// Which regions probe each other.
    pub plan: Plan,
    /// What the mesh of no region may exceed, each way [bits per second]; no bound if it is not written.
    pub budget_bits_per_s: Option<u64>,
    /// Source ports per peer [1, 64].
    pub flows: u16,
    /// The DSCP of probes and of the answers to them [0, 63].
    pub dscp: u8,
    /// The time between two probes of one flow.
    pub interval: Duration,
    /// A reply later than this is late.
    pub deadline: Duration,
    /// A probe without a reply for this long is lost; not below `deadline`, at most [`GIVE_UP_MAX`].
    pub give_up: Duration,
    /// Whether ICMP echo is sent too.
    pub icmp: bool,
    /// Whether the peer's database port is connected to too.
    pub tcp: bool,
    /// The time between two logins with a peer's `sql_probe`.
    pub sql_interval: Duration,
    /// The time between two queries on the kept connection of a peer's `sql_probe`.
    pub sql_kept_interval: Duration,
    /// The time between two requests for a peer's `http_probe`.
    pub http_interval: Duration,
    /// Whether agents with a mesh key also answer standard STAMP and TWAMP-Light senders that have none.
    pub third_party: bool,
    /// Loss above this makes a link lossy [ratio, 0 to 1].
    pub loss_enter: f64,
    /// Loss below this ends it [ratio, below `loss_enter`].
    pub loss_exit: f64,
}

impl Mesh {
    /// What a packet between agents takes without a mesh key, both ways: base packet, clock, records [octets of UDP payload].
    pub const PACKET_LENGTH: usize = 264;
    /// The same with a mesh key: the longer base packet, and the HMAC of what follows it [octets of UDP payload].
    pub const PACKET_LENGTH_WITH_KEY: usize = 352;

    /// The time between two probes of a kind: of one flow for STAMP, of one peer for the others.
    pub fn interval_of(&self, kind: ProbeKind) -> Duration {
        match kind {
            ProbeKind::Stamp => self.interval,
            ProbeKind::Icmp | ProbeKind::Tcp => self.interval.max(OPINION_INTERVAL_MIN),
            ProbeKind::Sql => self.sql_interval,
            ProbeKind::SqlKept => self.sql_kept_interval,
            ProbeKind::Http => self.http_interval,
        }
    }

    /// When an attempt of a kind is given up. Where only one may be out, it ends well before the next is due, so that there is time
    /// to cancel what the server still does.
    pub fn give_up_of(&self, kind: ProbeKind) -> Duration {
        match kind {
            ProbeKind::Stamp | ProbeKind::Icmp | ProbeKind::Tcp => self.give_up,
            ProbeKind::Sql | ProbeKind::SqlKept | ProbeKind::Http => self.give_up.min(self.interval_of(kind) / 2),
        }
    }

    /// Whether agents ask a peer region in this way: the file switches it on, and there is someone to ask.
    pub fn asks(&self, kind: ProbeKind, peer: &Region, has_node: bool) -> bool {
        match kind {
            ProbeKind::Stamp => true,
            ProbeKind::Icmp => self.icmp,
            ProbeKind::Tcp => self.tcp && has_node,
            ProbeKind::Sql | ProbeKind::SqlKept => peer.sql_probe.is_some(),
            ProbeKind::Http => peer.http_probe.is_some(),
        }
    }
}

impl Default for Mesh {
    fn default() -> Mesh {
        Mesh {
            plan: Plan::Full,
            budget_bits_per_s: None,
            flows: 16,
            dscp: 0,
            interval: Duration::from_secs(1),
            deadline: Duration::from_secs(1),
            give_up: Duration::from_secs(10),
            icmp: true,
            tcp: true,
            sql_interval: Duration::from_secs(60),
            sql_kept_interval: Duration::from_secs(10),
            http_interval: Duration::from_secs(10),
            third_party: false,
            loss_enter: 0.01,
            loss_exit: 0.005,
        }
    }
}

/// `[export]`: how agents send, and how much they keep while nobody listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The time between two summaries.
    pub interval: Duration,
    /// The spool's bound [bytes].
    pub spool_bytes_max: u64,
    /// The oldest batch that is kept.
    pub spool_age_max: Duration,
    /// How batches are compressed, once and for every collector.
    pub compression: Compression,
}

/// How an HTTP body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952. Everything that speaks OTLP takes it.
    Gzip,
    /// RFC 8878. Collectors of lagmesh take it; other receivers may not.
    Zstd,
    /// Not at all.
    None,
}

impl Compression {
    /// Every way.
    pub const ALL: &'static [Compression] = &[Compression::Gzip, Compression::Zstd, Compression::None];

    /// The word in the fleet file.
    pub fn as_str(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::None => "none",
        }
    }

    /// The word of HTTP (RFC 9110, 8.4.1).
    pub fn content_coding(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::None => "identity",
        }
    }
}

impl Default for Export {
    fn default() -> Export {
        Export {
            interval: Duration::from_secs(10),
            spool_bytes_max: 256 * 1024 * 1024,
            spool_age_max: Duration::from_secs(24 * 3600),
            compression: Compression::Gzip,
        }
    }
}

/// `[replication]`: when replication is called lagging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// Lag above this is lagging.
    pub lag_enter: Duration,
    /// Lag below this ends it; below `lag_enter`.
    pub lag_exit: Duration,
}

impl Default for Replication {
    fn default() -> Replication {
        Replication { lag_enter: Duration::from_secs(10), lag_exit: Duration::from_secs(5) }
    }
}

/// `[judge]`: for how long evidence must hold before a region's state changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judge {
    /// A quorum says bad for this long: SUSPECT.
    pub suspect_after: Duration,
    /// A quorum says bad for this long: DOWN. Longer than the 43 s partition that cost GitHub a day in 2018.
    pub down_after: Duration,
    /// Worse than the thresholds for this long: DEGRADED.
    pub degraded_after: Duration,
    /// Good for this long ends DEGRADED.
    pub healthy_after: Duration,
    /// A quorum says good for this long: DOWN becomes RECOVERING.
    pub recover_after: Duration,
    /// Good for this long: RECOVERING becomes HEALTHY.
    pub recovered_after: Duration,
}

impl Default for Judge {
    fn default() -> Judge {
        Judge {
            suspect_after: Duration::from_secs(15),
            down_after: Duration::from_secs(90),
            degraded_after: Duration::from_secs(30),
            healthy_after: Duration::from_secs(120),
            recover_after: Duration::from_secs(30),
            recovered_after: Duration::from_secs(300),
        }
    }
}

impl Cluster {
    /// The promised apply lag of a cluster that names none.
    pub const LAG_OBJECTIVE: Duration = Duration::from_secs(5);
    /// The time between two beats of a cluster that names none.
    pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);
    /// The time between two rows of the ledger of a cluster that names none.
    pub const LEDGER_INTERVAL: Duration = Duration::from_secs(5);
    /// The writers of a cluster that names no number.
    pub const WRITERS_MAX: u64 = 1;
}

impl Fleet {
    /// Reads the text of a fleet file; `file` is how errors name it.
    ///
    /// # Errors
    /// Everything that is wrong with the file, one line each: `fleet.toml:12: region.agent.mesh: "foo" is not host:port`.
    pub fn parse(file: &str, text: &str) -> Result<Fleet, FileErrors> {
        read::fleet(file, text)
    }

    /// The region of a name.
    pub fn region(&self, name: &RegionName) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == *name)
    }

    /// The agent of a name, and its region.
    pub fn agent(&self, name: &AgentName) -> Option<(&Region, &Agent)> {
        self.agents().find(|(_, agent)| agent.name == *name)
    }

    /// Every agent, with its region.
    pub fn agents(&self) -> impl Iterator<Item = (&Region, &Agent)> {
        self.regions.iter().flat_map(|region| region.agents.iter().map(move |agent| (region, agent)))
    }

    /// The regions that `name` probes and that probe it, by the plan of the mesh.
    pub fn peers_of(&self, name: &RegionName) -> impl Iterator<Item = &Region> {
        let plan = &self.mesh.plan;
        let (all, few) = match plan {
            Plan::Full => (self.regions.as_slice(), &[][..]),
            Plan::Hub(_) | Plan::Pairs(_) => (&[][..], self.links.of(name, &self.regions, plan)),
        };
        all.iter().filter(move |region| region.name != *name).chain(few.iter().filter_map(|place| self.regions.get(*place)))
    }

    /// Whether `region` probes `peer` by this file: both are in it and its plan connects them.
    pub fn has_link(&self, region: &RegionName, peer: &RegionName) -> bool {
        self.mesh.plan.connects(region, peer) && self.region(region).is_some() && self.region(peer).is_some()
    }

    /// Every node, with its cluster.
    pub fn nodes(&self) -> impl Iterator<Item = (&Cluster, &Node)> {
        self.clusters.iter().flat_map(|cluster| cluster.nodes.iter().map(move |node| (cluster, node)))
    }

    /// The nodes that the agents of a region watch.
    pub fn nodes_of(&self, region: &RegionName) -> impl Iterator<Item = (&Cluster, &Node)> {
        self.nodes().filter(move |(_, node)| node.region == *region)
    }

    /// The node of a name, and its cluster.
    pub fn node(&self, name: &NodeName) -> Option<(&Cluster, &Node)> {
        self.nodes().find(|(_, node)| node.name == *name)
    }

    /// The node whose name has this hash, and its cluster.
    pub fn node_by_hash(&self, hash: NodeHash) -> Option<(&Cluster, &Node)> {
        self.nodes().find(|(_, node)| NodeHash::of(&node.name) == hash)
    }

    /// The least time that anything takes one way between two regions [ns]; 0 where coordinates are missing.
    pub fn one_way_floor_ns(&self, a: &RegionName, b: &RegionName) -> i64 {
        self.coordinates(a, b).map_or(0, |(a, b)| a.one_way_floor_ns(&b))
    }

    /// The shortest round trip through fibre between two regions [s].
    pub fn soft_floor_s(&self, a: &RegionName, b: &RegionName) -> Option<f64> {
        self.coordinates(a, b).map(|(a, b)| a.soft_floor_s(&b))
    }

    /// The shortest round trip in vacuum between two regions [s].
    pub fn hard_floor_s(&self, a: &RegionName, b: &RegionName) -> Option<f64> {
        self.coordinates(a, b).map(|(a, b)| a.hard_floor_s(&b))
    }

    /// Whether the mesh leaves loopback and `insecure` does not stand in the file: then agents must be given a mesh key.
    pub fn needs_mesh_key(&self) -> bool {
        !self.insecure && self.agents().any(|(_, agent)| !agent.mesh.is_loopback())
    }

    /// What is wrong if the mesh of a region sends more than `mesh.budget_bits_per_s` allows, with numbers and what to change;
    /// `with_key` if packets are authenticated.
    pub fn over_budget(&self, with_key: bool) -> Option<String> {
        let budget = self.mesh.budget_bits_per_s?;
        let rate = |region: &Region| traffic::of_region(self, region, with_key).bits_per_s();
        let (region, most) = self.regions.iter().map(|region| (region, rate(region))).max_by(|a, b| a.1.total_cmp(&b.1))?;
        let peers = self.peers_of(&region.name).count();
        (most > budget as f64).then(|| {
            format!(
                "the mesh of {} takes {most:.0} bit/s each way (peers: {peers}), the budget is {budget}; probe less often \
                 (interval), on fewer flows, between fewer regions (plan), or allow more",
                region.name
            )
        })
    }

    /// What is allowed, but probably not meant: one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        warn::warnings(self)
    }

    fn coordinates(&self, a: &RegionName, b: &RegionName) -> Option<(Coordinates, Coordinates)> {
        Some((self.region(a)?.coordinates?, self.region(b)?.coordinates?))
    }
}
