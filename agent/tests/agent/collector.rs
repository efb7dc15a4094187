//! A collector of the test's own: takes OTLP over HTTP or HTTPS, checks it, and remembers who sent what.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use flate2::read::GzDecoder;
use lagmesh_model::ids::BootId;
use lagmesh_model::otlp::{ExportMetricsServiceRequest, Limits, decode};
use lagmesh_model::series::Batch;
use prost::Message as _;

/// (agent, boot, sequence).
pub(crate) type Identity = (String, BootId, u64);

/// What it says to a batch: an HTTP status line without the version.
pub(crate) type Policy = fn(&Batch) -> &'static str;

/// The answer of a collector that has nothing against anybody.
pub(crate) fn accept(_: &Batch) -> &'static str {
    "200 OK"
}

/// A running collector; stops listening when it is dropped.
pub(crate) struct Collector {
    seen: Arc<Mutex<BTreeMap<Identity, Vec<&'static str>>>>,
    encodings: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Listens on a port of this machine, in plain text or as a TLS server.
    pub(crate) fn start(port: u16, policy: Policy, tls: Option<Arc<rustls::ServerConfig>>) -> Collector {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (seen_by, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let encodings: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let encodings_seen = Arc::clone(&encodings);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, encodings, tls) = (Arc::clone(&seen_by), Arc::clone(&encodings_seen), tls.clone());
                std::thread::spawn(move || serve(stream.unwrap(), tls, policy, &seen, &encodings));
            }
        });
        Collector { seen, encodings, stop, port, thread: Some(thread) }
    }

    /// What it answered to each batch, every time that it came.
    pub(crate) fn answers(&self) -> BTreeMap<Identity, Vec<&'static str>> {
        self.seen.lock().unwrap().clone()
    }

    /// How the bodies that came were compressed.
    pub(crate) fn encodings(&self) -> BTreeSet<String> {
        self.encodings.lock().unwrap().clone()
    }

    /// The sequences of each run that it has accepted.
    pub(crate) fn accepted(&self) -> BTreeMap<BootId, Vec<u64>> {
        let mut accepted: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((_, boot, sequence), answers) in self.answers() {
            if answers.contains(&"200 OK") {
                accepted.entry(boot).or_default().push(sequence);
            }
        }
        accepted
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener up.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        self.thread.take().unwrap().join().ok();
    }
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn serve(
    tcp: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    policy: Policy,
    seen: &Mutex<BTreeMap<Identity, Vec<&'static str>>>,
    encodings: &Mutex<BTreeSet<String>>,
) {
    tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(tcp),
        Some(config) => Box::new(rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), tcp)),
    };
    let mut stream = BufReader::new(stream);
    // Ends when the agent closes the connection.
    while let Ok((headers, body)) = request(&mut stream) {
        let batch = check(&headers, &body);
        encodings.lock().unwrap().insert(headers["content-encoding"].clone());
        let answer = policy(&batch);
        let identity = (batch.exporter.agent.to_string(), batch.exporter.boot, batch.sequence);
        seen.lock().unwrap().entry(identity).or_default().push(answer);
        write!(stream.get_mut(), "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").unwrap();
        stream.get_mut().flush().unwrap();
    }
}

type Headers = BTreeMap<String, String>;

fn request(stream: &mut impl io::BufRead) -> io::Result<(Headers, Vec<u8>)> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    assert_eq!(line, "POST /v1/metrics HTTP/1.1\r\n");
    let mut headers = Headers::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body)?;
    Ok((headers, body))
}

/// A batch as it should be: readable, and with the same identity inside and in the headers.
fn check(headers: &Headers, body: &[u8]) -> Batch {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let plain = match headers["content-encoding"].as_str() {
        "gzip" => {
            let mut plain = Vec::new();
            GzDecoder::new(body).read_to_end(&mut plain).unwrap();
            plain
        }
        "zstd" => zstd::bulk::decompress(body, 16 * 1024 * 1024).unwrap(),
        "identity" => body.to_vec(),
        other => panic!("content-encoding {other}"),
    };
    let request = ExportMetricsServiceRequest::decode(&plain[..]).unwrap();
    let mut decoded = decode(request, &Limits::default()).unwrap();
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    let batch = decoded.batches.pop().unwrap();
    assert_eq!(headers["lagmesh-agent"], batch.exporter.agent.as_str());
    assert_eq!(headers["lagmesh-boot"], batch.exporter.boot.to_string());
    assert_eq!(headers["lagmesh-batch"], batch.sequence.to_string());
    batch
}
