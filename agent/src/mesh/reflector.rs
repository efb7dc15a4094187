//! The Session-Reflector: answers probes, never with more octets than it was sent. Pure; the socket is in the shell.

mod answer;
mod limiter;
mod sessions;

use std::net::SocketAddr;
use std::time::Duration;

use lagmesh_daemon::clock::ClockClaim;
use lagmesh_model::time::{RawNanos, Reading, WallNanos, nanos};

use crate::mesh::hearing::Directory;
use crate::mesh::keys::{KeyIndex, MeshKeys};
use crate::mesh::reflector::answer::{Telling, wanted_class};
use crate::mesh::reflector::limiter::Limiter;
use crate::mesh::reflector::sessions::{Counts, SessionKey, Sessions};
use crate::mesh::stamp::extension::{Integrity, TYPE_HMAC, frames, seal, seal_base, verify, verify_base};
use crate::mesh::stamp::{ErrorEstimate, Mode, Reply, Request, Timestamp};
use crate::mesh::tlv::{self, AgentHash, ClockBody, Record};

/// The longest request that is answered [octets]: what an Ethernet frame holds.
pub const REQUEST_MAX: usize = 1500;
/// How old the stamp of its request may be in what is taken for an answer.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(60);

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

/// Where a request came from, and what its IP header said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Who sent it.
    pub source: SocketAddr,
    /// The hop limit with which it arrived, if the socket tells.
    pub hops: Option<u8>,
    /// The traffic class (DSCP and ECN) with which it arrived, if the socket tells.
    pub class: Option<u8>,
}

/// A request that will be answered.
#[derive(Debug)]
pub struct Accepted {
    mode: Mode,
    request: Request,
    key: KeyIndex,
    integrity: Integrity,
    origin: Origin,
    received: Reading,
    /// The traffic class with which the answer must leave, if it is known.
    pub class: Option<u8>,
    /// The configured agent that sent it; `None` for standard senders and strangers.
    pub speaker: Option<ClockBody>,
    /// What it told us.
    pub records: Vec<Record>,
}

/// An answer that was sent, of a session that is counted.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    session: SessionKey,
    number: u32,
    /// Its own stamp of that (t3).
    pub at: Reading,
}

/// The reflector's state.
#[derive(Debug)]
pub struct Reflector {
    keys: Option<MeshKeys>,
    third_party: bool,
    own: AgentHash,
    claim: Option<ClockClaim>,
    limiter: Limiter,
    sessions: Sessions,
}

impl Reflector {
    /// A reflector that answers each source at most `rate_per_s` times a second. With keys it answers who has one of them; with
    /// `third_party` also standard senders without any.
    pub fn new(own: AgentHash, keys: Option<MeshKeys>, third_party: bool, rate_per_s: u64) -> Reflector {
        let (limiter, sessions) = (Limiter::new(rate_per_s), Sessions::default());
        Reflector { keys, third_party, own, claim: None, limiter, sessions }
    }

    /// What our host claims about its wall clock; `None` if that is not known.
    pub fn claim(&mut self, claim: Option<ClockClaim>) {
        self.claim = claim;
    }

    /// How many sources have a budget, and how many sessions are counted.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn remembered(&self) -> (usize, usize) {
        (self.limiter.len(), self.sessions.len())
    }

    /// Decides whether a request is answered.
    ///
    /// # Errors
    /// If not, with the reason.
    pub fn check(&mut self, packet: &[u8], origin: Origin, directory: &Directory, received: Reading) -> Result<Accepted, Drop> {
        let source = origin.source;
        if packet.len() > REQUEST_MAX {
            return Err(Drop::TooLong);
        }
        let known = directory.is_known(source);
        let open = self.keys.is_none() || (self.third_party && !known);
        let least = if open { Mode::Unauthenticated } else { Mode::Authenticated };
        if packet.len() < least.base_length() {
            return Err(Drop::TooShort);
        }
        if directory.is_reflector(source) {
            return Err(Drop::Loop);
        }
        self.limiter.admit(source.ip(), known, received.raw)?;
        let key = self.keys.as_ref().filter(|_| packet.len() >= Mode::Authenticated.base_length());
        let (mode, key) = match key.and_then(|keys| verify_base(packet, keys)) {
            Some(key) => (Mode::Authenticated, key),
            None if open => (Mode::Unauthenticated, KeyIndex::FIRST),
            None => return Err(Drop::BadHmac),
        };
        if is_answer(packet, mode, received) {
            return Err(Drop::Loop);
        }
        let request = Request::decode(mode, packet).map_err(|_| Drop::TooShort)?;
        let integrity = self.keys.as_ref().map_or(Integrity::Absent, |keys| verify(packet, mode, keys));
        let (speaker, records) = self.listen(packet, (mode, integrity), source, directory);
        let class = class_of(packet, (mode, integrity), origin);
        let accepted = Accepted { mode, request, key, integrity, origin, received, class, speaker, records };
        self.sessions.receive(accepted.session(), received.raw);
        Ok(accepted)
    }

    /// Private TLVs count only from configured agents: by a valid HMAC, or without keys by their source address.
    fn listen(
        &self,
        packet: &[u8],
        (mode, integrity): (Mode, Integrity),
        source: SocketAddr,
        directory: &Directory,
    ) -> (Option<ClockBody>, Vec<Record>) {
        let (speaker, told) = tlv::told(packet, frames(packet, mode.base_length()));
        let trusted = |clock: &ClockBody| match mode {
            Mode::Authenticated => integrity == Integrity::Good && directory.get(clock.agent).is_some(),
            Mode::Unauthenticated => self.keys.is_none() && directory.is_at(clock.agent, source),
        };
        match speaker.filter(trusted) {
            Some(clock) => (Some(clock), told),
            None => (None, Vec::new()),
        }
    }

    /// Turns the request into its answer, in place: it keeps its length. `now` is read just before. Returns what a stamp of its leaving
    /// is about; `None` if nobody would be told of it.
    pub fn answer(&mut self, accepted: &Accepted, packet: &mut [u8], now: Reading, records: &[Record]) -> Option<Answered> {
        let counts = self.sessions.answer(accepted.session(), now.wall);
        let Request { sequence, timestamp, error, session } = accepted.request;
        let reply = Reply {
            sequence: counts.map_or(sequence, |counts| counts.answered),
            // In the format in which we were asked: that one the sender understands.
            timestamp: Timestamp::of(now.wall, error.format),
            error: ErrorEstimate::of(self.claim).with(error.format),
            session,
            received: Timestamp::of(accepted.received.wall, error.format),
            sender_sequence: sequence,
            sender_timestamp: timestamp,
            sender_error: error,
            sender_hops: accepted.origin.hops.unwrap_or(0),
        };
        reply.encode(accepted.mode, packet);
        self.answer_tlvs(accepted, packet, Telling { counts, now, records });
        self.seal(accepted, packet);
        counts.map(|Counts { answered, .. }| Answered { session: accepted.session(), number: answered, at: now })
    }

    /// The kernel says when an answer left: the next one of its session tells it.
    pub fn left(&mut self, answered: &Answered, left: RawNanos) {
        let wall_ns = answered.at.wall.0.saturating_add_signed(left.since_ns(answered.at.raw));
        self.sessions.left(answered.session, answered.number, WallNanos(wall_ns));
    }

    fn seal(&self, accepted: &Accepted, packet: &mut [u8]) {
        let (mode, base) = (accepted.mode, accepted.mode.base_length());
        let Some(keys) = &self.keys else { return };
        if accepted.integrity == Integrity::Good
            && let Some(hmac) = frames(packet, base).find(|frame| frame.kind == TYPE_HMAC)
        {
            seal(packet, base, hmac.at, keys, accepted.key);
        }
        if mode == Mode::Authenticated {
            seal_base(packet, keys, accepted.key);
        }
    }
}

impl Accepted {
    fn session(&self) -> SessionKey {
        let Accepted { origin, request, speaker, .. } = self;
        SessionKey { source: origin.source, identifier: request.session, configured: speaker.is_some() }
    }
}

/// Whether a packet is an answer: where that carries the stamp of its request, this one has a stamp of our time. Were it answered, two
/// reflectors might answer each other for ever. Padding that looks like such a stamp is one in thirty million.
fn is_answer(packet: &[u8], mode: Mode, now: Reading) -> bool {
    let Ok(Reply { sender_timestamp, sender_error: ErrorEstimate { format, .. }, .. }) = Reply::decode(mode, packet) else {
        return false;
    };
    let age_ns = Timestamp::of(now.wall, format).since_ns(sender_timestamp, format);
    age_ns.is_some_and(|age_ns| age_ns.unsigned_abs() <= nanos(ANSWER_AGE_MAX))
}

/// The traffic class of the answer: the request's DSCP, so that both ways are measured alike; a holder of the key may choose another.
fn class_of(packet: &[u8], (mode, integrity): (Mode, Integrity), origin: Origin) -> Option<u8> {
    let may_choose = mode == Mode::Authenticated && integrity == Integrity::Good;
    let wanted = if may_choose { wanted_class(packet, mode) } else { None };
    wanted.or(origin.class.map(|class| class & 0xFC))
}

#[cfg(test)]
mod tests;
