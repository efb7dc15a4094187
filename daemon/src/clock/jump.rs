//! What happened to the host between two readings of its clocks. Pure.
//!
//! Three of the kernel's clocks run at one rate, whatever chrony or ntpd do to it: `CLOCK_MONOTONIC`, `CLOCK_BOOTTIME` (the
//! same plus the time spent suspended) and the wall clock (the same plus what it was set to). So their differences are
//! constant, to the nanosecond, except for exactly what we look for: a change of boot minus monotonic is a suspension, a
//! change of wall minus monotonic is a step. Only the raw clock runs at its own rate; against it a jump shows only
//! beyond what slewing explains.

use lagmesh_model::time::{RawNanos, WallNanos};

/// All clocks of the host at one moment: read in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// `CLOCK_MONOTONIC_RAW` before the others.
    pub before: RawNanos,
    /// `CLOCK_REALTIME`.
    pub wall: WallNanos,
    /// `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// `CLOCK_MONOTONIC_RAW` after the others.
    pub after: RawNanos,
}

impl Sample {
    /// How long it took to read the clocks, in ns: the error of every comparison between them.
    pub fn width_ns(&self) -> u64 {
        self.after.0.abs_diff(self.before.0)
    }
}

/// What the clocks say about the time since the last sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing but time went by.
    Steady,
    /// Somebody set the wall clock, forwards or backwards. The measuring clock does not mind.
    WallStep {
        /// New wall time minus the expected one, in ns.
        by_ns: i64,
    },
    /// The measuring clock lost its thread: stamps from before and after must not be combined.
    NewEpoch {
        /// The jump against the raw clock, or the time suspended, in ns.
        by_ns: i64,
        /// Which comparison showed it.
        cause: Cause,
    },
}

/// Which comparison showed that the measuring clock lost its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Boot time went on while monotonic time stood still: the host slept.
    Suspended,
    /// Raw time and boot time moved apart faster than any slew: a migration, a restored snapshot, a broken clock source.
    Jumped,
    /// The raw clock ran backwards.
    Backwards,
}

/// Boot and wall time may move against monotonic time by so much before it means anything: far above the rounding of the
/// kernel, far below every real suspension and every step that an NTP daemon makes instead of a slew.
pub const EXACT_SLACK_NS: u64 = 1_000_000;
/// Raw and boot time may move apart by so much at once before it means anything.
pub const RAW_SLACK_NS: u64 = 50_000_000;
/// The fastest that a clock can be made to run against the raw one: the kernel takes 10 % (`adjtimex` tick), of which
/// chrony uses 8.3 % by default. It contains the 50 ppm by which quartz drifts.
pub const SLEW_MAX_PPM: u64 = 100_500;

/// Compares each sample with the one before it.
#[derive(Debug, Clone)]
pub struct JumpCheck {
    last: Sample,
}

impl JumpCheck {
    /// Starts from `first`.
    pub fn new(first: Sample) -> Self {
        Self { last: first }
    }

    /// Takes the next sample and says what happened since the last one. A wall step during a jump is part of the jump.
    pub fn step(&mut self, now: Sample) -> Step {
        let last = std::mem::replace(&mut self.last, now);
        // Each comparison is off by at most the time that either sample took.
        let error_ns = last.width_ns().saturating_add(now.width_ns());

        let raw_ns = now.before.since_ns(last.before);
        if raw_ns.saturating_add_unsigned(error_ns) < 0 {
            return Step::NewEpoch { by_ns: raw_ns, cause: Cause::Backwards };
        }
        let monotonic_ns = moved(last.monotonic_ns, now.monotonic_ns);
        let boot_ns = moved(last.boot_ns, now.boot_ns);

        let suspended_ns = boot_ns.wrapping_sub(monotonic_ns);
        if suspended_ns.unsigned_abs() > EXACT_SLACK_NS.saturating_add(error_ns) {
            return Step::NewEpoch { by_ns: suspended_ns, cause: Cause::Suspended };
        }
        let apart_ns = boot_ns.wrapping_sub(raw_ns);
        let slew_ns = raw_ns.unsigned_abs() / 1_000_000 * SLEW_MAX_PPM;
        if apart_ns.unsigned_abs() > slew_ns.saturating_add(RAW_SLACK_NS).saturating_add(error_ns) {
            return Step::NewEpoch { by_ns: apart_ns, cause: Cause::Jumped };
        }
        let stepped_ns = moved(last.wall.0, now.wall.0).wrapping_sub(monotonic_ns);
        if stepped_ns.unsigned_abs() > EXACT_SLACK_NS.saturating_add(error_ns) {
            return Step::WallStep { by_ns: stepped_ns };
        }
        Step::Steady
    }
}

fn moved(from_ns: u64, to_ns: u64) -> i64 {
    to_ns.wrapping_sub(from_ns).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000_000;
    const S: i64 = 1000 * MS;
    const HOUR: i64 = 3600 * S;

    /// By how much each clock moved between two samples, and how long the second sample took.
    struct Moved {
        raw: i64,
        monotonic: i64,
        boot: i64,
        wall: i64,
        width: i64,
    }

    /// All clocks went on by `ns`.
    fn steady(ns: i64) -> Moved {
        Moved { raw: ns, monotonic: ns, boot: ns, wall: ns, width: 300 }
    }

    fn check(moved: &Moved) -> Step {
        let (raw, monotonic_ns, boot_ns, wall) = (50_000 * S, 50_000 * S, 60_000 * S, 1_700_000_000 * S);
        let at = |ns: i64| ns.cast_unsigned();
        let first = Sample {
            before: RawNanos(at(raw)),
            wall: WallNanos(at(wall)),
            monotonic_ns: at(monotonic_ns),
            boot_ns: at(boot_ns),
            after: RawNanos(at(raw + 300)),
        };
        JumpCheck::new(first).step(Sample {
            before: RawNanos(at(raw + moved.raw)),
            wall: WallNanos(at(wall + moved.wall)),
            monotonic_ns: at(monotonic_ns + moved.monotonic),
            boot_ns: at(boot_ns + moved.boot),
            after: RawNanos(at(raw + moved.raw + moved.width)),
        })
    }

    /// What a host can go through, and what it must look like.
    #[test]
    fn table() {
        let epoch = |by_ns, cause| Step::NewEpoch { by_ns, cause };
        let slewed = |ns: i64, ppm: i64| {
            let moved = ns + ns / 1_000_000 * ppm;
            Moved { raw: ns, ..steady(moved) }
        };
        let table = [
            ("a second", steady(S), Step::Steady),
            ("a long pause between readings", steady(30 * HOUR), Step::Steady),
            ("quartz, 50 ppm", slewed(HOUR, 50), Step::Steady),
            ("chrony slewing as fast as it may", slewed(60 * S, 83_333), Step::Steady),
            ("the same, downwards", slewed(60 * S, -83_333), Step::Steady),
            ("suspended for an hour", Moved { boot: S + HOUR, wall: S + HOUR, ..steady(S) }, epoch(HOUR, Cause::Suspended)),
            (
                "suspended for 20 ms",
                Moved { boot: S + 20 * MS, wall: S + 20 * MS, ..steady(S) },
                epoch(20 * MS, Cause::Suspended),
            ),
            ("suspended, wall not yet set", Moved { boot: S + HOUR, ..steady(S) }, epoch(HOUR, Cause::Suspended)),
            (
                "restored elsewhere, raw starts anew",
                Moved { raw: -50_000 * S, ..steady(S) },
                epoch(-50_000 * S, Cause::Backwards),
            ),
            ("raw alone jumps ahead", Moved { raw: 3 * S, ..steady(S) }, epoch(-2 * S, Cause::Jumped)),
            ("raw alone stands still", Moved { raw: 0, ..steady(S) }, epoch(S, Cause::Jumped)),
            ("wall set ahead", Moved { wall: HOUR, ..steady(S) }, Step::WallStep { by_ns: HOUR - S }),
            ("wall set back", Moved { wall: S - HOUR, ..steady(S) }, Step::WallStep { by_ns: -HOUR }),
            ("leap second", Moved { wall: 0, ..steady(S) }, Step::WallStep { by_ns: -S }),
            ("wall set by 500 ms", Moved { wall: S + 500 * MS, ..steady(S) }, Step::WallStep { by_ns: 500 * MS }),
            (
                "interrupted for 2 s after the first raw reading",
                Moved { monotonic: 3 * S, boot: 3 * S, wall: 3 * S, width: 2 * S, ..steady(S) },
                Step::Steady,
            ),
            (
                "interrupted after the wall clock",
                Moved { monotonic: 3 * S, boot: 3 * S, width: 2 * S, ..steady(S) },
                Step::Steady,
            ),
            ("interrupted before the boot clock", Moved { boot: 3 * S, width: 2 * S, ..steady(S) }, Step::Steady),
            ("interrupted after the boot clock", Moved { width: 2 * S, ..steady(S) }, Step::Steady),
        ];
        for (what, moved, expected) in table {
            assert_eq!(check(&moved), expected, "{what}");
        }
    }

    /// After a jump the check goes on from where the clocks are now, and does not report it twice.
    #[test]
    fn a_jump_is_reported_once() {
        let at = |ns: u64, asleep_ns: u64| Sample {
            before: RawNanos(ns),
            wall: WallNanos(ns + asleep_ns),
            monotonic_ns: ns,
            boot_ns: ns + asleep_ns,
            after: RawNanos(ns),
        };
        let mut check = JumpCheck::new(at(1000, 0));
        let hour = HOUR.cast_unsigned();
        assert!(matches!(check.step(at(2000, hour)), Step::NewEpoch { .. }));
        assert_eq!(check.step(at(3000, hour)), Step::Steady);
    }

    proptest! {
        /// No slew that the kernel allows, over any gap, with any interruption while reading, looks like a jump.
        #[test]
        fn slewing_is_never_a_jump(gap_ms in 0i64..100_000_000, ppm in -100_000i64..=100_000, width in 0i64..5_000_000_000) {
            let raw = gap_ms * MS;
            let slewed = raw + gap_ms * ppm;
            prop_assert_eq!(check(&Moved { raw, width, ..steady(slewed) }), Step::Steady);
        }

        /// Every suspension beyond the slack is seen, however fast the clock is being slewed.
        #[test]
        fn every_suspension_is_seen(gap_ms in 0i64..100_000_000, ppm in -100_000i64..=100_000, asleep_ms in 2i64..100_000_000) {
            let slewed = gap_ms * MS + gap_ms * ppm;
            let boot = slewed + asleep_ms * MS;
            let step = check(&Moved { raw: gap_ms * MS, boot, wall: boot, ..steady(slewed) });
            prop_assert_eq!(step, Step::NewEpoch { by_ns: asleep_ms * MS, cause: Cause::Suspended });
        }
    }
}
