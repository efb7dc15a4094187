//! A running lagmesh-agent and everything it needs: a folder, a fleet file, a command line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use lagmesh_model::status::AgentStatus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Longer than anything should take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// The value that `look` finds in time.
///
/// # Panics
/// If it finds none.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        if let Some(found) = look() {
            return found;
        }
        sleep(POLL);
    }
    panic!("waited in vain for {what}");
}

/// A port that nobody uses and that stays free until this process ends.
pub(crate) fn free_port() -> u16 {
    lagmesh_tests::ports::free().unwrap()
}

/// A fleet of Dublin, where the agent of the test stands, and Tokyo, where nobody is; its database does not answer.
pub(crate) fn fleet(collectors: &[(&str, String)]) -> String {
    let (dublin, tokyo, database) = (free_port(), free_port(), free_port());
    let mut text = format!(
        r#"
name = "test"

[[region]]
name = "dublin"
[[region.agent]]
mesh = "127.0.0.1:{dublin}"

[[region]]
name = "tokyo"
[[region.agent]]
mesh = "127.0.0.1:{tokyo}"

[[cluster]]
name = "orders"
[[cluster.node]]
name = "db-dublin"
region = "dublin"
dsn = "host=127.0.0.1 port={database} dbname=orders user=lagmesh_agent"
[[cluster.node]]
name = "db-tokyo"
region = "tokyo"
dsn = "host=127.0.0.1 port={database} dbname=orders user=lagmesh_agent"

[mesh]
interval = "100ms"
deadline = "200ms"
give_up = "500ms"

[export]
interval = "200ms"
"#
    );
    for (name, otlp) in collectors {
        writeln!(text, "[[collector]]\nname = \"{name}\"\notlp = \"{otlp}\"").unwrap();
    }
    text
}

/// The folder in which an agent lives.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    /// With a fleet file.
    pub(crate) fn new(fleet: &str) -> Home {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("fleet.toml"), fleet).unwrap();
        Home { folder }
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, to be run in Dublin, with nothing of our own environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = program();
        command.arg("--fleet").arg(self.path("fleet.toml")).arg("--state-dir").arg(self.path("state"));
        command.args(["--http-listen", "127.0.0.1:0"]);
        command
    }

    /// Writes another fleet file in the place of the first.
    pub(crate) fn write_fleet(&self, fleet: &str) {
        fs::write(self.path("fleet.toml"), fleet).unwrap();
    }

    /// Starts the agent of Dublin and waits until it serves.
    pub(crate) fn start(&self, more: &[&str]) -> Agent {
        self.start_in("dublin", more)
    }

    /// Starts the agent of a region and waits until it serves.
    pub(crate) fn start_in(&self, region: &str, more: &[&str]) -> Agent {
        let log = self.path("log");
        let file = fs::File::create(&log).unwrap();
        let mut command = self.command();
        command.args(["--region", region]).args(more).stderr(file).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let http = wait_for("the agent to start", || {
            let text = fs::read_to_string(&log).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "it ended:\n{text}");
            let started = text.lines().find(|line| line.contains("started"))?;
            let (_, rest) = started.split_once("http=")?;
            rest.split_whitespace().next()?.parse().ok()
        });
        Agent { child, http, log }
    }
}

/// The program without any arguments.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lagmesh-agent"));
    command.env_clear();
    command
}

/// A running agent; killed when it is dropped.
pub(crate) struct Agent {
    child: Child,
    http: SocketAddr,
    log: PathBuf,
}

impl Agent {
    /// What a page says: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split_whitespace().nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Its status.
    pub(crate) fn status(&self) -> AgentStatus {
        let (code, body) = self.get("/v1/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The value of a series of `/metrics` whose line contains all of `parts`.
    pub(crate) fn metric(&self, parts: &[&str]) -> Option<f64> {
        let (code, text) = self.get("/metrics");
        assert_eq!(code, 200, "{text}");
        let line = text.lines().find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    /// The values of all series of `/metrics` whose line contains all of `parts`, by what stands before them.
    pub(crate) fn metrics(&self, parts: &[&str]) -> BTreeMap<String, f64> {
        let (code, text) = self.get("/metrics");
        assert_eq!(code, 200, "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    /// Asks it to read its fleet file again.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        wait_for("the agent to end", || self.child.try_wait().unwrap())
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- log of the agent ---\n{}", self.log());
        }
    }
}
