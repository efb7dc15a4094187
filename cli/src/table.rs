//! What a status says, as text for a terminal. Pure: the status goes in, a string comes out.

mod clocks;
mod followers;
mod grid;
mod matrix;
mod notes;
mod parts;
#[cfg(test)]
mod tests;
pub mod units;
mod writes;

use std::time::{Duration, UNIX_EPOCH};

pub use grid::{Cell, Grid, Tone};

use lagmesh_model::fleet::Plan;
use lagmesh_model::ids::RegionName;
use lagmesh_model::status::{AgentStatus, FleetStatus};
use lagmesh_model::time::WallNanos;

/// How text is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// With ANSI colours.
    pub color: bool,
    /// The columns of the terminal; nothing is broken without.
    pub width: Option<usize>,
}

impl Style {
    /// Without colours, and nothing is broken: for files and pipes.
    pub const PLAIN: Style = Style { color: false, width: None };
}

/// What a collector says about the fleet.
pub fn fleet(status: &FleetStatus, style: Style) -> String {
    let names: Vec<RegionName> = status.regions.iter().map(|region| region.region.clone()).collect();
    let reporting = format!("{} of {} regions report", status.regions_reporting, names.len());
    let all = usize::try_from(status.regions_reporting).is_ok_and(|reporting| reporting >= names.len());
    let reporting = if all { Tone::Good } else { Tone::Warn }.paint(&reporting, style);
    let head =
        format!("fleet {} · collector {} · {} · {reporting}\n", clean(&status.fleet), clean(&status.version), date(status.at));
    [
        head,
        section("REGIONS", "", &parts::regions(&status.regions, style), style),
        section("LINKS", LINKS, &matrix::render(&names, &names, &status.links, &status.plan, style), style),
        section("REPLICATION", REPLICATION, &parts::replications(&status.replications, style), style),
        section("CLUSTERS", "", &parts::clusters(&status.clusters, style), style),
        section("NODES", "", &parts::nodes(&status.nodes, style), style),
        section("SLOTS", SLOTS, &writes::slots(&status.nodes, style), style),
        section("CLOCKS", CLOCKS, &clocks::render(&names, &status.clocks, style), style),
    ]
    .concat()
}

/// What an agent says about what it sees.
pub fn agent(status: &AgentStatus, style: Style) -> String {
    let AgentStatus { fleet, region, agent, version, at, .. } = status;
    let head = format!("fleet {} · region {region} · agent {agent} {} · {}\n", clean(fleet), clean(version), date(*at));
    let mut from: Vec<RegionName> = Vec::new();
    let mut to: Vec<RegionName> = Vec::new();
    for link in &status.links {
        for (name, names) in [(&link.region, &mut from), (&link.peer, &mut to)] {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    [
        head,
        section("LINKS", LINKS, &matrix::render(&from, &to, &status.links, Plan::Full.as_str(), style), style),
        section("PATHS", PATHS, &parts::paths(&status.links, style), style),
        section("REPLICATION", REPLICATION, &parts::replications(&status.replications, style), style),
        section("NODES", "", &parts::nodes(&status.nodes, style), style),
        section("SLOTS", SLOTS, &writes::slots(&status.nodes, style), style),
        section("FOLLOWERS", FOLLOWERS, &followers::render(&status.nodes, style), style),
        section("EXPORT", "", &parts::exports(&status.exports, style), style),
    ]
    .concat()
}

const LINKS: &str = "median round trip, loss and state of the last minute, by UDP echo";
const CLOCKS: &str = "the column's wall clock minus the row's, by what all agents have measured together";
const PATHS: &str = "shortest one-way delays, variation and losses of the last minute; changes since the agent started";
const SLOTS: &str = "log that is kept for others; exhausted if log goes on as in the last minute and nobody reads";
const FOLLOWERS: &str =
    "who receives a writer's log, by the writer's word; the age of a reply holds the difference of two wall clocks";
const REPLICATION: &str = "apply lag of the newest beat; staleness: how old what users read is";

/// Nothing where there is nothing to show.
fn section(title: &str, explained: &str, body: &str, style: Style) -> String {
    if body.is_empty() {
        return String::new();
    }
    let fits = style.width.is_none_or(|width| title.len() + 2 + explained.len() <= width);
    let explained =
        if explained.is_empty() || !fits { String::new() } else { format!("  {}", Tone::Dim.paint(explained, style)) };
    format!("\n{}{explained}\n{body}", Tone::Title.paint(title, style))
}

/// Texts come over the network: no control character may reach the terminal.
fn clean(text: &str) -> String {
    Cell::plain(text).text
}

pub(crate) fn date(at: WallNanos) -> String {
    let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(at.0)).to_string();
    date.replace('T', " ").replace('Z', " UTC")
}
