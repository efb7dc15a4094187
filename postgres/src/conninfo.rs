//! Connection strings as libpq understands them: `keyword = value` pairs and `postgresql://` addresses, completed from the
//! environment and from libpq's defaults. Pure: the environment comes in as a function.

mod syntax;

use std::collections::BTreeMap;
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
            Target::Socket(folder) if SOCKET_DIRECTORIES.iter().any(|known| folder.as_os_str() == *known) => "localhost".to_owned(),
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
        Settings { given, environment: &environment }.complete()
    }
}

/// The given settings over the environment's.
struct Settings<'e> {
    given: BTreeMap<&'static str, String>,
    environment: &'e dyn Fn(&str) -> Option<String>,
}

impl Settings<'_> {
    /// A setting that is not empty. As in libpq, an empty one in the string hides the environment's and leaves the default.
    fn get(&self, keyword: &'static str) -> Option<String> {
        let variable = || syntax::KEYWORDS.iter().find(|known| known.name == keyword)?.variable;
        let given = self.given.get(keyword).cloned();
        given.or_else(|| (self.environment)(variable()?)).filter(|value| !value.is_empty())
    }

    fn environment(&self, variable: &str) -> Option<String> {
        (self.environment)(variable).filter(|value| !value.is_empty())
    }

    fn home(&self) -> Option<PathBuf> {
        self.environment("HOME").map(PathBuf::from)
    }

    fn complete(&self) -> Result<ConnInfo, ConnInfoError> {
        let login = || self.environment("USER").or_else(|| self.environment("LOGNAME"));
        let user = self.get("user").or_else(login).ok_or(ConnInfoError::NoUser)?;
        self.choice("gssencmode", &[("disable", ()), ("prefer", ())], "lagmesh has no GSSAPI: disable or prefer")?;
        Ok(ConnInfo {
            hosts: self.hosts()?,
            dbname: self.get("dbname").unwrap_or_else(|| user.clone()),
            user,
            password: self.get("password").map(Password),
            passfile: self.passfile(),
            ssl: self.ssl()?,
            connect_timeout: self.seconds("connect_timeout")?,
            application_name: self.get("application_name").or_else(|| self.get("fallback_application_name")),
            target_session: self.target_session()?,
            options: self.get("options"),
            keepalive: Keepalive {
                on: self.number("keepalives")? != Some(0),
                idle: self.seconds("keepalives_idle")?,
                interval: self.seconds("keepalives_interval")?,
                count: self.positive("keepalives_count")?.and_then(|count| u32::try_from(count).ok()),
            },
            tcp_user_timeout: self.positive("tcp_user_timeout")?.map(Duration::from_millis),
            channel_binding: self.channel_binding()?,
        })
    }

    fn hosts(&self) -> Result<Vec<Host>, ConnInfoError> {
        let list = |keyword| -> Vec<String> {
            self.get(keyword).map_or_else(Vec::new, |text| text.split(',').map(|part| part.trim().to_owned()).collect())
        };
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let hosts = if addresses.is_empty() { names.len() } else { addresses.len() };
        if !addresses.is_empty() && !names.is_empty() && names.len() != hosts {
            return Err(ConnInfoError::Lists { what: "host names", given: names.len(), hosts });
        }
        if ports.len() > 1 && ports.len() != hosts {
            return Err(ConnInfoError::Lists { what: "ports", given: ports.len(), hosts });
        }
        let mut servers = Vec::new();
        for n in 0..hosts.max(1) {
            let port = ports.get(n).or(ports.first()).map_or(Ok(PORT), |text| self::port(text))?;
            let name = names.get(n).filter(|name| !name.is_empty());
            let address = addresses.get(n).filter(|address| !address.is_empty());
            servers.extend(targets(name, address)?.into_iter().map(|target| Host { target, port }));
        }
        Ok(servers)
    }

    fn passfile(&self) -> Passfile {
        Passfile {
            named: self.get("passfile").map(PathBuf::from),
            credentials: self.environment("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            home: self.home().map(|home| home.join(".pgpass")),
        }
    }

    fn ssl(&self) -> Result<Ssl, ConnInfoError> {
        let at_home = |name: &str| self.home().map(|home| home.join(".postgresql").join(name));
        let root = match self.get("sslrootcert") {
            Some(text) if text == "system" => RootCert::System,
            Some(path) => RootCert::File(PathBuf::from(path)),
            None => at_home("root.crt").map_or(RootCert::None, RootCert::File),
        };
        let mode = self.ssl_mode(&root)?;
        let negotiations = [("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];
        let negotiation = self.choice("sslnegotiation", &negotiations, "postgres or direct")?.unwrap_or(SslNegotiation::Postgres);
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            return Err(ConnInfoError::Contradiction("sslnegotiation=direct needs sslmode=require or stronger"));
        }
        let named = self.get("sslcert").map(PathBuf::from);
        let cert = named.clone().or_else(|| at_home("postgresql.crt"));
        let key = self.get("sslkey").map(PathBuf::from).or_else(|| at_home("postgresql.key"));
        let client = cert.zip(key).map(|(cert, key)| ClientCert { cert, key, named: named.is_some() });
        Ok(Ssl { mode, root, client, negotiation })
    }

    fn ssl_mode(&self, root: &RootCert) -> Result<SslMode, ConnInfoError> {
        let modes = [
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ];
        let given = self.choice("sslmode", &modes, "disable, allow, prefer, require, verify-ca or verify-full")?;
        match (given, root) {
            (None | Some(SslMode::VerifyFull), RootCert::System) => Ok(SslMode::VerifyFull),
            (Some(_), RootCert::System) => Err(ConnInfoError::Contradiction("sslrootcert=system needs sslmode=verify-full")),
            (given, _) => Ok(given.unwrap_or(SslMode::Prefer)),
        }
    }

    fn target_session(&self) -> Result<TargetSession, ConnInfoError> {
        let kinds = [
            ("any", TargetSession::Any),
            ("read-write", TargetSession::ReadWrite),
            ("read-only", TargetSession::ReadOnly),
            ("primary", TargetSession::Primary),
            ("standby", TargetSession::Standby),
            ("prefer-standby", TargetSession::PreferStandby),
        ];
        let expected = "any, read-write, read-only, primary, standby or prefer-standby";
        Ok(self.choice("target_session_attrs", &kinds, expected)?.unwrap_or(TargetSession::Any))
    }

    fn channel_binding(&self) -> Result<ChannelBinding, ConnInfoError> {
        let kinds = [("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];
        Ok(self.choice("channel_binding", &kinds, "disable, prefer or require")?.unwrap_or(ChannelBinding::Prefer))
    }

    fn choice<T: Copy>(&self, keyword: &'static str, kinds: &[(&str, T)], expected: &'static str) -> Result<Option<T>, ConnInfoError> {
        let Some(value) = self.get(keyword) else { return Ok(None) };
        let found = kinds.iter().find(|(name, _)| *name == value).map(|(_, kind)| *kind);
        found.map(Some).ok_or(ConnInfoError::BadValue { keyword, value, expected })
    }

    fn number(&self, keyword: &'static str) -> Result<Option<i64>, ConnInfoError> {
        let Some(value) = self.get(keyword) else { return Ok(None) };
        let number = value.trim().parse::<i32>().map(i64::from);
        number.map(Some).map_err(|_| ConnInfoError::BadValue { keyword, value, expected: "a whole number" })
    }

    /// A number above zero; zero and below mean "not set", as in libpq.
    fn positive(&self, keyword: &'static str) -> Result<Option<u64>, ConnInfoError> {
        Ok(self.number(keyword)?.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0))
    }

    fn seconds(&self, keyword: &'static str) -> Result<Option<Duration>, ConnInfoError> {
        Ok(self.positive(keyword)?.map(Duration::from_secs))
    }
}

fn port(text: &str) -> Result<u16, ConnInfoError> {
    let bad = || ConnInfoError::BadValue { keyword: "port", value: text.to_owned(), expected: "a number from 1 to 65535" };
    if text.is_empty() { Ok(PORT) } else { text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad) }
}

fn targets(name: Option<&String>, address: Option<&String>) -> Result<Vec<Target>, ConnInfoError> {
    if let Some(address) = address {
        let bad = |_| ConnInfoError::BadValue { keyword: "hostaddr", value: address.clone(), expected: "an IP address" };
        return Ok(vec![Target::Address { ip: address.parse().map_err(bad)?, name: name.cloned() }]);
    }
    Ok(match name {
        None => SOCKET_DIRECTORIES.iter().map(|folder| Target::Socket(PathBuf::from(folder))).collect(),
        Some(name) if name.starts_with('/') => vec![Target::Socket(PathBuf::from(name))],
        Some(name) if name.starts_with('@') => return Err(ConnInfoError::Unsupported("abstract Unix socket")),
        Some(name) => vec![Target::Name(name.clone())],
    })
}

#[cfg(test)]
mod tests;
