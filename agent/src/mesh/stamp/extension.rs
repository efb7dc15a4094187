//! Extensions of STAMP packets: the TLVs of RFC 8972, walked and marked in place. Pure.
//!
//! A TLV is flags (1 octet), type (1), length of the value (2), value. The sender sets U; the reflector clears it on what it
//! understood. The HMAC TLV covers the base packet's sequence number and all TLVs before it; only padding may follow it.

use super::{HMAC_LENGTH, Mode, put, take};
use crate::mesh::keys::{KeyIndex, MeshKeys};

/// Flag: the reflector did not understand the TLV. The sender sets it.
pub const UNRECOGNIZED: u8 = 0x80;
/// Flag: the TLV's length makes no sense.
pub const MALFORMED: u8 = 0x40;
/// Flag: the HMAC TLV did not verify.
pub const INTEGRITY: u8 = 0x20;

/// Extra Padding.
pub const TYPE_PADDING: u8 = 1;
/// Timestamp Information: what made the reflector's stamps.
pub const TYPE_TIMESTAMP_INFORMATION: u8 = 3;
/// Class of Service: the DSCP that arrived, and the one wanted for the answer.
pub const TYPE_CLASS_OF_SERVICE: u8 = 4;
/// Direct Measurement: how many packets of the session were sent, received and answered.
pub const TYPE_DIRECT_MEASUREMENT: u8 = 5;
/// Follow-Up Telemetry: when the previous answer of the session was sent.
pub const TYPE_FOLLOW_UP: u8 = 7;
/// HMAC.
pub const TYPE_HMAC: u8 = 8;
/// lagmesh's own TLVs, from the range for experiments (240 to 251): those for private use (252 to 254) begin with an enterprise number
/// of IANA, which lagmesh does not have.
pub const TYPE_LAGMESH: u8 = 251;

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
    /// Whether it is of a type that the standard gives another length: then it is malformed, but what follows can be found.
    pub fn has_wrong_length(&self) -> bool {
        let right = match self.kind {
            TYPE_TIMESTAMP_INFORMATION | TYPE_CLASS_OF_SERVICE => 4,
            TYPE_DIRECT_MEASUREMENT => 12,
            TYPE_FOLLOW_UP | TYPE_HMAC => 16,
            _ => return false,
        };
        self.length != right
    }

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

/// The TLVs of an answer for which the reflector vouches: what it did not understand is left out, what follows a malformed one too, and
/// all of them if their integrity failed.
pub fn vouched(packet: &[u8], base: usize) -> impl Iterator<Item = Frame> {
    let failed = frames(packet, base).any(|frame| frame.flags & INTEGRITY != 0);
    frames(packet, base)
        .take_while(move |frame| !failed && !frame.malformed && frame.flags & MALFORMED == 0)
        .filter(|frame| frame.flags & UNRECOGNIZED == 0)
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

/// Checks the HMAC TLV of a packet. An authenticated one must have it if it has any TLV beside one of padding.
pub fn verify(packet: &[u8], mode: Mode, keys: &MeshKeys) -> Integrity {
    let (mut result, mut paddings, mut others) = (Integrity::Absent, 0, 0);
    for frame in frames(packet, mode.base_length()) {
        match (frame.kind, result) {
            (TYPE_HMAC, Integrity::Absent) => result = verify_frame(packet, mode.base_length(), frame, keys),
            (TYPE_PADDING, _) => paddings += 1,
            (_, Integrity::Absent) => others += 1,
            _ => return Integrity::Bad,
        }
    }
    let must_be_there = mode == Mode::Authenticated && (others > 0 || paddings > 1);
    if result == Integrity::Absent && must_be_there { Integrity::Bad } else { result }
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

    const OPEN: Mode = Mode::Unauthenticated;

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
        assert_eq!(verify(&good, OPEN, &right), Integrity::Good);
        assert_eq!(verify(&good, OPEN, &keys(b"another key that is long")), Integrity::Bad);
        for changed in [0, 44 + 5, good.len() - 1] {
            let mut bad = good.clone();
            bad[changed] ^= 1;
            assert_eq!(verify(&bad, OPEN, &right), Integrity::Bad, "octet {changed}");
        }
        assert_eq!(verify(&sealed(&[(TYPE_HMAC, 16), (TYPE_PADDING, 8)]), OPEN, &right), Integrity::Good);
        assert_eq!(verify(&sealed(&[(TYPE_HMAC, 16), (TYPE_LAGMESH, 8)]), OPEN, &right), Integrity::Bad);
        assert_eq!(verify(&packet_of(&[(TYPE_LAGMESH, 8)]), OPEN, &right), Integrity::Absent);
        assert_eq!(verify(&packet_of(&[(TYPE_HMAC, 15)]), OPEN, &right), Integrity::Bad);
    }

    /// In authenticated mode TLVs without an HMAC TLV are as good as forged; one of padding alone may do without.
    #[test]
    fn authenticated_tlvs_need_their_hmac() {
        let right = keys(b"0123456789abcdef");
        let verified = |kinds: &[(u8, usize)]| {
            let mut packet = vec![0; 68];
            packet.extend(packet_of(kinds));
            verify(&packet, Mode::Authenticated, &right)
        };
        assert_eq!(verified(&[]), Integrity::Absent);
        assert_eq!(verified(&[(TYPE_PADDING, 9)]), Integrity::Absent);
        assert_eq!(verified(&[(TYPE_PADDING, 9), (TYPE_PADDING, 9)]), Integrity::Bad);
        assert_eq!(verified(&[(TYPE_LAGMESH, 9)]), Integrity::Bad);
    }

    /// A sender believes no TLV that the reflector did not understand, none behind a malformed one, and none at all if one failed.
    #[test]
    fn what_the_reflector_vouches_for() {
        let kinds = |flags: [u8; 4]| {
            let mut packet = packet_of(&[(1, 4), (3, 4), (5, 12), (251, 3)]);
            let at: Vec<usize> = frames(&packet, 44).map(|frame| frame.at).collect();
            at.iter().zip(flags).for_each(|(at, flags)| packet[*at] = flags);
            vouched(&packet, 44).map(|frame| frame.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds([0; 4]), [1, 3, 5, 251]);
        assert_eq!(kinds([0, UNRECOGNIZED, 0, 0]), [1, 5, 251]);
        assert_eq!(kinds([0, 0, MALFORMED, 0]), [1, 3]);
        assert_eq!(kinds([0, 0, 0, INTEGRITY]), [] as [u8; 0]);
    }
}
