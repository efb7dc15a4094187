//! What a world of the testbed consists of: regions with their clocks, links, databases, collectors. Pure data; `world` builds it.

mod three_cities;

use std::time::Duration;

use lagmesh_model::physics::Coordinates;

pub use three_cities::{COLLECTOR, REGIONS};

use crate::clocks::ClockPlan;
use crate::postgres::pooler::PoolMode;
use crate::wan::LinkPlan;

/// Everything that stands before the first fault.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What it is for; part of the run folder's name.
    pub name: String,
    /// Where the randomness of links starts.
    pub seed: u64,
    /// Whether agents, databases and collectors talk over IPv6.
    pub ipv6: bool,
    /// Places, in the order of the file.
    pub regions: Vec<RegionPlan>,
    /// The settings of links that differ from an ideal one.
    pub links: Vec<LinkPlan>,
    /// Replicated databases.
    pub clusters: Vec<ClusterPlan>,
    /// Collectors.
    pub collectors: Vec<CollectorPlan>,
    /// Further tables of the fleet file, as text.
    pub fleet: String,
    /// Write loads that run from the start.
    pub loads: Vec<LoadPlan>,
}

/// A place: one emulated host with the agent and the servers of the region.
#[derive(Debug, Clone, Default)]
pub struct RegionPlan {
    /// Its name.
    pub name: String,
    /// Where it is; without it links have no physical floor.
    pub coordinates: Option<Coordinates>,
    /// How many agents it has [1, 4].
    pub agents: u16,
    /// What its clocks show.
    pub clock: RegionClock,
    /// The size of the disk of the agents' spools [bytes]; `None`: the run folder's own disk.
    pub spool_disk_bytes: Option<u64>,
}

/// What the clocks of a region show.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RegionClock {
    /// How far its monotonic clocks are ahead of the machine's [s].
    pub monotonic_s: i64,
    /// How far its boot clock is ahead of the machine's [s].
    pub boot_s: i64,
    /// Its wall clock, its drift and what it claims.
    pub clocks: ClockPlan,
}

/// One replicated database.
#[derive(Debug, Clone, Default)]
pub struct ClusterPlan {
    /// Its name.
    pub name: String,
    /// Its nodes; a node stands after the one that it follows.
    pub nodes: Vec<NodePlan>,
    /// `synchronous_standby_names` of its writers.
    pub synchronous_standby_names: Option<String>,
    /// `synchronous_commit` of its writers.
    pub synchronous_commit: Option<String>,
    /// The time between two beats; `None`: lagmesh's default.
    pub beat_interval: Option<Duration>,
    /// The time between two rows of the ledger; `None`: lagmesh's default.
    pub ledger_interval: Option<Duration>,
    /// The promised apply lag; `None`: lagmesh's default.
    pub lag_objective: Option<Duration>,
    /// How many writers are no split brain.
    pub writers_max: u64,
}

/// One server.
#[derive(Debug, Clone, Default)]
pub struct NodePlan {
    /// Its name, unique in the plan.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// The major version of PostgreSQL; `None`: the system's.
    pub version: Option<u32>,
    /// Where its data comes from.
    pub source: Source,
    /// `recovery_min_apply_delay` [ms].
    pub apply_delay_ms: Option<u64>,
    /// Further lines of its postgresql.conf.
    pub settings: Vec<String>,
    /// A `PgBouncer` through which agents reach it; `None`: they reach the server itself.
    pub pooler: Option<PoolMode>,
}

/// Where a server's data comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Source {
    /// Nowhere: it is written here.
    #[default]
    Own,
    /// It streams from this node, a writer or (cascade) another standby.
    Follows(String),
    /// It subscribes to this node's tables.
    Subscribes(String),
    /// It and this node subscribe to each other with `origin = none`.
    Exchanges(String),
}

/// One collector, on a host of its own.
#[derive(Debug, Clone)]
pub struct CollectorPlan {
    /// Its name.
    pub name: String,
    /// The region whose links it shares.
    pub region: String,
}

/// A write load.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The node that it writes to.
    pub node: String,
    /// How many connections.
    pub clients: u32,
    /// Transactions per second over all connections.
    pub rate_per_s: u32,
}

impl Plan {
    /// A region by name.
    pub fn region(&self, name: &str) -> Option<&RegionPlan> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// A node by name, with its cluster.
    pub fn node(&self, name: &str) -> Option<(&ClusterPlan, &NodePlan)> {
        let nodes = self.clusters.iter().flat_map(|cluster| cluster.nodes.iter().map(move |node| (cluster, node)));
        nodes.into_iter().find(|(_, node)| node.name == name)
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &NodePlan> {
        self.clusters.iter().flat_map(|cluster| &cluster.nodes)
    }

    /// Every pair of nodes between which beats travel: from each writer to whatever copies it, directly or through others.
    pub fn replications(&self) -> Vec<(&str, &str)> {
        let mut pairs = Vec::new();
        for cluster in &self.clusters {
            for node in &cluster.nodes {
                if let Some(origin) = origin_of(cluster, node) {
                    pairs.push((origin, node.name.as_str()));
                }
                if let Source::Exchanges(other) = &node.source {
                    pairs.push((node.name.as_str(), other.as_str()));
                }
            }
        }
        pairs
    }

    /// Names of a region's agents, in the order of their ports.
    pub fn agents_of(&self, region: &RegionPlan) -> Vec<String> {
        match region.agents {
            0 | 1 => vec![region.name.clone()],
            count => (1..=count).map(|number| format!("{}-{number}", region.name)).collect(),
        }
    }

    /// Where an agent is.
    pub fn region_of_agent(&self, agent: &str) -> Option<&RegionPlan> {
        self.regions.iter().find(|region| self.agents_of(region).iter().any(|name| name == agent))
    }
}

/// The writer whose beats reach a node; `None` if the node is a writer itself that copies nobody.
fn origin_of<'p>(cluster: &'p ClusterPlan, node: &'p NodePlan) -> Option<&'p str> {
    match &node.source {
        Source::Own => None,
        Source::Subscribes(name) | Source::Exchanges(name) => Some(name),
        Source::Follows(name) => {
            // A plan lists a node after the one that it follows, so this ends.
            let followed = cluster.nodes.iter().find(|other| other.name == *name)?;
            match followed.source {
                Source::Follows(_) => origin_of(cluster, followed),
                _ => Some(name),
            }
        }
    }
}
