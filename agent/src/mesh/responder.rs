//! The reflector's socket. It answers from the very address that was asked: senders with connected sockets take no other.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::Context as _;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::mesh::reflector::REQUEST_MAX;
use crate::mesh::sender::Shared;

/// The room that the reflector asks the kernel for [octets].
const RECEIVE_BUFFER: usize = 4 << 20;
/// How many requests are answered before others get their turn.
const REFLECT_AT_ONCE: usize = 64;
/// Room for the control messages of one packet [octets].
const CONTROL_LENGTH: usize = 256;

/// Binds the reflector's socket.
///
/// # Errors
/// If the address is not ours or taken.
pub fn bind_reflector(listen: SocketAddr) -> anyhow::Result<std::net::UdpSocket> {
    let open = || {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        if listen.is_ipv6() {
            socket.set_only_v6(!listen.ip().is_unspecified())?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        socket.bind(&listen.into())?;
        io::Result::Ok(socket.into())
    };
    open().with_context(|| format!("listen for mesh packets on {listen} (UDP); see --mesh-listen"))
}

/// Answers requests for ever.
///
/// # Errors
/// If the socket fails.
pub async fn reflect(shared: &Shared, socket: &UdpSocket) -> anyhow::Result<()> {
    let mut packet = [0; REQUEST_MAX + 1];
    loop {
        socket.readable().await.context("wait for mesh packets")?;
        for _ in 0..REFLECT_AT_ONCE {
            match socket.try_io(Interest::READABLE, || receive(socket, &mut packet)) {
                Ok(received) => reflect_one(shared, socket, &mut packet[..received.length], &received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => tracing::debug!(%error, "receive mesh packet"),
            }
        }
        tokio::task::yield_now().await;
    }
}

/// A packet that came in.
struct Received {
    length: usize,
    source: SockaddrStorage,
    /// To which of our addresses it came.
    asked: Option<ControlMessageOwned>,
}

fn receive(socket: &UdpSocket, packet: &mut [u8]) -> io::Result<Received> {
    let mut control = [0; CONTROL_LENGTH];
    let mut room = [IoSliceMut::new(packet)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut room, Some(&mut control[..]), MsgFlags::MSG_DONTWAIT)?;
    let source = message.address.ok_or(io::ErrorKind::InvalidData)?;
    let is_address = |control: &ControlMessageOwned| {
        matches!(control, ControlMessageOwned::Ipv4PacketInfo(_) | ControlMessageOwned::Ipv6PacketInfo(_))
    };
    let asked = message.cmsgs().ok().and_then(|mut controls| controls.find(is_address));
    Ok(Received { length: message.bytes, source, asked })
}

fn reflect_one(shared: &Shared, socket: &UdpSocket, packet: &mut [u8], received: &Received) {
    let Some(source) = address_of(&received.source) else { return };
    let Some(accepted) = shared.with(|engine, now| engine.check(packet, source, now)) else { return };
    shared.with(|engine, now| engine.answer(&accepted, packet, now));
    if let Err(error) = answer(socket, packet, received) {
        tracing::debug!(%source, %error, "answer mesh packet");
    }
}

/// Sends the answer back, from the address that was asked, by whatever way the routes say.
fn answer(socket: &UdpSocket, packet: &[u8], received: &Received) -> io::Result<()> {
    let (descriptor, octets, to) = (socket.as_raw_fd(), [IoSlice::new(packet)], Some(&received.source));
    let send = |control: &[ControlMessage<'_>]| sendmsg(descriptor, &octets, control, MsgFlags::MSG_DONTWAIT, to);
    match received.asked {
        Some(ControlMessageOwned::Ipv4PacketInfo(mut info)) => {
            info.ipi_ifindex = 0;
            send(&[ControlMessage::Ipv4PacketInfo(&info)])?
        }
        Some(ControlMessageOwned::Ipv6PacketInfo(info)) => send(&[ControlMessage::Ipv6PacketInfo(&info)])?,
        _ => send(&[])?,
    };
    Ok(())
}

/// A peer's address; one that came over an IPv6 socket by IPv4 is shown as what it is.
fn address_of(source: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = source.as_sockaddr_in().map(|v4| SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    let v6 = || source.as_sockaddr_in6().map(|v6| SocketAddr::new(IpAddr::V6(v6.ip()).to_canonical(), v6.port()));
    v4.or_else(v6)
}
