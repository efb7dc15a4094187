//! One peer agent as we probe it: its flows, its clock, its packets. Pure.

mod answer;
mod packet;

use std::net::IpAddr;
use std::time::Duration;

use lagmesh_model::fleet::Fleet;
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::state::{Outcome, ProbeKind, RouteCause, StampSource};
use lagmesh_model::status::Losses;
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos, nanos};

use crate::measurement::{FlowChange, FlowId, Observation, PathSample, PeerClock, Probe};
use crate::mesh::flow::{Fate, Flow, Timing};
use crate::mesh::flow_path::FlowPath;
use crate::mesh::held::Held;
use crate::mesh::kernel::StampClock;
use crate::mesh::keys::MeshKeys;
use crate::mesh::offset::OffsetWindow;
pub use crate::mesh::peer::answer::{Came, Told};
pub use crate::mesh::peer::packet::PACKET_MAX;
use crate::mesh::schedule::{Every, phase, round_of, to_round};
use crate::mesh::stamp::Timestamp;
use crate::mesh::survey::{Errand, SURVEY_MAX, Survey, headers_length};
use crate::mesh::tlv::AgentHash;

/// So many flows that all miss an answer are a cut.
const CUT_FLOWS_MIN: usize = 8;
/// How often the directions of losses are told.
const LOSSES_EVERY: Duration = Duration::from_secs(1);
/// For how many intervals a refusal counts.
const REFUSAL_INTERVALS: u64 = 3;

/// One peer agent.
#[derive(Debug)]
pub struct Peer {
    /// Its region.
    pub region: RegionName,
    /// Its name.
    pub agent: AgentName,
    /// Its name on the wire.
    pub hash: AgentHash,
    timing: Timing,
    flows: Vec<Flow>,
    /// When the next probe is due.
    next_probe: RawNanos,
    paths: Vec<FlowPath>,
    /// By flow: its newest answer, as long as the reflector's word on it is awaited.
    held: Vec<Held>,
    /// What was last said about each flow.
    said: Vec<Option<bool>>,
    /// Whether that came of all flows together: the peer refuses, or is cut off.
    said_of_all: bool,
    /// Some of that was not heard.
    say_again: bool,
    offset: OffsetWindow,
    own_epoch: Epoch,
    refused_at: Option<RawNanos>,
    telling_losses: Every,
    fates: Vec<Fate>,
    survey: Survey,
    /// Where it was found.
    address: Option<IpAddr>,
    /// What becomes of its probes as long as it has no sockets.
    nowhere: Outcome,
}

impl Peer {
    /// A peer whose flows start within one interval from `now`, spread evenly from a hashed phase on.
    pub fn new(fleet: &Fleet, own: (&RegionName, &AgentName), peer: (&RegionName, &AgentName), now: Reading) -> Peer {
        let mesh = &fleet.mesh;
        let timing = Timing { interval: mesh.interval, deadline: mesh.deadline, give_up: mesh.give_up };
        let first = phase(&[own.1.as_str(), peer.1.as_str()], mesh.interval);
        let flow = |index: u16| {
            let spread = mesh.interval * u32::from(index) / u32::from(mesh.flows.max(1));
            let due = Duration::from_nanos(nanos(first + spread) % nanos(mesh.interval).max(1));
            Flow::new(timing, now.raw, to_round(now.raw, due, round_of(mesh.interval)))
        };
        let flows: Vec<Flow> = (0..mesh.flows).map(flow).collect();
        Peer {
            region: peer.0.clone(),
            agent: peer.1.clone(),
            hash: AgentHash::of(peer.1),
            timing,
            next_probe: earliest(&flows),
            flows,
            paths: (0..mesh.flows).map(|_| FlowPath::default()).collect(),
            held: (0..mesh.flows).map(|_| Held::default()).collect(),
            said: vec![None; usize::from(mesh.flows)],
            said_of_all: false,
            say_again: false,
            offset: OffsetWindow::new(fleet.one_way_floor_ns(own.0, peer.0)),
            own_epoch: now.epoch,
            refused_at: None,
            telling_losses: Every::new(LOSSES_EVERY, now.raw),
            fates: Vec::new(),
            survey: Survey::new(now.raw, mesh.deadline),
            address: None,
            nowhere: Outcome::Unresolved,
        }
    }

    /// It was found at an address, where it was not before: the probes leave from other ports from now on.
    pub fn found(&mut self, address: IpAddr, out: &mut Vec<Observation>) {
        self.tell_held(out);
        if self.is_alive() {
            // What is out will be answered to ports that are closed.
            self.flows.iter_mut().for_each(Flow::on_stall);
        }
        self.address = Some(address);
        self.flows.iter_mut().for_each(Flow::moved);
        self.paths.iter_mut().for_each(|path| *path = FlowPath::default());
        out.push(Observation::Moved(self.region.clone(), self.agent.clone()));
    }

    /// It is not to be found where it was before: what is out accuses nobody.
    pub fn lost_sight(&mut self, out: &mut Vec<Observation>) {
        self.tell_held(out);
        self.address = None;
        self.flows.iter_mut().for_each(Flow::on_stall);
    }

    /// Why it has no sockets, as what becomes of its probes.
    pub fn is_nowhere(&mut self, nowhere: Outcome) {
        self.nowhere = nowhere;
    }

    /// What becomes of its probes as long as it has no sockets.
    pub fn nowhere(&self) -> Outcome {
        self.nowhere
    }

    /// How many flows it has.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Whether any probe of a flow is still out.
    pub fn awaits(&self, flow: usize) -> bool {
        self.flows[flow].awaits()
    }

    /// Whether any flow is known to answer.
    pub fn is_alive(&self) -> bool {
        self.flows.iter().any(|flow| flow.alive() == Some(true))
    }

    /// When the next probe is due.
    pub fn next_probe(&self) -> RawNanos {
        self.next_probe
    }

    /// Its clock for the moment `now`; `None` as long as nothing is known about it.
    pub fn clock(&self, now: RawNanos) -> Option<PeerClock> {
        let (own_epoch, epoch, offset) = self.offset.at(now)?;
        Some(PeerClock { epoch, own_epoch, offset, at: now })
    }

    /// Time has passed: must come before anything else that happened since the last call, so that a stall of our own host is
    /// noticed before answers that waited through it are judged. Nothing is overdue by it: see [`Peer::judge`].
    pub fn wake(&mut self, now: Reading, out: &mut Vec<Observation>) {
        let mut fates = std::mem::take(&mut self.fates);
        if now.epoch != self.own_epoch {
            self.tell_held(out);
            self.own_epoch = now.epoch;
            self.refused_at = None;
            self.flows.iter_mut().for_each(|flow| flow.on_new_epoch(now.raw, &mut fates));
            self.next_probe = earliest(&self.flows);
            self.survey.on_new_epoch(now.raw);
            self.paths.iter_mut().for_each(FlowPath::on_new_epoch);
        } else if self.next_probe < now.raw && self.flows.iter().any(|flow| flow.is_stalled(now.raw)) {
            self.flows.iter_mut().for_each(Flow::on_stall);
        } else {
            self.fates = fates;
            return;
        }
        self.tell(fates, now, out);
    }

    /// All that had come by `read` has been read: what is overdue by then is overdue.
    pub fn judge(&mut self, read: RawNanos, now: Reading, out: &mut Vec<Observation>) {
        let mut fates = std::mem::take(&mut self.fates);
        for index in 0..self.flows.len() {
            let flow = &mut self.flows[index];
            flow.on_tick(read, &mut fates);
            if let Some(measured) = self.held[index].overdue(read, self.timing.interval, || flow.patience()) {
                self.tell_measured(index, &measured, out);
            }
        }
        self.tell(fates, now, out);
        if self.telling_losses.is_due(read) {
            self.telling_losses = self.telling_losses.done(read);
            self.tell_losses(read, out);
        }
    }

    /// Says in which directions probes were lost. That is known long after they were sent, and need not be told at once.
    fn tell_losses(&mut self, read: RawNanos, out: &mut Vec<Observation>) {
        let mut losses = Losses::default();
        self.flows.iter_mut().for_each(|flow| losses += flow.losses(read));
        if losses.total() > 0 {
            out.push(Observation::Losses(self.region.clone(), losses));
        }
    }

    fn tell(&mut self, mut fates: Vec<Fate>, now: Reading, out: &mut Vec<Observation>) {
        for fate in fates.drain(..) {
            out.push(self.probe(fate, None, now));
        }
        self.fates = fates;
        self.say_changes(now, out);
    }

    /// Takes what is due: returns the flows on which a probe must be sent now.
    pub fn take_due(&mut self, now: Reading, due_flows: &mut Vec<usize>, lateness: &mut Exponential, out: &mut Vec<Observation>) {
        if self.next_probe > now.raw {
            return;
        }
        for index in 0..self.flows.len() {
            let Some(due) = self.flows[index].on_due(now.raw) else { continue };
            lateness.record_ns(nanos(due.lateness));
            for _ in 0..due.skipped {
                out.push(self.probe(Fate::of(Outcome::Skipped), None, now));
            }
            if due.send {
                due_flows.push(index);
            }
        }
        self.next_probe = earliest(&self.flows);
    }

    /// Something that was said of the flows was not heard: everything is said again.
    pub fn say_again(&mut self) {
        self.say_again = true;
    }

    /// The round-trip time of the flow's newest exchange [ns].
    pub fn newest_rtt_ns(&self, flow: usize) -> Option<u64> {
        self.flows[flow].newest_rtt_ns()
    }

    /// The packets of the survey that are to leave now.
    pub fn errands(&mut self, now: RawNanos, errands: &mut Vec<Errand>, out: &mut Vec<Observation>) {
        if self.survey.next_due() > now {
            return;
        }
        let alive = self.flows.iter().position(|flow| flow.alive() == Some(true));
        self.survey.on_tick(alive, now, errands);
        self.tell_survey(out);
    }

    /// Writes a packet of the survey; returns its length.
    pub fn write(&self, errand: &Errand, now: Reading, keys: Option<&MeshKeys>, packet: &mut [u8; SURVEY_MAX]) -> usize {
        errand.write(self.address.map_or(0, headers_length), now, keys, packet)
    }

    /// A packet of the survey could not leave.
    pub fn errand_not_sent(&mut self, errand: &Errand, too_long: bool, now: RawNanos) {
        self.survey.on_not_sent(errand, too_long, now);
    }

    /// The hop limit of a packet of a flow ran out at a router.
    pub fn on_expired(&mut self, flow: usize, from: IpAddr, now: RawNanos) {
        self.survey.on_expired(flow, from, now);
    }

    fn tell_survey(&mut self, out: &mut Vec<Observation>) {
        if let Some(route) = self.survey.route() {
            out.push(Observation::Route(self.flow_id(route.flow), route));
        }
        if let Some(mtu) = self.survey.mtu() {
            out.push(Observation::PathMtu { peer: self.region.clone(), agent: self.agent.clone(), mtu });
        }
    }

    /// The probe left, stamped with `sent`; returns its sequence number.
    pub fn sent(&mut self, flow: usize, sent: Reading, out: &mut Vec<Observation>) -> u32 {
        let sequence = self.flows[flow].next_sequence();
        if let Some(fate) = self.flows[flow].sent(sent.raw, Timestamp::ntp(sent.wall)) {
            out.push(self.probe(fate, None, sent));
        }
        sequence
    }

    /// The kernel stamped a probe that left.
    pub fn on_kernel_stamp(
        &mut self,
        flow: usize,
        sequence: u32,
        stamp: WallNanos,
        clock: &mut StampClock,
        out: &mut Vec<Observation>,
    ) {
        let Some(asked) = self.flows[flow].sent_at(sequence) else { return };
        match clock.sent(asked, stamp) {
            Ok(at) => self.flows[flow].on_kernel_stamp(sequence, at),
            Err(refusal) => out.push(Observation::StampRefused(refusal.as_str(), 1)),
        }
    }

    /// The probe could not leave.
    pub fn not_sent(&mut self, flow: usize, outcome: Outcome, now: Reading, out: &mut Vec<Observation>) {
        if outcome == Outcome::Unreachable {
            self.flows[flow].no_way();
        } else {
            self.flows[flow].on_no_evidence();
        }
        out.push(self.probe(Fate::of(outcome), None, now));
        self.say_changes(now, out);
    }

    /// The network answered a probe with an error; `sequence` says which, if the error quoted it.
    pub fn on_error(&mut self, flow: usize, outcome: Outcome, sequence: Option<u32>, now: Reading, out: &mut Vec<Observation>) {
        if let Some(fate) = self.flows[flow].on_error(outcome, sequence) {
            out.push(self.probe(fate, None, now));
        }
        if outcome == Outcome::Refused {
            self.refused_at = Some(now.raw);
            if let Some(address) = self.address {
                self.survey.on_refused(flow, address, now.raw);
            }
            self.flows.iter_mut().for_each(Flow::on_no_evidence);
        }
        self.say_changes(now, out);
    }

    fn flow_id(&self, flow: usize) -> FlowId {
        FlowId { peer: self.region.clone(), agent: self.agent.clone(), index: flow_index(flow) }
    }

    fn probe(&self, fate: Fate, answer: Option<(StampSource, PathSample)>, now: Reading) -> Observation {
        let Fate { outcome, rtt_ns } = fate;
        let (peer, agent) = (self.region.clone(), Some(self.agent.clone()));
        let (stamps, path) = answer.unzip();
        Observation::Probe(Probe {
            peer,
            agent,
            kind: ProbeKind::Stamp,
            outcome,
            rtt_ns,
            phases: Vec::new(),
            stamps,
            path,
            at: now,
        })
    }

    /// A refusal by one flow speaks for all: hosts send only so many of them.
    fn refuses(&self, now: RawNanos) -> bool {
        let counts_ns = nanos(self.timing.interval).saturating_mul(REFUSAL_INTERVALS).cast_signed();
        self.refused_at.is_some_and(|at| now.since_ns(at) <= counts_ns)
    }

    /// Whether every flow misses an answer and none came since: of so many flows not one gets through, which one lost packet each does
    /// not explain. A single flow is not called dead as soon.
    fn is_cut(&self) -> bool {
        self.flows.len() >= CUT_FLOWS_MIN && self.flows.iter().all(Flow::misses_answer)
    }

    fn say_changes(&mut self, now: Reading, out: &mut Vec<Observation>) {
        let (refuses, cut, say_again) = (self.refuses(now.raw), self.is_cut(), std::mem::take(&mut self.say_again));
        self.said_of_all = refuses || cut;
        for (index, (flow, said)) in (0_u16..).zip(self.flows.iter().zip(&mut self.said)) {
            let alive = match flow.alive() {
                _ if refuses => None,
                Some(_) if cut => Some(false),
                alive => alive,
            };
            if alive == Some(false) && alive != *said {
                self.survey.wish_route(usize::from(index), RouteCause::Dead, now.raw);
            }
            if alive != *said || say_again {
                *said = alive;
                let flow = FlowId { peer: self.region.clone(), agent: self.agent.clone(), index };
                out.push(Observation::Flow(FlowChange { flow, alive, at: now.raw }));
            }
        }
    }
}

/// When the first of them is due; never if there are none.
fn earliest(flows: &[Flow]) -> RawNanos {
    flows.iter().map(Flow::next_due).min().unwrap_or(RawNanos(u64::MAX))
}

/// A flow's place among those of its peer.
fn flow_index(flow: usize) -> u16 {
    u16::try_from(flow).expect("a peer has 64 flows at most")
}

#[cfg(test)]
mod tests;
