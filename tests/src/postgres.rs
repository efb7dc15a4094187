//! Real PostgreSQL servers: a primary by initdb, standbys by `pg_basebackup` with a slot each.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User, chown};

use crate::files;
use crate::process::{Place, Process, Program};
use crate::{ports, wait};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// The database of the demo's application, in which the heartbeat table lives.
pub const DATABASE: &str = "app";

/// One server.
#[derive(Debug)]
pub struct Server {
    name: String,
    port: u16,
    folder: PathBuf,
    account: Option<String>,
    process: Option<Process>,
}

impl Server {
    /// A new primary with an empty database [`DATABASE`], running.
    ///
    /// # Errors
    /// If PostgreSQL is not installed or does not start.
    pub async fn primary(name: &str, run: &Path) -> Result<Server> {
        let mut server = Server::plan(name, run)?;
        server.run(
            "initdb",
            &["-D", &server.data(), "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "-N", "-k"],
        )?;
        let access = "local all all trust\nlocal replication all trust\nhost replication postgres 127.0.0.1/32 trust\n\
                      host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n";
        fs::write(server.folder.join("data/pg_hba.conf"), access).context("write pg_hba.conf")?;
        server.configure("wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\nwal_keep_size = 64MB\n")?;
        server.start().await?;
        server.sql(&format!("CREATE DATABASE {DATABASE}"), "postgres").await?;
        Ok(server)
    }

    /// A streaming standby of `primary` with its own physical slot, running.
    ///
    /// # Errors
    /// If the copy fails or the server does not start.
    pub async fn standby(name: &str, run: &Path, primary: &Server) -> Result<Server> {
        let mut server = Server::plan(name, run)?;
        let slot = name.replace(['-', '.'], "_");
        let source = format!("host=127.0.0.1 port={} user=postgres application_name={name}", primary.port);
        server.run(
            "pg_basebackup",
            &["-d", &source, "-D", &server.data(), "-X", "stream", "-c", "fast", "-C", "-S", &slot, "-R"],
        )?;
        server.configure("")?;
        server.start().await?;
        Ok(server)
    }

    fn plan(name: &str, run: &Path) -> Result<Server> {
        let folder = run.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let account = Uid::effective().is_root().then(|| "postgres".to_owned());
        if let Some(account) = &account {
            let user =
                User::from_name(account)?.with_context(|| format!("no account {account}: install the package postgresql"))?;
            chown(&folder, Some(user.uid), Some(user.gid)).with_context(|| format!("give {} to {account}", folder.display()))?;
        }
        Ok(Server { name: name.to_owned(), port: ports::free()?, folder, account, process: None })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of its data, log and socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }

    fn configure(&self, more: &str) -> Result<()> {
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nshared_buffers = 16MB\n\
             hot_standby = on\nlog_line_prefix = '%m [%p] %a '\n{more}",
            self.port,
            self.folder.display()
        );
        fs::write(self.folder.join("data/postgresql.conf"), settings).context("write postgresql.conf")
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let path = program_path(program)?;
        let mut command = match &self.account {
            Some(account) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", account, "--regid", account, "--init-groups", "--"]).arg(path);
                command
            }
            None => Command::new(path),
        };
        let output = command.args(args).current_dir(&self.folder).output().with_context(|| format!("run {program}"))?;
        if !output.status.success() {
            bail!("{program} for {} failed: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn start(&mut self) -> Result<()> {
        let program = Program {
            name: format!("{}-server", self.name),
            path: program_path("postgres")?,
            args: vec!["-D".to_owned(), self.data()],
            env: Vec::new(),
            user: self.account.clone(),
            place: Place::default(),
        };
        let process = Process::start(program, &self.folder)?;
        let what = format!("{} answers", self.name);
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

    /// Runs statements over the local socket as the superuser and returns the first column of the first row, if there is one.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn sql(&self, statements: &str, database: &str) -> Result<Option<String>> {
        let settings =
            format!("host={} port={} user=postgres dbname={database} connect_timeout=5", self.folder.display(), self.port);
        let (client, connection) = tokio_postgres::connect(&settings, tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(connection);
        let result = client.simple_query(statements).await;
        drop(client);
        driver.await??;
        let rows = result
            .map_err(|error| anyhow::anyhow!("{}", error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)))?;
        Ok(rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
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

    /// The process id of its walreceiver.
    ///
    /// # Errors
    /// If it has none.
    pub async fn walreceiver(&self) -> Result<Pid> {
        let pid = self.sql("SELECT pid FROM pg_stat_wal_receiver", "postgres").await?;
        let pid = pid.with_context(|| format!("{} has no walreceiver", self.name))?;
        Ok(Pid::from_raw(pid.parse()?))
    }

    /// Sends a signal to its walreceiver.
    ///
    /// # Errors
    /// If it has none.
    pub async fn signal_walreceiver(&self, signal: Signal) -> Result<Pid> {
        let pid = self.walreceiver().await?;
        kill(pid, signal).with_context(|| format!("send {signal} to the walreceiver of {}", self.name))?;
        Ok(pid)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // An immediate shutdown takes the children along, frozen ones too; what then still runs is killed by the process's own drop.
        if process.signal(Signal::SIGQUIT).is_ok() {
            for _ in 0..100 {
                if !matches!(process.ended(), Ok(None)) {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
    }
}

/// A server program of the newest version that the system's packages installed, or one in PATH.
///
/// # Errors
/// If there is none.
pub fn program_path(name: &str) -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = match fs::read_dir("/usr/lib/postgresql") {
        Ok(entries) => entries.flatten().map(|entry| entry.path().join("bin").join(name)).filter(|path| path.exists()).collect(),
        Err(_) => Vec::new(),
    };
    versions.sort();
    if let Some(newest) = versions.pop() {
        return Ok(newest);
    }
    let path = std::env::var_os("PATH").context("PATH is not set")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists());
    found.with_context(|| format!("{name} is not installed: install the package postgresql (`tests/setup.sh demo` does)"))
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
