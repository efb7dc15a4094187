//! What agents tell each other beside the measurement: lagmesh's private TLVs (type 251). Pure.
//!
//! # Wire format
//!
//! The value of every TLV of this type:
//!
//! | octets | field |
//! |---|---|
//! | 0 | version: 1 |
//! | 1 | kind: 1 clock, 2 records |
//! | 2..4 | `LM`: the type is for anybody's experiments |
//! | 4.. | body |
//!
//! Body of kind 1, clock (40 octets). Stamps are raw nanoseconds of the named clock.
//!
//! | octets | field | in a request | in a reply |
//! |---|---|---|---|
//! | 0..8 | agent: first 8 octets of SHA-256 over its name | the sender | the reflector |
//! | 8..16 | epoch of its clock | the sender's | the reflector's |
//! | 16..24 | t1 | sent | as in the request |
//! | 24..32 | t2 | zero | received |
//! | 32..40 | t3 | zero | sent |
//!
//! Body of kind 2, records (144 octets, the rest filled with zeros): count (1), zero (3), then `count` times type (1), length of
//! what follows (1), and that:
//!
//! | octets | 1: announcement (68) | 2: seen (56) |
//! |---|---|---|
//! | 0..8 | origin: first 8 octets of SHA-256 over the node's name | the same |
//! | 8..16 | incarnation | node: hash as for the origin |
//! | 16..24 | sequence | incarnation |
//! | 24..32 | epoch of the writer's clock | sequence |
//! | 32..40 | sent | held, at least [ns] |
//! | 40..48 | acknowledged | held, at most [ns] |
//! | 48..56 | system identifier | round-trip time of the flow's previous exchange [ns], zero if unknown |
//! | 56..60 | timeline | |
//! | 60..68 | LSN | |
//!
//! | octets | 3: wall clock (33), only in answers |
//! |---|---|
//! | 0..8 | epoch of the speaker's clock |
//! | 8..16 | its wall clock minus its measuring clock, at least [ns], signed |
//! | 16..24 | the same, at most |
//! | 24..32 | how far off its wall clock is at most, as its host claims [ns] |
//! | 32 | who claims that: 0 nobody, 1 nobody: the clock runs freely, 2 `adjtimex`, 3 `ClockBound` |
//!
//! | octets | 4: lost slot (16) |
//! |---|---|
//! | 0..8 | node: the server that has given the slot up, hashed like an origin |
//! | 8..16 | slot: first 8 octets of SHA-256 over its name |
//!
//! | octets | 5: reach of a logical slot (60) |
//! |---|---|
//! | 0..8 | node: the server that has the slot, hashed like an origin |
//! | 8..16 | slot, hashed as in 4 |
//! | 16..24 | epoch of the speaker's clock |
//! | 24..32 | the server was asked |
//! | 32..40 | it had answered |
//! | 40..48 | system identifier |
//! | 48..52 | timeline |
//! | 52..60 | LSN: what was committed before it is confirmed to be on disk where the slot is read |
//!
//! Numbers are big-endian. `held` counts from visibility to the sending of the packet that carries it. Readers skip TLVs of
//! another version, kinds and record types that they do not know, and octets beyond the end that they know.

use lagmesh_daemon::clock::ClockClaim;
use lagmesh_model::beat::{BeatTimes, Incarnation, Sequence};
use lagmesh_model::ids::{AgentName, NodeHash, SlotHash};
use lagmesh_model::interval::Interval;
use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
use lagmesh_model::state::ClaimSource;
use lagmesh_model::time::{Epoch, RawNanos};
use sha2::{Digest, Sha256};

use crate::mesh::stamp::extension::{Frame, TYPE_LAGMESH};
use crate::mesh::stamp::{put, take};
use crate::slot::SlotReach;
use crate::wall::WallClock;

/// The version that this program writes and reads.
pub const VERSION: u8 = 1;
/// Marks our TLVs among other people's experiments of the same type.
const MARK: [u8; 2] = [b'L', b'M'];
/// Version, kind, mark [octets].
const PREFIX_LENGTH: usize = 4;
/// The value of a clock TLV [octets].
pub const CLOCK_LENGTH: usize = PREFIX_LENGTH + 40;
/// How many of the longest records a packet has room for: enough to tell 32 things per second and peer at the default cadence.
pub const RECORDS_PER_PACKET: usize = 2;
/// The value of a records TLV [octets].
pub const RECORDS_LENGTH: usize = PREFIX_LENGTH + 4 + RECORDS_PER_PACKET * (2 + ANNOUNCEMENT_LENGTH);

const KIND_CLOCK: u8 = 1;
const KIND_RECORDS: u8 = 2;
const RECORD_ANNOUNCEMENT: u8 = 1;
const RECORD_SEEN: u8 = 2;
const ANNOUNCEMENT_LENGTH: usize = 68;
const SEEN_LENGTH: usize = 56;
const RECORD_WALL: u8 = 3;
const WALL_LENGTH: usize = 33;
const RECORD_LOST_SLOT: u8 = 4;
const LOST_SLOT_LENGTH: usize = 16;
const RECORD_REACH: u8 = 5;
const REACH_LENGTH: usize = 60;

/// Who claims something about a wall clock: on the wire.
const CLAIMED_BY_NOBODY: u8 = 0;
const CLAIMED_FREE: u8 = 1;
const CLAIMED_BY_KERNEL: u8 = 2;
const CLAIMED_BY_CLOCKBOUND: u8 = 3;

/// On the wire this stands for "none": no round trip takes no time.
const NO_RTT: u64 = 0;
/// Spans beyond this are nonsense: 36 years.
const SPAN_MAX_NS: u64 = 1 << 60;

/// An agent's name on the wire. Every agent has the same fleet file, so every agent can turn it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentHash(pub u64);

impl AgentHash {
    /// The hash of an agent's name.
    pub fn of(agent: &AgentName) -> AgentHash {
        AgentHash(u64::from_be_bytes(take(&Sha256::digest(agent.as_str()), 0)))
    }
}

/// Who speaks, and the raw stamps of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBody {
    /// Who.
    pub agent: AgentHash,
    /// Whose clock made the speaker's stamps.
    pub epoch: Epoch,
    /// When the request was sent, on the sender's clock.
    pub t1: RawNanos,
    /// When the request was received, on the reflector's clock; zero in a request.
    pub t2: RawNanos,
    /// When the reply was sent, on the reflector's clock; zero in a request.
    pub t3: RawNanos,
}

/// One thing that an agent tells another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A beat was written and acknowledged.
    Announcement {
        /// On which node.
        origin: NodeHash,
        /// By which start of the writer.
        incarnation: Incarnation,
        /// Its number.
        sequence: Sequence,
        /// When.
        times: BeatTimes,
        /// Where the log stood.
        position: Position,
    },
    /// A beat was seen.
    Seen {
        /// On which node it was written.
        origin: NodeHash,
        /// On which node it was seen.
        node: NodeHash,
        /// By which start of the writer.
        incarnation: Incarnation,
        /// Its number.
        sequence: Sequence,
        /// From visibility to the sending of this packet, on the speaker's clock.
        held: Interval,
        /// The round-trip time of the previous exchange of the flow that carries this [ns].
        previous_rtt_ns: Option<u64>,
    },
    /// What the speaker says about its wall clock.
    Wall(WallClock),
    /// A replication slot is of no use any more: its server has given it up.
    LostSlot {
        /// Which server.
        node: NodeHash,
        /// Which of its slots.
        slot: SlotHash,
    },
    /// How far a logical slot is confirmed.
    Reach {
        /// Of which server.
        node: NodeHash,
        /// Which of its slots.
        slot: SlotHash,
        /// How far, and when it was seen.
        reach: SlotReach,
    },
}

/// Writes the value of a clock TLV; `value` is [`CLOCK_LENGTH`] long or longer.
pub fn put_clock(value: &mut [u8], body: &ClockBody) {
    value.fill(0);
    put(value, 0, prefix(KIND_CLOCK));
    let fields = [body.agent.0, body.epoch.0, body.t1.0, body.t2.0, body.t3.0];
    for (n, field) in fields.into_iter().enumerate() {
        put(value, PREFIX_LENGTH + 8 * n, field.to_be_bytes());
    }
}

/// Writes the value of a records TLV into the room given; returns how many of the records fitted.
pub fn put_records<'r>(value: &mut [u8], records: impl IntoIterator<Item = &'r Record>) -> usize {
    value.fill(0);
    if value.len() < PREFIX_LENGTH + 4 {
        return 0;
    }
    put(value, 0, prefix(KIND_RECORDS));
    let (mut at, mut count) = (PREFIX_LENGTH + 4, 0);
    for record in records {
        let length = record_length(record);
        if count == u8::MAX || value.len() < at + 2 + length {
            break;
        }
        put_record(&mut value[at..at + 2 + length], record);
        at += 2 + length;
        count += 1;
    }
    value[PREFIX_LENGTH] = count;
    usize::from(count)
}

fn prefix(kind: u8) -> [u8; PREFIX_LENGTH] {
    [VERSION, kind, MARK[0], MARK[1]]
}

fn record_length(record: &Record) -> usize {
    match record {
        Record::Announcement { .. } => ANNOUNCEMENT_LENGTH,
        Record::Seen { .. } => SEEN_LENGTH,
        Record::Wall(_) => WALL_LENGTH,
        Record::LostSlot { .. } => LOST_SLOT_LENGTH,
        Record::Reach { .. } => REACH_LENGTH,
    }
}

fn put_record(room: &mut [u8], record: &Record) {
    let mut at = 2;
    let mut field = |number: u64| {
        put(room, at, number.to_be_bytes());
        at += 8;
    };
    match record {
        Record::Announcement { origin, incarnation, sequence, times, position } => {
            for number in [origin.0, incarnation.0.cast_unsigned(), sequence.0, times.epoch.0, times.sent.0, times.acknowledged.0]
            {
                field(number);
            }
            put_position(room, 2 + 48, position);
            (room[0], room[1]) = (RECORD_ANNOUNCEMENT, 68);
        }
        Record::Seen { origin, node, incarnation, sequence, held, previous_rtt_ns } => {
            for number in [origin.0, node.0, incarnation.0.cast_unsigned(), sequence.0] {
                field(number);
            }
            field(held.lower_ns().cast_unsigned());
            field(held.upper_ns().cast_unsigned());
            field(previous_rtt_ns.unwrap_or(NO_RTT));
            (room[0], room[1]) = (RECORD_SEEN, 56);
        }
        Record::Wall(WallClock { epoch, difference, claim }) => {
            let (error_ns, claimed_by) = match claim {
                Some(ClockClaim::Synchronized { error_ns, source: ClaimSource::Kernel }) => (*error_ns, CLAIMED_BY_KERNEL),
                Some(ClockClaim::Synchronized { error_ns, source: ClaimSource::ClockBound }) => {
                    (*error_ns, CLAIMED_BY_CLOCKBOUND)
                }
                Some(ClockClaim::Free) => (0, CLAIMED_FREE),
                None => (0, CLAIMED_BY_NOBODY),
            };
            for number in [epoch.0, difference.lower_ns().cast_unsigned(), difference.upper_ns().cast_unsigned(), error_ns] {
                field(number);
            }
            put(room, 2 + 32, [claimed_by]);
            (room[0], room[1]) = (RECORD_WALL, 33);
        }
        Record::LostSlot { node, slot } => {
            field(node.0);
            field(slot.0);
            (room[0], room[1]) = (RECORD_LOST_SLOT, 16);
        }
        Record::Reach { node, slot, reach: SlotReach { epoch, began, ended, confirmed } } => {
            for number in [node.0, slot.0, epoch.0, began.0, ended.0] {
                field(number);
            }
            put_position(room, 2 + 40, confirmed);
            (room[0], room[1]) = (RECORD_REACH, 60);
        }
    }
}

/// A position takes 20 octets.
fn put_position(room: &mut [u8], at: usize, position: &Position) {
    put(room, at, position.system.0.to_be_bytes());
    put(room, at + 8, position.timeline.0.to_be_bytes());
    put(room, at + 12, position.lsn.0.to_be_bytes());
}

/// What a private TLV says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Who speaks, and stamps.
    Clock(ClockBody),
    /// Records.
    Records(Vec<Record>),
    /// A version or kind that this program does not know.
    Unknown,
}

/// What the private TLVs among the frames of a packet tell: the clock and the records; of several the last.
pub fn told(packet: &[u8], frames: impl Iterator<Item = Frame>) -> (Option<ClockBody>, Vec<Record>) {
    let (mut clock, mut records) = (None, Vec::new());
    for frame in frames.filter(|frame| frame.kind == TYPE_LAGMESH) {
        match frame.value(packet).map(read) {
            Some(Body::Clock(body)) => clock = Some(body),
            Some(Body::Records(told)) => records = told,
            Some(Body::Unknown) | None => {}
        }
    }
    (clock, records)
}

/// Reads the value of a private TLV. Records that make no sense are left out.
pub fn read(value: &[u8]) -> Body {
    let Some((start, value)) = value.split_first_chunk::<PREFIX_LENGTH>() else { return Body::Unknown };
    match value {
        body if *start == prefix(KIND_CLOCK) => read_clock(body).map_or(Body::Unknown, Body::Clock),
        [count, _, _, _, rest @ ..] if *start == prefix(KIND_RECORDS) => Body::Records(read_records(*count, rest)),
        _ => Body::Unknown,
    }
}

fn read_clock(body: &[u8]) -> Option<ClockBody> {
    let field = |n: usize| body.get(8 * n..8 * n + 8).map(|octets| u64::from_be_bytes(take(octets, 0)));
    let stamp = |n: usize| field(n).and_then(RawNanos::from_outside);
    Some(ClockBody { agent: AgentHash(field(0)?), epoch: Epoch(field(1)?), t1: stamp(2)?, t2: stamp(3)?, t3: stamp(4)? })
}

fn read_records(count: u8, mut rest: &[u8]) -> Vec<Record> {
    let mut records = Vec::with_capacity(usize::from(count).min(RECORDS_PER_PACKET));
    for _ in 0..count {
        let [kind, length, after @ ..] = rest else { break };
        let Some((body, next)) = after.split_at_checked(usize::from(*length)) else { break };
        records.extend(read_record(*kind, body));
        rest = next;
    }
    records
}

fn read_record(kind: u8, body: &[u8]) -> Option<Record> {
    let field = |at: usize| u64::from_be_bytes(take(body, at));
    match kind {
        RECORD_ANNOUNCEMENT if body.len() >= ANNOUNCEMENT_LENGTH => {
            let times = BeatTimes {
                epoch: Epoch(field(24)),
                sent: RawNanos::from_outside(field(32))?,
                acknowledged: RawNanos::from_outside(field(40))?,
            };
            let position = position_at(body, 48);
            let in_order = times.sent <= times.acknowledged;
            in_order.then(|| Record::Announcement {
                origin: NodeHash(field(0)),
                incarnation: Incarnation(field(8).cast_signed()),
                sequence: Sequence(field(16)),
                times,
                position,
            })
        }
        RECORD_SEEN if body.len() >= SEEN_LENGTH => Some(Record::Seen {
            origin: NodeHash(field(0)),
            node: NodeHash(field(8)),
            incarnation: Incarnation(field(16).cast_signed()),
            sequence: Sequence(field(24)),
            held: Interval::between(span_of(field(32))?, span_of(field(40))?)?,
            previous_rtt_ns: Some(field(48)).filter(|rtt_ns| (1..SPAN_MAX_NS).contains(rtt_ns)),
        }),
        RECORD_WALL if body.len() >= WALL_LENGTH => {
            let (lower, upper) = (field(8).cast_signed(), field(16).cast_signed());
            let is_sane =
                [lower, upper].iter().all(|end| end.unsigned_abs() < RawNanos::END.0) && upper.abs_diff(lower) < SPAN_MAX_NS;
            let difference = Interval::between(lower, upper).filter(|_| is_sane)?;
            Some(Record::Wall(WallClock { epoch: Epoch(field(0)), difference, claim: claim_of(body[32], field(24)) }))
        }
        RECORD_LOST_SLOT if body.len() >= LOST_SLOT_LENGTH => {
            Some(Record::LostSlot { node: NodeHash(field(0)), slot: SlotHash(field(8)) })
        }
        RECORD_REACH if body.len() >= REACH_LENGTH => {
            let (began, ended) = (RawNanos::from_outside(field(24))?, RawNanos::from_outside(field(32))?);
            let reach = SlotReach { epoch: Epoch(field(16)), began, ended, confirmed: position_at(body, 40) };
            (began <= ended).then(|| Record::Reach { node: NodeHash(field(0)), slot: SlotHash(field(8)), reach })
        }
        _ => None,
    }
}

fn position_at(body: &[u8], at: usize) -> Position {
    Position {
        system: SystemIdentifier(u64::from_be_bytes(take(body, at))),
        timeline: Timeline(u32::from_be_bytes(take(body, at + 8))),
        lsn: Lsn(u64::from_be_bytes(take(body, at + 12))),
    }
}

/// A claim by nobody that this program knows is none.
fn claim_of(claimed_by: u8, error_ns: u64) -> Option<ClockClaim> {
    match claimed_by {
        CLAIMED_FREE => Some(ClockClaim::Free),
        CLAIMED_BY_KERNEL => Some(ClockClaim::Synchronized { error_ns, source: ClaimSource::Kernel }),
        CLAIMED_BY_CLOCKBOUND => Some(ClockClaim::Synchronized { error_ns, source: ClaimSource::ClockBound }),
        _ => None,
    }
}

fn span_of(field: u64) -> Option<i64> {
    let span_ns = field.cast_signed();
    (span_ns.unsigned_abs() < SPAN_MAX_NS).then_some(span_ns)
}

#[cfg(test)]
mod tests;
