//! Asking a program over HTTP.

use std::path::Path;
use std::time::Duration;

use lagmesh_model::fleet::Url;
use reqwest::redirect;

use crate::Failure;

/// The longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer that is read [bytes].
const BODY_BYTES_MAX: usize = 64 << 20;

/// The part of a refusal that is shown [characters].
const REFUSAL_MAX: usize = 500;

/// Somebody who has an answer.
#[derive(Debug)]
pub(crate) struct Source {
    http: reqwest::Client,
    url: reqwest::Url,
}

impl Source {
    /// A page of the program at a base URL, asked with such words; `ca_file` may name who vouches for it.
    pub(crate) fn new(base: &str, path: &str, words: &[(String, String)], ca_file: Option<&Path>) -> Result<Source, Failure> {
        let base: Url = base.parse().map_err(|error| Failure::Config(format!("{base}: {error}")))?;
        // Fails only if somebody has installed one before, which is then the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("lagmesh/", env!("CARGO_PKG_VERSION")))
            .timeout(DEADLINE)
            .redirect(redirect::Policy::none());
        let builder = match ca_file {
            // Without TLS nobody vouches, and a machine without certificates is good enough.
            _ if !base.is_tls() => builder.tls_certs_only([]),
            Some(file) => builder.tls_certs_only(authorities(file)?),
            None => builder,
        };
        let builder = if base.is_loopback() { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| Failure::Config(format!("set up TLS for {base}: {}", chain(&error))))?;
        let mut url =
            reqwest::Url::parse(&format!("{base}{path}")).map_err(|error| Failure::Config(format!("{base}: {error}")))?;
        if !words.is_empty() {
            url.query_pairs_mut().extend_pairs(words);
        }
        Ok(Source { http, url })
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
        let mut response = self.http.get(self.url.clone()).send().await.map_err(|error| failed(chain(&error)))?;
        if response.status() == reqwest::StatusCode::BAD_REQUEST {
            return Err(Failure::Refused(refusal(&mut response).await));
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
fn chain(error: &reqwest::Error) -> String {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).map(ToString::to_string);
    causes.by_ref().last().unwrap_or_else(|| error.to_string())
}
