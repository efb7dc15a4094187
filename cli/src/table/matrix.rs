//! Regions against regions: round-trip time, loss and state of every link.

use lagmesh_model::fleet::Plan;
use lagmesh_model::ids::RegionName;
use lagmesh_model::known::Known;
use lagmesh_model::state::{LinkState, ProbeKind};
use lagmesh_model::status::Link;

use super::Style;
use super::grid::{Cell, Grid, Tone};
use super::notes::Notes;
use super::units::{seconds, share};

/// What is shown of one link.
struct Shown {
    rtt: Cell,
    loss: String,
    state: Cell,
}

/// The matrix `from` x `to`. Where the plan of the mesh is not full, regions without a link are not meant to probe each other: a dash,
/// which is neither unknown nor bad. In a narrow terminal with two lines per region, in a very narrow one as a list.
pub(super) fn render(from: &[RegionName], to: &[RegionName], links: &[Link], plan: &str, style: Style) -> String {
    let mut notes = Notes::default();
    let rows: Vec<Vec<Option<Shown>>> = from
        .iter()
        .map(|region| to.iter().map(|peer| (region != peer).then(|| shown(region, peer, links, plan, &mut notes))).collect())
        .collect();
    let one_line = grid(from, to, &rows, one_line);
    let two_lines = grid(from, to, &rows, two_lines);
    let fits = |grid: &Grid| style.width.is_none_or(|width| grid.width() <= width);
    let table = match (fits(&one_line), fits(&two_lines)) {
        (true, _) => one_line,
        (false, true) => two_lines,
        (false, false) => list(from, to, &rows),
    };
    table.render(style) + &notes.render(style)
}

fn shown(region: &RegionName, peer: &RegionName, links: &[Link], plan: &str, notes: &mut Notes) -> Shown {
    let name = format!("{region} -> {peer}");
    let Some(link) = links.iter().find(|link| link.region == *region && link.peer == *peer) else {
        if plan != Plan::Full.as_str() {
            notes.add("—", &format!("not planned: by the mesh plan ({plan}) these regions do not probe each other"));
            return Shown { rtt: Cell::new("—", Tone::Dim), loss: String::new(), state: Cell::plain("") };
        }
        notes.add(&name, "the link is not in the status");
        return Shown { rtt: Cell::new("unknown", Tone::Dim), loss: "—".to_owned(), state: state_cell(LinkState::Unknown) };
    };
    if link.state != LinkState::Ok {
        notes.add(&name, &link.why);
    }
    if let Some(contradiction) = &link.clock_contradiction {
        notes.add(&name, contradiction);
    }
    if let Some(disagreement) = &link.disagreement {
        notes.add(&name, &disagreement.why);
    }
    if link.state == LinkState::Unknown {
        // What was measured within the last minute says nothing about a link of which nothing is known now.
        let rtt = match link.rtt(ProbeKind::Stamp) {
            Known::Known { value } | Known::Stale { value, .. } => format!("was {}", seconds(value.p50_s)),
            Known::Unknown { .. } => "unknown".to_owned(),
        };
        return Shown { rtt: Cell::new(rtt, Tone::Dim), loss: "—".to_owned(), state: state_cell(link.state) };
    }
    let rtt = notes.cell(&name, "round trip", &link.rtt(ProbeKind::Stamp), |quantiles| seconds(quantiles.p50_s));
    let stamp = link.kinds.iter().find(|kind| kind.kind == ProbeKind::Stamp).filter(|kind| kind.settled > 0);
    let loss = stamp.and_then(|kind| Some(share(kind.settled.checked_sub(kind.answered)?, kind.settled)));
    if loss.is_none() && link.rtt(ProbeKind::Stamp).is_known() {
        notes.add_part(&name, "loss", "the fate of no probe of the last minute is settled yet");
    }
    let loss = loss.unwrap_or_else(|| "—".to_owned());
    Shown { rtt, loss, state: state_cell(link.state) }
}

fn state_cell(state: LinkState) -> Cell {
    let tone = match state {
        LinkState::Ok => Tone::Good,
        LinkState::Lossy | LinkState::Grey => Tone::Warn,
        LinkState::Down => Tone::Bad,
        LinkState::Unknown => Tone::Dim,
    };
    Cell::new(state.as_str(), tone)
}

type Layout = fn(&Shown) -> Vec<Vec<Cell>>;

/// Every link as a block of cells: `layout` says how many lines of how many columns.
fn grid(from: &[RegionName], to: &[RegionName], rows: &[Vec<Option<Shown>>], layout: Layout) -> Grid {
    let blank = || Shown { rtt: Cell::new("·", Tone::Dim), loss: String::new(), state: Cell::plain("") };
    let empty = layout(&blank());
    let (height, width) = (empty.len(), empty[0].len());
    let heads = to.iter().flat_map(|peer| (0..width).map(move |column| if column == 0 { peer.as_str() } else { "" }));
    let mut grid = Grid::new(std::iter::once("from \\ to").chain(heads));
    for (region, cells) in from.iter().zip(rows) {
        let blocks: Vec<_> = cells.iter().map(|shown| shown.as_ref().map_or_else(|| empty.clone(), layout)).collect();
        for line in 0..height {
            let name = Cell::plain(if line == 0 { region.as_str() } else { "" });
            grid.push(std::iter::once(name).chain(blocks.iter().flat_map(|block| block[line].clone())).collect());
        }
    }
    grid
}

fn one_line(shown: &Shown) -> Vec<Vec<Cell>> {
    vec![vec![shown.rtt.clone(), Cell::plain(&shown.loss), shown.state.clone()]]
}

fn two_lines(shown: &Shown) -> Vec<Vec<Cell>> {
    let Shown { rtt, loss, state } = shown;
    let below = if loss.is_empty() { Cell::plain("") } else { Cell::new(format!("{loss} {}", state.text), state.tone) };
    vec![vec![rtt.clone()], vec![below]]
}

fn list(from: &[RegionName], to: &[RegionName], rows: &[Vec<Option<Shown>>]) -> Grid {
    let mut grid = Grid::new(["link", "rtt", "loss", "state"]);
    for (region, cells) in from.iter().zip(rows) {
        let planned = |shown: &&Shown| !shown.state.text.is_empty();
        let shown = cells.iter().map(|shown| shown.as_ref().filter(planned));
        for (peer, shown) in to.iter().zip(shown).filter_map(|(peer, shown)| Some((peer, shown?))) {
            let name = Cell::plain(format!("{region} -> {peer}"));
            grid.push(vec![name, shown.rtt.clone(), Cell::plain(&shown.loss), shown.state.clone()]);
        }
    }
    grid
}
