//! Connection strings as libpq understands them: `keyword = value` pairs and `postgresql://` addresses, completed from the
//! environment and from libpq's defaults. Pure: the environment comes in as a function.

mod complete;
mod syntax;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// libpq's default port.
pub const PORT: u16 = 5432;

/// Where a server's Unix socket is looked for when no host is given: Debian's place, then PostgreSQL's own.
pub const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// What is wrong with a connection string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    /// The text is neither pairs nor an address.
    #[error("connection string: {0}")]
    Syntax(String),
    /// libpq does not know the keyword either.
    #[error("connection string: there is no keyword {0:?}; see libpq's list of parameter key words")]
    UnknownKeyword(String),
    /// libpq knows the keyword, lagmesh does not act on it.
    #[error("connection string: lagmesh does not support {0:?}; remove it")]
    Unsupported(&'static str),
    /// A value that the keyword cannot have.
    #[error("connection string: {keyword} cannot be {value:?}: {expected}")]
    BadValue {
        /// The keyword.
        keyword: &'static str,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Lists of hosts, addresses and ports that do not fit each other.
    #[error("connection string: {given} {what} for {hosts} hosts; give one, or one for each host")]
    Lists {
        /// Which list.
        what: &'static str,
        /// Its length.
        given: usize,
        /// The number of hosts.
        hosts: usize,
    },
    /// Two settings that exclude each other.
    #[error("connection string: {0}")]
    Contradiction(&'static str),
    /// No user is named anywhere.
    #[error("connection string: no user; add user=NAME or set PGUSER")]
    NoUser,
}

/// A secret that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The secret itself, for the login.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(secret: String) -> Password {
        Password(secret)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(_)")
    }
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where it is.
    pub target: Target,
    /// Its port; part of the file name for a Unix socket.
    pub port: u16,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The folder of a Unix socket.
    Socket(PathBuf),
    /// A name or an IP address as text, to be resolved.
    Name(String),
    /// `hostaddr`: connect here without resolving; the name, if any, is what the certificate must carry.
    Address {
        /// The address.
        ip: IpAddr,
        /// The name to verify.
        name: Option<String>,
    },
}

impl Host {
    /// The host as a line of the password file names it: `localhost` stands for the default Unix sockets.
    pub fn passfile_name(&self) -> String {
        match &self.target {
            Target::Socket(folder) if SOCKET_DIRECTORIES.iter().any(|known| folder.as_os_str() == *known) => {
                "localhost".to_owned()
            }
            Target::Socket(folder) => folder.to_string_lossy().into_owned(),
            Target::Name(name) | Target::Address { name: Some(name), .. } => name.clone(),
            Target::Address { ip, name: None } => ip.to_string(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Socket(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port),
            Target::Name(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Target::Name(name) => write!(f, "{name}:{}", self.port),
            Target::Address { ip, name: Some(name) } => write!(f, "{name} ({ip}):{}", self.port),
            Target::Address { ip: IpAddr::V6(ip), name: None } => write!(f, "[{ip}]:{}", self.port),
            Target::Address { ip: IpAddr::V4(ip), name: None } => write!(f, "{ip}:{}", self.port),
        }
    }
}

/// `sslmode`: how much a connection insists on TLS and on whom it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Plain first, TLS if the server wants it.
    Allow,
    /// TLS first, plain if the server has none.
    Prefer,
    /// TLS or nothing; the chain is verified only if there is a root certificate.
    Require,
    /// TLS, and the chain must lead to a known root.
    VerifyCa,
    /// TLS, a known root, and the certificate must carry the host's name.
    VerifyFull,
}

/// `sslrootcert`: whom to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// The system's trust store.
    System,
    /// This file; it must exist where the mode verifies.
    File(PathBuf),
    /// No file is known, not even libpq's default place (no home folder).
    None,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCert {
    /// The certificate chain (PEM).
    pub cert: PathBuf,
    /// Its key (PEM, not encrypted).
    pub key: PathBuf,
    /// Named by the user: then a missing file is an error; libpq's default place may be empty.
    pub named: bool,
}

/// `sslnegotiation`: how TLS starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslNegotiation {
    /// Ask first.
    Postgres,
    /// Start with the handshake (PostgreSQL 17 and later).
    Direct,
}

/// Everything about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssl {
    /// How much is insisted on.
    pub mode: SslMode,
    /// Whom to believe.
    pub root: RootCert,
    /// Who we say that we are.
    pub client: Option<ClientCert>,
    /// How TLS starts.
    pub negotiation: SslNegotiation,
}

/// `target_session_attrs`: which of several hosts will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSession {
    /// Any.
    Any,
    /// Accepts writes.
    ReadWrite,
    /// Refuses writes.
    ReadOnly,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
    /// In recovery if there is one, else any.
    PreferStandby,
}

/// `channel_binding`: whether the login is tied to the TLS session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If both sides can.
    Prefer,
    /// Or no login.
    Require,
}

/// TCP keepalive; what is `None` is left to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Whether it is on.
    pub on: bool,
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Probes before the connection is given up.
    pub count: Option<u32>,
}

/// Where a password is looked for when the connection string and the environment have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passfile {
    /// The only file to look into, if one is named.
    pub named: Option<PathBuf>,
    /// systemd's folder of credentials; its `pgpass` is the first choice if no file is named.
    pub credentials: Option<PathBuf>,
    /// `~/.pgpass`, the second choice.
    pub home: Option<PathBuf>,
}

/// A whole connection string, completed. Its `Debug` shows no password, its `Display` is fit for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// The servers, in the order in which they are tried; never empty.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The database.
    pub dbname: String,
    /// The password, if the string or the environment carries it.
    pub password: Option<Password>,
    /// Where else to look for it.
    pub passfile: Passfile,
    /// TLS.
    pub ssl: Ssl,
    /// The longest wait for one host.
    pub connect_timeout: Option<Duration>,
    /// `application_name`, as the server shows it.
    pub application_name: Option<String>,
    /// Which server will do.
    pub target_session: TargetSession,
    /// Settings for the session (`-c name=value`).
    pub options: Option<String>,
    /// TCP keepalive.
    pub keepalive: Keepalive,
    /// How long sent data may stay unacknowledged.
    pub tcp_user_timeout: Option<Duration>,
    /// Channel binding.
    pub channel_binding: ChannelBinding,
}

impl fmt::Display for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if n == 0 { "" } else { "," })?;
        }
        write!(f, " database {} as {}", self.dbname, self.user)
    }
}

impl ConnInfo {
    /// Reads a connection string. `environment` answers for `PGHOST`, `PGUSER` and so on, for `HOME`, `USER` and systemd's
    /// `CREDENTIALS_DIRECTORY`; what the string says goes first.
    ///
    /// # Errors
    /// If the string breaks the grammar, names an unknown keyword, or asks for something impossible.
    pub fn parse(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<ConnInfo, ConnInfoError> {
        let given = syntax::settings(text)?;
        complete::Settings { given, environment: &environment }.complete()
    }
}

#[cfg(test)]
mod tests;
