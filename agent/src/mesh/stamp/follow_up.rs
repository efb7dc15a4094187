//! Follow-Up Telemetry: when the answer of the session before this one really left (RFC 8972, section 4.7). Pure.
//!
//! No packet can carry the stamp of its own leaving, but the next one can. The value of the TLV (16 octets) is the number of that
//! answer (4), its stamp in the format of the request's (8), how that was made (1), zeros (3); all zeros if it is not known.

use super::extension::{Frame, TYPE_FOLLOW_UP};
use super::{Timestamp, put, take};

/// The value of the TLV [octets].
pub const FOLLOW_UP_LENGTH: usize = 16;

/// What made a stamp (the registry of RFC 8972, section 5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The network card.
    Hardware = 1,
    /// The host's kernel.
    Local = 2,
    /// The program, before it gave the packet to the kernel.
    ControlPlane = 3,
}

/// When an answer left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowUp {
    /// Its number in the session.
    pub number: u32,
    /// When.
    pub timestamp: Timestamp,
    /// What says so.
    pub method: Method,
}

impl FollowUp {
    /// Writes the value of the TLV.
    pub fn put(&self, value: &mut [u8]) {
        put(value, 0, self.number.to_be_bytes());
        put(value, 4, self.timestamp.0.to_be_bytes());
        put(value, 12, [self.method as u8, 0, 0, 0]);
    }

    /// Reads the first TLV of this type; `None` if there is none, or it says that nothing is known.
    pub fn find(packet: &[u8], mut frames: impl Iterator<Item = Frame>) -> Option<FollowUp> {
        let frame = frames.find(|frame| frame.kind == TYPE_FOLLOW_UP && !frame.has_wrong_length())?;
        let value = frame.value(packet)?;
        let method = match value[12] {
            1 => Method::Hardware,
            2 => Method::Local,
            3 => Method::ControlPlane,
            _ => return None,
        };
        let timestamp = Timestamp(u64::from_be_bytes(take(value, 4)));
        Some(FollowUp { number: u32::from_be_bytes(take(value, 0)), timestamp, method })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::stamp::extension::{frames, put_header};

    /// What is written is read, wherever the TLV stands; zeros, and a method that nobody knows, say nothing.
    #[test]
    fn follow_ups_are_found() {
        for (method, expected) in
            [(1, Some(Method::Hardware)), (2, Some(Method::Local)), (3, Some(Method::ControlPlane)), (0, None), (4, None)]
        {
            let mut packet = [0; 44 + 8 + 20];
            put_header(&mut packet, 44, 1, 4);
            let at = put_header(&mut packet, 52, TYPE_FOLLOW_UP, 16);
            let known = FollowUp { number: 7, timestamp: Timestamp(1 << 40 | 9), method: Method::Local };
            known.put(&mut packet[at..]);
            packet[at + 12] = method;
            let found = FollowUp::find(&packet, frames(&packet, 44));
            assert_eq!(found, expected.map(|method| FollowUp { method, ..known }));
        }
        assert_eq!(FollowUp::find(&[0; 44], frames(&[0; 44], 44)), None);
    }
}
