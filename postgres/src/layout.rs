//! The heartbeat table, version 1: its definition and every statement that touches it.
//!
//! For each (origin, incarnation, stream) a fixed number of rows is inserted once and then updated in turn, so keys are never reused,
//! updates stay on their page (HOT), and the table is bounded. An origin never touches another origin's rows.
//!
//! Behind the rows of its ledger an incarnation has one more for each commit level that is probed. They never get a sequence, so no
//! reader takes them for beats.

mod finding;
mod level;
mod read;
mod write;

use lagmesh_model::beat::SLOTS;
use lagmesh_model::ids::{NodeHash, NodeName};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

pub use finding::{LayoutFinding, Need, discover};
pub use level::{insert_level_rows, level_session_sql, write_level};
pub use read::{Beats, Mark, TABLE_BYTES_MAX, TableSize, read_newer, table_size};
pub use write::{NewBeat, READER_SESSION_SQL, delete_superseded, insert_rows, origins, prune, session_sql, slot, write_beat};

/// The schema.
pub const SCHEMA: &str = "lagmesh";

/// The table within it.
pub const TABLE: &str = "beat";

/// The first of the two keys of the advisory lock that elects the one agent that beats on a node: "lagm" in ASCII.
pub const LOCK_CLASS: i32 = 0x6c61_676d;

/// How the table's comment starts; the layout's version follows.
pub(crate) const COMMENT_START: &str = "lagmesh layout ";

/// Which of the two heartbeat streams a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Every second, at `synchronous_commit = local`: a stalled synchronous standby cannot freeze it.
    Beat,
    /// Every few seconds, at the level that applications get: only this one says that writes work.
    Ledger,
}

impl Stream {
    /// Both.
    pub const ALL: [Stream; 2] = [Stream::Beat, Stream::Ledger];

    /// The word in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Beat => "beat",
            Stream::Ledger => "ledger",
        }
    }

    fn from_column(text: &str) -> Option<Stream> {
        Stream::ALL.into_iter().find(|stream| stream.as_str() == text)
    }
}

/// The columns and their types, as `format_type` prints them.
pub const COLUMNS: [(&str, &str); 14] = [
    ("origin", "text"),
    ("incarnation", "bigint"),
    ("stream", "text"),
    ("slot", "smallint"),
    ("layout", "smallint"),
    ("timeline", "integer"),
    ("system_identifier", "bigint"),
    ("clock_epoch", "bigint"),
    ("claimed_error_ns", "bigint"),
    ("seq", "bigint"),
    ("sent_raw_ns", "bigint"),
    ("sent_wall", "timestamp with time zone"),
    ("previous_acknowledged_raw_ns", "bigint"),
    ("lsn", "pg_lsn"),
];

/// The table's definition. A row that was never written has no sequence and none of what comes with it.
///
/// - What changes from beat to beat stands last: an update logs neither what the old and the new version begin with nor what they end with,
///   as far as both are the same.
/// - `fillfactor`: room for the next versions of its rows is left on each page. A server prunes a page, and logs that, whenever less than
///   that room is free: with more of it reserved than the few rows leave, each beat would be pruned by itself.
/// - vacuum by count, not by share, because the table is tiny; never truncating, because that takes an exclusive lock which standbys
///   replay against their readers.
pub const TABLE_SQL: &str = "\
CREATE TABLE IF NOT EXISTS lagmesh.beat (
    origin text NOT NULL,
    incarnation bigint NOT NULL,
    stream text NOT NULL CHECK (stream IN ('beat', 'ledger')),
    slot smallint NOT NULL CHECK (slot >= 0),
    layout smallint NOT NULL,
    timeline integer,
    system_identifier bigint,
    clock_epoch bigint,
    claimed_error_ns bigint CHECK (claimed_error_ns >= 0),
    seq bigint CHECK (seq > 0),
    sent_raw_ns bigint,
    sent_wall timestamptz,
    previous_acknowledged_raw_ns bigint,
    lsn pg_lsn,
    PRIMARY KEY (origin, incarnation, stream, slot),
    CHECK (pg_catalog.num_nulls(seq, clock_epoch, sent_raw_ns, sent_wall, system_identifier, timeline, lsn) IN (0, 7))
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
    vacuum_truncate = false
)";

/// The second key of the election lock: the first four bytes of the SHA-256 of the node's name.
pub fn lock_key(origin: &NodeName) -> i32 {
    let bytes = NodeHash::of(origin).0.to_be_bytes();
    i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Tries to become the one session that beats for `origin`. The lock goes with the session.
///
/// # Errors
/// The server's.
pub async fn elect(client: &Client, origin: &NodeName) -> Result<bool, Error> {
    let key = lock_key(origin);
    let sql = "SELECT pg_catalog.pg_try_advisory_lock($1, $2)";
    client.query_typed_one(sql, &[(&LOCK_CLASS, Type::INT4), (&key, Type::INT4)]).await?.try_get(0)
}

/// Gives the election lock back. `false` if this session did not hold it.
///
/// # Errors
/// The server's.
pub async fn resign(client: &Client, origin: &NodeName) -> Result<bool, Error> {
    let key = lock_key(origin);
    let sql = "SELECT pg_catalog.pg_advisory_unlock($1, $2)";
    client.query_typed_one(sql, &[(&LOCK_CLASS, Type::INT4), (&key, Type::INT4)]).await?.try_get(0)
}

const _: () = assert!(SLOTS > 0 && SLOTS <= 256, "a slot's number fits one byte, and the table must stay small");

#[cfg(test)]
mod tests {
    use super::*;

    /// The lock's keys are part of the contract between agents of different versions: they never change.
    #[test]
    fn lock_keys_are_fixed() {
        assert_eq!(LOCK_CLASS, 1_818_322_797);
        assert_eq!(lock_key(&"ny".parse().unwrap()), 453_435_904);
    }

    /// The definition has the listed columns in the listed order.
    #[test]
    fn definition_has_the_columns() {
        let mut lines = TABLE_SQL.lines().skip(1).map(|line| line.split_whitespace().next().unwrap());
        for (name, _) in COLUMNS {
            assert_eq!(lines.next(), Some(name));
        }
        assert_eq!(lines.next(), Some("PRIMARY"));
    }
}
