//! How soon a fault is named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::LinkState;
use lagmesh_model::status::AgentStatus;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::bed::{Bed, METER, Meter, Setup, host_name, peer_name};
use super::figure::Figure;
use super::{progress, say, say_figures};
use crate::real::Real;
use crate::wait;
use crate::wan::log::Record;
use crate::wan::path::{Cut, LinkSettings, PathSettings};

const MS: i64 = 1_000_000;
/// One peer on each host; the first half lose a path, the others are cut off.
const PEERS: usize = 10;
const PATHS: usize = 16;
/// From fault to fault [ns]: no divisor of any period of the agent's, so that each falls elsewhere in them.
const APART_NS: i64 = 773 * MS;
/// How often the agent is asked.
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How long the agent has watched before the first fault.
const SETTLE: Duration = Duration::from_secs(8);
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// A fault that is not named for so long is not named [ns].
const PATIENCE_NS: i64 = 30_000 * MS;

/// A fault on the way to one peer.
struct Fault {
    peer: usize,
    /// The link to the peer with the fault, and back.
    settings: [LinkSettings; 2],
    /// What the agent should call it.
    becomes: LinkState,
    /// Since when it is.
    since: Option<Real>,
    /// How long it took until it was named [ns].
    took_ns: Option<i64>,
}

pub(super) async fn measure(bed: &Bed) -> Result<()> {
    progress("five links lose one of 16 paths, five others are cut, one after the other");
    let usual = LinkSettings { paths: vec![PathSettings::default(); PATHS], ..LinkSettings::delayed(20 * MS) };
    bed.set_links(&usual)?;
    let meter = bed.meter(&Setup { peers: PEERS, ..Setup::default() }).await?;
    let since = Real::now();
    sleep(SETTLE).await;
    wait::until("all links are well", SETTLED_WITHIN, || async {
        let status = meter.client.agent_status().await?;
        ensure!(status.links.iter().all(|link| link.state == LinkState::Ok), "{:?}", states(&status));
        Ok(())
    })
    .await?;
    let mut faults = Vec::new();
    for peer in 0..PEERS {
        faults.push(if peer < PEERS / 2 { dead_path(bed, peer, &usual, since)? } else { cut(peer, &usual) });
    }
    watch(bed, &meter, &mut faults).await?;
    meter.stop().await?;
    let of = |becomes: LinkState| {
        faults.iter().filter(|fault| fault.becomes == becomes).map(|fault| fault.took_ns).collect::<Vec<_>>()
    };
    tell(
        "mesh.dead_path_s",
        "one of 16 parallel paths to a peer swallows everything from a moment on (the one that fewest of the 16 flows take); until the link is called `grey`",
        &of(LinkState::Grey),
        10.0,
    );
    let how = "nothing passes any more, both ways; until the link is called `down`";
    tell("mesh.cut_s", how, &of(LinkState::Down), 2.0);
    Ok(())
}

fn states(status: &AgentStatus) -> Vec<&'static str> {
    status.links.iter().map(|link| link.state.as_str()).collect()
}

/// The path dies that fewest flows take, but at least one.
fn dead_path(bed: &Bed, peer: usize, usual: &LinkSettings, since: Real) -> Result<Fault> {
    let at = bed.at(peer)?;
    let mut probes = bed.probes(since, Real::now())?;
    probes.retain(|probe| probe.to == at.host);
    let (path, flows) = loneliest(&probes).context("no probe takes any path")?;
    progress(&format!("path {} of {PATHS} to {}, with {flows} of 16 flows", path + 1, peer_name(peer)));
    let mut there = usual.clone();
    there.paths.get_mut(usize::from(path)).context("no such path")?.dead = true;
    Ok(Fault { peer, settings: [there, usual.clone()], becomes: LinkState::Grey, since: None, took_ns: None })
}

fn cut(peer: usize, usual: &LinkSettings) -> Fault {
    let cut = LinkSettings { cut: Cut::All, ..usual.clone() };
    Fault { peer, settings: [cut.clone(), cut], becomes: LinkState::Down, since: None, took_ns: None }
}

/// The path with the fewest flows, and how many those are.
fn loneliest(probes: &[Record]) -> Option<(u8, usize)> {
    let mut flows: BTreeMap<u8, BTreeSet<u16>> = BTreeMap::new();
    for probe in probes {
        flows.entry(probe.path).or_default().insert(probe.source_port);
    }
    flows.into_iter().map(|(path, ports)| (path, ports.len())).min_by_key(|(_, count)| *count)
}

/// Lets the faults happen one after the other, and asks the agent until each has its name.
async fn watch(bed: &Bed, meter: &Meter, faults: &mut [Fault]) -> Result<()> {
    let mut ticks = interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = Real::now();
    loop {
        ticks.tick().await;
        let now = Real::now();
        if now >= next
            && let Some(fault) = faults.iter_mut().find(|fault| fault.since.is_none())
        {
            let (host, [there, back]) = (host_name(fault.peer), &fault.settings);
            fault.since = Some(bed.wan.set_link(METER, &host, there.clone())?);
            bed.wan.set_link(&host, METER, back.clone())?;
            next = now + APART_NS;
        }
        let status = meter.client.agent_status().await?;
        let now = Real::now();
        for fault in faults.iter_mut().filter(|fault| fault.took_ns.is_none()) {
            let link = status.links.iter().find(|link| link.peer.as_str() == peer_name(fault.peer));
            if let (Some(since), Some(link)) = (fault.since, link)
                && link.state == fault.becomes
            {
                fault.took_ns = Some(now - since);
            }
        }
        let over = |fault: &Fault| fault.took_ns.is_some() || fault.since.is_some_and(|since| now - since > PATIENCE_NS);
        if faults.iter().all(over) {
            return Ok(());
        }
    }
}

fn tell(name: &'static str, what: &str, took_ns: &[Option<i64>], target_s: f64) {
    let seconds = |ns: i64| ns as f64 / 1e9;
    let tries: Vec<String> =
        took_ns.iter().map(|took| took.map_or_else(|| "never".to_owned(), |ns| format!("{:.2}", seconds(ns)))).collect();
    let how = format!(
        "{name}: {what}. From the moment that the router reports to the first answer of the agent's /v1/status, asked every {} ms; {} tries (on a link each, {} ms apart) took {} s; the \
         median. Everything by default",
        POLL_EVERY.as_millis(),
        took_ns.len(),
        APART_NS / MS,
        tries.join(", ")
    );
    match median(took_ns) {
        Some(ns) => say_figures(&how, &[Figure::new(name, "s", seconds(ns), target_s)]),
        None => say(&format!("\n{how}\n{name}: not measured: most were not named within {} s", PATIENCE_NS / MS / 1000)),
    }
}

/// The middle one, of which those that never came are the last.
fn median(took_ns: &[Option<i64>]) -> Option<i64> {
    let mut sorted: Vec<i64> = took_ns.iter().map(|took| took.unwrap_or(i64::MAX)).collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().filter(|ns| *ns < i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is never named counts as the longest: the median exists only if most were named.
    #[test]
    fn medians() {
        assert_eq!(median(&[Some(3), Some(1), None, Some(2), None]), Some(3));
        assert_eq!(median(&[Some(3), None, None]), None);
        assert_eq!(median(&[]), None);
    }
}
