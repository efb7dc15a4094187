//! What a writer does to its own origin's rows.

use std::time::{Duration, UNIX_EPOCH};

use lagmesh_model::beat::{Incarnation, LAYOUT, SLOTS, Sequence};
use lagmesh_model::ids::NodeName;
use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
use lagmesh_model::time::{RawNanos, Reading};
use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{Client, Error};

use super::Stream;

/// The session settings of a reader's connection, for `batch_execute` right after connecting: a pooler or another role may not have
/// those that the bootstrap gave to its roles.
pub const READER_SESSION_SQL: &str = "SET lock_timeout = '500ms'; SET statement_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = '10s'; SET search_path = pg_catalog; SET jit = off";

/// The session settings of a writer's connection, one for each stream.
///
/// The session holds the election lock, so a vanished host or a frozen agent must lose it soon: the server probes the connection, and
/// from PostgreSQL 14 on ends a session without a beat for half a minute.
pub fn session_sql(stream: Stream) -> String {
    let lock = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
                SELECT pg_catalog.set_config(name, '30s', false) FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'";
    let level = match stream {
        Stream::Beat => "; SET synchronous_commit = local",
        // The level that applications get is what this stream measures.
        Stream::Ledger => "",
    };
    format!("{READER_SESSION_SQL}; {lock}{level}")
}

/// The row that holds a sequence number.
pub fn slot(sequence: Sequence) -> i16 {
    // The layout's own check keeps the number of slots within one byte.
    let [.., low] = (sequence.0 % SLOTS).to_be_bytes();
    i16::from(low)
}

/// Inserts the fixed rows of an incarnation, still unwritten. Doing it again changes nothing.
///
/// # Errors
/// The server's.
pub async fn insert_rows(client: &Client, origin: &NodeName, incarnation: Incarnation, stream: Stream) -> Result<(), Error> {
    let slots: Vec<i16> = (0..SLOTS).map(|number| slot(Sequence(number))).collect();
    insert_slots(client, origin, incarnation, stream, &slots).await
}

/// Inserts the rows of some slots of a stream, still unwritten.
pub(super) async fn insert_slots(
    client: &Client,
    origin: &NodeName,
    incarnation: Incarnation,
    stream: Stream,
    slots: &[i16],
) -> Result<(), Error> {
    let sql = "INSERT INTO lagmesh.beat (origin, incarnation, stream, slot, layout) \
               SELECT $1, $2, $3, slot, $5 FROM pg_catalog.unnest($4) AS slot ON CONFLICT DO NOTHING";
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 5] = [
        (&origin.as_str(), Type::TEXT),
        (&incarnation.0, Type::INT8),
        (&stream.as_str(), Type::TEXT),
        (&slots, Type::INT2_ARRAY),
        (&LAYOUT, Type::INT2),
    ];
    client.execute_typed(sql, &parameters).await?;
    Ok(())
}

/// One beat to be written.
#[derive(Debug, Clone)]
pub struct NewBeat<'n> {
    /// The node that is written to.
    pub origin: &'n NodeName,
    /// The writer's start.
    pub incarnation: Incarnation,
    /// The stream.
    pub stream: Stream,
    /// Its number, from 1.
    pub sequence: Sequence,
    /// The clocks just before the statement is sent.
    pub sent: Reading,
    /// How far off that wall clock is at most, as the host claims [ns]; `None` if it claims nothing.
    pub claimed_error_ns: Option<u64>,
    /// When the commit before this one returned, if it did and the clock's epoch is still the same.
    pub previous_acknowledged: Option<RawNanos>,
    /// The server's system identifier, from `discover::node_facts` on this very connection.
    pub system: SystemIdentifier,
}

/// Writes one beat over the oldest row of its stream, in one statement and one commit, and returns where the log stood inside it.
/// `None`: the row does not exist (pruned); a new incarnation has to be started.
///
/// # Errors
/// The server's. After a cancel or a lost connection the commit is in doubt.
pub async fn write_beat(client: &Client, beat: &NewBeat<'_>) -> Result<Option<Position>, Error> {
    // The timeline is the first eight digits of the current log file's name; pg_control_checkpoint() lags behind a promotion.
    let sql = "UPDATE lagmesh.beat SET seq = $5, clock_epoch = $6, sent_raw_ns = $7, sent_wall = $8, previous_acknowledged_raw_ns = $9, \
               system_identifier = $10, layout = $11, claimed_error_ns = $12, lsn = pg_catalog.pg_current_wal_insert_lsn(), \
               timeline = ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::integer \
               WHERE origin = $1 AND incarnation = $2 AND stream = $3 AND slot = $4 RETURNING lsn, timeline";
    let wall = UNIX_EPOCH + Duration::from_nanos(beat.sent.wall.0);
    let previous = beat.previous_acknowledged.map(|raw| raw.0.cast_signed());
    // What does not fit is no claim.
    let claimed = beat.claimed_error_ns.and_then(|error_ns| i64::try_from(error_ns).ok());
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 12] = [
        (&beat.origin.as_str(), Type::TEXT),
        (&beat.incarnation.0, Type::INT8),
        (&beat.stream.as_str(), Type::TEXT),
        (&slot(beat.sequence), Type::INT2),
        (&beat.sequence.0.cast_signed(), Type::INT8),
        (&beat.sent.epoch.0.cast_signed(), Type::INT8),
        (&beat.sent.raw.0.cast_signed(), Type::INT8),
        (&wall, Type::TIMESTAMPTZ),
        (&previous, Type::INT8),
        (&beat.system.0.cast_signed(), Type::INT8),
        (&LAYOUT, Type::INT2),
        (&claimed, Type::INT8),
    ];
    let Some(row) = client.query_typed_opt(sql, &parameters).await? else { return Ok(None) };
    let lsn: PgLsn = row.try_get(0)?;
    let timeline: i32 = row.try_get(1)?;
    Ok(Some(Position { system: beat.system, timeline: Timeline(timeline.cast_unsigned()), lsn: Lsn(lsn.into()) }))
}

/// Deletes the rows of an origin's earlier incarnations; only the origin's own writer does this. Returns how many went. A row that a
/// commit of an earlier start still holds, because that waits for a lost synchronous standby, is left to the next start.
///
/// # Errors
/// The server's.
pub async fn delete_superseded(client: &Client, origin: &NodeName, current: Incarnation) -> Result<u64, Error> {
    let sql = "DELETE FROM lagmesh.beat WHERE ctid = ANY (ARRAY(SELECT ctid FROM lagmesh.beat WHERE origin = $1 AND incarnation <> $2 \
               FOR UPDATE SKIP LOCKED))";
    client.execute_typed(sql, &[(&origin.as_str(), Type::TEXT), (&current.0, Type::INT8)]).await
}

/// Deletes every row of an origin that has left the fleet, on a person's order. Returns how many went.
///
/// # Errors
/// The server's.
pub async fn prune(client: &Client, origin: &str) -> Result<u64, Error> {
    client.execute_typed("DELETE FROM lagmesh.beat WHERE origin = $1", &[(&origin, Type::TEXT)]).await
}

/// The origins that have rows, with their number, sorted by name.
///
/// # Errors
/// The server's.
pub async fn origins(client: &Client) -> Result<Vec<(String, i64)>, Error> {
    let sql = "SELECT origin, pg_catalog.count(*) FROM lagmesh.beat GROUP BY origin ORDER BY origin";
    client.query_typed(sql, &[]).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
