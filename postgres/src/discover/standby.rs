//! Where a standby stands.

use std::time::Duration;

use lagmesh_model::position::{Lsn, Timeline};
use tokio_postgres::{Client, Error, Row};

use super::{Catalogue, MissingGrant, lsn, timeline};

/// Whether replay was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseState {
    /// Replay runs.
    NotPaused,
    /// Replay was told to pause and has not got there.
    PauseRequested,
    /// Replay stands still.
    Paused,
}

/// The process that receives the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// There is none, or it is just starting.
    Absent,
    /// There is one, but its columns are hidden.
    Hidden(MissingGrant),
    /// There is one.
    Present(ReceiverSample),
}

/// A row of `pg_stat_wal_receiver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverSample {
    /// `streaming`, `starting`, `stopping` and so on; it stays `streaming` while the link is dead.
    pub status: String,
    /// The timeline that it receives.
    pub received_timeline: Option<Timeline>,
    /// How far the log is written here, perhaps not yet to disk; unknown before PostgreSQL 13.
    pub written: Option<Lsn>,
    /// How far the log is flushed here.
    pub flushed: Option<Lsn>,
    /// How far the log goes at the sender, as last told.
    pub latest_end: Option<Lsn>,
    /// Time since the last message, both ends on this server's wall clock [ns]; negative if that clock was set back.
    pub last_message_age_ns: Option<i64>,
    /// The sender's host name or socket folder.
    pub sender_host: Option<String>,
}

/// What a standby says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbySample {
    /// Whether it is still one; a promotion between two reads leaves the rest unknown.
    pub in_recovery: bool,
    /// How far the log is replayed; read before `received`.
    pub replayed: Option<Lsn>,
    /// How far the log is received and flushed by the present or last receiver; it restarts with the receiver and may be behind
    /// `replayed` when replay reads from an archive.
    pub received: Option<Lsn>,
    /// Whether replay was told to stop.
    pub pause: Option<PauseState>,
    /// `recovery_min_apply_delay`: replay waits this long on purpose.
    pub apply_delay: Option<Duration>,
    /// Queries cancelled by recovery conflicts since the statistics were reset, over all databases and causes.
    pub conflicts: Option<i64>,
    /// Whether the server tells how far it has received. Where it refuses to (as services do that replicate by other means), `received`
    /// is unknown and an absent receiver says nothing.
    pub tells_received: bool,
    /// The receiver.
    pub receiver: Receiver,
    /// The slot through which the receiver asks for the log (`primary_slot_name`); `None` if it asks without one.
    pub slot: Option<String>,
}

/// Samples a standby in one statement.
///
/// # Errors
/// The server's.
pub async fn standby_sample(client: &Client, catalogue: &Catalogue) -> Result<StandbySample, Error> {
    let row = client.query_typed_one(&sql(catalogue), &[]).await?;
    let pause: Option<&str> = row.try_get(2)?;
    let delay_ms: Option<i64> = row.try_get(3)?;
    Ok(StandbySample {
        in_recovery: row.try_get(0)?,
        replayed: lsn(&row, 1)?,
        pause: pause.and_then(pause_state),
        apply_delay: delay_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
        conflicts: row.try_get(4)?,
        received: lsn(&row, 5)?,
        tells_received: catalogue.has("pg_last_wal_receive_lsn"),
        receiver: receiver(&row)?,
        slot: row.try_get(14)?,
    })
}

/// The replay position must be read before those of the receiver, or it may seem ahead of them. A left join without an equation is a
/// nested loop whose outer side is the left one, and a materialised query is computed whole: so that one comes first.
fn sql(catalogue: &Catalogue) -> String {
    let received = catalogue.call("pg_last_wal_receive_lsn", "pg_catalog.pg_last_wal_receive_lsn()", "pg_lsn");
    let column = |name, sql_type| catalogue.column("pg_stat_wal_receiver", name, sql_type);
    // received_lsn is what flushed_lsn was called before PostgreSQL 13.
    let flushed = if catalogue.has_column("pg_stat_wal_receiver", "flushed_lsn") { "flushed_lsn" } else { "received_lsn" };
    format!(
        "WITH replay AS MATERIALIZED ({}) \
         SELECT replay.*, {received}, r.pid, r.status, {}, {}, {}, {}, {}, {}, \
         NULLIF(pg_catalog.current_setting('primary_slot_name', true), '') FROM replay LEFT JOIN pg_catalog.pg_stat_wal_receiver r ON true",
        replay_sql(catalogue),
        column("received_tli", "integer"),
        column(flushed, "pg_lsn"),
        column("latest_end_lsn", "pg_lsn"),
        column("sender_host", "text"),
        age_ns_sql("r.last_msg_receipt_time"),
        column("written_lsn", "pg_lsn"),
    )
}

fn replay_sql(catalogue: &Catalogue) -> String {
    let replayed = catalogue.call("pg_last_wal_replay_lsn", "pg_catalog.pg_last_wal_replay_lsn()", "pg_lsn");
    let pause = if catalogue.has("pg_get_wal_replay_pause_state") {
        "pg_catalog.pg_get_wal_replay_pause_state()"
    } else if catalogue.has("pg_is_wal_replay_paused") {
        "CASE WHEN pg_catalog.pg_is_wal_replay_paused() THEN 'paused' ELSE 'not paused' END"
    } else {
        "NULL"
    };
    let causes = catalogue.columns_like("pg_stat_database_conflicts", "confl_");
    let causes = if causes.is_empty() { "NULL".to_owned() } else { causes.join(" + ") };
    format!(
        "SELECT pg_catalog.pg_is_in_recovery() AS in_recovery, {replayed} AS replayed, \
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN {pause} END::text AS pause, \
         (EXTRACT(EPOCH FROM pg_catalog.current_setting('recovery_min_apply_delay')::interval) * 1000)::bigint AS delay_ms, \
         (SELECT pg_catalog.sum({causes})::bigint FROM pg_catalog.pg_stat_database_conflicts) AS conflicts"
    )
}

/// The age of a stamp, computed on the server whose clock made it.
pub(super) fn age_ns_sql(stamp: &str) -> String {
    format!("(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - {stamp}) * 1000000000)::bigint")
}

fn pause_state(text: &str) -> Option<PauseState> {
    match text {
        "not paused" => Some(PauseState::NotPaused),
        "pause requested" => Some(PauseState::PauseRequested),
        "paused" => Some(PauseState::Paused),
        _ => None,
    }
}

fn receiver(row: &Row) -> Result<Receiver, Error> {
    let (process, status): (Option<i32>, Option<String>) = (row.try_get(6)?, row.try_get(7)?);
    Ok(match (process, status) {
        (None, _) => Receiver::Absent,
        (Some(_), None) => Receiver::Hidden(MissingGrant { view: "pg_stat_wal_receiver" }),
        (Some(_), Some(status)) => Receiver::Present(ReceiverSample {
            status,
            received_timeline: timeline(row, 8)?,
            written: lsn(row, 13)?,
            flushed: lsn(row, 9)?,
            latest_end: lsn(row, 10)?,
            sender_host: row.try_get(11)?,
            last_message_age_ns: row.try_get(12)?,
        }),
    })
}
