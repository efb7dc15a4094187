//! A real Prometheus with the rules of this repository, and others that answer the same questions.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::peers::Peer;
use crate::process::{Place, Process, Program};
use crate::{ports, wait};

/// How long either may take to end.
const END_WITHIN: Duration = Duration::from_secs(15);
const VICTORIA: &str = "victoria-metrics";
/// Debian's Prometheus is built without the receiver of OTLP, this one with it.
pub const PROMETHEUS_NEWEST: &str = "prometheus-newest";

/// A running Prometheus, or a VictoriaMetrics that answers in its stead. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    http: reqwest::Client,
    process: Process,
}

/// The repository's folder `name`.
pub fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn scraping(targets: &[&str]) -> String {
    if targets.is_empty() {
        return String::new();
    }
    format!("scrape_configs:\n  - job_name: lagmesh\n    static_configs:\n      - targets: {targets:?}\n")
}

impl Prometheus {
    /// Starts it with the rules of `alerts/`, scraping `target` (host:port) each second if one is given.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub async fn start(folder: &Path, target: Option<&str>) -> Result<Prometheus> {
        Prometheus::with_alerts(folder, target.as_slice(), None).await
    }

    /// Starts it with the rules of `alerts/`, scraping `targets` (host:port) each second and sending alerts to an Alertmanager.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub async fn with_alerts(folder: &Path, targets: &[&str], alertmanager: Option<&str>) -> Result<Prometheus> {
        let rules = repository("alerts").canonicalize().context("find the rules")?.join("*.rules.yml");
        let rules = format!("rule_files:\n  - {}\n", rules.display());
        let alerting = alertmanager.map_or_else(String::new, |at| {
            format!("alerting:\n  alertmanagers:\n    - static_configs:\n        - targets: [\"{at}\"]\n")
        });
        let config = format!("{rules}{alerting}{}", scraping(targets));
        Prometheus::run(folder, "prometheus", Path::new("prometheus"), ports::free()?, &config, &[]).await
    }

    /// Starts it without rules and with this `scrape_configs`.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub async fn with_scrapes(folder: &Path, scrape_configs: &str) -> Result<Prometheus> {
        Prometheus::run(folder, "scrapes", Path::new("prometheus"), ports::free()?, scrape_configs, &[]).await
    }

    /// Starts it on a port without rules; it takes remote writes, keeps native histograms, and scrapes `target` in the form that has them.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub async fn receiver(folder: &Path, port: u16, target: Option<&str>) -> Result<Prometheus> {
        let flags = ["--enable-feature=native-histograms", "--web.enable-remote-write-receiver"];
        Prometheus::run(folder, "receiver", Path::new("prometheus"), port, &scraping(target.as_slice()), &flags).await
    }

    /// Starts one of `tests/peers.sh` on a port, if it is here: it takes remote write 1.0 and 2.0, and OTLP if it can, and keeps native
    /// histograms.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn peer(folder: &Path, port: u16, name: &str) -> Result<Option<Prometheus>> {
        let Some(Peer { path, .. }) = Peer::find(name)? else { return Ok(None) };
        let mut flags = vec!["--enable-feature=native-histograms", "--web.enable-remote-write-receiver"];
        if name == PROMETHEUS_NEWEST {
            flags.push("--web.enable-otlp-receiver");
        }
        Prometheus::run(folder, name, &path, port, "", &flags).await.map(Some)
    }

    async fn run(folder: &Path, name: &str, path: &Path, port: u16, config: &str, flags: &[&str]) -> Result<Prometheus> {
        let config = format!("global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\n{config}");
        let file = folder.join(format!("{name}.yml"));
        fs::write(&file, config).context("write the configuration of Prometheus")?;
        let own = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", folder.join(format!("{name}-data")).display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let program = Program {
            name: name.to_owned(),
            path: path.to_owned(),
            args: own.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect(),
            env: Vec::new(),
            user: None,
            place: Place::default(),
        };
        let process = Process::start(program, folder).context("start prometheus (package prometheus)")?;
        Prometheus::until_ready(port, process, "-/ready").await
    }

    /// Starts the system's VictoriaMetrics on a port, if there is one on this machine.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn victoria_metrics(folder: &Path, port: u16) -> Result<Option<Prometheus>> {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&folders).any(|folder| folder.join(VICTORIA).exists()) {
            return Ok(None);
        }
        Prometheus::run_victoria(folder, Path::new(VICTORIA), port, &[]).await.map(Some)
    }

    /// Starts the VictoriaMetrics of `tests/peers.sh` on a port, if it is here. It gives what comes by OTLP the names that Prometheus would.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn current_victoria(folder: &Path, port: u16) -> Result<Option<Prometheus>> {
        let Some(Peer { path, .. }) = Peer::find(VICTORIA)? else { return Ok(None) };
        Prometheus::run_victoria(folder, &path, port, &["-opentelemetry.usePrometheusNaming"]).await.map(Some)
    }

    async fn run_victoria(folder: &Path, path: &Path, port: u16, flags: &[&str]) -> Result<Prometheus> {
        let own = [
            format!("-storageDataPath={}", folder.join("victoria-metrics-data").display()),
            format!("-httpListenAddr=127.0.0.1:{port}"),
            // What was just written can be asked for.
            "-search.latencyOffset=0s".to_owned(),
        ];
        let program = Program {
            name: VICTORIA.to_owned(),
            path: path.to_owned(),
            args: own.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect(),
            env: Vec::new(),
            user: None,
            place: Place::default(),
        };
        let process = Process::start(program, folder).context("start victoria-metrics")?;
        Prometheus::until_ready(port, process, "health").await
    }

    async fn until_ready(port: u16, process: Process, path: &str) -> Result<Prometheus> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        let prometheus = Prometheus { port, http, process };
        let ready = wait::until("it is ready", Duration::from_secs(30), || async {
            prometheus.http.get(format!("http://127.0.0.1:{port}/{path}")).send().await?.error_for_status()?;
            Ok(())
        });
        ready.await.with_context(|| prometheus.process.last_words())?;
        Ok(prometheus)
    }

    /// Ends it in an orderly way; what it has stays in its folder.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn stop(mut self) -> Result<()> {
        self.process.stop(Signal::SIGTERM, END_WITHIN).await.map(drop)
    }

    async fn api(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let mut url = reqwest::Url::parse(&format!("http://127.0.0.1:{}/api/v1/{path}", self.port))?;
        url.query_pairs_mut().extend_pairs(query);
        let answer: Value = self.http.get(url).send().await?.json().await?;
        ensure!(answer["status"] == "success", "{path} {query:?}: {}", answer["error"]);
        Ok(answer["data"].clone())
    }

    /// The result of an instant query: one entry per series.
    ///
    /// # Errors
    /// If the query is refused.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.api("query", &[("query", expression)]).await?;
        match &data["result"] {
            Value::Array(series) => Ok(series.clone()),
            other => bail!("{expression}: no series but {other}"),
        }
    }

    /// All rules that it has loaded.
    ///
    /// # Errors
    /// If it does not say.
    pub async fn rules(&self) -> Result<Vec<Value>> {
        let data = self.api("rules", &[]).await?;
        let groups = data["groups"].as_array().context("no groups")?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }
}

/// One query of a dashboard.
#[derive(Debug, Clone)]
pub struct Panel {
    /// The dashboard's file and the panel's title.
    pub title: String,
    /// The expression with Grafana's variables filled in.
    pub expression: String,
}

/// Every query of every panel of every dashboard in `dashboards/`.
///
/// # Errors
/// If one of them is no dashboard.
pub fn panels() -> Result<Vec<Panel>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(repository("dashboards")).context("read dashboards")?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "json") {
            let dashboard: Value = serde_json::from_str(&fs::read_to_string(entry.path())?)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            collect_panels(&name, &dashboard["panels"], &mut found)?;
        }
    }
    ensure!(!found.is_empty(), "no dashboard has a panel");
    Ok(found)
}

fn collect_panels(name: &str, panels: &Value, found: &mut Vec<Panel>) -> Result<()> {
    for panel in panels.as_array().with_context(|| format!("{name} has no panels"))? {
        let title = panel["title"].as_str().unwrap_or("(no title)");
        if panel["type"] == "row" {
            if panel["panels"].as_array().is_some_and(|inner| !inner.is_empty()) {
                collect_panels(name, &panel["panels"], found)?;
            }
            continue;
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().with_context(|| format!("{name}: {title}: a target without expr"))?;
            let expression = expression
                .replace("$__rate_interval", "30s")
                .replace("$__range", "60s")
                .replace("$__interval", "5s")
                .replace("\"$job\"", "\".*\"")
                .replace("\"$instance\"", "\".*\"")
                .replace("\"$cluster\"", "\".*\"")
                .replace("\"$region\"", "\".*\"");
            found.push(Panel { title: format!("{name}: {title}"), expression });
        }
    }
    Ok(())
}
