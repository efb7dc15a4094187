use lagmesh_daemon::clock::ClockClaim;
use lagmesh_model::interval::Interval;
use lagmesh_model::series::Value;
use lagmesh_model::state::{ClaimSource, StampSource};
use lagmesh_model::time::{Epoch, WallNanos};

use super::*;
use crate::measurement::{FlowId, PeerClock};
use crate::mesh::testing::fleet;
use crate::wall::{HeardWall, WallClock};

mod kinds;
mod reload;
mod series;

/// Oslo's link to Tokyo with four flows, fed second by second.
struct World {
    links: Links,
    ms: u64,
    epoch: Epoch,
    /// Whom STAMP probes go to.
    agent: &'static str,
    /// What stamps them.
    stamps: StampSource,
}

#[derive(Clone, Copy, Default)]
struct Second {
    /// STAMP probes answered and lost.
    stamp: (u64, u64),
    refused: u64,
    tcp: bool,
}

const FINE: Second = Second { stamp: (4, 0), refused: 0, tcp: true };
const CUT: Second = Second { stamp: (0, 4), refused: 0, tcp: false };

fn reading(ms: u64) -> Reading {
    Reading { epoch: Epoch(1), raw: RawNanos((1_000_000 + ms) * 1_000_000), wall: WallNanos(0) }
}

impl World {
    fn new() -> World {
        World::of(&[("tcp = false", "tcp = true\nflows = 4")])
    }

    fn of(replace: &[(&str, &str)]) -> World {
        World {
            links: Links::new(&fleet(replace), &"oslo".parse().unwrap()),
            ms: 0,
            epoch: Epoch(1),
            agent: "tokyo-a",
            stamps: StampSource::User,
        }
    }

    fn probe(&mut self, kind: ProbeKind, outcome: Outcome, ms: u64) {
        let answered = matches!(outcome, Outcome::InTime | Outcome::Late);
        let rtt_ns = answered.then_some(20_000_000);
        let agent = (kind == ProbeKind::Stamp).then(|| self.agent.parse().unwrap());
        let at = Reading { epoch: self.epoch, ..reading(ms) };
        let stamps = rtt_ns.filter(|_| kind == ProbeKind::Stamp).map(|_| self.stamps);
        let (peer, phases) = ("tokyo".parse().unwrap(), Vec::new());
        self.links.record_probe(&Probe { peer, agent, kind, outcome, rtt_ns, phases, stamps, path: None, at });
    }

    fn stamp_to(&mut self, agent: &'static str, outcome: Outcome) {
        let before = std::mem::replace(&mut self.agent, agent);
        self.probe(ProbeKind::Stamp, outcome, self.ms + if outcome == Outcome::Lost { 10_000 } else { 0 });
        self.agent = before;
    }

    fn flow(&mut self, index: u16, alive: Option<bool>) {
        let flow = FlowId { peer: "tokyo".parse().unwrap(), agent: "tokyo-a".parse().unwrap(), index };
        self.links.record_flow(&FlowChange { flow, alive, at: reading(self.ms).raw });
    }

    fn flows(&mut self, alive: Option<bool>) {
        (0..4).for_each(|index| self.flow(index, alive));
    }

    /// Some seconds alike; losses are settled when they are given up, ten seconds later.
    fn run(&mut self, seconds: u64, second: Second) {
        for _ in 0..seconds {
            self.ms += 1000;
            (0..second.stamp.0).for_each(|_| self.probe(ProbeKind::Stamp, Outcome::InTime, self.ms));
            (0..second.stamp.1).for_each(|_| self.probe(ProbeKind::Stamp, Outcome::Lost, self.ms + 10_000));
            (0..second.refused).for_each(|_| self.probe(ProbeKind::Stamp, Outcome::Refused, self.ms));
            self.probe(
                ProbeKind::Tcp,
                if second.tcp { Outcome::InTime } else { Outcome::Lost },
                self.ms + if second.tcp { 0 } else { 10_000 },
            );
            self.state();
        }
    }

    fn link(&mut self) -> Link {
        self.links.status(Reading { epoch: self.epoch, ..reading(self.ms) }, &PeerView::default()).remove(0)
    }

    fn state(&mut self) -> LinkState {
        self.link().state
    }
}

/// A link is unknown until something is known, then fine.
#[test]
fn from_unknown_to_ok() {
    let mut world = World::new();
    let link = world.link();
    assert_eq!((link.state, link.flows_alive.is_known(), link.flows), (LinkState::Unknown, false, 4));
    assert!(!link.rtt(ProbeKind::Stamp).is_known() && !link.evidence_age_s.is_known() && link.floor_s.is_none());
    world.flows(Some(true));
    world.run(3, FINE);
    let link = world.link();
    assert_eq!((link.state, link.flows_alive.current()), (LinkState::Ok, Some(&4)), "{}", link.why);
    let rtt = link.rtt(ProbeKind::Stamp).current().copied().unwrap();
    assert_eq!(rtt.samples, 12);
    assert!((rtt.p50_s - 0.02).abs() < 0.001);
}

/// A full cut is down as soon as the flows are dead and TCP has been silent for longer than it ever was: within 2.5 s.
#[test]
fn full_cut() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(60, FINE);
    world.ms += 2_100;
    world.flows(Some(false));
    assert_eq!(world.state(), LinkState::Unknown);
    world.ms += 200;
    let link = world.link();
    assert_eq!(link.state, LinkState::Down, "{}", link.why);
    assert!(link.why.contains("4 of 4 flows") && link.why.contains("tcp is silent, too"), "{}", link.why);
    world.run(20, CUT);
    assert_eq!(world.state(), LinkState::Down);
    assert!(matches!(world.link().rtt(ProbeKind::Stamp), Known::Stale { .. }));
    // What was lost before the way was back is history, not loss.
    world.flows(Some(true));
    world.run(1, FINE);
    assert_eq!(world.state(), LinkState::Ok);
    world.run(60, FINE);
    assert_eq!(world.state(), LinkState::Ok, "{}", world.link().why);
}

/// While nothing answers, probes of the peer's own that still arrive show which way is open; those that ended show nothing.
#[test]
fn direction_of_an_outage() {
    for (after_ms, said) in [(2_900, "probes from tokyo still arrive"), (10, "nothing from tokyo arrives here either")] {
        let mut world = World::new();
        world.flows(Some(true));
        world.run(60, FINE);
        let heard = reading(world.ms + after_ms).raw;
        world.flows(Some(false));
        world.run(4, CUT);
        let view = PeerView { heard: [("tokyo-a".parse().unwrap(), heard)].into(), ..PeerView::default() };
        let link = world.links.status(reading(world.ms), &view).remove(0);
        assert_eq!(link.state, LinkState::Down);
        assert!(link.why.contains(said), "{}", link.why);
    }
}

/// Where the name of the agent does not resolve nothing is known of the path: the link is unknown and says why, at once and not as if
/// our own host were at fault, and the attempts are counted as no loss.
#[test]
fn name_does_not_resolve() {
    let said = "the name of the agent in tokyo does not resolve";
    let mut fresh = World::new();
    fresh.probe(ProbeKind::Stamp, Outcome::Unresolved, fresh.ms);
    let link = fresh.link();
    assert!(link.state == LinkState::Unknown && link.why.contains(said), "{link:?}");
    assert!(!link.evidence_age_s.is_known() && !link.rtt(ProbeKind::Stamp).is_known());

    let mut world = World::new();
    world.flows(Some(true));
    world.run(60, FINE);
    world.flows(None);
    world.ms += 100;
    world.probe(ProbeKind::Stamp, Outcome::Unresolved, world.ms);
    let link = world.link();
    assert!(link.state == LinkState::Unknown && link.why.contains(said), "{link:?}");
    world.flows(Some(true));
    world.run(1, FINE);
    assert_eq!(world.state(), LinkState::Ok);
    world.flows(None);
    world.ms += 20_000;
    assert!(!world.link().why.contains(said), "{}", world.link().why);
    let mut series = Vec::new();
    world.links.series(reading(world.ms), &PeerView::default(), &mut series);
    let probes = |outcome: &str| {
        let of = |series: &&Series| {
            series.metric.name == LINK_PROBES.name && series.attributes.get(Attribute::Outcome) == Some(outcome)
        };
        let counts = series.iter().filter(of).map(|series| if let Value::Counter(count) = series.value { count } else { 0 });
        counts.sum::<u64>()
    };
    assert_eq!((probes("unresolved"), probes("send-error"), probes("lost")), (1, 0, 0));
}

/// Where the agent is silent but the database port answers, the link is not down but unknown, and says which is which.
#[test]
fn agent_gone_host_answers() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(60, FINE);
    world.flows(Some(false));
    world.run(5, Second { tcp: true, ..CUT });
    let link = world.link();
    assert_eq!(link.state, LinkState::Unknown);
    assert!(link.why.contains("the agent in tokyo does not answer, its host does"), "{}", link.why);
}

/// A refusal proves the path: unknown, not down; when the refusals end as well, it is down.
#[test]
fn refused() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(10, FINE);
    world.flows(None);
    world.run(10, Second { stamp: (0, 0), refused: 4, tcp: false });
    let link = world.link();
    assert_eq!(link.state, LinkState::Unknown);
    assert!(link.why.contains("does not listen"), "{}", link.why);
    world.flows(Some(false));
    world.run(5, CUT);
    assert_eq!(world.state(), LinkState::Down);
}

/// One dead flow among live ones is grey, once it has lasted for longer than flows take to change together.
#[test]
fn grey() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(10, FINE);
    world.flow(2, Some(false));
    assert_eq!(world.state(), LinkState::Ok);
    world.run(1, Second { stamp: (3, 1), ..FINE });
    assert_eq!(world.state(), LinkState::Ok);
    world.run(1, Second { stamp: (3, 1), ..FINE });
    let link = world.link();
    assert_eq!((link.state, link.flows_alive.current()), (LinkState::Grey, Some(&3)));
    assert!(link.why.contains("1 of 4 flows"), "{}", link.why);
    world.flow(2, Some(true));
    assert_eq!(world.state(), LinkState::Ok);
}

/// Flows that die one after the other on a full cut, or come back so, never show as grey.
#[test]
fn no_grey_on_the_way() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(10, FINE);
    world.ms += 1_300;
    for (index, expected) in [(0, LinkState::Ok), (1, LinkState::Ok), (2, LinkState::Ok), (3, LinkState::Down)] {
        world.ms += 250;
        world.flow(index, Some(false));
        assert_eq!(world.state(), expected, "flow {index}: {}", world.link().why);
    }
    for (index, expected) in [(0, LinkState::Down), (1, LinkState::Down), (2, LinkState::Down), (3, LinkState::Ok)] {
        world.ms += 250;
        world.flow(index, Some(true));
        assert_eq!(world.state(), expected, "flow {index}");
    }
}

/// Loss counts from 30 settled probes on, enters above one threshold and leaves below the other.
#[test]
fn loss_has_hysteresis() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(5, Second { stamp: (3, 1), ..FINE });
    assert_eq!(world.state(), LinkState::Ok);
    world.run(25, Second { stamp: (3, 1), ..FINE });
    let link = world.link();
    assert_eq!(link.state, LinkState::Lossy);
    assert!(link.why.contains("probes to tokyo got no answer"), "{}", link.why);
    let stamp = &link.kinds[0];
    assert!(stamp.settled > stamp.answered && stamp.answered > 0);
    // The last lossy second leaves the window after a minute.
    world.run(58, FINE);
    assert_eq!(world.state(), LinkState::Lossy);
    world.run(3, FINE);
    assert_eq!(world.state(), LinkState::Ok, "{}", world.link().why);
}

/// Between the two thresholds the state stays what it was.
#[test]
fn between_the_thresholds() {
    let evidence = |before, answered| {
        let mesh = fleet(&[]).mesh;
        let agents = [AgentFlows { agent: "a".parse().unwrap(), alive: 4, dead: 0, all: 4 }];
        let recent = tally::Counts { settled: 1000, answered };
        judge(&Evidence {
            peer: "tokyo",
            agents: &agents,
            mixed_for: None,
            answered: None,
            refused: None,
            heard: None,
            unresolved: None,
            unknown_for: None,
            others: &[],
            recent,
            before,
            mesh: &mesh,
        })
        .0
    };
    assert_eq!(evidence(LinkState::Ok, 993), Some(LinkState::Ok));
    assert_eq!(evidence(LinkState::Lossy, 993), Some(LinkState::Lossy));
    assert_eq!(evidence(LinkState::Ok, 980), Some(LinkState::Lossy));
    assert_eq!(evidence(LinkState::Lossy, 996), Some(LinkState::Ok));
}

/// A stall of our own host accuses nobody: the state stays, then becomes unknown, but never down.
#[test]
fn our_own_stall() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(10, FINE);
    world.ms += 8_000;
    world.flows(None);
    world.probe(ProbeKind::Stamp, Outcome::Skipped, world.ms);
    assert_eq!(world.state(), LinkState::Ok, "{}", world.link().why);
    world.ms += 4_000;
    assert_eq!(world.state(), LinkState::Unknown);
    assert!(world.link().why.contains("own host"), "{}", world.link().why);
}

/// An agent that is gone beside one that answers makes neither a grey nor a lossy link: its colleague shows that the path is fine.
#[test]
fn one_of_two_agents_gone() {
    let second = "mesh = \"127.0.0.1:18621\"\n[[region.agent]]\nname = \"tokyo-b\"\nmesh = \"127.0.0.1:18622\"";
    let mut world = World::of(&[("tcp = false", "tcp = true\nflows = 4"), ("mesh = \"127.0.0.1:18621\"", second)]);
    world.flows(Some(true));
    for index in 0..4 {
        let flow = FlowId { peer: "tokyo".parse().unwrap(), agent: "tokyo-b".parse().unwrap(), index };
        world.links.record_flow(&FlowChange { flow, alive: Some(false), at: reading(0).raw });
    }
    let mut run = |seconds, answered, lost| {
        for _ in 0..seconds {
            (0..4).for_each(|_| world.stamp_to("tokyo-b", Outcome::Lost));
            world.run(1, Second { stamp: (answered, lost), ..FINE });
        }
        world.link()
    };
    let link = run(30, 4, 0);
    assert_eq!((link.state, link.flows_alive.current(), link.flows), (LinkState::Ok, Some(&4), 8), "{}", link.why);
    assert!(link.why.contains("tokyo-b does not answer at all"), "{}", link.why);
    // The path is still judged, by the agent that answers.
    let link = run(20, 3, 1);
    assert_eq!(link.state, LinkState::Lossy, "{}", link.why);
    // What was lost while the other one was gone is history once it is back.
    world.run(75, FINE);
    (0..40).for_each(|_| world.stamp_to("tokyo-b", Outcome::Lost));
    for index in 0..4 {
        let flow = FlowId { peer: "tokyo".parse().unwrap(), agent: "tokyo-b".parse().unwrap(), index };
        world.links.record_flow(&FlowChange { flow, alive: Some(true), at: reading(0).raw });
    }
    world.run(2, FINE);
    assert_eq!(world.state(), LinkState::Ok, "{}", world.link().why);
}

/// A new epoch of our own clock leaves nothing of the old one: what the suspended host last heard is not heard "just now".
#[test]
fn epochs_are_not_mixed() {
    for backwards in [false, true] {
        let mut world = World::new();
        world.flows(Some(true));
        world.run(30, FINE);
        world.epoch = Epoch(2);
        // The raw clock does not count the time that the host slept, or starts anew elsewhere.
        world.ms = if backwards { 1_000 } else { world.ms + 100 };
        world.flows(None);
        let link = world.link();
        assert!(!link.evidence_age_s.is_known() && !link.rtt(ProbeKind::Stamp).is_known(), "{backwards}");
        assert_eq!((link.state, link.kinds[0].settled), (LinkState::Ok, 0), "{}", link.why);
        world.ms += 3_100;
        assert_eq!(world.state(), LinkState::Unknown, "{}", world.link().why);
        world.flows(Some(true));
        world.run(5, FINE);
        let link = world.link();
        assert_eq!((link.state, link.kinds[0].settled), (LinkState::Ok, 20), "{}", link.why);
    }
}

/// The fate of a probe of another epoch counts, but says nothing about now.
#[test]
fn late_news_of_another_epoch() {
    let mut world = World::new();
    world.run(1, FINE);
    world.epoch = Epoch(2);
    world.state();
    world.epoch = Epoch(1);
    world.probe(ProbeKind::Stamp, Outcome::InTime, 1_500);
    world.epoch = Epoch(2);
    let mut out = Vec::new();
    assert!(!world.link().evidence_age_s.is_known());
    world.links.series(Reading { epoch: world.epoch, ..reading(2_000) }, &PeerView::default(), &mut out);
    let in_time = |series: &&Series| series.attributes.get(Attribute::Outcome) == Some("in-time");
    assert_eq!(out.iter().find(in_time).map(|series| series.value.clone()), Some(Value::Counter(5)));
}

/// A round-trip time is current, then stale, then unknown; it is never zero.
#[test]
fn age_of_a_round_trip_time() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(3, FINE);
    for (after_ms, expected) in [(3_000, "known"), (100, "stale"), (56_000, "stale"), (2_000, "unknown")] {
        world.ms += after_ms;
        let known = match world.link().rtt(ProbeKind::Stamp) {
            Known::Known { .. } => "known",
            Known::Stale { .. } => "stale",
            Known::Unknown { .. } => "unknown",
        };
        assert_eq!(known, expected, "after {after_ms}");
    }
}
