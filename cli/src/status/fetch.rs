//! Asking a program for its status over HTTP.

use std::path::Path;
use std::time::Duration;

use lagmesh_model::fleet::Url;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Response, StatusCode, redirect};

use crate::Failure;

/// The longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer that is read [bytes].
const BODY_BYTES_MAX: usize = 64 << 20;

/// A token has 72 characters; a larger file holds something else [bytes].
const TOKEN_BYTES_MAX: usize = 1024;

/// Files with what to show, and whom to believe.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Credentials<'c> {
    /// Who vouches for the server; `None`: the authorities of the system.
    pub(super) ca_file: Option<&'c Path>,
    /// The token.
    pub(super) token_file: Option<&'c Path>,
    /// Certificate and key.
    pub(super) identity: Option<(&'c Path, &'c Path)>,
}

/// Somebody who has a status.
#[derive(Debug)]
pub(super) struct Source {
    http: reqwest::Client,
    url: String,
    token: Option<HeaderValue>,
}

impl Source {
    /// The program at a base URL.
    pub(super) fn new(base: &str, credentials: &Credentials<'_>) -> Result<Source, Failure> {
        let base: Url = base.parse().map_err(|error| Failure::Config(format!("{base}: {error}")))?;
        // Fails only if somebody has installed one before, which is then the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("lagmesh/", env!("CARGO_PKG_VERSION")))
            .timeout(DEADLINE)
            .redirect(redirect::Policy::none());
        let builder = match credentials.ca_file {
            // Without TLS nobody vouches, and a machine without certificates is good enough.
            _ if !base.is_tls() => builder.tls_certs_only([]),
            Some(file) => builder.tls_certs_only(authorities(file)?),
            None => builder,
        };
        let builder = match credentials.identity {
            Some((cert, key)) => builder.identity(identity(cert, key)?),
            None => builder,
        };
        let token = credentials.token_file.map(token).transpose()?;
        if token.is_some() && !base.is_tls() && !base.is_loopback() {
            return Err(Failure::Config(format!("{base}: the token would go over the network for all to read; use https")));
        }
        let builder = if base.is_loopback() { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| Failure::Config(format!("set up TLS for {base}: {}", chain(&error))))?;
        Ok(Source { http, url: format!("{base}/v1/status"), token })
    }

    /// What it says.
    pub(super) async fn fetch(&self) -> Result<Vec<u8>, Failure> {
        let failed = |why: String| {
            Failure::Refused(format!(
                "no status from {}: {why}\n\
                 Check that the program runs and listens there; --url names a collector or an agent, --local the agent on this machine.",
                self.url
            ))
        };
        let request = self.http.get(&self.url);
        let request = if let Some(token) = &self.token { request.header(AUTHORIZATION, token) } else { request };
        let mut response = request.send().await.map_err(|error| failed(chain(&error)))?;
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
            return Err(refused(&self.url, response).await);
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

/// What somebody says who answers and does not want us.
async fn refused(url: &str, mut response: Response) -> Failure {
    let first = response.chunk().await.ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&first[..first.len().min(500)]).into_owned();
    let why: String = text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    Failure::Refused(format!(
        "no status from {url}: it answers {}: {why}\n\
         --token-file names a file with the token that `lagmesh token` has made for you, with the role read or operate.",
        response.status()
    ))
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

fn authorities(file: &Path) -> Result<Vec<reqwest::Certificate>, Failure> {
    let bad = |why: String| Failure::Config(format!("{}: {why}; --ca-file must name a PEM file of certificates", file.display()));
    let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad(chain(&error)))?;
    if certificates.is_empty() { Err(bad("it holds no certificate".to_owned())) } else { Ok(certificates) }
}

/// An error with its causes: the last one says the most. The URL stands before it already.
fn chain(error: &reqwest::Error) -> String {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).map(ToString::to_string);
    causes.by_ref().last().unwrap_or_else(|| error.to_string())
}
