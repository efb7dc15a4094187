//! The real program with real sockets.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use lagmesh_model::status::FleetStatus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_lagmesh-collector");

pub(crate) const FLEET: &str = r#"
name = "demo"
[[region]]
name = "a"
[[region.agent]]
mesh = "127.0.0.1:9001"
[[region]]
name = "b"
[[region.agent]]
mesh = "127.0.0.1:9002"
[[cluster]]
name = "app"
[[cluster.node]]
name = "a-db"
region = "a"
dsn = "host=127.0.0.1 user=lagmesh"
[[collector]]
name = "main"
otlp = "http://127.0.0.1:4318"
"#;

/// A state folder and a fleet file.
pub(crate) struct Home {
    pub(crate) folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Home {
        rustls::crypto::ring::default_provider().install_default().ok();
        let home = Home { folder: tempfile::tempdir().unwrap() };
        home.write("fleet.toml", FLEET);
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// The program on free ports, told by the environment; `more` arguments go before that.
    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env_clear().env("LAGMESH_FLEET", self.path("fleet.toml")).env("LAGMESH_STATE_DIR", self.path("state"));
        command.env("LAGMESH_GRPC_LISTEN", "127.0.0.1:0").env("LAGMESH_HTTP_LISTEN", "127.0.0.1:0");
        command.env("LAGMESH_LOG_FORMAT", "json").args(more);
        command
    }

    /// Runs the program to its end.
    pub(crate) fn output(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    /// Starts the program.
    pub(crate) fn start(&self, more: &[&str]) -> Collector {
        let mut child = self.command(more).stderr(Stdio::piped()).spawn().unwrap();
        let (told, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if line.contains("\"started\"") {
                    told.send(line).ok();
                } else {
                    eprintln!("{line}");
                }
            }
        });
        let started = lines.recv_timeout(PATIENCE).expect("the collector says that it has started");
        let started: serde_json::Value = serde_json::from_str(&started).unwrap();
        let address = |name: &str| started[name].as_str().unwrap().parse().unwrap();
        Collector { grpc: address("grpc"), http: address("http"), child }
    }
}

/// A running collector; killed when dropped.
pub(crate) struct Collector {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    child: Child,
}

impl Collector {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        reqwest::get(self.url(path)).await.unwrap().text().await.unwrap()
    }

    pub(crate) async fn status(&self) -> FleetStatus {
        serde_json::from_str(&self.get("/v1/status").await).unwrap()
    }

    /// Waits until the status is as it should be; it is made twice a second.
    pub(crate) async fn until_status(&self, right: impl Fn(&FleetStatus) -> bool) -> FleetStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if right(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{status:#?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A line of `/metrics` without its name and labels.
    pub(crate) async fn metric(&self, name_and_labels: &str) -> Option<f64> {
        let text = self.get("/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.trim().parse().ok())
    }

    /// Waits until a line of `/metrics` has a value.
    pub(crate) async fn until_metric(&self, name_and_labels: &str, value: f64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.metric(name_and_labels).await;
            if found == Some(value) {
                return;
            }
            assert!(Instant::now() < end, "{name_and_labels} is {found:?}, not {value}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "still running after SIGTERM");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn store(home: &Home) -> PathBuf {
    Path::new(&home.path("state")).join("collector.db")
}
