//! A collector that is away costs nothing but time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_tests::plan::{COLLECTOR, REGIONS};
use lagmesh_tests::wait;
use nix::sys::signal::Signal;

use crate::support::{ready_world, replication_at_agent};

/// How many batches must have piled up before the collector comes back; one leaves per second.
const PILED_UP: u64 = 12;

/// Agents measure on and keep what they measured while the collector is dead, deliver all of it afterwards, and lose nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_measured_during_an_outage_arrives() -> Result<()> {
    let mut world = ready_world("outage").await?;
    world.stop_collector(COLLECTOR, Signal::SIGKILL).await?;
    for region in REGIONS {
        wait::until("batches pile up", Duration::from_secs(60), || async {
            let status = world.agent_status(region).await?;
            let pending = status.exports.first().context("no export listed")?.pending_batches;
            ensure!(pending >= PILED_UP, "only {pending} batches wait in {region}");
            Ok(())
        })
        .await?;
    }
    let tokyo = replication_at_agent(&world, "tokyo").await?;
    ensure!(tokyo.lag.is_known(), "the agent stopped measuring: {:?}", tokyo.lag);

    world.start_collector(COLLECTOR)?;
    for region in REGIONS {
        wait::until("the spool is empty", Duration::from_secs(60), || async {
            let status = world.agent_status(region).await?;
            let export = status.exports.first().context("no export listed")?;
            ensure!(export.pending_batches <= 1, "{} batches wait in {region}: {:?}", export.pending_batches, export.error);
            Ok(())
        })
        .await?;
    }
    world.ready().await?;
    let metrics = world.get("metrics").await?;
    let lost: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("lagmesh_spool_lost") && !line.trim_end().ends_with(" 0")).collect();
    ensure!(lost.is_empty(), "batches were lost: {lost:?}");
    world.stop().await
}
