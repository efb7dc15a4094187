//! The tables beside the matrix: replication, regions, clusters, nodes, exports.

use lagmesh_model::ids::NodeName;
use lagmesh_model::known::Known;
use lagmesh_model::state::{Axis, Basis, NodeState, RegionState, ReplicationState, Vote};
use lagmesh_model::status::{Changed, Cluster, Export, Link, LinkPath, Node, PathChange, Region, Replication, Seconds};

use super::Style;
use super::grid::{Cell, Grid, Tone};
use super::notes::Notes;
use super::units::{bytes, seconds, server_version, span};
use super::writes::writes;

/// Lag, staleness, backlog and what would be lost with the origin, of every replication link.
pub(super) fn replications(replications: &[Replication], style: Style) -> String {
    let mut notes = Notes::default();
    let mut grid = Grid::new([
        "origin -> node",
        "state",
        "apply lag",
        "staleness",
        "to receive",
        "to replay",
        "would be lost",
        "evidence",
        "cluster",
    ]);
    for link in replications {
        let name = format!("{} -> {}", link.origin, link.node);
        if link.state != ReplicationState::Ok {
            notes.add(&name, &link.why);
        }
        if link.basis == Basis::Claims {
            notes.add(&name, "its lag and staleness rest on what both hosts claim about their clocks: the writer's agent is not heard on the mesh");
        }
        grid.push(vec![
            Cell::plain(&name),
            Cell::new(link.state.as_str(), replication_tone(link.state)),
            notes.cell(&name, "lag", &link.lag, within),
            notes.cell(&name, "staleness", &link.staleness, at_most),
            notes.cell(&name, "to receive", &link.log.received.backlog_bytes, |count| bytes(*count)),
            notes.cell(&name, "to replay", &link.log.replayed.backlog_bytes, |count| bytes(*count)),
            notes.cell(&name, "would be lost", &link.loss, |loss| format!("at most {}", seconds(loss.upper_s))),
            age(&mut notes, &name, &link.evidence_age_s),
            Cell::plain(link.cluster.as_str()),
        ]);
    }
    or_none(&grid, "no replication link is known", style) + &notes.render(style)
}

/// An estimate and half the width of its interval; where the error is larger only the upper end means something.
fn within(value: &Seconds) -> String {
    let error_s = (value.upper_s - value.lower_s) / 2.0;
    if value.upper_s > 0.0 && error_s >= value.estimate_s.abs() {
        return format!("at most {}", seconds(value.upper_s));
    }
    format!("{} ± {}", seconds(value.estimate_s), seconds(error_s))
}

/// An estimate and its upper end: between two reports the estimate does not stand in the middle.
fn at_most(value: &Seconds) -> String {
    format!("{}, at most {}", seconds(value.estimate_s), seconds(value.upper_s))
}

fn age(notes: &mut Notes, subject: &str, age_s: &Known<f64>) -> Cell {
    // The age is the value itself: an old one needs no second age.
    match age_s {
        Known::Known { value } => Cell::plain(span(*value)),
        Known::Stale { value, .. } => Cell::new(format!("{}, stale", span(*value)), Tone::Warn),
        Known::Unknown { .. } => notes.cell(subject, "evidence", age_s, |_| String::new()),
    }
}

fn replication_tone(state: ReplicationState) -> Tone {
    match state {
        ReplicationState::Ok => Tone::Good,
        ReplicationState::Unknown => Tone::Dim,
        stuck if stuck.is_stuck() => Tone::Bad,
        ReplicationState::NotPublished | ReplicationState::WriterDown => Tone::Bad,
        _ => Tone::Warn,
    }
}

/// What an agent knows of its links' paths beyond the round trip.
pub(super) fn paths(links: &[Link], style: Style) -> String {
    let mut notes = Notes::default();
    let mut grid = Grid::new(["link", "way there", "way back", "variation p99", "hops", "lost there, back, ?", "changes"]);
    for link in links {
        let name = format!("{} -> {}", link.region, link.peer);
        let LinkPath { oneway, delay_variation, hops, lost, changes, newest_change } = &link.path;
        let hops_cell = match (hops.forward.current(), hops.backward.current()) {
            (None, None) => notes.cell(&name, "hops", &hops.forward, u64::to_string),
            (there, back) => {
                let shown = |hops: Option<&u64>| hops.map_or_else(|| "?".to_owned(), u64::to_string);
                Cell::plain(format!("{} / {}", shown(there), shown(back)))
            }
        };
        grid.push(vec![
            Cell::plain(&name),
            notes.cell(&name, "way there", &oneway.forward, within),
            notes.cell(&name, "way back", &oneway.backward, within),
            notes.cell(&name, "variation", delay_variation, |quantiles| seconds(quantiles.p99_s)),
            hops_cell,
            notes.cell(&name, "lost", lost, |lost| format!("{}, {}, {}", lost.forward, lost.backward, lost.unknown)),
            notes.cell(&name, "changes", changes, u64::to_string),
        ]);
        if let Some(change) = newest_change {
            notes.add_part(&name, "changes", &changed(change));
        }
    }
    or_none(&grid, "no link is measured", style) + &notes.render(style)
}

fn changed(change: &PathChange) -> String {
    let what = match change.what {
        Changed::Delay { before_s, after_s } => format!("shortest round trip {} -> {}", seconds(before_s), seconds(after_s)),
        Changed::HopsForward { before, after } => format!("hops there {before} -> {after}"),
        Changed::HopsBackward { before, after } => format!("hops back {before} -> {after}"),
    };
    format!("flow {} to {}, {} ago: {what}", change.flow, change.agent, span(change.age_s))
}

/// Verdicts of every region.
pub(super) fn regions(regions: &[Region], style: Style) -> String {
    let mut notes = Notes::default();
    let axes = Axis::ALL.iter().map(|axis| axis.as_str());
    let mut grid = Grid::new(std::iter::once("region").chain(axes).chain(["evidence"]));
    for region in regions {
        let name = region.region.as_str();
        let mut row = vec![Cell::plain(name)];
        row.extend(Axis::ALL.iter().map(|axis| verdict(region, *axis, &mut notes)));
        row.push(age(&mut notes, name, &region.evidence_age_s));
        grid.push(row);
    }
    or_none(&grid, "no region is known", style) + &notes.render(style)
}

fn verdict(region: &Region, axis: Axis, notes: &mut Notes) -> Cell {
    let name = region.region.as_str();
    let Some(verdict) = region.verdicts.iter().find(|verdict| verdict.axis == axis) else {
        notes.add_part(name, axis.as_str(), "there is no verdict in the status");
        return Cell::new("unknown", Tone::Dim);
    };
    let tone = match verdict.state {
        _ if verdict.stale => Tone::Warn,
        RegionState::Healthy => Tone::Good,
        RegionState::Degraded | RegionState::Suspect | RegionState::Recovering => Tone::Warn,
        RegionState::Down => Tone::Bad,
        RegionState::Unknown => Tone::Dim,
    };
    if verdict.state != RegionState::Healthy || verdict.stale {
        notes.add_part(name, axis.as_str(), &verdict.why);
        for cast in verdict.votes.iter().filter(|cast| cast.vote != Vote::Good) {
            notes.add_part(name, axis.as_str(), &format!("{} votes {}: {}", cast.vantage, cast.vote, cast.why));
        }
    }
    let state = verdict.state;
    Cell::new(
        match verdict.for_s {
            _ if verdict.stale => format!("{state}, stale"),
            // Digits of a moment are none.
            for_s if for_s < 1.0 => format!("{state} just now"),
            for_s => format!("{state} for {}", span(for_s)),
        },
        tone,
    )
}

/// Writers of every cluster against what the fleet file allows.
pub(super) fn clusters(clusters: &[Cluster], style: Style) -> String {
    let mut notes = Notes::default();
    let mut grid = Grid::new(["cluster", "writers", "allowed", "objective"]);
    for cluster in clusters {
        let names: Vec<&str> = cluster.writers.iter().map(NodeName::as_str).collect();
        let too_many = u64::try_from(names.len()).is_ok_and(|count| count > cluster.writers_max);
        if too_many {
            notes.add(
                cluster.cluster.as_str(),
                "more writers than allowed: a split brain is suspected; find out who is right and fence the other",
            );
        }
        let writers = match (names.is_empty(), too_many) {
            (true, _) => {
                notes.add(cluster.cluster.as_str(), "no node is known to be a writer");
                Cell::new("unknown", Tone::Dim)
            }
            (false, true) => Cell::new(names.join(", "), Tone::Bad),
            (false, false) => Cell::plain(names.join(", ")),
        };
        let allowed = Cell::plain(cluster.writers_max.to_string());
        grid.push(vec![Cell::plain(cluster.cluster.as_str()), writers, allowed, Cell::plain(seconds(cluster.lag_objective_s))]);
    }
    or_none(&grid, "no cluster is known", style) + &notes.render(style)
}

/// Every node.
pub(super) fn nodes(all: &[Node], style: Style) -> String {
    let mut notes = Notes::default();
    let mut grid = Grid::new(["node", "cluster", "region", "state", "role", "version", "timeline", "writes", "evidence"]);
    for node in all {
        let name = node.node.as_str();
        let tone = match node.state {
            NodeState::Ok => Tone::Good,
            NodeState::StandingBy => Tone::Plain,
            NodeState::Unknown => Tone::Dim,
            _ => Tone::Bad,
        };
        if !matches!(node.state, NodeState::Ok | NodeState::StandingBy) {
            notes.add(name, &node.why);
        }
        grid.push(vec![
            Cell::plain(name),
            Cell::plain(node.cluster.as_str()),
            Cell::plain(node.region.as_str()),
            Cell::new(node.state.as_str(), tone),
            notes.cell(name, "role", &node.role, ToString::to_string),
            notes.cell(name, "version", &node.version, |number| server_version(*number)),
            notes.cell(name, "timeline", &node.timeline, ToString::to_string),
            writes(node, &mut notes),
            age(&mut notes, name, &node.evidence_age_s),
        ]);
    }
    or_none(&grid, "no node is known", style) + &notes.render(style)
}

/// What waits for each collector.
pub(super) fn exports(exports: &[Export], style: Style) -> String {
    let mut notes = Notes::default();
    let mut grid = Grid::new(["collector", "waiting", "batches", "last acknowledged"]);
    for export in exports {
        let name = export.collector.as_str();
        let waiting = Cell::plain(bytes(export.pending_bytes));
        let acknowledged =
            notes.cell(name, "last acknowledged", &export.acknowledged_age_s, |age_s| format!("{} ago", span(*age_s)));
        if let Some(error) = &export.error {
            notes.add(name, error);
        }
        grid.push(vec![Cell::plain(name), waiting, Cell::plain(export.pending_batches.to_string()), acknowledged]);
    }
    or_none(&grid, "no collector stands in the fleet file", style) + &notes.render(style)
}

/// The table, or that nothing is there.
pub(super) fn or_none(grid: &Grid, none: &str, style: Style) -> String {
    if grid.is_empty() { format!("  {}\n", Tone::Dim.paint(none, style)) } else { grid.render(style) }
}
