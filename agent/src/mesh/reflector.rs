//! The Session-Reflector: answers probes, never with more octets than it was sent. Pure; the socket is in the shell.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lagmesh_model::time::{RawNanos, Reading, nanos};

use crate::mesh::hearing::Directory;
use crate::mesh::keys::{KeyIndex, MeshKeys};
use crate::mesh::stamp::extension::{
    Frames, INTEGRITY, Integrity, MALFORMED, TYPE_HMAC, TYPE_LAGMESH, TYPE_PADDING, UNRECOGNIZED, frames, seal, seal_base,
    verify, verify_base,
};
use crate::mesh::stamp::{ErrorEstimate, Mode, NtpTime, Reply, Request};
use crate::mesh::tlv::{self, AgentHash, Body, ClockBody, Record};

/// The longest request that is answered [octets]: what an Ethernet frame holds.
pub const REQUEST_MAX: usize = 1500;
/// How many sources have a budget of their own at once.
const SOURCES_MAX: usize = 4096;
/// How many flows are counted at once; beyond that the reflector is stateless towards new ones.
const SESSIONS_MAX: usize = 8192;
/// A flow that was silent for so long is forgotten when room is needed.
const SESSION_IDLE: Duration = Duration::from_secs(60);

/// Why a request is not answered. The words are the `reason` of `lagmesh.mesh.dropped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drop {
    /// Shorter than a base packet.
    TooShort,
    /// Longer than [`REQUEST_MAX`].
    TooLong,
    /// No key of ours made its HMAC.
    BadHmac,
    /// Its source used up its budget.
    RateLimited,
    /// There is no room for the budget of another source.
    TooManySources,
    /// It came from another reflector.
    Loop,
}

impl Drop {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Drop::TooShort => "too-short",
            Drop::TooLong => "too-long",
            Drop::BadHmac => "bad-hmac",
            Drop::RateLimited => "rate-limited",
            Drop::TooManySources => "too-many-sources",
            Drop::Loop => "loop",
        }
    }
}

/// A request that will be answered.
#[derive(Debug)]
pub struct Accepted {
    request: Request,
    key: KeyIndex,
    integrity: Integrity,
    sequence: u32,
    received: Reading,
    /// The configured agent that sent it; `None` for standard senders and strangers.
    pub speaker: Option<ClockBody>,
    /// What it told us.
    pub records: Vec<Record>,
}

/// The reflector's state.
#[derive(Debug)]
pub struct Reflector {
    mode: Mode,
    keys: Option<MeshKeys>,
    own: AgentHash,
    limiter: Limiter,
    sessions: HashMap<SocketAddr, Session>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    answered: u32,
    newest: RawNanos,
}

impl Reflector {
    /// A reflector that answers each source at most `rate_per_s` times a second.
    pub fn new(own: AgentHash, keys: Option<MeshKeys>, rate_per_s: u64) -> Reflector {
        let mode = if keys.is_some() { Mode::Authenticated } else { Mode::Unauthenticated };
        Reflector { mode, keys, own, limiter: Limiter::new(rate_per_s), sessions: HashMap::new() }
    }

    /// Decides whether a request is answered.
    ///
    /// # Errors
    /// If not, with the reason.
    pub fn check(
        &mut self,
        packet: &[u8],
        source: SocketAddr,
        directory: &Directory,
        received: Reading,
    ) -> Result<Accepted, Drop> {
        if packet.len() > REQUEST_MAX {
            return Err(Drop::TooLong);
        }
        let request = Request::decode(self.mode, packet).map_err(|_| Drop::TooShort)?;
        if directory.is_reflector(source) {
            return Err(Drop::Loop);
        }
        self.limiter.admit(source.ip(), directory.is_known(source), received.raw)?;
        let (key, integrity) = match &self.keys {
            None => (KeyIndex::FIRST, Integrity::Absent),
            Some(keys) => (verify_base(packet, keys).ok_or(Drop::BadHmac)?, verify(packet, self.mode.base_length(), keys)),
        };
        let (speaker, records) = self.listen(packet, source, directory, integrity);
        let sequence = self.count(source, received.raw).unwrap_or(request.sequence);
        Ok(Accepted { request, key, integrity, sequence, received, speaker, records })
    }

    /// Private TLVs count only from configured agents: by a valid HMAC, or without keys by their source address.
    fn listen(
        &self,
        packet: &[u8],
        source: SocketAddr,
        directory: &Directory,
        integrity: Integrity,
    ) -> (Option<ClockBody>, Vec<Record>) {
        let (mut speaker, mut told) = (None, Vec::new());
        for frame in frames(packet, self.mode.base_length()).filter(|frame| frame.kind == TYPE_LAGMESH) {
            match frame.value(packet).map(tlv::read) {
                Some(Body::Clock(clock)) => speaker = Some(clock),
                Some(Body::Records(records)) => told = records,
                Some(Body::Unknown) | None => {}
            }
        }
        let trusted = |clock: &ClockBody| match self.mode {
            Mode::Authenticated => integrity == Integrity::Good && directory.get(clock.agent).is_some(),
            Mode::Unauthenticated => directory.is_at(clock.agent, source),
        };
        match speaker.filter(trusted) {
            Some(clock) => (Some(clock), told),
            None => (None, Vec::new()),
        }
    }

    /// The number of the answer within its flow, from zero; `None` if the flow is not counted.
    fn count(&mut self, source: SocketAddr, now: RawNanos) -> Option<u32> {
        if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&source) {
            self.sessions.retain(|_, session| now.since_ns(session.newest) < nanos(SESSION_IDLE).cast_signed());
            if self.sessions.len() >= SESSIONS_MAX {
                return None;
            }
        }
        let session = self.sessions.entry(source).or_insert(Session { answered: 0, newest: now });
        let number = session.answered;
        session.answered = session.answered.wrapping_add(1);
        session.newest = now;
        Some(number)
    }

    /// Turns the request into its answer, in place: it keeps its length. `now` is read just before.
    pub fn answer(&self, accepted: &Accepted, packet: &mut [u8], now: Reading, records: &[Record]) {
        let reply = Reply {
            sequence: accepted.sequence,
            timestamp: NtpTime::of(now.wall),
            error: ErrorEstimate::UNKNOWN,
            session: accepted.request.session,
            received: NtpTime::of(accepted.received.wall),
            sender_sequence: accepted.request.sequence,
            sender_timestamp: accepted.request.timestamp,
            sender_error: accepted.request.error,
            sender_hops: 0,
        };
        reply.encode(self.mode, packet);
        let base = self.mode.base_length();
        let hmac_at = self.answer_tlvs(accepted, packet, now, records);
        if let Some(keys) = &self.keys {
            if let Some(at) = hmac_at {
                seal(packet, base, at, keys, accepted.key);
            }
            seal_base(packet, keys, accepted.key);
        }
    }

    /// Marks and fills the TLVs; returns where the HMAC TLV lies if it is to be sealed.
    fn answer_tlvs(&self, accepted: &Accepted, packet: &mut [u8], now: Reading, records: &[Record]) -> Option<usize> {
        let (mut at, mut hmac_at) = (self.mode.base_length(), None);
        while let Some(frame) = Frames::after(packet, at) {
            if accepted.integrity == Integrity::Bad {
                packet[frame.at] = frame.flags | INTEGRITY;
            } else if frame.malformed {
                packet[frame.at] = (frame.flags | MALFORMED) & !UNRECOGNIZED;
            } else {
                let understood = match frame.kind {
                    TYPE_PADDING => true,
                    TYPE_HMAC => self.keys.is_some(),
                    TYPE_LAGMESH => {
                        let value = frame.value_mut(packet);
                        accepted
                            .speaker
                            .zip(value)
                            .is_some_and(|(speaker, value)| self.answer_private(value, accepted, &speaker, now, records))
                    }
                    _ => false,
                };
                packet[frame.at] = if understood { 0 } else { UNRECOGNIZED };
                hmac_at = if frame.kind == TYPE_HMAC && self.keys.is_some() { Some(frame.at) } else { hmac_at };
            }
            if frame.malformed {
                break;
            }
            at = frame.end();
        }
        hmac_at
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

/// A token bucket for each source host (for IPv6 each /64): so many packets per second, and one second's worth at once.
#[derive(Debug)]
struct Limiter {
    rate_per_s: u64,
    sources: HashMap<IpAddr, Bucket>,
}

/// Tokens are counted in nanoseconds: one packet costs `1 s / rate`.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    filled_ns: u64,
    at: RawNanos,
}

const BUCKET_MAX_NS: u64 = 1_000_000_000;

impl Limiter {
    fn new(rate_per_s: u64) -> Limiter {
        Limiter { rate_per_s: rate_per_s.max(1), sources: HashMap::new() }
    }

    fn admit(&mut self, source: IpAddr, known: bool, now: RawNanos) -> Result<(), Drop> {
        let source = network_of(source);
        // Configured agents always find room: there are not many of them.
        if self.sources.len() >= SOURCES_MAX && !known && !self.sources.contains_key(&source) {
            self.sources.retain(|_, bucket| bucket.fill(now) < BUCKET_MAX_NS);
            if self.sources.len() >= SOURCES_MAX {
                return Err(Drop::TooManySources);
            }
        }
        let bucket = self.sources.entry(source).or_insert(Bucket { filled_ns: BUCKET_MAX_NS, at: now });
        let (filled_ns, cost_ns) = (bucket.fill(now), BUCKET_MAX_NS / self.rate_per_s);
        let left_ns = filled_ns.checked_sub(cost_ns);
        *bucket = Bucket { filled_ns: left_ns.unwrap_or(filled_ns), at: now };
        left_ns.map(drop).ok_or(Drop::RateLimited)
    }
}

impl Bucket {
    fn fill(&self, now: RawNanos) -> u64 {
        let gained_ns = now.checked_since(self.at).map_or(0, nanos);
        self.filled_ns.saturating_add(gained_ns).min(BUCKET_MAX_NS)
    }
}

fn network_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
