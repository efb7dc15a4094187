//! Replication that freezes or is paused is noticed for what it is, and recovers by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::ReplicationState;
use lagmesh_tests::wait;
use nix::sys::signal::Signal;

use crate::support::{BEAT, ready_world, replication_at_agent, replication_in, staleness, until_state};

/// While nothing is received, PostgreSQL's own positions say that all is well: the usual lag query reads 0.
const USUAL_QUERY_IS_BLIND: &str = "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()";

/// A frozen walreceiver is noticed within three beats, staleness grows in real time although received equals replayed, the other
/// standby is left alone, and all is well again after it runs on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_walreceiver_is_noticed_within_three_beats() -> Result<()> {
    let mut world = ready_world("frozen").await?;
    until_state(&world, "tokyo", &[ReplicationState::Ok], Duration::from_secs(20)).await?;
    let pid = world.server("tokyo-db")?.signal_walreceiver(Signal::SIGSTOP).await?;
    let frozen = tokio::time::Instant::now();
    let noticed = wait::until("Tokyo's state leaves ok", 3 * BEAT, || async {
        let replication = replication_at_agent(&world, "tokyo").await?;
        ensure!(replication.state != ReplicationState::Ok, "still ok after {:?}", frozen.elapsed());
        Ok(replication)
    })
    .await?;
    assert!(noticed.state.is_stuck(), "{}: {}", noticed.state, noticed.why);

    let blind = world.server("tokyo-db")?.app(USUAL_QUERY_IS_BLIND).await?;
    assert_eq!(blind.as_deref(), Some("t"), "received and replayed should be equal while nothing arrives");
    let (before, at) = (staleness(&replication_at_agent(&world, "tokyo").await?)?, tokio::time::Instant::now());
    let grown = wait::until("staleness has grown by 3 s", Duration::from_secs(10), || async {
        let now = staleness(&replication_at_agent(&world, "tokyo").await?)?;
        ensure!(now.estimate_s - before.estimate_s >= 3.0, "it is {now:?}");
        Ok(now.estimate_s - before.estimate_s)
    })
    .await?;
    let passed = at.elapsed().as_secs_f64();
    assert!((grown - passed).abs() < 1.5, "staleness grew by {grown} s in {passed} s");

    until_state(&world, "tokyo", &[noticed.state], Duration::from_secs(10)).await?;
    let dublin = replication_in(&world.fleet_status().await?, "dublin")?;
    assert_eq!(dublin.state, ReplicationState::Ok, "{}", dublin.why);

    nix::sys::signal::kill(pid, Signal::SIGCONT).context("resume the walreceiver")?;
    until_state(&world, "tokyo", &[ReplicationState::Ok], Duration::from_secs(30)).await?;
    world.stop().await
}

/// Paused replay is called paused, whatever is received meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_replay_is_called_paused() -> Result<()> {
    let mut world = ready_world("paused").await?;
    world.server("dublin-db")?.app("SELECT pg_wal_replay_pause()").await?;
    until_state(&world, "dublin", &[ReplicationState::Paused], Duration::from_secs(10)).await?;
    let tokyo = replication_in(&world.fleet_status().await?, "tokyo")?;
    assert_eq!(tokyo.state, ReplicationState::Ok, "{}", tokyo.why);
    world.server("dublin-db")?.app("SELECT pg_wal_replay_resume()").await?;
    until_state(&world, "dublin", &[ReplicationState::Ok], Duration::from_secs(20)).await?;
    world.stop().await
}
