//! A whole process under a service manager that is played by the test: environment, signals, exit codes.
//!
//! The child is this same test program, told by the environment to be one.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lagmesh_daemon::{Clock, Readiness, Shutdown, Supervisor, Watchdog, cancel_on_signal, exit, logging, notify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Set in the child; says what it should do when it is asked to stop.
const ROLE: &str = "LAGMESH_TEST_CHILD";
/// How long the test waits for anything; only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Started by the service manager: ready, fed by progress, stopped by SIGTERM, exit code 0.
#[test]
fn lives_and_stops_as_the_service_manager_expects() {
    if std::env::var_os(ROLE).is_some() {
        child();
    }
    let mut process = Process::start("lives_and_stops_as_the_service_manager_expects", "obey");
    process.expect("READY=1");
    process.expect("WATCHDOG=1");
    process.expect("STATUS=1 part");
    process.send(Signal::SIGTERM);
    process.expect("STOPPING=1");
    let (code, log) = process.end();
    assert_eq!(code, Some(exit::OK.into()), "{log}");
    assert!(log.contains(r#""message":"asked to stop""#) && log.contains(r#""signal":"SIGTERM""#), "{log}");
}

/// Whoever asks twice gets an end at once, with a code that says so.
#[test]
fn a_second_signal_ends_at_once() {
    if std::env::var_os(ROLE).is_some() {
        child();
    }
    let mut process = Process::start("a_second_signal_ends_at_once", "ignore");
    process.expect("READY=1");
    process.send(Signal::SIGINT);
    process.expect("STOPPING=1");
    process.send(Signal::SIGTERM);
    let (code, log) = process.end();
    assert_eq!(code, Some(exit::FORCED.into()), "{log}");
}

/// A task that panics takes the process down with its name in the log, as JSON.
#[test]
fn a_panic_is_named_and_fatal() {
    if std::env::var_os(ROLE).is_some() {
        child();
    }
    let process = Process::start("a_panic_is_named_and_fatal", "panic");
    let (code, log) = process.end();
    assert_eq!(code, Some(exit::SOFTWARE.into()), "{log}");
    assert!(log.contains("task work ended early: panicked: out of luck"), "{log}");
    let panicked = log.lines().find(|line| line.contains(r#""message":"out of luck""#)).unwrap_or_else(|| panic!("{log}"));
    assert!(panicked.starts_with('{') && panicked.contains("process.rs"), "{panicked}");
}

/// A daemon as small as it can be.
fn child() -> ! {
    logging::init(logging::LogFormat::Json, "info");
    let role = std::env::var(ROLE).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let mut supervisor = Supervisor::new(Shutdown::new());
        cancel_on_signal(&mut supervisor);
        let (readiness, watchdog, clock) = (Readiness::new(), Watchdog::new(), Clock::new());
        let (latch, progress) = (readiness.latch("work"), watchdog.register("work", PATIENCE));
        let shutdown = supervisor.shutdown();
        supervisor.spawn("work", async move {
            assert!(role != "panic", "out of luck");
            progress.mark(clock.now());
            drop(latch);
            shutdown.cancelled().await;
            if role == "ignore" { std::future::pending().await } else { Ok(()) }
        });
        notify::spawn(&mut supervisor, readiness, watchdog).set("1 part");
        supervisor.run(PATIENCE).await
    });
    let code = match ended {
        Ok(()) => exit::OK,
        Err(ended) => {
            tracing::error!(error = %ended, "ended");
            ended.exit_code()
        }
    };
    std::process::exit(code.into())
}

/// A child, and the socket on which it reports.
struct Process {
    child: Child,
    socket: UnixDatagram,
    said: BTreeSet<String>,
    _folder: tempfile::TempDir,
}

impl Process {
    fn start(test: &str, role: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, role)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "500000")
            .env_remove("WATCHDOG_PID")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, socket, said: BTreeSet::new(), _folder: folder }
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits until the child has said `line`.
    fn expect(&mut self, line: &str) {
        let mut buffer = [0; 4096];
        while !self.said.contains(line) {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|e| panic!("waiting for {line}: {e}"));
            self.said.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
    }

    /// The exit code and the log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only a failed test leaves a child behind.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
