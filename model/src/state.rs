//! The named states and fates of the system. The words here are those of metrics, dashboards, alerts and runbooks.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal, $explain:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every value, in the order in which it is shown.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word in metrics, JSON and pages.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// What it means, in one sentence for whoever is woken by it.
            pub fn explain(self) -> &'static str {
                match self { $($name::$variant => $explain),+ }
            }

            /// The value of a word.
            pub fn from_word(word: &str) -> Option<$name> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.as_str()) }
        }
    };
}

words! {
    /// How a path is probed. Kinds are never mixed in one histogram.
    ProbeKind {
        /// STAMP-format UDP echo between agents: the primary instrument.
        Stamp = "stamp", "UDP echo between agents, four timestamps";
        /// ICMP echo to the peer agent's host.
        Icmp = "icmp", "ICMP echo to the peer's host";
        /// TCP connect to the peer's database port.
        Tcp = "tcp", "TCP connect to the peer's database port";
        /// A login and a query at the peer's database on a new connection.
        Sql = "sql", "login and query at the peer's database, on a new connection each time";
        /// A query at the peer's database on a connection that is kept.
        SqlKept = "sql-kept", "query at the peer's database on a connection that is kept open";
        /// A request to a URL of the peer region.
        Http = "http", "HTTP request to a URL of the peer region, on a new connection each time";
    }
}

words! {
    /// A part of an attempt that takes several round trips, in the order in which they follow each other.
    Phase {
        /// The name.
        Dns = "dns", "finding the address of a name, with whatever the host's own resolver remembers";
        /// The TCP connection.
        Connect = "connect", "the TCP connection: one round trip";
        /// The TLS session.
        Tls = "tls", "agreeing on TLS, handshake and check of the certificate";
        /// The login.
        Auth = "auth", "the login at the database, until it is ready for a query";
        /// The query.
        Query = "query", "one query and its answer: one round trip and the server's own time";
        /// The request, until the head of its answer is here.
        FirstByte = "first-byte", "from the request to the head of its answer: one round trip and the server's own time";
    }
}

words! {
    /// What made the two stamps of a round trip at our end.
    StampSource {
        /// The agent made both, or that of the return at least.
        User = "user", "the agent made that of the return or both, so that the round trip includes the time until it ran";
        /// The kernel made that of the return, the agent that of the sending.
        KernelReceive = "kernel-receive", "the kernel made that of the return, the agent that of the sending";
        /// The kernel made both.
        Kernel = "kernel", "the kernel made both";
        /// The kernel made both, and the reflector's answer was taken out to where its kernel let it go.
        KernelBothEnds = "kernel-both-ends", "the kernel made both, and the reflector has told when its own kernel let the answer go";
    }
}

words! {
    /// Why the route of a flow was asked for.
    RouteCause {
        /// It does not answer any more.
        Dead = "dead", "the flow did not answer any more";
        /// Its path changed.
        Changed = "changed", "the path of the flow changed";
    }
}

words! {
    /// Through which socket ICMP echo is sent: it decides what can be learnt from it.
    IcmpSocket {
        /// A raw socket (`CAP_NET_RAW`): errors of routers are seen as such.
        Raw = "raw", "a raw socket: what routers answer is told apart";
        /// A datagram socket, which needs no privilege: errors of routers look like silence.
        Unprivileged = "unprivileged", "a datagram socket without privilege: what routers answer looks like silence";
        /// None: this kind is not measured.
        None = "none", "this process may not send ICMP: nothing is measured by it";
    }
}

words! {
    /// The fate of one probe. Fates always add up to the attempts.
    Outcome {
        /// A valid reply came before the deadline.
        InTime = "in-time", "a valid reply came before the deadline";
        /// A valid reply came after the deadline, but before the probe was given up.
        Late = "late", "a valid reply came after the deadline";
        /// No reply until the probe was given up.
        Lost = "lost", "no reply came";
        /// The host answered that nobody listens there.
        Refused = "refused", "the host answers, but nothing listens there";
        /// A router or our own host says that there is no way.
        Unreachable = "unreachable", "there is no route to the host";
        /// A reply came that is not a valid answer to the probe.
        Corrupt = "corrupt", "the reply was not a valid answer";
        /// Our own host could not send.
        SendError = "send-error", "our own host could not send";
        /// Where it should go is not known.
        Unresolved = "unresolved", "the name does not resolve: nothing was sent";
        /// Our own timer was late by more than half a period: not sent, or sent before and out meanwhile. Nobody is accused.
        Skipped = "skipped", "our own host was held up: nothing was sent, or what was sent says nothing about the network";
        /// The budget of the mesh was used up: a mistake in our own schedule, never of the network.
        HeldBack = "held-back", "more would have been sent than the plan of the mesh takes: a mistake of the agent";
    }
}

words! {
    /// One of the two ways of a round trip, in the words of RFC 8762.
    Direction {
        /// From the sender to the reflector: region to peer.
        Forward = "forward", "from the region to the peer: the request";
        /// From the reflector to the sender: peer to region.
        Backward = "backward", "from the peer back to the region: the answer";
        /// One of the two, but nobody can say which.
        Unknown = "unknown", "one of the two, and it cannot be told which";
    }
}

words! {
    /// What showed that the path of a flow changed.
    PathCause {
        /// The least round-trip time of a flow shifted, and stayed there.
        Delay = "delay", "the shortest round trip shifted and stayed there";
        /// The request arrives with another hop limit.
        HopsForward = "hops-forward", "the way to the peer has another number of hops";
        /// The answer arrives with another hop limit.
        HopsBackward = "hops-backward", "the way back has another number of hops";
    }
}

words! {
    /// The state of a link (region -> peer).
    LinkState {
        /// All flows alive and loss below the threshold.
        Ok = "ok", "all flows answer and loss is below the threshold";
        /// Loss over all flows is above the threshold.
        Lossy = "lossy", "probes get lost on all flows: congestion or a bad line";
        /// Some flows are dead, others fine: one of several parallel paths is broken.
        Grey = "grey", "some flows are dead while others are fine: one of several parallel paths is broken";
        /// No probe of any kind gets through.
        Down = "down", "no probe of any kind gets an answer: the path or the whole region is gone";
        /// Not measured, or the peer's agent does not answer while its host does.
        Unknown = "unknown", "the link is not being measured; look whether the agents at both ends run";
    }
}

words! {
    /// What a node is to its cluster, as its agent discovered it.
    NodeRole {
        /// Out of recovery, no subscription: beats are written here.
        Writer = "writer", "out of recovery: accepts writes, beats are written here";
        /// In recovery: replays another server's log.
        Standby = "standby", "in recovery: replays another server's log";
        /// Out of recovery with a subscription: writes and reads beats.
        Subscriber = "subscriber", "out of recovery and subscribed to another server";
    }
}

words! {
    /// How an agent gets on with a node.
    NodeState {
        /// Connected, everything can be read that should be.
        Ok = "ok", "connected, everything needed can be read";
        /// The server does not answer.
        Unreachable = "unreachable", "the server does not answer: check that it runs, listens on that address and that no firewall drops it";
        /// The server refuses the login.
        Refused = "refused", "the server refuses the login: check role, password or .pgpass, and pg_hba.conf";
        /// The TLS handshake or the certificate check failed.
        Tls = "tls", "the TLS handshake failed: check sslmode, sslrootcert and the server's certificate";
        /// A pooler answers in the server's place.
        Pooled = "pooled", "a connection pooler answers in the server's place, so no beats are written: name the server's own address and port";
        /// A grant is missing.
        MissingGrant = "missing-grant", "a grant is missing: run the SQL of `lagmesh bootstrap --print-sql` as a superuser";
        /// The heartbeat table is missing or has another layout.
        MissingTable = "missing-table", "the heartbeat table is missing or of another version: run the SQL of `lagmesh bootstrap --print-sql` on the writer";
        /// Out of recovery, but writes are refused.
        ReadOnly = "read-only", "the server is out of recovery but read-only for this role: check default_transaction_read_only";
        /// Another agent of the region beats on this node; this one stands by.
        StandingBy = "standing-by", "another agent writes the beats of this node";
        /// A query ran into its deadline and was cancelled.
        Hanging = "hanging", "queries run into their deadline: look at pg_stat_activity for what they wait for";
        /// Not connected yet, or the agent is silent.
        Unknown = "unknown", "nothing is known: look whether the agent of its region runs";
    }
}

words! {
    /// The state of replication from one origin to one node.
    ReplicationState {
        /// Beats arrive and lag is below the threshold.
        Ok = "ok", "beats arrive and lag is below the threshold";
        /// Beats arrive, but later than the threshold allows.
        Lagging = "lagging", "beats arrive, but later than the threshold allows";
        /// Behind, and catching up.
        CatchingUp = "catching-up", "behind, and replaying faster than the writer writes";
        /// Log was received but replay does not move.
        Stalled = "stalled", "log arrives but replay does not move: look for a long query or a lock on the standby";
        /// Replay is paused by someone.
        Paused = "paused", "replay is paused: someone called pg_wal_replay_pause(), or a recovery target was reached";
        /// `recovery_min_apply_delay` is at work.
        DelayedOnPurpose = "delayed-on-purpose", "recovery_min_apply_delay holds replay back";
        /// Replay waits for, or cancels, queries on the standby.
        Conflict = "conflict", "replay conflicts with queries on the standby";
        /// Connected in name, but nothing arrives although the writer wrote.
        Silent = "silent", "the connection stands in name, but nothing arrives although the writer writes: a frozen receiver or a dead path";
        /// No replication connection.
        Disconnected = "disconnected", "there is no replication connection";
        /// A subscription's apply worker fails.
        ApplyError = "apply-error", "the subscription's apply worker fails: read the server log";
        /// The replication slot was lost.
        SlotLost = "slot-lost", "the replication slot was invalidated: the standby must be rebuilt or restore from archive";
        /// The heartbeat table is not published to this subscriber.
        NotPublished = "not-published", "the heartbeat table is not in the publication: nothing can be measured";
        /// The writer's agent says that it cannot write.
        WriterDown = "writer-down", "no beats are being written: the writer, not replication, is the trouble";
        /// Other system or other timeline.
        Diverged = "diverged", "the node follows another timeline or another system: it will not catch up by itself";
        /// Not enough evidence.
        Unknown = "unknown", "not enough evidence: look whether the agents at both ends run";
    }
}

words! {
    /// The judged state of one axis of a region.
    RegionState {
        /// No verdict can be reached.
        Unknown = "UNKNOWN", "no evidence that is fresh enough";
        /// All is well.
        Healthy = "HEALTHY", "all evidence is good";
        /// It works, but worse than it should.
        Degraded = "DEGRADED", "it works, but worse than the thresholds allow";
        /// Most vantages say that it is gone, not long enough to be sure, or too few to tell a partition from an outage.
        Suspect = "SUSPECT", "most vantages say it is gone; not yet long enough, or too few to tell a partition from an outage";
        /// A quorum of vantages has said so for the whole confirmation time.
        Down = "DOWN", "a quorum of vantages has said for the whole confirmation time that it is gone";
        /// It is back, and not trusted yet.
        Recovering = "RECOVERING", "it is back and must stay so for a while before it is trusted";
    }
}

words! {
    /// What a region is judged for.
    Axis {
        /// Serving reads.
        Reads = "reads", "whether users can read there";
        /// Serving writes.
        Writes = "writes", "whether the region's writer takes writes";
    }
}

words! {
    /// One vantage's vote about a region.
    Vote {
        /// The region answers this vantage.
        Good = "good", "the region answers this vantage";
        /// The region does not answer this vantage.
        Bad = "bad", "the region does not answer this vantage";
        /// This vantage may not vote: isolated, stalled or too old.
        Void = "void", "this vantage may not vote: it is isolated or its evidence is too old";
    }
}

words! {
    /// The fate of one write of the beat writer.
    WriteOutcome {
        /// The commit returned.
        Acknowledged = "acknowledged", "the commit returned";
        /// The server answered with an error.
        Failed = "failed", "the server answered with an error";
        /// The deadline passed; the statement was cancelled and may or may not be in the database.
        InDoubt = "in-doubt", "the deadline passed and the wait was cancelled: it may or may not be in the database";
    }
}

words! {
    /// What a server says of the log that a replication slot needs (`pg_replication_slots.wal_status`).
    SlotState {
        /// All of it is kept anyway.
        Reserved = "reserved", "the log that the slot needs is within max_wal_size";
        /// More is kept because of the slot.
        Extended = "extended", "the server keeps more log than it would without the slot";
        /// It may go with the next checkpoint.
        Unreserved = "unreserved", "the slot has fallen so far behind that its log goes with one of the next checkpoints";
        /// It is gone.
        Lost = "lost", "the log that the slot needs is gone, or the server has invalidated the slot: it is of no use any more";
        /// The server says none of these words.
        Unknown = "unknown", "the slot keeps no log yet, or the server says a word that lagmesh does not know";
    }
}

words! {
    /// A level of `synchronous_commit`: what a commit waits for. In the order of what they wait for, as PostgreSQL writes them.
    CommitLevel {
        /// Nothing.
        Off = "off", "the commit waits for nothing: what was acknowledged may be lost in a crash";
        /// Its log on the writer's own disk.
        Local = "local", "the commit waits for the writer's own disk";
        /// A synchronous standby that has received the log.
        RemoteWrite = "remote_write", "the commit waits until a synchronous standby has received its log";
        /// A synchronous standby that has the log on disk.
        On = "on", "the commit waits until a synchronous standby has its log on disk; without one, for the writer's own disk";
        /// A synchronous standby that shows the commit.
        RemoteApply = "remote_apply", "the commit waits until a synchronous standby shows it to queries";
    }
}

words! {
    /// Which of an interval's three numbers.
    Bound {
        /// The lower end.
        Lower = "lower", "the true value is not below";
        /// The best guess.
        Estimate = "estimate", "the best guess";
        /// The upper end.
        Upper = "upper", "the true value is not above";
    }
}

words! {
    /// Who claims on a host's behalf how far off its wall clock is at most.
    ClaimSource {
        /// A `ClockBound` daemon.
        ClockBound = "clockbound", "a ClockBound daemon, through its shared memory";
        /// The kernel, as chrony or another NTP daemon told it.
        Kernel = "adjtimex", "the kernel, as chrony or another NTP daemon told it";
    }
}

words! {
    /// On what a bound rests.
    Basis {
        /// Clock bounds measured over the mesh (or one clock): rigorous.
        Mesh = "mesh", "clock bounds measured over the mesh: rigorous";
        /// The clocks' own claims: true only if they are.
        Claims = "claims", "the clocks' own claims: true only if they are";
    }
}

words! {
    /// How far a commit has got at a node.
    Stage {
        /// Its log has been received, perhaps not yet onto disk.
        Received = "received", "its log has been received, perhaps not yet onto disk";
        /// Its log is on disk.
        Flushed = "flushed", "its log is on disk: it survives the loss of the origin";
        /// Its log has been replayed.
        Replayed = "replayed", "its log has been replayed";
        /// A query sees it.
        Visible = "visible", "a query sees it";
    }
}

impl CommitLevel {
    /// Whether a commit at this level waits for a synchronous standby, where there is one.
    pub fn waits_for_standby(self) -> bool {
        self > CommitLevel::Local
    }
}

impl ReplicationState {
    /// Whether nothing more becomes visible as long as it lasts: replication does not progress, or nothing is written.
    pub fn stands_still(self) -> bool {
        self.is_stuck() || self == ReplicationState::WriterDown
    }

    /// Whether the state says that replication does not progress.
    pub fn is_stuck(self) -> bool {
        use ReplicationState as S;
        matches!(
            self,
            S::Stalled | S::Paused | S::Conflict | S::Silent | S::Disconnected | S::ApplyError | S::SlotLost | S::Diverged
        )
    }
}

words! {
    /// How the passing on to a back end goes.
    ForwardState {
        /// Nothing was tried yet.
        Waiting = "waiting", "nothing has been passed on since the collector started";
        /// All is well.
        Delivering = "delivering", "the target takes what it is given";
        /// It will be tried again.
        Retrying = "retrying", "the target cannot be reached or asks to wait: it is tried again with longer and longer pauses";
        /// Somebody has to do something.
        Misconfigured = "misconfigured", "the target says that address, credentials or protocol are wrong: it is tried again every few minutes";
    }
}
