//! How many requests a core takes in, beside a VictoriaMetrics that gets the same bodies.

use std::time::Duration;

use anyhow::Result;

use super::ingest;
use lagmesh_model::state::LinkState;

use super::senders::{BUCKETS, PEERS, SENDERS, blast, points, prepare};
use super::victoria::Victoria;
use crate::bench::figure::Figure;
use crate::bench::{progress, say, say_figures, usage};
use crate::feed::{Content, HISTOGRAMS_PER_PEER};
use crate::files::RunFolder;
use crate::real::Real;

/// About how many bodies a second VictoriaMetrics takes: sizes the work.
const THEIR_BODIES_PER_S: u64 = 24;
const WARM_UP: usize = 2;
/// At least so many times as many as VictoriaMetrics.
const RATIO: f64 = 5.0;

pub(super) async fn measure(time: Duration) -> Result<()> {
    let content = Content { gauges: true, buckets: BUCKETS };
    let folder = RunFolder::new("bench-pipeline-peer")?;
    let victoria = match Victoria::start(folder.path()).await {
        Ok(victoria) => victoria,
        Err(error) => {
            say(&format!("\npipeline.requests_ratio: not measured: {error:#}"));
            return Ok(());
        }
    };
    let per_sender = usize::try_from(time.as_secs().max(1) / 2 * THEIR_BODIES_PER_S / SENDERS as u64)?.max(WARM_UP);
    progress(&format!("VictoriaMetrics takes {} bodies of {} points", per_sender * SENDERS, points(content)));
    blast(&victoria.otlp_url(), prepare(WARM_UP, content, 1).await?).await?;
    let bodies = prepare(per_sender, content, 2).await?;
    let requests = (per_sender * SENDERS) as f64;
    let (began, cpu_before) = (Real::now(), usage::cpu_s(victoria.pid())?);
    blast(&victoria.otlp_url(), bodies).await?;
    let (their_wall_s, their_cpu_s) = ((Real::now() - began) as f64 / 1e9, usage::cpu_s(victoria.pid())? - cpu_before);
    // It keeps what comes twice for one moment: so the bodies of both boots are there.
    let batches = per_sender + WARM_UP;
    victoria.shows("{__name__=~\"lagmesh.link.state\"}", samples(LinkState::ALL.len() * batches)).await?;
    victoria.shows("{__name__=~\"lagmesh.link.rtt_bucket\"}", samples(HISTOGRAMS_PER_PEER * BUCKETS as usize * batches)).await?;
    let ours = ingest::run(content, time / 2).await?;

    let (our_rate, their_rate) = (ours.requests / ours.cpu_s, requests / their_cpu_s);
    let how = format!(
        "pipeline.requests_ratio: bodies of 800 current values and 200 exponential histograms of {BUCKETS} buckets, OTLP in protobuf and \
         gzip over HTTP from {SENDERS} senders, first to VictoriaMetrics {}, then to the collector; requests over the processor time of \
         either ({requests:.0} in {their_cpu_s:.2} s of processor and {their_wall_s:.2} s; {:.0} in {:.2} s and {:.2} s). VictoriaMetrics \
         answers before anything is on disk and was asked afterwards for what it took: it was all there",
        victoria.version, ours.requests, ours.cpu_s, ours.wall_s
    );
    let figure = Figure {
        peer: Some(("VictoriaMetrics", their_rate)),
        ..Figure::new("pipeline.requests_ratio", "requests/s", our_rate, RATIO * their_rate)
    };
    say_figures(&how, &[figure]);
    Ok(())
}

/// So many of each link of each sender.
fn samples(per_link: usize) -> u64 {
    (SENDERS * PEERS * per_link) as u64
}
