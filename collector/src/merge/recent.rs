//! The last minute of a cumulative count, by exact subtraction of its points.
//!
//! Points are told apart by the sequence of their batch. An agent makes one batch per export interval, so sequences measure the
//! agent's time; delays on the way, a backlog, or a restart of the collector do not bend it.

use std::collections::{BTreeSet, VecDeque};

use lagmesh_model::histogram::Exponential;
use lagmesh_model::series::Value;

use crate::varint::{Cursor, put, put_signed};

/// The most batches over which "recent" may reach, however short the export interval is: bounds the points kept per series.
pub const NEWEST_POINTS_MAX: u64 = 64;

/// How much a count has grown between two of its points.
#[derive(Debug, Clone, PartialEq)]
pub enum Growth {
    /// Of a counter.
    Count(u64),
    /// Of a histogram.
    Distribution(Exponential),
}

/// The sequences of a boot's batches that arrived, within the window.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Seen {
    sequences: BTreeSet<u64>,
    /// Where the window begins: growth is counted from this batch on; 0 is the start of the boot, when every count was 0.
    begin: u64,
}

impl Seen {
    pub(super) fn insert(&mut self, sequence: u64, newest: u64, window: u64) {
        self.begin = newest.max(window) - window;
        if sequence >= self.begin {
            self.sequences.insert(sequence);
        }
        self.sequences = self.sequences.split_off(&self.begin);
    }

    /// The oldest moment of the window at which counts are known.
    fn oldest(&self) -> Option<u64> {
        if self.begin == 0 { Some(0) } else { self.sequences.first().copied() }
    }
}

/// The newest points of one cumulative series, in the order of their batches. A minute of them is kept of every distribution, so they are
/// packed.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Points(VecDeque<(u64, Point)>);

#[derive(Debug, Clone, PartialEq)]
enum Point {
    Counter(u64),
    Histogram(Packed),
}

impl Points {
    /// Takes in a value; one that is no count is none of these.
    pub(super) fn insert(&mut self, sequence: u64, value: &Value) {
        let point = match value {
            Value::Counter(count) => Point::Counter(*count),
            Value::Histogram(histogram) => Point::Histogram(Packed::of(histogram)),
            Value::Gauge(_) | Value::Whole(_) => return,
        };
        if self.0.back().is_none_or(|(last, _)| *last < sequence) {
            self.0.push_back((sequence, point));
        } else if let Err(place) = self.0.binary_search_by_key(&sequence, |(sequence, _)| *sequence) {
            self.0.insert(place, (sequence, point));
        }
    }

    /// Forgets what lies before the window.
    pub(super) fn keep_since(&mut self, seen: &Seen) {
        while self.0.front().is_some_and(|(sequence, _)| *sequence < seen.begin) {
            self.0.pop_front();
        }
    }

    /// The growth within the window; `newest` is the value of the newest point.
    pub(super) fn growth(&self, seen: &Seen, newest: &Value) -> Option<Growth> {
        let (last, _) = self.0.back()?;
        let oldest = seen.oldest().filter(|oldest| oldest < last)?;
        let then = self.0.binary_search_by_key(&oldest, |(sequence, _)| *sequence).ok().map(|place| &self.0[place].1);
        // A batch that arrived without the series stands for a count that had not begun.
        match (newest, then) {
            (Value::Counter(now), None) => Some(Growth::Count(*now)),
            (Value::Counter(now), Some(Point::Counter(then))) => now.checked_sub(*then).map(Growth::Count),
            (Value::Histogram(now), None) => Some(Growth::Distribution((**now).clone())),
            (Value::Histogram(now), Some(Point::Histogram(then))) => now.since(&then.histogram()?).map(Growth::Distribution),
            _ => None,
        }
    }
}

/// A distribution in few bytes: of most buckets the count takes two or three.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packed(Box<[u8]>);

impl Packed {
    fn of(histogram: &Exponential) -> Packed {
        let (offset, counts) = histogram.dense();
        let (min_ns, max_ns) = histogram.extremes_ns();
        let mut out = Vec::with_capacity(24 + 3 * counts.len());
        put_signed(&mut out, offset);
        put(&mut out, histogram.zero_count());
        put(&mut out, histogram.sum_ns());
        put(&mut out, min_ns.unwrap_or(0));
        put(&mut out, max_ns.unwrap_or(0));
        for count in counts {
            put(&mut out, *count);
        }
        Packed(out.into_boxed_slice())
    }

    fn histogram(&self) -> Option<Exponential> {
        let mut cursor = Cursor(&self.0);
        let (offset, zero_count, sum_ns) = (cursor.signed()?, cursor.number()?, cursor.number()?);
        let extremes_ns = (cursor.number(), cursor.number());
        let mut counts = Vec::new();
        while !cursor.is_empty() {
            counts.push(cursor.number()?);
        }
        Exponential::from_parts(offset, counts, zero_count, sum_ns, extremes_ns).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is packed comes out as it was, to the last nanosecond.
        #[test]
        fn packed_comes_out(values in proptest::collection::vec(prop_oneof![Just(0_u64), 1_u64..1_000_000_000_000], 0..200)) {
            let mut histogram = Exponential::new();
            for ns in &values {
                histogram.record_ns(*ns);
            }
            prop_assert_eq!(Packed::of(&histogram).histogram(), Some(histogram));
        }
    }
}
