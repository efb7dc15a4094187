//! Series to OTLP.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    self as wire, AggregationTemporality, DataPointFlags, ExponentialHistogramDataPoint, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::resource;
use crate::catalogue::{Kind, Metric, Unit};
use crate::histogram::Exponential;
use crate::series::{Attributes, Batch, Value};
use crate::time::WallNanos;

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// A batch as one OTLP request. Metrics come in the order of their names, series in the order of the batch.
pub fn encode(batch: &Batch) -> ExportMetricsServiceRequest {
    let said = batch.series.iter().map(|series| Said {
        metric: series.metric,
        attributes: &series.attributes,
        value: Some(&series.value),
    });
    request(identity(batch), &batch.exporter.version, Times { start: batch.start, time: batch.time }, unit, said)
}

/// What is said of one series.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// Which metric.
    pub metric: &'static Metric,
    /// Its attributes.
    pub attributes: &'a Attributes,
    /// Its value; `None` if the series has ended, which OTLP can say.
    pub value: Option<&'a Value>,
}

/// A program that passes series on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// `service.name`.
    pub service: String,
    /// `service.instance.id`.
    pub instance: String,
    /// Its version.
    pub version: String,
    /// The fleet's name.
    pub fleet: String,
}

/// Series of one moment as one OTLP request of a relay. Since when it counts is unknown, which in OTLP is a start of 0. Receivers that make
/// Prometheus names of it make those that [`Metric::prometheus_name`] gives.
pub fn encode_relayed<'a>(
    relay: &Relay,
    time: WallNanos,
    said: impl IntoIterator<Item = Said<'a>>,
) -> ExportMetricsServiceRequest {
    let identity = vec![
        text(resource::SERVICE_NAME, &relay.service),
        text(resource::SERVICE_INSTANCE, &relay.instance),
        text(resource::SERVICE_VERSION, &relay.version),
        text(resource::FLEET, &relay.fleet),
    ];
    request(identity, &relay.version, Times { start: WallNanos(0), time }, unit_for_names, said)
}

#[derive(Clone, Copy)]
struct Times {
    start: WallNanos,
    time: WallNanos,
}

/// The unit as it is.
fn unit(metric: &Metric) -> &'static str {
    metric.unit.ucum()
}

/// The unit as it makes the right name: Prometheus and its like take a current value in units of 1 for a ratio and end its name so, but a
/// state is none. Of one without a unit the name stays as it is.
fn unit_for_names(metric: &Metric) -> &'static str {
    match (metric.kind, metric.unit) {
        (Kind::Gauge | Kind::Whole, Unit::One) => "",
        _ => metric.unit.ucum(),
    }
}

fn request<'a>(
    identity: Vec<KeyValue>,
    version: &str,
    times: Times,
    unit: fn(&Metric) -> &'static str,
    said: impl IntoIterator<Item = Said<'a>>,
) -> ExportMetricsServiceRequest {
    let mut by_metric: BTreeMap<&'static Metric, Vec<Said<'a>>> = BTreeMap::new();
    for one in said {
        by_metric.entry(one.metric).or_default().push(one);
    }
    let metrics = by_metric.into_iter().map(|(metric, said)| encode_metric(times, unit(metric), metric, &said)).collect();
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes: identity, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: super::SCOPE.to_owned(),
                    version: version.to_owned(),
                    ..InstrumentationScope::default()
                }),
                metrics,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn identity(batch: &Batch) -> Vec<KeyValue> {
    let exporter = &batch.exporter;
    let sequence = any_value::Value::IntValue(signed(batch.sequence));
    vec![
        text(resource::SERVICE_NAME, super::SERVICE_NAME),
        text(resource::SERVICE_INSTANCE, exporter.agent.as_str()),
        text(resource::SERVICE_VERSION, &exporter.version),
        text(resource::FLEET, &exporter.fleet),
        text(resource::REGION, exporter.region.as_str()),
        text(resource::BOOT, &exporter.boot.to_string()),
        attribute(resource::SEQUENCE, sequence),
    ]
}

fn encode_metric(times: Times, unit: &str, metric: &'static Metric, said: &[Said<'_>]) -> wire::Metric {
    let data = match metric.kind {
        Kind::Gauge | Kind::Whole => metric::Data::Gauge(wire::Gauge { data_points: numbers(times, said) }),
        Kind::Counter => metric::Data::Sum(wire::Sum {
            data_points: numbers(times, said),
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        }),
        Kind::Histogram => metric::Data::ExponentialHistogram(wire::ExponentialHistogram {
            data_points: said.iter().filter_map(|one| distribution(times, *one)).collect(),
            aggregation_temporality: CUMULATIVE,
        }),
    };
    wire::Metric {
        name: metric.name.to_owned(),
        description: metric.help.to_owned(),
        unit: unit.to_owned(),
        metadata: Vec::new(),
        data: Some(data),
    }
}

fn numbers(times: Times, said: &[Said<'_>]) -> Vec<NumberDataPoint> {
    let point = |one: &Said<'_>| {
        let value = match (one.metric.kind, one.value) {
            (_, None) => None,
            (Kind::Gauge, Some(Value::Gauge(value))) => Some(number_data_point::Value::AsDouble(*value)),
            (Kind::Counter, Some(Value::Counter(value))) => Some(number_data_point::Value::AsInt(signed(*value))),
            (Kind::Whole, Some(Value::Whole(value))) => Some(number_data_point::Value::AsInt(*value)),
            _ => return mismatch(*one),
        };
        Some(NumberDataPoint {
            attributes: attributes(one.attributes),
            start_time_unix_nano: times.start.0,
            time_unix_nano: times.time.0,
            flags: flags(*one),
            value,
            ..NumberDataPoint::default()
        })
    };
    said.iter().filter_map(point).collect()
}

fn distribution(times: Times, said: Said<'_>) -> Option<ExponentialHistogramDataPoint> {
    let point = ExponentialHistogramDataPoint {
        attributes: attributes(said.attributes),
        start_time_unix_nano: times.start.0,
        time_unix_nano: times.time.0,
        scale: Exponential::SCALE,
        flags: flags(said),
        ..ExponentialHistogramDataPoint::default()
    };
    let Some(value) = said.value else { return Some(point) };
    let Value::Histogram(histogram) = value else { return mismatch(said) };
    let (offset, counts) = histogram.dense();
    Some(ExponentialHistogramDataPoint {
        count: histogram.count(),
        sum: Some(histogram.sum_s()),
        zero_count: histogram.zero_count(),
        positive: Some(Buckets { offset, bucket_counts: counts.to_vec() }),
        min: histogram.min_s(),
        max: histogram.max_s(),
        ..point
    })
}

fn flags(said: Said<'_>) -> u32 {
    let flags = if said.value.is_some() { DataPointFlags::DoNotUse } else { DataPointFlags::NoRecordedValueMask };
    i32::from(flags).unsigned_abs()
}

/// A series whose value is not of its metric's kind cannot be said; building one is a mistake in the program.
fn mismatch<T>(said: Said<'_>) -> Option<T> {
    debug_assert!(false, "{} is a {:?}, not {:?}", said.metric, said.metric.kind, said.value);
    None
}

fn attributes(attributes: &Attributes) -> Vec<KeyValue> {
    attributes.iter().map(|(name, value)| text(name.as_str(), value)).collect()
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.to_owned()))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// OTLP's integers are signed; no count of ours comes near 2^63.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
