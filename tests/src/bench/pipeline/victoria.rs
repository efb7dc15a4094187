//! A VictoriaMetrics to be measured beside, as `tests/peers.sh` fetches it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use crate::feed::client;
use crate::peers::Peer;
use crate::process::{Place, Process, Program};
use crate::{ports, wait};

const START_WITHIN: Duration = Duration::from_secs(30);
/// It shows what it took some seconds later.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);

/// It, with a store of its own.
pub(super) struct Victoria {
    /// Its version.
    pub(super) version: String,
    port: u16,
    client: reqwest::Client,
    process: Process,
}

impl Victoria {
    /// Starts it.
    ///
    /// # Errors
    /// If it is not here or does not start.
    pub(super) async fn start(folder: &Path) -> Result<Victoria> {
        let Peer { path, version } =
            Peer::find("victoria-metrics")?.context("VictoriaMetrics is not here: tests/peers.sh fetches it")?;
        let port = ports::free()?;
        let program = Program {
            name: "victoria-metrics".to_owned(),
            path,
            args: vec![
                format!("-storageDataPath={}", folder.join("victoria").display()),
                format!("-httpListenAddr=127.0.0.1:{port}"),
                "-retentionPeriod=100y".to_owned(),
                // The number of the batch would be a label: every batch would be all new series.
                "-opentelemetry.ignoreResourceAttributes=lagmesh.batch.sequence".to_owned(),
            ],
            env: Vec::new(),
            user: None,
            place: Place::default(),
        };
        let process = Process::start(program, folder)?;
        let client = client()?;
        wait::until("VictoriaMetrics is ready", START_WITHIN, || async {
            client.get(format!("http://127.0.0.1:{port}/health")).send().await?.error_for_status()?;
            Ok(())
        })
        .await
        .with_context(|| process.last_words())?;
        Ok(Victoria { version, port, client, process })
    }

    /// Where bodies go.
    pub(super) fn otlp_url(&self) -> String {
        format!("http://127.0.0.1:{}/opentelemetry/v1/metrics", self.port)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Waits until it shows so many samples of a name: only then it has done the work that it is measured by.
    ///
    /// # Errors
    /// If it does not.
    pub(super) async fn shows(&self, selector: &str, samples: u64) -> Result<()> {
        let flush = format!("http://127.0.0.1:{}/internal/force_flush", self.port);
        wait::until("VictoriaMetrics shows what it took", SHOWN_WITHIN, || async {
            self.client.get(&flush).send().await?.error_for_status()?;
            let mut url = reqwest::Url::parse(&format!("http://127.0.0.1:{}/api/v1/export", self.port))?;
            url.query_pairs_mut().append_pair("match[]", selector).append_pair("start", "1").append_pair("end", "4000000000");
            let lines = self.client.get(url).send().await?.error_for_status()?.text().await?;
            let mut shown = 0;
            for line in lines.lines() {
                let series: serde_json::Value = serde_json::from_str(line)?;
                shown += series["values"].as_array().map_or(0, Vec::len) as u64;
            }
            ensure!(shown == samples, "it shows {shown} of {samples} samples of {selector}");
            Ok(())
        })
        .await
    }
}
