//! How the machine's own clocks stand to the real clock. One for the whole process, so that the truths of two hosts are told on the
//! same readings.

use std::sync::{Mutex, OnceLock, PoisonError};

use nix::time::ClockId;

use crate::real::{Real, read_ns};

/// How often a difference is read; the narrowest reading counts.
const ATTEMPTS: usize = 9;
/// How many samples are kept; beyond that every second one goes.
const SAMPLES_MAX: usize = 4096;

/// The machine's clocks at one moment, each as how far it is ahead of the real clock [ns].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: Real,
    /// `CLOCK_REALTIME`; constant unless somebody steps the machine's clock.
    pub wall_ns: i64,
    /// `CLOCK_BOOTTIME`; constant unless the machine sleeps.
    pub boot_ns: i64,
    /// `CLOCK_MONOTONIC_RAW`; moves slowly if an NTP daemon turns the machine's clock.
    pub raw_ns: i64,
}

static SAMPLES: OnceLock<Mutex<Vec<Sample>>> = OnceLock::new();

/// Reads the machine's clocks, and remembers it for what is asked later about this time.
pub fn observe() -> Sample {
    let mut samples = SAMPLES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let sample = Sample {
        at: Real::now(),
        wall_ns: ahead_ns(ClockId::CLOCK_REALTIME),
        boot_ns: ahead_ns(ClockId::CLOCK_BOOTTIME),
        raw_ns: ahead_ns(ClockId::CLOCK_MONOTONIC_RAW),
    };
    if samples.len() >= SAMPLES_MAX {
        let mut second = false;
        samples.retain(|_| {
            second = !second;
            second
        });
    }
    samples.push(sample);
    sample
}

/// How the machine's clocks stood at some moment: wall and boot clock as they did first, the raw clock by its neighbouring samples.
pub fn at(at: Real) -> Sample {
    if SAMPLES.get().is_none() {
        observe();
    }
    let samples = SAMPLES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let first = samples[0];
    Sample { at, raw_ns: raw_between(&samples, at), ..first }
}

/// How far the machine's own wall clock has been stepped since it was first looked at [ns]. Every truth about wall clocks is off by
/// so much: a run in which this is more than a microsecond or so is not to be believed.
pub fn wall_moved_ns() -> i64 {
    let newest = observe();
    newest.wall_ns - at(newest.at).wall_ns
}

/// Straight between two samples; level before the first and after the last.
fn raw_between(samples: &[Sample], at: Real) -> i64 {
    let next = samples.partition_point(|sample| sample.at <= at);
    match (next.checked_sub(1).and_then(|last| samples.get(last)), samples.get(next)) {
        (Some(before), Some(after)) => {
            let (part, whole) = (i128::from(at - before.at), i128::from(after.at - before.at));
            let moved = i128::from(after.raw_ns - before.raw_ns) * part / whole;
            before.raw_ns + i64::try_from(moved).unwrap_or_default()
        }
        (Some(only), None) | (None, Some(only)) => only.raw_ns,
        (None, None) => 0,
    }
}

fn ahead_ns(clock: ClockId) -> i64 {
    let mut narrowest = (i64::MAX, 0);
    for _ in 0..ATTEMPTS {
        let before = Real::now();
        let shown_ns = read_ns(clock);
        let width_ns = Real::now() - before;
        narrowest = narrowest.min((width_ns, shown_ns - (before.0 + width_ns / 2)));
    }
    narrowest.1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between two samples the raw clock moves evenly; outside it stands where it was last seen.
    #[test]
    fn raw_between_samples() {
        let sample = |at_ns, raw_ns| Sample { at: Real(at_ns), wall_ns: 0, boot_ns: 0, raw_ns };
        let samples = [sample(100, 10), sample(200, 30), sample(300, 20)];
        assert_eq!([50, 100, 150, 200, 250, 400].map(|at_ns| raw_between(&samples, Real(at_ns))), [10, 10, 20, 30, 25, 20]);
    }

    /// The machine's clocks are read to well under a millisecond, and its wall clock stands still against the real one.
    #[test]
    fn reads_the_machine() {
        let sample = observe();
        // Whoever is held up between two readings reads again.
        let off_ns = (0..100).map(|_| (read_ns(ClockId::CLOCK_REALTIME) - Real::now().0 - sample.wall_ns).abs()).min().unwrap();
        assert!(off_ns < 1_000_000, "{sample:?} {off_ns}");
        assert!(wall_moved_ns().abs() < 1_000_000);
    }
}
