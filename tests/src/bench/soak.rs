//! A long run: nothing is lost that was answered, nothing impossible is told, and memory does not grow.

use std::time::Duration;

use anyhow::{Context, Result};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::state::Outcome;
use tokio::time::sleep;

use super::accuracy::DELAY_NS;
use super::bed::{Bed, Meter, PEERS, Setup};
use super::figure::Figure;
use super::loss::{GIVE_UP, True, false_loss, truth, words};
use super::receiver::Counted;
use super::{progress, say, say_figures, usage};
use crate::real::Real;
use crate::wan::path::LinkSettings;

const MS: i64 = 1_000_000;
/// How many probes are wanted.
const PROBES: u64 = 10_000_000;
const FLOWS: u64 = 16;
/// From probe to probe of a flow [ms]: 8,000 a second over all. Two processors carry router, answering agents and measured agent, and all
/// of them keep up with that; at 10,000 one probe in a hundred was skipped because the agent's host was held up.
const INTERVAL_MS: u64 = 200;
const RATE_PER_S: u64 = PEERS as u64 * FLOWS * 1000 / INTERVAL_MS;
/// How long that takes, with a little for what was skipped [s].
pub(super) const USUAL_SECONDS: u64 = PROBES / RATE_PER_S + 60;
/// How often it is looked at what has come so far: more seldom would take more time at once, and be in the way.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often that is told, in looks.
const TELL_EVERY: usize = 6;
/// How many packets the network remembers: those of about a minute.
const LOG_RECORDS: usize = 1_000_000;
/// How many looks in the second half a run must have to tell whether memory grows: five minutes.
const LOOKS_MIN: usize = 60;
/// A probe younger than this may still be answered, and its answer be on its way into the log [ns].
const SETTLED_NS: i64 = 2_500 * MS;
/// Round trips of at most two to this power of a second are impossible: the largest power of two below the path's 40 ms.
const IMPOSSIBLE_POWER: i32 = -5;
/// How much of the memory's growth per hour can be told from chance within such a run [MiB/h].
const GROWTH_TARGET: f64 = 1.0;

/// What has come so far.
struct Soak {
    bed: Bed,
    truth: True,
    /// Up to which moment the network's log is counted.
    judged: Real,
    /// What the agent told last.
    newest: Option<Counted>,
    /// What it had in memory, and when [s, MiB].
    memory: Vec<(f64, f64)>,
    started: Real,
}

pub(super) async fn run(time: Duration) -> Result<()> {
    let bed = Bed::start(LOG_RECORDS).await?;
    bed.set_links(&LinkSettings::delayed(DELAY_NS))?;
    let mesh = format!("flows = {FLOWS}\ninterval = \"{INTERVAL_MS}ms\"\ngive_up = \"2s\"\nicmp = false\ntcp = false\n");
    progress(&format!("{RATE_PER_S} probes/s for {} s", time.as_secs()));
    let started = Real::now();
    let meter = bed.meter(&Setup { peers: PEERS, mesh, export: "interval = \"5s\"\n", ..Setup::default() }).await?;
    let mut soak = Soak { bed, truth: True::default(), judged: started, newest: None, memory: Vec::new(), started };
    let end = Real::now() + i64::try_from(time.as_nanos())?;
    while let Ok(left_ns @ 1..) = u64::try_from(end - Real::now()) {
        sleep(LOOK_EVERY.min(Duration::from_nanos(left_ns))).await;
        soak.look(&meter)?;
    }
    sleep(GIVE_UP).await;
    soak.look(&meter)?;
    meter.stop().await?;
    // What was still out has its answers in the log, too.
    sleep(Duration::from_millis(200)).await;
    soak.count(Real(i64::MAX))?;
    soak.tell()
}

impl Soak {
    /// Takes in what has come, and says so from time to time.
    fn look(&mut self, meter: &Meter) -> Result<()> {
        let now = Real::now();
        self.count(now + -SETTLED_NS)?;
        let (after_s, rss_mib) = ((now - self.started) as f64 / 1e9, usage::rss_mib(meter.pid())?);
        self.memory.push((after_s, rss_mib));
        if !self.memory.len().is_multiple_of(TELL_EVERY) {
            return Ok(());
        }
        progress(&format!(
            "{after_s:.0} s: {} probes, {} of them answered in time; {} falsely lost, {} impossible; {rss_mib:.1} MiB",
            self.truth.sent,
            self.truth.in_time,
            self.falsely_lost(),
            self.impossible(),
        ));
        Ok(())
    }

    /// Counts the network's log up to a moment, so that the log need not remember a whole run.
    fn count(&mut self, until: Real) -> Result<()> {
        if until > self.judged {
            let records = self.bed.wan.log().records(self.judged, Real(i64::MAX));
            self.truth += truth(&records, &self.bed.places()?, self.judged, until);
            self.judged = until;
        }
        self.newest = self.bed.receiver.newest()?.or(self.newest.take());
        Ok(())
    }

    fn falsely_lost(&self) -> u64 {
        self.newest.as_ref().map_or(0, |newest| false_loss(&newest.outcomes, self.truth))
    }

    fn impossible(&self) -> u64 {
        self.newest.as_ref().map_or(0, impossible)
    }

    fn tell(&self) -> Result<()> {
        let newest = self.newest.as_ref().context("the agent has exported nothing")?;
        let forgotten = self.bed.wan.log().forgotten();
        let how = format!(
            "soak.probes, mesh.false_loss/soak, mesh.impossible/soak: {PEERS} peers with {FLOWS} flows every {INTERVAL_MS} ms over links that lose nothing, for {:.0} s, with HMAC. \
             False loss: as in the bench. Impossible: round-trip times below {:.0} us, far below the {:.0} us that the path takes; the shortest of all was {:.0} us (the network counts a packet's way \
             from a moment just before the kernel stamps it, and at this rate the two may be far apart). Log: {} probes left, {} of them were answered in time{}. \
             Agent, without those that were still out when it ended: {}",
            self.memory.last().map_or(0.0, |(after_s, _)| *after_s),
            2_f64.powi(IMPOSSIBLE_POWER) * 1e6,
            2.0 * DELAY_NS as f64 / 1e3,
            shortest_s(newest).unwrap_or(f64::NAN) * 1e6,
            self.truth.sent,
            self.truth.in_time,
            if forgotten > 0 { " (it remembers only the newest packets; each was counted before)" } else { "" },
            words(&newest.outcomes),
        );
        let figure = |name, case: Option<&str>, ours: u64, target: u64| Figure {
            case: case.map(str::to_owned),
            ..Figure::new(name, "count", ours as f64, target as f64)
        };
        say_figures(
            &how,
            &[
                figure("soak.probes", None, self.truth.sent, PROBES),
                figure("mesh.false_loss", Some("soak"), self.falsely_lost(), 0),
                figure("mesh.impossible", Some("soak"), self.impossible(), 0),
            ],
        );
        let skipped = newest.outcomes.get(&Outcome::Skipped).copied().unwrap_or(0);
        say(&format!(
            "skipped by our own host: {skipped}, {:.2} % of the probes that were due",
            percent(skipped, self.truth.sent)
        ));
        self.tell_memory();
        say(&self.bed.quality("the whole soak"));
        Ok(())
    }

    fn tell_memory(&self) {
        let half = &self.memory[self.memory.len() / 2..];
        let how = format!(
            "mesh.rss_growth: the slope of the straight line nearest to the agent's VmRSS, looked at every {} s over the second half of the run ({} looks, {:.1} to {:.1} MiB)",
            LOOK_EVERY.as_secs(),
            half.len(),
            half.iter().map(|(_, mib)| *mib).fold(f64::INFINITY, f64::min),
            half.iter().map(|(_, mib)| *mib).fold(0.0, f64::max),
        );
        match slope_per_s(half).filter(|_| half.len() >= LOOKS_MIN) {
            Some(per_s) => say_figures(&how, &[Figure::new("mesh.rss_growth", "MiB/h", per_s * 3600.0, GROWTH_TARGET)]),
            None => say(&format!("\n{how}\nmesh.rss_growth: not measured: fewer than {LOOKS_MIN} looks tell nothing")),
        }
    }
}

/// How many round-trip times are far below what the path of [`DELAY_NS`] each way takes: zeros among them, and what would be negative.
fn impossible(counted: &Counted) -> u64 {
    counted.rtts.values().map(|rtts| rtts.count_at_or_below_power_of_two_s(IMPOSSIBLE_POWER)).sum()
}

/// The shortest round trip of all [s].
fn shortest_s(counted: &Counted) -> Option<f64> {
    counted.rtts.values().filter_map(Exponential::min_s).min_by(f64::total_cmp)
}

fn percent(part: u64, rest: u64) -> f64 {
    part as f64 * 100.0 / (part + rest).max(1) as f64
}

/// The slope of the line with the least squared distances; `None` without two moments.
fn slope_per_s(samples: &[(f64, f64)]) -> Option<f64> {
    let count = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (mean_s, mean_value) = (mean(|(s, _)| *s), mean(|(_, value)| *value));
    let spread: f64 = samples.iter().map(|(s, _)| (s - mean_s).powi(2)).sum();
    let together: f64 = samples.iter().map(|(s, value)| (s - mean_s) * (value - mean_value)).sum();
    (spread > 0.0).then(|| together / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slope of a line is the line's own, whatever scatters evenly around it; one moment alone has none.
    #[test]
    fn slopes() {
        assert_eq!(slope_per_s(&[(0.0, 10.0), (10.0, 30.0), (20.0, 50.0)]), Some(2.0));
        assert_eq!(slope_per_s(&[(0.0, 21.0), (10.0, 19.0), (20.0, 19.0), (30.0, 21.0)]), Some(0.0));
        assert_eq!(slope_per_s(&[(5.0, 1.0)]), None);
        assert_eq!(slope_per_s(&[]), None);
    }

    /// The usual length is enough for the probes that are wanted, and not by much more.
    #[test]
    fn long_enough() {
        let probes = USUAL_SECONDS * RATE_PER_S;
        assert!((PROBES..PROBES + PROBES / 20).contains(&probes), "{probes}");
    }
}
