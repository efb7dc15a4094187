//! The value of one data point.

use std::sync::Arc;

use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, number_data_point};

use crate::catalogue::Kind;
use crate::histogram::{Bad, Exponential};
use crate::otlp::Rejection;
use crate::series::Value;

/// The finest scale that OpenTelemetry knows.
const SCALE_MAX: i32 = 20;

/// A gauge, a counter or a whole value.
pub(super) fn number(kind: Kind, value: Option<number_data_point::Value>) -> Result<Value, Rejection> {
    match (kind, value.ok_or(Rejection::NoValue)?) {
        (Kind::Gauge, number_data_point::Value::AsDouble(value)) if value.is_finite() => Ok(Value::Gauge(value)),
        (Kind::Gauge, number_data_point::Value::AsDouble(_)) => Err(Rejection::NonFinite),
        (Kind::Gauge, number_data_point::Value::AsInt(value)) => Ok(Value::Gauge(value as f64)),
        (Kind::Counter, number_data_point::Value::AsInt(value)) => {
            u64::try_from(value).map(Value::Counter).map_err(|_| Rejection::Negative)
        }
        (Kind::Whole, number_data_point::Value::AsInt(value)) => Ok(Value::Whole(value)),
        _ => Err(Rejection::WrongKind),
    }
}

/// A distribution, brought to our scale if it is finer.
pub(super) fn histogram(point: ExponentialHistogramDataPoint, span_max: usize) -> Result<Value, Rejection> {
    if !(Exponential::SCALE..=SCALE_MAX).contains(&point.scale) || point.zero_threshold != 0.0 {
        return Err(Rejection::ForeignScale);
    }
    let negative = point.negative.unwrap_or_default().bucket_counts;
    let Buckets { offset, bucket_counts } = point.positive.unwrap_or_default();
    if bucket_counts.len() > span_max || negative.len() > span_max {
        return Err(Rejection::BucketSpan);
    }
    if negative.iter().any(|count| *count > 0) {
        return Err(Rejection::Negative);
    }
    let total = bucket_counts.iter().try_fold(point.zero_count, |sum, count| sum.checked_add(*count));
    if total != Some(point.count) {
        return Err(Rejection::CountMismatch);
    }
    let (offset, counts) = downscaled(offset, bucket_counts, point.scale - Exponential::SCALE)?;
    let sum_ns = nanoseconds(point.sum.ok_or(Rejection::ImpossibleSum)?)?;
    let extreme = |seconds: Option<f64>| -> Result<Option<u64>, Rejection> {
        // OTLP leaves the extremes of an empty histogram undefined.
        let Some(seconds) = seconds.filter(|_| point.count > 0) else { return Ok(None) };
        u64::try_from(nanoseconds(seconds)?).map(Some).map_err(|_| Rejection::ImpossibleExtremes)
    };
    let extremes_ns = (extreme(point.min)?, extreme(point.max)?);
    let histogram = Exponential::from_parts(offset, counts, point.zero_count, sum_ns, extremes_ns).map_err(|bad| match bad {
        Bad::Count => Rejection::CountTooLarge,
        Bad::Range => Rejection::BucketRange,
        Bad::MinAboveMax => Rejection::MinAboveMax,
        Bad::Extremes => Rejection::ImpossibleExtremes,
        Bad::Sum => Rejection::ImpossibleSum,
    })?;
    Ok(Value::Histogram(Arc::new(histogram)))
}

/// Buckets of a scale that is finer by `finer`, added up exactly: bucket `i` lies wholly in bucket `i >> finer` of our scale.
fn downscaled(offset: i32, counts: Vec<u64>, finer: i32) -> Result<(i32, Vec<u64>), Rejection> {
    if finer == 0 || counts.is_empty() {
        return Ok((offset, counts));
    }
    let last = i32::try_from(counts.len() - 1).ok().and_then(|last| offset.checked_add(last)).ok_or(Rejection::BucketRange)?;
    let first = offset >> finer;
    let position = |index: i32| usize::try_from((index >> finer) - first).expect("an index from the first on");
    let mut coarse = vec![0; position(last) + 1];
    for (index, count) in (offset..=last).zip(counts) {
        coarse[position(index)] += count;
    }
    Ok((first, coarse))
}

/// Seconds as whole nanoseconds.
fn nanoseconds(seconds: f64) -> Result<u128, Rejection> {
    if !seconds.is_finite() {
        return Err(Rejection::NonFinite);
    }
    if seconds < 0.0 {
        return Err(Rejection::Negative);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "finite and not negative; 2^128 ns is checked by use"
    )]
    let ns = (seconds * 1e9).round() as u128;
    Ok(ns)
}
