//! What all agents together have seen: counts added exactly, current values with the age of what they rest on.
//!
//! Pure: batches and `now` go in, numbers come out. Totals depend neither on the order in which batches arrive nor on how often:
//! every batch holds all counts of its boot so far, the one of the highest sequence stands for the boot, and totals are sums of those.
//! That is also what the store keeps, so a restart changes no total, and what an agent invents is gone with its next batch.
//!
//! What servers do whoever looks ([`Metric::is_of_servers`]) is not added up over agents, which have all counted the same: the agent that has
//! counted most over all its boots speaks. When it falls silent its last count stands until another's has passed it, so nothing falls and
//! nothing jumps; but not for longer than [`SPEAKS_FOR`], for the other may have begun long after it.
//!
//! [`Metric::is_of_servers`]: lagmesh_model::catalogue::Metric::is_of_servers

mod boot;
mod clocks;
mod key;
mod recent;
mod sequences;
#[cfg(test)]
mod tests;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lagmesh_model::ids::{AgentName, BootId, RegionName};
use lagmesh_model::known::Known;
use lagmesh_model::series::{Batch, Exporter, Series, Value};
use lagmesh_model::time::Reading;

pub use boot::Boot;
pub use clocks::{ToldClocks, WallReadings};
pub use key::Key;
pub use recent::{Growth, NEWEST_POINTS_MAX};
pub use sequences::{News, Sequences};
pub use witness::{Witness, named};

/// Evidence older than this many export intervals is not fresh: two exports may get lost before anybody is called silent.
pub const FRESH_INTERVALS: u32 = 3;

/// The most series of one agent's retired boots; those that come up beyond are left out. No fleet file leads there.
const RETIRED_SERIES_MAX: usize = 50_000;

/// So long after its last batch an agent may still have the say about what a server does.
pub const SPEAKS_FOR: Duration = Duration::from_secs(3600);

/// The span of "recent" distributions.
pub const RECENT: Duration = Duration::from_secs(60);

/// How old evidence is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Age {
    /// Whether it may be taken for the present.
    pub fresh: bool,
    /// The age [s]: measured on the raw clock within one epoch, else a wall-clock label; `None` if the label is impossible.
    pub seconds: Option<f64>,
}

impl Age {
    /// The age at `now` of what arrived at `arrived`.
    ///
    /// Across epochs (a restart of the collector, a suspended host) no clock has measured the time in between: the wall clock
    /// labels it, and it is never fresh.
    pub fn of(arrived: Reading, now: Reading, fresh_for: Duration) -> Age {
        if arrived.epoch == now.epoch {
            // `now` may have been read just before the batch arrived.
            let age_ns = now.raw.since_ns(arrived.raw).max(0);
            return Age { fresh: u128::from(age_ns.unsigned_abs()) <= fresh_for.as_nanos(), seconds: Some(age_ns as f64 / 1e9) };
        }
        let label_ns = now.wall.0.checked_sub(arrived.wall.0);
        Age { fresh: false, seconds: label_ns.map(|ns| ns as f64 / 1e9) }
    }

    /// A value of this age: known, stale, or unknown if not even the age is.
    pub fn of_value<T>(self, value: T) -> Known<T> {
        match (self.fresh, self.seconds) {
            (true, _) => Known::known(value),
            (false, Some(age_s)) => Known::Stale { value, age_s },
            (false, None) => Known::unknown("measured before a restart, and the wall clock has been set back since"),
        }
    }

    /// The age itself.
    pub fn known(self) -> Known<f64> {
        match self.seconds {
            Some(seconds) => self.of_value(seconds),
            None => Known::unknown("the wall clock has been set back since the last report"),
        }
    }
}

/// Everything that agents have delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    interval: Duration,
    agents: BTreeMap<AgentName, Agent>,
    /// Whose home each region is.
    homes: BTreeMap<RegionName, BTreeSet<AgentName>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Agent {
    boots: BTreeMap<BootId, Boot>,
    /// The final counts of boots that are no longer kept one by one.
    retired: BTreeMap<Key, Value>,
}

impl View {
    /// Nothing seen yet; agents export every `interval`.
    pub fn new(interval: Duration) -> View {
        View { interval, agents: BTreeMap::new(), homes: BTreeMap::new() }
    }

    /// How long evidence stays fresh.
    pub fn fresh_for(&self) -> Duration {
        self.interval * FRESH_INTERVALS
    }

    /// Takes a batch in. Repeated and late batches change no total.
    pub fn accept(&mut self, batch: Batch, arrived: Reading) {
        let window = self.window();
        let boots = &mut self.agent(&batch.exporter).boots;
        let boot = boots.entry(batch.exporter.boot).or_insert_with(|| Boot::new(batch.exporter.clone(), batch.start, arrived));
        boot.accept(batch, arrived, window);
    }

    /// Takes in the added-up counts of an agent's boots that are no longer kept one by one.
    pub fn accept_retired(&mut self, retired: Batch) {
        let agent = self.agent(&retired.exporter);
        for series in retired.series {
            key::add(&mut agent.retired, Key::of(&series), &series.value, RETIRED_SERIES_MAX);
        }
    }

    /// Stops keeping a boot by itself: its final counts stay in the totals.
    pub fn retire(&mut self, agent: &AgentName, boot: BootId) {
        let Some(agent) = self.agents.get_mut(agent) else { return };
        let Some(boot) = agent.boots.remove(&boot) else { return };
        for (key, value) in boot.totals() {
            key::add(&mut agent.retired, key.clone(), value, RETIRED_SERIES_MAX);
        }
    }

    /// The agents of a region that have ever delivered anything, each by its current boot: fresh ones first, the newest first.
    pub fn witnesses(&self, region: &RegionName, now: Reading) -> Vec<Witness<'_>> {
        let fresh_for = self.fresh_for();
        let witness = |name: &'_ AgentName| {
            let (name, agent) = self.agents.get_key_value(name)?;
            Some(Witness::new(name, agent.current(now, fresh_for)?, now, fresh_for))
        };
        let mut all: Vec<Witness<'_>> = self.homes.get(region).into_iter().flatten().filter_map(witness).collect();
        all.sort_by(|a, b| b.age.fresh.cmp(&a.age.fresh).then_with(|| witness::newer(b, a)));
        all
    }

    /// Age of the newest evidence that a region's own agents have delivered.
    pub fn age(&self, region: &RegionName, now: Reading) -> Known<f64> {
        match self.witnesses(region, now).first() {
            Some(newest) => newest.age.known(),
            None => Known::unknown("none of its agents has ever reported here"),
        }
    }

    /// Whether any agent at all delivers: if not, the collector is blind and judges nobody.
    pub fn sees_anything(&self, now: Reading) -> bool {
        let fresh_for = self.fresh_for();
        let mut boots = self.agents.values().flat_map(|agent| agent.boots.values());
        boots.any(|boot| Age::of(boot.arrived, now, fresh_for).fresh)
    }

    /// Counters and histograms, added up over all agents and boots; what servers do over the boots of the agent that speaks.
    pub fn totals(&self, now: Reading) -> BTreeMap<Key, Value> {
        let mut totals = BTreeMap::new();
        let mut of_servers: BTreeMap<Key, (bool, u64)> = BTreeMap::new();
        for agent in self.agents.values() {
            let mut counted = BTreeMap::new();
            for (key, value) in agent.retired.iter().chain(agent.boots.values().flat_map(Boot::totals)) {
                let into = if key.metric.is_of_servers() { &mut counted } else { &mut totals };
                key::add(into, key.clone(), value, usize::MAX);
            }
            let speaks = agent.speaks(now);
            for (key, value) in counted {
                if let Value::Counter(count) = value {
                    let most = of_servers.entry(key).or_default();
                    *most = (*most).max((speaks, count));
                }
            }
        }
        totals.extend(of_servers.into_iter().map(|(key, (_, count))| (key, Value::Counter(count))));
        totals
    }

    /// Current values that are fresh, one per series: that of the agent that knows best, else of the newest.
    pub fn gauges(&self, now: Reading) -> Vec<Series> {
        let mut best: BTreeMap<&Key, (Witness<'_>, f64)> = BTreeMap::new();
        let fresh_for = self.fresh_for();
        for (name, agent) in &self.agents {
            let Some(boot) = agent.current(now, fresh_for) else { continue };
            let witness = Witness::new(name, boot, now, fresh_for);
            if !witness.age.fresh {
                continue;
            }
            for (key, value) in boot.gauges() {
                let better = best.get(key).is_none_or(|(held, _)| witness.knows_better(held, &key.attributes));
                if better {
                    best.insert(key, (witness.clone(), value));
                }
            }
        }
        best.into_iter().map(|(key, (_, value))| Series::gauge(key.metric, key.attributes.clone(), value)).collect()
    }

    /// How many batches make up [`RECENT`]; at least one, and bounded however short the interval is.
    fn window(&self) -> u64 {
        let batches = RECENT.as_nanos().div_ceil(self.interval.as_nanos().max(1));
        u64::try_from(batches).map_or(NEWEST_POINTS_MAX, |batches| batches.clamp(1, NEWEST_POINTS_MAX))
    }

    fn agent(&mut self, exporter: &Exporter) -> &mut Agent {
        self.agents.entry(exporter.agent.clone()).or_insert_with(|| {
            self.homes.entry(exporter.region.clone()).or_default().insert(exporter.agent.clone());
            Agent { boots: BTreeMap::new(), retired: BTreeMap::new() }
        })
    }
}

impl Agent {
    /// Whether it was heard of not too long ago to have the say about what a server does. Where a clock was set back nobody knows how long.
    fn speaks(&self, now: Reading) -> bool {
        let heard =
            |boot: &Boot| Age::of(boot.arrived, now, SPEAKS_FOR).seconds.is_none_or(|age_s| age_s <= SPEAKS_FOR.as_secs_f64());
        self.boots.values().any(heard)
    }

    /// The boot that speaks for the agent now.
    ///
    /// While the backlog of a dead boot is still being delivered, two boots arrive; the one that started later speaks. Starts are
    /// wall-clock labels, so they decide between boots only while both are fresh: a clock that was set back heals by itself.
    fn current(&self, now: Reading, fresh_for: Duration) -> Option<&Boot> {
        self.boots.values().max_by_key(|boot| {
            let fresh = Age::of(boot.arrived, now, fresh_for).fresh;
            let same_epoch = boot.arrived.epoch == now.epoch;
            if fresh {
                (true, same_epoch, boot.start.0, boot.arrived.raw.0)
            } else {
                (false, same_epoch, boot.arrived.raw.0, boot.start.0)
            }
        })
    }
}

/// What a boot has counted from one of its batches to a later one; current values are dropped.
pub fn grown(before: &Batch, after: &Batch) -> Batch {
    let held: BTreeMap<Key, &Value> = before.series.iter().map(|series| (Key::of(series), &series.value)).collect();
    let more = |series: &Series| {
        let value = key::grown(held.get(&Key::of(series)).copied(), &series.value)?;
        Some(Series { metric: series.metric, attributes: series.attributes.clone(), value })
    };
    Batch { series: after.series.iter().filter_map(more).collect(), ..after.clone() }
}

/// Adds the counts of one boot's last batch to the counts of boots retired before it; current values are dropped.
pub fn fold(retired: Option<&Batch>, dead: &Batch) -> Batch {
    let mut totals = BTreeMap::new();
    for series in retired.into_iter().flat_map(|batch| &batch.series).chain(&dead.series) {
        key::add(&mut totals, Key::of(series), &series.value, RETIRED_SERIES_MAX);
    }
    let series =
        totals.into_iter().map(|(key, value)| Series { metric: key.metric, attributes: key.attributes, value }).collect();
    Batch { series, ..dead.clone() }
}
