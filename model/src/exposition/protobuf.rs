//! `io.prometheus.client.MetricFamily`, the one form of a page in which histograms can be native. The messages stand here by hand: those
//! of the crate for the text would need a compiler of protobuf to build.

use prost::Message;

use super::{Page, Point, classic};
use crate::catalogue::{Kind, Metric};
use crate::histogram::{Exponential, Native};
use crate::series::Attributes;

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(enumeration = "Type", optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<One>,
    #[prost(string, optional, tag = "5")]
    unit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Type {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
struct One {
    #[prost(message, repeated, tag = "1")]
    label: Vec<Label>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// A gauge or a counter.
#[derive(Clone, Copy, PartialEq, Message)]
struct Number {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

pub(super) fn encode(page: &Page) -> Vec<u8> {
    let mut out = Vec::new();
    for (metric, points) in &page.0 {
        family(metric, points.iter()).encode_length_delimited(&mut out).expect("memory takes what is written to it");
    }
    out
}

/// In protobuf a family has the name of its series: that of a counter ends in `_total`.
fn family<'a>(metric: &Metric, points: impl Iterator<Item = (&'a Attributes, &'a Point)>) -> MetricFamily {
    let kind = match metric.kind {
        Kind::Gauge | Kind::Whole => Type::Gauge,
        Kind::Counter => Type::Counter,
        Kind::Histogram => Type::Histogram,
    };
    MetricFamily {
        name: Some(metric.prometheus_name()),
        help: Some(metric.help.to_owned()),
        kind: Some(kind.into()),
        metric: points.map(|(attributes, point)| one(attributes, point)).collect(),
        unit: metric.unit.prometheus_suffix().map(str::to_owned),
    }
}

fn one(attributes: &Attributes, point: &Point) -> One {
    let label = |(name, value): (crate::catalogue::Attribute, &str)| Label {
        name: Some(name.as_str().to_owned()),
        value: Some(value.to_owned()),
    };
    let empty = One { label: attributes.iter().map(label).collect(), ..One::default() };
    match point {
        Point::Gauge(value) => One { gauge: Some(Number { value: Some(*value) }), ..empty },
        Point::Counter(value) => One { counter: Some(Number { value: Some(*value as f64) }), ..empty },
        Point::Histogram(histogram) => One { histogram: Some(distribution(histogram)), ..empty },
    }
}

fn distribution(histogram: &Exponential) -> Histogram {
    let native = Native::of(histogram);
    let mut sum = 0;
    let bucket = |(bound_s, count): (f64, u64)| {
        sum += count;
        Bucket { cumulative_count: Some(sum), upper_bound: Some(bound_s) }
    };
    Histogram {
        sample_count: Some(histogram.count()),
        sample_sum: Some(histogram.sum_s()),
        bucket: classic(histogram).into_iter().map(bucket).collect(),
        schema: Some(native.schema),
        zero_threshold: Some(native.zero_threshold_s),
        zero_count: Some(native.zero_count),
        positive_span: native
            .spans
            .iter()
            .map(|span| BucketSpan { offset: Some(span.offset), length: Some(span.length) })
            .collect(),
        positive_delta: native.deltas,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::{self, Attribute, CATALOGUE};
    use crate::exposition::{CLASSIC_EXPONENTS, protobuf};
    use crate::histogram::Span;
    use crate::series::Series;

    fn families(mut bytes: &[u8]) -> Vec<MetricFamily> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            found.push(MetricFamily::decode_length_delimited(&mut bytes).unwrap());
        }
        found
    }

    fn histogram(values_ns: &[u64]) -> Exponential {
        let mut histogram = Exponential::new();
        for ns in values_ns {
            histogram.record_ns(*ns);
        }
        histogram
    }

    fn native_buckets(histogram: &Histogram) -> Vec<(i32, u64)> {
        let span = |span: &BucketSpan| Span { offset: span.offset.unwrap(), length: span.length.unwrap() };
        let spans: Vec<Span> = histogram.positive_span.iter().map(span).collect();
        Native::occupied(&spans, &histogram.positive_delta)
    }

    /// The worked example of OpenTelemetry's specification for Prometheus: bucket i of the one is bucket i + 1 of the other, so exactly
    /// one second, the upper bound of bucket -1, is in Prometheus' bucket 0; three empty buckets end a span and two do not.
    #[test]
    fn indices_and_spans() {
        let native = Native::of(&histogram(&[1_000_000_000, 1_000_000_001]));
        assert_eq!((native.spans, native.deltas), (vec![Span { offset: 0, length: 2 }], vec![1, 0]));
        // Buckets 0, 3 (two empty between) and 7 (three empty between).
        let upper_ns = |index: i32| crate::histogram::scale::lower_ns(index + 1) - 1;
        let native = Native::of(&histogram(&[upper_ns(0), upper_ns(3), upper_ns(3), upper_ns(7)]));
        assert_eq!(native.spans, [Span { offset: 1, length: 4 }, Span { offset: 3, length: 1 }]);
        assert_eq!(native.deltas, [1, -1, 0, 2, -1]);
        let empty = Native::of(&Exponential::new());
        assert!(empty.spans.is_empty() && empty.deltas.is_empty() && empty.zero_threshold_s > 0.0);
    }

    /// Names, kinds, labels and values are those of the series, in the order of the catalogue; what no page shows is not there.
    #[test]
    fn families_are_the_series() {
        let here = |metric: &'static Metric| metric.attributes.iter().fold(Attributes::new(), |all, name| all.with(*name, "x"));
        let series: Vec<Series> = CATALOGUE
            .iter()
            .map(|metric| match metric.kind {
                Kind::Gauge => Series::gauge(metric, here(metric), 1.5),
                Kind::Counter => Series::counter(metric, here(metric), 7),
                Kind::Histogram => Series::histogram(metric, here(metric), histogram(&[0, 1_000_000])),
                Kind::Whole => Series::whole(metric, here(metric), 1),
            })
            .collect();
        let found = families(&protobuf(&series));
        let shown: Vec<_> = CATALOGUE.iter().filter(|metric| metric.kind != Kind::Whole).collect();
        assert_eq!(found.len(), shown.len());
        for (family, metric) in found.iter().zip(shown) {
            assert_eq!(family.name.as_deref(), Some(metric.prometheus_name().as_str()));
            let [one] = &family.metric[..] else { panic!("{metric} has {} series", family.metric.len()) };
            let labels: BTreeMap<_, _> =
                one.label.iter().map(|label| (label.name.as_deref().unwrap(), label.value.as_deref())).collect();
            assert_eq!(labels, metric.attributes.iter().map(|name: &Attribute| (name.as_str(), Some("x"))).collect());
            match (family.kind(), &one.gauge, &one.counter, &one.histogram) {
                (Type::Gauge, Some(gauge), None, None) => assert_eq!((metric.kind, gauge.value), (Kind::Gauge, Some(1.5))),
                (Type::Counter, None, Some(counter), None) => {
                    assert_eq!((metric.kind, counter.value), (Kind::Counter, Some(7.0)));
                }
                (Type::Histogram, None, None, Some(_)) => assert_eq!(metric.kind, Kind::Histogram),
                other => panic!("{metric}: {other:?}"),
            }
        }
    }

    proptest! {
        /// Every bucket of ours comes back by the native form with its count, every classic bucket counts the values up to its bound,
        /// and both agree with count, sum and zeros.
        #[test]
        fn both_forms_are_exact(values_ns in prop::collection::vec(prop_oneof![Just(0), 1..200_000_000_000_u64, any::<u64>()], 0..200)) {
            let source = histogram(&values_ns);
            let attributes = Attributes::new().with(Attribute::Region, "a").with(Attribute::Peer, "b").with(Attribute::Kind, "stamp");
            let page = protobuf(&[Series::histogram(&catalogue::LINK_RTT, attributes, source.clone())]);
            let found = families(&page);
            let told = found[0].metric[0].histogram.as_ref().unwrap();
            prop_assert_eq!(native_buckets(told), source.buckets().collect::<Vec<_>>());
            prop_assert_eq!(told.zero_count, Some(source.zero_count()));
            prop_assert_eq!(told.sample_count, Some(values_ns.len() as u64));
            prop_assert_eq!(told.sample_sum, Some(source.sum_s()));
            for (bucket, exponent) in told.bucket.iter().zip(CLASSIC_EXPONENTS) {
                prop_assert_eq!(bucket.upper_bound, Some(f64::from(exponent).exp2()));
                prop_assert_eq!(bucket.cumulative_count, Some(source.count_at_or_below_power_of_two_s(exponent)));
            }
            let last = told.bucket.last().unwrap();
            prop_assert_eq!((last.upper_bound, last.cumulative_count), (Some(f64::INFINITY), told.sample_count));
            prop_assert_eq!(told.bucket.len(), CLASSIC_EXPONENTS.count() + 1);
        }
    }
}
