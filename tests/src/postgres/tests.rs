use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_postgres::bootstrap::{BootstrapOptions, bootstrap_sql};
use nix::sys::signal::Signal;

use super::faults::Rejoin;
use super::load::Load;
use super::topology::{Quorum, Subscription};
use super::*;
use crate::files::RunFolder;
use crate::skip::skip;

const WITHIN: Duration = Duration::from_secs(20);

async fn primary(name: &str, run: &RunFolder, version: Option<u32>) -> Result<Server> {
    let server = Server::primary(&ServerPlan { version, ..ServerPlan::on_loopback(name)? }, run.path()).await?;
    server.app(&bootstrap_sql(&BootstrapOptions::default())).await?;
    server.app("CREATE TABLE mark (word text)").await?;
    Ok(server)
}

async fn standby(name: &str, run: &RunFolder, source: &Server) -> Result<Server> {
    Server::standby(&ServerPlan::on_loopback(name)?, run.path(), source).await
}

/// Writes a word on one server and waits until it can be read on another.
async fn passes(word: &str, from: &Server, to: &Server) -> Result<()> {
    from.app(&format!("INSERT INTO mark VALUES ('{word}')")).await?;
    wait::until(&format!("'{word}' is at {}", to.name()), WITHIN, || async {
        to.app(&format!("SELECT 1 FROM mark WHERE word = '{word}'")).await?.context("not there yet")
    })
    .await
    .map(drop)
}

/// A primary and a standby of every version that can be had start, replicate and say which version they are.
#[tokio::test]
async fn every_version_replicates() -> Result<()> {
    let run = RunFolder::new("versions")?;
    let available = version::available();
    for missing in version::SUPPORTED.filter(|version| !available.contains(version)) {
        skip(&format!("PostgreSQL {missing}: tests/postgres-versions.sh fetches it"));
    }
    ensure!(!available.is_empty(), "there is no PostgreSQL at all");
    for version in available {
        let writer = primary(&format!("writer-{version}"), &run, Some(version)).await?;
        let reader = standby(&format!("reader-{version}"), &run, &writer).await?;
        passes("hello", &writer, &reader).await.with_context(|| format!("PostgreSQL {version}"))?;
        let told = reader.sql("SHOW server_version_num", "postgres").await?.context("a version")?;
        assert!(told.starts_with(&version.to_string()), "{told} for {version}");
        assert_eq!(reader.sql("SELECT pg_is_in_recovery()", "postgres").await?.as_deref(), Some("t"));
    }
    Ok(())
}

/// A cascade passes rows on, a commit waits for a frozen synchronous standby, and after a promotion the old writer comes back as a
/// second writer, by rewinding and by a new copy, each time with what the new writer holds.
#[tokio::test]
async fn cascade_synchrony_and_the_old_writer() -> Result<()> {
    let run = RunFolder::new("cascade")?;
    let mut writer = primary("writer", &run, None).await?;
    let middle = standby("middle", &run, &writer).await?;
    let last = standby("last", &run, &middle).await?;
    passes("cascade", &writer, &last).await?;

    writer.synchronous("on", Quorum::Any(1), &["middle"]).await?;
    passes("synchronous", &writer, &middle).await?;
    middle.signal_walreceiver(Signal::SIGSTOP).await?;
    let waits = tokio::time::timeout(Duration::from_millis(700), writer.app("INSERT INTO mark VALUES ('waiting')")).await;
    assert!(waits.is_err(), "the commit returned although nobody confirmed it");
    middle.signal_walreceiver(Signal::SIGCONT).await?;
    writer.asynchronous().await?;

    middle.promote().await?;
    middle.app("INSERT INTO mark VALUES ('new writer')").await?;
    writer.app("INSERT INTO mark VALUES ('lost')").await.context("the old writer still writes: there are two")?;
    writer.rejoin(&middle, Rejoin::Rewind).await?;
    passes("rewound", &middle, &writer).await?;
    assert_eq!(writer.app("SELECT count(*) FROM mark WHERE word = 'lost'").await?.as_deref(), Some("0"));
    writer.rejoin(&middle, Rejoin::Copy).await?;
    passes("copied", &middle, &writer).await?;
    passes("still cascading", &middle, &last).await
}

/// A frozen server does not answer and goes on when thawed; a killed one starts again; a dropped slot is gone; a conflicting snapshot
/// holds replay up for as long as it is held.
#[tokio::test]
async fn faults_do_what_they_say() -> Result<()> {
    let run = RunFolder::new("faults")?;
    let writer = primary("writer", &run, None).await?;
    let mut reader = standby("reader", &run, &writer).await?;
    let mut load = Load::start(&writer, 2, 50).await?;

    reader.freeze()?;
    let frozen = tokio::time::timeout(Duration::from_millis(500), reader.sql("SELECT 1", "postgres")).await;
    assert!(frozen.is_err(), "a frozen server answered");
    reader.thaw()?;
    passes("thawed", &writer, &reader).await?;
    reader.kill().await?;
    reader.start().await?;
    passes("killed and started", &writer, &reader).await?;

    reader.pause_replay().await?;
    writer.app("INSERT INTO mark VALUES ('paused')").await?;
    assert_eq!(reader.app("SELECT count(*) FROM mark WHERE word = 'paused'").await?.as_deref(), Some("0"));
    reader.resume_replay().await?;

    let held = reader.hold_conflicting_snapshot(&writer).await?;
    writer.app("INSERT INTO mark VALUES ('behind the conflict')").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let behind = "SELECT count(*) FROM mark WHERE word = 'behind the conflict'";
    assert_eq!(reader.app(behind).await?.as_deref(), Some("0"), "replay did not wait for the snapshot");
    assert!(held.is_held());
    drop(held);
    passes("after the conflict", &writer, &reader).await?;

    assert!(matches!(load.process().ended(), Ok(None)), "{}", load.process().last_words());
    let transactions = writer.app("SELECT count(*) FROM pgbench_history").await?.context("a count")?;
    assert!(transactions.parse::<u32>()? > 10, "{transactions} transactions of load");
    writer.drop_slot(&reader.slot()).await?;
    let slots = writer.sql("SELECT count(*) FROM pg_replication_slots", "postgres").await?;
    // The standby is refused from now on, since the slot is not made again by itself.
    assert_eq!(slots.as_deref(), Some("0"));
    Ok(())
}

/// A subscriber gets beats and rows, stops when switched off, stops at a row that it has already and goes on once that is gone. Both
/// ways needs version 16: an older one says so, and with it rows go each way once.
#[tokio::test]
async fn logical_replication() -> Result<()> {
    let run = RunFolder::new("logical")?;
    let (left, right) = (primary("left", &run, None).await?, primary("right", &run, None).await?);
    let row_passes = async |id: i64, from: &Server, to: &Server| -> Result<()> {
        from.app(&format!("INSERT INTO testbed.rows VALUES ({id}, '{}')", from.name())).await?;
        wait::until("the row passes", WITHIN, || async {
            to.app(&format!("SELECT 1 FROM testbed.rows WHERE id = {id}")).await?.context("not there yet")
        })
        .await
        .map(drop)
    };
    right.subscribe(&left, &Subscription::default()).await?;
    row_passes(1, &left, &right).await?;
    right.enable_subscription(&left, false).await?;
    assert!(tokio::time::timeout(Duration::from_secs(1), row_passes(2, &left, &right)).await.is_err(), "it is switched off");
    right.enable_subscription(&left, true).await?;
    row_passes(3, &left, &right).await?;
    right.break_subscription(&left).await?;
    assert!(tokio::time::timeout(Duration::from_secs(1), row_passes(4, &left, &right)).await.is_err(), "it is broken");
    right.mend_subscription().await?;
    row_passes(5, &left, &right).await?;

    if left.version() < 16 {
        let both_ways = Subscription { both_ways: true, ..Subscription::default() };
        let error = left.subscribe(&right, &both_ways).await.unwrap_err().to_string();
        assert!(error.contains("needs 16 or later"), "{error}");
    }
    let Some(version) = version::available().into_iter().find(|version| *version >= 16) else {
        skip("logical replication both ways: PostgreSQL 16 or later is not here");
        return Ok(());
    };
    let east = primary("east", &run, Some(version)).await?;
    let west = primary("west", &run, Some(version)).await?;
    west.subscribe(&east, &Subscription { both_ways: true, ..Subscription::default() }).await?;
    row_passes(1, &east, &west).await?;
    row_passes(2, &west, &east).await?;
    west.break_subscription(&east).await?;
    west.mend_subscription().await?;
    row_passes(3, &east, &west).await?;
    row_passes(4, &west, &east).await
}
