//! Real PostgreSQL servers, each on a host of the testbed or on this machine as it is, run by an unprivileged account.
//!
//! Their data is copied and their superuser connects through the file system (the folder of the run), which no network of the testbed
//! stands in the way of; replication and everybody else connect over the network.

pub mod faults;
pub mod load;
pub mod pooler;
pub mod topology;
pub mod version;

mod copy;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, User, chown};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::files;
use crate::process::{Place, Process, Program};
use crate::{ports, wait};

pub use version::program_path;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long connecting over the local socket may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The database of the application, in which the heartbeat table lives.
pub const DATABASE: &str = "app";

/// The role with which servers replicate from each other.
const REPLICA_ROLE: &str = "replica";

/// What is to be known of a server before it exists.
#[derive(Debug, Clone)]
pub struct ServerPlan {
    /// Its name; also of its folder, its slot and its `application_name`.
    pub name: String,
    /// The host that it runs on.
    pub place: Place,
    /// The addresses on which it listens, at least one; others reach it under the first.
    pub addresses: Vec<IpAddr>,
    /// The port on which it listens.
    pub port: u16,
    /// The major version; `None` is the newest of the system's packages.
    pub version: Option<u32>,
    /// Settings on top of the testbed's own, by name.
    pub settings: Vec<(String, String)>,
}

/// One server.
#[derive(Debug)]
pub struct Server {
    plan: ServerPlan,
    version: u32,
    folder: PathBuf,
    account: Option<Account>,
    process: Option<Process>,
}

/// The account of servers where we are root, which PostgreSQL refuses.
#[derive(Debug, Clone)]
struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl ServerPlan {
    /// A server on this machine's loopback, on a free port.
    ///
    /// # Errors
    /// If no port is free.
    pub fn on_loopback(name: &str) -> Result<ServerPlan> {
        Ok(ServerPlan {
            name: name.to_owned(),
            place: Place::default(),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            port: ports::free()?,
            version: None,
            settings: Vec::new(),
        })
    }

    /// A server on a host with addresses of its own, on PostgreSQL's usual port.
    pub fn on_host(name: &str, place: Place, addresses: &[IpAddr]) -> ServerPlan {
        ServerPlan {
            name: name.to_owned(),
            place,
            addresses: addresses.to_vec(),
            port: 5432,
            version: None,
            settings: Vec::new(),
        }
    }
}

impl Server {
    /// A new primary with an empty database [`DATABASE`], running.
    ///
    /// # Errors
    /// If PostgreSQL (or the version asked for) is not here or does not start.
    pub async fn primary(plan: &ServerPlan, run: &Path) -> Result<Server> {
        let mut server = Server::prepare(plan, run)?;
        let data = server.data().display().to_string();
        server
            .run("initdb", &["-D", &data, "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "-N", "-k"])
            .await?;
        server.configure()?;
        server.start().await?;
        server.sql(&format!("CREATE ROLE {REPLICA_ROLE} LOGIN REPLICATION"), "postgres").await?;
        server.sql(&format!("CREATE DATABASE {DATABASE}"), "postgres").await?;
        Ok(server)
    }

    /// A folder for a server that has no data yet.
    fn prepare(plan: &ServerPlan, run: &Path) -> Result<Server> {
        let folder = run.join(&plan.name);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let account = if Uid::effective().is_root() { Some(Account::find("postgres")?) } else { None };
        let version = version::major(&program_path("postgres", plan.version)?)?;
        let server = Server { plan: plan.clone(), version, folder, account, process: None };
        server.give(&server.folder)?;
        Ok(server)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.plan.port
    }

    /// The address under which others reach it.
    pub fn address(&self) -> IpAddr {
        self.plan.addresses.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// Its major version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.plan.place
    }

    /// The folder of its data, log and socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port()))
    }

    /// Whether it has been started and not been stopped or killed by us since.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// What it said last, if it has ended by itself.
    pub fn fallen(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        (!matches!(process.ended(), Ok(None))).then(|| format!("{} ended; {}", process.name(), process.last_words()))
    }

    /// The process id of its postmaster.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<Pid> {
        let file = self.data().join("postmaster.pid");
        let text = fs::read_to_string(&file).with_context(|| format!("{} does not run: no {}", self.name(), file.display()))?;
        let first = text.lines().next().unwrap_or_default();
        Ok(Pid::from_raw(first.parse().with_context(|| format!("read {}", file.display()))?))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A program of its version, where the account of servers can run it.
    fn program(&self, name: &str) -> Result<PathBuf> {
        let path = program_path(name, Some(self.version))?;
        match (&self.account, self.folder.parent()) {
            (Some(_), Some(run)) => version::within_reach(path, run),
            _ => Ok(path),
        }
    }

    /// Gives a file of ours to the account of servers.
    fn give(&self, path: &Path) -> Result<()> {
        let Some(account) = &self.account else { return Ok(()) };
        chown(path, Some(account.uid), Some(account.gid)).with_context(|| format!("give {} to {}", path.display(), account.name))
    }

    /// Writes the settings and who may log in: the superuser only over the local socket, which lies in a closed folder.
    fn configure(&self) -> Result<()> {
        let addresses: Vec<String> = self.plan.addresses.iter().map(ToString::to_string).collect();
        let mut settings = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = '{}'\nshared_buffers = 16MB\nhot_standby = on\n\
             log_line_prefix = '%m [%p] %a '\nwal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\n\
             wal_keep_size = 64MB\nmax_slot_wal_keep_size = 1GB\n",
            addresses.join(","),
            self.port(),
            self.folder.display()
        );
        for (name, value) in &self.plan.settings {
            writeln!(settings, "{name} = {}", topology::literal(value))?;
        }
        let access = format!(
            "local all all trust\nlocal replication all trust\nhost replication {REPLICA_ROLE} all trust\n\
             host {DATABASE} {REPLICA_ROLE} all trust\nhost all all all scram-sha-256\n"
        );
        for (name, text) in [("postgresql.conf", settings), ("pg_hba.conf", access)] {
            let path = self.data().join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            self.give(&path)?;
        }
        Ok(())
    }

    /// Runs one of PostgreSQL's programs to its end, as the account of servers.
    async fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let path = self.program(program)?;
        let mut command = match &self.account {
            Some(Account { name, .. }) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", name, "--regid", name, "--init-groups", "--"]).arg(path);
                command
            }
            None => Command::new(path),
        };
        command.args(args).current_dir(&self.folder);
        let output = tokio::process::Command::from(command).output().await.with_context(|| format!("run {program}"))?;
        if !output.status.success() {
            bail!("{program} for {} failed: {}", self.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none() || self.fallen().is_some(), "{} runs already", self.name());
        let program = Program {
            name: format!("{}-server", self.name()),
            path: self.program("postgres")?,
            args: vec!["-D".to_owned(), self.data().display().to_string()],
            env: Vec::new(),
            user: self.account.as_ref().map(|account| account.name.clone()),
            place: self.plan.place.clone(),
        };
        let process = Process::start(program, &self.folder)?;
        let what = format!("{} answers", self.name());
        let answers = wait::until(&what, PATIENCE, || async { self.sql("SELECT 1", "postgres").await });
        answers.await.with_context(|| process.last_words())?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops the server: `SIGINT` is PostgreSQL's fast shutdown, `SIGQUIT` its immediate one.
    ///
    /// # Errors
    /// If it does not stop.
    pub async fn stop(&mut self, signal: Signal) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(signal, PATIENCE).await?;
        }
        Ok(())
    }

    /// A superuser's connection over the local socket; it ends when it is dropped.
    ///
    /// # Errors
    /// If the server refuses or does not answer.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        let settings = format!("host={} port={} user=postgres dbname={database}", self.folder.display(), self.port());
        let connect = tokio::time::timeout(CONNECT_WITHIN, tokio_postgres::connect(&settings, NoTls));
        let (client, connection) = connect.await.with_context(|| format!("{} does not answer", self.name()))??;
        // How it ended shows in the client's next call.
        tokio::spawn(async move { connection.await.ok() });
        Ok(client)
    }

    /// Runs statements over the local socket as the superuser and returns the first column of the first row, if there is one.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn sql(&self, statements: &str, database: &str) -> Result<Option<String>> {
        let result = self.connect(database).await?.simple_query(statements).await;
        let rows = result
            .map_err(|error| anyhow::anyhow!("{}", error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)))?;
        Ok(rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// Runs statements in the application's database.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn app(&self, statements: &str) -> Result<Option<String>> {
        self.sql(statements, DATABASE).await
    }
}

impl Account {
    fn find(name: &str) -> Result<Account> {
        let user = User::from_name(name)?.with_context(|| format!("no account {name}: install the package postgresql"))?;
        Ok(Account { name: name.to_owned(), uid: user.uid, gid: user.gid })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // An immediate shutdown takes the children along, frozen ones too; what then still runs is killed by the process's own drop.
        let woken = process.signal(Signal::SIGCONT).and_then(|()| process.signal(Signal::SIGQUIT));
        if woken.is_ok() {
            for _ in 0..100 {
                if !matches!(process.ended(), Ok(None)) {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
    }
}

/// The SQL that prepares a cluster, as the operator's command prints it.
///
/// # Errors
/// If the command fails.
pub fn bootstrap_sql() -> Result<String> {
    let output =
        Command::new(files::program("lagmesh")?).args(["bootstrap", "--print-sql"]).output().context("run lagmesh bootstrap")?;
    if !output.status.success() {
        bail!("lagmesh bootstrap --print-sql failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("read the SQL")
}
