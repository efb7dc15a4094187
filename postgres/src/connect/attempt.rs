//! One host: each of its addresses, and for each address TLS and plain in the order of `sslmode`.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::{Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Canceller, ConnectError, Connection};
use crate::conninfo::{self, ConnInfo, Host, Password, Target, TargetSession};
use crate::passfile;

/// The largest number of addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What one host is tried with.
pub(super) struct Attempt<'c> {
    pub(super) info: &'c ConnInfo,
    pub(super) host: &'c Host,
    pub(super) wanted: TargetSession,
    pub(super) tls: &'c MakeRustlsConnect,
    pub(super) until: Instant,
}

impl Attempt<'_> {
    pub(super) async fn run(&self) -> Result<Connection, ConnectError> {
        let started = Instant::now();
        let until = self.info.connect_timeout.map_or(self.until, |limit| self.until.min(started + limit));
        let waited = until.saturating_duration_since(started);
        let timed_out = |_| ConnectError::Timeout { address: self.host.to_string(), waited };
        timeout_at(until, self.addresses()).await.map_err(timed_out)?
    }

    async fn addresses(&self) -> Result<Connection, ConnectError> {
        let (info, host) = (self.info.clone(), self.host.clone());
        let search = tokio::task::spawn_blocking(move || passfile::find(&info, &host)).await;
        let search = search.map_err(|error| ConnectError::other(self.host, error))?;
        for ignored in &search.ignored {
            tracing::warn!(host = %self.host, error = %ignored, "password file");
        }
        let config = self.config(search.password.as_ref());
        let outcome = match &self.host.target {
            Target::Socket(folder) => {
                let mut config = config;
                // As libpq: sslmode says nothing about a socket on the same machine.
                config.host_path(folder).ssl_mode(SslMode::Disable);
                self.once(&config).await
            }
            Target::Address { name: None, .. } if self.info.ssl.mode == conninfo::SslMode::VerifyFull => {
                return Err(ConnectError::BadSettings {
                    reason: "sslmode=verify-full needs a host name beside hostaddr".to_owned(),
                });
            }
            Target::Address { ip, name } => self.modes(&config, *ip, name.clone().unwrap_or_else(|| ip.to_string())).await,
            Target::Name(name) => self.resolved(&config, name).await,
        };
        outcome.map_err(|error| error.with_ignored(search.ignored))
    }

    /// Every address that the name has, until one answers.
    async fn resolved(&self, config: &Config, name: &str) -> Result<Connection, ConnectError> {
        let found = tokio::net::lookup_host((name, self.host.port)).await;
        let found = found.map_err(|error| ConnectError::unreachable(self.host, error))?;
        let mut last = None;
        for address in found.take(ADDRESSES_MAX) {
            match self.modes(config, address.ip(), name.to_owned()).await {
                Err(error @ ConnectError::Unreachable { .. }) => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| ConnectError::unreachable(self.host, std::io::Error::other("the name has no address"))))
    }

    /// TLS and plain, in the order of `sslmode`. The second try is made only where the first one's failure may be about TLS.
    async fn modes(&self, config: &Config, ip: IpAddr, name: String) -> Result<Connection, ConnectError> {
        let mut config = config.clone();
        config.host(name).hostaddr(ip);
        let (first, second) = match self.info.ssl.mode {
            conninfo::SslMode::Disable => (SslMode::Disable, None),
            conninfo::SslMode::Allow => (SslMode::Disable, Some(SslMode::Require)),
            conninfo::SslMode::Prefer => (SslMode::Prefer, Some(SslMode::Disable)),
            conninfo::SslMode::Require | conninfo::SslMode::VerifyCa | conninfo::SslMode::VerifyFull => (SslMode::Require, None),
        };
        let outcome = self.once(config.ssl_mode(first)).await;
        match (&outcome, second) {
            (Err(error), Some(second)) if error.may_be_about_tls() => {
                let again = self.once(config.ssl_mode(second)).await;
                // The server without TLS has nothing to add to a refusal.
                if matches!(again, Err(ConnectError::Tls { .. })) { outcome } else { again }
            }
            _ => outcome,
        }
    }

    async fn once(&self, config: &Config) -> Result<Connection, ConnectError> {
        let connected = config.connect(self.tls.clone()).await;
        let (client, wire) = connected.map_err(|error| ConnectError::from_server(self.host, self.info, error))?;
        let canceller = Canceller { token: client.cancel_token(), tls: self.tls.clone(), tcp: None };
        let connection = Connection::start(client, wire, self.host, canceller);
        self.check_session(&connection).await?;
        Ok(connection)
    }

    /// Whether the server is of the wanted kind.
    async fn check_session(&self, connection: &Connection) -> Result<(), ConnectError> {
        let (setting, is) = match self.wanted {
            TargetSession::Any => return Ok(()),
            TargetSession::ReadWrite => ("transaction_read_only", "off"),
            TargetSession::ReadOnly => ("transaction_read_only", "on"),
            TargetSession::Primary => ("recovery", "off"),
            TargetSession::Standby | TargetSession::PreferStandby => ("recovery", "on"),
        };
        let sql = match setting {
            "recovery" => "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on' ELSE 'off' END",
            _ => "SHOW transaction_read_only",
        };
        let answer = connection.client().simple_query(sql).await;
        let answer = answer.map_err(|error| ConnectError::from_server(self.host, self.info, error))?;
        let found = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        if found == Some(is) {
            return Ok(());
        }
        Err(ConnectError::WrongSession { address: self.host.to_string(), wanted: self.wanted })
    }

    pub(super) fn config(&self, password: Option<&Password>) -> Config {
        let info = self.info;
        let mut config = Config::new();
        config.user(&info.user).dbname(&info.dbname).port(self.host.port).keepalives(info.keepalive.on);
        config.channel_binding(match info.channel_binding {
            conninfo::ChannelBinding::Disable => ChannelBinding::Disable,
            conninfo::ChannelBinding::Prefer => ChannelBinding::Prefer,
            conninfo::ChannelBinding::Require => ChannelBinding::Require,
        });
        config.ssl_negotiation(match info.ssl.negotiation {
            conninfo::SslNegotiation::Postgres => SslNegotiation::Postgres,
            conninfo::SslNegotiation::Direct => SslNegotiation::Direct,
        });
        if let Some(password) = password {
            config.password(password.reveal());
        }
        if let Some(options) = &info.options {
            config.options(options);
        }
        if let Some(name) = &info.application_name {
            config.application_name(name);
        }
        if let Some(limit) = info.tcp_user_timeout {
            config.tcp_user_timeout(limit);
        }
        // tokio-postgres has no "as the system does": its own default is the system's usual two hours.
        config.keepalives_idle(info.keepalive.idle.unwrap_or(Duration::from_secs(7200)));
        if let Some(interval) = info.keepalive.interval {
            config.keepalives_interval(interval);
        }
        if let Some(count) = info.keepalive.count {
            config.keepalives_retries(count);
        }
        config
    }
}
