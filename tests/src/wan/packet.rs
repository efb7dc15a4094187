//! IP packets as the router sees them: what stands in their headers, and the hop limit lowered. Pure; any bytes may come.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// The fragment header of IPv6.
const FRAGMENT: u8 = 44;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// How much of a packet the match key covers [octets]: the headers and the beginning of the payload.
pub const KEY_COVERS: usize = 128;

/// What a packet says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who sent it.
    pub from: IpAddr,
    /// Whom it is for.
    pub to: IpAddr,
    /// The transport protocol; for IPv6 the first header that is no fragment header.
    pub protocol: u8,
    /// Source and destination port of UDP and TCP; none for a fragment, since only the first one would have them.
    pub ports: Option<(u16, u16)>,
    /// The whole packet [octets].
    pub length_bytes: u16,
    /// Whether routers may not fragment it; always so for IPv6.
    pub dont_fragment: bool,
    /// Whether it is a piece of a larger packet.
    pub fragment: bool,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Where the transport header begins [octets].
    pub transport: usize,
}

impl Header {
    /// Reads the headers; `None` if this is no whole IP packet.
    pub fn parse(packet: &[u8]) -> Option<Header> {
        match packet.first()? >> 4 {
            4 => parse_v4(packet),
            6 => parse_v6(packet),
            _ => None,
        }
    }

    /// The flow of the packet as routers see it: addresses, protocol and ports (a fragment has none), mixed with a salt.
    pub fn flow(&self, salt: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (salt, self.from, self.to, self.protocol, self.ports).hash(&mut hasher);
        hasher.finish()
    }

    /// What a UDP packet carries; empty for anything else.
    pub fn udp_payload<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        let whole = self.protocol == UDP && self.ports.is_some();
        if whole { packet.get(self.transport + 8..usize::from(self.length_bytes)).unwrap_or_default() } else { &[] }
    }
}

fn parse_v4(packet: &[u8]) -> Option<Header> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let transport = usize::from(header[0] & 0x0F) * 4;
    let length_bytes = u16::from_be_bytes([header[2], header[3]]);
    let whole = packet.get(..usize::from(length_bytes))?;
    if transport < header.len() || whole.len() < transport {
        return None;
    }
    let fragmenting = u16::from_be_bytes([header[6], header[7]]);
    // More to come, or not the first.
    let fragment = fragmenting & 0x3FFF != 0;
    let protocol = header[9];
    Some(Header {
        from: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        to: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        protocol,
        ports: ports(protocol, fragment, &whole[transport..]),
        length_bytes,
        dont_fragment: fragmenting & 0x4000 != 0,
        fragment,
        hop_limit: header[8],
        transport,
    })
}

fn parse_v6(packet: &[u8]) -> Option<Header> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let length_bytes = u16::from_be_bytes([header[4], header[5]]).checked_add(40)?;
    let whole = packet.get(..usize::from(length_bytes))?;
    let fragment = header[6] == FRAGMENT;
    let (protocol, transport) = if fragment { (*whole.get(40)?, 48) } else { (header[6], 40) };
    Some(Header {
        from: Ipv6Addr::from(*header[8..].first_chunk::<16>()?).into(),
        to: Ipv6Addr::from(*header[24..].first_chunk::<16>()?).into(),
        protocol,
        ports: ports(protocol, fragment, whole.get(transport..)?),
        length_bytes,
        dont_fragment: true,
        fragment,
        hop_limit: header[7],
        transport,
    })
}

fn ports(protocol: u8, fragment: bool, transport: &[u8]) -> Option<(u16, u16)> {
    if fragment || !matches!(protocol, UDP | TCP) {
        return None;
    }
    let [a, b, c, d] = *transport.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// By what a packet is known again elsewhere: a hash of its first [`KEY_COVERS`] octets without hop limit and header checksum, which
/// change on the way.
pub fn match_key(packet: &[u8]) -> u64 {
    let mut covered = [0; KEY_COVERS];
    let length = packet.len().min(KEY_COVERS);
    covered[..length].copy_from_slice(&packet[..length]);
    match covered[0] >> 4 {
        4 => (covered[8], covered[10], covered[11]) = (0, 0, 0),
        _ => covered[7] = 0,
    }
    let mut hasher = DefaultHasher::new();
    covered[..length].hash(&mut hasher);
    hasher.finish()
}

/// Lowers the hop limit of a packet that [`Header::parse`] accepts, by at most what it has left.
pub fn lower_hop_limit(packet: &mut [u8], hops: u8) {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            let length = (usize::from(packet[0] & 0x0F) * 4).clamp(20, packet.len());
            packet[8] = packet[8].saturating_sub(hops);
            packet[10..12].fill(0);
            let sum = checksum(0, &packet[..length]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Some(6) if packet.len() >= 40 => packet[7] = packet[7].saturating_sub(hops),
        _ => {}
    }
}

/// The Internet checksum over a sum so far (of a pseudo header) and some octets (RFC 1071).
pub fn checksum(start: u32, octets: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum = octets.chunks(2).map(word).fold(start, u32::wrapping_add);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A UDP packet for tests, with a true header checksum.
    pub(in crate::wan) fn udp(v6: bool, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let udp_length = u16::try_from(8 + payload.len()).unwrap();
        let mut packet = if v6 {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, UDP, 64];
            header[4..6].copy_from_slice(&udp_length.to_be_bytes());
            header.extend(Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 1).octets());
            header.extend(Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 2).octets());
            header
        } else {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 77, 1, 1, 10, 77, 2, 1];
            header[2..4].copy_from_slice(&(20 + udp_length).to_be_bytes());
            let sum = checksum(0, &header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        };
        packet.extend(ports.0.to_be_bytes());
        packet.extend(ports.1.to_be_bytes());
        packet.extend(udp_length.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    /// What was written into a packet is read from it, for both kinds of address.
    #[test]
    fn reads_what_stands_there() {
        for v6 in [false, true] {
            let packet = udp(v6, (5000, 862), b"hello");
            let header = Header::parse(&packet).unwrap();
            assert_eq!(header.ports, Some((5000, 862)));
            assert_eq!((header.protocol, header.hop_limit, header.dont_fragment, header.fragment), (UDP, 64, true, false));
            assert_eq!(usize::from(header.length_bytes), packet.len());
            assert_eq!(header.udp_payload(&packet), b"hello");
            assert_eq!((header.from.is_ipv6(), header.to.is_ipv6()), (v6, v6));
            assert!(Header::parse(&packet[..packet.len() - 1]).is_none(), "cut short");
        }
    }

    /// Flows differ by any part of the 5-tuple and by the salt; fragments of one packet stay together without ports.
    #[test]
    fn flows_and_fragments() {
        let flow = |ports, salt| Header::parse(&udp(false, ports, b"")).unwrap().flow(salt);
        assert_eq!(flow((1, 2), 3), flow((1, 2), 3));
        assert_ne!(flow((1, 2), 3), flow((2, 2), 3));
        assert_ne!(flow((1, 2), 3), flow((1, 2), 4));
        let mut first = udp(false, (1, 2), b"12345678");
        first[6] = 0x20;
        let mut later = udp(false, (7, 8), b"12345678");
        later[6..8].copy_from_slice(&[0, 2]);
        let [first, later] = [first, later].map(|packet| Header::parse(&packet).unwrap());
        assert!(first.fragment && later.fragment && first.ports.is_none());
        assert_eq!(first.flow(0), later.flow(0));
    }

    /// A packet is known again after its hop limit was lowered, and its header checksum holds again; another packet is not taken for it.
    #[test]
    fn hop_limit_and_key() {
        for v6 in [false, true] {
            let packet = udp(v6, (5000, 862), &[7; 44]);
            let mut lowered = packet.clone();
            lower_hop_limit(&mut lowered, 12);
            assert_eq!(Header::parse(&lowered).unwrap().hop_limit, 52);
            assert_eq!(match_key(&packet), match_key(&lowered));
            assert_ne!(match_key(&packet), match_key(&udp(v6, (5000, 862), &[8; 44])));
            if !v6 {
                assert_eq!(checksum(0, &lowered[..20]), 0, "a header sums up to nothing together with its checksum");
            }
        }
    }

    proptest! {
        /// Whatever bytes come, nothing panics, and what is accepted lies within what came.
        #[test]
        fn any_bytes(first in 0_u8..=255, mut bytes in prop::collection::vec(any::<u8>(), 0..200), hops: u8) {
            // Half of the cases begin like IP, so that the parsers behind are reached.
            if let Some(byte) = bytes.first_mut() {
                *byte = if first & 1 == 0 { 0x45 } else { 0x60 };
            }
            if let Some(length) = bytes.get_mut(2..6) {
                length.copy_from_slice(&[0, first, 0, first]);
            }
            if let Some(header) = Header::parse(&bytes) {
                prop_assert!(usize::from(header.length_bytes) <= bytes.len());
                prop_assert!(header.transport <= usize::from(header.length_bytes));
                header.udp_payload(&bytes);
                header.flow(1);
            }
            match_key(&bytes);
            let before = bytes.len();
            lower_hop_limit(&mut bytes, hops);
            prop_assert_eq!(bytes.len(), before);
        }
    }
}
