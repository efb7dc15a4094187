//! One owner for everything that runs: tasks and threads have names, none of them ends unnoticed, and all of them end
//! under one deadline.
//!
//! A task that ends before shutdown was asked for is fatal, even if it ends well: a daemon that has lost a part must not
//! go on half alive. On shutdown the flow runs dry: sources stop, each stage ends when its input closes, the last one
//! flushes.

pub mod crew;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument as _;

use crate::logging::panic_text;
use crate::{Shutdown, exit};

/// Runs named tasks and threads until one of them ends or shutdown is asked for, then ends them all.
#[derive(Debug)]
pub struct Supervisor {
    shutdown: Shutdown,
    tasks: Tasks,
    /// Tasks that serve the others until the last of them has ended, such as the one that waits for signals.
    companions: Tasks,
}

/// Why a process ended other than by an orderly shutdown.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// A task ended although nobody had asked for it.
    #[error("task {task} ended early: {}", Outcome(result))]
    Early {
        /// The name of the task.
        task: String,
        /// What it ended with; a panic is an error that says so.
        result: anyhow::Result<()>,
    },
    /// Tasks were still running at the deadline of the shutdown and were aborted. (Threads cannot be; they end with the
    /// process.)
    #[error("tasks still running at the deadline of the shutdown: {}", tasks.join(", "))]
    Overdue {
        /// Their names.
        tasks: Vec<String>,
    },
    /// A task could not finish its work during an otherwise orderly shutdown.
    #[error("task {task} failed during shutdown: {error:#}")]
    Failed {
        /// The name of the task.
        task: String,
        /// What went wrong.
        error: anyhow::Error,
    },
}

impl Ended {
    /// The code with which the process should end: all of these are our own failure.
    pub fn exit_code(&self) -> u8 {
        exit::SOFTWARE
    }
}

/// A task panicked, and this is what it said.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub struct Panicked(pub String);

/// How long an aborted task may take to be torn down before the process no longer waits for it.
const ABORT_GRACE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Ends its tasks once `shutdown` is cancelled, and cancels it when a task ends early.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tasks: Tasks::default(), companions: Tasks::default() }
    }

    /// The token whose cancellation means: wind down. For tasks to wait on, and to ask for shutdown.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Runs `task` at once. It must go on until shutdown and then end by itself; an `Err` means that we are broken.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.tasks.spawn(name.into(), task);
    }

    /// Runs `body` on a thread of its own, under the same rules as a task. `body` must look at the shutdown token itself:
    /// a thread cannot be aborted.
    ///
    /// # Errors
    /// If the system gives no further thread.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn_thread(
        &mut self,
        name: impl Into<String>,
        body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let name = name.into();
        let span = tracing::error_span!("thread", name);
        let (ended, end) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let result = span.in_scope(body);
                // Nobody listens if the thread was overdue.
                ended.send(result).ok();
            })
            .with_context(|| format!("start thread {name}"))?;
        self.tasks.spawn(name, async move {
            match end.await {
                Ok(result) => result,
                // The sender was dropped by unwinding, so the thread is about to end and joining it does not block.
                Err(_) => match thread.join() {
                    Ok(()) => Ok(()),
                    Err(payload) => Err(Panicked(panic_text(payload.as_ref()).to_owned()).into()),
                },
            }
        });
        Ok(())
    }

    /// Runs a task that serves the others: it is ended after the last of them, and waited for by nobody.
    pub(crate) fn spawn_companion(&mut self, name: &str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.companions.spawn(name.to_owned(), task);
    }

    /// Waits until shutdown is asked for or a task ends early, then cancels the token and joins all tasks under `deadline`.
    ///
    /// # Errors
    /// If a task ended early (first of all: it is the cause of what follows), was overdue, or failed while winding down.
    /// What does not fit into the one error is logged.
    pub async fn run(mut self, deadline: Duration) -> Result<(), Ended> {
        let end = self.first_end().await;
        // A task that ends with an error just when somebody asks for shutdown has failed, but not early.
        let (early, failed) = if self.shutdown.is_cancelled() { (None, end) } else { (end, None) };
        self.shutdown.cancel();
        if let Some(task) = &early {
            tracing::warn!(task = task.name, outcome = %Outcome(&task.result), "task ended early, shutting down");
        } else {
            tracing::info!(?deadline, "shutting down");
        }
        let mut drained = self.tasks.drain(Instant::now() + deadline).await;
        drained.failed.extend(failed);
        self.companions.abort_all().await;
        let shutdown = drained.into_result();
        let Some(End { name: task, result }) = early else { return shutdown };
        if let Err(second) = shutdown {
            tracing::error!(error = %second, "shutdown was not clean either");
        }
        Err(Ended::Early { task, result })
    }

    /// The first task that ends, or `None` once somebody asks for shutdown.
    async fn first_end(&mut self) -> Option<End> {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            Some(end) = self.tasks.next_end() => Some(end),
            Some(end) = self.companions.next_end() => Some(end),
            else => {
                self.shutdown.cancelled().await;
                None
            }
        }
    }
}

/// A set of tasks that knows their names.
#[derive(Debug, Default)]
struct Tasks {
    running: JoinSet<anyhow::Result<()>>,
    names: BTreeMap<Id, String>,
}

/// How a task ended.
#[derive(Debug)]
struct End {
    name: String,
    result: anyhow::Result<()>,
}

/// What came of a shutdown.
#[derive(Debug, Default)]
struct Drained {
    failed: Vec<End>,
    overdue: Vec<String>,
}

impl Tasks {
    fn spawn(&mut self, name: String, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> AbortHandle {
        let span = tracing::error_span!(parent: None, "task", name);
        let handle = self.running.spawn(task.instrument(span));
        self.names.insert(handle.id(), name);
        handle
    }

    async fn next_end(&mut self) -> Option<End> {
        let (id, result) = match self.running.join_next_with_id().await? {
            Ok(ended) => ended,
            Err(e) => (e.id(), Err(died(e))),
        };
        let name = self.names.remove(&id).expect("every task is spawned with a name and joined once");
        Some(End { name, result })
    }

    /// Joins all tasks; at `deadline` it aborts those that are left.
    async fn drain(&mut self, deadline: Instant) -> Drained {
        let mut drained = Drained::default();
        loop {
            match timeout_at(deadline, self.next_end()).await {
                Ok(None) => return drained,
                Ok(Some(end)) if end.result.is_err() => drained.failed.push(end),
                Ok(Some(end)) => tracing::debug!(task = end.name, "task ended"),
                Err(_) => break,
            }
        }
        drained.overdue = self.names.values().cloned().collect();
        self.abort_all().await;
        drained
    }

    async fn abort_all(&mut self) {
        // A task that blocks its thread is never torn down; the process ends without it.
        timeout(ABORT_GRACE, self.running.shutdown()).await.ok();
        self.names.clear();
    }
}

impl Drained {
    fn into_result(self) -> Result<(), Ended> {
        let mut ended = if self.overdue.is_empty() { Ok(()) } else { Err(Ended::Overdue { tasks: self.overdue }) };
        for End { name: task, result } in self.failed {
            let Err(error) = result else { continue };
            if ended.is_ok() {
                ended = Err(Ended::Failed { task, error });
            } else {
                tracing::error!(task, error = format!("{error:#}"), "task failed during shutdown");
            }
        }
        ended
    }
}

/// Only a panic is possible: nobody aborts a task before it is no longer joined.
fn died(e: JoinError) -> anyhow::Error {
    match e.try_into_panic() {
        Ok(payload) => Panicked(panic_text(payload.as_ref()).to_owned()).into(),
        Err(e) => e.into(),
    }
}

/// What a task ended with, in words.
struct Outcome<'a>(&'a anyhow::Result<()>);

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(()) => f.write_str("it returned, which it must not before shutdown"),
            Err(e) => write!(f, "{e:#}"),
        }
    }
}

#[cfg(test)]
mod tests;
