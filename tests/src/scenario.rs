//! Scenario files: what is built, what happens to it and what must be seen, in one TOML file. `docs/testbed.md` documents the format.

mod expect;
mod fault;
mod link;
mod read;
#[cfg(test)]
mod tests;
mod value;

use std::time::Duration;

use lagmesh_model::document::{Document, FileErrors};

pub use expect::{Condition, Expectation, Observer, Quantity, Unit};
pub use fault::{Action, Fault, LinkChange, Target};

use crate::plan::Plan;

/// Samples of one series at most.
pub const SAMPLES_MAX: usize = 400_000;

/// A whole scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name: that of its report.
    pub name: String,
    /// What it shows, in a sentence or two.
    pub about: String,
    /// What is built.
    pub plan: Plan,
    /// How long the world may take until the first measurements are in.
    pub ready_within: Duration,
    /// For how long it is watched after that.
    pub run: Duration,
    /// How often what lagmesh says is read.
    pub sample_every: Duration,
    /// What happens, in the order of time.
    pub faults: Vec<Fault>,
    /// What must be seen.
    pub expectations: Vec<Expectation>,
}

impl Scenario {
    /// How long it is watched [ns].
    pub fn run_ns(&self) -> i64 {
        i64::try_from(self.run.as_nanos()).unwrap_or(i64::MAX)
    }

    /// Reads a scenario. `file` is its name in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with line and key.
    pub fn parse(file: &str, text: &str) -> Result<Scenario, FileErrors> {
        let document = Document::new(file, text);
        let found = document.parse().and_then(|table| read::scenario(&document, &table, text));
        document.finish(found)
    }
}
