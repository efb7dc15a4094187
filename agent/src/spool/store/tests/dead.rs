//! Dead letters.

use super::*;

const LETTERS_MAX: u64 = 1000;
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Appends a batch and has `name` refuse it.
fn refused(store: &mut Store, name: &str, parcel: &Parcel, why: &str) {
    store.append(parcel).unwrap();
    let id = level(store, name).newest.unwrap();
    store.refuse(&collector(name), id, &refusal(why)).unwrap();
}

/// A batch that is refused for good is kept, as it was sent and with the reason, when, by whom and which it is; also over a restart
/// and when its collector is gone from the fleet file.
#[test]
fn refused_batches_are_kept() {
    let mut bench = bench(&["a", "b"]);
    let mut store = bench.open();
    refused(&mut store, "a", &parcel(1), &format!("HTTP status 400: {}", "x".repeat(1000)));
    assert_eq!(waiting(&store, "b"), [1]);
    store.finish().unwrap();

    bench.settings.collectors = vec![collector("b")];
    let store = bench.open();
    let letters = store.dead_letters().unwrap();
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.collector.as_str(), letter.agent.as_str(), letter.boot, letter.sequence), ("a", "dublin", BootId(7), 1));
    assert_eq!((letter.made, letter.refused), (parcel(1).made.wall, at(3600).wall));
    assert!(letter.reason.starts_with("HTTP status 400: xxx") && letter.reason.len() == 300, "{}", letter.reason);
    assert_eq!((letter.encoding.as_str(), letter.bytes), ("gzip", BODY as u64));
    assert_eq!(store.dead_letter(letter.id).unwrap(), Some((parcel(1).compression, parcel(1).body)));
}

/// Each collector has its own count of letters, and one that is dropped is gone, once.
#[test]
fn letters_are_counted_and_dropped() {
    let bench = bench(&["a", "b"]);
    let mut store = bench.open();
    refused(&mut store, "a", &parcel(1), "no");
    refused(&mut store, "a", &parcel(2), "no");
    assert_eq!((level(&store, "a").dead_letters, level(&store, "b").dead_letters), (2, 0));
    let first = store.dead_letters().unwrap()[0].id;
    assert!(store.drop_dead_letter(first).unwrap());
    assert!(!store.drop_dead_letter(first).unwrap());
    assert_eq!((level(&store, "a").dead_letters, level(&store, "a").dead_letters_dropped), (1, 0));
    assert_eq!(store.dead_letter(first).unwrap(), None);
}

/// Beyond the bounds in number and in bytes the oldest letters go, counted for whom they were.
#[test]
fn letters_are_bounded() {
    let bench = bench(&["a"]);
    let mut store = bench.open();
    for sequence in 1..=LETTERS_MAX + 2 {
        refused(&mut store, "a", &parcel(sequence), "no");
    }
    let a = level(&store, "a");
    assert_eq!((a.dead_letters, a.dead_letters_dropped), (LETTERS_MAX, 2));
    assert_eq!(store.dead_letters().unwrap()[0].sequence, 3);

    let large = |sequence| Parcel { body: vec![7; BYTES_MAX / 2].into(), ..parcel(sequence) };
    for sequence in [2001, 2002, 2003] {
        refused(&mut store, "a", &large(sequence), "no");
    }
    let sequences: Vec<u64> = store.dead_letters().unwrap().iter().map(|letter| letter.sequence).collect();
    assert_eq!(sequences, [2002, 2003]);
    assert_eq!(level(&store, "a").dead_letters_dropped, 2 + LETTERS_MAX + 1);
}

/// A letter that is sent again waits for its collector alone, is the same batch, and is not taken for the newest one; whether another
/// collector still has the batch to come or not.
#[test]
fn letters_are_sent_again() {
    for other_waits in [true, false] {
        let bench = bench(&["a", "b"]);
        let mut store = bench.open();
        refused(&mut store, "a", &parcel(1), "no");
        if !other_waits {
            store.acknowledge(&collector("b"), level(&store, "b").newest.unwrap()).unwrap();
        }
        store.append(&parcel(2)).unwrap();
        let live = level(&store, "a").newest;
        let letter = store.dead_letters().unwrap()[0].id;
        assert_eq!(store.resend(letter).unwrap(), Resent::Waits);
        assert_eq!(store.resend(letter).unwrap(), Resent::Unknown);
        let mut waits = waiting(&store, "a");
        waits.sort_unstable();
        assert_eq!((waits, store.dead_letters().unwrap().len()), (vec![1, 2], 0));
        assert_eq!(waiting(&store, "b").contains(&1), other_waits);
        let a = level(&store, "a");
        assert_eq!((a.newest, a.newest_is_live), (live, true));
        store.acknowledge(&collector("a"), live.unwrap()).unwrap();
        let again = level(&store, "a").oldest[0];
        assert_eq!(store.fetch(&collector("a"), again).unwrap(), Some(parcel(1)));
    }
}

/// A letter whose collector is gone from the fleet file stays what it is.
#[test]
fn letters_of_removed_collectors_stay() {
    let mut bench = bench(&["a"]);
    let mut store = bench.open();
    refused(&mut store, "a", &parcel(1), "no");
    drop(store);
    bench.settings.collectors = vec![collector("b")];
    let mut store = bench.open();
    let letter = store.dead_letters().unwrap()[0].id;
    assert_eq!(store.resend(letter).unwrap(), Resent::CollectorGone);
    assert_eq!((store.dead_letters().unwrap().len(), stored(&store)), (1, 0));
}

/// A spool of the version before loses nothing: its batches wait as they did, compressed with gzip as they were.
#[test]
fn spools_of_the_version_before_are_taken_over() {
    let bench = bench(&["a"]);
    let mut store = bench.open();
    store.append(&parcel(1)).unwrap();
    store.finish().unwrap();
    let db = Connection::open(&bench.settings.path).unwrap();
    db.execute_batch("DROP TABLE dead; ALTER TABLE batch DROP COLUMN compression; PRAGMA user_version = 1").unwrap();
    drop(db);
    let mut store = bench.open();
    let id = level(&store, "a").newest.unwrap();
    assert_eq!(store.fetch(&collector("a"), id).unwrap(), Some(parcel(1)));
    refused(&mut store, "a", &parcel(2), "no");
    assert_eq!(level(&store, "a").dead_letters, 1);
}
