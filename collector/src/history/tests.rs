use std::collections::BTreeMap;
use std::path::Path;

use lagmesh_model::catalogue::{self, Attribute, Metric};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::{AgentName, BootId};
use lagmesh_model::series::{Attributes, Exporter, Series};
use lagmesh_model::time::nanos;
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::tempdir;

use super::cell::Cell;
use super::read::{Patience, Rows};
use super::runs::RUNS_MAX;
use super::sweep::sweep;
use super::table::{FILE, TIERS, reader};
use super::*;
use crate::merge::{Key, View};

mod files;
mod questions;

/// The start of the tests' time [s since the Unix epoch]: the start of an hour.
const START_S: u64 = 1_700_002_800;

fn wall(seconds: u64) -> WallNanos {
    WallNanos((START_S + seconds) * 1_000_000_000)
}

fn arrived(seconds: u64) -> Reading {
    Reading { wall: wall(seconds), ..crate::fixture::at(seconds) }
}

fn link() -> Attributes {
    Attributes::new().with(Attribute::Region, "a").with(Attribute::Peer, "b").with(Attribute::Kind, "stamp")
}

/// What one boot counts with each of its batches: so many probes, each of so many milliseconds.
#[derive(Debug, Clone)]
struct Life {
    agent: &'static str,
    boot: u64,
    steps: Vec<(u64, u64)>,
}

impl Life {
    /// Ten probes of `ms` with each of `batches`.
    fn even(agent: &'static str, boot: u64, batches: usize, ms: u64) -> Life {
        Life { agent, boot, steps: vec![(10, ms); batches] }
    }

    /// The batch of a number, made ten seconds after the one before.
    fn batch(&self, sequence: u64) -> Batch {
        let (mut probes, mut rtt, mut last_ms) = (0, Exponential::new(), 0);
        for (count, ms) in &self.steps[..usize::try_from(sequence).unwrap()] {
            probes += count;
            last_ms = *ms;
            (0..*count).for_each(|n| rtt.record_ns(ms * 1_000_000 + n));
        }
        let counter = link().with(Attribute::Outcome, "in-time");
        let state = Attributes::new().with(Attribute::Region, "a").with(Attribute::Peer, "b").with(Attribute::State, "ok");
        let mut series = vec![
            Series::counter(&catalogue::LINK_PROBES, counter, probes),
            Series::gauge(&catalogue::LINK_STATE, state, if last_ms.is_multiple_of(2) { 1.0 } else { 0.0 }),
        ];
        // As in an agent, a distribution begins with its first value.
        if !rtt.is_empty() {
            series.push(Series::histogram(&catalogue::LINK_RTT, link(), rtt));
        }
        let exporter = Exporter {
            fleet: "demo".to_owned(),
            region: "a".parse().unwrap(),
            agent: self.agent.parse().unwrap(),
            boot: BootId(self.boot),
            version: "0".to_owned(),
        };
        let start = wall(self.boot * 10_000);
        Batch { exporter, sequence, start, time: start_after(start, sequence * 10), series }
    }

    fn all(&self) -> impl Iterator<Item = Batch> {
        (1..=self.steps.len() as u64).map(|sequence| self.batch(sequence))
    }
}

fn start_after(start: WallNanos, seconds: u64) -> WallNanos {
    WallNanos(start.0 + nanos(Duration::from_secs(seconds)))
}

fn history(folder: &Path) -> History {
    History::open(folder, Keep::default(), &[], (Clock::new(), Tally::default())).unwrap()
}

/// Takes batches in, all of which arrive long after they were made.
fn take(history: &mut History, batches: impl IntoIterator<Item = Batch>) {
    batches.into_iter().for_each(|batch| history.take(&batch, wall(100_000)));
}

/// Everything in the file, by tier, bucket and series: what whoever asks is told.
fn dump(folder: &Path) -> BTreeMap<(usize, u64, String), Cell> {
    let connection = reader(folder).unwrap();
    let mut names = connection.prepare("SELECT id, metric || attributes FROM series").unwrap();
    let names = names.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let names: BTreeMap<u32, String> = names.collect::<Result<_, _>>().unwrap();
    let mut patience = Patience::until(&|| false);
    let rows = Rows::of(&connection, names.keys().copied(), &mut patience).unwrap();
    let mut all = BTreeMap::new();
    for tier in 0..TIERS.len() {
        for (id, name) in &names {
            let add = |bucket_s, cell| {
                assert!(all.insert((tier, bucket_s, name.clone()), cell).is_none(), "each bucket comes once");
            };
            rows.cells(*id, tier, 0..u64::MAX, &mut patience, add).unwrap();
        }
    }
    all
}

/// Lets everything that is fresh settle.
fn settle(history: &mut History) {
    let parts = history.table.fresh_parts().unwrap();
    for (part, _) in parts {
        history.settle(part);
    }
    assert_eq!(history.table.fresh_parts().unwrap(), []);
}

/// The sum of a tier: all probes, and all values of round-trip times.
fn sums(folder: &Path, tier: usize) -> (i128, i64) {
    let (mut probes, mut values) = (0, 0);
    for ((_, _, _), cell) in dump(folder).into_iter().filter(|((of, _, _), _)| *of == tier) {
        match cell {
            Cell::Counter(count, _) => {
                assert!(count >= 0, "no bucket is negative");
                probes += count;
            }
            Cell::Histogram(spread, _) => {
                assert!(spread.is_whole(), "no bucket is negative: {spread:?}");
                values += spread.count();
            }
            Cell::Gauge(_) => {}
        }
    }
    (probes, values)
}

/// What the merge says of the same batches.
fn merged(batches: impl IntoIterator<Item = Batch>) -> (i128, i64) {
    let mut view = View::new(Duration::from_secs(10));
    batches.into_iter().for_each(|batch| view.accept(batch, arrived(0)));
    let total = |metric: &'static Metric, attributes| view.totals(arrived(0)).get(&Key { metric, attributes }).cloned();
    let probes = match total(&catalogue::LINK_PROBES, link().with(Attribute::Outcome, "in-time")) {
        Some(Value::Counter(count)) => count.into(),
        _ => 0,
    };
    let values = match total(&catalogue::LINK_RTT, link()) {
        Some(Value::Histogram(histogram)) => histogram.count().cast_signed(),
        _ => 0,
    };
    (probes, values)
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let steps = || proptest::collection::vec((0_u64..4, 1_u64..30), 8);
    proptest::collection::vec(steps(), 3).prop_map(|steps| {
        let names = [("one", 1), ("one", 2), ("two", 1)];
        names.into_iter().zip(steps).map(|((agent, boot), steps)| Life { agent, boot, steps }).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the order of arrival, however often a batch is repeated and whenever is written and settles, every bucket of every tier is the
    /// same; the coarse are the sums of the fine, and all together are what the merge says.
    #[test]
    fn order_and_repetition_change_no_bucket(
        lives in lives(),
        order in Just((0..24_usize).collect::<Vec<_>>()).prop_shuffle(),
        repeated in proptest::collection::vec(0..24_usize, 0..12),
        deeds in proptest::collection::vec(0..3_u8, 36),
    ) {
        let all: Vec<Batch> = lives.iter().flat_map(Life::all).collect();
        let (straight, mixed) = (tempdir().unwrap(), tempdir().unwrap());
        let mut one = history(straight.path());
        take(&mut one, all.iter().cloned());
        one.write();
        let mut other = history(mixed.path());
        for (index, deed) in order.iter().chain(&repeated).zip(deeds) {
            take(&mut other, [all[*index].clone()]);
            if deed > 0 {
                other.write();
            }
            if deed > 1 {
                settle(&mut other);
            }
        }
        other.write();
        prop_assert_eq!(dump(straight.path()), dump(mixed.path()));
        for tier in 0..TIERS.len() {
            prop_assert_eq!(sums(mixed.path(), tier), merged(all.iter().cloned()));
        }
        prop_assert_eq!(rolled_up(mixed.path(), 0, 1), of_tier(mixed.path(), 1));
        prop_assert_eq!(rolled_up(mixed.path(), 1, 2), of_tier(mixed.path(), 2));
        let before = dump(mixed.path());
        settle(&mut other);
        prop_assert_eq!(dump(mixed.path()), before);
    }

    /// A collector that is killed at any moment, and then is offered only what the store kept (the newest batch of each boot), counts nothing
    /// twice and, as soon as the next batch of each boot came, lacks nothing.
    #[test]
    fn a_kill_changes_no_total(
        lives in lives(),
        order in Just((0..24_usize).collect::<Vec<_>>()).prop_shuffle(),
        deeds in proptest::collection::vec(0..5_u8, 24),
    ) {
        let all: Vec<Batch> = lives.iter().flat_map(Life::all).collect();
        let folder = tempdir().unwrap();
        let mut running = history(folder.path());
        let mut kept: BTreeMap<(AgentName, BootId), (Batch, Reading)> = BTreeMap::new();
        for (index, deed) in order.into_iter().zip(deeds) {
            let batch = &all[index];
            let newest = kept.entry((batch.exporter.agent.clone(), batch.exporter.boot));
            let newest = newest.or_insert_with(|| (batch.clone(), arrived(100_000)));
            if batch.sequence > newest.0.sequence {
                newest.0 = batch.clone();
            }
            match deed {
                // The store had it, the history's thread had not: the queue died with the process.
                0 => {}
                1 => take(&mut running, [batch.clone()]),
                2 => {
                    take(&mut running, [batch.clone()]);
                    running.write();
                }
                3 => settle(&mut running),
                _ => {
                    take(&mut running, [batch.clone()]);
                    drop(running);
                    let restored: Vec<(Batch, Reading)> = kept.values().cloned().collect();
                    let started = (Clock::new(), Tally::default());
                    running = History::open(folder.path(), Keep::default(), &restored, started).unwrap();
                    prop_assert_eq!(sums(folder.path(), 0), merged(restored.into_iter().map(|(batch, _)| batch)));
                }
            }
        }
        take(&mut running, lives.iter().map(|life| life.batch(8)));
        running.write();
        for tier in 0..TIERS.len() {
            prop_assert_eq!(sums(folder.path(), tier), merged(all.iter().cloned()));
        }
    }
}

fn of_tier(folder: &Path, tier: usize) -> BTreeMap<(u64, String), Cell> {
    let of_tier = dump(folder).into_iter().filter(|((of, _, _), _)| *of == tier);
    of_tier.map(|((_, bucket_s, name), cell)| ((bucket_s, name), cell)).collect()
}

/// The cells of a tier, added up to the width of another.
fn rolled_up(folder: &Path, from: usize, to: usize) -> BTreeMap<(u64, String), Cell> {
    let mut sums: BTreeMap<(u64, String), Cell> = BTreeMap::new();
    for ((bucket_s, name), cell) in of_tier(folder, from) {
        let wide_s = bucket_s / WIDTHS_S[to] * WIDTHS_S[to];
        sums.entry((wide_s, name)).and_modify(|held| held.add(&cell)).or_insert(cell);
    }
    sums
}

/// After an outage the live batches come first: one increment stands for all of it and says how long it took; the backlog then splits it,
/// until nothing shows that anything was late.
#[test]
fn a_backlog_splits_what_it_fills() {
    let life = Life::even("one", 1, 60, 20);
    let (folder, never_late) = (tempdir().unwrap(), tempdir().unwrap());
    let probes = |folder: &Path| -> Vec<(i128, Option<u64>)> {
        let counters = of_tier(folder, 0).into_values();
        counters.filter_map(|cell| if let Cell::Counter(n, spans) = cell { Some((n, spans.longest_s())) } else { None }).collect()
    };
    let mut late = history(folder.path());
    take(&mut late, [1, 2, 59].map(|sequence| life.batch(sequence)));
    late.write();
    assert_eq!(probes(folder.path()), [(10, None), (10, None), (570, Some(960))], "57 intervals of 10 s are 9.5 minutes");
    take(&mut late, (3..59).rev().map(|sequence| life.batch(sequence)));
    take(&mut late, [life.batch(60)]);
    late.write();
    let mut straight = history(never_late.path());
    take(&mut straight, life.all());
    straight.write();
    assert_eq!(probes(folder.path()), vec![(10, None); 60]);
    assert_eq!(dump(folder.path()), dump(never_late.path()));
}

/// However many batches are missing, what is kept of a boot is bounded, and no total is wrong; batches of a gap that was given up change
/// nothing.
#[test]
fn gaps_are_bounded() {
    let life = Life::even("one", 1, 120, 20);
    let folder = tempdir().unwrap();
    let mut lossy = history(folder.path());
    take(&mut lossy, (1..=60).map(|n| life.batch(2 * n)));
    lossy.write();
    let runs: i64 = reader(folder.path()).unwrap().query_row("SELECT count(*) FROM run", [], |row| row.get(0)).unwrap();
    assert_eq!(runs, i64::try_from(RUNS_MAX).unwrap());
    assert_eq!(sums(folder.path(), 0), (1200, 1200));
    let before = dump(folder.path());
    take(&mut lossy, [life.batch(3), life.batch(5)]);
    lossy.write();
    assert_eq!(dump(folder.path()), before);
}

/// A boot that was given up stays so through a restart: its counts are in the history, and are not added again.
#[test]
fn what_is_retired_stays_retired() {
    let life = Life::even("one", 1, 9, 20);
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    take(&mut running, [life.batch(4)]);
    let retire = |history: &mut History| history.book.as_mut().unwrap().retire(&"one".parse().unwrap(), BootId(1));
    running.write();
    retire(&mut running);
    take(&mut running, [life.batch(5)]);
    running.write();
    drop(running);
    let mut running = history(folder.path());
    take(&mut running, [life.batch(9)]);
    running.write();
    assert_eq!(sums(folder.path(), 0), (40, 40));
    let told = running.tally.series(arrived(0)).into_iter().any(|series| {
        series.metric.name == catalogue::COLLECTOR_HISTORY_LOST.name && series.attributes.iter().any(|(_, why)| why == "retired")
    });
    assert!(told, "what came too late is not counted");
}

/// A clock that is years off puts nothing years away.
#[test]
fn an_impossible_time_is_that_of_the_arrival() {
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    for (sequence, time) in [(1, WallNanos(5)), (2, WallNanos(u64::MAX)), (3, wall(100_700)), (4, wall(100_000))] {
        let life = Life::even("one", 1, 9, 20);
        running.take(&Batch { time, ..life.batch(sequence) }, wall(100_000));
    }
    running.write();
    let buckets: Vec<u64> = of_tier(folder.path(), 2).into_keys().map(|(bucket_s, _)| bucket_s).collect();
    assert_eq!(buckets, [START_S + 97_200; 3]);
    let lost =
        running.tally.series(arrived(0)).into_iter().find(|series| series.metric.name == catalogue::COLLECTOR_HISTORY_LOST.name);
    assert_eq!(lost.map(|series| series.value), Some(Value::Counter(3)));
}

/// A count that began anew within a boot, or a series that was gone for a while, counts from zero: nothing is negative and nothing is huge.
#[test]
fn what_began_anew_counts_from_zero() {
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    let (much, little) = (Life::even("one", 1, 9, 20), Life { agent: "one", boot: 1, steps: vec![(1, 20); 9] });
    take(&mut running, [much.batch(1), much.batch(2), little.batch(3)]);
    take(&mut running, [Batch { series: Vec::new(), ..much.batch(4) }, little.batch(5)]);
    running.write();
    assert_eq!(sums(folder.path(), 0), (20 + 3 + 5, 20 + 3 + 5));
}
