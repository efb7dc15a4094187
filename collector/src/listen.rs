//! Listening: one way for both addresses, with bounds on what clients may take, encrypted if there is a certificate.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::Request;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use lagmesh_daemon::Shutdown;
use lagmesh_daemon::certificate::not_after_s;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;
use tower::Service;

use crate::access::credentials::Certificate;
use crate::access::{Access, Connection};

/// Connections at once on one address: every agent of a large fleet, a few scrapers, and people.
pub const CONNECTIONS_MAX: usize = 1200;
/// How long a client may take from connecting to its first whole request.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may stay open without a request; agents send every few seconds, and connect again for nothing.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// A client that is silent for so long is asked whether it is still there, and gone if it does not answer.
const ASKED_AFTER: Duration = Duration::from_secs(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long a client may leave what it was sent untaken: it has vanished, or it does not read.
const UNTAKEN_MAX: Duration = Duration::from_secs(30);
/// On shutdown: how long answers that are under way may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);

/// A certificate with its key, ready for use.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    /// When the certificate ends [s since 1970], if that can be told.
    pub not_after_s: Option<u64>,
}

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// The first file is not PEM.
    #[error("no certificate can be read: {0}")]
    Certificate(rustls::pki_types::pem::Error),
    /// The first file holds no certificate.
    #[error("there is no certificate in the first file")]
    NoCertificate,
    /// The second file holds no key.
    #[error("no private key can be read: {0}")]
    Key(rustls::pki_types::pem::Error),
    /// The authority of the clients is no good.
    #[error("the authority of the clients: {0}")]
    Authority(String),
    /// They do not belong together, or are of a kind that is not supported.
    #[error(transparent)]
    Unusable(#[from] rustls::Error),
}

impl Tls {
    /// From the text of PEM files; `client_ca` holds who may vouch for clients. A client may come without a certificate: whether it may
    /// then do anything is not decided here.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn from_pem(cert: &str, key: &str, client_ca: Option<&str>) -> Result<Tls, BadTls> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>().map_err(BadTls::Certificate)?;
        if chain.is_empty() {
            return Err(BadTls::NoCertificate);
        }
        let not_after_s = chain.first().and_then(|own| not_after_s(own));
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(BadTls::Key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let config = match client_ca {
            None => config.with_no_client_auth(),
            Some(pem) => {
                let roots = Arc::new(authorities(pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).allow_unauthenticated().build();
                config.with_client_cert_verifier(verifier.map_err(|e: VerifierBuilderError| BadTls::Authority(e.to_string()))?)
            }
        };
        let mut config = config.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Tls { config: Arc::new(config), not_after_s })
    }
}

/// The certificates of a PEM file as authorities; at least one.
fn authorities(pem: &str) -> Result<RootCertStore, BadTls> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|e| BadTls::Authority(e.to_string()))?).map_err(|e| BadTls::Authority(e.to_string()))?;
    }
    if roots.is_empty() { Err(BadTls::Authority("there is no certificate in its file".to_owned())) } else { Ok(roots) }
}

/// What both addresses encrypt with: may be replaced while they serve. Sessions of before cannot be taken up with what replaced it.
#[derive(Clone)]
pub struct SharedTls(RustlsConfig);

impl fmt::Debug for SharedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedTls")
    }
}

impl SharedTls {
    /// To begin with.
    pub fn new(Tls { config, .. }: Tls) -> SharedTls {
        SharedTls(RustlsConfig::from_config(config))
    }

    /// For connections from now on.
    pub fn replace(&self, Tls { config, .. }: Tls) {
        self.0.reload_from_config(config);
    }
}

/// A bound address. Clients that connect wait until it is served.
#[derive(Debug)]
pub struct Listener {
    listener: std::net::TcpListener,
    /// Where.
    pub address: SocketAddr,
}

impl Listener {
    /// Binds; `flag` is what to change if that fails.
    ///
    /// # Errors
    /// If the address is in use, not ours, or not permitted.
    pub fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<Listener> {
        let listening = || format!("listen on {address}; choose another address with {flag}");
        let listener = std::net::TcpListener::bind(address).with_context(listening)?;
        listener.set_nonblocking(true).with_context(listening)?;
        let address = listener.local_addr().with_context(listening)?;
        Ok(Listener { listener, address })
    }

    /// Serves until `shutdown`, then answers what was asked already.
    ///
    /// # Errors
    /// If the listener breaks.
    pub async fn serve(self, router: Router, tls: Option<SharedTls>, access: Access, shutdown: Shutdown) -> anyhow::Result<()> {
        let handle = Handle::new();
        let mut server = axum_server::from_tcp(self.listener)?.handle(handle.clone()).first_request_timeout(FIRST_REQUEST_WITHIN);
        let protocols = server.http_builder();
        protocols.http1().header_read_timeout(IDLE_MAX);
        protocols.http2().keep_alive_interval(ASKED_AFTER).keep_alive_timeout(ANSWER_WITHIN);
        let mut serving: Pin<Box<dyn Future<Output = io::Result<()>> + Send>> = match tls {
            None => Box::pin(bounded(server, router, access)),
            Some(SharedTls(config)) => Box::pin(encrypted(server, router, config, access)),
        };
        tokio::select! {
            end = &mut serving => return Ok(end?),
            () = shutdown.cancelled() => handle.graceful_shutdown(Some(DRAIN_DEADLINE)),
        }
        Ok(serving.await?)
    }
}

type Plain = Server<SocketAddr>;

async fn bounded(server: Plain, router: Router, access: Access) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    server.map(|inner| Bounded { inner, places, access }).serve(router.into_make_service()).await
}

async fn encrypted(server: Plain, router: Router, config: RustlsConfig, access: Access) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let acceptor = RustlsAcceptor::new(config);
    server.acceptor(Bounded { inner: acceptor, places, access }).serve(router.into_make_service()).await
}

/// A connection that may know who is at its other end.
trait Peer {
    /// Whom the client's certificate names.
    fn certificate(&self) -> Certificate;
}

impl Peer for TcpStream {
    fn certificate(&self) -> Certificate {
        Certificate::None
    }
}

impl Peer for TlsStream<TcpStream> {
    fn certificate(&self) -> Certificate {
        let shown = self.get_ref().1.peer_certificates().and_then(<[_]>::first);
        shown.map_or(Certificate::None, Certificate::read)
    }
}

/// Takes a bounded number of connections; what comes beyond is closed at once.
#[derive(Debug, Clone)]
struct Bounded<A> {
    inner: A,
    places: Arc<Semaphore>,
    access: Access,
}

impl<A, S> Accept<TcpStream, S> for Bounded<A>
where
    A: Accept<TcpStream, S> + Clone + Send + 'static,
    A::Future: Send,
    A::Stream: Peer + Send,
    A::Service: Send,
    S: Send + 'static,
{
    type Stream = A::Stream;
    type Service = Placed<A::Service>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let (inner, place, access) = (self.inner.clone(), self.places.clone().try_acquire_owned(), self.access.clone());
        Box::pin(async move {
            let place = place.map_err(|_| io::Error::other("too many connections"))?;
            stream.set_nodelay(true)?;
            guard(&stream)?;
            let from = stream.peer_addr()?;
            let accepted = inner.accept(stream, service).await;
            let (stream, service) = accepted.inspect_err(|error| access.handshake_failed(from, error))?;
            let connection = Arc::new(Connection { from, certificate: stream.certificate() });
            Ok((stream, Placed { service, connection, _place: Arc::new(place) }))
        })
    }
}

/// Lets the kernel find out about clients that vanished without a word: their places must come free again.
fn guard(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ASKED_AFTER).with_interval(ANSWER_WITHIN))?;
    socket.set_tcp_user_timeout(Some(UNTAKEN_MAX))
}

/// The service of one connection, which holds its place while it lasts, and tells with each request who is at the other end.
#[derive(Debug, Clone)]
struct Placed<S> {
    service: S,
    connection: Arc<Connection>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Placed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.connection.clone());
        self.service.call(request)
    }
}
