//! What a client shows of itself: the name in its certificate, and the token in its request. Pure.

use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lagmesh_model::access::{BadIdentity, Identity};
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Whom a certificate names that a trusted authority has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// There is none.
    None,
    /// An agent.
    Agent(Identity),
    /// Nobody that we know how to name, and why.
    Nobody(String),
}

impl Certificate {
    /// Whom the certificate names with which a client has shown that it has the key; the handshake has checked who signed it.
    pub fn read(shown: &CertificateDer<'_>) -> Certificate {
        let identity = EndEntityCert::try_from(shown)
            .map_err(|e| format!("the certificate cannot be read: {e}"))
            .and_then(|cert| Identity::among(cert.valid_uri_names()).map_err(|bad: BadIdentity| bad.to_string()));
        identity.map_or_else(Certificate::Nobody, Certificate::Agent)
    }
}

/// The token of a request.
#[derive(Clone, PartialEq, Eq)]
pub enum Shown {
    /// There is none.
    Nothing,
    /// A token, or what was sent in its place.
    Token(Vec<u8>),
    /// An `Authorization` that is of neither form.
    Malformed,
}

/// A token is nobody's business in a log.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shown::Nothing => "Nothing",
            Shown::Token(_) => "Token(redacted)",
            Shown::Malformed => "Malformed",
        })
    }
}

impl Shown {
    /// The token in `Authorization`: as `Bearer`, or as the password of `Basic`, with which browsers come; the user name is nobody's
    /// business. Two headers are neither.
    pub fn read(headers: &HeaderMap) -> Shown {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = all.next() else { return Shown::Nothing };
        let words = value.to_str().ok().filter(|_| all.next().is_none()).and_then(|text| text.trim().split_once(' '));
        match words {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Shown::of(token.trim().as_bytes()),
            Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => {
                let pair = STANDARD.decode(pair.trim()).unwrap_or_default();
                let colon = pair.iter().position(|octet| *octet == b':');
                colon.map_or(Shown::Malformed, |colon| Shown::of(&pair[colon + 1..]))
            }
            _ => Shown::Malformed,
        }
    }

    fn of(token: &[u8]) -> Shown {
        if token.is_empty() { Shown::Malformed } else { Shown::Token(token.to_vec()) }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn shown(values: &[&str]) -> Shown {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        Shown::read(&headers)
    }

    /// A token comes as programs send it or as browsers do; anything else is refused as what it is, and never taken for no token.
    #[test]
    fn authorization() {
        let token = |text: &str| Shown::Token(text.as_bytes().to_vec());
        let is_malformed = |values: &[&str]| shown(values) == Shown::Malformed;
        assert!(shown(&[]) == Shown::Nothing);
        assert!(shown(&["Bearer lagmesh_12"]) == token("lagmesh_12"));
        assert!(shown(&["bEARER  x "]) == token("x"));
        assert!(shown(&["Basic YW55Om9uZQ=="]) == token("one"));
        assert!(shown(&["basic Om86bmU="]) == token("o:ne"), "a password may hold a colon, a name may be empty");
        for bad in ["", "Bearer", "Bearer ", "Basic", "Basic !", "Basic YW55", "Basic YTo=", "Digest x", "lagmesh_12"] {
            assert!(is_malformed(&[bad]), "{bad}");
        }
        assert!(is_malformed(&["Bearer a", "Bearer a"]));
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert!(Shown::read(&headers) == Shown::Malformed);
    }

    /// A certificate names the agent of its one URI; one without, or one that is none, names nobody and says why.
    #[test]
    fn certificates() {
        let signed = |names: Vec<rcgen::SanType>| {
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.subject_alt_names = names;
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let uri = |text: &str| rcgen::SanType::URI(text.try_into().unwrap());
        let dns = rcgen::SanType::DnsName("oslo.example".try_into().unwrap());
        let agent = Certificate::read(&signed(vec![dns.clone(), uri("lagmesh://demo/oslo/oslo")]));
        assert_eq!(agent, Certificate::Agent("lagmesh://demo/oslo/oslo".parse().unwrap()));
        for names in [vec![dns], vec![], vec![uri("lagmesh://demo/a/a"), uri("lagmesh://demo/b/b")]] {
            assert!(matches!(Certificate::read(&signed(names)), Certificate::Nobody(_)));
        }
        assert!(matches!(Certificate::read(&CertificateDer::from(vec![0x30, 0x03, 1])), Certificate::Nobody(_)));
    }
}
