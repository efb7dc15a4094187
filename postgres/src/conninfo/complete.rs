//! From the settings of a string to a whole connection: the environment, the defaults, and what fits together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    ChannelBinding, ClientCert, ConnInfo, ConnInfoError, Host, Keepalive, PORT, Passfile, Password, RootCert, SOCKET_DIRECTORIES,
    Ssl, SslMode, SslNegotiation, Target, TargetSession, syntax,
};

/// The given settings over the environment's.
pub(super) struct Settings<'e> {
    pub(super) given: BTreeMap<&'static str, String>,
    pub(super) environment: &'e dyn Fn(&str) -> Option<String>,
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

    pub(super) fn complete(&self) -> Result<ConnInfo, ConnInfoError> {
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
            let port = ports.get(n).or(ports.first()).map_or(Ok(PORT), |text| port(text))?;
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
        let kinds =
            [("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];
        Ok(self.choice("channel_binding", &kinds, "disable, prefer or require")?.unwrap_or(ChannelBinding::Prefer))
    }

    fn choice<T: Copy>(
        &self,
        keyword: &'static str,
        kinds: &[(&str, T)],
        expected: &'static str,
    ) -> Result<Option<T>, ConnInfoError> {
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
