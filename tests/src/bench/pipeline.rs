//! `make bench-pipeline`: what the way from agents through a collector takes, holds and keeps, beside a VictoriaMetrics and an
//! OpenTelemetry Collector that get the same bodies.
//!
//! Everything runs on loopback: a real collector with a store on this machine's disk, and senders that post what agents would. Modules
//! stand in the order in which data passes them.

mod senders;
mod victoria;

mod acknowledge;
mod backlog;
mod growth;
mod ingest;
mod memory;
mod quantiles;
mod rivals;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use super::{parts, progress, share};
use crate::real::Real;

/// How long the parts take together if nobody says otherwise [s].
pub const USUAL_SECONDS: u32 = 300;

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// How many points a core takes in, kept on disk and merged
    Ingest,
    /// How many requests a core takes in, beside VictoriaMetrics and an OpenTelemetry Collector
    Rivals,
    /// How soon a batch is acknowledged at half load
    Acknowledge,
    /// What a series takes in memory, and what an idle collector does
    Memory,
    /// How far fleet quantiles are off
    Quantiles,
    /// What more agents cost
    Growth,
    /// How soon an outage is made up for
    Backlog,
}

/// Runs the parts that are asked for, or all, and prints a line for each figure, with how it was measured above it.
///
/// # Errors
/// If a part cannot be run.
pub async fn run(seconds: u32, only: &[Part]) -> Result<()> {
    let seconds = seconds.max(1);
    let share = |parts: u32| share(seconds, parts, USUAL_SECONDS);
    let started = Real::now();
    for part in parts(only, started) {
        match part {
            Part::Ingest => ingest::measure(share(20)).await?,
            Part::Rivals => rivals::measure(share(40)).await?,
            Part::Acknowledge => acknowledge::measure(share(30)).await?,
            Part::Memory => memory::measure().await?,
            Part::Quantiles => quantiles::measure(),
            Part::Growth => growth::measure(share(90)).await?,
            Part::Backlog => backlog::measure(share(100).max(Duration::from_secs(10))).await?,
        }
    }
    progress(&format!("done after {} s", (Real::now() - started) / 1_000_000_000));
    Ok(())
}
