//! How right the agent's round-trip times are.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::bed::{Bed, Log, Setup, peer_name};
use super::burn::Burn;
use super::figure::Figure;
use super::pairs::{Answer, Pair, Pairs, pair, told};
use super::{progress, say, say_figures};
use crate::real::{Real, wall_minus_real_ns};
use crate::wan::path::{Jitter, LinkSettings};
use crate::wan::truth::{Probes, round_trips};

const MS: i64 = 1_000_000;
/// What each direction takes at least [ns], and what chance adds at most, so that no two probes are alike.
pub(super) const DELAY_NS: i64 = 20 * MS;
const JITTER_NS: i64 = 2 * MS;
/// So many peers with 8 probes a second get as many probes as 29 with 16: by one flow each, so that their answers come one by one.
const PEERS: usize = 58;
/// From probe to probe of one peer [ns].
const INTERVAL_NS: i64 = 125 * MS;
/// How long after its arrival an answer may be settled [ns]: less than until the next one.
const SLACK_NS: i64 = INTERVAL_NS - 10 * MS;
/// How much wider than this the truth may not be [ns]: else it is none.
const TRUTH_WITHIN_NS: i64 = 100_000;
/// How far the two clocks (raw and slewed) may be apart on one way, and a kernel stamp off [ns].
const CLOCKS_NS: i64 = 2 * DELAY_NS / 10_000 + 2_000;
/// The shortest round-trip time that may be told [ns].
pub(super) const LEAST_NS: i64 = 2 * DELAY_NS - CLOCKS_NS;
/// How long everything runs before it counts.
const SETTLE: Duration = Duration::from_secs(4);
/// How many of the agent's round-trip times may be without their probe before the rest is no fair sample [1/100].
const UNPAIRED_PERCENT: u64 = 2;

/// What one run came to.
struct Run {
    pairs: Pairs,
    /// Pairs whose truth is too wide.
    vague: usize,
    held: bool,
    impossible: usize,
    told: usize,
}

pub(super) async fn measure(bed: &Bed, time: Duration) -> Result<()> {
    let link = LinkSettings { jitter: Jitter::Uniform { width_ns: JITTER_NS }, ..LinkSettings::delayed(DELAY_NS) };
    bed.set_links(&link)?;
    progress(&format!("round-trip times against the truth, idle and busy, {} s each", time.as_secs()));
    let idle = run(bed, time).await?;
    let busy = {
        let _burn = Burn::start();
        run(bed, time).await?
    };
    say(
        "\nmesh.rtt_error_p99_…: the agent probes 58 peers over one flow each, 8 times a second: 464 probes/s, as 29 peers with 16 flows are. It logs each round-trip time. \
         Each is held against the network's own stamps of the same probe (kernel stamps on leaving, the router's on arrival; links of 20 ms and up to 2 ms of chance each way). \
         The figure: 99 of 100 errors are smaller. Logging is part of what disturbs; `busy` adds a thread on each processor that only runs.",
    );
    for (name, run, target) in [("mesh.rtt_error_p99_idle", &idle, 50.0), ("mesh.rtt_error_p99_busy", &busy, 100.0)] {
        tell(name, run, target);
    }
    let how = format!(
        "mesh.impossible: of the {} round-trip times of both runs, those of zero or below {:.0} us, where the path takes {:.0} us at least",
        idle.told + busy.told,
        LEAST_NS as f64 / 1e3,
        2.0 * DELAY_NS as f64 / 1e3,
    );
    say_figures(&how, &[Figure::new("mesh.impossible", "count", (idle.impossible + busy.impossible) as f64, 0.0)]);
    Ok(())
}

fn tell(name: &'static str, run: &Run, target: f64) {
    let mut errors: Vec<i64> = run.pairs.found.iter().map(Pair::error_ns).collect();
    errors.sort_unstable();
    let mut sizes: Vec<i64> = errors.iter().map(|error| error.abs()).collect();
    sizes.sort_unstable();
    let mut widths: Vec<i64> = run.pairs.found.iter().map(|pair| pair.truth.within_ns).collect();
    widths.sort_unstable();
    let us = |sorted: &[i64], percent: usize| rank(sorted, percent).map_or(f64::NAN, |ns| ns as f64 / 1e3);
    let all = run.pairs.found.len() as u64 + run.vague as u64 + run.pairs.unpaired;
    say(&format!(
        "{name}: {} pairs; {} round-trip times not paired, {} with a truth wider than {} us (the others' p50 {:.1}, p99 {:.1}); error p1 {:.1}, p50 {:.1}, p99 {:.1}, \
         largest {:.0} us{}",
        errors.len(),
        run.pairs.unpaired,
        run.vague,
        TRUTH_WITHIN_NS / 1000,
        us(&widths, 50),
        us(&widths, 99),
        us(&errors, 1),
        us(&errors, 50),
        us(&errors, 99),
        us(&sizes, 100),
        if run.held { "; the agent counts each one interval later than it comes" } else { "" },
    ));
    match rank(&sizes, 99) {
        None => say(&format!("{name}: not measured: no round-trip time could be paired with its probe")),
        Some(_) if (run.pairs.unpaired + run.vague as u64) * 100 > all * UNPAIRED_PERCENT => say(&format!(
            "{name}: not measured: more than {UNPAIRED_PERCENT} of 100 have no pair, and the slowest may be among them"
        )),
        Some(p99_ns) => say(&Figure::new(name, "us", p99_ns as f64 / 1e3, target).to_string()),
    }
}

async fn run(bed: &Bed, time: Duration) -> Result<Run> {
    let mesh = "flows = 1\ninterval = \"125ms\"\nicmp = false\ntcp = false\n".to_owned();
    let meter = bed.meter(&Setup { peers: PEERS, mesh, log: Log::EachProbe, ..Setup::default() }).await?;
    sleep(SETTLE).await;
    let since = Real::now();
    sleep(time).await;
    let until = Real::now();
    let to_real_ns = -wall_minus_real_ns();
    let log = meter.stop().await?;
    let mut told = told(&log, to_real_ns);
    for told in told.values_mut() {
        told.retain(|told| (since..until).contains(&told.at));
    }
    let answers = answers(bed, since + -4 * INTERVAL_NS, until)?;
    let paired = |held_ns: i64| {
        let mut pairs = Pairs::default();
        for (peer, answers) in &answers {
            pair(told.get(peer).map(Vec::as_slice).unwrap_or_default(), answers, SLACK_NS, held_ns, &mut pairs);
        }
        pairs
    };
    // An agent may count a round-trip time only with the next probe of its flow, which brings the responder's last stamp. Which of the
    // two it does is plain: the wrong one pairs strangers, a millisecond apart by the links' chance.
    let (at_once, held) = (paired(0), paired(INTERVAL_NS));
    let is_held = typical_ns(&held) < typical_ns(&at_once);
    let mut pairs = if is_held { held } else { at_once };
    let all = pairs.found.len();
    pairs.found.retain(|pair| pair.truth.within_ns <= TRUTH_WITHIN_NS);
    let rtts_ns = told.values().flatten().map(|told| told.rtt_ns);
    Ok(Run {
        vague: all - pairs.found.len(),
        pairs,
        held: is_held,
        impossible: rtts_ns.clone().filter(|rtt_ns| *rtt_ns < LEAST_NS).count(),
        told: rtts_ns.count(),
    })
}

/// The answered probes of each peer, in the order in which the answers came.
fn answers(bed: &Bed, since: Real, until: Real) -> Result<Vec<(String, Vec<Answer>)>> {
    let from = bed.meter_id()?;
    let records = bed.wan.log().records(since, Real(i64::MAX));
    let of_peer = |peer: usize| {
        let at = bed.at(peer)?;
        let probes = Probes { from, to: at.host, mesh_port: at.port, since, until };
        let trips = round_trips(&records, &probes);
        let answer = |trip: &crate::wan::truth::RttTruth| Answer {
            arrived: trip.left + trip.rtt_ns,
            rtt_ns: trip.rtt_ns,
            within_ns: trip.within_ns,
        };
        let mut answers: Vec<Answer> = trips.iter().map(answer).collect();
        answers.sort_unstable_by_key(|answer| answer.arrived);
        Ok((peer_name(peer), answers))
    };
    (0..PEERS).map(of_peer).collect()
}

/// The median size of the errors [ns].
fn typical_ns(pairs: &Pairs) -> i64 {
    let mut sizes: Vec<i64> = pairs.found.iter().map(|pair| pair.error_ns().abs()).collect();
    sizes.sort_unstable();
    rank(&sizes, 50).unwrap_or(i64::MAX)
}

/// The value of nearest rank, of values in order.
fn rank(sorted: &[i64], percent: usize) -> Option<i64> {
    sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied()
}
