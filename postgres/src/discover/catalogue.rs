//! Which columns and functions this server has, and which it lets us use.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

/// The views whose columns differ between versions.
const VIEWS: [&str; 5] = [
    "pg_stat_wal_receiver",
    "pg_stat_replication",
    "pg_stat_database_conflicts",
    "pg_stat_subscription_stats",
    "pg_replication_slots",
];

/// When a function answers; asked at any other time it would only leave an error in the server's log.
#[derive(Clone, Copy)]
enum Answers {
    Always,
    InRecovery,
    OutOfRecovery,
}

/// Functions that some server lacks or some managed service refuses, each with an expression that tries it.
const FUNCTIONS: [(&str, Answers, &str); 10] = [
    ("pg_control_system", Answers::Always, "(SELECT count(*) FROM pg_catalog.pg_control_system())::text"),
    ("pg_control_recovery", Answers::Always, "(SELECT count(*) FROM pg_catalog.pg_control_recovery())::text"),
    ("pg_get_replication_slots", Answers::Always, "(SELECT count(*) FROM pg_catalog.pg_replication_slots)::text"),
    ("pg_last_wal_replay_lsn", Answers::Always, "pg_catalog.pg_last_wal_replay_lsn()::text"),
    ("pg_last_wal_receive_lsn", Answers::Always, "pg_catalog.pg_last_wal_receive_lsn()::text"),
    ("pg_get_wal_replay_pause_state", Answers::InRecovery, "pg_catalog.pg_get_wal_replay_pause_state()"),
    ("pg_is_wal_replay_paused", Answers::InRecovery, "pg_catalog.pg_is_wal_replay_paused()::text"),
    ("pg_current_wal_insert_lsn", Answers::OutOfRecovery, "pg_catalog.pg_current_wal_insert_lsn()::text"),
    ("pg_current_wal_flush_lsn", Answers::OutOfRecovery, "pg_catalog.pg_current_wal_flush_lsn()::text"),
    ("pg_walfile_name", Answers::OutOfRecovery, "pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())"),
];

/// The classes of SQLSTATE that mean "not here": feature not supported, undefined or not permitted, raised by a function put in its place.
const REFUSALS: [&str; 3] = ["0A", "42", "P0"];
/// Those that mean it, too, where a single function was tried: external routine, internal.
const FUNCTION_REFUSALS: [&str; 2] = ["38", "XX"];

/// Whether a server says that it does not offer what it was asked for.
pub fn is_refusal(code: &SqlState) -> bool {
    is_of(code, &REFUSALS)
}

fn is_of(code: &SqlState, classes: &[&str]) -> bool {
    classes.iter().any(|class| code.code().starts_with(class))
}

/// What a server offers in the role that it has; found out once per connection and role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    columns: BTreeSet<(String, String)>,
    skipped: BTreeMap<&'static str, String>,
}

impl Answers {
    fn statement(self, expression: &str) -> String {
        let condition = match self {
            Answers::Always => "true",
            Answers::InRecovery => "pg_catalog.pg_is_in_recovery()",
            Answers::OutOfRecovery => "NOT pg_catalog.pg_is_in_recovery()",
        };
        format!("SELECT CASE WHEN {condition} THEN {expression} END")
    }
}

impl Catalogue {
    /// Reads the catalogue and tries once every doubtful function that answers in the server's role.
    ///
    /// # Errors
    /// The server's, other than its refusal of a single function.
    pub async fn discover(client: &Client) -> Result<Catalogue, Error> {
        let sql = "SELECT c.relname::text, a.attname::text FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                   WHERE c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace AND c.relname = ANY ($1) \
                   AND a.attnum > 0 AND NOT a.attisdropped";
        let views: Vec<&str> = VIEWS.to_vec();
        let rows = client.query_typed(sql, &[(&views, Type::TEXT_ARRAY)]).await?;
        let columns = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, Error>>()?;
        let mut skipped = BTreeMap::new();
        for (function, answers, expression) in FUNCTIONS {
            let Err(error) = client.batch_execute(&answers.statement(expression)).await else { continue };
            let Some(db) = error.as_db_error() else { return Err(error) };
            // The server was promoted between the two.
            if *db.code() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE {
                continue;
            }
            if !is_refusal(db.code()) && !is_of(db.code(), &FUNCTION_REFUSALS) {
                return Err(error);
            }
            skipped.insert(function, format!("{} (SQLSTATE {})", db.message(), db.code().code()));
        }
        Ok(Catalogue { columns, skipped })
    }

    /// The functions that this server lacks or refuses, each with its words; what depends on them stays unknown.
    pub fn skipped(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.skipped.iter().map(|(function, why)| (*function, why.as_str()))
    }

    /// `expression` if the server lets us use `function`, else an unknown of its type.
    pub(super) fn call(&self, function: &'static str, expression: &str, sql_type: &str) -> String {
        let expression = if self.skipped.contains_key(function) { "NULL" } else { expression };
        format!("({expression})::{sql_type}")
    }

    /// The column if the view has it, else an unknown of its type.
    pub(super) fn column(&self, view: &str, column: &str, sql_type: &str) -> String {
        let known = self.has_column(view, column);
        format!("({})::{sql_type}", if known { column } else { "NULL" })
    }

    pub(super) fn has_column(&self, view: &str, column: &str) -> bool {
        self.columns.contains(&(view.to_owned(), column.to_owned()))
    }

    /// The columns of a view whose names start with `prefix`.
    pub(super) fn columns_like(&self, view: &str, prefix: &str) -> Vec<&str> {
        let fitting = self.columns.iter().filter(|(of, column)| of == view && column.starts_with(prefix));
        fitting.map(|(_, column)| column.as_str()).collect()
    }

    /// Whether a function can be used.
    pub(super) fn has(&self, function: &str) -> bool {
        !self.skipped.contains_key(function)
    }
}
