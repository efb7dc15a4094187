//! What is asked of the paths to a peer beside the probes: routes ([`Tracer`]) and the longest packet ([`MtuSearch`]). Pure.
//!
//! Its packets leave from the ports of the flows, or they would say nothing about the flows' paths. They are STAMP base packets of
//! sessions of their own (RFC 8972), so a reflector's count of the probes is not disturbed, and no answer is taken for a probe's.

use std::net::IpAddr;
use std::time::Duration;

use lagmesh_model::state::RouteCause;
use lagmesh_model::time::{RawNanos, Reading};

use crate::measurement::{PathMtu, Route};
use crate::mesh::keys::{KeyIndex, MeshKeys};
use crate::mesh::mtu::{MtuSearch, Try};
use crate::mesh::stamp::extension::{HEADER_LENGTH, TYPE_PADDING, put_header, seal_base};
use crate::mesh::stamp::{ErrorEstimate, Mode, Reply, Request, Timestamp};
use crate::mesh::trace::Tracer;

/// The longest packet of a survey [octets, without IP and UDP headers].
pub const SURVEY_MAX: usize = 1500;
/// The session of the probes: none.
pub const SESSION_PROBES: u16 = 0;
/// The session of packets that ask for a route; their sequence numbers are their hop limits.
pub const SESSION_ROUTE: u16 = 1;
/// The session of packets that ask for the longest packet.
pub const SESSION_MTU: u16 = 2;
/// So long after the start the first search for the longest packet begins: the probes come first.
const MTU_AFTER: Duration = Duration::from_secs(5);

/// The length of the headers before a packet's payload [octets].
pub fn headers_length(peer: IpAddr) -> u16 {
    if peer.is_ipv4() { 20 + 8 } else { 40 + 8 }
}

/// A packet of a survey, to be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errand {
    /// From the port of which flow.
    pub flow: usize,
    /// Its hop limit, unless it is the usual one.
    pub hop_limit: Option<u8>,
    session: u16,
    sequence: u32,
    /// Its length [octets, with its headers]; `None` for the shortest.
    length: Option<u16>,
}

/// The survey of the paths to one peer.
#[derive(Debug)]
pub struct Survey {
    tracer: Tracer,
    mtu: MtuSearch,
    /// On which flow the longest packet is being searched for.
    mtu_flow: usize,
}

impl Survey {
    /// A survey that begins some time after `now`; an answer may take as long as `patience`.
    pub fn new(now: RawNanos, patience: Duration) -> Survey {
        #[expect(clippy::cast_possible_truncation, reason = "base packets are short")]
        let longest_base = Mode::Authenticated.base_length() as u16;
        let shortest = longest_base + headers_length([0; 16].into());
        Survey { tracer: Tracer::default(), mtu: MtuSearch::new(shortest, patience, now.after(MTU_AFTER)), mtu_flow: 0 }
    }

    /// When it has something to do next.
    pub fn next_due(&self) -> RawNanos {
        self.tracer.next_due().map_or(self.mtu.next_due(), |due| due.min(self.mtu.next_due()))
    }

    /// A flow died, or its path changed: its route is wanted.
    pub fn wish_route(&mut self, flow: usize, cause: RouteCause, now: RawNanos) {
        self.tracer.wish(flow, cause);
        if cause == RouteCause::Changed {
            self.mtu.search_now(now);
        }
    }

    /// Time passes: the packets that are to leave now. `alive` is a flow that answers, if one does.
    pub fn on_tick(&mut self, alive: Option<usize>, now: RawNanos, errands: &mut Vec<Errand>) {
        if let Some((flow, limit)) = self.tracer.on_tick(now) {
            let (session, sequence) = (SESSION_ROUTE, u32::from(limit));
            errands.push(Errand { flow, hop_limit: Some(limit), session, sequence, length: None });
        }
        let Some(flow) = alive else { return self.mtu.abandon(now) };
        if let Some(Try { sequence, length }) = self.mtu.on_tick(now) {
            self.mtu_flow = flow;
            errands.extend([(0, None), (1, Some(length)), (2, None)].map(|(n, length)| {
                let sequence = sequence.wrapping_add(n);
                Errand { flow, hop_limit: None, session: SESSION_MTU, sequence, length }
            }));
        }
    }

    /// An answer of one of its sessions came back from the peer at `from`.
    pub fn on_answer(&mut self, flow: usize, from: IpAddr, answer: &Reply, now: RawNanos) {
        match answer.session {
            SESSION_ROUTE => {
                let limit = u8::try_from(answer.sender_sequence).unwrap_or(u8::MAX);
                self.tracer.on_reached(flow, from, limit, now);
            }
            SESSION_MTU if flow == self.mtu_flow => self.mtu.on_answer(answer.sender_sequence, answer.sequence, now),
            _ => {}
        }
    }

    /// A router said that the hop limit of a packet of this flow ran out there.
    pub fn on_expired(&mut self, flow: usize, from: IpAddr, now: RawNanos) {
        self.tracer.on_expired(flow, from, now);
    }

    /// The peer's host said that nobody listens there: a packet reached it.
    pub fn on_refused(&mut self, flow: usize, from: IpAddr, now: RawNanos) {
        self.tracer.on_reached(flow, from, u8::MAX, now);
    }

    /// A packet could not leave; `too_long` if our own host said that it is longer than it can send.
    pub fn on_not_sent(&mut self, errand: &Errand, too_long: bool, now: RawNanos) {
        match errand.session {
            SESSION_MTU if too_long && errand.length.is_some() => self.mtu.on_too_long(now),
            SESSION_MTU => self.mtu.abandon(now),
            _ => self.tracer.on_not_sent(),
        }
    }

    /// A route that was found.
    pub fn route(&mut self) -> Option<Route> {
        self.tracer.found()
    }

    /// A search for the longest packet that came to an end.
    pub fn mtu(&mut self) -> Option<PathMtu> {
        self.mtu.found()
    }

    /// Our own clock began a new epoch.
    pub fn on_new_epoch(&mut self, now: RawNanos) {
        self.tracer.on_new_epoch();
        self.mtu.restart(now.after(MTU_AFTER));
    }
}

impl Errand {
    /// Writes the packet; returns its length.
    pub fn write(&self, headers_length: u16, now: Reading, keys: Option<&MeshKeys>, packet: &mut [u8; SURVEY_MAX]) -> usize {
        let mode = if keys.is_some() { Mode::Authenticated } else { Mode::Unauthenticated };
        let (sequence, session) = (self.sequence, self.session);
        let request = Request { sequence, timestamp: Timestamp::ntp(now.wall), error: ErrorEstimate::UNKNOWN, session };
        request.encode(mode, packet);
        let base = mode.base_length();
        let wanted = self.length.map_or(base, |length| usize::from(length.saturating_sub(headers_length)));
        // Octets that are no whole padding TLV are left alone by reflectors, so every length can be made.
        let end = wanted.clamp(base, SURVEY_MAX);
        packet[base..end].fill(0);
        if let Some(padding) = end.checked_sub(base + HEADER_LENGTH) {
            #[expect(clippy::cast_possible_truncation, reason = "shorter than the longest packet")]
            put_header(packet, base, TYPE_PADDING, padding as u16);
        }
        if let Some(keys) = keys {
            seal_base(packet, keys, KeyIndex::FIRST);
        }
        end
    }
}

/// Whether a session is one of a survey.
pub fn is_survey(session: u16) -> bool {
    matches!(session, SESSION_ROUTE | SESSION_MTU)
}

#[cfg(test)]
mod tests;
