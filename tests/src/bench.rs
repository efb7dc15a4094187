//! `make bench-mesh` and `make soak`: what the mesh measures, costs and notices, as figures, side by side with programs of others.
//!
//! Everything runs on one emulated network: `meter`, the host of the agent that is measured, and ten hosts on which real agents answer
//! it. Modules stand in the order in which data passes them. What is found out is printed to stdout; what is going on, to stderr.

mod bed;
mod receiver;
pub mod usage;
mod pairs;
mod burn;
mod figure;

mod accuracy;
mod cost;
mod deaths;
pub mod lag;
mod loss;
mod notice;
pub mod pipeline;
mod rivals;
mod soak;

use std::fmt::Debug;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use self::bed::Bed;
use self::figure::Figure;
use crate::real::Real;
use crate::wan::WanPlan;

/// How long the parts take together if nobody says otherwise [s]: with what starts and ends around them, within ten minutes.
pub const USUAL_SECONDS: u32 = 300;

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// How right round-trip times are
    Accuracy,
    /// Whether probes are lost that were answered
    Loss,
    /// What the agent costs
    Cost,
    /// What a probe costs beside others' programs
    Rivals,
    /// How soon faults are named
    Notice,
}

/// How long each part measures.
#[derive(Debug, Clone, Copy)]
struct Times {
    accuracy: Duration,
    one_cost: Duration,
    steady_cost: Duration,
    rate: Duration,
    rivals: Duration,
    loss: Duration,
}

impl Times {
    /// Shares the time out: about half for costs, which are many, the rest for what needs many probes.
    fn of(seconds: u32) -> Times {
        let share = |parts: u32| share(seconds, parts, USUAL_SECONDS);
        Times {
            accuracy: share(35),
            one_cost: share(13),
            steady_cost: share(35),
            rate: share(8),
            rivals: share(27),
            loss: share(62),
        }
    }
}

/// Runs the parts that are asked for, or all, and prints a line for each figure, with how it was measured above it.
///
/// # Errors
/// If a part cannot be run; [`crate::wan::NotPossible`] if this machine or account cannot run a network at all.
pub async fn run(seconds: u32, only: &[Part]) -> Result<()> {
    let times = Times::of(seconds.max(1));
    let started = Real::now();
    let bed = Bed::start(WanPlan::default().log_records).await?;
    for part in parts(only, started) {
        match part {
            Part::Accuracy => accuracy::measure(&bed, times.accuracy).await?,
            Part::Loss => loss::measure(&bed, times.loss).await?,
            Part::Cost => cost::measure(&bed, times.one_cost, times.steady_cost, times.rate).await?,
            Part::Rivals => rivals::measure(&bed, times.rivals).await?,
            Part::Notice => notice::measure(&bed).await?,
        }
    }
    say(&bed.quality("the whole bench"));
    Ok(())
}

/// A part of the soak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SoakPart {
    /// Ten million probes without a loss, and whether memory grows: 25 minutes
    Mesh,
    /// A collector that dies ten thousand times, half of them by power: an hour
    Deaths,
    /// Agents that die two thousand times: twenty minutes
    AgentDeaths,
    /// Whether anything is called wrong while nothing is: an hour
    Alarms,
}

/// Does for long what the benches and tests do for a short time, and prints what came of it; `seconds` for each part, or as long as each
/// takes.
///
/// # Errors
/// As [`run`].
pub async fn soak(seconds: Option<u64>, only: &[SoakPart]) -> Result<()> {
    for part in parts(only, Real::now()) {
        match part {
            SoakPart::Mesh => soak::run(Duration::from_secs(seconds.unwrap_or(soak::USUAL_SECONDS).max(1))).await?,
            SoakPart::Deaths => deaths::soak(seconds.map(Duration::from_secs)).await?,
            SoakPart::AgentDeaths => deaths::soak_agents(seconds.map(Duration::from_secs)).await?,
            SoakPart::Alarms => lag::alarms(Duration::from_secs(seconds.unwrap_or(3600).max(30))).await?,
        }
    }
    Ok(())
}

/// So many parts of a bench's usual time, if it takes `seconds` in all.
fn share(seconds: u32, parts: u32, usual_seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds)) * parts / usual_seconds
}

/// The parts that are asked for, or all; says of each when its turn comes.
fn parts<P: ValueEnum + PartialEq + Debug>(only: &[P], started: Real) -> impl Iterator<Item = P> {
    let wanted: Vec<P> = P::value_variants().iter().filter(|part| only.is_empty() || only.contains(part)).cloned().collect();
    let count = wanted.len();
    wanted
        .into_iter()
        .enumerate()
        .inspect(move |(number, part)| {
            let after_s = (Real::now() - started) / 1_000_000_000;
            progress(&format!("part {} of {count}: {part:?}, {after_s} s after the start", number + 1));
        })
        .map(|(_, part)| part)
}

/// What was found out.
fn say(line: &str) {
    // Nobody is left to complain to if stdout is gone.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// What is going on.
fn progress(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "... {line}"));
}

fn say_figures(how: &str, figures: &[Figure]) {
    say(&format!("\n{how}"));
    for figure in figures {
        say(&figure.to_string());
    }
}
