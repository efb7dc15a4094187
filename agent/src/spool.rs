//! The durable spool: every batch is on the disk before anyone tries to send it, and stays there until every collector has
//! acknowledged it or a bound drops it.
//!
//! One thread owns the file. Others ask it through a short queue and watch what waits.

mod level;
mod parcel;
mod store;

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use lagmesh_daemon::{Supervisor, sqlite};
use lagmesh_model::dead_letter::DeadLetter;
use lagmesh_model::fleet::Compression;
use lagmesh_model::ids::CollectorName;
use lagmesh_model::series::Batch;
use lagmesh_model::time::Reading;
use tokio::sync::{mpsc, oneshot, watch};

pub use level::{Level, Levels, LossReason, NAMED_MAX, ParcelId};
pub use parcel::Parcel;
pub use store::{OpenError, Refusal, Resent, Settings, Store};

/// How many requests may wait for the disk. Senders wait for their answers, so it is reached only when the disk hangs.
const QUEUE: usize = 64;
/// A disk that hangs for longer than this is treated as one that fails.
const DISK_DEADLINE: Duration = Duration::from_secs(30);

/// A handle on the spool. The thread ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Spool {
    requests: mpsc::Sender<Request>,
    levels: watch::Receiver<Levels>,
}

/// The spool did not answer: its queue is full, its disk hangs, or it has ended.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Too many requests wait.
    #[error("the spool's queue is full: the disk is too slow")]
    Full,
    /// No answer in time.
    #[error("the spool has not answered within {DISK_DEADLINE:?}: the disk hangs")]
    Hangs,
    /// Its thread has ended.
    #[error("the spool has ended")]
    Ended,
    /// It could not read or write.
    #[error("spool: {0}")]
    Disk(#[from] rusqlite::Error),
}

/// What became of a batch at a collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The collector has it.
    Acknowledged,
    /// The collector will never take it.
    Refused(Refusal),
}

/// What a disk says, and to whom.
type Said<T> = oneshot::Sender<rusqlite::Result<T>>;

#[derive(Debug)]
enum Request {
    Append(Box<Batch>, Reading, oneshot::Sender<()>),
    Fetch(CollectorName, ParcelId, oneshot::Sender<rusqlite::Result<Option<Parcel>>>),
    Settle(CollectorName, ParcelId, Settled, oneshot::Sender<rusqlite::Result<()>>),
    Letters(Said<Vec<DeadLetter>>),
    Letter(i64, Said<Option<(Compression, Bytes)>>),
    DropLetter(i64, Said<bool>),
    Resend(i64, Said<Resent>),
}

impl Spool {
    /// Puts `store` on a thread of its own, named `spool`, which packs new batches in this way.
    ///
    /// # Errors
    /// If the system gives no thread or the file cannot be read.
    pub fn start(store: Store, compression: Compression, supervisor: &mut Supervisor) -> anyhow::Result<Spool> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (published, levels) = watch::channel(store.levels().context("read the spool")?);
        supervisor.spawn_thread("spool", move || Keeper { store: Some(store), compression, published }.run(queue))?;
        Ok(Spool { requests, levels })
    }

    /// What waits for each collector, and news of it.
    pub fn levels(&self) -> watch::Receiver<Levels> {
        self.levels.clone()
    }

    /// Hands over a batch that was made at `made`. Never waits; the answer comes once the batch is kept.
    ///
    /// # Errors
    /// If the queue is full or the spool has ended: the batch is dropped.
    pub fn append(&self, batch: Batch, made: Reading) -> Result<oneshot::Receiver<()>, Unavailable> {
        let (answer, kept) = oneshot::channel();
        match self.requests.try_send(Request::Append(Box::new(batch), made, answer)) {
            Ok(()) => Ok(kept),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Unavailable::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Unavailable::Ended),
        }
    }

    /// A batch that waits for `collector`; `None` if it no longer does.
    ///
    /// # Errors
    /// If the spool does not answer or cannot read.
    pub async fn fetch(&self, collector: &CollectorName, id: ParcelId) -> Result<Option<Parcel>, Unavailable> {
        let (answer, parcel) = oneshot::channel();
        Ok(self.ask(Request::Fetch(collector.clone(), id, answer), parcel).await??)
    }

    /// Says what became of a batch at `collector`; when this returns, the disk knows it.
    ///
    /// # Errors
    /// If the spool does not answer or cannot write.
    pub async fn settle(&self, collector: &CollectorName, id: ParcelId, how: Settled) -> Result<(), Unavailable> {
        let (answer, settled) = oneshot::channel();
        Ok(self.ask(Request::Settle(collector.clone(), id, how, answer), settled).await??)
    }

    /// What collectors refused for good, oldest first.
    ///
    /// # Errors
    /// If the spool does not answer or cannot read.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, Unavailable> {
        let (answer, letters) = oneshot::channel();
        Ok(self.ask(Request::Letters(answer), letters).await??)
    }

    /// The body of a dead letter as it was sent, and how it is compressed; `None` if there is no such letter.
    ///
    /// # Errors
    /// If the spool does not answer or cannot read.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<(Compression, Bytes)>, Unavailable> {
        let (answer, letter) = oneshot::channel();
        Ok(self.ask(Request::Letter(id, answer), letter).await??)
    }

    /// Forgets a dead letter; whether there was one.
    ///
    /// # Errors
    /// If the spool does not answer or cannot write.
    pub async fn drop_dead_letter(&self, id: i64) -> Result<bool, Unavailable> {
        let (answer, dropped) = oneshot::channel();
        Ok(self.ask(Request::DropLetter(id, answer), dropped).await??)
    }

    /// Puts a dead letter among what waits for its collector.
    ///
    /// # Errors
    /// If the spool does not answer or cannot write.
    pub async fn resend(&self, id: i64) -> Result<Resent, Unavailable> {
        let (answer, resent) = oneshot::channel();
        Ok(self.ask(Request::Resend(id, answer), resent).await??)
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T, Unavailable> {
        let exchange = async {
            self.requests.send(request).await.map_err(|_| Unavailable::Ended)?;
            answer.await.map_err(|_| Unavailable::Ended)
        };
        tokio::time::timeout(DISK_DEADLINE, exchange).await.map_err(|_| Unavailable::Hangs)?
    }
}

/// The thread: owns the file, answers requests, publishes what waits.
struct Keeper {
    /// Always there between two requests.
    store: Option<Store>,
    /// How new batches are packed.
    compression: Compression,
    published: watch::Sender<Levels>,
}

impl Keeper {
    fn run(mut self, mut queue: mpsc::Receiver<Request>) -> anyhow::Result<()> {
        while let Some(request) = queue.blocking_recv() {
            self.answer(request)?;
        }
        let store = self.store.take().expect("it is put back after every request");
        store.finish().context("close the spool")
    }

    /// `Err` only if there is no way to keep a file there any more.
    fn answer(&mut self, request: Request) -> anyhow::Result<()> {
        let store = self.store.as_mut().expect("it is put back after every request");
        // Whoever has asked may have given up waiting; the work is done all the same. What others see is brought up to
        // date before the answer, so that nobody acts on what was before it.
        match request {
            Request::Append(batch, made, answer) => {
                let parcel = Parcel::pack(&batch, made, self.compression).context("pack a batch")?;
                if let Err(e) = store.append(&parcel) {
                    self.start_again(&e)?;
                    let store = self.store.as_mut().expect("it was just put back");
                    store.append(&parcel).context("append to a new spool")?;
                }
                self.publish()?;
                answer.send(()).ok();
            }
            Request::Fetch(collector, id, answer) => {
                let parcel = store.fetch(&collector, id);
                self.check(parcel.as_ref().err())?;
                answer.send(parcel).ok();
            }
            Request::Settle(collector, id, how, answer) => {
                let settled = match how {
                    Settled::Acknowledged => store.acknowledge(&collector, id),
                    Settled::Refused(refusal) => store.refuse(&collector, id, &refusal),
                };
                self.changed(settled, answer)?;
            }
            Request::Letters(answer) => {
                let letters = store.dead_letters();
                self.check(letters.as_ref().err())?;
                answer.send(letters).ok();
            }
            Request::Letter(id, answer) => {
                let letter = store.dead_letter(id);
                self.check(letter.as_ref().err())?;
                answer.send(letter).ok();
            }
            Request::DropLetter(id, answer) => {
                let dropped = store.drop_dead_letter(id);
                self.changed(dropped, answer)?;
            }
            Request::Resend(id, answer) => {
                let resent = store.resend(id);
                self.changed(resent, answer)?;
            }
        }
        Ok(())
    }

    /// Answers once others see what has changed.
    fn changed<T>(&mut self, result: rusqlite::Result<T>, answer: Said<T>) -> anyhow::Result<()> {
        self.check(result.as_ref().err())?;
        self.publish()?;
        answer.send(result).ok();
        Ok(())
    }

    fn check(&mut self, error: Option<&rusqlite::Error>) -> anyhow::Result<()> {
        error.filter(|e| sqlite::is_damage(e)).map_or(Ok(()), |e| self.start_again(e))
    }

    fn start_again(&mut self, why: &rusqlite::Error) -> anyhow::Result<()> {
        let store = self.store.take().expect("it is put back after every request");
        let waiting = self.published.borrow().iter().map(|(collector, level)| (collector.clone(), level.batches)).collect();
        self.store = Some(store.start_again(&waiting, &why.to_string())?);
        Ok(())
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        let store = self.store.as_ref().expect("it is put back after every request");
        match store.levels() {
            Ok(levels) => {
                self.published.send_replace(levels);
            }
            Err(e) if sqlite::is_damage(&e) => self.start_again(&e)?,
            Err(e) => tracing::warn!(error = %e, "read what waits in the spool"),
        }
        Ok(())
    }
}
