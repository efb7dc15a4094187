//! Distributions as differences: the occupied buckets of scale 5 with counts that may be negative while a correction is on its way.
//! Adding is exact and the same in any order. Pure.
//!
//! Smallest and largest value are not kept: they cannot be subtracted. They are told from the outermost buckets, at most 2.2 % too wide.

use lagmesh_model::histogram::Exponential;

use crate::varint::{Cursor, put, put_signed};

/// The most buckets that are read: all that there are between 1 ns and 2^64 ns.
const BUCKETS_MAX: usize = 2050;

/// A sum of distributions, some of which may have been taken away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Spread {
    zero: i64,
    sum_ns: i128,
    /// In order, none of them 0.
    buckets: Vec<(i32, i64)>,
}

impl Spread {
    /// All that a histogram holds.
    pub(super) fn of(histogram: &Exponential) -> Spread {
        let buckets = histogram.buckets().map(|(index, count)| (index, count.cast_signed())).collect();
        Spread { zero: histogram.zero_count().cast_signed(), sum_ns: histogram.sum_ns().cast_signed(), buckets }
    }

    /// Adds `other`, or takes it away.
    pub(super) fn add(&mut self, other: &Spread, sign: i64) {
        // Whoever sends impossible counts again and again harms the numbers of his own series, and nothing else.
        let plus = |held: i64, more: i64| held.wrapping_add(more.wrapping_mul(sign));
        self.zero = plus(self.zero, other.zero);
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns.wrapping_mul(sign.into()));
        let held = std::mem::take(&mut self.buckets);
        self.buckets.reserve(held.len().max(other.buckets.len()));
        let (mut left, mut right) = (held.into_iter().peekable(), other.buckets.iter().peekable());
        loop {
            let (index, count) = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(a), Some(b)) if a.0 == b.0 => (a.0, plus(a.1, b.1)),
                (Some(a), Some(b)) if a.0 < b.0 => *a,
                (Some(a), None) => *a,
                (_, Some(b)) => (b.0, plus(0, b.1)),
            };
            left.next_if(|held| held.0 == index);
            right.next_if(|held| held.0 == index);
            if count != 0 {
                self.buckets.push((index, count));
            }
        }
    }

    /// What came after `earlier`, an earlier state of the same stream; `None` if it cannot be one.
    pub(super) fn since(&self, earlier: &Spread) -> Option<Spread> {
        let mut grown = self.clone();
        grown.add(earlier, -1);
        grown.is_whole().then_some(grown)
    }

    /// Whether nothing in it is negative.
    pub(super) fn is_whole(&self) -> bool {
        self.zero >= 0 && self.sum_ns >= 0 && self.buckets.iter().all(|(_, count)| *count > 0)
    }

    /// How many values.
    #[cfg(test)]
    pub(super) fn count(&self) -> i64 {
        self.zero + self.buckets.iter().map(|(_, count)| count).sum::<i64>()
    }

    /// The sum of all values [s].
    pub(super) fn sum_s(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// The same as a histogram; `None` if something in it is negative. The sum is left out: roundings of the recorder may put it beyond
    /// what the buckets allow.
    pub(super) fn histogram(&self) -> Option<Exponential> {
        let first = self.buckets.first().map_or(0, |(index, _)| *index);
        let last = self.buckets.last().map_or(0, |(index, _)| *index);
        let mut counts = vec![0_u64; usize::try_from(last.checked_sub(first)?).ok()?.min(BUCKETS_MAX) + 1];
        for (index, count) in &self.buckets {
            *counts.get_mut(usize::try_from(index - first).ok()?)? = u64::try_from(*count).ok()?;
        }
        Exponential::from_parts(first, counts, u64::try_from(self.zero).ok()?, 0, (None, None)).ok()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_signed(out, self.zero);
        put_signed(out, self.sum_ns);
        put(out, self.buckets.len() as u64);
        let mut before = 0;
        for (index, count) in &self.buckets {
            put_signed(out, index - before);
            put_signed(out, *count);
            before = *index;
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Option<Spread> {
        let (zero, sum_ns, length) = (cursor.signed()?, cursor.signed()?, cursor.number::<usize>()?);
        if length > BUCKETS_MAX {
            return None;
        }
        let (mut buckets, mut before): (Vec<(i32, i64)>, i32) = (Vec::with_capacity(length), 0);
        for place in 0..length {
            let step: i32 = cursor.signed()?;
            let index = before.checked_add(step)?;
            if place > 0 && step <= 0 {
                return None;
            }
            buckets.push((index, cursor.signed()?));
            before = index;
        }
        Some(Spread { zero, sum_ns, buckets })
    }
}
