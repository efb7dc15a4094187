use lagmesh_model::beat::{Incarnation, SLOTS, Sequence};
use lagmesh_model::ids::NodeName;
use lagmesh_model::position::{Position, SystemIdentifier, Timeline};
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos};
use lagmesh_postgres::Connection;
use lagmesh_postgres::bootstrap::{BootstrapOptions, bootstrap_sql};
use lagmesh_postgres::discover::{Catalogue, node_facts};
use lagmesh_postgres::layout::{self, Mark, Need, NewBeat, Stream};

use crate::support::{Server, Settings, open};

const EPOCH: Epoch = Epoch(0xFEDC_BA98_7654_3210);

fn agent(server: &Server) -> String {
    format!("host=127.0.0.1 port={} dbname=postgres user=lagmesh", server.port)
}

fn reading(sequence: u64) -> Reading {
    Reading {
        epoch: EPOCH,
        raw: RawNanos(5_000_000_000 + sequence),
        wall: WallNanos(1_700_000_000_123_456_000 + sequence * 1_000),
    }
}

struct Writer {
    connection: Connection,
    origin: NodeName,
    incarnation: Incarnation,
    system: SystemIdentifier,
}

impl Writer {
    async fn start(server: &Server, origin: &str, incarnation: i64) -> Writer {
        let connection = open(&agent(server)).await;
        let client = connection.client();
        for stream in Stream::ALL {
            client.batch_execute(&layout::session_sql(stream)).await.expect("session settings");
        }
        let catalogue = Catalogue::discover(client).await.expect("the catalogue");
        let system = node_facts(client, &catalogue).await.expect("facts").system.expect("a system identifier");
        let writer =
            Writer { origin: origin.parse().expect("a name"), incarnation: Incarnation(incarnation), system, connection };
        for stream in Stream::ALL {
            writer.insert(stream).await;
            writer.insert(stream).await;
        }
        writer
    }

    async fn insert(&self, stream: Stream) {
        layout::insert_rows(self.connection.client(), &self.origin, self.incarnation, stream).await.expect("rows");
    }

    async fn beat(&self, stream: Stream, sequence: u64) -> Option<Position> {
        let beat = NewBeat {
            origin: &self.origin,
            incarnation: self.incarnation,
            stream,
            sequence: Sequence(sequence),
            sent: reading(sequence),
            claimed_error_ns: (sequence != 2).then_some(sequence),
            previous_acknowledged: (sequence > 1).then(|| RawNanos(reading(sequence).raw.0 - 1)),
            system: self.system,
        };
        layout::write_beat(self.connection.client(), &beat).await.expect("a beat")
    }
}

/// An agent with the bootstrap's grants alone writes beats; a standby's reader finds each of them once, whole and in order.
#[tokio::test]
async fn beats_arrive_whole() {
    let primary = Server::start(&Settings::default());
    primary.run(&bootstrap_sql(&BootstrapOptions::default())).await;
    let replica = primary.standby("replica_one", "");
    let writer = Writer::start(&primary, "ny", 42).await;
    assert!(layout::discover(writer.connection.client(), Need::Write).await.unwrap().is_ready());

    let first = writer.beat(Stream::Beat, 1).await.unwrap();
    let second = writer.beat(Stream::Beat, 2).await.unwrap();
    assert!(second.bytes_ahead_of(&first).unwrap() > 0 && first.timeline == Timeline(1));
    writer.beat(Stream::Ledger, 1).await.unwrap();

    replica.until("SELECT count(seq) FROM lagmesh.beat", "3").await;
    let reader = open(&agent(&replica)).await;
    assert!(layout::discover(reader.client(), Need::Read).await.unwrap().is_ready());
    let beats = layout::read_newer(reader.client(), &[]).await.unwrap();
    assert_eq!((beats.rows.len(), beats.unreadable), (3, 0));
    let (stream, row) = &beats.rows[1];
    assert_eq!(
        (*stream, row.id.sequence, row.id.incarnation, row.id.origin.as_str()),
        (Stream::Beat, Sequence(2), Incarnation(42), "ny")
    );
    assert_eq!((row.epoch, row.sent, row.sent_wall), (EPOCH, reading(2).raw, reading(2).wall));
    assert_eq!((row.previous_acknowledged, row.position), (Some(RawNanos(reading(2).raw.0 - 1)), second));
    assert_eq!(beats.rows[0].1.previous_acknowledged, None);
    assert_eq!(
        (beats.rows[0].1.claimed_error_ns, row.claimed_error_ns),
        (Some(1), None),
        "a host that claims nothing is not right"
    );

    let mark = |sequence| Mark {
        origin: writer.origin.clone(),
        incarnation: writer.incarnation,
        stream: Stream::Beat,
        sequence: Sequence(sequence),
    };
    let newer = layout::read_newer(reader.client(), &[mark(1)]).await.unwrap();
    let found: Vec<_> = newer.rows.iter().map(|(stream, row)| (*stream, row.id.sequence.0)).collect();
    assert_eq!(found, [(Stream::Beat, 2), (Stream::Ledger, 1)]);
    assert!(
        layout::write_beat(
            reader.client(),
            &NewBeat {
                origin: &writer.origin,
                incarnation: writer.incarnation,
                stream: Stream::Beat,
                sequence: Sequence(3),
                sent: reading(3),
                claimed_error_ns: None,
                previous_acknowledged: None,
                system: writer.system
            }
        )
        .await
        .is_err(),
        "a standby takes no writes"
    );
}

/// Many beats stay on their pages: every update is HOT, the table does not grow, and late readers find the last ones.
#[tokio::test]
async fn the_table_stays_small() {
    let server = Server::start(&Settings::default());
    server.run(&bootstrap_sql(&BootstrapOptions::default())).await;
    let mut others = Vec::new();
    for origin in ["a", "b", "c", "d", "e", "f"] {
        others.push(Writer::start(&server, origin, 7).await);
    }
    let writer = Writer::start(&server, "ny", 1).await;
    let before = layout::table_size(writer.connection.client()).await.unwrap();
    for sequence in 1..=2_000 {
        writer.beat(Stream::Beat, sequence).await.unwrap();
    }
    for other in &others {
        for sequence in 1..=SLOTS {
            other.beat(Stream::Beat, sequence).await.unwrap();
        }
    }
    let after = layout::table_size(writer.connection.client()).await.unwrap();
    assert!(after.bytes <= before.bytes + 8192 && !after.over_cap(), "{before:?} {after:?}");
    drop((writer, others));
    server
        .until(
            "SELECT n_tup_upd = 2048 AND n_tup_upd - n_tup_hot_upd <= 20 FROM pg_stat_user_tables WHERE relname = 'beat'",
            "true",
        )
        .await;
    let reader = open(&agent(&server)).await;
    let beats = layout::read_newer(reader.client(), &[]).await.unwrap();
    let sequences: Vec<_> =
        beats.rows.iter().filter(|(_, row)| row.id.origin.as_str() == "ny").map(|(_, row)| row.id.sequence.0).collect();
    assert_eq!(sequences, (2_001 - SLOTS..=2_000).collect::<Vec<_>>());
}

/// A new incarnation removes its own origin's older rows and nobody else's; a pruned origin's writer is told that its rows are gone.
#[tokio::test]
async fn origins_touch_only_their_own_rows() {
    let server = Server::start(&Settings::default());
    server.run(&bootstrap_sql(&BootstrapOptions::default())).await;
    let (old, new, other) =
        (Writer::start(&server, "ny", 1).await, Writer::start(&server, "ny", 2).await, Writer::start(&server, "dublin", 3).await);
    let rows = i64::try_from(SLOTS).unwrap() * 2;
    assert_eq!(
        layout::origins(old.connection.client()).await.unwrap(),
        [("dublin".to_owned(), rows), ("ny".to_owned(), rows * 2)]
    );
    assert_eq!(
        layout::delete_superseded(new.connection.client(), &new.origin, new.incarnation).await.unwrap(),
        rows.unsigned_abs()
    );
    assert!(
        old.beat(Stream::Beat, 1).await.is_none()
            && new.beat(Stream::Beat, 1).await.is_some()
            && other.beat(Stream::Beat, 1).await.is_some()
    );
    assert_eq!(layout::prune(new.connection.client(), "dublin").await.unwrap(), rows.unsigned_abs());
    assert!(other.beat(Stream::Beat, 2).await.is_none());
    assert_eq!(layout::origins(new.connection.client()).await.unwrap(), [("ny".to_owned(), rows)]);
}

/// A writer's session gives its lock up soon, whatever becomes of the agent, and only beats leave the applications' commit level.
#[tokio::test]
async fn writers_sessions_are_bounded() {
    let server = Server::start(&Settings::default());
    let sql = "SELECT concat_ws(' ', current_setting('synchronous_commit'), current_setting('lock_timeout'), \
               current_setting('idle_session_timeout'), current_setting('tcp_keepalives_idle'))";
    for (stream, expected) in [(Stream::Beat, "local 500ms 30s 10"), (Stream::Ledger, "on 500ms 30s 10")] {
        let connection = open(&server.tcp("")).await;
        connection.client().batch_execute(&layout::session_sql(stream)).await.unwrap();
        let found: String = connection.client().query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(found, expected);
    }
}

/// One session at a time is elected for a node; the lock goes with the session.
#[tokio::test]
async fn one_agent_beats() {
    let server = Server::start(&Settings::default());
    let (first, second, node, other) =
        (server.superuser().await, server.superuser().await, "ny".parse().unwrap(), "dublin".parse().unwrap());
    assert!(layout::elect(first.client(), &node).await.unwrap());
    assert!(!layout::elect(second.client(), &node).await.unwrap());
    assert!(layout::elect(second.client(), &other).await.unwrap());
    assert!(layout::resign(first.client(), &node).await.unwrap());
    assert!(layout::elect(second.client(), &node).await.unwrap());
    drop(second);
    server.until("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", "0").await;
    assert!(layout::elect(first.client(), &node).await.unwrap());
}

/// Rows that this version cannot mean are counted and left alone.
#[tokio::test]
async fn foreign_rows_are_counted() {
    let server = Server::start(&Settings::default());
    server.run(&bootstrap_sql(&BootstrapOptions::default())).await;
    let writer = Writer::start(&server, "ny", 1).await;
    writer.beat(Stream::Beat, 1).await.unwrap();
    let nonsense = "layout = 1, origin = 'ny', sent_raw_ns = 9223372036854775807";
    for (set, condition) in [("layout = 9", "seq = 1"), ("origin = 'No Name'", "seq = 1"), (nonsense, "seq = 1")] {
        server
            .run(&format!(
                "INSERT INTO lagmesh.beat SELECT * FROM lagmesh.beat WHERE false; UPDATE lagmesh.beat SET {set} WHERE {condition}"
            ))
            .await;
        let beats = layout::read_newer(writer.connection.client(), &[]).await.unwrap();
        assert_eq!((beats.rows.len(), beats.unreadable), (0, 1), "{set}");
        server.run("UPDATE lagmesh.beat SET layout = 1").await;
    }
}

/// A table that somebody filled costs a reader bounded memory.
#[tokio::test]
async fn a_poll_is_bounded() {
    let server = Server::start(&Settings::default());
    server.run(&bootstrap_sql(&BootstrapOptions::default())).await;
    let writer = Writer::start(&server, "ny", 1).await;
    writer.beat(Stream::Beat, 1).await.unwrap();
    let columns = "stream, slot, seq, clock_epoch, sent_raw_ns, sent_wall, previous_acknowledged_raw_ns, system_identifier, timeline, lsn, layout";
    let filled = format!(
        "INSERT INTO lagmesh.beat (origin, incarnation, {columns}) SELECT 'other', n, {columns} FROM lagmesh.beat, generate_series(1, 5000) AS n WHERE seq = 1"
    );
    server.run(&filled).await;
    let beats = layout::read_newer(writer.connection.client(), &[]).await.unwrap();
    assert_eq!(beats.rows.len(), 4096);
}
