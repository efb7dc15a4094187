//! What the measuring parts tell the summary, and what they tell each other: the only words between the parts of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lagmesh_model::beat::{Announcement, BeatId, BeatRow, Incarnation, Seen, Sequence};
use lagmesh_model::directed::Directed;
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::{AgentName, ClusterName, NodeName, RegionName, SlotHash};
use lagmesh_model::interval::Interval;
use lagmesh_model::state::{
    CommitLevel, IcmpSocket, NodeRole, NodeState, Outcome, Phase, ProbeKind, RouteCause, StampSource, WriteOutcome,
};
use lagmesh_model::status::{Changed, Losses};
use lagmesh_model::time::{Epoch, RawNanos, Reading};
use lagmesh_postgres::discover::{
    NodeFacts, SessionLog, SlotsSample, StandbySample, SubscriberSample, TrafficSample, WriterSample,
};
use lagmesh_postgres::layout::TableSize;
use tokio::sync::{mpsc, watch};

use crate::slot::SlotReach;
use crate::wall::{HeardWall, WallClock};

/// One thing that a measuring part has learnt.
#[derive(Debug)]
pub enum Observation {
    /// The settled fate of one probe.
    Probe(Probe),
    /// A flow of the mesh came alive or died.
    Flow(FlowChange),
    /// In which direction probes to a region were lost.
    Losses(RegionName, Losses),
    /// The path of a flow has changed.
    PathChanged(PathChanged),
    /// The probes to an agent leave from other ports from now on: its flows may take other paths.
    Moved(RegionName, AgentName),
    /// The route of a flow was found.
    Route(FlowId, Route),
    /// The longest packet to a peer agent was found.
    PathMtu {
        /// The peer's region.
        peer: RegionName,
        /// Which of its agents.
        agent: AgentName,
        /// What was found.
        mtu: PathMtu,
    },
    /// ICMP echo to a peer region is sent through such a socket.
    IcmpSocket(RegionName, IcmpSocket),
    /// How late our own timer sent some probes.
    Lateness(Exponential),
    /// So many mesh packets were dropped unanswered, for this reason.
    MeshDropped(&'static str, u64),
    /// So many stamps of the kernel could not be used, for this reason.
    StampRefused(&'static str, u64),
    /// Two clock intervals had no point in common.
    ClockContradiction(AgentName),
    /// News about a node.
    Node(NodeEvent),
}

/// The settled fate of one probe. Each attempt leads to exactly one of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// The region that was probed.
    pub peer: RegionName,
    /// Which of its agents; `None` for kinds that probe its hosts.
    pub agent: Option<AgentName>,
    /// How.
    pub kind: ProbeKind,
    /// What became of it.
    pub outcome: Outcome,
    /// The round-trip time without the responder's own [ns, > 0]; only for `InTime` and `Late`, and not for a probe of the mesh whose
    /// answer nobody stamped when it came.
    pub rtt_ns: Option<u64>,
    /// How long its parts took, as far as they ended [ns, > 0]; only of kinds that need several round trips.
    pub phases: Vec<(Phase, u64)>,
    /// What made the stamps of its sending and its return; only for answered probes of the mesh.
    pub stamps: Option<StampSource>,
    /// What its answer says of the path; only for answered probes of the mesh.
    pub path: Option<PathSample>,
    /// When it was settled.
    pub at: Reading,
}

/// What an answer of the mesh says of the path of its flow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathSample {
    /// Which source port [0, flows).
    pub flow: u16,
    /// How long the request took and how long the answer; `None` without the stamps of a measuring clock.
    pub oneway: Option<Directed<Interval>>,
    /// How many routers they passed; `None` if that is not known.
    pub hops: Directed<Option<u8>>,
}

/// A flow is one source port towards one peer agent: one sample of the parallel paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// The peer's region.
    pub peer: RegionName,
    /// The peer's agent.
    pub agent: AgentName,
    /// Which source port [0, flows).
    pub index: u16,
}

/// A flow came alive or died.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowChange {
    /// Which flow.
    pub flow: FlowId,
    /// Whether it answers; `None` when that is not known (nothing sent yet, our own host stalled, the peer refuses).
    pub alive: Option<bool>,
    /// When.
    pub at: RawNanos,
}

/// The path of a flow has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct PathChanged {
    /// Which flow.
    pub flow: FlowId,
    /// What showed it.
    pub what: Changed,
    /// When.
    pub at: RawNanos,
}

/// The longest packet to a peer agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMtu {
    /// The longest that reaches it [octets, with its IP header]; the largest that is tried means that much or more.
    pub length: u16,
    /// When that was found out.
    pub at: RawNanos,
}

/// The route of a flow, hop by hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which flow [0, flows).
    pub flow: usize,
    /// Why it was asked for.
    pub cause: RouteCause,
    /// When it was asked for.
    pub at: RawNanos,
    /// The first is one hop away.
    pub hops: Vec<Hop>,
    /// Whether the last of them is the peer itself.
    pub reached: bool,
}

impl fmt::Display for Route {
    /// `10.0.0.1 1.2 ms, *, 10.0.0.9 20.1 ms`: a star is a hop that said nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, hop) in self.hops.iter().enumerate() {
            f.write_str(if index > 0 { ", " } else { "" })?;
            match (hop.from, hop.rtt_ns) {
                (Some(from), Some(rtt_ns)) => write!(f, "{from} {:.1} ms", rtt_ns as f64 / 1e6)?,
                (Some(from), None) => write!(f, "{from}")?,
                (None, _) => f.write_str("*")?,
            }
        }
        Ok(())
    }
}

/// What one hop said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Who answered; `None` if nobody did in time.
    pub from: Option<IpAddr>,
    /// How long that took [ns], by stamps of user space.
    pub rtt_ns: Option<u64>,
}

/// News about a node.
#[derive(Debug)]
pub struct NodeEvent {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub node: NodeName,
    /// When it was learnt.
    pub at: Reading,
    /// What.
    pub news: NodeNews,
}

/// What was learnt about a node.
#[derive(Debug)]
pub enum NodeNews {
    /// How we get on with it, with the reason and what to do.
    State {
        /// The state.
        state: NodeState,
        /// Why, and what to do.
        why: String,
    },
    /// What it is.
    Facts {
        /// What it says of itself.
        facts: NodeFacts,
        /// What that makes it to its cluster.
        role: NodeRole,
    },
    /// Positions and receiver of a node in recovery.
    Standby {
        /// What it says of itself.
        sample: StandbySample,
        /// When it was asked.
        began: Reading,
    },
    /// Positions, walsenders and slots of a node out of recovery.
    Writer {
        /// What it says of itself.
        sample: WriterSample,
        /// When it was asked.
        began: Reading,
    },
    /// What a subscriber says of its subscriptions.
    Subscriber(SubscriberSample),
    /// Its replication slots.
    Slots(SlotsSample),
    /// What it does for everybody.
    Traffic(TrafficSample),
    /// How large its heartbeat table is.
    Table(TableSize),
    /// How much log each of lagmesh's sessions has written there.
    SessionLogs(Vec<SessionLog>),
    /// The fate of one beat.
    Written(Write),
    /// The fate of one row of the ledger.
    Ledger(LedgerRow),
    /// The ledger could not even be tried, for this reason.
    NoLedger(String),
    /// A probe of a commit level.
    Committed(Commit),
    /// A poll for beats ended without error; its new beats follow as `Sighting`s.
    Polled {
        /// When it was sent.
        started: RawNanos,
        /// When the answer was here.
        ended: RawNanos,
    },
    /// A beat was seen for the first time.
    Sighting(Sighting),
    /// So many statements were sent since the last news of this kind.
    Queries(u64),
}

/// The fate of one beat.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Which beat, when, where the log stood; only if the commit returned.
    pub announcement: Option<Announcement>,
    /// What became of it.
    pub outcome: WriteOutcome,
    /// From sending to the return of the commit (or of the failure); `None` if the clock began a new epoch in between.
    pub took: Option<Duration>,
}

/// A commit at one level of `synchronous_commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// At which.
    pub level: CommitLevel,
    /// What became of it.
    pub outcome: WriteOutcome,
    /// From sending to the return of the commit (or of the failure); `None` if the clock began a new epoch in between.
    pub took: Option<Duration>,
}

/// The fate of one row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// The writer's start.
    pub incarnation: Incarnation,
    /// The row's number within it, from 1.
    pub sequence: Sequence,
    /// What became of it.
    pub commit: Commit,
    /// Why it was not acknowledged; empty if it was.
    pub why: String,
}

/// A beat was seen for the first time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// The row.
    pub row: BeatRow,
    /// The start of the newest poll that did not show it yet; `None` if there was no such poll on this connection.
    pub absent: Option<RawNanos>,
    /// The start of the poll that showed it.
    pub asked: RawNanos,
    /// The end of that poll.
    pub present: RawNanos,
    /// When the beat came, by when those before it did; `None` if nothing was learnt from them yet.
    pub guess: Option<RawNanos>,
    /// Our wall clock just after it; `None` if it shows a time that cannot be.
    pub own_wall: Option<WallClock>,
    /// How many polls there were since the beat before, that one among them; `None` if there was none to count from.
    pub polls: Option<u32>,
}

/// A beat whose lag has just come out, with what makes its interval as wide as it is: `width = poll gap + commit time + theta width`,
/// unless the lower end is held up by the moment at which the beat was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SettledBeat {
    /// Which beat of its origin.
    pub beat: (Incarnation, Sequence),
    /// Its apply lag.
    pub lag: Interval,
    /// The best guess with the help of what both hosts claim about their clocks [ns]; `None` without such claims.
    pub claimed_estimate_ns: Option<i64>,
    /// From the start of the newest poll without it to the end of the first with it [ns].
    pub poll_gap_ns: i64,
    /// How long the poll took that showed it [ns].
    pub poll_ns: i64,
    /// How many polls it took to find it; `None` if that was not counted from the beat before.
    pub polls: Option<u32>,
    /// From its sending to the return of its commit [ns].
    pub commit_ns: i64,
    /// How wide the interval of the two clocks' difference was [ns].
    pub theta_width_ns: i64,
}

/// What is known about the clock of a peer agent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeerClock {
    /// The peer's epoch.
    pub epoch: Epoch,
    /// Our own epoch when `offset` was measured.
    pub own_epoch: Epoch,
    /// The peer's measuring clock minus our own, at `at`.
    pub offset: Interval,
    /// The moment for which `offset` was computed, on our clock.
    pub at: RawNanos,
}

impl PeerClock {
    /// The offset now, if it is of these two runs of clocks. A clock does not drift against itself.
    pub fn offset_of(&self, epoch: Epoch, now: Reading) -> Option<Interval> {
        let of_both = (self.epoch, self.own_epoch) == (epoch, now.epoch);
        of_both.then(|| if epoch == now.epoch { self.offset } else { self.offset_at(now.raw) })
    }

    /// The offset at another moment, widened by what the two clocks may have gained on each other since.
    pub fn offset_at(&self, now: RawNanos) -> Interval {
        self.offset.widen_for_drift_of_pair(Duration::from_nanos(now.0.abs_diff(self.at.0)))
    }
}

/// Something that a peer agent said over the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard<T> {
    /// What.
    pub what: T,
    /// Who said it.
    pub from: AgentName,
    /// When it arrived, on our clock.
    pub at: RawNanos,
}

/// A slot of which nobody has said for so long that it is lost is none: peers say it again and again.
pub const LOST_SLOT_HELD: Duration = Duration::from_secs(15);

/// Everything that the mesh has learnt from peers, published for whoever measures with it.
#[derive(Debug, Clone, Default)]
pub struct PeerView {
    /// Clocks of peer agents.
    pub clocks: BTreeMap<AgentName, PeerClock>,
    /// What peer agents have said of their wall clocks.
    pub walls: BTreeMap<AgentName, HeardWall>,
    /// When each peer agent was last heard (a valid packet), on our clock.
    pub heard: BTreeMap<AgentName, RawNanos>,
    /// The newest acknowledged beat of each writing node.
    pub announcements: BTreeMap<NodeName, Heard<Announcement>>,
    /// The newest beat of ours that each reading node has confirmed, by (origin, node).
    pub seen: BTreeMap<(NodeName, NodeName), Heard<Seen>>,
    /// Slots that are lost, by the server that has them, with the moment at which that was last heard on our clock.
    pub lost_slots: BTreeMap<(NodeName, SlotHash), RawNanos>,
    /// How far logical slots are confirmed, by the server that has them.
    pub reaches: BTreeMap<(NodeName, SlotHash), Heard<SlotReach>>,
}

impl PeerView {
    /// The clock of epoch `epoch` minus our own at `now`: exact zero if it is our own clock, `None` if no peer has that epoch.
    pub fn offset_of(&self, epoch: Epoch, now: Reading) -> Option<Interval> {
        if epoch == now.epoch {
            return Some(Interval::exact(0));
        }
        self.clocks.values().find_map(|clock| clock.offset_of(epoch, now))
    }

    /// The wall clock of a peer agent minus ours, when it last told of it; `None` if it never did in this epoch of ours and of its own.
    pub fn wall_offset(&self, agent: &AgentName, own: Epoch) -> Option<(Interval, &HeardWall)> {
        let clock = self.clocks.get(agent).filter(|clock| clock.own_epoch == own)?;
        let is_of_both = |heard: &&HeardWall| (heard.peer.epoch, heard.own.epoch) == (clock.epoch, own);
        let heard = self.walls.get(agent).filter(is_of_both)?;
        Some((heard.offset(clock.offset_at(heard.at))?, heard))
    }

    /// The clock of epoch `epoch` minus our own at `now`, by what the mesh has measured *and* both hosts claim about their wall clocks:
    /// narrower, and true only if the claims are. `None` if either claims nothing, or the two cannot both be true.
    pub fn claimed_offset_of(&self, epoch: Epoch, now: Reading) -> Option<Interval> {
        let (agent, clock) = self.clocks.iter().find(|(_, clock)| clock.epoch == epoch && clock.own_epoch == now.epoch)?;
        let (_, heard) = self.wall_offset(agent, now.epoch)?;
        // Raw clocks drift, but do not step: what was true once stays true, only wider.
        let age = Duration::from_nanos(now.raw.0.abs_diff(heard.at.0));
        heard.claimed_theta()?.widen_for_drift_of_pair(age).intersect(clock.offset_at(now.raw))
    }
}

/// A beat seen by one of our nodes, to be told to its writer: visible within `(absent, present]` on our clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Confirmation {
    /// Which beat.
    pub id: BeatId,
    /// The node on which it was seen.
    pub node: NodeName,
    /// The epoch of our clock to which both stamps belong.
    pub epoch: Epoch,
    /// Not yet visible.
    pub absent: RawNanos,
    /// Visible.
    pub present: RawNanos,
}

/// What the database part wants the mesh to tell the peers, again and again until something newer replaces it.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// The newest acknowledged beat of each of our writing nodes.
    pub announcements: BTreeMap<NodeName, Announcement>,
    /// The newest beat seen of each (origin, node).
    pub confirmations: BTreeMap<(NodeName, NodeName), Confirmation>,
    /// The slots of our nodes that are lost: whoever used one will not come back through it.
    pub lost_slots: BTreeSet<(NodeName, SlotHash)>,
    /// How far the logical slots of our nodes are confirmed.
    pub reaches: BTreeMap<(NodeName, SlotHash), SlotReach>,
}

/// The sending end of the observations: never waits; what does not fit is dropped and counted by the summary.
#[derive(Debug, Clone)]
pub struct Observations {
    sender: mpsc::Sender<Observation>,
    dropped: Arc<std::sync::atomic::AtomicU64>,
}

impl Observations {
    /// The queue: `capacity` observations at most.
    pub fn queue(capacity: usize) -> (Observations, mpsc::Receiver<Observation>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Observations { sender, dropped: Arc::default() }, receiver)
    }

    /// Hands over one observation, or counts it as dropped; says whether it was handed over. Who tells of a change must tell it again
    /// if it was not, or what was said before would stand for ever.
    pub fn tell(&self, observation: Observation) -> bool {
        let told = self.sender.try_send(observation).is_ok();
        if !told {
            self.dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        told
    }

    /// How many were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// The published view of the mesh.
pub type PeerViews = watch::Receiver<Arc<PeerView>>;
