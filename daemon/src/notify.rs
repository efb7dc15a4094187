//! What the service manager is told (`sd_notify(3)`): ready, what we wait for, still making progress, stopping.
//!
//! Without a service manager nothing is sent, but a stall is still logged.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::progress::Stalled;
use crate::{Readiness, Shutdown, Supervisor, Watchdog};

/// The service manager, as it introduces itself through the environment.
#[derive(Debug)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

/// A line about the process for `systemctl status`. Clones set the same line.
#[derive(Debug, Clone, Default)]
pub struct StatusLine {
    text: Arc<Mutex<String>>,
}

/// How often to look at readiness, progress and the status line, unless the watchdog needs it more often.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How often the watchdog is fed within its interval. `sd_watchdog_enabled(3)` asks for twice; one may get lost.
const FEEDS_PER_INTERVAL: u32 = 3;

/// Keeps the service manager of this process informed until shutdown, as the supervised task `notify`. The returned line
/// is shown once the process is ready.
///
/// READY=1 is sent when `readiness` holds no latch, so all latches must have been taken before.
pub fn spawn(supervisor: &mut Supervisor, readiness: Readiness, watchdog: Watchdog) -> StatusLine {
    let manager = Manager::from_environment().unwrap_or_else(|e| {
        tracing::warn!(error = %e, "cannot reach the service manager, it will not learn that we are ready");
        Manager::none()
    });
    spawn_to(manager, supervisor, readiness, watchdog)
}

/// The same for a given service manager.
pub fn spawn_to(manager: Manager, supervisor: &mut Supervisor, readiness: Readiness, watchdog: Watchdog) -> StatusLine {
    let line = StatusLine::default();
    let period = manager.period();
    let reporter = Reporter {
        readiness,
        watchdog,
        period,
        line: line.clone(),
        told_ready: false,
        told_status: String::new(),
        was_stalled: false,
    };
    supervisor.spawn("notify", run(manager, reporter, supervisor.shutdown()));
    line
}

async fn run(manager: Manager, mut reporter: Reporter, shutdown: Shutdown) -> anyhow::Result<()> {
    let readiness = reporter.readiness.clone();
    let mut tick = interval(reporter.period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Readiness is told at once, but once only: a service manager that does not listen is told again at the next tick.
    let mut seen_ready = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            _ = tick.tick() => {}
            () = readiness.ready(), if !seen_ready => seen_ready = true,
        }
        reporter.report(&manager, Instant::now());
    }
    manager.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    Ok(())
}

impl StatusLine {
    /// What `systemctl status` shows of this process while it is ready and makes progress.
    pub fn set(&self, text: impl Into<String>) {
        // The service manager reads lines; a second one would be taken for a message of its own.
        *self.lock() = text.into().replace(['\n', '\r'], " ");
    }

    fn get(&self) -> String {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Manager {
    /// The service manager that started this process, if one did and wants to hear from it (`NOTIFY_SOCKET`,
    /// `WATCHDOG_USEC`).
    ///
    /// # Errors
    /// If it named a socket that cannot be reached.
    pub fn from_environment() -> io::Result<Self> {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Self::none()) };
        Self::at(&address, sd_notify::watchdog_enabled())
    }

    /// The service manager at a socket: a path, or an abstract address that starts with `@`. It expects to hear of
    /// progress at least once per `watchdog`.
    ///
    /// # Errors
    /// If the socket cannot be reached.
    pub fn at(address: &OsString, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A service manager that does not read must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(socket), watchdog })
    }

    /// Nobody to tell.
    pub fn none() -> Self {
        Self { socket: None, watchdog: None }
    }

    fn period(&self) -> Duration {
        let feed = self.watchdog.map(|interval| interval / FEEDS_PER_INTERVAL).filter(|feed| !feed.is_zero());
        feed.map_or(LOOK_PERIOD, |feed| feed.min(LOOK_PERIOD))
    }

    /// Sends all of `states` as one message; whether it was sent. Nobody to tell counts as told.
    fn tell(&self, states: &[NotifyState<'_>]) -> bool {
        let Some(socket) = &self.socket else { return true };
        let mut message = String::new();
        for state in states {
            writeln!(message, "{state}").expect("writing to a string does not fail");
        }
        match socket.send(message.as_bytes()) {
            Ok(_) => true,
            Err(e) => {
                tracing::debug!(error = %e, "tell the service manager");
                false
            }
        }
    }
}

/// Remembers what has been said, so that each thing is said once.
#[derive(Debug)]
struct Reporter {
    readiness: Readiness,
    watchdog: Watchdog,
    period: Duration,
    line: StatusLine,
    told_ready: bool,
    told_status: String,
    was_stalled: bool,
}

impl Reporter {
    fn report(&mut self, manager: &Manager, now: Instant) {
        let stalled = self.watchdog.stalled(now, self.period);
        self.log_stall(&stalled);
        let ready = !self.told_ready && self.readiness.is_ready();
        let status = self.status(&stalled);

        let mut facts = Vec::new();
        if ready {
            facts.push(NotifyState::Ready);
        }
        if status != self.told_status {
            facts.push(NotifyState::Status(&status));
        }
        if manager.watchdog.is_some() && stalled.is_empty() {
            facts.push(NotifyState::Watchdog);
        }
        if facts.is_empty() || !manager.tell(&facts) {
            return;
        }
        if ready {
            tracing::info!("ready");
        }
        self.told_ready |= ready;
        self.told_status = status;
    }

    fn status(&self, stalled: &[Stalled]) -> String {
        let waiting_for = self.readiness.waiting_for();
        if !stalled.is_empty() {
            let parts: Vec<_> = stalled.iter().map(|part| format!("{} (limit {:?})", part.part, part.within)).collect();
            return format!("no progress: {}", parts.join(", "));
        }
        if !waiting_for.is_empty() {
            return format!("waiting for {}", waiting_for.join(", "));
        }
        let line = self.line.get();
        if line.is_empty() { "ready".to_owned() } else { line }
    }

    fn log_stall(&mut self, stalled: &[Stalled]) {
        let is_stalled = !stalled.is_empty();
        if is_stalled && !self.was_stalled {
            let parts: Vec<_> = stalled.iter().map(|part| part.part.as_str()).collect();
            tracing::error!(parts = parts.join(", "), "no progress, the watchdog is no longer fed");
        } else if self.was_stalled && !is_stalled {
            tracing::info!("progress again, the watchdog is fed");
        }
        self.was_stalled = is_stalled;
    }
}

#[cfg(test)]
mod tests;
