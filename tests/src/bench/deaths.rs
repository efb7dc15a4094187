//! A collector that dies thousands of times while agents deliver.

use std::time::Duration;

use anyhow::Result;

use super::figure::Figure;
use super::{progress, say_figures};
use crate::feed::{Death, survive};
use crate::files::RunFolder;
use crate::real::Real;

/// How often it dies of each death.
const DEATHS: u64 = 5_000;
/// How many deaths are died on one store before the next one begins anew.
const ROUND: u64 = 100;

/// Lets it die so often, or for so long.
pub(super) async fn soak(time: Option<Duration>) -> Result<()> {
    for (death, case) in [(Death::Killed, "killed"), (Death::PowerLost, "power")] {
        let (began, mut deaths, mut batches, mut in_doubt, mut misfits) = (Real::now(), 0, 0, 0, 0);
        let over = |deaths: u64| match time {
            Some(time) => u128::from((Real::now() - began).max(0).cast_unsigned()) >= time.as_nanos() / 2,
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
