//! OTLP to series. What comes in is hostile until shown otherwise: every shape is checked before anything is built from it.

mod names;
mod point;

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{self as wire, AggregationTemporality, DataPointFlags, ResourceMetrics, metric};

pub use self::names::{Misfit, Names, SERIES_MAX};
use self::names::{Named, text as word};
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
}

/// A batch whose exporter is known and whose points are not read yet.
#[derive(Debug)]
pub struct Sealed {
    /// Who exports.
    pub exporter: Exporter,
    /// The number of the batch.
    pub sequence: u64,
    metrics: ResourceMetrics,
}

/// A batch that was read.
#[derive(Debug, Default, PartialEq)]
pub struct Opened {
    /// The batch; `None` if it has no good point.
    pub batch: Option<Batch>,
    /// How many points were rejected, by reason.
    pub rejected: BTreeMap<Rejection, u64>,
    /// How many points were not their exporter's to tell, by reason.
    pub misfits: BTreeMap<Misfit, u64>,
}

/// How many more points may be read of a request, and what bounds each of them.
#[derive(Debug)]
pub struct Budget<'a> {
    limits: &'a Limits,
    points_left: usize,
}

impl<'a> Budget<'a> {
    /// That of one request.
    pub fn new(limits: &'a Limits) -> Budget<'a> {
        Budget { limits, points_left: limits.points_max }
    }
}

/// A request by who exports what.
#[derive(Debug, Default)]
pub struct Sorted {
    /// The batches of agents.
    pub sealed: Vec<Sealed>,
    /// How many points are of resources that claim to be no agent's. They are not read.
    pub foreign_points: u64,
}

/// The batches of a request by who exports them.
///
/// # Errors
/// If the exporter of any batch that claims to be an agent's is not fully known: then nothing of the request is taken.
pub fn open(request: ExportMetricsServiceRequest, limits: &Limits) -> Result<Sorted, Refusal> {
    let (of_agents, foreign): (Vec<_>, Vec<_>) = request.resource_metrics.into_iter().partition(is_of_agent);
    let count = of_agents.len();
    if count > limits.batches_max {
        return Err(Refusal::TooManyBatches { count, max: limits.batches_max });
    }
    let mut seen = HashSet::new();
    let mut sealed = Vec::with_capacity(count);
    for metrics in of_agents {
        let (exporter, sequence) = identity(&metrics, limits)?;
        if !seen.insert((exporter.agent.clone(), exporter.boot, sequence)) {
            return Err(Refusal::RepeatedBatch { agent: exporter.agent.to_string(), sequence });
        }
        sealed.push(Sealed { exporter, sequence, metrics });
    }
    let foreign = foreign.iter().flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
    let foreign_points = foreign.filter_map(|metric| metric.data.as_ref()).map(|data| points(data) as u64).sum();
    Ok(Sorted { sealed, foreign_points })
}

/// Whether a resource claims to be an agent's, by any word that only agents use: what lost the others on its way is refused by name.
fn is_of_agent(metrics: &ResourceMetrics) -> bool {
    let attributes = metrics.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
    let is_agents_name =
        |value: &any_value::Value| matches!(value, any_value::Value::StringValue(name) if name == super::SERVICE_NAME);
    attributes.iter().any(|attribute| match attribute.key.as_str() {
        resource::FLEET | resource::REGION | resource::BOOT | resource::SEQUENCE => true,
        resource::SERVICE_NAME => attribute.value.as_ref().and_then(|value| value.value.as_ref()).is_some_and(is_agents_name),
        _ => false,
    })
}

impl Sealed {
    /// Reads the points. Bad ones are rejected one by one and counted; `misfit` says which series are not for this exporter to tell, and
    /// is asked only about those that are not in `names` yet.
    pub fn read(
        self,
        budget: &mut Budget<'_>,
        names: &mut Names,
        misfit: &dyn Fn(&Exporter, &'static Metric, &Attributes) -> Option<Misfit>,
    ) -> Opened {
        let Sealed { exporter, sequence, metrics } = self;
        names.begin();
        let misfit = |metric: &'static Metric, attributes: &Attributes| misfit(&exporter, metric, attributes);
        let mut reader = Reader { budget, names, misfit: &misfit, times: None, series: Vec::new(), opened: Opened::default() };
        for metric in metrics.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            reader.metric(metric);
        }
        let Reader { times, series, mut opened, .. } = reader;
        opened.batch = times.map(|(start, time)| Batch { exporter, sequence, start, time, series });
        opened
    }
}

/// The batches of a request, whoever exports them. Bad points are rejected one by one and counted.
///
/// # Errors
/// If the exporter of any batch is not fully known: then nothing of the request is taken.
pub fn decode(request: ExportMetricsServiceRequest, limits: &Limits) -> Result<Decoded, Refusal> {
    let (mut decoded, mut budget) = (Decoded::default(), Budget::new(limits));
    let Sorted { sealed, foreign_points } = open(request, limits)?;
    if foreign_points > 0 {
        decoded.rejected.insert(Rejection::NotAnAgent, foreign_points);
    }
    for sealed in sealed {
        let opened = sealed.read(&mut budget, &mut Names::new(), &|_, _, _| None);
        decoded.batches.extend(opened.batch);
        for (reason, count) in opened.rejected {
            *decoded.rejected.entry(reason).or_insert(0) += count;
        }
    }
    Ok(decoded)
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
struct Reader<'a, 'b> {
    budget: &'a mut Budget<'b>,
    names: &'a mut Names,
    misfit: &'a dyn Fn(&'static Metric, &Attributes) -> Option<Misfit>,
    /// Start and time of the batch: those of its first good point.
    times: Option<(WallNanos, WallNanos)>,
    series: Vec<Series>,
    opened: Opened,
}

impl Reader<'_, '_> {
    fn reject(&mut self, reason: Rejection, points: usize) {
        if points > 0 {
            *self.opened.rejected.entry(reason).or_insert(0) += points as u64;
        }
    }

    fn metric(&mut self, metric: wire::Metric) {
        let Some(data) = metric.data else { return };
        let known = catalogue::by_name(&metric.name).ok_or(Rejection::UnknownMetric).and_then(|known| {
            check_metric(known, &metric.unit, &data)?;
            Ok(known)
        });
        let known = match known {
            Ok(known) => known,
            Err(reason) => return self.reject(reason, points(&data)),
        };
        match data {
            metric::Data::Gauge(wire::Gauge { data_points }) | metric::Data::Sum(wire::Sum { data_points, .. }) => {
                self.points(data_points, |reader, point| {
                    let header = (point.flags, point.start_time_unix_nano, point.time_unix_nano);
                    reader.point(known, header, &point.attributes, || point::number(known.kind, point.value))
                });
            }
            metric::Data::ExponentialHistogram(histogram) => {
                self.points(histogram.data_points, |reader, mut point| {
                    let header = (point.flags, point.start_time_unix_nano, point.time_unix_nano);
                    let attributes = std::mem::take(&mut point.attributes);
                    let span_max = reader.budget.limits.bucket_span_max;
                    reader.point(known, header, &attributes, || point::histogram(point, span_max))
                });
            }
            metric::Data::Histogram(_) | metric::Data::Summary(_) => self.reject(Rejection::WrongKind, points(&data)),
        }
    }

    fn points<P>(&mut self, points: Vec<P>, mut read: impl FnMut(&mut Self, P) -> Result<(), Rejection>) {
        let taken = points.len().min(self.budget.points_left);
        self.budget.points_left -= taken;
        self.series.reserve(taken);
        self.reject(Rejection::TooManyPoints, points.len() - taken);
        for point in points.into_iter().take(taken) {
            if let Err(reason) = read(self, point) {
                self.reject(reason, 1);
            }
        }
    }

    fn point(
        &mut self,
        metric: &'static Metric,
        (flags, start, time): (u32, u64, u64),
        words: &[KeyValue],
        value: impl FnOnce() -> Result<Value, Rejection>,
    ) -> Result<(), Rejection> {
        if flags & DataPointFlags::NoRecordedValueMask as u32 != 0 {
            return Err(Rejection::NoValue);
        }
        let times = (WallNanos(start), WallNanos(time));
        let limits = self.budget.limits;
        let possible = limits.time_min..=limits.time_max;
        if start > time || !possible.contains(&times.0) || !possible.contains(&times.1) || self.times.is_some_and(|t| t != times)
        {
            return Err(Rejection::ImpossibleTime);
        }
        let value = value()?;
        let misfit = self.misfit;
        match self.names.name(metric, words, limits.attribute_value_len_max, |attributes| misfit(metric, attributes))? {
            Named::Series(attributes) => {
                self.times = Some(times);
                self.series.push(Series { metric, attributes, value });
            }
            Named::Misfit(reason) => *self.opened.misfits.entry(reason).or_insert(0) += 1,
        }
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

fn point_attributes(metric: &Metric, words: &[KeyValue], value_len_max: usize) -> Result<Attributes, Rejection> {
    if words.len() != metric.attributes.len() {
        return Err(Rejection::WrongAttributes);
    }
    let mut attributes = Attributes::new();
    for one in words {
        let (Some(name), Some(value)) = (Attribute::from_name(&one.key), word(one)) else {
            return Err(Rejection::WrongAttributes);
        };
        if value.len() > value_len_max {
            return Err(Rejection::AttributeTooLong);
        }
        attributes = attributes.with(name, value);
    }
    if attributes.fit(metric) { Ok(attributes) } else { Err(Rejection::WrongAttributes) }
}
