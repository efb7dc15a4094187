//! One OTLP request over HTTP.

use std::time::Duration;

use anyhow::Context as _;
use lagmesh_daemon::reply::{self, FirstPart};
use lagmesh_model::fleet::Url;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Response, redirect};

use super::answer::Answer;
use super::credentials::Credentials;
use crate::spool::Parcel;

/// How long to wait for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// The certificate authorities that may vouch for a collector: those of a file, or else those of the system.
#[derive(Debug, Clone, Default)]
pub struct Authorities(Option<Vec<Certificate>>);

/// A file that holds no certificates.
#[derive(Debug, thiserror::Error)]
pub enum BadAuthorities {
    /// Not PEM, or no X.509 certificate in it.
    #[error("it holds no certificates that can be read: {0}")]
    Unreadable(reqwest::Error),
    /// PEM without certificates.
    #[error("it holds no certificate")]
    Empty,
}

impl Authorities {
    /// Nobody.
    #[cfg(test)]
    pub(super) fn none() -> Authorities {
        Authorities(Some(Vec::new()))
    }

    /// Those of a PEM file, and no others.
    ///
    /// # Errors
    /// If there are none in it.
    pub fn from_pem(pem: &[u8]) -> Result<Authorities, BadAuthorities> {
        let certificates = Certificate::from_pem_bundle(pem).map_err(BadAuthorities::Unreadable)?;
        if certificates.is_empty() { Err(BadAuthorities::Empty) } else { Ok(Authorities(Some(certificates))) }
    }
}

/// A client of one collector. A copy is the same client.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<HeaderValue>,
}

impl Client {
    /// A client of the collector at `base`, which shows this `Authorization` there; each request may take until `deadline`.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(base: &Url, credentials: &Credentials, token: Option<&HeaderValue>, deadline: Duration) -> anyhow::Result<Client> {
        // Fails only if somebody has installed one before, which is then the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("lagmesh-agent/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(deadline)
            // A redirect would carry telemetry to where the fleet file does not say.
            .redirect(redirect::Policy::none());
        let builder = match &credentials.authorities.0 {
            // Without TLS nobody vouches, and a machine without certificates is good enough.
            _ if !base.is_tls() => builder.tls_certs_only([]),
            Some(certificates) => builder.tls_certs_only(certificates.iter().cloned()),
            None => builder,
        };
        let builder = match &credentials.identity {
            Some(identity) if base.is_tls() => builder.identity(identity.clone()),
            _ => builder,
        };
        let builder = if base.is_loopback() { builder.no_proxy() } else { builder };
        let http = builder
            .build()
            .with_context(|| format!("set up TLS for {base}; does the machine have certificates of authorities?"))?;
        Ok(Client { http, url: format!("{base}/v1/metrics"), token: token.cloned() })
    }

    /// Where it posts to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts one batch. Whatever happens is an answer.
    pub async fn post(&self, parcel: &Parcel) -> Answer {
        let request = self
            .http
            .post(&self.url)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(CONTENT_ENCODING, parcel.compression.content_coding())
            .header("lagmesh-agent", parcel.agent.as_str())
            .header("lagmesh-boot", parcel.boot.to_string())
            .header("lagmesh-batch", parcel.sequence)
            .body(parcel.body.clone());
        let request = match &self.token {
            Some(token) => request.header(AUTHORIZATION, token),
            None => request,
        };
        match request.send().await {
            Ok(response) => read(response).await,
            Err(e) => Answer::Later { after: None, why: reply::no_answer(&e, !e.is_timeout()) },
        }
    }
}

async fn read(mut response: Response) -> Answer {
    let status = response.status().as_u16();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (retry_after, content_type) = (header(RETRY_AFTER), header(CONTENT_TYPE));
    let mut body = FirstPart::default();
    while body.wants_more()
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.add(&chunk);
    }
    let body = body.as_slice();
    match Answer::of(status, retry_after.as_deref(), &words(content_type.as_deref(), body)) {
        Answer::Accepted { .. } => Answer::Accepted { partial: partial(content_type.as_deref(), body) },
        other => other,
    }
}

/// `google.rpc.Status`, in which OTLP tells why a request is not taken: the one field that is for people.
#[derive(prost::Message)]
struct Refusal {
    #[prost(string, tag = "2")]
    message: String,
}

fn is_protobuf(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|content_type| content_type.starts_with("application/x-protobuf"))
}

/// What a collector says, as text; a proxy in between may say it in its own way.
fn words(content_type: Option<&str>, body: &[u8]) -> String {
    let refusal = if is_protobuf(content_type) { Refusal::decode(body).ok() } else { None };
    refusal.map_or_else(|| String::from_utf8_lossy(body).into_owned(), |refusal| refusal.message)
}

/// What a collector says that it dropped of a batch that it took.
fn partial(content_type: Option<&str>, body: &[u8]) -> Option<String> {
    if !is_protobuf(content_type) {
        return None;
    }
    let success = ExportMetricsServiceResponse::decode(body).ok()?.partial_success?;
    (success.rejected_data_points > 0)
        .then(|| format!("it dropped {} data points: {}", success.rejected_data_points, success.error_message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal is told in the collector's own words, whether they come as the protocol wants or from a proxy as text.
    #[test]
    fn refusals_are_told_in_words() {
        let body = Refusal { message: "region \"oslo\" is not in the fleet file".to_owned() }.encode_to_vec();
        let protobuf = Some("application/x-protobuf");
        assert_eq!(words(protobuf, &body), "region \"oslo\" is not in the fleet file");
        assert_eq!(words(Some("text/plain"), b"bad gateway"), "bad gateway");
        assert_eq!(words(protobuf, b"\xff\xff"), "\u{fffd}\u{fffd}");
    }
}
