//! Dead letters: batches that a collector refused for good, with its reason, for whoever wants to know why or mends it.

use bytes::Bytes;
use lagmesh_model::dead_letter::DeadLetter;
use lagmesh_model::fleet::Compression;
use lagmesh_model::ids::{AgentName, BootId, CollectorName};
use lagmesh_model::time::WallNanos;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{ParcelId, Store, compression_of};

/// The bounds of all dead letters together: their bodies [bytes] and their number. A few are enough to find out why.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
const LETTERS_MAX: u64 = 1000;
/// The most of a reason that is kept [characters].
const REASON_MAX: usize = 300;

/// The body is kept beside what is asked for often, so that listing and counting read none.
pub(super) const TABLE: &str = "
    CREATE TABLE dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        collector TEXT NOT NULL,
        agent TEXT NOT NULL,
        boot INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        made_epoch INTEGER NOT NULL,
        made_raw_ns INTEGER NOT NULL,
        made_wall_ns INTEGER NOT NULL,
        refused_wall_ns INTEGER NOT NULL,
        reason TEXT NOT NULL,
        compression TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX dead_bounds ON dead (collector, bytes);
";

/// Why and when a batch was refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status and the collector's own words.
    pub why: String,
    /// When.
    pub at: WallNanos,
}

/// What became of a dead letter that was to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resent {
    /// It waits for its collector like any other batch.
    Waits,
    /// There is no such letter.
    Unknown,
    /// Its collector is not in the fleet file any more; the letter stays.
    CollectorGone,
}

impl Store {
    /// What collectors refused for good, oldest first.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn dead_letters(&self) -> rusqlite::Result<Vec<DeadLetter>> {
        let mut statement = self.db.prepare(
            "SELECT id, collector, agent, boot, sequence, made_wall_ns, refused_wall_ns, reason, compression, bytes \
             FROM dead ORDER BY id",
        )?;
        statement.query_map([], letter_of_row)?.collect()
    }

    /// The body of a dead letter as it was sent, and how it is compressed.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn dead_letter(&self, id: i64) -> rusqlite::Result<Option<(Compression, Bytes)>> {
        let mut statement = self.db.prepare("SELECT compression, body FROM dead WHERE id = ?1")?;
        let body = |row: &Row<'_>| Ok((compression_of(&row.get::<_, String>(0)?)?, row.get::<_, Vec<u8>>(1)?.into()));
        statement.query_row([id], body).optional()
    }

    /// Forgets a dead letter; whether there was one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn drop_dead_letter(&mut self, id: i64) -> rusqlite::Result<bool> {
        Ok(self.db.execute("DELETE FROM dead WHERE id = ?1", [id])? > 0)
    }

    /// Puts a dead letter among what waits for its collector, where the bounds of the spool hold for it again.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn resend(&mut self, id: i64) -> rusqlite::Result<Resent> {
        let transaction = self.db.transaction()?;
        let whose: Option<String> =
            transaction.prepare("SELECT collector FROM dead WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()?;
        let Some(whose) = whose else { return Ok(Resent::Unknown) };
        if !self.settings.collectors.iter().any(|collector| collector.as_str() == whose) {
            return Ok(Resent::CollectorGone);
        }
        // Another collector may still wait for the same batch.
        transaction.execute(
            "INSERT OR IGNORE INTO batch \
             (agent, boot, sequence, made_epoch, made_raw_ns, made_wall_ns, bytes, body, compression) \
             SELECT agent, boot, sequence, made_epoch, made_raw_ns, made_wall_ns, bytes, body, compression \
             FROM dead WHERE id = ?1",
            [id],
        )?;
        transaction.execute(
            "INSERT OR IGNORE INTO pending (collector, batch, bytes) SELECT dead.collector, batch.id, batch.bytes \
             FROM dead JOIN batch USING (agent, boot, sequence) WHERE dead.id = ?1",
            [id],
        )?;
        transaction.execute("DELETE FROM dead WHERE id = ?1", [id])?;
        transaction.commit()?;
        Ok(Resent::Waits)
    }

    pub(super) fn count_letters(&mut self, gone: impl IntoIterator<Item = CollectorName>) {
        for collector in gone {
            *self.letters_dropped.entry(collector).or_default() += 1;
        }
    }
}

/// How many a collector has.
pub(super) fn count(db: &Connection, collector: &CollectorName) -> rusqlite::Result<u64> {
    let mut statement = db.prepare("SELECT count(*) FROM dead WHERE collector = ?1")?;
    statement.query_row([collector.as_str()], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

/// Keeps a batch as a dead letter. Whose letters had to go for that.
pub(super) fn bury(
    transaction: &Transaction<'_>,
    collector: &CollectorName,
    id: ParcelId,
    refusal: &Refusal,
) -> rusqlite::Result<Vec<CollectorName>> {
    let reason: String = refusal.why.chars().take(REASON_MAX).collect();
    transaction.execute(
        "INSERT INTO dead (collector, agent, boot, sequence, made_epoch, made_raw_ns, made_wall_ns, refused_wall_ns, reason, \
         compression, bytes, body) SELECT ?1, agent, boot, sequence, made_epoch, made_raw_ns, made_wall_ns, ?3, ?4, \
         compression, bytes, body FROM batch WHERE id = ?2",
        params![collector.as_str(), id.0, refusal.at.0.cast_signed(), reason],
    )?;
    let mut gone = Vec::new();
    while !within_bounds(transaction)? {
        let oldest = "DELETE FROM dead WHERE id = (SELECT min(id) FROM dead) RETURNING collector";
        let whose: String = transaction.prepare(oldest)?.query_row([], |row| row.get(0))?;
        // A name that is none cannot have been written by us, and nobody counts its letters.
        gone.extend(whose.parse::<CollectorName>().ok());
    }
    Ok(gone)
}

fn within_bounds(db: &Connection) -> rusqlite::Result<bool> {
    let (letters, bytes) = db.query_row("SELECT count(*), total(bytes) FROM dead", [], |row| {
        Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, f64>(1)?))
    })?;
    Ok(letters == 0 || (letters <= LETTERS_MAX && bytes <= BYTES_MAX as f64))
}

fn letter_of_row(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let unsigned = |index: usize| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let agent: String = row.get(2)?;
    let foreign = |why| rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, why);
    Ok(DeadLetter {
        id: row.get(0)?,
        collector: row.get(1)?,
        agent: agent.parse::<AgentName>().map_err(|e| foreign(e.into()))?,
        boot: BootId(unsigned(3)?),
        sequence: unsigned(4)?,
        made: WallNanos(unsigned(5)?),
        refused: WallNanos(unsigned(6)?),
        reason: row.get(7)?,
        encoding: compression_of(&row.get::<_, String>(8)?)?.content_coding().to_owned(),
        bytes: unsigned(9)?,
    })
}
