//! How soon a batch is acknowledged at half load.

use std::time::Duration;

use anyhow::Result;

use super::ingest;
use super::senders::{BUCKETS, REGIONS, SENDERS, paced, points, prepare, quantile, syncs};
use crate::bench::figure::Figure;
use crate::bench::{progress, say, say_figures, usage};
use crate::feed::{CollectorBed, Content, fleet_text};
use crate::files::RunFolder;
use crate::real::Real;

/// The share of one core that the load is to take.
const HALF: f64 = 0.5;
const TARGET_MS: f64 = 10.0;
const SYNCS: usize = 500;
/// Bodies of each sender that are not measured: connections are made, names are learnt.
const WARM_UP: usize = 5;

pub(super) async fn measure(time: Duration) -> Result<()> {
    let content = Content { gauges: true, buckets: BUCKETS };
    let fastest = ingest::run(content, time / 6).await?;
    // What waits together is written together, and a history that cannot keep up leaves points out: at half load a body costs more.
    let guess = Pace::half(fastest.cpu_s / fastest.requests);
    let paced = run(content, guess, time / 6).await?;
    let pace = Pace::half(paced.cpu_s / paced.took.len() as f64);
    let Run { took, cpu_s, passed_s, size } = run(content, pace, time / 2).await?;
    let folder = RunFolder::new("bench-pipeline")?;
    let disk = syncs(folder.path().to_owned(), size, SYNCS).await?;

    let ms = |ns: u64| ns as f64 / 1e6;
    let how = format!(
        "pipeline.ack_p99_ms: {} bodies of {} points ({size} bytes as sent), {:.0} a second, of which the collector was to take half of a \
         core ({cpu_s:.2} s of processor in {passed_s:.2} s); from the moment when a body was posted, or was due if the one before was not \
         answered by then, to its answer, which says that it is on disk: median {:.2} ms, longest {:.2} ms",
        took.len(),
        points(content),
        pace.per_second(),
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

/// How often each sender posts a body.
#[derive(Clone, Copy)]
struct Pace(Duration);

impl Pace {
    /// Half of a core, where a body costs so much of it [s].
    fn half(body_cpu_s: f64) -> Pace {
        Pace(Duration::from_secs_f64(SENDERS as f64 * body_cpu_s / HALF))
    }

    fn per_second(self) -> f64 {
        SENDERS as f64 / self.0.as_secs_f64()
    }
}

/// What came of bodies at one pace.
struct Run {
    /// How long each took, sorted [ns].
    took: Vec<u64>,
    /// Processor time of the collector [s].
    cpu_s: f64,
    /// Time that passed [s].
    passed_s: f64,
    /// Of a body as sent, in the mean [B].
    size: usize,
}

/// Bodies at that pace against a collector of their own.
async fn run(content: Content, pace: Pace, time: Duration) -> Result<Run> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bodies")]
    let turns = ((time.as_secs_f64() / pace.0.as_secs_f64()).ceil() as usize).max(10);
    progress(&format!("{:.0} requests a second, {} in all", pace.per_second(), turns * SENDERS));
    let folder = RunFolder::new("bench-pipeline")?;
    let bed = CollectorBed::start(folder.path(), &fleet_text(REGIONS, SENDERS)).await?;
    paced(&bed.otlp_url(), prepare(WARM_UP, content, 1).await?, pace.0).await?;
    let bodies = prepare(turns, content, 2).await?;
    let size = bodies.iter().flatten().map(Vec::len).sum::<usize>() / (turns * SENDERS);
    let (began, before) = (Real::now(), usage::cpu_s(bed.pid()?)?);
    let took = paced(&bed.otlp_url(), bodies, pace.0).await?;
    let (cpu_s, passed_s) = (usage::cpu_s(bed.pid()?)? - before, (Real::now() - began) as f64 / 1e9);
    Ok(Run { took, cpu_s, passed_s, size })
}
