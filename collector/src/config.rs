//! What the collector is told: command line, environment and fleet file, checked in full before anything is opened.

use std::fs;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::LogArgs;
use lagmesh_model::document::FileErrors;
use lagmesh_model::fleet::Fleet;

use crate::access::Limits;
use crate::access::files::{BadFile, Files};
use crate::access::limit::Rate;
use crate::access::rules::Rules;
use crate::forward::{ForwardArgs, ForwardError, ForwardSettings};
use crate::history::Keep;
use crate::listen::Tls;

/// A fleet file is read by people; a larger file is something else [bytes].
const FLEET_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Where the state is kept if nobody says otherwise.
const STATE_DIR: &str = "/var/lib/lagmesh-collector";

/// Receives what the agents of a fleet saw, merges it exactly, judges every region from several vantage points, and serves the result
///
/// It serves a status page on /, its data on /v1/status, and everything for Prometheus on /metrics. It takes OTLP metrics over gRPC
/// and over HTTP (POST /v1/metrics), and acknowledges a batch only once it is on disk. SIGHUP makes it read certificates and tokens again.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "lagmesh-collector", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Args {
    /// The fleet file; the same in every region
    #[arg(long, env = "LAGMESH_FLEET", value_name = "FILE", default_value = "/etc/lagmesh/fleet.toml")]
    pub fleet: PathBuf,

    /// Where to take OTLP over gRPC
    #[arg(long, env = "LAGMESH_GRPC_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4317")]
    pub grpc_listen: SocketAddr,

    /// Where to serve the status page, /v1/status, /metrics, /health and /ready, and to take OTLP over HTTP
    #[arg(long, env = "LAGMESH_HTTP_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8622")]
    pub http_listen: SocketAddr,

    /// The certificate chain (PEM) for both addresses; without it only loopback is allowed, or `insecure = true` in the fleet file
    #[arg(long, env = "LAGMESH_TLS_CERT_FILE", value_name = "FILE", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,

    /// The private key (PEM) of the certificate
    #[arg(long, env = "LAGMESH_TLS_KEY_FILE", value_name = "FILE", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,

    /// Who may vouch for agents (PEM): whoever sends then needs a client certificate that names its agent, or a token
    #[arg(long, env = "LAGMESH_TLS_CLIENT_CA_FILE", value_name = "FILE", requires = "tls_cert_file")]
    pub tls_client_ca_file: Option<PathBuf>,

    /// The tokens (TOML) of whoever may read, operate, or send without a certificate; `lagmesh token` makes them
    #[arg(long, env = "LAGMESH_TOKENS_FILE", value_name = "FILE")]
    pub tokens_file: Option<PathBuf>,

    /// How many requests an agent or the holder of a token may make, over a few seconds
    #[arg(long, env = "LAGMESH_CLIENT_REQUESTS_PER_S", value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub client_requests_per_s: u64,

    /// How much an agent or the holder of a token may send, over a few seconds [bytes]
    #[arg(long, env = "LAGMESH_CLIENT_BYTES_PER_S", value_name = "BYTES", default_value_t = 33_554_432, value_parser = clap::value_parser!(u64).range(1..))]
    pub client_bytes_per_s: u64,

    /// The folder of the store [default: what systemd says, else /var/lib/lagmesh-collector]
    #[arg(long, env = "LAGMESH_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,

    /// The ways out.
    #[command(flatten)]
    pub forward: ForwardArgs,
    /// How long to keep history by buckets of ten seconds, of a minute and of an hour
    #[arg(long, env = "LAGMESH_HISTORY_KEEP", value_name = "10S,1M,1H", default_value = "48h,14d,400d", value_parser = history_keep)]
    pub history_keep: HistoryKeep,

    /// How much of the disk the history may take; beyond, the oldest of the finest buckets go first
    #[arg(long, env = "LAGMESH_HISTORY_MIB_MAX", value_name = "MIB", default_value = "4096", value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    pub history_mib_max: u64,

    /// Copy store and history of a collector, running or not, into this folder, and exit
    #[arg(long, env = "LAGMESH_BACKUP_TO", value_name = "FOLDER")]
    pub backup_to: Option<PathBuf>,

    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,

    /// What systemd says; its `StateDirectory=` may name several folders.
    #[arg(long, env = "STATE_DIRECTORY", hide = true, value_delimiter = ':')]
    systemd_state_dir: Vec<PathBuf>,
}

/// How long each tier of the history is kept, the finest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryKeep([Duration; 3]);

const AFTER_HELP: &str = "Exit codes: 0 stopped as asked, 64 wrong command line, 70 a part of the collector failed, \
    77 not permitted, 78 wrong or unsafe configuration.";

/// Everything that a collector needs to know before it opens anything. Checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The fleet.
    pub fleet: Arc<Fleet>,
    /// Where to take OTLP over gRPC; port 0 for any free one.
    pub grpc_listen: SocketAddr,
    /// Where to serve everything else; port 0 for any free one.
    pub http_listen: SocketAddr,
    /// How to encrypt both; `None` only where that is safe, or declared to be.
    pub tls: Option<Tls>,
    /// Who may do what.
    pub rules: Rules,
    /// Where that stands, to be read again.
    pub files: Files,
    /// What one client may take.
    pub limits: Limits,
    /// The folder of the store.
    pub state_dir: PathBuf,
    /// The ways out.
    pub forward: ForwardSettings,
    /// How much history is kept.
    pub history: Keep,
}

/// Why the collector does not start. Displays as one line per mistake.
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
    /// What is said of the ways out is wrong.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The fleet file is wrong.
    #[error(transparent)]
    Fleet(#[from] FileErrors),
    /// Others can reach an address on which nothing is encrypted.
    #[error(
        "{}: {address} is beside loopback and has no TLS; give --tls-cert-file and --tls-key-file, or write insecure = true at the \
         top of the fleet file", file.display()
    )]
    Insecure {
        /// The fleet file.
        file: PathBuf,
        /// The address.
        address: SocketAddr,
    },
    /// Others can reach an address on which nobody is asked who they are.
    #[error(
        "{}: {address} is beside loopback and whoever reaches it could send as an agent and read everything; give --tls-client-ca-file \
         (agents by certificate) or --tokens-file, or write insecure = true at the top of the fleet file", file.display()
    )]
    Open {
        /// The fleet file.
        file: PathBuf,
        /// The address.
        address: SocketAddr,
    },
    /// A file that says who may come in is no good.
    #[error(transparent)]
    Access(#[from] BadFile),
}

impl Config {
    /// Reads the files that the arguments name and checks everything.
    ///
    /// # Errors
    /// If anything is wrong or unsafe.
    pub fn read(args: &Args) -> Result<Config, ConfigError> {
        let file = &args.fleet;
        let text = read_text(file, FLEET_BYTES_MAX).map_err(|error| ConfigError::Unreadable { path: file.clone(), error })?;
        let fleet = Fleet::parse(&file.display().to_string(), &text)?;
        let forward = args.forward.read(&fleet)?;
        let server = args.tls_cert_file.clone().zip(args.tls_key_file.clone());
        let files = Files::new(server, args.tls_client_ca_file.clone(), args.tokens_file.clone());
        let (tls, tokens) = (files.read_tls()?, files.read_tokens()?);
        let is_local = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
        let asks = files.client_ca.is_some() || tokens.is_some();
        match [args.grpc_listen, args.http_listen].into_iter().find(|address| !is_local(address) && !fleet.insecure) {
            Some(address) if tls.is_none() => Err(ConfigError::Insecure { file: file.clone(), address }),
            Some(address) if !asks => Err(ConfigError::Open { file: file.clone(), address }),
            _ => Ok(Config {
                rules: Rules {
                    tokens,
                    certificates: files.client_ca.is_some(),
                    open_to_read: fleet.insecure || is_local(&args.http_listen),
                },
                files,
                limits: limits(args),
                fleet: Arc::new(fleet),
                grpc_listen: args.grpc_listen,
                http_listen: args.http_listen,
                tls,
                state_dir: state_dir(args),
                forward,
                history: Keep { for_: args.history_keep.0, bytes_max: args.history_mib_max << 20 },
            }),
        }
    }
}

/// A caller may save up so many seconds of what flows in.
const BURST_S: u64 = 4;

fn limits(args: &Args) -> Limits {
    let rate = |per_s: u64| Rate { per_s, burst: per_s.saturating_mul(BURST_S) };
    Limits { requests: rate(args.client_requests_per_s), bytes: rate(args.client_bytes_per_s) }
}

/// Three durations, none shorter than the one before: a coarser tier that ends earlier would be of no use.
fn history_keep(written: &str) -> Result<HistoryKeep, String> {
    let read = written.split(',').map(|one| humantime::parse_duration(one.trim()).map_err(|e| format!("{one:?}: {e}")));
    let keep: Vec<Duration> = read.collect::<Result<_, _>>()?;
    let possible = Duration::from_secs(3600)..=Duration::from_secs(3650 * 86_400);
    match <[Duration; 3]>::try_from(keep) {
        Ok(keep) if keep.is_sorted() && keep.iter().all(|one| possible.contains(one)) => Ok(HistoryKeep(keep)),
        _ => Err("write three durations from 1h to 3650d, the shortest first, such as 48h,14d,400d".to_owned()),
    }
}

/// Where the state is.
pub fn state_dir(args: &Args) -> PathBuf {
    args.state_dir.as_ref().or(args.systemd_state_dir.first()).cloned().unwrap_or_else(|| STATE_DIR.into())
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
mod tests {
    use super::*;

    /// Three durations, the shortest first; anything else is refused with what to write.
    #[test]
    fn how_long_history_is_kept() {
        let hour = Duration::from_secs(3600);
        assert_eq!(history_keep("48h,14d,400d"), Ok(HistoryKeep([hour * 48, hour * 24 * 14, hour * 24 * 400])));
        assert_eq!(history_keep("48h,14d,400d"), Ok(HistoryKeep(Keep::default().for_)));
        for wrong in ["", "48h", "48h,14d", "14d,48h,400d", "48h,14d,400d,800d", "1s,14d,400d", "48h,14d,99999d", "two,14d,400d"]
        {
            assert!(history_keep(wrong).is_err(), "{wrong}");
        }
    }
}
