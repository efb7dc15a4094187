//! SIGTERM and SIGINT ask for an orderly shutdown; whoever asks twice does not want to wait. SIGHUP asks for the configuration to be
//! read again.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{Supervisor, exit};

/// From now on SIGTERM and SIGINT start the shutdown of `supervisor`. A second one of either ends the process at once with
/// [`exit::FORCED`], flushing nothing.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn cancel_on_signal(supervisor: &mut Supervisor) {
    let shutdown = supervisor.shutdown();
    // Installed here and not in the task, so that a signal that comes before the task first runs is not fatal.
    let signals = Signals::install();
    supervisor.spawn_companion("signals", async move {
        let mut signals = signals?;
        let first = signals.next().await;
        tracing::info!(signal = first, "asked to stop");
        shutdown.cancel();
        let second = signals.next().await;
        tracing::warn!(signal = second, code = exit::FORCED, "asked to stop again, ending at once");
        std::process::exit(exit::FORCED.into())
    });
}

/// SIGHUP, which ends nothing from the moment on at which this exists. Several that come while nobody waits count as one.
#[derive(Debug)]
pub struct Hangups {
    signal: Signal,
}

impl Hangups {
    /// Takes over the signal.
    ///
    /// # Errors
    /// If the system refuses.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn install() -> anyhow::Result<Hangups> {
        Ok(Hangups { signal: signal(SignalKind::hangup()).context("install a handler for SIGHUP")? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        if self.signal.recv().await.is_none() {
            // Signal streams have no end.
            std::future::pending::<()>().await;
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("install a signal handler");
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    /// The name of the next signal.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            Some(()) = self.terminate.recv() => "SIGTERM",
            Some(()) = self.interrupt.recv() => "SIGINT",
            // Signal streams have no end.
            else => std::future::pending().await,
        }
    }
}
