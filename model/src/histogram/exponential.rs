//! The form that accumulates, travels and is merged.

use super::Recorder;
use super::scale::{BUCKETS_PER_OCTAVE, INDEX_MAX, INDEX_MIN, SCALE, index_of, lower_ns, midpoint_s, upper_ns};
use crate::status::Quantiles;

/// Why counts make no histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// More values than any exporter can have counted.
    #[error("more than 2^48 values")]
    Count,
    /// A bucket below 1 ns or beyond 2^64 ns.
    #[error("a bucket outside 1 ns to 2^64 ns")]
    Range,
    /// The smallest value is above the largest.
    #[error("the smallest value is above the largest")]
    MinAboveMax,
    /// The smallest or largest value lies outside the buckets.
    #[error("the smallest or largest value lies outside the buckets")]
    Extremes,
    /// The sum is more than so many values can add up to.
    #[error("the sum is more than the count allows")]
    Sum,
}

/// A cumulative distribution of durations in exponential buckets of the fixed scale 5: whole nanoseconds inside, seconds outside.
///
/// Counts and sum are exact; so are smallest and largest, except in a difference (see [`Exponential::since`]).
/// Equal distributions are equal values: the buckets never begin or end with a zero.
///
/// Memory is 80 bytes and 8 bytes per bucket between the lowest and the highest occupied one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Exponential {
    /// The index of the first bucket; 0 without buckets.
    offset: i32,
    counts: Vec<u64>,
    zero_count: u64,
    count: u64,
    sum_ns: u128,
    /// 0 while empty.
    min_ns: u64,
    /// 0 while empty.
    max_ns: u64,
}

impl Exponential {
    /// The scale: buckets grow by 2^(1/2^5), 2.2 %.
    pub const SCALE: i32 = SCALE;

    /// The most values that one stream can have counted. It leaves room for 2^16 such streams in one merged count.
    pub const COUNT_MAX: u64 = 1 << 48;

    /// No values.
    pub fn new() -> Exponential {
        Exponential::default()
    }

    /// A histogram from its parts, as they come from outside. Zeros at the ends of `counts` are trimmed.
    ///
    /// A missing smallest or largest value is taken from the bounds of the buckets.
    ///
    /// # Errors
    /// If no values can have made these parts.
    pub fn from_parts(
        offset: i32,
        mut counts: Vec<u64>,
        zero_count: u64,
        sum_ns: u128,
        extremes_ns: (Option<u64>, Option<u64>),
    ) -> Result<Exponential, Bad> {
        let count = counts.iter().try_fold(zero_count, |sum, n| sum.checked_add(*n)).filter(|n| *n <= Exponential::COUNT_MAX);
        let count = count.ok_or(Bad::Count)?;
        let offset = trim(offset, &mut counts).ok_or(Bad::Range)?;
        let end = i64::from(offset) + i64::try_from(counts.len()).map_err(|_| Bad::Range)?;
        if !counts.is_empty() && (offset < INDEX_MIN || end > i64::from(INDEX_MAX) + 1) {
            return Err(Bad::Range);
        }
        counts.shrink_to_fit();
        let mut made = Exponential { offset, counts, zero_count, count, sum_ns, min_ns: 0, max_ns: 0 };
        if count > 0 {
            let (lowest, highest) = made.bounds_ns();
            (made.min_ns, made.max_ns) = (extremes_ns.0.unwrap_or(lowest), extremes_ns.1.unwrap_or(highest));
            made.check_extremes(lowest, highest)?;
        }
        // Sum and extremes may each have been rounded to double precision on the way.
        let sum_max_ns = u128::from(count) * (u128::from(made.max_ns) + 1);
        if sum_ns > sum_max_ns + (sum_max_ns >> 50) {
            return Err(Bad::Sum);
        }
        Ok(made)
    }

    /// Extremes that lie outside the buckets would bend every quantile. The recorder's rounding may put a value into the bucket beside
    /// its own, and its longest bucket holds everything beyond: hence a slack of one bucket, and no upper limit for the largest.
    fn check_extremes(&self, lowest_ns: u64, highest_ns: u64) -> Result<(), Bad> {
        if self.min_ns > self.max_ns {
            return Err(Bad::MinAboveMax);
        }
        let first_upper_ns = if self.zero_count > 0 { 0 } else { upper_ns((self.offset + 1).min(INDEX_MAX)) };
        let first_lower_ns = if lowest_ns == 0 { 0 } else { lower_ns((self.offset - 1).max(INDEX_MIN)) };
        let last_lower_ns = if highest_ns == 0 { 0 } else { lower_ns((self.last_index() - 1).max(INDEX_MIN)) };
        if (first_lower_ns..=first_upper_ns).contains(&self.min_ns) && self.max_ns >= last_lower_ns {
            Ok(())
        } else {
            Err(Bad::Extremes)
        }
    }

    /// One duration [ns], at full precision.
    pub fn record_ns(&mut self, ns: u64) {
        self.widen_extremes(ns, ns);
        self.put(ns, 1);
        self.sum_ns += u128::from(ns);
    }

    /// One difference of stamps [ns]. Below zero it counts as zero: a histogram has no place there.
    pub fn record_difference_ns(&mut self, ns: i64) {
        self.record_ns(ns.max(0).cast_unsigned());
    }

    /// Everything that a recorder took.
    pub fn add(&mut self, recorder: &Recorder) {
        let (Some(min_ns), Some(max_ns)) = (recorder.min_ns(), recorder.max_ns()) else { return };
        self.widen_extremes(min_ns, max_ns);
        for (ns, count) in recorder.buckets() {
            self.put(ns, count);
        }
        self.sum_ns += recorder.sum_ns();
    }

    /// Everything that another histogram holds: exact, and the same in any order.
    pub fn merge(&mut self, other: &Exponential) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        self.widen_extremes(other.min_ns, other.max_ns);
        if let Some(first) = other.counts.first() {
            debug_assert_ne!(*first, 0, "buckets are trimmed");
            self.cover(other.offset, other.last_index());
            let start = self.position(other.offset);
            for (sum, count) in self.counts[start..].iter_mut().zip(&other.counts) {
                *sum += count;
            }
        }
        self.zero_count += other.zero_count;
        self.count += other.count;
        self.sum_ns += other.sum_ns;
    }

    /// What came after `earlier`, an earlier state of the same stream; `None` if it cannot be one.
    ///
    /// Counts and sum are exact. The smallest and largest value are exact if they are new records of the stream; otherwise they
    /// are the bounds of the outermost buckets, at most 2.2 % (and the recorder's 0.05 %) too wide.
    pub fn since(&self, earlier: &Exponential) -> Option<Exponential> {
        if earlier.is_empty() {
            return Some(self.clone());
        }
        let count = self.count.checked_sub(earlier.count)?;
        let zero_count = self.zero_count.checked_sub(earlier.zero_count)?;
        let sum_ns = self.sum_ns.checked_sub(earlier.sum_ns)?;
        if self.min_ns > earlier.min_ns || self.max_ns < earlier.max_ns || (count == 0 && sum_ns != 0) {
            return None;
        }
        let mut counts = self.counts.clone();
        if !earlier.counts.is_empty() {
            if earlier.offset < self.offset || self.counts.is_empty() || earlier.last_index() > self.last_index() {
                return None;
            }
            let start = self.position(earlier.offset);
            for (left, gone) in counts[start..].iter_mut().zip(&earlier.counts) {
                *left = left.checked_sub(*gone)?;
            }
        }
        let offset = trim(self.offset, &mut counts)?;
        let mut made = Exponential { offset, counts, zero_count, count, sum_ns, min_ns: 0, max_ns: 0 };
        if count > 0 {
            let (lowest, highest) = made.bounds_ns();
            made.min_ns = if self.min_ns < earlier.min_ns { self.min_ns } else { lowest.clamp(self.min_ns, self.max_ns) };
            made.max_ns = if self.max_ns > earlier.max_ns { self.max_ns } else { highest.clamp(self.min_ns, self.max_ns) };
        }
        Some(made)
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values that were exactly zero.
    pub fn zero_count(&self) -> u64 {
        self.zero_count
    }

    /// The sum of all values, exact [ns].
    pub fn sum_ns(&self) -> u128 {
        self.sum_ns
    }

    /// The sum of all values [s].
    pub fn sum_s(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// The smallest value [s].
    pub fn min_s(&self) -> Option<f64> {
        (!self.is_empty()).then_some(self.min_ns as f64 / 1e9)
    }

    /// The largest value [s].
    pub fn max_s(&self) -> Option<f64> {
        (!self.is_empty()).then_some(self.max_ns as f64 / 1e9)
    }

    /// The smallest and the largest value [ns]; `None` if there are none.
    pub fn extremes_ns(&self) -> (Option<u64>, Option<u64>) {
        let known = |ns| (!self.is_empty()).then_some(ns);
        (known(self.min_ns), known(self.max_ns))
    }

    /// The nearest-rank quantile, `q` in [0, 1], within 1.14 % [s]; `None` if there are no values or `q` is out of range.
    pub fn quantile_s(&self, q: f64) -> Option<f64> {
        if !(0.0..=1.0).contains(&q) || self.is_empty() {
            return None;
        }
        let rank = nearest_rank(q, self.count);
        let mut seen = self.zero_count;
        if rank <= seen {
            return Some(0.0);
        }
        let (index, _) = self.buckets().find(|(_, count)| {
            seen += count;
            rank <= seen
        })?;
        Some(midpoint_s(index).clamp(self.min_ns as f64 / 1e9, self.max_ns as f64 / 1e9))
    }

    /// The numbers that a page shows of a distribution; `None` if it is empty.
    pub fn quantiles(&self) -> Option<Quantiles> {
        Some(Quantiles {
            samples: self.count,
            min_s: self.min_s()?,
            p50_s: self.quantile_s(0.5)?,
            p99_s: self.quantile_s(0.99)?,
            max_s: self.max_s()?,
        })
    }

    /// The occupied buckets from the shortest on: index (see [`Exponential::SCALE`]) and count.
    pub fn buckets(&self) -> impl Iterator<Item = (i32, u64)> {
        (self.offset..).zip(self.counts.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// The index of the first bucket and all counts from it on, as the wire carries them.
    pub fn dense(&self) -> (i32, &[u64]) {
        (self.offset, &self.counts)
    }

    /// What the histogram takes in memory [bytes].
    pub fn memory_bytes(&self) -> usize {
        size_of::<Exponential>() + self.counts.capacity() * size_of::<u64>()
    }

    /// How many values are at most `2^exponent` seconds; exact, because powers of two are bounds of buckets.
    pub fn count_at_or_below_power_of_two_s(&self, exponent: i32) -> u64 {
        let end = i64::from(exponent) * i64::from(BUCKETS_PER_OCTAVE) - i64::from(self.offset);
        let end = usize::try_from(end.max(0)).map_or(self.counts.len(), |end| end.min(self.counts.len()));
        self.zero_count + self.counts[..end].iter().sum::<u64>()
    }

    /// The bounds of the outermost occupied buckets, rounded outwards [ns]. Not for an empty histogram.
    fn bounds_ns(&self) -> (u64, u64) {
        let lowest = if self.zero_count > 0 { 0 } else { lower_ns(self.offset) };
        let highest = if self.counts.is_empty() { 0 } else { upper_ns(self.last_index()) };
        (lowest, highest)
    }

    fn widen_extremes(&mut self, min_ns: u64, max_ns: u64) {
        self.min_ns = if self.is_empty() { min_ns } else { self.min_ns.min(min_ns) };
        self.max_ns = self.max_ns.max(max_ns);
    }

    fn put(&mut self, ns: u64, count: u64) {
        match index_of(ns) {
            Some(index) => {
                self.cover(index, index);
                let position = self.position(index);
                self.counts[position] += count;
            }
            None => self.zero_count += count,
        }
        self.count += count;
    }

    /// The index of the last bucket. Not without buckets.
    fn last_index(&self) -> i32 {
        self.offset + i32::try_from(self.counts.len()).expect("there are about two thousand buckets at most") - 1
    }

    /// Where a bucket that is covered stands in `counts`.
    fn position(&self, index: i32) -> usize {
        usize::try_from(index - self.offset).expect("the bucket is covered")
    }

    /// Makes room for the buckets from `first` to `last`. Grows by what is needed and no more: the range settles soon.
    fn cover(&mut self, first: i32, last: i32) {
        if self.counts.is_empty() {
            self.offset = first;
        }
        if first < self.offset {
            let more = usize::try_from(self.offset - first).expect("it is positive");
            let mut counts = Vec::with_capacity(more + self.counts.len());
            counts.resize(more, 0);
            counts.append(&mut self.counts);
            self.counts = counts;
            self.offset = first;
        }
        let length = self.position(last) + 1;
        if length > self.counts.len() {
            self.counts.reserve_exact(length - self.counts.len());
            self.counts.resize(length, 0);
        }
    }
}

/// Drops the zeros at both ends and returns the index of the first bucket that is left (0 if none); `None` if it is no `i32`.
fn trim(offset: i32, counts: &mut Vec<u64>) -> Option<i32> {
    let length = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    counts.truncate(length);
    let Some(leading) = counts.iter().position(|count| *count > 0) else { return Some(0) };
    counts.drain(..leading);
    i32::try_from(leading).ok().and_then(|leading| offset.checked_add(leading))
}

/// The rank [1, count] of a quantile: the smallest with at least `q` of all values at or below it.
fn nearest_rank(q: f64, count: u64) -> u64 {
    // One rounding step down, or 0.07 of 100 would be 7.000000000000001 and so the eighth.
    let rank = (q * count as f64 * (1.0 - f64::EPSILON)).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the product of a fraction and a count")]
    let rank = rank as u64;
    rank.clamp(1, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rank is that of whole-number arithmetic: no quantile slips to the next value by the rounding of a product.
    #[test]
    fn ranks_are_exact() {
        for count in (1..2000).chain([1_000_000, 1 << 40, 1_000_000_000_000]) {
            for thousandths in 0..=1000_u32 {
                let expected = (u128::from(thousandths) * u128::from(count)).div_ceil(1000).max(1);
                assert_eq!(
                    u128::from(nearest_rank(f64::from(thousandths) / 1000.0, count)),
                    expected,
                    "{thousandths} of {count}"
                );
            }
        }
    }

    /// The extremes of a cumulative stream never draw together: a state whose extremes lie outside is of another stream,
    /// even where all counts fit.
    #[test]
    fn extremes_tell_streams_apart() {
        let of = |values: &[u64]| {
            let mut histogram = Exponential::new();
            for ns in values {
                histogram.record_ns(*ns);
            }
            histogram
        };
        assert_eq!(of(&[1_000_100, 1_000_100]).since(&of(&[1_000_000])), None);
        assert_eq!(of(&[1_000_000, 1_000_000]).since(&of(&[1_000_100])), None);
        assert_eq!(of(&[1_000_000, 1_000_100]).since(&of(&[1_000_050])).map(|left| left.count()), Some(1));
    }
}
