//! Free ports on loopback.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use anyhow::{Context, Result};

/// A TCP port that nobody listens on just now.
///
/// # Errors
/// If the system has none.
pub fn free_tcp() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free TCP port")?;
    Ok(listener.local_addr()?.port())
}

/// `preferred` if it is free, else any free TCP port; 0 prefers none.
///
/// # Errors
/// If the system has none.
pub fn tcp_or_free(preferred: u16) -> Result<u16> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, preferred)) {
        Ok(listener) => Ok(listener.local_addr()?.port()),
        Err(_) => free_tcp(),
    }
}

/// A UDP port that nobody uses just now.
///
/// # Errors
/// If the system has none.
pub fn free_udp() -> Result<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free UDP port")?;
    Ok(socket.local_addr()?.port())
}
