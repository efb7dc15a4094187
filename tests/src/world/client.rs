//! What the daemons of a world say over HTTP, wherever they are.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use lagmesh_model::status::{AgentStatus, FleetStatus};
use tokio::runtime::Handle;

/// How long a daemon may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A way to one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    at: SocketAddr,
    inside: Option<Handle>,
    http: reqwest::Client,
}

impl Client {
    /// The way to a daemon at `at`, on a host of its own or on this machine.
    ///
    /// # Errors
    /// If there can be no HTTP client.
    pub fn new(at: SocketAddr, inside: Option<Handle>) -> Result<Client> {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().context("make an HTTP client")?;
        Ok(Client { at, inside, http })
    }

    /// The address of its pages, as seen from its host.
    pub fn url(&self) -> String {
        format!("http://{}/", self.at)
    }

    /// A page.
    ///
    /// # Errors
    /// If it does not answer with success.
    pub async fn get(&self, path: &str) -> Result<String> {
        let (http, url) = (self.http.clone(), format!("{}{path}", self.url()));
        let fetch = async move {
            let response = http.get(&url).send().await.with_context(|| format!("get {url}"))?;
            Ok(response.error_for_status()?.text().await?)
        };
        match &self.inside {
            Some(inside) => inside.spawn(fetch).await.context("the host is gone")?,
            None => fetch.await,
        }
    }

    /// What an agent says of itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn agent_status(&self) -> Result<AgentStatus> {
        serde_json::from_str(&self.get("v1/status").await?).context("read the agent's status")
    }

    /// What a collector says of the fleet.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn fleet_status(&self) -> Result<FleetStatus> {
        serde_json::from_str(&self.get("v1/status").await?).context("read the collector's status")
    }
}
