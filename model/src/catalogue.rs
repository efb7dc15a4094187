//! The one list of everything that lagmesh exports. Names, units, attributes and help of the wire, of `/metrics`, of dashboards,
//! alerts and documents come from here, and tests hold all of them against it.

use std::fmt;

macro_rules! attributes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)+) => {
        /// A dimension of a metric. They stand on the data point, never only on the resource.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Attribute { $($(#[$doc])* $variant,)+ }

        impl Attribute {
            /// Every attribute.
            pub const ALL: &'static [Attribute] = &[$(Attribute::$variant),+];

            /// Its name on the wire and as a Prometheus label.
            pub fn as_str(self) -> &'static str {
                match self { $(Attribute::$variant => $name),+ }
            }

            /// The attribute of a name.
            pub fn from_name(name: &str) -> Option<Attribute> {
                match name { $($name => Some(Attribute::$variant),)+ _ => None }
            }
        }
    };
}

attributes! {
    /// The cluster.
    Cluster = "cluster";
    /// The node at which the beats are written.
    Origin = "origin";
    /// The region that observes, or that is judged.
    Region = "region";
    /// The region at the other end of a link.
    Peer = "peer";
    /// The node.
    Node = "node";
    /// The agent.
    Agent = "agent";
    /// The agent at the other end of a link.
    PeerAgent = "peer_agent";
    /// The collector.
    Collector = "collector";
    /// The kind of probe.
    Kind = "kind";
    /// A part of an attempt.
    Phase = "phase";
    /// The fate of an attempt.
    Outcome = "outcome";
    /// A named state; one series per state, 0 or 1.
    State = "state";
    /// What a region is judged for.
    Axis = "axis";
    /// The region that votes.
    Vantage = "vantage";
    /// Which way of a round trip.
    Direction = "direction";
    /// What showed a change.
    Cause = "cause";
    /// Which end of an interval.
    Bound = "bound";
    /// On what a bound rests.
    Basis = "basis";
    /// Who claims something.
    Source = "source";
    /// How far a commit has got.
    Stage = "stage";
    /// The stream of heartbeat rows.
    Stream = "stream";
    /// The commit level (`synchronous_commit`).
    Level = "level";
    /// What stamped the sending and the return of a probe.
    Stamps = "stamps";
    /// Whether an objective was met.
    Objective = "objective";
    /// A replication slot.
    Slot = "slot";
    /// Why something was dropped or refused.
    Reason = "reason";
    /// The role of a node.
    Role = "role";
    /// A program's or server's version.
    Version = "version";
    /// A system identifier.
    System = "system";
    /// The transport of a request.
    Transport = "transport";
    /// A back end to which collectors pass everything on.
    Target = "target";
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A current value.
    Gauge,
    /// A count that only grows within a boot.
    Counter,
    /// A distribution of durations.
    Histogram,
    /// A current value in whole units, exact to all 64 bits: what agents tell collectors to reckon with. Prometheus would round it and
    /// nobody reads it, so no page shows it.
    Whole,
}

/// The unit of a metric; base units only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Nanoseconds; of whole values only.
    Nanoseconds,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// A plain number.
    One,
}

impl Unit {
    /// The unit in UCUM, as OTLP carries it.
    pub fn ucum(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::Nanoseconds => "ns",
            Unit::Bytes => "By",
            Unit::BytesPerSecond => "By/s",
            Unit::One => "1",
        }
    }

    /// The suffix of a Prometheus name, if any. Plain numbers take none: a state is no ratio.
    pub fn prometheus_suffix(self) -> Option<&'static str> {
        match self {
            Unit::Seconds => Some("seconds"),
            Unit::Nanoseconds => Some("nanoseconds"),
            Unit::Bytes => Some("bytes"),
            Unit::BytesPerSecond => Some("bytes_per_second"),
            Unit::One => None,
        }
    }
}

/// Which program makes the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The agent; the collector passes it on, merged.
    Agent,
    /// The collector.
    Collector,
}

/// One metric.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Metric {
    /// Its OpenTelemetry name.
    pub name: &'static str,
    /// What kind of number.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// All of its attributes; a series has every one of them and no other.
    pub attributes: &'static [Attribute],
    /// Who makes it.
    pub source: Source,
    /// What it is, in one line.
    pub help: &'static str,
}

impl Metric {
    /// The name without Prometheus suffixes: dots become underscores.
    pub fn prometheus_stem(&self) -> String {
        self.name.replace('.', "_")
    }

    /// The name under which Prometheus stores the series (of a histogram: without `_bucket`, `_count`, `_sum`).
    pub fn prometheus_name(&self) -> String {
        let mut name = self.prometheus_stem();
        if let Some(suffix) = self.unit.prometheus_suffix() {
            name.push('_');
            name.push_str(suffix);
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }

    /// Whether it counts what a server does whoever looks, and not what an agent does: then one agent's count is all there is.
    pub fn is_of_servers(&self) -> bool {
        OF_SERVERS.iter().any(|metric| metric.name == self.name)
    }

    /// Every name that Prometheus stores for the metric; none for what no page shows.
    pub fn prometheus_series_names(&self) -> Vec<String> {
        let name = self.prometheus_name();
        match self.kind {
            Kind::Histogram => ["_bucket", "_count", "_sum"].iter().map(|suffix| format!("{name}{suffix}")).collect(),
            Kind::Gauge | Kind::Counter => vec![name],
            Kind::Whole => Vec::new(),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What servers do, whoever looks: each agent that watches a server counts all of it, so the counts of two are never added.
static OF_SERVERS: [&Metric; 5] = [&NODE_COMMITS, &NODE_ROLLBACKS, &NODE_WAL, &NODE_CONFLICTS, &SUBSCRIPTION_ERRORS];

/// The metric of an OpenTelemetry name.
pub fn by_name(name: &str) -> Option<&'static Metric> {
    CATALOGUE.iter().find(|metric| metric.name == name).copied()
}

macro_rules! catalogue {
    ($($id:ident = $name:literal, $kind:ident, $unit:ident, $source:ident, [$($attribute:ident),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub static $id: Metric = Metric {
                name: $name, kind: Kind::$kind, unit: Unit::$unit, source: Source::$source,
                attributes: &[$(Attribute::$attribute),*], help: $help,
            };
        )+
        /// All metrics, in the order of the documents.
        pub static CATALOGUE: &[&Metric] = &[$(&$id),+];
    };
}

catalogue! {
    LINK_RTT = "lagmesh.link.rtt", Histogram, Seconds, Agent, [Region, Peer, Kind],
        "Round-trip time from region to peer, without the time spent in the responder";
    LINK_PHASE = "lagmesh.link.phase", Histogram, Seconds, Agent, [Region, Peer, Kind, Phase],
        "How long each part of an attempt took that needs several round trips, the peer's own time included; of failed ones what came before";
    LINK_PROBES = "lagmesh.link.probes", Counter, One, Agent, [Region, Peer, Kind, Outcome],
        "Probes from region to peer by their fate; the fates add up to the attempts";
    LINK_STAMPS = "lagmesh.link.stamps", Counter, One, Agent, [Region, Peer, Stamps],
        "Answered mesh probes by what stamped their sending and their return: the kernel, or the agent where that could not be believed";
    LINK_STATE = "lagmesh.link.state", Gauge, One, Agent, [Region, Peer, State],
        "1 for the current state of the link from region to peer, else 0";
    LINK_FLOWS = "lagmesh.link.flows", Gauge, One, Agent, [Region, Peer, State],
        "Flows (source ports, one sample of the parallel paths each) that are alive or dead";
    LINK_FLOOR = "lagmesh.link.floor", Gauge, Seconds, Agent, [Region, Peer],
        "The shortest round trip that light in fibre allows between the coordinates of the two regions";
    LINK_STRETCH = "lagmesh.link.stretch", Gauge, One, Agent, [Region, Peer],
        "Smallest recent round-trip time over the floor: what the route costs against physics";
    LINK_LOSS = "lagmesh.link.loss", Counter, One, Agent, [Region, Peer, Direction],
        "Lost STAMP probes by the direction in which they were lost, told once an answer behind the loss shows it";
    LINK_ONEWAY = "lagmesh.link.oneway", Histogram, Seconds, Agent, [Region, Peer, Direction],
        "One-way delay, the best guess of each exchange; how far off it may be says the metric of its error";
    LINK_ONEWAY_ERROR = "lagmesh.link.oneway_error", Gauge, Seconds, Agent, [Region, Peer, Direction],
        "How far the shortest one-way delay of the last minute is at most from its best guess";
    LINK_DELAY_VARIATION = "lagmesh.link.delay_variation", Histogram, Seconds, Agent, [Region, Peer],
        "Round-trip time over the least of the same flow within the last minute (PDV of RFC 5481)";
    LINK_HOPS = "lagmesh.link.hops", Gauge, One, Agent, [Region, Peer, Direction],
        "Routers on the way by the hop limit with which packets arrive; the most that any flow passes";
    LINK_PATH_CHANGES = "lagmesh.link.path_changes", Counter, One, Agent, [Region, Peer, Cause],
        "Changes of the path of single flows, by what showed them; a new route of a whole link counts every flow";
    LINK_MTU = "lagmesh.link.mtu", Gauge, Bytes, Agent, [Region, Peer],
        "The longest packet that reaches the peer, with its IP header; 1500, the longest that is tried, means that much or more";
    LINK_ROUTES = "lagmesh.link.routes", Counter, One, Agent, [Region, Peer, Cause],
        "Routes of single flows that were asked for hop by hop, by cause; the newest is in the agent's status";
    LINK_DISAGREEMENT = "lagmesh.link.disagreement", Gauge, One, Agent, [Region, Peer, Kind],
        "1 for a kind of probe that has failed for a while although others get through, 0 for one that gets through";
    LINK_ICMP_SOCKET = "lagmesh.link.icmp_socket", Gauge, One, Agent, [Region, Peer, State],
        "1 for the kind of socket through which ICMP echo is sent to the peer, else 0";
    SCHEDULE_LATENESS = "lagmesh.schedule.lateness", Histogram, Seconds, Agent, [Region],
        "How late our own timer sent probes: large values mean that the agent's host is busy, not the network";
    MESH_DROPPED = "lagmesh.mesh.dropped", Counter, One, Agent, [Region, Reason],
        "Mesh packets that came in and were dropped unanswered, by reason";
    MESH_STAMPS_REFUSED = "lagmesh.mesh.stamps_refused", Counter, One, Agent, [Region, Reason],
        "Stamps of the kernel that could not be brought onto the measuring clock, by reason; the agent's own were used instead";
    MESH_TRAFFIC = "lagmesh.mesh.traffic", Gauge, BytesPerSecond, Agent, [Region],
        "What the mesh of the region sends by its plan, all agents and replies together, with IP headers; it receives as much";
    MESH_BUDGET = "lagmesh.mesh.budget", Gauge, BytesPerSecond, Agent, [Region],
        "What the fleet file allows the mesh of the region each way; absent if it sets no bound";
    MESH_DSCP = "lagmesh.mesh.dscp", Gauge, One, Agent, [Region],
        "The DSCP with which the region's agents send probes; answers come back with the same";
    CLOCK_ERROR = "lagmesh.clock.error", Gauge, Seconds, Agent, [Region, Peer],
        "Half the width of the interval in which the offset between the two measuring clocks is known to lie";
    CLOCK_EPOCHS = "lagmesh.clock.epochs", Counter, One, Agent, [Region],
        "Runs of the measuring clock since the agent started; more than one means that the host was suspended or moved";
    CLOCK_CONTRADICTIONS = "lagmesh.clock.contradictions", Counter, One, Agent, [Region],
        "Clock intervals that had no point in common: a jump that went unseen, or a clock that drifts beyond its allowance";
    CLOCK_OFFSET = "lagmesh.clock.offset", Gauge, Seconds, Agent, [Region, Peer, Bound],
        "The peer's wall clock minus the region's, bounded by the mesh whatever the two claim; signed";
    CLOCK_CLAIMS_REFUTED = "lagmesh.clock.claims_refuted", Gauge, One, Agent, [Region, Peer],
        "1 while both hosts claim to be synchronised and the mesh shows that one of them is not, 0 while that is not shown; absent if either claims nothing";
    CLOCK_CLAIMED_ERROR = "lagmesh.clock.claimed_error", Gauge, Seconds, Agent, [Region, Source],
        "How far off the wall clock of the agent's host is at most, as it claims itself; absent if it claims nothing or follows nothing";
    CLOCK_STEPS = "lagmesh.clock.steps", Counter, One, Agent, [Region],
        "Steps of the wall clock of the agent's host since the agent started";
    CLOCK_EPOCH = "lagmesh.clock.epoch", Whole, One, Agent, [Region, Agent],
        "Which run of its measuring clock the agent's host is in: a random number";
    CLOCK_RAW = "lagmesh.clock.raw", Whole, Nanoseconds, Agent, [Region, Agent, Bound],
        "The span on the measuring clock of the agent's host over which it has read its wall clock for this batch; the upper end is the moment of the batch";
    CLOCK_WALL = "lagmesh.clock.wall", Whole, Nanoseconds, Agent, [Region, Agent, Bound],
        "The wall clock of the agent's host minus its measuring clock, over that span";
    CLOCK_PEER_EPOCH = "lagmesh.clock.peer_epoch", Whole, One, Agent, [Region, Agent, Peer, PeerAgent],
        "The run of the peer's measuring clock for which the offset holds";
    CLOCK_RAW_OFFSET = "lagmesh.clock.raw_offset", Whole, Nanoseconds, Agent, [Region, Agent, Peer, PeerAgent, Bound],
        "The measuring clock of the peer agent's host minus that of the agent's own, at the moment of the batch";
    REPLICATION_LAG = "lagmesh.replication.lag", Histogram, Seconds, Agent, [Cluster, Origin, Region, Node, Bound, Basis],
        "Apply lag of single beats: from the commit at the origin to visibility at the node";
    REPLICATION_LAG_NEGATIVE = "lagmesh.replication.lag_negative", Counter, One, Agent, [Cluster, Origin, Region, Node],
        "Beats whose whole lag interval lies below zero: a clock contradiction, never clamped";
    REPLICATION_BEATS = "lagmesh.replication.beats", Counter, One, Agent, [Cluster, Origin, Region, Node, Objective],
        "Beats seen at the node by whether their lag met the objective (met, missed, or unknown where the interval holds the objective)";
    REPLICATION_DELAY = "lagmesh.replication.delay", Gauge, Seconds, Agent, [Cluster, Origin, Region, Node, Stage, Bound, Basis],
        "Visible: how long the newest beat took from its commit at the origin. Received, flushed, replayed: how long the oldest log that has not got so far has been written; 0 if none is known";
    REPLICATION_STALENESS = "lagmesh.replication.staleness", Gauge, Seconds, Agent, [Cluster, Origin, Region, Node, Bound, Basis],
        "Now minus the commit time of the newest visible beat: how old what users read at the node is";
    REPLICATION_BACKLOG = "lagmesh.replication.backlog", Gauge, Bytes, Agent, [Cluster, Origin, Region, Node, Stage],
        "Bytes of log that the origin is known to have written and that have not got so far at the node";
    REPLICATION_CATCH_UP = "lagmesh.replication.catch_up", Gauge, Seconds, Agent, [Cluster, Origin, Region, Node],
        "How long it takes until everything is replayed if both ends go on as in the last half minute; absent if it does not catch up";
    RPO = "lagmesh.rpo", Gauge, Seconds, Agent, [Cluster, Origin, Region, Node, Bound],
        "If the origin vanished now: over how long it has written what is not on disk at the node";
    REPLICATION_STATE = "lagmesh.replication.state", Gauge, One, Agent, [Cluster, Origin, Region, Node, State],
        "1 for the current state of replication from origin to node, else 0";
    HEARTBEAT_COMMIT = "lagmesh.heartbeat.commit", Histogram, Seconds, Agent, [Cluster, Region, Node, Level],
        "Time from sending a heartbeat row to the return of its commit, by commit level; beats are written at local";
    HEARTBEAT_WRITES = "lagmesh.heartbeat.writes", Counter, One, Agent, [Cluster, Region, Node, Stream, Outcome],
        "Heartbeat rows written, by their fate";
    HEARTBEAT_LEDGER = "lagmesh.heartbeat.ledger", Gauge, One, Agent, [Cluster, Region, Node, Level, Outcome],
        "1 for what became of the newest row of the ledger, at the level at which it was committed, else 0; absent if none was tried of late";
    HEARTBEAT_LEDGER_AGE = "lagmesh.heartbeat.ledger_age", Gauge, Seconds, Agent, [Cluster, Region, Node],
        "Since the newest commit at the level that applications get was acknowledged; absent if none was yet";
    HEARTBEAT_TABLE = "lagmesh.heartbeat.table", Gauge, Bytes, Agent, [Cluster, Region, Node],
        "The heartbeat table with its index, on a node where beats are written";
    HEARTBEAT_DEAD_ROWS = "lagmesh.heartbeat.dead_rows", Gauge, One, Agent, [Cluster, Region, Node],
        "Row versions of the heartbeat table that await vacuum, as the statistics know them, on a node where beats are written";
    HEARTBEAT_WAL = "lagmesh.heartbeat.wal", Counter, Bytes, Agent, [Cluster, Region, Node],
        "Log that the sessions of lagmesh have written on the node while this agent beats there; absent before PostgreSQL 18, which does not tell sessions apart";
    NODE_STATE = "lagmesh.node.state", Gauge, One, Agent, [Cluster, Region, Node, State],
        "1 for how the agent currently gets on with the node, else 0";
    NODE_ROLE = "lagmesh.node.role", Gauge, One, Agent, [Cluster, Region, Node, Role],
        "1 for the role that the node was found to have, else 0";
    NODE_INFO = "lagmesh.node.info", Gauge, One, Agent, [Cluster, Region, Node, Version, System],
        "Always 1: the server's version and system identifier";
    NODE_TIMELINE = "lagmesh.node.timeline", Gauge, One, Agent, [Cluster, Region, Node],
        "The timeline on which the node writes or replays; it grows with every promotion";
    NODE_QUERIES = "lagmesh.node.queries", Counter, One, Agent, [Cluster, Region, Node],
        "Statements that lagmesh itself has sent to the node: what it costs";
    NODE_COMMITS = "lagmesh.node.commits", Counter, One, Agent, [Cluster, Region, Node],
        "Transactions committed on the node since the agent looks, over all databases, those of lagmesh among them";
    NODE_ROLLBACKS = "lagmesh.node.rollbacks", Counter, One, Agent, [Cluster, Region, Node],
        "Transactions rolled back on the node since the agent looks, over all databases";
    NODE_CONNECTIONS = "lagmesh.node.connections", Gauge, One, Agent, [Cluster, Region, Node],
        "Sessions and workers that are in a database of the node";
    NODE_CONNECTIONS_MAX = "lagmesh.node.connections_max", Gauge, One, Agent, [Cluster, Region, Node],
        "How many sessions the node allows";
    NODE_WAL = "lagmesh.node.wal", Counter, Bytes, Agent, [Cluster, Region, Node],
        "Log that the node has written, on a standby received, since the agent looks, within each timeline";
    NODE_CONFLICTS = "lagmesh.node.conflicts", Counter, One, Agent, [Cluster, Region, Node, Cause],
        "Transactions that the node cancelled since the agent looks: for a deadlock, or on a standby because replay needed what they held";
    SUBSCRIPTION_ERRORS = "lagmesh.subscription.errors", Counter, One, Agent, [Cluster, Region, Node, Kind],
        "Errors and conflicts of the database's subscriptions since the agent looks, by kind; which kinds there are depends on the server's version";
    NODE_SLOTS = "lagmesh.node.slots", Gauge, One, Agent, [Cluster, Region, Node],
        "Replication slots of the node without temporary ones; the 64 that keep most of the log have series of their own";
    SLOT_RETAINED = "lagmesh.slot.retained", Gauge, Bytes, Agent, [Cluster, Region, Node, Slot],
        "Log from the oldest that the replication slot keeps to the end of the log; absent if it keeps none";
    SLOT_SAFE = "lagmesh.slot.safe", Gauge, Bytes, Agent, [Cluster, Region, Node, Slot],
        "Log that may still be written before the server gives the replication slot up; absent without a limit, and if it keeps none";
    SLOT_STATE = "lagmesh.slot.state", Gauge, One, Agent, [Cluster, Region, Node, Slot, State],
        "1 for what the server says of the log that the replication slot needs, else 0";
    SLOT_ACTIVE = "lagmesh.slot.active", Gauge, One, Agent, [Cluster, Region, Node, Slot],
        "1 while somebody reads from the replication slot, else 0";
    SLOT_EXHAUSTION = "lagmesh.slot.exhaustion", Gauge, Seconds, Agent, [Cluster, Region, Node, Slot],
        "When the server gives the replication slot up if log goes on as in the last minute and nobody reads; absent without a limit or without log";
    SPOOL_BYTES = "lagmesh.spool.pending", Gauge, Bytes, Agent, [Region, Agent, Collector],
        "Bytes in the agent's spool that the collector has not acknowledged yet";
    SPOOL_LOST = "lagmesh.spool.lost", Counter, One, Agent, [Region, Agent, Collector, Reason],
        "Batches that the spool had to give up before the collector acknowledged them";
    SPOOL_DEAD_LETTERS = "lagmesh.spool.dead_letters", Gauge, One, Agent, [Region, Agent, Collector],
        "Batches that the collector refused for good and that the agent keeps until somebody drops or resends them";
    SPOOL_DEAD_LETTERS_DROPPED = "lagmesh.spool.dead_letters_dropped", Counter, One, Agent, [Region, Agent, Collector],
        "Batches that the collector refused for good and that the agent could not keep any longer";
    AGENT_DROPPED = "lagmesh.agent.dropped", Counter, One, Agent, [Region, Agent, Reason],
        "Observations that the agent itself had to drop, by queue";
    AGENT_RELOAD_FAILURES = "lagmesh.agent.reload_failures", Counter, One, Agent, [Region, Agent],
        "Replaced certificates and tokens of the agent that are no good: the old ones stay in force";
    AGENT_CERTIFICATE = "lagmesh.agent.certificate_not_after", Gauge, Seconds, Agent, [Region, Agent],
        "When the certificate ends that the agent shows to collectors, since 1970; absent if it shows none";
    AGENT_INFO = "lagmesh.agent.info", Gauge, One, Agent, [Region, Agent, Version],
        "Always 1 while the agent runs: its version";
    REGION_STATE = "lagmesh.region.state", Gauge, One, Collector, [Region, Axis, State],
        "1 for the judged state of the region on this axis, else 0";
    REGION_VOTES = "lagmesh.region.votes", Gauge, One, Collector, [Region, Axis, Vantage, State],
        "1 for the vote that a vantage casts about the region, else 0";
    REGION_EVIDENCE_AGE = "lagmesh.region.evidence_age", Gauge, Seconds, Collector, [Region],
        "Age of the newest evidence that the region's own agents delivered; absent if they never did";
    FLEET_REGIONS = "lagmesh.fleet.regions", Gauge, One, Collector, [State],
        "Regions expected by the fleet file and regions with fresh evidence";
    FLEET_CLOCK_OFFSET = "lagmesh.fleet.clock_offset", Gauge, Seconds, Collector, [Region, Agent, Peer, PeerAgent, Bound],
        "The wall clock of the peer agent's host minus that of the agent's, by what all agents have measured together; also for hosts that do not measure each other";
    FLEET_CLOCK_CONTRADICTED = "lagmesh.fleet.clock_contradicted", Gauge, One, Collector, [Region, Agent],
        "1 while what was measured of the measuring clock of the agent's host, together with that of others, cannot all be true, else 0; absent if it tells nothing";
    CLUSTER_WRITERS = "lagmesh.cluster.writers", Gauge, One, Collector, [Cluster, System],
        "Nodes of one system identifier that are out of recovery by fresh evidence; more than one is a split brain";
    CLUSTER_WRITERS_DECLARED = "lagmesh.cluster.writers_max", Gauge, One, Collector, [Cluster],
        "How many writers the fleet file allows the cluster";
    CLUSTER_LAG_OBJECTIVE = "lagmesh.cluster.lag_objective", Gauge, Seconds, Collector, [Cluster],
        "The apply lag that the fleet file promises for the cluster";
    COLLECTOR_REQUESTS = "lagmesh.collector.requests", Counter, One, Collector, [Transport, Outcome],
        "OTLP requests by transport and outcome (accepted, duplicate, retired, or the reason of refusal)";
    COLLECTOR_POINTS = "lagmesh.collector.points", Counter, One, Collector, [Outcome],
        "Data points by outcome (accepted, or the reason of rejection)";
    COLLECTOR_STORES_SET_ASIDE = "lagmesh.collector.stores_set_aside", Counter, One, Collector, [],
        "Store files that could not be read and were set aside: what agents had delivered before is gone from the totals";
    COLLECTOR_STORE_ROWS_LEFT_OUT = "lagmesh.collector.store_rows_left_out", Counter, One, Collector, [],
        "Rows of the store, each the counts of one run of an agent or of its earlier ones, that could not be read at the start: they are gone from the totals";
    FORWARD_STATE = "lagmesh.forward.state", Gauge, One, Collector, [Target, State],
        "1 for how the passing on to the target goes, else 0";
    FORWARD_POINTS = "lagmesh.forward.points", Counter, One, Collector, [Target],
        "Values (a series at a moment) that the target has taken, since it was first passed to";
    FORWARD_LOST = "lagmesh.forward.lost", Counter, One, Collector, [Target, Reason],
        "Values that the target has not got and never will, by reason, since it was first passed to";
    FORWARD_PENDING = "lagmesh.forward.pending", Gauge, Bytes, Collector, [Target],
        "Bytes in the collector's queue that the target has not got yet";
    FORWARD_AGE = "lagmesh.forward.age", Gauge, Seconds, Collector, [Target],
        "Since the newest of what the target has got was taken down; absent if it has got nothing yet";
    COLLECTOR_REFUSALS = "lagmesh.collector.refusals", Counter, One, Collector, [Reason],
        "Requests and connections that were refused for who sent them, by reason";
    COLLECTOR_RELOAD_FAILURES = "lagmesh.collector.reload_failures", Counter, One, Collector, [Reason],
        "Replaced files that are no good (certificates, tokens): the old ones stay in force";
    COLLECTOR_CERTIFICATE = "lagmesh.collector.certificate_not_after", Gauge, Seconds, Collector, [],
        "When the certificate ends that the collector shows to everybody, since 1970; absent if it shows none";
    COLLECTOR_HISTORY_LOST = "lagmesh.collector.history_lost", Counter, One, Collector, [Reason],
        "What the history lacks or has more coarsely than it was measured, by reason; docs/pipeline.md says what each reason counts";
    COLLECTOR_HISTORY_SIZE = "lagmesh.collector.history_size", Gauge, Bytes, Collector, [],
        "What the history takes of the disk";
    COLLECTOR_INFO = "lagmesh.collector.info", Gauge, One, Collector, [Version],
        "Always 1 while the collector runs: its version";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Names are unique in every form in which they leave, follow one style, and every metric has a help line.
    #[test]
    fn names_are_unique_and_plain() {
        let mut seen = HashSet::new();
        for metric in CATALOGUE {
            assert!(
                metric.name.starts_with("lagmesh.")
                    && metric.name.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '.' | '_'))
            );
            assert!(!metric.help.is_empty() && !metric.help.contains('\n') && !metric.help.ends_with('.'), "{metric}");
            for name in metric.prometheus_series_names() {
                assert!(seen.insert(name.clone()), "{name} twice");
            }
            let attributes: HashSet<_> = metric.attributes.iter().collect();
            assert_eq!(attributes.len(), metric.attributes.len(), "{metric}");
            assert_eq!(by_name(metric.name), Some(*metric));
        }
        assert_eq!(LINK_RTT.prometheus_name(), "lagmesh_link_rtt_seconds");
        assert_eq!(LINK_PROBES.prometheus_name(), "lagmesh_link_probes_total");
    }

    /// What a server does is counted, and told of a node.
    #[test]
    fn counts_of_servers() {
        let all: Vec<_> = CATALOGUE.iter().filter(|metric| metric.is_of_servers()).collect();
        assert_eq!(all.len(), OF_SERVERS.len());
        assert!(all.iter().all(|metric| metric.kind == Kind::Counter && metric.attributes.contains(&Attribute::Node)));
        assert!(!NODE_QUERIES.is_of_servers() && !HEARTBEAT_WAL.is_of_servers(), "what an agent does");
    }

    /// Only whole values are in nanoseconds: what people read is in seconds.
    #[test]
    fn nanoseconds_are_for_programs() {
        assert!(CATALOGUE.iter().filter(|metric| metric.unit == Unit::Nanoseconds).all(|metric| metric.kind == Kind::Whole));
    }

    /// Histograms are distributions of durations: the mapping works in nanoseconds.
    #[test]
    fn histograms_are_in_seconds() {
        assert!(CATALOGUE.iter().filter(|metric| metric.kind == Kind::Histogram).all(|metric| metric.unit == Unit::Seconds));
    }
}
