//! The spool's file. Every method is one transaction that is on the disk when it returns.

mod dead;
mod open;
mod run;
mod run_end;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lagmesh_daemon::{Reserve, sqlite};
use lagmesh_model::fleet::Compression;
use lagmesh_model::ids::{AgentName, BootId, CollectorName};
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos, nanos};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::level::{Level, Levels, LossReason, NAMED_MAX, ParcelId};
use super::parcel::Parcel;

pub use dead::{Refusal, Resent};
pub use open::OpenError;
use run_end::RunEnds;

/// What the spool is for and how much it may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// Who must get every batch.
    pub collectors: Vec<CollectorName>,
    /// The bodies' bound [bytes].
    pub bytes_max: u64,
    /// The oldest batch that is kept.
    pub age_max: Duration,
    /// The run of the agent that writes.
    pub boot: BootId,
    /// When it began.
    pub started: WallNanos,
}

/// The spool's file and what is known about it without asking it.
///
/// A batch stands in `batch` once and in `pending` once per collector that has not acknowledged it; when the last of those
/// goes, so does the batch.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    settings: Settings,
    reserve: Reserve,
    /// The last batch that was appended in this run.
    last: Option<ParcelId>,
    /// The last batch, if the disk would not take it: it can still be delivered while it is the last.
    unstored: Option<Unstored>,
    /// The last batches of the runs before this one.
    run_ends: RunEnds,
    lost: BTreeMap<(CollectorName, LossReason), u64>,
    /// Dead letters that had to go since this process started.
    letters_dropped: BTreeMap<CollectorName, u64>,
}

#[derive(Debug)]
struct Unstored {
    parcel: Parcel,
    reason: LossReason,
    waiting: BTreeSet<CollectorName>,
}

impl Unstored {
    /// Below every key that the file can give.
    fn id(&self) -> ParcelId {
        ParcelId(-1 - self.parcel.sequence.cast_signed())
    }
}

/// A batch that was dropped for one collector.
struct Dropped {
    collector: CollectorName,
    made: WallNanos,
    bytes: u64,
}

/// When the disk is full, this many times the new batch's bytes are dropped to make room for it and for the bookkeeping.
const ROOM_FACTOR: u64 = 4;

impl Store {
    /// Keeps a batch until every collector has acknowledged it, and drops what the bounds no longer allow.
    ///
    /// # Errors
    /// If the file is corrupt. A disk that is full or fails is no error: the batch is held in memory until the next one.
    pub fn append(&mut self, parcel: &Parcel) -> rusqlite::Result<()> {
        if self.settings.collectors.is_empty() {
            return Ok(());
        }
        self.give_up_unstored();
        let kept = self.insert(parcel).or_else(|e| {
            if !sqlite::is_full(&e) {
                return Err(e);
            }
            self.reserve.spend();
            self.make_room(parcel)?;
            self.insert(parcel)
        });
        match kept {
            Ok(id) => {
                self.last = Some(id);
                self.reserve.refill();
                Ok(())
            }
            Err(e) if sqlite::is_damage(&e) => Err(e),
            Err(e) => {
                tracing::error!(error = %e, "batch cannot be written to disk, holding it in memory until the next one");
                self.hold(parcel.clone(), disk_reason(&e));
                Ok(())
            }
        }
    }

    /// A batch that waits for `collector`; `None` if it no longer does.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn fetch(&self, collector: &CollectorName, id: ParcelId) -> rusqlite::Result<Option<Parcel>> {
        if let Some(unstored) = self.unstored.as_ref().filter(|unstored| unstored.id() == id) {
            return Ok(unstored.waiting.contains(collector).then(|| unstored.parcel.clone()));
        }
        let mut statement = self.db.prepare(
            "SELECT agent, boot, sequence, made_epoch, made_raw_ns, made_wall_ns, compression, body FROM batch \
             JOIN pending ON pending.batch = batch.id WHERE pending.collector = ?1 AND batch.id = ?2",
        )?;
        statement.query_row(params![collector.as_str(), id.0], parcel_of_row).optional()
    }

    /// `collector` has acknowledged a batch.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn acknowledge(&mut self, collector: &CollectorName, id: ParcelId) -> rusqlite::Result<()> {
        self.settle(collector, id, None)
    }

    /// `collector` will never take a batch: it becomes a dead letter.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn refuse(&mut self, collector: &CollectorName, id: ParcelId, refusal: &Refusal) -> rusqlite::Result<()> {
        self.settle(collector, id, Some(refusal))
    }

    /// What waits for each collector.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn levels(&self) -> rusqlite::Result<Levels> {
        self.settings.collectors.iter().map(|collector| Ok((collector.clone(), self.level(collector)?))).collect()
    }

    /// Ends the run in an orderly way, and brings everything into the one file, so that it can be copied.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(mut self) -> rusqlite::Result<()> {
        self.end_run();
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.db.close().map_err(|(_, e)| e)
    }

    fn level(&self, collector: &CollectorName) -> rusqlite::Result<Level> {
        let mut statement = self.db.prepare("SELECT count(*), sum(bytes), max(batch) FROM pending WHERE collector = ?1")?;
        let mut level = statement.query_row([collector.as_str()], |row| {
            let bytes: Option<i64> = row.get(1)?;
            Ok(Level {
                batches: row.get::<_, i64>(0)?.cast_unsigned(),
                // The sum of no rows is NULL and means that nothing waits.
                bytes: bytes.map_or(0, i64::cast_unsigned),
                oldest: Vec::new(),
                newest: row.get::<_, Option<i64>>(2)?.map(ParcelId),
                newest_is_live: false,
                run_ends: Vec::new(),
                lost: self.lost_by(collector),
                dead_letters: dead::count(&self.db, collector)?,
                dead_letters_dropped: self.letters_dropped.get(collector).copied().unwrap_or_default(),
            })
        })?;
        level.oldest = self.oldest(collector)?;
        level.run_ends = self.run_ends_that_wait(collector, level.oldest.first().copied())?;
        if let Some(unstored) = self.unstored.as_ref().filter(|unstored| unstored.waiting.contains(collector)) {
            level.batches += 1;
            level.bytes += unstored.parcel.bytes();
            level.newest = Some(unstored.id());
            if level.oldest.is_empty() {
                level.oldest.extend(level.newest);
            }
        }
        if let Some(last) = self.last.filter(|last| level.newest > Some(*last))
            && self.waits(collector, last)?
        {
            // What is sent again has a newer key and is no news.
            level.newest = Some(last);
        }
        level.newest_is_live = level.newest.is_some() && level.newest == self.last;
        Ok(level)
    }

    fn oldest(&self, collector: &CollectorName) -> rusqlite::Result<Vec<ParcelId>> {
        let sql = format!("SELECT batch FROM pending WHERE collector = ?1 ORDER BY batch LIMIT {NAMED_MAX}");
        let mut statement = self.db.prepare(&sql)?;
        statement.query_map([collector.as_str()], |row| row.get(0).map(ParcelId))?.collect()
    }

    fn waits(&self, collector: &CollectorName, id: ParcelId) -> rusqlite::Result<bool> {
        let mut statement = self.db.prepare("SELECT EXISTS (SELECT 1 FROM pending WHERE collector = ?1 AND batch = ?2)")?;
        statement.query_row(params![collector.as_str(), id.0], |row| row.get(0))
    }

    fn lost_by(&self, collector: &CollectorName) -> BTreeMap<LossReason, u64> {
        let mine = self.lost.iter().filter(|((whose, _), _)| whose == collector);
        mine.map(|((_, reason), batches)| (*reason, *batches)).collect()
    }

    fn insert(&mut self, parcel: &Parcel) -> rusqlite::Result<ParcelId> {
        let boot = self.settings.boot;
        let transaction = self.db.transaction()?;
        let too_old = drop_too_old(&transaction, parcel.made, self.settings.age_max)?;
        write_losses(&transaction, boot, LossReason::TooOld, &too_old)?;
        let room = self.settings.bytes_max.checked_sub(parcel.bytes());
        // A single batch beyond the bound is kept alone: the bound is meant for many.
        let overflow = drop_oldest_beyond(&transaction, room.map_or(0, |room| room))?;
        write_losses(&transaction, boot, LossReason::SpoolFull, &overflow)?;
        transaction.execute(
            "INSERT INTO batch (agent, boot, sequence, made_epoch, made_raw_ns, made_wall_ns, bytes, body, compression) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                parcel.agent.as_str(),
                parcel.boot.0.cast_signed(),
                parcel.sequence.cast_signed(),
                parcel.made.epoch.0.cast_signed(),
                parcel.made.raw.0.cast_signed(),
                parcel.made.wall.0.cast_signed(),
                parcel.bytes().cast_signed(),
                &parcel.body[..],
                parcel.compression.as_str(),
            ],
        )?;
        let id = transaction.last_insert_rowid();
        for collector in &self.settings.collectors {
            transaction.execute(
                "INSERT INTO pending (collector, batch, bytes) VALUES (?1, ?2, ?3)",
                params![collector.as_str(), id, parcel.bytes().cast_signed()],
            )?;
        }
        run::has_told(&transaction, boot, parcel.made.wall)?;
        transaction.commit()?;
        self.count(LossReason::TooOld, &too_old);
        self.count(LossReason::SpoolFull, &overflow);
        Ok(ParcelId(id))
    }

    /// Drops the oldest batches because the disk, not our bound, has no room for the new one.
    fn make_room(&mut self, parcel: &Parcel) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        let stored = stored_bytes(&transaction)?;
        let kept = stored.checked_sub(parcel.bytes() * ROOM_FACTOR);
        let dropped = drop_oldest_beyond(&transaction, kept.map_or(0, |kept| kept))?;
        write_losses(&transaction, self.settings.boot, LossReason::DiskFull, &dropped)?;
        transaction.commit()?;
        self.count(LossReason::DiskFull, &dropped);
        Ok(())
    }

    fn hold(&mut self, parcel: Parcel, reason: LossReason) {
        let unstored = Unstored { parcel, reason, waiting: self.settings.collectors.iter().cloned().collect() };
        self.last = Some(unstored.id());
        self.unstored = Some(unstored);
    }

    /// There is a newer batch: whoever has not got the one in memory will never get it.
    fn give_up_unstored(&mut self) {
        let Some(Unstored { parcel, reason, waiting }) = self.unstored.take() else { return };
        let dropped = |collector| Dropped { collector, made: parcel.made.wall, bytes: parcel.bytes() };
        let dropped: Vec<_> = waiting.into_iter().map(dropped).collect();
        self.count(reason, &dropped);
        if let Err(e) = write_losses(&self.db, self.settings.boot, reason, &dropped) {
            tracing::debug!(error = %e, "write a loss into the ledger");
        }
    }

    fn settle(&mut self, collector: &CollectorName, id: ParcelId, refusal: Option<&Refusal>) -> rusqlite::Result<()> {
        if let Some(unstored) = self.unstored.as_mut().filter(|unstored| unstored.id() == id) {
            if unstored.waiting.remove(collector) && refusal.is_some() {
                let dropped =
                    Dropped { collector: collector.clone(), made: unstored.parcel.made.wall, bytes: unstored.parcel.bytes() };
                self.count(LossReason::Refused, &[dropped]);
                // The disk would not take it when it was new.
                self.count_letters([collector.clone()]);
            }
            return Ok(());
        }
        let settled = self.settle_stored(collector, id, refusal, true).or_else(|e| {
            if !sqlite::is_full(&e) {
                return Err(e);
            }
            self.reserve.spend();
            // What is refused must not come again; where there is no room, it goes without a letter.
            self.settle_stored(collector, id, refusal, false)
        });
        if let (Some(dropped), true) = (settled?, refusal.is_some()) {
            self.count(LossReason::Refused, &[dropped]);
        }
        Ok(())
    }

    /// What no longer waits, if it did.
    fn settle_stored(
        &mut self,
        collector: &CollectorName,
        id: ParcelId,
        refusal: Option<&Refusal>,
        with_letter: bool,
    ) -> rusqlite::Result<Option<Dropped>> {
        let transaction = self.db.transaction()?;
        let settled = transaction
            .prepare("DELETE FROM pending WHERE collector = ?1 AND batch = ?2 RETURNING bytes")?
            .query_row(params![collector.as_str(), id.0], |row| row.get::<_, i64>(0))
            .optional()?;
        let Some(bytes) = settled else { return Ok(None) };
        let made =
            transaction.prepare("SELECT made_wall_ns FROM batch WHERE id = ?1")?.query_row([id.0], |row| row.get::<_, i64>(0))?;
        let settled =
            Dropped { collector: collector.clone(), made: WallNanos(made.cast_unsigned()), bytes: bytes.cast_unsigned() };
        let (mut letters_gone, mut instead) = (Vec::new(), None);
        if let Some(refusal) = refusal {
            instead = run_end::before(&transaction, collector, id)?;
            write_losses(&transaction, self.settings.boot, LossReason::Refused, std::slice::from_ref(&settled))?;
            letters_gone = if with_letter { dead::bury(&transaction, collector, id, refusal)? } else { vec![collector.clone()] };
        }
        transaction
            .prepare("DELETE FROM batch WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM pending WHERE batch = ?1)")?
            .execute([id.0])?;
        transaction.commit()?;
        self.count_letters(letters_gone);
        self.run_end_settled(collector, id, instead);
        Ok(Some(settled))
    }

    fn count(&mut self, reason: LossReason, dropped: &[Dropped]) {
        for one in dropped {
            *self.lost.entry((one.collector.clone(), reason)).or_default() += 1;
        }
        // Who refused what is logged by whoever was refused.
        if let Some(first) = dropped.first().filter(|_| reason != LossReason::Refused) {
            tracing::warn!(%reason, collector = %first.collector, batches = dropped.len(), "gave up batches");
        }
    }
}

fn disk_reason(e: &rusqlite::Error) -> LossReason {
    if sqlite::is_full(e) { LossReason::DiskFull } else { LossReason::DiskError }
}

fn parcel_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Parcel> {
    let agent: String = row.get(0)?;
    let unsigned = |index: usize| row.get::<_, i64>(index).map(i64::cast_unsigned);
    Ok(Parcel {
        agent: agent
            .parse::<AgentName>()
            .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, e.into()))?,
        boot: BootId(unsigned(1)?),
        sequence: unsigned(2)?,
        made: Reading { epoch: Epoch(unsigned(3)?), raw: RawNanos(unsigned(4)?), wall: WallNanos(unsigned(5)?) },
        compression: compression_of(&row.get::<_, String>(6)?)?,
        body: Bytes::from(row.get::<_, Vec<u8>>(7)?),
    })
}

fn compression_of(word: &str) -> rusqlite::Result<Compression> {
    let known = Compression::ALL.iter().copied().find(|compression| compression.as_str() == word);
    known.ok_or_else(|| {
        let why = format!("{word:?} is no compression of this version");
        rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Text, why.into())
    })
}

fn stored_bytes(db: &Connection) -> rusqlite::Result<u64> {
    let sum: Option<i64> = db.query_row(STORED_BYTES, [], |row| row.get(0))?;
    // The sum of no rows is NULL and means that nothing is stored.
    Ok(sum.map_or(0, i64::cast_unsigned))
}

const TOO_OLD: &str = "(made_epoch = ?1 AND made_raw_ns < ?2) OR (made_epoch <> ?1 AND made_wall_ns < ?3)";
const STORED_BYTES: &str = "SELECT sum(bytes) FROM batch";

/// Batches of this epoch of the measuring clock age on it; the wall clock, which may step, is asked only about those of other epochs.
fn drop_too_old(transaction: &Transaction<'_>, now: Reading, age_max: Duration) -> rusqlite::Result<Vec<Dropped>> {
    let oldest = |now_ns: u64| now_ns.checked_sub(nanos(age_max)).map(u64::cast_signed);
    let (raw, wall) = (oldest(now.raw.0), oldest(now.wall.0));
    // A comparison with NULL (nothing can be that old yet) is not true.
    drop_where(transaction, TOO_OLD, params![now.epoch.0.cast_signed(), raw, wall])
}

/// Drops the oldest batches until at most `kept` bytes are left.
fn drop_oldest_beyond(transaction: &Transaction<'_>, kept: u64) -> rusqlite::Result<Vec<Dropped>> {
    let Some(mut excess) = stored_bytes(transaction)?.checked_sub(kept).filter(|excess| *excess > 0) else {
        return Ok(Vec::new());
    };
    let mut statement = transaction.prepare("SELECT id, bytes FROM batch ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut newest_dropped = None;
    while let Some(row) = rows.next()? {
        newest_dropped = Some(row.get::<_, i64>(0)?);
        match excess.checked_sub(row.get::<_, i64>(1)?.cast_unsigned()) {
            Some(left) if left > 0 => excess = left,
            _ => break,
        }
    }
    drop(rows);
    drop_where(transaction, "id <= ?1", params![newest_dropped])
}

fn drop_where(transaction: &Transaction<'_>, condition: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<Dropped>> {
    if !transaction.query_row(&any_where(condition), values, |row| row.get(0))? {
        return Ok(Vec::new());
    }
    let lost = format!(
        "SELECT collector, made_wall_ns, pending.bytes FROM pending JOIN batch ON batch.id = pending.batch WHERE {condition}"
    );
    let dropped = transaction
        .prepare(&lost)?
        .query_map(values, |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))?
        .filter_map(|row| match row {
            // A name that is none cannot have been written by us, and nobody waits for its losses.
            Ok((collector, made, bytes)) => collector
                .parse()
                .ok()
                .map(|collector| Ok(Dropped { collector, made: WallNanos(made.cast_unsigned()), bytes: bytes.cast_unsigned() })),
            Err(e) => Some(Err(e)),
        })
        .collect::<rusqlite::Result<Vec<_>>>()?;
    transaction
        .prepare(&format!("DELETE FROM pending WHERE batch IN (SELECT id FROM batch WHERE {condition})"))?
        .execute(values)?;
    transaction.prepare(&format!("DELETE FROM batch WHERE {condition}"))?.execute(values)?;
    Ok(dropped)
}

/// Whether there is anything to drop: nearly always not, so this is asked first, of the index alone.
fn any_where(condition: &str) -> String {
    format!("SELECT EXISTS (SELECT 1 FROM batch WHERE {condition})")
}

/// Adds to the ledger, which says for every run and collector what was lost, why, and from which interval.
fn write_losses(db: &Connection, boot: BootId, reason: LossReason, dropped: &[Dropped]) -> rusqlite::Result<()> {
    let mut statement = db.prepare(
        "INSERT INTO lost (collector, boot, reason, batches, bytes, first_made_wall_ns, last_made_wall_ns) \
         VALUES (?1, ?2, ?3, 1, ?4, ?5, ?5) ON CONFLICT (collector, boot, reason) DO UPDATE SET \
         batches = batches + 1, bytes = bytes + excluded.bytes, \
         first_made_wall_ns = min(first_made_wall_ns, excluded.first_made_wall_ns), \
         last_made_wall_ns = max(last_made_wall_ns, excluded.last_made_wall_ns)",
    )?;
    for Dropped { collector, made, bytes } in dropped {
        let values =
            params![collector.as_str(), boot.0.cast_signed(), reason.as_str(), bytes.cast_signed(), made.0.cast_signed()];
        statement.execute(values)?;
    }
    Ok(())
}
