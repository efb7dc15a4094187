//! The durable queue: each snapshot is on the disk before anyone tries to send it, and stays there until every target has it or a bound
//! drops it.
//!
//! One thread owns the file. Others ask it through a short queue and watch what waits.

mod table;

use std::time::Duration;

use lagmesh_daemon::Supervisor;
use lagmesh_model::ids::TargetName;
use lagmesh_model::series::Series;
use lagmesh_model::time::Reading;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::plan::Outcome;
use super::points::pack;
pub(crate) use table::{Bounds, Level, Levels, SnapshotId, Table, Waiting};

/// How many requests may wait for the disk. Each who asks waits for the answer, so it is reached only when the disk hangs.
const REQUESTS: usize = 64;
/// A disk that hangs for longer than this is treated as one that fails.
const DISK_DEADLINE: Duration = Duration::from_secs(30);

/// A handle on the queue. The thread ends when the last one is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    requests: mpsc::Sender<Request>,
    levels: watch::Receiver<Levels>,
}

/// The queue did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    /// No answer in time.
    #[error("the queue has not answered within {DISK_DEADLINE:?}: the disk hangs")]
    Hangs,
    /// Its thread has ended.
    #[error("the queue has ended")]
    Ended,
    /// It could not read or write.
    #[error("queue: {0}")]
    Disk(#[from] rusqlite::Error),
}

#[derive(Debug)]
enum Request {
    Append(Vec<Series>, Reading, oneshot::Sender<()>),
    Fetch(TargetName, oneshot::Sender<rusqlite::Result<Option<Waiting>>>),
    Settle(TargetName, SnapshotId, Outcome, oneshot::Sender<rusqlite::Result<()>>),
}

impl Queue {
    /// Puts a table on a thread of its own, named `forward queue`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(table: Table, supervisor: &mut Supervisor) -> anyhow::Result<Queue> {
        let (requests, asked) = mpsc::channel(REQUESTS);
        let (told, levels) = watch::channel(table.levels());
        supervisor.spawn_thread("forward queue", move || {
            run(table, asked, &told);
            Ok(())
        })?;
        Ok(Queue { requests, levels })
    }

    /// What waits for each target and what became of the rest, and news of it.
    pub(crate) fn levels(&self) -> watch::Receiver<Levels> {
        self.levels.clone()
    }

    /// Appends the series as a snapshot that was made at `made`. When this returns they are on the disk, or counted as lost.
    ///
    /// # Errors
    /// If the queue does not answer.
    pub(crate) async fn append(&self, series: Vec<Series>, made: Reading) -> Result<(), Unavailable> {
        let (answer, kept) = oneshot::channel();
        self.ask(Request::Append(series, made, answer), kept).await
    }

    /// The next snapshot for a target, if any waits.
    ///
    /// # Errors
    /// If the queue does not answer or cannot read.
    pub(crate) async fn fetch(&self, target: &TargetName) -> Result<Option<Waiting>, Unavailable> {
        let (answer, next) = oneshot::channel();
        Ok(self.ask(Request::Fetch(target.clone(), answer), next).await??)
    }

    /// Says what became of a snapshot at a target; when this returns, the disk knows it.
    ///
    /// # Errors
    /// If the queue does not answer or cannot write.
    pub(crate) async fn settle(&self, target: &TargetName, id: SnapshotId, outcome: Outcome) -> Result<(), Unavailable> {
        let (answer, settled) = oneshot::channel();
        Ok(self.ask(Request::Settle(target.clone(), id, outcome, answer), settled).await??)
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T, Unavailable> {
        let exchange = async {
            self.requests.send(request).await.map_err(|_| Unavailable::Ended)?;
            answer.await.map_err(|_| Unavailable::Ended)
        };
        timeout(DISK_DEADLINE, exchange).await.map_err(|_| Unavailable::Hangs)?
    }
}

/// The thread. What others see is brought up to date before the answer, so that nobody acts on what was before it.
fn run(mut table: Table, mut asked: mpsc::Receiver<Request>, told: &watch::Sender<Levels>) {
    while let Some(request) = asked.blocking_recv() {
        // Whoever has asked may have given up waiting; the work is done all the same.
        match request {
            Request::Append(series, made, answer) => {
                let (body, points) = pack(series);
                table.append(&body, points, made);
                told.send_replace(table.levels());
                answer.send(()).ok();
            }
            Request::Fetch(target, answer) => {
                let next = table.fetch(&target);
                if next.is_err() {
                    told.send_replace(table.levels());
                }
                answer.send(next).ok();
            }
            Request::Settle(target, id, outcome, answer) => {
                let settled = table.settle(&target, id, &outcome);
                told.send_replace(table.levels());
                answer.send(settled).ok();
            }
        }
    }
}
