//! Agents that can be killed and started again, each with a spool of its own.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::status::{AgentStatus, Export};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use super::spool;
use crate::feed;
use crate::process::{Place, Process, Program};
use crate::{files, ports, wait};

/// How long an agent may take to end: it delivers its last batch first.
const END_WITHIN: Duration = Duration::from_secs(20);
/// How long agents may take to deliver what has piled up.
const DELIVER_WITHIN: Duration = Duration::from_secs(60);

/// One agent.
#[derive(Debug)]
struct Slot {
    region: String,
    mesh_port: u16,
    http_port: u16,
    env: Vec<(String, String)>,
    process: Option<Process>,
}

/// Agents of as many regions.
#[derive(Debug)]
pub struct AgentsBed {
    folder: PathBuf,
    slots: Vec<Slot>,
    client: reqwest::Client,
}

impl AgentsBed {
    /// Places for `count` agents, none of which runs yet.
    ///
    /// # Errors
    /// If no port is free.
    pub fn new(folder: &Path, count: usize) -> Result<AgentsBed> {
        let slot = |number| {
            let (mesh_port, http_port) = (ports::free()?, ports::free()?);
            Ok(Slot { region: feed::region(number), mesh_port, http_port, env: Vec::new(), process: None })
        };
        let slots = (0..count).map(slot).collect::<Result<Vec<_>>>()?;
        Ok(AgentsBed { folder: folder.to_owned(), slots, client: feed::client()? })
    }

    /// The fleet file of these agents and of collectors, each with a name and an address; also written where agents look for it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn fleet(&self, collectors: &[(&str, String)], rest: &str) -> Result<String> {
        let mut text = "name = \"agents\"\n".to_owned();
        for slot in &self.slots {
            writeln!(text, "[[region]]\nname = \"{}\"\n[[region.agent]]\nmesh = \"127.0.0.1:{}\"", slot.region, slot.mesh_port)?;
        }
        for (name, url) in collectors {
            writeln!(text, "[[collector]]\nname = \"{name}\"\notlp = \"{url}\"")?;
        }
        text.push_str(rest);
        fs::write(self.folder.join("agents.toml"), &text).context("write the fleet file")?;
        Ok(text)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// What an agent finds in its environment from its next start on.
    pub fn set_env(&mut self, number: usize, env: Vec<(String, String)>) {
        self.slots[number].env = env;
    }

    /// Starts one (again).
    ///
    /// # Errors
    /// If it runs, or cannot be started.
    pub fn start(&mut self, number: usize) -> Result<()> {
        let state = self.state_folder(number);
        fs::create_dir_all(&state)?;
        let slot = &mut self.slots[number];
        ensure!(slot.process.is_none(), "{} runs already", slot.region);
        let args = [
            ("--fleet", self.folder.join("agents.toml").display().to_string()),
            ("--region", slot.region.clone()),
            ("--http-listen", format!("127.0.0.1:{}", slot.http_port)),
            ("--state-dir", state.display().to_string()),
        ];
        let program = Program {
            name: format!("agent-{}", slot.region),
            path: files::program("lagmesh-agent")?,
            args: args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
            env: slot.env.clone(),
            user: None,
            place: Place::default(),
        };
        slot.process = Some(Process::start(program, &self.folder)?);
        Ok(())
    }

    /// Starts all.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start_all(&mut self) -> Result<()> {
        (0..self.count()).try_for_each(|number| self.start(number))
    }

    /// Ends one by a signal.
    ///
    /// # Errors
    /// If it does not run, or does not end.
    pub async fn end(&mut self, number: usize, signal: Signal) -> Result<()> {
        let slot = &mut self.slots[number];
        let mut process = slot.process.take().with_context(|| format!("{} does not run", slot.region))?;
        process.stop(signal, END_WITHIN).await.map(drop)
    }

    /// Ends all in an orderly way.
    ///
    /// # Errors
    /// If one does not run, or does not end.
    pub async fn end_all(&mut self) -> Result<()> {
        let mut ending = JoinSet::new();
        for slot in &mut self.slots {
            let mut process = slot.process.take().with_context(|| format!("{} does not run", slot.region))?;
            ending.spawn(async move { process.stop(Signal::SIGTERM, END_WITHIN).await });
        }
        while let Some(ended) = ending.join_next().await {
            let status = ended??;
            ensure!(status.success(), "an agent ended with {status}");
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&mut self, number: usize, signal: Signal) -> Result<()> {
        let slot = &mut self.slots[number];
        slot.process.as_mut().with_context(|| format!("{} does not run", slot.region))?.signal(signal)
    }

    /// The folder of its spool.
    pub fn state_folder(&self, number: usize) -> PathBuf {
        self.folder.join(format!("spool-{}", self.slots[number].region))
    }

    /// What it has logged.
    ///
    /// # Errors
    /// If it has not started once.
    pub fn log(&self, number: usize) -> Result<String> {
        let log = self.folder.join(format!("agent-{}.log", self.slots[number].region));
        fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))
    }

    /// What it says at an address.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn get(&self, number: usize, path: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:{}/{path}", self.slots[number].http_port);
        Ok(self.client.get(url).send().await?.error_for_status()?.text().await?)
    }

    /// How its deliveries go.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn exports(&self, number: usize) -> Result<Vec<Export>> {
        let status: AgentStatus = serde_json::from_str(&self.get(number, "v1/status").await?)?;
        Ok(status.exports)
    }

    /// Waits until hardly anything waits in any spool for any collector.
    ///
    /// # Errors
    /// If something does for too long.
    pub async fn delivered(&self) -> Result<()> {
        for number in 0..self.count() {
            self.delivered_by(number).await?;
        }
        Ok(())
    }

    /// Waits until hardly anything waits in one spool for any collector, and what was sent last was taken.
    ///
    /// # Errors
    /// If something does for too long.
    pub async fn delivered_by(&self, number: usize) -> Result<()> {
        wait::until("the spool is empty", DELIVER_WITHIN, || async {
            for export in self.exports(number).await? {
                let waiting = export.pending_batches;
                let is_taken = export.error.is_none();
                ensure!(
                    waiting <= 1 && is_taken,
                    "{waiting} batches wait in {number} for {}: {:?}",
                    export.collector,
                    export.error
                );
            }
            Ok(())
        })
        .await
    }

    /// What waits in the spool of one that does not run: boots and sequences.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn waiting(&self, number: usize) -> Result<BTreeSet<(u64, u64)>> {
        Ok(spool::read(&self.state_folder(number))?.waiting)
    }
}
