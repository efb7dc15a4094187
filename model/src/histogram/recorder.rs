//! The measuring side: full resolution for one export interval.

use hdrhistogram::Histogram;

/// Takes the durations of one export interval at three significant digits; memory follows the values that really came.
///
/// Count, sum, smallest and largest are exact. Durations beyond [`Recorder::LONGEST_NS`] share its bucket and are counted.
#[derive(Debug, Clone)]
pub struct Recorder {
    distribution: Histogram<u32>,
    clamped: u64,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
}

impl Recorder {
    /// The longest duration that is told apart, one hour [ns]. It bounds a recorder at 130 KiB, and what waits longer has failed.
    pub const LONGEST_NS: u64 = 3_600_000_000_000;

    /// Significant decimal digits: half a bucket is 0.049 %.
    const DIGITS: u8 = 3;

    /// Nothing recorded.
    pub fn new() -> Recorder {
        Recorder { distribution: empty_distribution(), clamped: 0, sum_ns: 0, min_ns: u64::MAX, max_ns: 0 }
    }

    /// One duration [ns].
    pub fn record(&mut self, ns: u64) {
        if ns > Recorder::LONGEST_NS {
            self.clamped += 1;
        }
        self.place(ns.min(Recorder::LONGEST_NS));
        self.sum_ns += u128::from(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many durations.
    pub fn count(&self) -> u64 {
        self.distribution.len()
    }

    /// Whether none came.
    pub fn is_empty(&self) -> bool {
        self.distribution.is_empty()
    }

    /// How many of them were beyond [`Recorder::LONGEST_NS`].
    pub fn clamped(&self) -> u64 {
        self.clamped
    }

    /// The exact sum [ns].
    pub fn sum_ns(&self) -> u128 {
        self.sum_ns
    }

    /// The exact smallest duration [ns]; `None` if none came.
    pub fn min_ns(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.min_ns)
    }

    /// The exact largest duration [ns]; `None` if none came.
    pub fn max_ns(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.max_ns)
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Recorder::new();
    }

    fn place(&mut self, ns: u64) {
        self.distribution.record(ns).expect("an auto-resizing histogram takes every value up to an hour");
    }

    /// The middle of every occupied bucket [ns] and its count, from the shortest on.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.distribution
            .iter_recorded()
            .map(|bucket| (self.distribution.median_equivalent(bucket.value_iterated_to()), u64::from(bucket.count_at_value())))
    }
}

fn empty_distribution() -> Histogram<u32> {
    Histogram::new(Recorder::DIGITS).expect("three digits are within what the histogram offers")
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}
