//! A running world: regions with servers and agents, collectors, links and clocks between and in them, as a plan describes it.

pub mod client;
pub mod layout;
mod proxy;
pub mod start;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::fleet;
use lagmesh_model::ids::RegionName;
use lagmesh_model::state::ProbeKind;
use lagmesh_model::status::{AgentStatus, FleetStatus};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use crate::clocks::HostClock;
use crate::disk::Disk;
use crate::files::RunFolder;
use crate::plan::Plan;
use crate::postgres::Server;
use crate::postgres::load::Load;
use crate::postgres::pooler::Pooler;
use crate::process::Process;
use crate::wait;
use crate::wan::Wan;
use crate::wan::path::Cut;
use client::Client;
use layout::Layout;
use proxy::Proxy;

/// The role under which agents log in, and its password in this world.
const AGENT_ROLE: &str = "lagmesh";
const AGENT_PASSWORD: &str = "lagmesh";

/// How long everything may take until the first measurements are in.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a daemon may take to wind down.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// How a world is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether each region is a host of its own in an emulated network; else everything shares this machine's loopback.
    pub emulated: bool,
    /// The port on this machine on which people would like the first collector's page; another one is taken if it is in use.
    pub http_port: u16,
    /// What agents find in their environment on top.
    pub agent_env: &'static [(&'static str, &'static str)],
}

/// A running world. Dropping it ends everything in it.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    layout: Layout,
    agents: BTreeMap<String, Process>,
    collectors: BTreeMap<String, Process>,
    loads: BTreeMap<String, Load>,
    servers: BTreeMap<String, Server>,
    poolers: BTreeMap<String, Pooler>,
    disks: BTreeMap<String, Disk>,
    clocks: BTreeMap<String, Arc<HostClock>>,
    /// Keeps what hosts claim about their clocks fresh, as their daemons would.
    clock_keeper: JoinSet<()>,
    page: Option<Proxy>,
    agent_env: &'static [(&'static str, &'static str)],
    /// Who probes whom, as the fleet file says.
    mesh_plan: fleet::Plan,
    wan: Option<Wan>,
    folder: RunFolder,
}

impl World {
    /// What it was built from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The one folder of this run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder on disk when the world ends.
    pub fn keep_folder(&mut self) {
        self.folder.keep();
    }

    /// The network, if it is emulated.
    pub fn wan(&self) -> Option<&Wan> {
        self.wan.as_ref()
    }

    /// Drops the packets of one host, those of its region's other hosts pass.
    ///
    /// # Errors
    /// If the network is not emulated or there is no such host.
    pub fn cut_host(&self, host: &str, cut: Cut) -> Result<()> {
        self.wan.as_ref().context("there is no emulated network")?.cut_host(host, cut).map(drop)
    }

    /// Drops packets of the host of an agent.
    ///
    /// # Errors
    /// If the network is not emulated or there is no such agent.
    pub fn cut_region_host(&self, agent: &str, cut: Cut) -> Result<()> {
        let region = self.plan.region_of_agent(agent).with_context(|| format!("no agent {agent}"))?;
        self.cut_host(&region.name, cut)
    }

    /// Drops packets of the host of a server.
    ///
    /// # Errors
    /// If the network is not emulated or there is no such node.
    pub fn cut_server(&self, node: &str, cut: Cut) -> Result<()> {
        let (_, node) = self.plan.node(node).with_context(|| format!("no node {node}"))?;
        self.cut_host(&node.region, cut)
    }

    /// The clocks of a region, if they are its own.
    pub fn clock(&self, region: &str) -> Option<&Arc<HostClock>> {
        self.clocks.get(region)
    }

    /// The disk of an agent's spool, if it has one of its own.
    pub fn disk(&self, agent: &str) -> Option<&Disk> {
        self.disks.get(agent)
    }

    /// The address of the first collector's status page on this machine.
    pub fn page(&self) -> String {
        if let Some(proxy) = &self.page {
            return format!("http://{}/", proxy.address());
        }
        let address = self.plan.collectors.first().and_then(|collector| self.layout.collector_http.get(&collector.name));
        address.map_or_else(String::new, |address| format!("http://{address}/"))
    }

    /// A node's server.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn server(&mut self, node: &str) -> Result<&mut Server> {
        self.servers.get_mut(node).with_context(|| format!("no server {node}"))
    }

    /// All servers by node.
    pub fn servers(&self) -> &BTreeMap<String, Server> {
        &self.servers
    }

    /// Two servers at once, the first to be changed.
    ///
    /// # Errors
    /// If there is no such node, or it is one and the same.
    pub fn server_and(&mut self, node: &str, other: &str) -> Result<(&mut Server, &Server)> {
        ensure!(node != other, "{node} twice");
        let mut found = (None, None);
        for (name, server) in &mut self.servers {
            if name == node {
                found.0 = Some(server);
            } else if name == other {
                found.1 = Some(&*server);
            }
        }
        Ok((found.0.with_context(|| format!("no server {node}"))?, found.1.with_context(|| format!("no server {other}"))?))
    }

    /// An agent.
    ///
    /// # Errors
    /// If it is not running.
    pub fn agent(&mut self, agent: &str) -> Result<&mut Process> {
        self.agents.get_mut(agent).with_context(|| format!("no agent {agent} is running"))
    }

    /// A collector.
    ///
    /// # Errors
    /// If it is not running.
    pub fn collector(&mut self, collector: &str) -> Result<&mut Process> {
        self.collectors.get_mut(collector).with_context(|| format!("no collector {collector} is running"))
    }

    /// The write loads by node.
    pub fn loads(&mut self) -> &mut BTreeMap<String, Load> {
        &mut self.loads
    }

    /// The way to an agent.
    ///
    /// # Errors
    /// If there is no such agent.
    pub fn agent_client(&self, agent: &str) -> Result<Client> {
        let at = *self.layout.agent_http.get(agent).with_context(|| format!("no agent {agent}"))?;
        let region = self.plan.region_of_agent(agent).with_context(|| format!("no agent {agent}"))?;
        Client::new(at, self.inside(&region.name)?)
    }

    /// The way to a collector.
    ///
    /// # Errors
    /// If there is no such collector.
    pub fn collector_client(&self, collector: &str) -> Result<Client> {
        let at = *self.layout.collector_http.get(collector).with_context(|| format!("no collector {collector}"))?;
        Client::new(at, self.inside(&layout::collector_host(collector))?)
    }

    fn first_collector(&self) -> Result<Client> {
        let first = self.plan.collectors.first().context("the plan has no collector")?;
        self.collector_client(&first.name)
    }

    /// Fetches a page of the first collector.
    ///
    /// # Errors
    /// If it does not answer with success.
    pub async fn get(&self, path: &str) -> Result<String> {
        self.first_collector()?.get(path).await
    }

    /// The mesh ports of a region's agents.
    ///
    /// # Errors
    /// If there is no such region.
    pub fn mesh_ports(&self, region: &str) -> Result<Vec<u16>> {
        let region = self.plan.region(region).with_context(|| format!("no region {region}"))?;
        let agents = self.plan.agents_of(region);
        Ok(agents.iter().filter_map(|agent| self.layout.mesh.get(agent)).map(std::net::SocketAddr::port).collect())
    }

    /// What the first collector says.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn fleet_status(&self) -> Result<FleetStatus> {
        self.first_collector()?.fleet_status().await
    }

    /// What an agent says.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn agent_status(&self, agent: &str) -> Result<AgentStatus> {
        self.agent_client(agent)?.agent_status().await
    }

    /// The address of an agent's pages, as seen from its host.
    ///
    /// # Errors
    /// If there is no such agent.
    pub fn agent_page(&self, agent: &str) -> Result<String> {
        Ok(self.agent_client(agent)?.url())
    }

    /// Waits until the first collector knows every link and every lag.
    ///
    /// # Errors
    /// If something stays unknown; names what.
    pub async fn ready(&mut self) -> Result<FleetStatus> {
        self.ready_within(READY_WITHIN).await
    }

    /// Waits until the first collector knows every link and every lag, for a time of the caller's choice.
    ///
    /// # Errors
    /// If something stays unknown; names what.
    pub async fn ready_within(&mut self, within: Duration) -> Result<FleetStatus> {
        let known = wait::until("every link and every lag is known", within, || async {
            let status = self.fleet_status().await?;
            let unknown = self.unknown_parts(&status);
            ensure!(unknown.is_empty(), "still unknown: {}", unknown.join(", "));
            Ok(status)
        });
        let known = known.await;
        match self.fallen().into_iter().next() {
            Some(fallen) if known.is_err() => known.context(fallen),
            _ => known,
        }
    }

    /// What of a status is not known although it should be in a world without faults.
    pub fn unknown_parts(&self, status: &FleetStatus) -> Vec<String> {
        let mut unknown = Vec::new();
        let mut note = |known: bool, what: String| {
            if !known {
                unknown.push(what);
            }
        };
        let pairs = status.regions.iter().flat_map(|a| status.regions.iter().map(move |b| (&a.region, &b.region)));
        let planned = pairs.filter(|(a, b)| self.mesh_plan.connects(a, b)).count();
        let all = status.regions.len() == self.plan.regions.len() && status.links.len() == planned;
        note(all, format!("all links (there are {})", status.links.len()));
        for link in &status.links {
            let rtt = link.rtt(ProbeKind::Stamp);
            note(rtt.current().is_some_and(|rtt| rtt.p50_s > 0.0), format!("RTT {} -> {}", link.region, link.peer));
        }
        for (origin, node) in self.plan.replications().into_iter().filter(|(origin, node)| self.hears(node, origin)) {
            let found = status.replications.iter().find(|link| link.origin.as_str() == origin && link.node.as_str() == node);
            note(found.is_some_and(|link| link.lag.is_known()), format!("lag {origin} -> {node}"));
            note(found.is_some_and(|link| link.staleness.is_known()), format!("staleness {origin} -> {node}"));
        }
        unknown
    }

    /// Whether the agents of a node's region hear of the beats of an origin: only then can its lag be known. Through a pooler no beats
    /// are written.
    fn hears(&self, node: &str, origin: &str) -> bool {
        if self.plan.node(origin).is_some_and(|(_, origin)| origin.pooler.is_some()) {
            return false;
        }
        let region_of = |name: &str| self.plan.node(name)?.1.region.parse().ok();
        let (here, there): (Option<RegionName>, Option<RegionName>) = (region_of(node), region_of(origin));
        here.zip(there).is_some_and(|(here, there)| here == there || self.mesh_plan.connects(&here, &there))
    }

    /// What has ended by itself, with its last words: programs that were killed or stopped on purpose are not among them.
    pub fn fallen(&mut self) -> Vec<String> {
        let mut fallen = Vec::new();
        let loads = self.loads.values_mut().map(Load::process);
        let poolers = self.poolers.values_mut().map(Pooler::process);
        for process in self.agents.values_mut().chain(self.collectors.values_mut()).chain(loads).chain(poolers) {
            if !matches!(process.ended(), Ok(None)) {
                fallen.push(format!("{} ended; {}", process.name(), process.last_words()));
            }
        }
        for server in self.servers.values_mut() {
            fallen.extend(server.fallen());
        }
        fallen
    }

    /// Ends an agent and waits for it.
    ///
    /// # Errors
    /// If it does not run, or does not end.
    pub async fn stop_agent(&mut self, agent: &str, signal: Signal) -> Result<()> {
        let mut process = self.agents.remove(agent).with_context(|| format!("no agent {agent} is running"))?;
        process.stop(signal, STOP_WITHIN).await.map(drop)
    }

    /// Ends a collector and waits for it.
    ///
    /// # Errors
    /// If it does not run, or does not end.
    pub async fn stop_collector(&mut self, collector: &str, signal: Signal) -> Result<()> {
        let mut process = self.collectors.remove(collector).with_context(|| format!("no collector {collector} is running"))?;
        process.stop(signal, STOP_WITHIN).await.map(drop)
    }

    /// Ends agents and collectors by SIGTERM, and the servers at once: their data goes with the folder, and an immediate shutdown also
    /// ends children that somebody has frozen.
    ///
    /// # Errors
    /// If one does not end or did not end with success; the others are ended all the same.
    pub async fn stop(mut self) -> Result<()> {
        let mut complaints = Vec::new();
        self.loads.clear();
        let agents = std::mem::take(&mut self.agents);
        for mut process in agents.into_values().chain(std::mem::take(&mut self.collectors).into_values()) {
            match process.stop(Signal::SIGTERM, STOP_WITHIN).await {
                Ok(status) if status.success() => {}
                Ok(status) => complaints.push(format!("{} ended with {status}", process.name())),
                Err(error) => complaints.push(format!("{error:#}")),
            }
        }
        for server in self.servers.values_mut() {
            // What somebody has frozen would not hear the signal.
            server.thaw().ok();
            if let Err(error) = server.stop(Signal::SIGQUIT).await {
                complaints.push(format!("{error:#}"));
            }
        }
        ensure!(complaints.is_empty(), "{}", complaints.join("; "));
        Ok(())
    }
}

impl World {
    /// What a visitor may do to the three cities, ready to be pasted into another terminal.
    pub fn things_to_try(&self) -> String {
        let psql = |node: &str, sql: &str| {
            let server = self.servers.get(node);
            let (folder, port) = server.map_or_else(|| (String::new(), 0), |s| (s.folder().display().to_string(), s.port()));
            format!("psql -h {folder} -p {port} -U postgres -d {} -Atc \"{sql}\"", crate::postgres::DATABASE)
        };
        let agent = |agent: &str| self.agents.get(agent).map_or_else(String::new, |agent| agent.pid().to_string());
        format!(
            "try:  pause replay in Dublin    {}\n      freeze Tokyo's receiver   kill -STOP $({})\n      kill Tokyo's agent        kill -9 {}",
            psql("dublin-db", "SELECT pg_wal_replay_pause()"),
            psql("tokyo-db", "SELECT pid FROM pg_stat_wal_receiver"),
            agent("tokyo"),
        )
    }
}
