use lagmesh_model::time::Epoch;
use proptest::prelude::*;

use super::*;

/// The measuring clock shows the truth; the wall clock is so far ahead of it.
const AHEAD_NS: u64 = 1_700_000_000_000_000_000;
const START_NS: u64 = 1_000_000_000_000;

/// A wall clock that steps once and is slewed besides.
#[derive(Debug, Clone, Copy)]
struct Wall {
    step_at_ns: u64,
    step_ns: i64,
    slew_ppb: i64,
}

impl Wall {
    const STEADY: Wall = Wall { step_at_ns: u64::MAX, step_ns: 0, slew_ppb: 0 };

    fn at(self, raw_ns: u64) -> WallNanos {
        let slewed = (raw_ns - START_NS).cast_signed() * self.slew_ppb / 1_000_000_000;
        let stepped = if raw_ns >= self.step_at_ns { self.step_ns } else { 0 };
        WallNanos((AHEAD_NS + raw_ns).checked_add_signed(slewed + stepped).unwrap())
    }

    /// A reading that begins at `raw_ns` and takes `width_ns`, the wall clock being read at `share` percent of that.
    fn read(self, raw_ns: u64, width_ns: u64, share: u64) -> Bracket {
        let wall = self.at(raw_ns + width_ns * share / 100);
        Bracket { epoch: Epoch(1), before: RawNanos(raw_ns), wall, after: RawNanos(raw_ns + width_ns) }
    }
}

fn raw(after_ns: u64) -> RawNanos {
    RawNanos(START_NS + after_ns)
}

fn reading(after_ns: u64) -> Bracket {
    Wall::STEADY.read(START_NS + after_ns, 0, 0)
}

fn stamp(after_ns: u64) -> WallNanos {
    Wall::STEADY.at(START_NS + after_ns)
}

/// A clock whose kernel has just been shown to stamp by it.
fn proven(wall: Wall) -> StampClock {
    let mut clock = StampClock::default();
    clock.note(wall.read(START_NS, 100, 50));
    clock.note(wall.read(START_NS + 20_000, 100, 50));
    clock.sent(raw(0), wall.at(START_NS + 10_000)).unwrap();
    clock
}

proptest! {
    /// The error is honest whatever the wall clock does: one step of any size at any moment between the readings, slewing besides,
    /// readings of any width. A stamp that is used is off by no more than its error, and that is bounded.
    #[test]
    fn the_error_is_honest(
        happened_ns in 1_000_000..2_000_000_000_u64,
        later_ns in 0..3_000_000_000_u64,
        step_permille in 0..1000_u64,
        step_ns in prop_oneof![-2_000_000_000..2_000_000_000_i64, -100_000..100_000_i64, Just(0)],
        slew_ppb in -500_000..500_000_i64,
        widths in (0..30_000_u64, 0..100_u64, 0..30_000_u64, 0..100_u64),
    ) {
        let after_ns = happened_ns + later_ns;
        let step_at_ns = START_NS + 30_000 + (after_ns - 30_000) * step_permille / 1000;
        let wall = Wall { step_at_ns, step_ns, slew_ppb };
        let before = wall.read(START_NS, widths.0, widths.1);
        let after = wall.read(START_NS + after_ns, widths.2, widths.3);
        // A step and a slew in opposite directions may hide each other; then the slew bounds what the step can do.
        let hidden_ns = after_ns * slew_ppb.unsigned_abs() / 1_000_000_000;
        if let Ok(converted) = convert(&before, raw(0), wall.at(START_NS + happened_ns), &after) {
            let off_ns = converted.at.since_ns(raw(happened_ns)).unsigned_abs();
            prop_assert!(off_ns <= converted.error_ns + hidden_ns + 3, "{off_ns} {converted:?}");
            prop_assert!(converted.error_ns <= ERROR_MAX_NS);
        }
    }

    /// A step beyond the tolerance is refused whenever it falls between the readings, never told as a time.
    #[test]
    fn a_step_is_refused(
        happened_ns in 30_000..1_000_000_000_u64, later_ns in 0..1_000_000_000_u64, step_permille in 0..1000_u64,
        step_ns in (ERROR_MAX_NS.cast_signed() + 1..1_000_000_000_000_i64), back: bool,
    ) {
        let after_ns = happened_ns + later_ns + 1;
        let step_at_ns = START_NS + 20_200 + (after_ns - 20_200) * step_permille / 1000;
        let wall = Wall { step_at_ns, step_ns: if back { -step_ns } else { step_ns }, slew_ppb: 0 };
        let (before, after) = (wall.read(START_NS, 0, 0), wall.read(START_NS + after_ns, 0, 0));
        let happened = wall.at(START_NS + happened_ns);
        prop_assert_eq!(convert(&before, raw(0), happened, &after), Err(Refusal::Moved));
        let mut clock = proven(wall);
        clock.note(wall.read(START_NS + after_ns, 0, 0));
        prop_assert!(clock.received(raw(0), happened).is_err());
    }

    /// What is received is never later than user space had it, never before its earliest moment, and never earlier than the truth; what is
    /// sent is never before user space asked for it and never later than the truth.
    #[test]
    fn safe_sides(
        asked_ns in 0..100_000_u64, took_ns in 0..100_000_u64, waited_ns in 0..500_000_000_u64, slew_ppb in -50_000..50_000_i64,
        width_ns in 0..5_000_u64, share in 0..100_u64,
    ) {
        let wall = Wall { slew_ppb, ..Wall::STEADY };
        let mut clock = proven(wall);
        let (asked_ns, happened_ns) = (30_000 + asked_ns, 30_000 + asked_ns + took_ns);
        clock.note(wall.read(START_NS + asked_ns, width_ns, share));
        let known_ns = happened_ns + width_ns + waited_ns;
        clock.note(wall.read(START_NS + known_ns, width_ns, share));
        let kernel = wall.at(START_NS + happened_ns);
        let received = clock.received(raw(asked_ns), kernel).unwrap();
        prop_assert!(raw(happened_ns) <= received && received <= raw(known_ns), "{received:?}");
        let sent = clock.sent(raw(asked_ns), kernel).unwrap();
        prop_assert!(raw(asked_ns) <= sent && sent <= raw(happened_ns), "{sent:?}");
    }
}

/// Each kind of impossible stamp is refused by its name.
#[test]
fn refusals() {
    let (before, after) = (reading(0), reading(10_000_000));
    let at = |stamp| convert(&before, raw(2_000_000), stamp, &after).map(|converted| converted.at);
    assert_eq!(at(stamp(5_000_000)), Ok(raw(5_000_000)));
    assert_eq!(at(stamp(10_000_001)), Err(Refusal::Future));
    assert_eq!(at(stamp(1_999_999)), Err(Refusal::TooEarly));
    assert_eq!(at(WallNanos(0)), Err(Refusal::TooEarly));
    assert_eq!(convert(&before, raw(0), stamp(5), &reading(10_000_000_001)), Err(Refusal::TooOld));
    let other = Bracket { epoch: Epoch(2), ..after };
    assert_eq!(convert(&before, raw(0), stamp(5), &other), Err(Refusal::Moved));
}

/// Kernel stamps are believed only once transmit stamps have shown whose clock they are on, and no longer once one contradicts.
#[test]
fn a_kernel_of_another_clock() {
    let mut clock = StampClock::default();
    clock.note(reading(0));
    clock.note(reading(50_000_000));
    assert_eq!(clock.received(raw(0), stamp(30_000_000)), Err(Refusal::Unproven));
    // A transmit stamp that is read long after the send proves nothing.
    assert_eq!(clock.sent(raw(40_000_000), stamp(45_000_000)), Err(Refusal::Unproven));
    clock.note(reading(50_010_000));
    assert_eq!(clock.sent(raw(50_000_000), stamp(50_005_000)), Ok(raw(50_005_000)));
    assert_eq!(clock.received(raw(0), stamp(30_000_000)), Ok(raw(30_000_000)));
    // By a clock that is 5 ms behind a packet comes 5 ms early, which is possible; that it leaves before it was sent is not.
    clock.note(reading(80_000_000));
    clock.note(reading(80_010_000));
    assert_eq!(clock.received(raw(50_000_000), stamp(65_000_000)), Ok(raw(65_000_000)));
    assert_eq!(clock.sent(raw(80_000_000), stamp(75_000_000)), Err(Refusal::TooEarly));
    assert_eq!(clock.received(raw(50_000_000), stamp(65_000_000)), Err(Refusal::Unproven));
}

/// A step that was seen leaves nothing to convert with from before it, even if the clock was set back to where it was.
#[test]
fn a_step_and_back() {
    let mut clock = proven(Wall::STEADY);
    clock.note(reading(30_000_000));
    let away = Bracket { wall: stamp(900_000_000), ..reading(60_000_000) };
    clock.note(away);
    clock.note(reading(90_000_000));
    assert_eq!(clock.received(raw(30_000_000), stamp(40_000_000)), Err(Refusal::Moved));
}

/// What waited for longer than readings are kept is stamped by user space, and their number is bounded.
#[test]
fn too_long_ago() {
    let mut clock = proven(Wall::STEADY);
    for n in 1..2_000 {
        clock.note(reading(n * 20_000_000));
    }
    assert_eq!(clock.readings.len(), READINGS_MAX);
    assert_eq!(clock.received(raw(20_000_000), stamp(39_000_000_000)), Err(Refusal::TooOld));
    assert_eq!(clock.received(raw(39_000_000_000), stamp(39_500_000_000)), Ok(raw(39_500_000_000)));
    // A packet that waited for 15 ms to be sent, or a stamp of another packet.
    assert_eq!(clock.sent(raw(39_900_000_000), stamp(39_915_000_000)), Err(Refusal::TooOld));
}

const SENT_MAX: usize = 64;

/// A transmit stamp finds its packet, in any order, across the end of the numbers, and when the kernel has counted a failed send.
#[test]
fn ids() {
    let mut ids = SendIds::new(SENT_MAX);
    assert_eq!(ids.of(0), None);
    for sequence in [Some(u32::MAX), None, Some(0)] {
        ids.sent(sequence);
    }
    assert_eq!([2, 0, 1].map(|id| ids.of(id)), [Some(0), Some(u32::MAX), None]);
    ids.sent(Some(1));
    assert_eq!(ids.of(5), Some(1));
    ids.sent(Some(2));
    assert_eq!([6, 5].map(|id| ids.of(id)), [Some(2), Some(1)]);
    for _ in 0..SENT_MAX {
        ids.sent(None);
    }
    assert_eq!((ids.of(6), ids.recent.len()), (None, SENT_MAX), "forgotten");
}

/// Stamps are doubted while nothing proves them and for some time after one was refused; that one came before the first proof says
/// nothing against those after it.
#[test]
fn doubts() {
    let mut clock = StampClock::default();
    clock.note(reading(0));
    clock.note(reading(20_000_000));
    clock.received(raw(0), stamp(10_000_000)).unwrap_err();
    assert!(!clock.is_believed(raw(20_000_000)));
    clock.note(reading(20_020_000));
    clock.sent(raw(20_000_000), stamp(20_010_000)).unwrap();
    assert!(clock.is_believed(raw(20_020_000)));
    clock.received(raw(20_000_000), stamp(30_000_000)).unwrap_err();
    assert!(!clock.is_believed(raw(20_020_000 + 10_000_000_000)));
    assert!(clock.is_believed(raw(20_020_001 + 10_000_000_000)));
}
