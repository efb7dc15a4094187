//! Who receives the log of a node, by its own word.

use lagmesh_model::known::Known;
use lagmesh_model::status::{Follower, Node, Sending};

use super::Style;
use super::grid::{Cell, Grid, Tone};
use super::notes::Notes;
use super::parts::or_none;
use super::units::{bytes, seconds};

/// Where there is nothing to be known.
const NONE: &str = "—";

/// The followers of all nodes that are asked for them; nothing if none is.
pub(super) fn render(all: &[Node], style: Style) -> String {
    let mut notes = Notes::default();
    let mut grid = Grid::new(["node", "follower", "state", "sync", "to send", "to flush", "to replay", "last reply"]);
    let mut asked = false;
    for node in all {
        let name = node.node.as_str();
        let (told, is_past) = match &node.followers {
            Known::Known { value } => (value, false),
            Known::Stale { value, .. } => (value, true),
            Known::Unknown { .. } => continue,
        };
        asked = true;
        if told.more > 0 {
            notes.add(name, &format!("{} more followers than are told one by one", told.more));
        }
        for follower in &told.followers {
            if let Known::Unknown { why } = &follower.sending {
                notes.add(&follower_name(follower), why);
            }
            grid.push(row(name, follower, is_past));
        }
    }
    if asked { or_none(&grid, "nobody follows", style) + &notes.render(style) } else { String::new() }
}

fn row(node: &str, follower: &Follower, is_past: bool) -> Vec<Cell> {
    let cell = |text: String| if is_past { Cell::new(format!("was {text}"), Tone::Dim) } else { Cell::plain(&text) };
    let sending = follower.sending.current();
    let hidden = || if sending.is_some() { NONE } else { "?" }.to_owned();
    let size = |of: fn(&Sending) -> Option<u64>| cell(sending.and_then(of).map_or_else(hidden, bytes));
    vec![
        Cell::plain(node),
        Cell::plain(follower_name(follower)),
        cell(sending.map_or_else(hidden, |sending| sending.state.clone())),
        cell(sending.and_then(|sending| sending.sync_state.clone()).unwrap_or_else(hidden)),
        size(|sending| sending.unsent_bytes),
        size(|sending| sending.unflushed_bytes),
        size(|sending| sending.unreplayed_bytes),
        cell(sending.and_then(|sending| sending.reply_age_s).map_or_else(hidden, seconds)),
    ]
}

/// The node's name, or what an unknown one calls itself.
fn follower_name(follower: &Follower) -> String {
    follower.node.as_ref().map_or_else(|| format!("\"{}\"", follower.application_name), ToString::to_string)
}
