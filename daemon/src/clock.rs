//! The only place that reads a clock.
//!
//! `CLOCK_MONOTONIC_RAW` measures: it neither steps nor slews. The wall clock only labels. Every reading also looks at
//! `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`, because the differences between the four tell what happened to the host since
//! the last reading; [`jump`] decides what that was.

mod claim;
pub mod jump;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos, nanos};
use nix::time::{ClockId, clock_gettime};

pub use claim::ClockClaim;

use crate::backoff::random_seed;
use jump::{JumpCheck, Sample, Step};

/// The clocks of this host. Clones share one epoch and one set of counters. A reading is five calls
/// into the vDSO under a lock: well under a microsecond.
#[derive(Debug, Clone)]
pub struct Clock {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    epoch: Epoch,
    check: JumpCheck,
    epochs_started: u64,
    wall_steps: u64,
}

/// The wall clock read between two readings of the measuring clock: what a wall-clock stamp of the kernel needs to be
/// brought onto the measuring clock, with a known error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bracket {
    /// Which run of the measuring clock both raw stamps belong to.
    pub epoch: Epoch,
    /// The measuring clock just before the wall clock was read.
    pub before: RawNanos,
    /// The wall clock.
    pub wall: WallNanos,
    /// The measuring clock just after the wall clock was read.
    pub after: RawNanos,
}

impl From<Bracket> for Reading {
    fn from(Bracket { epoch, before, wall, .. }: Bracket) -> Reading {
        Reading { epoch, raw: before, wall }
    }
}

/// A sample that took longer was interrupted; another one is taken, for the narrower it is the more it shows.
const SAMPLE_NARROW_NS: u64 = 20_000;
/// How often an interrupted sample is taken again before a wide one must do.
const SAMPLE_ATTEMPTS: u32 = 3;

impl Clock {
    /// Starts a clock epoch of this process.
    ///
    /// # Panics
    /// If the kernel lacks one of the four clocks (Linux has them all since 2.6.39) or has no random numbers.
    pub fn new() -> Self {
        let check = JumpCheck::new(sample());
        let epoch = Epoch(random_seed());
        Self { shared: Arc::new(Mutex::new(Shared { epoch, check, epochs_started: 1, wall_steps: 0 })) }
    }

    /// The time now. If the host was suspended or moved since the last reading, this one begins a new epoch.
    pub fn now(&self) -> Reading {
        self.bracket().into()
    }

    /// The time now with the bounds between which the wall clock was read.
    pub fn bracket(&self) -> Bracket {
        let mut shared = self.lock();
        // Sampled under the lock, so that samples reach the check in the order in which they were taken.
        let now = sample();
        let step = shared.check.step(now);
        match step {
            Step::Steady => {}
            Step::WallStep { .. } => shared.wall_steps += 1,
            Step::NewEpoch { .. } => shared.start_epoch(),
        }
        let epoch = shared.epoch;
        drop(shared);
        match step {
            Step::Steady => {}
            Step::WallStep { by_ns } => tracing::warn!(by_ns, "wall clock stepped"),
            Step::NewEpoch { by_ns, cause } => tracing::warn!(%epoch, by_ns, ?cause, "clocks jumped, new clock epoch"),
        }
        let Sample { before, wall, after, .. } = now;
        Bracket { epoch, before, wall, after }
    }

    /// Starts a new epoch although the clocks look steady: for a jump that only the other hosts can see.
    pub fn start_epoch(&self) -> Epoch {
        let mut shared = self.lock();
        shared.start_epoch();
        shared.epoch
    }

    /// What the host claims about its wall clock; `None` if it does not say. A few system calls.
    pub fn claim(&self) -> Option<ClockClaim> {
        claim::ask(kernel_clock(ClockId::CLOCK_MONOTONIC))
    }

    /// The epoch as of the last reading.
    pub fn epoch(&self) -> Epoch {
        self.lock().epoch
    }

    /// How many epochs this process has started; the first one counts.
    pub fn epochs_started(&self) -> u64 {
        self.lock().epochs_started
    }

    /// How many steps of the wall clock were seen.
    pub fn wall_steps(&self) -> u64 {
        self.lock().wall_steps
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        // Nothing here panics half-way through a change, so what a panicking thread left behind is whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn start_epoch(&mut self) {
        self.epoch = Epoch(random_seed());
        self.epochs_started += 1;
    }
}

/// All clocks at one moment, or as near to that as the scheduler lets us come. The newest sample counts, even if an older
/// one was narrower: a suspension between the two must not go unseen.
fn sample() -> Sample {
    let again_if_wide = |sample: Sample, _| if sample.width_ns() > SAMPLE_NARROW_NS { sample_once() } else { sample };
    (1..SAMPLE_ATTEMPTS).fold(sample_once(), again_if_wide)
}

fn sample_once() -> Sample {
    let before = kernel_clock(ClockId::CLOCK_MONOTONIC_RAW);
    let wall = wall_clock();
    let monotonic_ns = kernel_clock(ClockId::CLOCK_MONOTONIC);
    let boot_ns = kernel_clock(ClockId::CLOCK_BOOTTIME);
    let after = kernel_clock(ClockId::CLOCK_MONOTONIC_RAW);
    Sample { before: RawNanos(before), wall: WallNanos(wall), monotonic_ns, boot_ns, after: RawNanos(after) }
}

fn kernel_clock(id: ClockId) -> u64 {
    let time = clock_gettime(id).expect("Linux has the four clocks since 2.6.39");
    nanos(time.into())
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_clock() -> u64 {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).expect("Linux refuses to set its wall clock before 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings of clones, on any thread, belong to one epoch and never run backwards.
    #[test]
    fn clones_share_one_clock() {
        let clock = Clock::new();
        let readings = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let clock = clock.clone();
                    scope.spawn(move || (0..1000).map(|_| clock.now()).collect::<Vec<_>>())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for reading in readings.concat() {
            assert_eq!(reading.epoch, clock.epoch());
        }
        assert!(readings.iter().all(|mine| mine.is_sorted_by_key(|reading| reading.raw)));
        assert_eq!(clock.epochs_started(), 1);
    }

    /// A bracket holds its wall stamp between two raw stamps, and is narrow enough to be of use.
    #[test]
    fn brackets_are_ordered_and_narrow() {
        let clock = Clock::new();
        let narrowest_ns = (0..1000).map(|_| clock.bracket()).map(|b| b.after.since_ns(b.before)).min().unwrap();
        assert!((0..1_000_000).contains(&narrowest_ns), "{narrowest_ns}");
    }

    /// A new epoch never has the identity of an old one, and every clone sees it.
    #[test]
    fn start_epoch_reaches_every_clone() {
        let clock = Clock::new();
        let (clone, first) = (clock.clone(), clock.epoch());
        let second = clock.start_epoch();
        assert_ne!(first, second);
        assert_eq!((clone.now().epoch, clone.epochs_started()), (second, 2));
        assert_ne!(Clock::new().epoch(), second);
    }
}
