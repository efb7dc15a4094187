//! One start of one agent: its current values, its cumulative counts, and their recent points.

use std::collections::BTreeMap;

use lagmesh_model::catalogue::{self, Metric};
use lagmesh_model::series::{Batch, Exporter, Series, Value};
use lagmesh_model::time::{Reading, WallNanos};

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
    gauges: BTreeMap<Key, f64>,
    wholes: BTreeMap<Key, i64>,
    totals: BTreeMap<Key, Value>,
    recent: BTreeMap<Key, Points>,
    seen: Seen,
}

impl Boot {
    pub(super) fn new(exporter: Exporter, start: WallNanos, arrived: Reading) -> Boot {
        Boot {
            exporter,
            start,
            arrived,
            sequence: 0,
            gauges: BTreeMap::new(),
            wholes: BTreeMap::new(),
            totals: BTreeMap::new(),
            recent: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    pub(super) fn accept(&mut self, batch: Batch, arrived: Reading, window: u64) {
        let Batch { sequence, start, series, .. } = batch;
        let newest = sequence > self.sequence;
        if newest {
            self.sequence = sequence;
            self.arrived = arrived;
            self.start = start;
            self.gauges.clear();
            self.wholes.clear();
            self.totals.clear();
        }
        self.seen.insert(sequence, self.sequence, window);
        for Series { metric, attributes, value } in series {
            let key = Key { metric, attributes };
            match value {
                Value::Gauge(value) if newest => drop(self.gauges.insert(key, value)),
                Value::Whole(value) if newest => drop(self.wholes.insert(key, value)),
                Value::Gauge(_) | Value::Whole(_) => {}
                value @ (Value::Counter(_) | Value::Histogram(_)) => self.count(key, value, sequence, newest),
            }
        }
        let seen = &self.seen;
        self.recent.retain(|_, points| points.keep_since(seen));
    }

    fn count(&mut self, key: Key, value: Value, sequence: u64, newest: bool) {
        if RECENT_METRICS.iter().any(|metric| metric.name == key.metric.name) {
            self.recent.entry(key.clone()).or_default().insert(sequence, value.clone());
        }
        if newest {
            self.totals.insert(key, value);
        }
    }

    /// Counters and histograms of the newest batch.
    pub fn totals(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.totals.iter()
    }

    /// Current values of the newest batch.
    pub fn gauges(&self) -> impl Iterator<Item = (&Key, f64)> {
        self.gauges.iter().map(|(key, value)| (key, *value))
    }

    /// A current value of the newest batch.
    pub fn gauge(&self, key: &Key) -> Option<f64> {
        self.gauges.get(key).copied()
    }

    /// Whole values of the newest batch.
    pub fn wholes(&self) -> impl Iterator<Item = (&Key, i64)> {
        self.wholes.iter().map(|(key, value)| (key, *value))
    }

    /// A whole value of the newest batch.
    pub fn whole(&self, key: &Key) -> Option<i64> {
        self.wholes.get(key).copied()
    }

    /// How a count has grown during the last minute; `None` until two exports say so.
    pub fn growth(&self, key: &Key) -> Option<Growth> {
        self.recent.get(key)?.growth(&self.seen)
    }

    /// The histograms and counters of a metric of which recent points are kept.
    pub fn recent_keys(&self, metric: &'static Metric) -> impl Iterator<Item = &Key> {
        self.recent.keys().filter(move |key| key.metric.name == metric.name)
    }
}
