//! What a server does for everybody: commits, connections, conflicts, errors of subscriptions.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Error, Row};

use super::Catalogue;
use super::subscriber::OWN_SUBSCRIPTIONS;

/// Counts of a server since its statistics were reset, and its connections. Over all databases: the limit of connections is the server's,
/// and so is what a failover moves. Every role may read them; the server brings them up to date about once a second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrafficSample {
    /// Transactions committed, our own among them.
    pub commits: Option<i64>,
    /// Transactions rolled back.
    pub rollbacks: Option<i64>,
    /// Sessions and workers that are in a database now.
    pub connections: Option<i64>,
    /// `max_connections`.
    pub connections_max: i64,
    /// Transactions that were cancelled: `deadlock`, and on a standby `recovery-` with the cause.
    pub conflicts: BTreeMap<String, i64>,
    /// Errors and conflicts of this database's subscriptions: `apply`, `sync`, and from PostgreSQL 18 on the kinds of conflict.
    pub subscription_errors: BTreeMap<String, i64>,
}

/// Reads the counts in one statement.
///
/// # Errors
/// The server's.
pub async fn traffic_sample(client: &Client, catalogue: &Catalogue) -> Result<TrafficSample, Error> {
    let causes = Columns::of(catalogue, "pg_stat_database_conflicts", &["confl_"], "true");
    let own = format!("subid IN ({OWN_SUBSCRIPTIONS})");
    let errors = Columns::of(catalogue, "pg_stat_subscription_stats", &["apply_error_count", "sync_error_count", "confl_"], &own);
    let sql = format!(
        "SELECT sums.commits, sums.rollbacks, sums.connections, sums.deadlocks, \
         pg_catalog.current_setting('max_connections')::bigint, {}, {} FROM (SELECT pg_catalog.sum(xact_commit)::bigint, \
         pg_catalog.sum(xact_rollback)::bigint, pg_catalog.sum(numbackends)::bigint, pg_catalog.sum(deadlocks)::bigint \
         FROM pg_catalog.pg_stat_database) AS sums (commits, rollbacks, connections, deadlocks)",
        causes.sql, errors.sql
    );
    let row = client.query_typed_one(&sql, &[]).await?;
    let deadlocks: Option<i64> = row.try_get(3)?;
    let mut conflicts: BTreeMap<String, i64> =
        causes.counts(&row, 5)?.map(|(name, n)| (format!("recovery-{}", kind(name)), n)).collect();
    conflicts.extend(deadlocks.map(|count| ("deadlock".to_owned(), count)));
    Ok(TrafficSample {
        commits: row.try_get(0)?,
        rollbacks: row.try_get(1)?,
        connections: row.try_get(2)?,
        connections_max: row.try_get(4)?,
        conflicts,
        subscription_errors: errors.counts(&row, 6)?.map(|(name, count)| (kind(name), count)).collect(),
    })
}

/// The word for a column.
fn kind(column: &str) -> String {
    let word = column.strip_prefix("confl_").unwrap_or(column);
    word.strip_suffix("_error_count").unwrap_or(word).replace('_', "-")
}

/// Columns of one view, to be summed up as one array.
struct Columns<'c> {
    names: Vec<&'c str>,
    sql: String,
}

impl<'c> Columns<'c> {
    fn of(catalogue: &'c Catalogue, view: &str, prefixes: &[&str], condition: &str) -> Columns<'c> {
        let names: Vec<&str> = prefixes.iter().flat_map(|prefix| catalogue.columns_like(view, prefix)).collect();
        let sums: Vec<String> = names.iter().map(|name| format!("pg_catalog.sum({name})::bigint")).collect();
        let sql = if sums.is_empty() {
            "NULL::bigint[]".to_owned()
        } else {
            format!("(SELECT ARRAY[{}] FROM pg_catalog.{view} WHERE {condition})", sums.join(", "))
        };
        Columns { names, sql }
    }

    /// The columns that have a sum.
    fn counts(&self, row: &Row, column: usize) -> Result<impl Iterator<Item = (&'c str, i64)>, Error> {
        let sums: Option<Vec<Option<i64>>> = row.try_get(column)?;
        Ok(self.names.clone().into_iter().zip(sums.unwrap_or_default()).filter_map(|(name, sum)| Some((name, sum?))))
    }
}
