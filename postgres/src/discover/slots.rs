//! Replication slots: what they keep of the log, and how much more they may.

use lagmesh_model::ids::SlotHash;
use lagmesh_model::state::SlotState;
use tokio_postgres::{Client, Error, Row};

use super::Catalogue;
use super::standby::age_ns_sql;

/// How many slots are told of one by one; the others are counted.
pub const SLOTS_MAX: usize = 64;

/// The slots of a server, those that keep most of the log first. Temporary ones, which end with their session, are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotsSample {
    /// At most [`SLOTS_MAX`].
    pub slots: Vec<SlotSample>,
    /// How many more there are.
    pub more: u64,
}

/// A row of `pg_replication_slots`. Every role may read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSample {
    /// Its name, unique on the server.
    pub name: String,
    /// Whether it is a logical one.
    pub logical: bool,
    /// Whether somebody reads from it now.
    pub active: bool,
    /// What the server says of the log that it needs.
    pub state: SlotState,
    /// From the oldest log that it keeps to the end of the log here [bytes]; unknown if it keeps none, as one that is lost.
    pub retained_bytes: Option<u64>,
    /// How much may still be written before the server gives it up [bytes]. `None` has two opposite meanings: there is no limit
    /// (`max_slot_wal_keep_size`), or it is lost. A slot that keeps no log has none either, whatever the server reckons.
    pub safe_bytes: Option<i64>,
    /// For how long nobody has read from it [ns], both ends on this server's wall clock; unknown before PostgreSQL 17 and while it is
    /// active.
    pub inactive_ns: Option<i64>,
    /// Why the server gave it up, in its words; unknown before PostgreSQL 17.
    pub invalidation_reason: Option<String>,
}

impl SlotsSample {
    /// The slots that the server has given up, as they are called on the wire.
    pub fn lost(&self) -> impl Iterator<Item = SlotHash> {
        self.slots.iter().filter(|slot| slot.state == SlotState::Lost).map(|slot| SlotHash::of(&slot.name))
    }
}

/// Reads the slots in one statement.
///
/// # Errors
/// The server's.
pub async fn slots_sample(client: &Client, catalogue: &Catalogue) -> Result<SlotsSample, Error> {
    let rows = client.query_typed(&sql(catalogue), &[]).await?;
    let total: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    let slots = rows.iter().map(slot).collect::<Result<Vec<_>, Error>>()?;
    let more = u64::try_from(total).unwrap_or(0).saturating_sub(slots.len() as u64);
    Ok(SlotsSample { slots, more })
}

fn sql(catalogue: &Catalogue) -> String {
    let column = |name, sql_type| catalogue.column("pg_replication_slots", name, sql_type);
    let call = |function: &'static str, sql_type| catalogue.call(function, &format!("pg_catalog.{function}()"), sql_type);
    let inactive = if catalogue.has_column("pg_replication_slots", "inactive_since") {
        age_ns_sql("inactive_since")
    } else {
        "NULL::bigint".to_owned()
    };
    format!(
        "SELECT pg_catalog.count(*) OVER (), slot_name::text, slot_type = 'logical', active, {wal_status}, \
         pg_catalog.pg_wal_lsn_diff(here.lsn, restart_lsn)::bigint, {safe}, {inactive}, {reason} \
         FROM pg_catalog.pg_replication_slots, LATERAL (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() \
         THEN GREATEST({received}, {replayed}) ELSE {inserted} END) AS here (lsn) WHERE NOT temporary \
         ORDER BY {wal_status} IS NOT DISTINCT FROM 'lost' DESC, restart_lsn, slot_name LIMIT {SLOTS_MAX}",
        wal_status = column("wal_status", "text"),
        safe = column("safe_wal_size", "bigint"),
        reason = column("invalidation_reason", "text"),
        received = call("pg_last_wal_receive_lsn", "pg_lsn"),
        replayed = call("pg_last_wal_replay_lsn", "pg_lsn"),
        inserted = call("pg_current_wal_insert_lsn", "pg_lsn"),
    )
}

fn slot(row: &Row) -> Result<SlotSample, Error> {
    let state: Option<&str> = row.try_get(4)?;
    let (retained, safe): (Option<i64>, Option<i64>) = (row.try_get(5)?, row.try_get(6)?);
    Ok(SlotSample {
        name: row.try_get(1)?,
        logical: row.try_get(2)?,
        active: row.try_get(3)?,
        state: state.and_then(SlotState::from_word).unwrap_or(SlotState::Unknown),
        // Read a moment apart, the two may cross by what was written in between.
        retained_bytes: retained.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
        safe_bytes: safe.filter(|_| retained.is_some()),
        inactive_ns: row.try_get(7)?,
        invalidation_reason: row.try_get(8)?,
    })
}
