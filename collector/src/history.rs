//! The course of everything that agents measure, in a file of its own: `history.db`.
//!
//! One thread owns the file and is fed from what the store has on disk. Counts are turned into increments between neighbouring batches of a
//! boot (`book.rs`) and added to buckets of ten seconds, a minute and an hour: first as they come (`fresh.rs`), then many at once to the rows
//! of their series. Increments and what says which batches they hold are written in one transaction, and increments are always taken from
//! what is in the file, so nothing is counted twice whatever dies when: what was not written yet comes with the next batch of its boot, at a
//! coarser resolution. For the same reason history never holds anybody up: if it falls behind, batches are skipped and counted.

mod ask;
mod backup;
mod baseline;
mod block;
mod body;
mod book;
mod cell;
mod fresh;
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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use lagmesh_daemon::Clock;
use lagmesh_model::series::{Batch, Value};
use lagmesh_model::time::{RawNanos, Reading, WallNanos};

use crate::store::Committed;
use crate::tally::{HistoryLoss, Tally};
pub use backup::{BackupError, backup};
use book::{Book, Entry};
use fresh::Parts;
pub use serve::{Archive, router};
pub use sweep::Keep;
pub use table::{HistoryError, WIDTHS_S};
use table::{Opened, Table};

/// Batches that may wait for the history's thread: several seconds of a fleet of hundreds, a hundred mebibytes at worst.
const FED_QUEUE: usize = 256;
/// How often is written.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// What is not written at which is written before that [bytes].
const PENDING_BYTES_MAX: usize = 4 << 20;
/// How often old buckets are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What the thread is fed: a batch, and when it arrived.
type Fed = (Batch, WallNanos);

/// The way to the history.
#[derive(Debug, Clone)]
pub struct Feed {
    fed: SyncSender<Fed>,
    waiting: Arc<AtomicUsize>,
    tally: Tally,
}

impl Feed {
    /// Offers what is on disk. Never waits: what there is no room for is skipped, and the next batch of its boot holds it too.
    pub fn offer(&self, committed: &Committed) {
        // Which boots the store keeps one by one is its own affair; the history follows more of them.
        let (Committed::Batch(batch, arrived) | Committed::OfRetired(batch, arrived, _)) = committed else { return };
        // To make what is fed and then to find no room would cost most when there is least time.
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < FED_QUEUE;
        let fed = has_room.then(|| (without_wholes(batch), arrived.wall));
        if fed.is_none_or(|fed| self.fed.try_send(fed).is_err()) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
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
    /// What is in the file and has not settled.
    parts: Parts,
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
        let Opened { table, book, fresh, set_aside } = Table::open(folder)?;
        if set_aside {
            tally.history_lost(HistoryLoss::SetAside, 1);
        }
        let (mut parts, now) = (Parts::default(), clock.now().raw);
        for (part, bytes) in fresh {
            parts.grew(part, bytes, now);
        }
        let mut history = History { table, book: Some(book), keep, clock, tally, parts, unwritten: 0 };
        for (batch, arrived) in restored {
            history.take(batch, arrived.wall);
        }
        history.write();
        Ok(history)
    }

    /// The way in, and what [`History::run`] reads.
    pub fn feed(tally: &Tally) -> (Feed, FedQueue) {
        let (fed, queue) = sync_channel(FED_QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        (Feed { fed, waiting: waiting.clone(), tally: tally.clone() }, FedQueue { fed: queue, waiting })
    }

    /// Works until nobody feeds it any more; then writes what is left.
    ///
    /// # Errors
    /// Never: a disk that fails costs resolution, and may recover.
    pub fn run(mut self, queue: &FedQueue) -> anyhow::Result<()> {
        let start = self.clock.now().raw;
        let (mut written, mut swept, mut wait) = (start, None, WRITE_EVERY);
        loop {
            match queue.next(wait) {
                Ok((batch, arrived)) => self.take(&batch, arrived),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = self.clock.now();
            let full = self.book.as_ref().is_some_and(|book| book.pending_bytes() > PENDING_BYTES_MAX);
            if full || is_due(Some(written), now.raw, WRITE_EVERY) {
                self.write();
                written = now.raw;
            }
            // Where one is due, another may be.
            wait = WRITE_EVERY;
            if let Some(part) = self.parts.due(now.raw) {
                self.settle(part);
                wait = Duration::ZERO;
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
        self.unwritten += u64::from(taken.entry == Entry::New);
        self.tally.history_lost(HistoryLoss::Retired, u64::from(taken.entry == Entry::Retired));
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
            Ok(grown) => {
                let now = self.clock.now().raw;
                for (part, bytes) in grown {
                    self.parts.grew(part, bytes, now);
                }
            }
            Err(e) => {
                tracing::error!(error = %e, batches = self.unwritten, "write the history; is the disk full?");
                self.tally.history_lost(HistoryLoss::Unwritten, self.unwritten);
                self.reload();
            }
        }
        self.unwritten = 0;
    }

    /// Moves what is fresh of a part to its rows. What cannot be moved now stays as it is, and is tried again after a while.
    fn settle(&mut self, part: u32) {
        match self.table.settle(part) {
            Ok(late) => {
                self.parts.settled(part);
                self.tally.history_lost(HistoryLoss::TooOld, late);
            }
            Err(e) => {
                tracing::error!(error = %e, "add to the rows of the history; is the disk full?");
                self.parts.put_off(self.clock.now().raw);
            }
        }
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
pub struct FedQueue {
    fed: Receiver<Fed>,
    waiting: Arc<AtomicUsize>,
}

impl FedQueue {
    fn next(&self, within: Duration) -> Result<Fed, RecvTimeoutError> {
        let fed = self.fed.recv_timeout(within)?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(fed)
    }
}

fn is_due(last: Option<RawNanos>, now: RawNanos, every: Duration) -> bool {
    last.is_none_or(|last| now.checked_since(last).is_none_or(|passed| passed >= every))
}
