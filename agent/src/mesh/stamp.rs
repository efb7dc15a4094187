//! STAMP test packets: the base formats of RFC 8762 (with the session identifier of RFC 8972). Pure.
//!
//! | octets | unauthenticated (44) | authenticated (112) |
//! |---|---|---|
//! | sequence number | 0..4 | 0..4 |
//! | timestamp | 4..12 | 16..24 |
//! | error estimate | 12..14 | 24..26 |
//! | session identifier | 14..16 | 26..28 |
//! | receive timestamp (reply) | 16..24 | 32..40 |
//! | sender's sequence number (reply) | 24..28 | 48..52 |
//! | sender's timestamp (reply) | 28..36 | 64..72 |
//! | sender's error estimate (reply) | 36..38 | 72..74 |
//! | sender's hop limit (reply) | 40 | 80 |
//! | HMAC | none | 96..112, over 0..96 |
//!
//! What is not named is zero. Extensions follow: see [`extension`].

pub mod extension;
pub mod follow_up;
mod timestamp;

pub use timestamp::{ErrorEstimate, Format, Timestamp};

/// The hop limit with which our packets begin: the largest, as RFC 5357 (section 4.1.2) has it for the predecessor of STAMP.
pub const HOP_LIMIT: u8 = 255;
/// The length of an HMAC [octets]: HMAC-SHA-256 truncated to 128 bits (RFC 8762, section 4.4).
pub const HMAC_LENGTH: usize = 16;
/// How many octets of an authenticated packet its HMAC covers.
pub const HMAC_COVERS: usize = 96;

/// Whether packets carry an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No HMAC.
    Unauthenticated,
    /// The base packet and its extensions carry one HMAC each.
    Authenticated,
}

impl Mode {
    /// The length of the base packet [octets]; anything shorter is no STAMP packet of this mode.
    pub const fn base_length(self) -> usize {
        match self {
            Mode::Unauthenticated => 44,
            Mode::Authenticated => 112,
        }
    }

    fn at(self) -> &'static Offsets {
        match self {
            Mode::Unauthenticated => &Offsets {
                timestamp: 4,
                error: 12,
                session: 14,
                received: 16,
                sender_sequence: 24,
                sender_timestamp: 28,
                sender_error: 36,
                sender_hops: 40,
            },
            Mode::Authenticated => &Offsets {
                timestamp: 16,
                error: 24,
                session: 26,
                received: 32,
                sender_sequence: 48,
                sender_timestamp: 64,
                sender_error: 72,
                sender_hops: 80,
            },
        }
    }
}

struct Offsets {
    timestamp: usize,
    error: usize,
    session: usize,
    received: usize,
    sender_sequence: usize,
    sender_timestamp: usize,
    sender_error: usize,
    sender_hops: usize,
}

/// A packet that is shorter than the base packet of its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shorter than a base packet")]
pub struct TooShort;

/// What a Session-Sender says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The number of the packet in its session.
    pub sequence: u32,
    /// When it was sent (t1), on the sender's wall clock.
    pub timestamp: Timestamp,
    /// How far that clock may be off.
    pub error: ErrorEstimate,
    /// The session identifier; zero if there is none.
    pub session: u16,
}

impl Request {
    /// Writes the base packet, all but its HMAC; `packet` is at least as long as the base packet.
    pub fn encode(&self, mode: Mode, packet: &mut [u8]) {
        let at = mode.at();
        packet[..mode.base_length()].fill(0);
        put(packet, 0, self.sequence.to_be_bytes());
        put(packet, at.timestamp, self.timestamp.0.to_be_bytes());
        put(packet, at.error, self.error.encode());
        put(packet, at.session, self.session.to_be_bytes());
    }

    /// Reads a base packet.
    ///
    /// # Errors
    /// If the packet is too short.
    pub fn decode(mode: Mode, packet: &[u8]) -> Result<Request, TooShort> {
        let at = mode.at();
        if packet.len() < mode.base_length() {
            return Err(TooShort);
        }
        Ok(Request {
            sequence: u32::from_be_bytes(take(packet, 0)),
            timestamp: Timestamp(u64::from_be_bytes(take(packet, at.timestamp))),
            error: ErrorEstimate::decode(take(packet, at.error)),
            session: u16::from_be_bytes(take(packet, at.session)),
        })
    }
}

/// What a Session-Reflector answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// A stateful reflector's own number of the packet, a stateless one's copy of the sender's.
    pub sequence: u32,
    /// When it was sent (t3), on the reflector's wall clock.
    pub timestamp: Timestamp,
    /// How far that clock may be off.
    pub error: ErrorEstimate,
    /// The session identifier, copied.
    pub session: u16,
    /// When the request arrived (t2), on the reflector's wall clock.
    pub received: Timestamp,
    /// The request's number.
    pub sender_sequence: u32,
    /// The request's stamp, copied.
    pub sender_timestamp: Timestamp,
    /// The request's error estimate, copied.
    pub sender_error: ErrorEstimate,
    /// The hop limit with which the request arrived; zero if the reflector does not know it.
    pub sender_hops: u8,
}

impl Reply {
    /// Writes the base packet, all but its HMAC; `packet` is at least as long as the base packet.
    pub fn encode(&self, mode: Mode, packet: &mut [u8]) {
        let at = mode.at();
        Request { sequence: self.sequence, timestamp: self.timestamp, error: self.error, session: self.session }
            .encode(mode, packet);
        put(packet, at.received, self.received.0.to_be_bytes());
        put(packet, at.sender_sequence, self.sender_sequence.to_be_bytes());
        put(packet, at.sender_timestamp, self.sender_timestamp.0.to_be_bytes());
        put(packet, at.sender_error, self.sender_error.encode());
        packet[at.sender_hops] = self.sender_hops;
    }

    /// How long the reflector kept the packet, by its own wall clock [ns]; `None` if its stamps are none.
    pub fn dwell_ns(&self) -> Option<i64> {
        self.timestamp.since_ns(self.received, self.error.format)
    }

    /// Reads a base packet.
    ///
    /// # Errors
    /// If the packet is too short.
    pub fn decode(mode: Mode, packet: &[u8]) -> Result<Reply, TooShort> {
        let at = mode.at();
        let Request { sequence, timestamp, error, session } = Request::decode(mode, packet)?;
        Ok(Reply {
            sequence,
            timestamp,
            error,
            session,
            received: Timestamp(u64::from_be_bytes(take(packet, at.received))),
            sender_sequence: u32::from_be_bytes(take(packet, at.sender_sequence)),
            sender_timestamp: Timestamp(u64::from_be_bytes(take(packet, at.sender_timestamp))),
            sender_error: ErrorEstimate::decode(take(packet, at.sender_error)),
            sender_hops: packet[at.sender_hops],
        })
    }
}

/// Writes a field.
pub fn put<const N: usize>(packet: &mut [u8], at: usize, field: [u8; N]) {
    packet[at..at + N].copy_from_slice(&field);
}

/// Reads a field; the caller has checked the length.
pub fn take<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&packet[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn modes() -> impl Strategy<Value = Mode> {
        prop_oneof![Just(Mode::Unauthenticated), Just(Mode::Authenticated)]
    }

    fn error() -> impl Strategy<Value = ErrorEstimate> {
        (any::<bool>(), formats(), 0_u8..64, any::<u8>()).prop_map(|(synchronized, format, scale, multiplier)| ErrorEstimate {
            synchronized,
            format,
            scale,
            multiplier,
        })
    }

    fn formats() -> impl Strategy<Value = Format> {
        prop_oneof![Just(Format::Ntp), Just(Format::Ptp)]
    }

    proptest! {
        /// A packet survives being written and read, in both modes.
        #[test]
        fn round_trip(mode in modes(), numbers: (u32, u32, u16, u8), stamps: (u64, u64, u64), a in error(), b in error()) {
            let reply = Reply {
                sequence: numbers.0, timestamp: Timestamp(stamps.0), error: a, session: numbers.2, received: Timestamp(stamps.1),
                sender_sequence: numbers.1, sender_timestamp: Timestamp(stamps.2), sender_error: b, sender_hops: numbers.3,
            };
            let mut packet = vec![0xAA; mode.base_length()];
            reply.encode(mode, &mut packet);
            prop_assert_eq!(Reply::decode(mode, &packet), Ok(reply));
            let request = Request { sequence: numbers.0, timestamp: Timestamp(stamps.0), error: a, session: numbers.2 };
            request.encode(mode, &mut packet);
            prop_assert_eq!(Request::decode(mode, &packet), Ok(request));
            prop_assert_eq!(Request::decode(mode, &packet[..mode.base_length() - 1]), Err(TooShort));
        }
    }

    /// The fields lie where RFC 8762 draws them.
    #[test]
    fn layout_of_the_standard() {
        let request = Request {
            sequence: 0x0102_0304,
            timestamp: Timestamp(0x1112_1314_1516_1718),
            error: ErrorEstimate::UNKNOWN,
            session: 7,
        };
        let mut packet = [0xFF; 112];
        request.encode(Mode::Unauthenticated, &mut packet);
        assert_eq!(packet[..16], [1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x3F, 1, 0, 7]);
        assert!(packet[16..44].iter().all(|octet| *octet == 0) && packet[44] == 0xFF);
        request.encode(Mode::Authenticated, &mut packet);
        assert_eq!(packet[..4], [1, 2, 3, 4]);
        assert_eq!(packet[16..28], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x3F, 1, 0, 7]);
        let ptp = ErrorEstimate { synchronized: true, ..ErrorEstimate::UNKNOWN }.with(Format::Ptp);
        Request { error: ptp, ..request }.encode(Mode::Unauthenticated, &mut packet);
        assert_eq!(packet[12..14], [0xFF, 1]);
    }
}
