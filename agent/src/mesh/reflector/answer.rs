//! How the reflector answers TLVs: in place, so that none grows. Pure.

use lagmesh_daemon::clock::ClockClaim;
use lagmesh_model::time::Reading;

use super::sessions::{Counts, Previous};
use super::{Accepted, Reflector};
use crate::mesh::stamp::extension::{
    Frame, Frames, INTEGRITY, Integrity, MALFORMED, TYPE_CLASS_OF_SERVICE, TYPE_DIRECT_MEASUREMENT, TYPE_FOLLOW_UP, TYPE_HMAC,
    TYPE_LAGMESH, TYPE_PADDING, TYPE_TIMESTAMP_INFORMATION, UNRECOGNIZED, frames,
};
use crate::mesh::stamp::follow_up::FollowUp;
use crate::mesh::stamp::{Mode, Timestamp, put};
use crate::mesh::tlv::{self, Body, ClockBody, Record};

/// Timestamp Information: the clock follows others by the kernel's NTP discipline.
const SYNCHRONIZED_BY_NTP: u8 = 1;
/// Timestamp Information: the clock runs freely.
const SYNCHRONIZED_BY_NOTHING: u8 = 5;
/// Timestamp Information: the stamp is made by software.
const STAMPED_BY_SOFTWARE: u8 = 2;

/// What an answer says beside the request that it answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Telling<'a> {
    pub(super) counts: Option<Counts>,
    pub(super) now: Reading,
    pub(super) records: &'a [Record],
}

/// The traffic class that a request's Class of Service TLV wants for the answer: its DSCP, with the ECN bits at zero.
pub(super) fn wanted_class(packet: &[u8], mode: Mode) -> Option<u8> {
    let is_wish = |frame: &Frame| frame.kind == TYPE_CLASS_OF_SERVICE && !frame.has_wrong_length();
    let wish = frames(packet, mode.base_length()).find(is_wish)?;
    wish.value(packet).map(|value| value[0] & 0xFC)
}

impl Reflector {
    /// Marks and fills the TLVs. One that is malformed ends that: what follows it goes back as it came.
    pub(super) fn answer_tlvs(&self, accepted: &Accepted, packet: &mut [u8], telling: Telling<'_>) {
        let mut at = accepted.mode.base_length();
        while let Some(frame) = Frames::after(packet, at) {
            if accepted.integrity == Integrity::Bad {
                packet[frame.at] = frame.flags | INTEGRITY;
            } else if frame.malformed || frame.has_wrong_length() {
                packet[frame.at] = MALFORMED;
                if let Some(value) = frame.value_mut(packet).filter(|_| frame.kind == TYPE_FOLLOW_UP) {
                    value.fill(0);
                }
                break;
            } else {
                let value = frame.value_mut(packet).unwrap_or_default();
                let understood = self.answer_tlv(accepted, frame.kind, value, telling);
                packet[frame.at] = if understood { 0 } else { UNRECOGNIZED };
            }
            at = frame.end();
        }
    }

    /// Writes the answer into one TLV; false if it is not understood, or what it asks for is not known.
    fn answer_tlv(&self, accepted: &Accepted, kind: u8, value: &mut [u8], telling: Telling<'_>) -> bool {
        match kind {
            TYPE_PADDING => true,
            TYPE_HMAC => self.keys.is_some(),
            TYPE_TIMESTAMP_INFORMATION => self.answer_timestamp_information(value),
            TYPE_CLASS_OF_SERVICE => answer_class_of_service(accepted, value),
            TYPE_DIRECT_MEASUREMENT => telling.counts.is_some_and(|counts| {
                put(value, 4, counts.received.to_be_bytes());
                put(value, 8, counts.answered.wrapping_add(1).to_be_bytes());
                true
            }),
            TYPE_FOLLOW_UP => {
                value.fill(0);
                if let Some(Previous { number, at, method }) = telling.counts.and_then(|counts| counts.previous) {
                    let timestamp = Timestamp::of(at, accepted.request.error.format);
                    FollowUp { number, timestamp, method }.put(value);
                }
                true
            }
            TYPE_LAGMESH => accepted
                .speaker
                .is_some_and(|speaker| self.answer_private(value, accepted, &speaker, telling.now, telling.records)),
            _ => false,
        }
    }

    fn answer_timestamp_information(&self, value: &mut [u8]) -> bool {
        let Some(claim) = self.claim else { return false };
        let source = match claim {
            ClockClaim::Synchronized { .. } => SYNCHRONIZED_BY_NTP,
            ClockClaim::Free => SYNCHRONIZED_BY_NOTHING,
        };
        put(value, 0, [source, STAMPED_BY_SOFTWARE, source, STAMPED_BY_SOFTWARE]);
        true
    }

    fn answer_private(
        &self,
        value: &mut [u8],
        accepted: &Accepted,
        speaker: &ClockBody,
        now: Reading,
        records: &[Record],
    ) -> bool {
        match tlv::read(value) {
            // Both stamps must be of one clock: if its epoch changed while the packet was here, there is no answer to give.
            Body::Clock(_) if accepted.received.epoch == now.epoch => {
                let body =
                    ClockBody { agent: self.own, epoch: now.epoch, t1: speaker.t1, t2: accepted.received.raw, t3: now.raw };
                tlv::put_clock(value, &body);
                true
            }
            Body::Records(_) => {
                tlv::put_records(value, records);
                true
            }
            Body::Clock(_) | Body::Unknown => false,
        }
    }
}

/// DSCP1, wanted (6 bits); DSCP2, arrived (6); ECN, arrived (2); RP, refused (2); zeros (16).
fn answer_class_of_service(accepted: &Accepted, value: &mut [u8]) -> bool {
    let Some(arrived) = accepted.origin.class else { return false };
    let (wanted, dscp, ecn) = (value[0] & 0xFC, arrived >> 2, arrived & 0x03);
    let refused = u8::from(accepted.class != Some(wanted));
    put(value, 0, [wanted | dscp >> 4, dscp << 4 | ecn << 2 | refused, 0, 0]);
    true
}
