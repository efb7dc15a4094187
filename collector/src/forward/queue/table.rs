//! The file and its tables.
//!
//! A target's cursor is the last snapshot that it no longer waits for, because it has got it or because a bound has dropped it. The last
//! one that it has got is kept too: what that one has and the next one has not must end there.

mod open;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lagmesh_daemon::{Reserve, sqlite};
use lagmesh_model::ids::TargetName;
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos, nanos};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::super::answer::Reason;
use super::super::plan::Outcome;
#[cfg(test)]
use open::QueueError;

/// The number of a snapshot; later ones have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SnapshotId(i64);

/// What is kept at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Of snapshots that somebody waits for [bytes].
    pub(crate) bytes_max: u64,
    /// The oldest of them.
    pub(crate) age_max: Duration,
}

/// A snapshot that waits for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Which.
    pub(crate) id: SnapshotId,
    /// Its label of time [ms since 1970]; later snapshots have later ones.
    pub(crate) stamp_ms: i64,
    /// How many values are in it.
    pub(crate) points: u64,
    /// The snapshot.
    pub(crate) body: Vec<u8>,
    /// The one that the target has got last, if any.
    pub(crate) before: Option<Vec<u8>>,
}

/// How things stand with one target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Level {
    /// The oldest snapshot that waits.
    pub(crate) oldest: Option<SnapshotId>,
    /// What waits [bytes].
    pub(crate) bytes: u64,
    /// Values taken.
    pub(crate) taken: u64,
    /// Values lost, by reason.
    pub(crate) lost: BTreeMap<Reason, u64>,
    /// When the newest snapshot that it has got was made.
    pub(crate) newest: Option<Reading>,
}

/// How things stand.
pub(crate) type Levels = BTreeMap<TargetName, Level>;

/// Forgets what nobody waits for and nobody has got last.
const FORGET: &str = "DELETE FROM snapshot WHERE id <= (SELECT min(cursor) FROM target) \
    AND NOT EXISTS (SELECT 1 FROM target WHERE held = snapshot.id)";

/// What anybody waits for [bytes].
const WAITING_BYTES: &str = "SELECT total(bytes) FROM snapshot WHERE id > (SELECT min(cursor) FROM target)";

/// The open queue.
#[derive(Debug)]
pub(crate) struct Table {
    db: Connection,
    path: PathBuf,
    bounds: Bounds,
    levels: Levels,
    /// What is deleted when the disk is full, so that there is room to delete more.
    reserve: Reserve,
    /// Losses that the disk has not taken yet; in the levels all the same.
    unwritten: BTreeMap<(TargetName, Reason), u64>,
}

/// When the disk is full, this many times the new snapshot's bytes are dropped to make room for it and for the bookkeeping.
const ROOM_FACTOR: u64 = 4;

impl Table {
    /// How things stand.
    pub(crate) fn levels(&self) -> Levels {
        self.levels.clone()
    }

    /// Keeps a snapshot, after what the bounds no longer allow was dropped; on a full disk it goes in the place of the oldest ones. Whatever
    /// happens is in the levels.
    pub(crate) fn append(&mut self, body: &[u8], points: u64, made: Reading) {
        let stamp_ms = i64::try_from(made.wall.0 / 1_000_000).unwrap_or(i64::MAX);
        let kept = self.try_append(body, points, made, stamp_ms).or_else(|e| {
            self.make_room(e)?;
            self.drop_for(body.len() as u64)?;
            self.try_append(body, points, made, stamp_ms)
        });
        match kept {
            Ok(None) => {
                self.write_losses();
                self.reserve.refill();
            }
            Ok(Some(reason)) => self.lost_unkept(reason, points),
            Err(e) => {
                tracing::error!(error = %e, "write the forward queue; is the disk full?");
                self.lost_unkept(Reason::Disk, points);
                self.mend(&e);
            }
        }
        self.look();
    }

    /// Gives the reserve back to a full disk, and to the log its own room: what is in the file already may be overwritten there.
    ///
    /// # Errors
    /// The same error, if it speaks of something else.
    fn make_room(&mut self, error: rusqlite::Error) -> rusqlite::Result<()> {
        if !sqlite::is_full(&error) {
            return Err(error);
        }
        self.reserve.spend();
        if let Err(e) = self.db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())) {
            tracing::debug!(error = %e, "begin the log of the forward queue anew");
        }
        Ok(())
    }

    /// Drops the oldest snapshots because the disk, not our bound, has no room for one of so many bytes.
    fn drop_for(&mut self, more_bytes: u64) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        let waiting: f64 = transaction.query_row(WAITING_BYTES, [], |row| row.get(0))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sum of sizes, far below 2^53")]
        let kept = (waiting as u64).saturating_sub(more_bytes.saturating_mul(ROOM_FACTOR));
        drop_oldest(&transaction, kept, Reason::Disk)?;
        transaction.commit()
    }

    /// Why it was not kept, if it was not.
    fn try_append(&mut self, body: &[u8], points: u64, made: Reading, stamp_ms: i64) -> rusqlite::Result<Option<Reason>> {
        let bounds = self.bounds;
        let transaction = self.db.transaction()?;
        let newest: Option<i64> = transaction.query_row("SELECT max(stamp_ms) FROM snapshot", [], |row| row.get(0))?;
        if newest.is_some_and(|newest| stamp_ms <= newest) {
            // Two values of one series never get the same label of time, nor a later one an earlier.
            return Ok(Some(Reason::ClockBack));
        }
        drop_old(&transaction, bounds, made, body.len() as u64)?;
        transaction.execute(
            "INSERT INTO snapshot (stamp_ms, made_epoch, made_raw_ns, made_wall_ns, points, bytes, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                stamp_ms,
                made.epoch.0.cast_signed(),
                made.raw.0.cast_signed(),
                made.wall.0.cast_signed(),
                points.cast_signed(),
                i64::try_from(body.len()).unwrap_or(i64::MAX),
                body,
            ],
        )?;
        transaction.commit()?;
        Ok(None)
    }

    /// The next snapshot for a target.
    pub(crate) fn fetch(&mut self, target: &TargetName) -> rusqlite::Result<Option<Waiting>> {
        let fetched = self.try_fetch(target);
        if let Err(e) = &fetched {
            self.mend(e);
            self.look();
        }
        fetched
    }

    fn try_fetch(&self, target: &TargetName) -> rusqlite::Result<Option<Waiting>> {
        let sql = "SELECT id, stamp_ms, points, body FROM snapshot \
            WHERE id > (SELECT cursor FROM target WHERE name = ?1) ORDER BY id LIMIT 1";
        let next = self.db.prepare(sql)?.query_row([target.as_str()], |row| {
            let (id, points) = (SnapshotId(row.get(0)?), row.get::<_, i64>(2)?.cast_unsigned());
            Ok(Waiting { id, stamp_ms: row.get(1)?, points, body: row.get(3)?, before: None })
        });
        let Some(next) = next.optional()? else { return Ok(None) };
        let sql = "SELECT body FROM snapshot WHERE id = (SELECT held FROM target WHERE name = ?1)";
        let before = self.db.prepare(sql)?.query_row([target.as_str()], |row| row.get(0)).optional()?;
        Ok(Some(Waiting { before, ..next }))
    }

    /// What became of a snapshot at a target. One that a bound has dropped in the meantime was counted then.
    pub(crate) fn settle(&mut self, target: &TargetName, id: SnapshotId, outcome: &Outcome) -> rusqlite::Result<()> {
        let settled = self.try_settle(target, id, outcome).or_else(|e| {
            self.make_room(e)?;
            self.try_settle(target, id, outcome)
        });
        if let Err(e) = &settled {
            self.mend(e);
        }
        self.look();
        settled
    }

    fn try_settle(&mut self, target: &TargetName, id: SnapshotId, outcome: &Outcome) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        let moved = transaction.execute(
            "UPDATE target SET cursor = ?2, held = ?2, taken = taken + ?3, newest_epoch = found.made_epoch, newest_raw_ns = found.made_raw_ns, \
             newest_wall_ns = found.made_wall_ns FROM (SELECT * FROM snapshot WHERE id = ?2) AS found WHERE name = ?1 AND cursor < ?2",
            params![target.as_str(), id.0, outcome.taken.cast_signed()],
        )?;
        if moved == 1 {
            for (reason, points) in &outcome.lost {
                write_loss(&transaction, target.as_str(), *reason, *points)?;
            }
            transaction.execute(FORGET, [])?;
        }
        transaction.commit()
    }

    /// Brings the levels up to date; where the disk does not say, what was known stays.
    fn look(&mut self) {
        match self.read_levels() {
            Ok(levels) => self.levels = levels,
            Err(e) => tracing::warn!(error = %e, "read what waits in the forward queue"),
        }
    }

    fn read_levels(&self) -> rusqlite::Result<Levels> {
        let mut levels = Levels::new();
        for name in self.levels.keys() {
            levels.insert(name.clone(), self.read_level(name.as_str())?);
        }
        Ok(levels)
    }

    fn read_level(&self, name: &str) -> rusqlite::Result<Level> {
        let sql = "SELECT cursor, taken, newest_epoch, newest_raw_ns, newest_wall_ns FROM target WHERE name = ?1";
        let (cursor, taken, newest) = self.db.prepare(sql)?.query_row([name], |row| {
            let number = |index| row.get::<_, Option<i64>>(index).map(|number| number.map(i64::cast_unsigned));
            let newest = match (number(2)?, number(3)?, number(4)?) {
                (Some(epoch), Some(raw), Some(wall)) => {
                    Some(Reading { epoch: Epoch(epoch), raw: RawNanos(raw), wall: WallNanos(wall) })
                }
                _ => None,
            };
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?.cast_unsigned(), newest))
        })?;
        let sql = "SELECT min(id), total(bytes) FROM snapshot WHERE id > ?1";
        let (oldest, bytes) = self.db.prepare(sql)?.query_row([cursor], |row| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sum of sizes, far below 2^53")]
            Ok((row.get::<_, Option<i64>>(0)?.map(SnapshotId), row.get::<_, f64>(1)? as u64))
        })?;
        let mut losses = self.db.prepare("SELECT reason, points FROM lost WHERE target = ?1")?;
        let losses = losses.query_map([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
        let mut lost = BTreeMap::new();
        for loss in losses {
            let (word, points) = loss?;
            lost.extend(Reason::from_word(&word).map(|reason| (reason, points)));
        }
        for ((_, reason), points) in self.unwritten.iter().filter(|((target, _), _)| target.as_str() == name) {
            *lost.entry(*reason).or_default() += points;
        }
        Ok(Level { oldest, bytes, taken, lost, newest })
    }

    /// Counts a snapshot that never came into the file, for every target.
    fn lost_unkept(&mut self, reason: Reason, points: u64) {
        tracing::warn!(reason = reason.as_str(), points, "a snapshot is not passed on");
        for name in self.levels.keys() {
            *self.unwritten.entry((name.clone(), reason)).or_default() += points;
        }
        self.write_losses();
    }

    /// Writes what the disk has not taken yet; if it does not take it now either, it stays in memory.
    fn write_losses(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        match write_all(&mut self.db, &self.unwritten) {
            Ok(()) => self.unwritten.clear(),
            Err(e) => tracing::debug!(error = %e, "write losses of the forward queue"),
        }
    }

    /// A file that turns out to be damaged is set aside; nothing in it is worth waiting for.
    fn mend(&mut self, error: &rusqlite::Error) {
        if sqlite::is_damage(error)
            && let Err(e) = self.start_again(&error.to_string())
        {
            tracing::error!(error = %e, "start the forward queue again");
        }
    }
}

fn write_all(db: &mut Connection, losses: &BTreeMap<(TargetName, Reason), u64>) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    for ((target, reason), points) in losses {
        write_loss(&transaction, target.as_str(), *reason, *points)?;
    }
    transaction.commit()
}

fn write_loss(db: &Connection, target: &str, reason: Reason, points: u64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO lost (target, reason, points) VALUES (?1, ?2, ?3) \
        ON CONFLICT (target, reason) DO UPDATE SET points = points + excluded.points";
    db.prepare(sql)?.execute(params![target, reason.as_str(), points.cast_signed()])?;
    Ok(())
}

/// Drops what is too old, then the oldest until there is room for so many bytes. A single snapshot beyond the bound is kept alone.
fn drop_old(transaction: &Transaction<'_>, bounds: Bounds, now: Reading, more_bytes: u64) -> rusqlite::Result<()> {
    let oldest = |now_ns: u64| now_ns.checked_sub(nanos(bounds.age_max)).map(u64::cast_signed);
    // Snapshots of this epoch of the measuring clock age on it; the wall clock, which may step, is asked only about others. A comparison
    // with NULL (nothing can be that old yet) is not true.
    let sql = "SELECT max(id) FROM snapshot WHERE id > (SELECT min(cursor) FROM target) AND \
        ((made_epoch = ?1 AND made_raw_ns < ?2) OR (made_epoch <> ?1 AND made_wall_ns < ?3))";
    let too_old: Option<i64> = transaction
        .prepare(sql)?
        .query_row(params![now.epoch.0.cast_signed(), oldest(now.raw.0), oldest(now.wall.0)], |row| row.get(0))?;
    if let Some(last) = too_old {
        drop_up_to(transaction, last, Reason::QueueAge)?;
    }
    drop_oldest(transaction, bounds.bytes_max.saturating_sub(more_bytes), Reason::QueueFull)
}

/// Drops the oldest of what somebody waits for until at most so many bytes are left.
fn drop_oldest(transaction: &Transaction<'_>, room: u64, reason: Reason) -> rusqlite::Result<()> {
    let sql = "SELECT id, bytes FROM snapshot WHERE id > (SELECT min(cursor) FROM target) ORDER BY id DESC";
    let mut statement = transaction.prepare(sql)?;
    let mut rows = statement.query([])?;
    let (mut kept, mut last) = (0_u64, None);
    while let Some(row) = rows.next()? {
        kept = kept.saturating_add(row.get::<_, i64>(1)?.cast_unsigned());
        if kept > room {
            last = Some(row.get::<_, i64>(0)?);
            break;
        }
    }
    drop(rows);
    last.map_or(Ok(()), |last| drop_up_to(transaction, last, reason))
}

/// Whoever waits for one of these loses it.
fn drop_up_to(transaction: &Transaction<'_>, last: i64, reason: Reason) -> rusqlite::Result<()> {
    let sql =
        "SELECT name, sum(points) FROM target JOIN snapshot ON snapshot.id > target.cursor AND snapshot.id <= ?1 GROUP BY name";
    let mut statement = transaction.prepare(sql)?;
    let losses = statement.query_map([last], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
    for (name, points) in losses.collect::<rusqlite::Result<Vec<_>>>()? {
        tracing::warn!(target = name, reason = reason.as_str(), points, "values are given up before the target got them");
        write_loss(transaction, &name, reason, points)?;
    }
    transaction.execute("UPDATE target SET cursor = ?1 WHERE cursor < ?1", [last])?;
    transaction.execute(FORGET, [])?;
    Ok(())
}
