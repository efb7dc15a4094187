//! One PostgreSQL server, as the agents of its region see it.

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::fleet::{Cluster, Node};
use lagmesh_model::known::Known;
use lagmesh_model::position::{SystemIdentifier, Timeline};
use lagmesh_model::series::Attributes;
use lagmesh_model::state::{NodeRole, NodeState};
use lagmesh_model::status;
use lagmesh_model::time::Reading;

use super::{evidence_age, silence, sources, writes};
use crate::judge::report::of_node;
use crate::merge::{View, Witness, named};

/// Positions travel only between agents; the collector has what follows from them.
const AT_THE_AGENT: &str = "positions stay with the agent: ask its own status";

/// A node of the fleet file.
pub(super) fn node(view: &View, cluster: &Cluster, node: &Node, now: Reading) -> status::Node {
    let sources = sources(view, &node.region, now);
    let silence = silence(&sources, &node.region);
    let source = best(&sources, cluster, node);
    let (state, why) = match (&silence, &source) {
        (Some(why), _) => (NodeState::Unknown, why.clone()),
        (None, Some((_, NodeState::Ok))) => (NodeState::Ok, String::new()),
        (None, Some((_, state))) => (*state, state.explain().to_owned()),
        (None, None) => {
            (NodeState::Unknown, format!("the agent of {} does not say: does it have the same fleet file?", node.region))
        }
    };
    let (attributes, unsaid) =
        (attributes(cluster, node), || silence.clone().unwrap_or_else(|| "the agent has not been able to read it".to_owned()));
    let no_ledger = || {
        let witness = source.as_ref().map(|(witness, _)| *witness);
        silence.clone().unwrap_or_else(|| writes::no_ledger(witness, &attributes).to_owned())
    };
    let info = |attribute| source.as_ref().and_then(|(witness, _)| info(witness, &attributes, attribute));
    status::Node {
        cluster: cluster.name.clone(),
        region: node.region.clone(),
        node: node.name.clone(),
        state,
        why,
        role: known(source.as_ref(), |witness| role(witness, &attributes), unsaid()),
        version: known(source.as_ref(), |_| info(Attribute::Version)?.parse().ok(), unsaid()),
        system: known(source.as_ref(), |_| info(Attribute::System)?.parse().ok().map(SystemIdentifier), unsaid()),
        timeline: known(source.as_ref(), |witness| timeline(witness, &attributes), unsaid()),
        received: Known::unknown(AT_THE_AGENT),
        replayed: Known::unknown(AT_THE_AGENT),
        beat: Known::unknown(AT_THE_AGENT),
        ledger: known(source.as_ref(), |witness| writes::ledger(witness, &attributes), no_ledger()),
        slots: known(source.as_ref(), |witness| writes::slots(witness, &attributes), unsaid()),
        followers: Known::unknown(AT_THE_AGENT),
        evidence_age_s: evidence_age(&sources, &node.region),
    }
}

/// Whether the node is out of recovery by fresh evidence.
pub(super) fn writes(view: &View, cluster: &Cluster, node: &Node, now: Reading) -> bool {
    let sources = sources(view, &node.region, now);
    let fresh = best(&sources, cluster, node).filter(|(witness, _)| witness.age.fresh);
    let role = fresh.and_then(|(witness, _)| role(witness, &attributes(cluster, node)));
    matches!(role, Some(NodeRole::Writer | NodeRole::Subscriber))
}

/// The system of a node that is out of recovery by fresh evidence.
pub(super) fn system(view: &View, cluster: &Cluster, node: &Node, now: Reading) -> Option<String> {
    let sources = sources(view, &node.region, now);
    let (witness, _) = best(&sources, cluster, node).filter(|(witness, _)| witness.age.fresh)?;
    info(witness, &attributes(cluster, node), Attribute::System).map(str::to_owned)
}

/// The role that the node has or had when last heard of.
pub(super) fn last_role(view: &View, cluster: &Cluster, node: &Node, now: Reading) -> Option<NodeRole> {
    let sources = sources(view, &node.region, now);
    best(&sources, cluster, node).and_then(|(witness, _)| role(witness, &attributes(cluster, node)))
}

fn attributes(cluster: &Cluster, node: &Node) -> Attributes {
    of_node(&cluster.name, &node.region, &node.name)
}

/// The agent that watches the node, with what it says: one that stands by leaves the word to the other.
fn best<'a, 'b>(sources: &'b [Witness<'a>], cluster: &Cluster, node: &Node) -> Option<(&'b Witness<'a>, NodeState)> {
    let attributes = attributes(cluster, node);
    sources
        .iter()
        .filter_map(|witness| Some((witness, witness.state(&catalogue::NODE_STATE, &attributes, NodeState::ALL)?)))
        .min_by_key(|(_, state)| (*state == NodeState::StandingBy, *state == NodeState::Unknown))
}

fn role(witness: &Witness<'_>, attributes: &Attributes) -> Option<NodeRole> {
    witness.word(&catalogue::NODE_ROLE, attributes, Attribute::Role, NodeRole::ALL)
}

fn info<'a>(witness: &Witness<'a>, node: &Attributes, attribute: Attribute) -> Option<&'a str> {
    let name: String = named(node, Attribute::Node)?;
    let mut found = witness.having(&catalogue::NODE_INFO, Attribute::Node, &name);
    found.next()?.get(attribute)
}

fn timeline(witness: &Witness<'_>, attributes: &Attributes) -> Option<Timeline> {
    let timeline = witness.gauge(&catalogue::NODE_TIMELINE, attributes)?;
    let whole = timeline.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(&timeline);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a whole number in range")]
    let number = timeline as u32;
    whole.then_some(Timeline(number))
}

fn known<T>(
    source: Option<&(&Witness<'_>, NodeState)>,
    read: impl FnOnce(&Witness<'_>) -> Option<T>,
    unsaid: String,
) -> Known<T> {
    let value = source.and_then(|(witness, _)| Some((witness.age, read(witness)?)));
    value.map_or_else(|| Known::unknown(unsaid), |(age, value)| age.of_value(value))
}
