mod dead;
mod run_end;

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const BODY: usize = 1000;

struct Bench {
    folder: TempDir,
    settings: Settings,
}

fn collector(name: &str) -> CollectorName {
    name.parse().unwrap()
}

fn bench(collectors: &[&str]) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        path: folder.path().join("spool.db"),
        collectors: collectors.iter().copied().map(collector).collect(),
        bytes_max: 1_000_000,
        age_max: Duration::from_secs(3600),
        boot: BootId(7),
        started: at(0).wall,
    };
    Bench { folder, settings }
}

impl Bench {
    fn open(&self) -> Store {
        Store::open(self.settings.clone()).unwrap()
    }
}

fn at(second: u64) -> Reading {
    let ns = second * 1_000_000_000;
    Reading { epoch: Epoch(1), raw: RawNanos(5_000_000_000_000 + ns), wall: WallNanos(1_700_000_000_000_000_000 + ns) }
}

fn parcel_of(boot: u64, sequence: u64) -> Parcel {
    let body: Vec<u8> = sequence.to_le_bytes().into_iter().cycle().take(BODY).collect();
    Parcel {
        agent: "dublin".parse().unwrap(),
        boot: BootId(boot),
        sequence,
        made: Reading { epoch: Epoch(boot), ..at(sequence * 10) },
        compression: Compression::Gzip,
        body: body.into(),
    }
}

fn parcel(sequence: u64) -> Parcel {
    parcel_of(7, sequence)
}

fn refusal(why: &str) -> Refusal {
    Refusal { why: why.to_owned(), at: at(3600).wall }
}

/// The sequences that wait for a collector, oldest first.
fn waiting(store: &Store, name: &str) -> Vec<u64> {
    let mut statement = store
        .db
        .prepare("SELECT sequence FROM batch JOIN pending ON pending.batch = batch.id WHERE collector = ?1 ORDER BY batch.id")
        .unwrap();
    let rows = statement.query_map([name], |row| row.get::<_, i64>(0)).unwrap();
    rows.map(|row| row.unwrap().cast_unsigned()).collect()
}

fn stored(store: &Store) -> u64 {
    store.db.query_row("SELECT count(*) FROM batch", [], |row| row.get::<_, i64>(0)).unwrap().cast_unsigned()
}

/// The loss ledger of every run: collector, reason, batches, made from, made to.
fn ledger(store: &Store) -> Vec<(String, String, i64, i64, i64)> {
    let query = "SELECT collector, reason, batches, first_made_wall_ns, last_made_wall_ns FROM lost ORDER BY 1, 2";
    let mut statement = store.db.prepare(query).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

fn level(store: &Store, name: &str) -> Level {
    store.levels().unwrap()[&collector(name)].clone()
}

/// A batch waits for each collector by itself, in any order of acknowledgement, and is deleted with the last one; all of it
/// survives a restart.
#[test]
fn batches_wait_for_each_collector() {
    let bench = bench(&["a", "b"]);
    let mut store = bench.open();
    for sequence in 1..=3 {
        store.append(&parcel(sequence)).unwrap();
    }
    let newest = level(&store, "a").newest.unwrap();
    assert_eq!(store.fetch(&collector("a"), newest).unwrap(), Some(parcel(3)));
    store.acknowledge(&collector("a"), newest).unwrap();
    assert_eq!(store.fetch(&collector("a"), newest).unwrap(), None);
    assert_eq!((waiting(&store, "a"), waiting(&store, "b")), (vec![1, 2], vec![1, 2, 3]));
    let a = level(&store, "a");
    assert_eq!((a.batches, a.bytes, a.newest_is_live), (2, 2 * BODY as u64, false));
    assert!(level(&store, "b").newest_is_live);
    store.finish().unwrap();

    let mut store = bench.open();
    assert_eq!((waiting(&store, "a"), waiting(&store, "b")), (vec![1, 2], vec![1, 2, 3]));
    assert!(!level(&store, "b").newest_is_live, "what another run made is not live");
    for name in ["a", "b"] {
        while let Some(id) = level(&store, name).oldest.first().copied() {
            store.acknowledge(&collector(name), id).unwrap();
        }
    }
    assert_eq!((stored(&store), level(&store, "a")), (0, Level::default()));
}

/// A key is never used twice, not even after everything was deleted and the file was opened again.
#[test]
fn keys_are_never_reused() {
    let bench = bench(&["a"]);
    let mut store = bench.open();
    store.append(&parcel(1)).unwrap();
    let first = level(&store, "a").newest.unwrap();
    store.acknowledge(&collector("a"), first).unwrap();
    drop(store);
    let mut store = bench.open();
    store.append(&parcel(2)).unwrap();
    assert!(level(&store, "a").newest.unwrap() > first);
}

/// Beyond its bytes the spool drops the oldest, counts each once per collector that had not got it, and writes down from
/// when to when.
#[test]
fn full_spool_drops_the_oldest() {
    let mut bench = bench(&["a", "b"]);
    bench.settings.bytes_max = 3 * BODY as u64 + 10;
    let mut store = bench.open();
    store.append(&parcel(1)).unwrap();
    store.acknowledge(&collector("b"), level(&store, "b").newest.unwrap()).unwrap();
    for sequence in 2..=5 {
        store.append(&parcel(sequence)).unwrap();
    }
    assert_eq!((waiting(&store, "a"), stored(&store)), (vec![3, 4, 5], 3));
    assert_eq!(level(&store, "a").lost, BTreeMap::from([(LossReason::SpoolFull, 2)]));
    assert_eq!(level(&store, "b").lost, BTreeMap::from([(LossReason::SpoolFull, 1)]));
    let wall = |second| at(second).wall.0.cast_signed();
    let line =
        |name: &str, batches, from: u64, to: u64| (name.to_owned(), "spool-full".to_owned(), batches, wall(from), wall(to));
    assert_eq!(ledger(&store), [line("a", 2, 10, 20), line("b", 1, 20, 20)]);

    store.finish().unwrap();
    let store = bench.open();
    assert_eq!(ledger(&store).len(), 2, "the ledger stays");
    assert!(level(&store, "a").lost.is_empty(), "the counter is that of the run");
}

/// Age is told by the measuring clock within a run and by the wall clock beyond it, so that a step of the wall clock drops
/// nothing of this run.
#[test]
fn old_batches_are_dropped() {
    let bench = bench(&["a"]);
    let mut store = bench.open();
    store.append(&parcel_of(6, 1)).unwrap();
    store.append(&parcel(2)).unwrap();
    let mut stepped = parcel(3);
    stepped.made.wall = WallNanos(stepped.made.wall.0 + 7200 * 1_000_000_000);
    store.append(&stepped).unwrap();
    assert_eq!(waiting(&store, "a"), [2, 3]);
    assert_eq!(level(&store, "a").lost, BTreeMap::from([(LossReason::TooOld, 1)]));

    store.append(&parcel(2 + 361)).unwrap();
    assert_eq!(waiting(&store, "a"), [3, 363], "3610 s later on the measuring clock");

    // After a jump of the measuring clock only the wall clock can tell.
    let mut jumped = parcel(364);
    jumped.made = Reading { epoch: Epoch(99), raw: RawNanos(1 << 60), ..jumped.made };
    store.append(&jumped).unwrap();
    assert_eq!(waiting(&store, "a"), [3, 363, 364]);
}

/// What a collector refuses for good no longer waits for it, and is counted; others still get it.
#[test]
fn refused_batches_are_counted() {
    let bench = bench(&["a", "b"]);
    let mut store = bench.open();
    store.append(&parcel(1)).unwrap();
    let id = level(&store, "a").newest.unwrap();
    store.refuse(&collector("a"), id, &refusal("no")).unwrap();
    store.refuse(&collector("a"), id, &refusal("no")).unwrap();
    assert_eq!(level(&store, "a").lost, BTreeMap::from([(LossReason::Refused, 1)]));
    assert_eq!(waiting(&store, "b"), [1]);
}

/// A collector that left the fleet file is waited for no longer; a new one gets what is made from now on.
#[test]
fn collectors_come_and_go() {
    let mut bench = bench(&["a", "b"]);
    let mut store = bench.open();
    store.append(&parcel(1)).unwrap();
    store.acknowledge(&collector("b"), level(&store, "b").newest.unwrap()).unwrap();
    drop(store);
    bench.settings.collectors = vec![collector("b"), collector("c")];
    let mut store = bench.open();
    assert_eq!(stored(&store), 0);
    store.append(&parcel(2)).unwrap();
    assert_eq!((waiting(&store, "a"), waiting(&store, "b"), waiting(&store, "c")), (vec![], vec![2], vec![2]));
}

/// A corrupt file is set aside and counted, and the agent goes on with an empty one.
#[test]
fn corrupt_files_are_set_aside() {
    let bench = bench(&["a"]);
    let mut store = bench.open();
    for sequence in 1..=50 {
        store.append(&parcel(sequence)).unwrap();
    }
    store.finish().unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&bench.settings.path).unwrap();
    file.seek(SeekFrom::Start(4096)).unwrap();
    file.write_all(&vec![0xff; 20 * 4096]).unwrap();
    drop(file);

    let mut store = bench.open();
    assert!(bench.folder.path().join("spool.db.bad").exists());
    assert_eq!(level(&store, "a").lost, BTreeMap::from([(LossReason::Corrupt, 1)]));
    store.append(&parcel(51)).unwrap();
    assert_eq!(waiting(&store, "a"), [51]);

    fs::write(
        &bench.settings.path,
        "this is no database, it is a text of more than a hundred bytes that somebody put there instead of one",
    )
    .unwrap();
    drop(store);
    fs::write(&bench.settings.path, vec![b'x'; 9000]).unwrap();
    assert_eq!(waiting(&bench.open(), "a"), Vec::<u64>::new());
}

/// A file found corrupt in use is replaced without a restart; as many as were known to wait are counted.
#[test]
fn spool_starts_again() {
    let bench = bench(&["a"]);
    let mut store = bench.open();
    for sequence in 1..=4 {
        store.append(&parcel(sequence)).unwrap();
    }
    let mut store = store.start_again(&BTreeMap::from([(collector("a"), 4)]), "test").unwrap();
    assert_eq!(level(&store, "a").lost, BTreeMap::from([(LossReason::Corrupt, 4)]));
    store.append(&parcel(5)).unwrap();
    assert_eq!(waiting(&store, "a"), [5]);
}

/// A run that died is told by the one after it, once and only if it did: until a batch that tells it is in the file, however many die
/// before they have made one. The ledger says since when nothing is left of it.
#[test]
fn deaths_are_told_once() {
    let bench = bench(&["a", "b"]);
    let run = |boot| Store::open(Settings { boot: BootId(boot), ..bench.settings.clone() }).unwrap();
    let died = |store: &Store| level(store, "a").lost.get(&LossReason::Died).copied();
    let mut store = run(1);
    assert_eq!(died(&store), None, "a first run has none before it");
    store.append(&parcel_of(1, 1)).unwrap();
    drop(store);

    // It dies before it has made a batch.
    let store = run(2);
    assert_eq!(died(&store), Some(1));
    drop(store);
    let mut store = run(3);
    assert_eq!(died(&store), Some(2), "nobody has told of the first, and the second died as well");
    store.append(&parcel_of(3, 1)).unwrap();
    drop(store);

    let mut store = run(4);
    assert_eq!(died(&store), Some(1), "the third run has told of the two before it");
    assert_eq!(level(&store, "b").lost[&LossReason::Died], 1);
    let made = |boot: u64| parcel_of(boot, 1).made.wall.0.cast_signed();
    let start = bench.settings.started.0.cast_signed();
    let mut of_a: Vec<_> =
        ledger(&store).into_iter().filter(|row| row.0 == "a").map(|row| (row.1, row.2, row.3, row.4)).collect();
    of_a.sort();
    let row = |at| ("died".to_owned(), 1, at, at);
    assert_eq!(of_a, [row(start), row(made(1)), row(made(3))]);
    store.append(&parcel_of(4, 1)).unwrap();
    store.finish().unwrap();
    assert_eq!(died(&run(5)), None, "the fourth run ended as it should");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the file was cut or written over while the agent was away, it starts, and what waits then comes out or turns out to be
    /// damaged; unless all of it is there, or its log ends early as after a power loss, a loss is counted.
    #[test]
    fn damaged_files_open(cut in any::<bool>(), in_log in any::<bool>(), at in 0.0..1.0, sectors in 1_usize..12, noise in any::<u8>()) {
        const BATCHES: u64 = 40;
        let bench = bench(&["a"]);
        let (file, log) = (bench.settings.path.clone(), bench.folder.path().join("spool.db-wal"));
        let mut store = bench.open();
        for sequence in 1..=BATCHES {
            store.append(&parcel(sequence)).unwrap();
        }
        if in_log {
            // What a killed agent leaves.
            let (whole, log_left) = (fs::read(&file).unwrap(), fs::read(&log).unwrap());
            drop(store);
            fs::write(&file, whole).unwrap();
            fs::write(&log, log_left).unwrap();
        } else {
            store.finish().unwrap();
        }
        let damaged = if in_log { &log } else { &file };
        let mut bytes = fs::read(damaged).unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the length of a small file")]
        let from = (bytes.len() as f64 * at) as usize;
        if cut {
            bytes.truncate(from);
        } else {
            let (from, end) = (from / 512 * 512, bytes.len().min(from + sectors * 512));
            bytes[from..end].fill(noise);
        }
        fs::write(damaged, bytes).unwrap();

        let mut store = bench.open();
        let mut found = 0;
        while let Some(id) = level(&store, "a").oldest.first().copied() {
            let delivered = store.fetch(&collector("a"), id).and_then(|fetched| {
                // Where its body is damaged the collector refuses it, which is counted.
                assert!(fetched.is_some(), "it would be fetched again and again");
                store.acknowledge(&collector("a"), id)
            });
            match delivered {
                Ok(()) => found += 1,
                Err(e) => {
                    prop_assert!(sqlite::is_damage(&e), "{e}: it would be fetched again and again");
                    let waiting = BTreeMap::from([(collector("a"), level(&store, "a").batches)]);
                    store = store.start_again(&waiting, "test").unwrap();
                }
            }
        }
        let counted = level(&store, "a").lost.contains_key(&LossReason::Corrupt);
        prop_assert!(found == BATCHES || counted || in_log, "{found} of {BATCHES} and not a word");
        store.append(&parcel(BATCHES + 1)).unwrap();
        prop_assert_eq!(waiting(&store, "a"), [BATCHES + 1]);
    }
}

/// A file of a layout that we do not know is not written to.
#[test]
fn other_layouts_are_set_aside() {
    let bench = bench(&["a"]);
    let db = Connection::open(&bench.settings.path).unwrap();
    db.execute_batch("CREATE TABLE other (x); PRAGMA user_version = 99").unwrap();
    drop(db);
    assert_eq!(stored(&bench.open()), 0);
    let aside = Connection::open(bench.folder.path().join("spool.db.bad")).unwrap();
    let layout: i64 = aside.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(layout, 99);
}

/// Two agents never share a spool.
#[test]
fn second_owner_is_refused() {
    let bench = bench(&["a"]);
    let _first = bench.open();
    assert!(matches!(Store::open(bench.settings.clone()), Err(OpenError::InUse(_))));
}

/// On a full disk the newest batch goes in the place of the oldest ones.
#[test]
fn full_disk_makes_room_for_the_newest() {
    let bench = bench(&["a"]);
    let mut store = bench.open();
    for sequence in 1..=200 {
        store.append(&parcel(sequence)).unwrap();
    }
    let pages: i64 = store.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    store.db.pragma_update(None, "max_page_count", pages).unwrap();
    for sequence in 201..=300 {
        store.append(&parcel(sequence)).unwrap();
    }
    let left = waiting(&store, "a");
    assert_eq!((left.last(), left.is_sorted()), (Some(&300), true));
    let lost = level(&store, "a").lost;
    assert_eq!(lost, BTreeMap::from([(LossReason::DiskFull, 300 - left.len() as u64)]));
}

/// If the disk takes nothing at all, the newest batch can still be delivered from memory, and those before it are counted.
#[test]
fn full_disk_keeps_the_newest_in_memory() {
    let bench = bench(&["a", "b"]);
    let mut store = bench.open();
    store.db.execute_batch("CREATE TRIGGER full BEFORE INSERT ON batch BEGIN SELECT raise(ABORT, 'no'); END").unwrap();
    store.append(&parcel(1)).unwrap();
    let first = level(&store, "a");
    assert!(first.newest_is_live && first.batches == 1);
    assert_eq!(store.fetch(&collector("a"), first.newest.unwrap()).unwrap(), Some(parcel(1)));
    store.acknowledge(&collector("a"), first.newest.unwrap()).unwrap();
    assert_eq!(level(&store, "a"), Level::default());

    store.append(&parcel(2)).unwrap();
    assert_eq!(level(&store, "a").lost, BTreeMap::new());
    assert_eq!(level(&store, "b").lost, BTreeMap::from([(LossReason::DiskError, 1)]));

    store.db.execute_batch("DROP TRIGGER full").unwrap();
    store.append(&parcel(3)).unwrap();
    assert_eq!((waiting(&store, "a"), level(&store, "b").lost[&LossReason::DiskError]), (vec![3], 2));
}

/// What is asked for every batch reads no bodies, or a day's backlog would be read from disk every ten seconds.
#[test]
fn bounds_read_no_bodies() {
    let bench = bench(&["a"]);
    let store = bench.open();
    for query in [STORED_BYTES.to_owned(), any_where(TOO_OLD)] {
        let mut statement = store.db.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
        let numbers = vec![1; statement.parameter_count()];
        let plan = statement.query_map(rusqlite::params_from_iter(numbers), |row| row.get::<_, String>(3)).unwrap();
        let plan: Vec<_> = plan.map(Result::unwrap).filter(|step| step.contains("batch")).collect();
        assert!(!plan.is_empty() && plan.iter().all(|step| step.contains("COVERING INDEX batch_bounds")), "{query}: {plan:?}");
    }
}
