//! How soon a batch is acknowledged at half load.

use std::time::Duration;

use anyhow::Result;

use super::ingest;
use super::senders::{BUCKETS, REGIONS, SENDERS, paced, points, prepare, quantile, syncs};
use crate::bench::figure::Figure;
use crate::bench::{progress, say, say_figures, usage};
use crate::feed::{CollectorBed, Content, fleet_text};
use crate::files::RunFolder;

/// The share of one core that the load is to take.
const HALF: f64 = 0.5;
const TARGET_MS: f64 = 10.0;
const SYNCS: usize = 500;

pub(super) async fn measure(time: Duration) -> Result<()> {
    let content = Content { gauges: true, buckets: BUCKETS };
    let fastest = ingest::run(content, time / 6).await?;
    // One that a processor does by itself without a pause.
    let per_core = fastest.requests / fastest.cpu_s;
    let rate = per_core * HALF;
    let every = Duration::from_secs_f64(SENDERS as f64 / rate);
    let turns = (time.as_secs_f64() / 2.0 / every.as_secs_f64()).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bodies")]
    let turns = (turns as usize).max(10);
    progress(&format!("{rate:.0} requests a second, {} in all", turns * SENDERS));

    let folder = RunFolder::new("bench-pipeline")?;
    let bed = CollectorBed::start(folder.path(), &fleet_text(REGIONS, SENDERS)).await?;
    paced(&bed.otlp_url(), prepare(5, content, 1).await?, every).await?;
    let bodies = prepare(turns, content, 2).await?;
    let size = bodies.iter().flatten().map(Vec::len).sum::<usize>() / (turns * SENDERS);
    let before = usage::cpu_s(bed.pid()?)?;
    let took = paced(&bed.otlp_url(), bodies, every).await?;
    let cpu_s = usage::cpu_s(bed.pid()?)? - before;
    let disk = syncs(folder.path().to_owned(), size, SYNCS).await?;

    let ms = |ns: u64| ns as f64 / 1e6;
    let how = format!(
        "pipeline.ack_p99_ms: {} bodies of {} points ({size} bytes as sent), {rate:.0} a second, half of what one core takes ({:.2} s of \
         processor in {:.0} s); from the moment when a body was due to its answer, which says that it is on disk: median {:.2} ms, longest \
         {:.2} ms",
        took.len(),
        points(content),
        cpu_s,
        every.as_secs_f64() * turns as f64,
        ms(quantile(&took, 50)),
        ms(quantile(&took, 100))
    );
    say_figures(&how, &[Figure::new("pipeline.ack_p99_ms", "ms", ms(quantile(&took, 99)), TARGET_MS)]);
    say(&format!(
        "the disk itself: fdatasync after each of {SYNCS} records of {size} bytes takes {:.2} ms in the median, p99 {:.2} ms",
        ms(quantile(&disk, 50)),
        ms(quantile(&disk, 99))
    ));
    Ok(())
}
