//! One request to a target, over HTTP.

use std::path::PathBuf;
use std::time::Duration;

use lagmesh_daemon::reply::{self, FirstPart};
use lagmesh_model::fleet::{Forward, ForwardKind};
use lagmesh_model::otlp::Relay;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, redirect};

use super::answer::Answer;
use super::config::{ForwardSettings, read_headers};
use super::points::Point;
use super::remote_write::{self, Sent, Target};
use super::{JOB, otlp};
use crate::receive::wire;

/// How long to wait for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long one request may take in all.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// What receivers of remote write 2.0 say that they have written.
const SAMPLES_WRITTEN: &str = "x-prometheus-remote-write-samples-written";
const HISTOGRAMS_WRITTEN: &str = "x-prometheus-remote-write-histograms-written";

/// A client of one target.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    kind: ForwardKind,
    url: String,
    headers_file: Option<PathBuf>,
    relay: Relay,
    target: Target,
}

impl Client {
    /// A client of a target of the fleet file.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub(crate) fn new(forward: &Forward, settings: &ForwardSettings, relay: Relay) -> Result<Client, reqwest::Error> {
        // Fails only if somebody has installed one before, which is then the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let base = &forward.url;
        let builder = reqwest::Client::builder()
            .user_agent(concat!("lagmesh-collector/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(REQUEST_DEADLINE)
            // A redirect would carry telemetry to where the fleet file does not say.
            .redirect(redirect::Policy::none());
        let builder = match &settings.authorities {
            // Without TLS nobody vouches, and a machine without certificates is good enough.
            _ if !base.is_tls() => builder.tls_certs_only([]),
            Some(certificates) => builder.tls_certs_only(certificates.iter().cloned()),
            None => builder,
        };
        let builder = if base.is_loopback() { builder.no_proxy() } else { builder };
        let url = match forward.kind {
            ForwardKind::Otlp => format!("{base}/v1/metrics"),
            ForwardKind::RemoteWrite(_) | ForwardKind::RemoteWrite2(_) => base.to_string(),
        };
        let target = Target { job: JOB.to_owned(), instance: settings.instance.clone() };
        let headers_file = settings.headers_files.get(&forward.name).cloned();
        Ok(Client { http: builder.build()?, kind: forward.kind, url, headers_file, relay, target })
    }

    /// Where it posts to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How much a point takes of a request.
    pub(crate) fn weight(&self, point: &Point) -> usize {
        self.kind.histograms().map_or(1, |form| remote_write::weight(point, form))
    }

    /// Posts points of one moment [ms since 1970]. Whatever happens is an answer.
    pub(crate) async fn post(&self, points: &[Point], stamp_ms: i64) -> Answer {
        let headers = match self.headers() {
            Ok(headers) => headers,
            Err(why) => return Answer::Misconfigured { why },
        };
        let (request, sent) = self.request(points, stamp_ms);
        match request.headers(headers).send().await {
            Ok(response) => read(response, sent).await,
            Err(e) => Answer::Later { after: None, why: reply::no_answer(&e, !e.is_timeout()) },
        }
    }

    /// Read anew each time, so that replaced credentials are taken over.
    fn headers(&self) -> Result<HeaderMap, String> {
        let Some(path) = &self.headers_file else { return Ok(HeaderMap::new()) };
        read_headers(path).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// With it, in remote write 2.0, what the receiver must say that it has written.
    fn request(&self, points: &[Point], stamp_ms: i64) -> (RequestBuilder, Option<Sent>) {
        let post = self.http.post(&self.url);
        match self.kind {
            ForwardKind::RemoteWrite(form) => {
                let message = remote_write::version_1(points, stamp_ms, &self.target, form);
                let request = post
                    .header(CONTENT_TYPE, "application/x-protobuf")
                    .header(CONTENT_ENCODING, "snappy")
                    .header("x-prometheus-remote-write-version", "0.1.0");
                (request.body(snappy(&message)), None)
            }
            ForwardKind::RemoteWrite2(form) => {
                let (message, sent) = remote_write::version_2(points, stamp_ms, &self.target, form);
                let request = post
                    .header(CONTENT_TYPE, "application/x-protobuf;proto=io.prometheus.write.v2.Request")
                    .header(CONTENT_ENCODING, "snappy")
                    .header("x-prometheus-remote-write-version", "2.0.0");
                (request.body(snappy(&message)), Some(sent))
            }
            ForwardKind::Otlp => {
                let message = otlp::message(points, stamp_ms, &self.relay);
                let request = post.header(CONTENT_TYPE, "application/x-protobuf").header(CONTENT_ENCODING, "gzip");
                (request.body(gzip(&message)), None)
            }
        }
    }
}

fn snappy(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).expect("a part of a snapshot is far below 4 GiB")
}

fn gzip(message: &[u8]) -> Vec<u8> {
    use std::io::Write as _;

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(message).and_then(|()| encoder.finish()).expect("memory takes what is written to it")
}

async fn read(mut response: Response, sent: Option<Sent>) -> Answer {
    let status = response.status().as_u16();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (retry_after, content_type) = (header(RETRY_AFTER.as_str()), header(CONTENT_TYPE.as_str()));
    let written = [SAMPLES_WRITTEN, HISTOGRAMS_WRITTEN].map(|name| header(name).and_then(|value| value.trim().parse().ok()));
    let mut body = FirstPart::default();
    while body.wants_more()
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.add(&chunk);
    }
    let body = body.as_slice();
    let protobuf = content_type.is_some_and(|content_type| content_type.starts_with("application/x-protobuf"));
    let refusal = if protobuf { wire::Status::decode(body).ok() } else { None };
    let text = refusal.map_or_else(|| String::from_utf8_lossy(body).into_owned(), |refusal| refusal.message);
    match (Answer::of(status, retry_after.as_deref(), &text), sent) {
        (Answer::Taken { .. }, Some(sent)) => unwritten(sent, written),
        (Answer::Taken { .. }, None) if protobuf => partial(body),
        (answer, _) => answer,
    }
}

/// What a receiver of remote write 2.0 did not write. One that says nothing does not know 2.0, and has written nothing.
fn unwritten(sent: Sent, written: [Option<u64>; 2]) -> Answer {
    let missing = |sent: u64, written: Option<u64>| sent.saturating_sub(written.unwrap_or(0));
    let count = missing(sent.samples, written[0]) + missing(sent.histograms, written[1]);
    let why = match (count, written) {
        (0, _) => None,
        (_, [None, None]) => {
            Some("it does not say what it has written: it knows no remote write 2.0; use kind = \"remote-write\"".to_owned())
        }
        _ => Some(format!("it says that it has not written {count} of {} samples", sent.samples + sent.histograms)),
    };
    Answer::Taken { unwritten: count, why }
}

/// What an OTLP receiver says that it dropped of what it took.
fn partial(body: &[u8]) -> Answer {
    let partial = ExportMetricsServiceResponse::decode(body).ok().and_then(|response| response.partial_success);
    match partial {
        Some(partial) if partial.rejected_data_points > 0 => Answer::Taken {
            unwritten: partial.rejected_data_points.unsigned_abs(),
            why: Some(format!("it dropped {} data points: {}", partial.rejected_data_points, partial.error_message)),
        },
        _ => Answer::Taken { unwritten: 0, why: None },
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::catalogue::{self, Attribute};
    use lagmesh_model::series::{Attributes, Value};

    use super::*;

    /// What a receiver of 2.0 has not written counts as lost; one that says nothing has written nothing.
    #[test]
    fn written_counts() {
        let sent = Sent { samples: 10, histograms: 2 };
        for (written, expected) in [
            ([Some(10), Some(2)], 0),
            ([Some(11), Some(9)], 0),
            ([Some(10), Some(0)], 2),
            ([Some(9), Some(2)], 1),
            ([Some(10), None], 2),
            ([None, None], 12),
        ] {
            let Answer::Taken { unwritten, why } = unwritten(sent, written) else { panic!("{written:?}") };
            assert_eq!((unwritten, why.is_some()), (expected, expected > 0), "{written:?}");
        }
        assert_eq!(super::unwritten(Sent::default(), [None, None]), Answer::Taken { unwritten: 0, why: None });
    }

    /// What a request had, and how it is answered.
    async fn asked(kind: &str, headers: &'static [(&'static str, &'static str)]) -> (HeaderMap, Vec<u8>, Answer) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base", listener.local_addr().unwrap());
        let (told, mut heard) = tokio::sync::mpsc::channel(1);
        let take = async move |uri: axum::http::Uri, headers_in: HeaderMap, body: axum::body::Bytes| {
            told.send((uri, headers_in, body.to_vec())).await.unwrap();
            axum::response::AppendHeaders(headers.iter().copied())
        };
        let server = tokio::spawn(async { axum::serve(listener, axum::Router::new().fallback(take)).await });
        let text = format!(
            "name = \"f\"\n[[region]]\nname = \"a\"\n[[region.agent]]\nmesh = \"127.0.0.1:1\"\n\
             [[forward]]\nname = \"t\"\nkind = \"{kind}\"\nurl = \"{url}\"\n"
        );
        let fleet = lagmesh_model::fleet::Fleet::parse("fleet.toml", &text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        std::fs::write(&file, "X-Scope-OrgID: tenant").unwrap();
        let settings =
            ForwardSettings { headers_files: [("t".parse().unwrap(), file)].into(), authorities: None, instance: "i".to_owned() };
        let relay = Relay { service: JOB.to_owned(), instance: "i".to_owned(), version: "1".to_owned(), fleet: "f".to_owned() };
        let client = Client::new(&fleet.forwards[0], &settings, relay).unwrap();
        let attributes = Attributes::new().with(Attribute::Region, "a");
        let points = [Point { metric: &catalogue::CLOCK_EPOCHS, attributes, value: Some(Value::Counter(3)) }];
        let answer = client.post(&points, 7).await;
        let (uri, headers, body) = heard.recv().await.unwrap();
        assert_eq!(uri.path(), if kind == "otlp" { "/base/v1/metrics" } else { "/base" });
        server.abort();
        (headers, body, answer)
    }

    /// Each protocol's requests have its content type, its compression, the headers of the file and what can be unpacked; what the
    /// receiver says that it has written is heard.
    #[tokio::test]
    async fn requests_and_answers() {
        let taken = |unwritten| Answer::Taken { unwritten, why: None };
        let (headers, body, answer) = asked("remote-write", &[]).await;
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["content-encoding"], "snappy");
        assert_eq!(headers["x-prometheus-remote-write-version"], "0.1.0");
        assert_eq!(headers["x-scope-orgid"], "tenant");
        assert!(snap::raw::Decoder::new().decompress_vec(&body).is_ok_and(|message| !message.is_empty()));
        assert_eq!(answer, taken(0));

        let (headers, _, answer) = asked("remote-write-2", &[(SAMPLES_WRITTEN, "1")]).await;
        assert_eq!(headers["content-type"], "application/x-protobuf;proto=io.prometheus.write.v2.Request");
        assert_eq!(headers["x-prometheus-remote-write-version"], "2.0.0");
        assert_eq!(answer, taken(0));
        let (_, _, answer) = asked("remote-write-2", &[]).await;
        assert!(matches!(answer, Answer::Taken { unwritten: 1, why: Some(_) }), "{answer:?}");

        let (headers, body, answer) = asked("otlp", &[]).await;
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["content-encoding"], "gzip");
        let message = crate::packed::unpack(crate::packed::Encoding::Gzip, &body, 1 << 20).unwrap();
        let request = opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest::decode(message.as_slice());
        assert_eq!((request.unwrap().resource_metrics.len(), answer), (1, taken(0)));
    }

    /// What an OTLP receiver says that it dropped counts as not written; an empty answer says that all was taken.
    #[test]
    fn partial_success_is_heard() {
        use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;

        let partial_success = Some(ExportMetricsPartialSuccess { rejected_data_points: 4, error_message: "too many".to_owned() });
        let body = ExportMetricsServiceResponse { partial_success }.encode_to_vec();
        assert!(matches!(partial(&body), Answer::Taken { unwritten: 4, why: Some(_) }));
        assert_eq!(partial(&[]), Answer::Taken { unwritten: 0, why: None });
    }
}
