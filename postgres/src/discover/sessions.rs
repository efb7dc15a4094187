//! How much log lagmesh's own sessions write.

use std::time::SystemTime;

use tokio_postgres::{Client, Error};

/// What one session has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLog {
    /// Its process; numbers come again.
    pub pid: i32,
    /// When it began, on the server's wall clock: with the number of the process it names a session.
    pub started: SystemTime,
    /// Log that it has written since then, or since its statistics were reset [bytes].
    pub written_bytes: i64,
}

/// Whether the server tells log by session and lets us ask: from PostgreSQL 18 on. Before, it counts for all sessions together. The catalogue
/// is asked: to try a function that is not there leaves an error in the server's log.
///
/// # Errors
/// The server's.
pub async fn tells_session_log(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT pg_catalog.count(*) > 0 FROM pg_catalog.pg_proc WHERE proname = 'pg_stat_get_backend_wal' \
               AND pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND pg_catalog.has_function_privilege(oid, 'EXECUTE')";
    client.query_typed_one(sql, &[]).await?.try_get(0)
}

/// What the sessions have written that are to this database, of this session's role, and have its `application_name`, this one among them. The
/// server takes in what a session did about a second later.
///
/// # Errors
/// The server's; that the function is not there, where [`tells_session_log`] says so.
pub async fn session_log(client: &Client) -> Result<Vec<SessionLog>, Error> {
    let sql = "SELECT own.pid, own.backend_start, log.wal_bytes::bigint FROM pg_catalog.pg_stat_activity AS own, \
               LATERAL pg_catalog.pg_stat_get_backend_wal(own.pid) AS log WHERE own.datname = pg_catalog.current_database() \
               AND own.usename = current_user AND own.application_name = pg_catalog.current_setting('application_name') \
               AND own.backend_start IS NOT NULL AND log.wal_bytes IS NOT NULL";
    let rows = client.query_typed(sql, &[]).await?;
    rows.iter()
        .map(|row| Ok(SessionLog { pid: row.try_get(0)?, started: row.try_get(1)?, written_bytes: row.try_get(2)? }))
        .collect()
}
