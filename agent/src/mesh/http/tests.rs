use lagmesh_model::state::Outcome;
use rcgen::generate_simple_self_signed;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Longer than anything that works takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for whom nobody answers.
const SHORT: Duration = Duration::from_millis(300);

/// What a server of a test says to every request, and then hangs up; nothing at all if it is `None`.
type Says = Option<&'static str>;

const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell";

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: Says) {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let Ok(octet) = stream.read_u8().await else { return };
        asked.push(octet);
    }
    let asked = String::from_utf8(asked).unwrap();
    assert!(asked.starts_with("GET /health HTTP/1.1\r\n") && asked.contains("host: localhost:"), "{asked}");
    match says {
        Some(says) => {
            stream.write_all(says.as_bytes()).await.unwrap();
            // A client that does not believe in the rest may be gone.
            stream.shutdown().await.ok();
        }
        None => std::future::pending().await,
    }
}

/// A server, and where it is; with TLS if it is given a certificate.
async fn server(tls: Option<Arc<ServerConfig>>, says: Says) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            match &tls {
                None => answer(stream, says).await,
                Some(tls) => {
                    if let Ok(stream) = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await {
                        answer(stream, says).await;
                    }
                }
            }
        }
    });
    port
}

/// A certificate for a name, and a server that has it.
fn papers(name: &str) -> (CertificateDer<'static>, Arc<ServerConfig>) {
    let issued = generate_simple_self_signed([name.to_owned()]).unwrap();
    let certificate = issued.cert.der().clone();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    (certificate, Arc::new(config))
}

fn target(url: &str, give_up: Duration, root: Option<CertificateDer<'static>>) -> Target {
    let target = Target::new(url.parse().unwrap(), "http test".to_owned(), &Clock::new(), give_up);
    let tls = root.map(|root| client(vec![root]).unwrap());
    Target { tls: OnceCell::new_with(tls), ..target }
}

fn phases(attempt: &Attempt) -> Vec<Phase> {
    attempt.phases.iter().map(|(phase, _)| *phase).collect()
}

const PLAIN: &[Phase] = &[Phase::Dns, Phase::Connect, Phase::FirstByte];
const TLS: &[Phase] = &[Phase::Dns, Phase::Connect, Phase::Tls, Phase::FirstByte];

/// Every server that says that it works is an answer, with and without TLS, in its phases; they do not add up to more than the whole.
#[tokio::test]
async fn answers() {
    let (root, tls) = papers("localhost");
    let moved = "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n";
    for (scheme, tls, says, expected) in
        [("http", None, GOOD, PLAIN), ("http", None, moved, PLAIN), ("https", Some(tls), GOOD, TLS)]
    {
        let port = server(tls, Some(says)).await;
        let target = target(&format!("{scheme}://localhost:{port}/health"), PATIENCE, Some(root.clone()));
        for _ in 0..2 {
            let attempt = target.attempt().await;
            assert_eq!((attempt.end, &phases(&attempt)[..]), (End::Answered, expected), "{:?}", target.told.trouble());
            let sum: u64 = attempt.phases.iter().map(|(_, took_ns)| took_ns).sum();
            assert!(sum <= attempt.ended.raw.since_ns(attempt.started.raw).unsigned_abs(), "{attempt:?}");
        }
    }
}

/// A body without end is read no further than the bound.
#[tokio::test]
async fn endless() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    });
    let attempt = target(&format!("http://127.0.0.1:{port}/health"), PATIENCE, None).attempt().await;
    assert_eq!((attempt.end, &phases(&attempt)[..]), (End::Answered, &PLAIN[1..]));
}

/// A server that says that it does not work, says something else than HTTP, or ends in the middle of its head or of its body has
/// answered, but not what was asked for.
#[tokio::test]
async fn bad_answers() {
    for (says, expected) in [
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", PLAIN),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", PLAIN),
        ("SSH-2.0-OpenSSH_9.2\r\n", &PLAIN[..2]),
        ("HTTP/1.1 200 OK\r\ncontent-le", &PLAIN[..2]),
        ("", &PLAIN[..2]),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", PLAIN),
    ] {
        let port = server(None, Some(says)).await;
        let attempt = target(&format!("http://localhost:{port}/health"), PATIENCE, None).attempt().await;
        assert_eq!((attempt.end, &phases(&attempt)[..]), (End::Failed(Outcome::Corrupt), expected), "{says:?}");
    }
}

/// A certificate that nobody known has signed, or for another name, is no answer.
#[tokio::test]
async fn wrong_certificates() {
    let ((root, own), (other, elsewhere)) = (papers("localhost"), papers("elsewhere"));
    for (tls, root) in [(own, other.clone()), (elsewhere, other)] {
        let port = server(Some(tls), Some(GOOD)).await;
        let attempt = target(&format!("https://localhost:{port}/health"), PATIENCE, Some(root)).attempt().await;
        assert_eq!((attempt.end, &phases(&attempt)[..]), (End::Failed(Outcome::Corrupt), &TLS[..2]));
    }
    let plain = server(None, Some(GOOD)).await;
    let attempt = target(&format!("https://localhost:{plain}/health"), SHORT, Some(root)).attempt().await;
    assert_ne!(attempt.end, End::Answered);
}

/// Who does not listen refuses; who listens and says nothing is silent, before TLS as after the request.
#[tokio::test]
async fn nobody_there() {
    let closed = lagmesh_tests::ports::free().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().map(|address| (silent, address.port())).unwrap();
    let speechless = server(None, None).await;
    let (root, _) = papers("localhost");
    for (url, end, expected) in [
        (format!("http://localhost:{closed}/health"), End::Failed(Outcome::Refused), &PLAIN[..1]),
        (format!("https://localhost:{}/health", silent.1), End::Silence, &PLAIN[..2]),
        (format!("http://localhost:{speechless}/health"), End::Silence, &PLAIN[..2]),
        ("http://nowhere.invalid/health".to_owned(), End::Failed(Outcome::Unresolved), &[][..]),
    ] {
        let attempt = target(&url, SHORT, Some(root.clone())).attempt().await;
        assert_eq!((attempt.end, &phases(&attempt)[..]), (end, expected), "{url}");
    }
}
