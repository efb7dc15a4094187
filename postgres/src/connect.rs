//! Connecting: host after host, TLS and plain in libpq's order, under one deadline; every failure names the address and what to do.

mod attempt;
mod error;
mod phased;
mod pooler;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::{AsyncMessage, CancelToken, Client};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use error::ConnectError;
pub use phased::{Prepared, prepare};
pub use pooler::POOLER_ADVICE;

use crate::conninfo::{ConnInfo, Host, TargetSession};
use crate::tls;
use attempt::Attempt;

/// A session on a server. Dropping it closes the socket and ends its driver task; a statement that still runs there goes on until the
/// server notices, which is why statements run under [`with_deadline`](crate::with_deadline).
pub struct Connection {
    client: Client,
    driver: Driver,
    canceller: Canceller,
    host: Host,
    cut_waits: Arc<AtomicU64>,
}

impl Connection {
    /// The client for statements.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The means to stop the statement that runs now, from a second connection.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// The server that answered, of those that the connection string names.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Says goodbye before it closes, so that the server need not find out; waits for at most `limit`.
    pub async fn close(self, limit: Duration) {
        let Connection { client, mut driver, .. } = self;
        drop(client);
        if timeout(limit, &mut driver.0).await.is_err() {
            tracing::debug!("the server did not let the connection be closed in time");
        }
    }

    /// Whether the server has gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// How many commits of this session returned without their synchronous standby, because someone cut the wait short: PostgreSQL
    /// reports success with a warning. Such a commit is in doubt. Read it before and after a commit.
    pub fn cut_waits(&self) -> u64 {
        self.cut_waits.load(Ordering::Acquire)
    }
}

/// The task that moves a session's bytes; it ends with the session.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("host", &self.host).field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

/// The means to cancel what a session's server process is doing, over a connection of its own with the same TLS mode.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    tls: MakeRustlsConnect,
    /// Where the session is, if tokio-postgres does not know because it did not connect by itself.
    tcp: Option<Tcp>,
}

/// One address of a server, and the name that its certificate must carry.
#[derive(Debug, Clone)]
struct Tcp {
    address: SocketAddr,
    name: String,
}

impl Canceller {
    /// Asks the server to cancel. `Ok` says that the server took the request, not that anything was cancelled.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn cancel(&self) -> Result<(), CancelError> {
        let Some(tcp) = &self.tcp else { return Ok(self.token.cancel_query(self.tls.clone()).await?) };
        let session = tcp.session(&self.tls)?;
        Ok(self.token.cancel_query_raw(tcp.connect().await?, session).await?)
    }
}

/// Why a cancel could not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// The server cannot be reached.
    #[error("{0}")]
    Unreachable(#[from] std::io::Error),
    /// It was reached, or its library did not get that far.
    #[error("{}", crate::deadline::words(.0))]
    Failed(#[from] tokio_postgres::Error),
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").finish_non_exhaustive()
    }
}

/// Connects to the first host that will do. `deadline` bounds the whole: names, sockets, handshakes, logins; `connect_timeout` bounds
/// each host.
///
/// # Errors
/// The most telling failure among the hosts.
pub async fn connect(info: &ConnInfo, deadline: Duration) -> Result<Connection, ConnectError> {
    let until = Instant::now() + deadline;
    let ssl = info.ssl.clone();
    // A file may hang as well, on a network's disk or because it is a pipe.
    let tls = timeout_at(until, tokio::task::spawn_blocking(move || tls::connector(&ssl))).await;
    let tls = tls.map_err(|_| ConnectError::Timeout { address: info.hosts[0].to_string(), waited: deadline })?;
    let tls = tls.map_err(|error| ConnectError::other(&info.hosts[0], error))?.map_err(ConnectError::from)?;
    let mut found = try_hosts(info, info.target_session, &tls, until).await;
    if info.target_session == TargetSession::PreferStandby && matches!(found, Err(ConnectError::WrongSession { .. })) {
        found = try_hosts(info, TargetSession::Any, &tls, until).await;
    }
    found
}

async fn try_hosts(
    info: &ConnInfo,
    wanted: TargetSession,
    tls: &MakeRustlsConnect,
    until: Instant,
) -> Result<Connection, ConnectError> {
    let mut worst: Option<ConnectError> = None;
    for host in &info.hosts {
        let attempt = Attempt { info, host, wanted, tls, until };
        match attempt.run().await {
            Ok(connection) => return Ok(connection),
            // As libpq: a login that was refused is not tried elsewhere.
            Err(error @ (ConnectError::Refused { .. } | ConnectError::BadSettings { .. })) => return Err(error),
            Err(error) if worst.as_ref().is_none_or(|worst| error.tells() >= worst.tells()) => worst = Some(error),
            Err(_) => {}
        }
    }
    Err(worst.unwrap_or(ConnectError::NoHosts))
}

impl Connection {
    fn start<S, T>(client: Client, wire: tokio_postgres::Connection<S, T>, host: &Host, canceller: Canceller) -> Connection
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let cut_waits = Arc::new(AtomicU64::new(0));
        let driver = Driver(tokio::spawn(drive(wire, host.clone(), Arc::clone(&cut_waits))));
        Connection { client, driver, canceller, host: host.clone(), cut_waits }
    }
}

/// Moves bytes until the session ends; the statements in flight learn of a failure by themselves.
async fn drive<S, T>(mut wire: tokio_postgres::Connection<S, T>, host: Host, cut_waits: Arc<AtomicU64>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|context| wire.poll_message(context)).await {
            // The server's messages may be translated; the name of its own function is not.
            Some(Ok(AsyncMessage::Notice(notice))) if notice.routine() == Some("SyncRepWaitForLSN") => {
                cut_waits.fetch_add(1, Ordering::AcqRel);
            }
            Some(Ok(AsyncMessage::Notice(notice))) => tracing::debug!(%host, notice = notice.message(), "notice from server"),
            Some(Ok(_)) => {}
            Some(Err(error)) => return tracing::debug!(%host, %error, "connection ended"),
            None => return,
        }
    }
}
