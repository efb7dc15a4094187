//! The network, the agents that answer, and the agent that is measured.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::progress;
use super::receiver::Receiver;
use crate::files::{RunFolder, mesh_key};
use crate::process::{Process, Program};
use crate::real::Real;
use crate::wait;
use crate::wan::host::Host;
use crate::wan::log::{HostId, Record};
use crate::wan::packet::UDP;
use crate::wan::path::LinkSettings;
use crate::wan::{HostPlan, Wan, WanPlan};
use crate::world::client::Client;
use crate::world::start::daemon;

/// How many agents answer.
pub(super) const PEERS: usize = 100;
/// On how many hosts they are: as many as the router can look after without being in the way on two processors.
const HOSTS: usize = 10;
/// The host of the agent that is measured, and its region and name.
pub(super) const METER: &str = "meter";
/// The first mesh port; further agents of a host take the next ones.
const MESH_PORT: u16 = 8620;
/// The first port for an agent's own pages.
const HTTP_PORT: u16 = 8720;
/// How long an agent may take to start and to probe everybody once.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long an agent may take to wind down.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Everything that stays from part to part.
pub(super) struct Bed {
    reflectors: Vec<Process>,
    pub(super) receiver: Receiver,
    pub(super) wan: Wan,
    folder: RunFolder,
    started: AtomicU32,
    since: Real,
}

/// How the measured agent is set up.
#[derive(Debug, Clone, Default)]
pub(super) struct Setup {
    /// Whom it probes: the first so many agents.
    pub(super) peers: usize,
    /// The keys of its `[mesh]`; empty: the default.
    pub(super) mesh: String,
    /// The keys of its `[export]`; empty: the default.
    pub(super) export: &'static str,
    /// What it logs.
    pub(super) log: Log,
}

/// What the measured agent logs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Log {
    /// What it logs by default.
    #[default]
    Usual,
    /// Also a line of JSON for each fate of a probe.
    EachProbe,
}

/// The measured agent. Dropping it kills it.
pub(super) struct Meter {
    process: Process,
    pub(super) client: Client,
}

/// Where the measured agent and all others are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) meter: HostId,
    pub(super) peers: Vec<At>,
}

/// Where a peer agent is.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) host: HostId,
    pub(super) port: u16,
}

impl Bed {
    /// Lays the network, which remembers so many packets, and starts the agents that answer.
    ///
    /// # Errors
    /// If that is not possible here, or a program is not built.
    pub(super) async fn start(log_records: usize) -> Result<Bed> {
        let folder = RunFolder::new("bench")?;
        let mut hosts = vec![HostPlan::new(METER, METER)];
        hosts.extend((0..HOSTS).map(|number| HostPlan::new(&host_name(number), &host_name(number))));
        let wan = Wan::start(&WanPlan { hosts, log_records, ..WanPlan::default() })?;
        mesh_key(folder.path())?;
        let receiver = Receiver::start(wan.host(METER)?).await?;
        let mut bed = Bed { reflectors: Vec::new(), receiver, wan, folder, started: AtomicU32::new(0), since: Real::now() };
        progress("starting the agents that answer");
        for peer in 0..PEERS {
            let reflector = bed.start_reflector(peer)?;
            bed.reflectors.push(reflector);
        }
        for peer in 0..PEERS {
            let host = bed.wan.host(&host_name(peer % HOSTS))?;
            let client = client(HTTP_PORT + number_on_host(peer), host)?;
            wait::until("all agents answer", READY_WITHIN, || client.get("health")).await?;
        }
        progress(&format!("{PEERS} agents answer, {} on each of {HOSTS} emulated hosts", PEERS / HOSTS));
        Ok(bed)
    }

    fn start_reflector(&self, peer: usize) -> Result<Process> {
        let name = peer_name(peer);
        let fleet = fleet_file(
            &[(METER.to_owned(), self.meter_address()?), (name.clone(), self.peer_address(peer)?)],
            "flows = 1\ninterval = \"1h\"\nicmp = false\ntcp = false\n",
            "interval = \"1h\"\n",
            None,
        );
        self.agent(&name, &fleet, self.wan.host(&host_name(peer % HOSTS))?, HTTP_PORT + number_on_host(peer), Log::Usual)
    }

    /// Starts the measured agent and waits until it has probed everybody.
    ///
    /// # Errors
    /// If it does not get there.
    pub(super) async fn meter(&self, setup: &Setup) -> Result<Meter> {
        let mut regions = vec![(METER.to_owned(), self.meter_address()?)];
        for peer in 0..setup.peers {
            regions.push((peer_name(peer), self.peer_address(peer)?));
        }
        self.receiver.forget();
        let fleet = fleet_file(&regions, &setup.mesh, setup.export, Some(self.receiver.address()));
        let host = self.wan.host(METER)?;
        let mut process = self.agent(METER, &fleet, host, HTTP_PORT, setup.log)?;
        let client = client(HTTP_PORT, host)?;
        match wait::until("the measured agent is ready", READY_WITHIN, || client.get("ready")).await {
            Ok(_) => Ok(Meter { process, client }),
            Err(error) if matches!(process.ended(), Ok(None)) => Err(error),
            Err(error) => Err(error.context(process.last_words())),
        }
    }

    fn agent(&self, name: &str, fleet: &str, host: &Host, http_port: u16, log: Log) -> Result<Process> {
        // A folder for each start, so that no agent finds what another one has left.
        let start = self.started.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(format!("agent-{start}-{name}"));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let path = folder.join("fleet.toml");
        fs::write(&path, fleet).with_context(|| format!("write {}", path.display()))?;
        let mut args = vec![
            ("--fleet", path.display().to_string()),
            ("--region", name.to_owned()),
            ("--mesh-key-file", self.folder.path().join("mesh.key").display().to_string()),
            ("--http-listen", format!("127.0.0.1:{http_port}")),
            ("--state-dir", folder.display().to_string()),
        ];
        if matches!(log, Log::EachProbe) {
            args.push(("--log-format", "json".to_owned()));
            args.push(("--log-level", "info,lagmesh_agent::mesh::shared=trace".to_owned()));
        }
        let program = daemon(&format!("agent-{name}"), "lagmesh-agent", &args)?;
        Process::start(Program { place: host.place(), ..program }, &folder)
    }

    /// Starts a program of others on the measured agent's host.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn beside(&self, program: Program) -> Result<Process> {
        Process::start(Program { place: self.wan.host(METER)?.place(), ..program }, self.folder.path())
    }

    /// A file that is there for as long as the bed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The addresses of all hosts with agents that answer.
    ///
    /// # Errors
    /// Never, with the hosts that were planned.
    pub(super) fn host_addresses(&self) -> Result<Vec<IpAddr>> {
        (0..HOSTS).map(|number| self.wan.address(&host_name(number), false)).collect()
    }

    /// Sets the links between the measured agent's host and all others, both ways.
    ///
    /// # Errors
    /// If the router is gone.
    pub(super) fn set_links(&self, settings: &LinkSettings) -> Result<()> {
        for number in 0..HOSTS {
            self.wan.set_link(METER, &host_name(number), settings.clone())?;
            self.wan.set_link(&host_name(number), METER, settings.clone())?;
        }
        Ok(())
    }

    /// Where a peer agent is in the log.
    ///
    /// # Errors
    /// If there is no such peer.
    pub(super) fn at(&self, peer: usize) -> Result<At> {
        Ok(At { host: self.wan.host(&host_name(peer % HOSTS))?.id(), port: MESH_PORT + number_on_host(peer) })
    }

    /// Where everybody is in the log.
    ///
    /// # Errors
    /// Never, with the hosts that were planned.
    pub(super) fn places(&self) -> Result<Places> {
        Ok(Places { meter: self.meter_id()?, peers: (0..PEERS).map(|peer| self.at(peer)).collect::<Result<_>>()? })
    }

    /// The measured agent's host in the log.
    ///
    /// # Errors
    /// Never, with the hosts that were planned.
    pub(super) fn meter_id(&self) -> Result<HostId> {
        Ok(self.wan.host(METER)?.id())
    }

    /// The probes of the measured agent that left in [since, until), whatever became of them.
    ///
    /// # Errors
    /// Never, with the hosts that were planned.
    pub(super) fn probes(&self, since: Real, until: Real) -> Result<Vec<Record>> {
        let (meter, first) = (self.meter_id()?, MESH_PORT);
        let last = MESH_PORT + number_on_host(PEERS - 1);
        let mut records = self.wan.log().records(since, until);
        // The first copy of each is enough: nothing is duplicated on these links.
        records
            .retain(|record| record.from == meter && record.protocol == UDP && (first..=last).contains(&record.destination_port));
        Ok(records)
    }

    fn meter_address(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.wan.address(METER, false)?, MESH_PORT))
    }

    fn peer_address(&self, peer: usize) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.wan.address(&host_name(peer % HOSTS), false)?, MESH_PORT + number_on_host(peer)))
    }

    /// How well the network did its work, as text.
    pub(super) fn quality(&self, part: &str) -> String {
        format!("\n{}", crate::selftest::router_line(part, &self.wan.quality(), Real::now() - self.since))
    }
}

impl Meter {
    /// Its process id.
    pub(super) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Ends it in order, so that its last batch is sent. Returns its log.
    ///
    /// # Errors
    /// If it does not end.
    pub(super) async fn stop(mut self) -> Result<String> {
        self.process.stop(Signal::SIGTERM, STOP_WITHIN).await?;
        self.process.output()
    }
}

/// The region, and the one agent, of a peer.
pub(super) fn peer_name(peer: usize) -> String {
    format!("p{peer:02}")
}

/// A host with peers, and the network's region for it.
pub(super) fn host_name(number: usize) -> String {
    format!("h{number}")
}

/// The way to the pages of an agent.
fn client(http_port: u16, host: &Host) -> Result<Client> {
    Client::new(SocketAddr::from((Ipv4Addr::LOCALHOST, http_port)), Some(host.handle().clone()))
}

fn number_on_host(peer: usize) -> u16 {
    u16::try_from(peer / HOSTS).unwrap_or(u16::MAX)
}

/// A fleet of regions with one agent each.
fn fleet_file(regions: &[(String, SocketAddr)], mesh: &str, export: &str, collector: Option<SocketAddr>) -> String {
    let mut file = "# Written by the bench.\nname = \"bench\"\n".to_owned();
    let mut add = |text: std::fmt::Arguments<'_>| file.write_fmt(text).expect("writing to a string cannot fail");
    for (name, mesh) in regions {
        add(format_args!("\n[[region]]\nname = \"{name}\"\n[[region.agent]]\nmesh = \"{mesh}\"\n"));
    }
    if let Some(address) = collector {
        add(format_args!("\n[[collector]]\nname = \"main\"\notlp = \"http://{address}\"\n"));
    }
    add(format_args!("\n[mesh]\n{mesh}\n[export]\n{export}"));
    file
}

#[cfg(test)]
mod tests {
    use lagmesh_model::fleet::Fleet;

    use super::*;

    /// What the bench writes is a fleet file as any other, with a key and without leave to do without one.
    #[test]
    fn fleet_files() {
        let at = |last: u8| SocketAddr::from(([10, 77, last, 1], MESH_PORT));
        let regions = [(METER.to_owned(), at(1)), (peer_name(0), at(2)), (peer_name(57), at(9))];
        let collector = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 4318)));
        let text = fleet_file(&regions, "flows = 8\n", "interval = \"100ms\"\n", collector);
        let fleet = Fleet::parse("fleet.toml", &text).unwrap();
        assert_eq!((fleet.regions.len(), fleet.mesh.flows, fleet.insecure), (3, 8, false));
        assert_eq!(fleet.export.interval, Duration::from_millis(100));
        assert!(fleet.needs_mesh_key());
    }

    /// Every peer has an address of its own: a host and a port there.
    #[test]
    fn places() {
        let places: std::collections::BTreeSet<(usize, u16)> =
            (0..PEERS).map(|peer| (peer % HOSTS, number_on_host(peer))).collect();
        assert_eq!(places.len(), PEERS);
    }
}
