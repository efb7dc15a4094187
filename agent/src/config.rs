//! What the agent is told: command line, environment and fleet file, checked in full before anything is opened.

use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lagmesh_daemon::LogArgs;
use lagmesh_model::document::FileErrors;
use lagmesh_model::fleet::{Address, Agent, Fleet, Region};
use lagmesh_model::ids::{AgentName, CollectorName, RegionName};

use crate::mesh::keys::{KeyError, MeshKeys};
use crate::send::credentials::{BadCredentials, CredentialFiles, Credentials, TokenFile};

/// A fleet file is read by people; a larger file is something else [bytes].
const FLEET_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Measures the network to every other region and the replication of this region's databases, and exports what it saw.
///
/// One agent runs in every region. It serves /metrics, /health, /ready and /v1/status on a local address, needs no collector
/// for that, and keeps what a collector has not got in a bounded spool on disk. SIGHUP makes it read the fleet file, certificates and
/// tokens again.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "lagmesh-agent", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Args {
    /// The fleet file; the same in every region
    #[arg(long, env = "LAGMESH_FLEET", value_name = "FILE", default_value = "/etc/lagmesh/fleet.toml")]
    pub fleet: PathBuf,

    /// The region of the fleet file in which this agent stands
    #[arg(long, env = "LAGMESH_REGION", value_name = "NAME")]
    pub region: RegionName,

    /// Which agent of the region this is; needed only if there are several
    #[arg(long, env = "LAGMESH_AGENT", value_name = "NAME")]
    pub agent: Option<AgentName>,

    /// Where to answer the probes of other agents (UDP) [default: the port of this agent's address in the fleet file, on all
    /// IPv4 addresses; on loopback only if the address is loopback, on all IPv6 addresses if it is IPv6]
    #[arg(long, env = "LAGMESH_MESH_LISTEN", value_name = "ADDRESS:PORT")]
    pub mesh_listen: Option<SocketAddr>,

    /// A file with the secret of the mesh, not readable by others. Give two during a rotation: the first one signs, both are
    /// accepted
    #[arg(long, env = "LAGMESH_MESH_KEY_FILE", value_name = "FILE", value_delimiter = ',')]
    pub mesh_key_file: Vec<PathBuf>,

    /// Where to serve /metrics, /health, /ready and /v1/status
    #[arg(long, env = "LAGMESH_HTTP_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8621")]
    pub http_listen: SocketAddr,

    /// The folder of the spool [default: what systemd says, else /var/lib/lagmesh-agent]
    #[arg(long, env = "LAGMESH_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,

    /// Certificate authorities (PEM) that may vouch for collectors [default: those of the system]
    #[arg(long, env = "LAGMESH_OTLP_CA_FILE", value_name = "FILE")]
    pub otlp_ca_file: Option<PathBuf>,

    /// The certificate chain (PEM) that is shown to collectors; it names this agent
    #[arg(long, env = "LAGMESH_OTLP_CERT_FILE", value_name = "FILE", requires = "otlp_key_file")]
    pub otlp_cert_file: Option<PathBuf>,

    /// The private key (PEM) of that certificate, not readable by others
    #[arg(long, env = "LAGMESH_OTLP_KEY_FILE", value_name = "FILE", requires = "otlp_cert_file")]
    pub otlp_key_file: Option<PathBuf>,

    /// A file with the token for a collector of the fleet file, not readable by others; once for each collector that wants one
    #[arg(long, env = "LAGMESH_OTLP_TOKEN_FILE", value_name = "NAME=FILE", value_delimiter = ',')]
    pub otlp_token_file: Vec<TokenFile>,

    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,

    /// What systemd says; its `StateDirectory=` may name several folders.
    #[arg(long, env = "STATE_DIRECTORY", hide = true, value_delimiter = ':')]
    systemd_state_dir: Vec<PathBuf>,
}

const AFTER_HELP: &str = "Exit codes: 0 stopped as asked, 64 wrong command line, 70 a part of the agent failed, \
    77 not permitted, 78 wrong or unsafe configuration.";

/// Where the state is kept if nobody says otherwise.
const STATE_DIR: &str = "/var/lib/lagmesh-agent";

/// Everything that an agent needs to know before it opens anything. Checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The fleet.
    pub fleet: Arc<Fleet>,
    /// The file in which it stands.
    pub fleet_file: PathBuf,
    /// Our region; in the fleet.
    pub region: RegionName,
    /// Our name; an agent of the region.
    pub agent: AgentName,
    /// The folder of the spool.
    pub state_dir: PathBuf,
    /// Where to answer probes (UDP).
    pub mesh_listen: SocketAddr,
    /// The secrets of the mesh; `None` only where that is safe, or declared to be.
    pub keys: Option<MeshKeys>,
    /// Where to serve HTTP.
    pub http_listen: SocketAddr,
    /// What is shown to collectors, and who may vouch for them.
    pub credentials: Credentials,
    /// Where that stands.
    pub credential_files: CredentialFiles,
}

/// Why the agent does not start. Displays as one line per mistake.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The fleet file cannot be read.
    #[error("{}: {error}; name the fleet file with --fleet", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The fleet file is wrong.
    #[error(transparent)]
    Fleet(#[from] FileErrors),
    /// The region is not in the fleet file.
    #[error("{}: no region is called \"{region}\"; there are: {known}", file.display())]
    UnknownRegion {
        /// The fleet file.
        file: PathBuf,
        /// The region.
        region: RegionName,
        /// The regions of the file.
        known: String,
    },
    /// The agent is not in the region.
    #[error("{}: region \"{region}\" has no agent called \"{agent}\"; it has: {known}", file.display())]
    UnknownAgent {
        /// The fleet file.
        file: PathBuf,
        /// The region.
        region: RegionName,
        /// The agent.
        agent: AgentName,
        /// The agents of the region.
        known: String,
    },
    /// The region has several agents and none was named.
    #[error("{}: region \"{region}\" has several agents; say with --agent which one this is: {known}", file.display())]
    WhichAgent {
        /// The fleet file.
        file: PathBuf,
        /// The region.
        region: RegionName,
        /// The agents of the region.
        known: String,
    },
    /// The mesh would run without a key where others can reach it.
    #[error(
        "{}: the mesh leaves this machine and has no key; make one with `openssl rand -hex 32 > mesh.key` and give it to every \
         agent with --mesh-key-file, or write insecure = true at the top of the fleet file", file.display()
    )]
    MissingKey {
        /// The fleet file.
        file: PathBuf,
    },
    /// A key was given although none is needed, and packets with one are too long for the budget of the mesh.
    #[error("{}: mesh.budget_bits_per_s: {why}", file.display())]
    OverBudget {
        /// The fleet file.
        file: PathBuf,
        /// By how much, and what to change.
        why: String,
    },
    /// A key file is no good.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What is shown to collectors is no good.
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
    /// A token is for nobody.
    #[error("{}: no collector is called \"{collector}\", as --otlp-token-file says; there are: {known}", file.display())]
    UnknownCollector {
        /// The fleet file.
        file: PathBuf,
        /// The collector.
        collector: CollectorName,
        /// The collectors of the file.
        known: String,
    },
}

impl Config {
    /// Reads the files that the arguments name and checks everything.
    ///
    /// # Errors
    /// If anything is wrong or unsafe.
    pub fn read(args: &Args) -> Result<Config, ConfigError> {
        let file = &args.fleet;
        let fleet = read_fleet(file)?;
        let region = region(&fleet, file, &args.region)?;
        let agent = agent(region, file, args.agent.as_ref())?;
        let mesh_listen = args.mesh_listen.unwrap_or_else(|| listen_for(&agent.mesh));
        let keys = match args.mesh_key_file.as_slice() {
            [] => None,
            paths => Some(MeshKeys::read(paths)?),
        };
        check_mesh(&fleet, file, mesh_listen, keys.is_some())?;
        let credential_files = credential_files(args, &fleet)?;
        Ok(Config {
            region: region.name.clone(),
            agent: agent.name.clone(),
            state_dir: state_dir(args),
            mesh_listen,
            keys,
            http_listen: args.http_listen,
            credentials: credential_files.read()?,
            credential_files,
            fleet: Arc::new(fleet),
            fleet_file: file.clone(),
        })
    }

    /// Reads the fleet file again, with the checks of the start.
    ///
    /// # Errors
    /// If anything is wrong or unsafe.
    pub fn read_fleet_again(&self) -> Result<Fleet, ConfigError> {
        let file = &self.fleet_file;
        let fleet = read_fleet(file)?;
        agent(region(&fleet, file, &self.region)?, file, Some(&self.agent))?;
        check_mesh(&fleet, file, self.mesh_listen, self.keys.is_some())?;
        Ok(fleet)
    }
}

fn read_fleet(file: &Path) -> Result<Fleet, ConfigError> {
    let text = read_text(file, FLEET_BYTES_MAX).map_err(|error| ConfigError::Unreadable { path: file.to_path_buf(), error })?;
    Ok(Fleet::parse(&file.display().to_string(), &text)?)
}

/// Whether the mesh is safe and within its budget.
fn check_mesh(fleet: &Fleet, file: &Path, listen: SocketAddr, with_key: bool) -> Result<(), ConfigError> {
    let beside_loopback = fleet.needs_mesh_key() || !(fleet.insecure || listen.ip().to_canonical().is_loopback());
    if !with_key && beside_loopback {
        return Err(ConfigError::MissingKey { file: file.to_path_buf() });
    }
    match fleet.over_budget(with_key) {
        Some(why) => Err(ConfigError::OverBudget { file: file.to_path_buf(), why }),
        None => Ok(()),
    }
}

fn region<'a>(fleet: &'a Fleet, file: &Path, wanted: &RegionName) -> Result<&'a Region, ConfigError> {
    fleet.region(wanted).ok_or_else(|| ConfigError::UnknownRegion {
        file: file.to_path_buf(),
        region: wanted.clone(),
        known: listed(fleet.regions.iter().map(|region| region.name.as_str())),
    })
}

fn agent<'a>(region: &'a Region, file: &Path, wanted: Option<&AgentName>) -> Result<&'a Agent, ConfigError> {
    let (file, name) = (file.to_path_buf(), region.name.clone());
    let known = || listed(region.agents.iter().map(|agent| agent.name.as_str()));
    match (wanted, region.agents.as_slice()) {
        (Some(wanted), agents) => agents.iter().find(|agent| agent.name == *wanted).ok_or_else(|| ConfigError::UnknownAgent {
            file,
            region: name,
            agent: wanted.clone(),
            known: known(),
        }),
        (None, [only]) => Ok(only),
        (None, _) => Err(ConfigError::WhichAgent { file, region: name, known: known() }),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Where an agent listens whose peers reach it at `own`: on loopback for loopback, and else everywhere, because the address
/// of the fleet file may be one that a router translates.
fn listen_for(own: &Address) -> SocketAddr {
    let ip = match own.host.parse::<IpAddr>() {
        Ok(ip) if own.is_loopback() => ip,
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) if own.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        Ok(IpAddr::V4(_)) | Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, own.port)
}

fn state_dir(args: &Args) -> PathBuf {
    args.state_dir.as_ref().or(args.systemd_state_dir.first()).cloned().unwrap_or_else(|| STATE_DIR.into())
}

fn credential_files(args: &Args, fleet: &Fleet) -> Result<CredentialFiles, ConfigError> {
    let identity = args.otlp_cert_file.clone().zip(args.otlp_key_file.clone());
    let files = CredentialFiles::new(args.otlp_ca_file.clone(), identity, &args.otlp_token_file);
    let names = || fleet.collectors.iter().map(|collector| &collector.name);
    let stranger = files.collectors().find(|wanted| names().all(|name| name != *wanted)).cloned();
    match stranger {
        None => Ok(files),
        Some(collector) => Err(ConfigError::UnknownCollector {
            file: args.fleet.clone(),
            collector,
            known: listed(names().map(CollectorName::as_str)),
        }),
    }
}

fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {bytes_max} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
