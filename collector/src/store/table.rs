//! The file and its tables.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lagmesh_daemon::sqlite;
use lagmesh_model::ids::{AgentName, BootId};
use lagmesh_model::series::Batch;
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{GROWING_MAX, Ledger, RETIRED_MAX, Restored};
use crate::judge::Memory;
use crate::merge::{self, Sequences};
use crate::packed::Packed;

/// The layout of the tables.
const LAYOUT: i64 = 1;
/// The file's name in the state folder.
pub(crate) const FILE: &str = "collector.db";
/// How long to wait for a lock; only somebody who looks with another program can hold one.
const BUSY_WAIT: Duration = Duration::from_secs(5);

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS boot (
    agent TEXT NOT NULL, boot INTEGER NOT NULL, sequences TEXT NOT NULL, ordinal INTEGER NOT NULL,
    body BLOB NOT NULL, epoch INTEGER NOT NULL, raw INTEGER NOT NULL, wall INTEGER NOT NULL,
    PRIMARY KEY (agent, boot)
) STRICT;
CREATE TABLE IF NOT EXISTS retired (agent TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS retired_boot (ordinal INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, boot INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS retired_last (
    agent TEXT NOT NULL, boot INTEGER NOT NULL, sequence INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (agent, boot)
) STRICT;
CREATE TABLE IF NOT EXISTS memory (memory TEXT NOT NULL) STRICT;
";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or the file cannot be used.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
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
    /// The judge's memory cannot be written.
    #[error(transparent)]
    Memory(#[from] serde_json::Error),
}

#[derive(Debug)]
pub(super) struct Table {
    connection: Connection,
}

impl Table {
    /// Opens the file and reads what is in it; one that cannot be read is set aside and a new one is made. Says whether that was so.
    pub(super) fn open(folder: &Path) -> Result<(Table, (Restored, Ledger), bool), StoreError> {
        std::fs::create_dir_all(folder).map_err(|error| StoreError::Io { path: folder.to_owned(), error })?;
        let path = folder.join(FILE);
        match Table::try_open(&path) {
            Err(StoreError::Database(e)) if sqlite::is_damage(&e) => {
                tracing::error!(file = %path.display(), error = %e, "store cannot be read, set aside as .bad; totals start anew");
                sqlite::set_aside(&path).map_err(|(path, error)| StoreError::Io { path, error })?;
                let (table, found) = Table::try_open(&path)?;
                Ok((table, found, true))
            }
            opened => opened.map(|(table, found)| (table, found, false)),
        }
    }

    fn try_open(path: &Path) -> Result<(Table, (Restored, Ledger)), StoreError> {
        sqlite::not_emptied(path)?;
        // SQLite says only "unable to open"; the operating system says why.
        let touched = std::fs::OpenOptions::new().append(true).create(true).open(path);
        touched.map_err(|error| StoreError::Io { path: path.to_owned(), error })?;
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        sqlite::check(&connection)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > LAYOUT {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        connection.execute_batch(TABLES)?;
        // A file that is in order is only read: a collector starts on a full disk, too.
        if found != LAYOUT {
            connection.pragma_update(None, "user_version", LAYOUT)?;
        }
        let table = Table { connection };
        let found = table.load()?;
        Ok((table, found))
    }

    /// Everything that was stored. A row that cannot be read is left out and counted, and the next batch of its boot replaces it.
    fn load(&self) -> Result<(Restored, Ledger), StoreError> {
        let (mut restored, mut ledger) = (Restored::default(), Ledger::default());
        let boots = "SELECT agent, boot, sequences, ordinal, body, epoch, raw, wall FROM boot";
        restored.left_out += self.each(boots, |row| {
            let Some(stored) = StoredBoot::read(row)? else { return Ok(false) };
            let StoredBoot { agent, boot, sequences, ordinal, batch, arrived } = stored;
            ledger.restore(&agent, boot, sequences, ordinal);
            restored.batches.push((batch, arrived));
            Ok(true)
        })?;
        restored.left_out += self.each("SELECT body FROM retired", |row| {
            let batch = Packed::batch(blob(row, 0)?);
            let read = batch.is_some();
            restored.retired.extend(batch);
            Ok(read)
        })?;
        let retired =
            "SELECT agent, boot, sequence FROM retired_boot LEFT JOIN retired_last USING (agent, boot) ORDER BY ordinal";
        restored.left_out += self.each(retired, |row| {
            let Ok(agent) = row.get::<_, String>(0)?.parse() else { return Ok(false) };
            let newest = row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned);
            ledger.restore_retired(&agent, BootId(row.get::<_, i64>(1)?.cast_unsigned()), newest);
            Ok(true)
        })?;
        self.each("SELECT memory FROM memory", |row| {
            let memory = serde_json::from_str(&row.get::<_, String>(0)?).ok();
            let read = memory.is_some();
            restored.memories.extend(memory);
            Ok(read)
        })?;
        Ok((restored, ledger))
    }

    /// Shows each row to `read`; returns how many it could not read.
    fn each(&self, sql: &str, mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>) -> Result<u64, StoreError> {
        let (mut left_out, mut statement) = (0, self.connection.prepare(sql)?);
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let unreadable = match read(row) {
                Ok(true) => continue,
                Ok(false) => "it says nothing that could be stored".to_owned(),
                Err(e) => e.to_string(),
            };
            tracing::error!(rows = sql, error = unreadable, "a row of the store cannot be read and is left out of the totals");
            left_out += 1;
        }
        Ok(left_out)
    }

    pub(super) fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        Ok(Transaction(self.connection.transaction()?))
    }
}

/// A boot as it was stored.
struct StoredBoot {
    agent: AgentName,
    boot: BootId,
    sequences: Sequences,
    ordinal: u64,
    batch: Batch,
    arrived: Reading,
}

impl StoredBoot {
    /// `None` if it says something that is never stored.
    fn read(row: &Row<'_>) -> rusqlite::Result<Option<StoredBoot>> {
        let number = |index| row.get(index).map(i64::cast_unsigned);
        let agent = row.get::<_, String>(0)?.parse().ok();
        let sequences = serde_json::from_str(&row.get::<_, String>(2)?).ok();
        let (boot, ordinal) = (BootId(number(1)?), number(3)?);
        let arrived = Reading { epoch: Epoch(number(5)?), raw: RawNanos(number(6)?), wall: WallNanos(number(7)?) };
        let (Some(agent), Some(sequences), Some(batch)) = (agent, sequences, Packed::batch(blob(row, 4)?)) else {
            return Ok(None);
        };
        let own = batch.exporter.agent == agent && batch.exporter.boot == boot;
        Ok(own.then_some(StoredBoot { agent, boot, sequences, ordinal, batch, arrived }))
    }
}

fn blob<'a>(row: &'a Row<'_>, index: usize) -> rusqlite::Result<&'a [u8]> {
    Ok(row.get_ref(index)?.as_blob()?)
}

/// What is written together. Dropped without [`Transaction::commit`], none of it is.
#[derive(Debug)]
pub(super) struct Transaction<'a>(rusqlite::Transaction<'a>);

impl Transaction<'_> {
    /// Writes that batches were taken and, if one is the newest, the batch.
    pub(super) fn put(
        &self,
        agent: &AgentName,
        boot: BootId,
        sequences: &Sequences,
        ordinal: u64,
        newest: Option<(&Packed, Reading)>,
    ) -> Result<(), StoreError> {
        let sequences = serde_json::to_string(sequences)?;
        let (agent, boot, ordinal) = (agent.as_str(), boot.0.cast_signed(), ordinal.cast_signed());
        let Some((packed, arrived)) = newest else {
            let sql = "UPDATE boot SET sequences = ?3, ordinal = ?4 WHERE agent = ?1 AND boot = ?2";
            self.0.prepare(sql)?.execute(params![agent, boot, sequences, ordinal])?;
            return Ok(());
        };
        let (epoch, raw, wall) = (arrived.epoch.0.cast_signed(), arrived.raw.0.cast_signed(), arrived.wall.0.cast_signed());
        let sql = "INSERT OR REPLACE INTO boot (agent, boot, sequences, ordinal, body, epoch, raw, wall) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let body = packed.as_bytes();
        self.0.prepare(sql)?.execute(params![agent, boot, sequences, ordinal, body, epoch, raw, wall])?;
        Ok(())
    }

    /// Adds a boot's counts to those of the retired and forgets it as a boot of its own. Its last batch stays for a while, so that what
    /// it was not the last of can be told from what is counted.
    pub(super) fn retire(&self, agent: &AgentName, boot: BootId, newest: u64) -> Result<(), StoreError> {
        let (name, number) = (agent.as_str(), boot.0.cast_signed());
        let dead = self.body("SELECT body FROM boot WHERE agent = ?1 AND boot = ?2", &[&name, &number])?;
        if let Some(dead) = dead.as_deref().and_then(Packed::batch) {
            self.add_to_retired(agent, &dead)?;
        }
        self.0.execute(
            "INSERT OR REPLACE INTO retired_last (agent, boot, sequence, body) \
             SELECT agent, boot, ?3, body FROM boot WHERE agent = ?1 AND boot = ?2",
            params![name, number, newest.cast_signed()],
        )?;
        self.0.execute("DELETE FROM boot WHERE agent = ?1 AND boot = ?2", params![name, number])?;
        self.0.execute("INSERT INTO retired_boot (agent, boot) VALUES (?1, ?2)", params![name, number])?;
        // With fewer rows than are kept this compares with NULL and drops none.
        let beyond = "SELECT ordinal FROM retired_boot WHERE agent = ?1 ORDER BY ordinal DESC LIMIT 1 OFFSET ?2";
        let sql = format!("DELETE FROM retired_boot WHERE agent = ?1 AND ordinal <= ({beyond})");
        self.0.execute(&sql, params![name, i64::try_from(RETIRED_MAX).unwrap_or(i64::MAX)])?;
        let growing = "SELECT boot FROM retired_boot WHERE agent = ?1 ORDER BY ordinal DESC LIMIT ?2";
        let sql = format!("DELETE FROM retired_last WHERE agent = ?1 AND boot NOT IN ({growing})");
        self.0.execute(&sql, params![name, i64::try_from(GROWING_MAX).unwrap_or(i64::MAX)])?;
        Ok(())
    }

    /// Adds to the counts of the retired what one of them has counted until `batch` beyond what it was retired with, and returns that;
    /// `None` if that cannot be read.
    pub(super) fn grow(&self, batch: &Batch, packed: &Packed) -> Result<Option<Batch>, StoreError> {
        let (name, number) = (batch.exporter.agent.as_str(), batch.exporter.boot.0.cast_signed());
        let last = self.body("SELECT body FROM retired_last WHERE agent = ?1 AND boot = ?2", &[&name, &number])?;
        let Some(last) = last.as_deref().and_then(Packed::batch) else { return Ok(None) };
        let grown = merge::grown(&last, batch);
        self.add_to_retired(&batch.exporter.agent, &grown)?;
        self.0.execute(
            "UPDATE retired_last SET sequence = ?3, body = ?4 WHERE agent = ?1 AND boot = ?2",
            params![name, number, batch.sequence.cast_signed(), packed.as_bytes()],
        )?;
        Ok(Some(grown))
    }

    fn add_to_retired(&self, agent: &AgentName, more: &Batch) -> Result<(), StoreError> {
        let sum = self.body("SELECT body FROM retired WHERE agent = ?1", &[&agent.as_str()])?;
        let sum = merge::fold(sum.as_deref().and_then(Packed::batch).as_ref(), more);
        let sql = "INSERT OR REPLACE INTO retired (agent, body) VALUES (?1, ?2)";
        self.0.execute(sql, params![agent.as_str(), Packed::of(&sum).as_bytes()])?;
        Ok(())
    }

    fn body(&self, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Option<Vec<u8>>> {
        self.0.query_row(sql, parameters, |row| row.get(0)).optional()
    }

    /// Writes the judge's memory in place of the one before.
    pub(super) fn remember(&self, memories: &[Memory]) -> Result<(), StoreError> {
        self.0.execute("DELETE FROM memory", [])?;
        let mut insert = self.0.prepare("INSERT INTO memory (memory) VALUES (?1)")?;
        for memory in memories {
            insert.execute(params![serde_json::to_string(memory)?])?;
        }
        Ok(())
    }

    pub(super) fn commit(self) -> Result<(), StoreError> {
        Ok(self.0.commit()?)
    }
}
