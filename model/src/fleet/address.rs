//! Where an agent or a collector is reached.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The longest host name of the DNS [characters].
const HOST_LENGTH_MAX: usize = 253;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name or an IP address (IPv6 without brackets).
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

/// Text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Not of the shape.
    #[error("{0:?} is not host:port")]
    Shape(String),
    /// Port 0.
    #[error("{0:?} has port 0; write a port from 1 to 65535")]
    PortZero(String),
    /// A wildcard.
    #[error("{0:?} is a wildcard, to which nobody can send; write the address at which peers reach this agent")]
    Wildcard(String),
}

impl Address {
    /// Whether the host is surely this machine: `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Whether the host is written as an IPv4 address.
    pub fn is_ipv4(&self) -> bool {
        self.host.parse::<Ipv4Addr>().is_ok()
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let shape = || BadAddress::Shape(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(shape)?;
        let host = host_name(host).ok_or_else(shape)?;
        let port = port_number(port).ok_or_else(shape)?;
        if port == 0 {
            return Err(BadAddress::PortZero(text.to_owned()));
        }
        if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
            return Err(BadAddress::Wildcard(text.to_owned()));
        }
        Ok(Address { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Bracketed(&self.host), self.port)
    }
}

/// The base URL of an OTLP/HTTP receiver, where `/v1/metrics` is added by the sender, or one that is asked as it is. Displays without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Url {
    tls: bool,
    host: String,
    port: Option<u16>,
    path: String,
}

/// Text that is no URL of a collector. Never repeats the text: it may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Another scheme or none.
    #[error("the URL must start with https:// (or http:// on loopback)")]
    Scheme,
    /// A user or password.
    #[error("a user or password stands in the URL, but secrets never stand in the fleet file")]
    Secret,
    /// Not host or host:port.
    #[error("no host:port follows the scheme")]
    Host,
    /// Port 0.
    #[error("port 0 cannot be sent to; write a port from 1 to 65535")]
    PortZero,
    /// A query, a fragment, spaces.
    #[error("write a base URL without '?', '#' and spaces")]
    Tail,
    /// The path of a signal.
    #[error("write the base URL only: /v1/metrics is added by the agent")]
    SignalPath,
}

impl Url {
    /// Whether it is `https://`.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether the host is surely this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// A name or an IP address (IPv6 without brackets).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path; `/` where none is written.
    pub fn path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// Host and port as they stand in a request: the port only if it is written.
    pub fn authority(&self) -> String {
        let port = self.port.map(|port| format!(":{port}"));
        format!("{}{}", Bracketed(&self.host), port.unwrap_or_default())
    }

    /// The port; 443 or 80 where none is written.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 443 } else { 80 })
    }
}

impl FromStr for Url {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Url, BadUrl> {
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            (None, None) => return Err(BadUrl::Scheme),
        };
        if rest.contains('@') {
            return Err(BadUrl::Secret);
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#')) {
            return Err(BadUrl::Tail);
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let path = path.trim_end_matches('/');
        if path.ends_with("/v1/metrics") {
            return Err(BadUrl::SignalPath);
        }
        let colon = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
        let (host, port) = match colon {
            Some(colon) => (&authority[..colon], Some(port_number(&authority[colon + 1..]).ok_or(BadUrl::Host)?)),
            None => (authority, None),
        };
        if port == Some(0) {
            return Err(BadUrl::PortZero);
        }
        let host = host_name(host).ok_or(BadUrl::Host)?;
        Ok(Url { tls, host, port, path: path.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}", if self.tls { "s" } else { "" }, Bracketed(&self.host))?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

/// A host as it stands before a port: IPv6 addresses in brackets.
struct Bracketed<'a>(&'a str);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(self.0) }
    }
}

fn host_name(text: &str) -> Option<String> {
    if let Some(v6) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().ok().map(|ip| ip.to_string());
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = (1..=HOST_LENGTH_MAX).contains(&text.len()) && text.chars().all(good);
    name.then(|| text.to_owned())
}

/// Digits only: `str::parse` would take a sign.
fn port_number(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address prints as it was written, and only loopback counts as this machine.
    #[test]
    fn addresses() {
        for (text, loopback) in [
            ("agent.example:8620", false),
            ("10.0.0.1:1", false),
            ("localhost:8620", true),
            ("127.0.0.2:8620", true),
            ("[::1]:8620", true),
            ("[::ffff:127.0.0.1]:8620", true),
            ("[2001:db8::1]:65535", false),
            ("localhost.example:8620", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_loopback()), (text, loopback));
        }
    }

    /// Text that is no address at which somebody can be reached is refused.
    #[test]
    fn bad_addresses() {
        for text in [
            "foo",
            "",
            ":8620",
            "foo:",
            "foo:65536",
            "foo:+1",
            "::1:8620",
            "[::1]",
            "[foo]:1",
            "a b:1",
            "foo:0",
            "0.0.0.0:1",
            "[::]:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }

    /// A URL prints as it was written, without a slash at its end.
    #[test]
    fn urls() {
        for (text, printed, tls, port) in [
            ("https://collector.example:4318", "https://collector.example:4318", true, 4318),
            ("https://collector.example/", "https://collector.example", true, 443),
            ("http://[::1]:8622/", "http://[::1]:8622", false, 8622),
            ("http://[::1]", "http://[::1]", false, 80),
            ("https://vendor.example/otlp/", "https://vendor.example/otlp", true, 443),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.to_string().as_str(), url.is_tls(), url.port()), (printed, tls, port));
        }
        for (text, authority, path) in
            [("https://a.example/health/", "a.example", "/health"), ("http://[::1]:81", "[::1]:81", "/")]
        {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.authority().as_str(), url.path()), (authority, path));
        }
    }

    /// Each kind of bad URL is told apart.
    #[test]
    fn bad_urls() {
        for (text, error) in [
            ("collector:4318", BadUrl::Scheme),
            ("grpc://collector:4317", BadUrl::Scheme),
            ("https://", BadUrl::Host),
            ("https://a:b", BadUrl::Host),
            ("https://a:0", BadUrl::PortZero),
            ("https://user:pass@a:1", BadUrl::Secret),
            ("https://a:1/?token=x", BadUrl::Tail),
            ("https://a:1/v1/metrics", BadUrl::SignalPath),
        ] {
            assert_eq!(text.parse::<Url>().unwrap_err(), error, "{text}");
        }
    }
}
