//! What was true while lagmesh was watched: from the network's own log, from observers of the servers, and from the clocks that were
//! set.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result};
use lagmesh_model::state::ProbeKind;
use serde::Serialize;

use super::sample::Sample;
use crate::clocks::{HostClock, machine};
use crate::observer::truth::{BeatTruth, Span, Stream};
use crate::observer::{self, Observer, Watched};
use crate::real::Real;
use crate::scenario::{Condition, Quantity, Scenario};
use crate::wan::truth::RttTruth;
use crate::world::World;

/// The span over which an agent's recent distributions reach [ns].
const RECENT_NS: i64 = 60_000_000_000;

/// How far back the moment may lie that an agent's page shows of its recent distributions [ns]: the page may be a second old.
const PAGE_NS: i64 = 2_000_000_000;
/// At how many moments of that span they are worked out.
const PAGE_LOOKS: i64 = 10;

/// A staleness that is not known better than this is no truth to compare with [ns]: a stall, or a beat that is arriving just now.
const STALENESS_WIDTH_NS_MAX: i64 = 5_000_000;

/// A lag that is not known better than this is none either [ns]. Where the machine is slow, half of the beats are seen less exactly than
/// the observers look, and still exactly enough to be held against intervals of tens of milliseconds.
const LAG_WIDTH_NS_MAX: i64 = 3_000_000;

/// How far back the moment may lie for which a collector tells of two wall clocks [ns]: several intervals of export.
const CLOCKS_NS: i64 = 10_000_000_000;
/// At how many moments of that span they are looked at.
const CLOCKS_LOOKS: i64 = 100;

/// Gathers the truth until it is stopped.
pub(super) struct Truth {
    observer: Option<Observer>,
    links: Vec<(String, String)>,
    start: Real,
}

/// What was true.
pub(super) struct Found {
    beats: observer::truth::Truth,
    /// By origin, incarnation and sequence.
    index: BTreeMap<(String, i64, u64), usize>,
    round_trips: BTreeMap<(String, String), Vec<RttTruth>>,
    /// Of regions that have their own.
    clocks: BTreeMap<String, Arc<HostClock>>,
    quality: Quality,
}

/// How good the truth was.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Quality {
    /// What the network's router says of itself.
    pub network: Option<crate::wan::quality::Quality>,
    /// What the observers say of themselves and of what they cost.
    pub observers: Vec<observer::cost::Report>,
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(network) = &self.network {
            let (p50, p99, max) = (network.lateness_p50_ns, network.lateness_p99_ns, network.lateness_max_ns);
            let us = |ns: u64| ns as f64 / 1e3;
            write!(
                f,
                "{} packets, released p50 {:.1}, p99 {:.1}, max {:.0} us late",
                network.handed_over,
                us(p50),
                us(p99),
                us(max)
            )?;
            write!(f, ", {} stalls", network.stalls.len() as u64 + network.stalls_forgotten)?;
        }
        for report in &self.observers {
            let width = report.width_p50_p99_max_ns.map_or_else(
                || "no beat seen".to_owned(),
                |(p50, p99, max)| {
                    let ms = |ns: i64| ns as f64 / 1e6;
                    format!("known within p50 {:.3}, p99 {:.3}, max {:.3} ms", ms(p50), ms(p99), ms(max))
                },
            );
            write!(
                f,
                "; {}: {} beats {width}, costing its server {:.1} % of a core",
                report.node,
                report.beats,
                report.server_cpu_percent()
            )?;
        }
        Ok(())
    }
}

impl Truth {
    /// Starts observing whatever the scenario compares with the truth.
    ///
    /// # Errors
    /// If an observer cannot be started.
    pub(super) fn start(world: &World, scenario: &Scenario) -> Result<Truth> {
        let compared = |quantity: &&Quantity| {
            scenario.expectations.iter().any(|expectation| {
                expectation.quantity == **quantity
                    && matches!(expectation.condition, Condition::NearTruth(_) | Condition::CoversTruth)
            })
        };
        let quantities = scenario.expectations.iter().map(|expectation| &expectation.quantity).filter(compared);
        let mut links = Vec::new();
        let mut lags = false;
        for quantity in quantities {
            match quantity {
                Quantity::Link { from, to, .. } => links.push((from.clone(), to.clone())),
                Quantity::Replication { .. } => lags = true,
                _ => {}
            }
        }
        let observer = if lags { Some(observe(world)?) } else { None };
        Ok(Truth { observer, links, start: Real::now() })
    }

    /// Ends, and hands over what was found.
    ///
    /// # Errors
    /// If the network or an observer has broken.
    pub(super) async fn stop(self, world: &World) -> Result<Found> {
        let (beats, observers) = match self.observer {
            Some(observer) => {
                // Its threads are waited for, which is nothing for a thread of the runtime.
                tokio::task::spawn_blocking(move || observer.stop()).await.context("end the observers")?
            }
            None => (observer::truth::Truth::default(), Vec::new()),
        };
        let wan = world.wan().context("there is no emulated network")?;
        let mut round_trips = BTreeMap::new();
        let now = Real::now();
        for (from, to) in self.links {
            let mut found = Vec::new();
            for port in world.mesh_ports(&to)? {
                found.extend(wan.log().rtt_truth(wan.host(&from)?.id(), wan.host(&to)?.id(), port, self.start + -RECENT_NS, now));
            }
            found.sort_by_key(|truth| truth.left);
            round_trips.insert((from, to), found);
        }
        let key = |beat: &BeatTruth| {
            let sequence = u64::try_from(beat.id.sequence).ok()?;
            (beat.id.stream == Stream::Beat).then(|| (beat.id.origin.clone(), beat.id.incarnation, sequence))
        };
        let index = beats.beats.iter().enumerate().filter_map(|(at, beat)| Some((key(beat)?, at))).collect();
        let own = |region: &crate::plan::RegionPlan| Some((region.name.clone(), Arc::clone(world.clock(&region.name)?)));
        let clocks = world.plan().regions.iter().filter_map(own).collect();
        Ok(Found { beats, index, round_trips, clocks, quality: Quality { network: Some(wan.quality()), observers } })
    }
}

/// Observes every server of the world.
fn observe(world: &World) -> Result<Observer> {
    let watched: Vec<Watched> = world.servers().iter().map(|(node, server)| Watched::new(node, server)).collect::<Result<_>>()?;
    Observer::start(&watched, observer::RESOLUTION)
}

impl Found {
    /// How good it is.
    pub(super) fn quality(&self) -> Quality {
        self.quality.clone()
    }

    /// Gives each sample of a quantity what was true then, where that is known.
    pub(super) fn attach(&self, quantity: &Quantity, samples: &mut [Sample]) {
        for sample in samples {
            sample.truth = match quantity {
                Quantity::Link { from, to, kind: ProbeKind::Stamp, value } => self.round_trip(from, to, value, sample.at),
                Quantity::Replication { origin, node, value } if value == "lag" => self.lag(origin, node, sample.basis.beat),
                Quantity::Replication { origin, node, value } if value == "staleness" => self.staleness(origin, node, sample),
                Quantity::Clocks { from, to, .. } => Some(self.wall_offset(from, to, sample.at)),
                _ => None,
            };
        }
    }

    /// Between which bounds the wall clock of one region was ahead of the other's for a while.
    fn wall_offset(&self, from: &str, to: &str, until: Real) -> (f64, f64) {
        let wall = |region: &str, at: Real| {
            self.clocks.get(region).map_or_else(|| at.0 + machine::at(at).wall_ns, |clock| clock.wall_at(at))
        };
        let looks = (0..=CLOCKS_LOOKS).map(|look| until + -(CLOCKS_NS / CLOCKS_LOOKS * look));
        let apart: Vec<i64> = looks.map(|at| wall(to, at) - wall(from, at)).collect();
        let (lower, upper) = apart.iter().fold((i64::MAX, i64::MIN), |(lower, upper), ns| (lower.min(*ns), upper.max(*ns)));
        (lower as f64 / 1e9, upper as f64 / 1e9)
    }

    /// Of a replication that was said to stand still: what it was since the evidence for that, in which it may have gone on.
    fn staleness(&self, origin: &str, node: &str, sample: &Sample) -> Option<(f64, f64)> {
        let known = |at| {
            let span = self.beats.staleness(origin, node, at)?;
            (span.upper_ns - span.lower_ns <= STALENESS_WIDTH_NS_MAX).then(|| seconds(span))
        };
        let (lower, upper) = known(sample.at)?;
        let Some(still_s) = sample.basis.stood_still_for_s else { return Some((lower, upper)) };
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a run")]
        let (_, then) = known(Real(sample.at.0 - (still_s * 1e9) as i64))?;
        Some((lower, upper.max(then)))
    }

    fn lag(&self, origin: &str, node: &str, beat: Option<(i64, u64)>) -> Option<(f64, f64)> {
        let (incarnation, sequence) = beat?;
        let beat = &self.beats.beats[*self.index.get(&(origin.to_owned(), incarnation, sequence))?];
        let span = beat.lag(node)?;
        (span.upper_ns - span.lower_ns <= LAG_WIDTH_NS_MAX).then(|| seconds(span))
    }

    /// The same statistic over the same span as the agent's, at whichever moment of the last ones the agent told it.
    fn round_trip(&self, from: &str, to: &str, value: &str, until: Real) -> Option<(f64, f64)> {
        let all = self.round_trips.get(&(from.to_owned(), to.to_owned()))?;
        let looks = (0..=PAGE_LOOKS).filter_map(|look| statistic(all, value, until + -(PAGE_NS / PAGE_LOOKS * look)));
        looks.reduce(|(lower, upper), (low, high)| (lower.min(low), upper.max(high)))
    }
}

/// A statistic of the round trips that began within the agent's recent span before a moment [s].
fn statistic(all: &[RttTruth], value: &str, at: Real) -> Option<(f64, f64)> {
    let recent = all.iter().filter(|truth| truth.left <= at && at - truth.left <= RECENT_NS);
    let of = |truth: &RttTruth| match value {
        "oneway_forward" => truth.forward_ns,
        "oneway_backward" => truth.back_ns,
        _ => truth.rtt_ns,
    };
    let mut times: Vec<(i64, i64)> = recent.map(|truth| (of(truth), truth.within_ns)).collect();
    times.sort_unstable();
    let rank = |percent: usize| times.get((times.len() * percent).div_ceil(100).checked_sub(1)?).copied();
    let chosen = match value {
        "rtt_min" | "oneway_forward" | "oneway_backward" => times.first().copied(),
        "rtt_max" => times.last().copied(),
        "rtt_p99" => rank(99),
        _ => rank(50),
    }?;
    let (rtt_ns, within_ns) = chosen;
    Some((rtt_ns as f64 / 1e9, (rtt_ns + within_ns) as f64 / 1e9))
}

fn seconds(span: Span) -> (f64, f64) {
    (span.lower_ns as f64 / 1e9, span.upper_ns as f64 / 1e9)
}
