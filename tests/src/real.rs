//! The machine's one real clock, on which every truth of the testbed stands: `CLOCK_MONOTONIC` of the host, outside every time
//! namespace. The only file of the testbed that reads a clock.

use std::ops::{Add, Sub};

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

/// A moment on the real clock [ns].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Real(pub i64);

impl Real {
    /// Now.
    pub fn now() -> Real {
        Real(read_ns(ClockId::CLOCK_MONOTONIC))
    }
}

impl Sub for Real {
    type Output = i64;

    /// The time between two moments [ns].
    fn sub(self, earlier: Real) -> i64 {
        self.0 - earlier.0
    }
}

impl Add<i64> for Real {
    type Output = Real;

    /// A moment some nanoseconds later.
    fn add(self, ns: i64) -> Real {
        Real(self.0 + ns)
    }
}

/// One of the host's clocks, as it truly is [ns].
///
/// # Panics
/// If the kernel lacks the clock (Linux has all four since 2.6.39).
pub fn read_ns(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("Linux has the four clocks since 2.6.39");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

/// The processor time of a process with all its threads, those that ended too, in user space and in the kernel [ns].
///
/// # Errors
/// If there is no such process.
pub fn cpu_ns(pid: Pid) -> nix::Result<i64> {
    let time = clock_gettime(clock_getcpuclockid(pid)?)?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}

/// How far the wall clock is ahead of the real clock now [ns]: what brings a kernel stamp onto the real clock. The narrowest of a few
/// bracketed readings, good to well under a microsecond unless the host stalls.
pub fn wall_minus_real_ns() -> i64 {
    let mut best = (i64::MAX, 0);
    for _ in 0..3 {
        let before = Real::now();
        let wall = read_ns(ClockId::CLOCK_REALTIME);
        let after = Real::now();
        best = best.min((after - before, wall - (before.0 + (after - before) / 2)));
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real clock runs on, and a wall stamp taken between two readings lies between them once it is converted.
    #[test]
    fn wall_stamps_come_onto_the_real_clock() {
        let before = Real::now();
        let wall = read_ns(ClockId::CLOCK_REALTIME);
        let after = Real::now();
        let converted = Real(wall - wall_minus_real_ns());
        assert!(before <= after);
        assert!(converted - before > -1_000_000 && after - converted > -1_000_000, "{before:?} {converted:?} {after:?}");
    }
    /// A process that works uses processor time, and one that does not exist has none to tell.
    #[test]
    fn processor_time() {
        let before = cpu_ns(nix::unistd::getpid()).unwrap();
        let after = (0..1_000_000).map(|_| cpu_ns(nix::unistd::getpid()).unwrap()).find(|after| *after > before);
        assert!(before > 0 && after.is_some());
        // Linux has no process of this number or beyond.
        assert!(cpu_ns(Pid::from_raw(1 << 22)).is_err());
    }
}
