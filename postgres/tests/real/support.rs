//! A PostgreSQL server of one test's own: made in a folder of its own, stopped and removed when the test ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use lagmesh_postgres::{ConnInfo, ConnectError, Connection, connect};

/// Longer than anything that works takes on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a new server starts with, beside what makes it quick.
#[derive(Default)]
pub(crate) struct Settings<'s> {
    /// Lines for postgresql.conf.
    pub(crate) conf: &'s str,
    /// The whole `pg_hba.conf`; empty: trust everyone.
    pub(crate) hba: &'s str,
}

pub(crate) struct Server {
    folder: tempfile::TempDir,
    pub(crate) port: u16,
}

impl Server {
    /// Makes and starts a server with a superuser `postgres`.
    pub(crate) fn start(settings: &Settings<'_>) -> Server {
        let server = Server::folder();
        let data = server.data();
        run(server
            .postgres("initdb")
            .args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data));
        let conf = format!("fsync = off\nwal_level = logical\nhot_standby = on\nmax_connections = 40\n{}\n", settings.conf);
        server.append("postgresql.conf", &conf);
        if !settings.hba.is_empty() {
            server.write("pg_hba.conf", &format!("local all postgres trust\n{}\n", settings.hba));
        }
        server.up();
        server
    }

    /// A streaming standby of this server, with its own name as `application_name`.
    pub(crate) fn standby(&self, name: &str, conf: &str) -> Server {
        let standby = Server::folder();
        let source = format!("host=127.0.0.1 port={} user=postgres application_name={name}", self.port);
        run(standby.postgres("pg_basebackup").args(["-d", &source, "-R", "-c", "fast", "--no-sync", "-D"]).arg(standby.data()));
        standby.append("postgresql.conf", conf);
        standby.up();
        standby
    }

    fn folder() -> Server {
        let folder = tempfile::Builder::new().prefix("lagmesh-pg-").tempdir_in("/tmp").expect("a folder in /tmp");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(folder.path()));
        }
        Server { folder, port: lagmesh_tests::ports::free().expect("a free port") }
    }

    /// The errors in the server's log so far.
    pub(crate) fn errors(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path().join("log")).expect("the server's log");
        log.lines().filter(|line| line.contains("ERROR:")).map(str::to_owned).collect()
    }

    fn up(&self) {
        let options = format!("-p {} -k {} -c listen_addresses=127.0.0.1", self.port, self.sockets().display());
        let log = self.path().join("log");
        let started = self
            .postgres("pg_ctl")
            .args(["start", "-s", "-w", "-t", "60", "-o", &options, "-l"])
            .arg(&log)
            .arg("-D")
            .arg(self.data())
            .output();
        let started = started.expect("pg_ctl runs");
        assert!(started.status.success(), "the server does not start: {}", fs::read_to_string(&log).expect("the server's log"));
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The folder of the Unix socket.
    pub(crate) fn sockets(&self) -> &Path {
        self.path()
    }

    /// A program of the server, run as the server's user.
    pub(crate) fn postgres(&self, program: &str) -> Command {
        self.command(&binaries().join(program))
    }

    /// Any program, run as the server's user in the server's folder.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.path()).env_clear().env("HOME", self.path()).env("PATH", "/usr/bin:/bin");
        command
    }

    /// Writes a file of the data folder with the server's own permissions.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).expect("a file in the data folder");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&path));
        }
        run(Command::new("chmod").arg("0600").arg(&path));
    }

    fn append(&self, name: &str, text: &str) {
        let before = fs::read_to_string(self.data().join(name)).expect("a configuration file");
        self.write(name, &format!("{before}\n{text}\n"));
    }

    /// A connection string through the Unix socket.
    pub(crate) fn local(&self, more: &str) -> String {
        format!("host={} port={} user=postgres dbname=postgres {more}", self.sockets().display(), self.port)
    }

    /// A connection string through TCP.
    pub(crate) fn tcp(&self, more: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres {more}", self.port)
    }

    /// A session of the superuser.
    pub(crate) async fn superuser(&self) -> Connection {
        try_connect(&self.local("application_name=superuser")).await.expect("the superuser gets in")
    }

    /// Runs statements as the superuser.
    pub(crate) async fn run(&self, sql: &str) {
        let connection = self.superuser().await;
        connection.client().batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    /// The first column of the first row, as text, asked as the superuser.
    pub(crate) async fn ask(&self, sql: &str) -> Option<String> {
        let connection = self.superuser().await;
        let rows = connection.client().query(&format!("SELECT ({sql})::text"), &[]).await;
        rows.unwrap_or_else(|error| panic!("{error:?}: {sql}"))[0].get(0)
    }

    /// Asks until the answer is the expected one.
    pub(crate) async fn until(&self, sql: &str, expected: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = self.ask(sql).await;
            if found.as_deref() == Some(expected) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{sql} is {found:?}, not {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = self.postgres("pg_ctl").args(["stop", "-s", "-w", "-m", "immediate", "-D"]).arg(self.data()).output();
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|output| output.status.success()), "the server does not stop");
        }
    }
}

/// A connection string as read with an environment that holds nothing but a home folder without files.
pub(crate) fn info(text: &str) -> ConnInfo {
    ConnInfo::parse(text, |name| (name == "HOME").then(|| "/nonexistent".to_owned())).expect("a good connection string")
}

pub(crate) async fn try_connect(text: &str) -> Result<Connection, ConnectError> {
    connect(&info(text), PATIENCE).await
}

pub(crate) async fn open(text: &str) -> Connection {
    try_connect(text).await.unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")).stdout == b"0\n"
}

/// The newest server binaries of this machine.
pub(crate) fn binaries() -> PathBuf {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<u32>().ok());
    let newest = versions.filter(|version| binary(*version, "initdb").exists()).max();
    let newest = newest.expect("these tests need PostgreSQL's server programs: apt-get install postgresql");
    binary(newest, "")
}

fn binary(version: u32, program: &str) -> PathBuf {
    Path::new("/usr/lib/postgresql").join(version.to_string()).join("bin").join(program)
}
