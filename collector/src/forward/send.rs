//! The task that passes on to one target, snapshot after snapshot.

use std::time::Duration;

use lagmesh_daemon::Shutdown;
use lagmesh_model::ids::TargetName;
use lagmesh_model::state::ForwardState;
use tokio::sync::watch;
use tokio::time::sleep;

use super::answer::{Answer, Reason};
use super::board::Board;
use super::plan::{Outcome, Pace, Plan, Step};
use super::points::{Point, points, unpack};
use super::post::Client;
use super::queue::{Levels, Queue, Waiting};

/// How many plain samples one request holds at most: well below what receivers take, and enough that few requests are needed.
const WEIGHT_MAX: usize = 5000;
/// How long to wait when the queue itself does not answer.
const QUEUE_PAUSE: Duration = Duration::from_secs(1);

/// What passes on to one target.
#[derive(Debug)]
pub(super) struct Sender {
    target: TargetName,
    client: Client,
    queue: Queue,
    levels: watch::Receiver<Levels>,
    board: Board,
    pace: Pace,
    /// What went wrong last.
    trouble: Option<String>,
}

/// How a snapshot ended.
enum End {
    Done(Outcome),
    /// A bound has dropped it in the meantime.
    Gone,
    Shutdown,
}

impl Sender {
    pub(super) fn new(target: TargetName, client: Client, queue: Queue, board: Board, pace: Pace) -> Sender {
        let levels = queue.levels();
        Sender { target, client, queue, levels, board, pace, trouble: None }
    }

    pub(super) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        while !shutdown.is_cancelled() {
            if self.oldest().is_none() {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = self.news() => {}
                }
                continue;
            }
            let queue = self.queue.clone();
            let passed = match queue.fetch(&self.target).await {
                Ok(Some(waiting)) => {
                    let id = waiting.id;
                    match self.pass_on(waiting, &shutdown).await {
                        End::Done(outcome) => queue.settle(&self.target, id, outcome).await,
                        End::Gone | End::Shutdown => Ok(()),
                    }
                }
                Ok(None) => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = passed {
                tracing::warn!(target = %self.target, error = %e, "forward queue");
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = sleep(QUEUE_PAUSE) => {}
                }
            }
        }
        Ok(())
    }

    /// Sends a snapshot part by part until each was taken or given up. A part that was under way at a shutdown is sent again by the next
    /// run: values of the same series and moment are the same.
    async fn pass_on(&mut self, waiting: Waiting, shutdown: &Shutdown) -> End {
        let Some(points) = read(&waiting) else {
            tracing::error!(target = %self.target, points = waiting.points, "a snapshot in the forward queue cannot be read");
            return End::Done(Outcome { taken: 0, lost: [(Reason::Corrupt, waiting.points)].into() });
        };
        let mut plan = Plan::new(points.iter().map(|point| self.client.weight(point)), WEIGHT_MAX);
        while let Some(part) = plan.next() {
            let answer = tokio::select! {
                () = shutdown.cancelled() => return End::Shutdown,
                answer = self.client.post(&points[part], waiting.stamp_ms) => answer,
            };
            tracing::debug!(target = %self.target, stamp_ms = waiting.stamp_ms, ?answer, "passed on a part");
            let step = plan.answered(&answer);
            self.tell(step, &answer);
            let Some(wait) = self.pace.wait(step) else { continue };
            tokio::select! {
                () = shutdown.cancelled() => return End::Shutdown,
                () = sleep(wait) => {}
            }
            if self.oldest() != Some(waiting.id) {
                return End::Gone;
            }
        }
        End::Done(plan.outcome())
    }

    fn oldest(&mut self) -> Option<super::queue::SnapshotId> {
        self.levels.borrow_and_update().get(&self.target).and_then(|level| level.oldest)
    }

    async fn news(&mut self) {
        if self.levels.changed().await.is_err() {
            // The queue has ended, which ends the process.
            std::future::pending::<()>().await;
        }
    }

    /// Shows how it went, and logs it if it went otherwise than before.
    fn tell(&mut self, step: Step, answer: &Answer) {
        let state = match step {
            Step::GoOn => ForwardState::Delivering,
            Step::Wait(_) => ForwardState::Retrying,
            Step::WaitLong => ForwardState::Misconfigured,
        };
        let is_news = self.board.tell(&self.target, state);
        let trouble = answer.trouble().map(str::to_owned);
        let (target, url) = (&self.target, self.client.url());
        match (&trouble, state) {
            (Some(why), ForwardState::Delivering) if self.trouble != trouble => {
                tracing::error!(%target, url, why, "target does not take everything; what it refuses for good is lost");
            }
            (Some(why), ForwardState::Misconfigured) if is_news => {
                tracing::error!(%target, url, why, "target cannot be passed on to: check its url and --forward-headers-file");
            }
            (Some(why), ForwardState::Retrying) if is_news => {
                tracing::warn!(%target, url, why, "target does not take anything now");
            }
            (None, _) if is_news => {
                tracing::info!(%target, url, "target takes what it is given");
            }
            _ => {}
        }
        // A refusal among what is taken is no news each time it comes again.
        if trouble.is_some() || is_news {
            self.trouble = trouble;
        }
    }
}

/// What a snapshot tells the target; `None` if it cannot be read. That the one before cannot be read costs ends, no values.
fn read(waiting: &Waiting) -> Option<Vec<Point>> {
    let before = waiting.before.as_deref().and_then(unpack).unwrap_or_default();
    Some(points(&before, unpack(&waiting.body)?))
}
