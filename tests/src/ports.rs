//! Ports on loopback that stay free until the program that they are meant for listens on them.
//!
//! A port that the system hands out for port 0 is free only while it is held: between letting go of it and its use, any outgoing
//! connection on the machine may be given it. So ports are taken from below the range that the system hands out, and each is
//! reserved, against every other test process, by an abstract Unix socket of its name for as long as this process lives.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;

use anyhow::{Result, bail};

/// The lowest port that is reserved; those below are the homes of well-known services.
const LOWEST: u16 = 15_000;

/// What this process has reserved; dropped, and so given back, when it ends.
static RESERVED: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// A port that nobody uses for TCP or UDP and that no other caller is given while this process lives.
///
/// # Errors
/// If there is none left.
pub fn free() -> Result<u16> {
    let above = first_ephemeral().filter(|first| *first > LOWEST).unwrap_or(32_768);
    let count = above - LOWEST;
    // Processes start at different places, so that they seldom meet; where they do, the reservation decides.
    let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(count))?;
    for step in 0..count {
        let port = LOWEST + (start + step) % count;
        if reserve(port) && nobody_uses(port) {
            return Ok(port);
        }
    }
    bail!("every port from {LOWEST} to {above} is in use")
}

/// `preferred` if nobody uses it, else any free port; 0 prefers none.
///
/// # Errors
/// If there is none left.
pub fn preferred_or_free(preferred: u16) -> Result<u16> {
    if preferred != 0 && reserve(preferred) && nobody_uses(preferred) { Ok(preferred) } else { free() }
}

/// The first port that the system hands out by itself.
fn first_ephemeral() -> Option<u16> {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?.split_whitespace().next()?.parse().ok()
}

fn reserve(port: u16) -> bool {
    let name = SocketAddr::from_abstract_name(format!("lagmesh-port-{port}"));
    let Ok(held) = name.and_then(|name| UnixDatagram::bind_addr(&name)) else { return false };
    RESERVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(held);
    true
}

fn nobody_uses(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No port is given twice, none that is in use is given, and none that the system may hand out to somebody else.
    #[test]
    fn ports_stay_free() {
        let first = free().unwrap();
        assert!(first < first_ephemeral().unwrap());
        assert_ne!(free().unwrap(), first);
        assert_ne!(preferred_or_free(first).unwrap(), first, "reserved");
        let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        assert_ne!(preferred_or_free(taken).unwrap(), taken, "in use");
        drop(held);
    }
}
