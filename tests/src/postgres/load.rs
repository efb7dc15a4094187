//! Write load by pgbench.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{DATABASE, Server, program_path};
use crate::process::{Place, Process, Program};

/// Running write load. Dropping it ends it.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

impl Load {
    /// Starts pgbench's usual transactions (three updates, an insert, a read) against tables of its own in the application's database,
    /// over the local socket. `per_s` transactions per second in all; 0 is as many as the server takes.
    ///
    /// # Errors
    /// If pgbench is not installed or its tables cannot be made.
    pub async fn start(server: &Server, clients: u32, per_s: u32) -> Result<Load> {
        let path = program_path("pgbench", None)?;
        let there = [
            "-h".to_owned(),
            server.folder().display().to_string(),
            "-p".to_owned(),
            server.port().to_string(),
            "-U".to_owned(),
            "postgres".to_owned(),
        ];
        if server.app("SELECT to_regclass('pgbench_accounts')").await?.is_none() {
            let mut command = Command::new(&path);
            command.args(["-i", "-q", "-s", "1"]).args(&there).arg(DATABASE);
            let output = tokio::process::Command::from(command).output().await.context("run pgbench -i")?;
            ensure!(output.status.success(), "pgbench -i failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let mut args: Vec<String> = ["-n", "-T", "86400", "-c"].map(str::to_owned).to_vec();
        args.push(clients.to_string());
        if per_s > 0 {
            args.extend(["-R".to_owned(), per_s.to_string()]);
        }
        args.extend(there);
        args.push(DATABASE.to_owned());
        let program = Program {
            name: format!("{}-pgbench", server.name()),
            path,
            args,
            env: Vec::new(),
            user: None,
            place: Place::default(),
        };
        Ok(Load { process: Process::start(program, server.folder())? })
    }

    /// The program that makes the load.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
