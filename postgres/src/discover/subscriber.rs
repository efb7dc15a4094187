//! Whether a subscriber gets the heartbeat table, and whether it can apply what it gets.

use tokio_postgres::{Client, Error};

use super::{Catalogue, SLOTS_MAX};

/// The subscriptions of the session's database. One that is disabled counts: it ought to follow.
pub(super) const OWN_SUBSCRIPTIONS: &str = "SELECT oid FROM pg_catalog.pg_subscription WHERE subdbid = \
    (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";

/// Whether the database takes part in logical replication as a subscriber.
///
/// # Errors
/// The server's.
pub async fn is_subscriber(client: &Client) -> Result<bool, Error> {
    client.query_typed_one(&format!("SELECT EXISTS ({OWN_SUBSCRIPTIONS})"), &[]).await?.try_get(0)
}

/// What a database says of its subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberSample {
    /// Whether any of its subscriptions carries the heartbeat table.
    pub carries_beats: bool,
    /// Errors of apply workers of all its subscriptions since the statistics were reset; unknown before PostgreSQL 15.
    pub apply_errors: Option<i64>,
    /// The slots of its subscriptions at their publishers.
    pub slots: Vec<String>,
}

/// Samples a subscriber in one statement. The statistics may be a moment old.
///
/// # Errors
/// The server's.
pub async fn subscriber_sample(client: &Client, catalogue: &Catalogue) -> Result<SubscriberSample, Error> {
    let errors = if catalogue.has_column("pg_stat_subscription_stats", "apply_error_count") {
        "(SELECT pg_catalog.sum(apply_error_count) FROM pg_catalog.pg_stat_subscription_stats WHERE subid IN (SELECT oid FROM own))"
    } else {
        "NULL"
    };
    let sql = format!(
        "WITH own AS ({OWN_SUBSCRIPTIONS}) SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription_rel WHERE srsubid IN (SELECT oid FROM own) \
         AND srrelid = pg_catalog.to_regclass('lagmesh.beat')), {errors}::bigint, \
         ARRAY(SELECT subslotname::text FROM pg_catalog.pg_subscription WHERE oid IN (SELECT oid FROM own) AND subslotname IS NOT NULL \
         ORDER BY subslotname LIMIT {SLOTS_MAX})"
    );
    let row = client.query_typed_one(&sql, &[]).await?;
    Ok(SubscriberSample { carries_beats: row.try_get(0)?, apply_errors: row.try_get(1)?, slots: row.try_get(2)? })
}
