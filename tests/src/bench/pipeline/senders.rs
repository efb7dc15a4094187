//! Who posts: several senders at once, each with the batches of one agent, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use crate::feed::{Content, Feed, GAUGES_PER_PEER, HISTOGRAMS_PER_PEER, acknowledged, client, post};
use crate::real::Real;

/// Agents that post at once. Each has one connection, as agents do.
pub(super) const SENDERS: usize = 8;
/// The peers of each: 800 current values and 200 distributions.
pub(super) const PEERS: usize = 100;
/// The regions of the fleet.
pub(super) const REGIONS: usize = PEERS + 1;
/// The occupied buckets of each distribution.
pub(super) const BUCKETS: u32 = 60;

/// The bodies of one agent, in order.
pub(super) type Bodies = Vec<Vec<u8>>;

/// The points of one body.
pub(super) fn points(content: Content) -> usize {
    let gauges = if content.gauges { GAUGES_PER_PEER } else { 0 };
    let histograms = if content.buckets > 0 { HISTOGRAMS_PER_PEER } else { 0 };
    PEERS * (gauges + histograms)
}

/// `count` bodies for each sender, made beforehand: what it takes to make them is not what is measured.
///
/// # Errors
/// If one cannot be made.
pub(super) async fn prepare(count: usize, content: Content, boot: u64) -> Result<Vec<Bodies>> {
    let mut making = JoinSet::new();
    for number in 0..SENDERS {
        making.spawn_blocking(move || {
            let peers = (0..REGIONS).filter(|peer| *peer != number);
            let mut feed = Feed::new(number, boot, peers, content)?;
            (0..count).map(|_| feed.next_body()).collect::<Result<Bodies>>()
        });
    }
    let mut all = Vec::with_capacity(SENDERS);
    while let Some(made) = making.join_next().await {
        all.push(made??);
    }
    Ok(all)
}

/// Posts everything as fast as it is taken, each sender its own in order.
///
/// # Errors
/// If a body is not taken.
pub(super) async fn blast(url: &str, all: Vec<Bodies>) -> Result<()> {
    let mut sending = JoinSet::new();
    for bodies in all {
        let (client, url) = (client()?, url.to_owned());
        sending.spawn(async move {
            for body in bodies {
                acknowledged(post(&client, &url, body).await)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok(())
}

/// Posts each sender's bodies one every `every`, all senders spread over it, and tells how long each took [ns]: from when it was posted, or was
/// due if the one before had not been answered by then. That a sender's own timer rings late is not the collector's.
///
/// # Errors
/// If a body is not taken.
pub(super) async fn paced(url: &str, all: Vec<Bodies>, every: Duration) -> Result<Vec<u64>> {
    let mut sending = JoinSet::new();
    let senders = u32::try_from(all.len()).context("too many senders")?;
    let started = Real::now();
    for (number, bodies) in (0..senders).zip(all) {
        let (client, url) = (client()?, url.to_owned());
        sending.spawn(async move {
            let mut took = Vec::with_capacity(bodies.len());
            for (turn, body) in (0_u32..).zip(bodies) {
                let due = started + i64::try_from((every * turn + every * number / senders).as_nanos())?;
                let wait_ns = due - Real::now();
                let from = if wait_ns > 0 {
                    sleep(Duration::from_nanos(wait_ns.cast_unsigned())).await;
                    Real::now()
                } else {
                    due
                };
                acknowledged(post(&client, &url, body).await)?;
                took.push((Real::now() - from).max(0).cast_unsigned());
            }
            anyhow::Ok(took)
        });
    }
    let mut all = Vec::new();
    while let Some(took) = sending.join_next().await {
        all.extend(took??);
    }
    all.sort_unstable();
    Ok(all)
}

/// A quantile of what is sorted.
pub(super) fn quantile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len().max(1) - 1) * percent / 100).copied().unwrap_or(0)
}

/// Counts what several tasks do.
pub(super) type Counter = Arc<AtomicU64>;

/// One more.
pub(super) fn count(counter: &Counter) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What has been counted.
pub(super) fn counted(counter: &Counter) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// How long the disk takes to keep a record of so many bytes: a write at the end of a file and `fdatasync`, one after the other [ns].
///
/// # Errors
/// If the file cannot be written.
pub(super) async fn syncs(folder: std::path::PathBuf, bytes: usize, times: usize) -> Result<Vec<u64>> {
    spawn_blocking(move || {
        use std::io::Write as _;
        let mut file = std::fs::File::create(folder.join("syncs")).context("make a file to sync")?;
        let record = vec![0x5a; bytes];
        let mut took = Vec::with_capacity(times);
        for _ in 0..times {
            let began = Real::now();
            file.write_all(&record)?;
            file.sync_data()?;
            took.push((Real::now() - began).max(0).cast_unsigned());
        }
        took.sort_unstable();
        Ok(took)
    })
    .await?
}
