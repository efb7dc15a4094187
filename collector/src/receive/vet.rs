//! Whether what came belongs here: agents of another fleet are refused by name, and points that are not theirs to give are rejected one
//! by one. Pure, but for what it remembers of names.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use lagmesh_model::catalogue::{Attribute, Metric, Source};
use lagmesh_model::fleet::{Cluster, Fleet};
use lagmesh_model::ids::{AgentName, ClusterName, NodeName, RegionName};
use lagmesh_model::otlp::{self, Budget, ExportMetricsServiceRequest, Limits, Misfit, Names, Opened, Refusal, Rejection, Sorted};
use lagmesh_model::series::{Attributes, Batch, Exporter};

use super::words::is_word;

/// Why a whole request is refused: its sender is not of this fleet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    #[error("fleet \"{theirs}\" is not collected here, only \"{ours}\": check the name in both fleet files")]
    Fleet { theirs: String, ours: String },
    #[error("region \"{region}\" is not in this collector's fleet file: give both ends the same one")]
    Region { region: String },
    #[error("agent \"{agent}\" of region \"{region}\" is not in this collector's fleet file: give both ends the same one")]
    Agent { agent: String, region: String },
}

impl Stranger {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Stranger::Fleet { .. } => "unknown-fleet",
            Stranger::Region { .. } => "unknown-region",
            Stranger::Agent { .. } => "unknown-agent",
        }
    }
}

/// Why a whole request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotVetted {
    #[error(transparent)]
    Unreadable(#[from] Refusal),
    #[error(transparent)]
    Stranger(#[from] Stranger),
}

impl NotVetted {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            NotVetted::Unreadable(refusal) => refusal.as_str(),
            NotVetted::Stranger(stranger) => stranger.as_str(),
        }
    }
}

/// What may go on to the store.
#[derive(Debug, PartialEq)]
pub(super) struct Vetted {
    pub(super) batches: Vec<Batch>,
    /// How many points were rejected, by reason.
    pub(super) rejected: BTreeMap<&'static str, u64>,
}

/// Lets in what belongs here. It remembers what each agent of the fleet file has named, so that nothing is judged twice.
#[derive(Debug)]
pub(super) struct Gate {
    fleet: Arc<Fleet>,
    names: Mutex<HashMap<AgentName, Arc<Mutex<Names>>>>,
}

impl Gate {
    pub(super) fn new(fleet: Arc<Fleet>) -> Gate {
        Gate { fleet, names: Mutex::default() }
    }

    pub(super) fn vet(&self, request: ExportMetricsServiceRequest) -> Result<Vetted, NotVetted> {
        let limits = Limits::default();
        let Sorted { sealed, foreign_points } = otlp::open(request, &limits)?;
        for batch in &sealed {
            known(&self.fleet, &batch.exporter)?;
        }
        let mut budget = Budget::new(&limits);
        let misfit = |exporter: &Exporter, metric: &'static Metric, attributes: &Attributes| {
            misfit(&self.fleet, exporter, metric, attributes)
        };
        let foreign = (foreign_points > 0).then_some((Rejection::NotAnAgent.as_str(), foreign_points));
        let mut vetted = Vetted { batches: Vec::with_capacity(sealed.len()), rejected: foreign.into_iter().collect() };
        for batch in sealed {
            let names = self.names_of(&batch.exporter.agent);
            let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
            let Opened { batch, rejected, misfits } = batch.read(&mut budget, &mut names, &misfit);
            vetted.batches.extend(batch);
            let words = rejected.into_iter().map(|(reason, count)| (reason.as_str(), count)).chain(misfits);
            words.for_each(|(reason, count)| *vetted.rejected.entry(reason).or_insert(0) += count);
        }
        Ok(vetted)
    }

    fn names_of(&self, agent: &AgentName) -> Arc<Mutex<Names>> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(names.entry(agent.clone()).or_default())
    }
}

fn known(fleet: &Fleet, exporter: &Exporter) -> Result<(), Stranger> {
    if exporter.fleet != fleet.name {
        return Err(Stranger::Fleet { theirs: exporter.fleet.clone(), ours: fleet.name.clone() });
    }
    let region = exporter.region.to_string();
    if fleet.region(&exporter.region).is_none() {
        return Err(Stranger::Region { region });
    }
    match fleet.agent(&exporter.agent) {
        Some((home, _)) if home.name == exporter.region => Ok(()),
        _ => Err(Stranger::Agent { agent: exporter.agent.to_string(), region }),
    }
}

/// Why a series is not for this agent to tell, if it is not.
fn misfit(fleet: &Fleet, exporter: &Exporter, metric: &Metric, attributes: &Attributes) -> Option<Misfit> {
    let is = |attribute, test: &dyn Fn(&str) -> bool| attributes.get(attribute).is_none_or(test);
    let home = &exporter.region;
    let cluster = |name: &ClusterName| fleet.clusters.iter().any(|cluster| cluster.name == *name);
    let peer_agent =
        |name: &AgentName| fleet.agent(name).is_some_and(|(region, _)| is(Attribute::Peer, &|peer| peer == region.name.as_str()));
    // A node stands in one region and one cluster; an origin in any region of the cluster.
    let of_cluster = |cluster: &Cluster| is(Attribute::Cluster, &|name| name == cluster.name.as_str());
    let node = |name: &NodeName| fleet.node(name).is_some_and(|(cluster, node)| of_cluster(cluster) && node.region == *home);
    let origin = |name: &NodeName| fleet.node(name).is_some_and(|(cluster, _)| of_cluster(cluster));
    let reasons = [
        (metric.source == Source::Agent, "not-from-agents"),
        (is(Attribute::Region, &|name| name == home.as_str()), "foreign-region"),
        (is(Attribute::Agent, &|name| name == exporter.agent.as_str()), "foreign-agent"),
        (
            is(Attribute::Peer, &|name| named(name, |name: &RegionName| fleet.peers_of(home).any(|p| p.name == *name))),
            "unknown-peer",
        ),
        (is(Attribute::PeerAgent, &|name| named(name, peer_agent)), "unknown-peer"),
        (is(Attribute::Cluster, &|name| named(name, cluster)), "unknown-cluster"),
        (is(Attribute::Node, &|name| named(name, node)), "unknown-node"),
        (is(Attribute::Origin, &|name| named(name, origin)), "unknown-origin"),
        (attributes.iter().all(|(attribute, word)| is_word(fleet, metric, attribute, word)), "unknown-word"),
    ];
    reasons.into_iter().find(|(fits, _)| !fits).map(|(_, reason)| reason)
}

fn named<N: FromStr>(text: &str, known: impl FnOnce(&N) -> bool) -> bool {
    text.parse().is_ok_and(|name| known(&name))
}

#[cfg(test)]
mod tests {
    use lagmesh_model::catalogue;
    use lagmesh_model::series::Series;
    use lagmesh_model::state::LinkState;

    use super::*;
    use crate::fixture::{Says, fleet};

    fn vetted(change: impl FnOnce(&mut Batch)) -> Result<Vetted, NotVetted> {
        let mut batch = Says::new("a", 1).link("b", LinkState::Ok).batch();
        change(&mut batch);
        Gate::new(Arc::new(fleet(&["a", "b"], &["a", "b"]))).vet(otlp::encode(&batch))
    }

    /// Strangers are refused by the name that is wrong.
    #[test]
    fn strangers() {
        assert!(vetted(|_| {}).is_ok_and(|vetted| vetted.batches.len() == 1 && vetted.rejected.is_empty()));
        let word = |change: fn(&mut Batch)| vetted(change).unwrap_err().as_str();
        assert_eq!(word(|batch| batch.exporter.fleet = "other".to_owned()), "unknown-fleet");
        assert_eq!(word(|batch| batch.exporter.region = "z".parse().unwrap()), "unknown-region");
        assert_eq!(word(|batch| batch.exporter.agent = "z".parse().unwrap()), "unknown-agent");
        assert_eq!(word(|batch| batch.exporter.agent = "b".parse().unwrap()), "unknown-agent");
    }

    /// Nobody speaks for another region, for the collector, about what the fleet file does not name, or in words of its own.
    #[test]
    fn misfits() {
        fn with(pairs: &[(Attribute, &str)]) -> Attributes {
            pairs.iter().fold(Attributes::new(), |all, (name, value)| all.with(*name, value))
        }
        use Attribute::{Agent, Bound, Cluster, Node, Origin, Outcome, Peer, PeerAgent, Reason, Region, Slot, State};
        let gauge = |metric, pairs: &[(Attribute, &str)]| Series::gauge(metric, with(pairs), 1.0);
        let whole = |metric, pairs: &[(Attribute, &str)]| Series::whole(metric, with(pairs), 1);
        let table = [
            (gauge(&catalogue::LINK_FLOOR, &[(Region, "b"), (Peer, "a")]), "foreign-region"),
            (gauge(&catalogue::LINK_FLOOR, &[(Region, "a"), (Peer, "z")]), "unknown-peer"),
            (gauge(&catalogue::LINK_FLOOR, &[(Region, "a"), (Peer, "a")]), "unknown-peer"),
            (gauge(&catalogue::LINK_FLOOR, &[(Region, "a"), (Peer, "Not a name")]), "unknown-peer"),
            (gauge(&catalogue::REGION_EVIDENCE_AGE, &[(Region, "a")]), "not-from-agents"),
            (gauge(&catalogue::NODE_TIMELINE, &[(Node, "z-db")]), "unknown-node"),
            (gauge(&catalogue::NODE_TIMELINE, &[(Node, "b-db")]), "unknown-node"),
            (gauge(&catalogue::NODE_TIMELINE, &[(Cluster, "z")]), "unknown-cluster"),
            (gauge(&catalogue::REPLICATION_STALENESS, &[(Node, "a-db"), (Origin, "z-db")]), "unknown-origin"),
            (gauge(&catalogue::AGENT_INFO, &[(Agent, "b")]), "foreign-agent"),
            (whole(&catalogue::CLOCK_RAW_OFFSET, &[(Agent, "a"), (Peer, "b"), (PeerAgent, "z")]), "unknown-peer"),
            (whole(&catalogue::CLOCK_RAW_OFFSET, &[(Agent, "a"), (Peer, "b"), (PeerAgent, "a")]), "unknown-peer"),
            (whole(&catalogue::CLOCK_RAW_OFFSET, &[(Agent, "a"), (Peer, "a"), (PeerAgent, "a")]), "unknown-peer"),
            (whole(&catalogue::CLOCK_WALL, &[(Agent, "b"), (Bound, "upper")]), "foreign-agent"),
            (whole(&catalogue::CLOCK_WALL, &[(Agent, "a"), (Bound, "outer")]), "unknown-word"),
            (gauge(&catalogue::LINK_STATE, &[(State, "wobbly")]), "unknown-word"),
            (gauge(&catalogue::LINK_FLOWS, &[(State, "down")]), "unknown-word"),
            (gauge(&catalogue::NODE_STATE, &[(State, "down")]), "unknown-word"),
            (gauge(&catalogue::SLOT_STATE, &[(State, "ok")]), "unknown-word"),
            (gauge(&catalogue::SLOT_ACTIVE, &[(Slot, "No name")]), "unknown-word"),
            (gauge(&catalogue::SLOT_ACTIVE, &[(Slot, &"x".repeat(64))]), "unknown-word"),
            (Series::counter(&catalogue::LINK_PROBES, with(&[(Outcome, "failed")]), 1), "unknown-word"),
            (Series::counter(&catalogue::HEARTBEAT_WRITES, with(&[(Outcome, "lost")]), 1), "unknown-word"),
            (Series::counter(&catalogue::MESH_DROPPED, with(&[(Reason, &"x".repeat(49))]), 1), "unknown-word"),
        ];
        let (fleet, exporter) = (fleet(&["a", "b"], &["a", "b"]), Says::new("a", 1).batch().exporter);
        let misfit = |series: &Series| misfit(&fleet, &exporter, series.metric, &series.attributes);
        for (series, reason) in table {
            assert_eq!(misfit(&series), Some(reason), "{series:?}");
        }
        let known = gauge(&catalogue::REPLICATION_STALENESS, &[(Cluster, "app"), (Node, "a-db"), (Origin, "b-db")]);
        assert_eq!(misfit(&known), None);
    }

    /// What is not the agent's to tell is counted by reason in every batch, and the rest is taken.
    #[test]
    fn the_rest_is_taken() {
        let gate = Gate::new(Arc::new(fleet(&["a", "b"], &["a", "b"])));
        for sequence in 1..3 {
            let mut batch = Says::new("a", sequence).link("b", LinkState::Ok).batch();
            let foreign = Attributes::new().with(Attribute::Region, "b").with(Attribute::Peer, "a");
            batch.series.push(Series::gauge(&catalogue::LINK_FLOOR, foreign, 1.0));
            let vetted = gate.vet(otlp::encode(&batch)).unwrap();
            assert_eq!(vetted.rejected, BTreeMap::from([("foreign-region", 1)]));
            assert_eq!(vetted.batches[0].series.len(), LinkState::ALL.len());
        }
    }
}
