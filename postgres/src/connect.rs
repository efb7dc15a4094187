//! Connecting: host after host, TLS and plain in libpq's order, under one deadline; every failure names the address and what to do.

mod attempt;
mod error;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use error::ConnectError;

use crate::conninfo::{ConnInfo, Host, TargetSession};
use crate::tls;
use attempt::Attempt;

type Wire = tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// A session on a server. Dropping it closes the socket and ends its driver task; a statement that still runs there goes on until the
/// server notices, which is why statements run under [`with_deadline`](crate::with_deadline).
pub struct Connection {
    client: Client,
    driver: JoinHandle<()>,
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

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
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
}

impl Canceller {
    /// Asks the server to cancel. `Ok` says that the server took the request, not that anything was cancelled.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn cancel(&self) -> Result<(), tokio_postgres::Error> {
        self.token.cancel_query(self.tls.clone()).await
    }
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
    fn start(client: Client, wire: Wire, host: &Host, tls: &MakeRustlsConnect) -> Connection {
        let cut_waits = Arc::new(AtomicU64::new(0));
        let canceller = Canceller { token: client.cancel_token(), tls: tls.clone() };
        let driver = tokio::spawn(drive(wire, host.clone(), Arc::clone(&cut_waits)));
        Connection { client, driver, canceller, host: host.clone(), cut_waits }
    }
}

/// Moves bytes until the session ends; the statements in flight learn of a failure by themselves.
async fn drive(mut wire: Wire, host: Host, cut_waits: Arc<AtomicU64>) {
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
