//! The verdict on every region, on two axes, from several vantage points and over time.
//!
//! Pure: a view and `now` go in, verdicts come out. [`votes`] says what the evidence of one moment amounts to, [`hysteresis`] what
//! has held for long enough to be believed. [`clocks`] brings together what all agents have measured of each other's clocks.
//!
//! Every region is judged on both axes. Where there is nothing to read or write from (a witness region without nodes; for writes, a
//! region whose nodes are all standbys), the axis says whether the region can be reached, and `why` says so.

pub mod clocks;
pub mod hysteresis;
pub(crate) mod report;
#[cfg(test)]
mod tests;
pub mod votes;

use std::collections::BTreeMap;
use std::time::Duration;

use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::RegionName;
use lagmesh_model::state::{Axis, RegionState};
use lagmesh_model::status::Verdict;
use lagmesh_model::time::Reading;
use serde::{Deserialize, Serialize};

use crate::merge::View;
use hysteresis::Hysteresis;
use votes::Finding;

/// The most that one step counts for: time during which nobody looked proves nothing.
const STEP_MAX: Duration = Duration::from_secs(5);

/// The judge's memory.
#[derive(Debug)]
pub struct Judge {
    axes: BTreeMap<(RegionName, Axis), Hysteresis>,
    stepped: Option<Reading>,
    watched: Duration,
}

/// What of the judge's memory survives a restart: the state of one axis and for how long it has been watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Which region.
    pub region: RegionName,
    /// Which axis.
    pub axis: Axis,
    /// Its state and how long it has held.
    pub hysteresis: Hysteresis,
}

impl Judge {
    /// Takes up what an earlier run remembered; regions that are no longer in the fleet file are forgotten.
    pub fn new(fleet: &Fleet, memories: Vec<Memory>) -> Judge {
        let mut axes: BTreeMap<(RegionName, Axis), Hysteresis> = fleet
            .regions
            .iter()
            .flat_map(|region| Axis::ALL.iter().map(|axis| ((region.name.clone(), *axis), Hysteresis::default())))
            .collect();
        for memory in memories {
            if let Some(axis) = axes.get_mut(&(memory.region, memory.axis)) {
                *axis = memory.hysteresis;
            }
        }
        Judge { axes, stepped: None, watched: Duration::ZERO }
    }

    /// What should survive a restart.
    pub fn memories(&self) -> Vec<Memory> {
        let memory = |((region, axis), hysteresis): (&(RegionName, Axis), &Hysteresis)| Memory {
            region: region.clone(),
            axis: *axis,
            hysteresis: hysteresis.clone(),
        };
        self.axes.iter().map(memory).collect()
    }

    /// Judges every region of the fleet file by what is known `now`.
    pub fn step(&mut self, fleet: &Fleet, view: &View, now: Reading) -> BTreeMap<RegionName, Vec<Verdict>> {
        let passed = self.pass(now);
        self.watched += passed;
        let blind = !view.sees_anything(now);
        // Agents report one after another: until each had the time to, the state from before the restart stands.
        let waking = self.watched < view.fresh_for();
        let mut verdicts: BTreeMap<RegionName, Vec<Verdict>> = BTreeMap::new();
        for ((region, axis), hysteresis) in &mut self.axes {
            let poll = votes::poll(fleet, view, region, *axis, now);
            let is_missing = matches!(poll.finding, Finding::Missing(_));
            let why = if blind {
                hysteresis.wait(passed);
                standing(hysteresis.state(), "no agent at all reports to this collector")
            } else if waking && is_missing {
                hysteresis.wait(passed);
                standing(hysteresis.state(), &format!("{}; the collector has just started", poll.finding.why()))
            } else {
                hysteresis.step(&poll.finding, passed, &fleet.judge)
            };
            // That nothing is known is never old news; any other state without evidence is.
            let stale = (blind || is_missing) && hysteresis.state() != RegionState::Unknown;
            let for_s = hysteresis.held().as_secs_f64();
            let judged = Verdict { axis: *axis, state: hysteresis.state(), stale, for_s, why, votes: poll.votes };
            verdicts.entry(region.clone()).or_default().push(judged);
        }
        verdicts
    }

    /// The time since the last step, on the raw clock and within one epoch.
    fn pass(&mut self, now: Reading) -> Duration {
        let last = self.stepped.replace(now);
        let same_epoch = last.filter(|last| last.epoch == now.epoch);
        let passed = same_epoch.and_then(|last| now.raw.checked_since(last.raw));
        passed.map_or(Duration::ZERO, |passed| passed.min(STEP_MAX))
    }
}

/// Why a state is what it is although nothing is known now.
fn standing(state: RegionState, why: &str) -> String {
    if state == RegionState::Unknown { why.to_owned() } else { format!("{why}, so the last state stands") }
}
