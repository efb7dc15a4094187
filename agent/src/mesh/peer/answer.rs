//! What comes back from a peer agent. Pure.

use std::time::Duration;

use lagmesh_model::directed::Directed;
use lagmesh_model::state::{Outcome, RouteCause};
use lagmesh_model::time::{RawNanos, Reading, WallNanos};

use super::{Peer, flow_index};
use crate::measurement::{Observation, PathChanged, PathSample};
use crate::mesh::direction::Reflected;
use crate::mesh::flow::{Answer, Fate, Settled};
use crate::mesh::held::Measured;
use crate::mesh::kernel::StampClock;
use crate::mesh::keys::MeshKeys;
use crate::mesh::offset::Exchange;
use crate::mesh::peer::packet::Opened;
use crate::mesh::survey::is_survey;
use crate::mesh::tlv::Record;

/// What a valid answer told us beside the measurement.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    /// Whether the agent was recognised.
    pub recognised: bool,
    /// Its records.
    pub records: Vec<Record>,
    /// From the sending of the request to the coming of the answer.
    pub took: Duration,
}

/// What came back at a flow's socket.
#[derive(Debug, Clone, Copy)]
pub struct Came<'p> {
    /// The packet.
    pub packet: &'p [u8],
    /// The kernel's stamp of its arrival, if there is one.
    pub stamp: Option<WallNanos>,
    /// The hop limit with which it arrived, if that is known.
    pub hops: Option<u8>,
    /// Whether it was taken in as soon as it came: else it may have waited until the next round.
    pub prompt: bool,
}

impl Peer {
    /// A packet came back on a flow's connected socket.
    pub fn on_packet(
        &mut self,
        flow: usize,
        Came { packet, stamp, hops, prompt }: Came<'_>,
        (now, stamps): (Reading, &mut StampClock),
        keys: Option<&MeshKeys>,
        out: &mut Vec<Observation>,
    ) -> Told {
        let Opened { reply, clock, records, follow_up } = match self.open(packet, keys) {
            Ok(opened) => opened,
            Err(reason) => return unwanted(reason, out),
        };
        if let Some(address) = self.address.filter(|_| is_survey(reply.session)) {
            self.survey.on_answer(flow, address, &reply, now.raw);
            self.tell_survey(out);
            return Told::default();
        }
        let dwell_ns = match &clock {
            Some(clock) => Some(clock.t3.since_ns(clock.t2)),
            None => reply.dwell_ns(),
        };
        let sequence = reply.sender_sequence;
        let arrived = self.flows[flow].sent_at(sequence).zip(stamp).map(|(sent, stamp)| stamps.received(sent, stamp));
        let (at, at_by_kernel) = (arrived.and_then(Result::ok).unwrap_or(now.raw), matches!(arrived, Some(Ok(_))));
        let reflected = clock.map(|clock| Reflected { run: clock.epoch.0, number: reply.sequence });
        let answer = Answer { sequence, echo: reply.sender_timestamp, dwell_ns, at, at_by_kernel, reflected };
        let (fate, sent, stamps) = match self.flows[flow].on_answer(&answer) {
            // Without a stamp of the kernel only who was waiting for it knows how long it took.
            Settled::Fate { fate, sent, stamps } if !at_by_kernel && !prompt => (Fate { rtt_ns: None, ..fate }, sent, stamps),
            Settled::Fate { fate, sent, stamps } => (fate, sent, stamps),
            Settled::Duplicate => return unwanted("duplicate", out),
            Settled::NotAwaited => return unwanted("not-awaited", out),
        };
        // Before anything that is new of the peer's clock: that may be another one by now.
        if let Some(measured) = self.held[flow].follow_up(follow_up) {
            self.tell_measured(flow, &measured, out);
        }
        out.extend(arrived.and_then(Result::err).map(|refusal| Observation::StampRefused(refusal.as_str(), 1)));
        let believed = clock.filter(|_| fate.outcome != Outcome::Corrupt);
        let exchange = believed.map(|clock| Exchange { t1: sent, t2: clock.t2, t3: clock.t3, t4: at });
        if let Some((clock, exchange)) = believed.zip(exchange)
            && self.offset.record(now.epoch, clock.epoch, &exchange).is_err()
        {
            out.push(Observation::ClockContradiction(self.agent.clone()));
        }
        let measured = Measured {
            fate,
            stamps,
            exchange,
            hop_limits: Directed { forward: Some(reply.sender_hops).filter(|hops| *hops > 0), backward: hops },
            number: reply.sequence,
            answered: (reply.timestamp, reply.error.format),
            at: now,
        };
        if let Some(measured) = self.held[flow].hold(measured, follow_up, self.timing.interval) {
            self.tell_measured(flow, &measured, out);
        }
        if fate.outcome == Outcome::Corrupt {
            return Told::default();
        }
        self.refused_at = None;
        if self.said[flow] != Some(true) || self.said_of_all || self.say_again {
            self.say_changes(now, out);
        }
        Told { recognised: believed.is_some(), records, took: at.checked_since(sent).unwrap_or_default() }
    }

    /// Tells of an answered probe.
    pub(super) fn tell_measured(&mut self, flow: usize, measured: &Measured, out: &mut Vec<Observation>) {
        let Measured { fate, stamps, exchange, hop_limits, at, .. } = *measured;
        let oneway = exchange.and_then(|exchange| self.offset.one_way(&exchange));
        self.note_path(flow, fate.rtt_ns, hop_limits, at.raw, out);
        let path = PathSample { flow: flow_index(flow), oneway, hops: self.paths[flow].hops() };
        out.push(self.probe(fate, fate.rtt_ns.map(|_| (stamps, path)), at));
    }

    /// How many answered probes still wait for the reflector's word.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn waiting(&self) -> usize {
        self.held.iter().filter(|held| held.waits()).count()
    }

    /// Tells of what still waits for the reflector's word: that will not come any more.
    pub(super) fn tell_held(&mut self, out: &mut Vec<Observation>) {
        for flow in 0..self.held.len() {
            if let Some(measured) = self.held[flow].give_up() {
                self.tell_measured(flow, &measured, out);
            }
        }
    }

    /// An answer may show that the path of its flow is another one than before: then its route is wanted.
    fn note_path(
        &mut self,
        flow: usize,
        rtt_ns: Option<u64>,
        hop_limits: Directed<Option<u8>>,
        at: RawNanos,
        out: &mut Vec<Observation>,
    ) {
        let Some(rtt_ns) = rtt_ns else { return };
        for what in self.paths[flow].on_answer(at, rtt_ns, hop_limits) {
            self.survey.wish_route(flow, RouteCause::Changed, at);
            out.push(Observation::PathChanged(PathChanged { flow: self.flow_id(flow), what, at }));
        }
    }
}

/// An answer that settles nothing, and why.
fn unwanted(reason: &'static str, out: &mut Vec<Observation>) -> Told {
    out.push(Observation::MeshDropped(reason, 1));
    Told::default()
}
