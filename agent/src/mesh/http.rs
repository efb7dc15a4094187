//! GET of a URL at a peer region, on a new connection each time, in phases. The answer's body is read up to a bound and thrown away.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use lagmesh_daemon::{Clock, Shutdown};
use lagmesh_model::fleet::Url;
use lagmesh_model::state::Phase;
use lagmesh_model::stopwatch::Stopwatch;
use lagmesh_model::time::Reading;
use lagmesh_postgres::tls::system_roots;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::mesh::line::outcome_of;
use crate::mesh::opinion::{Attempt, End, Opinion};
use crate::mesh::resolve::{choose, lookup};
use crate::mesh::step::{Failure, Step, Told};

/// What is read of a body [octets]: a page that says "well" is shorter.
const BODY_OCTETS_MAX: usize = 64 * 1024;
/// How servers see who is there.
const AGENT: &str = concat!("lagmesh-probe/", env!("CARGO_PKG_VERSION"));

/// Where a region is asked.
#[derive(Debug)]
pub struct Target {
    url: Url,
    tls: OnceCell<Arc<ClientConfig>>,
    clock: Clock,
    give_up: Duration,
    told: Told,
}

impl Target {
    /// A URL that is asked for.
    pub fn of(url: Url, opinion: &Opinion) -> Target {
        Target::new(url, format!("{} {}", opinion.kind, opinion.peer), &opinion.clock, opinion.timing.give_up)
    }

    fn new(url: Url, name: String, clock: &Clock, give_up: Duration) -> Target {
        Target { url, tls: OnceCell::new(), clock: clock.clone(), give_up, told: Told::new(name) }
    }

    /// One attempt on a connection of its own.
    async fn attempt(&self) -> Attempt {
        let until = Instant::now() + self.give_up;
        let tls = match timeout_at(until, self.tls()).await {
            Ok(tls) => tls,
            Err(_) => Err(Failure::ours("the system's root certificates took too long to read")),
        };
        let (started, watch) = (self.clock.now(), self.watch());
        let step = match tls {
            Ok(tls) => match timeout_at(until, self.get(&watch, tls)).await {
                Ok(step) => step,
                Err(_) if self.is_named() && watch.phases().is_empty() => {
                    Err(Failure::unresolved(format!("the address of {} took too long to find", self.url.host())))
                }
                Err(_) => Err(Failure::silence(format!("{} did not answer in time", self.url))),
            },
            Err(failure) => Err(failure),
        };
        self.told.tell(step.as_ref().map(|_| ()));
        let (end, ended) = match step {
            Ok(ended) => (End::Answered, ended),
            Err(failure) => (failure.end, self.clock.now()),
        };
        Attempt { started, ended, end, phases: watch.phases() }
    }

    fn is_named(&self) -> bool {
        self.url.host().parse::<IpAddr>().is_err()
    }

    fn watch(&self) -> Stopwatch {
        let clock = self.clock.clone();
        Stopwatch::start(Arc::new(move || clock.now().raw))
    }

    /// How TLS is spoken; `None` if it is not. The roots are read once.
    async fn tls(&self) -> Step<Option<Arc<ClientConfig>>> {
        if !self.url.is_tls() {
            return Ok(None);
        }
        let read = || async {
            let roots = tokio::task::spawn_blocking(system_roots).await.map_err(Failure::ours)?;
            client(roots.map_err(Failure::ours)?)
        };
        self.tls.get_or_try_init(read).await.map(|config| Some(Arc::clone(config)))
    }

    /// The request and its answer; when the head of the answer was here.
    async fn get(&self, watch: &Stopwatch, tls: Option<Arc<ClientConfig>>) -> Step<Reading> {
        let address = self.resolve(watch).await?;
        let stream = TcpStream::connect(address).await.map_err(|error| unreachable(&error, address))?;
        stream.set_nodelay(true).map_err(Failure::ours)?;
        watch.end(Phase::Connect);
        let Some(tls) = tls else { return self.converse(TokioIo::new(stream), watch).await };
        let name = ServerName::try_from(self.url.host().to_owned()).map_err(Failure::ours)?;
        let session = TlsConnector::from(tls).connect(name, stream).await.map_err(Failure::corrupt)?;
        watch.end(Phase::Tls);
        self.converse(TokioIo::new(session), watch).await
    }

    async fn resolve(&self, watch: &Stopwatch) -> Step<SocketAddr> {
        let (host, port) = (self.url.host(), self.url.port());
        if let Ok(ip) = host.parse() {
            return Ok(SocketAddr::new(ip, port));
        }
        let found = lookup(host, port).await.map_err(|error| Failure::unresolved(format!("{host}: {error}")))?;
        watch.end(Phase::Dns);
        choose(&found, None).ok_or_else(|| Failure::unresolved(format!("{host} has no address")))
    }

    async fn converse<T: Read + Write + Unpin>(&self, io: T, watch: &Stopwatch) -> Step<Reading> {
        let (sender, connection) = http1::handshake(io).await.map_err(Failure::corrupt)?;
        let exchange = self.exchange(sender, watch);
        tokio::pin!(connection, exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection's own error reaches the exchange as well.
            _ = &mut connection => exchange.await,
        }
    }

    async fn exchange(&self, mut sender: SendRequest<Empty<Bytes>>, watch: &Stopwatch) -> Step<Reading> {
        let request = Request::get(self.url.path())
            .header(header::HOST, self.url.authority())
            .header(header::USER_AGENT, AGENT)
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(Failure::ours)?;
        let response = sender.send_request(request).await.map_err(Failure::corrupt)?;
        watch.end(Phase::FirstByte);
        let (ended, status) = (self.clock.now(), response.status());
        read(response.into_body()).await?;
        if is_good(status) { Ok(ended) } else { Err(Failure::corrupt(format!("{} answered {status}", self.url))) }
    }
}

/// Probes a region until shutdown.
///
/// # Errors
/// Never: a region that cannot be reached is data.
pub async fn run(opinion: Opinion, target: Target, shutdown: Shutdown) -> anyhow::Result<()> {
    let target = Arc::new(target);
    let attempt = || {
        let target = Arc::clone(&target);
        async move { target.attempt().await }
    };
    opinion.run(attempt, &shutdown).await;
    Ok(())
}

/// Whether the server says that it works. A redirection is followed by nobody and is an answer.
fn is_good(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

async fn read(mut body: Incoming) -> Step<()> {
    let mut octets = 0;
    while let Some(frame) = body.frame().await {
        octets += frame.map_err(Failure::corrupt)?.data_ref().map_or(0, Bytes::len);
        if octets >= BODY_OCTETS_MAX {
            break;
        }
    }
    Ok(())
}

/// TLS that believes these roots and resumes no session: that would make one handshake shorter than the other.
fn client(roots: Vec<CertificateDer<'static>>) -> Step<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(Failure::ours)?;
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn unreachable(error: &io::Error, address: SocketAddr) -> Failure {
    let end = if error.kind() == io::ErrorKind::TimedOut { End::Silence } else { End::Failed(outcome_of(error)) };
    Failure { end, why: format!("{address}: {error}") }
}

#[cfg(test)]
mod tests;
