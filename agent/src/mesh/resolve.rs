//! Where a host of the fleet file is.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// The longest wait for the resolver.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// All addresses of a host, those of IPv4 first.
///
/// # Errors
/// If the resolver fails.
pub async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(in_order(tokio::net::lookup_host((host, port)).await?.collect()))
}

/// Where the fleet file gives a name, agents answer on IPv4 unless they are told otherwise: a name with both kinds of address must not
/// lead others to the one on which nobody listens, whatever order a host's resolver prefers.
fn in_order(mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    found.sort_by_key(SocketAddr::is_ipv6);
    found
}

/// The address to use: the current one as long as the name still has it, else the first.
pub fn choose(found: &[SocketAddr], current: Option<SocketAddr>) -> Option<SocketAddr> {
    current.filter(|current| found.contains(current)).or_else(|| found.first().copied())
}

/// How long an address is used before the name is resolved again.
const FRESH: Duration = Duration::from_secs(60);

/// A host whose address is kept for a while.
#[derive(Debug)]
pub struct Host {
    name: String,
    port: u16,
    kept: Mutex<Option<(SocketAddr, Instant)>>,
}

impl Host {
    /// A host by its name or address.
    pub fn new(name: impl Into<String>, port: u16) -> Host {
        Host { name: name.into(), port, kept: Mutex::new(None) }
    }

    /// Its address.
    ///
    /// # Errors
    /// If the name cannot be resolved in time.
    pub async fn address(&self) -> io::Result<SocketAddr> {
        let kept = *self.lock();
        if let Some((address, _)) = kept.filter(|(_, since)| since.elapsed() < FRESH) {
            return Ok(address);
        }
        let found = timeout(RESOLVE_TIMEOUT, lookup(&self.name, self.port)).await??;
        let address = choose(&found, kept.map(|(address, _)| address)).ok_or(io::ErrorKind::AddrNotAvailable)?;
        *self.lock() = Some((address, Instant::now()));
        Ok(address)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(SocketAddr, Instant)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IPv4 comes first, each kind in the order of the resolver.
    #[test]
    fn ipv4_first() {
        let [a, b, c] = ["[::1]:1", "10.0.0.2:1", "10.0.0.1:1"].map(|address| address.parse().unwrap());
        assert_eq!(in_order(vec![a, b, c]), [b, c, a]);
    }

    /// A name with several addresses does not make us jump between them.
    #[test]
    fn addresses_stay() {
        let [a, b, c] = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"].map(|address| address.parse().unwrap());
        assert_eq!(choose(&[a, b], None), Some(a));
        assert_eq!(choose(&[a, b], Some(b)), Some(b));
        assert_eq!(choose(&[a, b], Some(c)), Some(a));
        assert_eq!(choose(&[], Some(c)), None);
    }
}
