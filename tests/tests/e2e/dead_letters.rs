//! What a collector refused for good, looked at and sent again with `lagmesh dead-letters`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::dead_letter::DeadLetter;
use lagmesh_tests::agents::{AgentsBed, Witness};
use lagmesh_tests::feed::{CollectorBed, values_shown};
use lagmesh_tests::files::{self, RunFolder};
use lagmesh_tests::wait;

use crate::support::BUSY;

const WITHIN: Duration = Duration::from_secs(30);
/// The agent that the collector does not know at first, and its region.
const NEW: (usize, &str) = (1, "r0001");
const REFUSED_MIN: usize = 5;

fn dead_letters(state: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new(files::program("lagmesh")?);
    let output = command.arg("dead-letters").args(args).arg("--state-dir").arg(state).output()?;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn list(state: &Path) -> Result<Vec<DeadLetter>> {
    Ok(serde_json::from_str(&dead_letters(state, &["list", "-o", "json"])?)?)
}

/// The fleet file before the new region was written into it.
fn before(fleet: &str) -> Result<String> {
    let (known, rest) = fleet.split_once(&format!("[[region]]\nname = \"{}\"", NEW.1)).context("the new region")?;
    let (_, rest) = rest.split_once("[[collector]]").context("a collector")?;
    Ok(format!("{known}[[collector]]{rest}"))
}

/// A collector whose fleet file is old refuses what an agent of a new region sends. The letters say so; once the collector knows the
/// region they are sent again, every batch arrives, and nothing counts twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_new_region_arrive_in_the_end() -> Result<()> {
    let folder = RunFolder::new("dead-letters")?;
    let mut agents = AgentsBed::new(folder.path(), 2)?;
    let witness = Witness::unaimed(0.0, 1).await?;
    let fleet = agents.fleet(&[("main", witness.url())], BUSY)?;
    let mut collector = CollectorBed::start(folder.path(), &before(&fleet)?).await?;
    witness.aim(&collector.otlp_url());
    agents.start_all()?;
    let state = agents.state_folder(NEW.0);
    wait::until("batches are refused", WITHIN, || async {
        let refused = list(&state)?.len();
        ensure!(refused >= REFUSED_MIN, "only {refused} are");
        Ok(())
    })
    .await?;
    let shown = dead_letters(&state, &["list"])?;
    ensure!(shown.contains("collector main") && shown.contains("HTTP status 400") && shown.contains(NEW.1), "{shown}");
    ensure!(list(&agents.state_folder(0))?.is_empty(), "the agent that is known has letters, too");
    let first = list(&state)?.first().context("a letter")?.clone();
    let exports = folder.path().join("exported");
    std::fs::create_dir(&exports)?;
    let file = dead_letters(&state, &["export", &exports.display().to_string(), &first.id.to_string()])?;
    let written = std::fs::metadata(file.trim_end())?.len();
    ensure!(written == first.bytes, "{written} bytes in {file}, {} in the letter", first.bytes);

    std::fs::write(collector.fleet_file(), &fleet)?;
    collector.kill().await?;
    collector.start_again().await?;
    agents.delivered().await?;
    ensure!(list(&state)?.len() >= REFUSED_MIN, "letters were sent although nobody said so");
    dead_letters(&state, &["resend", "all"])?;
    wait::until("every batch arrives", WITHIN, || async {
        let runs = witness.runs();
        let run = runs.iter().find_map(|((agent, _), run)| (agent == NEW.1).then_some(run)).context("a run of the new agent")?;
        let newest = run.acknowledged.last().copied().unwrap_or(0);
        ensure!(run.acknowledged.len() as u64 == newest, "{} of {newest} batches arrived", run.acknowledged.len());
        Ok(())
    })
    .await?;
    ensure!(list(&state)?.is_empty(), "some were refused again");
    agents.end_all().await?;

    let counted: u64 = witness.runs().values().map(|run| run.values).sum();
    let shown = values_shown(&collector.get("metrics").await?)?;
    ensure!(shown == counted, "{shown} values are shown, {counted} were acknowledged");
    collector.kill().await
}
