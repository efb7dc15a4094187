//! What came of a scenario, for people (a line for each expectation) and for programs (JSON with the raw series).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::judge::{Outcome, judge};
use super::sample::Sample;
use super::truth::{Found, Quality};
use super::watch::Seen;
use crate::real::Real;
use crate::scenario::{Observer, Quantity, Scenario};
use crate::wan::quality as network;

/// The share of a run for which the machine may stall.
const STALLED_SHARE_MAX: f64 = 0.05;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that was expected was seen.
    Pass,
    /// Something was not.
    Fail,
    /// The machine stalled too much for anything to be believed, be it good or bad.
    NotBelieved {
        /// How much.
        why: String,
    },
    /// It could not run here; nothing was shown.
    NotRun {
        /// What is missing.
        why: String,
    },
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// When, after the world was ready [s].
    pub at_s: f64,
    /// How long it took to bring about [s].
    pub took_s: f64,
    /// What.
    pub what: String,
}

/// One series of values.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// Of what.
    pub of: String,
    /// As told by whom.
    pub seen_by: String,
    /// The values. `at` is nanoseconds on the machine's monotonic clock.
    pub samples: Vec<Sample>,
}

/// What came of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its name.
    pub scenario: String,
    /// What it shows.
    pub about: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Each expectation.
    pub outcomes: Vec<Outcome>,
    /// What happened.
    pub events: Vec<Event>,
    /// How good the truth was.
    pub quality: Quality,
    /// When the run started, on the machine's monotonic clock [ns].
    pub start_ns: i64,
    /// What was seen.
    pub series: Vec<Series>,
}

impl Report {
    /// A report in which nothing has failed yet.
    pub(super) fn new(scenario: &Scenario) -> Report {
        Report {
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            verdict: Verdict::Pass,
            outcomes: Vec::new(),
            events: Vec::new(),
            quality: Quality::default(),
            start_ns: 0,
            series: Vec::new(),
        }
    }

    /// Something that was not named as an expectation went wrong.
    pub(super) fn fail(&mut self, name: &str, measured: &str, wanted: &str) {
        self.verdict = Verdict::Fail;
        let (name, measured, wanted) = (name.to_owned(), measured.to_owned(), wanted.to_owned());
        self.outcomes.push(Outcome { name, pass: false, measured, wanted });
    }

    /// Holds every expectation against what was seen and what was true.
    pub(super) fn judge(&mut self, scenario: &Scenario, mut seen: Seen, truth: &Found, start: Real) {
        self.start_ns = start.0;
        for ((_, quantity), samples) in &mut seen {
            truth.attach(quantity, samples);
        }
        for expectation in &scenario.expectations {
            let key = (expectation.seen_by.clone(), expectation.quantity.clone());
            let outcome = judge(expectation, seen.get(&key).map_or(&[], Vec::as_slice), start);
            if !outcome.pass {
                self.verdict = Verdict::Fail;
            }
            self.outcomes.push(outcome);
        }
        self.series =
            seen.into_iter().map(|((by, of), samples)| Series { of: subject(&of), seen_by: observer(&by), samples }).collect();
    }

    /// Marks the run if the machine stalled too much: whatever came out of it, nobody may build on it.
    pub(super) fn believe(&mut self, network: &network::Quality, start: Real, end: Real) {
        let share = network.late_ns(start, end) as f64 / (end - start) as f64;
        let why = if share > STALLED_SHARE_MAX || network.stalls_forgotten > 0 {
            format!("the machine stalled for {:.1} % of the run", share * 100.0)
        } else if let Some(why) = &network.no_priority {
            format!("the network had no priority over other programs: {why}")
        } else {
            return;
        };
        self.verdict = Verdict::NotBelieved { why };
    }

    /// A line for each expectation and one for the whole.
    pub fn lines(&self) -> Vec<String> {
        let word = |pass: bool| if pass { "pass" } else { "FAIL" };
        let line = |outcome: &Outcome| {
            format!("{}  {}: measured {}; wanted {}", word(outcome.pass), outcome.name, outcome.measured, outcome.wanted)
        };
        let mut lines: Vec<String> = self.outcomes.iter().map(line).collect();
        lines.push(match &self.verdict {
            Verdict::Pass => format!("pass  {}", self.scenario),
            Verdict::Fail => format!("FAIL  {}", self.scenario),
            Verdict::NotBelieved { why } => format!("not believed  {}: {why}", self.scenario),
            Verdict::NotRun { why } => format!("not run  {}: {why}", self.scenario),
        });
        lines
    }

    /// Writes it as JSON into `folder`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let path = folder.join(format!("{}.json", self.scenario));
        std::fs::write(&path, serde_json::to_vec(self)?).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

fn observer(observer: &Observer) -> String {
    match observer {
        Observer::Agent(name) => format!("agent {name}"),
        Observer::Collector(name) => format!("collector {name}"),
    }
}

fn subject(quantity: &Quantity) -> String {
    match quantity {
        Quantity::Link { from, to, kind, value } => format!("link {from} -> {to} {value} ({kind})"),
        Quantity::Replication { origin, node, value } => format!("replication {origin} -> {node} {value}"),
        Quantity::Clocks { from, to, value } => format!("clocks {from} -> {to} {value}"),
        Quantity::Node { node, value } => format!("node {node} {value}"),
        Quantity::Region { region, value } => format!("region {region} {value}"),
        Quantity::Cluster { cluster, value } => format!("cluster {cluster} {value}"),
        Quantity::Fleet { value } => format!("fleet {value}"),
        Quantity::Agent { agent, value } => format!("agent {agent} {value}"),
        Quantity::Metric { name, labels } => {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("metric {name} {}", labels.join(","))
        }
    }
}
