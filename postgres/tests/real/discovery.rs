use lagmesh_model::position::{Lsn, Timeline};
use lagmesh_postgres::Connection;
use lagmesh_postgres::bootstrap::{BootstrapOptions, bootstrap_sql};
use lagmesh_postgres::discover::{
    Catalogue, NodeFacts, PauseState, Receiver, StandbySample, WriterSample, node_facts, standby_sample, subscriber_sample,
    traffic_sample, writer_sample,
};

use crate::support::{Server, Settings, open};

async fn facts(connection: &Connection) -> NodeFacts {
    let catalogue = Catalogue::discover(connection.client()).await.expect("the catalogue");
    node_facts(connection.client(), &catalogue).await.expect("facts")
}

async fn standby(connection: &Connection) -> StandbySample {
    let catalogue = Catalogue::discover(connection.client()).await.expect("the catalogue");
    standby_sample(connection.client(), &catalogue).await.expect("a sample")
}

async fn writer(connection: &Connection) -> WriterSample {
    let catalogue = Catalogue::discover(connection.client()).await.expect("the catalogue");
    writer_sample(connection.client(), &catalogue).await.expect("a sample")
}

const ROLES: &str = "CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher; CREATE ROLE stranger LOGIN";

fn as_role(server: &Server, role: &str) -> String {
    format!("host=127.0.0.1 port={} dbname=postgres user={role}", server.port)
}

/// With `pg_monitor` alone, writer and standby say what they are and where they stand, and the positions fit each other.
#[tokio::test]
async fn writer_and_standby() {
    let primary = Server::start(&Settings::default());
    primary.run(ROLES).await;
    let replica = primary.standby("replica_one", "recovery_min_apply_delay = '1500ms'");
    primary.until("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1").await;
    let (w, s) = (open(&as_role(&primary, "watcher")).await, open(&as_role(&replica, "watcher")).await);

    let (at_writer, at_standby) = (facts(&w).await, facts(&s).await);
    let system = primary.ask("SELECT system_identifier FROM pg_control_system()").await.unwrap();
    assert_eq!(at_writer.system.unwrap().to_string(), system);
    assert_eq!(at_standby.system, at_writer.system);
    assert_eq!((at_writer.in_recovery, at_writer.read_only, at_writer.timeline), (false, false, Some(Timeline(1))));
    assert_eq!((at_standby.in_recovery, at_standby.read_only, at_standby.timeline), (true, true, Some(Timeline(1))));
    assert!(at_writer.reads_statistics && at_writer.version >= 130_000 && at_writer.role == "watcher");

    primary.run("CREATE TABLE t AS SELECT generate_series(1, 1000)").await;
    replica.until("SELECT count(*) FROM pg_stat_wal_receiver WHERE latest_end_lsn IS NOT NULL", "1").await;
    let behind = standby(&s).await;
    assert_eq!(behind.apply_delay.unwrap().as_millis(), 1500);
    assert_eq!((behind.in_recovery, behind.pause, behind.conflicts), (true, Some(PauseState::NotPaused), Some(0)));
    assert!(behind.replayed.unwrap() <= behind.received.unwrap());
    let Receiver::Present(receiver) = behind.receiver else { panic!("{:?}", behind.receiver) };
    assert_eq!((receiver.status.as_str(), receiver.received_timeline), ("streaming", Some(Timeline(1))));
    assert!(receiver.latest_end.is_some() && receiver.last_message_age_ns.unwrap() >= 0);

    let ahead = writer(&w).await;
    let sender = ahead.senders.iter().find(|sender| sender.application_name == "replica_one").unwrap().sample.clone().unwrap();
    assert_eq!((sender.state.as_str(), sender.sync_state.as_deref()), ("streaming", Some("async")));
    assert!(sender.flushed.unwrap() <= ahead.inserted.unwrap() && ahead.flushed.unwrap() <= ahead.inserted.unwrap());
    assert!(sender.replayed.unwrap() > Lsn(0) && sender.reply_age_ns.is_some());

    for (server, which) in [(&primary, "writer"), (&replica, "standby")] {
        assert_eq!(server.errors(), Vec::<String>::new(), "looking at the {which} must leave no error in its log");
    }
}

/// Without `pg_monitor` what is hidden is reported as a missing grant; nothing of it turns into a number.
#[tokio::test]
async fn missing_grants_are_named() {
    let primary = Server::start(&Settings::default());
    primary.run(ROLES).await;
    let replica = primary.standby("replica_one", "");
    primary.until("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1").await;
    replica.until("SELECT count(*) FROM pg_stat_wal_receiver", "1").await;
    let (w, s) = (open(&as_role(&primary, "stranger")).await, open(&as_role(&replica, "stranger")).await);
    assert!(!facts(&w).await.reads_statistics);
    let hidden = writer(&w).await.senders[0].sample.clone().unwrap_err();
    assert_eq!(hidden.to_string(), "pg_stat_replication hides its columns from this role; GRANT pg_monitor to it");
    let sample = standby(&s).await;
    assert!(matches!(sample.receiver, Receiver::Hidden(_)) && sample.replayed.is_some());
}

/// A follower is told with the slot through which it reads, and one that is gone is missing in the very next look.
#[tokio::test]
async fn a_lost_follower_is_missing_at_once() {
    let primary = Server::start(&Settings::default());
    primary.run("SELECT pg_create_physical_replication_slot('seat')").await;
    let replica = primary.standby("replica_one", "primary_slot_name = 'seat'");
    primary.until("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1").await;
    let w = primary.superuser().await;
    let there = writer(&w).await.senders;
    assert_eq!((there.len(), there[0].slot.as_deref()), (1, Some("seat")), "{there:?}");
    drop(replica);
    primary.until("SELECT count(*) FROM pg_stat_replication", "0").await;
    assert_eq!(writer(&w).await.senders, []);
}

/// Pausing shows, a receiver that is gone shows as absent, and a promotion shows at once: role and timeline.
#[tokio::test]
async fn pause_loss_and_promotion() {
    let primary = Server::start(&Settings::default());
    let replica = primary.standby("replica_one", "");
    replica.until("SELECT count(*) FROM pg_stat_wal_receiver", "1").await;
    let s = replica.superuser().await;
    replica.run("SELECT pg_wal_replay_pause()").await;
    replica.until("SELECT pg_is_wal_replay_paused()", "true").await;
    let paused = standby(&s).await.pause.unwrap();
    assert_ne!(paused, PauseState::NotPaused);
    replica.run("SELECT pg_wal_replay_resume()").await;

    drop(primary);
    replica.until("SELECT count(*) FROM pg_stat_wal_receiver", "0").await;
    assert_eq!(standby(&s).await.receiver, Receiver::Absent);

    let third = replica.standby("replica_two", "");
    third.until("SELECT count(*) FROM pg_stat_wal_receiver", "1").await;
    let before = facts(&s).await;
    replica.run("SELECT pg_promote()").await;
    let after = facts(&s).await;
    assert!(before.in_recovery && !after.in_recovery);
    assert_eq!((after.timeline, after.system, after.started), (Some(Timeline(2)), before.system, before.started));
    third.until("SELECT received_tli FROM pg_stat_wal_receiver", "2").await;
    assert_eq!(
        facts(&third.superuser().await).await.timeline,
        Some(Timeline(2)),
        "a follower knows as soon as its receiver does"
    );
    let sample = writer(&s).await;
    assert!(!sample.in_recovery && sample.inserted.is_some());
    assert_eq!(standby(&s).await.pause, None, "a writer has no replay to pause");
}

/// A function that the server refuses is found out once and named; what depends on it is unknown, and the rest is there.
#[tokio::test]
async fn refused_functions_are_skipped() {
    let server = Server::start(&Settings::default());
    server.run(ROLES).await;
    server.run("REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_current_wal_flush_lsn() FROM PUBLIC").await;
    server.run("REVOKE SELECT ON pg_catalog.pg_replication_slots FROM PUBLIC").await;
    // As services do it that replicate by other means.
    server.run("ALTER FUNCTION pg_catalog.pg_last_wal_receive_lsn() RENAME TO pg_last_wal_receive_lsn_hidden").await;
    server
        .run("CREATE FUNCTION pg_catalog.pg_last_wal_receive_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here'; END $$")
        .await;
    let connection = open(&as_role(&server, "watcher")).await;
    let catalogue = Catalogue::discover(connection.client()).await.unwrap();
    let skipped: Vec<_> = catalogue.skipped().map(|(function, _)| function).collect();
    assert_eq!(skipped, ["pg_control_system", "pg_current_wal_flush_lsn", "pg_get_replication_slots", "pg_last_wal_receive_lsn"]);
    let facts = node_facts(connection.client(), &catalogue).await.unwrap();
    assert_eq!((facts.system, facts.timeline), (None, Some(Timeline(1))));
    let sample = writer_sample(connection.client(), &catalogue).await.unwrap();
    assert!(sample.flushed.is_none() && sample.inserted.is_some() && sample.confirmed.is_empty());
}

/// A subscriber says whether it is given the heartbeat table, and counts what it cannot apply; before PostgreSQL 15 the latter is unknown.
#[tokio::test]
async fn subscriptions() {
    let (publisher, subscriber) = (Server::start(&Settings::default()), Server::start(&Settings::default()));
    for server in [&publisher, &subscriber] {
        server.run(&bootstrap_sql(&BootstrapOptions::default())).await;
    }
    publisher.run("CREATE TABLE t (n int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t").await;
    subscriber.run("CREATE TABLE t (n int PRIMARY KEY); INSERT INTO t VALUES (7)").await;
    let source = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", publisher.port);
    subscriber.run(&format!("CREATE SUBSCRIPTION s CONNECTION '{source}' PUBLICATION p")).await;

    let connection = open(&subscriber.tcp("user=lagmesh")).await;
    let catalogue = Catalogue::discover(connection.client()).await.unwrap();
    let version = node_facts(connection.client(), &catalogue).await.unwrap().version;
    let sample = async || subscriber_sample(connection.client(), &catalogue).await.unwrap();
    let before = sample().await;
    assert_eq!((before.carries_beats, before.apply_errors.is_some()), (false, version >= 150_000));

    publisher.run("ALTER PUBLICATION p ADD TABLE lagmesh.beat").await;
    subscriber.run("ALTER SUBSCRIPTION s REFRESH PUBLICATION").await;
    assert!(sample().await.carries_beats);

    subscriber.until("SELECT string_agg(DISTINCT srsubstate::text, '') FROM pg_subscription_rel", "r").await;
    // What has arrived is confirmed by the slot that the subscriber names.
    let superuser = publisher.superuser().await;
    let names: Vec<_> = writer(&superuser).await.confirmed.into_iter().map(|(slot, _)| slot).collect();
    assert_eq!(names, sample().await.slots);
    let written = writer(&superuser).await.inserted.unwrap();
    publisher.run("INSERT INTO t VALUES (8)").await;
    publisher.until(&format!("SELECT (confirmed_flush_lsn > '{written}')::text FROM pg_replication_slots"), "true").await;
    assert!(writer(&superuser).await.confirmed.iter().all(|(_, confirmed)| *confirmed > written));
    // The subscriber has this row already.
    publisher.run("INSERT INTO t VALUES (7)").await;
    if version >= 150_000 {
        subscriber.until("SELECT (apply_error_count > 0)::text FROM pg_stat_subscription_stats", "true").await;
        assert!(sample().await.apply_errors > before.apply_errors);
        let errors = traffic_sample(connection.client(), &catalogue).await.unwrap().subscription_errors;
        assert!(errors["apply"] > 0 && errors["sync"] == 0, "{errors:?}");
    }
}
