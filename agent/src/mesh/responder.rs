//! A socket of the reflector. It answers from the very address that was asked: senders with connected sockets take no other.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use lagmesh_model::time::RawNanos;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, sendmsg};

use crate::mesh::engine::Arrival;
use crate::mesh::kernel::SendIds;
use crate::mesh::reflector::{Answered, Origin, REQUEST_MAX};
use crate::mesh::shared::Shared;
use crate::mesh::socket::{Queued, Received, next_queued, receive};

/// How many requests are answered before others get their turn.
const REFLECT_AT_ONCE: usize = 256;
/// Of how many answers the stamps of their leaving find them: of those of two turns.
const SENT_MAX: usize = 2 * REFLECT_AT_ONCE;

/// Answers what comes to a socket of the reflector.
#[derive(Debug)]
pub struct Responder {
    socket: UdpSocket,
    /// Which of its packets is which answer.
    ids: SendIds<Answered>,
    /// When nothing waited there last.
    empty: Option<RawNanos>,
}

/// What was done about the requests that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How many were taken.
    pub taken: usize,
    /// Whether those were all.
    pub all: bool,
}

impl Responder {
    /// Answers on this socket, which must not block.
    pub fn new(socket: UdpSocket) -> Responder {
        Responder { socket, ids: SendIds::new(SENT_MAX), empty: None }
    }

    /// Its socket.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Nothing waited at that moment.
    pub fn nothing_waits(&mut self, at: RawNanos) {
        self.empty = Some(at);
    }

    /// Answers the requests that wait, up to a bound, and takes in when the answers left.
    pub fn answer_waiting(&mut self, shared: &Shared) -> Waiting {
        let waiting = self.answer_requests(shared);
        // The stamps are there as soon as an answer is sent, unless it waits in a queue of the host.
        self.take_in_stamps(shared);
        waiting
    }

    fn answer_requests(&mut self, shared: &Shared) -> Waiting {
        let mut packet = [0; REQUEST_MAX + 1];
        // Too early is the safe side, and once is cheap enough in a flood.
        let looked = shared.with(|_, now| now.raw);
        for taken in 0..REFLECT_AT_ONCE {
            match receive(&self.socket, &mut packet) {
                Ok(received) => self.reflect_one(shared, &mut packet[..received.length], &received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.empty = Some(looked);
                    return Waiting { taken, all: true };
                }
                Err(error) => tracing::debug!(%error, "receive mesh packet"),
            }
        }
        Waiting { taken: REFLECT_AT_ONCE, all: false }
    }

    fn reflect_one(&mut self, shared: &Shared, packet: &mut [u8], received: &Received) {
        let Some((source, address)) = received.source.as_ref().and_then(|source| Some((source, address_of(source)?))) else {
            return;
        };
        let arrival = Arrival { stamp: received.stamp, empty: self.empty };
        let origin = Origin { source: address, hops: received.hops, class: received.class };
        let Some(accepted) = shared.with(|engine, now| engine.check(packet, origin, arrival, now)) else { return };
        let answered = shared.with(|engine, now| engine.answer(&accepted, packet, now));
        match answer(&self.socket, packet, source, received.asked.as_ref(), accepted.class.unwrap_or(0)) {
            Ok(()) => self.ids.sent(answered),
            Err(error) => tracing::debug!(source = %address, %error, "answer mesh packet"),
        }
    }

    fn take_in_stamps(&mut self, shared: &Shared) {
        for _ in 0..SENT_MAX {
            let Some(queued) = next_queued(&self.socket) else { return };
            if let Queued::Left { id, stamp } = queued
                && let Some(answered) = self.ids.of(id)
            {
                shared.with(|engine, _| engine.on_answer_left(&answered, stamp));
            }
        }
    }
}

/// Sends the answer back, from the address that was asked, by whatever way the routes say, as a packet of the traffic class given.
fn answer(
    socket: &UdpSocket,
    packet: &[u8],
    to: &SockaddrStorage,
    asked: Option<&ControlMessageOwned>,
    class: u8,
) -> io::Result<()> {
    let (descriptor, octets, to) = (socket.as_raw_fd(), [IoSlice::new(packet)], Some(to));
    let send = |control: &[ControlMessage<'_>]| sendmsg(descriptor, &octets, control, MsgFlags::MSG_DONTWAIT, to);
    match asked {
        Some(ControlMessageOwned::Ipv4PacketInfo(info)) => {
            let mut info = *info;
            info.ipi_ifindex = 0;
            send(&[ControlMessage::Ipv4PacketInfo(&info), ControlMessage::Ipv4Tos(&class)])?
        }
        Some(ControlMessageOwned::Ipv6PacketInfo(info)) => {
            let by_ipv4 =
                to.and_then(SockaddrStorage::as_sockaddr_in6).is_some_and(|source| source.ip().to_ipv4_mapped().is_some());
            let (tos, traffic_class) = (ControlMessage::Ipv4Tos(&class), i32::from(class));
            send(&[ControlMessage::Ipv6PacketInfo(info), if by_ipv4 { tos } else { ControlMessage::Ipv6TClass(&traffic_class) }])?
        }
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
