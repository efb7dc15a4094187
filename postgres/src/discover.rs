//! What a server is and where it stands, by short autocommit reads. Nothing is assumed from the version: columns and functions are
//! looked up in the catalogue, and what a managed service refuses is found out once and skipped.

mod catalogue;
mod commit;
mod sessions;
mod slots;
mod standby;
mod subscriber;
mod traffic;
mod writer;

use std::fmt;
use std::time::SystemTime;

use lagmesh_model::position::{Lsn, SystemIdentifier, Timeline};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error, Row};

pub use catalogue::{Catalogue, is_refusal};
pub use commit::{CommitSetting, commit_setting};
pub use sessions::{SessionLog, session_log, tells_session_log};
pub use slots::{SLOTS_MAX, SlotSample, SlotsSample, slots_sample};
pub use standby::{PauseState, Receiver, ReceiverSample, StandbySample, standby_sample};
pub use subscriber::{SubscriberSample, is_subscriber, subscriber_sample};
pub use traffic::{TrafficSample, traffic_sample};
pub use writer::{WalSender, WalSenderSample, WriterSample, writer_sample};

/// What the server hides for want of a grant: never a zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingGrant {
    /// The view.
    pub view: &'static str,
}

impl fmt::Display for MissingGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hides its columns from this role; GRANT pg_monitor to it", self.view)
    }
}

/// What a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// `server_version_num`, for example 150008.
    pub version: i32,
    /// Whether it is in recovery: a standby.
    pub in_recovery: bool,
    /// Whose data it holds; unknown where the service hides it.
    pub system: Option<SystemIdentifier>,
    /// Its timeline: a writer's current one; a standby's received one, else that of its minimum recovery end.
    pub timeline: Option<Timeline>,
    /// Whether a new transaction could not write: in recovery, or set so.
    pub read_only: bool,
    /// Whether the statistics views are open to the role (`pg_monitor`, or `pg_read_all_stats` within it).
    pub reads_statistics: bool,
    /// The role of this session.
    pub role: String,
    /// The database of this session.
    pub database: String,
    /// When the server process started, on its wall clock: another value is another run.
    pub started: SystemTime,
}

/// Reads what the server is.
///
/// # Errors
/// The server's.
pub async fn node_facts(client: &Client, catalogue: &Catalogue) -> Result<NodeFacts, Error> {
    let system = catalogue.call("pg_control_system", "(SELECT system_identifier FROM pg_catalog.pg_control_system())", "bigint");
    let current = catalogue.call("pg_walfile_name", WRITER_TIMELINE, "integer");
    let received = catalogue.column("pg_stat_wal_receiver", "received_tli", "integer");
    let minimum = catalogue.call(
        "pg_control_recovery",
        "(SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery())",
        "integer",
    );
    let sql = format!(
        "SELECT pg_catalog.current_setting('server_version_num')::integer, pg_catalog.pg_is_in_recovery(), {system}, {current}, \
         (SELECT {received} FROM pg_catalog.pg_stat_wal_receiver), {minimum}, \
         pg_catalog.current_setting('transaction_read_only') = 'on', \
         pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), current_user::text, pg_catalog.current_database()::text, \
         pg_catalog.pg_postmaster_start_time()"
    );
    let row = client.query_typed_one(&sql, &[]).await?;
    let in_recovery: bool = row.try_get(1)?;
    let system: Option<i64> = row.try_get(2)?;
    // A standby that never had to recover from a log of its own has a minimum on timeline 0, which is none.
    let known = |timeline: Option<Timeline>| timeline.filter(|timeline| timeline.0 != 0);
    let (current, received, minimum) = (timeline(&row, 3)?, known(timeline(&row, 4)?), known(timeline(&row, 5)?));
    Ok(NodeFacts {
        version: row.try_get(0)?,
        in_recovery,
        system: system.map(|system| SystemIdentifier(system.cast_unsigned())),
        timeline: if in_recovery { received.or(minimum) } else { current },
        read_only: row.try_get(6)?,
        reads_statistics: row.try_get(7)?,
        role: row.try_get(8)?,
        database: row.try_get(9)?,
        started: row.try_get(10)?,
    })
}

/// The first eight hexadecimal digits of the current log file's name. `pg_control_checkpoint()` would lag behind a promotion.
const WRITER_TIMELINE: &str = "CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN \
    ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::integer END";

fn timeline(row: &Row, column: usize) -> Result<Option<Timeline>, Error> {
    let timeline: Option<i32> = row.try_get(column)?;
    Ok(timeline.map(|timeline| Timeline(timeline.cast_unsigned())))
}

fn lsn(row: &Row, column: usize) -> Result<Option<Lsn>, Error> {
    let lsn: Option<PgLsn> = row.try_get(column)?;
    Ok(lsn.map(|lsn| Lsn(lsn.into())))
}
