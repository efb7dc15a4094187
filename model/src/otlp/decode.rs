//! OTLP to series. What comes in is hostile until shown otherwise: every shape is checked before anything is built from it.

mod point;

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{self as wire, AggregationTemporality, DataPointFlags, ResourceMetrics, metric};

use super::{Refusal, Rejection, resource};
use crate::catalogue::{self, Attribute, Kind, Metric};
use crate::series::{Attributes, Batch, Exporter, Series, Value};
use crate::time::WallNanos;

/// What is accepted at most. The defaults fit a batch of 1 MiB from a fleet of 40 regions many times over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Batches (resources) in one request.
    pub batches_max: usize,
    /// Data points in one request; those beyond are rejected.
    pub points_max: usize,
    /// Length of an attribute's value [bytes], on points as on the resource.
    pub attribute_value_len_max: usize,
    /// Buckets of one histogram, before any down-scaling.
    pub bucket_span_max: usize,
    /// Labels of time before this are impossible: lagmesh did not exist.
    pub time_min: WallNanos,
    /// Labels of time after this are impossible. A label only, so by default nearly anything goes; the wall clock may be wrong.
    pub time_max: WallNanos,
}

impl Default for Limits {
    fn default() -> Limits {
        const YEAR_NS: u64 = 31_556_952_000_000_000;
        Limits {
            batches_max: 64,
            points_max: 100_000,
            attribute_value_len_max: 256,
            bucket_span_max: 4096,
            time_min: WallNanos(1),
            time_max: WallNanos(200 * YEAR_NS),
        }
    }
}

/// What a request held.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded {
    /// The batches that have at least one good point.
    pub batches: Vec<Batch>,
    /// How many points were rejected, by reason.
    pub rejected: BTreeMap<Rejection, u64>,
}

impl Decoded {
    /// How many points were taken.
    pub fn accepted(&self) -> u64 {
        self.batches.iter().map(|batch| batch.series.len() as u64).sum()
    }

    /// How many points were rejected for any reason.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    fn reject(&mut self, reason: Rejection, points: usize) {
        if points > 0 {
            *self.rejected.entry(reason).or_insert(0) += points as u64;
        }
    }
}

/// The batches of a request. Bad points are rejected one by one and counted.
///
/// # Errors
/// If the exporter of any batch is not fully known: then nothing of the request is taken.
pub fn decode(request: ExportMetricsServiceRequest, limits: &Limits) -> Result<Decoded, Refusal> {
    let count = request.resource_metrics.len();
    if count > limits.batches_max {
        return Err(Refusal::TooManyBatches { count, max: limits.batches_max });
    }
    let mut seen = HashSet::new();
    let mut identities = Vec::with_capacity(count);
    for resource in &request.resource_metrics {
        let (exporter, sequence) = identity(resource, limits)?;
        if !seen.insert((exporter.agent.clone(), exporter.boot, sequence)) {
            return Err(Refusal::RepeatedBatch { agent: exporter.agent.to_string(), sequence });
        }
        identities.push((exporter, sequence));
    }

    let mut decoded = Decoded::default();
    let mut points_left = limits.points_max;
    for ((exporter, sequence), resource) in identities.into_iter().zip(request.resource_metrics) {
        let mut reader = Reader { limits, times: None, series: Vec::new(), decoded: &mut decoded, points_left };
        for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            reader.metric(metric);
        }
        points_left = reader.points_left;
        let (times, series) = (reader.times, reader.series);
        let series = unique(series, &mut decoded);
        if let Some((start, time)) = times {
            decoded.batches.push(Batch { exporter, sequence, start, time, series });
        }
    }
    Ok(decoded)
}

/// Keeps the first of each series.
fn unique(series: Vec<Series>, decoded: &mut Decoded) -> Vec<Series> {
    let mut seen = HashSet::with_capacity(series.len());
    let first: Vec<bool> = series.iter().map(|one| seen.insert((one.metric.name, &one.attributes))).collect();
    let all = series.len();
    let kept: Vec<Series> = series.into_iter().zip(first).filter_map(|(one, first)| first.then_some(one)).collect();
    decoded.reject(Rejection::Duplicate, all - kept.len());
    kept
}

/// Who exports, and the number of the batch.
fn identity(metrics: &ResourceMetrics, limits: &Limits) -> Result<(Exporter, u64), Refusal> {
    let attributes = metrics.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
    let exporter = Exporter {
        fleet: text(attributes, resource::FLEET, limits)?.to_owned(),
        region: parsed(attributes, resource::REGION, limits)?,
        agent: parsed(attributes, resource::SERVICE_INSTANCE, limits)?,
        boot: parsed(attributes, resource::BOOT, limits)?,
        version: text(attributes, resource::SERVICE_VERSION, limits)?.to_owned(),
    };
    let sequence = match find(attributes, resource::SEQUENCE)? {
        any_value::Value::IntValue(sequence) => u64::try_from(*sequence).ok().filter(|sequence| *sequence > 0),
        _ => None,
    };
    let sequence = sequence.ok_or_else(|| malformed(resource::SEQUENCE, "it must be an integer from 1 on"))?;
    Ok((exporter, sequence))
}

fn find<'a>(attributes: &'a [KeyValue], name: &'static str) -> Result<&'a any_value::Value, Refusal> {
    let mut found = attributes.iter().filter(|attribute| attribute.key == name);
    let value = found.next().and_then(|attribute| attribute.value.as_ref()?.value.as_ref()).ok_or(Refusal::Missing(name))?;
    if found.next().is_some() {
        return Err(malformed(name, "it stands there twice"));
    }
    Ok(value)
}

fn text<'a>(attributes: &'a [KeyValue], name: &'static str, limits: &Limits) -> Result<&'a str, Refusal> {
    match find(attributes, name)? {
        any_value::Value::StringValue(text) if text.is_empty() => Err(malformed(name, "it is empty")),
        any_value::Value::StringValue(text) if text.len() > limits.attribute_value_len_max => {
            Err(malformed(name, format!("it is longer than {} bytes", limits.attribute_value_len_max)))
        }
        any_value::Value::StringValue(text) => Ok(text),
        _ => Err(malformed(name, "it must be a string")),
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(
    attributes: &[KeyValue],
    name: &'static str,
    limits: &Limits,
) -> Result<T, Refusal> {
    text(attributes, name, limits)?.parse().map_err(|error: T::Err| malformed(name, error.to_string()))
}

fn malformed(name: &'static str, why: impl Into<String>) -> Refusal {
    Refusal::Malformed { name, why: why.into() }
}

/// Reads the points of one batch.
struct Reader<'a> {
    limits: &'a Limits,
    /// Start and time of the batch: those of its first good point.
    times: Option<(WallNanos, WallNanos)>,
    series: Vec<Series>,
    decoded: &'a mut Decoded,
    points_left: usize,
}

impl Reader<'_> {
    fn metric(&mut self, metric: wire::Metric) {
        let Some(data) = metric.data else { return };
        let known = catalogue::by_name(&metric.name).ok_or(Rejection::UnknownMetric).and_then(|known| {
            check_metric(known, &metric.unit, &data)?;
            Ok(known)
        });
        let known = match known {
            Ok(known) => known,
            Err(reason) => return self.decoded.reject(reason, points(&data)),
        };
        match data {
            metric::Data::Gauge(wire::Gauge { data_points }) | metric::Data::Sum(wire::Sum { data_points, .. }) => {
                self.points(data_points, |reader, point| {
                    let header = (point.flags, point.start_time_unix_nano, point.time_unix_nano);
                    reader.point(known, header, point.attributes, || point::number(known.kind, point.value))
                });
            }
            metric::Data::ExponentialHistogram(histogram) => {
                self.points(histogram.data_points, |reader, mut point| {
                    let header = (point.flags, point.start_time_unix_nano, point.time_unix_nano);
                    let attributes = std::mem::take(&mut point.attributes);
                    let span_max = reader.limits.bucket_span_max;
                    reader.point(known, header, attributes, || point::histogram(point, span_max))
                });
            }
            metric::Data::Histogram(_) | metric::Data::Summary(_) => self.decoded.reject(Rejection::WrongKind, points(&data)),
        }
    }

    fn points<P>(&mut self, points: Vec<P>, mut read: impl FnMut(&mut Self, P) -> Result<(), Rejection>) {
        let taken = points.len().min(self.points_left);
        self.points_left -= taken;
        self.decoded.reject(Rejection::TooManyPoints, points.len() - taken);
        for point in points.into_iter().take(taken) {
            if let Err(reason) = read(self, point) {
                self.decoded.reject(reason, 1);
            }
        }
    }

    fn point(
        &mut self,
        metric: &'static Metric,
        (flags, start, time): (u32, u64, u64),
        attributes: Vec<KeyValue>,
        value: impl FnOnce() -> Result<Value, Rejection>,
    ) -> Result<(), Rejection> {
        if flags & DataPointFlags::NoRecordedValueMask as u32 != 0 {
            return Err(Rejection::NoValue);
        }
        let times = (WallNanos(start), WallNanos(time));
        let possible = self.limits.time_min..=self.limits.time_max;
        if start > time || !possible.contains(&times.0) || !possible.contains(&times.1) || self.times.is_some_and(|t| t != times)
        {
            return Err(Rejection::ImpossibleTime);
        }
        let attributes = point_attributes(metric, attributes, self.limits.attribute_value_len_max)?;
        let value = value()?;
        self.times = Some(times);
        self.series.push(Series { metric, attributes, value });
        Ok(())
    }
}

fn check_metric(known: &Metric, unit: &str, data: &metric::Data) -> Result<(), Rejection> {
    const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
    if unit != known.unit.ucum() {
        return Err(Rejection::WrongUnit);
    }
    match (known.kind, data) {
        (Kind::Gauge | Kind::Whole, metric::Data::Gauge(_)) => Ok(()),
        (Kind::Counter, metric::Data::Sum(sum)) if sum.aggregation_temporality == CUMULATIVE && sum.is_monotonic => Ok(()),
        (Kind::Histogram, metric::Data::ExponentialHistogram(wire)) if wire.aggregation_temporality == CUMULATIVE => Ok(()),
        (Kind::Counter, metric::Data::Sum(_)) | (Kind::Histogram, metric::Data::ExponentialHistogram(_)) => {
            Err(Rejection::WrongTemporality)
        }
        _ => Err(Rejection::WrongKind),
    }
}

fn points(data: &metric::Data) -> usize {
    match data {
        metric::Data::Gauge(gauge) => gauge.data_points.len(),
        metric::Data::Sum(sum) => sum.data_points.len(),
        metric::Data::Histogram(histogram) => histogram.data_points.len(),
        metric::Data::ExponentialHistogram(histogram) => histogram.data_points.len(),
        metric::Data::Summary(summary) => summary.data_points.len(),
    }
}

fn point_attributes(metric: &Metric, wire: Vec<KeyValue>, value_len_max: usize) -> Result<Attributes, Rejection> {
    if wire.len() != metric.attributes.len() {
        return Err(Rejection::WrongAttributes);
    }
    let mut attributes = Attributes::new();
    for KeyValue { key, value, .. } in wire {
        let name = Attribute::from_name(&key).ok_or(Rejection::WrongAttributes)?;
        let Some(any_value::Value::StringValue(value)) = value.and_then(|value| value.value) else {
            return Err(Rejection::WrongAttributes);
        };
        if value.len() > value_len_max {
            return Err(Rejection::AttributeTooLong);
        }
        attributes = attributes.with(name, value);
    }
    if attributes.fit(metric) { Ok(attributes) } else { Err(Rejection::WrongAttributes) }
}
