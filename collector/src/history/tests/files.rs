use super::*;

/// Adds so many counters, each of which counts the batches.
fn add_stamps(batch: &mut Batch, peers: usize) {
    for n in 0..peers {
        let peer = Attributes::new().with(Attribute::Region, "a").with(Attribute::Peer, format!("p{n}"));
        batch.series.push(Series::counter(&catalogue::LINK_STAMPS, peer.with(Attribute::Stamps, "kernel"), batch.sequence));
    }
}

/// What a disk that is full does not take is not lost but for its resolution, and nothing is counted twice once there is room again.
#[test]
fn a_full_disk_costs_resolution_only() {
    let life = Life::even("one", 1, 40, 20);
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    take(&mut running, [life.batch(1)]);
    running.write();
    let pages = |history: &mut History, most: i64| {
        let connection = history.table.connection();
        let used: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        connection.pragma_update(None, "max_page_count", used + most).unwrap();
    };
    pages(&mut running, 0);
    // So many series that they need a page.
    let wide = |sequence: u64| {
        let mut batch = life.batch(sequence);
        add_stamps(&mut batch, 2000);
        batch
    };
    take(&mut running, [wide(2), wide(3)]);
    running.write();
    assert_eq!(sums(folder.path(), 0), (10, 10), "nothing was written");
    pages(&mut running, 100_000);
    take(&mut running, [wide(4)]);
    running.write();
    assert_eq!(sums(folder.path(), 0), (40 + 2000 * 4, 40));
    let lost =
        running.tally.series(arrived(0)).into_iter().find(|series| series.metric.name == catalogue::COLLECTOR_HISTORY_LOST.name);
    assert_eq!(lost.map(|series| series.value), Some(Value::Counter(2)));
}

/// What is too old goes from the finest tier first; a tier is whole from the moment on that it names, and late batches change only what is
/// kept.
#[test]
fn old_buckets_go_by_tier() {
    let life = Life::even("one", 1, 400, 20);
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    take(&mut running, (1..=400).filter(|sequence| *sequence != 10).map(|sequence| life.batch(sequence)));
    running.write();
    settle(&mut running);
    let keep = Keep { for_: [1800, 3000, 36_000].map(Duration::from_secs), ..Keep::default() };
    let now_s = START_S + 10_000 + 4000;
    for _ in 0..20 {
        sweep(running.table.connection(), &keep, now_s).unwrap();
    }
    let oldest = |tier| of_tier(folder.path(), tier).into_keys().next().unwrap().0;
    assert_eq!(oldest(0), (now_s - 1800) / 300 * 300, "rows of five minutes");
    assert_eq!(oldest(1), (now_s - 3000) / 1800 * 1800, "rows of half an hour");
    assert_eq!(oldest(2), (START_S + 10_010) / 3600 * 3600);
    let total = sums(folder.path(), 2);
    take(&mut running, [life.batch(10)]);
    running.write();
    let unsettled = dump(folder.path());
    assert_eq!(oldest(0), (now_s - 1800) / 300 * 300, "what came late is not put into a tier that no longer has its time");
    assert_eq!(sums(folder.path(), 2), total);
    settle(&mut running);
    assert_eq!(dump(folder.path()), unsettled);
}

/// A sweep drops no more than a step, whatever the clock says.
#[test]
fn a_wrong_clock_takes_little() {
    let life = Life::even("one", 1, 400, 20);
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    take(&mut running, life.all());
    running.write();
    settle(&mut running);
    sweep(running.table.connection(), &Keep::default(), START_S + 86_400 * 3650).unwrap();
    let left = of_tier(folder.path(), 0).into_keys().filter(|(_, name)| name.starts_with("lagmesh.link.rtt")).count();
    assert_eq!(left, 400 - 19, "the row with the first 19 is gone");
}

/// A file that grows too large loses the oldest of the finest tier first, and says how much.
#[test]
fn bytes_are_bounded() {
    let life = Life::even("one", 1, 400, 20);
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    // As many series as fill pages.
    let wide = life.all().map(|mut batch| {
        add_stamps(&mut batch, 60);
        batch
    });
    take(&mut running, wide);
    running.write();
    settle(&mut running);
    let unbounded = sweep(running.table.connection(), &Keep::default(), START_S).unwrap();
    assert_eq!(unbounded.crowded_out, 0);
    let keep = Keep { bytes_max: unbounded.bytes - 16_384, ..Keep::default() };
    let swept = sweep(running.table.connection(), &keep, START_S).unwrap();
    assert!(swept.crowded_out > 0 && swept.bytes <= keep.bytes_max, "{swept:?}");
    assert_eq!(sums(folder.path(), 1), (4000 + 60 * 400, 4000), "coarser tiers have all of it");
    let keep = Keep { bytes_max: 0, ..Keep::default() };
    for _ in 0..10 {
        sweep(running.table.connection(), &keep, START_S).unwrap();
    }
    assert!(dump(folder.path()).is_empty());
}

/// A file that is no database, or is damaged, is set aside once and counted; one of a newer version is left alone.
#[test]
fn damage_is_set_aside() {
    let folder = tempdir().unwrap();
    let file = folder.path().join(FILE);
    std::fs::write(&file, vec![7; 8192]).unwrap();
    let running = history(folder.path());
    assert!(folder.path().join("history.db.bad").exists());
    assert_eq!(
        running.tally.series(arrived(0)).iter().filter(|series| series.metric.name == "lagmesh.collector.history_lost").count(),
        1
    );
    drop(running);
    assert!(!Table::open(folder.path()).unwrap().set_aside);
    let connection = Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let refused = Table::open(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("has layout 99"), "{refused}");
}

/// Counts that cannot be read end their boot: counted again from zero they would be there twice.
#[test]
fn an_unreadable_boot_is_not_counted_again() {
    let life = Life::even("one", 1, 9, 20);
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    take(&mut running, [life.batch(1), life.batch(2)]);
    running.write();
    drop(running);
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    connection.execute("UPDATE run SET last_body = x'00'", []).unwrap();
    drop(connection);
    let mut running = history(folder.path());
    take(&mut running, [life.batch(3)]);
    running.write();
    assert_eq!(sums(folder.path(), 0), (20, 20));
}

/// A copy made between two writes opens, is whole, and goes on where it was made; it is never put over another.
#[test]
fn a_backup_is_whole() {
    let life = Life::even("one", 1, 9, 20);
    let (folder, safe) = (tempdir().unwrap(), tempdir().unwrap());
    let missing = backup(folder.path(), safe.path()).unwrap_err().to_string();
    assert!(missing.contains("--state-dir"), "{missing}");
    let store = crate::store::Store::open(folder.path()).unwrap();
    let mut running = history(folder.path());
    take(&mut running, [life.batch(1), life.batch(2)]);
    running.write();
    // In memory, and so not in the copy.
    take(&mut running, [life.batch(3)]);
    let copies = backup(folder.path(), safe.path()).unwrap();
    assert_eq!(copies.len(), 2);
    running.write();
    drop(store);
    assert_eq!(sums(folder.path(), 0), (30, 30));
    assert_eq!(sums(safe.path(), 0), (20, 20));
    let mut restored = history(safe.path());
    take(&mut restored, [life.batch(2), life.batch(4)]);
    restored.write();
    assert_eq!(sums(safe.path(), 0), (40, 40));
    assert!(crate::store::Store::open(safe.path()).is_ok());
    let again = backup(folder.path(), safe.path()).unwrap_err().to_string();
    assert!(again.contains("is there already"), "{again}");
}

/// The thread writes what it was fed when nobody feeds it any more.
#[test]
fn the_thread_ends_with_everything_written() {
    let life = Life::even("one", 1, 9, 20);
    let folder = tempdir().unwrap();
    let running = history(folder.path());
    let (feed, queue) = History::feed(&Tally::default());
    let thread = std::thread::spawn(move || running.run(&queue));
    life.all().for_each(|batch| feed.offer(&Committed::Batch(batch, arrived(100_000))));
    drop(feed);
    thread.join().unwrap().unwrap();
    assert_eq!(sums(folder.path(), 0), (90, 90));
}

/// Which starts of an agent the store keeps one by one makes no difference to their course.
#[test]
fn batches_of_starts_that_the_store_has_retired_are_taken() {
    let life = Life::even("one", 1, 9, 20);
    let dump_of = |committed: [Committed; 3]| {
        let folder = tempdir().unwrap();
        let running = history(folder.path());
        let (feed, queue) = History::feed(&Tally::default());
        let thread = std::thread::spawn(move || running.run(&queue));
        for one in &committed {
            feed.offer(one);
        }
        drop(feed);
        thread.join().unwrap().unwrap();
        dump(folder.path())
    };
    let (at, [one, two, three]) = (arrived(100_000), [4, 2, 7].map(|sequence| life.batch(sequence)));
    let kept = dump_of([one.clone(), two.clone(), three.clone()].map(|batch| Committed::Batch(batch, at)));
    let retired = dump_of([
        Committed::Batch(one, at),
        Committed::OfRetired(two, at, None),
        Committed::OfRetired(three.clone(), at, Some(three)),
    ]);
    assert_eq!(kept, retired);
}
