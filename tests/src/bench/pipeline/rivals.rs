//! How many requests a core takes in, beside others that get the same bodies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::LinkState;
use nix::unistd::Pid;

use super::ingest;
use super::senders::{BUCKETS, PEERS, SENDERS, blast, points, prepare};
use super::victoria::Victoria;
use crate::bench::figure::Figure;
use crate::bench::{progress, say, say_figures, usage};
use crate::feed::{Content, HISTOGRAMS_PER_PEER};
use crate::files::RunFolder;
use crate::otelcol::Otelcol;
use crate::real::Real;

const NAME: &str = "pipeline.requests_ratio";
const CONTENT: Content = Content { gauges: true, buckets: BUCKETS };
/// About how many bodies a second each takes: sizes the work.
const VICTORIA_BODIES_PER_S: u64 = 24;
const OTELCOL_BODIES_PER_S: u64 = 120;
const WARM_UP: usize = 2;
/// At least so many times as many as VictoriaMetrics, which keeps what it gets as well.
const RATIO_VICTORIA: f64 = 5.0;
/// To keep, merge and judge may take twice what it takes an OpenTelemetry Collector to read and drop.
const RATIO_OTELCOL: f64 = 0.5;

/// What a run of bodies took of somebody else.
struct Theirs {
    requests: f64,
    cpu_s: f64,
    wall_s: f64,
}

impl Theirs {
    fn rate(&self) -> f64 {
        self.requests / self.cpu_s
    }
}

pub(super) async fn measure(time: Duration) -> Result<()> {
    let victoria = said(victoria(time / 3).await, "VictoriaMetrics");
    let otelcol = said(otelcol(time / 3).await, "otelcol");
    if victoria.is_none() && otelcol.is_none() {
        return Ok(());
    }
    let ours = ingest::run(CONTENT, time / 3).await?;
    let our_rate = ours.requests / ours.cpu_s;
    let all = |theirs: &Theirs, name: &str| {
        format!(
            "bodies of 800 current values and 200 exponential histograms of {BUCKETS} buckets, OTLP in protobuf and gzip over HTTP from \
             {SENDERS} senders, first to {name}, then to the collector; requests over the processor time of either ({:.0} in {:.2} s of \
             processor and {:.2} s; {:.0} in {:.2} s and {:.2} s)",
            theirs.requests, theirs.cpu_s, theirs.wall_s, ours.requests, ours.cpu_s, ours.wall_s
        )
    };
    if let Some((theirs, version)) = victoria {
        let how = format!(
            "{NAME}: {}. VictoriaMetrics answers before anything is on disk and was asked afterwards for what it took: it was all there",
            all(&theirs, &format!("VictoriaMetrics {version}"))
        );
        let figure = Figure {
            peer: Some(("VictoriaMetrics", theirs.rate())),
            ..Figure::new(NAME, "requests/s", our_rate, RATIO_VICTORIA * theirs.rate())
        };
        say_figures(&how, &[figure]);
    }
    if let Some((theirs, version)) = otelcol {
        let how = format!(
            "{NAME}/otelcol: {}. It reads the bodies and drops what is in them; the collector keeps it on disk, merges and judges it",
            all(&theirs, &format!("an OpenTelemetry Collector {version}"))
        );
        let figure = Figure {
            case: Some("otelcol".to_owned()),
            peer: Some(("otelcol", theirs.rate())),
            ..Figure::new(NAME, "requests/s", our_rate, RATIO_OTELCOL * theirs.rate())
        };
        say_figures(&how, &[figure]);
    }
    Ok(())
}

/// One that is not here, or does not do what it should, has no figure; that is said.
fn said<T>(measured: Result<T>, name: &str) -> Option<T> {
    measured.map_err(|error| say(&format!("\n{NAME}: {name} not measured: {error:#}"))).ok()
}

async fn victoria(time: Duration) -> Result<(Theirs, String)> {
    let folder = RunFolder::new("bench-pipeline-peer")?;
    let victoria = Victoria::start(folder.path()).await?;
    let (theirs, per_sender) = run("VictoriaMetrics", &victoria.otlp_url(), victoria.pid(), VICTORIA_BODIES_PER_S, time).await?;
    // It keeps what comes twice for one moment: so the bodies of both boots are there.
    let batches = per_sender + WARM_UP;
    victoria.shows("{__name__=~\"lagmesh.link.state\"}", samples(LinkState::ALL.len() * batches)).await?;
    victoria.shows("{__name__=~\"lagmesh.link.rtt_bucket\"}", samples(HISTOGRAMS_PER_PEER * BUCKETS as usize * batches)).await?;
    Ok((theirs, victoria.version))
}

async fn otelcol(time: Duration) -> Result<(Theirs, String)> {
    let folder = RunFolder::new("bench-pipeline-peer")?;
    let otelcol = Otelcol::start(folder.path(), None).await?.context("it is not here: tests/peers.sh fetches it")?;
    let (theirs, _) = run("otelcol", &otelcol.otlp_url(), otelcol.pid(), OTELCOL_BODIES_PER_S, time).await?;
    Ok((theirs, otelcol.version))
}

/// Bodies against somebody else, and how many each sender has sent.
async fn run(name: &str, url: &str, pid: Pid, bodies_per_s: u64, time: Duration) -> Result<(Theirs, usize)> {
    let per_sender = usize::try_from(time.as_secs().max(1) * bodies_per_s / SENDERS as u64)?.max(WARM_UP);
    progress(&format!("{name} takes {} bodies of {} points", per_sender * SENDERS, points(CONTENT)));
    blast(url, prepare(WARM_UP, CONTENT, 1).await?).await?;
    let bodies = prepare(per_sender, CONTENT, 2).await?;
    let (began, cpu_before) = (Real::now(), usage::cpu_s(pid)?);
    blast(url, bodies).await?;
    let (wall_s, cpu_s) = ((Real::now() - began) as f64 / 1e9, usage::cpu_s(pid)? - cpu_before);
    ensure!(cpu_s > 0.0, "the kernel counts no processor time");
    Ok((Theirs { requests: (per_sender * SENDERS) as f64, cpu_s, wall_s }, per_sender))
}

/// So many of each link of each sender.
fn samples(per_link: usize) -> u64 {
    (SENDERS * PEERS * per_link) as u64
}
