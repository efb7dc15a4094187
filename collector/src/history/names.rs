//! The dictionary: series by number. Pure.

use std::collections::HashMap;

use lagmesh_model::catalogue::{self, Attribute, Metric};
use lagmesh_model::series::{Attributes, Series};

use super::body::SeriesId;

/// The most series that a history holds: far more than any fleet has, and a bound for one that invents names.
pub(super) const SERIES_MAX: usize = 1_000_000;

/// Numbers by series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Names {
    ids: HashMap<(&'static str, Attributes), SeriesId>,
    highest: SeriesId,
    added: Vec<Name>,
}

/// A series that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) id: SeriesId,
    pub(super) metric: &'static str,
    pub(super) attributes: Attributes,
}

impl Names {
    /// As it was stored.
    pub(super) fn restore(&mut self, name: Name) {
        self.highest = self.highest.max(name.id);
        self.ids.insert((name.metric, name.attributes), name.id);
    }

    /// No number up to this one is given to another series, whatever can be read of it.
    pub(super) fn pass_over(&mut self, id: SeriesId) {
        self.highest = self.highest.max(id);
    }

    /// The number of a series, a new one if it is new; `None` if there are too many.
    pub(super) fn id(&mut self, series: &Series) -> Option<SeriesId> {
        let key = (series.metric.name, series.attributes.clone());
        if let Some(id) = self.ids.get(&key) {
            return Some(*id);
        }
        if self.ids.len() >= SERIES_MAX {
            return None;
        }
        self.highest = self.highest.checked_add(1)?;
        self.added.push(Name { id: self.highest, metric: key.0, attributes: key.1.clone() });
        self.ids.insert(key, self.highest);
        Some(self.highest)
    }

    /// What has to be written.
    pub(super) fn take_added(&mut self) -> Vec<Name> {
        std::mem::take(&mut self.added)
    }
}

/// Attributes as they are stored: a JSON list of names and values, in the order of the catalogue.
pub(super) fn attributes_text(attributes: &Attributes) -> String {
    let pairs: Vec<(&str, &str)> = attributes.iter().map(|(name, value)| (name.as_str(), value)).collect();
    serde_json::to_string(&pairs).expect("text is JSON")
}

/// The series of a stored row; `None` if this version does not know it.
pub(super) fn read(metric: &str, attributes: &str) -> Option<(&'static Metric, Attributes)> {
    let metric = catalogue::by_name(metric)?;
    let pairs: Vec<(String, String)> = serde_json::from_str(attributes).ok()?;
    let mut read = Attributes::new();
    for (name, value) in pairs {
        read = read.with(Attribute::from_name(&name)?, value);
    }
    read.fit(metric).then_some((metric, read))
}
