use lagmesh_model::series::Value;
use lagmesh_model::state::{Outcome, ProbeKind};
use lagmesh_model::time::{Epoch, Reading, WallNanos};

use super::*;
use crate::measurement::PathSample;

const INTERVAL: Duration = Duration::from_secs(1);

fn at(ms: u64) -> RawNanos {
    RawNanos((1_000_000 + ms) * 1_000_000)
}

fn path() -> Path {
    let mut path = Path::new(INTERVAL);
    path.reload(["tokyo-a".parse().unwrap()].iter(), 2);
    path
}

fn oneway(forward_us: [i64; 3], backward_us: [i64; 3]) -> Directed<Interval> {
    let interval = |[lower, estimate, upper]: [i64; 3]| Interval::new(lower * 1_000, estimate * 1_000, upper * 1_000).unwrap();
    Directed { forward: interval(forward_us), backward: interval(backward_us) }
}

fn probe(flow: u16, ms: u64, rtt_us: u64, oneway: Option<Directed<Interval>>) -> Probe {
    let hops = Directed { forward: Some(5 + u8::try_from(flow).unwrap()), backward: Some(15) };
    Probe {
        peer: "tokyo".parse().unwrap(),
        agent: Some("tokyo-a".parse().unwrap()),
        kind: ProbeKind::Stamp,
        outcome: Outcome::InTime,
        rtt_ns: Some(rtt_us * 1_000),
        phases: Vec::new(),
        stamps: None,
        path: Some(PathSample { flow, oneway, hops }),
        at: Reading { epoch: Epoch(1), raw: at(ms), wall: WallNanos(0) },
    }
}

fn value(path: &Path, ms: u64, name: &str, word: Option<(Attribute, &str)>) -> Option<Value> {
    let mut out = Vec::new();
    path.series(at(ms), true, &Attributes::new(), &mut out);
    let carries = |series: &Series| word.is_none_or(|(attribute, word)| series.attributes.get(attribute) == Some(word));
    out.into_iter().find(|series| series.metric.name == name && carries(series)).map(|series| series.value)
}

/// The shortest one-way delay of the last minute is bounded by what any exchange proves; a guess below zero counts as zero.
#[test]
fn one_way() {
    let mut path = path();
    path.record(&probe(0, 0, 100_000, Some(oneway([10_000, 40_000, 90_000], [5_000, 60_000, 95_000]))), true);
    path.record(&probe(1, 500, 100_000, Some(oneway([20_000, 30_000, 80_000], [20_000, 70_000, 80_000]))), true);
    let Directed { forward, backward } = path.status(at(1_000), true).oneway;
    assert_eq!(forward.current().copied(), Some(Seconds { lower_s: 0.01, estimate_s: 0.03, upper_s: 0.08 }));
    assert_eq!(backward.current().copied(), Some(Seconds { lower_s: 0.005, estimate_s: 0.06, upper_s: 0.08 }));
    let direction = |word| Some((Attribute::Direction, word));
    let Some(Value::Gauge(error_s)) = value(&path, 1_000, "lagmesh.link.oneway_error", direction("backward")) else { panic!() };
    assert!((error_s - 0.055).abs() < 1e-9, "{error_s}");
    path.record(&probe(0, 900, 5, Some(oneway([-2, -1, 3], [1, 6, 7]))), true);
    let Some(Value::Histogram(all)) = value(&path, 1_000, "lagmesh.link.oneway", direction("forward")) else { panic!() };
    assert_eq!((all.count(), all.zero_count()), (3, 1));
    assert!(path.status(at(1_000), true).oneway.forward.current().is_some_and(|delay| delay.estimate_s < 0.0), "not clamped");
}

/// Delays are held against the least of their own flow: two paths of different length are no variation.
#[test]
fn variation_by_flow() {
    let mut path = path();
    for second in 0..30 {
        path.record(&probe(0, second * 1_000, 80_000, None), true);
        path.record(&probe(1, second * 1_000 + 500, 95_000 + second % 3 * 100, None), true);
    }
    let status = path.status(at(30_000), true);
    let variation = status.delay_variation.current().copied().unwrap();
    assert_eq!((variation.samples, variation.min_s), (58, 0.0), "the first of each flow varies from nothing");
    assert!((variation.max_s - 0.000_2).abs() < 1e-5, "{variation:?}");
    assert_eq!((status.hops.forward.current(), status.hops.backward.current()), (Some(&6), Some(&15)));
    assert!(!status.oneway.forward.is_known());
}

/// Losses are counted for good and shown for a minute; changes are counted by cause and shown with their age.
#[test]
fn losses_and_changes() {
    let mut path = path();
    let lossy = Losses { forward: 3, backward: 1, unknown: 2 };
    path.record_losses(lossy, Some(at(0)));
    path.record_losses(Losses { forward: 1, ..Losses::default() }, None);
    assert_eq!(path.status(at(1_000), true).lost.current(), Some(&lossy));
    assert_eq!(path.status(at(70_000), true).lost.current(), Some(&Losses::default()));
    let lost = |word| value(&path, 70_000, "lagmesh.link.loss", Some((Attribute::Direction, word)));
    assert_eq!(["forward", "backward", "unknown"].map(lost), [4, 1, 2].map(|count| Some(Value::Counter(count))));
    path.record(&probe(1, 119_000, 90_000, None), true);
    let flow = FlowId { peer: "tokyo".parse().unwrap(), agent: "tokyo-a".parse().unwrap(), index: 1 };
    path.record_change(&PathChanged { flow, what: Changed::Delay { before_s: 0.08, after_s: 0.09 }, at: at(100_000) });
    let status = path.status(at(120_000), true);
    assert_eq!(status.changes.current(), Some(&1));
    let newest = status.newest_change.unwrap();
    assert_eq!((newest.flow, newest.what), (1, Changed::Delay { before_s: 0.08, after_s: 0.09 }));
    assert!((newest.age_s - 20.0).abs() < 1e-9, "{}", newest.age_s);
    let changes = |path: &Path| value(path, 120_000, "lagmesh.link.path_changes", Some((Attribute::Cause, "delay")));
    assert_eq!(changes(&path), Some(Value::Counter(1)));
    assert_eq!(path.status(at(120_000), true).hops.forward.current(), Some(&6));
    path.moved(&"tokyo-a".parse().unwrap());
    assert!(!path.status(at(120_000), true).hops.forward.is_known(), "its flows take other paths");
    assert_eq!(changes(&path), Some(Value::Counter(1)));
}

/// What is shown grows old like a round-trip time, and nothing of another epoch of our clock is shown; before any probe nothing is known.
#[test]
fn ages() {
    let mut path = path();
    assert_eq!(path.status(at(0), false).lost, Known::unknown("the fate of no probe is settled yet"));
    path.record(&probe(0, 0, 80_000, Some(oneway([1, 2, 3], [1, 2, 3]))), true);
    let oneway = |path: &Path, ms| path.status(at(ms), true).oneway.forward;
    assert!(oneway(&path, 2_000).is_known());
    assert!(matches!(oneway(&path, 10_000), Known::Stale { .. }));
    assert!(matches!(oneway(&path, 61_000), Known::Unknown { .. }));
    path.record(&probe(0, 70_000, 80_000, None), true);
    path.new_epoch();
    assert!(!path.status(at(70_000), true).delay_variation.is_known());
    path.record(&probe(0, 70_000, 80_000, None), false);
    assert!(!path.status(at(70_000), true).delay_variation.is_known(), "a stamp of another epoch says nothing of now");
}
