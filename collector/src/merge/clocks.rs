//! What agents tell of their clocks, taken together again from its series: numbers that cannot be are left out. Pure.

use std::collections::BTreeMap;

use lagmesh_model::catalogue::{Attribute, CLOCK_EPOCH, CLOCK_PEER_EPOCH, CLOCK_RAW, CLOCK_RAW_OFFSET, CLOCK_WALL, Metric};
use lagmesh_model::ids::AgentName;
use lagmesh_model::interval::Interval;
use lagmesh_model::series::Attributes;
use lagmesh_model::state::Bound;
use lagmesh_model::time::{Epoch, RawNanos, Reading};

use super::{Boot, Key, View, Witness, named};

/// What one agent told of the clocks of its host and of its peers' with its newest batches. Measuring clocks stand for one run each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldClocks {
    /// Who told.
    pub agent: AgentName,
    /// The run of its host's measuring clock.
    pub epoch: Epoch,
    /// How its wall clock was read for this batch.
    pub newest: WallReadings,
    /// The same for the batch before, if that was of the same run.
    pub before: Option<WallReadings>,
    /// Of peer agents: the run of their measuring clock, and that clock minus the agent's own at the moment of the batch.
    pub peers: BTreeMap<AgentName, (Epoch, Interval)>,
}

/// How a host's wall clock was read for one batch, in terms of its measuring clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallReadings {
    /// From when on it was read.
    pub since: RawNanos,
    /// The moment of the batch.
    pub at: RawNanos,
    /// Wall clock minus measuring clock, at every reading from `since` to `at`.
    pub wall: Interval,
}

impl View {
    /// What agents tell of their clocks whose evidence is fresh; each agent once.
    pub fn clocks(&self, now: Reading) -> Vec<ToldClocks> {
        let fresh_for = self.fresh_for();
        let told = |(name, agent): (&AgentName, &super::Agent)| {
            let witness = Witness::new(name, agent.current(now, fresh_for)?, now, fresh_for);
            if witness.age.fresh { told(&witness) } else { None }
        };
        self.agents.iter().filter_map(told).collect()
    }
}

fn told(witness: &Witness<'_>) -> Option<ToldClocks> {
    let boot = witness.boot;
    let (epoch, newest) = wall_readings(boot)?;
    let peers = boot.wholes().filter(|(key, _)| key.metric.name == CLOCK_PEER_EPOCH.name).filter_map(|(key, epoch)| {
        let offset = ends(boot, &CLOCK_RAW_OFFSET, &key.attributes)?;
        Some((named(&key.attributes, Attribute::PeerAgent)?, (Epoch(epoch.cast_unsigned()), offset)))
    });
    let before = boot.wall_before.filter(|(run, _)| *run == epoch).map(|(_, readings)| readings);
    Some(ToldClocks { agent: witness.agent.clone(), epoch, newest, before, peers: peers.collect() })
}

/// What the newest batch tells of its host's own clocks: the run of the measuring clock, and the wall clock by it.
pub(super) fn wall_readings(boot: &Boot) -> Option<(Epoch, WallReadings)> {
    let own = Attributes::new().with(Attribute::Region, &boot.exporter.region).with(Attribute::Agent, &boot.exporter.agent);
    let epoch = boot.whole(&Key { metric: &CLOCK_EPOCH, attributes: own.clone() })?;
    let span = ends(boot, &CLOCK_RAW, &own)?;
    let raw = |ns: i64| RawNanos::from_outside(u64::try_from(ns).ok()?);
    let (since, at) = (raw(span.lower_ns())?, raw(span.upper_ns())?);
    Some((Epoch(epoch.cast_unsigned()), WallReadings { since, at, wall: ends(boot, &CLOCK_WALL, &own)? }))
}

/// An interval by its two ends; `None` if one is missing, they are out of order, or no two clocks are so far apart.
fn ends(boot: &Boot, metric: &'static Metric, attributes: &Attributes) -> Option<Interval> {
    let end = |bound: Bound| {
        let ns = boot.whole(&Key { metric, attributes: attributes.clone().with(Attribute::Bound, bound) })?;
        RawNanos::from_outside(ns.unsigned_abs()).map(|_| ns)
    };
    Interval::between(end(Bound::Lower)?, end(Bound::Upper)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lagmesh_model::series::Batch;

    use super::*;
    use crate::fixture::{Says, at};
    use crate::merge::FRESH_INTERVALS;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn batch() -> Batch {
        Says::new("a", 1).clocks([10, 20], [-5, 5]).raw_offset("b", 7, [100, 200]).batch()
    }

    fn clocks(batch: Batch, second: u64) -> Vec<ToldClocks> {
        let mut view = View::new(INTERVAL);
        view.accept(batch, at(0));
        view.clocks(at(second))
    }

    /// What an agent told comes out as it went in, to the last digit and sign, for three intervals and no longer.
    #[test]
    fn as_told_while_fresh() {
        let big = (1_i64 << 60) + 1;
        let says = Says::new("a", 1).clocks([big, big + 3], [-big - 2, -big]).raw_offset("b", u64::MAX, [-big, big]);
        let told = ToldClocks {
            agent: "a".parse().unwrap(),
            epoch: Epoch(u64::MAX - 1),
            newest: WallReadings {
                since: RawNanos(big.unsigned_abs()),
                at: RawNanos(big.unsigned_abs() + 3),
                wall: Interval::between(-big - 2, -big).unwrap(),
            },
            before: None,
            peers: [("b".parse().unwrap(), (Epoch(u64::MAX), Interval::between(-big, big).unwrap()))].into(),
        };
        let batch = says.batch();
        assert_eq!(clocks(batch.clone(), 30), [told]);
        assert_eq!(clocks(batch, u64::from(FRESH_INTERVALS) * INTERVAL.as_secs() + 1), []);
    }

    /// Beside the newest readings of the wall clock stand those of the batch before, whatever came late in between, unless the measuring
    /// clock has begun anew.
    #[test]
    fn the_readings_before_are_kept() {
        let raw = [[10, 20], [20, 30], [30, 40]];
        let mut batches: Vec<Batch> =
            (1..).zip(raw).map(|(sequence, raw)| Says::new("a", sequence).clocks(raw, [5, 6]).batch()).collect();
        let mut view = View::new(INTERVAL);
        for at_sequence in [0, 2, 1] {
            view.accept(batches[at_sequence].clone(), at(0));
        }
        let told = view.clocks(at(0)).remove(0);
        let spans = |readings: WallReadings| (readings.since.0, readings.at.0);
        assert_eq!((spans(told.newest), told.before.map(spans)), ((30, 40), Some((10, 20))));
        for one in &mut batches[2].series {
            if one.metric.name == CLOCK_EPOCH.name {
                one.value = lagmesh_model::series::Value::Whole(77);
            }
        }
        batches[2].sequence = 4;
        view.accept(batches[2].clone(), at(0));
        assert_eq!(view.clocks(at(0))[0].before, None);
    }

    /// A number that is missing or cannot be leaves out what rests on it, and no more.
    #[test]
    fn what_cannot_be_is_left_out() {
        let without = |metric: &Metric| {
            let mut batch = batch();
            batch.series.retain(|one| one.metric.name != metric.name);
            clocks(batch, 0)
        };
        assert_eq!(clocks(batch(), 0)[0].peers.len(), 1);
        for metric in [&CLOCK_EPOCH, &CLOCK_RAW, &CLOCK_WALL] {
            assert_eq!(without(metric), [], "{metric}");
        }
        for metric in [&CLOCK_PEER_EPOCH, &CLOCK_RAW_OFFSET] {
            assert!(without(metric)[0].peers.is_empty(), "{metric}");
        }
        for (span, wall) in [([20, 10], [0, 0]), ([-1, 10], [0, 0]), ([10, i64::MAX], [0, 0]), ([10, 20], [i64::MIN, 0])] {
            assert_eq!(clocks(Says::new("a", 1).clocks(span, wall).batch(), 0), []);
        }
        let odd = Says::new("a", 1).clocks([10, 20], [0, 0]).raw_offset("b", 1, [0, i64::MAX]).raw_offset("c", 1, [1, 0]);
        assert!(clocks(odd.batch(), 0)[0].peers.is_empty());
    }
}
