//! A real Alertmanager with the routes of this repository's example, and somebody who is woken by it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::process::{Place, Process, Program};
use crate::prometheus::repository;
use crate::{ports, wait};

type Heard = Arc<Mutex<Vec<Value>>>;

/// A running Alertmanager. Dropping it ends it.
#[derive(Debug)]
pub struct Alertmanager {
    port: u16,
    heard: Heard,
    _process: Process,
    _serving: JoinSet<()>,
}

impl Alertmanager {
    /// Starts it with `alerts/alertmanager.example.yml`, but that pages come here, two seconds after the first alert of a group.
    ///
    /// # Errors
    /// If it is not installed or does not start.
    pub async fn start(folder: &Path) -> Result<Alertmanager> {
        let heard = Heard::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen for pages")?;
        let pager: SocketAddr = listener.local_addr()?;
        let routes = Router::new().route("/page", post(hear)).with_state(Arc::clone(&heard));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                eprintln!("the pager ended: {error}");
            }
        });
        let config = fs::read_to_string(repository("alerts/alertmanager.example.yml")).context("read the example")?;
        let own = config.replace("group_wait: 10s", "group_wait: 2s").replace(
            "    # webhook_configs: [{url: \"http://127.0.0.1:9099/page\"}]",
            &format!("    webhook_configs: [{{url: \"http://{pager}/page\"}}]"),
        );
        ensure!(own.contains(&format!("{pager}/page")) && own.contains("group_wait: 2s"), "the example has changed");
        let file = folder.join("alertmanager.yml");
        fs::write(&file, own).context("write the configuration of Alertmanager")?;
        let port = ports::free()?;
        let program = Program {
            name: "alertmanager".to_owned(),
            path: "prometheus-alertmanager".into(),
            args: vec![
                format!("--config.file={}", file.display()),
                format!("--storage.path={}", folder.join("alertmanager-data").display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
                "--cluster.listen-address=".to_owned(),
            ],
            env: Vec::new(),
            user: None,
            place: Place::default(),
        };
        let process = Process::start(program, folder).context("start the Alertmanager (package prometheus-alertmanager)")?;
        let ready = wait::until("Alertmanager is ready", Duration::from_secs(30), || async {
            reqwest::get(format!("http://127.0.0.1:{port}/-/ready")).await?.error_for_status()?;
            Ok(())
        });
        ready.await.with_context(|| process.last_words())?;
        Ok(Alertmanager { port, heard, _process: process, _serving: serving })
    }

    /// Its address (host:port).
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The notifications of an alert that came so far, oldest first.
    pub fn pages(&self, alert: &str) -> Vec<Value> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|page| page["groupLabels"]["alertname"] == alert).cloned().collect()
    }
}

async fn hear(State(heard): State<Heard>, Json(page): Json<Value>) {
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(page);
}
