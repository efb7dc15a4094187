//! An OpenTelemetry Collector, as `tests/peers.sh` builds it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::feed::{Posted, client, post};
use crate::peers::Peer;
use crate::process::{Place, Process, Program};
use crate::{ports, wait};

const START_WITHIN: Duration = Duration::from_secs(30);
/// Nobody keeps anything or tries again: who sends hears what became of it.
const PASSES_ON: &str =
    "otlp_http:\n    endpoint: URL\n    sending_queue: {enabled: false}\n    retry_on_failure: {enabled: false}\n";
const DROPS: &str = "nop: {}\n";

/// A running one, which takes OTLP over HTTP. Dropping it ends it.
#[derive(Debug)]
pub struct Otelcol {
    /// Its version.
    pub version: String,
    port: u16,
    client: reqwest::Client,
    process: Process,
}

impl Otelcol {
    /// Starts it, if it is here: it passes on to the OTLP receiver at `to` (a URL without `/v1/metrics`), or drops what it has taken.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(folder: &Path, to: Option<&str>) -> Result<Option<Otelcol>> {
        let Some(Peer { path, version }) = Peer::find("otelcol")? else { return Ok(None) };
        let port = ports::free()?;
        let exporter = to.map_or_else(|| DROPS.to_owned(), |url| PASSES_ON.replace("URL", url));
        let name = exporter.split_once(':').map_or("", |(name, _)| name);
        let config = format!(
            "receivers:\n  otlp:\n    protocols:\n      http:\n        endpoint: 127.0.0.1:{port}\nexporters:\n  {exporter}\
             service:\n  telemetry:\n    metrics:\n      level: none\n  pipelines:\n    metrics:\n      receivers: [otlp]\n      \
             exporters: [{name}]\n"
        );
        let file = folder.join("otelcol.yaml");
        fs::write(&file, config).context("write the configuration of the OpenTelemetry Collector")?;
        let program = Program {
            name: "otelcol".to_owned(),
            path,
            args: vec![format!("--config=file:{}", file.display())],
            env: Vec::new(),
            user: None,
            place: Place::default(),
        };
        let process = Process::start(program, folder)?;
        let otelcol = Otelcol { version, port, client: client()?, process };
        let ready = wait::until("the OpenTelemetry Collector is ready", START_WITHIN, || async {
            // Any answer will do.
            otelcol.client.get(otelcol.otlp_url()).send().await?;
            Ok(())
        });
        ready.await.with_context(|| otelcol.process.last_words())?;
        Ok(Some(otelcol))
    }

    /// Where bodies go.
    pub fn otlp_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1/metrics", self.port)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Posts a body.
    pub async fn post(&self, body: Vec<u8>) -> Posted {
        post(&self.client, &self.otlp_url(), body).await
    }
}
