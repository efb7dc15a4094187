//! What the state of one replication link is: the one place that turns evidence into a word, and says why.
//!
//! The rules stand in the order in which they are asked. First what forbids any statement (the node or our own reader does not
//! work), then what is no fault of replication (the writer is down), then where the log got stuck, from the network inwards, and
//! only then how late it is.

use std::time::Duration;

use lagmesh_model::interval::Interval;
use lagmesh_model::state::{Basis, ReplicationState};

/// So many beat intervals without a beat mean that none is written.
pub const WRITER_DOWN_INTERVALS: f64 = 3.0;
/// A confirmed beat that is not visible after so many intervals is late.
pub const LATE_INTERVALS: f64 = 1.5;
/// Beats that are less late than this are never late, however short the interval: hiccups of hosts are as long.
const LATE_MIN: Duration = Duration::from_millis(500);
/// Without a poll for so many intervals our reader has nothing to say.
const READER_INTERVALS: f64 = 2.0;
/// A reader that slept less than this is no news, however short the interval.
const READER_MIN: Duration = Duration::from_secs(1);
/// A peer that is heard sixteen times a second and then not for this long is not heard.
const HEARD_MIN: Duration = Duration::from_secs(2);
/// The age of the receiver's last message beyond which its line is dead: 1.5 times the 30 s after which an idle sender speaks
/// (half of the default `wal_sender_timeout`).
const RECEIPT_SILENT: Duration = Duration::from_secs(45);

/// Why nothing is known of a writer in a region that the plan of the mesh does not connect with ours.
pub const UNPLANNED: &str =
    "the mesh plan does not connect the two regions: their clocks are not compared and the writer is not heard";

/// Everything that the decision rests on. Ages are on our own clock and end at the moment of the decision.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The interval between beats.
    pub interval: Duration,
    /// From this lag on the link is lagging.
    pub lag_enter: Duration,
    /// Down to this lag it goes on to be called so.
    pub lag_exit: Duration,
    /// What was decided last.
    pub previous: ReplicationState,
    /// Why the node cannot be read, if it cannot.
    pub node_trouble: Option<String>,
    /// How long the link has been watched.
    pub watched: Duration,
    /// Since the newest poll of the node ended well; `None` if none did.
    pub poll_age: Option<Duration>,
    /// What is known of the writer.
    pub writer: Writer,
    /// Since a new beat was last seen arriving; `None` if none did while we watched.
    pub arrived_age: Option<Duration>,
    /// Beats that the writer has confirmed and that are not visible at the node.
    pub unseen: Option<Unseen>,
    /// The apply lag of the newest beat, and what it rests on.
    pub lag: Option<(Interval, Basis)>,
    /// Whether lag has been falling over the last beats.
    pub lag_falling: bool,
    /// Which log the node follows, compared with the one that the writer writes; `None` if they are the same or it is not known.
    pub other_log: Option<String>,
    /// Positions and receiver, if the node is in recovery.
    pub standby: Option<Standby>,
    /// Subscriptions, if the node is a subscriber.
    pub subscriber: Option<Subscriber>,
    /// Which slot that the node uses is lost and who says so, if any is.
    pub lost_slot: Option<String>,
}

/// What is known of the writer.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    /// Since its agent was last heard; `None` if it never was. Zero if it is our own.
    pub heard_age: Option<Duration>,
    /// Since it told of a new beat; `None` if it never did.
    pub beat_age: Option<Duration>,
    /// Whether the plan of the mesh does not connect its region with ours: then nothing is ever heard.
    pub unplanned: bool,
}

/// Beats that the writer has confirmed and that are not visible at the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// The number of the oldest.
    pub sequence: u64,
    /// How many are known of.
    pub beats: u64,
    /// Since we heard that the oldest was committed: its lag is not below this.
    pub known_for: Duration,
}

/// What a subscriber's subscriptions do for beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscriber {
    /// Whether any of them carries the heartbeat table.
    pub carries_beats: bool,
    /// Whether the apply worker of any of them has failed of late.
    pub fails: bool,
}

/// Positions and receiver of a node in recovery.
#[derive(Debug, Clone, Default)]
pub struct Standby {
    /// The receiver.
    pub receiver: Receiver,
    /// Whether replay is paused.
    pub paused: Option<bool>,
    /// `recovery_min_apply_delay`.
    pub apply_delay: Option<Duration>,
    /// Whether replay has met conflicts with queries of late.
    pub conflicts: bool,
    /// Whether the log of the oldest unseen beat had been received when we last looked, some time after it was committed.
    pub received_unseen: Option<bool>,
    /// Whether more log was received between the last two looks.
    pub receiving: Option<bool>,
    /// Whether more log was replayed between the last two looks.
    pub replaying: Option<bool>,
    /// Received and not replayed [bytes].
    pub unreplayed_bytes: Option<u64>,
}

/// The receiver of a node in recovery.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Receiver {
    /// We may not see it, or have not looked.
    #[default]
    Unknown,
    /// There is none.
    Missing,
    /// There is one.
    Present {
        /// Its own word about itself.
        status: String,
        /// Since it last got a message from the sender.
        receipt_age: Option<Duration>,
    },
}

type Verdict = (ReplicationState, String);

/// The state and why, with the evidence.
pub fn decide(evidence: &Evidence) -> Verdict {
    let rules: [fn(&Evidence) -> Option<Verdict>; 16] = [
        node_cannot_be_read,
        reader_slept,
        other_log,
        writer_is_down,
        slot_is_lost,
        not_published,
        apply_fails,
        no_receiver,
        nothing_arrives,
        paused,
        delayed_on_purpose,
        conflicts,
        replay_stands,
        nobody_speaks,
        late,
        nothing_to_judge_by,
    ];
    let verdict = rules.iter().find_map(|rule| rule(evidence));
    verdict.unwrap_or_else(|| (ReplicationState::Ok, fine(evidence)))
}

impl Evidence {
    fn intervals(&self, count: f64, at_least: Duration) -> Duration {
        self.interval.mul_f64(count).max(at_least)
    }

    fn writer_is_heard(&self) -> bool {
        let limit = self.intervals(WRITER_DOWN_INTERVALS, HEARD_MIN);
        self.writer.heard_age.is_some_and(|age| age <= limit)
    }

    fn is_arriving(&self, intervals: f64, at_least: Duration) -> bool {
        self.arrived_age.is_some_and(|age| age <= self.intervals(intervals, at_least))
    }

    /// A beat that is confirmed, late and not visible.
    fn late_beat(&self) -> Option<&Unseen> {
        self.unseen.as_ref().filter(|unseen| unseen.known_for >= self.intervals(LATE_INTERVALS, LATE_MIN))
    }

    /// How far behind the node is at least, as well as can be told: the newest beat's lag, or the wait for one that is overdue.
    fn behind(&self) -> Option<Duration> {
        let lag = self.lag.map(|(lag, _)| u64::try_from(lag.estimate_ns()).map_or(Duration::ZERO, Duration::from_nanos));
        let waiting = self.unseen.as_ref().map(|unseen| unseen.known_for);
        lag.max(waiting)
    }
}

fn node_cannot_be_read(e: &Evidence) -> Option<Verdict> {
    let trouble = e.node_trouble.as_ref()?;
    Some((ReplicationState::Unknown, format!("the node cannot be read: {trouble}")))
}

fn reader_slept(e: &Evidence) -> Option<Verdict> {
    match e.poll_age {
        None => Some((ReplicationState::Unknown, "the node has not been read yet".to_owned())),
        Some(age) if age > e.intervals(READER_INTERVALS, READER_MIN) => Some((
            ReplicationState::Unknown,
            format!("no read of the node has ended for {}: nothing can be said about replication", s(age)),
        )),
        Some(_) => None,
    }
}

/// A node on another timeline still shows the beats of their common past; what is confirmed and late on the new one decides.
fn other_log(e: &Evidence) -> Option<Verdict> {
    let other = e.other_log.as_ref()?;
    let late = e.late_beat()?;
    Some((
        ReplicationState::Diverged,
        format!("{other}; beat {} was committed {} ago and is not visible", late.sequence, s(late.known_for)),
    ))
}

fn writer_is_down(e: &Evidence) -> Option<Verdict> {
    let limit = e.intervals(WRITER_DOWN_INTERVALS, Duration::ZERO);
    if !e.writer_is_heard() || e.is_arriving(WRITER_DOWN_INTERVALS, Duration::ZERO) {
        return None;
    }
    match e.writer.beat_age {
        Some(age) if age > limit => Some((
            ReplicationState::WriterDown,
            format!("the writer's agent is heard and has told of no new beat for {}", s(age)),
        )),
        None if e.watched > limit => Some((
            ReplicationState::WriterDown,
            format!("the writer's agent is heard and has told of no beat in {}", s(e.watched)),
        )),
        _ => None,
    }
}

/// A node whose slot is lost may still get its log from an archive, or have a receiver that has not noticed: only where beats are missing,
/// or the receiver is, the slot is why.
fn slot_is_lost(e: &Evidence) -> Option<Verdict> {
    let lost = e.lost_slot.as_ref()?;
    let missing = e.standby.as_ref().is_some_and(|standby| standby.receiver == Receiver::Missing);
    let why = match e.late_beat() {
        Some(late) => {
            format!("{lost}; beat {} was committed {} ago and is not visible", late.sequence, s(late.known_for))
        }
        None if missing => format!("{lost}; the standby has no WAL receiver"),
        None => return None,
    };
    Some((ReplicationState::SlotLost, why))
}

/// A node may follow several origins: only one whose beats are missing is concerned.
fn not_published(e: &Evidence) -> Option<Verdict> {
    let late = e.late_beat().filter(|_| e.subscriber.is_some_and(|subscriber| !subscriber.carries_beats))?;
    let why = format!(
        "no subscription carries lagmesh.beat; beat {} was committed {} ago and is not visible: add the table to the publication at the \
         writer, then ALTER SUBSCRIPTION ... REFRESH PUBLICATION here",
        late.sequence,
        s(late.known_for),
    );
    Some((ReplicationState::NotPublished, why))
}

fn apply_fails(e: &Evidence) -> Option<Verdict> {
    let late = e.late_beat().filter(|_| e.subscriber.is_some_and(|subscriber| subscriber.fails))?;
    let why = format!(
        "the subscription's apply worker fails; beat {} was committed {} ago and is not visible: the server's log says what it cannot apply",
        late.sequence,
        s(late.known_for),
    );
    Some((ReplicationState::ApplyError, why))
}

fn no_receiver(e: &Evidence) -> Option<Verdict> {
    let missing = e.standby.as_ref().is_some_and(|standby| standby.receiver == Receiver::Missing);
    missing.then(|| {
        let arrived = e
            .arrived_age
            .map_or_else(|| "no beat arrived since".to_owned(), |age| format!("the last beat arrived {} ago", s(age)));
        (ReplicationState::Disconnected, format!("the standby has no WAL receiver; {arrived}"))
    })
}

/// Rigorous: the writer has confirmed a beat and its log has not come in, whatever the receiver says of itself.
fn nothing_arrives(e: &Evidence) -> Option<Verdict> {
    let in_name = e.standby.as_ref().map_or(String::new(), receiver_words);
    if let Some(late) = e.late_beat().filter(|_| !e.is_arriving(LATE_INTERVALS, LATE_MIN)) {
        let received = e.standby.as_ref().and_then(|standby| standby.received_unseen);
        let receiving = e.standby.as_ref().and_then(|standby| standby.receiving);
        if received == Some(false) && receiving == Some(false) {
            let why = format!(
                "beat {} was committed {} ago and its log has not been received{in_name}",
                late.sequence,
                s(late.known_for)
            );
            return Some((ReplicationState::Silent, why));
        }
        // A standby's positions may still come; a subscriber never shows how far it has received.
        let patience = if e.subscriber.is_some() { LATE_INTERVALS } else { WRITER_DOWN_INTERVALS };
        // A replay that somebody holds back explains what is missing without a fault of the connection.
        let held_back = || paused(e).or_else(|| delayed_on_purpose(e)).is_some();
        let unknowable = received.is_none() && !held_back() && late.known_for >= e.intervals(patience, LATE_MIN);
        if unknowable {
            let why = format!(
                "beat {} was committed {} ago and is not visible; how far its log got cannot be seen at this node{in_name}",
                late.sequence,
                s(late.known_for),
            );
            return Some((ReplicationState::Silent, why));
        }
    }
    match e.standby.as_ref().map(|standby| &standby.receiver) {
        Some(Receiver::Present { receipt_age: Some(age), .. }) if *age > RECEIPT_SILENT => {
            Some((ReplicationState::Silent, format!("nothing came over the replication connection for {}{in_name}", s(*age))))
        }
        _ => None,
    }
}

fn paused(e: &Evidence) -> Option<Verdict> {
    let standby = e.standby.as_ref().filter(|standby| standby.paused == Some(true))?;
    let held = standby.unreplayed_bytes.map_or(String::new(), |bytes| format!(", {bytes} bytes wait"));
    Some((ReplicationState::Paused, format!("replay is paused{held}; pg_wal_replay_resume() lets it go on")))
}

fn delayed_on_purpose(e: &Evidence) -> Option<Verdict> {
    let delay = e.standby.as_ref()?.apply_delay.filter(|delay| !delay.is_zero())?;
    let limit = delay + e.lag_enter;
    if e.behind().is_some_and(|behind| behind > limit) {
        return None;
    }
    let behind = e.behind().map_or_else(|| "not known how far".to_owned(), s);
    Some((ReplicationState::DelayedOnPurpose, format!("recovery_min_apply_delay is {}; behind: {behind}", s(delay))))
}

fn conflicts(e: &Evidence) -> Option<Verdict> {
    e.standby.as_ref().filter(|standby| standby.conflicts)?;
    let behind = e.behind().map_or_else(|| "not known how far".to_owned(), s);
    Some((ReplicationState::Conflict, format!("replay conflicts with queries on the standby; behind: {behind}")))
}

fn replay_stands(e: &Evidence) -> Option<Verdict> {
    let late = e.late_beat()?;
    let standby = e.standby.as_ref()?;
    if standby.received_unseen != Some(true) || standby.replaying != Some(false) {
        return None;
    }
    let waiting = standby.unreplayed_bytes.map_or(String::new(), |bytes| format!(", {bytes} bytes wait"));
    let why = format!(
        "the log of beat {} was received and is not replayed {} after its commit{waiting}",
        late.sequence,
        s(late.known_for)
    );
    Some((ReplicationState::Stalled, why))
}

fn nobody_speaks(e: &Evidence) -> Option<Verdict> {
    if e.writer_is_heard() || e.is_arriving(WRITER_DOWN_INTERVALS, Duration::ZERO) {
        return None;
    }
    let arrived =
        e.arrived_age.map_or_else(|| "no beat has arrived yet".to_owned(), |age| format!("no beat has arrived for {}", s(age)));
    let why = if e.writer.unplanned {
        format!("{arrived}; {UNPLANNED}")
    } else {
        format!("{arrived} and the writer's agent is not heard: it may be the writer, its region or the path")
    };
    Some((ReplicationState::Unknown, why))
}

fn late(e: &Evidence) -> Option<Verdict> {
    let behind = e.behind()?;
    let was_fine = matches!(e.previous, ReplicationState::Ok | ReplicationState::Unknown);
    let limit = if was_fine { e.lag_enter } else { e.lag_exit };
    if behind < limit {
        return None;
    }
    let why = format!("{} behind (limit {})", s(behind), s(limit));
    let moving = e.standby.as_ref().is_none_or(|standby| standby.replaying != Some(false));
    if e.lag_falling && moving {
        return Some((ReplicationState::CatchingUp, format!("{why}, falling")));
    }
    Some((ReplicationState::Lagging, why))
}

/// Beats that arrive prove a connection, not that they are fresh: that takes the clock relation or the writer's own word.
fn nothing_to_judge_by(e: &Evidence) -> Option<Verdict> {
    let told = e.writer_is_heard() && e.writer.beat_age.is_some();
    if e.lag.is_some() || (told && e.arrived_age.is_some()) {
        return None;
    }
    let why = match e.arrived_age {
        Some(_) if e.writer.unplanned => format!("beats arrive, but how late they are is not known: {UNPLANNED}"),
        Some(_) => "beats arrive, but how late they are is not known: the writer's agent is not heard on the mesh".to_owned(),
        None => "no beat has been seen arriving yet".to_owned(),
    };
    Some((ReplicationState::Unknown, why))
}

fn fine(e: &Evidence) -> String {
    let arrived = e.arrived_age.map_or(String::new(), |age| format!("the last beat arrived {} ago", s(age)));
    match e.lag {
        Some((lag, basis)) => {
            let ms = |ns: i64| ns as f64 / 1e6;
            let (lower, estimate, upper) = (ms(lag.lower_ns()), ms(lag.estimate_ns()), ms(lag.upper_ns()));
            let sure = match basis {
                Basis::Mesh => "for certain",
                Basis::Claims => {
                    "if the clocks of both hosts are as right as they claim, for the writer's agent is not heard on the mesh:"
                }
            };
            format!("{arrived}, {estimate:.1} ms after its commit ({sure} {lower:.1} to {upper:.1} ms)")
        }
        None => format!("{arrived}; its lag is not known, but the writer has confirmed none that is missing"),
    }
}

fn receiver_words(standby: &Standby) -> String {
    match &standby.receiver {
        Receiver::Present { status, receipt_age: Some(age) } => {
            format!("; the receiver says {status}, its last message came {} ago", s(*age))
        }
        Receiver::Present { status, receipt_age: None } => format!("; the receiver says {status}"),
        Receiver::Missing | Receiver::Unknown => String::new(),
    }
}

/// A duration as people read it.
fn s(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        return format!("{} ms", span.as_millis());
    }
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests;
