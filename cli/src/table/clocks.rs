//! Regions against regions: how far their wall clocks are apart.

use std::cmp::Ordering;

use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::status::{Clocks, Seconds};

use super::Style;
use super::grid::{Cell, Grid, Tone};
use super::notes::Notes;
use super::units::seconds;

/// Of the row's region to the column's: the column's wall clock minus the row's. Where a terminal is too narrow for that, a list of every
/// pair. Empty if the collector does not compare clocks.
pub(super) fn render(names: &[RegionName], clocks: &Clocks, style: Style) -> String {
    if clocks.offsets.is_empty() {
        return String::new();
    }
    let mut notes = Notes::default();
    let matrix = matrix(names, clocks, &mut notes);
    let table = if style.width.is_none_or(|width| matrix.width() <= width) { matrix } else { list(names, clocks) };
    for set in &clocks.contradictions {
        let agents: Vec<&str> = set.iter().map(AgentName::as_str).collect();
        notes.add(&agents.join(", "), "what these agents measured of each other's clocks cannot all be true");
    }
    table.render(style) + &notes.render(style)
}

fn matrix(names: &[RegionName], clocks: &Clocks, notes: &mut Notes) -> Grid {
    let mut grid = Grid::new(std::iter::once("from \\ to").chain(names.iter().map(RegionName::as_str)));
    for (at, region) in names.iter().enumerate() {
        let cells = names.iter().enumerate().map(|(to, peer)| match to.cmp(&at) {
            Ordering::Equal => Cell::new("·", Tone::Dim),
            // The reason is told once for both ways.
            Ordering::Less => cell(region, peer, clocks, &mut Notes::default()),
            Ordering::Greater => cell(region, peer, clocks, notes),
        });
        let row = std::iter::once(Cell::plain(region.as_str())).chain(cells).collect();
        grid.push(row);
    }
    grid
}

fn list(names: &[RegionName], clocks: &Clocks) -> Grid {
    let mut grid = Grid::new(["clocks", "apart"]);
    for (at, region) in names.iter().enumerate() {
        for peer in &names[at + 1..] {
            let cell = cell(region, peer, clocks, &mut Notes::default());
            grid.push(vec![Cell::plain(format!("{region} -> {peer}")), cell]);
        }
    }
    grid
}

fn cell(region: &RegionName, peer: &RegionName, clocks: &Clocks, notes: &mut Notes) -> Cell {
    let Some((offset, is_measured)) = clocks.between(region, peer) else { return Cell::new("unknown", Tone::Dim) };
    if offset.is_known() && !is_measured {
        notes.add("*", "these regions do not measure each other: known through others");
    }
    let mark = if is_measured { "" } else { " *" };
    notes.cell(&format!("{region} -> {peer}"), "wall clocks", &offset, |offset| format!("{}{mark}", apart(offset)))
}

/// An offset within its own error has no digits of an estimate.
fn apart(offset: &Seconds) -> String {
    let error_s = (offset.upper_s - offset.lower_s) / 2.0;
    let is_within = offset.lower_s <= 0.0 && offset.upper_s >= 0.0;
    if is_within {
        format!("within {}", seconds(offset.upper_s.max(-offset.lower_s)))
    } else {
        format!("{} ± {}", seconds(offset.estimate_s), seconds(error_s))
    }
}
