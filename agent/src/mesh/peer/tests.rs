use std::time::Duration;

use lagmesh_model::directed::Directed;
use lagmesh_model::status::Changed;
use lagmesh_model::time::WallNanos;
use proptest::prelude::*;

use super::*;
use crate::mesh::hearing::Directory;
use crate::mesh::keys::KeyIndex;
use crate::mesh::reflector::{Origin, Reflector};
use crate::mesh::stamp::ErrorEstimate;
use crate::mesh::stamp::extension::seal_base;
use crate::mesh::testing::{announcement_record, fleet};

/// Oslo's view of Tokyo's agent and Tokyo's reflector, whose clock is ahead by [`THETA_NS`].
struct World {
    peer: Peer,
    reflector: Reflector,
    directory: Directory,
    keys: Option<MeshKeys>,
    stamps: StampClock,
    out: Vec<Observation>,
    /// The hop limit with which its answers arrive.
    hop_limit: u8,
    /// Whether its answers are taken in as soon as they come.
    prompt: bool,
}

const THETA_NS: u64 = 5_000_000_000;

fn now(ms: u64) -> Reading {
    Reading { epoch: Epoch(1), raw: RawNanos((100_000 + ms) * 1_000_000), wall: WallNanos((100_000 + ms) * 1_000_000) }
}

fn tokyo(ms: u64) -> Reading {
    let Reading { raw, wall, .. } = now(ms);
    Reading { epoch: Epoch(2), raw: RawNanos(raw.0 + THETA_NS), wall: WallNanos(wall.0 + 77) }
}

impl World {
    fn new(keys: Option<MeshKeys>) -> World {
        World::of_flows(2, keys)
    }

    fn of_flows(flows: u16, keys: Option<MeshKeys>) -> World {
        let fleet = fleet(&[("tcp = false", &format!("tcp = false\nflows = {flows}"))]);
        let (oslo, tokyo) = ("oslo".parse().unwrap(), "tokyo".parse().unwrap());
        let (oslo_a, tokyo_a) = ("oslo-a".parse().unwrap(), "tokyo-a".parse().unwrap());
        let mut directory = Directory::new(&fleet, &tokyo);
        directory.found(AgentHash::of(&oslo_a), "127.0.0.1:18620".parse().unwrap());
        World {
            peer: Peer::new(&fleet, (&oslo, &oslo_a), (&tokyo, &tokyo_a), now(0)),
            reflector: Reflector::new(AgentHash::of(&tokyo_a), keys.clone(), false, 1_000),
            directory,
            keys,
            stamps: StampClock::default(),
            out: Vec::new(),
            hop_limit: 250,
            prompt: true,
        }
    }

    /// Lets time pass and sends what is due: the probes, by flow.
    fn send(&mut self, ms: u64) -> Vec<(usize, Vec<u8>)> {
        let mut due = Vec::new();
        self.peer.wake(now(ms), &mut self.out);
        self.peer.judge(now(ms).raw, now(ms), &mut self.out);
        self.peer.take_due(now(ms), &mut due, &mut Exponential::new(), &mut self.out);
        let mut packets = Vec::new();
        for flow in due {
            let mut packet = [0; PACKET_MAX];
            let own = AgentHash::of(&"oslo-a".parse().unwrap());
            let length = self.peer.request(flow, (own, ErrorEstimate::UNKNOWN), now(ms), &[], self.keys.as_ref(), &mut packet);
            self.peer.sent(flow, now(ms), &mut self.out);
            packets.push((flow, packet[..length].to_vec()));
        }
        packets
    }

    /// Tokyo answers a probe that arrives at `ms`.
    fn reflect(&mut self, packet: &[u8], ms: u64) -> Vec<u8> {
        let source: std::net::SocketAddr = "127.0.0.1:45000".parse().unwrap();
        let origin = Origin { source, hops: None, class: None };
        let accepted = self.reflector.check(packet, origin, &self.directory, tokyo(ms)).unwrap();
        let mut reply = packet.to_vec();
        self.reflector.answer(&accepted, &mut reply, tokyo(ms + 1), &[announcement_record("tokyo-1", 3)]);
        reply
    }

    fn receive(&mut self, flow: usize, packet: &[u8], ms: u64) -> Told {
        self.peer.wake(now(ms), &mut self.out);
        self.peer.on_packet(
            flow,
            Came { packet, stamp: None, hops: Some(self.hop_limit), prompt: self.prompt },
            (now(ms), &mut self.stamps),
            self.keys.as_ref(),
            &mut self.out,
        )
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        let outcome = |observation| match observation {
            Observation::Probe(probe) => Some(probe.outcome),
            _ => None,
        };
        self.out.drain(..).filter_map(outcome).collect()
    }
}

/// The first probe: when it was sent, on which flow, what.
fn first(world: &mut World) -> (u64, usize, Vec<u8>) {
    let sent = (0..1000).find_map(|ms| world.send(ms).into_iter().next().map(|(flow, packet)| (ms, flow, packet)));
    sent.expect("a probe is due within the first interval")
}

/// A whole exchange: the round-trip time without the responder's, the peer's clock, its records, and the flow's life.
#[test]
fn exchange() {
    for keys in [None, Some(MeshKeys::of(&[b"a key of sixteen"]).unwrap())] {
        let mut world = World::new(keys);
        let (sent_ms, flow, packet) = first(&mut world);
        let reply = world.reflect(&packet, sent_ms + 30);
        let told = world.receive(flow, &reply, sent_ms + 61);
        assert_eq!((told.recognised, told.records), (true, vec![announcement_record("tokyo-1", 3)]));
        let probes: Vec<_> = world
            .out
            .iter()
            .filter_map(|o| if let Observation::Probe(probe) = o { Some((probe.outcome, probe.rtt_ns)) } else { None })
            .collect();
        assert_eq!(probes, [(Outcome::InTime, Some(60_000_000))]);
        let alive: Vec<_> =
            world.out.iter().filter_map(|o| if let Observation::Flow(change) = o { Some(change.alive) } else { None }).collect();
        assert_eq!(alive, [Some(true)]);
        let clock = world.peer.clock(now(sent_ms + 61).raw).unwrap();
        assert_eq!((clock.epoch, clock.own_epoch), (Epoch(2), Epoch(1)));
        assert!(clock.offset.contains(i64::try_from(THETA_NS).unwrap()) && clock.offset.width_ns() < 61_000_000);
    }
}

/// An answer tells its path: how long each way took, with which hop limits, and in which direction the probes before it were lost.
#[test]
fn what_an_answer_says_of_the_path() {
    let mut world = World::new(Some(MeshKeys::of(&[b"a key of sixteen"]).unwrap()));
    let mut reached = 0;
    for ms in (0..40_000).step_by(10) {
        for (flow, packet) in world.send(ms).into_iter().filter(|(flow, _)| *flow == 0) {
            // Of every ten, the third is lost on the way there, the sixth on the way back.
            let number = ms / 1_000 % 10;
            if number != 3 {
                let reply = world.reflect(&packet, ms + 30);
                reached += 1;
                if number != 6 {
                    world.receive(flow, &reply, ms + 71);
                }
            }
        }
    }
    let (mut losses, mut paths) = (Losses::default(), Vec::new());
    for said in world.out.drain(..) {
        match said {
            Observation::Losses(_, more) => losses += more,
            Observation::Probe(Probe { path: Some(path), .. }) => paths.push(path),
            _ => {}
        }
    }
    assert!(reached > 30 && paths.len() > 30);
    // The last ten seconds are not told yet; the other flow was never answered.
    assert_eq!((losses.forward, losses.backward), (3, 3), "{losses:?}");
    for path in paths {
        let Directed { forward, backward } = path.oneway.unwrap();
        assert!(forward.contains(30_000_000) && backward.contains(40_000_000), "{path:?}");
        assert!(forward.width_ns() < 71_000_000);
        assert_eq!(path.hops, Directed { forward: None, backward: Some(5) });
    }
}

/// What may have waited until the next round, and was not stamped by the kernel, was answered, but nobody knows after how long.
#[test]
fn no_round_trip_time_without_a_stamp() {
    for prompt in [true, false] {
        let mut world = World::new(None);
        world.prompt = prompt;
        let (sent_ms, flow, packet) = first(&mut world);
        let reply = world.reflect(&packet, sent_ms + 30);
        assert!(world.receive(flow, &reply, sent_ms + 61).recognised);
        let fates: Vec<_> = world
            .out
            .iter()
            .filter_map(
                |said| if let Observation::Probe(probe) = said { Some((probe.outcome, probe.rtt_ns.is_some())) } else { None },
            )
            .collect();
        assert_eq!(fates, [(Outcome::InTime, prompt)]);
        assert!(world.peer.is_alive());
    }
}

/// A path with another number of routers is told of, and its route is asked for on the flow's own port.
#[test]
fn a_changed_path_is_traced() {
    let mut world = World::new(None);
    world.peer.found("127.0.0.2".parse().unwrap(), &mut world.out);
    run(&mut world, 0..3, |_, _| true);
    let mut errands = Vec::new();
    world.peer.errands(now(3_000).raw, &mut errands, &mut world.out);
    assert_eq!(
        (errands.as_slice(), world.out.iter().any(|said| matches!(said, Observation::PathChanged(_)))),
        ([].as_slice(), false)
    );
    world.hop_limit = 247;
    run(&mut world, 3..6, |flow, _| flow == 1);
    let changed: Vec<_> = world
        .out
        .iter()
        .filter_map(|said| if let Observation::PathChanged(change) = said { Some(change) } else { None })
        .collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_eq!((changed[0].flow.index, &changed[0].what), (1, &Changed::HopsBackward { before: 5, after: 8 }));
    world.peer.errands(now(6_000).raw, &mut errands, &mut world.out);
    assert!(errands.iter().any(|errand| errand.flow == 1 && errand.hop_limit == Some(1)), "{errands:?}");
}

/// Runs two flows for some seconds; `answered` says which probes (flow, second) come back.
fn run(world: &mut World, seconds: std::ops::Range<u64>, answered: impl Fn(usize, u64) -> bool) {
    for ms in (seconds.start * 1000..seconds.end * 1000).step_by(10) {
        for (flow, packet) in world.send(ms) {
            if answered(flow, ms / 1000) {
                let reply = world.reflect(&packet, ms + 1);
                world.receive(flow, &reply, ms + 3);
            }
        }
    }
}

fn changes(world: &mut World) -> Vec<(u16, Option<bool>)> {
    let change =
        |observation| if let Observation::Flow(change) = observation { Some((change.flow.index, change.alive)) } else { None };
    let mut changes: Vec<_> = world.out.drain(..).filter_map(change).collect();
    changes.sort_unstable();
    changes
}

/// Only the flow that gets no answers dies, once, within 2.3 s; it comes back with the first answer.
#[test]
fn a_flow_dies_alone() {
    let mut world = World::new(None);
    run(&mut world, 0..5, |_, _| true);
    assert_eq!(changes(&mut world), [(0, Some(true)), (1, Some(true))]);
    run(&mut world, 5..7, |flow, _| flow == 0);
    run(&mut world, 7..8, |flow, _| flow == 0);
    assert_eq!(changes(&mut world), [(1, Some(false))]);
    run(&mut world, 8..10, |_, _| true);
    assert_eq!(changes(&mut world), [(1, Some(true))]);
}

/// Once every one of many flows misses an answer all are dead, sooner than each would be by itself; one answer shows that the peer can be
/// reached, and then each flow speaks for itself again.
#[test]
fn a_cut_is_seen_by_all_flows_together() {
    let mut world = World::of_flows(8, None);
    run(&mut world, 0..5, |_, _| true);
    world.out.clear();
    run(&mut world, 5..6, |flow, _| flow == 3);
    assert_eq!(changes(&mut world), [], "who misses one answer each while one gets through is not dead");
    run(&mut world, 6..9, |_, _| true);
    for ms in (9_000..10_300).step_by(10) {
        world.send(ms);
    }
    let dead = changes(&mut world);
    assert_eq!(dead, (0..8).map(|flow| (flow, Some(false))).collect::<Vec<_>>(), "within an interval and an answer's patience");
    run(&mut world, 11..12, |flow, _| flow == 3);
    assert!(changes(&mut world).contains(&(3, Some(true))));
}

/// While the peer's host refuses, nothing is known about any flow: nobody is called dead. Silence after that is death.
#[test]
fn refusal() {
    let mut world = World::new(None);
    run(&mut world, 0..3, |_, _| true);
    world.out.clear();
    for second in 3..8 {
        run(&mut world, second..second + 1, |_, _| false);
        world.peer.on_error(0, Outcome::Refused, None, now((second + 1) * 1000 - 1), &mut world.out);
    }
    assert_eq!(changes(&mut world), [(0, None), (1, None)]);
    run(&mut world, 8..13, |_, _| false);
    assert_eq!(changes(&mut world), [(0, Some(false)), (1, Some(false))]);
}

/// After a stall of our own host nothing that was out accuses anybody, and missed attempts are skipped, not lost.
#[test]
fn our_own_stall() {
    let mut world = World::new(None);
    run(&mut world, 0..3, |_, _| true);
    run(&mut world, 3..4, |_, _| false);
    world.outcomes();
    run(&mut world, 8..20, |_, _| true);
    let outcomes = world.outcomes();
    assert!(!outcomes.contains(&Outcome::Lost) && !outcomes.contains(&Outcome::Late), "{outcomes:?}");
    // Two probes that were out, and the moments that were missed by more than half a second: four of one flow, three of the other.
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Skipped).count(), 2 + 7);
}

/// A reply with another key, one of another agent, and a second copy settle nothing; each is counted by its reason.
#[test]
fn unwanted_replies() {
    let (right, wrong) = (MeshKeys::of(&[b"a key of sixteen"]).unwrap(), MeshKeys::of(&[b"another key of 16"]).unwrap());
    let mut world = World::new(Some(right.clone()));
    let (_, flow, packet) = first(&mut world);
    let reply = world.reflect(&packet, 1001);
    let mut forged = reply.clone();
    seal_base(&mut forged, &wrong, KeyIndex::FIRST);
    let mut other = World::new(Some(right));
    other.reflector = Reflector::new(AgentHash::of(&"oslo-a".parse().unwrap()), other.keys.clone(), false, 10);
    let other = other.reflect(&packet, 1001);
    world.out.clear();
    for packet in [&forged, &other, &reply, &reply, &reply[..100].to_vec()] {
        world.receive(flow, packet, 1003);
    }
    let dropped: Vec<_> =
        world.out.iter().filter_map(|o| if let Observation::MeshDropped(reason, _) = o { Some(*reason) } else { None }).collect();
    assert_eq!(dropped, ["bad-hmac", "wrong-agent", "duplicate", "too-short"]);
    assert_eq!(world.outcomes(), [Outcome::InTime]);
}

/// A new epoch of our own clock leaves nothing to say about what was out, and probing goes on.
#[test]
fn our_own_new_epoch() {
    let mut world = World::new(None);
    run(&mut world, 0..3, |_, _| false);
    world.outcomes();
    let moved = Reading { epoch: Epoch(8), ..now(50) };
    world.peer.wake(moved, &mut world.out);
    assert_eq!(world.outcomes(), [Outcome::Skipped; 6]);
    assert!(world.peer.next_probe() <= moved.raw.after(Duration::from_secs(1)));
}

proptest! {
    /// Whatever comes back on a flow's socket, nothing panics.
    #[test]
    fn any_reply(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..10), length in 0_usize..400) {
        let mut world = World::new(None);
        let (_, flow, packet) = first(&mut world);
        let mut reply = world.reflect(&packet, 1001);
        for (at, octet) in &changes {
            let at = at.index(reply.len());
            reply[at] = *octet;
        }
        reply.resize(length, 1);
        world.receive(flow, &reply, 1003);
    }
}

/// Each answered probe is told once, with its own outcome: at once as long as the reflector has not shown that it follows up, then with
/// the next answer, and if that is lost, as soon as it is missed.
#[test]
fn answered_probes_wait_for_the_next_answer_but_not_for_ever() {
    let mut world = World::of_flows(1, None);
    let (mut told, mut sent) = (Vec::new(), 0);
    for ms in 0..4_700 {
        for (flow, packet) in world.send(ms) {
            sent += 1;
            if sent <= 3 {
                let reply = world.reflect(&packet, ms);
                world.receive(flow, &reply, ms + 1);
            }
        }
        told.extend(world.outcomes().into_iter().map(|outcome| (sent, ms, outcome)));
    }
    let [(1, first, _), (3, third, _), (4, missed, _)] = told[..] else { panic!("{told:?}") };
    assert!(told.iter().all(|(_, _, outcome)| *outcome == Outcome::InTime));
    assert_eq!(third - first, 2_000, "the second one waited for the third");
    assert_eq!(missed - third, 1_000 + 200 + 2, "an interval, the patience, and what the answer took");
}
