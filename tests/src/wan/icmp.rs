//! What a router on the way answers: "packet too big" and "time exceeded". Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::{Header, ICMP, ICMPV6, checksum};

/// Where the answers come from: an address that no host has.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 254);
/// Where the answers come from: an address that no host has.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 0xFFFF);
/// How much of the packet is quoted [octets]: its headers, and enough of TCP for the sender to know the connection.
const QUOTED: usize = 128;
/// What is left of the hop limit of an answer on its way.
const HOP_LIMIT: u8 = 64;

/// Why a packet did not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// It is longer than the largest that passes [octets].
    TooBig(u16),
    /// It has made too many hops.
    TimeExceeded,
}

/// The answer to the sender of a packet; `None` where routers keep silent: about ICMP errors and about fragments.
pub fn answer(packet: &[u8], complaint: Complaint) -> Option<Vec<u8>> {
    let header = Header::parse(packet)?;
    let kind = packet.get(header.transport).copied();
    let error = match header.protocol {
        ICMP => !matches!(kind, Some(0 | 8)),
        ICMPV6 => !matches!(kind, Some(128..)),
        _ => false,
    };
    if error || header.fragment {
        return None;
    }
    let quoted = &packet[..packet.len().min(QUOTED)];
    match header.from {
        IpAddr::V4(sender) => Some(answer_v4(sender, quoted, complaint)),
        IpAddr::V6(sender) => Some(answer_v6(sender, quoted, complaint)),
    }
}

fn answer_v4(sender: Ipv4Addr, quoted: &[u8], complaint: Complaint) -> Vec<u8> {
    let (kind, code, mtu_bytes) = match complaint {
        Complaint::TooBig(mtu_bytes) => (3, 4, mtu_bytes),
        Complaint::TimeExceeded => (11, 0, 0),
    };
    let message = message([kind, code], u32::from(mtu_bytes), 0, quoted);
    let length = u16::try_from(20 + message.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, HOP_LIMIT, ICMP, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend(ROUTER_V4.octets());
    packet.extend(sender.octets());
    let sum = checksum(0, &packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(message);
    packet
}

fn answer_v6(sender: Ipv6Addr, quoted: &[u8], complaint: Complaint) -> Vec<u8> {
    let (kind, mtu_bytes) = match complaint {
        Complaint::TooBig(mtu_bytes) => (2, mtu_bytes),
        Complaint::TimeExceeded => (3, 0),
    };
    let length = u16::try_from(8 + quoted.len()).unwrap_or(u16::MAX);
    let addresses = [ROUTER_V6.octets(), sender.octets()].concat();
    // The pseudo header: both addresses, the length, the protocol.
    let pseudo = u32::from(!checksum(0, &addresses)) + u32::from(length) + u32::from(ICMPV6);
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, ICMPV6, HOP_LIMIT];
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet.extend(addresses);
    packet.extend(message([kind, 0], u32::from(mtu_bytes), pseudo, quoted));
    packet
}

fn message(kind_and_code: [u8; 2], word: u32, pseudo: u32, quoted: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(8 + quoted.len());
    message.extend(kind_and_code);
    message.extend([0, 0]);
    message.extend(word.to_be_bytes());
    message.extend(quoted);
    let sum = checksum(pseudo, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::tests::udp;
    use super::*;

    /// An answer goes from the router to the sender, quotes the packet, names the largest size, and its checksums hold.
    #[test]
    fn answers_are_well_formed() {
        for v6 in [false, true] {
            let packet = udp(v6, (5000, 862), &[1; 1400]);
            let sent = Header::parse(&packet).unwrap();
            for (complaint, kind) in [(Complaint::TooBig(1300), [3, 2]), (Complaint::TimeExceeded, [11, 3])] {
                let answer = answer(&packet, complaint).unwrap();
                let header = Header::parse(&answer).unwrap();
                assert_eq!(header.to, sent.from);
                assert_eq!(usize::from(header.length_bytes), answer.len());
                let message = &answer[header.transport..];
                assert_eq!(message[0], kind[usize::from(v6)]);
                assert_eq!(message[8..], packet[..QUOTED]);
                if let Complaint::TooBig(_) = complaint {
                    assert_eq!(message[6..8], 1300_u16.to_be_bytes());
                }
                let pseudo = if v6 {
                    u32::from(!checksum(0, &answer[8..40])) + u32::try_from(message.len()).unwrap() + u32::from(ICMPV6)
                } else {
                    assert_eq!(checksum(0, &answer[..20]), 0);
                    0
                };
                assert_eq!(checksum(pseudo, message), 0);
            }
        }
    }

    /// Errors about errors would never end, so there are none.
    #[test]
    fn silent_about_errors() {
        for v6 in [false, true] {
            let error = answer(&udp(v6, (5000, 862), &[1; 1400]), Complaint::TimeExceeded).unwrap();
            assert_eq!(answer(&error, Complaint::TimeExceeded), None);
        }
    }

    proptest! {
        /// Whatever bytes come, nothing panics.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(answer(&bytes, Complaint::TooBig(1300)));
        }
    }
}
