use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, NumberDataPoint, ResourceMetrics, metric, number_data_point,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::catalogue::{self, CATALOGUE, Kind, Metric};
use crate::histogram::Exponential;
use crate::ids::BootId;
use crate::series::{Attributes, Batch, Exporter, Series, Value};
use crate::time::WallNanos;

mod properties;

fn batch(series: Vec<Series>) -> Batch {
    let exporter = Exporter {
        fleet: "demo".to_owned(),
        region: "new-york".parse().unwrap(),
        agent: "ny-1".parse().unwrap(),
        boot: BootId(0x0123_4567_89ab_cdef),
        version: "0.1.0".to_owned(),
    };
    Batch {
        exporter,
        sequence: 7,
        start: WallNanos(1_700_000_000_000_000_000),
        time: WallNanos(1_700_000_010_000_000_000),
        series,
    }
}

/// Attributes that fit a metric, all with the same value.
fn attributes(metric: &Metric, value: &str) -> Attributes {
    metric.attributes.iter().fold(Attributes::new(), |all, name| all.with(*name, value))
}

fn histogram(values_ns: &[u64]) -> Exponential {
    let mut histogram = Exponential::new();
    for ns in values_ns {
        histogram.record_ns(*ns);
    }
    histogram
}

/// One gauge, one counter and one histogram, in the order of their names.
fn small() -> Batch {
    batch(vec![
        Series::counter(&catalogue::CLOCK_EPOCHS, attributes(&catalogue::CLOCK_EPOCHS, "x"), 3),
        Series::gauge(&catalogue::LINK_FLOOR, attributes(&catalogue::LINK_FLOOR, "x"), 0.05),
        Series::histogram(&catalogue::LINK_RTT, attributes(&catalogue::LINK_RTT, "x"), histogram(&[0, 70_000_000, 71_000_000])),
    ])
}

const COUNTER: usize = 0;
const GAUGE: usize = 1;
const HISTOGRAM: usize = 2;

fn metric_of(request: &mut ExportMetricsServiceRequest, which: usize) -> &mut opentelemetry_proto::tonic::metrics::v1::Metric {
    &mut request.resource_metrics[0].scope_metrics[0].metrics[which]
}

fn number_of(request: &mut ExportMetricsServiceRequest, which: usize) -> &mut NumberDataPoint {
    match metric_of(request, which).data.as_mut().unwrap() {
        metric::Data::Gauge(gauge) => &mut gauge.data_points[0],
        metric::Data::Sum(sum) => &mut sum.data_points[0],
        other => panic!("{other:?}"),
    }
}

fn histogram_of(request: &mut ExportMetricsServiceRequest) -> &mut ExponentialHistogramDataPoint {
    match metric_of(request, HISTOGRAM).data.as_mut().unwrap() {
        metric::Data::ExponentialHistogram(histogram) => &mut histogram.data_points[0],
        other => panic!("{other:?}"),
    }
}

fn positive(point: &mut ExponentialHistogramDataPoint) -> &mut Buckets {
    point.positive.as_mut().unwrap()
}

/// Breaks one thing and checks that exactly this point is rejected, with this reason, and the two others are taken.
fn check(reason: Rejection, damage: impl FnOnce(&mut ExportMetricsServiceRequest)) {
    let mut request = encode(&small());
    damage(&mut request);
    let decoded = decode(request, &Limits::default()).unwrap();
    assert_eq!(decoded.rejected.iter().map(|(reason, count)| (*reason, *count)).collect::<Vec<_>>(), [(reason, 1)]);
    assert_eq!(decoded.accepted(), 2, "{reason}");
}

fn check_histogram(reason: Rejection, damage: impl FnOnce(&mut ExponentialHistogramDataPoint)) {
    check(reason, |request| damage(histogram_of(request)));
}

/// A whole value travels as an integer, for a fraction in double precision would lose its last digits; it is refused as one.
#[test]
fn wholes_are_integers() {
    use number_data_point::Value::{AsDouble, AsInt};
    let clock = &catalogue::CLOCK_EPOCH;
    let mut request = encode(&batch(vec![Series::whole(clock, attributes(clock, "x"), i64::MIN + 1)]));
    assert_eq!(number_of(&mut request, 0).value, Some(AsInt(i64::MIN + 1)));
    number_of(&mut request, 0).value = Some(AsDouble(1.0));
    assert_eq!(decode(request, &Limits::default()).unwrap().rejected, [(Rejection::WrongKind, 1)].into());
}

/// What a relay says has units of which receivers make the names of the page: they put a known unit behind a name, and `ratio` behind that of a
/// current value in units of 1. Agents and collectors among themselves name every unit.
#[test]
fn relayed_units_make_the_right_names() {
    let relay = Relay { service: "s".to_owned(), instance: "i".to_owned(), version: "1".to_owned(), fleet: "f".to_owned() };
    let nothing = Attributes::new();
    let said = CATALOGUE.iter().map(|metric| Said { metric, attributes: &nothing, value: None });
    let request = encode_relayed(&relay, WallNanos(1), said);
    let told = &request.resource_metrics[0].scope_metrics[0].metrics;
    assert_eq!(told.len(), CATALOGUE.len());
    for metric in told {
        let known = catalogue::by_name(&metric.name).unwrap();
        let suffix = match (metric.unit.as_str(), known.kind) {
            ("", _) | ("1", Kind::Counter | Kind::Histogram) => None,
            ("1", _) => Some("ratio"),
            ("s", _) => Some("seconds"),
            ("ns", _) => Some("nanoseconds"),
            ("By", _) => Some("bytes"),
            ("By/s", _) => Some("bytes_per_second"),
            (other, _) => panic!("{}: {other}", metric.name),
        };
        assert_eq!(suffix, known.unit.prometheus_suffix(), "{}", metric.name);
    }
    let state = Series::gauge(&catalogue::LINK_STATE, attributes(&catalogue::LINK_STATE, "x"), 1.0);
    assert_eq!(encode(&batch(vec![state])).resource_metrics[0].scope_metrics[0].metrics[0].unit, "1");
}

/// Each bad number, name, kind or time rejects its own point, by name.
#[test]
fn bad_points_are_rejected_by_name() {
    use number_data_point::Value::{AsDouble, AsInt};
    check(Rejection::UnknownMetric, |r| metric_of(r, GAUGE).name = "lagmesh.link.nonsense".to_owned());
    check(Rejection::WrongUnit, |r| metric_of(r, HISTOGRAM).unit = "ms".to_owned());
    check(Rejection::WrongKind, |r| metric_of(r, GAUGE).data = metric_of(r, COUNTER).data.clone());
    check(Rejection::WrongKind, |r| number_of(r, COUNTER).value = Some(AsDouble(3.0)));
    check(Rejection::NoValue, |r| number_of(r, COUNTER).value = None);
    check(Rejection::NoValue, |r| number_of(r, GAUGE).flags = 1);
    check(Rejection::NonFinite, |r| number_of(r, GAUGE).value = Some(AsDouble(f64::NAN)));
    check(Rejection::Negative, |r| number_of(r, COUNTER).value = Some(AsInt(-1)));
    check(Rejection::ImpossibleTime, |r| number_of(r, GAUGE).time_unix_nano += 1);
    check(Rejection::ImpossibleTime, |r| histogram_of(r).start_time_unix_nano = 0);
    check(Rejection::ImpossibleTime, |r| histogram_of(r).start_time_unix_nano = u64::MAX);
    check(Rejection::WrongAttributes, |r| drop(number_of(r, GAUGE).attributes.pop()));
    check(Rejection::WrongAttributes, |r| number_of(r, GAUGE).attributes[0].key = "flavour".to_owned());
    check(Rejection::WrongAttributes, |r| number_of(r, GAUGE).attributes[0].value = None);
    check(Rejection::WrongAttributes, |r| {
        let point = number_of(r, GAUGE);
        point.attributes[0] = point.attributes[1].clone();
    });
    let long =
        encode(&batch(vec![Series::gauge(&catalogue::LINK_FLOOR, attributes(&catalogue::LINK_FLOOR, &"x".repeat(257)), 1.0)]));
    check(Rejection::AttributeTooLong, |r| *metric_of(r, GAUGE) = long.resource_metrics[0].scope_metrics[0].metrics[0].clone());
}

/// Counters and histograms that are not cumulative would be added up wrongly.
#[test]
fn only_cumulative_counts_are_taken() {
    fn sum(request: &mut ExportMetricsServiceRequest) -> &mut opentelemetry_proto::tonic::metrics::v1::Sum {
        match metric_of(request, COUNTER).data.as_mut().unwrap() {
            metric::Data::Sum(sum) => sum,
            other => panic!("{other:?}"),
        }
    }
    check(Rejection::WrongTemporality, |r| sum(r).aggregation_temporality = 1);
    check(Rejection::WrongTemporality, |r| sum(r).is_monotonic = false);
    check(Rejection::WrongTemporality, |r| match metric_of(r, HISTOGRAM).data.as_mut().unwrap() {
        metric::Data::ExponentialHistogram(histogram) => histogram.aggregation_temporality = 0,
        other => panic!("{other:?}"),
    });
}

/// A histogram that contradicts itself, or is too large to keep, is rejected by name.
#[test]
fn impossible_histograms_are_rejected_by_name() {
    check_histogram(Rejection::NoValue, |p| p.flags = 1);
    for scale in [i32::MIN, 4, 21, i32::MAX] {
        check_histogram(Rejection::ForeignScale, |p| p.scale = scale);
    }
    check_histogram(Rejection::ForeignScale, |p| p.zero_threshold = 0.001);
    check_histogram(Rejection::BucketSpan, |p| positive(p).bucket_counts.resize(4097, 0));
    check_histogram(Rejection::BucketRange, |p| positive(p).offset = i32::MAX);
    check_histogram(Rejection::BucketRange, |p| positive(p).offset = -2000);
    check_histogram(Rejection::BucketRange, |p| (p.scale, positive(p).offset) = (20, i32::MAX));
    check_histogram(Rejection::CountMismatch, |p| p.count += 1);
    check_histogram(Rejection::CountMismatch, |p| positive(p).bucket_counts[0] = u64::MAX);
    check_histogram(Rejection::CountTooLarge, |p| (p.count, positive(p).bucket_counts) = (1 << 50, vec![(1 << 50) - 1]));
    check_histogram(Rejection::Negative, |p| p.negative = Some(Buckets { offset: 0, bucket_counts: vec![1] }));
    check_histogram(Rejection::Negative, |p| p.min = Some(-0.1));
    check_histogram(Rejection::NonFinite, |p| p.max = Some(f64::INFINITY));
    check_histogram(Rejection::NonFinite, |p| p.sum = Some(f64::NAN));
    check_histogram(Rejection::ImpossibleSum, |p| p.sum = None);
    check_histogram(Rejection::ImpossibleSum, |p| p.sum = Some(1.0));
    check_histogram(Rejection::ImpossibleSum, |p| p.sum = Some(f64::MAX));
    check_histogram(Rejection::MinAboveMax, |p| p.min = Some(0.2));
    check_histogram(Rejection::ImpossibleExtremes, |p| p.min = Some(0.01));
    check_histogram(Rejection::ImpossibleExtremes, |p| p.max = Some(0.05));
    check_histogram(Rejection::ImpossibleExtremes, |p| p.max = Some(1e300));
}

/// A series that stands in a batch twice counts once.
#[test]
fn duplicates_are_rejected() {
    let mut twice = small();
    let again = twice.series[COUNTER].clone();
    twice.series.push(Series { value: Value::Counter(99), ..again });
    let decoded = decode(encode(&twice), &Limits::default()).unwrap();
    assert_eq!(decoded.rejected, [(Rejection::Duplicate, 1)].into());
    assert_eq!(decoded.batches, [small()]);
}

/// Points beyond the limit are counted and not looked at; those before it are taken.
#[test]
fn too_many_points() {
    let limits = Limits { points_max: 2, ..Limits::default() };
    let decoded = decode(encode(&small()), &limits).unwrap();
    assert_eq!((decoded.accepted(), decoded.rejected), (2, [(Rejection::TooManyPoints, 1)].into()));
}

/// Missing extremes are taken from the buckets; those of an empty histogram mean nothing.
#[test]
fn extremes_are_optional() {
    let mut request = encode(&small());
    let point = histogram_of(&mut request);
    (point.min, point.max) = (None, None);
    let decoded = decode(request, &Limits::default()).unwrap();
    let Value::Histogram(histogram) = &decoded.batches[0].series[HISTOGRAM].value else { panic!("no histogram") };
    assert_eq!((histogram.min_s(), histogram.max_s().map(|max| max > 0.071 && max < 0.073)), (Some(0.0), Some(true)));

    let mut request = encode(&small());
    let point = histogram_of(&mut request);
    (point.count, point.zero_count, point.positive) = (0, 0, None);
    (point.sum, point.min, point.max) = (Some(0.0), Some(5.0), Some(1.0));
    let decoded = decode(request, &Limits::default()).unwrap();
    assert_eq!(decoded.batches[0].series[HISTOGRAM].value, Value::Histogram(std::sync::Arc::default()));
}

/// A request whose exporter is not fully known is refused as a whole.
#[test]
fn identity_is_required() {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value::*};
    fn refused(damage: impl FnOnce(&mut ExportMetricsServiceRequest)) -> String {
        let mut request = encode(&small());
        damage(&mut request);
        let refusal = decode(request, &Limits::default()).unwrap_err();
        format!("{}: {refusal}", refusal.as_str())
    }
    let names: Vec<String> =
        encode(&small()).resource_metrics[0].resource.as_ref().unwrap().attributes.iter().map(|a| a.key.clone()).collect();
    for name in names.iter().filter(|name| *name != resource::SERVICE_NAME) {
        let missing = refused(|r| r.resource_metrics[0].resource.as_mut().unwrap().attributes.retain(|a| a.key != *name));
        assert!(missing.starts_with(&format!("identity-missing: resource attribute {name} is missing")), "{missing}");
        let attribute_of = |r: &mut ExportMetricsServiceRequest, value| {
            let attributes = &mut r.resource_metrics[0].resource.as_mut().unwrap().attributes;
            attributes.iter_mut().find(|a| a.key == *name).unwrap().value = Some(AnyValue { value: Some(value) });
        };
        for bad in [DoubleValue(1.0), StringValue(String::new()), StringValue("X".repeat(300)), IntValue(-1)] {
            let malformed = refused(|r| attribute_of(r, bad));
            assert!(malformed.starts_with(&format!("identity-malformed: resource attribute {name} is wrong: ")), "{malformed}");
        }
        let twice = refused(|r| {
            let attributes = &mut r.resource_metrics[0].resource.as_mut().unwrap().attributes;
            attributes.push(attributes.iter().find(|a| a.key == *name).unwrap().clone());
        });
        assert!(twice.contains("twice"), "{twice}");
    }
    assert!(refused(|r| r.resource_metrics.push(r.resource_metrics[0].clone())).starts_with("repeated-batch"));
    assert!(refused(|r| r.resource_metrics = vec![r.resource_metrics[0].clone(); 65]).starts_with("too-many-batches"));
}

/// A resource with any word of an agent claims to be one; one without is somebody else's, and its points are rejected, beside an agent's.
#[test]
fn foreign_resources_are_set_apart() {
    let points = decode(encode(&small()), &Limits::default()).unwrap().accepted();
    let mut request = encode(&small());
    let mut foreign = request.resource_metrics[0].clone();
    for word in [resource::SERVICE_NAME, resource::FLEET, resource::REGION, resource::BOOT, resource::SEQUENCE] {
        let mut claiming = foreign.clone();
        claiming.resource.as_mut().unwrap().attributes.retain(|a| a.key == word);
        request.resource_metrics[0] = claiming;
        let refusal = decode(request.clone(), &Limits::default()).unwrap_err();
        assert_eq!(refusal.as_str(), "identity-missing", "{word}");
    }
    let attributes = &mut foreign.resource.as_mut().unwrap().attributes;
    attributes.retain(|a| [resource::SERVICE_INSTANCE, resource::SERVICE_VERSION].contains(&a.key.as_str()));
    for strange in [foreign.clone(), ResourceMetrics { resource: None, ..foreign }] {
        let mut request = encode(&small());
        request.resource_metrics.insert(0, strange);
        let decoded = decode(request, &Limits::default()).unwrap();
        assert_eq!((decoded.batches.len(), decoded.accepted()), (1, points));
        assert_eq!(decoded.rejected, [(Rejection::NotAnAgent, points)].into());
    }
}

/// Nothing in, nothing out: an empty request is fine, and a batch without a good point is none.
#[test]
fn empty_requests() {
    assert_eq!(decode(ExportMetricsServiceRequest::default(), &Limits::default()), Ok(Decoded::default()));
    assert_eq!(decode(encode(&batch(Vec::new())), &Limits::default()), Ok(Decoded::default()));
}

/// Every word is told apart from every other.
#[test]
fn words_are_unique() {
    let words: std::collections::BTreeSet<&str> = Rejection::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(words.len(), Rejection::ALL.len());
}
