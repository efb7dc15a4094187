//! What is known of one node: how its agent gets on with it, what it is, where it stands, what was written to it.

use std::collections::BTreeMap;
use std::time::Duration;

use lagmesh_model::beat::BeatId;
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::{ClusterName, NodeName, RegionName};
use lagmesh_model::known::Known;
use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
use lagmesh_model::state::{CommitLevel, NodeRole, NodeState, Stage, WriteOutcome};
use lagmesh_model::status;
use lagmesh_model::time::{RawNanos, Reading, nanos};
use lagmesh_postgres::discover::{NodeFacts, PauseState, Receiver, StandbySample, SubscriberSample, WriterSample};
use lagmesh_postgres::layout::Stream;

use crate::measurement::{Commit, NodeNews, Write};
use crate::replication::decide;
use crate::replication::facts::FactsTrack;
use crate::replication::followers::{FollowersTrack, Mates};
use crate::replication::ledger::LedgerTrack;
use crate::replication::track::age;
use crate::replication::wal::WalMeter;

/// Looks at positions come at least once a second; what is older than three of them is stale.
const STALE_MIN: Duration = Duration::from_secs(3);
/// A conflict between replay and queries is told for so long after the server last counted one.
const CONFLICT_HELD: Duration = Duration::from_secs(10);

/// An apply worker that fails starts again after `wal_retrieve_retry_interval` (5 s by default) and fails again: for so long after the
/// server last counted an error it is told.
const APPLY_ERROR_HELD: Duration = Duration::from_secs(20);

/// The span over which the speed of replay is taken.
pub(super) const PACE_SPAN: Duration = Duration::from_secs(30);

/// One node.
#[derive(Debug)]
pub(super) struct NodeTrack {
    cluster: ClusterName,
    node: NodeName,
    interval: Duration,
    state: NodeState,
    why: String,
    facts: Option<(NodeFacts, NodeRole)>,
    /// The newest look at a standby's positions, and the one before.
    looks: (Option<Look>, Option<Look>),
    /// How far a standby's replay advances.
    replay: WalMeter,
    /// The newest look at a writer's position.
    written: Option<(Lsn, RawNanos)>,
    conflict: Option<RawNanos>,
    /// The newest look at a subscriber's subscriptions.
    subscriber: Option<(SubscriberSample, RawNanos)>,
    /// When the server last counted an error of an apply worker.
    apply_error: Option<RawNanos>,
    /// When the newest poll for beats began and ended.
    polled: Option<(RawNanos, RawNanos)>,
    /// The newest beat that was acknowledged here, and when.
    beat: Option<(BeatId, RawNanos)>,
    /// What the ledger says.
    pub(super) ledger: LedgerTrack,
    /// Who follows it, by its own word.
    followers: FollowersTrack,
    /// What else it says of itself.
    pub(super) around: FactsTrack,
    /// When the newest evidence came, whatever it was.
    heard: Option<RawNanos>,
    /// What goes out.
    pub(super) totals: NodeTotals,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct NodeTotals {
    /// Time of a commit, by its level.
    pub(super) commit: BTreeMap<CommitLevel, Exponential>,
    /// Rows by their fate.
    pub(super) writes: BTreeMap<(Stream, WriteOutcome), u64>,
    /// Statements.
    pub(super) queries: u64,
}

impl NodeTotals {
    fn count(&mut self, stream: Stream, commit: Commit) {
        *self.writes.entry((stream, commit.outcome)).or_insert(0) += 1;
        self.time(commit);
    }

    fn time(&mut self, commit: Commit) {
        let times = self.commit.entry(commit.level).or_default();
        if let Some(took) = commit.took.filter(|_| commit.outcome == WriteOutcome::Acknowledged) {
            times.record_ns(nanos(took));
        }
    }
}

/// One look at a standby.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// When it began: the server was asked.
    pub(super) began: RawNanos,
    /// When it ended: the answer was told.
    pub(super) at: RawNanos,
    sample: StandbySample,
    timeline: Option<Timeline>,
}

impl NodeTrack {
    /// A node of which nothing is known.
    pub(super) fn new(cluster: ClusterName, node: NodeName, interval: Duration, ledger_interval: Duration) -> NodeTrack {
        NodeTrack {
            cluster,
            node,
            interval,
            state: NodeState::Unknown,
            why: "not connected yet".to_owned(),
            facts: None,
            looks: (None, None),
            replay: WalMeter::over(PACE_SPAN),
            written: None,
            conflict: None,
            subscriber: None,
            apply_error: None,
            polled: None,
            beat: None,
            ledger: LedgerTrack::new(ledger_interval),
            followers: FollowersTrack::default(),
            around: FactsTrack::default(),
            heard: None,
            totals: NodeTotals::default(),
        }
    }

    /// Takes in news.
    pub(super) fn record(&mut self, news: NodeNews, now: Reading) {
        if !matches!(news, NodeNews::State { .. } | NodeNews::Queries(_)) {
            self.heard = Some(now.raw);
        }
        match news {
            NodeNews::State { state, why } => {
                if state == NodeState::StandingBy {
                    self.end_of_beats();
                }
                (self.state, self.why) = (state, why);
            }
            NodeNews::Facts { facts, role } => {
                if role == NodeRole::Standby {
                    self.end_of_beats();
                }
                self.facts = Some((facts, role));
            }
            NodeNews::Standby { sample, began } => self.look_at_standby(sample, began, now),
            NodeNews::Writer { sample, began } => self.look_at_writer(&sample, began, now),
            NodeNews::Subscriber(sample) => self.look_at_subscriber(sample, now.raw),
            NodeNews::Written(write) => self.write(write),
            NodeNews::Ledger(row) => {
                self.totals.count(Stream::Ledger, row.commit);
                self.ledger.see(row, now.raw);
            }
            NodeNews::Slots(slots) => self.around.see_slots(slots, now.raw),
            NodeNews::Traffic(traffic) => self.around.see_traffic(traffic, now.raw),
            NodeNews::Table(table) => self.around.see_table(table, now.raw),
            NodeNews::SessionLogs(sessions) => self.around.sessions.see(&sessions),
            NodeNews::NoLedger(why) => self.ledger.fail(why, now.raw),
            NodeNews::Committed(commit) => self.totals.time(commit),
            NodeNews::Polled { started, ended } => self.polled = Some((started, ended)),
            NodeNews::Queries(queries) => self.totals.queries += queries,
            // Sightings belong to a link.
            NodeNews::Sighting(_) => {}
        }
    }

    /// What the node is, as far as it was found out.
    pub(super) fn role(&self) -> Option<NodeRole> {
        self.facts.as_ref().map(|(_, role)| *role)
    }

    /// How the agent gets on with it.
    pub(super) fn state(&self) -> NodeState {
        self.state
    }

    /// Why no beats can be read from it, if that is so.
    pub(super) fn trouble(&self, now: RawNanos) -> Option<String> {
        let unreadable = match self.state {
            NodeState::Unreachable | NodeState::Refused | NodeState::Tls => true,
            NodeState::Ok | NodeState::StandingBy => false,
            // The trouble may be another part's: it is ours if no reads get through.
            _ => self.poll_age(now).is_none_or(|age| age > self.stale_after()),
        };
        unreadable.then(|| format!("{} ({})", self.why, self.state))
    }

    /// Since the newest poll for beats ended well.
    pub(super) fn poll_age(&self, now: RawNanos) -> Option<Duration> {
        self.polled.map(|(_, ended)| age(now, ended))
    }

    /// When the newest poll for beats that ended well began.
    pub(super) fn poll_began(&self) -> Option<RawNanos> {
        self.polled.map(|(began, _)| began)
    }

    /// When the newest beat was acknowledged here.
    pub(super) fn written_at(&self) -> Option<RawNanos> {
        self.beat.as_ref().map(|(_, at)| *at)
    }

    /// The newest look at a standby's positions, unless it is stale, and the one before it.
    pub(super) fn looks(&self, now: RawNanos) -> Option<(&Look, Option<&Look>)> {
        let newest = self.looks.0.as_ref().filter(|look| age(now, look.at) <= self.stale_after())?;
        Some((newest, self.looks.1.as_ref()))
    }

    /// How fast the log was replayed over the last half minute [bytes per second]; `None` before it is known for half of that.
    pub(super) fn replayed_bytes_per_s(&self, now: RawNanos) -> Option<f64> {
        self.replay.bytes_per_s(now)
    }

    /// Whether replay has met conflicts of late.
    pub(super) fn has_conflicts(&self, now: RawNanos) -> bool {
        self.conflict.is_some_and(|at| age(now, at) <= CONFLICT_HELD)
    }

    /// What its subscriptions do for beats, unless that is not known or old.
    pub(super) fn subscriber(&self, now: RawNanos) -> Option<decide::Subscriber> {
        let (sample, _) = self.subscriber.as_ref().filter(|(_, at)| age(now, *at) <= self.stale_after())?;
        let fails = self.apply_error.is_some_and(|at| age(now, at) <= APPLY_ERROR_HELD);
        Some(decide::Subscriber { carries_beats: sample.carries_beats, fails })
    }

    /// The names of the slots at other servers through which it gets its log, as of the newest look.
    pub(super) fn slots_used(&self, now: RawNanos) -> impl Iterator<Item = &str> {
        let standby = self.looks(now).and_then(|(look, _)| look.sample.slot.as_deref());
        let subscriber = self.subscriber.as_ref().filter(move |(_, at)| age(now, *at) <= self.stale_after());
        standby.into_iter().chain(subscriber.into_iter().flat_map(|(sample, _)| sample.slots.iter().map(String::as_str)))
    }

    /// Which system.
    pub(super) fn system(&self) -> Option<SystemIdentifier> {
        self.facts.as_ref().and_then(|(facts, _)| facts.system)
    }

    /// Which timeline it writes or follows.
    pub(super) fn timeline(&self) -> Option<Timeline> {
        let followed = self.looks.0.as_ref().and_then(|look| look.timeline);
        followed.or_else(|| self.facts.as_ref().and_then(|(facts, _)| facts.timeline))
    }

    /// What `/v1/status` says of it.
    pub(super) fn status(&self, region: &RegionName, mates: &Mates, now: Reading) -> status::Node {
        let facts = || self.facts.as_ref().ok_or("the node has not been reached yet");
        let look = self.looks.0.as_ref();
        let standby = |lsn: fn(&StandbySample) -> Option<Lsn>| look.and_then(|look| lsn(&look.sample).map(|lsn| (lsn, look.at)));
        status::Node {
            cluster: self.cluster.clone(),
            region: region.clone(),
            node: self.node.clone(),
            state: self.state,
            why: self.why.clone(),
            role: self.as_of_now(facts().map(|(_, role)| *role), self.heard, now),
            version: self.as_of_now(
                facts().and_then(|(facts, _)| u32::try_from(facts.version).map_err(|_| "the server gave no version")),
                self.heard,
                now,
            ),
            system: self.as_of_now(self.system().ok_or("the node hides it or has not been reached yet"), self.heard, now),
            timeline: self.as_of_now(self.timeline().ok_or("the node hides it or has not been reached yet"), self.heard, now),
            received: self.position(self.written.or_else(|| standby(received)), now),
            replayed: self.position(standby(|sample| sample.replayed), now),
            beat: match &self.beat {
                Some((id, at)) => self.as_of_now(Ok((id.incarnation, id.sequence)), Some(*at), now),
                None => Known::unknown("no beat was written here by this agent"),
            },
            ledger: self.ledger.status(now.raw),
            slots: self.around.slots(now.raw),
            followers: self.followers.status(mates, self.stale_after(), now.raw),
            evidence_age_s: match self.heard {
                Some(at) => Known::known(age(now.raw, at).as_secs_f64()),
                None => Known::unknown("the node has not been reached yet"),
            },
        }
    }

    /// Forgets every stamp of our own clock, which has begun a new epoch.
    pub(super) fn new_epoch(&mut self) {
        self.looks = (None, None);
        self.replay.new_epoch();
        (self.written, self.conflict, self.polled, self.beat, self.heard) = (None, None, None, None, None);
        (self.subscriber, self.apply_error) = (None, None);
        self.followers.end();
        self.ledger.end();
        self.around.new_epoch();
    }

    /// This agent does not write here any more.
    fn end_of_beats(&mut self) {
        self.ledger.end();
        self.around.end_of_beats();
    }

    fn look_at_writer(&mut self, WriterSample { inserted, confirmed, senders, .. }: &WriterSample, began: Reading, now: Reading) {
        self.looks = (None, None);
        self.written = inserted.map(|lsn| (lsn, now.raw));
        let log = (self.system(), self.timeline());
        if let Some(lsn) = *inserted {
            self.around.wal.see(lsn, log, now.raw);
        }
        // Across two epochs it is known on no clock when that was.
        if began.epoch == now.epoch {
            self.followers.see(*inserted, senders, began.raw);
            self.around.see_reaches(confirmed, log, (began.raw, now.raw));
        }
    }

    fn look_at_standby(&mut self, sample: StandbySample, began: Reading, now: Reading) {
        if began.epoch != now.epoch {
            // When it was is known on no clock.
            return;
        }
        let at = now.raw;
        self.written = None;
        self.followers.end();
        let before = self.looks.0.take();
        let counted = |sample: &StandbySample| sample.conflicts;
        if let (Some(now), Some(then)) = (counted(&sample), before.as_ref().and_then(|look| counted(&look.sample)))
            && now > then
        {
            self.conflict = Some(at);
        }
        let timeline = match &sample.receiver {
            Receiver::Present(receiver) => receiver.received_timeline,
            Receiver::Absent | Receiver::Hidden(_) => None,
        };
        let timeline = timeline.or_else(|| self.facts.as_ref().and_then(|(facts, _)| facts.timeline));
        let log = (self.system(), timeline);
        if let Some(lsn) = received(&sample) {
            self.around.wal.see(lsn, log, at);
        }
        if let Some(lsn) = sample.replayed {
            self.replay.see(lsn, log, at);
        }
        self.looks = (Some(Look { began: began.raw, at, sample, timeline }), before);
    }

    fn look_at_subscriber(&mut self, sample: SubscriberSample, at: RawNanos) {
        let counted = sample.apply_errors;
        let before = self.subscriber.replace((sample, at)).and_then(|(before, _)| before.apply_errors);
        if let (Some(now), Some(then)) = (counted, before)
            && now > then
        {
            self.apply_error = Some(at);
        }
    }

    fn write(&mut self, write: Write) {
        self.totals.count(Stream::Beat, Commit { level: CommitLevel::Local, outcome: write.outcome, took: write.took });
        if let Some(announcement) = write.announcement {
            self.beat = Some((announcement.id, announcement.times.acknowledged));
        }
    }

    fn stale_after(&self) -> Duration {
        STALE_MIN.max(self.interval * 3)
    }

    fn position(&self, lsn: Option<(Lsn, RawNanos)>, now: Reading) -> Known<Lsn> {
        let at = lsn.map(|(_, at)| at);
        self.as_of_now(lsn.map(|(lsn, _)| lsn).ok_or("the node gives none in its role, or has not been reached"), at, now)
    }

    /// A value that was learnt at `at`: known, or stale.
    fn as_of_now<T>(&self, value: Result<T, &str>, at: Option<RawNanos>, now: Reading) -> Known<T> {
        let value = match value {
            Ok(value) => value,
            Err(why) => return Known::unknown(why),
        };
        match at.map(|at| age(now.raw, at)) {
            Some(age) if age <= self.stale_after() => Known::known(value),
            Some(age) => Known::Stale { value, age_s: age.as_secs_f64() },
            None => Known::unknown("nothing was heard of the node since the clock's new epoch"),
        }
    }
}

impl Look {
    /// How far the log is received, with what it is a position of. Where replay reads from an archive it is ahead of the receiver.
    pub(super) fn received(&self, system: Option<SystemIdentifier>) -> Option<Position> {
        self.at_position(received(&self.sample), system)
    }

    /// How far the log has got, by stage; nothing of the stage that positions do not show.
    pub(super) fn reached(&self, stage: Stage, system: Option<SystemIdentifier>) -> Option<Position> {
        let lsn = match stage {
            Stage::Received => received(&self.sample),
            Stage::Flushed => flushed(&self.sample),
            Stage::Replayed => self.sample.replayed,
            Stage::Visible => None,
        };
        self.at_position(lsn, system)
    }

    /// The timeline that it follows.
    pub(super) fn timeline(&self) -> Option<Timeline> {
        self.timeline
    }

    /// What the decision needs of it, compared with the look before; what concerns unseen beats is added by the link.
    pub(super) fn standby(&self, before: Option<&Look>, conflicts: bool) -> decide::Standby {
        let moved = |lsn: fn(&StandbySample) -> Option<Lsn>| Some(lsn(&self.sample)? > lsn(&before?.sample)?);
        let unreplayed = || received(&self.sample)?.0.checked_sub(self.sample.replayed?.0);
        decide::Standby {
            receiver: self.receiver(),
            paused: self.sample.pause.map(|pause| pause != PauseState::NotPaused),
            apply_delay: self.sample.apply_delay,
            conflicts,
            received_unseen: None,
            receiving: moved(received),
            replaying: moved(|sample| sample.replayed),
            unreplayed_bytes: unreplayed(),
        }
    }

    fn receiver(&self) -> decide::Receiver {
        match &self.sample.receiver {
            // Who does not tell how far it has received gets its log in some other way.
            Receiver::Absent if !self.sample.tells_received => decide::Receiver::Unknown,
            Receiver::Absent => decide::Receiver::Missing,
            Receiver::Hidden(_) => decide::Receiver::Unknown,
            Receiver::Present(receiver) => decide::Receiver::Present {
                status: receiver.status.clone(),
                // Both ends on the server's wall clock: a negative age is a clock that was set back, which says nothing.
                receipt_age: receiver.last_message_age_ns.and_then(|ns| u64::try_from(ns).ok()).map(Duration::from_nanos),
            },
        }
    }

    fn at_position(&self, lsn: Option<Lsn>, system: Option<SystemIdentifier>) -> Option<Position> {
        Some(Position { system: system?, timeline: self.timeline?, lsn: lsn? })
    }
}

/// The further of what the receiver wrote and what is on disk.
fn received(sample: &StandbySample) -> Option<Lsn> {
    let written = match &sample.receiver {
        Receiver::Present(receiver) => receiver.written,
        Receiver::Absent | Receiver::Hidden(_) => None,
    };
    written.max(flushed(sample))
}

/// The further of what the receiver flushed and what was replayed, which may have come from an archive. Where the server does not tell
/// how far it has received, what it replayed is no answer: more may wait here.
fn flushed(sample: &StandbySample) -> Option<Lsn> {
    let told = match &sample.receiver {
        Receiver::Present(receiver) => receiver.flushed,
        Receiver::Absent | Receiver::Hidden(_) => None,
    };
    let received = sample.received.max(told);
    if received.is_none() && !sample.tells_received { None } else { received.max(sample.replayed) }
}

#[cfg(test)]
mod tests;
