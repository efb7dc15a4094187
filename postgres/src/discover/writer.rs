//! Where a writer stands, and what it knows of those who follow it. A standby may have followers too.

use lagmesh_model::position::Lsn;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error, Row};

use super::standby::age_ns_sql;
use super::{Catalogue, MissingGrant, SLOTS_MAX, lsn};

/// What a server says of its own log and of its followers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterSample {
    /// Whether it is in recovery after all; then it has no positions of a writer.
    pub in_recovery: bool,
    /// The end of the log in memory.
    pub inserted: Option<Lsn>,
    /// The end of the log on disk.
    pub flushed: Option<Lsn>,
    /// Those who receive the log. A follower that is missing here is news.
    pub senders: Vec<WalSender>,
    /// How far those who read its log through logical slots have confirmed that they have it on disk, by the slot's name; at most
    /// [`SLOTS_MAX`]. They may have more: what confirms it may be on its way.
    pub confirmed: Vec<(String, Lsn)>,
}

/// A row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSender {
    /// The follower's `application_name`; several may share one.
    pub application_name: String,
    /// The slot at this server through which it gets its log, if it uses one.
    pub slot: Option<String>,
    /// What it does, or why that cannot be seen.
    pub sample: Result<WalSenderSample, MissingGrant>,
}

/// What `pg_stat_replication` says of one follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSenderSample {
    /// `streaming`, `catchup`, `startup`, `backup`, `stopping`; it stays `streaming` while the link is dead.
    pub state: String,
    /// The follower's address; none for a Unix socket.
    pub client_address: Option<String>,
    /// How far the log was sent.
    pub sent: Option<Lsn>,
    /// How far the follower has flushed it.
    pub flushed: Option<Lsn>,
    /// How far the follower has replayed it.
    pub replayed: Option<Lsn>,
    /// `async`, `potential`, `sync` or `quorum`.
    pub sync_state: Option<String>,
    /// Time since the follower sent its last reply [ns]: now on the server's wall clock, the reply on the follower's, so it holds the
    /// difference of the two.
    pub reply_age_ns: Option<i64>,
}

/// Samples a writer in one statement.
///
/// # Errors
/// The server's.
pub async fn writer_sample(client: &Client, catalogue: &Catalogue) -> Result<WriterSample, Error> {
    let rows = client.query_typed(&sql(catalogue), &[]).await?;
    // There is always one: without a follower it is empty but for the server's own columns.
    let Some(own) = rows.last() else {
        return Ok(WriterSample {
            in_recovery: false,
            inserted: None,
            flushed: None,
            senders: Vec::new(),
            confirmed: Vec::new(),
        });
    };
    let (in_recovery, flushed, inserted) = (own.try_get(0)?, lsn(own, 1)?, lsn(own, 2)?);
    let mut senders: Vec<WalSender> = rows.iter().filter_map(|row| sender(row).transpose()).collect::<Result<_, Error>>()?;
    senders.sort_by(|a, b| a.application_name.cmp(&b.application_name));
    Ok(WriterSample { in_recovery, inserted, flushed, senders, confirmed: confirmed(own)? })
}

/// Own positions stand in the columns of the result, so they are read when the followers' are already there, and the last row has the
/// newest: no follower seems ahead.
fn sql(catalogue: &Catalogue) -> String {
    let guarded = |function: &'static str| {
        let expression = format!("CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.{function}() END");
        catalogue.call(function, &expression, "pg_lsn")
    };
    let (inserted, flushed) = (guarded("pg_current_wal_insert_lsn"), guarded("pg_current_wal_flush_lsn"));
    let column = |name, sql_type| catalogue.column("pg_stat_replication", name, sql_type);
    let reply_age = if catalogue.has_column("pg_stat_replication", "reply_time") {
        age_ns_sql("reply_time")
    } else {
        "NULL::bigint".to_owned()
    };
    let (own, held) = (own_slots(catalogue), held_slots(catalogue));
    format!(
        "SELECT pg_catalog.pg_is_in_recovery(), {flushed}, {inserted}, pid, application_name, {}, pg_catalog.host(client_addr), {}, {}, {}, {}, \
         {reply_age}, own.slots, own.confirmed, held.slot FROM ({own}) AS own (slots, confirmed) LEFT JOIN pg_catalog.pg_stat_replication ON true \
         LEFT JOIN ({held}) AS held (process, slot) ON held.process = pid",
        column("state", "text"),
        column("sent_lsn", "pg_lsn"),
        column("flush_lsn", "pg_lsn"),
        column("replay_lsn", "pg_lsn"),
        column("sync_state", "text"),
    )
}

/// One row, whatever there is: names of logical slots, and how far they are confirmed.
fn own_slots(catalogue: &Catalogue) -> String {
    if !catalogue.has("pg_get_replication_slots") {
        return "SELECT NULL::text[], NULL::pg_lsn[]".to_owned();
    }
    format!(
        "SELECT pg_catalog.array_agg(slot_name::text), pg_catalog.array_agg(confirmed_flush_lsn) FROM (SELECT slot_name, confirmed_flush_lsn \
         FROM pg_catalog.pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL AND NOT temporary ORDER BY slot_name LIMIT {SLOTS_MAX}) \
         AS logical"
    )
}

/// The slots that are read from now, by the process that does.
fn held_slots(catalogue: &Catalogue) -> &'static str {
    if !catalogue.has("pg_get_replication_slots") || !catalogue.has_column("pg_replication_slots", "active_pid") {
        return "SELECT NULL::integer, NULL::text WHERE false";
    }
    "SELECT active_pid, pg_catalog.min(slot_name::text) FROM pg_catalog.pg_replication_slots WHERE active_pid IS NOT NULL GROUP BY active_pid"
}

fn confirmed(own: &Row) -> Result<Vec<(String, Lsn)>, Error> {
    let (slots, confirmed): (Option<Vec<String>>, Option<Vec<PgLsn>>) = (own.try_get(12)?, own.try_get(13)?);
    let positions = confirmed.unwrap_or_default().into_iter().map(|lsn| Lsn(lsn.into()));
    Ok(slots.unwrap_or_default().into_iter().zip(positions).collect())
}

/// `None`: nobody follows.
fn sender(row: &Row) -> Result<Option<WalSender>, Error> {
    let Some(_process) = row.try_get::<_, Option<i32>>(3)? else { return Ok(None) };
    let state: Option<String> = row.try_get(5)?;
    let sample = match state {
        None => Err(MissingGrant { view: "pg_stat_replication" }),
        Some(state) => Ok(WalSenderSample {
            state,
            client_address: row.try_get(6)?,
            sent: lsn(row, 7)?,
            flushed: lsn(row, 8)?,
            replayed: lsn(row, 9)?,
            sync_state: row.try_get(10)?,
            reply_age_ns: row.try_get(11)?,
        }),
    };
    Ok(Some(WalSender { application_name: row.try_get(4)?, slot: row.try_get(14)?, sample }))
}
