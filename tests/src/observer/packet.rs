//! From packets between the writer of beats and its server: when each beat's commit returned. Pure.

use std::collections::HashMap;

use super::session::next_message;
use super::truth::{BeatId, Stream};

/// How many connections can have a beat under way at a time.
const CONNECTIONS_MAX: usize = 256;

/// The end of what the server sends for one request: ready for the next, outside a transaction.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// One row was written.
const WRITTEN: [&[u8]; 2] = [b"UPDATE 1\0", b"INSERT 0 1\0"];

/// A TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment<'p> {
    pub(super) from_port: u16,
    pub(super) to_port: u16,
    pub(super) payload: &'p [u8],
}

/// Reads an IP packet; `None` if it is no whole TCP segment.
pub(super) fn segment(packet: &[u8]) -> Option<Segment<'_>> {
    let word = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (header, total, protocol) = match packet.first()? >> 4 {
        4 => (usize::from(packet[0] & 15) * 4, usize::from(word(packet, 2)?), *packet.get(9)?),
        6 => (40, usize::from(word(packet, 4)?) + 40, *packet.get(6)?),
        _ => return None,
    };
    if protocol != 6 {
        return None;
    }
    // A packet longer than was captured is cut; one shorter than captured was padded.
    let tcp = packet.get(header..total.min(packet.len()))?;
    let offset = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment { from_port: word(tcp, 0)?, to_port: word(tcp, 2)?, payload: tcp.get(offset..)? })
}

/// The beat that a client asks the server to write: the parameters of lagmesh's statement are origin, incarnation, stream, slot and
/// sequence, in binary.
pub(super) fn beat_in(payload: &[u8]) -> Option<BeatId> {
    let mut at = 0;
    while let Some((tag, body)) = next_message(payload, at).ok()? {
        at += 5 + body.len();
        if tag == b'B'
            && let Some(beat) = beat_in_bind(body)
        {
            return Some(beat);
        }
    }
    None
}

fn beat_in_bind(body: &[u8]) -> Option<BeatId> {
    let mut rest = body;
    let mut take = |count: usize| -> Option<&[u8]> {
        let (taken, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(taken)
    };
    for _portal_and_statement in 0..2 {
        while take(1)? != [0] {}
    }
    let formats = i16::from_be_bytes(take(2)?.try_into().ok()?);
    take(usize::try_from(formats).ok()? * 2)?;
    if i16::from_be_bytes(take(2)?.try_into().ok()?) < 5 {
        return None;
    }
    let mut parameter = || {
        let length = i32::from_be_bytes(take(4)?.try_into().ok()?);
        take(usize::try_from(length).ok()?)
    };
    let origin = std::str::from_utf8(parameter()?).ok()?.to_owned();
    let incarnation = i64::from_be_bytes(parameter()?.try_into().ok()?);
    let stream = match parameter()? {
        b"beat" => Stream::Beat,
        b"ledger" => Stream::Ledger,
        _ => return None,
    };
    let _slot: [u8; 2] = parameter()?.try_into().ok()?;
    let sequence = i64::from_be_bytes(parameter()?.try_into().ok()?);
    Some(BeatId { origin, incarnation, stream, sequence })
}

/// What a segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// A beat is asked for.
    Asked(BeatId),
    /// A beat's commit returned.
    Returned(BeatId),
}

/// Brings requests and answers together, connection by connection.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    /// By the client's port.
    under_way: HashMap<u16, BeatId>,
}

impl Pairing {
    /// Takes the next segment from or to the server's port. One that is seen twice (loopback shows it going out and coming in) may be
    /// heard as a request twice, as a return only the first time.
    pub(super) fn take(&mut self, segment: &Segment<'_>, server_port: u16) -> Option<Heard> {
        if segment.to_port == server_port {
            let beat = beat_in(segment.payload)?;
            if self.under_way.len() < CONNECTIONS_MAX || self.under_way.contains_key(&segment.from_port) {
                self.under_way.insert(segment.from_port, beat.clone());
            }
            return Some(Heard::Asked(beat));
        }
        let ready = segment.payload.windows(READY.len()).any(|bytes| bytes == READY);
        if segment.from_port != server_port || !ready {
            return None;
        }
        let beat = self.under_way.remove(&segment.to_port)?;
        let written = WRITTEN.iter().any(|tag| segment.payload.windows(tag.len()).any(|bytes| bytes == *tag));
        written.then_some(Heard::Returned(beat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: u16 = 5432;

    fn bind(stream: &str, sequence: i64) -> Vec<u8> {
        let mut body = b"\0\0".to_vec();
        body.extend([0, 1, 0, 1, 0, 5]);
        let (incarnation, sequence) = (77_i64.to_be_bytes(), sequence.to_be_bytes());
        for value in [b"ny-db".as_slice(), &incarnation, stream.as_bytes(), &[0, 1], &sequence] {
            body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
            body.extend(value);
        }
        let mut message = vec![b'B'];
        message.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend(body);
        message
    }

    fn asks(payload: &[u8], port: u16) -> Segment<'_> {
        Segment { from_port: port, to_port: SERVER, payload }
    }

    fn answers(payload: &[u8], port: u16) -> Segment<'_> {
        Segment { from_port: SERVER, to_port: port, payload }
    }

    /// The answer belongs to the beat that was asked for on the same connection, once, whatever happens on others.
    #[test]
    fn answers_find_their_beats() {
        let mut pairing = Pairing::default();
        let written = b"2\0\0\0\x04C\0\0\0\x0dUPDATE 1\0Z\0\0\0\x05I";
        for (port, bytes) in [(1000, bind("beat", 5)), (1001, bind("ledger", 2)), (1000, bind("beat", 5))] {
            assert!(matches!(pairing.take(&asks(&bytes, port), SERVER), Some(Heard::Asked(_))));
        }
        assert_eq!(pairing.take(&answers(b"2\0\0\0\x04", 1000), SERVER), None, "not the end of the answer");
        let wanted = BeatId { origin: "ny-db".to_owned(), incarnation: 77, stream: Stream::Beat, sequence: 5 };
        assert_eq!(pairing.take(&answers(written, 1000), SERVER), Some(Heard::Returned(wanted)));
        assert_eq!(pairing.take(&answers(written, 1000), SERVER), None, "seen a second time");
        let refused = b"E\0\0\0\x06M\0Z\0\0\0\x05I";
        assert_eq!(pairing.take(&answers(refused, 1001), SERVER), None, "an error is no commit");
        assert_eq!(pairing.take(&answers(written, 1001), SERVER), None, "of something else");
    }

    /// Whatever a segment holds, nothing but a beat is taken for one.
    #[test]
    fn other_requests_are_no_beats() {
        let mut message = bind("beat", 5);
        for cut in 0..message.len() {
            assert_eq!(beat_in(&message[..cut]), None, "cut after {cut}");
        }
        message[1] = 255;
        assert_eq!(beat_in(&message), None);
        assert_eq!(beat_in(&bind("other", 5)), None);
    }

    /// Both versions of IP are read, and what is no whole TCP segment is not.
    #[test]
    fn segments_are_read() {
        let tcp = [&[0x15, 0x38, 0x03, 0xe8][..], &[0; 8], &[0x50, 0, 0, 0, 0, 0, 0, 0], b"hi"].concat();
        let mut v4 = vec![0x45, 0, 0, 42, 0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1];
        v4.extend(&tcp);
        let wanted = Some(Segment { from_port: 5432, to_port: 1000, payload: b"hi" });
        assert_eq!(segment(&v4), wanted);
        let mut v6 = vec![0x60, 0, 0, 0, 0, 22, 6, 64];
        v6.extend([0; 32]);
        v6.extend(&tcp);
        assert_eq!(segment(&v6), wanted);
        v4[9] = 17;
        assert_eq!(segment(&v4), None);
        assert_eq!(segment(&v6[..50]), None);
    }
}
