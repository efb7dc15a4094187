use lagmesh_model::state::SlotState;
use lagmesh_postgres::discover::{
    Catalogue, SLOTS_MAX, SlotSample, SlotsSample, TrafficSample, session_log, slots_sample, tells_session_log, traffic_sample,
};

use crate::support::{Server, Settings, open};

async fn slots(server: &Server, role: &str) -> SlotsSample {
    let connection = open(&server.tcp(&format!("user={role}"))).await;
    let catalogue = Catalogue::discover(connection.client()).await.expect("the catalogue");
    slots_sample(connection.client(), &catalogue).await.expect("slots")
}

async fn traffic(server: &Server, role: &str) -> TrafficSample {
    let connection = open(&server.tcp(&format!("user={role}"))).await;
    let catalogue = Catalogue::discover(connection.client()).await.expect("the catalogue");
    traffic_sample(connection.client(), &catalogue).await.expect("traffic")
}

fn named<'s>(sample: &'s SlotsSample, name: &str) -> &'s SlotSample {
    sample.slots.iter().find(|slot| slot.name == name).expect("the slot")
}

/// A slot that nobody reads keeps more and more of the log, until the server gives it up: it never looks healthy then, and what it might
/// still keep is no number. A role without any grant sees the same.
#[tokio::test]
async fn slots_until_they_are_lost() {
    let conf = "max_slot_wal_keep_size = '16MB'\nmin_wal_size = '32MB'\nmax_wal_size = '32MB'\nmax_replication_slots = 100";
    let server = Server::start(&Settings { conf, ..Settings::default() });
    server.run("CREATE ROLE stranger LOGIN; SELECT pg_create_physical_replication_slot('kept', true)").await;
    server.run("SELECT pg_create_physical_replication_slot('empty')").await;
    server.run("SELECT pg_create_logical_replication_slot('decoded', 'pgoutput')").await;
    let before = slots(&server, "stranger").await;
    let kept = named(&before, "kept");
    assert_eq!((kept.state, kept.active, kept.logical), (SlotState::Reserved, false, false));
    assert!(kept.safe_bytes.unwrap() > 0 && kept.retained_bytes.is_some());
    assert!(named(&before, "decoded").logical);
    let empty = named(&before, "empty");
    assert_eq!((empty.state, empty.retained_bytes, empty.safe_bytes), (SlotState::Unknown, None, None));

    server.run("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 20000)").await;
    let after = slots(&server, "stranger").await;
    assert!(named(&after, "kept").retained_bytes > kept.retained_bytes);
    assert!(named(&after, "kept").safe_bytes < kept.safe_bytes);

    for _ in 0..5 {
        server.run("INSERT INTO t SELECT generate_series(1, 100000); SELECT pg_switch_wal()").await;
    }
    server.run("CHECKPOINT").await;
    server.until("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'kept'", "lost").await;
    let lost = slots(&server, "stranger").await;
    assert_eq!((named(&lost, "kept").state, named(&lost, "kept").safe_bytes), (SlotState::Lost, None));
    assert_eq!(lost.slots[0].state, SlotState::Lost, "what is lost comes first");
    assert_eq!(server.errors(), Vec::<String>::new());
}

/// More slots than are told one by one are counted; temporary ones are left out; a standby tells of its own.
#[tokio::test]
async fn slots_are_bounded() {
    let conf = "max_replication_slots = 100";
    let primary = Server::start(&Settings { conf, ..Settings::default() });
    assert_eq!(slots(&primary, "postgres").await, SlotsSample { slots: vec![], more: 0 });
    let replica = primary.standby("replica_one", conf);
    replica.run("SELECT pg_create_physical_replication_slot('here', true)").await;
    let here = slots(&replica, "postgres").await;
    assert!(named(&here, "here").retained_bytes.is_some(), "{here:?}");

    let temporary = primary.superuser().await;
    temporary.client().batch_execute("SELECT pg_create_physical_replication_slot('passing', true, true)").await.unwrap();
    let many =
        format!("SELECT pg_create_physical_replication_slot('s' || n, true) FROM generate_series(1, {}) AS n", SLOTS_MAX + 3);
    primary.run(&many).await;
    let found = slots(&primary, "postgres").await;
    assert_eq!((found.slots.len(), found.more), (SLOTS_MAX, 3));
    assert!(found.slots.iter().all(|slot| slot.name != "passing"));
    assert_eq!((primary.errors(), replica.errors()), (vec![], vec![]));
}

/// Commits, rollbacks, deadlocks and connections are seen by every role, on a writer and on a standby, where recovery's conflicts have
/// their causes; a database without subscriptions has no errors of them, not zero.
#[tokio::test]
async fn traffic_is_seen() {
    let primary = Server::start(&Settings::default());
    primary.run("CREATE ROLE stranger LOGIN").await;
    let replica = primary.standby("replica_one", "");
    replica.until("SELECT count(*) FROM pg_roles WHERE rolname = 'stranger'", "1").await;
    let before = traffic(&primary, "stranger").await;
    for _ in 0..20 {
        primary.run("BEGIN; SELECT 1; ROLLBACK").await;
    }
    let patience = tokio::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let now = traffic(&primary, "stranger").await;
        if now.rollbacks >= before.rollbacks.map(|count| count + 20) && now.commits > before.commits {
            break;
        }
        assert!(tokio::time::Instant::now() < patience, "{before:?} {now:?}");
    }
    assert_eq!((before.connections_max, before.connections >= Some(1)), (40, true));
    assert_eq!((before.conflicts.get("deadlock"), before.subscription_errors.is_empty()), (Some(&0), true));
    let at_standby = traffic(&replica, "stranger").await;
    for cause in ["recovery-lock", "recovery-snapshot", "recovery-deadlock", "deadlock"] {
        assert_eq!(at_standby.conflicts.get(cause), Some(&0), "{at_standby:?}");
    }
    assert_eq!((primary.errors(), replica.errors()), (vec![], vec![]));
}

/// Where the server tells log by session every role learns what its own sessions of the same name have written, and nothing of others';
/// where it does not, that is found out without an error in the server's log.
#[tokio::test]
async fn own_log_is_told_apart() {
    let server = Server::start(&Settings::default());
    server.run("CREATE ROLE stranger LOGIN; CREATE TABLE t (n int); GRANT INSERT ON t TO stranger").await;
    let own = open(&server.tcp("user=stranger application_name=own")).await;
    let other = open(&server.tcp("user=stranger application_name=other")).await;
    let version = server.ask("SELECT current_setting('server_version_num')").await.unwrap().parse::<u32>().unwrap();
    assert_eq!(tells_session_log(own.client()).await.unwrap(), version >= 180_000);
    if version >= 180_000 {
        let patience = tokio::time::Instant::now() + crate::support::PATIENCE;
        loop {
            for connection in [&own, &other] {
                connection.client().batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
            }
            let told = session_log(own.client()).await.unwrap();
            assert_eq!(told.len(), 1, "{told:?}");
            if told[0].written_bytes > 0 {
                break;
            }
            assert!(tokio::time::Instant::now() < patience, "{told:?}");
        }
    }
    assert_eq!(server.errors(), Vec::<String>::new());
}
