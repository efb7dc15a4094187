//! A host of the testbed: a network namespace and a time namespace without names, held by one process that ends with us.

use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

use super::device::{self, Addresses, Ends};
use super::log::HostId;
use super::{HostPlan, NotPossible};
use crate::process::Place;

/// What the holder says once its namespaces are there; then it waits for the end of its input, which is our end at the latest.
const HOLD: &str = "echo held && exec cat";
/// How long the tasks of a host may take to end with it.
const TASKS_END: Duration = Duration::from_secs(1);

/// A host. Dropping it ends its tasks and takes its network away.
#[derive(Debug)]
pub struct Host {
    name: String,
    id: HostId,
    region: String,
    addresses: Addresses,
    place: Place,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The process that holds the namespaces.
struct Holder {
    child: Child,
}

/// What the thread of a host says once all is there.
struct Ready {
    handle: Handle,
    place: Place,
    ends: Ends,
}

impl Host {
    /// Makes the host with this index, and what the router needs of it.
    ///
    /// # Errors
    /// If the system refuses; [`NotPossible`] if this machine or account cannot do it at all.
    pub(super) fn start(index: u8, plan: &HostPlan) -> Result<(Host, Ends)> {
        let addresses = Addresses::of(index);
        let (ready, wait) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let own = plan.clone();
        let thread = std::thread::Builder::new()
            .name(format!("host {}", plan.name))
            .spawn(move || live(&own, addresses, &ready, stopped))
            .context("start a thread")?;
        let Ready { handle, place, ends } = wait.recv().context("the thread of a host died")??;
        let host = Host {
            name: plan.name.clone(),
            id: HostId(index),
            region: plan.region.clone(),
            addresses,
            place,
            handle,
            stop: Some(stop),
            thread: Some(thread),
        };
        Ok((host, ends))
    }

    /// Its name in the plan.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is called in the log.
    pub fn id(&self) -> HostId {
        self.id
    }

    /// The region in which it stands.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Its address.
    pub fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.addresses.v6.into() } else { self.addresses.v4.into() }
    }

    /// Where its programs run: with its network, and with its clocks.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// A runtime of one thread in the host's network: the sockets of what is spawned there are the host's. The clocks are ours.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a job in the host's network.
    ///
    /// # Errors
    /// If the job fails, panics, or the host is dropped meanwhile.
    pub async fn run<T, J, F>(&self, job: J) -> Result<T>
    where
        T: Send + 'static,
        J: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let task = self.handle.spawn(async move { job().await });
        task.await.with_context(|| format!("a job on host {} did not end", self.name))?
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The thread waits for either a word or the end of the channel.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The life of a host's thread: it holds the namespaces, lives in the network one, and runs tasks there.
fn live(plan: &HostPlan, addresses: Addresses, ready: &mpsc::SyncSender<Result<Ready>>, stopped: oneshot::Receiver<()>) {
    let begun = begin(plan, addresses);
    let (holder, runtime, ends) = match begun {
        Ok(begun) => begun,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let place = holder.place();
    if ready.send(Ok(Ready { handle: runtime.handle().clone(), place, ends })).is_ok() {
        drop(runtime.block_on(stopped));
    }
    runtime.shutdown_timeout(TASKS_END);
    drop(holder);
}

fn begin(plan: &HostPlan, addresses: Addresses) -> Result<(Holder, runtime::Runtime, Ends)> {
    let holder = Holder::start(plan)?;
    let network = format!("/proc/{}/ns/net", holder.child.id());
    let network = File::open(&network).with_context(|| format!("open {network}"))?;
    setns(&network, CloneFlags::CLONE_NEWNET).map_err(|error| NotPossible(format!("enter a network namespace: {error}")))?;
    let ends = device::make(addresses, plan.mtu_bytes).with_context(|| format!("make the network of host {}", plan.name))?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")?;
    Ok((holder, runtime, ends))
}

impl Holder {
    fn start(plan: &HostPlan) -> Result<Holder> {
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--time",
            "--monotonic",
            &plan.monotonic_s.to_string(),
            "--boottime",
            &plan.boottime_s.to_string(),
        ]);
        command.args(["--", "sh", "-c", HOLD]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().context("start unshare (part of util-linux)")?;
        let mut holder = Holder { child };
        let mut said = String::new();
        if let Some(output) = holder.child.stdout.take() {
            BufReader::new(output).read_line(&mut said).context("listen to unshare")?;
        }
        if said.trim() == "held" {
            return Ok(holder);
        }
        let mut complaint = String::new();
        if let Some(mut errors) = holder.child.stderr.take() {
            errors.read_to_string(&mut complaint).context("listen to unshare")?;
        }
        bail!(NotPossible(format!("no namespaces for host {}: {}", plan.name, complaint.trim())))
    }

    /// What enters the namespaces becomes the program: nsenter forks only for process namespaces. Those to come are named, because
    /// before Linux 6.3 a process does not itself enter the time namespace that it has made.
    fn place(&self) -> Place {
        let namespaces = format!("/proc/{}/ns", self.child.id());
        let enter = ["nsenter", &format!("--net={namespaces}/net"), &format!("--time={namespaces}/time_for_children"), "--"];
        Place { enter: enter.map(str::to_owned).to_vec(), env: Vec::new() }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Whatever fails here, there is nobody left to tell.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests;
