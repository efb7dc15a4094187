//! A collector whose disk is full or slow, whose wall clock jumps, or whose files were damaged while it was away.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lagmesh_model::status::FleetStatus;
use lagmesh_tests::agents::damage_file;
use lagmesh_tests::clocks::{ClockPlan, HostClock};
use lagmesh_tests::disk::TroubledDisk;
use lagmesh_tests::feed::{CollectorBed, Content, Feed, Posted, fleet_text, values_shown};
use lagmesh_tests::files::RunFolder;
use lagmesh_tests::wait;
use lagmesh_tests::wan::random::Random;
use tokio::task::JoinSet;

/// Agents, each of which measures links to all others.
const AGENTS: usize = 4;
const CONTENT: Content = Content { gauges: true, buckets: 8 };
/// How long the collector may take to show what it has acknowledged.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);
const HOUR_NS: i64 = 3_600_000_000_000;

/// One agent with the batch that nobody has acknowledged yet.
struct Sender {
    feed: Feed,
    pending: Option<Vec<u8>>,
    acknowledged: u64,
}

struct Senders(Vec<Sender>);

impl Senders {
    fn new(boot: u64) -> Result<Senders> {
        let peers = |number| (0..AGENTS).filter(move |peer| *peer != number);
        let sender =
            |number| Ok(Sender { feed: Feed::new(number, boot, peers(number), CONTENT)?, pending: None, acknowledged: 0 });
        Ok(Senders((0..AGENTS).map(sender).collect::<Result<_>>()?))
    }

    /// Each delivers one batch, or keeps it; says how many were acknowledged.
    async fn deliver(&mut self, bed: &CollectorBed) -> Result<usize> {
        let mut acknowledged = 0;
        for sender in &mut self.0 {
            let body = match sender.pending.take() {
                Some(body) => body,
                None => sender.feed.next_body()?,
            };
            match bed.post(body.clone()).await {
                Posted::Acknowledged => {
                    sender.acknowledged = sender.feed.values();
                    acknowledged += 1;
                }
                Posted::Later => sender.pending = Some(body),
                Posted::Refused(status) => bail!("a batch was refused with {status}"),
            }
        }
        Ok(acknowledged)
    }

    /// What must be shown at least, and at most: a batch that is in doubt may have been taken.
    fn values(&self) -> (u64, u64) {
        (self.0.iter().map(|sender| sender.acknowledged).sum(), self.0.iter().map(|sender| sender.feed.values()).sum())
    }

    /// Everything that was acknowledged is shown, and nothing beyond what was sent.
    async fn shown(&self, bed: &CollectorBed) -> Result<u64> {
        let (least, most) = self.values();
        wait::until("what is acknowledged is shown", SHOWN_WITHIN, || async {
            let shown = values_shown(&bed.get("metrics").await?)?;
            ensure!((least..=most).contains(&shown), "{shown} are shown, {least} acknowledged, {most} sent");
            Ok(shown)
        })
        .await
    }

    /// Every batch gets through, and the totals are exact.
    async fn exact(&mut self, bed: &CollectorBed) -> Result<()> {
        wait::until("everything is taken", SHOWN_WITHIN, || async { bed.get("ready").await.map(drop) }).await?;
        // What was kept, and one more.
        for _ in 0..2 {
            ensure!(self.deliver(bed).await? == AGENTS, "a batch was not taken");
        }
        let (least, most) = self.values();
        ensure!(least == most, "{least} acknowledged of {most}");
        self.shown(bed).await.map(drop)
    }
}

/// A number of the collector's own, over all labels.
async fn counted(bed: &CollectorBed, name: &str) -> Result<f64> {
    let metrics = bed.get("metrics").await?;
    let lines = metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    lines.map(|line| Ok(line.rsplit(' ').next().context("a sample has a value")?.parse::<f64>()?)).sum()
}

async fn bed_on(disk: &TroubledDisk, folder: &Path) -> Result<CollectorBed> {
    let mut bed = CollectorBed::start(folder, &fleet_text(AGENTS, AGENTS)).await?;
    bed.kill().await?;
    bed.start_well_with(&disk.env()).await?;
    Ok(bed)
}

/// While its disk is full, a collector acknowledges nothing that it cannot keep and asks to come back; nothing that it acknowledged is
/// lost, even if it is killed and starts again then; and when there is room it goes on by itself, with totals that are exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing() -> Result<()> {
    let folder = RunFolder::new("disk-full")?;
    let disk = TroubledDisk::new(folder.path(), &folder.path().join("collector"))?;
    let mut bed = bed_on(&disk, folder.path()).await?;
    let mut senders = Senders::new(1)?;
    ensure!(senders.deliver(&bed).await? == AGENTS, "a batch was not taken");
    for room in [200_000, 20_000, 0] {
        disk.set_room(Some(room))?;
        // Room that a checkpoint gives back takes a few batches more; in the end it is full.
        let mut refused = 0;
        for _ in 0..200 {
            refused += AGENTS - senders.deliver(&bed).await?;
            if refused > 3 * AGENTS {
                break;
            }
        }
        ensure!(refused > 3 * AGENTS, "the disk was never full");
        bed.runs()?;
        let pending = senders.0[0].pending.clone().context("a batch that was not taken")?;
        let (status, after) = bed.status_of(pending).await?;
        ensure!((status, after) == (503, Some(5)), "it answers {status} and says to come back after {after:?} s");
        senders.shown(&bed).await?;
        bed.kill().await?;
        bed.start_well_with(&disk.env()).await.context("start on a full disk")?;
        senders.shown(&bed).await?;
        disk.set_room(None)?;
        senders.exact(&bed).await?;
    }
    ensure!(bed.log()?.contains("is the disk full?"), "it has not said so");
    Ok(())
}

/// Bodies that each take some memory, from an agent that measures many links.
const FLOOD: usize = 160;
/// What all of them would take at once is far more [bytes].
const GROWTH_MAX_BYTES: u64 = 128 << 20;

/// While its disk takes two seconds for a sync, a collector acknowledges nothing before a sync that began after the request came is done;
/// whom it cannot serve it asks to come back, and its memory does not grow with what they send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_pushes_back() -> Result<()> {
    let folder = RunFolder::new("disk-slow")?;
    let disk = TroubledDisk::new(folder.path(), &folder.path().join("collector"))?;
    let mut bed = bed_on(&disk, folder.path()).await?;
    let content = Content { gauges: true, buckets: 400 };
    let mut feed = Feed::new(0, 1, 1..AGENTS, content)?;
    ensure!(bed.post(feed.next_body()?).await == Posted::Acknowledged, "a batch was not taken");
    let before = rss_bytes(&bed)?;
    disk.set_sync(Duration::from_secs(2))?;
    let bodies: Vec<_> = (0..FLOOD).map(|_| feed.next_body()).collect::<Result<_>>()?;
    let (bed_shared, disk) = (std::sync::Arc::new(bed), std::sync::Arc::new(disk));
    let mut flood = JoinSet::new();
    for body in bodies.clone() {
        let (bed, disk) = (std::sync::Arc::clone(&bed_shared), std::sync::Arc::clone(&disk));
        flood.spawn(async move {
            let (begun, _) = disk.syncs()?;
            let (status, after) = bed.status_of(body).await?;
            let (_, done) = disk.syncs()?;
            match (status, after) {
                (200, _) => ensure!(done > begun, "acknowledged after sync {done}, when {begun} had begun before it was sent"),
                (503, Some(_)) => {}
                other => bail!("it answers {other:?}"),
            }
            Ok(status)
        });
    }
    let (mut taken, mut later) = (0, 0);
    while let Some(status) = flood.join_next().await {
        if status?? == 200 { taken += 1 } else { later += 1 }
    }
    bed = std::sync::Arc::into_inner(bed_shared).context("the flood is over")?;
    let grown = rss_bytes(&bed)?.saturating_sub(before);
    eprintln!("{taken} taken, {later} asked to come back, {} KiB more memory", grown >> 10);
    ensure!(taken > 0 && later > 0, "{taken} were taken, {later} asked to come back");
    ensure!(grown < GROWTH_MAX_BYTES, "its memory has grown by {grown} bytes");
    disk.set_sync(Duration::ZERO)?;
    for body in bodies {
        ensure!(bed.post(body).await == Posted::Acknowledged, "a batch was not taken on a disk that is fast again");
    }
    let shown = values_shown(&bed.get("metrics").await?)?;
    ensure!(shown == feed.values(), "{shown} values are shown, {} were sent", feed.values());
    Ok(())
}

fn rss_bytes(bed: &CollectorBed) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", bed.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// When its wall clock jumps back an hour and forward again, a collector takes every batch, shows exact totals and fresh evidence, and
/// drops nothing of the history, in the same run and over restarts in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_changes_nothing() -> Result<()> {
    let folder = RunFolder::new("clock-back")?;
    let clock = HostClock::new(&folder.path().join("clock"), "collector", &ClockPlan::default(), 0, 0)?;
    let mut bed = CollectorBed::start(folder.path(), &fleet_text(AGENTS, AGENTS)).await?;
    bed.kill().await?;
    bed.start_well_with(&clock.env()).await?;
    let mut senders = Senders::new(1)?;
    senders.exact(&bed).await?;
    for by_ns in [-HOUR_NS, 2 * HOUR_NS, -HOUR_NS, -HOUR_NS] {
        clock.step_wall(by_ns)?;
        senders.exact(&bed).await?;
        fresh(&bed).await?;
        bed.kill().await?;
        bed.start_well_with(&clock.env()).await?;
        senders.shown(&bed).await?;
        senders.exact(&bed).await?;
        fresh(&bed).await?;
    }
    let lost = counted(&bed, "lagmesh_collector_history_lost_total").await?;
    ensure!(lost == 0.0, "the history lacks {lost}");
    ensure!(counted(&bed, "lagmesh_collector_stores_set_aside_total").await? == 0.0, "a store was set aside");
    Ok(())
}

/// All regions have just reported, and the collector says so.
async fn fresh(bed: &CollectorBed) -> Result<()> {
    wait::until("all evidence is fresh", SHOWN_WITHIN, || async {
        let status: FleetStatus = serde_json::from_str(&bed.get("v1/status").await?)?;
        ensure!(status.regions.len() == AGENTS, "{} regions", status.regions.len());
        for region in &status.regions {
            let age_s = region.evidence_age_s.current().copied().with_context(|| format!("nothing from {}", region.region))?;
            ensure!((0.0..60.0).contains(&age_s), "the evidence of {} is {age_s} s old", region.region);
        }
        Ok(())
    })
    .await
}

/// The files of a collector.
const FILES: [&str; 6] = ["collector.db", "collector.db-wal", "history.db", "history.db-wal", "forward.db", "forward.db-wal"];
/// A target that nobody listens at, so that there is a forward queue.
const FORWARD: &str = "[[forward]]\nname = \"nobody\"\nkind = \"remote-write\"\nurl = \"http://127.0.0.1:9/write\"\n";

/// Whatever was cut off or written over in its files while it was away, a collector starts, says and counts what it set aside or left
/// out, never shows more than was sent, and shows all of a run again with the run's next batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_are_survived() -> Result<()> {
    let folder = RunFolder::new("damaged")?;
    let mut bed = CollectorBed::start(folder.path(), &format!("{}{FORWARD}", fleet_text(AGENTS, AGENTS))).await?;
    let (mut random, mut senders) = (Random::new(5), Senders::new(1)?);
    let (mut told, mut earlier) = (0, 0);
    for round in 0..24 {
        for _ in 0..6 {
            senders.deliver(&bed).await?;
        }
        let before = senders.shown_with(&bed, earlier).await?;
        let file = FILES[round % FILES.len()];
        // One that ends leaves all in its files; one that is killed leaves most of it in their logs.
        if file.ends_with("-wal") {
            bed.kill().await?;
        } else {
            bed.stop().await?;
        }
        let damaged = damage_file(&bed.state_folder().join(file), &mut random)?;
        let said = bed.log()?.len();
        bed.start_again().await.with_context(|| format!("start with {file} {damaged}"))?;
        let log = bed.log()?.split_off(said);
        ensure!(!log.contains("panicked"), "{file} {damaged}: {log}");
        let after = values_shown(&bed.get("metrics").await?)?;
        let most = earlier + senders.values().1;
        ensure!(after <= most, "{file} {damaged}: {after} are shown, {most} were sent");
        let metrics = ["lagmesh_collector_stores_set_aside_total", "lagmesh_collector_store_rows_left_out_total"];
        let counted = counted(&bed, metrics[0]).await? + counted(&bed, metrics[1]).await?;
        let says = log.contains("set aside") || log.contains("left out");
        told += u64::from(says);
        if after < before {
            // A log that ends early is what a power loss leaves, and nobody can tell the two apart.
            ensure!(counted > 0.0 && says || file == "collector.db-wal", "{file} {damaged}: {after} of {before} and not a word");
        }
        if file.starts_with("history") && log.contains("set aside") {
            let lost = self::counted(&bed, "lagmesh_collector_history_lost_total").await?;
            ensure!(lost > 0.0, "a history was set aside and not counted");
        }
        // A run's next batch holds all of its counts. Of runs before it is left what the store has kept.
        ensure!(senders.deliver(&bed).await? == AGENTS, "a batch was not taken");
        let own = senders.values().0;
        wait::until("this run is shown in full", SHOWN_WITHIN, || async {
            let shown = values_shown(&bed.get("metrics").await?)?;
            ensure!((own..=earlier + own).contains(&shown), "{shown} are shown, {own} of this run, {earlier} before it");
            Ok(())
        })
        .await?;
        if round % 5 == 4 {
            earlier += senders.values().1;
            senders = Senders::new(2 + round as u64)?;
        }
    }
    ensure!(told >= 4, "it spoke only {told} times: nothing was proved");
    Ok(())
}

impl Senders {
    /// What is shown; at most what was sent, by these and by `earlier` runs.
    async fn shown_with(&self, bed: &CollectorBed, earlier: u64) -> Result<u64> {
        let (least, most) = self.values();
        wait::until("what is acknowledged is shown", SHOWN_WITHIN, || async {
            let shown = values_shown(&bed.get("metrics").await?)?;
            ensure!((least..=earlier + most).contains(&shown), "{shown} are shown, {least} acknowledged, {most} sent");
            Ok(shown)
        })
        .await
    }
}
