use std::time::Duration;

use lagmesh_daemon::Readiness;
use lagmesh_model::ids::{BootId, CollectorName};
use lagmesh_model::series::Value;
use lagmesh_model::state::{ClaimSource, NodeState, Outcome, ProbeKind};
use lagmesh_model::time::{Epoch, RawNanos};

use super::*;
use crate::measurement::{NodeEvent, NodeNews, Probe};
use crate::send::Delivery;
use crate::spool::{Level, LossReason};
use crate::summary::Awaited;

const FLEET: &str = r#"
name = "test"
[[region]]
name = "dublin"
[[region.agent]]
mesh = "127.0.0.1:8620"
[[region]]
name = "tokyo"
[[region.agent]]
mesh = "127.0.0.1:8630"
[[cluster]]
name = "orders"
[[cluster.node]]
name = "db-dublin"
region = "dublin"
dsn = "host=127.0.0.1"
[[collector]]
name = "main"
otlp = "http://127.0.0.1:8622"
"#;

const NOW: Reading = Reading { epoch: Epoch(1), raw: RawNanos(50_000_000_000), wall: WallNanos(1_700_000_000_000_000_000) };

fn fleet() -> Arc<Fleet> {
    Arc::new(Fleet::parse("fleet.toml", FLEET).unwrap())
}

fn summary() -> Summary {
    let exporter = Exporter {
        fleet: "test".to_owned(),
        region: "dublin".parse().unwrap(),
        agent: "dublin".parse().unwrap(),
        boot: BootId(7),
        version: "1.2.3".to_owned(),
    };
    Summary::new(&fleet(), exporter, false, NOW)
}

fn collector() -> CollectorName {
    "main".parse().unwrap()
}

fn late(late_ns: &[u64]) -> Exponential {
    let mut distribution = Exponential::new();
    for ns in late_ns {
        distribution.record_ns(*ns);
    }
    distribution
}

struct Outside {
    levels: Levels,
    deliveries: Deliveries,
}

impl Outside {
    fn new(level: Level, delivery: Delivery) -> Outside {
        Outside { levels: Levels::from([(collector(), level)]), deliveries: Deliveries::from([(collector(), delivery)]) }
    }

    fn snapshot(&self, summary: &mut Summary, now: Reading) -> Snapshot {
        let around = Around {
            clock_epochs: 2,
            wall_steps: 5,
            claim: Some(ClockClaim::Synchronized { error_ns: 1_500_000, source: ClaimSource::Kernel }),
            dropped_observations: 3,
            dropped_batches: 4,
            levels: &self.levels,
            deliveries: &self.deliveries,
            reload_failures: 0,
            certificate_not_after_s: None,
        };
        summary.snapshot(now, &PeerView::default(), &around)
    }
}

/// The values of a metric by the value of its last attribute that varies.
fn counters(snapshot: &Snapshot, name: &str, by: Attribute) -> BTreeMap<String, u64> {
    let series = snapshot.series.iter().filter(|series| series.metric.name == name);
    series
        .map(|series| match series.value {
            Value::Counter(count) => (series.attributes.get(by).unwrap().to_owned(), count),
            ref other => panic!("{name} is {other:?}"),
        })
        .collect()
}

/// What the agent counts of itself leaves as series of the catalogue, each with all of its attributes and none twice.
#[test]
fn own_series() {
    let mut summary = summary();
    let view = PeerView::default();
    for observation in [
        Observation::Lateness(late(&[100_000])),
        Observation::Lateness(late(&[2_000_000])),
        Observation::MeshDropped("too-short", 1),
        Observation::MeshDropped("too-short", 1),
        Observation::MeshDropped("bad-hmac", 1),
        Observation::StampRefused("moved", 1),
        Observation::ClockContradiction("tokyo".parse().unwrap()),
    ] {
        summary.record(observation, &view);
    }
    let lost = BTreeMap::from([(LossReason::SpoolFull, 5), (LossReason::Refused, 6)]);
    let level = Level { bytes: 1000, batches: 2, lost, dead_letters: 6, dead_letters_dropped: 1, ..Level::default() };
    let snapshot = Outside::new(level, Delivery::default()).snapshot(&mut summary, NOW);

    let count = |name, by| counters(&snapshot, name, by);
    let expect = |pairs: &[(&str, u64)]| pairs.iter().map(|(key, n)| ((*key).to_owned(), *n)).collect::<BTreeMap<_, _>>();
    assert_eq!(count("lagmesh.mesh.dropped", Attribute::Reason), expect(&[("too-short", 2), ("bad-hmac", 1)]));
    assert_eq!(count("lagmesh.mesh.stamps_refused", Attribute::Reason), expect(&[("moved", 1)]));
    assert_eq!(count("lagmesh.clock.contradictions", Attribute::Region), expect(&[("dublin", 1)]));
    assert_eq!(count("lagmesh.clock.epochs", Attribute::Region), expect(&[("dublin", 2)]));
    assert_eq!(count("lagmesh.agent.dropped", Attribute::Reason), expect(&[("observations", 3), ("batches", 4)]));
    // Nothing lost is counted, too: a series that first appears with its first loss cannot be watched.
    let nothing = LossReason::ALL.iter().map(|reason| (reason.to_string(), 0));
    let lost: BTreeMap<_, _> = nothing.chain(expect(&[("spool-full", 5), ("refused", 6)])).collect();
    assert_eq!(count("lagmesh.spool.lost", Attribute::Reason), lost);
    assert_eq!(count("lagmesh.spool.dead_letters_dropped", Attribute::Agent), expect(&[("dublin", 1)]));
    let lateness = snapshot.series.iter().find(|series| series.metric.name == "lagmesh.schedule.lateness").unwrap();
    let Value::Histogram(histogram) = &lateness.value else { panic!("{lateness:?}") };
    assert_eq!((histogram.count(), histogram.max_s()), (2, Some(0.002)));

    let mut seen = std::collections::BTreeSet::new();
    for series in &snapshot.series {
        assert!(series.attributes.fit(series.metric), "{series:?}");
        assert!(seen.insert((series.metric.name, series.attributes.clone())), "{series:?} twice");
    }
}

/// Batches are numbered from 1 within a run and are cumulative: a later one holds everything that an earlier one held.
#[test]
fn batches() {
    let mut summary = summary();
    let outside = Outside::new(Level::default(), Delivery::default());
    let first = outside.snapshot(&mut summary, NOW);
    let first = summary.batch(first.clone());
    summary.record(Observation::MeshDropped("too-short", 1), &PeerView::default());
    let later = NOW.after(Duration::from_secs(10));
    let second = outside.snapshot(&mut summary, later);
    let second = summary.batch(second.clone());
    assert_eq!((first.sequence, second.sequence), (1, 2));
    assert_eq!((first.start, second.start, second.time), (NOW.wall, NOW.wall, later.wall));
    assert!(second.series.len() > first.series.len());
}

/// A collector that has never acknowledged anything has no age of it, rather than an age of zero.
#[test]
fn exports_tell_unknown_from_zero() {
    let mut summary = summary();
    let level = Level { bytes: 1000, batches: 2, ..Level::default() };
    let silent = Delivery { acknowledged: None, error: Some("cannot be reached".to_owned()) };
    let export = Outside::new(level.clone(), silent).snapshot(&mut summary, NOW).status.exports.remove(0);
    assert_eq!((export.pending_batches, export.pending_bytes), (2, 1000));
    assert!(!export.acknowledged_age_s.is_known());
    assert_eq!(export.error.as_deref(), Some("cannot be reached"));

    let heard = Delivery { acknowledged: Some(NOW), error: None };
    let later = NOW.after(Duration::from_secs(4));
    let outside = Outside::new(level, heard);
    let export = outside.snapshot(&mut summary, later).status.exports.remove(0);
    assert_eq!((export.acknowledged_age_s, export.error), (Known::known(4.0), None));
    let export = outside.snapshot(&mut summary, Reading { epoch: Epoch(2), ..later }).status.exports.remove(0);
    assert!(!export.acknowledged_age_s.is_known());
}

/// Ready is who has the fate of a probe to every peer and of a contact with every node, good or bad; "not tried yet" is none.
#[test]
fn awaited() {
    let readiness = Readiness::new();
    let mut awaited = Awaited::new(&fleet(), &"dublin".parse().unwrap(), &readiness);
    assert_eq!(readiness.waiting_for(), ["the first probe to tokyo", "the first contact with node db-dublin"]);
    let node = |state| {
        let news = NodeNews::State { state, why: String::new() };
        Observation::Node(NodeEvent { cluster: "orders".parse().unwrap(), node: "db-dublin".parse().unwrap(), at: NOW, news })
    };
    awaited.saw(&node(NodeState::Unknown));
    assert_eq!(readiness.waiting_for().len(), 2);
    awaited.saw(&node(NodeState::Unreachable));
    assert_eq!(readiness.waiting_for(), ["the first probe to tokyo"]);
    awaited.saw(&Observation::Probe(Probe {
        peer: "tokyo".parse().unwrap(),
        agent: None,
        kind: ProbeKind::Tcp,
        outcome: Outcome::Refused,
        rtt_ns: None,
        phases: Vec::new(),
        stamps: None,
        path: None,
        at: NOW,
    }));
    assert!(readiness.is_ready());
}

/// Whatever becomes of the wall clock, no batch begins after it ends, and its beginning moves only when it must.
#[test]
fn a_batch_never_begins_after_it_ends() {
    let mut summary = summary();
    let outside = Outside::new(Level::default(), Delivery::default());
    let hour = 3_600_000_000_000;
    let made = |uptime_ns: u64, wall: u64| Reading { raw: RawNanos(NOW.raw.0 + uptime_ns), wall: WallNanos(wall), ..NOW };
    let other_epoch = Reading { epoch: Epoch(2), ..made(3 * hour, NOW.wall.0 - 5 * hour) };
    let table = [
        (made(hour, NOW.wall.0 + hour), NOW.wall.0),
        (made(2 * hour, NOW.wall.0 + 9 * hour), NOW.wall.0),
        (made(2 * hour, NOW.wall.0 - hour), NOW.wall.0 - 3 * hour),
        (made(2 * hour, NOW.wall.0 + 2 * hour), NOW.wall.0 - 3 * hour),
        (other_epoch, NOW.wall.0 - 5 * hour),
        (made(2 * hour, 5), 5),
    ];
    for (now, start) in table {
        let snapshot = outside.snapshot(&mut summary, now);
        let batch = summary.batch(snapshot);
        assert_eq!((batch.start.0, batch.time), (start, now.wall));
        assert!(batch.start <= batch.time);
    }
}

/// Of peers that another fleet file does not know nobody waits for a probe any more, and traffic is that of the peers that are there.
#[test]
fn another_fleet_file() {
    let readiness = Readiness::new();
    let (mut awaited, mut summary) = (Awaited::new(&fleet(), &"dublin".parse().unwrap(), &readiness), summary());
    let osaka = "[[region]]\nname = \"osaka\"\n[[region.agent]]\nmesh = \"127.0.0.1:8640\"\n[[cluster]]";
    let both = Fleet::parse("fleet.toml", &FLEET.replace("[[cluster]]", osaka)).unwrap();
    let other = Fleet::parse("fleet.toml", &FLEET.replace("\"tokyo\"", "\"osaka\"")).unwrap();
    let before = summary.traffic;
    summary.reload(&both);
    assert!(before > 0.0 && summary.traffic > 1.5 * before);
    awaited.reload(&both, &"dublin".parse().unwrap());
    assert_eq!(readiness.waiting_for(), ["the first probe to tokyo", "the first contact with node db-dublin"]);
    awaited.reload(&other, &"dublin".parse().unwrap());
    assert_eq!(readiness.waiting_for(), ["the first contact with node db-dublin"]);
    summary.reload(&other);
    assert!((summary.traffic - before).abs() < 1e-9);
}
