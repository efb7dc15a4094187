use std::time::SystemTime;

use lagmesh_model::beat::{Announcement, BeatId, BeatRow, BeatTimes, Incarnation, Sequence};
use lagmesh_model::catalogue::Attribute;
use lagmesh_model::interval::Interval;
use lagmesh_model::known::Known;
use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
use lagmesh_model::series::{Attributes, Value};
use lagmesh_model::state::{CommitLevel, NodeState, ReplicationState as S, WriteOutcome};
use lagmesh_model::time::WallNanos;
use lagmesh_postgres::discover::{NodeFacts, PauseState, Receiver, ReceiverSample, StandbySample, WriterSample};

use super::*;
use crate::measurement::{Commit, Heard, LedgerRow, PeerClock};

const FLEET: &str = r#"
name = "test"
[[region]]
name = "east"
[[region.agent]]
mesh = "127.0.0.1:1"
[[region]]
name = "west"
[[region.agent]]
mesh = "127.0.0.1:2"
[[cluster]]
name = "orders"
[[cluster.node]]
name = "east-db"
region = "east"
dsn = "host=127.0.0.1 user=u dbname=d"
[[cluster.node]]
name = "west-db"
region = "west"
dsn = "host=127.0.0.1 user=u dbname=d"
"#;

const OWN: Epoch = Epoch(1);
/// The writer's clock minus ours [ms].
const OFFSET_MS: u64 = 5_000;
const LAG_MS: u64 = 40;

/// A region with a standby, simulated millisecond by millisecond: beats leave every second, reach the mesh at once and the node
/// after `LAG_MS`; positions are looked at every second, a little behind the beats.
#[expect(clippy::struct_excessive_bools, reason = "each is a fault to switch on")]
struct Sim {
    replications: Replications,
    view: PeerView,
    now_ms: u64,
    /// The last beat that was written, visible, received and replayed.
    written: u64,
    visible: u64,
    received: u64,
    replayed: u64,
    receipt_ms: u64,
    last_poll_ms: u64,
    writer_beats: bool,
    mesh_works: bool,
    network_works: bool,
    paused: bool,
    reader_works: bool,
    receiver: bool,
    timeline: u32,
    conflicts: i64,
    /// Of the writer's clock, as its rows say.
    writer_epoch: Epoch,
}

impl Sim {
    fn new() -> Sim {
        let fleet = Fleet::parse("fleet.toml", FLEET).unwrap();
        let mut sim = Sim {
            replications: Replications::new(&fleet, &"west".parse().unwrap()),
            view: PeerView::default(),
            now_ms: 0,
            written: 0,
            visible: 0,
            received: 0,
            replayed: 0,
            receipt_ms: 0,
            last_poll_ms: 0,
            writer_beats: true,
            mesh_works: true,
            network_works: true,
            paused: false,
            reader_works: true,
            receiver: true,
            timeline: 1,
            conflicts: 0,
            writer_epoch: Epoch(2),
        };
        sim.tell(NodeNews::State { state: NodeState::Ok, why: String::new() });
        sim.tell(NodeNews::Facts { facts: facts(true), role: NodeRole::Standby });
        sim
    }

    fn now(&self) -> Reading {
        at(self.now_ms)
    }

    fn tell(&mut self, news: NodeNews) {
        let event = NodeEvent { cluster: "orders".parse().unwrap(), node: "west-db".parse().unwrap(), at: self.now(), news };
        self.replications.record(event, &self.view);
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            self.step();
        }
    }

    fn step(&mut self) {
        let phase = self.now_ms % 1_000;
        if phase == 0 && self.writer_beats {
            self.written += 1;
        }
        if self.mesh_works && self.now_ms % 50 == 10 {
            self.mesh();
        }
        if self.network_works && self.receiver && phase == LAG_MS - 1 {
            self.received = self.written;
            self.receipt_ms = self.now_ms;
        }
        if !self.paused && phase == LAG_MS {
            self.replayed = self.received;
        }
        // Polls at the phase of arrival and by the due time, as the plan makes them.
        if self.reader_works && (phase.is_multiple_of(250) || phase == LAG_MS - 2 || phase == LAG_MS + 1) {
            self.poll();
        }
        if phase == 700 {
            self.look();
        }
    }

    fn mesh(&mut self) {
        let far: AgentName = "east".parse().unwrap();
        self.view.heard.insert(far.clone(), self.now().raw);
        let offset = Interval::new(ns(OFFSET_MS) - 100_000, ns(OFFSET_MS), ns(OFFSET_MS) + 100_000).unwrap();
        self.view.clocks.insert(far.clone(), PeerClock { epoch: Epoch(2), own_epoch: OWN, offset, at: self.now().raw });
        if self.written > 0 {
            let what = announcement(self.written);
            self.view.announcements.insert("east-db".parse().unwrap(), Heard { what, from: far, at: self.now().raw });
        }
        let view = self.view.clone();
        self.replications.hear(self.now(), &view);
    }

    fn poll(&mut self) {
        let absent = (self.last_poll_ms > 0).then(|| at(self.last_poll_ms).raw);
        let rows: Vec<u64> = (self.visible + 1..=self.replayed).collect();
        self.visible = self.replayed;
        self.tell(NodeNews::Polled { started: self.now().raw, ended: self.now().raw });
        for n in rows {
            self.tell(NodeNews::Sighting(Sighting {
                row: BeatRow { epoch: self.writer_epoch, ..row(n) },
                absent,
                asked: self.now().raw,
                present: self.now().raw,
                guess: None,
                own_wall: None,
                polls: Some(5),
            }));
        }
        self.last_poll_ms = self.now_ms;
    }

    fn look(&mut self) {
        let receiver = ReceiverSample {
            status: "streaming".to_owned(),
            received_timeline: Some(Timeline(self.timeline)),
            written: Some(Lsn(self.received * 100)),
            flushed: Some(Lsn(self.received * 100)),
            latest_end: None,
            last_message_age_ns: Some(ns(self.now_ms - self.receipt_ms)),
            sender_host: None,
        };
        let sample = StandbySample {
            in_recovery: true,
            // Idle: the end of the log is the end of the last beat.
            replayed: Some(Lsn(self.replayed * 100)),
            received: Some(Lsn(self.received * 100)),
            pause: Some(if self.paused { PauseState::Paused } else { PauseState::NotPaused }),
            apply_delay: Some(Duration::ZERO),
            conflicts: Some(self.conflicts),
            receiver: if self.receiver { Receiver::Present(receiver) } else { Receiver::Absent },
            tells_received: true,
            slot: Some("reader".to_owned()),
        };
        self.tell(NodeNews::Standby { sample, began: self.now() });
    }

    fn only(&mut self) -> status::Replication {
        let (now, view) = (self.now(), self.view.clone());
        let mut links = self.replications.status(now, &view);
        assert_eq!(links.len(), 1, "{links:?}");
        links.remove(0)
    }

    fn state(&mut self) -> S {
        self.only().state
    }

    /// Runs until the state is `wanted`, for at most `within_ms`; gives the time that it took.
    fn until(&mut self, wanted: S, within_ms: u64) -> u64 {
        for step in 0..within_ms / 10 {
            if self.state() == wanted {
                return step * 10;
            }
            self.run(10);
        }
        panic!("still {:?} after {within_ms} ms, not {wanted}", self.only());
    }
}

fn at(ms: u64) -> Reading {
    let ns = 1_000_000_000_000 + ms * 1_000_000;
    Reading { epoch: OWN, raw: RawNanos(ns), wall: WallNanos(ns) }
}

fn ns(ms: u64) -> i64 {
    ms.cast_signed() * 1_000_000
}

fn id(n: u64) -> BeatId {
    BeatId { origin: "east-db".parse().unwrap(), incarnation: Incarnation(5), sequence: Sequence(n) }
}

fn position(n: u64) -> Position {
    // Where the log stood before the beat was written: the end of the one before.
    Position { system: SystemIdentifier(7), timeline: Timeline(1), lsn: Lsn((n - 1) * 100) }
}

fn sent(n: u64) -> RawNanos {
    at(n * 1_000 + OFFSET_MS).raw
}

fn announcement(n: u64) -> Announcement {
    let acknowledged = RawNanos(sent(n).0 + 1_000_000);
    Announcement { id: id(n), times: BeatTimes { epoch: Epoch(2), sent: sent(n), acknowledged }, position: position(n) }
}

fn row(n: u64) -> BeatRow {
    let previous_acknowledged = (n > 1).then(|| RawNanos(sent(n - 1).0 + 1_000_000));
    BeatRow {
        id: id(n),
        epoch: Epoch(2),
        sent: sent(n),
        sent_wall: WallNanos(0),
        claimed_error_ns: None,
        previous_acknowledged,
        position: position(n),
    }
}

fn facts(in_recovery: bool) -> NodeFacts {
    NodeFacts {
        version: 150_018,
        in_recovery,
        system: Some(SystemIdentifier(7)),
        timeline: Some(Timeline(1)),
        read_only: in_recovery,
        reads_statistics: true,
        role: "lagmesh".to_owned(),
        database: "postgres".to_owned(),
        started: SystemTime::UNIX_EPOCH,
    }
}

fn healthy() -> Sim {
    let mut sim = Sim::new();
    sim.run(10_600);
    assert_eq!(sim.state(), S::Ok);
    sim
}

/// On a healthy link the state never leaves ok, every beat has its lag, and the true lag lies in every interval.
#[test]
fn healthy_link() {
    let mut sim = healthy();
    for _ in 0..300 {
        sim.run(100);
        assert_eq!(sim.state(), S::Ok);
    }
    let link = sim.only();
    let (lag, recent) = (*link.lag.current().unwrap(), *link.lag_recent.current().unwrap());
    assert!(lag.lower_s <= 0.040 && lag.upper_s >= 0.039 && lag.upper_s - lag.lower_s < 0.005, "{lag:?}");
    assert!(recent.samples > 30 && (recent.p50_s - 0.039).abs() < 0.003, "{recent:?}");
    assert_eq!(link.log.received.backlog_bytes.current(), Some(&0));
    let track = sim.replications.tracks.values().next().unwrap();
    assert_eq!((track.lag.totals.met, track.lag.totals.missed, track.lag.totals.unknown), (40, 0, 0));
}

/// A receiver frozen on an idle link leaves ok within three beats, is called silent, and staleness goes on; then all recovers.
#[test]
fn frozen_receiver() {
    for frozen_at_ms in (50..1_050).step_by(100) {
        let mut sim = healthy();
        sim.run(frozen_at_ms);
        let written = sim.written;
        sim.network_works = false;
        let took = sim.until(S::Silent, 4_000);
        assert!(sim.written - written <= 3, "{took} ms, {} beats", sim.written - written);
        let before = sim.only().staleness.current().unwrap().estimate_s;
        sim.run(10_000);
        let link = sim.only();
        assert!((link.staleness.current().unwrap().estimate_s - before - 10.0).abs() < 0.01);
        assert_eq!(link.state, S::Silent, "{}", link.why);
        assert!(*link.log.received.backlog_bytes.current().unwrap() > 0);
        sim.network_works = true;
        sim.until(S::Ok, 2_000);
    }
}

/// What stops is told from what stops it.
#[test]
fn faults_have_their_names() {
    type Break = fn(&mut Sim);
    let table: [(&str, Break, S); 7] = [
        ("writer stops", |sim| sim.writer_beats = false, S::WriterDown),
        ("replay paused", |sim| sim.paused = true, S::Paused),
        ("receiver gone", |sim| sim.receiver = false, S::Disconnected),
        ("our reader sleeps", |sim| sim.reader_works = false, S::Unknown),
        ("node away", |sim| sim.tell(NodeNews::State { state: NodeState::Unreachable, why: "refused".to_owned() }), S::Unknown),
        ("conflicts", |sim| sim.conflicts += 1, S::Conflict),
        ("all of the writer's region", |sim| (sim.writer_beats, sim.mesh_works) = (false, false), S::Unknown),
    ];
    for (name, fault, expected) in table {
        let mut sim = healthy();
        fault(&mut sim);
        let took = sim.until(expected, 5_000);
        println!("{name}: {expected} after {took} ms: {}", sim.only().why);
    }
}

/// After a pause a poll may see some of the beats arrive before the next look says that replay goes on: from then on staleness may be
/// that of the newest beat, although the state is still the old one.
#[test]
fn a_pause_that_ends_between_two_looks() {
    let mut sim = healthy();
    sim.paused = true;
    sim.until(S::Paused, 5_000);
    sim.run(5_000);
    assert!(sim.only().staleness.current().unwrap().lower_s > 4.0, "it stands still");
    sim.replayed += 1;
    sim.poll();
    let link = sim.only();
    let newest_s = (sim.now_ms - sim.written * 1_000) as f64 / 1e3;
    assert_eq!(link.state, S::Paused);
    assert!(link.staleness.current().unwrap().lower_s <= newest_s, "{:?}", link.staleness);
}

/// With the mesh blocked beats still tell lag from their next row, on the clock relation that was last known.
#[test]
fn mesh_blocked() {
    let mut sim = healthy();
    sim.mesh_works = false;
    sim.run(20_000);
    let link = sim.only();
    assert_eq!(link.state, S::Ok, "{}", link.why);
    assert!(link.lag.is_known() && link.staleness.is_known() && link.log.received.backlog_bytes.current().is_none());
}

/// A node left behind on the old timeline is called diverged once it misses a beat of the new one.
#[test]
fn left_on_the_old_timeline() {
    let mut sim = healthy();
    sim.network_works = false;
    sim.mesh_works = false;
    let mut what = announcement(500);
    (what.id.incarnation, what.position.timeline) = (Incarnation(9), Timeline(2));
    let heard = Heard { what, from: "east".parse().unwrap(), at: sim.now().raw };
    sim.view.announcements.insert("east-db".parse().unwrap(), heard);
    sim.until(S::Diverged, 3_000);
}

/// Nothing is listed before a beat is known, and nothing at a plain writer.
#[test]
fn links_are_discovered() {
    let mut sim = Sim::new();
    let view = PeerView::default();
    assert!(sim.replications.status(sim.now(), &view).is_empty());
    sim.run(2_000);
    assert_eq!(sim.only().origin.as_str(), "east-db");
    sim.tell(NodeNews::Facts { facts: facts(false), role: NodeRole::Writer });
    let (now, view) = (sim.now(), sim.view.clone());
    assert!(sim.replications.status(now, &view).is_empty());
}

/// The ledger says whether writes work, in a stream of its own beside the beats, until the node takes none any more; the node's state stays
/// what its beats make it.
#[test]
fn the_ledger_speaks_for_itself() {
    let mut sim = healthy();
    sim.tell(NodeNews::Facts { facts: facts(false), role: NodeRole::Writer });
    let outcome = WriteOutcome::Acknowledged;
    sim.tell(NodeNews::Written(Write { announcement: None, outcome, took: Some(Duration::from_millis(1)) }));
    for (sequence, outcome, why) in [(1, WriteOutcome::Acknowledged, ""), (2, WriteOutcome::InDoubt, "writes hang")] {
        let commit = Commit { level: CommitLevel::RemoteApply, outcome, took: Some(Duration::from_millis(7)) };
        let row = LedgerRow { incarnation: Incarnation(5), sequence: Sequence(sequence), commit, why: why.to_owned() };
        sim.tell(NodeNews::Ledger(row));
    }
    let node = sim.replications.nodes(sim.now()).remove(0);
    let ledger = node.ledger.current().cloned().unwrap();
    assert_eq!((node.state, ledger.outcome, ledger.why.as_str()), (NodeState::Ok, WriteOutcome::InDoubt, "writes hang"));
    assert_eq!(ledger.acknowledged, Some((Incarnation(5), Sequence(1))));

    let (now, view) = (sim.now(), sim.view.clone());
    let mut series = Vec::new();
    sim.replications.series(now, &view, &mut series);
    let count = |stream, outcome| {
        let words = [(Attribute::Stream, stream), (Attribute::Outcome, outcome)];
        let fits = |one: &&Series| words.iter().all(|(name, word)| one.attributes.get(*name) == Some(*word));
        series.iter().filter(|one| one.metric.name == "lagmesh.heartbeat.writes").find(fits).map(|one| one.value.clone())
    };
    assert_eq!(count("beat", "acknowledged"), Some(Value::Counter(1)));
    assert_eq!(count("ledger", "acknowledged"), Some(Value::Counter(1)));
    assert_eq!(count("ledger", "in-doubt"), Some(Value::Counter(1)));
    let levels = series.iter().filter(|one| one.metric.name == "lagmesh.heartbeat.commit");
    let levels: Vec<_> = levels.filter_map(|one| one.attributes.get(Attribute::Level)).collect();
    assert_eq!(levels, ["local", "remote_apply"]);

    sim.tell(NodeNews::Facts { facts: facts(true), role: NodeRole::Standby });
    assert!(!sim.replications.nodes(sim.now()).remove(0).ledger.is_known());
}

/// Nothing is combined across epochs of our own clock.
#[test]
fn new_epoch_starts_anew() {
    let mut sim = healthy();
    let later = Reading { epoch: Epoch(77), ..sim.now() };
    let link = sim.replications.status(later, &PeerView::default()).pop();
    assert!(link.is_none_or(|link| link.state == S::Unknown && link.staleness.current().is_none()));
}

/// Beats that go on to arrive do not keep an old lag current: once the lag of new ones is no longer known, it gets stale, and the
/// state does not rest on it.
#[test]
fn an_old_lag_is_no_present_one() {
    let mut sim = Sim::new();
    sim.run(10_000);
    assert!(sim.only().lag.is_known());
    // The writer's host began a new clock epoch, and nothing is heard of it over the mesh.
    (sim.mesh_works, sim.writer_epoch) = (false, Epoch(77));
    sim.run(10_000);
    let link = sim.only();
    assert!(matches!(link.lag, Known::Stale { .. }), "{:?}", link.lag);
    assert_eq!(link.state, S::Unknown, "{}", link.why);
}

/// What comes from nodes that another fleet file does not know ends at once, also while the mesh still tells of it; the rest stays as
/// it is.
#[test]
fn another_fleet_file() {
    let mut sim = Sim::new();
    sim.run(20_000);
    let series = |sim: &mut Sim| {
        let (mut all, now, view) = (Vec::new(), sim.now(), sim.view.clone());
        sim.replications.series(now, &view, &mut all);
        all
    };
    let before = series(&mut sim);
    let of_link = |all: &[Series]| all.iter().filter(|series| series.metric.name.starts_with("lagmesh.replication")).count();
    assert!(of_link(&before) > 5);
    let more = "[[region]]\nname = \"north\"\n[[region.agent]]\nmesh = \"127.0.0.1:3\"\n[[cluster]]\nname = \"orders\"\n\
                [[cluster.node]]\nname = \"north-db\"\nregion = \"north\"\ndsn = \"host=127.0.0.1 user=u dbname=d\"\n";
    let more = FLEET.replace("[[cluster]]\nname = \"orders\"\n", more);
    sim.replications.reload(&Fleet::parse("fleet.toml", &more).unwrap());
    assert_eq!(series(&mut sim), before);
    let gone = FLEET.replace("\"east\"", "\"north\"").replace("\"east-db\"", "\"north-db\"");
    sim.replications.reload(&Fleet::parse("fleet.toml", &gone).unwrap());
    let after = series(&mut sim);
    assert_eq!(of_link(&after), 0, "{after:?}");
    assert!(after.iter().all(|series| before.contains(series)) && !after.is_empty());
    assert!(sim.replications.told.is_empty() && sim.replications.tracks.is_empty());
}

mod reach;
mod subscriber;
mod told;
