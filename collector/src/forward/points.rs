//! What one snapshot tells a target: its series, and of those that were there before and are no more, that they have ended. Pure.

use std::collections::BTreeMap;

use lagmesh_model::catalogue::Metric;
use lagmesh_model::exposition;
use lagmesh_model::ids::BootId;
use lagmesh_model::otlp::{self, ExportMetricsServiceRequest, Limits};
use lagmesh_model::series::{Attributes, Batch, Exporter, Series, Value};
use lagmesh_model::time::WallNanos;
use prost::Message as _;

use crate::merge::Key;
use crate::packed::{self, Encoding};

/// A snapshot is made here and bounded by what the collector takes in; more than this after decompression is damage [bytes].
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// A series with its value, or that it has ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    /// Which metric.
    pub(crate) metric: &'static Metric,
    /// Its attributes.
    pub(crate) attributes: Attributes,
    /// Its value; `None` if it has ended.
    pub(crate) value: Option<Value>,
}

/// The series of a snapshot, and an end for each that only the one before has.
pub(crate) fn points(before: &[Series], now: Vec<Series>) -> Vec<Point> {
    let mut all: BTreeMap<Key, Option<Value>> = before.iter().map(|series| (Key::of(series), None)).collect();
    all.extend(now.into_iter().map(|Series { metric, attributes, value }| (Key { metric, attributes }, Some(value))));
    all.into_iter().map(|(Key { metric, attributes }, value)| Point { metric, attributes, value }).collect()
}

/// A snapshot as it is kept: what `/metrics` shows of these series, as OTLP, compressed. With it the number of series.
pub(crate) fn pack(mut series: Vec<Series>) -> (Vec<u8>, u64) {
    series.retain(exposition::is_shown);
    let count = series.len() as u64;
    let message = otlp::encode(&Batch { exporter: nobody(), sequence: 1, start: WallNanos(1), time: WallNanos(1), series });
    (packed::pack(&message.encode_to_vec()), count)
}

/// What was packed; `None` if the bytes are no good.
pub(crate) fn unpack(packed: &[u8]) -> Option<Vec<Series>> {
    let message = packed::unpack(Encoding::Zstd, packed, MESSAGE_BYTES_MAX).ok()?;
    let request = ExportMetricsServiceRequest::decode(message.as_slice()).ok()?;
    let limits = Limits { points_max: usize::MAX, attribute_value_len_max: usize::MAX, ..Limits::default() };
    let decoded = otlp::decode(request, &limits).ok()?;
    // An empty snapshot has no batch: everything has ended.
    Some(decoded.batches.into_iter().next().map(|batch| batch.series).unwrap_or_default())
}

/// The form wants an exporter; who passes on is said when it is sent.
fn nobody() -> Exporter {
    Exporter {
        fleet: "-".to_owned(),
        region: "-".parse().expect("a name"),
        agent: "-".parse().expect("a name"),
        boot: BootId(0),
        version: "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::catalogue::{self, Attribute, CATALOGUE, Kind};
    use lagmesh_model::histogram::Exponential;

    use super::*;

    fn one_of_each() -> Vec<Series> {
        let mut histogram = Exponential::new();
        for ns in [0, 1, 1_000_000, 60_000_000_000] {
            histogram.record_ns(ns);
        }
        let here = |metric: &Metric| metric.attributes.iter().fold(Attributes::new(), |all, name| all.with(*name, "x"));
        let one = |metric: &&'static Metric| match metric.kind {
            Kind::Gauge => Series::gauge(metric, here(metric), -0.5),
            Kind::Counter => Series::counter(metric, here(metric), 1 << 60),
            Kind::Histogram => Series::histogram(metric, here(metric), histogram.clone()),
            Kind::Whole => Series::whole(metric, here(metric), 1),
        };
        CATALOGUE.iter().map(one).collect()
    }

    /// What is kept comes back as it was: every series that the page shows, and no other.
    #[test]
    fn packing_changes_nothing() {
        let series = one_of_each();
        let shown: BTreeMap<Key, Value> =
            series.iter().filter(|one| one.metric.kind != Kind::Whole).map(|one| (Key::of(one), one.value.clone())).collect();
        let (packed, count) = pack(series);
        assert_eq!(count, shown.len() as u64);
        let back: BTreeMap<Key, Value> = unpack(&packed).unwrap().into_iter().map(|one| (Key::of(&one), one.value)).collect();
        assert_eq!(back, shown);
        assert_eq!(unpack(&pack(Vec::new()).0), Some(Vec::new()));
        assert_eq!(unpack(b"no zstd"), None);
    }

    /// A series that was there and is no more ends, once; one that is there has its new value.
    #[test]
    fn what_is_gone_ends() {
        let epochs = |region: &str, count| {
            Series::counter(&catalogue::CLOCK_EPOCHS, Attributes::new().with(Attribute::Region, region), count)
        };
        let told = points(&[epochs("a", 1), epochs("b", 1)], vec![epochs("b", 2), epochs("c", 1)]);
        let told: Vec<_> =
            told.iter().map(|point| (point.attributes.get(Attribute::Region).unwrap(), point.value.clone())).collect();
        assert_eq!(told, [("a", None), ("b", Some(Value::Counter(2))), ("c", Some(Value::Counter(1)))]);
    }
}
