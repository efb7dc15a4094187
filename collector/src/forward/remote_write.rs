//! Prometheus remote write, 1.0 and 2.0. Pure. The messages stand here by hand: those of crates know no histograms, or need a compiler
//! of protobuf to build.
//!
//! A series has the labels that a scrape of `/metrics` gives it, `job` and `instance` included.

mod wire;

use std::collections::BTreeMap;

use lagmesh_model::catalogue::{Kind, Metric};
use lagmesh_model::exposition::{self, CLASSIC_EXPONENTS};
use lagmesh_model::fleet::HistogramForm;
use lagmesh_model::histogram::{Exponential, Native};
use lagmesh_model::series::Value;
use prost::Message as _;

use super::points::Point;

/// The value that says that a series has ended: one of the many forms of "no number".
const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);
/// What a native histogram counts for beside a plain sample: it has some hundred buckets.
const NATIVE_WEIGHT: usize = 10;

/// What Prometheus itself adds to a series that it scrapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `job`.
    pub(crate) job: String,
    /// `instance`.
    pub(crate) instance: String,
}

/// One sample with everything that belongs to its series.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    metric: &'static Metric,
    /// Sorted by name.
    labels: BTreeMap<String, String>,
    sample: Sample,
}

#[derive(Debug, Clone, PartialEq)]
enum Sample {
    Number(f64),
    Native(wire::Histogram),
}

/// How many samples of each kind a request holds: a receiver of 2.0 says how many it has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sent {
    /// Plain samples.
    pub(crate) samples: u64,
    /// Native histograms.
    pub(crate) histograms: u64,
}

/// How much a point takes of a request, in plain samples.
pub(crate) fn weight(point: &Point, form: HistogramForm) -> usize {
    match (point.metric.kind, form) {
        (Kind::Histogram, HistogramForm::Classic) => CLASSIC_EXPONENTS.count() + 3,
        (Kind::Histogram, HistogramForm::Native) => NATIVE_WEIGHT,
        _ => 1,
    }
}

/// Points of one moment [ms since 1970] as the message of version 1.0.
pub(crate) fn version_1(points: &[Point], stamp_ms: i64, target: &Target, form: HistogramForm) -> Vec<u8> {
    let rows = rows(points, stamp_ms, target, form);
    let metrics: BTreeMap<&'static str, &'static Metric> = rows.iter().map(|row| (row.metric.name, row.metric)).collect();
    let metadata = metrics.values().map(|metric| wire::MetricMetadata {
        kind: wire_kind(metric.kind).into(),
        metric_family_name: metric.prometheus_name(),
        help: metric.help.to_owned(),
        unit: metric.unit.prometheus_suffix().unwrap_or_default().to_owned(),
    });
    let series = |row: Row| {
        let (samples, histograms) = samples(row.sample, stamp_ms);
        let labels = row.labels.into_iter().map(|(name, value)| wire::Label { name, value }).collect();
        wire::TimeSeries { labels, samples, histograms }
    };
    wire::WriteRequest { metadata: metadata.collect(), timeseries: rows.into_iter().map(series).collect() }.encode_to_vec()
}

/// The same as the message of version 2.0, and how many samples are in it. Since when counters count is unknown, and so is not said.
pub(crate) fn version_2(points: &[Point], stamp_ms: i64, target: &Target, form: HistogramForm) -> (Vec<u8>, Sent) {
    let (mut symbols, mut sent) = (Symbols::default(), Sent::default());
    symbols.of("");
    let mut timeseries = Vec::new();
    for row in rows(points, stamp_ms, target, form) {
        let labels_refs = row.labels.iter().flat_map(|(name, value)| [symbols.of(name), symbols.of(value)]).collect();
        let metadata = wire::Metadata {
            kind: wire_kind(row.metric.kind).into(),
            help_ref: symbols.of(row.metric.help),
            unit_ref: symbols.of(row.metric.unit.prometheus_suffix().unwrap_or_default()),
        };
        let (samples, histograms) = samples(row.sample, stamp_ms);
        sent.samples += samples.len() as u64;
        sent.histograms += histograms.len() as u64;
        timeseries.push(wire::TimeSeries2 { labels_refs, samples, histograms, metadata: Some(metadata) });
    }
    (wire::Request { symbols: symbols.all, timeseries }.encode_to_vec(), sent)
}

/// Every text once.
#[derive(Default)]
struct Symbols {
    all: Vec<String>,
    places: BTreeMap<String, u32>,
}

impl Symbols {
    fn of(&mut self, text: &str) -> u32 {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = u32::try_from(self.all.len()).expect("a request has far fewer texts");
        self.all.push(text.to_owned());
        self.places.insert(text.to_owned(), place);
        place
    }
}

fn wire_kind(kind: Kind) -> wire::MetricType {
    match kind {
        Kind::Gauge | Kind::Whole => wire::MetricType::Gauge,
        Kind::Counter => wire::MetricType::Counter,
        Kind::Histogram => wire::MetricType::Histogram,
    }
}

fn samples(sample: Sample, timestamp: i64) -> (Vec<wire::Sample>, Vec<wire::Histogram>) {
    match sample {
        Sample::Number(value) => (vec![wire::Sample { value, timestamp }], Vec::new()),
        Sample::Native(histogram) => (Vec::new(), vec![histogram]),
    }
}

fn rows(points: &[Point], stamp_ms: i64, target: &Target, form: HistogramForm) -> Vec<Row> {
    let mut rows = Vec::with_capacity(points.len());
    for point in points {
        let name = point.metric.prometheus_name();
        let mut push = |suffix: &str, more: Option<(&str, String)>, sample| {
            rows.push(Row { metric: point.metric, labels: labels(point, format!("{name}{suffix}"), target, more), sample });
        };
        match (point.metric.kind, &point.value) {
            (Kind::Gauge | Kind::Counter, None) => push("", None, Sample::Number(STALE)),
            (Kind::Gauge, Some(Value::Gauge(value))) => push("", None, Sample::Number(*value)),
            (Kind::Counter, Some(Value::Counter(value))) => push("", None, Sample::Number(*value as f64)),
            (Kind::Histogram, None | Some(Value::Histogram(_))) => {
                let histogram = match &point.value {
                    Some(Value::Histogram(histogram)) => Some(histogram.as_ref()),
                    _ => None,
                };
                match form {
                    HistogramForm::Classic => classic(histogram, &mut push),
                    HistogramForm::Native => push("", None, Sample::Native(native(histogram, stamp_ms))),
                }
            }
            // Whole values are on no page.
            _ => {}
        }
    }
    rows
}

fn labels(point: &Point, name: String, target: &Target, more: Option<(&str, String)>) -> BTreeMap<String, String> {
    let own = point.attributes.iter().map(|(name, value)| (name.as_str().to_owned(), value.to_owned()));
    let given = [("__name__", name), ("job", target.job.clone()), ("instance", target.instance.clone())];
    own.chain(given.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value))).collect()
}

fn classic(histogram: Option<&Exponential>, push: &mut impl FnMut(&str, Option<(&str, String)>, Sample)) {
    // Of one that has ended, as many series end.
    let empty = Exponential::new();
    let number = |value: f64| Sample::Number(if histogram.is_some() { value } else { STALE });
    let told = histogram.unwrap_or(&empty);
    let mut sum = 0;
    for (bound_s, count) in exposition::classic(told) {
        sum += count;
        push("_bucket", Some(("le", exposition::le(bound_s))), number(sum as f64));
    }
    push("_count", None, number(told.count() as f64));
    push("_sum", None, number(told.sum_s()));
}

fn native(histogram: Option<&Exponential>, timestamp: i64) -> wire::Histogram {
    let Some(histogram) = histogram else {
        return wire::Histogram { sum: STALE, timestamp, ..wire::Histogram::default() };
    };
    let native = Native::of(histogram);
    wire::Histogram {
        count: Some(histogram.count()),
        sum: histogram.sum_s(),
        schema: native.schema,
        zero_threshold: native.zero_threshold_s,
        zero_count: Some(native.zero_count),
        positive_spans: native.spans.iter().map(|span| wire::BucketSpan { offset: span.offset, length: span.length }).collect(),
        positive_deltas: native.deltas,
        timestamp,
    }
}

#[cfg(test)]
mod tests;
