//! Replication from every origin to every node that must follow it, as the node's own agents see it.

use std::collections::BTreeSet;

use lagmesh_model::catalogue::{self, Attribute, Metric};
use lagmesh_model::fleet::{Cluster, Fleet, Node};
use lagmesh_model::ids::NodeName;
use lagmesh_model::known::Known;
use lagmesh_model::series::Attributes;
use lagmesh_model::state::{Basis, Bound, NodeRole, ReplicationState, Stage};
use lagmesh_model::status::{LogReach, Quantiles, Reach, Replication, Seconds};
use lagmesh_model::time::Reading;

use super::node::last_role;
use super::{evidence_age, silence, sources};
use crate::judge::report::of_node;
use crate::merge::{View, Witness, named};

/// Why the agent gives a position no time.
const UNTIMED: &str = "when the log there was written, or how far it has got, is not known";

/// Every (origin, node) that is known or must exist.
pub(super) fn all(fleet: &Fleet, view: &View, now: Reading) -> Vec<Replication> {
    let mut all = Vec::new();
    for cluster in &fleet.clusters {
        let origins = origins(view, cluster, now);
        for node in &cluster.nodes {
            for origin in origins.iter().filter(|origin| **origin != node.name) {
                all.push(Row::new(view, cluster, node, origin, now).replication());
            }
        }
    }
    all
}

/// The nodes that write, or wrote when last heard of, or from which any node says that its beats come.
fn origins(view: &View, cluster: &Cluster, now: Reading) -> BTreeSet<NodeName> {
    let mut origins = BTreeSet::new();
    for node in &cluster.nodes {
        if matches!(last_role(view, cluster, node, now), Some(NodeRole::Writer | NodeRole::Subscriber)) {
            origins.insert(node.name.clone());
        }
        for witness in sources(view, &node.region, now) {
            let towards = witness.having(&catalogue::REPLICATION_STATE, Attribute::Node, node.name.as_str());
            origins.extend(towards.filter_map(|attributes| named(attributes, Attribute::Origin)));
        }
    }
    origins.retain(|origin| cluster.nodes.iter().any(|node| node.name == *origin));
    origins
}

/// One row, and where its numbers come from.
struct Row<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    origin: &'a NodeName,
    sources: Vec<Witness<'a>>,
    source: Option<Witness<'a>>,
    attributes: Attributes,
    silence: Option<String>,
}

impl<'a> Row<'a> {
    fn new(view: &'a View, cluster: &'a Cluster, node: &'a Node, origin: &'a NodeName, now: Reading) -> Row<'a> {
        let sources = sources(view, &node.region, now);
        let silence = silence(&sources, &node.region);
        let attributes = of_node(&cluster.name, &node.region, &node.name).with(Attribute::Origin, origin);
        let source = sources
            .iter()
            .filter(|witness| state(witness, &attributes).is_some())
            .min_by_key(|witness| state(witness, &attributes) == Some(ReplicationState::Unknown))
            .cloned();
        Row { cluster, node, origin, sources, source, attributes, silence }
    }

    fn replication(self) -> Replication {
        let (state, why) = self.state();
        let (staleness, basis) = self.staleness(state);
        Replication {
            cluster: self.cluster.name.clone(),
            origin: self.origin.clone(),
            region: self.node.region.clone(),
            node: self.node.name.clone(),
            state,
            why,
            lag: self.lag(),
            lag_beat: Known::unknown("only the node's own agent tells"),
            lag_recent: self.lag_recent(),
            staleness,
            basis,
            log: LogReach::from_each(|stage| Reach { backlog_bytes: self.backlog(stage), delay: self.delay(stage) }),
            loss: self.loss(),
            catch_up_s: self.catch_up_s(),
            evidence_age_s: evidence_age(&self.sources, &self.node.region),
        }
    }

    fn state(&self) -> (ReplicationState, String) {
        if let Some(why) = &self.silence {
            return (ReplicationState::Unknown, why.clone());
        }
        match self.source.as_ref().and_then(|witness| state(witness, &self.attributes)) {
            Some(state) => (state, state.explain().to_owned()),
            None => (
                ReplicationState::Unknown,
                format!("the agent of {} says nothing about beats of {}", self.node.region, self.origin),
            ),
        }
    }

    /// The lag of the newest beat, as the node's agent says it.
    fn lag(&self) -> Known<Seconds> {
        let newest = self.attributes.clone().with(Attribute::Stage, Stage::Visible);
        let said = |source: &Witness<'_>| {
            by_basis(&newest, |attributes| source.bounds(&catalogue::REPLICATION_DELAY, attributes)).map(|(lag, _)| lag)
        };
        self.said(said, "no beat has arrived lately, or the clocks of both ends are not bounded yet")
    }

    fn bounds(&self, metric: &'static Metric, attributes: &Attributes) -> Option<Seconds> {
        self.source.as_ref()?.bounds(metric, attributes)
    }

    /// What the node's agent says, as old as that is; otherwise it is unknown.
    fn said<T>(&self, of: impl FnOnce(&Witness<'a>) -> Option<T>, otherwise: &str) -> Known<T> {
        match self.source.as_ref().and_then(|source| Some((source, of(source)?))) {
            Some((source, value)) => source.age.of_value(value),
            None => Known::unknown(self.unsaid(otherwise)),
        }
    }

    fn lag_recent(&self) -> Known<Quantiles> {
        let Some(source) = &self.source else { return Known::unknown(self.unsaid("no beat has been seen")) };
        let estimates = self.attributes.clone().with(Attribute::Bound, Bound::Estimate);
        let recent =
            by_basis(&estimates, |attributes| source.recent_distribution(&catalogue::REPLICATION_LAG, attributes)?.quantiles());
        match recent {
            Some((recent, _)) => source.age.of_value(recent),
            None => Known::unknown(self.unsaid("no beat has been seen in the last minute")),
        }
    }

    /// What was said, carried on to now. The newest visible beat may be as old as the report and the time since. While replication
    /// moves a newer one may have become visible meanwhile, so the lower end falls to zero; where it is stuck none has. Also on what it
    /// rests.
    fn staleness(&self, state: ReplicationState) -> (Known<Seconds>, Basis) {
        let said = by_basis(&self.attributes, |attributes| self.bounds(&catalogue::REPLICATION_STALENESS, attributes));
        let (Some(source), Some((said, basis))) = (&self.source, said) else {
            return (Known::unknown(self.unsaid("no beat has been seen")), Basis::Mesh);
        };
        let Some(age_s) = source.age.seconds.filter(|_| source.age.fresh) else { return (source.age.of_value(said), basis) };
        let upper_s = said.upper_s + age_s;
        let now = if state.stands_still() {
            Seconds { estimate_s: said.estimate_s + age_s, upper_s, ..said }
        } else {
            Seconds { lower_s: said.lower_s.min(0.0), upper_s, ..said }
        };
        (Known::known(now), basis)
    }

    /// How long the oldest log that has not got so far has been written, as the node's agent says it.
    fn delay(&self, stage: Stage) -> Known<Seconds> {
        let stage = self.attributes.clone().with(Attribute::Stage, stage).with(Attribute::Basis, Basis::Mesh);
        self.said(|source| source.bounds(&catalogue::REPLICATION_DELAY, &stage), UNTIMED)
    }

    /// What was said, carried on to now: the origin may have written since.
    fn loss(&self) -> Known<Seconds> {
        let said = self.bounds(&catalogue::RPO, &self.attributes);
        let (Some(source), Some(said)) = (&self.source, said) else { return Known::unknown(self.unsaid(UNTIMED)) };
        match source.age.seconds.filter(|_| source.age.fresh) {
            Some(age_s) => Known::known(Seconds { lower_s: 0.0, upper_s: said.upper_s + age_s, ..said }),
            None => source.age.of_value(said),
        }
    }

    fn catch_up_s(&self) -> Known<f64> {
        let said = |source: &Witness<'_>| source.gauge(&catalogue::REPLICATION_CATCH_UP, &self.attributes);
        self.said(said, "it does not catch up, or how fast is not known")
    }

    fn backlog(&self, stage: Stage) -> Known<u64> {
        let attributes = self.attributes.clone().with(Attribute::Stage, stage);
        let said =
            |source: &Witness<'_>| source.gauge(&catalogue::REPLICATION_BACKLOG, &attributes).filter(|bytes| *bytes >= 0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of log are whole and below 2^63")]
        let whole = |source: &Witness<'_>| said(source).map(|bytes| bytes as u64);
        self.said(whole, "the positions of both ends are not known or not comparable")
    }

    fn unsaid(&self, otherwise: &str) -> String {
        self.silence.clone().unwrap_or_else(|| otherwise.to_owned())
    }
}

/// What is said on the best basis on which anything is, and on which.
fn by_basis<T>(attributes: &Attributes, said: impl Fn(&Attributes) -> Option<T>) -> Option<(T, Basis)> {
    Basis::ALL.iter().find_map(|basis| Some((said(&attributes.clone().with(Attribute::Basis, basis))?, *basis)))
}

fn state(witness: &Witness<'_>, attributes: &Attributes) -> Option<ReplicationState> {
    witness.state(&catalogue::REPLICATION_STATE, attributes, ReplicationState::ALL)
}
