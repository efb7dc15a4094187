//! Nodes and links as series of the catalogue. What is unknown has no series; its state series says so.

use lagmesh_model::catalogue::{self, Attribute, Metric};
use lagmesh_model::ids::{ClusterName, NodeName, RegionName};
use lagmesh_model::known::Known;
use lagmesh_model::series::{Attributes, Series, push_states};
use lagmesh_model::state::{Basis, NodeRole, NodeState, ReplicationState, Stage, WriteOutcome};
use lagmesh_model::status::{self, Seconds};
use lagmesh_model::time::Reading;
use lagmesh_postgres::layout::Stream;

use crate::replication::followers::Mates;
use crate::replication::lag::{Lag, Lags, Totals};
use crate::replication::node::NodeTrack;

impl NodeTrack {
    /// Everything about the node.
    pub(super) fn series(&self, region: &RegionName, now: Reading, out: &mut Vec<Series>) {
        let status = self.status(region, &Mates::default(), now);
        let node = Attributes::new()
            .with(Attribute::Cluster, &status.cluster)
            .with(Attribute::Region, region)
            .with(Attribute::Node, &status.node);
        push_states(out, &catalogue::NODE_STATE, &node, NodeState::ALL, status.state);
        if let Some(current) = status.role.current() {
            for role in NodeRole::ALL {
                let value = if role == current { 1.0 } else { 0.0 };
                out.push(Series::gauge(&catalogue::NODE_ROLE, node.clone().with(Attribute::Role, role), value));
            }
        }
        if let (Some(version), Some(system)) = (status.version.current(), status.system.current()) {
            let info = node.clone().with(Attribute::Version, version).with(Attribute::System, system);
            out.push(Series::gauge(&catalogue::NODE_INFO, info, 1.0));
        }
        if let Some(timeline) = status.timeline.current() {
            out.push(Series::gauge(&catalogue::NODE_TIMELINE, node.clone(), f64::from(timeline.0)));
        }
        out.push(Series::counter(&catalogue::NODE_QUERIES, node.clone(), self.totals.queries));
        self.around.series(&node, now.raw, out);
        self.write_series(&node, now, out);
    }

    /// Only of nodes that rows were written to: a standby has no writes, not zero of them.
    fn write_series(&self, node: &Attributes, now: Reading, out: &mut Vec<Series>) {
        let writes = &self.totals.writes;
        for stream in Stream::ALL.iter().filter(|stream| writes.keys().any(|(written, _)| written == *stream)) {
            for outcome in WriteOutcome::ALL {
                let attributes = node.clone().with(Attribute::Stream, stream.as_str()).with(Attribute::Outcome, outcome);
                let count = writes.get(&(*stream, *outcome)).copied().unwrap_or_default();
                out.push(Series::counter(&catalogue::HEARTBEAT_WRITES, attributes, count));
            }
        }
        for (level, times) in &self.totals.commit {
            let attributes = node.clone().with(Attribute::Level, level);
            out.push(Series::histogram(&catalogue::HEARTBEAT_COMMIT, attributes, times.clone()));
        }
        // What is too old to be told has no series, or the last word before a silence would stand for ever.
        if let Some(ledger) = self.ledger.status(now.raw).current() {
            for outcome in WriteOutcome::ALL {
                let value = if *outcome == ledger.outcome { 1.0 } else { 0.0 };
                let attributes = node.clone().with(Attribute::Level, ledger.level).with(Attribute::Outcome, outcome);
                out.push(Series::gauge(&catalogue::HEARTBEAT_LEDGER, attributes, value));
            }
        }
        if let Some(age) = self.ledger.acknowledged_age(now.raw) {
            out.push(Series::gauge(&catalogue::HEARTBEAT_LEDGER_AGE, node.clone(), age.as_secs_f64()));
        }
    }
}

/// What a link is called.
pub(super) fn link_attributes(cluster: &ClusterName, region: &RegionName, origin: &NodeName, node: &NodeName) -> Attributes {
    Attributes::new()
        .with(Attribute::Cluster, cluster)
        .with(Attribute::Origin, origin)
        .with(Attribute::Region, region)
        .with(Attribute::Node, node)
}

/// What was counted of a link.
pub(super) fn link_counts(link: &Attributes, totals: &Totals, out: &mut Vec<Series>) {
    push_lags(out, &link.clone().with(Attribute::Basis, Basis::Mesh), &totals.mesh);
    if !totals.claimed.estimate.is_empty() {
        push_lags(out, &link.clone().with(Attribute::Basis, Basis::Claims), &totals.claimed);
    }
    out.push(Series::counter(&catalogue::REPLICATION_LAG_NEGATIVE, link.clone(), totals.negative));
    for (objective, count) in [("met", totals.met), ("missed", totals.missed), ("unknown", totals.unknown)] {
        out.push(Series::counter(&catalogue::REPLICATION_BEATS, link.clone().with(Attribute::Objective, objective), count));
    }
}

/// Everything about a link.
pub(super) fn link_series(status: &status::Replication, lag: &Lag, out: &mut Vec<Series>) {
    let link = link_attributes(&status.cluster, &status.region, &status.origin, &status.node);
    push_states(out, &catalogue::REPLICATION_STATE, &link, ReplicationState::ALL, status.state);
    link_counts(&link, &lag.totals, out);
    if lag.last().is_some_and(|(_, basis)| basis == Basis::Mesh) {
        let newest = link.clone().with(Attribute::Stage, Stage::Visible).with(Attribute::Basis, Basis::Mesh);
        push_bounds(out, &catalogue::REPLICATION_DELAY, &newest, &status.lag);
    }
    push_bounds(out, &catalogue::REPLICATION_STALENESS, &link.clone().with(Attribute::Basis, status.basis), &status.staleness);
    claimed_series(status, lag, &link, out);
    for (stage, reach) in status.log.each() {
        let stage = link.clone().with(Attribute::Stage, stage);
        push_bounds(out, &catalogue::REPLICATION_DELAY, &stage.clone().with(Attribute::Basis, Basis::Mesh), &reach.delay);
        if let Some(bytes) = reach.backlog_bytes.current() {
            out.push(Series::gauge(&catalogue::REPLICATION_BACKLOG, stage, *bytes as f64));
        }
    }
    push_bounds(out, &catalogue::RPO, &link, &status.loss);
    if let Some(catch_up_s) = status.catch_up_s.current() {
        out.push(Series::gauge(&catalogue::REPLICATION_CATCH_UP, link, *catch_up_s));
    }
}

/// The newest lag with the help of the clocks' own claims, if there is one.
fn claimed_series(status: &status::Replication, lag: &Lag, link: &Attributes, out: &mut Vec<Series>) {
    // Of the same beat as the other basis, and current as long as that is.
    if let Some(newest) = lag.last_claimed().filter(|_| status.lag.is_known()) {
        let newest_of = link.clone().with(Attribute::Basis, Basis::Claims).with(Attribute::Stage, Stage::Visible);
        push_bounds(out, &catalogue::REPLICATION_DELAY, &newest_of, &Known::known(newest.into()));
    }
}

fn push_lags(out: &mut Vec<Series>, link: &Attributes, lags: &Lags) {
    for (bound, histogram) in lags.each() {
        out.push(Series::histogram(&catalogue::REPLICATION_LAG, link.clone().with(Attribute::Bound, bound), histogram.clone()));
    }
}

fn push_bounds(out: &mut Vec<Series>, metric: &'static Metric, link: &Attributes, value: &Known<Seconds>) {
    let Some(value) = value.current() else { return };
    for (bound, seconds) in value.each() {
        out.push(Series::gauge(metric, link.clone().with(Attribute::Bound, bound), seconds));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lagmesh_model::beat::{Incarnation, Sequence};
    use lagmesh_model::series::Value;
    use lagmesh_model::state::CommitLevel;
    use lagmesh_model::time::{Epoch, RawNanos, WallNanos};

    use super::*;
    use crate::measurement::{Commit, LedgerRow, NodeNews};

    /// What became of the newest row of the ledger is told at its level alone, and ends with its news: what is too old to say that writes work
    /// has no series.
    #[test]
    fn newest_row_of_the_ledger() {
        let interval = Duration::from_secs(1);
        let mut node = NodeTrack::new("orders".parse().unwrap(), "db".parse().unwrap(), interval, interval * 5);
        let at = |second: u64| Reading { epoch: Epoch(1), raw: RawNanos(second * 1_000_000_000), wall: WallNanos(0) };
        let told = |node: &NodeTrack, second| {
            let mut out = Vec::new();
            node.series(&"east".parse().unwrap(), at(second), &mut out);
            assert!(out.iter().all(|series| series.attributes.fit(series.metric)));
            let ledger = out.into_iter().filter(|series| series.metric == &catalogue::HEARTBEAT_LEDGER);
            let word = |series: Series| {
                let word = |attribute| series.attributes.get(attribute).unwrap().to_owned();
                (word(Attribute::Level), word(Attribute::Outcome), series.value == Value::Gauge(1.0))
            };
            ledger.map(word).collect::<Vec<_>>()
        };
        assert_eq!(told(&node, 100), []);
        for (level, outcome) in [(CommitLevel::On, WriteOutcome::Acknowledged), (CommitLevel::Local, WriteOutcome::InDoubt)] {
            let commit = Commit { level, outcome, took: None };
            let row = LedgerRow { incarnation: Incarnation(7), sequence: Sequence(1), commit, why: String::new() };
            node.record(NodeNews::Ledger(row), at(101));
            let expected = WriteOutcome::ALL.iter().map(|one| (level.to_string(), one.to_string(), *one == outcome));
            assert_eq!(told(&node, 110), expected.collect::<Vec<_>>());
        }
        assert_eq!(told(&node, 117), [], "older than three intervals");
        node.record(NodeNews::NoLedger("no session is left".to_owned()), at(118));
        assert_eq!(told(&node, 118), []);
    }
}
