use lagmesh_model::time::{Epoch, RawNanos, WallNanos};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const GENEROUS: Bounds = Bounds { bytes_max: 1 << 30, age_max: Duration::from_secs(3600) };

fn names(names: &[&str]) -> Vec<TargetName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn at(ms: u64) -> Reading {
    Reading { epoch: Epoch(1), raw: RawNanos(1_000_000 * ms), wall: WallNanos(1_700_000_000_000_000_000 + 1_000_000 * ms) }
}

fn open(folder: &TempDir, targets: &[&str], bounds: Bounds) -> Table {
    Table::open(folder.path(), &names(targets), bounds).unwrap()
}

fn taken(points: u64) -> Outcome {
    Outcome { taken: points, lost: BTreeMap::new() }
}

/// Takes the next snapshot for a target: its body and that of the one before.
fn deliver(table: &mut Table, target: &str) -> Option<(String, Option<String>)> {
    let target: TargetName = target.parse().unwrap();
    let next = table.fetch(&target).unwrap()?;
    table.settle(&target, next.id, &taken(next.points)).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Some((text(next.body), next.before.map(text)))
}

fn level<'a>(table: &'a Table, target: &str) -> &'a Level {
    &table.levels[&target.parse::<TargetName>().unwrap()]
}

fn rows(table: &Table) -> i64 {
    table.db.query_row("SELECT count(*) FROM snapshot", [], |row| row.get(0)).unwrap()
}

/// Each target gets every snapshot once and in order, with the one that it got before, through restarts; what all have is gone.
#[test]
fn in_order_through_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let some = |text: &str| Some(text.to_owned());
    let mut table = open(&folder, &["a", "b"], GENEROUS);
    for (ms, body) in [(1, "one"), (2, "two"), (3, "three")] {
        table.append(body.as_bytes(), 10, at(ms));
    }
    assert_eq!(deliver(&mut table, "a"), Some(("one".to_owned(), None)));
    assert_eq!(deliver(&mut table, "a"), Some(("two".to_owned(), some("one"))));
    drop(table);
    let mut table = open(&folder, &["a", "b"], GENEROUS);
    assert_eq!((level(&table, "a").bytes, level(&table, "b").bytes), (5, 11));
    assert_eq!(deliver(&mut table, "a"), Some(("three".to_owned(), some("two"))));
    assert_eq!(deliver(&mut table, "a"), None);
    assert_eq!(deliver(&mut table, "b"), Some(("one".to_owned(), None)));
    assert_eq!(deliver(&mut table, "b"), Some(("two".to_owned(), some("one"))));
    assert_eq!(deliver(&mut table, "b"), Some(("three".to_owned(), some("two"))));
    assert_eq!(rows(&table), 1, "only the one that both have got last is left");
    assert_eq!((level(&table, "a").taken, level(&table, "b").newest), (30, Some(at(3))));
}

/// A label of time is never used again and none goes back, also after a restart with an empty queue; what cannot be labelled is counted.
#[test]
fn stamps_only_grow() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(&folder, &["a"], GENEROUS);
    table.append(b"one", 10, at(5));
    assert!(deliver(&mut table, "a").is_some());
    drop(table);
    let mut table = open(&folder, &["a"], GENEROUS);
    table.append(b"same", 7, at(5));
    table.append(b"earlier", 7, at(4));
    assert_eq!(deliver(&mut table, "a"), None);
    assert_eq!(level(&table, "a").lost, BTreeMap::from([(Reason::ClockBack, 14)]));
    table.append(b"later", 7, at(6));
    assert_eq!(deliver(&mut table, "a").unwrap().0, "later");
}

/// Bounds drop the oldest for whoever waits for it, count it for those alone, and keep what each target has got last.
#[test]
fn bounds() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(&folder, &["fast", "slow"], Bounds { bytes_max: 10, age_max: Duration::from_millis(100) });
    table.append(b"1111", 1, at(1));
    assert!(deliver(&mut table, "fast").is_some() && deliver(&mut table, "slow").is_some());
    for (ms, body) in [(2, "2222"), (3, "3333"), (4, "4444")] {
        table.append(body.as_bytes(), 1, at(ms));
        assert!(deliver(&mut table, "fast").is_some());
    }
    assert_eq!(level(&table, "slow").lost, BTreeMap::from([(Reason::QueueFull, 1)]));
    assert_eq!(level(&table, "slow").bytes, 8);
    assert!(level(&table, "fast").lost.is_empty());
    // The bound is met, and what ends at the slow target is seen from what it has.
    assert_eq!(deliver(&mut table, "slow"), Some(("3333".to_owned(), Some("1111".to_owned()))));
    table.append(b"5555", 1, at(200));
    assert_eq!(level(&table, "slow").lost, BTreeMap::from([(Reason::QueueFull, 1), (Reason::QueueAge, 1)]));
    table.append(b"larger than the bound", 1, at(201));
    assert_eq!(deliver(&mut table, "slow").unwrap().0, "larger than the bound");
    assert_eq!(level(&table, "slow").bytes, 0);
}

/// What a bound has dropped while it was under way is not counted a second time.
#[test]
fn dropped_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(&folder, &["a"], Bounds { bytes_max: 4, ..GENEROUS });
    table.append(b"1111", 3, at(1));
    let name: TargetName = "a".parse().unwrap();
    let first = table.fetch(&name).unwrap().unwrap();
    table.append(b"2222", 3, at(2));
    assert_ne!(level(&table, "a").oldest, Some(first.id));
    table.settle(&name, first.id, &taken(3)).unwrap();
    assert_eq!((level(&table, "a").taken, &level(&table, "a").lost), (0, &BTreeMap::from([(Reason::QueueFull, 3)])));
    assert_eq!(deliver(&mut table, "a"), Some(("2222".to_owned(), None)));
}

/// Nor does it bring the cursor back, where the snapshot is still kept because another target has got it last.
#[test]
fn dropped_under_way_and_held_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(&folder, &["a", "b"], Bounds { bytes_max: 4, ..GENEROUS });
    table.append(b"1111", 3, at(1));
    let name: TargetName = "a".parse().unwrap();
    let first = table.fetch(&name).unwrap().unwrap();
    assert!(deliver(&mut table, "b").is_some());
    table.append(b"2222", 3, at(2));
    table.append(b"3333", 3, at(3));
    table.settle(&name, first.id, &taken(3)).unwrap();
    assert_eq!((level(&table, "a").taken, &level(&table, "a").lost), (0, &BTreeMap::from([(Reason::QueueFull, 6)])));
    assert_eq!(deliver(&mut table, "a"), Some(("3333".to_owned(), None)));
}

/// A new target gets what comes from now on; of one that is gone nothing is waited for any more.
#[test]
fn targets_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(&folder, &["a"], GENEROUS);
    table.append(b"one", 1, at(1));
    drop(table);
    let mut table = open(&folder, &["b"], GENEROUS);
    assert_eq!((deliver(&mut table, "b"), table.levels.len()), (None, 1));
    table.append(b"two", 1, at(2));
    assert_eq!(deliver(&mut table, "b").unwrap().0, "two");
}

/// A file that is none is set aside, and the loss is told; one of a newer version is left as it is.
#[test]
fn damage() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("forward.db");
    std::fs::write(&file, "no database, but longer than the header of one: ".repeat(100)).unwrap();
    let table = open(&folder, &["a"], GENEROUS);
    assert_eq!(level(&table, "a").lost, BTreeMap::from([(Reason::Corrupt, 1)]));
    assert!(folder.path().join("forward.db.bad").exists());
    drop(table);
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let opened = Table::open(folder.path(), &names(&["a"]), GENEROUS);
    assert!(matches!(opened, Err(QueueError::Newer { found: 9, .. })), "{opened:?}");
}

/// A file that breaks in use is replaced by a new one; counters go on from where they were.
#[test]
fn damage_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(&folder, &["a"], GENEROUS);
    table.append(b"one", 5, at(1));
    assert!(deliver(&mut table, "a").is_some());
    let damage = rusqlite::ffi::Error { code: rusqlite::ErrorCode::DatabaseCorrupt, extended_code: 11 };
    table.mend(&rusqlite::Error::SqliteFailure(damage, None));
    assert_eq!((level(&table, "a").taken, &level(&table, "a").lost), (5, &BTreeMap::from([(Reason::Corrupt, 1)])));
    table.append(b"two", 5, at(2));
    assert_eq!(deliver(&mut table, "a"), Some(("two".to_owned(), None)));
}

/// On a full disk the newest snapshot goes in the place of the oldest ones, which are counted, and what waits is delivered; once there is room,
/// all goes on as before.
#[test]
fn full_disk_makes_room_for_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(&folder, &["a"], GENEROUS);
    let (body, mut appended) = (vec![7; 3000], 0);
    let mut append = |table: &mut Table, ms: u64| {
        table.append(&body, 10, at(ms));
        let newest: i64 = table.db.query_row("SELECT max(stamp_ms) FROM snapshot", [], |row| row.get(0)).unwrap();
        assert_eq!(newest, 1_700_000_000_000 + ms.cast_signed());
        appended += 10;
        let level = level(table, "a").clone();
        assert_eq!(level.taken + level.lost.values().sum::<u64>() + level.bytes / 300, appended, "{level:?}");
        level
    };
    for ms in 1..=100 {
        append(&mut table, ms);
    }
    let pages: i64 = table.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    table.db.pragma_update(None, "max_page_count", pages).unwrap();
    for ms in 101..=200 {
        append(&mut table, ms);
        if ms % 3 == 0 {
            let next = table.fetch(&"a".parse().unwrap()).unwrap().unwrap();
            table.settle(&"a".parse().unwrap(), next.id, &taken(next.points)).unwrap();
        }
    }
    let full = level(&table, "a").clone();
    assert!(full.lost[&Reason::Disk] > 100 && full.lost.len() == 1 && full.bytes > 150_000 && full.taken == 330, "{full:?}");
    table.db.pragma_update(None, "max_page_count", 1_000_000).unwrap();
    assert_eq!(append(&mut table, 201).lost, full.lost);
    drop(table);
    let mut table = open(&folder, &["a"], GENEROUS);
    assert_eq!(level(&table, "a").lost, full.lost);
    while table.fetch(&"a".parse().unwrap()).unwrap().is_some_and(|next| next.stamp_ms != 1_700_000_000_201) {
        let next = table.fetch(&"a".parse().unwrap()).unwrap().unwrap();
        table.settle(&"a".parse().unwrap(), next.id, &taken(next.points)).unwrap();
    }
    assert_eq!(level(&table, "a").bytes, 3000, "the newest is there, and nothing before it");
}

/// What a disk that takes nothing at all has lost is shown as long as it does not take that either, and written once it does.
#[test]
fn losses_wait_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(&folder, &["a", "b"], GENEROUS);
    for of in ["snapshot", "lost"] {
        let trigger = format!("CREATE TRIGGER no_{of} BEFORE INSERT ON {of} BEGIN SELECT raise(ABORT, 'no'); END");
        table.db.execute_batch(&trigger).unwrap();
    }
    table.append(b"one", 3, at(1));
    table.append(b"two", 4, at(2));
    for target in ["a", "b"] {
        assert_eq!(level(&table, target).lost, BTreeMap::from([(Reason::Disk, 7)]));
    }
    table.db.execute_batch("DROP TRIGGER no_snapshot; DROP TRIGGER no_lost").unwrap();
    table.append(b"three", 5, at(3));
    drop(table);
    let table = open(&folder, &["a", "b"], GENEROUS);
    assert_eq!((&level(&table, "b").lost, level(&table, "b").bytes), (&BTreeMap::from([(Reason::Disk, 7)]), 5));
}

#[derive(Debug, Clone)]
enum Deed {
    Append(u64),
    Deliver(bool),
    Restart,
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![3 => (1..30_u64).prop_map(Deed::Append), 3 => any::<bool>().prop_map(Deed::Deliver), 1 => Just(Deed::Restart)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens, each target gets snapshots in order and none twice, and every value that was appended is taken, lost, or waits.
    #[test]
    fn nothing_is_lost_silently(deeds in prop::collection::vec(any_deed(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { bytes_max: 60, age_max: Duration::from_millis(25) };
        let mut table = open(&folder, &["a", "b"], bounds);
        let (mut now, mut appended, mut newest) = (1, 0, BTreeMap::new());
        for deed in deeds {
            match deed {
                Deed::Append(size) => {
                    now += size % 5;
                    appended += size;
                    table.append(&vec![0; usize::try_from(size).unwrap()], size, at(now));
                }
                Deed::Deliver(first) => {
                    let target: TargetName = if first { "a" } else { "b" }.parse().unwrap();
                    if let Some(next) = table.fetch(&target).unwrap() {
                        prop_assert!(newest.insert(target.clone(), next.stamp_ms) < Some(next.stamp_ms));
                        table.settle(&target, next.id, &taken(next.points)).unwrap();
                    }
                }
                Deed::Restart => {
                    drop(table);
                    table = open(&folder, &["a", "b"], bounds);
                }
            }
            for level in table.levels.values() {
                // Here a point is a byte.
                prop_assert_eq!(level.taken + level.lost.values().sum::<u64>() + level.bytes, appended);
                prop_assert!(level.bytes <= 60);
            }
        }
    }
}
