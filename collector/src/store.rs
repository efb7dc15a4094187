//! What must survive a restart, in SQLite: the newest batch of every (agent, boot), which holds all of that boot's counts; which
//! batches have been taken; the judge's memory.
//!
//! One thread owns the file. It commits what is queued in one transaction and one fsync; only then it passes the batches on, and then it
//! answers: what anybody sees is on disk, and what was acknowledged is seen.

mod ledger;
mod table;

use std::path::Path;

use anyhow::Context as _;
use lagmesh_daemon::sqlite;
use lagmesh_model::ids::{AgentName, BootId};
use lagmesh_model::series::Batch;
use lagmesh_model::time::Reading;
use tokio::sync::{mpsc, oneshot};

use crate::judge::Memory;
use crate::merge::News;
use crate::packed::Packed;
use ledger::{Draft, Ledger, Standing};
pub(crate) use table::FILE;
pub use table::StoreError;
use table::{Table, Transaction};

/// The boots of one agent that are kept one by one, and in memory; older ones live on in the sum of the retired.
pub const BOOTS_MAX: usize = 8;
/// The boots of one agent, of those that were retired last, whose counts still grow by batches that come later: their last batches are kept
/// on the disk. Few come later, for soon after the first batch of a boot an agent sends the last one of every boot before it.
pub const GROWING_MAX: usize = 64;
/// The retired boots of one agent that are remembered, so that what still comes of them is not counted twice: as many as an agent that dies
/// every ten seconds leaves in the spool of a day.
pub const RETIRED_MAX: usize = 8_640;
/// Deliveries that may wait for the disk. Each belongs to a request that has its turn, so more cannot come.
pub const JOBS_QUEUE: usize = 64;
/// The most deliveries in one transaction: bounds how long the first of them waits.
const GROUP_MAX: usize = 64;

/// Batches to keep, of one request.
#[derive(Debug)]
pub struct Delivery {
    /// The batches, each with the form in which it is kept.
    pub batches: Vec<(Batch, Packed)>,
    /// When they arrived.
    pub arrived: Reading,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is on disk; at least one batch was news.
    New,
    /// All of it was there already.
    Duplicate,
    /// None of it was news, and some of it came too late to change a total: of a boot that is no longer kept by itself.
    Retired,
}

/// The disk did not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotKept;

/// What the store's thread is asked to do.
#[derive(Debug)]
pub enum Job {
    /// To keep a delivery, and say when it is on disk.
    Keep(Delivery, oneshot::Sender<Result<Kept, NotKept>>),
    /// To keep the judge's memory.
    Remember(Vec<Memory>),
}

/// What is on disk and new, in the order in which it was committed.
#[derive(Debug)]
pub enum Committed {
    /// A batch that was not there before.
    Batch(Batch, Reading),
    /// A boot that is no longer kept by itself.
    Retired(AgentName, BootId),
    /// A batch of such a boot, its arrival, and what it holds beyond what the boot was retired with, if it does.
    OfRetired(Batch, Reading, Option<Batch>),
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub struct Restored {
    /// The newest batch of every boot, with its arrival.
    pub batches: Vec<(Batch, Reading)>,
    /// The sums of retired boots, one per agent.
    pub retired: Vec<Batch>,
    /// The judge's memory.
    pub memories: Vec<Memory>,
    /// Rows (the counts of a boot, or what it was retired with) that could not be read: their counts are not in the totals.
    pub left_out: u64,
}

/// The open store.
#[derive(Debug)]
pub struct Store {
    table: Table,
    ledger: Ledger,
}

/// A store, what was in it, and whether an unreadable one had to be set aside.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// What was in it.
    pub restored: Restored,
    /// Whether an unreadable file was set aside: then nothing was in it.
    pub set_aside: bool,
}

impl Store {
    /// Opens or makes the store in a folder. A file that cannot be read is set aside as `.bad`, once.
    ///
    /// # Errors
    /// If the folder cannot be used, or the file was written by a newer version.
    pub fn open(folder: &Path) -> Result<Opened, StoreError> {
        let (table, (restored, ledger), set_aside) = Table::open(folder)?;
        Ok(Opened { store: Store { table, ledger }, restored, set_aside })
    }

    /// Works until all who may ask are gone. Every job is answered.
    ///
    /// # Errors
    /// If the file turns out to be damaged: who starts next sets it aside. A disk that fails is answered to those who asked, and may
    /// recover.
    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>, news: &mpsc::Sender<Committed>) -> anyhow::Result<()> {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = jobs.try_recv()
            {
                group.push(next);
            }
            self.commit(group, news)?;
        }
        Ok(())
    }

    fn commit(&mut self, group: Vec<Job>, news: &mpsc::Sender<Committed>) -> anyhow::Result<()> {
        let (mut waiting, mut deliveries, mut memories) = (Vec::new(), Vec::new(), None);
        for job in group {
            match job {
                Job::Keep(delivery, done) => {
                    waiting.push(done);
                    deliveries.push(delivery);
                }
                Job::Remember(newest) => memories = Some(newest),
            }
        }
        match self.write(deliveries, memories.as_deref()) {
            Ok((outcomes, told)) => {
                // Passed on before it is answered: who was told that it is kept, and then looks, finds it.
                for one in told {
                    // At shutdown nobody reads any more; the disk has it.
                    news.blocking_send(one).ok();
                }
                for (done, kept) in waiting.into_iter().zip(outcomes) {
                    // A client that hung up will send again and be told that it is a duplicate.
                    done.send(Ok(kept)).ok();
                }
            }
            Err(e) => {
                tracing::error!(error = %e, deliveries = waiting.len(), "write the store; is the disk full?");
                for done in waiting {
                    done.send(Err(NotKept)).ok();
                }
                if matches!(&e, StoreError::Database(e) if sqlite::is_damage(e)) {
                    return Err(e).context("the store is damaged");
                }
            }
        }
        Ok(())
    }

    /// One transaction. The ledger in memory follows only once it is committed.
    fn write(
        &mut self,
        deliveries: Vec<Delivery>,
        memories: Option<&[Memory]>,
    ) -> Result<(Vec<Kept>, Vec<Committed>), StoreError> {
        let mut ledger = self.ledger.draft();
        let (mut outcomes, mut told) = (Vec::with_capacity(deliveries.len()), Vec::new());
        let transaction = self.table.begin()?;
        for delivery in deliveries {
            let mut kept = Kept::Duplicate;
            for (batch, packed) in delivery.batches {
                let one = take(&mut ledger, &transaction, (batch, &packed, delivery.arrived), &mut told)?;
                kept = kept.and(one);
            }
            outcomes.push(kept);
        }
        if let Some(memories) = memories {
            transaction.remember(memories)?;
        }
        transaction.commit()?;
        let changes = ledger.into_changes();
        self.ledger.take_over(changes);
        Ok((outcomes, told))
    }
}

/// Writes what a batch brings, and adds to what is to be told.
fn take(
    ledger: &mut Draft<'_>,
    transaction: &Transaction<'_>,
    (batch, packed, arrived): (Batch, &Packed, Reading),
    told: &mut Vec<Committed>,
) -> Result<Kept, StoreError> {
    let (agent, boot, sequence) = (batch.exporter.agent.clone(), batch.exporter.boot, batch.sequence);
    let news = match ledger.standing(&agent, boot, sequence) {
        Standing::Kept(News::Duplicate) => return Ok(Kept::Duplicate),
        Standing::Kept(news) => news,
        Standing::Retired => {
            told.push(Committed::OfRetired(batch, arrived, None));
            return Ok(Kept::Retired);
        }
        Standing::RetiredWithLess => {
            let grown = transaction.grow(&batch, packed)?;
            let kept = if grown.is_some() { Kept::New } else { Kept::Retired };
            ledger.grow(&agent, boot, sequence);
            told.push(Committed::OfRetired(batch, arrived, grown));
            return Ok(kept);
        }
    };
    let entry = ledger.take(&agent, boot, sequence);
    let body = (news == News::Newest).then_some((packed, arrived));
    transaction.put(&agent, boot, &entry.sequences, entry.ordinal, body)?;
    told.push(Committed::Batch(batch, arrived));
    for (dead, newest) in ledger.retire_beyond(&agent, BOOTS_MAX) {
        transaction.retire(&agent, dead, newest)?;
        told.push(Committed::Retired(agent.clone(), dead));
    }
    Ok(Kept::New)
}

impl Kept {
    /// What became of both: what is worth most to know.
    fn and(self, other: Kept) -> Kept {
        match (self, other) {
            (Kept::New, _) | (_, Kept::New) => Kept::New,
            (Kept::Retired, _) | (_, Kept::Retired) => Kept::Retired,
            (Kept::Duplicate, Kept::Duplicate) => Kept::Duplicate,
        }
    }
}

#[cfg(test)]
mod tests;
