//! Tasks that come and go within one supervised task, under the same rules: each has a name, none ends unnoticed, and all are joined.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::Shutdown;
use crate::supervise::{End, Ended, Tasks};

/// Named tasks of which each can be ended by itself. Dropping it aborts them.
#[derive(Debug)]
pub struct Crew {
    shutdown: Shutdown,
    tasks: Tasks,
    members: BTreeMap<String, Member>,
}

#[derive(Debug)]
struct Member {
    stop: Shutdown,
    handle: AbortHandle,
}

impl Crew {
    /// Nobody yet; all will end once `shutdown` is cancelled.
    pub fn new(shutdown: Shutdown) -> Crew {
        Crew { shutdown, tasks: Tasks::default(), members: BTreeMap::new() }
    }

    /// Runs a task at once. It must go on until the token that it is given is cancelled, and then end by itself.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn<F>(&mut self, name: impl Into<String>, task: impl FnOnce(Shutdown) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (name, stop) = (name.into(), self.shutdown.child_token());
        let handle = self.tasks.spawn(name.clone(), task(stop.clone()));
        self.members.insert(name, Member { stop, handle });
    }

    /// Ends one task and joins it; what still runs after `patience` is aborted.
    ///
    /// # Errors
    /// If it fails, or another one ends early.
    pub async fn end(&mut self, name: &str, patience: Duration) -> Result<(), Ended> {
        let Some(Member { stop, handle }) = self.members.remove(name) else { return Ok(()) };
        stop.cancel();
        let mut deadline = Some(Instant::now() + patience);
        loop {
            let next = match deadline {
                Some(at) => timeout_at(at, self.tasks.next_end()).await,
                None => Ok(self.tasks.next_end().await),
            };
            match next {
                Ok(None) => return Ok(()),
                Ok(Some(End { name: task, result })) if task == name => {
                    let is_aborted = deadline.is_none();
                    return result.or_else(|error| if is_aborted { Ok(()) } else { Err(Ended::Failed { task, error }) });
                }
                Ok(Some(End { name: task, result })) => return Err(Ended::Early { task, result }),
                Err(_) => {
                    tracing::warn!(task = name, ?patience, "task did not end in time, aborted");
                    handle.abort();
                    deadline = None;
                }
            }
        }
    }

    /// Waits until one of them ends, which none must. Where it is given up nothing is lost.
    pub async fn early(&mut self) -> Ended {
        match self.tasks.next_end().await {
            Some(End { name: task, result }) => Ended::Early { task, result },
            None => std::future::pending().await,
        }
    }

    /// Joins all of them, after shutdown. The supervisor's own deadline says for how long.
    ///
    /// # Errors
    /// If one of them fails.
    pub async fn join(mut self) -> Result<(), Ended> {
        while let Some(End { name: task, result }) = self.tasks.next_end().await {
            result.map_err(|error| Ended::Failed { task, error })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    async fn until(stop: Shutdown) -> anyhow::Result<()> {
        stop.cancelled().await;
        Ok(())
    }

    /// Ending one leaves the others running; shutdown ends and joins those.
    #[tokio::test(start_paused = true)]
    async fn one_by_one() {
        let shutdown = Shutdown::new();
        let mut crew = Crew::new(shutdown.clone());
        crew.spawn("a", until);
        crew.spawn("b", until);
        crew.end("a", PATIENCE).await.unwrap();
        crew.end("nobody", PATIENCE).await.unwrap();
        assert_eq!(crew.tasks.names.values().collect::<Vec<_>>(), ["b"]);
        crew.spawn("a", until);
        shutdown.cancel();
        crew.join().await.unwrap();
    }

    /// Who does not end when asked to is aborted, and still joined.
    #[tokio::test(start_paused = true)]
    async fn patience_has_an_end() {
        let mut crew = Crew::new(Shutdown::new());
        crew.spawn("deaf", |_| std::future::pending());
        let asked = Instant::now();
        crew.end("deaf", PATIENCE).await.unwrap();
        assert_eq!(asked.elapsed(), PATIENCE);
        assert!(crew.tasks.names.is_empty());
    }

    /// Who ends unasked is named, also while another one is being ended.
    #[tokio::test(start_paused = true)]
    async fn early_ends_are_named() {
        let mut crew = Crew::new(Shutdown::new());
        crew.spawn("short", |_| async { Ok(()) });
        assert!(matches!(crew.early().await, Ended::Early { task, .. } if task == "short"));
        crew.spawn("deaf", |_| std::future::pending());
        crew.spawn("short", |_| async { anyhow::bail!("broken") });
        let ended = crew.end("deaf", PATIENCE).await;
        assert!(matches!(ended, Err(Ended::Early { task, .. }) if task == "short"));
    }
}
