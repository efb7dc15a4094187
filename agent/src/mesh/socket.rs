//! What the kernel hands over at a mesh socket: packets, stamps, errors. It decides nothing.
//!
//! Descriptors are read directly, not through the runtime's readiness: after a moment in which this thread did not run the runtime does
//! not know yet what waits.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use lagmesh_model::time::WallNanos;
use nix::libc::{EMSGSIZE, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_TIMESTAMPING, sock_extended_err};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, TimestampingFlag, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use socket2::Socket;

use crate::mesh::stamp::HOP_LIMIT;

/// Room for the control messages of one packet [octets].
const CONTROL_LENGTH: usize = 256;
/// How many queued errors and stamps of a socket are read at once.
const QUEUED_AT_ONCE: usize = 16;

/// A packet that came in.
#[derive(Debug)]
pub struct Received {
    /// How long it is [octets].
    pub length: usize,
    /// From where.
    pub source: Option<SockaddrStorage>,
    /// To which of our addresses, if the socket was told to say so.
    pub asked: Option<ControlMessageOwned>,
    /// The kernel's stamp of its arrival.
    pub stamp: Option<WallNanos>,
    /// The hop limit with which it arrived, if the socket was told to say so.
    pub hops: Option<u8>,
    /// The traffic class (DSCP and ECN) with which it arrived, if the socket was told to say so.
    pub class: Option<u8>,
}

/// What waits at a socket beside packets.
#[derive(Debug, PartialEq, Eq)]
pub enum Queued {
    /// An error came back.
    Error {
        /// Its number, if the kernel told it.
        number: Option<i32>,
        /// The sequence number of the probe that it quotes, if it quotes that much.
        sequence: Option<u32>,
    },
    /// The hop limit of a packet ran out at a router.
    Expired {
        /// Which one.
        from: IpAddr,
    },
    /// A packet was longer than the path can carry, said our own host or a router.
    TooLong,
    /// A packet left.
    Left {
        /// Which one, by the kernel's count of this socket.
        id: u32,
        /// The kernel's stamp of that.
        stamp: WallNanos,
    },
    /// A stamp without a time, or a router without a name.
    Unclear,
}

/// Has the kernel stamp what comes in. Where it does not, stamps are missing, and user space makes its own.
pub fn stamp_arrivals(socket: &impl AsFd) {
    ask(socket, TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE);
}

/// Has the kernel stamp what comes in and what goes out, the latter numbered and without the packet.
pub fn stamp_both_ways(socket: &impl AsFd) {
    let out = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
    ask(socket, TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | out);
}

fn ask(socket: &impl AsFd, flags: TimestampingFlag) {
    let flags = flags | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    if let Err(error) = setsockopt(socket, sockopt::Timestamping, &flags) {
        tracing::warn!(%error, "no stamps of the kernel for mesh packets: round trips include the time until this process runs");
    }
}

/// Has packets leave with the largest hop limit, so that whoever receives them knows how many routers they have passed.
///
/// # Errors
/// If the socket is not of the families named.
pub fn begin_at_largest_hop_limit(socket: &Socket, v4: bool, v6: bool) -> io::Result<()> {
    if v4 {
        socket.set_ttl_v4(HOP_LIMIT.into())?;
    }
    if v6 {
        socket.set_unicast_hops_v6(HOP_LIMIT.into())?;
    }
    Ok(())
}

/// Takes the next packet.
///
/// # Errors
/// `WouldBlock` if there is none, or what the kernel says.
pub fn receive(socket: &impl AsRawFd, packet: &mut [u8]) -> io::Result<Received> {
    let mut control = [0; CONTROL_LENGTH];
    let mut room = [IoSliceMut::new(packet)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut room, Some(&mut control[..]), MsgFlags::MSG_DONTWAIT)?;
    let mut received =
        Received { length: message.bytes, source: message.address, asked: None, stamp: None, hops: None, class: None };
    for control in message.cmsgs().into_iter().flatten() {
        match control {
            ControlMessageOwned::ScmTimestampsns(stamps) => received.stamp = wall(stamps.system),
            ControlMessageOwned::Ipv4PacketInfo(_) | ControlMessageOwned::Ipv6PacketInfo(_) => received.asked = Some(control),
            ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) => {
                received.hops = u8::try_from(hops).ok();
            }
            ControlMessageOwned::Ipv4Tos(class) => received.class = Some(class),
            ControlMessageOwned::Ipv6TClass(class) => received.class = u8::try_from(class).ok(),
            _ => {}
        }
    }
    Ok(received)
}

/// Empties a socket's queue of errors and transmit stamps, up to a bound.
pub fn queued(socket: &impl AsRawFd) -> Vec<Queued> {
    (0..QUEUED_AT_ONCE).map_while(|_| next_queued(socket)).collect()
}

/// Takes the next of them, if there is one.
pub fn next_queued(socket: &impl AsRawFd) -> Option<Queued> {
    let (mut control, mut quoted) = ([0; CONTROL_LENGTH], [0; 4]);
    let mut room = [IoSliceMut::new(&mut quoted)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut room, Some(&mut control[..]), flags).ok()?;
    let whole = message.bytes == 4;
    let (mut error, mut stamp, mut offender) = (None, None, None);
    for control in message.cmsgs().into_iter().flatten() {
        match control {
            ControlMessageOwned::ScmTimestampsns(stamps) => stamp = wall(stamps.system),
            ControlMessageOwned::Ipv4RecvErr(told, from) => {
                error = Some(told);
                offender = from.map(|from| IpAddr::from(SockaddrIn::from(from).ip()));
            }
            ControlMessageOwned::Ipv6RecvErr(told, from) => {
                error = Some(told);
                offender = from.map(|from| IpAddr::from(SockaddrIn6::from(from).ip()).to_canonical());
            }
            _ => {}
        }
    }
    Some(match error {
        Some(told) if told.ee_origin == SO_EE_ORIGIN_TIMESTAMPING => {
            stamp.map_or(Queued::Unclear, |stamp| Queued::Left { id: told.ee_data, stamp })
        }
        Some(told) if told.ee_errno.cast_signed() == EMSGSIZE => Queued::TooLong,
        Some(told) if has_expired(&told) => offender.map_or(Queued::Unclear, |from| Queued::Expired { from }),
        told => Queued::Error {
            number: told.and_then(|told| i32::try_from(told.ee_errno).ok()),
            sequence: whole.then(|| u32::from_be_bytes(quoted)),
        },
    })
}

/// ICMP type 11 (RFC 792), `ICMPv6` type 3 (RFC 4443): time exceeded.
fn has_expired(told: &sock_extended_err) -> bool {
    matches!((told.ee_origin, told.ee_type), (SO_EE_ORIGIN_ICMP, 11) | (SO_EE_ORIGIN_ICMP6, 3))
}

/// Sends a packet with a hop limit of its own on a connected socket.
///
/// # Errors
/// What the kernel says.
pub fn send_with_hop_limit(socket: &impl AsRawFd, packet: &[u8], peer: IpAddr, hop_limit: u8) -> io::Result<()> {
    let (octets, limit) = ([IoSlice::new(packet)], i32::from(hop_limit));
    let control = if peer.is_ipv4() { ControlMessage::Ipv4Ttl(&limit) } else { ControlMessage::Ipv6HopLimit(&limit) };
    sendmsg::<()>(socket.as_raw_fd(), &octets, &[control], MsgFlags::MSG_DONTWAIT, None)?;
    Ok(())
}

/// Lets no packet of a socket be fragmented, and has the kernel try even what was once said to be too long: whether it passes now is
/// the question.
///
/// # Errors
/// What the kernel says.
pub fn never_fragment(socket: &impl AsFd, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?;
    } else {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?;
    }
    Ok(())
}

/// A stamp; all zeros mean that there is none.
fn wall(stamp: TimeSpec) -> Option<WallNanos> {
    let (seconds, rest) = (u64::try_from(stamp.tv_sec()).ok()?, u64::try_from(stamp.tv_nsec()).ok()?);
    let ns = seconds.checked_mul(1_000_000_000)?.checked_add(rest)?;
    (ns > 0).then_some(WallNanos(ns))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use lagmesh_daemon::Clock;

    use super::*;

    const PACKETS: u32 = 20;

    /// Over IPv4 and IPv6 the kernel stamps both ends of a packet's way, numbered by socket, between the moments of asking and knowing.
    #[test]
    fn both_ends_are_stamped() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(to) = UdpSocket::bind(address) else { continue };
            let from = UdpSocket::bind(address).unwrap();
            from.connect(to.local_addr().unwrap()).unwrap();
            stamp_arrivals(&to);
            stamp_both_ways(&from);
            let clock = Clock::new();
            // The kernel begins to stamp arrivals a moment after it was asked to; what came before is stamped when it is read.
            let mut in_time = 0;
            for expected in 0..PACKETS {
                let asked = clock.bracket();
                from.send(&[7; 44]).unwrap();
                let left = queued(&from);
                let [Queued::Left { id, stamp: sent }] = left[..] else { panic!("{address}: {left:?}") };
                assert_eq!(id, expected);
                std::thread::sleep(Duration::from_millis(3));
                let received = receive(&to, &mut [0; 100]).unwrap();
                let came = received.stamp.expect("stamped");
                assert_eq!(received.length, 44);
                assert!(asked.wall <= sent && sent <= came, "{asked:?} {sent:?} {came:?}");
                in_time += u32::from(clock.now().wall.0 - came.0 > 2_000_000);
            }
            assert!(in_time > 0, "{address}: stamped when they came, not when they were read");
            assert!(receive(&to, &mut [0; 100]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        }
    }

    /// A refusal quotes the packet that it is about and is told apart from a stamp.
    #[test]
    fn errors_are_told_from_stamps() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&from, sockopt::Ipv4RecvErr, &true).unwrap();
        stamp_both_ways(&from);
        from.connect(closed).unwrap();
        from.send(&[&0x0102_0304_u32.to_be_bytes()[..], &[0; 40]].concat()).unwrap();
        let found = queued(&from);
        let refused = Queued::Error { number: Some(nix::errno::Errno::ECONNREFUSED as i32), sequence: Some(0x0102_0304) };
        assert!(found.contains(&refused) && found.iter().any(|one| matches!(one, Queued::Left { id: 0, .. })), "{found:?}");
    }
}
