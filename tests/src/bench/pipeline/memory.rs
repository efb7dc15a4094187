//! What a series takes in memory, and what an idle collector does.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::senders::{BUCKETS, REGIONS, SENDERS, paced, points, prepare};
use crate::bench::figure::Figure;
use crate::bench::{progress, say_figures, usage};
use crate::feed::{CollectorBed, Content, fleet_text};
use crate::files::RunFolder;

/// What is allotted once is allotted by then.
const SETTLE: Duration = Duration::from_secs(5);
/// More batches than a minute holds, so that everything that is kept of a series is there.
const BATCHES: usize = 14;
/// From batch to batch of an agent. Agents take longer; all at once would measure what waits to be written.
const EVERY: Duration = Duration::from_secs(2);
const BYTES_PER_SERIES: f64 = 2048.0;
const BYTES_PER_BUCKET: f64 = 8.0;
const IDLE_MIB: f64 = 30.0;

pub(super) async fn measure() -> Result<()> {
    progress("an idle collector, then one that keeps the series of all senders");
    let content = Content { gauges: true, buckets: BUCKETS };
    let folder = RunFolder::new("bench-pipeline")?;
    let bed = CollectorBed::start(folder.path(), &fleet_text(REGIONS, SENDERS)).await?;
    sleep(SETTLE).await;
    let idle_mib = usage::rss_mib(bed.pid()?)?;
    paced(&bed.otlp_url(), prepare(BATCHES, content, 1).await?, EVERY).await?;
    sleep(SETTLE).await;
    let full_mib = usage::rss_mib(bed.pid()?)?;
    let series = (SENDERS * points(content)) as f64;
    let per_series = (full_mib - idle_mib) * 1024.0 * 1024.0 / series;
    let buckets = f64::from(200 * BUCKETS) / points(content) as f64;
    let how = format!(
        "pipeline.idle_rss, pipeline.bytes_per_series: VmRSS of a collector of {REGIONS} regions {} s after its start ({idle_mib:.1} MiB), and \
         after {BATCHES} batches of each of {SENDERS} agents, one every {} s ({full_mib:.1} MiB); the difference over {series:.0} series, of which every fifth \
         is a histogram of {BUCKETS} buckets: {buckets:.0} buckets per series in the mean",
        SETTLE.as_secs(),
        EVERY.as_secs()
    );
    let target = BYTES_PER_SERIES + BYTES_PER_BUCKET * buckets;
    let figures = [
        Figure::new("pipeline.idle_rss", "MiB", idle_mib, IDLE_MIB),
        Figure::new("pipeline.bytes_per_series", "By", per_series, target),
    ];
    say_figures(&how, &figures);
    Ok(())
}
