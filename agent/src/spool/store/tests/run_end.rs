use super::*;
use crate::spool::store::run_end::RUN_ENDS;

/// A spool in which three runs have left 3, 1 and 2 batches, opened by a fourth.
fn left_by_three_runs(bench: &mut Bench) -> Store {
    for (boot, batches) in [(1, 3), (2, 1), (3, 2)] {
        bench.settings.boot = BootId(boot);
        let mut store = bench.open();
        for sequence in 1..=batches {
            store.append(&parcel_of(boot, sequence)).unwrap();
        }
        assert_eq!(end(&store, "a").filter(|(run, _)| *run == boot), None, "a run that goes on has no end");
    }
    bench.settings.boot = BootId(4);
    bench.open()
}

/// Boot and sequence of the run's end that is next for a collector.
fn end(store: &Store, name: &str) -> Option<(u64, u64)> {
    let end = level(store, name).run_ends.first().copied()?;
    let parcel = store.fetch(&collector(name), end).unwrap().expect("what is named waits");
    Some((parcel.boot.0, parcel.sequence))
}

/// The last batch of every earlier run is named until a collector has it, the oldest run first, for each collector by itself, whatever
/// else is delivered meanwhile; batches of this run are none of them.
#[test]
fn ends_of_earlier_runs_are_named() {
    let mut bench = bench(&["a", "b"]);
    let mut store = left_by_three_runs(&mut bench);
    store.append(&parcel_of(4, 1)).unwrap();
    let oldest = level(&store, "a").oldest[0];
    store.acknowledge(&collector("a"), oldest).unwrap();
    for expected in [(1, 3), (2, 1), (3, 2)] {
        assert_eq!(end(&store, "a"), Some(expected));
        let id = level(&store, "a").run_ends[0];
        store.acknowledge(&collector("a"), id).unwrap();
    }
    assert_eq!((end(&store, "a"), waiting(&store, "a")), (None, vec![2, 1, 1]));
    assert_eq!(end(&store, "b"), Some((1, 3)));
}

/// Where the last batch of a run is refused for good, the one before it is the last that can tell of the run.
#[test]
fn a_refused_end_has_the_batch_before_it_in_its_place() {
    let mut bench = bench(&["a", "b"]);
    let mut store = left_by_three_runs(&mut bench);
    for expected in [(1, 3), (1, 2), (1, 1), (2, 1)] {
        assert_eq!(end(&store, "a"), Some(expected));
        let id = level(&store, "a").run_ends[0];
        store.refuse(&collector("a"), id, &refusal("400")).unwrap();
    }
    assert_eq!((end(&store, "a"), end(&store, "b")), (Some((3, 2)), Some((1, 3))));
}

/// What the bounds drop is named no longer.
#[test]
fn dropped_ends_are_not_named() {
    let mut bench = bench(&["a"]);
    drop(left_by_three_runs(&mut bench));
    bench.settings.bytes_max = 3 * BODY as u64;
    let mut store = bench.open();
    store.append(&parcel_of(4, 1)).unwrap();
    assert_eq!(end(&store, "a"), Some((3, 2)), "of {:?}", waiting(&store, "a"));
    for sequence in 2..=3 {
        store.append(&parcel_of(4, sequence)).unwrap();
    }
    assert_eq!(end(&store, "a"), None);
}

/// To look for the ends reads the bodies of no batches: there may be thousands.
#[test]
fn ends_are_found_by_index() {
    let bench = bench(&["a"]);
    let store = bench.open();
    let explain = format!("EXPLAIN QUERY PLAN {RUN_ENDS}");
    let mut statement = store.db.prepare(&explain).unwrap();
    let plan: Vec<String> = statement.query_map(["a"], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
    assert!(plan[0].starts_with("SCAN batch USING COVERING INDEX"), "{plan:?}");
    assert!(plan[1].starts_with("SEARCH pending USING"), "{plan:?}");
}
