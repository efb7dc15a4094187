//! The observer that knows the truth about replication lag: on the machine's one real clock it sees each commit return to the one who
//! wrote the beat and sees the beat become visible to queries at every node.
//!
//! *Visible* is found by looking: for each server a thread asks one prepared question over the Unix socket, several thousand times a
//! second while a beat is on its way to it, and takes its own clock before and after. A procedure that loops in the server would be no cheaper and worse: the server's
//! sleep has a grain of a millisecond and follows its wall clock, which the testbed may have set wrong, and PL/pgSQL holds a snapshot
//! while it sleeps, which makes replay wait. Between the looks no snapshot is held; each counts as a transaction in the server's
//! statistics.
//!
//! *Returned* is found by listening on the loopback of the writer's host to the server's answers, with kernel stamps. What is asked for
//! there tells when a beat is on its way; a beat that came unheard (over TLS, say) makes the looking close all the time.

pub mod cost;
pub mod truth;

mod packet;
mod session;
mod tap;
#[cfg(test)]
mod tests;
mod underway;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::postgres::{DATABASE, Server};
use cost::Report;
use tap::{Tap, TapTarget};
use truth::{BeatId, BeatTruth, Truth, Window};
use underway::Underway;
use watch::{Target, Watch};

/// The resolution that a truth for lag should have.
pub const RESOLUTION: Duration = Duration::from_micros(500);

/// The range of resolutions that can be asked for.
const RESOLUTIONS: std::ops::RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(1);

/// A server to be watched.
#[derive(Debug, Clone)]
pub struct Watched {
    node: String,
    socket: PathBuf,
    namespace: PathBuf,
    port: u16,
}

impl Watched {
    /// A running server; `node` is its name in the heartbeat table. Restarts of the server are followed, on the same host.
    ///
    /// # Errors
    /// If the server does not run.
    pub fn new(node: &str, server: &Server) -> Result<Watched> {
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", server.pid()?));
        Ok(Watched { node: node.to_owned(), socket: server.socket(), namespace, port: server.port() })
    }
}

/// A running observer. Dropping it ends it.
#[derive(Debug)]
pub struct Observer {
    resolution_ns: i64,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    name: String,
    watch: Arc<Watch>,
    tap: Arc<Tap>,
    threads: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Starts to look at each server so often that a window is narrower than `resolution`, except for the first beat of an origin and
    /// where something stalls.
    ///
    /// # Errors
    /// If the resolution is out of range or a thread cannot be started.
    pub fn start(watched: &[Watched], resolution: Duration) -> Result<Observer> {
        ensure!(RESOLUTIONS.contains(&resolution), "a resolution of {resolution:?} is not within {RESOLUTIONS:?}");
        let resolution_ns = i64::try_from(resolution.as_nanos())?;
        // The rest is for the look itself and the waking up.
        let period_ns = resolution_ns / 2;
        let underway = Arc::new(Underway::default());
        let nodes = watched.iter().map(|watched| Node::start(watched, period_ns, &underway)).collect::<Result<_>>()?;
        Ok(Observer { resolution_ns, nodes })
    }

    /// What is known by now.
    pub fn truth(&self) -> Truth {
        let mut beats: HashMap<BeatId, BeatTruth> = HashMap::new();
        for node in &self.nodes {
            for (id, window) in &node.watch.sight().beats {
                // A beat that was there at the first look became visible nobody knows when.
                let Some(window) = *window else { continue };
                let beat = beats.entry(id.clone()).or_insert_with(|| unseen(id));
                beat.visible.insert(node.name.clone(), window);
                if node.name == id.origin {
                    beat.committed = Some(window);
                }
            }
        }
        for node in &self.nodes {
            for (id, window) in node.tap.commits() {
                let beat = beats.entry(id.clone()).or_insert_with(|| unseen(&id));
                (beat.committed, beat.from_wire) = (Some(window), true);
            }
        }
        let mut beats: Vec<BeatTruth> = beats.into_values().collect();
        beats.sort_by(|a, b| {
            let order = |beat: &BeatTruth| beat.committed.map(|window| window.by);
            order(a).cmp(&order(b)).then_with(|| a.id.cmp(&b.id))
        });
        Truth { resolution_ns: self.resolution_ns, beats }
    }

    /// What it has cost by now and how narrow it came out, node by node.
    pub fn reports(&self) -> Vec<Report> {
        let report = |node: &Node| {
            let sight = node.watch.sight();
            let windows: Vec<Window> = sight.beats.values().filter_map(|window| *window).collect();
            let mut report = Report::new(&node.name, sight.cost.clone(), &windows, self.resolution_ns);
            report.commits_on_wire = node.tap.commits().len();
            report.no_wire = node.tap.trouble();
            report
        };
        self.nodes.iter().map(report).collect()
    }

    /// Ends it and says all that it knows.
    pub fn stop(mut self) -> (Truth, Vec<Report>) {
        self.end();
        (self.truth(), self.reports())
    }

    fn end(&mut self) {
        for node in &self.nodes {
            node.watch.stop();
            node.tap.stop();
        }
        for thread in self.nodes.iter_mut().flat_map(|node| node.threads.drain(..)) {
            // A thread that panicked has said so itself; what it saw before stays true.
            thread.join().ok();
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Node {
    fn start(watched: &Watched, period_ns: i64, underway: &Arc<Underway>) -> Result<Node> {
        let (watch, tap) = (Arc::new(Watch::default()), Arc::new(Tap::default()));
        let mut node = Node { name: watched.node.clone(), watch: watch.clone(), tap: tap.clone(), threads: Vec::new() };
        let (socket, underway) = (watched.socket.clone(), underway.clone());
        let target = Target { socket, database: DATABASE.to_owned(), period_ns, underway: underway.clone() };
        let tap_target = TapTarget { namespace: watched.namespace.clone(), port: watched.port, underway };
        let thread = |part: &str| std::thread::Builder::new().name(format!("{part}-{}", watched.node));
        // In a node from the first on, so that its end is seen to whatever fails.
        node.threads.push(thread("watch").spawn(move || watch.run(&target)).context("start a thread")?);
        node.threads.push(thread("tap").spawn(move || tap.run(&tap_target)).context("start a thread")?);
        Ok(node)
    }
}

fn unseen(id: &BeatId) -> BeatTruth {
    BeatTruth { id: id.clone(), committed: None, from_wire: false, visible: BTreeMap::new() }
}
