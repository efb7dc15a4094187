use lagmesh_model::catalogue;
use lagmesh_model::series::Value;
use lagmesh_model::state::LinkState;
use proptest::prelude::*;

use super::*;
use crate::fixture::{Says, at, fleet};
use crate::judge::Judge;
use crate::merge::{Key, View};

mod damage;

fn batch(boot: u64, sequence: u64) -> Batch {
    let mut batch = Says::new("a", sequence).link("b", LinkState::Ok).rtt("b", sequence * 10, 20).batch();
    batch.exporter.boot = BootId(boot);
    batch
}

fn delivery(batches: Vec<Batch>) -> Delivery {
    let packed = |batch: Batch| (batch.clone(), Packed::of(&batch));
    Delivery { batches: batches.into_iter().map(packed).collect(), arrived: at(5) }
}

fn keep(store: &mut Store, boot: u64, sequence: u64) -> Kept {
    store.write(vec![delivery(vec![batch(boot, sequence)])], None).unwrap().0[0]
}

fn open(folder: &Path) -> (Store, View) {
    let Opened { store, restored, .. } = Store::open(folder).unwrap();
    let mut view = View::new(std::time::Duration::from_secs(10));
    restored.retired.into_iter().for_each(|sum| view.accept_retired(sum));
    restored.batches.into_iter().for_each(|(batch, arrived)| view.accept(batch, arrived));
    (store, view)
}

fn probes(view: &View) -> u64 {
    let counts = view.totals(at(0)).into_iter().filter(|(key, _): &(Key, _)| key.metric.name == catalogue::LINK_PROBES.name);
    counts.map(|(_, value)| if let Value::Counter(count) = value { count } else { 0 }).sum()
}

/// Totals and what is a duplicate survive a restart, whatever came late.
#[test]
fn a_restart_keeps_totals_and_duplicates() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, view) = open(folder.path());
    assert_eq!(probes(&view), 0);
    assert_eq!(keep(&mut store, 1, 1), Kept::New);
    assert_eq!(keep(&mut store, 1, 4), Kept::New);
    assert_eq!(keep(&mut store, 1, 2), Kept::New, "late, and not seen before");
    assert_eq!(keep(&mut store, 1, 2), Kept::Duplicate);
    drop(store);
    let (mut store, view) = open(folder.path());
    assert_eq!(probes(&view), 40);
    for sequence in [1, 2, 4] {
        assert_eq!(keep(&mut store, 1, sequence), Kept::Duplicate);
    }
    assert_eq!(keep(&mut store, 1, 3), Kept::New);
    assert_eq!(keep(&mut store, 1, 5), Kept::New);
    drop(store);
    assert_eq!(probes(&open(folder.path()).1), 50);
}

/// Shows a view what is told.
fn tell(view: &mut View, told: Vec<Committed>) {
    for one in told {
        match one {
            Committed::Batch(batch, arrived) => view.accept(batch, arrived),
            Committed::Retired(agent, boot) => view.retire(&agent, boot),
            Committed::OfRetired(_, _, grown) => grown.into_iter().for_each(|grown| view.accept_retired(grown)),
        }
    }
}

/// However often an agent restarts the store stays bounded, and no count is lost.
#[test]
fn dead_boots_are_bounded_and_their_counts_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, mut view) = open(folder.path());
    let boots = 3 * BOOTS_MAX as u64;
    for boot in 1..=boots {
        let (_, told) = store.write(vec![delivery(vec![batch(boot, 1)])], None).unwrap();
        tell(&mut view, told);
    }
    assert_eq!(probes(&view), boots * 10);
    drop(store);
    assert_eq!(probes(&open(folder.path()).1), boots * 10);
    assert_eq!(Store::open(folder.path()).unwrap().restored.batches.len(), BOOTS_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// In whatever order the batches of however many boots come, and however often the collector restarts in between, the totals are those
    /// of the newest batch of each boot, in memory and on disk; and what changes nothing is no news.
    #[test]
    fn late_batches_of_retired_boots_count_once(
        order in proptest::collection::vec((1..=(BOOTS_MAX + GROWING_MAX) as u64, 1_u64..6), 1..300),
        restarts in proptest::collection::btree_set(0_usize..300, 0..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, mut view) = open(folder.path());
        let mut newest: std::collections::BTreeMap<u64, u64> = std::collections::BTreeMap::new();
        for (at, (boot, sequence)) in order.into_iter().enumerate() {
            if restarts.contains(&at) {
                drop(store);
                (store, view) = open(folder.path());
            }
            let (outcomes, told) = store.write(vec![delivery(vec![batch(boot, sequence)])], None).unwrap();
            tell(&mut view, told);
            let held = newest.entry(boot).or_default();
            prop_assert!(outcomes[0] == Kept::New || sequence <= *held);
            *held = sequence.max(*held);
            prop_assert_eq!(probes(&view), newest.values().sum::<u64>() * 10);
        }
        drop(store);
        prop_assert_eq!(probes(&open(folder.path()).1), newest.values().sum::<u64>() * 10);
    }
}

/// Of a boot that was retired long ago nothing counts again, for as long as an agent may still send of it; of one that was retired of late
/// everything does, once.
#[test]
fn long_retired_boots_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let connection = || rusqlite::Connection::open(folder.path().join("collector.db")).unwrap();
    let fill = "WITH RECURSIVE boot (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM boot WHERE n < ?1) \
                INSERT INTO retired_boot (agent, boot) SELECT 'a', n FROM boot";
    let long_ago = RETIRED_MAX as u64;
    connection().execute(fill, [long_ago.cast_signed()]).unwrap();
    let (mut store, _) = open(folder.path());
    let boots = (BOOTS_MAX + GROWING_MAX) as u64 + 1;
    for boot in 1..=boots {
        assert_eq!(keep(&mut store, long_ago + boot, 1), Kept::New);
    }
    for (is_restarted, sequence) in [(false, 8), (true, 9)] {
        if is_restarted {
            drop(store);
            store = open(folder.path()).0;
        }
        assert_eq!(keep(&mut store, long_ago, sequence), Kept::Retired);
        assert_eq!(keep(&mut store, long_ago + 1, sequence), Kept::Retired);
        assert_eq!(keep(&mut store, long_ago + 2, sequence), Kept::New);
        assert_eq!(keep(&mut store, long_ago + 2, sequence), Kept::Retired);
    }
    drop(store);
    assert_eq!(probes(&open(folder.path()).1), boots * 10 + 80);
    let rows = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        usize::try_from(connection().query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()).unwrap()
    };
    assert_eq!((rows("retired_boot"), rows("retired_last")), (RETIRED_MAX, GROWING_MAX));
}

/// Nobody is told that a batch is kept before it was passed on: who looks then finds it.
#[test]
fn passed_on_before_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let ((jobs, jobs_queue), (news, mut told)) = (mpsc::channel(1), mpsc::channel(1));
    let thread = std::thread::spawn(move || store.run(jobs_queue, &news));
    let (done, mut kept) = oneshot::channel();
    jobs.blocking_send(Job::Keep(delivery(vec![batch(1, 1), batch(1, 2)]), done)).unwrap();
    // There is room for one of the two: with the other it waits until somebody reads.
    while told.is_empty() {
        std::thread::yield_now();
    }
    assert!(kept.try_recv().is_err(), "answered before it was passed on");
    assert!(told.blocking_recv().is_some() && told.blocking_recv().is_some());
    assert_eq!(kept.blocking_recv().unwrap(), Ok(Kept::New));
    drop(jobs);
    thread.join().unwrap().unwrap();
}

/// A file that is no database is set aside once, and the collector starts anew.
#[test]
fn damage_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("collector.db");
    std::fs::write(&file, vec![7; 8192]).unwrap();
    let opened = Store::open(folder.path()).unwrap();
    assert!(opened.set_aside && opened.restored.batches.is_empty());
    assert!(folder.path().join("collector.db.bad").exists());
    drop(opened);
    assert!(!Store::open(folder.path()).unwrap().set_aside);
}

/// Damage in the middle of a good file is found too.
#[test]
fn torn_pages_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = open(folder.path());
    for boot in 1..=BOOTS_MAX as u64 {
        keep(&mut store, boot, 1);
    }
    drop(store);
    let file = folder.path().join("collector.db");
    let mut bytes = std::fs::read(&file).unwrap();
    assert!(bytes.len() > 8192);
    bytes[4096..].fill(0xAA);
    std::fs::write(&file, bytes).unwrap();
    assert!(Store::open(folder.path()).unwrap().set_aside);
}

/// A file of a newer version is left alone.
#[test]
fn a_newer_layout_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path()).unwrap());
    let connection = rusqlite::Connection::open(folder.path().join("collector.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let refused = Store::open(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("has layout 99"), "{refused}");
}

/// The judge's memory survives as the last one written.
#[test]
fn memory_survives() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = open(folder.path());
    let memories = Judge::new(&fleet(&["a", "b"], &["a"]), Vec::new()).memories();
    store.write(Vec::new(), Some(&memories[..1])).unwrap();
    store.write(Vec::new(), Some(&memories)).unwrap();
    drop(store);
    assert_eq!(Store::open(folder.path()).unwrap().restored.memories, memories);
}
