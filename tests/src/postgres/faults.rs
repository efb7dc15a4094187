//! What can be done to servers and their replication.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::Client;

use super::topology::{ROWS_TABLE, identifier, literal};
use super::{DATABASE, PATIENCE, Server};
use crate::wait;

/// How many times the children of a server are listed until no new one shows.
const SWEEPS: usize = 10;
/// How often it is vacuumed to make replay conflict, and how long apart: snapshots of those who look at the primary last for moments.
const VACUUMS: usize = 3;
const VACUUM_PAUSE: Duration = Duration::from_millis(100);

/// How an old writer comes back as a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejoin {
    /// By `pg_rewind`; only where the version comes with it.
    Rewind,
    /// By a new copy of the writer.
    Copy,
}

/// A snapshot that is held on a standby while the log tells to remove what it sees. Dropping it lets go.
#[derive(Debug)]
pub struct HeldSnapshot {
    session: Client,
}

impl HeldSnapshot {
    /// Whether the standby still grants it: after `max_standby_streaming_delay` it ends the session.
    pub fn is_held(&self) -> bool {
        !self.session.is_closed()
    }
}

impl Server {
    /// Stops every process of the server where it stands (SIGSTOP).
    ///
    /// # Errors
    /// If it does not run.
    pub fn freeze(&self) -> Result<()> {
        // The postmaster first: it then starts no new ones.
        self.signal_all(Signal::SIGSTOP, true)
    }

    /// Lets every process of the server go on (SIGCONT).
    ///
    /// # Errors
    /// If it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal_all(Signal::SIGCONT, false)
    }

    /// Kills every process of the server at once (SIGKILL), as if its host had lost power.
    ///
    /// # Errors
    /// If it does not run or does not go.
    pub async fn kill(&mut self) -> Result<()> {
        let postmaster = self.pid()?;
        let mut all = children(postmaster);
        all.push(postmaster);
        self.signal_all(Signal::SIGKILL, true)?;
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::SIGKILL, PATIENCE).await?;
        }
        // A new postmaster refuses to start while an old child is there.
        wait::until(&format!("every process of {} is gone", self.name()), PATIENCE, || async {
            ensure!(all.iter().all(|pid| kill(*pid, None) == Err(Errno::ESRCH)), "some are still there");
            Ok(())
        })
        .await
    }

    /// Stops and starts it again; `SIGINT` is the fast shutdown, `SIGQUIT` the immediate one.
    ///
    /// # Errors
    /// If it does not stop or start.
    pub async fn restart(&mut self, signal: Signal) -> Result<()> {
        self.stop(signal).await?;
        self.start().await
    }

    fn signal_all(&self, signal: Signal, postmaster_first: bool) -> Result<()> {
        let postmaster = self.pid()?;
        let send = |pid: Pid| match kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal} to process {pid} of {}", self.name())),
        };
        let mut told = Vec::new();
        if postmaster_first {
            send(postmaster)?;
        }
        for _ in 0..SWEEPS {
            let new: Vec<Pid> = children(postmaster).into_iter().filter(|pid| !told.contains(pid)).collect();
            if new.is_empty() {
                break;
            }
            new.iter().try_for_each(|pid| send(*pid))?;
            told.extend(new);
        }
        if postmaster_first { Ok(()) } else { send(postmaster) }
    }

    /// The process id of its walreceiver.
    ///
    /// # Errors
    /// If it has none.
    pub async fn walreceiver(&self) -> Result<Pid> {
        let pid = self.sql("SELECT pid FROM pg_stat_wal_receiver", "postgres").await?;
        let pid = pid.with_context(|| format!("{} has no walreceiver", self.name()))?;
        Ok(Pid::from_raw(pid.parse()?))
    }

    /// Sends a signal to its walreceiver.
    ///
    /// # Errors
    /// If it has none.
    pub async fn signal_walreceiver(&self, signal: Signal) -> Result<Pid> {
        let pid = self.walreceiver().await?;
        kill(pid, signal).with_context(|| format!("send {signal} to the walreceiver of {}", self.name()))?;
        Ok(pid)
    }

    /// Pauses replay.
    ///
    /// # Errors
    /// If it is no standby.
    pub async fn pause_replay(&self) -> Result<()> {
        self.sql("SELECT pg_wal_replay_pause()", "postgres").await.map(drop)
    }

    /// Resumes replay.
    ///
    /// # Errors
    /// If it is no standby.
    pub async fn resume_replay(&self) -> Result<()> {
        self.sql("SELECT pg_wal_replay_resume()", "postgres").await.map(drop)
    }

    /// Holds a snapshot on this standby and makes its primary remove what the snapshot sees, so that replay conflicts with it.
    ///
    /// # Errors
    /// If a server refuses or the rows do not arrive.
    pub async fn hold_conflicting_snapshot(&self, primary: &Server) -> Result<HeldSnapshot> {
        primary.make_rows_table().await?;
        let writer = literal(&format!("conflict {}", self.name()));
        let rows = format!("INSERT INTO {ROWS_TABLE} SELECT -i, {writer} FROM generate_series(1, 100) i ON CONFLICT DO NOTHING");
        primary.app(&rows).await?;
        wait::until(&format!("the rows are at {}", self.name()), PATIENCE, || async {
            let found = self.app(&format!("SELECT 1 FROM {ROWS_TABLE} WHERE id = -100")).await?;
            found.context("not yet")
        })
        .await?;
        let session = self.connect(DATABASE).await?;
        session.batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM {ROWS_TABLE}")).await?;
        primary.app(&format!("DELETE FROM {ROWS_TABLE} WHERE id < 0")).await?;
        // One that meets somebody's snapshot at the primary removes nothing.
        for _ in 0..VACUUMS {
            primary.app(&format!("VACUUM {ROWS_TABLE}")).await?;
            tokio::time::sleep(VACUUM_PAUSE).await;
        }
        Ok(HeldSnapshot { session })
    }

    /// Drops a replication slot of this server, ending whoever uses it.
    ///
    /// # Errors
    /// If there is no such slot or its user comes back each time.
    pub async fn drop_slot(&self, slot: &str) -> Result<()> {
        let slot = literal(slot);
        let exists = self.sql(&format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = {slot}"), "postgres").await?;
        ensure!(exists.is_some(), "{} has no replication slot {slot}", self.name());
        let end_user = format!("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = {slot}");
        wait::until(&format!("slot {slot} is dropped on {}", self.name()), PATIENCE, || async {
            self.sql(&end_user, "postgres").await?;
            self.sql(&format!("SELECT pg_drop_replication_slot({slot})"), "postgres").await
        })
        .await
        .map(drop)
    }

    /// Makes this standby the writer and waits until it is.
    ///
    /// # Errors
    /// If it is no standby or does not become one.
    pub async fn promote(&self) -> Result<()> {
        match self.sql("SELECT pg_promote(true, 30)", "postgres").await?.as_deref() {
            Some("t") => Ok(()),
            _ => bail!("{} did not become a primary within 30 s", self.name()),
        }
    }

    /// Brings an old writer back as a standby of `writer`. (Bringing it back as it is, as a second writer, is [`Server::start`].)
    ///
    /// # Errors
    /// If the version has no `pg_rewind`, or a step fails.
    pub async fn rejoin(&mut self, writer: &Server, how: Rejoin) -> Result<()> {
        if how == Rejoin::Copy {
            if self.is_started() {
                self.stop(Signal::SIGQUIT).await?;
            }
            fs::remove_dir_all(self.data()).with_context(|| format!("remove the data of {}", self.name()))?;
            return self.become_standby(writer).await;
        }
        // A clean shutdown is what pg_rewind starts from; it repairs what was killed by itself.
        self.stop(Signal::SIGINT).await?;
        writer.sql("CHECKPOINT", "postgres").await?;
        let source = format!("host={} port={} user=postgres dbname=postgres", writer.folder().display(), writer.port());
        let data = self.data().display().to_string();
        self.run("pg_rewind", &["-D", &data, "--source-server", &source]).await?;
        self.configure()?;
        self.follow_from_files(writer).await?;
        self.start().await
    }

    async fn follow_from_files(&self, writer: &Server) -> Result<()> {
        self.make_slot(writer).await?;
        self.write_standby_files(writer)
    }

    /// Switches its subscription to `publisher` off or on.
    ///
    /// # Errors
    /// If there is none.
    pub async fn enable_subscription(&self, publisher: &Server, enabled: bool) -> Result<()> {
        let word = if enabled { "ENABLE" } else { "DISABLE" };
        let name = identifier(&self.subscription_name(publisher));
        self.app(&format!("ALTER SUBSCRIPTION {name} {word}")).await.map(drop)
    }

    /// Breaks its subscription to `publisher`: a row that is here already arrives again, and apply stops at it with an error.
    ///
    /// # Errors
    /// If a server refuses.
    pub async fn break_subscription(&self, publisher: &Server) -> Result<()> {
        let row = |server: &Server| {
            let writer = literal(server.name());
            format!("INSERT INTO {ROWS_TABLE} VALUES (0, {writer})")
        };
        // Marked as if it came by replication, so that it stays here: where both subscribe to each other it would break the other too.
        let create = "SELECT pg_replication_origin_create('testbed') WHERE pg_replication_origin_oid('testbed') IS NULL";
        self.app(create).await?;
        self.app(&format!("SELECT pg_replication_origin_session_setup('testbed'); {}", row(self))).await?;
        publisher.app(&row(publisher)).await.map(drop)
    }

    /// Takes the row away at which [`Server::break_subscription`] stopped apply, so that it goes on.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn mend_subscription(&self) -> Result<()> {
        self.app(&format!("DELETE FROM {ROWS_TABLE} WHERE id = 0")).await.map(drop)
    }
}

/// The processes whose parent is `parent`.
fn children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent.as_raw())).map(Pid::from_raw).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; state and parent follow it.
    stat.rsplit_once(") ")?.1.split_whitespace().nth(1)?.parse().ok()
}
