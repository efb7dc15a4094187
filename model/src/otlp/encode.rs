//! Series to OTLP.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    self as wire, AggregationTemporality, ExponentialHistogramDataPoint, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::resource;
use crate::catalogue::{Kind, Metric};
use crate::histogram::Exponential;
use crate::series::{Attributes, Batch, Series, Value};

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// A batch as one OTLP request. Metrics come in the order of their names, series in the order of the batch.
pub fn encode(batch: &Batch) -> ExportMetricsServiceRequest {
    let mut by_metric: BTreeMap<&'static Metric, Vec<&Series>> = BTreeMap::new();
    for series in &batch.series {
        by_metric.entry(series.metric).or_default().push(series);
    }
    let metrics = by_metric.into_iter().map(|(metric, series)| encode_metric(batch, metric, &series)).collect();
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes: identity(batch), ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: super::SCOPE.to_owned(),
                    version: batch.exporter.version.clone(),
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

fn encode_metric(batch: &Batch, metric: &'static Metric, series: &[&Series]) -> wire::Metric {
    let data = match metric.kind {
        Kind::Gauge | Kind::Whole => metric::Data::Gauge(wire::Gauge { data_points: numbers(batch, series) }),
        Kind::Counter => metric::Data::Sum(wire::Sum {
            data_points: numbers(batch, series),
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        }),
        Kind::Histogram => metric::Data::ExponentialHistogram(wire::ExponentialHistogram {
            data_points: series.iter().filter_map(|series| distribution(batch, series)).collect(),
            aggregation_temporality: CUMULATIVE,
        }),
    };
    wire::Metric {
        name: metric.name.to_owned(),
        description: metric.help.to_owned(),
        unit: metric.unit.ucum().to_owned(),
        metadata: Vec::new(),
        data: Some(data),
    }
}

fn numbers(batch: &Batch, series: &[&Series]) -> Vec<NumberDataPoint> {
    let point = |series: &&Series| {
        let value = match (series.metric.kind, &series.value) {
            (Kind::Gauge, Value::Gauge(value)) => number_data_point::Value::AsDouble(*value),
            (Kind::Counter, Value::Counter(value)) => number_data_point::Value::AsInt(signed(*value)),
            (Kind::Whole, Value::Whole(value)) => number_data_point::Value::AsInt(*value),
            _ => return mismatch(series),
        };
        Some(NumberDataPoint {
            attributes: attributes(&series.attributes),
            start_time_unix_nano: batch.start.0,
            time_unix_nano: batch.time.0,
            value: Some(value),
            ..NumberDataPoint::default()
        })
    };
    series.iter().filter_map(point).collect()
}

fn distribution(batch: &Batch, series: &Series) -> Option<ExponentialHistogramDataPoint> {
    let Value::Histogram(histogram) = &series.value else { return mismatch(series) };
    let (offset, counts) = histogram.dense();
    Some(ExponentialHistogramDataPoint {
        attributes: attributes(&series.attributes),
        start_time_unix_nano: batch.start.0,
        time_unix_nano: batch.time.0,
        count: histogram.count(),
        sum: Some(histogram.sum_s()),
        scale: Exponential::SCALE,
        zero_count: histogram.zero_count(),
        positive: Some(Buckets { offset, bucket_counts: counts.to_vec() }),
        min: histogram.min_s(),
        max: histogram.max_s(),
        ..ExponentialHistogramDataPoint::default()
    })
}

/// A series whose value is not of its metric's kind cannot be said; building one is a mistake in the program.
fn mismatch<T>(series: &Series) -> Option<T> {
    debug_assert!(false, "{} is a {:?}, not {:?}", series.metric, series.metric.kind, series.value);
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
