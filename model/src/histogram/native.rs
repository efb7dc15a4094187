//! The buckets as Prometheus' native histograms say them: schema, spans of neighbouring buckets, and differences of counts.

use super::Exponential;

/// Values up to this are in the zero bucket [s]. Ours holds only exact zeros, and the next value is 1 ns; Prometheus' own default says
/// so too, and a histogram without values is known as a native one by it.
const ZERO_THRESHOLD_S: f64 = 2.938_735_877_055_719e-39;

/// Up to so many empty buckets are written as zeros: a new span would take more.
const GAP_MAX: i32 = 2;

/// Neighbouring buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The index of the first bucket of the first span; of later spans, how many buckets lie between the one before and it.
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// A histogram in Prometheus' words. Exact: schema 5 has the bounds of our buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct Native {
    /// Buckets grow by 2^(1/2^schema).
    pub schema: i32,
    /// Values up to this are in the zero bucket [s].
    pub zero_threshold_s: f64,
    /// How many values are in the zero bucket.
    pub zero_count: u64,
    /// Where the counts stand.
    pub spans: Vec<Span>,
    /// The first count, then each minus the one before.
    pub deltas: Vec<i64>,
}

impl Native {
    /// The histogram's buckets. Prometheus numbers a bucket by its upper bound, OpenTelemetry by its lower one: hence one more.
    pub fn of(histogram: &Exponential) -> Native {
        let (mut spans, mut deltas) = (Vec::<Span>::new(), Vec::new());
        let (mut next, mut before) = (0, 0);
        let mut push = |count: u64| {
            // No count of ours comes near 2^63.
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            deltas.push(count - before);
            before = count;
        };
        for (index, count) in histogram.buckets() {
            let index = index + 1;
            let gap = index - next;
            match spans.last_mut() {
                Some(last) if gap <= GAP_MAX => {
                    (0..gap).for_each(|_| push(0));
                    last.length += gap.unsigned_abs() + 1;
                }
                _ => spans.push(Span { offset: gap, length: 1 }),
            }
            push(count);
            next = index + 1;
        }
        Native {
            schema: Exponential::SCALE,
            zero_threshold_s: ZERO_THRESHOLD_S,
            zero_count: histogram.zero_count(),
            spans,
            deltas,
        }
    }

    /// The occupied buckets: index of ours and count.
    #[cfg(test)]
    pub(crate) fn occupied(spans: &[Span], deltas: &[i64]) -> Vec<(i32, u64)> {
        let (mut index, mut count, mut found) = (0, 0, Vec::new());
        let mut deltas = deltas.iter();
        for span in spans {
            index += span.offset;
            for _ in 0..span.length {
                count += deltas.next().expect("a count for every bucket");
                found.push((index - 1, u64::try_from(count).expect("a count")));
                index += 1;
            }
        }
        assert_eq!(deltas.next(), None, "a bucket for every count");
        found.retain(|(_, count)| *count > 0);
        found
    }
}
