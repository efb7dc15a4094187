//! Agents that are killed again and again while they deliver: what is in a spool or was acknowledged is never lost, nothing counts twice,
//! and what a dead run had not yet put into a batch stands in the ledger, once for each run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{AgentsBed, Runs, Witness, spool};
use crate::feed::{CollectorBed, values_shown};
use crate::wait;
use crate::wan::random::Random;

/// Agents that measure each other.
const AGENTS: usize = 4;
/// How long one lives on average before it is killed, about: some have made a dozen batches by then.
const LIFE: Duration = Duration::from_millis(1500);
/// So often the one that was just started dies next, and how soon at most: before it has opened its spool, or made a batch.
const AGAIN_SHARE: f64 = 0.2;
const AGAIN_WITHIN: Duration = Duration::from_millis(100);
/// The share of acknowledgements that never reach the agent.
const KEPT_BACK: f64 = 0.05;
/// As often as possible is probed and delivered.
const FLEET: &str =
    "[mesh]\ninterval = \"50ms\"\nflows = 2\ngive_up = \"1s\"\nicmp = false\ntcp = false\n[export]\ninterval = \"100ms\"\n";
/// How long the collector may take to show what it has acknowledged.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentDeaths {
    /// How often an agent was killed.
    pub deaths: u64,
    /// How many runs had begun with their spool before they were killed.
    pub runs: u64,
    /// Batches that were acknowledged.
    pub batches: u64,
    /// Batches that waited in a spool when their agent was killed.
    pub waited: u64,
    /// Batches that came again although they were acknowledged.
    pub twice: u64,
    /// Batches that were in a spool or before an acknowledged one, and never arrived.
    pub lost: u64,
    /// Dead runs that the ledger does not have, or has more than once.
    pub untold: u64,
    /// By how many values the collector shows more or less than the newest batch of every run.
    pub miscounted: u64,
}

/// What the spools said each time.
#[derive(Debug, Default)]
struct Found {
    dead: BTreeSet<(usize, u64)>,
    waited: BTreeSet<(usize, u64, u64)>,
}

/// Kills agents `deaths` times in all, and looks in the end, with all that is left delivered, whether everything is accounted for.
///
/// # Errors
/// If something cannot be run, or nothing comes of it.
pub async fn survive_deaths(folder: &Path, deaths: u64, seed: u64) -> Result<AgentDeaths> {
    let mut agents = AgentsBed::new(folder, AGENTS)?;
    // The collector's address is known once it runs, and it runs with the fleet file: the witness stands in between.
    let witness = Witness::unaimed(KEPT_BACK, seed).await?;
    let fleet = agents.fleet(&[("main", witness.url())], FLEET)?;
    let collector = CollectorBed::start(folder, &fleet).await?;
    witness.aim(&collector.otlp_url());
    agents.start_all()?;
    let (mut random, mut found) = (Random::new(seed), Found::default());
    let mut number = 0;
    for _ in 0..deaths {
        if random.happens(AGAIN_SHARE) {
            sleep(AGAIN_WITHIN.mul_f64(random.unit())).await;
        } else {
            // With several of them alive the next one to die has lived for several of these spans.
            sleep(LIFE.mul_f64(random.unit() / AGENTS as f64 * 2.0)).await;
            number = usize::try_from(random.bits() % AGENTS as u64)?;
        }
        agents.end(number, Signal::SIGKILL).await?;
        let left = spool::read(&agents.state_folder(number))?;
        found.dead.extend(left.died.map(|boot| (number, boot.0)));
        found.waited.extend(left.waiting.into_iter().map(|(boot, sequence)| (number, boot, sequence)));
        agents.start(number)?;
        look(&witness, &collector).await?;
    }
    // An acknowledgement that got lost at the very end would leave its batch in the spool, as it should.
    witness.keep_nothing_back();
    agents.delivered().await?;
    agents.end_all().await?;
    for number in 0..AGENTS {
        let left = spool::read(&agents.state_folder(number))?;
        ensure!(left.died.is_none() && left.waiting.is_empty(), "{number} ended with {left:?}");
    }
    let runs = witness.runs();
    let told = died_shown(&collector.get("metrics").await?);
    let dead = count(&found.dead);
    Ok(AgentDeaths {
        deaths,
        runs: dead,
        batches: runs.values().map(|run| count(&run.acknowledged)).sum(),
        waited: count(&found.waited),
        twice: witness.troubles().1,
        lost: lost(&runs, &found),
        untold: told.abs_diff(dead),
        miscounted: miscounted(&runs, &collector).await?,
    })
}

fn count<T>(set: &BTreeSet<T>) -> u64 {
    set.len() as u64
}

/// While agents deliver the collector shows no less than it had acknowledged before it was asked, and no more than was sent after.
async fn look(witness: &Witness, collector: &CollectorBed) -> Result<()> {
    let acknowledged: u64 = witness.runs().values().map(|run| run.values).sum();
    wait::until("what is acknowledged is shown", SHOWN_WITHIN, || async {
        let shown = values_shown(&collector.get("metrics").await?)?;
        let sent: u64 = witness.runs().values().map(|run| run.values_sent).sum();
        ensure!((acknowledged..=sent).contains(&shown), "{shown} are shown, {acknowledged} acknowledged, {sent} sent");
        Ok(())
    })
    .await
}

/// Batches that must have arrived and have not.
fn lost(runs: &Runs, found: &Found) -> u64 {
    let by_boot: BTreeMap<u64, &BTreeSet<u64>> = runs.iter().map(|((_, boot), run)| (*boot, &run.acknowledged)).collect();
    let gaps: u64 = by_boot.values().filter_map(|arrived| Some(*arrived.last()? - count(arrived))).sum();
    let never = found.waited.iter().filter(|(_, boot, sequence)| {
        // What is missing before the last that arrived is a gap already.
        by_boot.get(boot).is_none_or(|arrived| arrived.last().is_none_or(|last| last < sequence))
    });
    gaps + never.count() as u64
}

/// With nothing under way the two are the same.
async fn miscounted(runs: &Runs, collector: &CollectorBed) -> Result<u64> {
    let counted: u64 = runs.values().map(|run| run.values).sum();
    Ok(values_shown(&collector.get("metrics").await?)?.abs_diff(counted))
}

/// How many dead runs the collector shows.
fn died_shown(metrics: &str) -> u64 {
    let died = metrics.lines().filter(|line| line.starts_with("lagmesh_spool_lost_total{") && line.contains("reason=\"died\""));
    died.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::witness::Run;

    /// A gap between batches, a batch that only the spool had and a run of which nothing came are each a loss.
    #[test]
    fn losses_are_seen() {
        let run = |arrived: &[u64]| Run { acknowledged: arrived.iter().copied().collect(), ..Run::default() };
        let runs: Runs = [(("a".to_owned(), 1), run(&[1, 2, 3])), (("b".to_owned(), 2), run(&[1, 3]))].into();
        assert_eq!(lost(&runs, &Found::default()), 1);
        let waited = BTreeSet::from([(0, 1, 3), (0, 1, 4), (1, 2, 2), (2, 9, 1)]);
        assert_eq!(lost(&runs, &Found { waited, ..Found::default() }), 3);
    }
}
