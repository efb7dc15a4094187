//! Which run of the agent writes, and whether the one before it came to its end. A run that died leaves nothing of what it measured
//! after its last batch; nobody knows how much that was, but that it is missing must be told, and told once.

use lagmesh_daemon::sqlite;
use lagmesh_model::ids::BootId;
use lagmesh_model::time::WallNanos;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{Dropped, LossReason, Store, write_losses};

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS run (
        boot INTEGER NOT NULL,
        -- When its newest batch was made, or else when it began: nothing after that is left of a run that died.
        newest_wall_ns INTEGER NOT NULL,
        ended INTEGER NOT NULL,
        -- How many runs before it have died of which no batch in this file tells.
        untold INTEGER NOT NULL
    ) STRICT;
";

/// What the file says of the run before ours.
struct Before {
    boot: BootId,
    newest: WallNanos,
    died: bool,
    untold: u64,
}

impl Store {
    /// Writes down that our run has begun, and counts those before it that died and are not told of. Where even this does not fit on the
    /// disk, the run before ours stays there as the last one: the next run tells its death once more, which errs to the safe side.
    pub(super) fn begin_run(&mut self) -> rusqlite::Result<()> {
        let begun = self.try_begin_run().or_else(|e| {
            if !sqlite::is_full(&e) {
                return Err(e);
            }
            self.reserve.spend();
            self.try_begin_run()
        });
        match begun {
            Err(e) if sqlite::is_full(&e) => {
                tracing::error!(error = %e, "the spool's disk is full: the begin of this run cannot be written down");
                Ok(())
            }
            begun => begun,
        }
    }

    fn try_begin_run(&mut self) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        transaction.execute_batch(TABLE)?;
        let before = before(&transaction)?;
        let (boot, now) = (self.settings.boot.0.cast_signed(), self.settings.started.0.cast_signed());
        let untold = before.as_ref().map_or(0, |before| before.untold + u64::from(before.died));
        if let Some(dead) = before.filter(|before| before.died) {
            // How much it was nobody knows: a batch of no bytes.
            let tail = |collector| Dropped { collector, made: dead.newest, bytes: 0 };
            let tails: Vec<_> = self.settings.collectors.iter().cloned().map(tail).collect();
            write_losses(&transaction, dead.boot, LossReason::Died, &tails)?;
            tracing::warn!(boot = %dead.boot, "the run before this one died: what it measured after its last batch is lost");
        }
        transaction.execute("DELETE FROM run", [])?;
        transaction.execute(
            "INSERT INTO run (boot, newest_wall_ns, ended, untold) VALUES (?1, ?2, 0, ?3)",
            params![boot, now, untold.cast_signed()],
        )?;
        transaction.commit()?;
        for collector in self.settings.collectors.iter().filter(|_| untold > 0) {
            *self.lost.entry((collector.clone(), LossReason::Died)).or_default() += untold;
        }
        Ok(())
    }

    /// Our run has come to its end; its last batch has been made. Where that cannot be written down, the next run takes it for dead.
    pub(super) fn end_run(&mut self) {
        let end = || self.db.execute("UPDATE run SET ended = 1 WHERE boot = ?1", [self.settings.boot.0.cast_signed()]);
        if end().is_err() {
            self.reserve.spend();
            if let Err(e) = end() {
                tracing::warn!(error = %e, "the end of this run cannot be written down");
            }
        }
    }
}

/// A batch of this run that was made at `made` stands in the file: it tells of every run that died before.
pub(super) fn has_told(transaction: &Transaction<'_>, boot: BootId, made: WallNanos) -> rusqlite::Result<()> {
    transaction
        .prepare("UPDATE run SET newest_wall_ns = ?2, untold = 0 WHERE boot = ?1")?
        .execute(params![boot.0.cast_signed(), made.0.cast_signed()])
        .map(drop)
}

fn before(transaction: &Transaction<'_>) -> rusqlite::Result<Option<Before>> {
    let mut newest = transaction.prepare("SELECT boot, newest_wall_ns, ended, untold FROM run")?;
    newest
        .query_row([], |row| {
            Ok(Before {
                boot: BootId(row.get::<_, i64>(0)?.cast_unsigned()),
                newest: WallNanos(row.get::<_, i64>(1)?.cast_unsigned()),
                died: row.get::<_, i64>(2)? == 0,
                untold: row.get::<_, i64>(3)?.cast_unsigned(),
            })
        })
        .optional()
}
