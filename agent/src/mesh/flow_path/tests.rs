use proptest::prelude::*;

use super::*;

const NO_LIMITS: Directed<Option<u8>> = Directed { forward: None, backward: None };

/// A path with a round-trip time in nanoseconds, probed once a second.
struct World {
    path: FlowPath,
    second: u64,
    changes: Vec<(u64, Changed)>,
}

impl World {
    fn new() -> World {
        World { path: FlowPath::default(), second: 0, changes: Vec::new() }
    }

    fn answer(&mut self, rtt_ns: u64, limits: Directed<Option<u8>>) {
        self.second += 1;
        let changed = self.path.on_answer(RawNanos(self.second * 1_000_000_000), rtt_ns, limits);
        self.changes.extend(changed.into_iter().map(|what| (self.second, what)));
    }

    fn run(&mut self, seconds: u64, mut rtt_ns: impl FnMut() -> u64) {
        (0..seconds).for_each(|_| self.answer(rtt_ns(), NO_LIMITS));
    }
}

/// A small generator (xorshift64*), so that every run draws the same jitter.
struct Noise(u64);

impl Noise {
    /// In (0, 1).
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    fn normal(&mut self) -> f64 {
        (2.0 * self.exponential()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

type Draw = fn(&mut Noise) -> f64;

/// Jitters in units of their own width: around the delay, on top of it, and with one packet in fifty far out.
const JITTERS: [Draw; 4] = [Noise::normal, Noise::exponential, Noise::uniform, |noise| {
    if noise.uniform() < 0.02 { 40.0 * noise.uniform() } else { noise.normal() }
}];

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "round-trip times of a test are positive and short")]
fn jittered(base_ms: f64, width_ms: f64, jitter: Draw, noise: &mut Noise) -> u64 {
    ((base_ms + width_ms * jitter(noise)).max(0.01) * 1e6) as u64
}

/// Jitter alone is no change: none in 40,000 windows of ten answers for each kind of jitter and each width, 4.6 days of one flow each.
#[test]
fn jitter_is_no_change() {
    let mut noise = Noise(0x1234_5678_9ABC_DEF1);
    for (number, jitter) in JITTERS.into_iter().enumerate() {
        for width_ms in [0.05, 0.3, 1.0, 5.0] {
            let mut world = World::new();
            world.run(400_000, || jittered(80.0, width_ms, jitter, &mut noise));
            assert_eq!(world.changes, [], "jitter {number}, {width_ms} ms");
        }
    }
}

/// A shift of 5 ms in either sense is told once, when the third window is over in which it is all that is seen.
#[test]
fn a_shift_is_told_once() {
    let mut noise = Noise(77);
    for (number, jitter) in JITTERS.into_iter().enumerate() {
        for (shift_ms, at_second) in [(5.0, 97_u64), (-5.0, 97), (5.0, 100), (5.0, 101)] {
            let mut world = World::new();
            world.run(at_second, || jittered(80.0, 0.5, jitter, &mut noise));
            world.run(500, || jittered(80.0 + shift_ms, 0.5, jitter, &mut noise));
            let [(second, Changed::Delay { before_s, after_s })] = world.changes[..] else {
                panic!("jitter {number}, {shift_ms} ms at {at_second}: {:?}", world.changes)
            };
            assert!(second > at_second + 20 && second <= at_second + 40, "{second}");
            assert!(((after_s - before_s) * 1e3 - shift_ms).abs() < 0.9, "jitter {number}: {before_s} {after_s}");
        }
    }
}

/// What counts is 0.5 ms, or 2 % of a long way.
#[test]
fn thresholds() {
    for (base_ms, shift_us, expected) in [(1, 490, 0), (1, 510, 1), (20, 490, 0), (20, 510, 1), (200, 3_900, 0), (200, 4_100, 1)]
    {
        let mut world = World::new();
        world.run(60, || base_ms * 1_000_000);
        world.run(100, || base_ms * 1_000_000 + shift_us * 1_000);
        assert_eq!(world.changes.len(), expected, "{base_ms} ms + {shift_us} us");
    }
}

/// A shift that does not last three windows is none, and a path that goes back and forth is told at most once in three windows.
#[test]
fn flapping_is_bounded() {
    for period in [1, 3, 7, 10, 20, 25, 30, 40, 95] {
        let mut world = World::new();
        world.run(60, || 80_000_000);
        for turn in 0..3_000 / period {
            world.run(period, || if turn % 2 == 0 { 95_000_000 } else { 80_000_000 });
        }
        let bound = 3_000 / 30;
        assert!(world.changes.len() <= bound, "{period}: {}", world.changes.len());
        assert_eq!(world.changes.is_empty(), period <= 25, "{period}: {}", world.changes.len());
    }
}

/// Another hop limit is a change once it came twice in a row; with the delay that comes with it, it is one change, not two.
#[test]
fn hops() {
    let limits = |forward: u8, backward: u8| Directed { forward: Some(forward), backward: Some(backward) };
    let mut world = World::new();
    (0..60).for_each(|_| world.answer(80_000_000, limits(245, 240)));
    assert_eq!(world.path.hops(), Directed { forward: Some(10), backward: Some(15) });
    world.answer(80_000_000, limits(244, 240));
    world.answer(80_000_000, limits(245, 240));
    world.answer(80_000_000, limits(244, 240));
    assert_eq!(world.changes, []);
    (0..200).for_each(|_| world.answer(95_000_000, limits(244, 240)));
    assert_eq!(world.changes, [(64, Changed::HopsForward { before: 10, after: 11 })]);
    (0..200).for_each(|_| world.answer(95_000_000, limits(241, 250)));
    let both = [Changed::HopsForward { before: 11, after: 14 }, Changed::HopsBackward { before: 15, after: 5 }];
    assert_eq!(world.changes[1..].iter().map(|(_, what)| *what).collect::<Vec<_>>(), both);
}

/// A hop limit that began elsewhere than at 255, or is not told, says nothing.
#[test]
fn other_hop_limits() {
    for limit in [None, Some(0), Some(64), Some(128)] {
        let mut world = World::new();
        world.answer(1_000_000, Directed { forward: limit, backward: Some(255) });
        assert_eq!(world.path.hops(), Directed { forward: None, backward: Some(0) });
    }
}

proptest! {
    /// Whatever answers come and whenever, memory is bounded, and delays tell of a change at most once in three windows.
    #[test]
    fn bounded(answers in proptest::collection::vec((0_u64..5_000, 0_u64..1 << 40, any::<[Option<u8>; 2]>()), 1..400)) {
        let (mut path, mut now_ms, mut shifts) = (FlowPath::default(), 0, 0);
        for (wait_ms, rtt_ns, [forward, backward]) in answers {
            now_ms += wait_ms;
            let changed = path.on_answer(RawNanos(now_ms * 1_000_000), rtt_ns, Directed { forward, backward });
            shifts += changed.iter().filter(|what| matches!(what, Changed::Delay { .. })).count() as u64;
            prop_assert!(shifts * 30_000 <= now_ms);
            prop_assert!(path.window.rtts_ns.len() <= ANSWERS_MAX && path.baseline.len() <= BASELINE_WINDOWS);
            prop_assert!(path.shifted.len() < WINDOWS);
        }
    }
}
