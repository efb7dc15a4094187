use std::collections::BTreeMap;

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::exposition;
use lagmesh_model::known::Known;
use lagmesh_model::series::{Series, Value};
use lagmesh_model::state::{
    CommitLevel, LinkState, NodeRole, NodeState, ProbeKind, ReplicationState, SlotState, StampSource, WriteOutcome,
};
use lagmesh_model::status::{FleetStatus, Ledger, Link, Replication, Seconds, Slot, Slots};

use super::*;
use crate::fixture::{Says, at, fleet, planned_fleet, region};
use crate::judge::Judge;

const THREE: [&str; 3] = ["a", "b", "c"];

/// Region `name` says that all is well in its batch `sequence`: links of 20 ms, beats of 110 ms, a's node writes.
fn well(name: &str, sequence: u64) -> Says {
    let mut says = Says::new(name, sequence);
    for peer in THREE.into_iter().filter(|peer| *peer != name) {
        says = says.link(peer, LinkState::Ok).rtt(peer, sequence * 160, 20);
    }
    if name == "a" {
        return says.node(NodeState::Ok, Some(NodeRole::Writer)).writes(sequence * 10, 0);
    }
    says.node(NodeState::Ok, Some(NodeRole::Standby)).replication("a", ReplicationState::Ok).lag("a", sequence * 10, 100, 0.6)
}

struct Scene {
    fleet: Fleet,
    view: View,
}

impl Scene {
    fn new() -> Scene {
        let fleet = fleet(&THREE, &THREE);
        let view = View::new(fleet.export.interval);
        Scene { fleet, view }
    }

    fn hear(mut self, says: Says, second: u64) -> Scene {
        self.view.accept(says.batch(), at(second));
        self
    }

    fn status(&self, second: u64) -> FleetStatus {
        let verdicts = Judge::new(&self.fleet, Vec::new()).step(&self.fleet, &self.view, at(second));
        status(&self.fleet, &self.view, verdicts, at(second), "0.1.0")
    }

    fn series(&self, second: u64) -> Vec<Series> {
        series(&self.fleet, &self.view, &self.status(second), at(second))
    }
}

fn link<'a>(status: &'a FleetStatus, from: &str, to: &str) -> &'a Link {
    status.links.iter().find(|link| link.region.as_str() == from && link.peer.as_str() == to).unwrap()
}

fn replication<'a>(status: &'a FleetStatus, node: &str) -> &'a Replication {
    status.replications.iter().find(|row| row.node.as_str() == node).unwrap()
}

fn value(series: &[Series], metric: &catalogue::Metric, wanted: &[(Attribute, &str)]) -> Option<f64> {
    let fits =
        |one: &&Series| one.metric == metric && wanted.iter().all(|(name, value)| one.attributes.get(*name) == Some(value));
    match &series.iter().find(fits)?.value {
        Value::Gauge(value) => Some(*value),
        Value::Counter(value) => Some(*value as f64),
        Value::Whole(value) => Some(*value as f64),
        Value::Histogram(histogram) => Some(histogram.count() as f64),
    }
}

/// Before any agent has reported, everything of the fleet file is there, and all of it unknown with a reason.
#[test]
fn nothing_known_is_everything_unknown() {
    let scene = Scene::new();
    let status = scene.status(0);
    assert_eq!((status.regions.len(), status.links.len(), status.nodes.len(), status.regions_reporting), (3, 6, 3, 0));
    for link in &status.links {
        assert_eq!(link.state, LinkState::Unknown);
        assert!(matches!(&link.rtt(ProbeKind::Stamp), Known::Unknown { why } if why.contains("has ever reported")), "{link:?}");
        assert_eq!(link.flows, 16);
    }
    assert!(status.nodes.iter().all(|node| node.state == NodeState::Unknown && !node.why.is_empty()));
    assert!(status.regions.iter().all(|region| region.verdicts.len() == 2));
    let series = scene.series(0);
    assert_eq!(value(&series, &catalogue::LINK_STATE, &[(Attribute::Region, "a"), (Attribute::State, "unknown")]), Some(1.0));
    assert_eq!(value(&series, &catalogue::LINK_STATE, &[(Attribute::Region, "a"), (Attribute::State, "ok")]), Some(0.0));
    for absent in [&catalogue::LINK_RTT, &catalogue::REGION_EVIDENCE_AGE, &catalogue::CLUSTER_WRITERS, &catalogue::NODE_ROLE] {
        assert_eq!(value(&series, absent, &[]), None, "{absent}");
    }
}

/// A working fleet is known in full: every cell, every lag, the writer.
#[test]
fn a_working_fleet_is_known_in_full() {
    let scene = Scene::new().hear(well("a", 1), 0).hear(well("b", 1), 0).hear(well("c", 1), 0);
    let scene = scene.hear(well("a", 2), 10).hear(well("b", 2), 10).hear(well("c", 2), 10);
    let status = scene.status(12);
    assert_eq!(status.regions_reporting, 3);
    for link in &status.links {
        let Known::Known { value } = link.rtt(ProbeKind::Stamp) else { panic!("{link:?}") };
        assert!((value.p50_s - 0.020).abs() < 0.020 * 0.0114 && value.samples == 320, "{value:?}");
        let stamp = &link.kinds[0];
        assert_eq!((link.state, stamp.settled, stamp.answered), (LinkState::Ok, 320, 320));
        assert_eq!(stamp.stamps, BTreeMap::from([(StampSource::Kernel, 320)]));
    }
    assert_eq!(status.replications.len(), 2);
    for row in &status.replications {
        let (Known::Known { value: lag }, Known::Known { value: staleness }) = (&row.lag, &row.staleness) else {
            panic!("{row:?}")
        };
        assert!(
            lag.lower_s < lag.estimate_s && lag.estimate_s < lag.upper_s && (lag.estimate_s - 0.110).abs() < 0.002,
            "{lag:?}"
        );
        assert!(staleness.lower_s == 0.0 && (staleness.estimate_s - 0.6).abs() < 1e-9, "{staleness:?}");
        assert!((staleness.upper_s - 2.6).abs() < 1e-9, "{staleness:?}");
        assert!(matches!(&row.lag_recent, Known::Known { value } if value.samples == 20));
        assert!(matches!(&row.log.received.backlog_bytes, Known::Unknown { .. }), "not reported, so not zero");
    }
    assert_eq!(status.clusters[0].writers, ["a-db".parse().unwrap()]);
    let series = scene.series(12);
    assert_eq!(value(&series, &catalogue::CLUSTER_WRITERS, &[(Attribute::System, "42")]), Some(1.0));
    assert_eq!(value(&series, &catalogue::FLEET_REGIONS, &[(Attribute::State, "reporting")]), Some(3.0));
    assert_eq!(value(&series, &catalogue::LINK_RTT, &[(Attribute::Region, "b"), (Attribute::Peer, "a")]), Some(320.0));
    for one in &series {
        assert!(one.attributes.fit(one.metric), "{one:?}");
    }
    assert!(exposition::text(&series).ends_with("# EOF\n"));
}

/// An agent dies: its row, its node and its lag become unknown with the reason and the last value as stale; what others say about it
/// stays what they say, and totals stay.
#[test]
fn a_dead_agent_leaves_unknown_not_zero() {
    let scene = Scene::new()
        .hear(well("a", 1), 0)
        .hear(well("b", 1), 0)
        .hear(well("c", 1), 0)
        .hear(well("a", 2), 35)
        .hear(well("b", 2), 35);
    let status = scene.status(40);
    assert_eq!(status.regions_reporting, 2);
    for peer in ["a", "b"] {
        let row = link(&status, "c", peer);
        assert_eq!(row.state, LinkState::Unknown);
        assert_eq!(row.why, "the agent of c has been silent for 40 s");
        assert!(matches!(row.rtt(ProbeKind::Stamp), Known::Stale { age_s, .. } if (age_s - 40.0).abs() < 1e-9), "{row:?}");
        assert_eq!(link(&status, peer, "c").state, LinkState::Ok);
    }
    let lost = replication(&status, "c-db");
    assert_eq!((lost.state, lost.why.as_str()), (ReplicationState::Unknown, "the agent of c has been silent for 40 s"));
    assert!(matches!(lost.lag, Known::Stale { .. }) && matches!(lost.staleness, Known::Stale { .. }), "{lost:?}");
    assert_eq!(replication(&status, "b-db").state, ReplicationState::Ok);
    assert!(matches!(status.nodes[2].role, Known::Stale { value: NodeRole::Standby, .. }));

    let series = scene.series(40);
    let of_c = [(Attribute::Region, "c")];
    assert_eq!(value(&series, &catalogue::REPLICATION_STALENESS, &of_c), None, "a stale gauge has no series");
    assert_eq!(value(&series, &catalogue::REPLICATION_STATE, &[of_c[0], (Attribute::State, "unknown")]), Some(1.0));
    assert_eq!(value(&series, &catalogue::REPLICATION_STATE, &[of_c[0], (Attribute::State, "ok")]), Some(0.0));
    assert_eq!(value(&series, &catalogue::LINK_RTT, &of_c), Some(160.0), "totals stay");
    assert_eq!(value(&series, &catalogue::REGION_EVIDENCE_AGE, &of_c), Some(40.0));
}

/// Staleness holds for the moment of serving, on pages and in `/metrics`: where replication does not move it grows with the time that
/// passes between reports; where it moves only its upper end does, and a newer beat may be visible already.
#[test]
fn staleness_holds_for_the_moment_of_serving() {
    let said =
        |state| Says::new("b", 1).node(NodeState::Ok, Some(NodeRole::Standby)).replication("a", state).lag("a", 10, 100, 7.0);
    for (state, is_stuck) in [
        (ReplicationState::Silent, true),
        (ReplicationState::WriterDown, true),
        (ReplicationState::Ok, false),
        (ReplicationState::Lagging, false),
    ] {
        let scene = Scene::new().hear(said(state), 0);
        for second in [1, 5, 20] {
            let grown = 7.0 + second as f64;
            let expected = if is_stuck { [7.0, grown, grown] } else { [0.0, 7.0, grown] };
            let status = scene.status(second);
            let Known::Known { value } = &replication(&status, "b-db").staleness else { panic!("{state}") };
            let shown = [value.lower_s, value.estimate_s, value.upper_s];
            let series = scene.series(second);
            let exported = ["lower", "estimate", "upper"]
                .map(|bound| self::value(&series, &catalogue::REPLICATION_STALENESS, &[(Attribute::Bound, bound)]).unwrap());
            for (bound, wanted) in expected.into_iter().enumerate() {
                let close = |found: f64| (found - wanted).abs() < 1e-9;
                assert!(close(shown[bound]) && close(exported[bound]), "{state}: {shown:?} and {exported:?}, not {expected:?}");
            }
        }
    }
}

/// Several agents of a region give one state of a link, whoever reported last.
#[test]
fn agents_of_a_region_agree_on_a_link() {
    use LinkState::{Down, Grey, Lossy, Ok, Unknown};
    let two = "name = \"demo\"\n[[region]]\nname = \"a\"\n[[region.agent]]\nname = \"a1\"\nmesh = \"127.0.0.1:9000\"\n\
        [[region.agent]]\nname = \"a2\"\nmesh = \"127.0.0.1:9001\"\n[[region]]\nname = \"b\"\n[[region.agent]]\nmesh = \"127.0.0.1:9002\"\n\
        [[collector]]\nname = \"main\"\notlp = \"http://127.0.0.1:4318\"\n";
    let fleet = Fleet::parse("fleet.toml", two).unwrap();
    for (first, second, together) in
        [(Ok, Ok, Ok), (Ok, Down, Grey), (Down, Down, Down), (Unknown, Down, Down), (Ok, Lossy, Lossy), (Lossy, Grey, Grey)]
    {
        for (early, late) in [("a1", "a2"), ("a2", "a1")] {
            let mut view = View::new(fleet.export.interval);
            for (second_of_hearing, agent) in [(0, early), (5, late)] {
                let mut batch = Says::new("a", 1).link("b", if agent == "a1" { first } else { second }).batch();
                batch.exporter.agent = agent.parse().unwrap();
                view.accept(batch, at(second_of_hearing));
            }
            let status = status(&fleet, &view, BTreeMap::new(), at(6), "0.1.0");
            assert_eq!(link(&status, "a", "b").state, together, "{first} and {second}");
        }
    }
}

/// Two nodes of one system out of recovery at once are counted as what they are.
#[test]
fn split_brain_is_counted() {
    let writer = |name| Says::new(name, 1).node(NodeState::Ok, Some(NodeRole::Writer));
    let scene = Scene::new().hear(writer("a"), 0).hear(writer("b"), 0).hear(well("c", 1), 0);
    assert_eq!(scene.status(1).clusters[0].writers.len(), 2);
    assert_eq!(value(&scene.series(1), &catalogue::CLUSTER_WRITERS, &[(Attribute::System, "42")]), Some(2.0));
    let silent = scene.status(31);
    assert!(silent.clusters[0].writers.is_empty(), "stale evidence is no evidence of a split brain");
}

/// The status survives its way as JSON.
#[test]
fn json_round_trip() {
    let status = Scene::new().hear(well("a", 1), 0).hear(well("b", 1), 0).status(50);
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<FleetStatus>(&text).unwrap(), status);
    assert_eq!(status.regions[0].region, region("a"));
    let by_region: BTreeMap<_, _> =
        status.regions.iter().map(|one| (one.region.as_str(), one.evidence_age_s.is_known())).collect();
    assert!(!by_region["a"]);
}

/// What an agent says of kinds that disagree is passed on with the kinds on both sides, and not once the agent is silent.
#[test]
fn kinds_that_disagree() {
    let says = well("a", 1).disagreement("b", ProbeKind::Stamp, true).disagreement("b", ProbeKind::Tcp, false);
    let scene = Scene::new().hear(says.disagreement("c", ProbeKind::Stamp, false), 0);
    let status = scene.status(1);
    let disagreement = link(&status, "a", "b").disagreement.clone().unwrap();
    assert_eq!((disagreement.failing, disagreement.working), (vec![ProbeKind::Stamp], vec![ProbeKind::Tcp]));
    assert!(link(&status, "a", "c").disagreement.is_none() && link(&status, "b", "a").disagreement.is_none());
    assert_eq!(link(&scene.status(600), "a", "b").disagreement, None);
}

/// How far two wall clocks are apart is passed on as the agent says it, and so is that their claims cannot be true; neither outlives
/// the agent as the present.
#[test]
fn wall_clocks() {
    let scene = Scene::new().hear(well("a", 1).wall("b", [1.9, 2.0, 2.1], true).wall("c", [-0.1, 0.0, 0.1], false), 0);
    let status = scene.status(1);
    let (liar, honest) = (link(&status, "a", "b"), link(&status, "a", "c"));
    assert_eq!(liar.wall_offset_s, Known::known(Seconds { lower_s: 1.9, estimate_s: 2.0, upper_s: 2.1 }));
    assert!(liar.clock_contradiction.as_ref().unwrap().contains("the hosts of a and b both claim"), "{liar:?}");
    assert!(honest.wall_offset_s.is_known() && honest.clock_contradiction.is_none());
    assert!(!link(&status, "b", "a").wall_offset_s.is_known());
    let late = scene.status(600);
    assert!(!link(&late, "a", "b").wall_offset_s.is_known() && link(&late, "a", "b").clock_contradiction.is_none());
}

/// Two hosts that do not measure each other have their wall clocks compared through a third, in the status and both ways in the metrics;
/// who tells nothing, or nothing of late, is unknown and has no series; who contradicts another is named.
#[test]
fn wall_clocks_through_a_third() {
    let own = |name, ahead_ns| well(name, 1).clocks([1_000_000_000, 9_000_000_000], [ahead_ns, ahead_ns]);
    let of = |says: Says, peer, ahead_ns: i64| says.raw_offset(peer, u64::MAX - 1, [ahead_ns - 1_000_000, ahead_ns + 1_000_000]);
    let hub = of(own("b", 0), "a", 0);
    let scene = Scene::new().hear(own("a", 0), 0).hear(of(hub, "c", 0), 0);
    let between = |scene: &Scene, second, one, other| scene.status(second).clocks.between(&region(one), &region(other)).unwrap();
    assert_eq!(scene.status(1).clocks.offsets.len(), 3);
    let (silent, _) = between(&scene, 1, "a", "c");
    assert_eq!(silent, Known::unknown("the agent c has told nothing of its clocks of late"));

    let scene = scene.hear(of(own("c", 2_000_000_000), "b", 0), 0);
    let (offset, is_measured) = between(&scene, 1, "a", "c");
    let Seconds { lower_s, estimate_s, upper_s } = *offset.current().unwrap();
    assert!((lower_s - 1.998).abs() < 1e-5 && (estimate_s - 2.0).abs() < 1e-5 && (upper_s - 2.002).abs() < 1e-5, "{offset:?}");
    assert!(!is_measured && between(&scene, 1, "c", "b").1);
    let series = scene.series(1);
    let metric = |series: &[Series], region, peer, bound| {
        value(
            series,
            &catalogue::FLEET_CLOCK_OFFSET,
            &[(Attribute::Region, region), (Attribute::Peer, peer), (Attribute::Bound, bound)],
        )
    };
    assert_eq!((metric(&series, "a", "c", "upper"), metric(&series, "c", "a", "lower")), (Some(upper_s), Some(-upper_s)));
    let accused = |series: &[Series], name| value(series, &catalogue::FLEET_CLOCK_CONTRADICTED, &[(Attribute::Agent, name)]);
    assert_eq!((accused(&series, "a"), accused(&series, "b")), (Some(0.0), Some(0.0)));
    assert!(exposition::text(&series).contains("lagmesh_fleet_clock_offset_seconds{"));
    assert!(!between(&scene, 31, "a", "c").0.is_known());
    let late = scene.series(31);
    assert_eq!((metric(&late, "a", "c", "upper"), accused(&late, "a")), (None, None));

    let scene = scene.hear(of(Says::new("a", 2).clocks([1_000_000_000, 9_000_000_000], [0, 0]), "b", 50_000_000), 2);
    let status = scene.status(3);
    assert_eq!(status.clocks.contradictions, [["a".parse().unwrap(), "b".parse().unwrap()]]);
    assert_eq!((accused(&scene.series(3), "a"), accused(&scene.series(3), "c")), (Some(1.0), Some(0.0)));
    assert!(!between(&scene, 3, "a", "b").0.is_known() && between(&scene, 3, "b", "c").0.is_known());
}

/// A pair that the plan leaves out is neither shown nor exported: what was counted before it was left out ends, too.
#[test]
fn unplanned_links_are_absent() {
    let mut scene = Scene::new().hear(well("a", 1), 0).hear(well("b", 1), 0);
    let of_link =
        |series: &[Series], peer| value(series, &catalogue::LINK_PROBES, &[(Attribute::Region, "a"), (Attribute::Peer, peer)]);
    assert_eq!((of_link(&scene.series(1), "b"), of_link(&scene.series(1), "c")), (Some(160.0), Some(160.0)));
    scene.fleet = planned_fleet(&THREE, &THREE, "plan = \"hub\"\nhubs = [\"b\"]");
    let (status, series) = (scene.status(1), scene.series(1));
    assert_eq!((status.plan.as_str(), status.links.len()), ("hub", 4));
    assert_eq!((of_link(&series, "b"), of_link(&series, "c")), (Some(160.0), None));
    let pair =
        |one: &Series| one.attributes.get(Attribute::Region) == Some("a") && one.attributes.get(Attribute::Peer) == Some("c");
    assert!(!series.iter().any(pair), "{series:?}");
}

/// The slots of a node are those that its agent tells of, in the order of how urgent they are, with what is unknown left unknown; a node
/// without slots is told apart from one whose slots nobody can read, and the slots of a silent agent are the past.
#[test]
fn slots_of_a_node() {
    let says = well("a", 1)
        .slots(5)
        .slot("small", SlotState::Reserved, [Some(10.0), None, None])
        .slot("large", SlotState::Unreserved, [Some(9e9), Some(-1e6), Some(0.0)])
        .slot("gone", SlotState::Lost, [None, None, None]);
    let scene = Scene::new().hear(says, 0).hear(well("b", 1).slots(0), 0).hear(well("c", 1), 0);
    let slots = |second| scene.status(second).nodes.into_iter().map(|node| node.slots).collect::<Vec<_>>();
    let Known::Known { value: Slots { slots: told, more } } = &slots(1)[0] else { panic!("{:?}", slots(1)) };
    assert_eq!(told.iter().map(|slot| slot.slot.as_str()).collect::<Vec<_>>(), ["gone", "large", "small"]);
    assert_eq!(*more, 2);
    let large = Slot {
        slot: "large".to_owned(),
        logical: None,
        active: false,
        state: SlotState::Unreserved,
        retained_bytes: Some(9_000_000_000),
        safe_bytes: Some(-1_000_000),
        exhaustion_s: Some(0.0),
        inactive_s: None,
        invalidation_reason: None,
    };
    assert_eq!(told[1], large);
    assert_eq!((told[0].retained_bytes, told[2].safe_bytes), (None, None));
    assert_eq!(slots(1)[1], Known::known(Slots { slots: Vec::new(), more: 0 }), "none is a number");
    assert!(matches!(&slots(1)[2], Known::Unknown { why } if why.contains("able to read")), "{:?}", slots(1)[2]);
    assert!(matches!(&slots(60)[0], Known::Stale { value, age_s: 60.0 } if value.slots.len() == 3));
}

/// Whether writes work is told as of the newest row, and how long ago one was acknowledged grows until the moment of asking, on pages and
/// in `/metrics`; of a ledger that could not be tried nothing is told but that.
#[test]
fn ledger_of_a_node() {
    let says = |newest, age_s| well("a", 1).ledger(newest, age_s);
    let ledger = |says: Says, second| Scene::new().hear(says, 0).status(second).nodes.remove(0).ledger;
    let works = says(Some((CommitLevel::On, WriteOutcome::Acknowledged)), Some(3.0));
    let expected = Ledger {
        outcome: WriteOutcome::Acknowledged,
        level: CommitLevel::On,
        why: String::new(),
        acknowledged: None,
        acknowledged_age_s: Some(5.0),
    };
    assert_eq!(ledger(works, 2), Known::known(expected));
    let hangs = ledger(says(Some((CommitLevel::RemoteApply, WriteOutcome::InDoubt)), None), 2);
    let Known::Known { value: hangs } = &hangs else { panic!("{hangs:?}") };
    assert_eq!((hangs.outcome, hangs.acknowledged_age_s), (WriteOutcome::InDoubt, None), "an age that nobody knows is none");
    assert!(hangs.why.contains("hang") && hangs.why.contains("remote_apply"), "{}", hangs.why);
    for (age_s, word) in [(Some(40.0), "not been able to write it of late"), (None, "write none there")] {
        let untried = ledger(says(None, age_s), 2);
        assert!(matches!(&untried, Known::Unknown { why } if why.contains(word)), "{untried:?}");
    }
    let silent = ledger(says(Some((CommitLevel::On, WriteOutcome::Acknowledged)), Some(3.0)), 60);
    assert!(matches!(silent, Known::Stale { age_s: 60.0, .. }), "writes that worked once are not told to work: {silent:?}");

    let of_a = [(Attribute::Region, "a")];
    let age = |says: Says, second| value(&Scene::new().hear(says, 0).series(second), &catalogue::HEARTBEAT_LEDGER_AGE, &of_a);
    let works = |age_s| says(Some((CommitLevel::On, WriteOutcome::Acknowledged)), age_s);
    assert_eq!((age(works(Some(3.0)), 20), age(works(Some(3.0)), 60), age(works(None), 20)), (Some(23.0), None, None));
}
