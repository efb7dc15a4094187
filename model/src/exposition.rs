//! `/metrics`: series as OpenMetrics text, or as protobuf for a Prometheus that asks for it.
//!
//! Histograms leave with classic buckets whose bounds are powers of two of a second: bounds of our own buckets too, so that
//! every count is exact. In protobuf they have native buckets as well, which are our own.

mod accept;
mod protobuf;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    self, DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{self, Registry};

use crate::catalogue::{CATALOGUE, Kind, Metric, Unit};
use crate::histogram::Exponential;
use crate::series::{Attributes, Series, Value};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of [`protobuf()`].
pub const PROTOBUF_CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// The exponents of the classic buckets: 2^-14 s (61 µs) to 2^6 s (64 s), then infinity.
pub const CLASSIC_EXPONENTS: std::ops::RangeInclusive<i32> = -14..=6;

/// The page in the form that a request's `Accept` likes best, with its content type: text unless protobuf is liked as much.
pub fn page(accept: Option<&str>, series: &[Series]) -> (&'static str, Vec<u8>) {
    if accept::prefers_protobuf(accept) {
        (PROTOBUF_CONTENT_TYPE, protobuf(series))
    } else {
        (CONTENT_TYPE, text(series).into_bytes())
    }
}

/// The series as delimited messages of `io.prometheus.client.MetricFamily`, with native histograms beside the classic buckets. The same
/// names, series and order as [`text`].
pub fn protobuf(series: &[Series]) -> Vec<u8> {
    protobuf::encode(&Page::new(series))
}

/// Whether the page shows a series: see [`text`].
pub fn is_shown(series: &Series) -> bool {
    Point::new(series).is_some()
}

/// A bucket's upper bound as the page writes it in `le`.
pub fn le(bound_s: f64) -> String {
    let digits = bound_s.to_string();
    match bound_s {
        f64::INFINITY => "+Inf".to_owned(),
        _ if digits.contains('.') => digits,
        _ => digits + ".0",
    }
}

/// Counts of a histogram's classic buckets: upper bound [s] and how many values lie between the bound before and it. The last bound is
/// infinity.
pub fn classic(histogram: &Exponential) -> Vec<(f64, u64)> {
    let mut below = 0;
    let mut buckets = Vec::with_capacity(CLASSIC_EXPONENTS.count() + 1);
    for exponent in CLASSIC_EXPONENTS {
        let at_or_below = histogram.count_at_or_below_power_of_two_s(exponent);
        buckets.push((f64::from(exponent).exp2(), at_or_below - below));
        below = at_or_below;
    }
    buckets.push((f64::INFINITY, histogram.count() - below));
    buckets
}

/// The series as OpenMetrics text, in the order of the catalogue, each metric's series in the order of their attributes.
///
/// A gauge that is no finite number is left out: what is unknown has no series. So are whole values, which are not for people.
pub fn text(series: &[Series]) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page::new(series)));
    written(&registry)
}

fn written(registry: &Registry) -> String {
    let mut text = String::new();
    encoding::text::encode(&mut text, registry).expect("a string takes any text");
    text
}

/// All that one scrape says, ready to be written.
#[derive(Debug)]
struct Page(Vec<(&'static Metric, BTreeMap<Attributes, Point>)>);

#[derive(Debug)]
enum Point {
    Gauge(f64),
    Counter(u64),
    Histogram(Arc<Exponential>),
}

impl Page {
    fn new(series: &[Series]) -> Page {
        let mut families: BTreeMap<&str, BTreeMap<Attributes, Point>> = BTreeMap::new();
        for one in series {
            let Some(point) = Point::new(one) else { continue };
            let before = families.entry(one.metric.name).or_default().insert(one.attributes.clone(), point);
            debug_assert!(before.is_none(), "{} {:?} stands there twice", one.metric, one.attributes);
        }
        Page(CATALOGUE.iter().filter_map(|metric| Some((*metric, families.remove(metric.name)?))).collect())
    }
}

impl Point {
    fn new(series: &Series) -> Option<Point> {
        match (series.metric.kind, &series.value) {
            (Kind::Gauge, Value::Gauge(value)) => value.is_finite().then_some(Point::Gauge(*value)),
            (Kind::Counter, Value::Counter(value)) => Some(Point::Counter(*value)),
            (Kind::Histogram, Value::Histogram(histogram)) => Some(Point::Histogram(histogram.clone())),
            (Kind::Whole, Value::Whole(_)) => None,
            (kind, value) => {
                debug_assert!(false, "{} is a {kind:?}, not {value:?}", series.metric);
                None
            }
        }
    }

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Point::Gauge(value) => encoder.encode_gauge(value),
            Point::Counter(value) => encoder.encode_counter(value, None::<&Exemplar<NoLabelSet, f64>>),
            // The encoder adds the counts up again.
            Point::Histogram(histogram) => {
                encoder.encode_histogram::<NoLabelSet>(histogram.sum_s(), histogram.count(), &classic(histogram), None)
            }
        }
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (metric, points) in &self.0 {
            let unit = match metric.unit {
                Unit::Seconds => Some(registry::Unit::Seconds),
                Unit::Nanoseconds => Some(registry::Unit::Other("nanoseconds".to_owned())),
                Unit::Bytes => Some(registry::Unit::Bytes),
                Unit::BytesPerSecond => Some(registry::Unit::Other("bytes_per_second".to_owned())),
                Unit::One => None,
            };
            let kind = match metric.kind {
                Kind::Gauge | Kind::Whole => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
                Kind::Histogram => MetricType::Histogram,
            };
            let stem = metric.prometheus_stem();
            let mut family = encoder.encode_descriptor(&stem, metric.help, unit.as_ref(), kind)?;
            for (attributes, point) in points {
                point.encode(&mut family.encode_family(&Labels(attributes))?)?;
            }
        }
        Ok(())
    }
}

struct Labels<'a>(&'a Attributes);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in self.0.iter() {
            (name.as_str(), value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
