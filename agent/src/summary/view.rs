//! Who wants to see what is known asks for it: a snapshot is made for those who look, not all the time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::summary::Snapshot;

/// How many may wait for an answer at once.
const WAITING_MAX: usize = 64;
/// The summary answers between two observations: one that takes so long is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Shows what the summary knows.
#[derive(Debug, Clone)]
pub struct Viewer {
    questions: mpsc::Sender<oneshot::Sender<Arc<Snapshot>>>,
}

/// Those who look, as the summary meets them.
pub type Questions = mpsc::Receiver<oneshot::Sender<Arc<Snapshot>>>;

/// Nobody has told what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoView {
    /// Too many ask at once.
    #[error("too many ask at once; ask again")]
    Busy,
    /// The summary does not answer.
    #[error("stuck: nothing was summed up for {} s", ANSWER_MAX.as_secs())]
    Stuck,
    /// The agent ends.
    #[error("the agent is shutting down")]
    Ending,
}

impl Viewer {
    /// A viewer, and what the summary needs to serve it.
    pub fn new() -> (Viewer, Questions) {
        let (questions, waiting) = mpsc::channel(WAITING_MAX);
        (Viewer { questions }, waiting)
    }

    /// What is known now, or was moments ago.
    ///
    /// # Errors
    /// If nobody answers, with the reason.
    pub async fn look(&self) -> Result<Arc<Snapshot>, NoView> {
        let (question, answer) = oneshot::channel();
        self.questions.try_send(question).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoView::Busy,
            mpsc::error::TrySendError::Closed(_) => NoView::Ending,
        })?;
        timeout(ANSWER_MAX, answer).await.map_err(|_| NoView::Stuck)?.map_err(|_| NoView::Ending)
    }
}
