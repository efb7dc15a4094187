//! A `PgBouncer` between an agent and its server.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::version::in_path;
use super::{DATABASE, Server};
use crate::process::{Process, Program};

/// For how long a server connection stays with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// As long as the client is connected: what is hardest to notice.
    Session,
    /// For a transaction.
    Transaction,
}

/// A running `PgBouncer`. Dropping it ends it.
#[derive(Debug)]
pub struct Pooler {
    process: Process,
}

impl PoolMode {
    /// `PgBouncer`'s word for it.
    pub fn word(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
        }
    }

    /// The mode of a word.
    pub fn from_word(word: &str) -> Option<PoolMode> {
        [PoolMode::Session, PoolMode::Transaction].into_iter().find(|mode| mode.word() == word)
    }
}

/// Where the program is, if it is installed.
pub fn program() -> Option<PathBuf> {
    // System folders may not be in the PATH of an account without privilege.
    in_path("pgbouncer").chain([PathBuf::from("/usr/sbin/pgbouncer")]).find(|path| path.exists())
}

impl Pooler {
    /// Starts one for `server` on the same host, listening at `at`; `role` logs in with `password` at both.
    ///
    /// # Errors
    /// If it is not installed or cannot be started.
    pub fn start(server: &Server, mode: PoolMode, at: SocketAddr, role: &str, password: &str) -> Result<Pooler> {
        let path = program().context("pgbouncer is not here: `tests/setup.sh testbed` installs it")?;
        let write = |name: &str, text: &str| {
            let path = server.folder().join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            server.give(&path)?;
            Ok::<_, anyhow::Error>(path)
        };
        let users = write("pgbouncer-users.txt", &format!("\"{role}\" \"{password}\"\n"))?;
        let settings = format!(
            "[databases]\n{DATABASE} = host={} port={}\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = {}\n",
            server.address(),
            server.port(),
            at.ip(),
            at.port(),
            users.display(),
            mode.word()
        );
        let settings = write("pgbouncer.ini", &settings)?;
        let program = Program {
            name: format!("{}-pgbouncer", server.name()),
            path,
            args: vec![settings.display().to_string()],
            env: Vec::new(),
            user: server.account.as_ref().map(|account| account.name.clone()),
            place: server.place().clone(),
        };
        Ok(Pooler { process: Process::start(program, server.folder())? })
    }

    /// The program.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
