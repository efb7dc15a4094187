//! Whether writes work, and who still needs the log of a node.

use lagmesh_model::known::Known;
use lagmesh_model::state::{NodeRole, SlotState, WriteOutcome};
use lagmesh_model::status::{Ledger, Node, Slot};

use super::Style;
use super::grid::{Cell, Grid, Tone};
use super::notes::Notes;
use super::parts::or_none;
use super::units::{bytes, span};

/// A slot that nobody reads from and that lasts no longer than this at the present rate is bad news [s].
const SOON_S: f64 = 3600.0;
/// Where there is nothing to be known.
const NONE: &str = "—";

/// Whether writes work on a node as applications get them.
pub(super) fn writes(node: &Node, notes: &mut Notes) -> Cell {
    let name = node.node.as_str();
    match (&node.ledger, node.role.current()) {
        // Nobody writes to a standby.
        (Known::Unknown { .. }, Some(NodeRole::Standby)) => Cell::plain(NONE),
        (Known::Known { value }, _) => {
            notes.add_part(name, "writes", &value.why);
            let works = value.outcome == WriteOutcome::Acknowledged;
            Cell::new(told(value), if works { Tone::Good } else { Tone::Bad })
        }
        _ => notes.cell(name, "writes", &node.ledger, told),
    }
}

fn told(ledger: &Ledger) -> String {
    let ago = ledger.acknowledged_age_s.map(span);
    match (ledger.outcome, ago) {
        (WriteOutcome::Acknowledged, Some(ago)) => format!("work, {ago} ago"),
        (WriteOutcome::Acknowledged, None) => "work".to_owned(),
        (outcome, Some(ago)) => format!("{outcome}, worked {ago} ago"),
        (outcome, None) => outcome.to_string(),
    }
}

/// The replication slots of all nodes.
pub(super) fn slots(all: &[Node], style: Style) -> String {
    let mut notes = Notes::default();
    let mut grid = Grid::new(["node", "slot", "state", "read from", "keeps", "room left", "exhausted in"]);
    for node in all {
        let name = node.node.as_str();
        let (told, is_past) = match &node.slots {
            Known::Known { value } => (value, false),
            Known::Stale { value, .. } => (value, true),
            Known::Unknown { why } => {
                notes.add(name, why);
                continue;
            }
        };
        if told.more > 0 {
            notes.add(name, &format!("{} more slots than are watched one by one", told.more));
        }
        for slot in &told.slots {
            grid.push(row(name, slot, is_past));
            if matches!(slot.state, SlotState::Unreserved | SlotState::Lost) {
                let reason = slot.invalidation_reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
                notes.add(&slot.slot, &format!("{}{reason}: {}", slot.state, slot.state.explain()));
            }
        }
    }
    or_none(&grid, "no replication slot is known", style) + &notes.render(style)
}

fn row(node: &str, slot: &Slot, is_past: bool) -> Vec<Cell> {
    let cell = |text: String, tone| if is_past { Cell::new(format!("was {text}"), Tone::Dim) } else { Cell::new(text, tone) };
    let nothing = || NONE.to_owned();
    let soon = slot.exhaustion_s.is_some_and(|left_s| left_s <= SOON_S) && !slot.active;
    vec![
        Cell::plain(node),
        Cell::plain(&slot.slot),
        cell(slot.state.to_string(), state_tone(slot.state)),
        cell(reader(slot), if slot.active { Tone::Plain } else { Tone::Warn }),
        cell(slot.retained_bytes.map_or_else(nothing, bytes), Tone::Plain),
        cell(room(slot), Tone::Plain),
        cell(slot.exhaustion_s.map_or_else(nothing, span), if soon { Tone::Bad } else { Tone::Plain }),
    ]
}

fn reader(slot: &Slot) -> String {
    match slot.inactive_s {
        _ if slot.active => "yes".to_owned(),
        Some(inactive_s) => format!("not for {}", span(inactive_s)),
        None => "no".to_owned(),
    }
}

/// No number means two opposite things: there is no limit, or there is nothing left to limit.
fn room(slot: &Slot) -> String {
    match (slot.safe_bytes, slot.state) {
        (Some(safe), _) => bytes(u64::try_from(safe).unwrap_or(0)),
        (None, SlotState::Lost | SlotState::Unknown) => NONE.to_owned(),
        (None, _) => "no limit".to_owned(),
    }
}

fn state_tone(state: SlotState) -> Tone {
    match state {
        SlotState::Reserved | SlotState::Extended => Tone::Good,
        SlotState::Unreserved | SlotState::Lost => Tone::Bad,
        SlotState::Unknown => Tone::Dim,
    }
}
