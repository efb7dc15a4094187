//! How a world comes to be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::fleet::{self, Fleet};

use super::layout::{Layout, collector_host};
use super::proxy::Proxy;
use super::{AGENT_PASSWORD, AGENT_ROLE, Options, World};
use crate::clocks::{HostClock, machine};
use crate::disk::Disk;
use crate::files::{self, RunFolder};
use crate::plan::{ClusterPlan, NodePlan, Plan, Source};
use crate::postgres::load::Load;
use crate::postgres::pooler::Pooler;
use crate::postgres::topology::Subscription;
use crate::postgres::{self, Server, ServerPlan};
use crate::process::{Place, Process, Program};
use crate::real::Real;
use crate::wan::{HostPlan, Wan, WanPlan};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

impl World {
    /// Starts network, clocks, servers, collectors, agents and loads; `say` hears what is being done.
    ///
    /// # Errors
    /// If any part does not start. [`crate::wan::NotPossible`] in the chain says that this machine or account cannot emulate a network.
    pub async fn start(plan: Plan, options: &Options, say: &mut dyn FnMut(&str)) -> Result<World> {
        let folder = RunFolder::new(&plan.name)?;
        let mut world = World {
            layout: Layout::default(),
            agents: BTreeMap::new(),
            collectors: BTreeMap::new(),
            loads: BTreeMap::new(),
            servers: BTreeMap::new(),
            poolers: BTreeMap::new(),
            disks: BTreeMap::new(),
            clocks: BTreeMap::new(),
            clock_keeper: JoinSet::new(),
            page: None,
            agent_env: options.agent_env,
            mesh_plan: fleet::Plan::Full,
            wan: None,
            folder,
            plan,
        };
        if options.emulated {
            say(&format!("laying the network between {} regions", world.plan.regions.len()));
            world.lay_network()?;
        }
        world.layout = match &world.wan {
            Some(wan) => Layout::on_hosts(&world.plan, |host| wan.address(host, world.plan.ipv6))?,
            None => Layout::on_loopback(&world.plan, options.http_port)?,
        };
        world.start_servers(say).await?;
        let file = world.layout.fleet_file(&world.plan)?;
        fs::write(world.folder().join("fleet.toml"), &file).context("write the fleet file")?;
        world.mesh_plan = Fleet::parse("fleet.toml", &file)?.mesh.plan;
        write_secrets(world.folder())?;
        say("starting the collectors and the agents");
        world.start_daemons().await?;
        world.open_page(options.http_port).await?;
        for load in world.plan.loads.clone() {
            world.start_load(&load.node, load.clients, load.rate_per_s).await?;
        }
        Ok(world)
    }

    fn lay_network(&mut self) -> Result<()> {
        let regions = self.plan.regions.iter().map(|region| HostPlan {
            monotonic_s: region.clock.monotonic_s,
            boottime_s: region.clock.boot_s,
            ..HostPlan::new(&region.name, &region.name)
        });
        let collectors =
            self.plan.collectors.iter().map(|collector| HostPlan::new(&collector_host(&collector.name), &collector.region));
        let wan = WanPlan {
            hosts: regions.chain(collectors).collect(),
            links: self.plan.links.clone(),
            database_ports: Layout::database_ports(&self.plan).collect(),
            seed: self.plan.seed,
            ..WanPlan::default()
        };
        self.wan = Some(Wan::start(&wan)?);
        for region in &self.plan.regions {
            let clock = &region.clock;
            let folder = self.folder.path().join(format!("clock-{}", region.name));
            let clock = HostClock::new(&folder, &region.name, &clock.clocks, clock.monotonic_s, clock.boot_s)?;
            self.clocks.insert(region.name.clone(), Arc::new(clock));
        }
        self.clock_keeper.spawn(keep(self.clocks.values().cloned().collect()));
        Ok(())
    }

    /// Where the programs of a host run.
    pub(super) fn place(&self, host: &str) -> Result<Place> {
        let mut place = match &self.wan {
            Some(wan) => wan.host(host)?.place(),
            None => Place::default(),
        };
        if let Some(clock) = self.clocks.get(host) {
            place.env.extend(clock.env());
        }
        Ok(place)
    }

    /// The way into a host's network, if it has one of its own.
    pub(super) fn inside(&self, host: &str) -> Result<Option<Handle>> {
        self.wan.as_ref().map(|wan| Ok(wan.host(host)?.handle().clone())).transpose()
    }

    async fn start_servers(&mut self, say: &mut dyn FnMut(&str)) -> Result<()> {
        for cluster in self.plan.clusters.clone() {
            for node in &cluster.nodes {
                say(&format!("starting {} in {}", node.name, node.region));
                let server = self.start_server(&cluster, node).await.with_context(|| format!("start {}", node.name))?;
                if let Some(mode) = node.pooler {
                    let at = self.layout.pooler.get(&node.name).with_context(|| format!("no address before {}", node.name))?;
                    let pooler = Pooler::start(&server, mode, *at, AGENT_ROLE, AGENT_PASSWORD)?;
                    self.poolers.insert(node.name.clone(), pooler);
                }
                self.servers.insert(node.name.clone(), server);
            }
            if let Some(names) = &cluster.synchronous_standby_names {
                for node in cluster.nodes.iter().filter(|node| node.source == Source::Own) {
                    let server = &self.servers[&node.name];
                    server.set("synchronous_standby_names", names).await?;
                    server.set("synchronous_commit", cluster.synchronous_commit.as_deref().unwrap_or("on")).await?;
                }
            }
        }
        Ok(())
    }

    async fn start_server(&self, cluster: &ClusterPlan, node: &NodePlan) -> Result<Server> {
        let run = self.folder().to_owned();
        let plan = self.server_plan(node)?;
        let source = |name: &String| self.servers.get(name).with_context(|| format!("{name} of {} is not there", cluster.name));
        match &node.source {
            Source::Own => {
                let server = Server::primary(&plan, &run).await?;
                prepare(&server).await?;
                Ok(server)
            }
            Source::Follows(name) => {
                let server = Server::standby(&plan, &run, source(name)?).await?;
                if let Some(delay_ms) = node.apply_delay_ms {
                    server.delay_apply(Duration::from_millis(delay_ms)).await?;
                }
                Ok(server)
            }
            Source::Subscribes(name) | Source::Exchanges(name) => {
                let both_ways = matches!(node.source, Source::Exchanges(_));
                let server = Server::primary(&plan, &run).await?;
                prepare(&server).await?;
                let subscription = Subscription { both_ways, ..Subscription::default() };
                server.subscribe(source(name)?, &subscription).await?;
                Ok(server)
            }
        }
    }

    fn server_plan(&self, node: &NodePlan) -> Result<ServerPlan> {
        let at = self.layout.database.get(&node.name).with_context(|| format!("no address of {}", node.name))?;
        let settings = node.settings.iter().filter_map(|setting| setting.split_once('='));
        Ok(ServerPlan {
            name: node.name.clone(),
            place: self.place(&node.region)?,
            addresses: vec![at.ip()],
            port: at.port(),
            version: node.version,
            settings: settings.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect(),
        })
    }

    async fn start_daemons(&mut self) -> Result<()> {
        for collector in self.plan.collectors.clone() {
            self.start_collector(&collector.name)?;
        }
        for region in self.plan.regions.clone() {
            for agent in self.plan.agents_of(&region) {
                if let Some(bytes) = region.spool_disk_bytes {
                    let disk = Disk::mount(&agent, &self.state_folder(&agent), bytes).await?;
                    self.disks.insert(agent.clone(), disk);
                }
                self.start_agent(&agent)?;
            }
        }
        Ok(())
    }

    async fn open_page(&mut self, http_port: u16) -> Result<()> {
        let Some(first) = self.plan.collectors.first() else { return Ok(()) };
        if let Some(inside) = self.inside(&collector_host(&first.name))? {
            let target = self.layout.collector_http[&first.name];
            self.page = Some(Proxy::start(http_port, inside, target).await?);
        }
        Ok(())
    }

    /// Starts a collector (again).
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_collector(&mut self, collector: &str) -> Result<()> {
        ensure!(!self.collectors.contains_key(collector), "collector {collector} runs already");
        let address = |of: &BTreeMap<String, std::net::SocketAddr>| {
            of.get(collector).map(ToString::to_string).with_context(|| format!("no collector {collector}"))
        };
        let state = self.folder().join(format!("collector-{collector}-state"));
        fs::create_dir_all(&state)?;
        let args = [
            ("--fleet", self.path("fleet.toml")),
            ("--http-listen", address(&self.layout.collector_http)?),
            ("--grpc-listen", address(&self.layout.collector_grpc)?),
            ("--state-dir", state.display().to_string()),
        ];
        let mut program = daemon(&collector_host(collector), "lagmesh-collector", &args)?;
        program.place = self.place(&collector_host(collector))?;
        let process = Process::start(program, self.folder())?;
        self.collectors.insert(collector.to_owned(), process);
        Ok(())
    }

    /// Starts an agent (again).
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_agent(&mut self, agent: &str) -> Result<()> {
        ensure!(!self.agents.contains_key(agent), "agent {agent} runs already");
        let http = self.layout.agent_http.get(agent).with_context(|| format!("no agent {agent}"))?;
        let region = self.plan.region_of_agent(agent).with_context(|| format!("no agent {agent}"))?.name.clone();
        let state = self.state_folder(agent);
        fs::create_dir_all(&state)?;
        let args = [
            ("--fleet", self.path("fleet.toml")),
            ("--region", region.clone()),
            ("--agent", agent.to_owned()),
            ("--http-listen", http.to_string()),
            ("--state-dir", state.display().to_string()),
            ("--mesh-key-file", self.path("mesh.key")),
        ];
        let mut program = daemon(&format!("agent-{agent}"), "lagmesh-agent", &args)?;
        program.env.push(("PGPASSFILE".to_owned(), self.path("pgpass")));
        program.env.extend(self.agent_env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        program.place = self.place(&region)?;
        if let Some(disk) = self.disks.get(agent) {
            program.place.enter.splice(0..0, disk.enter());
        }
        let process = Process::start(program, self.folder())?;
        self.agents.insert(agent.to_owned(), process);
        Ok(())
    }

    /// Starts a write load on a node.
    ///
    /// # Errors
    /// If pgbench cannot be started.
    pub async fn start_load(&mut self, node: &str, clients: u32, rate_per_s: u32) -> Result<()> {
        ensure!(!self.loads.contains_key(node), "a load runs on {node} already");
        let server = self.servers.get(node).with_context(|| format!("no server {node}"))?;
        let load = Load::start(server, clients, rate_per_s).await?;
        self.loads.insert(node.to_owned(), load);
        Ok(())
    }

    fn state_folder(&self, agent: &str) -> PathBuf {
        self.folder().join(format!("agent-{agent}-state"))
    }

    fn path(&self, name: &str) -> String {
        self.folder().join(name).display().to_string()
    }
}

/// Does once a second what the clock daemons of hosts do.
async fn keep(clocks: Vec<Arc<HostClock>>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        machine::observe();
        for clock in &clocks {
            if let Err(error) = clock.refresh(Real::now()) {
                eprintln!("testbed: the clock daemon of {}: {error:#}", clock.name());
            }
        }
    }
}

/// Prepares a server's database for lagmesh, as an operator would.
async fn prepare(server: &Server) -> Result<()> {
    let sql = postgres::bootstrap_sql()?;
    server.app(&sql).await.context("prepare the database with the SQL of `lagmesh bootstrap --print-sql`")?;
    server.app(&format!("ALTER ROLE {AGENT_ROLE} PASSWORD '{AGENT_PASSWORD}'")).await?;
    Ok(())
}

fn write_secrets(run: &Path) -> Result<()> {
    files::secret(run, "pgpass", &format!("*:*:*:{AGENT_ROLE}:{AGENT_PASSWORD}\n"))?;
    files::mesh_key(run)?;
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
