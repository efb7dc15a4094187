//! `make bench-lag`: what the agents tell of replication lag, against the truth and beside the usual queries.
//!
//! Each part builds worlds of its own, as scenarios do. Modules stand in the order in which data passes them.

mod cases;
mod bed;
mod told;
mod stats;
mod usual_queries;

mod coverage;
mod errors;
mod usual;
mod frozen;
mod memory;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use self::coverage::Pool;
use super::{parts, progress, share};
use crate::real::Real;

/// How long the parts take together if nobody says otherwise [s]: with what starts and ends around them, about ten minutes.
pub const USUAL_SECONDS: u32 = 360;

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Whether intervals hold the truth, their width, and statements per beat
    Coverage,
    /// How far estimates are off, beside the usual queries
    Error,
    /// What a beat costs, and false alarms
    Usual,
    /// How soon a frozen replication is named
    Frozen,
    /// Whether memory grows
    Memory,
}

/// How long each part measures.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// Each of three worlds.
    coverage: Duration,
    error: Duration,
    quiet: Duration,
    loaded: Duration,
    memory: Duration,
    freezes: u32,
}

impl Times {
    fn of(seconds: u32) -> Times {
        let share = |parts: u32| share(seconds, parts, USUAL_SECONDS);
        Times {
            coverage: share(66),
            error: share(40),
            quiet: share(60),
            loaded: share(22),
            memory: share(40),
            freezes: if seconds < USUAL_SECONDS / 2 { 1 } else { 2 },
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
    let mut pool = Pool::default();
    for part in parts(only, started) {
        match part {
            Part::Coverage => coverage::measure(times.coverage, &mut pool).await?,
            Part::Error => errors::measure(times.error, &mut pool).await?,
            Part::Usual => usual::measure(times.quiet, times.loaded).await?,
            Part::Frozen => frozen::measure(times.freezes).await?,
            Part::Memory => memory::measure(times.memory).await?,
        }
    }
    coverage::tell_pool(&pool);
    progress(&format!("done after {} s", (Real::now() - started) / 1_000_000_000));
    Ok(())
}

/// Watches a cluster for so long, half of it idle and half under load, in which nothing may be called wrong.
///
/// # Errors
/// As [`run`].
pub async fn alarms(time: Duration) -> Result<()> {
    usual::measure(time / 2, time / 2).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By default everything measures for as long as it says.
    #[test]
    fn times_add_up() {
        let times = Times::of(USUAL_SECONDS);
        let sum = times.coverage * 3 + times.error + times.quiet + times.loaded + times.memory;
        assert_eq!(sum, Duration::from_secs(u64::from(USUAL_SECONDS)));
        assert!(Times::of(1).coverage > Duration::ZERO);
    }
}
