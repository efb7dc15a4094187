//! Extensions of STAMP packets: the TLVs of RFC 8972, walked and marked in place. Pure.
//!
//! A TLV is flags (1 octet), type (1), length of the value (2), value. The sender sets U; the reflector clears it on what it
//! understood. The HMAC TLV covers the base packet's sequence number and all TLVs before it; only padding may follow it.

use super::{HMAC_LENGTH, put, take};
use crate::mesh::keys::{KeyIndex, MeshKeys};

/// Flag: the reflector did not understand the TLV. The sender sets it.
pub const UNRECOGNIZED: u8 = 0x80;
/// Flag: the TLV's length makes no sense.
pub const MALFORMED: u8 = 0x40;
/// Flag: the HMAC TLV did not verify.
pub const INTEGRITY: u8 = 0x20;

/// Extra Padding.
pub const TYPE_PADDING: u8 = 1;
/// HMAC.
pub const TYPE_HMAC: u8 = 8;
/// lagmesh's own TLVs, from the range for private use (252 to 254).
pub const TYPE_LAGMESH: u8 = 252;

/// Flags, type and length [octets].
pub const HEADER_LENGTH: usize = 4;
/// A whole HMAC TLV [octets].
pub const HMAC_TLV_LENGTH: usize = HEADER_LENGTH + HMAC_LENGTH;

/// Where one TLV lies in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where its flags lie.
    pub at: usize,
    /// Its flags.
    pub flags: u8,
    /// Its type.
    pub kind: u8,
    /// The length of its value [octets].
    pub length: usize,
    /// Whether the value would reach beyond the packet; then it is the last frame.
    pub malformed: bool,
}

impl Frame {
    /// Where the value begins.
    pub fn value_at(&self) -> usize {
        self.at + HEADER_LENGTH
    }

    /// Where the next TLV begins.
    pub fn end(&self) -> usize {
        self.value_at() + self.length
    }

    /// The value, if it lies within the packet.
    pub fn value<'p>(&self, packet: &'p [u8]) -> Option<&'p [u8]> {
        if self.malformed { None } else { packet.get(self.value_at()..self.end()) }
    }

    /// The value for writing, if it lies within the packet.
    pub fn value_mut<'p>(&self, packet: &'p mut [u8]) -> Option<&'p mut [u8]> {
        if self.malformed { None } else { packet.get_mut(self.value_at()..self.end()) }
    }
}

/// The TLVs of a packet from `base` on. A rest shorter than a header is no TLV and is left alone.
pub fn frames(packet: &[u8], base: usize) -> Frames<'_> {
    Frames { packet, at: base }
}

/// Walks over TLVs; a malformed one ends the walk.
#[derive(Debug)]
pub struct Frames<'p> {
    packet: &'p [u8],
    at: usize,
}

impl Frames<'_> {
    /// The next TLV, with the borrow of the packet given up: for those who write while they walk.
    pub fn after(packet: &[u8], at: usize) -> Option<Frame> {
        Frames { packet, at }.next()
    }
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let at = self.at;
        let header = self.packet.get(at..at + HEADER_LENGTH)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let malformed = self.packet.len() < at + HEADER_LENGTH + length;
        self.at = if malformed { self.packet.len() } else { at + HEADER_LENGTH + length };
        Some(Frame { at, flags: header[0], kind: header[1], length, malformed })
    }
}

/// Writes a TLV's header as a sender does; returns where its value begins.
pub fn put_header(packet: &mut [u8], at: usize, kind: u8, length: u16) -> usize {
    packet[at] = UNRECOGNIZED;
    packet[at + 1] = kind;
    put(packet, at + 2, length.to_be_bytes());
    at + HEADER_LENGTH
}

/// What the HMAC TLV says about the TLVs before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// There is no HMAC TLV.
    Absent,
    /// It verifies.
    Good,
    /// It does not, or it is not where it must be.
    Bad,
}

/// Checks the HMAC TLV of a packet whose TLVs begin at `base`.
pub fn verify(packet: &[u8], base: usize, keys: &MeshKeys) -> Integrity {
    let mut result = Integrity::Absent;
    for frame in frames(packet, base) {
        match (frame.kind, result) {
            (TYPE_HMAC, Integrity::Absent) => result = verify_frame(packet, base, frame, keys),
            (TYPE_PADDING, _) | (_, Integrity::Absent) => {}
            _ => return Integrity::Bad,
        }
    }
    result
}

fn verify_frame(packet: &[u8], base: usize, frame: Frame, keys: &MeshKeys) -> Integrity {
    let Some(tag) = frame.value(packet).filter(|value| value.len() == HMAC_LENGTH) else { return Integrity::Bad };
    let good = keys.verify(&[&packet[..4], &packet[base..frame.at]], tag).is_some();
    if good { Integrity::Good } else { Integrity::Bad }
}

/// Writes the HMAC of the HMAC TLV at `at`, over the sequence number and the TLVs from `base` to it.
pub fn seal(packet: &mut [u8], base: usize, at: usize, keys: &MeshKeys, key: KeyIndex) {
    let tag = keys.sign(key, &[&packet[..4], &packet[base..at]]);
    put(packet, at + HEADER_LENGTH, tag);
}

/// The HMAC of the base packet: true if one of the keys made it; `packet` is at least an authenticated base packet long.
pub fn verify_base(packet: &[u8], keys: &MeshKeys) -> Option<KeyIndex> {
    let tag: [u8; HMAC_LENGTH] = take(packet, super::HMAC_COVERS);
    keys.verify(&[&packet[..super::HMAC_COVERS]], &tag)
}

/// Writes the HMAC of the base packet.
pub fn seal_base(packet: &mut [u8], keys: &MeshKeys, key: KeyIndex) {
    let tag = keys.sign(key, &[&packet[..super::HMAC_COVERS]]);
    put(packet, super::HMAC_COVERS, tag);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(secret: &[u8]) -> MeshKeys {
        MeshKeys::of(&[secret]).unwrap()
    }

    fn packet_of(kinds: &[(u8, usize)]) -> Vec<u8> {
        let mut packet = vec![9; 44];
        for (kind, length) in kinds {
            let at = packet.len();
            packet.resize(at + HEADER_LENGTH + length, 5);
            put_header(&mut packet, at, *kind, u16::try_from(*length).unwrap());
        }
        packet
    }

    proptest! {
        /// Whatever the octets, frames lie within the packet, do not overlap, and the walk ends.
        #[test]
        fn frames_stay_inside(packet in proptest::collection::vec(any::<u8>(), 44..300)) {
            let mut end = 44;
            for frame in frames(&packet, 44) {
                prop_assert_eq!(frame.at, end);
                prop_assert!(frame.malformed || frame.end() <= packet.len());
                prop_assert_eq!(frame.value(&packet).is_none(), frame.malformed);
                end = frame.end();
            }
        }
    }

    /// The HMAC TLV vouches for the sequence number and what stands before it, and for nothing else.
    #[test]
    fn integrity() {
        let right = keys(b"0123456789abcdef");
        let sealed = |kinds: &[(u8, usize)]| {
            let mut packet = packet_of(kinds);
            let hmac = frames(&packet, 44).find(|frame| frame.kind == TYPE_HMAC).unwrap();
            seal(&mut packet, 44, hmac.at, &right, KeyIndex::FIRST);
            packet
        };
        let good = sealed(&[(TYPE_LAGMESH, 12), (TYPE_HMAC, 16)]);
        assert_eq!(verify(&good, 44, &right), Integrity::Good);
        assert_eq!(verify(&good, 44, &keys(b"another key that is long")), Integrity::Bad);
        for changed in [0, 44 + 5, good.len() - 1] {
            let mut bad = good.clone();
            bad[changed] ^= 1;
            assert_eq!(verify(&bad, 44, &right), Integrity::Bad, "octet {changed}");
        }
        assert_eq!(verify(&sealed(&[(TYPE_HMAC, 16), (TYPE_PADDING, 8)]), 44, &right), Integrity::Good);
        assert_eq!(verify(&sealed(&[(TYPE_HMAC, 16), (TYPE_LAGMESH, 8)]), 44, &right), Integrity::Bad);
        assert_eq!(verify(&packet_of(&[(TYPE_LAGMESH, 8)]), 44, &right), Integrity::Absent);
        assert_eq!(verify(&packet_of(&[(TYPE_HMAC, 15)]), 44, &right), Integrity::Bad);
    }
}
