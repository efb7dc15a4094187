//! `[[expect]]`: what must be seen, of whom, by whom and when.

use lagmesh_model::document::{Found, Section, number, text};
use lagmesh_model::state::{LinkState, NodeRole, NodeState, ProbeKind, RegionState, ReplicationState};
use toml::de::DeValue;

use super::fault;
use super::value::{length_ns, length_or, pair, span_ns, words};
use crate::plan::Plan;

pub(super) const EXPECT: &[&str] = &[
    "name",
    "of",
    "value",
    "seen_by",
    "from",
    "until",
    "becomes",
    "stays",
    "never",
    "between",
    "near_truth",
    "covers_truth",
    "unknown",
    "grows",
    "says",
    "share",
    "kind",
    "labels",
];

/// Something that must be seen.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// Its name in the report.
    pub name: String,
    /// Which value of which subject.
    pub quantity: Quantity,
    /// Who says it.
    pub seen_by: Observer,
    /// The first moment that counts, after the world is ready [ns].
    pub from_ns: u64,
    /// The last one [ns].
    pub until_ns: u64,
    /// What must hold.
    pub condition: Condition,
    /// For which share of the samples it must hold (0, 1].
    pub share: f64,
}

/// Which value of which subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Of a link between two regions: `state`, `rtt_p50` and so on, of one kind of probe.
    Link {
        /// From.
        from: String,
        /// To.
        to: String,
        /// The kind of probe.
        kind: ProbeKind,
        /// The value's name.
        value: String,
    },
    /// Of replication from one node to another.
    Replication {
        /// Where beats are written.
        origin: String,
        /// Where they are read.
        node: String,
        /// The value's name.
        value: String,
    },
    /// Of the wall clocks of two regions' hosts.
    Clocks {
        /// Whose is subtracted.
        from: String,
        /// From whose.
        to: String,
        /// The value's name.
        value: String,
    },
    /// Of a node.
    Node {
        /// Which.
        node: String,
        /// The value's name.
        value: String,
    },
    /// The verdict on a region.
    Region {
        /// Which.
        region: String,
        /// The value's name.
        value: String,
    },
    /// Of a cluster.
    Cluster {
        /// Which.
        cluster: String,
        /// The value's name.
        value: String,
    },
    /// Of the whole fleet.
    Fleet {
        /// The value's name.
        value: String,
    },
    /// What an agent says of its exports, or whether it runs.
    Agent {
        /// Which.
        agent: String,
        /// The value's name.
        value: String,
    },
    /// The sum of a metric's series on `/metrics` that carry the labels.
    Metric {
        /// Its name there.
        name: String,
        /// Labels and their values.
        labels: Vec<(String, String)>,
    },
}

/// Who says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Observer {
    /// An agent, by name.
    Agent(String),
    /// A collector, by name.
    Collector(String),
}

/// In what a value is counted.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    /// A named state; all words of it.
    State(Words),
    /// A sentence for people.
    Text,
    /// Seconds; a span of time in the file.
    Seconds,
    /// A plain number.
    Number,
}

/// What must hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// One of these words is seen at least once.
    Becomes(Vec<String>),
    /// Every sample is one of these words.
    Stays(Vec<String>),
    /// No sample is one of these words.
    Never(Vec<String>),
    /// The estimate lies between.
    Between(f64, f64),
    /// The estimate is no further from the truth [s].
    NearTruth(f64),
    /// The interval contains the truth.
    CoversTruth,
    /// The value is not known.
    Unknown,
    /// The value is known.
    Known,
    /// It grows by so much for each second that passes.
    Grows(f64, f64),
    /// The sentence contains this.
    Says(String),
}

/// Every word of a kind of state.
type Words = fn() -> Vec<&'static str>;

/// The values of each kind of subject.
type Values = &'static [(&'static str, Unit)];

const LINK: Values = &[
    ("state", Unit::State(|| LinkState::ALL.iter().map(|state| state.as_str()).collect())),
    ("rtt_min", Unit::Seconds),
    ("rtt_p50", Unit::Seconds),
    ("rtt_p99", Unit::Seconds),
    ("rtt_max", Unit::Seconds),
    ("loss", Unit::Number),
    ("oneway_forward", Unit::Seconds),
    ("oneway_backward", Unit::Seconds),
    ("flows_alive", Unit::Number),
    ("mtu", Unit::Number),
    ("route_hops", Unit::Number),
    ("clock_error", Unit::Seconds),
    ("evidence_age", Unit::Seconds),
];
const REPLICATION: Values = &[
    ("state", Unit::State(|| ReplicationState::ALL.iter().map(|state| state.as_str()).collect())),
    ("lag", Unit::Seconds),
    ("lag_p50", Unit::Seconds),
    ("lag_p99", Unit::Seconds),
    ("staleness", Unit::Seconds),
    ("backlog_received", Unit::Number),
    ("backlog_replayed", Unit::Number),
    ("delay_received", Unit::Seconds),
    ("delay_flushed", Unit::Seconds),
    ("delay_replayed", Unit::Seconds),
    ("loss", Unit::Seconds),
    ("catch_up", Unit::Seconds),
    ("evidence_age", Unit::Seconds),
    ("why", Unit::Text),
];
const CLOCKS: Values = &[("wall_offset", Unit::Seconds)];
const NODE: Values = &[
    ("state", Unit::State(|| NodeState::ALL.iter().map(|state| state.as_str()).collect())),
    ("role", Unit::State(|| NodeRole::ALL.iter().map(|state| state.as_str()).collect())),
    ("timeline", Unit::Number),
    ("version", Unit::Number),
    ("evidence_age", Unit::Seconds),
    ("why", Unit::Text),
];
const REGION: Values = &[
    ("reads", Unit::State(|| RegionState::ALL.iter().map(|state| state.as_str()).collect())),
    ("writes", Unit::State(|| RegionState::ALL.iter().map(|state| state.as_str()).collect())),
    ("evidence_age", Unit::Seconds),
];
const CLUSTER: Values = &[("writers", Unit::Number)];
const FLEET: Values = &[("regions_reporting", Unit::Number)];
const AGENT: Values =
    &[("pending_batches", Unit::Number), ("pending_bytes", Unit::Number), ("runs", Unit::State(|| vec!["yes", "no"]))];

/// The values whose truth the testbed knows.
const TRUTH_LINK: &[&str] = &["rtt_min", "rtt_p50", "rtt_p99", "rtt_max", "oneway_forward", "oneway_backward"];
const TRUTH_REPLICATION: &[&str] = &["lag", "staleness"];
/// The values that are intervals.
const INTERVALS: &[&str] = &["lag", "staleness", "oneway_forward", "oneway_backward", "wall_offset"];

pub(super) fn expectation(section: &Section<'_>, plan: &Plan, run_ns: u64) -> Found<Expectation> {
    let name = section.require("name", text)?;
    let (quantity, unit) = quantity(section, plan)?;
    let seen_by = observer(section, &quantity, plan)?;
    let from_ns = length_or(section, "from", 0)?;
    let until_ns = length_or(section, "until", run_ns)?;
    if from_ns >= until_ns || until_ns > run_ns {
        return Err(section.tell("until", "must be after `from` and within the run"));
    }
    let condition = condition(section, unit)?;
    extra_keys(section, &quantity, &condition)?;
    truth_exists(section, &condition, &quantity, &seen_by)?;
    let share = section.get("share", |value| number(value, 0.0001..=1.0))?.unwrap_or(1.0);
    Ok(Expectation { name, quantity, seen_by, from_ns, until_ns, condition, share })
}

/// A key that means nothing here would be passed over in silence.
fn extra_keys(section: &Section<'_>, quantity: &Quantity, condition: &Condition) -> Found<()> {
    let of_link = matches!(quantity, Quantity::Link { .. });
    let of_metric = matches!(quantity, Quantity::Metric { .. });
    let of_all = matches!(condition, Condition::Becomes(_) | Condition::Never(_) | Condition::Grows(_, _));
    for (key, foreign) in [("kind", !of_link), ("labels", !of_metric), ("value", of_metric), ("share", of_all)] {
        if foreign && section.get(key, |_| Ok(()))?.is_some() {
            return Err(section.tell(key, "means nothing here"));
        }
    }
    Ok(())
}

fn quantity(section: &Section<'_>, plan: &Plan) -> Found<(Quantity, Unit)> {
    let of = section.require("of", text)?;
    let (kind, name) = of.split_once(' ').unwrap_or((of.as_str(), ""));
    let name = name.trim();
    let tell = |message: String| section.tell("of", message);
    let (quantity, unit): (Box<dyn FnOnce(String) -> Quantity>, Values) = match kind {
        "link" => {
            let (from, to) = fault::link(name, plan).map_err(tell)?;
            let kind = section.get("kind", |value| {
                ProbeKind::from_word(&text(value)?)
                    .ok_or_else(|| "must be \"stamp\", \"icmp\", \"tcp\", \"sql\", \"sql-kept\" or \"http\"".to_owned())
            })?;
            let kind = kind.unwrap_or(ProbeKind::Stamp);
            (Box::new(move |value| Quantity::Link { from, to, kind, value }), LINK)
        }
        "replication" => {
            let (origin, node) =
                name.split_once("->").ok_or_else(|| tell(format!("{of:?}: write replication ORIGIN -> NODE")))?;
            let origin = fault::node(origin.trim(), plan).map_err(tell)?;
            let node = fault::node(node.trim(), plan).map_err(tell)?;
            if !replicates(plan, &origin, &node) {
                return Err(tell(format!("no beats travel from {origin} to {node}: they must be two nodes of one cluster")));
            }
            (Box::new(move |value| Quantity::Replication { origin, node, value }), REPLICATION)
        }
        "clocks" => {
            let (from, to) = fault::link(name, plan).map_err(tell)?;
            (Box::new(move |value| Quantity::Clocks { from, to, value }), CLOCKS)
        }
        "node" => {
            let node = fault::node(name, plan).map_err(tell)?;
            (Box::new(move |value| Quantity::Node { node, value }), NODE)
        }
        "region" => {
            let region = fault::region(name, plan).map_err(tell)?;
            (Box::new(move |value| Quantity::Region { region, value }), REGION)
        }
        "cluster" => {
            let names = plan.clusters.iter().map(|cluster| cluster.name.as_str());
            let cluster = fault::known("cluster", name, names).map_err(tell)?;
            (Box::new(move |value| Quantity::Cluster { cluster, value }), CLUSTER)
        }
        "fleet" => (Box::new(move |value| Quantity::Fleet { value }), FLEET),
        "agent" => {
            let agent = fault::agent(name, plan).map_err(tell)?;
            (Box::new(move |value| Quantity::Agent { agent, value }), AGENT)
        }
        "metric" if !name.is_empty() => return metric(section, name).map(|quantity| (quantity, Unit::Number)),
        _ => {
            return Err(tell(format!(
                "{of:?} is no subject; write link A -> B, clocks A -> B, replication X -> Y, node N, region R, cluster C, fleet, agent A or metric NAME"
            )));
        }
    };
    let names: Vec<&str> = unit.iter().map(|(name, _)| *name).collect();
    let value = section.require("value", |value| fault::known("value of this subject", &text(value)?, names.iter().copied()))?;
    let unit = unit.iter().find(|(name, _)| *name == value).map_or(Unit::Number, |(_, unit)| *unit);
    Ok((quantity(value), unit))
}

/// Whether beats may travel from one node to another, be it after a promotion.
fn replicates(plan: &Plan, origin: &str, node: &str) -> bool {
    let cluster = |name| plan.node(name).map(|(cluster, _)| &cluster.name);
    origin != node && cluster(origin) == cluster(node)
}

fn metric(section: &Section<'_>, name: &str) -> Found<Quantity> {
    let labels = section.get("labels", words)?.unwrap_or_default();
    let split = |label: &String| {
        let (key, value) = label.split_once('=')?;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    };
    match labels.iter().map(split).collect::<Option<Vec<_>>>() {
        Some(labels) => Ok(Quantity::Metric { name: name.to_owned(), labels }),
        None => Err(section.tell("labels", "must be a list of \"label=value\"")),
    }
}

/// Who is asked: by default the agent that measures the subject, or the first collector if only a collector knows it.
fn observer(section: &Section<'_>, quantity: &Quantity, plan: &Plan) -> Found<Observer> {
    let central =
        matches!(quantity, Quantity::Clocks { .. } | Quantity::Region { .. } | Quantity::Cluster { .. } | Quantity::Fleet { .. });
    if let Some(written) = section.get("seen_by", text)? {
        let observer = match written.split_once(' ') {
            Some(("agent", name)) => fault::agent(name.trim(), plan).map(Observer::Agent),
            Some(("collector", name)) => fault::collector(name.trim(), plan).map(Observer::Collector),
            _ => Err("must be \"agent NAME\" or \"collector NAME\"".to_owned()),
        };
        let observer = observer.map_err(|message| section.tell("seen_by", message))?;
        if central && matches!(observer, Observer::Agent(_)) {
            return Err(
                section.tell("seen_by", "an agent does not judge regions, clusters, the fleet or its clocks; ask a collector")
            );
        }
        if let (Observer::Agent(agent), Some(region)) = (&observer, measured_in(quantity, plan))
            && plan.region_of_agent(agent).is_none_or(|own| own.name != region)
        {
            return Err(section.tell("seen_by", format!("only agents of {region} measure this; ask one of them, or a collector")));
        }
        if matches!(quantity, Quantity::Agent { .. }) {
            return Err(section.tell("seen_by", "an agent's own values are seen by itself; leave seen_by out"));
        }
        return Ok(observer);
    }
    let first_agent = |region: &str| plan.region(region).map(|region| Observer::Agent(plan.agents_of(region)[0].clone()));
    let region_of = |node: &str| plan.node(node).and_then(|(_, node)| first_agent(&node.region));
    let own = match quantity {
        Quantity::Link { from, .. } => first_agent(from),
        Quantity::Replication { node, .. } | Quantity::Node { node, .. } => region_of(node),
        Quantity::Agent { agent, .. } => Some(Observer::Agent(agent.clone())),
        _ => plan.collectors.first().map(|collector| Observer::Collector(collector.name.clone())),
    };
    own.ok_or_else(|| section.tell("seen_by", "must say who sees it: \"agent NAME\" or \"collector NAME\""))
}

/// The region whose agents measure it; `None` if any agent may be asked.
fn measured_in<'p>(quantity: &'p Quantity, plan: &'p Plan) -> Option<&'p str> {
    match quantity {
        Quantity::Link { from, .. } => Some(from),
        Quantity::Replication { node, .. } | Quantity::Node { node, .. } => plan.node(node).map(|(_, node)| node.region.as_str()),
        _ => None,
    }
}

const CONDITIONS: &[&str] = &["becomes", "stays", "never", "between", "near_truth", "covers_truth", "unknown", "grows", "says"];

fn condition(section: &Section<'_>, unit: Unit) -> Found<Condition> {
    let mut found = Vec::new();
    for (key, make) in [
        ("becomes", Condition::Becomes as fn(Vec<String>) -> Condition),
        ("stays", Condition::Stays),
        ("never", Condition::Never),
    ] {
        if let Some(words) = section.get(key, |value| state_words_of(value, unit))? {
            found.push(make(words));
        }
    }
    if let Some((lower, upper)) = section.get("between", |value| pair(value, |value| amount(value, unit)))? {
        if lower > upper {
            return Err(section.tell("between", "the lower end stands above the upper one"));
        }
        found.push(Condition::Between(lower, upper));
    }
    if let Some(bound_ns) = section.get("near_truth", length_ns)? {
        found.push(Condition::NearTruth(bound_ns as f64 / 1e9));
    }
    if section.switch("covers_truth", false)? {
        found.push(Condition::CoversTruth);
    }
    if let Some(unknown) = section.get("unknown", |value| value.as_bool().ok_or_else(|| "must be true or false".to_owned()))? {
        found.push(if unknown { Condition::Unknown } else { Condition::Known });
    }
    if let Some((lower, upper)) = section.get("grows", |value| pair(value, |value| number(value, -1e9..=1e9)))? {
        found.push(Condition::Grows(lower, upper));
    }
    if let Some(part) = section.get("says", |value| said(value, unit))? {
        found.push(Condition::Says(part));
    }
    match (found.pop(), found.is_empty()) {
        (Some(condition), true) => Ok(condition),
        (None, _) => Err(section.tell("name", format!("expects nothing; write one of {}", CONDITIONS.join(", ")))),
        (Some(_), false) => {
            Err(section
                .tell("name", format!("expects two things; write one of {} and a second [[expect]]", CONDITIONS.join(", "))))
        }
    }
}

fn state_words_of(value: &DeValue<'_>, unit: Unit) -> Result<Vec<String>, String> {
    let known = match unit {
        Unit::State(known) => known,
        Unit::Text => return Err("is for states; this value is a sentence: write says".to_owned()),
        Unit::Seconds | Unit::Number => return Err("is for states; this value is a number: write between".to_owned()),
    };
    words(value)?.iter().map(|word| fault::known("state of this value", word, known().into_iter())).collect()
}

fn said(value: &DeValue<'_>, unit: Unit) -> Result<String, String> {
    match unit {
        Unit::Text => text(value).and_then(|part| if part.is_empty() { Err("must not be empty".to_owned()) } else { Ok(part) }),
        _ => Err("is for sentences: write it for the value why".to_owned()),
    }
}

fn amount(value: &DeValue<'_>, unit: Unit) -> Result<f64, String> {
    match unit {
        Unit::Seconds => span_ns(value).map(|ns| ns as f64 / 1e9),
        Unit::Number => number(value, -1e18..=1e18),
        Unit::State(_) => Err("is for numbers; this value is a state: write becomes, stays or never".to_owned()),
        Unit::Text => Err("is for numbers; this value is a sentence: write says".to_owned()),
    }
}

/// A comparison with the truth needs a truth.
fn truth_exists(section: &Section<'_>, condition: &Condition, quantity: &Quantity, seen_by: &Observer) -> Found<()> {
    let (known, value) = match quantity {
        Quantity::Link { value, kind: ProbeKind::Stamp, .. } => (TRUTH_LINK, value.as_str()),
        Quantity::Replication { value, .. } => (TRUTH_REPLICATION, value.as_str()),
        Quantity::Clocks { value, .. } => (&["wall_offset"][..], value.as_str()),
        _ => (&[][..], ""),
    };
    let key = match condition {
        Condition::NearTruth(_) => "near_truth",
        Condition::CoversTruth => "covers_truth",
        _ => return Ok(()),
    };
    if !known.contains(&value) {
        return Err(section.tell(
            key,
            "the testbed knows no truth for this value; it does for rtt_* and oneway_* (stamp), lag, staleness and wall_offset",
        ));
    }
    if let (Quantity::Link { from, .. }, Observer::Collector(_)) = (quantity, seen_by) {
        let message = format!("a collector's round trips are as old as its last export; ask the agent of {from}");
        return Err(section.tell("seen_by", message));
    }
    if value == "lag" && matches!(seen_by, Observer::Collector(_)) {
        return Err(section.tell("seen_by", "only an agent tells of which beat a lag is, so only its lag has a truth"));
    }
    if key == "covers_truth" && !INTERVALS.contains(&value) {
        return Err(section.tell(key, "this value is no interval; write near_truth"));
    }
    Ok(())
}

impl Quantity {
    /// Whether it is one of the values that are intervals.
    pub fn is_interval(&self) -> bool {
        matches!(self, Quantity::Link { value, .. } | Quantity::Replication { value, .. } | Quantity::Clocks { value, .. }
            if INTERVALS.contains(&value.as_str()))
    }
}
