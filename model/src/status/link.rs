//! One link between two regions: round trips by kind, loss, and the way that packets take.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::{Quantiles, Seconds, untold};
use crate::directed::Directed;
use crate::disagreement::Disagreement;
use crate::ids::{AgentName, RegionName};
use crate::known::Known;
use crate::state::{Direction, IcmpSocket, LinkState, PathCause, Phase, ProbeKind, RouteCause, StampSource};

/// One kind of probe on one link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkKind {
    /// Which kind.
    pub kind: ProbeKind,
    /// Round-trip time of the last minute.
    pub rtt: Known<Quantiles>,
    /// Probes sent in the last minute whose fate is settled.
    pub settled: u64,
    /// Those of them that were answered at all.
    pub answered: u64,
    /// The round trips of the last minute by what stamped them; of the mesh's own kind only.
    #[serde(default)]
    pub stamps: BTreeMap<StampSource, u64>,
    /// How long each part of the attempts of the last minute took; only of kinds that need several round trips. What was not measured
    /// is not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub phases: BTreeMap<Phase, Quantiles>,
    /// Through which socket; ICMP only, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<IcmpSocket>,
}

/// One link (region -> peer).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// From.
    pub region: RegionName,
    /// To.
    pub peer: RegionName,
    /// Its state.
    pub state: LinkState,
    /// Why, in a sentence.
    pub why: String,
    /// Flows that answer, of all that should.
    pub flows_alive: Known<u64>,
    /// All flows.
    pub flows: u64,
    /// The soft physical floor of the round trip, if both ends have coordinates [s].
    pub floor_s: Option<f64>,
    /// By kind of probe.
    pub kinds: Vec<LinkKind>,
    /// What is known of the path beyond the round trip; stamp only.
    #[serde(default)]
    pub path: LinkPath,
    /// Kinds that have stood against each other for a while, if any do.
    #[serde(default)]
    pub disagreement: Option<Disagreement>,
    /// How far the two measuring clocks' offset is uncertain [s, half width]; stamp only.
    pub clock_error_s: Known<f64>,
    /// The peer's wall clock minus the region's, bounded by the mesh.
    #[serde(default = "untold")]
    pub wall_offset_s: Known<Seconds>,
    /// Both hosts claim to be synchronised, and they cannot both be: says so with the numbers.
    #[serde(default)]
    pub clock_contradiction: Option<String>,
    /// The longest packet that reaches the peer [octets, with its IP header]; 1500, the longest that is tried, means that much or more.
    #[serde(default = "untold")]
    pub mtu_bytes: Known<u64>,
    /// The newest route of one of its flows; an agent tells it, a collector does not.
    #[serde(default)]
    pub route: Option<Route>,
    /// Age of the newest evidence [s].
    pub evidence_age_s: Known<f64>,
}

/// What is known of a link's path beyond the round trip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkPath {
    /// The shortest one-way delay of the last minute.
    pub oneway: Directed<Known<Seconds>>,
    /// Round-trip times of the last minute over the least of their flow (PDV of RFC 5481).
    pub delay_variation: Known<Quantiles>,
    /// Routers on the way; the most that any flow passes.
    pub hops: Directed<Known<u64>>,
    /// Probes whose loss was told in the last minute.
    pub lost: Known<Losses>,
    /// Changes of the paths of single flows since the agent started.
    pub changes: Known<u64>,
    /// The newest of them; an agent tells it, a collector does not.
    pub newest_change: Option<PathChange>,
}

impl LinkPath {
    /// Nothing is known, and why.
    pub fn unknown(why: &str) -> LinkPath {
        LinkPath {
            oneway: Directed::from_each(|_| Known::unknown(why)),
            delay_variation: Known::unknown(why),
            hops: Directed::from_each(|_| Known::unknown(why)),
            lost: Known::unknown(why),
            changes: Known::unknown(why),
            newest_change: None,
        }
    }
}

impl Default for LinkPath {
    fn default() -> LinkPath {
        LinkPath::unknown("not told")
    }
}

/// Lost probes by direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// The request was lost.
    pub forward: u64,
    /// The answer was lost.
    pub backward: u64,
    /// One of the two was, and it cannot be told which.
    pub unknown: u64,
}

impl Losses {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.forward + self.backward + self.unknown
    }

    /// With the word for each.
    pub fn each(&self) -> [(Direction, u64); 3] {
        [(Direction::Forward, self.forward), (Direction::Backward, self.backward), (Direction::Unknown, self.unknown)]
    }
}

impl AddAssign for Losses {
    fn add_assign(&mut self, more: Losses) {
        self.forward += more.forward;
        self.backward += more.backward;
        self.unknown += more.unknown;
    }
}

/// The path of a flow changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathChange {
    /// The peer's agent.
    pub agent: AgentName,
    /// Which source port [0, flows).
    pub flow: u16,
    /// How long ago it was noticed [s].
    pub age_s: f64,
    /// What changed.
    pub what: Changed,
}

/// What changed on a path.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum Changed {
    /// The shortest round trip.
    Delay {
        /// Before [s].
        before_s: f64,
        /// After [s].
        after_s: f64,
    },
    /// The hop limit with which requests arrive, as routers passed if the sender began at 255.
    HopsForward {
        /// Before.
        before: u8,
        /// After.
        after: u8,
    },
    /// The same of answers.
    HopsBackward {
        /// Before.
        before: u8,
        /// After.
        after: u8,
    },
}

impl Changed {
    /// The word in metrics.
    pub fn cause(&self) -> PathCause {
        match self {
            Changed::Delay { .. } => PathCause::Delay,
            Changed::HopsForward { .. } => PathCause::HopsForward,
            Changed::HopsBackward { .. } => PathCause::HopsBackward,
        }
    }
}

impl Link {
    /// The round-trip time of a kind.
    pub fn rtt(&self, kind: ProbeKind) -> Known<Quantiles> {
        self.kinds.iter().find(|k| k.kind == kind).map_or_else(|| Known::unknown("not probed"), |k| k.rtt.clone())
    }
}

/// The route of a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// To which agent.
    pub agent: AgentName,
    /// Which flow [0, flows).
    pub flow: u16,
    /// Why it was asked for.
    pub cause: RouteCause,
    /// How long ago that was [s].
    pub age_s: f64,
    /// Hop by hop; the first is one hop away.
    pub hops: Vec<Hop>,
    /// Whether the last of them is the peer itself.
    pub reached: bool,
}

/// One hop of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Who answered; `None` if nobody did in time.
    pub from: Option<IpAddr>,
    /// How long that took [s].
    pub rtt_s: Option<f64>,
}
