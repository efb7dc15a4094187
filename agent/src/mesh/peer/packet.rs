//! The packets to and from a peer agent. Pure.

use lagmesh_model::fleet::Mesh;
use lagmesh_model::time::{RawNanos, Reading};

use super::Peer;
use crate::mesh::keys::{KeyIndex, MeshKeys};
use crate::mesh::stamp::extension::{
    HEADER_LENGTH, HMAC_TLV_LENGTH, Integrity, TYPE_FOLLOW_UP, TYPE_HMAC, TYPE_LAGMESH, put_header, seal, seal_base, verify,
    verify_base, vouched,
};
use crate::mesh::stamp::follow_up::{FOLLOW_UP_LENGTH, FollowUp};
use crate::mesh::stamp::{ErrorEstimate, HMAC_LENGTH, Mode, Reply, Request, Timestamp};
use crate::mesh::survey::SESSION_PROBES;
use crate::mesh::tlv::{self, AgentHash, CLOCK_LENGTH, ClockBody, RECORDS_LENGTH, Record};

/// The longest packet of ours [octets].
pub const PACKET_MAX: usize = Mesh::PACKET_LENGTH_WITH_KEY;
/// What follows the base packet, but for the HMAC [octets].
const EXTENSIONS_LENGTH: usize = 3 * HEADER_LENGTH + CLOCK_LENGTH + RECORDS_LENGTH + FOLLOW_UP_LENGTH;
const _: () = assert!(
    Mode::Unauthenticated.base_length() + EXTENSIONS_LENGTH == Mesh::PACKET_LENGTH
        && Mode::Authenticated.base_length() + EXTENSIONS_LENGTH + HMAC_TLV_LENGTH == Mesh::PACKET_LENGTH_WITH_KEY,
    "the lengths that the fleet's costs are reckoned with are those of the codec"
);

/// What an answer says.
pub(super) struct Opened {
    pub(super) reply: Reply,
    /// The stamps of the reflector's measuring clock, if it is an agent.
    pub(super) clock: Option<ClockBody>,
    pub(super) records: Vec<Record>,
    /// When the answer before it left.
    pub(super) follow_up: Option<FollowUp>,
}

impl Peer {
    /// Writes the flow's next probe, with our name on the wire and how far our wall clock may be off; returns its length. It counts
    /// once [`Peer::sent`] or [`Peer::not_sent`] says so.
    pub fn request(
        &self,
        flow: usize,
        (own, error): (AgentHash, ErrorEstimate),
        now: Reading,
        records: &[Record],
        keys: Option<&MeshKeys>,
        packet: &mut [u8; PACKET_MAX],
    ) -> usize {
        let mode = if keys.is_some() { Mode::Authenticated } else { Mode::Unauthenticated };
        let sequence = self.flows[flow].next_sequence();
        let request = Request { sequence, timestamp: Timestamp::ntp(now.wall), error, session: SESSION_PROBES };
        request.encode(mode, packet);
        let base = mode.base_length();
        let clock_at = put_header(packet, base, TYPE_LAGMESH, length(CLOCK_LENGTH));
        let body = ClockBody { agent: own, epoch: now.epoch, t1: now.raw, t2: RawNanos(0), t3: RawNanos(0) };
        tlv::put_clock(&mut packet[clock_at..clock_at + CLOCK_LENGTH], &body);
        let records_at = put_header(packet, clock_at + CLOCK_LENGTH, TYPE_LAGMESH, length(RECORDS_LENGTH));
        let end = records_at + RECORDS_LENGTH;
        tlv::put_records(&mut packet[records_at..end], records);
        let follow_up_at = put_header(packet, end, TYPE_FOLLOW_UP, length(FOLLOW_UP_LENGTH));
        let end = follow_up_at + FOLLOW_UP_LENGTH;
        packet[follow_up_at..end].fill(0);
        let Some(keys) = keys else { return end };
        put_header(packet, end, TYPE_HMAC, length(HMAC_LENGTH));
        seal(packet, base, end, keys, KeyIndex::FIRST);
        seal_base(packet, keys, KeyIndex::FIRST);
        end + HMAC_TLV_LENGTH
    }

    /// Reads and checks an answer. The private TLVs count only if the reflector filled them and is who it should be.
    pub(super) fn open(&self, packet: &[u8], keys: Option<&MeshKeys>) -> Result<Opened, &'static str> {
        let mode = if keys.is_some() { Mode::Authenticated } else { Mode::Unauthenticated };
        let reply = Reply::decode(mode, packet).map_err(|_| "too-short")?;
        let trusted = match keys {
            None => true,
            Some(keys) if verify_base(packet, keys).is_none() => return Err("bad-hmac"),
            Some(keys) => match verify(packet, mode, keys) {
                Integrity::Bad => return Err("bad-hmac"),
                integrity => integrity == Integrity::Good,
            },
        };
        let vouched = || vouched(packet, mode.base_length()).filter(|_| trusted);
        let follow_up = FollowUp::find(packet, vouched());
        let (clock, records) = tlv::told(packet, vouched());
        match clock {
            Some(clock) if clock.agent != self.hash => Err("wrong-agent"),
            Some(clock) => Ok(Opened { reply, clock: Some(clock), records, follow_up }),
            None => Ok(Opened { reply, clock: None, records: Vec::new(), follow_up }),
        }
    }
}

fn length(octets: usize) -> u16 {
    u16::try_from(octets).expect("TLVs of ours are short")
}
