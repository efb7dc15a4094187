use std::collections::BTreeMap;

use lagmesh_model::catalogue::{self, Attribute, CATALOGUE};
use lagmesh_model::series::{Attributes, Series};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::forward::points::points;

/// Labels and what is said: a number by its bits, or a histogram.
type Told = BTreeMap<Vec<(String, String)>, Result<u64, wire::Histogram>>;

fn target() -> Target {
    Target { job: "j".to_owned(), instance: "i".to_owned() }
}

fn told(labels: Vec<(String, String)>, samples: &[wire::Sample], histograms: &[wire::Histogram], stamp_ms: i64, all: &mut Told) {
    assert!(labels.is_sorted_by(|a, b| a.0 < b.0), "{labels:?}");
    let said = match (samples, histograms) {
        ([sample], []) => {
            assert_eq!(sample.timestamp, stamp_ms);
            Ok(sample.value.to_bits())
        }
        ([], [histogram]) => {
            assert_eq!(histogram.timestamp, stamp_ms);
            Err(histogram.clone())
        }
        other => panic!("{labels:?}: {other:?}"),
    };
    assert!(all.insert(labels, said).is_none(), "a series stands there twice");
}

fn read_1(bytes: &[u8], stamp_ms: i64) -> Told {
    let mut all = Told::new();
    for series in wire::WriteRequest::decode(bytes).unwrap().timeseries {
        let labels = series.labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect();
        told(labels, &series.samples, &series.histograms, stamp_ms, &mut all);
    }
    all
}

fn read_2(bytes: &[u8], stamp_ms: i64) -> Told {
    let mut all = Told::new();
    let request = wire::Request::decode(bytes).unwrap();
    assert_eq!(request.symbols[0], "");
    let text = |place: u32| request.symbols[place as usize].clone();
    for series in &request.timeseries {
        let labels = series.labels_refs.chunks(2).map(|pair| (text(pair[0]), text(pair[1]))).collect();
        let metadata = series.metadata.unwrap();
        assert!(!text(metadata.help_ref).is_empty() && metadata.kind() != wire::MetricType::Unknown);
        told(labels, &series.samples, &series.histograms, stamp_ms, &mut all);
    }
    all
}

/// The samples of a page as a scrape reads them, with the labels that Prometheus adds.
fn scraped(text: &str) -> Told {
    let target = target();
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
        let pairs = rest.strip_suffix('}').unwrap().split(',').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        });
        let given = [("__name__", name), ("job", &target.job), ("instance", &target.instance)];
        let mut labels: Vec<(String, String)> =
            pairs.chain(given.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect();
        labels.sort();
        (labels, Ok(value.parse::<f64>().unwrap().to_bits()))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

fn histogram(values_ns: &[u64]) -> Exponential {
    let mut histogram = Exponential::new();
    for ns in values_ns {
        histogram.record_ns(*ns);
    }
    histogram
}

fn one_of_each(values_ns: &[u64], count: u64) -> Vec<Series> {
    let here = |metric: &Metric| metric.attributes.iter().fold(Attributes::new(), |all, name| all.with(*name, "x"));
    let one = |metric: &&'static Metric| match metric.kind {
        Kind::Gauge => Series::gauge(metric, here(metric), 0.1 * count as f64),
        Kind::Counter => Series::counter(metric, here(metric), count),
        Kind::Histogram => Series::histogram(metric, here(metric), histogram(values_ns)),
        Kind::Whole => Series::whole(metric, here(metric), 1),
    };
    CATALOGUE.iter().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Names, labels and values are the same by scrape, by remote write 1.0 and by 2.0, for every metric of the catalogue; and so are
    /// those of native histograms in both versions.
    #[test]
    fn scrape_and_remote_write_say_the_same(
        values_ns in prop::collection::vec(0..200_000_000_000_u64, 0..50),
        count in 0..1_u64 << 53,
    ) {
        let series = one_of_each(&values_ns, count);
        let points = points(&[], series.clone());
        let scraped = scraped(&exposition::text(&series));
        prop_assert_eq!(&read_1(&version_1(&points, 7, &target(), HistogramForm::Classic), 7), &scraped);
        let (bytes, sent) = version_2(&points, 7, &target(), HistogramForm::Classic);
        prop_assert_eq!(&read_2(&bytes, 7), &scraped);
        prop_assert_eq!(sent, Sent { samples: scraped.len() as u64, histograms: 0 });
        let natives = read_1(&version_1(&points, 7, &target(), HistogramForm::Native), 7);
        let (bytes, sent) = version_2(&points, 7, &target(), HistogramForm::Native);
        prop_assert_eq!(&read_2(&bytes, 7), &natives);
        let told: Vec<&wire::Histogram> = natives.values().filter_map(|said| said.as_ref().err()).collect();
        prop_assert_eq!(told.len() as u64, sent.histograms);
        for told in told {
            prop_assert_eq!((told.count, told.sum), (Some(values_ns.len() as u64), histogram(&values_ns).sum_s()));
            let buckets: i64 = told.positive_deltas.iter().scan(0, |count, delta| { *count += delta; Some(*count) }).sum();
            prop_assert_eq!(buckets.unsigned_abs() + told.zero_count.unwrap(), values_ns.len() as u64);
        }
    }
}

/// Of a series that has ended every part ends: each classic series by itself, a native one as a whole; and nothing else does.
#[test]
fn every_part_ends() {
    let gone = one_of_each(&[1_000_000], 1);
    let staying = Series::counter(&catalogue::CLOCK_EPOCHS, Attributes::new().with(Attribute::Region, "stays"), 3);
    let before: Vec<Series> = gone.iter().filter(|one| exposition::is_shown(one)).cloned().collect();
    let points = points(&before, vec![staying]);
    let named = |told: Told, stale: bool| -> Vec<Vec<(String, String)>> {
        let is_stale = |said: &Result<u64, wire::Histogram>| match said {
            Ok(bits) => *bits == STALE.to_bits(),
            Err(histogram) => histogram.sum.to_bits() == STALE.to_bits() && histogram.positive_spans.is_empty(),
        };
        told.into_iter().filter(|(_, said)| is_stale(said) == stale).map(|(labels, _)| labels).collect()
    };
    let classic = version_1(&points, 7, &target(), HistogramForm::Classic);
    assert_eq!(named(read_1(&classic, 7), true), scraped(&exposition::text(&gone)).into_keys().collect::<Vec<_>>());
    assert_eq!(named(read_1(&classic, 7), false).len(), 1);
    let native = read_2(&version_2(&points, 7, &target(), HistogramForm::Native).0, 7);
    assert_eq!(named(native, true).len(), before.len());
}

/// The weight of a point is the number of its samples.
#[test]
fn weights() {
    for point in points(&[], one_of_each(&[1], 1)).iter().filter(|point| point.metric.kind != Kind::Whole) {
        let rows = rows(std::slice::from_ref(point), 7, &target(), HistogramForm::Classic);
        assert_eq!(weight(point, HistogramForm::Classic), rows.len(), "{}", point.metric);
    }
}
