//! What one agent says now, with the age of it: the form in which judge and pages ask.

use std::str::FromStr;

use lagmesh_model::catalogue::{self, Attribute, Metric};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::AgentName;
use lagmesh_model::series::Attributes;
use lagmesh_model::state::{Bound, NodeState};
use lagmesh_model::status::Seconds;
use lagmesh_model::time::Reading;

use super::Age;
use super::boot::Boot;
use super::key::Key;
use super::recent::Growth;

/// One agent by its current boot.
#[derive(Debug, Clone)]
pub struct Witness<'a> {
    /// Who.
    pub agent: &'a AgentName,
    /// What it delivered.
    pub boot: &'a Boot,
    /// How old its newest batch is.
    pub age: Age,
}

/// Orders by arrival; what arrived in an earlier epoch is older.
pub(super) fn newer(a: &Witness<'_>, b: &Witness<'_>) -> std::cmp::Ordering {
    let (a, b) = (a.boot.arrived, b.boot.arrived);
    if a.epoch == b.epoch { a.raw.cmp(&b.raw) } else { a.wall.cmp(&b.wall) }
}

impl<'a> Witness<'a> {
    pub(super) fn new(agent: &'a AgentName, boot: &'a Boot, now: Reading, fresh_for: std::time::Duration) -> Witness<'a> {
        Witness { agent, boot, age: Age::of(boot.arrived, now, fresh_for) }
    }

    /// A current value.
    pub fn gauge(&self, metric: &'static Metric, attributes: &Attributes) -> Option<f64> {
        self.boot.gauge(&Key { metric, attributes: attributes.clone() })
    }

    /// The three numbers of an interval.
    pub fn bounds(&self, metric: &'static Metric, attributes: &Attributes) -> Option<Seconds> {
        let bound = |bound: Bound| self.gauge(metric, &attributes.clone().with(Attribute::Bound, bound));
        Some(Seconds { lower_s: bound(Bound::Lower)?, estimate_s: bound(Bound::Estimate)?, upper_s: bound(Bound::Upper)? })
    }

    /// The state whose series is 1, among all that there are.
    pub fn state<S: Copy + std::fmt::Display>(&self, metric: &'static Metric, attributes: &Attributes, all: &[S]) -> Option<S> {
        self.word(metric, attributes, Attribute::State, all)
    }

    /// The word of an attribute whose series is 1.
    pub fn word<S: Copy + std::fmt::Display>(
        &self,
        metric: &'static Metric,
        attributes: &Attributes,
        attribute: Attribute,
        all: &[S],
    ) -> Option<S> {
        let is_last = attributes.iter().all(|(other, _)| other < attribute);
        if !is_last {
            let says = |word: &S| self.gauge(metric, &attributes.clone().with(attribute, word)).is_some_and(|one| one > 0.5);
            return all.iter().copied().find(says);
        }
        // The words stand beside each other.
        let mut words = self.boot.gauges_of(metric, attributes).filter(|(_, one)| *one > 0.5);
        let word = words.find_map(|(found, _)| found.get(attribute))?;
        all.iter().copied().find(|one| one.to_string() == word)
    }

    /// The attribute sets of a metric's current series that carry `attribute = value`.
    pub fn having(&self, metric: &'static Metric, attribute: Attribute, value: &str) -> impl Iterator<Item = &'a Attributes> {
        let of_metric = self.boot.gauges_of(metric, Attributes::none());
        of_metric.map(|(attributes, _)| attributes).filter(move |attributes| attributes.get(attribute) == Some(value))
    }

    /// How a counter has grown during the last minute.
    pub fn recent_count(&self, metric: &'static Metric, attributes: &Attributes) -> Option<u64> {
        match self.boot.growth(&Key { metric, attributes: attributes.clone() })? {
            Growth::Count(count) => Some(count),
            Growth::Distribution(_) => None,
        }
    }

    /// The distribution of the last minute.
    pub fn recent_distribution(&self, metric: &'static Metric, attributes: &Attributes) -> Option<Exponential> {
        match self.boot.growth(&Key { metric, attributes: attributes.clone() })? {
            Growth::Count(_) => None,
            Growth::Distribution(grown) => Some(grown),
        }
    }

    /// Whether this agent is the better source for what `attributes` describe: one that stands by on a node leaves it to the other.
    pub fn knows_better(&self, held: &Witness<'_>, attributes: &Attributes) -> bool {
        let stands_by = |witness: &Witness<'_>| {
            let node = Attribute::Node;
            let names = [Attribute::Cluster, Attribute::Region, node];
            let own = names.iter().try_fold(Attributes::new(), |own, name| Some(own.with(*name, attributes.get(*name)?)));
            own.is_some_and(|own| witness.state(&catalogue::NODE_STATE, &own, NodeState::ALL) == Some(NodeState::StandingBy))
        };
        match (stands_by(self), stands_by(held)) {
            (true, false) => false,
            (false, true) => true,
            _ => newer(self, held).is_gt(),
        }
    }
}

/// A name in an attribute, if it is there and is a name.
pub fn named<N: FromStr>(attributes: &Attributes, attribute: Attribute) -> Option<N> {
    attributes.get(attribute)?.parse().ok()
}
