//! Where a host of the fleet file is.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// The longest wait for the resolver.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an address of several is tried before it is the next one's turn.
const TRIED_MIN: Duration = Duration::from_secs(10);
/// How long the one that answered last: most outages are over before any other address would do.
const PROVEN_TRIED_MIN: Duration = Duration::from_secs(60);

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

/// An address of a peer that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse {
    /// Which one.
    pub address: SocketAddr,
    /// Whether something answers there now.
    pub answers: bool,
    /// Whether it was the last one at which something answered.
    pub proven: bool,
    /// For how long it has been in use.
    pub tried: Duration,
}

/// The address of a peer to use: where something answers, or answered a moment ago, as long as the name has it. From where nothing
/// answers to the next one, so that all get their turn whatever order the resolver tells them in.
pub fn choose_or_move_on(found: &[SocketAddr], in_use: Option<InUse>) -> Option<SocketAddr> {
    let Some(InUse { address, answers, proven, tried }) = in_use.filter(|in_use| found.contains(&in_use.address)) else {
        return choose(found, None);
    };
    if answers || tried < if proven { PROVEN_TRIED_MIN } else { TRIED_MIN } {
        return Some(address);
    }
    found.iter().filter(|other| **other > address).min().or_else(|| found.iter().min()).copied()
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

    /// Where something answers we stay; else every address of the name gets its turn, in whatever order the resolver tells them, and the
    /// one that answered last gets more time.
    #[test]
    fn every_address_gets_its_turn() {
        let all @ [a, b, c, gone] =
            ["10.0.0.1:1", "10.0.0.2:1", "[2001:db8::1]:1", "10.0.0.9:1"].map(|address| address.parse().unwrap());
        let in_use =
            |address, answers, proven, tried_s| Some(InUse { address, answers, proven, tried: Duration::from_secs(tried_s) });
        let table = [
            (None, b),
            (in_use(a, true, true, 1_000), a),
            (in_use(a, false, false, 9), a),
            (in_use(a, false, false, 10), b),
            (in_use(b, false, false, 10), c),
            (in_use(c, false, false, 10), a),
            (in_use(c, false, true, 59), c),
            (in_use(c, false, true, 60), a),
            (in_use(gone, true, true, 1), b),
        ];
        for (used, expected) in table {
            assert_eq!(choose_or_move_on(&[b, a, c], used), Some(expected), "{used:?}");
        }
        for order in [[a, b, c], [c, a, b], [b, c, a]] {
            let turns = std::iter::successors(Some(b), |at| choose_or_move_on(&order, in_use(*at, false, false, 10)));
            assert_eq!(turns.take(4).collect::<Vec<_>>(), [b, c, a, b]);
        }
        for only in all {
            assert_eq!(choose_or_move_on(&[only], in_use(only, false, false, 1_000)), Some(only));
        }
        assert_eq!(choose_or_move_on(&[], in_use(a, true, true, 0)), None);
    }
}
