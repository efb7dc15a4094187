//! One connection whose parts are timed: to one host, by TCP, in one try. For measuring; who wants a session uses [`connect`](super::connect).

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use lagmesh_model::state::Phase;
use lagmesh_model::stopwatch::Stopwatch;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::attempt::Attempt;
use super::{Canceller, ConnectError, Connection, Tcp};
use crate::conninfo::{self, ConnInfo, Host, Target, TargetSession};
use crate::{passfile, tls};

/// Everything that a connection needs from our own side: names are resolved, files are read.
pub struct Prepared<'c> {
    info: &'c ConnInfo,
    host: &'c Host,
    config: Config,
    tls: MakeRustlsConnect,
    tcp: Tcp,
}

impl fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("host", self.host).field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// Gets everything ready to connect to a host by TCP. What the server must be (`target_session_attrs`) is not asked.
///
/// # Errors
/// If the host is a Unix socket, its name has no address, or a file that the settings need cannot be used.
pub async fn prepare<'c>(info: &'c ConnInfo, host: &'c Host) -> Result<Prepared<'c>, ConnectError> {
    let (address, name) = address(host).await?;
    let (whole, one) = (info.clone(), host.clone());
    // Anew each time: a session that is resumed would make one handshake shorter than the other.
    let files = move || (passfile::find(&whole, &one), tls::connector(&whole.ssl));
    let files = tokio::task::spawn_blocking(files).await.map_err(|error| ConnectError::other(host, error))?;
    let (search, tls) = (files.0, files.1?);
    for ignored in &search.ignored {
        tracing::debug!(%host, error = %ignored, "password file");
    }
    let attempt = Attempt { info, host, wanted: TargetSession::Any, tls: &tls, until: Instant::now() };
    let mut config = attempt.config(search.password.as_ref());
    config.ssl_mode(match info.ssl.mode {
        conninfo::SslMode::Disable | conninfo::SslMode::Allow => SslMode::Disable,
        conninfo::SslMode::Prefer => SslMode::Prefer,
        conninfo::SslMode::Require | conninfo::SslMode::VerifyCa | conninfo::SslMode::VerifyFull => SslMode::Require,
    });
    Ok(Prepared { info, host, config, tls, tcp: Tcp { address, name } })
}

async fn address(host: &Host) -> Result<(SocketAddr, String), ConnectError> {
    let (ip, name) = match &host.target {
        Target::Address { ip, name } => (*ip, name.clone().unwrap_or_else(|| ip.to_string())),
        Target::Name(name) => {
            let found = tokio::net::lookup_host((name.as_str(), host.port)).await;
            let mut found: Vec<SocketAddr> = found.map_err(|error| ConnectError::unreachable(host, error))?.collect();
            // As everywhere in the mesh: a name with both kinds of address is asked over IPv4.
            found.sort_by_key(SocketAddr::is_ipv6);
            let none = || ConnectError::unreachable(host, io::Error::other("the name has no address"));
            (found.first().ok_or_else(none)?.ip(), name.clone())
        }
        Target::Socket(_) => {
            let reason = "a Unix socket leads to this host and shows nothing of the network; write host=NAME".to_owned();
            return Err(ConnectError::BadSettings { reason });
        }
    };
    Ok((SocketAddr::new(ip, host.port), name))
}

impl Prepared<'_> {
    /// Connects and logs in; `watch` learns when each phase ended, however this ends. Has no deadline of its own: dropping it closes
    /// the socket, and a server gives up a login by itself.
    ///
    /// # Errors
    /// Whatever ended it. Once [`Phase::Connect`] has ended, the server's port was open.
    pub async fn connect(self, watch: &Stopwatch) -> Result<Connection, ConnectError> {
        let unreachable = |error| ConnectError::unreachable(self.host, error);
        let stream = self.tcp.connect().await.map_err(unreachable)?;
        watch.end(Phase::Connect);
        let session = self.tcp.session(&self.tls).map_err(|error| ConnectError::other(self.host, error))?;
        let timed = Timed { session, watch: watch.clone() };
        let connected = self.config.connect_raw(stream, timed).await;
        let (client, wire) = connected.map_err(|error| ConnectError::from_server(self.host, self.info, error))?;
        watch.end(Phase::Auth);
        let canceller = Canceller { token: client.cancel_token(), tls: self.tls, tcp: Some(self.tcp) };
        Ok(Connection::start(client, wire, self.host, canceller))
    }
}

type Session = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::TlsConnect;

impl Tcp {
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(super) fn session(&self, tls: &MakeRustlsConnect) -> io::Result<Session> {
        let made = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls.clone(), &self.name);
        made.map_err(io::Error::other)
    }
}

/// A TLS session that says when its handshake is over.
struct Timed {
    session: Session,
    watch: Stopwatch,
}

impl TlsConnect<TcpStream> for Timed {
    type Stream = <Session as TlsConnect<TcpStream>>::Stream;
    type Error = <Session as TlsConnect<TcpStream>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        let Timed { session, watch } = self;
        let handshake = session.connect(stream);
        Box::pin(async move {
            let stream = handshake.await?;
            watch.end(Phase::Tls);
            Ok(stream)
        })
    }
}
