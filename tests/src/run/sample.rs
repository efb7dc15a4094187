//! From what a daemon says of itself to one value of one subject. Pure.

use lagmesh_model::known::Known;
use lagmesh_model::status::{AgentStatus, FleetStatus, Link, Node, Quantiles, Replication, Seconds};
use serde::Serialize;

use crate::real::Real;
use crate::scenario::Quantity;

/// One value at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// When it was asked for.
    pub at: Real,
    /// What was said.
    pub value: Value,
    /// What it was said of.
    #[serde(flatten)]
    pub basis: Basis,
    /// What was true, as lower and upper bound, where the testbed knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truth: Option<(f64, f64)>,
}

/// What a value of a replication rests on; nothing for any other.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Basis {
    /// The beat whose lag is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beat: Option<(i64, u64)>,
    /// How old the evidence was, if the daemon said that replication stands still: then staleness is what it was, carried on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stood_still_for_s: Option<f64>,
}

/// What was said.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// A named state, or why it is that.
    State(String),
    /// A number.
    Number(f64),
    /// A bounded number: lower, estimate, upper.
    Interval(f64, f64, f64),
    /// That it is not known, and why.
    Unknown(String),
    /// Nothing at all: the daemon did not answer.
    Silent(String),
}

impl Value {
    /// The number, or the estimate of an interval.
    pub fn estimate(&self) -> Option<f64> {
        match self {
            Value::Number(number) | Value::Interval(_, number, _) => Some(*number),
            Value::State(_) | Value::Unknown(_) | Value::Silent(_) => None,
        }
    }
}

/// The lists of a status that an agent and a collector have in common.
#[derive(Debug, Clone, Copy)]
pub struct Lists<'s> {
    links: &'s [Link],
    nodes: &'s [Node],
    replications: &'s [Replication],
}

impl<'s> From<&'s AgentStatus> for Lists<'s> {
    fn from(status: &'s AgentStatus) -> Lists<'s> {
        Lists { links: &status.links, nodes: &status.nodes, replications: &status.replications }
    }
}

impl<'s> From<&'s FleetStatus> for Lists<'s> {
    fn from(status: &'s FleetStatus) -> Lists<'s> {
        Lists { links: &status.links, nodes: &status.nodes, replications: &status.replications }
    }
}

impl Lists<'_> {
    /// The value of a subject that both know; `None` if this is no such quantity.
    fn value(self, quantity: &Quantity) -> Option<Value> {
        match quantity {
            Quantity::Link { from, to, kind, value } => {
                let link = self.links.iter().find(|link| link.region.as_str() == from && link.peer.as_str() == to);
                Some(link.map_or_else(not_listed, |link| link_value(link, *kind, value)))
            }
            Quantity::Replication { origin, node, value } => {
                Some(self.replication(origin, node).map_or_else(not_listed, |replication| replication_value(replication, value)))
            }
            Quantity::Node { node, value } => {
                let found = self.nodes.iter().find(|found| found.node.as_str() == node);
                Some(found.map_or_else(not_listed, |node| node_value(node, value)))
            }
            _ => None,
        }
    }

    fn replication(&self, origin: &str, node: &str) -> Option<&Replication> {
        self.replications.iter().find(|link| link.origin.as_str() == origin && link.node.as_str() == node)
    }

    /// What the value of a quantity rests on.
    pub fn basis(self, quantity: &Quantity) -> Basis {
        let Quantity::Replication { origin, node, .. } = quantity else { return Basis::default() };
        let Some(found) = self.replication(origin, node) else { return Basis::default() };
        Basis {
            beat: found.lag_beat.current().map(|(incarnation, sequence)| (incarnation.0, sequence.0)),
            stood_still_for_s: found.evidence_age_s.current().copied().filter(|_| found.state.stands_still()),
        }
    }
}

/// A value as an agent tells it.
pub fn of_agent(status: &AgentStatus, quantity: &Quantity) -> Value {
    if let Quantity::Agent { value, .. } = quantity {
        let sum = |of: fn(&lagmesh_model::status::Export) -> u64| status.exports.iter().map(of).sum::<u64>() as f64;
        return match value.as_str() {
            "runs" => Value::State("yes".to_owned()),
            "pending_batches" => Value::Number(sum(|export| export.pending_batches)),
            _ => Value::Number(sum(|export| export.pending_bytes)),
        };
    }
    Lists::from(status).value(quantity).unwrap_or_else(|| Value::Unknown("an agent does not tell this".to_owned()))
}

/// A value as a collector tells it.
pub fn of_fleet(status: &FleetStatus, quantity: &Quantity) -> Value {
    match quantity {
        Quantity::Region { region, value } => {
            let found = status.regions.iter().find(|found| found.region.as_str() == region);
            found.map_or_else(not_listed, |region| match value.as_str() {
                "evidence_age" => number(&region.evidence_age_s, |age| *age),
                axis => {
                    let verdict = region.verdicts.iter().find(|verdict| verdict.axis.as_str() == axis);
                    verdict.map_or_else(not_listed, |verdict| Value::State(verdict.state.as_str().to_owned()))
                }
            })
        }
        Quantity::Cluster { cluster, .. } => {
            let found = status.clusters.iter().find(|found| found.cluster.as_str() == cluster);
            found.map_or_else(not_listed, |cluster| Value::Number(cluster.writers.len() as f64))
        }
        Quantity::Clocks { from, to, .. } => match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) => status.clocks.between(&from, &to).map_or_else(not_listed, |(offset, _)| interval(&offset)),
            _ => not_listed(),
        },
        Quantity::Fleet { .. } => Value::Number(status.regions_reporting as f64),
        _ => Lists::from(status).value(quantity).unwrap_or_else(|| Value::Unknown("a collector does not tell this".to_owned())),
    }
}

/// The sum of all series of a metric with these labels in Prometheus' text format.
pub fn of_metrics(exposition: &str, name: &str, labels: &[(String, String)]) -> Value {
    let carries = |series: &str| labels.iter().all(|(key, value)| series.contains(&format!("{key}=\"{value}\"")));
    let values = exposition.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (series, value) = rest.rsplit_once(' ')?;
        ((series.is_empty() || series.starts_with('{')) && carries(series)).then(|| value.parse::<f64>().ok())?
    });
    values.reduce(|sum, value| sum + value).map_or_else(|| Value::Unknown("no such series".to_owned()), Value::Number)
}

fn not_listed() -> Value {
    Value::Unknown("not listed".to_owned())
}

fn why<T>(known: &Known<T>) -> Value {
    match known {
        Known::Unknown { why } => Value::Unknown(why.clone()),
        Known::Stale { age_s, .. } => Value::Unknown(format!("stale for {age_s:.1} s")),
        Known::Known { .. } => not_listed(),
    }
}

fn number<T>(known: &Known<T>, of: impl FnOnce(&T) -> f64) -> Value {
    known.current().map_or_else(|| why(known), |value| Value::Number(of(value)))
}

fn interval(known: &Known<Seconds>) -> Value {
    known.current().map_or_else(|| why(known), |value| Value::Interval(value.lower_s, value.estimate_s, value.upper_s))
}

fn quantile(known: &Known<Quantiles>, value: &str) -> Value {
    number(known, |quantiles| match value {
        "rtt_min" => quantiles.min_s,
        "rtt_max" => quantiles.max_s,
        "rtt_p99" | "lag_p99" => quantiles.p99_s,
        _ => quantiles.p50_s,
    })
}

fn link_value(link: &Link, kind: lagmesh_model::state::ProbeKind, value: &str) -> Value {
    match value {
        "state" => Value::State(link.state.as_str().to_owned()),
        "mtu" => number(&link.mtu_bytes, |bytes| *bytes as f64),
        "route_hops" => match &link.route {
            Some(route) => Value::Number(route.hops.len() as f64),
            None => Value::Unknown("no route was asked for".to_owned()),
        },
        "flows_alive" => number(&link.flows_alive, |flows| *flows as f64),
        "clock_error" => number(&link.clock_error_s, |error| *error),
        "evidence_age" => number(&link.evidence_age_s, |age| *age),
        "oneway_forward" => interval(&link.path.oneway.forward),
        "oneway_backward" => interval(&link.path.oneway.backward),
        "loss" => match link.kinds.iter().find(|probed| probed.kind == kind) {
            Some(probed) if probed.settled > 0 => Value::Number(1.0 - probed.answered as f64 / probed.settled as f64),
            _ => Value::Unknown("no probe is settled".to_owned()),
        },
        quantile_name => quantile(&link.rtt(kind), quantile_name),
    }
}

fn replication_value(link: &Replication, value: &str) -> Value {
    match value {
        "state" => Value::State(link.state.as_str().to_owned()),
        "why" => Value::State(link.why.clone()),
        "lag" => interval(&link.lag),
        "staleness" => interval(&link.staleness),
        "backlog_received" => number(&link.log.received.backlog_bytes, |bytes| *bytes as f64),
        "backlog_replayed" => number(&link.log.replayed.backlog_bytes, |bytes| *bytes as f64),
        "delay_received" => interval(&link.log.received.delay),
        "delay_flushed" => interval(&link.log.flushed.delay),
        "delay_replayed" => interval(&link.log.replayed.delay),
        "loss" => interval(&link.loss),
        "catch_up" => number(&link.catch_up_s, |catch_up_s| *catch_up_s),
        "evidence_age" => number(&link.evidence_age_s, |age| *age),
        quantile_name => quantile(&link.lag_recent, quantile_name),
    }
}

fn node_value(node: &Node, value: &str) -> Value {
    match value {
        "state" => Value::State(node.state.as_str().to_owned()),
        "why" => Value::State(node.why.clone()),
        "role" => node.role.current().map_or_else(|| why(&node.role), |role| Value::State(role.as_str().to_owned())),
        "timeline" => number(&node.timeline, |timeline| f64::from(timeline.0)),
        "version" => number(&node.version, |version| f64::from(*version)),
        _ => number(&node.evidence_age_s, |age| *age),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only whole names and given labels count, and no series is not zero.
    #[test]
    fn metrics_are_summed() {
        let text = "# HELP a\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"2\",y=\"2\"} 4\na_total_more 9\na 1\n";
        let sum = |name: &str, labels: &[(&str, &str)]| {
            let labels: Vec<_> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            of_metrics(text, name, &labels)
        };
        assert_eq!(sum("a_total", &[]), Value::Number(7.0));
        assert_eq!(sum("a_total", &[("x", "2")]), Value::Number(4.0));
        assert_eq!(sum("a", &[]), Value::Number(1.0));
        assert_eq!(sum("a_total", &[("x", "3")]), Value::Unknown("no such series".to_owned()));
    }
}
