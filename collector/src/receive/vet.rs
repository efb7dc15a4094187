//! Whether what was decoded belongs here: agents of another fleet are refused by name, and points that are not theirs to give are
//! rejected one by one. Pure.

use std::collections::BTreeMap;
use std::str::FromStr;

use lagmesh_model::catalogue::{Attribute, Source};
use lagmesh_model::fleet::{Cluster, Fleet};
use lagmesh_model::ids::{AgentName, ClusterName, NodeName, RegionName};
use lagmesh_model::otlp::Decoded;
use lagmesh_model::series::{Batch, Exporter, Series};

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

/// What may go on to the store.
#[derive(Debug, PartialEq)]
pub(super) struct Vetted {
    pub(super) batches: Vec<Batch>,
    pub(super) rejected: BTreeMap<&'static str, u64>,
}

pub(super) fn vet(fleet: &Fleet, decoded: Decoded) -> Result<Vetted, Stranger> {
    let mut rejected: BTreeMap<&'static str, u64> =
        decoded.rejected.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    let mut batches = Vec::with_capacity(decoded.batches.len());
    for mut batch in decoded.batches {
        known(fleet, &batch.exporter)?;
        batch.series.retain(|series| match misfit(fleet, &batch.exporter, series) {
            None => true,
            Some(reason) => {
                *rejected.entry(reason).or_insert(0) += 1;
                false
            }
        });
        if !batch.series.is_empty() {
            batches.push(batch);
        }
    }
    Ok(Vetted { batches, rejected })
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

/// Why a point is not for this agent to give, if it is not.
fn misfit(fleet: &Fleet, exporter: &Exporter, series: &Series) -> Option<&'static str> {
    let is = |attribute, test: &dyn Fn(&str) -> bool| series.attributes.get(attribute).is_none_or(test);
    let home = &exporter.region;
    let cluster = |name: &ClusterName| fleet.clusters.iter().any(|cluster| cluster.name == *name);
    let peer_agent =
        |name: &AgentName| fleet.agent(name).is_some_and(|(region, _)| is(Attribute::Peer, &|peer| peer == region.name.as_str()));
    // A node stands in one region and one cluster; an origin in any region of the cluster.
    let of_cluster = |cluster: &Cluster| is(Attribute::Cluster, &|name| name == cluster.name.as_str());
    let node = |name: &NodeName| fleet.node(name).is_some_and(|(cluster, node)| of_cluster(cluster) && node.region == *home);
    let origin = |name: &NodeName| fleet.node(name).is_some_and(|(cluster, _)| of_cluster(cluster));
    let reasons = [
        (series.metric.source == Source::Agent, "not-from-agents"),
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
        (series.attributes.iter().all(|(attribute, word)| is_word(fleet, series.metric, attribute, word)), "unknown-word"),
    ];
    reasons.into_iter().find(|(fits, _)| !fits).map(|(_, reason)| reason)
}

fn named<N: FromStr>(text: &str, known: impl FnOnce(&N) -> bool) -> bool {
    text.parse().is_ok_and(|name| known(&name))
}

#[cfg(test)]
mod tests {
    use lagmesh_model::catalogue;
    use lagmesh_model::series::Attributes;
    use lagmesh_model::state::LinkState;

    use super::*;
    use crate::fixture::{Says, fleet};

    fn vetted(change: impl FnOnce(&mut Batch)) -> Result<Vetted, Stranger> {
        let mut batch = Says::new("a", 1).link("b", LinkState::Ok).batch();
        change(&mut batch);
        vet(&fleet(&["a", "b"], &["a", "b"]), Decoded { batches: vec![batch], rejected: BTreeMap::new() })
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
        for (series, reason) in table {
            let vetted = vetted(|batch| batch.series.push(series)).unwrap();
            assert_eq!(vetted.rejected, BTreeMap::from([(reason, 1)]));
            assert_eq!(vetted.batches[0].series.len(), LinkState::ALL.len());
        }
        let known = gauge(&catalogue::REPLICATION_STALENESS, &[(Cluster, "app"), (Node, "a-db"), (Origin, "b-db")]);
        assert!(vetted(|batch| batch.series.push(known)).unwrap().rejected.is_empty());
    }
}
