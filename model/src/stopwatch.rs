//! How long the parts of one attempt took, each measured from the end of the one before. Reads no clock of its own.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::state::Phase;
use crate::time::RawNanos;

/// Where a stopwatch reads the time.
pub type Now = Arc<dyn Fn() -> RawNanos + Send + Sync>;

/// Phases that have ended, in their order. Clones share what they hold, so that what had ended is known even where the rest was
/// given up halfway.
#[derive(Clone)]
pub struct Stopwatch {
    now: Now,
    laps: Arc<Mutex<Laps>>,
}

struct Laps {
    last: RawNanos,
    phases: Vec<(Phase, u64)>,
}

impl Stopwatch {
    /// Starts now.
    pub fn start(now: Now) -> Stopwatch {
        let laps = Laps { last: now(), phases: Vec::new() };
        Stopwatch { now, laps: Arc::new(Mutex::new(laps)) }
    }

    /// A phase ends, and the next begins.
    pub fn end(&self, phase: Phase) {
        let now = (self.now)();
        let mut laps = self.laps.lock().unwrap_or_else(PoisonError::into_inner);
        let took_ns = now.since_ns(laps.last).max(1).unsigned_abs();
        laps.phases.push((phase, took_ns));
        laps.last = now;
    }

    /// What has ended so far, and how long each took [ns, > 0].
    pub fn phases(&self) -> Vec<(Phase, u64)> {
        self.laps.lock().unwrap_or_else(PoisonError::into_inner).phases.clone()
    }
}

impl fmt::Debug for Stopwatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopwatch").field("phases", &self.phases()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    /// Phases add up to the time from the start to the end of the last one, none is zero, and clones see the same.
    #[test]
    fn phases_add_up() {
        let clock = Arc::new(AtomicU64::new(100));
        let read = Arc::clone(&clock);
        let watch = Stopwatch::start(Arc::new(move || RawNanos(read.load(Relaxed))));
        let seen = watch.clone();
        for (phase, at) in [(Phase::Connect, 130), (Phase::Tls, 130), (Phase::Auth, 190)] {
            clock.store(at, Relaxed);
            watch.end(phase);
        }
        assert_eq!(seen.phases(), [(Phase::Connect, 30), (Phase::Tls, 1), (Phase::Auth, 60)]);
    }
}
