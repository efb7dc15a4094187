//! Three regions on one machine: a writer in New York, streaming standbys in Dublin and Tokyo, an agent in each, a collector.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::ProbeKind;
use lagmesh_model::status::{AgentStatus, FleetStatus};
use nix::sys::signal::Signal;

use crate::files::{self, RunFolder};
use crate::postgres::{self, Server, ServerPlan};
use crate::process::{Place, Process, Program};
use crate::{ports, wait};

/// The regions; the first holds the writer.
pub const REGIONS: [&str; 3] = ["new-york", "dublin", "tokyo"];

/// The role under which agents log in, and its password in this world.
const AGENT_ROLE: &str = "lagmesh";
const AGENT_PASSWORD: &str = "lagmesh";

/// How long everything may take until the first measurements are in.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a daemon may take to wind down.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// What can be chosen about a world.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it is for; part of the folder's name.
    pub purpose: String,
    /// How often agents export.
    pub export_interval: Duration,
    /// The collector's HTTP port that people would like; another one is taken if it is in use.
    pub http_port: u16,
    /// Lines added to the fleet file.
    pub more: String,
}

/// A running world. Dropping it ends everything in it.
#[derive(Debug)]
pub struct World {
    agents: BTreeMap<String, Process>,
    collector: Option<Process>,
    servers: BTreeMap<String, Server>,
    agent_http: BTreeMap<String, u16>,
    collector_http: u16,
    http: reqwest::Client,
    folder: RunFolder,
}

impl World {
    /// Starts servers, agents and collector; `say` hears what is being done.
    ///
    /// # Errors
    /// If any part does not start.
    pub async fn start(plan: &Plan, mut say: impl FnMut(&str)) -> Result<World> {
        let folder = RunFolder::new(&plan.purpose)?;
        let servers = start_servers(folder.path(), &mut say).await?;
        let collector_http = ports::preferred_or_free(plan.http_port)?;
        let agent_http = REGIONS.iter().map(|region| Ok(((*region).to_owned(), ports::free()?))).collect::<Result<_>>()?;
        fs::write(folder.path().join("fleet.toml"), fleet_file(plan, &servers, collector_http)?)
            .context("write the fleet file")?;
        write_secrets(folder.path())?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().context("make an HTTP client")?;
        let mut world = World { agents: BTreeMap::new(), collector: None, servers, agent_http, collector_http, http, folder };
        say("starting the collector and three agents");
        world.start_collector()?;
        for region in REGIONS {
            world.start_agent(region)?;
        }
        Ok(world)
    }

    /// Starts the collector (again).
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_collector(&mut self) -> Result<()> {
        let args = [
            ("--fleet", self.path("fleet.toml")),
            ("--http-listen", format!("127.0.0.1:{}", self.collector_http)),
            ("--grpc-listen", format!("127.0.0.1:{}", ports::free()?)),
            ("--state-dir", self.path("collector")),
        ];
        fs::create_dir_all(self.folder.path().join("collector"))?;
        let program = daemon("collector", "lagmesh-collector", &args)?;
        self.collector = Some(Process::start(program, self.folder.path())?);
        Ok(())
    }

    /// Starts a region's agent (again).
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_agent(&mut self, region: &str) -> Result<()> {
        let port = self.agent_http.get(region).context("no such region")?;
        let state = format!("agent-{region}-state");
        fs::create_dir_all(self.folder.path().join(&state))?;
        let args = [
            ("--fleet", self.path("fleet.toml")),
            ("--region", region.to_owned()),
            ("--http-listen", format!("127.0.0.1:{port}")),
            ("--state-dir", self.path(&state)),
            ("--mesh-key-file", self.path("mesh.key")),
        ];
        let mut program = daemon(&format!("agent-{region}"), "lagmesh-agent", &args)?;
        program.env.push(("PGPASSFILE".to_owned(), self.path("pgpass")));
        let process = Process::start(program, self.folder.path())?;
        self.agents.insert(region.to_owned(), process);
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The one folder of this run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder on disk when the world ends.
    pub fn keep_folder(&mut self) {
        self.folder.keep();
    }

    /// The address of the status page.
    pub fn page(&self) -> String {
        format!("http://127.0.0.1:{}/", self.collector_http)
    }

    /// What a visitor may do to this world, ready to be pasted into another terminal.
    pub fn things_to_try(&self) -> String {
        let psql = |region: &str, sql: &str| {
            let server = self.servers.get(region);
            let (folder, port) = server.map_or_else(|| (String::new(), 0), |s| (s.folder().display().to_string(), s.port()));
            format!("psql -h {folder} -p {port} -U postgres -d {} -Atc \"{sql}\"", postgres::DATABASE)
        };
        let agent = |region: &str| self.agents.get(region).map_or_else(String::new, |agent| agent.pid().to_string());
        format!(
            "try:  pause replay in Dublin    {}\n      freeze Tokyo's receiver   kill -STOP $({})\n      kill Tokyo's agent        kill -9 {}",
            psql("dublin", "SELECT pg_wal_replay_pause()"),
            psql("tokyo", "SELECT pid FROM pg_stat_wal_receiver"),
            agent("tokyo"),
        )
    }

    /// The address of a region's agent.
    pub fn agent_page(&self, region: &str) -> Option<String> {
        self.agent_http.get(region).map(|port| format!("http://127.0.0.1:{port}/"))
    }

    /// A region's server.
    ///
    /// # Errors
    /// If there is no such region.
    pub fn server(&mut self, region: &str) -> Result<&mut Server> {
        self.servers.get_mut(region).with_context(|| format!("no server in {region}"))
    }

    /// A region's agent.
    ///
    /// # Errors
    /// If it is not running.
    pub fn agent(&mut self, region: &str) -> Result<&mut Process> {
        self.agents.get_mut(region).with_context(|| format!("no agent in {region}"))
    }

    /// The collector.
    ///
    /// # Errors
    /// If it is not running.
    pub fn collector(&mut self) -> Result<&mut Process> {
        self.collector.as_mut().context("no collector")
    }

    /// Fetches a page of the collector.
    ///
    /// # Errors
    /// If it does not answer with success.
    pub async fn get(&self, path: &str) -> Result<String> {
        self.fetch(&format!("{}{path}", self.page())).await
    }

    async fn fetch(&self, url: &str) -> Result<String> {
        let response = self.http.get(url).send().await.with_context(|| format!("get {url}"))?;
        Ok(response.error_for_status()?.text().await?)
    }

    /// What the collector says.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn fleet_status(&self) -> Result<FleetStatus> {
        serde_json::from_str(&self.get("v1/status").await?).context("read the collector's status")
    }

    /// What a region's agent says.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn agent_status(&self, region: &str) -> Result<AgentStatus> {
        let page = self.agent_page(region).context("no such region")?;
        serde_json::from_str(&self.fetch(&format!("{page}v1/status")).await?).context("read the agent's status")
    }

    /// Waits until the collector knows every link and every lag.
    ///
    /// # Errors
    /// If something stays unknown; names what.
    pub async fn ready(&mut self) -> Result<FleetStatus> {
        let known = wait::until("every link and every lag is known", READY_WITHIN, || async {
            let status = self.fleet_status().await?;
            let unknown = unknown_parts(&status);
            ensure!(unknown.is_empty(), "still unknown: {}", unknown.join(", "));
            Ok(status)
        });
        let known = known.await;
        let mut processes = self.agents.values_mut().chain(&mut self.collector);
        match processes.find_map(|process| (!matches!(process.ended(), Ok(None))).then_some(process)) {
            Some(process) if known.is_err() => {
                known.with_context(|| format!("{} ended; {}", process.name(), process.last_words()))
            }
            _ => known,
        }
    }

    /// Ends agents and collector by SIGTERM, and the servers at once: their data goes with the folder, and an immediate shutdown also
    /// ends children that somebody has frozen.
    ///
    /// # Errors
    /// If one does not end or did not end with success; the others are ended all the same.
    pub async fn stop(mut self) -> Result<()> {
        let mut complaints = Vec::new();
        let agents = std::mem::take(&mut self.agents);
        for mut process in agents.into_values().chain(self.collector.take()) {
            match process.stop(Signal::SIGTERM, STOP_WITHIN).await {
                Ok(status) if status.success() => {}
                Ok(status) => complaints.push(format!("{} ended with {status}", process.name())),
                Err(error) => complaints.push(format!("{error:#}")),
            }
        }
        for server in self.servers.values_mut() {
            if let Err(error) = server.stop(Signal::SIGQUIT).await {
                complaints.push(format!("{error:#}"));
            }
        }
        ensure!(complaints.is_empty(), "{}", complaints.join("; "));
        Ok(())
    }
}

/// What of a status is not known although it should be in a world without faults.
pub fn unknown_parts(status: &FleetStatus) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut note = |known: bool, what: String| {
        if !known {
            unknown.push(what);
        }
    };
    note(status.links.len() == REGIONS.len() * (REGIONS.len() - 1), format!("all links (there are {})", status.links.len()));
    note(status.replications.len() == REGIONS.len() - 1, format!("all replications (there are {})", status.replications.len()));
    for link in &status.links {
        let rtt = link.rtt(ProbeKind::Stamp);
        note(rtt.current().is_some_and(|rtt| rtt.p50_s > 0.0), format!("RTT {} -> {}", link.region, link.peer));
    }
    for replication in &status.replications {
        note(replication.lag.is_known(), format!("lag {} -> {}", replication.origin, replication.node));
        note(replication.staleness.is_known(), format!("staleness {} -> {}", replication.origin, replication.node));
    }
    unknown
}

async fn start_servers(run: &Path, say: &mut impl FnMut(&str)) -> Result<BTreeMap<String, Server>> {
    say("starting the writer in New York");
    let writer = Server::primary(&ServerPlan::on_loopback(REGIONS[0])?, run).await?;
    writer
        .app(&postgres::bootstrap_sql()?)
        .await
        .context("prepare the database with the SQL of `lagmesh bootstrap --print-sql`")?;
    writer.app(&format!("ALTER ROLE {AGENT_ROLE} PASSWORD '{AGENT_PASSWORD}'")).await?;
    let mut servers = BTreeMap::new();
    for region in &REGIONS[1..] {
        say(&format!("starting a streaming standby in {region}"));
        let standby = Server::standby(&ServerPlan::on_loopback(region)?, run, &writer).await?;
        servers.insert((*region).to_owned(), standby);
    }
    servers.insert(REGIONS[0].to_owned(), writer);
    Ok(servers)
}

fn fleet_file(plan: &Plan, servers: &BTreeMap<String, Server>, collector_http: u16) -> Result<String> {
    let mut file = String::from(
        "# Three regions on one machine. No coordinates: loopback undercuts every physical floor.\nname = \"demo\"\n",
    );
    for region in REGIONS {
        let mesh = ports::free()?;
        write!(file, "\n[[region]]\nname = \"{region}\"\n[[region.agent]]\nmesh = \"127.0.0.1:{mesh}\"\n")?;
    }
    file.push_str("\n[[cluster]]\nname = \"app\"\n");
    for region in REGIONS {
        let port = servers.get(region).context("a server for each region")?.port();
        write!(
            file,
            "[[cluster.node]]\nname = \"{region}-db\"\nregion = \"{region}\"\ndsn = \"host=127.0.0.1 port={port} dbname={} user={AGENT_ROLE}\"\n",
            postgres::DATABASE
        )?;
    }
    let interval_ms = plan.export_interval.as_millis();
    write!(file, "\n[[collector]]\nname = \"main\"\notlp = \"http://127.0.0.1:{collector_http}\"\n")?;
    write!(file, "\n[export]\ninterval = \"{interval_ms}ms\"\n{}", plan.more)?;
    Ok(file)
}

fn write_secrets(run: &Path) -> Result<()> {
    let secret = |name: &str, text: &str| -> Result<PathBuf> {
        let path = run.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    };
    secret("pgpass", &format!("*:*:*:{AGENT_ROLE}:{AGENT_PASSWORD}\n"))?;
    secret("mesh.key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n")?;
    Ok(())
}

/// A program of this workspace with flags and their values.
///
/// # Errors
/// If it has not been built.
pub fn daemon(name: &str, program: &str, args: &[(&str, String)]) -> Result<Program> {
    Ok(Program {
        name: name.to_owned(),
        path: files::program(program)?,
        args: args.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]).collect(),
        env: Vec::new(),
        user: None,
        place: Place::default(),
    })
}
