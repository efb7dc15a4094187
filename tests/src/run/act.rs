//! What a fault does to the world.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::plan::Source;
use crate::postgres::faults::{HeldSnapshot, Rejoin};
use crate::postgres::program_path;
use crate::scenario::{Action, Fault, LinkChange, Target};
use crate::wan::path::{Cut, LinkSettings};
use crate::world::World;
use crate::world::layout::collector_host;

/// What must be remembered between a fault and its undoing.
#[derive(Debug, Default)]
pub(super) struct Acts {
    snapshots: BTreeMap<String, HeldSnapshot>,
    walreceivers: BTreeMap<String, Pid>,
}

/// A fault in words.
pub(super) fn describe(fault: &Fault) -> String {
    let target = match &fault.target {
        Target::Agent(name) => format!("agent {name}"),
        Target::Collector(name) => format!("collector {name}"),
        Target::Server(name) => format!("server {name}"),
        Target::Walreceiver(name) => format!("walreceiver {name}"),
        Target::Link(from, to) => format!("link {from} -> {to}"),
        Target::Region(name) => format!("region {name}"),
    };
    let action = match &fault.action {
        Action::Link(_) => "new settings".to_owned(),
        Action::StepClock(by_ns) => format!("step the wall clock by {:.3} s", *by_ns as f64 / 1e9),
        other => format!("{other:?}"),
    };
    format!("{target}: {action}")
}

impl Acts {
    /// Does it.
    ///
    /// # Errors
    /// If it cannot be done.
    pub(super) async fn carry_out(&mut self, fault: &Fault, world: &mut World) -> Result<()> {
        match &fault.target {
            Target::Agent(name) => agent(name, &fault.action, world).await,
            Target::Collector(name) => collector(name, &fault.action, world).await,
            Target::Server(name) => self.server(name, &fault.action, world).await,
            Target::Walreceiver(name) => self.walreceiver(name, &fault.action, world).await,
            Target::Link(from, to) => link(from, to, &fault.action, world),
            Target::Region(name) => region(name, &fault.action, world),
        }
    }

    async fn server(&mut self, name: &str, action: &Action, world: &mut World) -> Result<()> {
        match action {
            Action::Cut(_) => world.cut_server(name, Cut::Replication),
            Action::Heal => world.cut_server(name, Cut::None),
            Action::Freeze => world.server(name)?.freeze(),
            Action::Thaw => world.server(name)?.thaw(),
            Action::Kill => world.server(name)?.kill().await,
            Action::Stop => world.server(name)?.stop(Signal::SIGINT).await,
            Action::Start => world.server(name)?.start().await,
            Action::PauseReplay => world.server(name)?.pause_replay().await,
            Action::ResumeReplay => world.server(name)?.resume_replay().await,
            Action::HoldSnapshot => {
                let source = source_of(world, name)?;
                let (server, primary) = world.server_and(name, &source)?;
                self.snapshots.insert(name.to_owned(), server.hold_conflicting_snapshot(primary).await?);
                Ok(())
            }
            Action::ReleaseSnapshot => {
                self.snapshots.remove(name).with_context(|| format!("no snapshot is held on {name}"))?;
                Ok(())
            }
            Action::DropSlot(slot) => world.server(name)?.drop_slot(slot).await,
            Action::Promote => world.server(name)?.promote().await,
            Action::Rejoin(writer) => {
                let (server, writer) = world.server_and(name, writer)?;
                // Only the system's packages bring pg_rewind.
                let how = if program_path("pg_rewind", Some(server.version())).is_ok() { Rejoin::Rewind } else { Rejoin::Copy };
                server.rejoin(writer, how).await
            }
            Action::Sql(statements) => world.server(name)?.app(statements).await.map(drop),
            Action::DisableSubscription | Action::EnableSubscription | Action::BreakSubscription => {
                let source = source_of(world, name)?;
                let (server, publisher) = world.server_and(name, &source)?;
                match action {
                    Action::BreakSubscription => server.break_subscription(publisher).await,
                    action => server.enable_subscription(publisher, matches!(action, Action::EnableSubscription)).await,
                }
            }
            Action::StartLoad(clients, rate_per_s) => world.start_load(name, *clients, *rate_per_s).await,
            Action::StopLoad => {
                let mut load = world.loads().remove(name).with_context(|| format!("no load runs on {name}"))?;
                ensure!(load.process().ended()?.is_none(), "the load had ended; {}", load.process().last_words());
                Ok(())
            }
            other => bail!("{other:?} is nothing that a server can do"),
        }
    }

    /// A frozen walreceiver must be thawed under the number that it had when it was frozen: nobody can ask the server meanwhile whether
    /// that is still it.
    async fn walreceiver(&mut self, name: &str, action: &Action, world: &mut World) -> Result<()> {
        match action {
            Action::Freeze => {
                let pid = world.server(name)?.signal_walreceiver(Signal::SIGSTOP).await?;
                self.walreceivers.insert(name.to_owned(), pid);
                Ok(())
            }
            Action::Thaw => {
                let pid = self.walreceivers.remove(name).with_context(|| format!("the walreceiver of {name} is not frozen"))?;
                kill(pid, Signal::SIGCONT).with_context(|| format!("the walreceiver of {name} is gone"))
            }
            Action::Kill => world.server(name)?.signal_walreceiver(Signal::SIGTERM).await.map(drop),
            other => bail!("{other:?} is nothing that a walreceiver can do"),
        }
    }
}

fn source_of(world: &World, node: &str) -> Result<String> {
    let (_, plan) = world.plan().node(node).with_context(|| format!("no node {node}"))?;
    match &plan.source {
        Source::Follows(name) | Source::Subscribes(name) | Source::Exchanges(name) => Ok(name.clone()),
        Source::Own => bail!("{node} copies nobody"),
    }
}

async fn agent(name: &str, action: &Action, world: &mut World) -> Result<()> {
    match action {
        Action::Freeze => world.agent(name)?.signal(Signal::SIGSTOP),
        Action::Thaw => world.agent(name)?.signal(Signal::SIGCONT),
        Action::Kill => world.stop_agent(name, Signal::SIGKILL).await,
        Action::Stop => world.stop_agent(name, Signal::SIGTERM).await,
        Action::Start => world.start_agent(name),
        // Its region's server talks on: all but the databases' packets of their host are dropped.
        Action::Cut(_) => world.cut_region_host(name, Cut::Mesh),
        Action::Heal => world.cut_region_host(name, Cut::None),
        Action::FillDisk => world.disk(name).with_context(|| no_disk(name))?.fill(),
        Action::FreeDisk => world.disk(name).with_context(|| no_disk(name))?.free(),
        other => bail!("{other:?} is nothing that an agent can do"),
    }
}

fn no_disk(agent: &str) -> String {
    format!("the spool of {agent} has no disk of its own: give its region spool_disk_bytes")
}

async fn collector(name: &str, action: &Action, world: &mut World) -> Result<()> {
    match action {
        Action::Freeze => world.collector(name)?.signal(Signal::SIGSTOP),
        Action::Thaw => world.collector(name)?.signal(Signal::SIGCONT),
        Action::Kill => world.stop_collector(name, Signal::SIGKILL).await,
        Action::Stop => world.stop_collector(name, Signal::SIGTERM).await,
        Action::Start => world.start_collector(name),
        Action::Cut(_) => world.cut_host(&collector_host(name), Cut::All),
        Action::Heal => world.cut_host(&collector_host(name), Cut::None),
        other => bail!("{other:?} is nothing that a collector can do"),
    }
}

fn change(world: &World, from: &str, to: &str, change: impl FnOnce(&mut LinkSettings)) -> Result<()> {
    let wan = world.wan().context("there is no emulated network")?;
    let mut settings = wan.link(from, to)?;
    change(&mut settings);
    wan.set_link(from, to, settings).map(drop)
}

fn link(from: &str, to: &str, action: &Action, world: &World) -> Result<()> {
    let at_start =
        world.plan().links.iter().find(|link| link.from == from && link.to == to).map_or(Cut::None, |link| link.settings.cut);
    change(world, from, to, |settings| match action {
        Action::Cut(cut) => settings.cut = *cut,
        Action::Heal => settings.cut = at_start,
        Action::Link(new) => {
            let LinkChange { settings: new, cuts } = new.as_ref();
            // A cut that is on stays on unless the change speaks of it.
            let cut = if *cuts { new.cut } else { settings.cut };
            *settings = LinkSettings { cut, ..new.clone() };
        }
        _ => {}
    })
}

fn region(name: &str, action: &Action, world: &World) -> Result<()> {
    let clock = || world.clock(name).with_context(|| format!("{name} has no clocks of its own"));
    match action {
        Action::Cut(_) | Action::Heal => {
            for other in world.plan().regions.iter().filter(|other| other.name != name) {
                link(name, &other.name, action, world)?;
                link(&other.name, name, action, world)?;
            }
            Ok(())
        }
        Action::StepClock(by_ns) => clock()?.step_wall(*by_ns).map(drop),
        Action::Drift(ppm) => clock()?.set_drift(*ppm).map(drop),
        Action::Claim(claim) => clock()?.set_claim(*claim).map(drop),
        other => bail!("{other:?} is nothing that a region can do"),
    }
}
