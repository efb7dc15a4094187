//! How long to wait before the next attempt: doubling, capped, and jittered so that agents do not come back in step.

use std::time::Duration;

/// Capped exponential back-off with jitter. Pure: it says how long to wait and leaves the waiting to the caller.
///
/// The n-th wait since the last [`reset`](Backoff::reset) lies in `((1 - jitter) * d, d]` with `d = min(first * 2^n, cap)`:
/// jitter only shortens, so the cap holds for what is really waited.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    jitter: f64,
    next: Duration,
    random: SplitMix64,
}

/// Why a back-off makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum InvalidBackoff {
    /// Waiting for no time is a busy loop.
    #[error("the first wait of a back-off must be longer than zero")]
    Zero,
    /// The cap lies below the first wait.
    #[error("the longest wait {cap:?} of a back-off is shorter than its first {first:?}")]
    CapBelowFirst {
        /// The first wait.
        first: Duration,
        /// The longest wait.
        cap: Duration,
    },
    /// The jitter is no fraction.
    #[error("the jitter {0} of a back-off must be at least 0 and less than 1")]
    Jitter(f64),
}

impl Backoff {
    /// A back-off from `first` to `cap`, each wait shortened by a random part of up to `jitter` [0, 1).
    ///
    /// `seed` fixes the random sequence; [`random_seed`] gives one per process.
    ///
    /// # Errors
    /// If `first` is zero, `cap` is below it, or `jitter` is outside its range.
    pub fn try_new(first: Duration, cap: Duration, jitter: f64, seed: u64) -> Result<Self, InvalidBackoff> {
        if first.is_zero() {
            return Err(InvalidBackoff::Zero);
        }
        if cap < first {
            return Err(InvalidBackoff::CapBelowFirst { first, cap });
        }
        if !(0.0..1.0).contains(&jitter) {
            return Err(InvalidBackoff::Jitter(jitter));
        }
        Ok(Self { first, cap, jitter, next: first, random: SplitMix64(seed) })
    }

    /// How long to wait before the next attempt; the one after that waits longer.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so an Option around every wait would only be noise")]
    pub fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.cap);
        wait.mul_f64(1.0 - self.jitter * self.random.fraction())
    }

    /// The attempt worked: the next failure starts from the first wait again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random number from the kernel, for seeds and for identities that must not collide.
///
/// # Panics
/// If the kernel has no random numbers, in which case nothing in the process can be trusted to be unique.
pub fn random_seed() -> u64 {
    getrandom::u64().expect("every kernel that runs lagmesh has getrandom(2)")
}

/// Steele, Lea and Flood's `SplitMix64`: tiny, seedable, and far better than jitter needs.
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), on the 53 bits that a double holds exactly.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_to_the_cap_and_starts_again_after_reset() {
        let mut backoff = Backoff::try_new(S, 5 * S, 0.0, 1).unwrap();
        assert_eq!([(); 5].map(|()| backoff.next()), [S, 2 * S, 4 * S, 5 * S, 5 * S]);
        backoff.reset();
        assert_eq!(backoff.next(), S);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |first, cap, jitter| Backoff::try_new(first, cap, jitter, 1).map(|_| ()).unwrap_err();
        assert_eq!(refused(Duration::ZERO, S, 0.0), InvalidBackoff::Zero);
        assert_eq!(refused(2 * S, S, 0.0), InvalidBackoff::CapBelowFirst { first: 2 * S, cap: S });
        assert_eq!(refused(S, S, 1.0), InvalidBackoff::Jitter(1.0));
        assert_eq!(refused(S, S, -0.1), InvalidBackoff::Jitter(-0.1));
        assert!(matches!(refused(S, S, f64::NAN), InvalidBackoff::Jitter(_)));
    }

    /// Two seeds give two sequences, one seed gives one.
    #[test]
    fn jitter_follows_the_seed() {
        let waits = |seed| {
            let mut backoff = Backoff::try_new(S, 60 * S, 0.5, seed).unwrap();
            [(); 8].map(|()| backoff.next())
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }

    proptest! {
        /// Every wait lies within its jitter below min(first * 2^n, cap), and nothing overflows.
        #[test]
        fn waits_stay_in_their_range(
            first_ns in 1u64..=u64::MAX, more_ns: u64, jitter in 0.0f64..0.99, seed: u64, attempts in 1usize..200,
        ) {
            let first = Duration::from_nanos(first_ns);
            let cap = first.saturating_add(Duration::from_nanos(more_ns));
            let mut backoff = Backoff::try_new(first, cap, jitter, seed).unwrap();
            let mut full = first;
            for _ in 0..attempts {
                let wait = backoff.next().as_secs_f64();
                let longest = full.as_secs_f64();
                // Durations are whole nanoseconds, and doubles of this size err by more.
                let rounding = longest * 1e-12 + 2e-9;
                prop_assert!(wait <= longest + rounding && wait >= longest * (1.0 - jitter) - rounding);
                full = full.saturating_mul(2).min(cap);
            }
        }
    }

    /// The kernel does not hand out one seed twice.
    #[test]
    fn seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
