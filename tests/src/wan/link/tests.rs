use proptest::prelude::*;

use super::super::packet::tests::udp;
use super::super::path::PathSettings;
use super::*;

const MS: i64 = 1_000_000;

fn packet(source_port: u16, length: usize) -> Header {
    Header::parse(&udp(false, (source_port, 862), &vec![0; length - 28])).unwrap()
}

/// Sends `count` packets of one flow, one every `every_ns`; how long each took, `None` for those that did not arrive.
fn send(settings: &LinkSettings, count: i64, every_ns: i64) -> Vec<Option<i64>> {
    settings.check().unwrap();
    let mut link = Link::new(settings.clone(), 5);
    let one = |number: i64| match link.decide(&packet(5000, 100), &BTreeSet::new(), Real(number * every_ns)).arrival {
        Arrival::At { at, .. } => Some(at - Real(number * every_ns)),
        Arrival::Never(_) => None,
    };
    (0..count).map(one).collect()
}

fn arrived(settings: &LinkSettings, count: i64, every_ns: i64) -> Vec<i64> {
    let mut delays: Vec<i64> = send(settings, count, every_ns).into_iter().flatten().collect();
    delays.sort_unstable();
    delays
}

/// A link with a delay and nothing else takes exactly that long, always.
#[test]
fn delay_is_exact() {
    assert!(send(&LinkSettings::delayed(30 * MS), 100, MS).iter().all(|delay| *delay == Some(30 * MS)));
}

/// Jitter follows its distribution: its quartiles are where they belong, and only the normal one goes below the delay, never below 0.
#[test]
fn jitter_follows_its_distribution() {
    let quartiles = |jitter, delay_ns| {
        let delays = arrived(&LinkSettings { delay_ns, jitter, jitter_reorders: true, ..LinkSettings::default() }, 40_000, MS);
        [delays[0], delays[10_000], delays[20_000], delays[30_000]]
    };
    let near = |got: [i64; 4], wanted: [f64; 3], least: i64| {
        assert!(got[0] >= least, "{got:?}");
        for (got, wanted) in got[1..].iter().zip(wanted) {
            let wanted = wanted * MS as f64;
            assert!((*got as f64 - wanted).abs() < 0.03 * MS as f64, "{got} {wanted}");
        }
    };
    near(quartiles(Jitter::Uniform { width_ns: MS }, 10 * MS), [10.25, 10.5, 10.75], 10 * MS);
    near(quartiles(Jitter::Normal { sd_ns: MS }, 10 * MS), [10.0 - 0.6745, 10.0, 10.6745], 0);
    near(quartiles(Jitter::Exponential { mean_ns: MS }, 10 * MS), [10.2877, 10.6931, 11.3863], 10 * MS);
    // Quantile p of Lomax with shape 2: (1-p)^(-1/2) - 1.
    near(quartiles(Jitter::Pareto { scale_ns: MS, shape: 2.0 }, 10 * MS), [10.1547, 10.4142, 11.0], 10 * MS);
    assert_eq!(quartiles(Jitter::Normal { sd_ns: 5 * MS }, MS)[0], 0, "a normal one is cut off at no time at all");
}

/// Shares of packets are what was asked for, within four standard deviations.
#[test]
fn shares() {
    let count = 20_000;
    let near = |got: usize, share: f64| {
        let (wanted, deviation) = (share * f64::from(count), (f64::from(count) * share * (1.0 - share)).sqrt());
        assert!((got as f64 - wanted).abs() <= 4.0 * deviation, "{got} instead of {wanted} +- {deviation}");
    };
    let count_of = |settings: &LinkSettings, what: fn(&Verdict) -> bool| {
        let mut link = Link::new(settings.clone(), 9);
        (0..count).filter(|n| what(&link.decide(&packet(5000, 100), &BTreeSet::new(), Real(i64::from(*n) * MS)))).count()
    };
    for share in [0.0, 0.01, 0.3, 1.0] {
        let settings = LinkSettings { loss: share, ..LinkSettings::default() };
        near(count_of(&settings, |verdict| verdict.arrival == Arrival::Never(Fate::Lost)), share);
        let settings = LinkSettings { duplicate: share, ..LinkSettings::default() };
        near(count_of(&settings, |verdict| matches!(verdict.arrival, Arrival::At { twice: true, .. })), share);
        let settings = LinkSettings { delay_ns: 10 * MS, reorder: share, reorder_ahead_ns: 4 * MS, ..LinkSettings::default() };
        near(send(&settings, i64::from(count), MS).iter().filter(|delay| **delay == Some(6 * MS)).count(), share);
    }
}

/// Two losses, of the link and of the path, come together as independent ones do; a dead path passes nothing.
#[test]
fn paths() {
    let on_path = PathSettings { extra_delay_ns: 2 * MS, loss: 0.5, dead: false };
    let dead = PathSettings { dead: true, ..PathSettings::default() };
    let settings =
        LinkSettings { delay_ns: MS, loss: 0.5, paths: vec![PathSettings::default(), on_path, dead], ..Default::default() };
    let mut link = Link::new(settings, 3);
    let mut by_path = [(0_u32, 0_u32); 3];
    for source_port in 10_000..20_000 {
        let verdict = link.decide(&packet(source_port, 100), &BTreeSet::new(), Real(0));
        let counts = &mut by_path[usize::from(verdict.path)];
        counts.0 += 1;
        match (verdict.path, verdict.arrival) {
            (0, Arrival::At { at, .. }) => assert_eq!(at, Real(MS)),
            (1, Arrival::At { at, .. }) => assert_eq!(at, Real(3 * MS)),
            (2, Arrival::At { .. }) => panic!("a dead path passes nothing"),
            (_, Arrival::Never(_)) => counts.1 += 1,
            _ => unreachable!(),
        }
    }
    for ((seen, lost), share) in by_path.into_iter().zip([0.5, 0.75, 1.0]) {
        assert!(seen.abs_diff(3333) < 200, "flows spread evenly: {by_path:?}");
        assert!((f64::from(lost) / f64::from(seen) - share).abs() < 0.04, "{by_path:?}");
    }
}

/// A flow stays on its path until the salt changes; then about every flow but one in k takes another one.
#[test]
fn a_route_shift() {
    let settings = LinkSettings { paths: vec![PathSettings::default(); 4], ..LinkSettings::default() };
    let mut link = Link::new(settings.clone(), 3);
    let paths = |link: &mut Link| -> Vec<u8> {
        (0..1000).map(|port| link.decide(&packet(port, 100), &BTreeSet::new(), Real(0)).path).collect()
    };
    let before = paths(&mut link);
    assert_eq!(before, paths(&mut link));
    link.set(LinkSettings { path_salt: 1, ..settings });
    let moved = before.iter().zip(paths(&mut link)).filter(|(before, after)| *before != after).count();
    assert!((700..800).contains(&moved), "{moved}");
}

/// Each cut holds back what it names and nothing else.
#[test]
fn cuts() {
    let ports = BTreeSet::from([5432]);
    let probe = packet(5432, 100);
    let replication = [(40_000, 5432), (5432, 40_000)].map(|ports| Header { protocol: TCP, ports: Some(ports), ..probe });
    let http = Header { protocol: TCP, ports: Some((40_000, 80)), ..probe };
    let held = |cut: Cut| [probe, replication[0], replication[1], http].map(|packet| cut.holds(&packet, &ports));
    assert_eq!(held(Cut::None), [false; 4]);
    assert_eq!(held(Cut::All), [true; 4]);
    assert_eq!(held(Cut::Replication), [false, true, true, false]);
    assert_eq!(held(Cut::Mesh), [true, false, false, true]);
}

/// What is too long or has made too many hops does not pass; what just fits does.
#[test]
fn too_long_and_too_far() {
    let mut link = Link::new(LinkSettings { mtu_bytes: Some(1300), hops: 63, ..LinkSettings::default() }, 1);
    let mut arrival = |packet: &Header| link.decide(packet, &BTreeSet::new(), Real(0)).arrival;
    assert_eq!(arrival(&packet(1, 1300)), Arrival::At { at: Real(0), twice: false });
    assert_eq!(arrival(&packet(1, 1301)), Arrival::Never(Fate::TooBig));
    assert_eq!(arrival(&Header { hop_limit: 63, ..packet(1, 100) }), Arrival::Never(Fate::HopLimit));
}

proptest! {
    /// No more than the bandwidth passes in any time, the queue never holds more than it may, and what it drops did not fit.
    #[test]
    fn bandwidth_is_never_exceeded(
        bandwidth_bps in 1_000_000_u64..20_000_000, queue_bytes in 2_000_u64..20_000,
        packets in prop::collection::vec((0_i64..2_000_000, 60_usize..1500), 1..200),
    ) {
        let mut link = Link::new(LinkSettings { bandwidth_bps: Some(bandwidth_bps), queue_bytes, ..LinkSettings::default() }, 1);
        let (mut now, mut out) = (Real(0), Vec::new());
        for (pause_ns, length) in packets {
            now = now + pause_ns;
            match link.decide(&packet(1, length), &BTreeSet::new(), now).arrival {
                Arrival::At { at, .. } => {
                    let waited_bytes = (at - now) as f64 * bandwidth_bps as f64 / 8e9;
                    prop_assert!(waited_bytes <= queue_bytes as f64 + 2.0);
                    out.push((at, length));
                }
                Arrival::Never(fate) => {
                    prop_assert_eq!(fate, Fate::QueueFull);
                    let (last, _) = out.last().copied().unwrap();
                    prop_assert!((last - now) as f64 * bandwidth_bps as f64 / 8e9 + length as f64 > queue_bytes as f64 - 2.0);
                }
            }
        }
        for pair in out.windows(2) {
            let needs_ns = pair[1].1 as f64 * 8e9 / bandwidth_bps as f64;
            prop_assert!((pair[1].0 - pair[0].0) as f64 >= needs_ns - 1.0);
        }
    }

    /// Without leave to reorder, the packets of one flow arrive in the order in which they left, whatever jitter draws.
    #[test]
    fn flows_stay_in_order(seed: u64, pauses in prop::collection::vec((0_i64..3_000_000, 0_u16..4), 1..200)) {
        let jitter = Jitter::Pareto { scale_ns: 5 * MS, shape: 1.1 };
        let mut link = Link::new(LinkSettings { delay_ns: MS, jitter, ..LinkSettings::default() }, seed);
        let (mut now, mut last) = (Real(0), [Real(0); 4]);
        for (pause_ns, flow) in pauses {
            now = now + pause_ns;
            let Arrival::At { at, .. } = link.decide(&packet(flow, 100), &BTreeSet::new(), now).arrival else { panic!() };
            prop_assert!(at - now >= MS && at >= last[usize::from(flow)]);
            last[usize::from(flow)] = at;
        }
    }

    /// The same seed and the same packets give the same verdicts.
    #[test]
    fn repeats(seed: u64) {
        let settings = LinkSettings {
            loss: 0.2, duplicate: 0.2, reorder: 0.2, reorder_ahead_ns: MS, delay_ns: 5 * MS, jitter: Jitter::Exponential { mean_ns: MS },
            ..LinkSettings::default()
        };
        let run = || {
            let mut link = Link::new(settings.clone(), seed);
            (0..100).map(|n| link.decide(&packet(1, 100), &BTreeSet::new(), Real(n * MS))).collect::<Vec<Verdict>>()
        };
        prop_assert_eq!(run(), run());
    }
}

/// Flows do not wait for each other, and more of them than are kept in order still pass.
#[test]
fn flows_are_independent() {
    let settings = LinkSettings {
        paths: vec![PathSettings::default(), PathSettings { extra_delay_ns: MS, ..Default::default() }],
        ..Default::default()
    };
    let mut link = Link::new(settings, 1);
    for source_port in 0..40_000 {
        let verdict = link.decide(&packet(source_port, 100), &BTreeSet::new(), Real(0));
        assert_eq!(verdict.arrival, Arrival::At { at: Real(i64::from(verdict.path) * MS), twice: false });
    }
    assert!(link.last_arrival.len() <= MOST_FLOWS);
}
