use std::time::Duration;

use lagmesh_model::state::Outcome;
use lagmesh_model::time::{Epoch, RawNanos, WallNanos};

use super::*;
use crate::measurement::{Observation, Outbox};
use crate::mesh::peer::PACKET_MAX;
use crate::mesh::testing::{announcement, announcement_record, fleet};
use crate::mesh::tlv::AgentHash;

const OSAKA: &str =
    "[[region]]\nname = \"osaka\"\n[[region.agent]]\nname = \"osaka-a\"\nmesh = \"127.0.0.1:18622\"\n\n[[cluster]]";
const TOKYO: usize = 0;

fn at(ms: u64) -> Reading {
    Reading { epoch: Epoch(1), raw: RawNanos(1_000_000_000_000 + ms * 1_000_000), wall: WallNanos(0) }
}

fn file(replace: &[(&str, &str)]) -> Arc<Fleet> {
    Arc::new(fleet(replace))
}

fn with_osaka() -> Arc<Fleet> {
    file(&[("[[cluster]]", OSAKA)])
}

/// The file with Osaka in Tokyo's place.
fn without_tokyo() -> Arc<Fleet> {
    file(&[("\"tokyo\"", "\"osaka\""), ("tokyo-", "osaka-")])
}

fn oslo(fleet: &Arc<Fleet>) -> Engine {
    Engine::new(fleet, &"oslo".parse().unwrap(), &"oslo-a".parse().unwrap(), None, at(0))
}

fn send(engine: &mut Engine, peer: usize, now: Reading) -> u32 {
    engine.request(peer, 0, now, &mut [0; PACKET_MAX]);
    engine.sent(peer, 0, now)
}

/// Runs the schedule from one moment to another; returns how many probes left.
fn run(engine: &mut Engine, from_ms: u64, to_ms: u64) -> usize {
    (from_ms..to_ms).step_by(20).map(|ms| engine.due(at(ms).raw, true, at(ms)).len()).sum()
}

/// Whoever stays keeps number, place, schedule and sequence; whoever comes gets a number that nobody had before, also who was there once.
#[test]
fn who_stays_goes_on() {
    let mut engine = oslo(&file(&[]));
    engine.found(TOKYO, "127.0.0.1:18621".parse().unwrap());
    assert_eq!((send(&mut engine, TOKYO, at(1)), send(&mut engine, TOKYO, at(2))), (0, 1));
    let due = engine.peers()[&TOKYO].next_probe();
    assert!(engine.observations().any(|said| matches!(said, Observation::Moved(..))));
    let steps = [
        (with_osaka(), vec![1], vec![], 2),
        (with_osaka(), vec![], vec![], 3),
        (file(&[]), vec![], vec![1], 4),
        (with_osaka(), vec![2], vec![], 5),
        (file(&[("127.0.0.1:18621", "127.0.0.1:9")]), vec![], vec![2], 6),
    ];
    for (fleet, added, removed, sequence) in steps {
        assert_eq!(engine.reload(&fleet, at(3)), Reloaded { added, removed });
        assert_eq!(send(&mut engine, TOKYO, at(3)), sequence);
        assert_eq!(engine.peers()[&TOKYO].next_probe(), due);
        assert!(engine.directory.is_at(AgentHash::of(&"tokyo-a".parse().unwrap()), "127.0.0.1:7".parse().unwrap()));
        assert!(!engine.observations().any(|said| matches!(said, Observation::Moved(..))));
    }
    assert_eq!(engine.address(TOKYO).map(|address| address.port), Some(9));
    assert_eq!((engine.address(1), engine.flows(2), engine.is_alive(1)), (None, None, false));
}

/// Whoever still holds the number of a peer that is gone does nothing by it, and to no other peer.
#[test]
fn who_is_gone_is_nobody() {
    let mut engine = oslo(&file(&[]));
    engine.reload(&without_tokyo(), at(1));
    assert_eq!(engine.peers().keys().copied().collect::<Vec<_>>(), [1]);
    engine.found(TOKYO, "127.0.0.1:1".parse().unwrap());
    engine.not_sent(TOKYO, 0, Outcome::SendError, at(2));
    engine.on_error(TOKYO, 0, Outcome::Refused, None, at(2));
    engine.on_expired(TOKYO, 0, [10, 0, 0, 1].into(), at(2));
    send(&mut engine, TOKYO, at(2));
    assert_eq!(engine.observations().count(), 0);
    assert_eq!(send(&mut engine, 1, at(3)), 0);
}

/// The plan of what may leave follows the number of flows: nobody's probes are held back, and not more is allowed than before.
#[test]
fn the_budget_follows() {
    let mut engine = oslo(&file(&[]));
    // A round may put the very first probe of a flow off beyond the first interval.
    let sent = run(&mut engine, 0, 4_000);
    assert!((3 * 16..=4 * 16).contains(&sent), "{sent}");
    engine.reload(&with_osaka(), at(4_000));
    let sent = run(&mut engine, 4_000, 7_000);
    assert!((3 * 32 - 16..=3 * 32 + 16).contains(&sent), "{sent}");
    engine.reload(&file(&[]), at(7_000));
    assert_eq!(run(&mut engine, 7_000, 10_000), 3 * 16);
    let held_back = |said| matches!(said, Observation::Probe(probe) if probe.outcome == Outcome::HeldBack);
    assert!(!engine.observations().any(held_back));
    let now = at(10_000).after(Duration::from_secs(100));
    assert_eq!((0..1_000).filter(|_| engine.budget.take(now.raw)).count(), 2 * 16);
}

/// What was heard from who stays is kept, what was heard from who is gone is forgotten, and who is new is told all that there is.
#[test]
fn what_was_heard_and_what_is_told() {
    let both = || {
        let node = "[[cluster.node]]\nname = \"osaka-1\"\nregion = \"osaka\"\ndsn = \"host=10.9.2.1 user=lagmesh dbname=shop\"\n";
        let osaka = OSAKA.replace("[[cluster]]", "");
        let (cluster, last) = (format!("{osaka}[[cluster]]\n"), "dsn = \"host=10.9.1.1 user=lagmesh dbname=shop\"\n");
        file(&[("[[cluster]]\n", &cluster), (last, &format!("{last}{node}"))])
    };
    let mut engine = oslo(&both());
    for region in ["tokyo", "osaka"] {
        let (region, agent) = (region.parse().unwrap(), format!("{region}-a").parse().unwrap());
        let record = announcement_record(&format!("{region}-1"), 5);
        engine.heard |= engine.hearing.hear(&region, &agent, at(1).raw, vec![record]);
    }
    assert_eq!(engine.view(at(2).raw).map(|view| (view.heard.len(), view.announcements.len())), Some((2, 2)));
    engine.reload(&file(&[]), at(3));
    let view = engine.view(at(3).raw).expect("another view");
    let names =
        (view.heard.keys().map(ToString::to_string).collect(), view.announcements.keys().map(ToString::to_string).collect());
    assert_eq!(names, (vec!["tokyo-a".to_owned()], vec!["tokyo-1".to_owned()]));
    assert!(engine.directory.get(AgentHash::of(&"osaka-a".parse().unwrap())).is_none());

    let mut outbox = Outbox::default();
    outbox.announcements.insert("oslo-1".parse().unwrap(), announcement("oslo-1", 7));
    engine.reload(&both(), at(4));
    engine.update(&outbox);
    for region in ["tokyo", "osaka"] {
        let bulletin = engine.bulletins.get_mut(&region.parse().unwrap()).expect("every peer region has one");
        assert_eq!(bulletin.next(2, at(5), None).len(), 1);
    }
}

/// As long as a peer has no sockets its probes say why: its name is not resolved, or our own host has no sockets to give. What was out
/// when the old ones were closed accuses nobody.
#[test]
fn without_sockets() {
    let mut engine = oslo(&file(&[]));
    let fates = |engine: &mut Engine| {
        let fate = |said| if let Observation::Probe(probe) = said { Some(probe.outcome) } else { None };
        engine.observations().filter_map(fate).collect::<Vec<_>>()
    };
    engine.no_socket(TOKYO, 0, at(1));
    engine.not_found(TOKYO, Outcome::SendError);
    engine.no_socket(TOKYO, 0, at(2));
    engine.no_socket(7, 0, at(2));
    assert_eq!(fates(&mut engine), [Outcome::Unresolved, Outcome::SendError]);
    engine.found(TOKYO, "127.0.0.1:18621".parse().unwrap());
    send(&mut engine, TOKYO, at(3));
    engine.lost_sight(TOKYO);
    run(&mut engine, 4, 12_000);
    assert!(!fates(&mut engine).contains(&Outcome::Lost));
    assert!(!engine.directory.is_at(AgentHash::of(&"tokyo-a".parse().unwrap()), "127.0.0.1:7".parse().unwrap()));
}
