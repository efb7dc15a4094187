//! A real collector on loopback, and how batches get there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use tokio::time::sleep;

use crate::process::{Place, Process, Program};
use crate::{files, ports, wait};

/// How long a collector may take to start.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How long a collector may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a collector may take to end.
const END_WITHIN: Duration = Duration::from_secs(15);

/// How often, and how many times, it is looked whether one that may die has started or died.
const STARTING_LOOK: Duration = Duration::from_millis(10);
const STARTING_LOOKS: u32 = 1000;

/// What became of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It is on disk.
    Acknowledged,
    /// It may be sent again: the answer said so, or there was none.
    Later,
    /// It will never be taken, and this is the status.
    Refused(u16),
}

/// A collector with a store of its own, that can be killed and started again.
#[derive(Debug)]
pub struct CollectorBed {
    folder: PathBuf,
    http_port: u16,
    grpc_port: u16,
    client: reqwest::Client,
    place: Place,
    process: Option<Process>,
}

impl CollectorBed {
    /// Starts it for a fleet in a folder of a run.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start(folder: &Path, fleet: &str) -> Result<CollectorBed> {
        CollectorBed::start_in(folder, fleet, Place::default()).await
    }

    /// Starts it in a place.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start_in(folder: &Path, fleet: &str, place: Place) -> Result<CollectorBed> {
        fs::write(folder.join("fleet.toml"), fleet).context("write the fleet file")?;
        let client = client()?;
        let (http_port, grpc_port) = (ports::free()?, ports::free()?);
        let mut bed = CollectorBed { folder: folder.to_owned(), http_port, grpc_port, client, place, process: None };
        bed.start_again().await?;
        Ok(bed)
    }

    /// Starts it after it was killed, and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start_again(&mut self) -> Result<()> {
        self.start_well_with(&[]).await
    }

    async fn ready(&self) -> Result<()> {
        let ready = wait::until("the collector is ready", START_WITHIN, || async {
            self.client.get(self.url("ready")).send().await?.error_for_status()?;
            Ok(())
        });
        ready.await.with_context(|| self.process.as_ref().map_or_else(String::new, Process::last_words))
    }

    /// Starts it with something in its environment, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn start_well_with(&mut self, env: &[(String, String)]) -> Result<()> {
        self.spawn(env)?;
        self.ready().await
    }

    /// Starts it with something in its environment. It may die at any moment, so nobody waits until it is ready; but it may be.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start_with(&mut self, env: &[(String, String)]) -> Result<()> {
        self.spawn(env)?;
        let mut process = self.process.take().context("the collector does not run")?;
        for _ in 0..STARTING_LOOKS {
            if process.ended()?.is_some() || self.client.get(self.url("ready")).send().await.is_ok() {
                break;
            }
            sleep(STARTING_LOOK).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Waits until it has died by itself.
    ///
    /// # Errors
    /// If it lives.
    pub async fn died(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the collector does not run")?;
        for _ in 0..STARTING_LOOKS {
            if process.ended()?.is_some() {
                return Ok(());
            }
            sleep(STARTING_LOOK).await;
        }
        bail!("the collector lives, though nobody is answered; {}", process.last_words())
    }

    fn spawn(&mut self, env: &[(String, String)]) -> Result<()> {
        let args = [
            ("--fleet", self.fleet_file().display().to_string()),
            ("--http-listen", format!("127.0.0.1:{}", self.http_port)),
            ("--grpc-listen", format!("127.0.0.1:{}", self.grpc_port)),
            ("--state-dir", self.folder.join("collector").display().to_string()),
        ];
        let program = Program {
            name: "collector".to_owned(),
            path: files::program("lagmesh-collector")?,
            args: args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
            env: env.to_vec(),
            user: None,
            place: self.place.clone(),
        };
        self.process = Some(Process::start(program, &self.folder)?);
        Ok(())
    }

    /// Kills it without a word.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the collector does not run")?;
        process.stop(Signal::SIGKILL, END_WITHIN).await.map(drop)
    }

    /// Ends it in an orderly way.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the collector does not run")?;
        process.stop(Signal::SIGTERM, END_WITHIN).await.map(drop)
    }

    /// That it runs.
    ///
    /// # Errors
    /// If it has ended; says how.
    pub fn runs(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("the collector does not run")?;
        match process.ended()? {
            None => Ok(()),
            Some(status) => bail!("the collector ended with {status}; {}", process.last_words()),
        }
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<Pid> {
        Ok(self.process.as_ref().context("the collector does not run")?.pid())
    }

    /// Its fleet file, which it reads when it starts.
    pub fn fleet_file(&self) -> PathBuf {
        self.folder.join("fleet.toml")
    }

    /// The folder of its store.
    pub fn state_folder(&self) -> PathBuf {
        self.folder.join("collector")
    }

    /// An address of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.http_port)
    }

    /// Where bodies go.
    pub fn otlp_url(&self) -> String {
        self.url("v1/metrics")
    }

    /// What it says at an address.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn get(&self, path: &str) -> Result<String> {
        Ok(self.client.get(self.url(path)).send().await?.error_for_status()?.text().await?)
    }

    /// What it has logged.
    ///
    /// # Errors
    /// If there is no log.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(self.folder.join("collector.log")).context("read the log of the collector")
    }

    /// Posts a body; returns the status and the seconds after which it wants to see it again, if it says so.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status_of(&self, body: Vec<u8>) -> Result<(u16, Option<u64>)> {
        let request = self.client.post(self.otlp_url()).header(CONTENT_TYPE, "application/x-protobuf");
        let answer = request.header(CONTENT_ENCODING, "gzip").body(body).send().await?;
        let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        Ok((answer.status().as_u16(), after))
    }

    /// Posts a body.
    pub async fn post(&self, body: Vec<u8>) -> Posted {
        post(&self.client, &self.otlp_url(), body).await
    }
}

/// A client for bodies, which keeps its connections.
///
/// # Errors
/// If there is no way to make one.
pub(crate) fn client() -> Result<reqwest::Client> {
    // Fails only if somebody has installed one before, which is then the same.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWER_WITHIN).build();
    client.context("make an HTTP client")
}

/// Posts an OTLP body in protobuf and gzip.
pub(crate) async fn post(client: &reqwest::Client, url: &str, body: Vec<u8>) -> Posted {
    let request = client.post(url).header(CONTENT_TYPE, "application/x-protobuf").header(CONTENT_ENCODING, "gzip").body(body);
    let Ok(answer) = request.send().await else { return Posted::Later };
    let status = answer.status().as_u16();
    // The connection is free for the next body only when the answer has been read.
    let read = answer.bytes().await.is_ok();
    match status {
        200..300 if read => Posted::Acknowledged,
        200..300 | 429 | 502..=504 => Posted::Later,
        _ => Posted::Refused(status),
    }
}

/// That a body was acknowledged.
///
/// # Errors
/// If it was not.
pub(crate) fn acknowledged(posted: Posted) -> Result<()> {
    ensure!(posted == Posted::Acknowledged, "a body was not taken: {posted:?}");
    Ok(())
}
