//! A wide-area network on one machine, with the truth known.
//!
//! Every host is a network namespace with one TUN device; one router moves packets between the devices as the settings of the links
//! between their regions say, and writes down when each packet left and arrived. Nothing has a name on the machine: everything
//! vanishes with this process, even if it is killed.

pub mod device;
pub mod host;
pub mod icmp;
pub mod link;
pub mod log;
pub mod packet;
pub mod path;
pub mod quality;
pub mod random;
pub mod release;
mod router;
pub mod tap;
pub mod truth;

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use self::device::{Addresses, Ends};
use self::host::Host;
use self::link::Link;
use self::log::{Batch, Log};
use self::path::{Cut, LinkSettings, SMALLEST_MTU_BYTES};
use self::quality::{Quality, Stall, StallKind, stolen_ticks};
use self::random::mix;
use self::release::Releases;
use self::router::{Order, Router};
use crate::real::Real;

/// How many hosts there may be: one octet of their addresses tells them apart.
const MOST_HOSTS: usize = 250;
/// How long the router may take to carry out an order.
const ORDER_WITHIN: Duration = Duration::from_secs(2);
/// How often stolen time is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How much stolen time between two looks means a stall [10 ms of one processor]; less is not told from the kernel's rounding.
const STOLEN_TICKS: u64 = 2;

/// What the network is like at its start.
#[derive(Debug, Clone)]
pub struct WanPlan {
    /// Where chance begins.
    pub seed: u64,
    /// The hosts.
    pub hosts: Vec<HostPlan>,
    /// The links that are not instant.
    pub links: Vec<LinkPlan>,
    /// The ports whose TCP traffic is replication, for [`path::Cut`].
    pub database_ports: BTreeSet<u16>,
    /// How many packets the log remembers (64 octets each).
    pub log_records: usize,
}

/// A host.
#[derive(Debug, Clone)]
pub struct HostPlan {
    /// Its name.
    pub name: String,
    /// The region in which it stands.
    pub region: String,
    /// How far its monotonic clocks are ahead of the machine's [s].
    pub monotonic_s: i64,
    /// How far its boot clock is ahead of the machine's [s].
    pub boottime_s: i64,
    /// The longest packet that its device takes [octets], 1280 at least.
    pub mtu_bytes: u16,
}

/// One direction between two regions; from a region to itself, it is between the hosts that stand there.
#[derive(Debug, Clone)]
pub struct LinkPlan {
    /// The region that packets leave.
    pub from: String,
    /// The region in which they arrive.
    pub to: String,
    /// How they get there.
    pub settings: LinkSettings,
}

/// This machine or account cannot run a network at all: whoever wanted it has not failed, but was not run.
#[derive(Debug, thiserror::Error)]
#[error("not possible here: {0}")]
pub struct NotPossible(pub String);

/// A running network. Dropping it takes everything away.
#[derive(Debug)]
pub struct Wan {
    // Fields are dropped in this order: the router lets go of the devices before the namespaces go.
    machine: Machine,
    hosts: Vec<Host>,
    regions: Vec<String>,
    settings: Mutex<Vec<LinkSettings>>,
    log: Log,
}

/// The threads that make it run.
#[derive(Debug)]
struct Machine {
    orders: mpsc::Sender<Order>,
    wake: UnixStream,
    router: Option<JoinHandle<()>>,
    watch: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Default for WanPlan {
    fn default() -> WanPlan {
        WanPlan { seed: 1, hosts: Vec::new(), links: Vec::new(), database_ports: BTreeSet::new(), log_records: 4_000_000 }
    }
}

impl HostPlan {
    /// A host with the machine's own clocks and the usual size of packets.
    pub fn new(name: &str, region: &str) -> HostPlan {
        HostPlan { name: name.to_owned(), region: region.to_owned(), monotonic_s: 0, boottime_s: 0, mtu_bytes: 1500 }
    }
}

impl NotPossible {
    /// Whether an error is, or was caused by, one of this kind.
    pub fn is_cause_of(error: &anyhow::Error) -> bool {
        error.downcast_ref::<NotPossible>().is_some()
    }
}

impl WanPlan {
    /// The regions in the order in which hosts name them.
    fn regions(&self) -> Vec<String> {
        let mut regions: Vec<String> = Vec::new();
        for host in &self.hosts {
            if !regions.contains(&host.region) {
                regions.push(host.region.clone());
            }
        }
        regions
    }

    fn check(&self) -> Result<()> {
        ensure!(self.hosts.len() <= MOST_HOSTS, "{} hosts: at most {MOST_HOSTS} are possible", self.hosts.len());
        let names: BTreeSet<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        ensure!(names.len() == self.hosts.len(), "two hosts have the same name");
        let small = self.hosts.iter().find(|host| host.mtu_bytes < SMALLEST_MTU_BYTES);
        ensure!(small.is_none(), "mtu_bytes of a host is at least {SMALLEST_MTU_BYTES}");
        Ok(())
    }

    /// The settings of all links, by region * regions + region.
    fn settings(&self, regions: &[String]) -> Result<Vec<LinkSettings>> {
        let mut all = vec![LinkSettings::default(); regions.len() * regions.len()];
        let mut given = BTreeSet::new();
        for link in &self.links {
            let index = link_index(regions, &link.from, &link.to)?;
            link.settings.check().with_context(|| format!("link from {} to {}", link.from, link.to))?;
            ensure!(given.insert(index), "the link from {} to {} is given twice", link.from, link.to);
            all[index] = link.settings.clone();
        }
        Ok(all)
    }
}

impl Wan {
    /// Makes the hosts and starts the router.
    ///
    /// # Errors
    /// If the plan cannot be or the system refuses; [`NotPossible`] if this machine or account cannot do it at all.
    pub fn start(plan: &WanPlan) -> Result<Wan> {
        plan.check()?;
        let regions = plan.regions();
        let settings = plan.settings(&regions)?;
        possible()?;
        let log = Log::new(plan.log_records);
        let (mut hosts, mut ends) = (Vec::new(), Vec::new());
        for (index, host) in (0..).zip(&plan.hosts) {
            let (host, end) = Host::start(index, host)?;
            hosts.push(host);
            ends.push(end);
        }
        let region_of = |host: &Host| regions.iter().position(|region| region == host.region()).unwrap_or(0);
        let network =
            Network { regions: hosts.iter().map(region_of).collect(), region_count: regions.len(), settings: &settings };
        let machine = Machine::start(plan, ends, &network, &log)?;
        Ok(Wan { machine, hosts, regions, settings: Mutex::new(settings), log })
    }

    /// A host.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name() == name).with_context(|| format!("there is no host {name}"))
    }

    /// All hosts, in the order of the plan.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The address of a host.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn address(&self, name: &str, v6: bool) -> Result<IpAddr> {
        Ok(self.host(name)?.address(v6))
    }

    /// The settings of a link as they are now.
    ///
    /// # Errors
    /// If there is no such region.
    pub fn link(&self, from: &str, to: &str) -> Result<LinkSettings> {
        let index = link_index(&self.regions, from, to)?;
        Ok(self.settings.lock().unwrap_or_else(PoisonError::into_inner)[index].clone())
    }

    /// Changes a link; since when the new settings hold for packets that leave. Waits for the router, well under a millisecond.
    ///
    /// # Errors
    /// If there is no such region, the settings cannot be, or the router is gone.
    pub fn set_link(&self, from: &str, to: &str, settings: LinkSettings) -> Result<Real> {
        let link = link_index(&self.regions, from, to)?;
        settings.check().with_context(|| format!("link from {from} to {to}"))?;
        // Held until the router has answered, so that what is remembered is what holds.
        let mut all = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, wait) = mpsc::sync_channel(1);
        self.machine.order(Order::Set { link, settings: Box::new(settings.clone()), since })?;
        let since = wait.recv_timeout(ORDER_WITHIN).context("the router does not answer")?;
        all[link] = settings;
        Ok(since)
    }

    /// Drops packets that leave or reach one host, and no other of its region; since when. Waits for the router.
    ///
    /// # Errors
    /// If there is no such host, or the router is gone.
    pub fn cut_host(&self, host: &str, cut: Cut) -> Result<Real> {
        let index = self.hosts.iter().position(|found| found.name() == host);
        let host = index.with_context(|| format!("there is no host {host}"))?;
        let (since, wait) = mpsc::sync_channel(1);
        self.machine.order(Order::Cut { host, cut, since })?;
        wait.recv_timeout(ORDER_WITHIN).context("the router does not answer")
    }

    /// What became of every packet.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How well the router did its work since the start.
    pub fn quality(&self) -> Quality {
        self.log.quality()
    }
}

/// What the router must know beside the plan.
struct Network<'a> {
    regions: Vec<usize>,
    region_count: usize,
    settings: &'a [LinkSettings],
}

impl Machine {
    fn start(plan: &WanPlan, ends: Vec<Ends>, network: &Network<'_>, log: &Log) -> Result<Machine> {
        let (orders, received) = mpsc::channel();
        let (wake, woken) = UnixStream::pair().context("make a pair of sockets")?;
        for end in [&wake, &woken] {
            end.set_nonblocking(true).context("use a socket without waiting")?;
        }
        let addresses = (0..).zip(0..ends.len()).flat_map(|(octet, index)| {
            let Addresses { v4, v6 } = Addresses::of(octet);
            [(IpAddr::from(v4), index), (IpAddr::from(v6), index)]
        });
        let link =
            |(index, settings): (u64, &LinkSettings)| Link::new(settings.clone(), mix(plan.seed.wrapping_add(mix(index + 1))));
        let router = Router {
            ends,
            hosts: addresses.collect::<HashMap<IpAddr, usize>>(),
            cuts: vec![Cut::None; network.regions.len()],
            regions: network.regions.clone(),
            links: (0..).zip(network.settings).map(link).collect(),
            region_count: network.region_count,
            database_ports: plan.database_ports.clone(),
            log: log.clone(),
            orders: received,
            wake: woken,
            releases: Releases::default(),
            batch: Batch::default(),
            last: Real::now(),
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let router = thread("wan router").spawn(move || router.run()).context("start the router")?;
        let mut machine = Machine { orders, wake, router: Some(router), watch: None };
        let (stop, stopped) = mpsc::channel();
        let log = log.clone();
        let watch = thread("wan watch").spawn(move || watch_stolen(&log, &stopped)).context("start the watch")?;
        machine.watch = Some((stop, watch));
        Ok(machine)
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).ok().context("the router is gone")?;
        // A full socket wakes it as well.
        drop((&self.wake).write(&[0]));
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.order(Order::Stop));
        if let Some(router) = self.router.take() {
            drop(router.join());
        }
        if let Some((stop, watch)) = self.watch.take() {
            drop(stop);
            drop(watch.join());
        }
    }
}

fn link_index(regions: &[String], from: &str, to: &str) -> Result<usize> {
    let index =
        |name: &str| regions.iter().position(|region| region == name).with_context(|| format!("no host is in region {name}"));
    Ok(index(from)? * regions.len() + index(to)?)
}

/// Says early and clearly what is missing.
fn possible() -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!(NotPossible("a network of namespaces needs root".to_owned()));
    }
    for needed in ["/dev/net/tun", "/proc/self/ns/net", "/proc/self/ns/time"] {
        if !Path::new(needed).exists() {
            bail!(NotPossible(format!("this machine has no {needed}")));
        }
    }
    Ok(())
}

/// Tells the log when the hypervisor took the processors away.
fn watch_stolen(log: &Log, stopped: &mpsc::Receiver<()>) {
    let ticks = || std::fs::read_to_string("/proc/stat").ok().and_then(|stat| stolen_ticks(&stat));
    let (mut from, mut before) = (Real::now(), ticks());
    while stopped.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
        let (until, now) = (Real::now(), ticks());
        if let (Some(before), Some(now)) = (before, now)
            && now.saturating_sub(before) >= STOLEN_TICKS
        {
            let mut batch = Batch::default();
            batch.tally.stalls.push(Stall { from, until, kind: StallKind::Stolen });
            log.take(&mut batch);
        }
        (from, before) = (until, now);
    }
}

#[cfg(test)]
mod tests;
