//! A collector may die at any moment.

use anyhow::{Result, ensure};
use lagmesh_tests::feed::{Death, Survived, survive};
use lagmesh_tests::files::RunFolder;

/// Killed a hundred times while four agents deliver, a collector comes back with every batch that it acknowledged, and counts none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_keeps_what_it_acknowledged() -> Result<()> {
    let folder = RunFolder::new("deaths")?;
    let Survived { batches, in_doubt, .. } = survive(folder.path(), 100, 20, Death::Killed).await?;
    eprintln!("{batches} batches acknowledged, {in_doubt} in doubt");
    ensure!(batches > 500 && in_doubt > 50, "only {batches} batches and {in_doubt} in doubt: nothing was proved");
    Ok(())
}

/// The same when the power goes: what was not synced is lost, all of it or some, and nothing of that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_power_it_keeps_what_it_acknowledged() -> Result<()> {
    let folder = RunFolder::new("power")?;
    let Survived { batches, in_doubt, .. } = survive(folder.path(), 40, 7, Death::PowerLost).await?;
    eprintln!("{batches} batches acknowledged, {in_doubt} in doubt");
    ensure!(batches > 200 && in_doubt > 40, "only {batches} batches and {in_doubt} in doubt: nothing was proved");
    Ok(())
}
