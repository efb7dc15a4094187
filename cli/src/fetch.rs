//! Asking a program over HTTP.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lagmesh_model::fleet::Url;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{StatusCode, redirect};

use crate::Failure;

/// The longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer that is read [bytes].
const BODY_BYTES_MAX: usize = 64 << 20;

/// A token has 72 characters; a larger file holds something else [bytes].
const TOKEN_BYTES_MAX: usize = 1024;
/// The part of a refusal that is shown [characters].
const REFUSAL_MAX: usize = 500;

/// What to show a server, and whom to believe.
#[derive(Debug, Clone, Default, clap::Args)]
#[expect(clippy::struct_field_names, reason = "the names are those of the flags")]
pub(crate) struct Credentials {
    /// Certificate authorities (PEM) that may vouch for the server [default: those of the system]
    #[arg(long, env = "LAGMESH_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// A file with the token that a collector wants
    #[arg(long, env = "LAGMESH_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// The certificate chain (PEM) to show, where something in between wants one
    #[arg(long, env = "LAGMESH_CERT_FILE", value_name = "FILE", requires = "key_file")]
    pub(crate) cert_file: Option<PathBuf>,

    /// The private key (PEM) of that certificate
    #[arg(long, env = "LAGMESH_KEY_FILE", value_name = "FILE", requires = "cert_file")]
    pub(crate) key_file: Option<PathBuf>,
}

/// Where a collector serves, if nobody says otherwise.
pub(crate) const COLLECTOR: &str = "http://127.0.0.1:8622";

/// Somebody who has an answer.
#[derive(Debug)]
pub(crate) struct Source {
    http: reqwest::Client,
    url: reqwest::Url,
    token: Option<HeaderValue>,
}

impl Source {
    /// A page of the program at a base URL, asked with such words.
    pub(crate) fn new(base: &str, path: &str, words: &[(String, String)], credentials: &Credentials) -> Result<Source, Failure> {
        let base: Url = base.parse().map_err(|error| Failure::Config(format!("{base}: {error}")))?;
        // Fails only if somebody has installed one before, which is then the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("lagmesh/", env!("CARGO_PKG_VERSION")))
            .timeout(DEADLINE)
            .redirect(redirect::Policy::none());
        let builder = match &credentials.ca_file {
            // Without TLS nobody vouches, and a machine without certificates is good enough.
            _ if !base.is_tls() => builder.tls_certs_only([]),
            Some(file) => builder.tls_certs_only(authorities(file)?),
            None => builder,
        };
        let builder = match credentials.cert_file.as_ref().zip(credentials.key_file.as_ref()) {
            Some((cert, key)) => builder.identity(identity(cert, key)?),
            None => builder,
        };
        let token = credentials.token_file.as_deref().map(token).transpose()?;
        if token.is_some() && !base.is_tls() && !base.is_loopback() {
            return Err(Failure::Config(format!("{base}: the token would go over the network for all to read; use https")));
        }
        let builder = if base.is_loopback() { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| Failure::Config(format!("set up TLS for {base}: {}", chain(&error))))?;
        let mut url =
            reqwest::Url::parse(&format!("{base}{path}")).map_err(|error| Failure::Config(format!("{base}: {error}")))?;
        if !words.is_empty() {
            url.query_pairs_mut().extend_pairs(words);
        }
        Ok(Source { http, url, token })
    }

    /// What it says.
    pub(crate) async fn fetch(&self) -> Result<Vec<u8>, Failure> {
        let failed = |why: String| {
            Failure::Refused(format!(
                "no answer from {}: {why}\n\
                 Check that the program runs and listens there; --url names a collector or an agent, --local the agent on this machine.",
                self.url
            ))
        };
        let request = self.http.get(self.url.clone());
        let request = if let Some(token) = &self.token { request.header(AUTHORIZATION, token) } else { request };
        let mut response = request.send().await.map_err(|error| failed(chain(&error)))?;
        let status = response.status();
        if status == StatusCode::BAD_REQUEST {
            return Err(Failure::Refused(refusal(&mut response).await));
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
            let why = refusal(&mut response).await;
            return Err(Failure::Refused(format!(
                "no answer from {}: it says {status}: {why}\n\
                 --token-file names a file with the token that `lagmesh token` has made for you, with the role read or operate.",
                self.url
            )));
        }
        if !response.status().is_success() {
            return Err(failed(format!("it answers {}", response.status())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(chain(&error)))? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(failed(format!("the answer is larger than {BODY_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn token(file: &Path) -> Result<HeaderValue, Failure> {
    let bad = |why: String| Failure::Config(format!("{}: {why}; --token-file must name a file with one token", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let token = text.trim_ascii();
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err(bad("it is not one line of visible characters".to_owned()));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| bad(error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn identity(cert: &Path, key: &Path) -> Result<reqwest::Identity, Failure> {
    let read = |file: &Path| std::fs::read(file).map_err(|error| Failure::Config(format!("{}: {error}", file.display())));
    let pem = [read(key)?, b"\n".to_vec(), read(cert)?].concat();
    let bad = |error| Failure::Config(format!("{} with {}: {}", cert.display(), key.display(), chain(&error)));
    reqwest::Identity::from_pem(&pem).map_err(bad)
}

/// What the program says to a question that makes no sense to it, without control characters.
async fn refusal(response: &mut reqwest::Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > 4 * REFUSAL_MAX {
            break;
        }
    }
    let text = String::from_utf8_lossy(&body);
    text.trim().chars().take(REFUSAL_MAX).map(|one| if one.is_control() { ' ' } else { one }).collect()
}

fn authorities(file: &Path) -> Result<Vec<reqwest::Certificate>, Failure> {
    let bad = |why: String| Failure::Config(format!("{}: {why}; --ca-file must name a PEM file of certificates", file.display()));
    let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad(chain(&error)))?;
    if certificates.is_empty() { Err(bad("it holds no certificate".to_owned())) } else { Ok(certificates) }
}

/// An error with its causes: the last one says the most. The URL stands before it already.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).map(ToString::to_string);
    causes.by_ref().last().unwrap_or_else(|| error.to_string())
}
