//! Agents of a fleet that has a mesh and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result};
use lagmesh_model::status::{AgentStatus, Link};
use lagmesh_tests::process::Process;
use lagmesh_tests::prometheus::repository;
use lagmesh_tests::{ports, world};
use nix::unistd::Pid;

/// Longer than anything here should take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

static TLS: Once = Once::new();

/// An agent that runs.
pub(crate) struct Agent {
    process: Process,
    http: reqwest::Client,
    page: String,
}

/// A region's mesh address on a host of its own: every address of 127/8 is this machine.
pub(crate) fn mesh_address(host: u8) -> Result<SocketAddrV4> {
    Ok(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), ports::free()?))
}

/// The fleet file of regions named by letters, each with an agent at an address.
pub(crate) fn fleet_file(folder: &Path, name: &str, mesh: &str, regions: &[(&str, SocketAddrV4)]) -> Result<PathBuf> {
    let mut text = format!("name = \"{name}\"\n[mesh]\nicmp = false\ntcp = false\n{mesh}\n");
    for (region, address) in regions {
        writeln!(text, "[[region]]\nname = \"{region}\"\n[[region.agent]]\nmesh = \"{address}\"")?;
    }
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, text)?;
    Ok(file)
}

/// The released agent; how much a debug build can take in is not what is shown here.
fn released() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository("target"), PathBuf::from);
    let program = target.join("release/lagmesh-agent");
    program.canonicalize().with_context(|| format!("{} is not built: `make test` does", program.display()))
}

impl Agent {
    /// Starts the agent of a region.
    pub(crate) fn start(folder: &Path, fleet: &Path, region: &str, key: Option<&Path>) -> Result<Agent> {
        TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let (port, name) = (ports::free()?, format!("agent-{region}"));
        let text = |path: &Path| path.display().to_string();
        let mut args = vec![
            ("--fleet", text(fleet)),
            ("--region", region.to_owned()),
            ("--http-listen", format!("127.0.0.1:{port}")),
            ("--state-dir", text(&folder.join(format!("{name}-state")))),
        ];
        args.extend(key.map(|key| ("--mesh-key-file", text(key))));
        let mut program = world::start::daemon(&name, "lagmesh-agent", &args)?;
        program.path = if std::env::var_os("LAGMESH_BIN_DIR").is_none() { released()? } else { program.path };
        let process = Process::start(program, folder)?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        Ok(Agent { process, http, page: format!("http://127.0.0.1:{port}") })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    async fn fetch(&self, path: &str) -> Result<String> {
        let answer = self.http.get(format!("{}{path}", self.page)).send().await;
        let answer = answer.with_context(|| self.process.last_words())?;
        Ok(answer.error_for_status()?.text().await?)
    }

    /// Its link to a region.
    pub(crate) async fn link(&self, peer: &str) -> Result<Link> {
        let status: AgentStatus = serde_json::from_str(&self.fetch("/v1/status").await?)?;
        status.links.into_iter().find(|link| link.peer.as_str() == peer).with_context(|| format!("no link to {peer}"))
    }

    /// The fates of its STAMP probes so far.
    pub(crate) async fn fates(&self) -> Result<Counts> {
        let all = self.fetch("/metrics").await?;
        Ok(counts(&all, "lagmesh_link_probes_total{", "kind=\"stamp\"", "outcome"))
    }

    /// What its mesh has dropped so far, by reason.
    pub(crate) async fn dropped(&self) -> Result<Counts> {
        Ok(counts(&self.fetch("/metrics").await?, "lagmesh_mesh_dropped_total{", "", "reason"))
    }

    /// How much of what it has observed was lost within it so far.
    pub(crate) async fn unheard(&self) -> Result<u64> {
        let dropped = counts(&self.fetch("/metrics").await?, "lagmesh_agent_dropped_total{", "", "reason");
        Ok(dropped.get("observations").copied().unwrap_or(0))
    }
}

/// Counts by a word.
pub(crate) type Counts = BTreeMap<String, u64>;

/// What was counted between two looks.
pub(crate) fn since(before: &Counts, after: &Counts) -> Counts {
    let grown = |(word, count): (&String, &u64)| (word.clone(), count - before.get(word).copied().unwrap_or(0));
    after.iter().map(grown).filter(|(_, count)| *count > 0).collect()
}

/// The sums by a label of the lines of a counter that contain something.
fn counts(text: &str, counter: &str, wanted: &str, label: &str) -> Counts {
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| line.starts_with(counter) && line.contains(wanted)) {
        let word = line.split_once(&format!("{label}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        let value = line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok());
        if let Some(((word, _), value)) = word.zip(value) {
            *counts.entry(word.to_owned()).or_default() += whole(value);
        }
    }
    counts
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole and small here")]
fn whole(value: f64) -> u64 {
    value as u64
}
