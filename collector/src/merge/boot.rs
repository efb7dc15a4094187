//! One start of one agent: its current values, its cumulative counts, and their recent points.

use std::collections::BTreeMap;

use lagmesh_model::catalogue::{self, Metric};
use lagmesh_model::series::{Attributes, Batch, Exporter, Series, Value};
use lagmesh_model::time::{Epoch, Reading, WallNanos};

use super::clocks::{self, WallReadings};
use super::key::Key;
use super::recent::{Growth, Points, Seen};

/// The counts of which the last minute is asked for. The others are only added up.
static RECENT_METRICS: [&Metric; 6] = [
    &catalogue::LINK_RTT,
    &catalogue::LINK_PHASE,
    &catalogue::LINK_PROBES,
    &catalogue::LINK_STAMPS,
    &catalogue::REPLICATION_LAG,
    &catalogue::HEARTBEAT_WRITES,
];

/// Everything that one (agent, boot) has delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Boot {
    /// Who.
    pub exporter: Exporter,
    /// When its counting began, by its own wall clock as the newest batch has it: a clock that is set right corrects the label too.
    pub start: WallNanos,
    /// When the batch of the highest sequence arrived.
    pub arrived: Reading,
    /// The highest sequence that arrived; 0 before the first.
    pub sequence: u64,
    /// The series of the newest batch, as they came.
    series: Vec<Series>,
    /// Where each of them stands. Batches hardly ever differ in that, so it is made anew only when one does.
    places: BTreeMap<Key, usize>,
    /// The recent points of those counts of which the last minute is asked for; as long as `series`.
    recent: Vec<Option<Points>>,
    seen: Seen,
    /// How the wall clock was read for the batch before the newest, and in which run of the measuring clock.
    pub(super) wall_before: Option<(Epoch, WallReadings)>,
}

impl Boot {
    pub(super) fn new(exporter: Exporter, start: WallNanos, arrived: Reading) -> Boot {
        let (series, places, recent) = (Vec::new(), BTreeMap::new(), Vec::new());
        Boot { exporter, start, arrived, sequence: 0, series, places, recent, seen: Seen::default(), wall_before: None }
    }

    pub(super) fn accept(&mut self, batch: Batch, arrived: Reading, window: u64) {
        let Batch { sequence, start, series, .. } = batch;
        let newest = sequence > self.sequence;
        if newest {
            self.sequence = sequence;
            self.arrived = arrived;
            self.start = start;
        }
        self.seen.insert(sequence, self.sequence, window);
        if newest {
            self.wall_before = clocks::wall_readings(self);
            self.replace(series);
        } else {
            // A late batch changes nothing that is current.
            self.remember_late(series, sequence);
        }
    }

    fn replace(&mut self, series: Vec<Series>) {
        let same_place = |(was, is): (&Series, &Series)| {
            was.metric.name == is.metric.name
                && (was.attributes.is_shared_with(&is.attributes) || was.attributes == is.attributes)
        };
        let same = self.series.len() == series.len() && self.series.iter().zip(&series).all(same_place);
        self.series = series;
        if !same {
            self.arrange();
        }
        for (one, points) in self.series.iter().zip(&mut self.recent) {
            if let Some(points) = points {
                points.insert(self.sequence, &one.value);
                points.keep_since(&self.seen);
            }
        }
    }

    /// Series have come, gone or moved: points go with theirs.
    fn arrange(&mut self) {
        let was = std::mem::take(&mut self.places);
        let place = |(place, one): (usize, &Series)| (Key::of(one), place);
        self.places = self.series.iter().enumerate().map(place).collect();
        let mut recent = std::mem::take(&mut self.recent);
        self.recent = vec![None; self.series.len()];
        for (key, place) in &self.places {
            if RECENT_METRICS.iter().any(|metric| metric.name == key.metric.name) {
                let points = was.get(key).and_then(|was| recent[*was].take());
                self.recent[*place] = Some(points.unwrap_or_default());
            }
        }
    }

    fn remember_late(&mut self, series: Vec<Series>, sequence: u64) {
        for one in series {
            let Some(place) = self.places.get(&Key::of(&one)) else { continue };
            if let Some(points) = &mut self.recent[*place] {
                points.insert(sequence, &one.value);
                points.keep_since(&self.seen);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.places.iter().map(|(key, place)| (key, &self.series[*place].value))
    }

    /// The series of one metric from `first` on, in the order of their attributes.
    fn of_metric(&self, metric: &'static Metric, first: Attributes) -> impl Iterator<Item = (&Key, usize)> {
        let from = self.places.range(Key { metric, attributes: first }..);
        from.map(|(key, place)| (key, *place)).take_while(move |(key, _)| key.metric.name == metric.name)
    }

    /// The current values of a metric whose attributes begin, in the order of [`Attribute`](lagmesh_model::catalogue::Attribute), with all
    /// of `first`.
    pub fn gauges_of<'a>(
        &'a self,
        metric: &'static Metric,
        first: &'a Attributes,
    ) -> impl Iterator<Item = (&'a Attributes, f64)> {
        let begun = self.of_metric(metric, first.clone()).take_while(|(key, _)| key.attributes.begin_with(first));
        begun.filter_map(|(key, place)| match self.series[place].value {
            Value::Gauge(value) => Some((&key.attributes, value)),
            _ => None,
        })
    }

    fn value(&self, key: &Key) -> Option<&Value> {
        self.places.get(key).map(|place| &self.series[*place].value)
    }

    /// Counters and histograms of the newest batch.
    pub fn totals(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.all().filter(|(_, value)| matches!(value, Value::Counter(_) | Value::Histogram(_)))
    }

    /// Current values of the newest batch.
    pub fn gauges(&self) -> impl Iterator<Item = (&Key, f64)> {
        self.all().filter_map(|(key, value)| if let Value::Gauge(value) = value { Some((key, *value)) } else { None })
    }

    /// A current value of the newest batch.
    pub fn gauge(&self, key: &Key) -> Option<f64> {
        if let Value::Gauge(value) = self.value(key)? { Some(*value) } else { None }
    }

    /// Whole values of the newest batch.
    pub fn wholes(&self) -> impl Iterator<Item = (&Key, i64)> {
        self.all().filter_map(|(key, value)| if let Value::Whole(value) = value { Some((key, *value)) } else { None })
    }

    /// A whole value of the newest batch.
    pub fn whole(&self, key: &Key) -> Option<i64> {
        if let Value::Whole(value) = self.value(key)? { Some(*value) } else { None }
    }

    /// How a count has grown during the last minute; `None` until two exports say so.
    pub fn growth(&self, key: &Key) -> Option<Growth> {
        let place = *self.places.get(key)?;
        self.recent[place].as_ref()?.growth(&self.seen, &self.series[place].value)
    }

    /// The histograms and counters of a metric of which recent points are kept.
    pub fn recent_keys(&self, metric: &'static Metric) -> impl Iterator<Item = &Key> {
        self.of_metric(metric, Attributes::new()).filter(|(_, place)| self.recent[*place].is_some()).map(|(key, _)| key)
    }
}
