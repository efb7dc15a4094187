//! The file and its tables.
//!
//! Rows of the tiers are stored by time first: what is written at one moment lies together, and what is too old goes in one piece. Whoever
//! asks for a series looks its rows up one by one, and adds what has not settled in them yet (`fresh.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lagmesh_daemon::sqlite;
use lagmesh_model::ids::{AgentName, BootId};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, Statement, params};

use super::block::Block;
use super::body::SeriesId;
use super::book::{Book, Changes, FINEST_S, GONE_MAX};
use super::cell::Cell;
use super::fresh::{self, Put};
use super::load::{self, unpack};
use super::names::attributes_text;
use super::runs::{Point, Run, Runs};
use crate::packed::pack;
use crate::store::StoreError;

/// The layout of the tables.
const LAYOUT: i64 = 2;
/// The file's name in the state folder.
pub(crate) const FILE: &str = "history.db";
/// How long to wait for a lock; only somebody who looks with another program can hold one.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// The write-ahead log is cut to this after a checkpoint [bytes].
const LOG_BYTES_MAX: i64 = 64 << 20;

/// The pages of a new file [bytes].
const PAGE_BYTES: i64 = 16_384;

/// The widths of the buckets, the finest first; each divides the next [s].
pub const WIDTHS_S: [u64; 3] = [FINEST_S, 60, 3600];
/// What the buckets of one row span together; multiples of the widths [s].
pub(super) const BLOCKS_S: [u64; 3] = [300, 1800, 43_200];
/// Their tables.
pub(super) const TIERS: [&str; 3] = ["cell_10s", "cell_1m", "cell_1h"];

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY, metric TEXT NOT NULL, attributes TEXT NOT NULL, UNIQUE (metric, attributes)
) STRICT;
CREATE TABLE IF NOT EXISTS run (
    agent TEXT NOT NULL, boot INTEGER NOT NULL, heard INTEGER NOT NULL,
    first INTEGER NOT NULL, first_label INTEGER NOT NULL, first_start INTEGER NOT NULL, first_body BLOB NOT NULL,
    last INTEGER NOT NULL, last_label INTEGER NOT NULL, last_start INTEGER NOT NULL, last_body BLOB NOT NULL,
    PRIMARY KEY (agent, boot, first)
) STRICT;
CREATE TABLE IF NOT EXISTS gone (ordinal INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, boot INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS fresh (id INTEGER PRIMARY KEY, part INTEGER NOT NULL, cells BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS fresh_part ON fresh (part);
CREATE TABLE IF NOT EXISTS kept (tier TEXT PRIMARY KEY, since INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS cell_10s (block INTEGER, series INTEGER, cells BLOB NOT NULL, PRIMARY KEY (block, series)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cell_1m (block INTEGER, series INTEGER, cells BLOB NOT NULL, PRIMARY KEY (block, series)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cell_1h (block INTEGER, series INTEGER, cells BLOB NOT NULL, PRIMARY KEY (block, series)) STRICT, WITHOUT ROWID;
";

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The folder or the file cannot be used.
    #[error(transparent)]
    File(#[from] StoreError),
    /// A newer version wrote the file.
    #[error("{} has layout {found}, this version knows {LAYOUT}: run the newer version, or move the file away", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
}

/// An open file with what it says.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) table: Table,
    /// The streams.
    pub(super) book: Book,
    /// How much of each part has not settled [bytes].
    pub(super) fresh: Vec<(u32, usize)>,
    /// Whether a file that could not be read was set aside: then all this is empty.
    pub(super) set_aside: bool,
}

#[derive(Debug)]
pub(super) struct Table {
    connection: Connection,
}

impl Table {
    /// Opens the file and reads what it says; one that cannot be read is set aside and a new one is made.
    pub(super) fn open(folder: &Path) -> Result<Opened, HistoryError> {
        let unusable = |error| StoreError::Io { path: folder.to_owned(), error };
        std::fs::create_dir_all(folder).map_err(unusable)?;
        let path = folder.join(FILE);
        match Table::try_open(&path) {
            Err(HistoryError::Database(e)) if sqlite::is_damage(&e) => {
                tracing::error!(file = %path.display(), error = %e, "history cannot be read, set aside as .bad; it starts anew");
                sqlite::set_aside(&path).map_err(|(path, error)| StoreError::Io { path, error })?;
                Ok(Opened { set_aside: true, ..Table::try_open(&path)? })
            }
            opened => opened,
        }
    }

    fn try_open(path: &Path) -> Result<Opened, HistoryError> {
        sqlite::not_emptied(path)?;
        // SQLite says only "unable to open"; the operating system says why.
        let touched = std::fs::OpenOptions::new().append(true).create(true).open(path);
        touched.map_err(|error| StoreError::Io { path: path.to_owned(), error })?;
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_WAIT)?;
        // Half an hour of a distribution by minutes fits into a page of this size; what does not is stored apart and wastes room.
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
        // Buckets and what says which batches they hold are written together: a transaction that a power loss takes back takes back
        // both, and the next batch of each boot brings the counts again. So nothing here is worth an fsync of its own.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        sqlite::check(&connection)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > LAYOUT {
            return Err(HistoryError::Newer { path: path.to_owned(), found });
        }
        connection.execute_batch(TABLES)?;
        // A file that is in order is only read: a collector starts on a full disk, too.
        if found != LAYOUT {
            connection.pragma_update(None, "user_version", LAYOUT)?;
        }
        let table = Table { connection };
        let (book, fresh) = (table.load()?, table.fresh_parts()?);
        Ok(Opened { table, book, fresh, set_aside: false })
    }

    /// The streams as they were stored.
    pub(super) fn load(&self) -> Result<Book, rusqlite::Error> {
        load::book(&self.connection)
    }

    /// Writes everything in one transaction. Returns which parts have grown, and by how much [bytes].
    pub(super) fn write(&mut self, changes: &Changes) -> Result<Vec<(u32, usize)>, rusqlite::Error> {
        let transaction = self.connection.transaction()?;
        let mut add = transaction.prepare("INSERT INTO series (id, metric, attributes) VALUES (?1, ?2, ?3)")?;
        for name in &changes.names {
            add.execute(params![name.id, name.metric, attributes_text(&name.attributes)])?;
        }
        drop(add);
        let mut grown = Vec::new();
        let mut add = transaction.prepare("INSERT INTO fresh (part, cells) VALUES (?1, ?2)")?;
        for (part, bytes) in changes.fresh.parts() {
            let packed = pack(bytes);
            add.execute(params![part, packed])?;
            grown.push((part, packed.len()));
        }
        drop(add);
        for (agent, boot, heard, runs) in &changes.boots {
            write_runs(&transaction, (agent.as_str(), boot.0.cast_signed()), heard.cast_signed(), runs)?;
        }
        for (agent, boot) in &changes.gone {
            give_up(&transaction, agent, *boot)?;
        }
        transaction.commit()?;
        Ok(grown)
    }

    /// How much of each part has not settled [bytes].
    pub(super) fn fresh_parts(&self) -> Result<Vec<(u32, usize)>, rusqlite::Error> {
        let mut parts = self.connection.prepare("SELECT part, sum(length(cells)) FROM fresh GROUP BY part")?;
        let part = |row: &Row<'_>| Ok((row.get(0)?, usize::try_from(row.get::<_, i64>(1)?).unwrap_or(usize::MAX)));
        parts.query_map([], part)?.collect()
    }

    /// Moves what is fresh of a part to its rows, in one transaction. Returns how many cells came too late for every tier.
    pub(super) fn settle(&mut self, part: u32) -> Result<u64, rusqlite::Error> {
        let kept = kept_since(&self.connection)?;
        let transaction = self.connection.transaction()?;
        let bytes = fresh(&transaction, part)?;
        let mut entries: Vec<Put<'_>> = bytes.iter().flat_map(|bytes| fresh::entries(part, bytes)).collect();
        entries.sort_by_key(|(bucket_s, series, _)| (*series, *bucket_s));
        let mut late = 0;
        let mut tiers = [Tier::of(&transaction, 0)?, Tier::of(&transaction, 1)?, Tier::of(&transaction, 2)?];
        for of_series in entries.chunk_by(|a, b| a.1 == b.1) {
            let cells = fresh::added_up(of_series.iter().copied());
            for (tier, kept_s) in tiers.iter_mut().zip(kept) {
                let too_old = tier.add(of_series[0].1, &cells, kept_s)?;
                // What is too old for one tier may have its place in the next.
                late += if tier.is_coarsest() { too_old } else { 0 };
            }
        }
        drop(tiers);
        transaction.execute("DELETE FROM fresh WHERE part = ?1", [part])?;
        transaction.commit()?;
        Ok(late)
    }

    /// For what is done to old buckets.
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// A second connection to the file of a running collector, which can only read.
///
/// # Errors
/// If there is none, or it cannot be read.
pub(super) fn reader(folder: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(folder.join(FILE), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY_WAIT)?;
    Ok(connection)
}

/// From when on each tier is whole [s since the Unix epoch]; 0 if nothing was ever dropped.
pub(super) fn kept_since(connection: &Connection) -> Result<[u64; 3], rusqlite::Error> {
    let mut kept = [0; 3];
    for (since, tier) in kept.iter_mut().zip(TIERS) {
        let mut stored = connection.prepare("SELECT since FROM kept WHERE tier = ?1")?;
        *since = stored.query_row([tier], |row| row.get::<_, i64>(0)).optional()?.map_or(0, i64::cast_unsigned);
    }
    Ok(kept)
}

/// What a part has that has not settled: a piece of each time that it was written. What cannot be read is left out.
pub(super) fn fresh(connection: &Connection, part: u32) -> Result<Vec<Vec<u8>>, rusqlite::Error> {
    let mut pieces = connection.prepare("SELECT cells FROM fresh WHERE part = ?1")?;
    let pieces = pieces.query_map([part], |row| Ok(unpack(row.get_ref(0)?.as_blob()?)))?;
    Ok(pieces.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The rows of a tier while they are written.
struct Tier<'a> {
    width_s: u64,
    block_s: u64,
    get: Statement<'a>,
    put: Statement<'a>,
}

impl<'a> Tier<'a> {
    fn of(connection: &'a Connection, tier: usize) -> Result<Tier<'a>, rusqlite::Error> {
        let put = format!("INSERT OR REPLACE INTO {} (block, series, cells) VALUES (?1, ?2, ?3)", TIERS[tier]);
        let (get, put) = (lookup(connection, tier)?, connection.prepare(&put)?);
        Ok(Tier { width_s: WIDTHS_S[tier], block_s: BLOCKS_S[tier], get, put })
    }

    fn is_coarsest(&self) -> bool {
        self.width_s == WIDTHS_S[WIDTHS_S.len() - 1]
    }

    /// Adds cells of the finest tier. Returns how many of its buckets they are too old for.
    fn add(&mut self, series: SeriesId, cells: &BTreeMap<u64, Cell>, kept_s: u64) -> Result<u64, rusqlite::Error> {
        let mut added = fresh::widened(cells, self.width_s);
        let too_old = added.len();
        added.retain(|bucket_s, _| *bucket_s >= kept_s);
        let too_old = too_old - added.len();
        while let Some((bucket_s, _)) = added.first_key_value() {
            let start_s = bucket_s / self.block_s * self.block_s;
            let later = added.split_off(&(start_s + self.block_s));
            let held: Option<Vec<u8>> =
                self.get.query_row(params![start_s.cast_signed(), series], |row| row.get(0)).optional()?;
            let row = Block { start_s, width_s: self.width_s }.with(&held.unwrap_or_default(), added);
            self.put.execute(params![start_s.cast_signed(), series, row])?;
            added = later;
        }
        Ok(too_old as u64)
    }
}

/// The statement that finds a row by block and series.
pub(super) fn lookup(connection: &Connection, tier: usize) -> Result<Statement<'_>, rusqlite::Error> {
    connection.prepare(&format!("SELECT cells FROM {} WHERE block = ?1 AND series = ?2", TIERS[tier]))
}

/// Writes what has changed of the runs of a boot: bodies are large, and those of old gaps stay as they are.
fn write_runs(transaction: &Connection, (agent, boot): (&str, i64), heard: i64, runs: &Runs) -> Result<(), rusqlite::Error> {
    let mut stored = transaction.prepare("SELECT first, last FROM run WHERE agent = ?1 AND boot = ?2")?;
    let stored = stored.query_map(params![agent, boot], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let stored: BTreeSet<(i64, i64)> = stored.collect::<Result<_, _>>()?;
    let ends = |run: &Run| (run.first.sequence.cast_signed(), run.last.sequence.cast_signed());
    let held: BTreeSet<(i64, i64)> = runs.iter().map(ends).collect();
    for (first, _) in stored.difference(&held) {
        let sql = "DELETE FROM run WHERE agent = ?1 AND boot = ?2 AND first = ?3";
        transaction.execute(sql, params![agent, boot, first])?;
    }
    for run in runs.iter().filter(|run| !stored.contains(&ends(run))) {
        put_run(transaction, agent, boot, heard, run)?;
    }
    Ok(())
}

fn put_run(transaction: &Connection, agent: &str, boot: i64, heard: i64, run: &Run) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO run VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let numbers = |point: &Point| [point.sequence, point.label_ns, point.start_ns].map(u64::cast_signed);
    let (first, last) = (numbers(&run.first), numbers(&run.last));
    // A run of one batch has its body once.
    let last_body = if run.first == run.last { Vec::new() } else { pack(run.last.body.as_bytes()) };
    transaction.prepare(sql)?.execute(params![
        agent,
        boot,
        heard,
        first[0],
        first[1],
        first[2],
        pack(run.first.body.as_bytes()),
        last[0],
        last[1],
        last[2],
        last_body
    ])?;
    Ok(())
}

fn give_up(transaction: &Connection, agent: &AgentName, boot: BootId) -> Result<(), rusqlite::Error> {
    let (name, number) = (agent.as_str(), boot.0.cast_signed());
    transaction.execute("DELETE FROM run WHERE agent = ?1 AND boot = ?2", params![name, number])?;
    transaction.execute("INSERT INTO gone (agent, boot) VALUES (?1, ?2)", params![name, number])?;
    // With fewer rows than are kept this compares with NULL and drops none.
    let beyond = "SELECT ordinal FROM gone WHERE agent = ?1 ORDER BY ordinal DESC LIMIT 1 OFFSET ?2";
    let sql = format!("DELETE FROM gone WHERE agent = ?1 AND ordinal <= ({beyond})");
    transaction.execute(&sql, params![name, i64::try_from(GONE_MAX).unwrap_or(i64::MAX)])?;
    Ok(())
}
