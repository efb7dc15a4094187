//! What is known of a link's path beyond its round trip: one-way delays, delay variation, hops, changes, losses by direction. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lagmesh_model::catalogue::{
    Attribute, LINK_DELAY_VARIATION, LINK_HOPS, LINK_LOSS, LINK_ONEWAY, LINK_ONEWAY_ERROR, LINK_PATH_CHANGES,
};
use lagmesh_model::directed::Directed;
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::AgentName;
use lagmesh_model::interval::Interval;
use lagmesh_model::known::Known;
use lagmesh_model::series::{Attributes, Series};
use lagmesh_model::state::PathCause;
use lagmesh_model::status::{Changed, LinkPath, Losses, PathChange, Seconds};
use lagmesh_model::time::{RawNanos, nanos};

use crate::link::variation::Least;
use crate::link::window::{CURRENT_INTERVALS, RECENT, age_of};
use crate::measurement::{FlowId, PathChanged, Probe};

/// What is recent is kept by five seconds.
const SLOT_NS: u64 = 5_000_000_000;

/// The path of one link.
#[derive(Debug)]
pub struct Path {
    interval: Duration,
    flows: BTreeMap<AgentName, Vec<Flow>>,
    oneway: Directed<Exponential>,
    variation: Exponential,
    losses: Losses,
    changes: BTreeMap<PathCause, u64>,
    newest_change: Option<(RawNanos, PathChange)>,
    recent: VecDeque<Slot>,
    answered_at: Option<RawNanos>,
}

/// The path of one flow.
#[derive(Debug, Default)]
struct Flow {
    least: Least,
    hops: Directed<Option<u8>>,
    answered_at: Option<RawNanos>,
}

/// A part of the last minute.
#[derive(Debug, Default)]
struct Slot {
    number: u64,
    variation: Exponential,
    /// Bounds of the shortest one-way delays.
    shortest: Directed<Option<Interval>>,
    losses: Losses,
}

impl Path {
    /// Nothing known, of flows to nobody yet.
    pub fn new(interval: Duration) -> Path {
        Path {
            interval,
            flows: BTreeMap::new(),
            oneway: Directed::default(),
            variation: Exponential::new(),
            losses: Losses::default(),
            changes: PathCause::ALL.iter().map(|cause| (*cause, 0)).collect(),
            newest_change: None,
            recent: VecDeque::new(),
            answered_at: None,
        }
    }

    /// From now on the flows lead to these agents, so many to each; what is known of those that do already is kept.
    pub fn reload<'a>(&mut self, agents: impl Iterator<Item = &'a AgentName>, flows: u16) {
        let new = || (0..flows).map(|_| Flow::default()).collect();
        self.flows = agents.map(|agent| (agent.clone(), self.flows.remove(agent).unwrap_or_else(new))).collect();
    }

    /// An answered probe; `is_current` says whether its stamp is of the present epoch of our clock.
    pub fn record(&mut self, probe: &Probe, is_current: bool) {
        let (Some(sample), Some(rtt_ns), Some(agent)) = (probe.path, probe.rtt_ns, &probe.agent) else { return };
        if let Some(oneway) = sample.oneway {
            let _ = self.oneway.as_mut().zip(oneway).map(|(total, delay)| total.record_difference_ns(delay.estimate_ns()));
        }
        if !is_current {
            return;
        }
        let at = probe.at.raw;
        let Some(flow) = self.flows.get_mut(agent).and_then(|flows| flows.get_mut(usize::from(sample.flow))) else { return };
        flow.answered_at = Some(at);
        let above_ns = flow.least.above(at, rtt_ns);
        flow.hops = sample.hops;
        self.answered_at = self.answered_at.max(Some(at));
        if let Some(above_ns) = above_ns {
            self.variation.record_ns(above_ns);
            self.slot(at).variation.record_ns(above_ns);
        }
        let slot = self.slot(at);
        if let Some(oneway) = sample.oneway {
            slot.shortest = slot.shortest.zip(oneway).map(|(known, new)| Some(shorter(known, new)));
        }
    }

    /// The path of a flow has changed.
    pub fn record_change(&mut self, PathChanged { flow: FlowId { agent, index: flow, .. }, what, at }: &PathChanged) {
        *self.changes.entry(what.cause()).or_default() += 1;
        match what {
            Changed::Delay { before_s, after_s } => {
                tracing::info!(%agent, flow, before_ms = before_s * 1e3, after_ms = after_s * 1e3, "path changed: shortest round trip");
            }
            Changed::HopsForward { before, after } => tracing::info!(%agent, flow, before, after, "path changed: hops there"),
            Changed::HopsBackward { before, after } => tracing::info!(%agent, flow, before, after, "path changed: hops back"),
        }
        self.newest_change = Some((*at, PathChange { agent: agent.clone(), flow: *flow, age_s: 0.0, what: *what }));
    }

    /// Some losses are told; `at` is a moment of the present epoch.
    pub fn record_losses(&mut self, losses: Losses, at: Option<RawNanos>) {
        self.losses += losses;
        if let Some(at) = at {
            self.slot(at).losses += losses;
        }
    }

    /// The flows to an agent leave from other ports: their paths are others.
    pub fn moved(&mut self, agent: &AgentName) {
        self.flows.get_mut(agent).into_iter().flatten().for_each(|flow| *flow = Flow::default());
    }

    /// Our clock began a new epoch: stamps of before mean nothing, what was counted stays.
    pub fn new_epoch(&mut self) {
        self.recent.clear();
        (self.answered_at, self.newest_change) = (None, None);
        for flow in self.flows.values_mut().flatten() {
            flow.least = Least::default();
            flow.answered_at = None;
        }
    }

    fn slot(&mut self, at: RawNanos) -> &mut Slot {
        let number = at.0 / SLOT_NS;
        while self.recent.front().is_some_and(|old| number.abs_diff(old.number) > nanos(RECENT) / SLOT_NS) {
            self.recent.pop_front();
        }
        if self.recent.back().is_none_or(|newest| newest.number < number) {
            self.recent.push_back(Slot { number, ..Slot::default() });
        }
        self.recent.back_mut().expect("a slot was pushed if there was none")
    }

    fn recent(&self, now: RawNanos) -> impl Iterator<Item = &Slot> {
        let newest = now.0 / SLOT_NS;
        self.recent.iter().filter(move |slot| newest.abs_diff(slot.number) <= nanos(RECENT) / SLOT_NS)
    }

    /// The bounds of the shortest one-way delays of the last minute.
    fn shortest(&self, now: RawNanos) -> Directed<Option<Interval>> {
        self.recent(now).fold(Directed::default(), |sum, slot| {
            sum.zip(slot.shortest).map(|(sum, new)| match new {
                Some(new) => Some(shorter(sum, new)),
                None => sum,
            })
        })
    }

    /// The most routers that any flow passes that was answered in the last minute.
    fn hops(&self, now: RawNanos) -> Directed<Option<u8>> {
        let is_recent = |flow: &&Flow| flow.answered_at.is_some_and(|at| age_of(at, now) <= RECENT);
        let recent = self.flows.values().flatten().filter(is_recent);
        recent.fold(Directed::default(), |most, flow| most.zip(flow.hops).map(|(most, hops)| most.max(hops)))
    }

    /// A value of the last minute, as old as the newest answer.
    fn of_answers<T>(&self, now: RawNanos, value: Option<T>, why: &str) -> Known<T> {
        let age = self.answered_at.map(|at| age_of(at, now));
        match (value, age) {
            (Some(value), Some(age)) if age <= self.interval * CURRENT_INTERVALS => Known::Known { value },
            (Some(value), Some(age)) if age <= RECENT => Known::Stale { value, age_s: age.as_secs_f64() },
            (_, Some(age)) if age > RECENT => Known::unknown(format!("no probe was answered for {:.0} s", age.as_secs_f64())),
            (_, Some(_)) => Known::unknown(why),
            (_, None) => Known::unknown("no probe was answered yet"),
        }
    }

    /// What to show; `probed` says whether the fate of any probe is settled.
    pub fn status(&self, now: RawNanos, probed: bool) -> LinkPath {
        let mut variation = Exponential::new();
        let mut lost = Losses::default();
        for slot in self.recent(now) {
            variation.merge(&slot.variation);
            lost += slot.losses;
        }
        let oneway = |shortest: Option<Interval>| {
            self.of_answers(now, shortest.map(Seconds::from), "answers carry no stamps of the peer's measuring clock")
        };
        let hops = |hops: Option<u8>| {
            self.of_answers(now, hops.map(u64::from), "packets arrive without a hop limit, or did not begin at 255")
        };
        let why = "the fate of no probe is settled yet";
        LinkPath {
            oneway: self.shortest(now).map(oneway),
            delay_variation: self.of_answers(now, variation.quantiles(), "no flow was answered twice within the last minute"),
            hops: self.hops(now).map(hops),
            lost: Known::from_option(probed.then_some(lost), why),
            changes: Known::from_option(probed.then(|| self.changes.values().sum()), why),
            newest_change: self.newest_change.as_ref().map(|(at, change)| {
                let age_s = age_of(*at, now).as_secs_f64();
                PathChange { age_s, ..change.clone() }
            }),
        }
    }

    /// What to export; `probed` says whether any probe was made, for nothing lost is a zero that was counted.
    pub fn series(&self, now: RawNanos, probed: bool, attributes: &Attributes, out: &mut Vec<Series>) {
        if probed {
            for (direction, lost) in self.losses.each() {
                out.push(Series::counter(&LINK_LOSS, attributes.clone().with(Attribute::Direction, direction), lost));
            }
            for (cause, changes) in &self.changes {
                out.push(Series::counter(&LINK_PATH_CHANGES, attributes.clone().with(Attribute::Cause, cause), *changes));
            }
        }
        if !self.variation.is_empty() {
            out.push(Series::histogram(&LINK_DELAY_VARIATION, attributes.clone(), self.variation.clone()));
        }
        for (direction, total) in self.oneway.each().into_iter().filter(|(_, total)| !total.is_empty()) {
            out.push(Series::histogram(&LINK_ONEWAY, attributes.clone().with(Attribute::Direction, direction), total.clone()));
        }
        let LinkPath { oneway, hops, .. } = self.status(now, probed);
        for (direction, delay) in oneway.each() {
            if let Some(Seconds { lower_s, estimate_s, upper_s }) = delay.current() {
                let error_s = (estimate_s - lower_s).max(upper_s - estimate_s);
                out.push(Series::gauge(&LINK_ONEWAY_ERROR, attributes.clone().with(Attribute::Direction, direction), error_s));
            }
        }
        for (direction, hops) in hops.each() {
            if let Some(hops) = hops.current() {
                out.push(Series::gauge(&LINK_HOPS, attributes.clone().with(Attribute::Direction, direction), *hops as f64));
            }
        }
    }
}

/// Bounds of the shorter of two delays: it is at most as long as either can be, and as short as the shorter can be.
fn shorter(known: Option<Interval>, new: Interval) -> Interval {
    let Some(known) = known else { return new };
    let least = |of: fn(&Interval) -> i64| of(&known).min(of(&new));
    Interval::new(least(Interval::lower_ns), least(Interval::estimate_ns), least(Interval::upper_ns))
        .expect("the least of each keep the order of all")
}

#[cfg(test)]
mod tests;
