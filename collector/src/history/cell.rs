//! What one bucket of time holds of one series. Adding two cells is exact and the same in any order, so a coarser bucket is the sum of
//! the finer ones in it, and a correction is one more cell to add. Pure.

use std::cmp::Ordering;

use super::spread::Spread;
use crate::varint::{Cursor, put, put_signed};

/// Increments over at most this long need no mark [s]: they belong to the bucket of the coarser tiers in any case.
const SPAN_UNMARKED_S: u64 = 60;

/// What is known of one series within a bucket, or what is to be added to that.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    /// How far a counter grew.
    Counter(i128, Spans),
    /// What a distribution gained.
    Histogram(Spread, Spans),
    /// Which values a gauge had.
    Gauge(Gauge),
}

/// How many increments came from how long a span, by powers of two of a minute. Counts, so that a correction can take one back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Spans(Vec<(u8, i64)>);

/// The values of a gauge that were reported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Gauge {
    /// How many.
    pub(super) count: u64,
    /// How many of them were 1: of a state, for how many reports it held.
    pub(super) ones: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) last: f64,
    /// When the last one was reported, by its label [ms since the Unix epoch], and the number of its batch.
    pub(super) last_at: (u64, u64),
}

impl Spans {
    /// One increment over so long [ns].
    pub(super) fn one(span_ns: u64, sign: i64) -> Spans {
        let minutes = span_ns.div_ceil(SPAN_UNMARKED_S * 1_000_000_000);
        if minutes <= 1 {
            return Spans::default();
        }
        let class = minutes.next_power_of_two().trailing_zeros();
        Spans(vec![(u8::try_from(class).expect("a logarithm of 64 bits fits"), sign)])
    }

    /// At most how long the longest of them is, if any is longer than a minute [s].
    pub(super) fn longest_s(&self) -> Option<u64> {
        let (class, _) = self.0.iter().rev().find(|(_, count)| *count > 0)?;
        SPAN_UNMARKED_S.checked_mul(1_u64.checked_shl(u32::from(*class))?)
    }

    fn add(&mut self, other: &Spans) {
        for (class, count) in &other.0 {
            match self.0.binary_search_by_key(class, |(held, _)| *held) {
                Ok(place) => self.0[place].1 += count,
                Err(place) => self.0.insert(place, (*class, *count)),
            }
        }
        self.0.retain(|(_, count)| *count != 0);
    }

    fn put(&self, out: &mut Vec<u8>) {
        for (class, count) in &self.0 {
            out.push(*class);
            put_signed(out, *count);
        }
    }

    /// Everything that is left.
    fn read(cursor: &mut Cursor<'_>) -> Option<Spans> {
        let mut spans = Spans::default();
        while !cursor.is_empty() {
            spans.add(&Spans(vec![(cursor.byte()?, cursor.signed()?)]));
        }
        Some(spans)
    }
}

impl Gauge {
    /// One report.
    pub(super) fn one(value: f64, label_ns: u64, sequence: u64) -> Gauge {
        let ones = u64::from((value - 1.0).abs() < f64::EPSILON);
        Gauge { count: 1, ones, min: value, max: value, last: value, last_at: (label_ns / 1_000_000, sequence) }
    }

    fn add(&mut self, other: &Gauge) {
        self.count += other.count;
        self.ones += other.ones;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        let newer = self.last_at.cmp(&other.last_at).then_with(|| self.last.total_cmp(&other.last));
        if newer == Ordering::Less {
            (self.last, self.last_at) = (other.last, other.last_at);
        }
    }
}

const COUNTER: u8 = 0;
const HISTOGRAM: u8 = 1;
const GAUGE: u8 = 2;
/// A gauge that had one value: a state, most of the time.
const GAUGE_EVEN: u8 = 3;
/// The same for the two values of a state, which then take no room.
const GAUGE_ZERO: u8 = 4;
const GAUGE_ONE: u8 = 5;

impl Cell {
    /// Adds what another holds. Cells of different kinds never meet: the kind belongs to the metric.
    pub(super) fn add(&mut self, other: &Cell) {
        match (self, other) {
            (Cell::Counter(sum, spans), Cell::Counter(more, more_spans)) => {
                *sum += more;
                spans.add(more_spans);
            }
            (Cell::Histogram(sum, spans), Cell::Histogram(more, more_spans)) => {
                sum.add(more, 1);
                spans.add(more_spans);
            }
            (Cell::Gauge(held), Cell::Gauge(more)) => held.add(more),
            _ => {}
        }
    }

    /// The bytes that are stored. What is told of time is told from the start of the bucket [s].
    pub(super) fn bytes(&self, bucket_s: u64) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out, bucket_s);
        out
    }

    /// The same, put behind what is there.
    pub(super) fn put(&self, out: &mut Vec<u8>, bucket_s: u64) {
        match self {
            Cell::Counter(sum, spans) => {
                out.push(COUNTER);
                put_signed(out, *sum);
                spans.put(out);
            }
            Cell::Histogram(sum, spans) => {
                out.push(HISTOGRAM);
                sum.put(out);
                spans.put(out);
            }
            Cell::Gauge(gauge) => {
                let bits = [gauge.min, gauge.max, gauge.last].map(f64::to_bits);
                let even = bits.iter().all(|one| *one == bits[0]);
                let tag = match gauge.last.to_bits() {
                    _ if !even => GAUGE,
                    0 => GAUGE_ZERO,
                    one if one == 1.0_f64.to_bits() => GAUGE_ONE,
                    _ => GAUGE_EVEN,
                };
                out.push(tag);
                put(out, gauge.count);
                put(out, gauge.ones);
                put(out, gauge.last_at.0.saturating_sub(bucket_s * 1000));
                put(out, gauge.last_at.1);
                let values: &[f64] = match tag {
                    GAUGE => &[gauge.min, gauge.max, gauge.last],
                    GAUGE_EVEN => &[gauge.last],
                    _ => &[],
                };
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }

    /// The cell of such bytes; `None` if they are none.
    pub(super) fn read(bytes: &[u8], bucket_s: u64) -> Option<Cell> {
        let mut cursor = Cursor(bytes);
        match cursor.byte()? {
            COUNTER => Some(Cell::Counter(cursor.signed()?, Spans::read(&mut cursor)?)),
            HISTOGRAM => Some(Cell::Histogram(Spread::read(&mut cursor)?, Spans::read(&mut cursor)?)),
            tag @ GAUGE..=GAUGE_ONE => {
                let (count, ones) = (cursor.number()?, cursor.number()?);
                let at_ms = cursor.number::<u64>()?.checked_add(bucket_s.checked_mul(1000)?)?;
                let last_at = (at_ms, cursor.number()?);
                let [min, max, last] = match tag {
                    GAUGE => [cursor.fraction()?, cursor.fraction()?, cursor.fraction()?],
                    GAUGE_EVEN => [cursor.fraction()?; 3],
                    GAUGE_ZERO => [0.0; 3],
                    _ => [1.0; 3],
                };
                Some(Cell::Gauge(Gauge { count, ones, min, max, last, last_at }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stored cell is read as it was; a state takes no more than ten bytes.
    #[test]
    fn round_trip() {
        let mut spread = Spread::default();
        let mut histogram = lagmesh_model::histogram::Exponential::new();
        for ns in [0, 1, 80_000_000, u64::MAX] {
            histogram.record_ns(ns);
        }
        spread.add(&Spread::of(&histogram), 1);
        let bucket_s = 1_700_000_000;
        let state = Cell::Gauge(Gauge::one(1.0, (bucket_s + 7) * 1_000_000_000, 60_000));
        assert!(state.bytes(bucket_s).len() <= 10);
        let mut uneven = state.clone();
        uneven.add(&Cell::Gauge(Gauge::one(-0.25, (bucket_s + 8) * 1_000_000_000, 60_001)));
        let cells = [
            Cell::Counter(-5, Spans::default()),
            Cell::Counter(1 << 70, Spans::one(600_000_000_000, 1)),
            Cell::Histogram(spread, Spans::one(61_000_000_000, -1)),
            state,
            uneven,
            Cell::Gauge(Gauge::one(0.0, bucket_s * 1_000_000_000, 1)),
            Cell::Gauge(Gauge::one(0.3, bucket_s * 1_000_000_000, 1)),
        ];
        for cell in cells {
            assert_eq!(Cell::read(&cell.bytes(bucket_s), bucket_s), Some(cell));
        }
        assert_eq!(Cell::read(&[], 0), None);
        assert_eq!(Cell::read(&[9, 1, 1], 0), None);
    }

    /// A span is told as the next power of two of a minute, only if it is longer than one, and can be taken back.
    #[test]
    fn spans() {
        let s = 1_000_000_000;
        assert_eq!(Spans::one(60 * s, 1).longest_s(), None);
        assert_eq!(Spans::one(61 * s, 1).longest_s(), Some(120));
        assert_eq!(Spans::one(6 * 3600 * s, 1).longest_s(), Some(512 * 60));
        let mut both = Spans::one(61 * s, 1);
        both.add(&Spans::one(6 * 3600 * s, 1));
        both.add(&Spans::one(6 * 3600 * s, -1));
        assert_eq!(both, Spans::one(61 * s, 1));
        assert!(Spans::one(u64::MAX, 1).longest_s().is_some());
    }
}
