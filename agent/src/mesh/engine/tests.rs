use lagmesh_model::state::{ClaimSource, StampSource};

use super::*;
use crate::measurement::Probe;
use crate::mesh::testing::{announcement_record, fleet};

/// What was heard in one epoch of our clock is not said to have been heard in the next: the view is published without it.
#[test]
fn nothing_heard_outlives_an_epoch() {
    let now = Reading { epoch: Epoch(1), raw: RawNanos(1_000_000_000_000), wall: WallNanos(0) };
    let (region, agent): (RegionName, AgentName) = ("tokyo".parse().unwrap(), "tokyo-a".parse().unwrap());
    let mut engine = Engine::new(&Arc::new(fleet(&[])), &"oslo".parse().unwrap(), &"oslo-a".parse().unwrap(), None, now);
    engine.heard = engine.hearing.hear(&region, &agent, now.raw, vec![announcement_record("tokyo-1", 5)]);
    let view = engine.view(now.raw).unwrap();
    assert_eq!((view.heard.len(), view.announcements.len()), (1, 1));
    engine.due(now.raw, true, now);
    assert!(engine.view(now.raw).is_none());
    engine.due(now.raw, true, Reading { epoch: Epoch(2), ..now });
    let view = engine.view(now.raw).unwrap();
    assert_eq!((view.heard.len(), view.announcements.len(), view.clocks.len()), (0, 0, 0));
}

/// A flood of forged requests is one observation with its number, so that it crowds out no other.
#[test]
fn drops_are_told_together() {
    let now = reading(0);
    let mut engine = Engine::new(&Arc::new(fleet(&[])), &"oslo".parse().unwrap(), &"oslo-a".parse().unwrap(), None, now);
    let origin = Origin { source: "192.0.2.1:5".parse().unwrap(), hops: None, class: None };
    for _ in 0..1_000 {
        assert!(engine.check(&[0; 3], origin, Arrival { stamp: None, empty: None }, now).is_none());
    }
    assert_eq!(engine.observations().count(), 0);
    for told in [1, 0] {
        engine.tell_counts();
        let counts = engine.observations().filter(|said| matches!(said, Observation::MeshDropped("too-short", 1_000))).count();
        assert_eq!(counts, told);
    }
}

const WALL_AHEAD_NS: u64 = 1_700_000_000_000_000_000;

fn reading(us: u64) -> Reading {
    let raw = RawNanos(1_000_000_000_000 + us * 1_000);
    Reading { epoch: Epoch(1), raw, wall: WallNanos(raw.0 + WALL_AHEAD_NS) }
}

fn note(engine: &mut Engine, us: u64) -> Reading {
    let Reading { epoch, raw, wall } = reading(us);
    engine.note(Bracket { epoch, before: raw, wall, after: raw });
    reading(us)
}

/// Sends a probe at that moment; the kernel lets it go 100 us later.
fn probe(engine: &mut Engine, us: u64) -> Vec<u8> {
    let mut packet = [0; PACKET_MAX];
    note(engine, us - 1_000);
    let now = note(engine, us);
    let length = engine.request(0, 0, now, &mut packet);
    let sequence = engine.sent(0, 0, now);
    note(engine, us + 150);
    engine.on_kernel_stamp(0, 0, sequence, reading(us + 100).wall);
    packet[..length].to_vec()
}

fn engine_of(region: &str) -> Engine {
    let agent = format!("{region}-a").parse().unwrap();
    Engine::new(&Arc::new(fleet(&[])), &region.parse().unwrap(), &agent, None, reading(0))
}

/// A request of Oslo that was sent at `us` and is at Tokyo 20 ms later, by its kernel. It is read there 3 ms late; the answer is made
/// 50 us after that, leaves `leaving_us` later and is at Oslo after 20 ms, where it is read late, too.
fn exchange(oslo: &mut Engine, tokyo: &mut Engine, us: u64, is_empty_known: bool, leaving_us: u64) -> Vec<Probe> {
    let mut packet = probe(oslo, us);
    let empty = note(tokyo, us + 19_000).raw;
    let read = note(tokyo, us + 23_000);
    let origin = Origin { source: "127.0.0.1:45000".parse().unwrap(), hops: None, class: None };
    let arrival = Arrival { stamp: Some(reading(us + 20_100).wall), empty: is_empty_known.then_some(empty) };
    let accepted = tokyo.check(&packet, origin, arrival, read).unwrap();
    let now = note(tokyo, us + 23_050);
    let answered = tokyo.answer(&accepted, &mut packet, now).unwrap();
    note(tokyo, us + 23_050 + leaving_us + 10);
    tokyo.on_answer_left(&answered, reading(us + 23_050 + leaving_us).wall);
    let read = note(oslo, us + 48_000);
    let stamp = Some(reading(us + 43_050 + leaving_us).wall);
    oslo.on_packet(0, 0, Came { packet: &packet, stamp, hops: None, prompt: false }, read);
    let probes = oslo.observations().filter_map(|said| if let Observation::Probe(probe) = said { Some(probe) } else { None });
    probes.collect()
}

/// Both ends run late by milliseconds, but the kernels stamped in time: the round trip is that of the network, and so is the clock's
/// interval. One reflector that cannot tell when its socket was empty stamps by itself.
#[test]
fn kernel_stamps_take_lateness_out() {
    for (is_empty_known, expected_us) in [(true, 40_000), (false, 42_900)] {
        let (mut oslo, mut tokyo) = (engine_of("oslo"), engine_of("tokyo"));
        tokyo.found(0, "127.0.0.1:18620".parse().unwrap());
        probe(&mut tokyo, 1_000);
        let answered = exchange(&mut oslo, &mut tokyo, 1_000, is_empty_known, 0);
        assert_eq!((answered[0].rtt_ns, answered[0].stamps), (Some(expected_us * 1_000), Some(StampSource::Kernel)));
        let clock = oslo.peers()[&0].clock(reading(49_000).raw).unwrap();
        assert!(clock.offset.contains(0) && clock.offset.width_ns() < (expected_us * 1_000 + 20_000).cast_signed(), "{clock:?}");
    }
}

/// What a busy reflector takes from its own stamp to the leaving of its answer is told with the next one, and taken out: only the very
/// first round trip of a session has it in it.
#[test]
fn the_next_answer_takes_out_what_the_reflector_took() {
    let (mut oslo, mut tokyo) = (engine_of("oslo"), engine_of("tokyo"));
    tokyo.found(0, "127.0.0.1:18620".parse().unwrap());
    probe(&mut tokyo, 1_000);
    let told: Vec<_> = [1_000, 61_000, 121_000]
        .iter()
        .flat_map(|us| exchange(&mut oslo, &mut tokyo, *us, true, 400))
        .map(|probe| (probe.rtt_ns, probe.stamps, probe.at.raw))
        .collect();
    let at = |us: u64| reading(us).raw;
    assert_eq!(
        told,
        [
            (Some(40_400_000), Some(StampSource::Kernel), at(49_000)),
            (Some(40_000_000), Some(StampSource::KernelBothEnds), at(109_000)),
        ]
    );
}

/// Each answer that is due tells of the reflector's wall clock, once a second and no more; with the clock's interval that is how far the
/// two wall clocks are apart. A request that tells of one is not believed: it may have been recorded.
#[test]
fn wall_clocks_are_told_in_answers() {
    let (mut oslo, mut tokyo) = (engine_of("oslo"), engine_of("tokyo"));
    let agent: AgentName = "tokyo-a".parse().unwrap();
    tokyo.found(0, "127.0.0.1:18620".parse().unwrap());
    let claim = Some(ClockClaim::Synchronized { error_ns: 7, source: ClaimSource::ClockBound });
    tokyo.claim(claim);
    let mut heard_at = |us: u64, oslo: &mut Engine| {
        exchange(oslo, &mut tokyo, us, true, 0);
        let view = oslo.view(reading(us + 48_000).raw).unwrap();
        let (offset, heard) = view.wall_offset(&agent, Epoch(1)).unwrap();
        assert!(offset.contains(0) && offset.width_ns() < 50_000_000, "{offset:?}");
        assert_eq!((heard.peer.claim, heard.own.claim), (claim, None));
        assert!(view.wall_offset(&agent, Epoch(2)).is_none());
        heard.at
    };
    let first = heard_at(1_000, &mut oslo);
    assert_eq!(first, reading(49_000).raw);
    assert_eq!(heard_at(500_000, &mut oslo), first);
    assert_eq!(heard_at(1_030_000, &mut oslo), reading(1_078_000).raw);
    let wall = oslo.wall.unwrap();
    let (region, at) = ("tokyo".parse().unwrap(), reading(1_079_000).raw);
    let before = oslo.hearing.view.walls.clone();
    oslo.hearing.hear(&region, &agent, at, vec![Record::Wall(WallClock { epoch: Epoch(9), ..wall })]);
    assert_eq!(oslo.hearing.view.walls, before);
}

/// What is beyond the plan is not sent, each probe of it has its fate, and nobody else is accused.
#[test]
fn beyond_the_plan_nothing_is_sent() {
    let now = Reading { epoch: Epoch(1), raw: RawNanos(1_000_000_000_000), wall: WallNanos(0) };
    let mut engine = Engine::new(&Arc::new(fleet(&[])), &"oslo".parse().unwrap(), &"oslo-a".parse().unwrap(), None, now);
    engine.budget = Budget::new(0, Duration::from_secs(1), now.raw);
    let later = now.after(Duration::from_millis(400));
    let due = engine.peers()[&0].flows();
    assert_eq!(engine.due(later.raw, true, later), []);
    let fates: Vec<Outcome> = engine
        .observations()
        .filter_map(|said| if let Observation::Probe(probe) = said { Some(probe.outcome) } else { None })
        .collect();
    assert!(!fates.is_empty() && fates.len() < due && fates.iter().all(|fate| *fate == Outcome::HeldBack), "{fates:?}");
    assert!(!engine.peers()[&0].is_alive());
}
