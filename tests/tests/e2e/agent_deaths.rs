//! An agent may die at any moment.

use anyhow::{Result, ensure};
use lagmesh_tests::agents::{AgentDeaths, survive_deaths};
use lagmesh_tests::files::RunFolder;

/// Killed a hundred times while they deliver, agents lose no batch that was in a spool or was acknowledged, no value counts twice, and
/// what each dead run had not yet put into a batch stands in the ledger of losses, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_they_lose_only_what_the_ledger_says() -> Result<()> {
    let mut folder = RunFolder::new("agent-deaths")?;
    let survived = survive_deaths(folder.path(), 100, 11).await;
    if !matches!(survived, Ok(AgentDeaths { lost: 0, untold: 0, miscounted: 0, .. })) {
        folder.keep();
        eprintln!("logs stay in {}", folder.path().display());
    }
    let survived = survived?;
    eprintln!("{survived:?}");
    let AgentDeaths { runs, batches, waited, twice, lost, untold, miscounted, .. } = survived;
    ensure!(lost == 0, "{lost} batches were lost");
    ensure!(miscounted == 0, "the totals are off by {miscounted} values");
    ensure!(untold == 0, "the ledger is off by {untold} dead runs");
    ensure!(runs > 50 && batches > 300 && waited > 10 && twice > 5, "nothing was proved");
    Ok(())
}
