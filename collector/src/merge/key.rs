//! What a series is known by, and how two values of one are added.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use lagmesh_model::catalogue::Metric;
use lagmesh_model::series::{Attributes, Series, Value};

/// A metric with its attributes. Metrics are told apart by name.
#[derive(Debug, Clone)]
pub struct Key {
    /// Which metric.
    pub metric: &'static Metric,
    /// Its attributes.
    pub attributes: Attributes,
}

impl Key {
    /// The key of a series.
    pub fn of(series: &Series) -> Key {
        Key { metric: series.metric, attributes: series.attributes.clone() }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        let same = std::ptr::eq(self.metric, other.metric);
        let metrics = if same { Ordering::Equal } else { self.metric.name.cmp(other.metric.name) };
        metrics.then_with(|| self.attributes.cmp(&other.attributes))
    }
}

/// By how much a count has grown; `None` for what cannot have grown so, and for current values.
pub(super) fn grown(before: Option<&Value>, after: &Value) -> Option<Value> {
    match (before, after) {
        (_, Value::Gauge(_) | Value::Whole(_)) => None,
        (None, count) => Some(count.clone()),
        (Some(Value::Counter(before)), Value::Counter(after)) => after.checked_sub(*before).map(Value::Counter),
        (Some(Value::Histogram(before)), Value::Histogram(after)) => {
            after.since(before).map(|more| Value::Histogram(Arc::new(more)))
        }
        _ => None,
    }
}

/// Adds a count to a map of counts, exactly. Current values cannot be added and are left out, and so are new keys beyond `keys_max`.
pub(super) fn add(totals: &mut BTreeMap<Key, Value>, key: Key, value: &Value, keys_max: usize) {
    let is_full = totals.len() >= keys_max;
    match (totals.entry(key), value) {
        (_, Value::Gauge(_) | Value::Whole(_)) => {}
        (Entry::Vacant(_), _) if is_full => {}
        (Entry::Vacant(vacant), value) => {
            vacant.insert(value.clone());
        }
        (Entry::Occupied(mut held), value) => match (held.get_mut(), value) {
            // Wraps as every cumulative counter of 64 bits does; readers take that for a reset.
            (Value::Counter(sum), Value::Counter(more)) => *sum = sum.wrapping_add(*more),
            (Value::Histogram(sum), Value::Histogram(more)) => Arc::make_mut(sum).merge(more),
            _ => {}
        },
    }
}
