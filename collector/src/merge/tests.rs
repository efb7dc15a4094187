use std::time::Duration;

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::series::Attributes;
use lagmesh_model::state::{LinkState, NodeState};
use lagmesh_model::time::{Epoch, RawNanos, WallNanos};
use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> Reading {
    Reading { epoch: Epoch(1), raw: RawNanos(seconds * 1_000_000_000), wall: WallNanos((1_000_000 + seconds) * 1_000_000_000) }
}

fn exporter(agent: &str, boot: u64) -> Exporter {
    Exporter {
        fleet: "demo".to_owned(),
        region: "new-york".parse().unwrap(),
        agent: agent.parse().unwrap(),
        boot: BootId(boot),
        version: "0".to_owned(),
    }
}

fn link() -> Attributes {
    Attributes::new().with(Attribute::Region, "new-york").with(Attribute::Peer, "tokyo")
}

fn probes(outcome: &str) -> Attributes {
    link().with(Attribute::Kind, "stamp").with(Attribute::Outcome, outcome)
}

fn rtt() -> Attributes {
    link().with(Attribute::Kind, "stamp")
}

/// Batch `sequence` of a boot that does ten probes of `sequence` milliseconds per interval.
fn batch(agent: &str, boot: u64, sequence: u64) -> Batch {
    let mut distribution = Exponential::new();
    for n in 1..=sequence {
        for _ in 0..10 {
            distribution.record_ns(n * 1_000_000);
        }
    }
    let mut series = vec![
        Series::counter(&catalogue::LINK_PROBES, probes("in-time"), sequence * 10),
        Series::histogram(&catalogue::LINK_RTT, rtt(), distribution),
    ];
    lagmesh_model::series::push_states(&mut series, &catalogue::LINK_STATE, &link(), LinkState::ALL, LinkState::Ok);
    Batch { exporter: exporter(agent, boot), sequence, start: WallNanos(boot * 1_000_000_000), time: WallNanos(sequence), series }
}

fn view(batches: impl IntoIterator<Item = (u64, Batch)>) -> View {
    let mut view = View::new(INTERVAL);
    for (second, batch) in batches {
        view.accept(batch, at(second));
    }
    view
}

fn count(view: &View) -> u64 {
    match view.totals(at(0)).get(&Key { metric: &catalogue::LINK_PROBES, attributes: probes("in-time") }) {
        Some(Value::Counter(count)) => *count,
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// Whatever the order of arrival and however often a batch is repeated, totals are those of one delivery in order.
    #[test]
    fn order_and_repetition_change_no_total(
        order in Just((0..24_usize).collect::<Vec<_>>()).prop_shuffle(),
        repeated in proptest::collection::vec(0..24_usize, 0..24),
    ) {
        let all: Vec<Batch> = ["a", "b"].iter().flat_map(|agent| {
            [1, 2].into_iter().flat_map(move |boot| (1..=6).map(move |sequence| batch(agent, boot, sequence)))
        }).collect();
        let straight = view(all.iter().cloned().map(|batch| (0, batch)));
        let mixed = view(order.iter().chain(&repeated).map(|index| (0, all[*index].clone())));
        prop_assert_eq!(straight.totals(at(0)), mixed.totals(at(0)));
        prop_assert_eq!(count(&mixed), 4 * 60);
        let key = Key { metric: &catalogue::LINK_RTT, attributes: rtt() };
        for (agent, held) in &straight.agents {
            for (boot, held) in &held.boots {
                prop_assert_eq!(held.growth(&key), mixed.agents[agent].boots[boot].growth(&key));
            }
        }
    }

    /// Retiring any boot changes no total.
    #[test]
    fn retiring_changes_no_total(retired in proptest::collection::vec(1_u64..5, 0..4)) {
        let mut all = view((1..5).map(|boot| (boot, batch("a", boot, boot * 3))));
        let before = all.totals(at(0));
        let mut folded: Option<Batch> = None;
        for boot in &retired {
            all.retire(&"a".parse().unwrap(), BootId(*boot));
        }
        prop_assert_eq!(&all.totals(at(0)), &before);

        let once: std::collections::BTreeSet<u64> = retired.into_iter().collect();
        let mut restored = View::new(INTERVAL);
        for boot in 1..5 {
            if once.contains(&boot) {
                folded = Some(fold(folded.take().as_ref(), &batch("a", boot, boot * 3)));
            } else {
                restored.accept(batch("a", boot, boot * 3), at(boot));
            }
        }
        if let Some(folded) = folded {
            restored.accept_retired(folded);
        }
        prop_assert_eq!(restored.totals(at(0)), before);
    }
}

/// The last minute is an exact difference: of a boot younger than that it is everything, of an older one the newest six intervals.
#[test]
fn recent_is_the_last_minute() {
    let name = "new-york".parse().unwrap();
    let recent = |view: &View, now| {
        let witness = view.witnesses(&name, now).into_iter().next().unwrap();
        (
            witness.recent_count(&catalogue::LINK_PROBES, &probes("in-time")),
            witness.recent_distribution(&catalogue::LINK_RTT, &rtt()).map(|grown| grown.count()),
        )
    };
    let young = view([(0, batch("a", 1, 3))]);
    assert_eq!(recent(&young, at(0)), (Some(30), Some(30)));
    let old = view((5..=20).map(|sequence| (sequence * 10, batch("a", 1, sequence))));
    assert_eq!(recent(&old, at(200)), (Some(60), Some(60)));
    let lossy = view([5, 9, 14, 17, 18, 20].map(|sequence| (sequence * 10, batch("a", 1, sequence))));
    assert_eq!(recent(&lossy, at(200)), (Some(60), Some(60)));
    let gap = view([5, 9, 17, 18, 20].map(|sequence| (sequence * 10, batch("a", 1, sequence))));
    assert_eq!(recent(&gap, at(200)), (Some(30), Some(30)), "from 17 to 20: what lies before is out of the window");
    // The first contact with an agent that runs for long tells totals, but nothing about the last minute.
    assert_eq!(recent(&view([(0, batch("a", 1, 50))]), at(0)), (None, None));
}

/// Silence beyond three intervals makes evidence stale and current values absent; totals stay.
#[test]
fn silence_makes_stale() {
    let view = view([(100, batch("a", 1, 1))]);
    let name = "new-york".parse().unwrap();
    assert!(matches!(view.age(&name, at(130)), Known::Known { value } if (value - 30.0).abs() < 1e-9));
    assert_eq!(view.gauges(at(130)).len(), LinkState::ALL.len());
    assert!(matches!(view.age(&name, at(131)), Known::Stale { age_s, .. } if (age_s - 31.0).abs() < 1e-9));
    assert_eq!(view.gauges(at(131)), []);
    assert!(!view.sees_anything(at(131)) && view.sees_anything(at(130)));
    assert_eq!(count(&view), 10);
    assert!(matches!(view.age(&"tokyo".parse().unwrap(), at(100)), Known::Unknown { .. }));
}

/// What was restored after a restart belongs to another epoch of the clock: it is never fresh, its age is a label, and a wall clock
/// that was set back leaves not even that.
#[test]
fn another_epoch_is_never_fresh() {
    let view = view([(100, batch("a", 1, 1))]);
    let restarted = |wall: u64| Reading { epoch: Epoch(2), raw: RawNanos(5), wall: WallNanos(wall * 1_000_000_000) };
    let age = |wall| view.witnesses(&"new-york".parse().unwrap(), restarted(wall))[0].age;
    assert_eq!(age(1_000_107), Age { fresh: false, seconds: Some(7.0) });
    assert_eq!(age(999_999), Age { fresh: false, seconds: None });
    assert!(!view.sees_anything(restarted(1_000_101)));
}

/// While a dead boot's backlog is delivered the boot that started later speaks; once only one delivers, that one does.
#[test]
fn the_newest_boot_speaks() {
    let speaks = |view: &View, now| view.witnesses(&"new-york".parse().unwrap(), now)[0].boot.exporter.boot;
    let backlog = view([(100, batch("a", 2, 1)), (105, batch("a", 1, 40))]);
    assert_eq!(speaks(&backlog, at(106)), BootId(2));
    let clock_set_back = view([(100, batch("a", 9, 1)), (150, batch("a", 3, 1))]);
    assert_eq!(speaks(&clock_set_back, at(151)), BootId(3));
    // A clock that was far ahead and is set right: the label of the boot follows, and the next boot speaks at once.
    let mut set_right = batch("a", 9, 2);
    set_right.start = WallNanos(5);
    let healed = view([(100, batch("a", 9, 1)), (110, set_right), (115, batch("a", 3, 1))]);
    assert_eq!(speaks(&healed, at(116)), BootId(3));
}

/// An agent that stands by on a node leaves the word to the agent that watches it, whoever reported last.
#[test]
fn the_watching_agent_speaks_for_a_node() {
    let node = Attributes::new().with(Attribute::Cluster, "app").with(Attribute::Region, "new-york").with(Attribute::Node, "db");
    let report = |agent: &str, state| {
        let mut report = batch(agent, 1, 1);
        lagmesh_model::series::push_states(&mut report.series, &catalogue::NODE_STATE, &node, NodeState::ALL, state);
        report
    };
    let view = view([(10, report("a", NodeState::Hanging)), (12, report("b", NodeState::StandingBy))]);
    let states: Vec<Series> = view
        .gauges(at(13))
        .into_iter()
        .filter(|series| series.metric.name == catalogue::NODE_STATE.name && series.value == Value::Gauge(1.0))
        .collect();
    assert_eq!(states.len(), 1);
    assert_eq!(states[0].attributes.get(Attribute::State), Some("hanging"));
}

/// What an agent invents is gone with its next batches: memory follows what it says now, not what it has ever said.
#[test]
fn inventions_do_not_pile_up() {
    let invented = |sequence: u64| {
        let mut batch = batch("a", 1, sequence);
        let outcome = format!("invention-{sequence}");
        batch.series.push(Series::counter(&catalogue::LINK_PROBES, probes(&outcome), 1));
        batch
    };
    let view = view((1..200).map(|sequence| (sequence * 10, invented(sequence))));
    let (_, boot) = view.agents.values().next().unwrap().boots.first_key_value().unwrap();
    assert_eq!(boot.totals().count(), 3);
    assert!(boot.recent_keys(&catalogue::LINK_PROBES).count() <= 1 + 7, "one per batch of the window");
    assert_eq!(count(&view), 1990);
}

/// A series that the newest batch lacks is not counted, whatever came before or comes late: the store keeps only that batch, and a
/// restart must change no total.
#[test]
fn totals_are_those_of_the_newest_batch() {
    let mut newest = batch("a", 1, 6);
    newest.series.retain(|series| series.metric.name != catalogue::LINK_RTT.name);
    let straight = view([(0, batch("a", 1, 5)), (10, newest.clone())]);
    let late = view([(0, newest.clone()), (10, batch("a", 1, 5))]);
    let restored = view([(0, newest)]);
    assert_eq!(straight.totals(at(0)), restored.totals(at(0)));
    assert_eq!(late.totals(at(0)), restored.totals(at(0)));
}

/// A batch of an agent that has seen so many commits of a server, and sent as many statements to it.
fn watching(agent: &str, boot: u64, sequence: u64, count: u64) -> Batch {
    let node = Attributes::new().with(Attribute::Cluster, "app").with(Attribute::Region, "new-york").with(Attribute::Node, "db");
    let counters = [&catalogue::NODE_COMMITS, &catalogue::NODE_QUERIES];
    let series = counters.map(|metric| Series::counter(metric, node.clone(), count)).to_vec();
    Batch { series, ..batch(agent, boot, sequence) }
}

/// Commits of the server, and statements of lagmesh.
fn watched(view: &View, now: Reading) -> (u64, u64) {
    let of = |metric: &catalogue::Metric| {
        let totals = view.totals(now);
        let mut counts = totals.iter().filter(|(key, _)| key.metric.name == metric.name);
        match (counts.next(), counts.next()) {
            (Some((_, Value::Counter(count))), None) => *count,
            other => panic!("{other:?}"),
        }
    };
    (of(&catalogue::NODE_COMMITS), of(&catalogue::NODE_QUERIES))
}

/// Two agents of one region watch one server: what it does is told once, by who has counted most over all its boots; what they do themselves
/// adds up.
#[test]
fn what_a_server_does_is_told_once() {
    let mut view = view([(0, watching("a", 1, 1, 700)), (0, watching("b", 1, 1, 690)), (9, watching("a", 2, 1, 50))]);
    assert_eq!(watched(&view, at(10)), (750, 1_440));
    view.retire(&"a".parse().unwrap(), BootId(1));
    assert_eq!(watched(&view, at(10)), (750, 1_440));
    view.accept(watching("a", 3, 1, 30), at(20));
    view.retire(&"a".parse().unwrap(), BootId(2));
    assert_eq!(watched(&view, at(20)), (780, 1_470));
}

/// When the agent that speaks falls silent its count stands until the other has passed it. One that began much later has the say in the end:
/// the server does not stand still for ever because somebody is gone.
#[test]
fn another_witness_takes_over() {
    let mut view = view([(0, watching("a", 1, 1, 700)), (0, watching("b", 1, 1, 690))]);
    let told: Vec<u64> = (1..=4)
        .map(|n| {
            view.accept(watching("b", 1, 1 + n, 690 + n * 5), at(n * 10));
            watched(&view, at(n * 10)).0
        })
        .collect();
    assert_eq!(told, [700, 700, 705, 710]);

    let hour = SPEAKS_FOR.as_secs();
    view.accept(watching("c", 1, 1, 7), at(hour + 30));
    view.accept(watching("b", 1, 6, 711), at(hour + 30));
    assert_eq!(watched(&view, at(hour + 30)).0, 711);
    view.accept(watching("c", 1, 2, 8), at(3 * hour));
    assert_eq!(watched(&view, at(3 * hour)).0, 8);
    assert_eq!(watched(&view, at(9 * hour)).0, 711, "when nobody speaks, what was counted most stands");
}

/// After a restart of the collector nobody has been heard of yet, and nothing that was told changes.
#[test]
fn a_restart_changes_no_witness() {
    let view = view([(0, watching("a", 1, 1, 700)), (0, watching("b", 1, 1, 690))]);
    let restarted = |seconds| Reading { epoch: Epoch(2), raw: RawNanos(5), ..at(seconds) };
    for now in [at(5), restarted(60), Reading { wall: WallNanos(0), ..restarted(60) }] {
        assert_eq!(watched(&view, now).0, 700);
    }
    let mut view = view;
    view.accept(watching("b", 1, 2, 691), restarted(60));
    assert_eq!(watched(&view, restarted(60)).0, 700, "the other has not had the time to be heard of");
}

proptest! {
    /// However agents start anew and whatever they count, as long as one that is silent may still speak, what is told of a server never falls, and
    /// is never more than one agent has counted.
    #[test]
    fn counts_of_a_server_never_fall(steps in proptest::collection::vec((0..3_usize, any::<bool>(), 0_u64..50), 1..60)) {
        let (mut view, mut boots, mut sums, mut before) = (View::new(INTERVAL), [(1, 0, 0); 3], [0; 3], 0);
        for (step, (who, restarts, grown)) in steps.into_iter().enumerate() {
            let (boot, sequence, count) = boots[who];
            boots[who] = if restarts { (boot + 1, 1, grown) } else { (boot, sequence + 1, count + grown) };
            sums[who] += grown;
            let ((boot, sequence, count), now) = (boots[who], at(step as u64 * 10));
            view.accept(watching(["a", "b", "c"][who], boot, sequence, count), now);
            let (told, _) = watched(&view, now);
            prop_assert!(told >= before);
            prop_assert_eq!(Some(&told), sums.iter().max());
            before = told;
        }
    }
}
