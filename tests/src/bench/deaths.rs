//! A collector, and agents, that die thousands of times while agents deliver.

use std::time::Duration;

use anyhow::Result;

use super::figure::Figure;
use super::{progress, say_figures};
use crate::agents::survive_deaths;
use crate::feed::{Death, survive};
use crate::files::RunFolder;
use crate::real::Real;

/// How often it dies of each death.
const DEATHS: u64 = 5_000;
/// How many deaths are died on one store before the next one begins anew.
const ROUND: u64 = 100;
/// How often agents die: each death takes half a second.
const AGENT_DEATHS: u64 = 2_000;
/// The share of the time that is given that each of the two deaths of a collector has.
const PARTS: u128 = 2;

/// Lets a collector die so often, or for so long.
pub(super) async fn soak(time: Option<Duration>) -> Result<()> {
    for (death, case) in [(Death::Killed, "killed"), (Death::PowerLost, "power")] {
        let (began, mut deaths, mut batches, mut in_doubt, mut misfits) = (Real::now(), 0, 0, 0, 0);
        let over = |deaths: u64| match time {
            Some(time) => has_passed(began, time.as_nanos() / PARTS),
            None => deaths >= DEATHS,
        };
        while !over(deaths) {
            let folder = RunFolder::new("deaths")?;
            let survived = survive(folder.path(), ROUND, deaths, death).await?;
            deaths += survived.deaths;
            batches += survived.batches;
            in_doubt += survived.in_doubt;
            misfits += survived.misfits;
            progress(&format!("{deaths} deaths ({case}), {batches} batches acknowledged"));
        }
        let how = format!(
            "pipeline.lost_or_twice/{case}: {deaths} deaths of a collector at moments of chance while four agents delivered {batches} batches, \
             {in_doubt} of which were on their way; after each death its totals were held against what it had acknowledged and what was \
             sent: after how many of them they did not fit"
        );
        let figure =
            Figure { case: Some(case.to_owned()), ..Figure::new("pipeline.lost_or_twice", "count", misfits as f64, 0.0) };
        say_figures(&how, &[figure]);
    }
    Ok(())
}

fn has_passed(began: Real, time_ns: u128) -> bool {
    u128::from((Real::now() - began).max(0).cast_unsigned()) >= time_ns
}

/// The same with agents.
pub(super) async fn soak_agents(time: Option<Duration>) -> Result<()> {
    let (began, mut deaths, mut runs, mut batches, mut waited) = (Real::now(), 0, 0, 0, 0);
    let (mut lost, mut untold, mut miscounted) = (0, 0, 0);
    while time.map_or(deaths < AGENT_DEATHS, |time| !has_passed(began, time.as_nanos())) {
        let folder = RunFolder::new("agent-deaths")?;
        let survived = survive_deaths(folder.path(), ROUND, deaths).await?;
        deaths += survived.deaths;
        runs += survived.runs;
        batches += survived.batches;
        waited += survived.waited;
        lost += survived.lost;
        untold += survived.untold;
        miscounted += survived.miscounted;
        progress(&format!("{deaths} deaths (agents), {batches} batches acknowledged"));
    }
    let how = format!(
        "pipeline.*/agents: {deaths} deaths of four agents at moments of chance, which ended {runs} runs; {batches} batches were acknowledged, and \
         {waited} waited in a spool when its agent died. Lost: batches that were in a spool or before an acknowledged one and never arrived. \
         Untold: dead runs that the ledger of losses lacks or has twice. Miscounted: by how many values the totals were off"
    );
    let figure = |name, count: u64| Figure { case: Some("agents".to_owned()), ..Figure::new(name, "count", count as f64, 0.0) };
    let figures = [figure("pipeline.lost", lost), figure("pipeline.untold", untold), figure("pipeline.miscounted", miscounted)];
    say_figures(&how, &figures);
    Ok(())
}
