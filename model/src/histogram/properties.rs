//! What must hold of every histogram, against naive references over the raw values.

use proptest::collection::vec;
use proptest::prelude::*;

use super::scale::{INDEX_MAX, INDEX_MIN, index_of, lower_ns, upper_ns};
use super::{Exponential, Recorder};

const QUANTILES: [f64; 9] = [0.0, 0.001, 0.07, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0];

/// The promised relative error of a quantile.
const ERROR_MAX: f64 = 0.0114;

const MICROSECOND: u64 = 1_000;
const HOUR: u64 = Recorder::LONGEST_NS;

/// Every order of magnitude from 1 µs to 1 h equally often.
fn spread() -> impl Strategy<Value = u64> {
    (0.0..=1.0_f64).prop_map(|at| ((MICROSECOND as f64) * (HOUR as f64 / MICROSECOND as f64).powf(at)) as u64)
}

/// 2^-9 s to 2^20 s, and the nanoseconds before and after.
fn around_a_power_of_two() -> impl Strategy<Value = u64> {
    (0..30_u32, 0..3_u64).prop_map(|(doublings, more)| (1_953_125 << doublings) - 1 + more)
}

/// Samples as links give them: close around one value with a tail, or all over the range; few or many; sometimes zeros.
fn samples() -> impl Strategy<Value = Vec<u64>> {
    let clustered = |size: std::ops::Range<usize>| {
        (spread(), 0.0..0.2_f64).prop_flat_map(move |(center, width)| {
            let near = (1.0..1.0 + width + 1e-9).prop_map(move |factor| ((center as f64 * factor) as u64).min(HOUR));
            vec(prop_oneof![50 => near, 1 => spread(), 1 => Just(0)], size.clone())
        })
    };
    prop_oneof![vec(spread(), 1..6), vec(spread(), 1..1500), clustered(1..6), clustered(1..1500)]
}

fn recorded(values: &[u64]) -> Exponential {
    let mut recorder = Recorder::new();
    for ns in values {
        recorder.record(*ns);
    }
    let mut histogram = Exponential::new();
    histogram.add(&recorder);
    histogram
}

fn direct(values: &[u64]) -> Exponential {
    let mut histogram = Exponential::new();
    for ns in values {
        histogram.record_ns(*ns);
    }
    histogram
}

fn merged(parts: &[&Exponential]) -> Exponential {
    let mut sum = Exponential::new();
    for part in parts {
        sum.merge(part);
    }
    sum
}

fn exact_quantile_s(values: &[u64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    // q is a multiple of 1/1000, so the rank can be computed in whole numbers.
    let rank = ((q * 1000.0).round() as usize * sorted.len()).div_ceil(1000).max(1);
    sorted[rank - 1] as f64 / 1e9
}

fn check_quantiles(histogram: &Exponential, values: &[u64]) {
    for q in QUANTILES {
        let (exact, estimate) = (exact_quantile_s(values, q), histogram.quantile_s(q).unwrap());
        assert!((estimate - exact).abs() <= ERROR_MAX * exact, "q {q}: {estimate} instead of {exact} of {}", values.len());
    }
}

/// The invariants of the form itself.
fn check_form(histogram: &Exponential) {
    let (_, counts) = histogram.dense();
    assert_eq!(histogram.count(), histogram.zero_count() + counts.iter().sum::<u64>());
    assert!(counts.first() != Some(&0) && counts.last() != Some(&0), "{counts:?}");
    assert_eq!(histogram.is_empty(), histogram.min_s().is_none());
    assert!(histogram.min_s() <= histogram.max_s());
}

proptest! {
    /// A quantile is within 1.14 % of the exact nearest-rank quantile of the raw values.
    #[test]
    fn quantiles_are_within_the_promised_error(values in samples()) {
        check_quantiles(&recorded(&values), &values);
        check_quantiles(&direct(&values), &values);
    }

    /// The promise holds as well for what came after an earlier state, although its extremes are only bounds.
    #[test]
    fn quantiles_of_a_difference_are_as_good(before in samples(), after in samples()) {
        let (before, all) = (recorded(&before), merged(&[&recorded(&before), &recorded(&after)]));
        check_quantiles(&all.since(&before).unwrap(), &after);
    }

    /// Count, sum and extremes are those of the raw values.
    #[test]
    fn totals_are_exact(values in samples()) {
        for histogram in [recorded(&values), direct(&values)] {
            check_form(&histogram);
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert_eq!(histogram.sum_ns(), values.iter().copied().map(u128::from).sum::<u128>());
            prop_assert_eq!(histogram.min_s(), values.iter().min().map(|ns| *ns as f64 / 1e9));
            prop_assert_eq!(histogram.max_s(), values.iter().max().map(|ns| *ns as f64 / 1e9));
        }
    }

    /// Merging is commutative and associative, has the empty histogram as its zero, and is the same as recording all at once.
    #[test]
    fn merge_is_addition(a in samples(), b in samples(), c in samples()) {
        let all = recorded(&[&a[..], &b[..], &c[..]].concat());
        let (a, b, c) = (recorded(&a), recorded(&b), recorded(&c));
        prop_assert_eq!(&merged(&[&a, &b, &c]), &all);
        prop_assert_eq!(&merged(&[&c, &b, &a]), &all);
        prop_assert_eq!(&merged(&[&a, &merged(&[&b, &c])]), &all);
        prop_assert_eq!(&merged(&[&a, &Exponential::new()]), &a);
        check_form(&all);
    }

    /// What came since an earlier state is exactly what was merged into it, with extremes that hold the true ones.
    #[test]
    fn since_undoes_merge(a in samples(), b in samples()) {
        let (a, b) = (recorded(&a), recorded(&b));
        let difference = merged(&[&a, &b]).since(&a).unwrap();
        check_form(&difference);
        prop_assert_eq!(difference.dense(), b.dense());
        prop_assert_eq!((difference.count(), difference.zero_count(), difference.sum_ns()), (b.count(), b.zero_count(), b.sum_ns()));
        // The recorder may have put a value just inside the next bucket: 0.05 % of slack. Bounds of buckets are whole nanoseconds.
        prop_assert!(difference.min_s().unwrap() <= b.min_s().unwrap() * 1.0005);
        prop_assert!(difference.min_s().unwrap() >= b.min_s().unwrap() / 1.0225 - 1e-9);
        prop_assert!(difference.max_s().unwrap() >= b.max_s().unwrap() / 1.0005);
        prop_assert!(difference.max_s().unwrap() <= b.max_s().unwrap() * 1.0225 + 1e-9);
        prop_assert_eq!(b.since(&Exponential::new()), Some(b.clone()));
        prop_assert_eq!(a.since(&a), Some(Exponential::new()));
    }

    /// A state with anything more than the later one has cannot have been before it.
    #[test]
    fn since_needs_an_earlier_state(a in samples(), b in samples()) {
        let (a, b) = (recorded(&a), recorded(&b));
        prop_assert_eq!(a.since(&merged(&[&a, &b])), None);
    }

    /// Counting by powers of two of a second is exact, however close to the bound the values are.
    #[test]
    fn powers_of_two_are_exact(values in vec(prop_oneof![spread(), around_a_power_of_two()], 1..50)) {
        let histogram = direct(&values);
        for exponent in -20..15 {
            let bound_ns = f64::from(exponent).exp2() * 1e9;
            let expected = values.iter().filter(|ns| **ns as f64 <= bound_ns).count() as u64;
            prop_assert_eq!(histogram.count_at_or_below_power_of_two_s(exponent), expected);
        }
    }

    /// A histogram survives being taken apart and put together.
    #[test]
    fn parts_make_the_whole(values in samples()) {
        let whole = recorded(&values);
        let (offset, counts) = whole.dense();
        let extremes = (values.iter().min().copied(), values.iter().max().copied());
        let made = Exponential::from_parts(offset, counts.to_vec(), whole.zero_count(), whole.sum_ns(), extremes);
        prop_assert_eq!(made, Ok(whole));
    }

    /// Parts from outside make a histogram that can be used in every way, or an error, and never a panic.
    #[test]
    fn hostile_parts_do_no_harm(
        offset in prop_oneof![any::<i32>(), INDEX_MIN - 3..INDEX_MAX + 3, i32::MAX - 9..=i32::MAX, i32::MIN..i32::MIN + 9],
        counts in vec(prop_oneof![Just(0), 0..5_u64, any::<u64>()], 0..8),
        zero_count in prop_oneof![Just(0), any::<u64>()],
        sum_ns in prop_oneof![0..u128::from(u64::MAX), any::<u128>()],
        extremes in any::<(Option<u64>, Option<u64>)>(),
        values in samples(),
    ) {
        if let Ok(made) = Exponential::from_parts(offset, counts, zero_count, sum_ns, extremes) {
            check_form(&made);
            let both = merged(&[&recorded(&values), &made]);
            check_form(&both);
            let difference = both.since(&recorded(&values)).unwrap();
            prop_assert_eq!(difference.dense(), made.dense());
            prop_assert_eq!(both.quantiles().map(|q| q.samples), Some(both.count()));
        }
    }

    /// The bucket of a value is the one whose bounds enclose it, for every value that there is.
    #[test]
    fn buckets_enclose_their_values(ns in prop_oneof![1..=u64::MAX, 1..5_000_u64, spread()]) {
        let index = index_of(ns).unwrap();
        prop_assert!((INDEX_MIN..=INDEX_MAX).contains(&index));
        prop_assert!(lower_ns(index) < ns && ns <= upper_ns(index), "{} < {} <= {}", lower_ns(index), ns, upper_ns(index));
        let estimate = ((ns as f64 / 1e9).log2() * 32.0).ceil() as i32 - 1;
        prop_assert!((index - estimate).abs() <= 1);
    }
}

/// A value of exactly 2^k seconds ends the bucket below the bound, and one nanosecond more begins the next.
#[test]
fn powers_of_two_end_their_bucket() {
    for exponent in -9..=34 {
        let ns = if exponent < 0 { 1_000_000_000 >> -exponent } else { 1_000_000_000 << exponent };
        assert_eq!((index_of(ns), index_of(ns + 1)), (Some(32 * exponent - 1), Some(32 * exponent)), "2^{exponent} s");
        assert_eq!((lower_ns(32 * exponent), upper_ns(32 * exponent - 1)), (ns, ns));
    }
    assert_eq!((index_of(0), index_of(1), index_of(u64::MAX)), (None, Some(INDEX_MIN), Some(INDEX_MAX)));
}

/// Neighbouring whole nanoseconds on both sides of every bound fall into the buckets on both sides of it.
#[test]
fn every_bound_is_exact() {
    for index in index_of(1 << 8).unwrap() + 1..=INDEX_MAX {
        let below = lower_ns(index);
        assert_eq!((index_of(below), index_of(below + 1)), (Some(index - 1), Some(index)));
    }
}

/// What waits longer than an hour is counted in the longest bucket, said to be so, and the true largest is kept.
#[test]
fn longest_is_kept() {
    let mut recorder = Recorder::new();
    for ns in [HOUR, HOUR + 1, 3 * HOUR] {
        recorder.record(ns);
    }
    assert_eq!((recorder.count(), recorder.clamped(), recorder.max_ns()), (3, 2, Some(3 * HOUR)));
    let mut histogram = Exponential::new();
    histogram.add(&recorder);
    assert_eq!((histogram.count(), histogram.max_s(), histogram.sum_s()), (3, Some(10_800.0), 18_000.000_000_001));
    assert_eq!(histogram.buckets().count(), 1);
    recorder.clear();
    assert_eq!((recorder.count(), recorder.min_ns(), recorder.max_ns()), (0, None, None));
}

/// What is empty has no quantile; what was never measured is not zero.
#[test]
fn empty_knows_nothing() {
    let empty = Exponential::new();
    assert_eq!((empty.min_s(), empty.max_s(), empty.quantile_s(0.5), empty.quantiles()), (None, None, None, None));
    assert_eq!(recorded(&[]), empty);
    let some = direct(&[5]);
    assert_eq!((some.quantile_s(-0.1), some.quantile_s(1.1), some.quantile_s(f64::NAN)), (None, None, None));
}

/// A link's distribution (300 neighbouring buckets) stays below 4 KiB, however it grew.
#[test]
fn memory_follows_use() {
    let first = index_of(1_000_000).unwrap();
    let indices: Vec<i32> = (first..first + 300).collect();
    let middle = |index: &i32| lower_ns(*index) + 1;
    let upwards = direct(&indices.iter().map(middle).collect::<Vec<_>>());
    let downwards = direct(&indices.iter().rev().map(middle).collect::<Vec<_>>());
    let both = merged(&[&upwards, &downwards]);
    for histogram in [upwards, downwards, both] {
        assert_eq!(histogram.buckets().count(), 300);
        assert!(histogram.memory_bytes() < 4096, "{} bytes", histogram.memory_bytes());
    }
}
