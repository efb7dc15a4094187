use lagmesh_model::beat::{Incarnation, SLOTS, Sequence};
use lagmesh_model::ids::NodeName;
use lagmesh_model::position::SystemIdentifier;
use lagmesh_model::state::CommitLevel;
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos};
use lagmesh_postgres::bootstrap::{BootstrapOptions, bootstrap_sql};
use lagmesh_postgres::discover::{CommitSetting, commit_setting};
use lagmesh_postgres::layout::{self, NewBeat, Stream};
use lagmesh_postgres::{CancelOnDrop, Connection, PgError};

use crate::support::{Server, Settings, open};

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

fn ny() -> NodeName {
    "ny".parse().expect("a name")
}

/// A server whose commits wait for a standby that is not there, with the rows of one incarnation.
async fn without_standby(incarnation: Incarnation) -> Server {
    let server = Server::start(&Settings { conf: "synchronous_standby_names = 'nobody'", ..Settings::default() });
    server.run(&bootstrap_sql(&BootstrapOptions::default())).await;
    rows(&server, incarnation).await;
    server
}

async fn session(server: &Server, settings: &str) -> Connection {
    let connection = open(&server.tcp("user=lagmesh")).await;
    connection.client().batch_execute(settings).await.expect("session settings");
    connection
}

async fn rows(server: &Server, incarnation: Incarnation) {
    let connection = session(server, &layout::session_sql(Stream::Beat)).await;
    for stream in Stream::ALL {
        layout::insert_rows(connection.client(), &ny(), incarnation, stream).await.expect("rows");
    }
    for _ in 0..2 {
        layout::insert_level_rows(connection.client(), &ny(), incarnation).await.expect("rows");
    }
}

async fn ledger(connection: &Connection, incarnation: Incarnation, sequence: u64) -> Result<bool, PgError> {
    let sent = Reading { epoch: Epoch(1), raw: RawNanos(5), wall: WallNanos(1_700_000_000_000_000_000) };
    let (origin, system) = (ny(), SystemIdentifier(1));
    let stream = Stream::Ledger;
    let row = NewBeat {
        origin: &origin,
        incarnation,
        stream,
        sequence: Sequence(sequence),
        sent,
        claimed_error_ns: None,
        previous_acknowledged: None,
        system,
    };
    layout::write_beat(connection.client(), &row).await.map(|position| position.is_some())
}

/// While a row of the ledger waits for a lost standby, beats and every level that waits for nobody go on, on rows of their own; when
/// nobody waits for it any more the server ends it, and the row that it wrote is there.
#[tokio::test]
async fn a_waiting_ledger_holds_nobody_up() {
    let incarnation = Incarnation(1);
    let server = without_standby(incarnation).await;
    let waiting = session(&server, &layout::session_sql(Stream::Ledger)).await;
    let hung = tokio::spawn(async move {
        let _guard = CancelOnDrop::new(&waiting);
        ledger(&waiting, incarnation, 1).await.is_ok()
    });
    server.until(WAITING, "1").await;

    for level in [CommitLevel::Off, CommitLevel::Local] {
        let connection = session(&server, &layout::level_session_sql(level)).await;
        assert!(layout::write_level(connection.client(), &ny(), incarnation, level, RawNanos(7)).await.unwrap());
    }
    let next = session(&server, &layout::level_session_sql(CommitLevel::Local)).await;
    assert!(ledger(&next, incarnation, 2).await.unwrap());

    hung.abort();
    assert!(hung.await.is_err());
    server.until(WAITING, "0").await;
    server.until("SELECT string_agg(seq::text, ' ' ORDER BY seq) FROM lagmesh.beat WHERE stream = 'ledger'", "1 2").await;
}

/// The next start of a writer is not held up by the row that a commit of the one before still holds, and the start after it removes it.
#[tokio::test]
async fn rows_that_wait_are_left_to_the_next_start() {
    let server = without_standby(Incarnation(1)).await;
    let waiting = session(&server, &layout::session_sql(Stream::Ledger)).await;
    let hung = tokio::spawn(async move { ledger(&waiting, Incarnation(1), 1).await.is_ok() });
    server.until(WAITING, "1").await;
    rows(&server, Incarnation(2)).await;
    let beats = session(&server, &layout::session_sql(Stream::Beat)).await;
    let all = 2 * SLOTS + CommitLevel::ALL.len() as u64;
    assert_eq!(layout::delete_superseded(beats.client(), &ny(), Incarnation(2)).await.unwrap(), all - 1);

    server.run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await;
    assert!(hung.await.unwrap(), "PostgreSQL calls it a success");
    assert_eq!(layout::delete_superseded(beats.client(), &ny(), Incarnation(2)).await.unwrap(), 1);
    assert_eq!(layout::origins(beats.client()).await.unwrap(), [("ny".to_owned(), i64::try_from(all).unwrap())]);
}

/// The rows of levels never look like beats, each session commits at its level, and a pruned row is told of.
#[tokio::test]
async fn levels_are_no_beats() {
    let server = Server::start(&Settings::default());
    server.run(&bootstrap_sql(&BootstrapOptions::default())).await;
    rows(&server, Incarnation(1)).await;
    for level in CommitLevel::ALL.iter().copied() {
        let connection = session(&server, &layout::level_session_sql(level)).await;
        assert!(layout::write_level(connection.client(), &ny(), Incarnation(1), level, RawNanos(7)).await.unwrap());
        let setting = commit_setting(connection.client()).await.unwrap();
        assert_eq!(setting, Some(CommitSetting { level, has_standby_names: false }));
        assert!(layout::read_newer(connection.client(), &[]).await.unwrap().rows.is_empty());
        assert!(!layout::write_level(connection.client(), &ny(), Incarnation(2), level, RawNanos(7)).await.unwrap());
    }
    let written = "SELECT count(*) FROM lagmesh.beat WHERE previous_acknowledged_raw_ns = 7 AND seq IS NULL";
    assert_eq!(server.ask(written).await, Some(CommitLevel::ALL.len().to_string()));
}

/// What commits wait for is open to every role, on a writer and on a standby, and follows the configuration.
#[tokio::test]
async fn commit_settings_are_seen() {
    let primary = Server::start(&Settings { conf: "synchronous_commit = remote_write", ..Settings::default() });
    primary.run("CREATE ROLE stranger LOGIN").await;
    let replica = primary.standby("replica_one", "synchronous_standby_names = 'nobody'");
    replica.until("SELECT count(*) FROM pg_roles WHERE rolname = 'stranger'", "1").await;
    for (server, has_standby_names) in [(&primary, false), (&replica, true)] {
        let connection = open(&server.tcp("user=stranger")).await;
        let setting = commit_setting(connection.client()).await.unwrap();
        assert_eq!(setting, Some(CommitSetting { level: CommitLevel::RemoteWrite, has_standby_names }));
    }
}
