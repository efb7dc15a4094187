//! Programs that run beside the test and never outlive it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// How many lines of a log are quoted.
const LAST_LINES: usize = 10;

/// A program that was forked but had not yet asked for its parent's death when the parent died must not start.
const ONLY_UNDER_US: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

/// Where a program runs: on this machine as it is, or on a host of the testbed with a network and clocks of its own.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// A command that enters the host's namespaces and then becomes what follows it; empty: nothing is entered.
    pub enter: Vec<String>,
    /// What its programs find in their environment, its clocks among it.
    pub env: Vec<(String, String)>,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The name in messages and of the log file.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment variables on top of ours.
    pub env: Vec<(String, String)>,
    /// The account it runs under, if not ours.
    pub user: Option<String>,
    /// Where it runs.
    pub place: Place,
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Child,
    log: PathBuf,
}

impl Place {
    /// A command that runs `program` there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.enter.split_first() {
            Some((enter, args)) => {
                let mut command = Command::new(enter);
                command.args(args).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Process {
    /// Starts `program` with its output in `directory`/NAME.log (appended).
    ///
    /// The kernel ends it when the thread that started it ends, so that nothing is left even if we are killed.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: Program, directory: &Path) -> Result<Process> {
        let log = directory.join(format!("{}.log", program.name));
        let output = File::options().create(true).append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        let mut command = program.place.command("setpriv");
        if let Some(user) = &program.user {
            command.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        command.args(["--pdeathsig", "KILL", "--", "sh", "-c", ONLY_UNDER_US]).arg(std::process::id().to_string());
        command.arg(&program.path).args(&program.args);
        command.envs(program.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0).current_dir(directory);
        let child =
            command.spawn().with_context(|| format!("start {} (setpriv is part of util-linux)", program.path.display()))?;
        Ok(Process { program, child, log })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// What was started, to start it again.
    pub fn program(&self) -> Program {
        self.program.clone()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its output so far.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn output(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))
    }

    /// The end of its output, for the message of whoever waited for it in vain.
    pub fn last_words(&self) -> String {
        let output = self.output().unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<&str> = output.lines().collect();
        let first = if lines.len() > LAST_LINES { lines.len() - LAST_LINES } else { 0 };
        let last = &lines[first..];
        format!("the last lines of {}:\n{}", self.log.display(), last.join("\n"))
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} has ended with {status} already; {}", self.name(), self.last_words());
        }
        kill(self.pid(), signal).with_context(|| format!("send {signal} to {}", self.name()))
    }

    /// Whether and how it ended.
    ///
    /// # Errors
    /// If the system cannot say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends `signal` and waits for the end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn stop(&mut self, signal: Signal, within: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(signal)?;
        let name = self.name().to_owned();
        let child = std::sync::Mutex::new(&mut self.child);
        wait::until(&format!("{name} ends"), within, || async {
            let status = child.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.try_wait()?;
            status.map_or_else(|| bail!("it still runs"), Ok)
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Whatever fails here, there is nobody left to tell.
            kill(self.pid(), Signal::SIGCONT).ok();
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
