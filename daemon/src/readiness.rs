//! When the process has everything that it promised to have before it calls itself ready.
//!
//! Every part takes a [`Latch`] before the process starts to run and drops it when it is done; the process is ready when
//! no latch is held. What nobody holds cannot be forgotten half-way.

use std::collections::BTreeMap;

use tokio::sync::watch;

/// What the process still waits for before it is ready. Clones share one state.
#[derive(Debug, Clone)]
pub struct Readiness {
    waiting: watch::Sender<Waiting>,
}

/// Held while something is not done; dropping it says that it is done.
#[derive(Debug)]
#[must_use = "dropping a latch says that its part is ready"]
pub struct Latch {
    id: u64,
    waiting: watch::Sender<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next_id: u64,
    held: BTreeMap<u64, String>,
}

impl Readiness {
    /// Ready until the first latch is taken, so take all latches before anyone asks.
    pub fn new() -> Self {
        Self { waiting: watch::Sender::new(Waiting::default()) }
    }

    /// From now on the process is not ready until the returned latch is dropped. `what` completes "waiting for ...".
    pub fn latch(&self, what: impl Into<String>) -> Latch {
        let mut id = 0;
        self.waiting.send_modify(|waiting| {
            id = waiting.next_id;
            waiting.next_id += 1;
            waiting.held.insert(id, what.into());
        });
        Latch { id, waiting: self.waiting.clone() }
    }

    /// Whether no latch is held.
    pub fn is_ready(&self) -> bool {
        self.waiting.borrow().held.is_empty()
    }

    /// What is still waited for, oldest first.
    pub fn waiting_for(&self) -> Vec<String> {
        self.waiting.borrow().held.values().cloned().collect()
    }

    /// Ends once no latch is held.
    pub async fn ready(&self) {
        let mut changes = self.waiting.subscribe();
        // The only error is that all senders are gone, and `self` is one.
        changes.wait_for(|waiting| waiting.held.is_empty()).await.ok();
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.waiting.send_modify(|waiting| {
            waiting.held.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ready means that every latch was dropped, wherever its holder ended; two parts may have one name.
    #[tokio::test]
    async fn ready_when_the_last_latch_is_dropped() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let round = readiness.latch("first probe round");
        let listeners = [readiness.latch("listener"), readiness.latch("listener")];
        assert_eq!(readiness.waiting_for(), ["first probe round", "listener", "listener"]);

        let shared = readiness.clone();
        let waiter = tokio::spawn(async move { shared.ready().await });
        drop(round);
        tokio::task::yield_now().await;
        assert!(!readiness.is_ready() && !waiter.is_finished());

        drop(listeners);
        waiter.await.unwrap();
        assert!(readiness.is_ready() && readiness.waiting_for().is_empty());
    }
}
