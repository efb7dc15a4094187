//! What `/v1/status` says, of an agent and of a collector alike: the one contract between programs, pages and the command line.

mod clocks;
mod followers;
mod link;
mod reach;
mod writes;

use serde::{Deserialize, Serialize};

use crate::beat::{Incarnation, Sequence};
use crate::fleet::Plan;
use crate::ids::{AgentName, BootId, ClusterName, CollectorName, NodeName, RegionName};
use crate::interval::Interval;
use crate::known::Known;
use crate::physics::Coordinates;
use crate::position::{Lsn, SystemIdentifier, Timeline};
use crate::state::{Axis, Basis, Bound, NodeRole, NodeState, RegionState, ReplicationState, Vote};
use crate::time::WallNanos;

pub use clocks::{Clocks, WallOffset};
pub use followers::{Follower, Followers, Sending};
pub use link::{Changed, Hop, Link, LinkKind, LinkPath, Losses, PathChange, Route};
pub use reach::{LogReach, Reach};
pub use writes::{Ledger, Slot, Slots};

/// A bounded value in seconds, as people read it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// The true value is not below [s].
    pub lower_s: f64,
    /// The best guess [s].
    pub estimate_s: f64,
    /// The true value is not above [s].
    pub upper_s: f64,
}

impl Seconds {
    /// The same the other way round.
    pub fn reversed(self) -> Seconds {
        Seconds { lower_s: -self.upper_s, estimate_s: -self.estimate_s, upper_s: -self.lower_s }
    }

    /// Each with its word.
    pub fn each(&self) -> [(Bound, f64); 3] {
        [(Bound::Lower, self.lower_s), (Bound::Estimate, self.estimate_s), (Bound::Upper, self.upper_s)]
    }
}

impl From<Interval> for Seconds {
    fn from(interval: Interval) -> Seconds {
        let seconds = |ns: i64| ns as f64 / 1e9;
        Seconds {
            lower_s: seconds(interval.lower_ns()),
            estimate_s: seconds(interval.estimate_ns()),
            upper_s: seconds(interval.upper_ns()),
        }
    }
}

/// A recent distribution (the last minute) in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many values.
    pub samples: u64,
    /// The smallest [s].
    pub min_s: f64,
    /// The median, nearest rank [s].
    pub p50_s: f64,
    /// The 99th percentile, nearest rank [s].
    pub p99_s: f64,
    /// The largest [s].
    pub max_s: f64,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its region.
    pub region: RegionName,
    /// Its name.
    pub node: NodeName,
    /// How its agent gets on with it.
    pub state: NodeState,
    /// What is wrong and what to do, if anything is.
    pub why: String,
    /// What it is.
    pub role: Known<NodeRole>,
    /// `server_version_num`.
    pub version: Known<u32>,
    /// Which system.
    pub system: Known<SystemIdentifier>,
    /// Which timeline.
    pub timeline: Known<Timeline>,
    /// Written (on a writer), received (on a standby).
    pub received: Known<Lsn>,
    /// Replayed (on a standby).
    pub replayed: Known<Lsn>,
    /// The newest beat that was acknowledged here, if beats are written here.
    pub beat: Known<(Incarnation, Sequence)>,
    /// Whether writes work at the level that applications get, if beats are written here.
    #[serde(default = "untold")]
    pub ledger: Known<Ledger>,
    /// Its replication slots.
    #[serde(default = "untold")]
    pub slots: Known<Slots>,
    /// Those who receive its log, by its own word; an agent tells it of a node out of recovery, a collector does not.
    #[serde(default = "untold")]
    pub followers: Known<Followers>,
    /// Age of the newest evidence [s].
    pub evidence_age_s: Known<f64>,
}

/// Replication from one origin to one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replication {
    /// The cluster.
    pub cluster: ClusterName,
    /// Where beats are written.
    pub origin: NodeName,
    /// The region that observes: the node's.
    pub region: RegionName,
    /// Where they are read.
    pub node: NodeName,
    /// The state.
    pub state: ReplicationState,
    /// Why, in a sentence, with the evidence.
    pub why: String,
    /// Apply lag of the newest beat.
    pub lag: Known<Seconds>,
    /// The beat whose lag that is, as the node's own agent says.
    #[serde(default = "untold")]
    pub lag_beat: Known<(Incarnation, Sequence)>,
    /// Apply lag (estimates) of the last minute.
    pub lag_recent: Known<Quantiles>,
    /// Staleness now.
    pub staleness: Known<Seconds>,
    /// What staleness rests on; lag does, too, from the next beat on when that has changed.
    #[serde(default = "by_mesh")]
    pub basis: Basis,
    /// How far the origin's log has got.
    #[serde(default)]
    pub log: LogReach,
    /// If the origin vanished now: over how long it has written what is not on disk here. Its newest writes may be unknown, so the upper
    /// end goes up to now.
    #[serde(default = "untold")]
    pub loss: Known<Seconds>,
    /// How long it takes until everything is replayed, if both ends go on as they did [s].
    #[serde(default = "untold")]
    pub catch_up_s: Known<f64>,
    /// Age of the newest evidence [s].
    pub evidence_age_s: Known<f64>,
}

fn by_mesh() -> Basis {
    Basis::Mesh
}

fn untold<T>() -> Known<T> {
    Known::unknown("not told")
}

/// One export target of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// Which collector.
    pub collector: CollectorName,
    /// Bytes not acknowledged yet.
    pub pending_bytes: u64,
    /// Batches not acknowledged yet.
    pub pending_batches: u64,
    /// Since when the collector has last acknowledged anything [s].
    pub acknowledged_age_s: Known<f64>,
    /// The last error, if the last try failed.
    pub error: Option<String>,
}

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The fleet's name.
    pub fleet: String,
    /// Its region.
    pub region: RegionName,
    /// Its name.
    pub agent: AgentName,
    /// Its start.
    pub boot: BootId,
    /// Its version.
    pub version: String,
    /// When this was said.
    pub at: WallNanos,
    /// Its links.
    pub links: Vec<Link>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Replication towards its nodes.
    pub replications: Vec<Replication>,
    /// Its collectors.
    pub exports: Vec<Export>,
}

/// One vantage's vote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CastVote {
    /// Who votes.
    pub vantage: RegionName,
    /// What.
    pub vote: Vote,
    /// Why.
    pub why: String,
}

/// The verdict on one axis of a region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which axis.
    pub axis: Axis,
    /// The state.
    pub state: RegionState,
    /// Whether that is the last state that could be judged: there is no evidence of the present.
    #[serde(default)]
    pub stale: bool,
    /// For how long [s].
    pub for_s: f64,
    /// Why, in a sentence.
    pub why: String,
    /// Who voted what.
    pub votes: Vec<CastVote>,
}

/// One region as the collector sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Its name.
    pub region: RegionName,
    /// Where it is.
    pub coordinates: Option<Coordinates>,
    /// Verdicts, one per axis.
    pub verdicts: Vec<Verdict>,
    /// Age of the newest evidence that its own agents delivered [s].
    pub evidence_age_s: Known<f64>,
}

/// One cluster as the collector sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub cluster: ClusterName,
    /// Nodes that are out of recovery by fresh evidence.
    pub writers: Vec<NodeName>,
    /// How many writers the fleet file allows.
    pub writers_max: u64,
    /// The promised apply lag [s].
    pub lag_objective_s: f64,
}

/// What a collector says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// The fleet's name.
    pub fleet: String,
    /// The collector's version.
    pub version: String,
    /// When this was said.
    pub at: WallNanos,
    /// Regions of the fleet file.
    pub regions: Vec<Region>,
    /// Regions with fresh evidence of their own.
    pub regions_reporting: u64,
    /// The plan of the mesh ([`Plan::as_str`](crate::fleet::Plan::as_str)).
    #[serde(default = "full")]
    pub plan: String,
    /// Every link that the plan of the mesh has: regions without a link between them are not planned to probe each other.
    pub links: Vec<Link>,
    /// Every node of the fleet file.
    pub nodes: Vec<Node>,
    /// Every replication link that is known or must exist.
    pub replications: Vec<Replication>,
    /// Every cluster.
    pub clusters: Vec<Cluster>,
    /// How far the wall clocks of all hosts are apart.
    #[serde(default)]
    pub clocks: Clocks,
}

/// What every collector had that does not say.
fn full() -> String {
    Plan::Full.as_str().to_owned()
}
