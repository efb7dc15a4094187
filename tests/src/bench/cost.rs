//! What the agent costs.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::bed::{Bed, Meter, PEERS, Setup};
use super::figure::Figure;
use super::{progress, say_figures, usage};
use crate::real::Real;
use crate::wan::path::LinkSettings;

const MS: i64 = 1_000_000;
/// How long an agent runs before it is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// What 29 peers may cost [% of a core], and how many those are.
const PERCENT_30: f64 = 2.0;
const PEERS_30: usize = 29;
/// The intervals with which all peers are probed at a high rate [ms].
const FAST_MS: [u64; 2] = [200, 100];

/// What an agent used in a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    /// Processor time [s].
    pub(super) cpu_s: f64,
    /// For how long it was looked at [s].
    pub(super) time_s: f64,
    /// How many probes left.
    pub(super) probes: usize,
    /// What it had in memory at the end [MiB].
    pub(super) rss_mib: f64,
}

impl Used {
    /// The share of one core [%].
    fn percent(self) -> f64 {
        self.cpu_s / self.time_s * 100.0
    }

    /// Of each probe [us].
    pub(super) fn us_per_probe(self) -> f64 {
        self.cpu_s * 1e6 / self.probes as f64
    }
}

pub(super) async fn measure(bed: &Bed, one: Duration, steady: Duration, rate: Duration) -> Result<()> {
    bed.set_links(&LinkSettings::delayed(20 * MS))?;
    growth(bed, one).await?;
    thirty(bed, steady).await?;
    per_core(bed, rate).await
}

/// An agent with everything as it is by default: 16 flows once a second, ICMP beside, export every 10 s.
async fn usual(bed: &Bed, peers: usize) -> Result<Meter> {
    bed.meter(&Setup { peers, ..Setup::default() }).await
}

/// What an agent uses from now on.
pub(super) async fn used(bed: &Bed, meter: &Meter, time: Duration) -> Result<Used> {
    let (since, before_s) = (Real::now(), usage::cpu_s(meter.pid())?);
    sleep(time).await;
    let (until, after_s) = (Real::now(), usage::cpu_s(meter.pid())?);
    let probes = bed.probes(since, until)?.len();
    Ok(Used { cpu_s: after_s - before_s, time_s: (until - since) as f64 / 1e9, probes, rss_mib: usage::rss_mib(meter.pid())? })
}

async fn growth(bed: &Bed, time: Duration) -> Result<()> {
    progress("what 2, 10, 30 and 100 peers cost");
    let (mut figures, mut details) = (Vec::new(), Vec::new());
    for peers in [2, 10, 30, PEERS] {
        let meter = usual(bed, peers).await?;
        sleep(SETTLE).await;
        let used = used(bed, &meter, time).await?;
        meter.stop().await?;
        details.push(format!(
            "{peers} peers: {:.0} probes/s, {:.1} us of processor time each, {:.1} MiB",
            used.probes as f64 / used.time_s,
            used.us_per_probe(),
            used.rss_mib
        ));
        let target = PERCENT_30 * peers as f64 / PEERS_30 as f64;
        let figure = Figure::new("mesh.growth", "%", used.percent(), target);
        figures.push(Figure { case: Some(peers.to_string()), ..figure });
    }
    let how = format!(
        "mesh.growth: the agent's processor time over {} s, as a share of one core, with everything by default: 16 flows to each peer once a second, \
         ICMP beside, export every 10 s. Peers are agents of their own, ten on a host. Target: the share of so many peers in the {PERCENT_30} % that {PEERS_30} may cost. {}",
        time.as_secs(),
        details.join("; ")
    );
    say_figures(&how, &figures);
    Ok(())
}

async fn thirty(bed: &Bed, time: Duration) -> Result<()> {
    progress(&format!("a mesh of 30 regions for {} s", time.as_secs()));
    let meter = usual(bed, PEERS_30).await?;
    sleep(SETTLE).await;
    let early_mib = usage::rss_mib(meter.pid())?;
    let used = used(bed, &meter, time).await?;
    meter.stop().await?;
    let how = format!(
        "mesh.agent_cpu_30, mesh.rss_30: {PEERS_30} peers, everything by default, {:.0} probes/s over {:.0} s; processor time as a share of one core, and VmRSS at the end \
         ({early_mib:.1} MiB {} s after the start)",
        used.probes as f64 / used.time_s,
        used.time_s,
        SETTLE.as_secs()
    );
    let figures = [
        Figure::new("mesh.agent_cpu_30", "%", used.percent(), PERCENT_30),
        Figure::new("mesh.rss_30", "MiB", used.rss_mib, 24.0),
    ];
    say_figures(&how, &figures);
    Ok(())
}

async fn per_core(bed: &Bed, time: Duration) -> Result<()> {
    progress("many probes per second");
    let (mut best, mut details) = (0.0_f64, Vec::new());
    for interval_ms in FAST_MS {
        let wanted_per_s = (PEERS * 16) as f64 * 1000.0 / interval_ms as f64;
        let mesh = format!("flows = 16\ninterval = \"{interval_ms}ms\"\nicmp = false\ntcp = false\n");
        let meter = bed.meter(&Setup { peers: PEERS, mesh, ..Setup::default() }).await?;
        sleep(SETTLE).await;
        let used = used(bed, &meter, time).await?;
        meter.stop().await?;
        let per_core = used.probes as f64 / used.cpu_s;
        details.push(format!(
            "of {wanted_per_s:.0} probes/s that were wanted {:.0} left, for {:.2} of a core: {per_core:.0} per core",
            used.probes as f64 / used.time_s,
            used.cpu_s / used.time_s
        ));
        best = best.max(per_core);
    }
    let how = format!(
        "mesh.probes_per_core: probes that left (and whose answers came back to the same process) per second of the agent's processor time, the better of two rates to {PEERS} \
         peers. Two processors carry router, answering agents and measured agent: what is measured is the cost of a probe among many, not a core that is full. {}",
        details.join("; ")
    );
    say_figures(&how, &[Figure::new("mesh.probes_per_core", "count/s", best, 50_000.0)]);
    Ok(())
}
