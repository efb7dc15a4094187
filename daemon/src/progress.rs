//! Whether the process still does its work, as opposed to merely being there.
//!
//! The parts that matter register and mark every round. A watchdog that is fed by a free-running timer proves nothing:
//! this one is fed only while every registered part has moved on lately.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use lagmesh_model::time::Reading;
use tokio::time::Instant;

/// The parts of the process that must keep moving. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Watchdog {
    watch: Arc<Mutex<Watch>>,
}

/// The promise of one part to move on; held by it and marked in every round. Dropping it takes the promise back.
#[derive(Debug)]
#[must_use = "a part is watched only while its progress is held"]
pub struct Progress {
    mark: Arc<AtomicU64>,
}

/// A part that has not moved on in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled {
    /// The name that the part was registered under.
    pub part: String,
    /// How long it has not moved.
    pub quiet: Duration,
    /// How long it may.
    pub within: Duration,
}

impl Watchdog {
    /// Watches nothing until a part registers.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `part` must mark its progress at least once in `within`.
    pub fn register(&self, part: impl Into<String>, within: Duration) -> Progress {
        let mark = Arc::new(AtomicU64::new(0));
        let part = Part { name: part.into(), within, mark: Arc::downgrade(&mark), seen: None };
        self.lock().parts.push(part);
        Progress { mark }
    }

    /// The parts that have been quiet for longer than they may, in the order of registration.
    ///
    /// To be called every `period`. A call that comes much later shows that this host stood still, and the time that it
    /// stood still is held against no part.
    pub fn stalled(&self, now: Instant, period: Duration) -> Vec<Stalled> {
        self.lock().stalled(now, period)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// This part has done a round at `now`. A part that is given the same `now` again and again does not move.
    pub fn mark(&self, now: Reading) {
        self.mark.store(now.raw.0, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Watch {
    parts: Vec<Part>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Part {
    name: String,
    within: Duration,
    mark: Weak<AtomicU64>,
    seen: Option<Seen>,
}

/// The newest mark and when it was first seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    mark: u64,
    since: Instant,
}

impl Watch {
    fn stalled(&mut self, now: Instant, period: Duration) -> Vec<Stalled> {
        let gap = self.looked.replace(now).map(|looked| now.duration_since(looked));
        let stood_still = gap.and_then(|gap| gap.checked_sub(2 * period));
        self.parts.retain_mut(|part| {
            let Some(mark) = part.mark.upgrade() else { return false };
            part.look(mark.load(Ordering::Relaxed), now, stood_still);
            true
        });
        self.parts.iter().filter_map(|part| part.stalled(now)).collect()
    }
}

impl Part {
    fn look(&mut self, mark: u64, now: Instant, stood_still: Option<Duration>) {
        match &mut self.seen {
            Some(seen) if seen.mark == mark => seen.since += stood_still.unwrap_or(Duration::ZERO),
            seen => *seen = Some(Seen { mark, since: now }),
        }
    }

    fn stalled(&self, now: Instant) -> Option<Stalled> {
        let quiet = now.duration_since(self.seen?.since);
        (quiet > self.within).then(|| Stalled { part: self.name.clone(), quiet, within: self.within })
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::time::{Epoch, RawNanos, WallNanos};

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn reading(ns: u64) -> Reading {
        Reading { epoch: Epoch(1), raw: RawNanos(ns), wall: WallNanos(ns) }
    }

    fn names(stalled: &[Stalled]) -> Vec<&str> {
        stalled.iter().map(|stalled| stalled.part.as_str()).collect()
    }

    /// A part that moves is never named; one that stops, or never starts, is named once its time is over.
    #[test]
    fn names_who_stopped() {
        let (watchdog, start) = (Watchdog::new(), Instant::now());
        let moving = watchdog.register("moving", 3 * S);
        let _never = watchdog.register("never", 5 * S);
        let frozen = watchdog.register("frozen", 3 * S);
        for second in 0..10 {
            moving.mark(reading(1 + u64::from(second)));
            frozen.mark(reading(7));
            let expected: &[&str] = match second {
                0..=3 => &[],
                4..=5 => &["frozen"],
                _ => &["never", "frozen"],
            };
            assert_eq!(names(&watchdog.stalled(start + second * S, S)), expected, "second {second}");
        }
    }

    /// A part that goes on is forgiven, and one that ended is no longer expected.
    #[test]
    fn recovers_and_leaves() {
        let (watchdog, start) = (Watchdog::new(), Instant::now());
        let part = watchdog.register("part", S);
        for second in 0..3 {
            watchdog.stalled(start + second * S, S);
        }
        assert_eq!(names(&watchdog.stalled(start + 3 * S, S)), ["part"]);
        part.mark(reading(5));
        assert_eq!(watchdog.stalled(start + 4 * S, S), []);
        drop(part);
        assert_eq!(watchdog.stalled(start + 5 * S, S), []);
    }

    /// A host that stood still accuses none of its parts, but a part that was already quiet stays so.
    #[test]
    fn a_stopped_host_accuses_nobody() {
        let (watchdog, start) = (Watchdog::new(), Instant::now());
        let _part = watchdog.register("part", 5 * S);
        for second in 0..4 {
            assert_eq!(watchdog.stalled(start + second * S, S), []);
        }
        assert_eq!(watchdog.stalled(start + 300 * S, S), []);
        assert_eq!(watchdog.stalled(start + 301 * S, S)[0].quiet, 6 * S);
    }
}
