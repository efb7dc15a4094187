//! The one in-memory form of telemetry: what the agent summarises, the wire carries, the collector merges and pages show.

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use crate::catalogue::{Attribute, Metric};
use crate::histogram::Exponential;
use crate::ids::{AgentName, BootId, RegionName};
use crate::time::WallNanos;

/// Attribute values of one series, in the order of [`Attribute`]. Cheap to clone: clones share their memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Attributes(Arc<Vec<(Attribute, Box<str>)>>);

impl Attributes {
    /// No attributes.
    pub fn new() -> Attributes {
        Attributes::default()
    }

    /// No attributes, for as long as anybody likes.
    pub fn none() -> &'static Attributes {
        static NONE: LazyLock<Attributes> = LazyLock::new(Attributes::new);
        &NONE
    }

    /// With one attribute more (or replaced).
    pub fn with(mut self, attribute: Attribute, value: impl std::fmt::Display) -> Attributes {
        let value = value.to_string().into_boxed_str();
        let all = Arc::make_mut(&mut self.0);
        match all.binary_search_by_key(&attribute, |(attribute, _)| *attribute) {
            Ok(place) => all[place].1 = value,
            Err(place) => {
                all.reserve_exact(1);
                all.insert(place, (attribute, value));
            }
        }
        self
    }

    /// Whether the two share their memory: then they are equal, and to find that out costs nothing.
    pub fn is_shared_with(&self, other: &Attributes) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The value of an attribute.
    pub fn get(&self, attribute: Attribute) -> Option<&str> {
        self.iter().find(|(found, _)| *found == attribute).map(|(_, value)| value)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Attribute, &str)> {
        self.0.iter().map(|(attribute, value)| (*attribute, &**value))
    }

    /// Whether these begin, in the order of [`Attribute`], with all of `others`.
    pub fn begin_with(&self, others: &Attributes) -> bool {
        self.0.starts_with(&others.0)
    }

    /// Whether these are exactly the attributes that the catalogue lists for the metric.
    pub fn fit(&self, metric: &Metric) -> bool {
        self.0.len() == metric.attributes.len() && metric.attributes.iter().all(|attribute| self.get(*attribute).is_some())
    }
}

impl PartialOrd for Attributes {
    fn partial_cmp(&self, other: &Attributes) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Attributes {
    fn cmp(&self, other: &Attributes) -> Ordering {
        if self.is_shared_with(other) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

/// The value of a series. Counters and histograms are cumulative since the start of the process that exports them.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A current value, in the metric's unit.
    Gauge(f64),
    /// A count since the start.
    Counter(u64),
    /// A distribution since the start, in nanoseconds inside, in seconds outside. Clones share its memory.
    Histogram(Arc<Exponential>),
    /// A current value in whole units.
    Whole(i64),
}

/// One metric with one set of attribute values. What is unknown has no series.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Which metric of the catalogue.
    pub metric: &'static Metric,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its value.
    pub value: Value,
}

impl Series {
    /// A gauge.
    pub fn gauge(metric: &'static Metric, attributes: Attributes, value: f64) -> Series {
        Series { metric, attributes, value: Value::Gauge(value) }
    }

    /// A counter.
    pub fn counter(metric: &'static Metric, attributes: Attributes, value: u64) -> Series {
        Series { metric, attributes, value: Value::Counter(value) }
    }

    /// A whole value.
    pub fn whole(metric: &'static Metric, attributes: Attributes, value: i64) -> Series {
        Series { metric, attributes, value: Value::Whole(value) }
    }

    /// A histogram.
    pub fn histogram(metric: &'static Metric, attributes: Attributes, value: Exponential) -> Series {
        Series { metric, attributes, value: Value::Histogram(Arc::new(value)) }
    }
}

/// Pushes one 0/1 gauge per possible state: 1 for the current one, so that a query can ask for any of them.
pub fn push_states<S: Copy + PartialEq + std::fmt::Display>(
    out: &mut Vec<Series>,
    metric: &'static Metric,
    attributes: &Attributes,
    all: &[S],
    current: S,
) {
    for state in all {
        let value = if *state == current { 1.0 } else { 0.0 };
        out.push(Series::gauge(metric, attributes.clone().with(Attribute::State, state), value));
    }
}

/// Who exports: a stream is identified by agent and boot as well as by its attributes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Exporter {
    /// The fleet's name.
    pub fleet: String,
    /// The region it stands in.
    pub region: RegionName,
    /// Its name.
    pub agent: AgentName,
    /// Its start.
    pub boot: BootId,
    /// Its program version.
    pub version: String,
}

/// One batch of an exporter: all its series at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Who exports.
    pub exporter: Exporter,
    /// The number of the batch within the boot, from 1: with agent and boot it makes retries idempotent.
    pub sequence: u64,
    /// When the exporter's counting began.
    pub start: WallNanos,
    /// When the batch was made.
    pub time: WallNanos,
    /// The series.
    pub series: Vec<Series>,
}
