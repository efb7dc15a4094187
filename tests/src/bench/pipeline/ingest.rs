//! How many points a core takes in, kept on disk and merged.

use std::time::Duration;

use anyhow::Result;

use super::senders::{BUCKETS, REGIONS, SENDERS, blast, points, prepare};
use crate::bench::figure::Figure;
use crate::bench::{progress, say_figures, usage};
use crate::feed::{CollectorBed, Content, fleet_text};
use crate::files::RunFolder;
use crate::real::Real;

/// About how many bodies a second are posted: sizes the work, which then takes as long as it takes.
const BODIES_PER_S: u64 = 150;
/// Not measured: connections are made, names are learnt.
const WARM_UP: usize = 5;
const TARGET_GAUGES: f64 = 400_000.0;
const TARGET_HISTOGRAMS: f64 = 100_000.0;

/// What a run of bodies took.
pub(super) struct Taken {
    /// Bodies.
    pub(super) requests: f64,
    /// Processor time of the collector [s].
    pub(super) cpu_s: f64,
    /// Time that passed [s].
    pub(super) wall_s: f64,
}

pub(super) async fn measure(time: Duration) -> Result<()> {
    let gauges = Content { gauges: true, buckets: 0 };
    let histograms = Content { gauges: false, buckets: BUCKETS };
    let table = [("pipeline.gauge_points", gauges, TARGET_GAUGES), ("pipeline.histogram_points", histograms, TARGET_HISTOGRAMS)];
    for (name, content, target) in table {
        let taken = run(content, time / 2).await?;
        let per_core = taken.requests * points(content) as f64 / taken.cpu_s;
        let how = format!(
            "{name}: {:.0} bodies of {} points each, OTLP in protobuf and gzip over HTTP from {SENDERS} senders on {SENDERS} connections, \
             each acknowledged when it was on disk; points over the processor time of the whole collector ({:.2} s in {:.2} s), which \
             went on judging {REGIONS} regions",
            taken.requests,
            points(content),
            taken.cpu_s,
            taken.wall_s
        );
        say_figures(&how, &[Figure::new(name, "points/s", per_core, target)]);
    }
    Ok(())
}

/// Bodies of one kind against a collector of their own.
pub(super) async fn run(content: Content, time: Duration) -> Result<Taken> {
    let per_sender = usize::try_from(time.as_secs().max(1) * BODIES_PER_S / SENDERS as u64)?.max(WARM_UP);
    progress(&format!("making {} bodies of {} points", per_sender * SENDERS, points(content)));
    let folder = RunFolder::new("bench-pipeline")?;
    let bed = CollectorBed::start(folder.path(), &fleet_text(REGIONS, SENDERS)).await?;
    blast(&bed.otlp_url(), prepare(WARM_UP, content, 1).await?).await?;
    let bodies = prepare(per_sender, content, 2).await?;
    let (began, cpu_before) = (Real::now(), usage::cpu_s(bed.pid()?)?);
    blast(&bed.otlp_url(), bodies).await?;
    let wall_s = (Real::now() - began) as f64 / 1e9;
    let cpu_s = usage::cpu_s(bed.pid()?)? - cpu_before;
    Ok(Taken { requests: (per_sender * SENDERS) as f64, cpu_s, wall_s })
}
