//! The course of everything that agents measure, in a file of its own: `history.db`.
//!
//! One thread owns the file and is fed from what the store has on disk. Counts are turned into increments between neighbouring batches of a
//! boot (`book.rs`) and added to buckets of ten seconds, a minute and an hour. Buckets and what says which batches they hold are written in
//! one transaction, and increments are always taken from what is in the file, so nothing is counted twice whatever dies when: what was not
//! written yet comes with the next batch of its boot, at a coarser resolution. For the same reason history never holds anybody up: if it
//! falls behind, batches are skipped and counted.

mod ask;
mod backup;
mod baseline;
mod block;
mod body;
mod book;
mod cell;
mod load;
mod names;
mod read;
mod runs;
mod serve;
mod spread;
mod sweep;
mod table;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use lagmesh_daemon::Clock;
use lagmesh_model::ids::{AgentName, BootId};
use lagmesh_model::series::{Batch, Value};
use lagmesh_model::time::{RawNanos, Reading, WallNanos};

use crate::store::Committed;
use crate::tally::{HistoryLoss, Tally};
pub use backup::{BackupError, backup};
use book::Book;
pub use serve::{Archive, router};
pub use sweep::Keep;
use table::Table;
pub use table::{HistoryError, WIDTHS_S};

/// Batches that may wait for the history's thread: several seconds of a fleet of hundreds, a hundred mebibytes at worst.
const FED_QUEUE: usize = 256;
/// How far its thread steps back behind the others.
const NICENESS: i32 = 10;
/// How often is written.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Cells in memory at which is written before that.
const PENDING_MAX: usize = 200_000;
/// How often old buckets are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What the thread is fed.
#[derive(Debug)]
enum Fed {
    Batch(Batch, WallNanos),
    Retired(AgentName, BootId),
}

/// The way to the history.
#[derive(Debug, Clone)]
pub struct Feed {
    fed: SyncSender<Fed>,
    tally: Tally,
}

impl Feed {
    /// Offers what is on disk. Never waits: what there is no room for is skipped, and the next batch of its boot holds it too.
    pub fn offer(&self, committed: &Committed) {
        let fed = match committed {
            Committed::Batch(batch, arrived) => Fed::Batch(without_wholes(batch), arrived.wall),
            Committed::Retired(agent, boot) => Fed::Retired(agent.clone(), *boot),
        };
        if self.fed.try_send(fed).is_err() {
            self.tally.history_lost(HistoryLoss::Behind, 1);
        }
    }
}

/// Whole values have no course.
fn without_wholes(batch: &Batch) -> Batch {
    let series = batch.series.iter().filter(|series| !matches!(series.value, Value::Whole(_))).cloned().collect();
    Batch { exporter: batch.exporter.clone(), series, ..*batch }
}

/// The open history.
#[derive(Debug)]
pub struct History {
    table: Table,
    /// `None` after a failure, until the file can be read again.
    book: Option<Book>,
    keep: Keep,
    clock: Clock,
    tally: Tally,
    /// Batches that were taken in and are not written.
    unwritten: u64,
}

impl History {
    /// Opens or makes the history in a folder; a file that cannot be read is set aside as `.bad`, once. What the store restored is taken in:
    /// the store may have written what the history had not.
    ///
    /// # Errors
    /// If the folder cannot be used, or the file was written by a newer version.
    pub fn open(
        folder: &Path,
        keep: Keep,
        restored: &[(Batch, Reading)],
        (clock, tally): (Clock, Tally),
    ) -> Result<History, HistoryError> {
        let (table, book, set_aside) = Table::open(folder)?;
        if set_aside {
            tally.history_lost(HistoryLoss::SetAside, 1);
        }
        let mut history = History { table, book: Some(book), keep, clock, tally, unwritten: 0 };
        for (batch, arrived) in restored {
            history.take(batch, arrived.wall);
        }
        history.write();
        Ok(history)
    }

    /// The way in, and what [`History::run`] reads.
    pub fn feed(tally: &Tally) -> (Feed, FedQueue) {
        let (fed, queue) = sync_channel(FED_QUEUE);
        (Feed { fed, tally: tally.clone() }, FedQueue(queue))
    }

    /// Works until nobody feeds it any more; then writes what is left.
    ///
    /// # Errors
    /// Never: a disk that fails costs resolution, and may recover.
    pub fn run(mut self, queue: &FedQueue) -> anyhow::Result<()> {
        // What keeps agents waiting goes first. Where the system does not allow that, everything works all the same.
        rustix::process::nice(NICENESS).ok();
        let start = self.clock.now().raw;
        let (mut written, mut swept) = (start, None);
        loop {
            match queue.0.recv_timeout(WRITE_EVERY) {
                Ok(Fed::Batch(batch, arrived)) => self.take(&batch, arrived),
                Ok(Fed::Retired(agent, boot)) => {
                    if let Some(book) = &mut self.book {
                        book.retire(&agent, boot);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = self.clock.now();
            let full = self.book.as_ref().is_some_and(|book| book.pending() > PENDING_MAX);
            if full || is_due(Some(written), now.raw, WRITE_EVERY) {
                self.write();
                written = now.raw;
            }
            if is_due(swept, now.raw, SWEEP_EVERY) {
                self.sweep(now.wall);
                swept = Some(now.raw);
            }
        }
        self.write();
        Ok(())
    }

    fn take(&mut self, batch: &Batch, arrived: WallNanos) {
        let Some(book) = &mut self.book else {
            self.tally.history_lost(HistoryLoss::Unwritten, 1);
            return;
        };
        let taken = book.take(batch, arrived);
        self.unwritten += u64::from(!taken.known);
        self.tally.history_lost(HistoryLoss::ImpossibleTime, u64::from(taken.relabelled));
        self.tally.history_lost(HistoryLoss::Gap, u64::from(taken.gap_given_up));
        self.tally.history_lost(HistoryLoss::TooManySeries, taken.series_left_out);
    }

    /// Writes what is new. After a failure the streams go on from what is in the file.
    fn write(&mut self) {
        let changes = match &mut self.book {
            Some(book) if book.is_clean() => return,
            Some(book) => book.take_changes(),
            None => {
                self.reload();
                return;
            }
        };
        match self.table.write(&changes) {
            Ok(late) => self.tally.history_lost(HistoryLoss::TooOld, late),
            Err(e) => {
                tracing::error!(error = %e, batches = self.unwritten, "write the history; is the disk full?");
                self.tally.history_lost(HistoryLoss::Unwritten, self.unwritten);
                self.reload();
            }
        }
        self.unwritten = 0;
    }

    fn reload(&mut self) {
        self.book = match self.table.load() {
            Ok(book) => Some(book),
            Err(e) => {
                tracing::error!(error = %e, "read the history");
                None
            }
        };
    }

    fn sweep(&mut self, now: WallNanos) {
        match sweep::sweep(self.table.connection(), &self.keep, now.0 / 1_000_000_000) {
            Ok(swept) => {
                self.tally.history_lost(HistoryLoss::NoRoom, swept.crowded_out);
                self.tally.history_bytes(swept.bytes);
            }
            Err(e) => tracing::error!(error = %e, "drop old history"),
        }
    }
}

/// What waits for the history's thread.
#[derive(Debug)]
pub struct FedQueue(Receiver<Fed>);

fn is_due(last: Option<RawNanos>, now: RawNanos, every: Duration) -> bool {
    last.is_none_or(|last| now.checked_since(last).is_none_or(|passed| passed >= every))
}
