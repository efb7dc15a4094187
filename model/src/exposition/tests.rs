use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::catalogue::{self, Attribute};

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

/// One series of every metric of the catalogue.
fn one_of_each() -> Vec<Series> {
    let one = |metric: &&'static Metric| match metric.kind {
        Kind::Gauge => Series::gauge(metric, attributes(metric, "x"), 1.0),
        Kind::Counter => Series::counter(metric, attributes(metric, "x"), 1),
        Kind::Histogram => Series::histogram(metric, attributes(metric, "x"), histogram(&[1_000_000])),
        Kind::Whole => Series::whole(metric, attributes(metric, "x"), 1),
    };
    CATALOGUE.iter().map(one).collect()
}

/// The text is to the letter what Prometheus is to read: catalogue order, sorted series, units, `_total`, exact buckets, escapes.
#[test]
fn golden() {
    let link = |peer: &str| Attributes::new().with(Attribute::Region, "new-york").with(Attribute::Peer, peer);
    let rtt = link("dublin").with(Attribute::Kind, "stamp");
    let series = [
        Series::gauge(&catalogue::LINK_FLOOR, link("tokyo"), 0.106_25),
        Series::gauge(&catalogue::LINK_FLOOR, link("dublin"), 0.05),
        Series::gauge(&catalogue::LINK_STRETCH, link("nowhere"), f64::NAN),
        Series::counter(&catalogue::CLOCK_EPOCHS, Attributes::new().with(Attribute::Region, "a\\b\"c\nd"), u64::MAX),
        Series::histogram(&catalogue::LINK_RTT, rtt, histogram(&[0, 62_500_000, 62_500_001, 125_000_000, 64_000_000_001])),
    ];
    assert_eq!(text(&series), include_str!("golden.txt"));
}

/// The names that are written are those of the catalogue, which dashboards and alerts are held against; each family is described once.
#[test]
fn names_are_those_of_the_catalogue() {
    let text = text(&one_of_each());
    let (mut names, mut described) = (BTreeSet::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ").filter(|comment| *comment != "EOF") {
            let mut words = comment.splitn(3, ' ');
            *described.entry((words.next().unwrap(), words.next().unwrap())).or_insert(0) += 1;
        } else if line != "# EOF" {
            names.insert(line.split('{').next().unwrap().to_owned());
        }
    }
    assert_eq!(names, CATALOGUE.iter().flat_map(|metric| metric.prometheus_series_names()).collect());
    assert!(described.values().all(|times| *times == 1), "{described:?}");
    for metric in CATALOGUE.iter().filter(|metric| metric.kind != Kind::Whole) {
        let name = metric.prometheus_name();
        let family = name.strip_suffix("_total").unwrap_or(&name);
        assert!(described.contains_key(&("HELP", family)) && described.contains_key(&("TYPE", family)), "{family}");
    }
    assert!(text.ends_with("# EOF\n"));
    // Help lines are written as they stand, so they must need no escapes.
    assert!(CATALOGUE.iter().all(|metric| !metric.help.contains(['"', '\\'])));
}

/// A classic bucket counts exactly the values at or below its bound, a value on the bound included.
#[test]
fn buckets_are_exact() {
    // 2^-9 s to 2^6 s.
    let bounds_ns: Vec<u64> = (0..=15).map(|doublings| 1_953_125 << doublings).collect();
    let values_ns: Vec<u64> = bounds_ns.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]).chain([0, 1, 1 << 60]).collect();
    let histogram = histogram(&values_ns);
    let mut sum = 0;
    for (bound_s, in_bucket) in classic(&histogram) {
        sum += in_bucket;
        // Below 2^-9 s the bounds are no whole nanoseconds; the comparison is exact in f64 all the same.
        let expected = values_ns.iter().filter(|ns| **ns as f64 <= bound_s * 1e9).count();
        assert_eq!(sum, expected as u64, "{bound_s}");
    }
    assert_eq!(sum, histogram.count());
}

/// Without series there is a valid, empty page.
#[test]
fn empty() {
    assert_eq!(text(&[]), "# EOF\n");
}
