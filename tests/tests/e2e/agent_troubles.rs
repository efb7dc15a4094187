//! Agents whose spool stands on a full disk, or was damaged while they were away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_tests::agents::{AgentsBed, Witness, damage_file};
use lagmesh_tests::disk::TroubledDisk;
use lagmesh_tests::feed::{CollectorBed, values_shown};
use lagmesh_tests::files::RunFolder;
use lagmesh_tests::wait;
use lagmesh_tests::wan::random::Random;
use nix::sys::signal::Signal;

use crate::support::BUSY;

const WITHIN: Duration = Duration::from_secs(30);

/// How many batches a spool gave up for a reason, by a page of metrics.
fn lost(metrics: &str, agent: &str, reason: &str) -> u64 {
    let labels = [format!("agent=\"{agent}\""), format!("reason=\"{reason}\"")];
    let lines = metrics.lines().filter(|line| line.starts_with("lagmesh_spool_lost_total{"));
    let fitting = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    fitting.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// How many batches of all runs did not arrive although a later one of the same run did.
fn gaps(witness: &Witness) -> u64 {
    let runs = witness.runs();
    runs.values().filter_map(|run| Some(run.acknowledged.last()? - run.acknowledged.len() as u64)).sum()
}

/// With its collector away and its disk full an agent measures on, counts each batch that it could not keep, starts again there, and
/// delivers by itself once there is room: what did not arrive is what it says it lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_what_the_ledger_says() -> Result<()> {
    let folder = RunFolder::new("spool-full")?;
    let mut agents = AgentsBed::new(folder.path(), 2)?;
    let witness = Witness::unaimed(0.0, 1).await?;
    let fleet = agents.fleet(&[("main", witness.url())], BUSY)?;
    let mut collector = CollectorBed::start(folder.path(), &fleet).await?;
    let disk = TroubledDisk::new(folder.path(), &agents.state_folder(0))?;
    agents.set_env(0, disk.env());
    agents.start_all()?;
    let waiting = |least: u64| {
        let agents = &agents;
        wait::until("batches wait", WITHIN, move || async move {
            let waiting = agents.exports(0).await?.first().context("an export")?.pending_batches;
            ensure!(waiting >= least, "only {waiting} wait");
            Ok(())
        })
    };
    waiting(10).await?;
    disk.set_room(Some(0))?;
    wait::until("it counts what it cannot keep", WITHIN, || async {
        let lost = lost(&agents.get(0, "metrics").await?, "r0000", "disk-full");
        ensure!(lost >= 10, "only {lost} are lost");
        Ok(())
    })
    .await?;
    disk.set_room(None)?;
    waiting(10).await?;
    witness.aim(&collector.otlp_url());
    agents.delivered().await?;
    agents.end_all().await?;
    let metrics = collector.get("metrics").await?;
    let (gone, told) = (gaps(&witness), lost(&metrics, "r0000", "disk-full") + lost(&metrics, "r0000", "disk-error"));
    ensure!(gone == told && told >= 10, "{gone} batches did not arrive, {told} are in the ledger");
    let counted: u64 = witness.runs().values().map(|run| run.values).sum();
    let shown = values_shown(&metrics)?;
    ensure!(shown == counted, "{shown} values are shown, {counted} were acknowledged");

    // On a disk that is full from the start it runs all the same.
    disk.set_room(Some(0))?;
    agents.start_all()?;
    wait::until("it delivers from memory", WITHIN, || async {
        let acknowledged = agents.exports(0).await?.first().context("an export")?.acknowledged_age_s.is_known();
        ensure!(acknowledged, "nothing was acknowledged");
        Ok(())
    })
    .await?;
    agents.end(0, Signal::SIGKILL).await?;
    agents.start(0)?;
    wait::until("it runs again", WITHIN, || async { agents.get(0, "ready").await.map(drop) }).await?;
    disk.set_room(None)?;
    agents.delivered().await?;
    agents.end_all().await?;
    collector.kill().await
}

/// Whatever was cut off or written over in their spools while they were away, agents start, deliver what they still have, and say and
/// count that something is gone; totals stay exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_spools_are_survived() -> Result<()> {
    const AGENTS: usize = 4;
    let folder = RunFolder::new("damaged-spools")?;
    let mut agents = AgentsBed::new(folder.path(), AGENTS)?;
    let witness = Witness::unaimed(0.0, 1).await?;
    let fleet = agents.fleet(&[("main", witness.url())], BUSY)?;
    let collector = CollectorBed::start(folder.path(), &fleet).await?;
    let mut random = Random::new(9);
    let mut told = 0;
    for round in 0..4 {
        witness.aim("http://127.0.0.1:9/");
        agents.start_all()?;
        for number in 0..AGENTS {
            wait::until("batches wait", WITHIN, || async {
                let waiting = agents.exports(number).await?.first().context("an export")?.pending_batches;
                ensure!(waiting >= 10, "only {waiting} wait");
                Ok(())
            })
            .await?;
        }
        // One that ends leaves all in its file; one that is killed leaves most of it in the log beside it.
        let (file, end) = if round % 2 == 0 { ("spool.db", Signal::SIGTERM) } else { ("spool.db-wal", Signal::SIGKILL) };
        let mut left = Vec::new();
        for number in 0..AGENTS {
            agents.end(number, end).await?;
            let waiting = agents.waiting(number)?;
            let damaged = damage_file(&agents.state_folder(number).join(file), &mut random)?;
            left.push((waiting, format!("{file} {damaged}"), agents.log(number)?.len()));
        }
        witness.aim(&collector.otlp_url());
        for (number, (waiting, damaged, said)) in left.into_iter().enumerate() {
            agents.start(number)?;
            wait::until("it runs again", WITHIN, || async { agents.get(number, "ready").await.map(drop) })
                .await
                .with_context(|| format!("start with {damaged}"))?;
            let counted = wait::until("it delivers, or says what is gone", WITHIN, || async {
                let runs = witness.runs();
                let arrived = |(boot, sequence): &(u64, u64)| {
                    runs.iter().any(|((_, of), run)| of == boot && run.acknowledged.contains(sequence))
                };
                let gone = waiting.iter().filter(|batch| !arrived(batch)).count();
                let metrics = agents.get(number, "metrics").await?;
                let agent = format!("r{number:04}");
                let counted = lost(&metrics, &agent, "corrupt") + lost(&metrics, &agent, "refused");
                // A log that ends early is what a power loss leaves, and nobody can tell the two apart.
                let silent_loss = gone > 0 && counted == 0 && file == "spool.db";
                ensure!(!silent_loss, "{damaged}: {gone} of {} gone without a word", waiting.len());
                Ok(counted)
            })
            .await?;
            told += u64::from(counted > 0);
            let log = agents.log(number)?.split_off(said);
            ensure!(!log.contains("panicked"), "{damaged}: {log}");
            ensure!(counted == 0 || log.contains("ERROR"), "{damaged}: {counted} are counted, and the log has no error");
        }
        agents.delivered().await?;
        agents.end_all().await?;
    }
    ensure!(told >= 2, "they spoke only {told} times: nothing was proved");
    let counted: u64 = witness.runs().values().map(|run| run.values).sum();
    let shown = values_shown(&collector.get("metrics").await?)?;
    ensure!(shown == counted, "{shown} values are shown, {counted} were acknowledged");
    Ok(())
}
