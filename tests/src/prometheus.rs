//! A real Prometheus with the rules of this repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{Place, Process, Program};
use crate::{ports, wait};

/// A running Prometheus. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    http: reqwest::Client,
    _process: Process,
}

/// The repository's folder `name`.
pub fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

impl Prometheus {
    /// Starts it with the rules of `alerts/`, scraping `target` (host:port) each second if one is given.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub async fn start(folder: &Path, target: Option<&str>) -> Result<Prometheus> {
        let port = ports::free()?;
        let rules = repository("alerts").canonicalize().context("find the rules")?.join("*.rules.yml");
        let scrape = target.map_or_else(String::new, |target| {
            format!("scrape_configs:\n  - job_name: lagmesh\n    static_configs:\n      - targets: [\"{target}\"]\n")
        });
        let config = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\nrule_files:\n  - {}\n{scrape}",
            rules.display()
        );
        fs::write(folder.join("prometheus.yml"), config).context("write prometheus.yml")?;
        let program = Program {
            name: "prometheus".to_owned(),
            path: "prometheus".into(),
            args: vec![
                format!("--config.file={}", folder.join("prometheus.yml").display()),
                format!("--storage.tsdb.path={}", folder.join("prometheus-data").display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
            ],
            env: Vec::new(),
            user: None,
            place: Place::default(),
        };
        let process = Process::start(program, folder).context("start prometheus (package prometheus)")?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        let prometheus = Prometheus { port, http, _process: process };
        wait::until("Prometheus is ready", Duration::from_secs(30), || async {
            prometheus.http.get(format!("http://127.0.0.1:{port}/-/ready")).send().await?.error_for_status()?;
            Ok(())
        })
        .await?;
        Ok(prometheus)
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
