//! The links from our region to every other one: what became of the probes, in which state each link is, and why. Pure.

pub mod disagree;
pub mod judge;
pub mod path;
pub mod streak;
mod survey;
pub mod tally;
pub mod variation;
mod walls;
pub mod window;

use std::collections::BTreeMap;
use std::ops::Add;
use std::time::Duration;

use lagmesh_model::catalogue::{
    Attribute, CLOCK_ERROR, LINK_DISAGREEMENT, LINK_FLOOR, LINK_FLOWS, LINK_ICMP_SOCKET, LINK_PHASE, LINK_PROBES, LINK_RTT,
    LINK_STAMPS, LINK_STATE, LINK_STRETCH,
};
use lagmesh_model::disagreement::Disagreement;
use lagmesh_model::fleet::{Agent, Fleet, Mesh, Region};
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::known::Known;
use lagmesh_model::series::{Attributes, Series, push_states};
use lagmesh_model::state::{IcmpSocket, LinkState, Outcome, ProbeKind};
use lagmesh_model::status::{Link, LinkKind, Losses};
use lagmesh_model::time::{Epoch, RawNanos, Reading};

use crate::link::disagree::{Hearing, Verdict, disagree};
use crate::link::judge::{AgentFlows, Evidence, Voice, judge};
use crate::link::path::Path;
use crate::link::survey::Surveyed;
use crate::link::tally::Counts;
use crate::link::walls::Walls;
use crate::link::window::{RECENT, Window, age_of};
use crate::measurement::{FlowChange, FlowId, PathChanged, PathMtu, PeerView, Probe, Route};

/// Beyond four times the 99th percentile, but at least this, an answer is overdue.
const PATIENCE_MIN: Duration = Duration::from_millis(200);
/// Why there is no ICMP, and what to do.
const MAY_NOT_PING: &str = "this agent may not send ICMP: give it CAP_NET_RAW, or its group a place in net.ipv4.ping_group_range";
/// Beyond how many 99th percentiles an answer is overdue.
const PATIENCE_FACTOR: u32 = 4;
/// Who is asked more rarely cannot say whether anybody is there now.
const WITNESS_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// All links of our region.
#[derive(Debug)]
pub struct Links {
    region: RegionName,
    mesh: Mesh,
    tracks: BTreeMap<RegionName, Track>,
    /// The epoch of our own clock to which all stamps belong.
    epoch: Option<Epoch>,
}

/// One link.
#[derive(Debug)]
struct Track {
    peer: RegionName,
    flows: BTreeMap<AgentName, Vec<Option<bool>>>,
    windows: Vec<Window>,
    path: Path,
    floor_s: Option<f64>,
    state: LinkState,
    why: String,
    /// Since when the state has been one in which loss is judged; what was sent before is history.
    loss_since: Option<RawNanos>,
    /// Since when each agent has answered; what was lost before is history.
    alive_since: BTreeMap<AgentName, RawNanos>,
    mixed_since: Option<RawNanos>,
    unknown_since: Option<RawNanos>,
    stalled_at: Option<RawNanos>,
    surveyed: Surveyed,
    /// What is to be held of each kind of probe.
    verdicts: Vec<(ProbeKind, Verdict)>,
    /// Through which socket ICMP echo is sent, once it is known.
    icmp_socket: Option<IcmpSocket>,
}

impl Links {
    /// The links of a region, nothing known about them.
    pub fn new(fleet: &Fleet, region: &RegionName) -> Links {
        let mut links = Links { region: region.clone(), mesh: fleet.mesh.clone(), tracks: BTreeMap::new(), epoch: None };
        links.reload(fleet);
        links
    }

    /// From now on this file is in force: links to who stays go on, those to who is gone end with all their series.
    pub fn reload(&mut self, fleet: &Fleet) {
        let (region, mesh) = (&self.region, &fleet.mesh);
        let track = |peer: &Region| {
            let mut track = self.tracks.remove(&peer.name).unwrap_or_else(|| Track::new(fleet, region, peer));
            track.reload(mesh, peer);
            (peer.name.clone(), track)
        };
        self.tracks = fleet.peers_of(region).map(track).collect();
        self.mesh = mesh.clone();
    }

    /// The fate of a probe.
    pub fn record_probe(&mut self, probe: &Probe) {
        let epoch = *self.epoch.get_or_insert(probe.at.epoch);
        let Some(link) = self.tracks.get_mut(&probe.peer) else { return };
        let Some(window) = link.windows.iter_mut().find(|window| window.kind() == probe.kind) else { return };
        window.record_total(probe);
        link.path.record(probe, probe.at.epoch == epoch);
        // A stamp of another epoch says nothing about now.
        if probe.at.epoch == epoch {
            window.record_recent(probe);
            if probe.outcome == Outcome::Skipped {
                link.stalled_at = link.stalled_at.max(Some(probe.at.raw));
            }
        }
    }

    /// A flow came alive or died.
    pub fn record_flow(&mut self, change: &FlowChange) {
        let flows = self.tracks.get_mut(&change.flow.peer).and_then(|link| link.flows.get_mut(&change.flow.agent));
        if let Some(alive) = flows.and_then(|flows| flows.get_mut(usize::from(change.flow.index))) {
            *alive = change.alive;
        }
    }

    /// In which directions some probes to a region were lost.
    pub fn record_losses(&mut self, peer: &RegionName, losses: Losses) {
        if let Some(link) = self.tracks.get_mut(peer) {
            let at = link.window(ProbeKind::Stamp).and_then(Window::evidence_at);
            link.path.record_losses(losses, at);
        }
    }

    /// The path of a flow has changed.
    pub fn record_path_change(&mut self, change: &PathChanged) {
        if let Some(link) = self.tracks.get_mut(&change.flow.peer) {
            link.path.record_change(change);
        }
    }

    /// The flows to an agent leave from other ports.
    pub fn record_move(&mut self, peer: &RegionName, agent: &AgentName) {
        if let Some(link) = self.tracks.get_mut(peer) {
            link.path.moved(agent);
        }
    }

    /// The route of a flow was found.
    pub fn record_route(&mut self, flow: FlowId, route: Route) {
        if let Some(link) = self.tracks.get_mut(&flow.peer) {
            link.surveyed.record_route(flow, route);
        }
    }

    /// The longest packet to an agent was found.
    pub fn record_mtu(&mut self, peer: &RegionName, agent: AgentName, mtu: PathMtu) {
        if let Some(link) = self.tracks.get_mut(peer) {
            link.surveyed.record_mtu(agent, mtu);
        }
    }

    /// Through which socket ICMP echo is sent to a peer.
    pub fn record_icmp_socket(&mut self, peer: &RegionName, socket: IcmpSocket) {
        if let Some(link) = self.tracks.get_mut(peer) {
            link.icmp_socket = Some(socket);
        }
    }

    /// Brings the states up to date.
    pub fn step(&mut self, now: Reading, view: &PeerView) {
        self.enter(now.epoch);
        self.tracks.values_mut().for_each(|link| link.step(&self.mesh, now.raw, view));
    }

    /// What to show.
    pub fn status(&mut self, now: Reading, view: &PeerView) -> Vec<Link> {
        self.enter(now.epoch);
        let (region, mesh) = (&self.region, &self.mesh);
        self.tracks.values_mut().map(|link| link.status(region, mesh, now, view)).collect()
    }

    /// What to export. What is unknown has no series; the state always has.
    pub fn series(&mut self, now: Reading, view: &PeerView, out: &mut Vec<Series>) {
        self.enter(now.epoch);
        for link in self.tracks.values_mut() {
            link.step(&self.mesh, now.raw, view);
            let attributes = Attributes::new().with(Attribute::Region, &self.region).with(Attribute::Peer, &link.peer);
            link.push_probes(&attributes, out);
            link.path.series(now.raw, link.is_probed(), &attributes, out);
            link.surveyed.series(&attributes, now.raw, out);
            push_states(out, &LINK_STATE, &attributes, LinkState::ALL, link.state);
            link.push_verdicts(&attributes, out);
            if let Some((alive, dead)) = link.known_flows() {
                for (word, count) in [("alive", alive), ("dead", dead)] {
                    out.push(Series::gauge(&LINK_FLOWS, attributes.clone().with(Attribute::State, word), count as f64));
                }
            }
            if let Some(floor_s) = link.floor_s {
                out.push(Series::gauge(&LINK_FLOOR, attributes.clone(), floor_s));
                if let Some(rtt) =
                    link.window(ProbeKind::Stamp).map(|window| window.rtt(now.raw)).as_ref().and_then(Known::current)
                {
                    out.push(Series::gauge(&LINK_STRETCH, attributes.clone(), rtt.min_s / floor_s));
                }
            }
            if let Some(error_s) = link.clock_error_s(now, view).current() {
                out.push(Series::gauge(&CLOCK_ERROR, attributes.clone(), *error_s));
            }
            link.walls(now, view).series(&attributes, out);
        }
    }

    /// Every agent that is probed, with its region.
    pub fn peer_agents(&self) -> impl Iterator<Item = (&RegionName, &AgentName)> {
        self.tracks.values().flat_map(|link| link.flows.keys().map(|agent| (&link.peer, agent)))
    }

    /// Nothing is combined across two epochs of our own clock.
    fn enter(&mut self, epoch: Epoch) {
        if self.epoch.replace(epoch).is_some_and(|before| before != epoch) {
            self.tracks.values_mut().for_each(Track::new_epoch);
        }
    }
}

impl Track {
    fn new(fleet: &Fleet, region: &RegionName, peer: &Region) -> Track {
        Track {
            peer: peer.name.clone(),
            flows: BTreeMap::new(),
            windows: Vec::new(),
            path: Path::new(fleet.mesh.interval),
            floor_s: fleet.soft_floor_s(region, &peer.name).filter(|floor_s| *floor_s > 0.0),
            state: LinkState::Unknown,
            why: format!("no probe to {} is settled yet", peer.name),
            loss_since: None,
            alive_since: BTreeMap::new(),
            mixed_since: None,
            unknown_since: None,
            stalled_at: None,
            surveyed: Surveyed::default(),
            verdicts: Vec::new(),
            icmp_socket: None,
        }
    }

    /// Follows who stands in the peer region and how it is asked.
    fn reload(&mut self, mesh: &Mesh, peer: &Region) {
        let flows = |agent: &Agent| {
            let unknown = || vec![None; usize::from(mesh.flows)];
            (agent.name.clone(), self.flows.remove(&agent.name).unwrap_or_else(unknown))
        };
        self.flows = peer.agents.iter().map(flows).collect();
        self.path.reload(self.flows.keys(), mesh.flows);
        self.alive_since.retain(|agent, _| self.flows.contains_key(agent));
        self.surveyed.retain(|agent| self.flows.contains_key(agent));
        let mut before = std::mem::take(&mut self.windows);
        let window = |kind: &ProbeKind| {
            let place = before.iter().position(|window| window.kind() == *kind);
            let new = || Window::new(*kind, mesh.interval_of(*kind), mesh.give_up_of(*kind));
            place.map_or_else(new, |place| before.swap_remove(place))
        };
        self.windows = ProbeKind::ALL.iter().filter(|kind| mesh.asks(**kind, peer, true)).map(window).collect();
    }

    fn window(&self, kind: ProbeKind) -> Option<&Window> {
        self.windows.iter().find(|window| window.kind() == kind)
    }

    /// Whether any probe of the mesh was made.
    fn is_probed(&self) -> bool {
        self.window(ProbeKind::Stamp).is_some_and(|window| window.outcomes().is_some())
    }

    /// Forgets all stamps; the state stays until it is clear what has become of it.
    fn new_epoch(&mut self) {
        self.windows.iter_mut().for_each(Window::new_epoch);
        self.path.new_epoch();
        self.alive_since.clear();
        self.surveyed.new_epoch();
        (self.loss_since, self.mixed_since, self.unknown_since, self.stalled_at) = (None, None, None, None);
    }

    fn agents(&self) -> Vec<AgentFlows> {
        let count = |flows: &[Option<bool>], wanted: bool| flows.iter().filter(|alive| **alive == Some(wanted)).count() as u64;
        let agent = |(agent, flows): (&AgentName, &Vec<Option<bool>>)| AgentFlows {
            agent: agent.clone(),
            alive: count(flows, true),
            dead: count(flows, false),
            all: flows.len() as u64,
        };
        self.flows.iter().map(agent).collect()
    }

    /// Flows alive and dead; `None` if nothing is known about any.
    fn known_flows(&self) -> Option<(u64, u64)> {
        let (alive, dead) = self.agents().iter().fold((0, 0), |(alive, dead), flows| (alive + flows.alive, dead + flows.dead));
        (alive + dead > 0).then_some((alive, dead))
    }

    /// Brings the state up to date. Calling it again at the same moment changes nothing.
    fn step(&mut self, mesh: &Mesh, now: RawNanos, view: &PeerView) {
        let agents = self.agents();
        let known = self.known_flows();
        let since = |holds: bool, since: Option<RawNanos>| if holds { since.or(Some(now)) } else { None };
        self.mixed_since = since(known.is_some_and(|(alive, dead)| alive > 0 && dead > 0), self.mixed_since);
        self.unknown_since = since(known.is_none(), self.unknown_since);
        let others: Vec<(ProbeKind, Voice)> = self.others(mesh, now, known);
        self.note_who_answers(&agents, now);
        let recent = if is_judged_by_loss(self.state) { self.recent(now) } else { Counts::default() };
        let stamp = self.window(ProbeKind::Stamp);
        let age = |at: Option<RawNanos>| at.map(|at| age_of(at, now));
        let evidence = Evidence {
            peer: self.peer.as_str(),
            agents: &agents,
            mixed_for: age(self.mixed_since),
            answered: age(stamp.and_then(Window::answered_at)),
            refused: age(stamp.and_then(Window::refused_at)),
            unresolved: age(stamp.and_then(Window::unresolved_at)),
            heard: age(self.heard_unasked(view)),
            unknown_for: age(self.unknown_since),
            others: &others,
            recent,
            before: self.state,
            mesh,
        };
        let (state, why) = judge(&evidence);
        let state = state.unwrap_or(self.state);
        if is_judged_by_loss(state) && !is_judged_by_loss(self.state) {
            self.loss_since = Some(now);
        }
        (self.state, self.why) = (state, why);
        self.verdicts = disagree(&self.hearings(now));
    }

    fn hearings(&self, now: RawNanos) -> Vec<Hearing> {
        let hearing = |window: &Window| {
            let (kind, (streak, current)) = (window.kind(), window.streak(now));
            Hearing { kind, streak, current, failing: self.verdicts.contains(&(kind, Verdict::Fails)) }
        };
        self.windows.iter().map(hearing).collect()
    }

    fn disagreement(&self) -> Option<Disagreement> {
        let of = |wanted: Verdict| -> Vec<ProbeKind> {
            self.verdicts.iter().filter(|(_, verdict)| *verdict == wanted).map(|(kind, _)| *kind).collect()
        };
        Disagreement::of(&of(Verdict::Fails), &of(Verdict::Works))
    }

    /// When the newest packet of the peer came, if that was after the newest answer.
    fn heard_unasked(&self, view: &PeerView) -> Option<RawNanos> {
        let answered = self.window(ProbeKind::Stamp).and_then(Window::answered_at);
        let heard = self.flows.keys().filter_map(|agent| view.heard.get(agent)).max().copied();
        heard.filter(|heard| answered.is_none_or(|answered| answered < *heard))
    }

    fn note_who_answers(&mut self, agents: &[AgentFlows], now: RawNanos) {
        for AgentFlows { agent, alive, .. } in agents {
            if *alive > 0 {
                self.alive_since.entry(agent.clone()).or_insert(now);
            } else {
                self.alive_since.remove(agent);
            }
        }
    }

    /// The probes by which loss is judged: those to agents that answer. What is sent to one that is gone is lost for that reason.
    fn recent(&self, now: RawNanos) -> Counts {
        let Some(stamp) = self.window(ProbeKind::Stamp) else { return Counts::default() };
        let to = |(agent, since): (&AgentName, &RawNanos)| stamp.recent_to(agent, now, self.loss_since.max(Some(*since)));
        self.alive_since.iter().map(to).fold(Counts::default(), Add::add)
    }

    /// What the other kinds say. Asked only if no flow answers: else it decides nothing.
    fn others(&self, mesh: &Mesh, now: RawNanos, known: Option<(u64, u64)>) -> Vec<(ProbeKind, Voice)> {
        if known.is_some_and(|(alive, _)| alive > 0) {
            return Vec::new();
        }
        let stamp_answered = self.window(ProbeKind::Stamp).and_then(Window::answered_at);
        let quick = mesh.interval_of(ProbeKind::Tcp);
        let voice = |window: &Window| {
            if window.evidence_at().is_none() {
                return Voice::Unmeasured;
            }
            let interval = mesh.interval_of(window.kind());
            let newest = window.answered_at().max(window.refused_at());
            // Where the interval is long, an answer from before the flows fell silent would hold up the news of an outage.
            let newest = newest.filter(|at| interval <= quick || stamp_answered.is_none_or(|last| last < *at));
            let Some(newest) = newest else { return Voice::Silent };
            let patience =
                window.p99(now).map_or(mesh.deadline, |p99| (p99 * PATIENCE_FACTOR).max(PATIENCE_MIN).min(mesh.deadline));
            // Our own stall is no silence of theirs: the wait begins anew after it.
            let waited_since = self.stalled_at.map_or(newest, |stalled_at| stalled_at.max(newest));
            if age_of(waited_since, now) <= interval * 2 + patience { Voice::Answers(age_of(newest, now)) } else { Voice::Silent }
        };
        self.windows
            .iter()
            .filter(|window| window.kind() != ProbeKind::Stamp)
            .filter(|window| mesh.interval_of(window.kind()) <= quick.max(WITNESS_INTERVAL_MAX))
            .map(|window| (window.kind(), voice(window)))
            .collect()
    }

    fn status(&mut self, region: &RegionName, mesh: &Mesh, now: Reading, view: &PeerView) -> Link {
        self.step(mesh, now.raw, view);
        let kind = |window: &Window| {
            let (kind, stamps) = (window.kind(), window.recent_stamps(now.raw));
            let Counts { settled, answered } = window.recent(now.raw);
            let socket = self.icmp_socket.filter(|_| kind == ProbeKind::Icmp);
            let rtt = match socket {
                Some(IcmpSocket::None) => Known::unknown(MAY_NOT_PING),
                _ => window.rtt(now.raw),
            };
            LinkKind { kind, rtt, settled, answered, stamps, phases: window.recent_phases(now.raw), socket }
        };
        let evidence_at = self.windows.iter().filter_map(Window::evidence_at).max();
        let age_s = evidence_at.map(|at| age_of(at, now.raw).as_secs_f64());
        let walls = self.walls(now, view);
        Link {
            region: region.clone(),
            peer: self.peer.clone(),
            state: self.state,
            why: self.why.clone(),
            flows_alive: Known::from_option(self.known_flows().map(|(alive, _)| alive), &self.why),
            flows: self.flows.values().map(|flows| flows.len() as u64).sum(),
            floor_s: self.floor_s,
            kinds: self.windows.iter().map(kind).collect(),
            path: self.path.status(now.raw, self.is_probed()),
            disagreement: self.disagreement(),
            clock_error_s: self.clock_error_s(now, view),
            wall_offset_s: walls.offset_s(&self.peer),
            clock_contradiction: walls.contradiction.map(|contradiction| contradiction.words(self.peer.as_str())),
            mtu_bytes: self.surveyed.mtu_bytes(now.raw),
            route: self.surveyed.route(now.raw),
            evidence_age_s: Known::from_option(age_s, "no probe is settled yet"),
        }
    }

    fn push_probes(&self, attributes: &Attributes, out: &mut Vec<Series>) {
        for window in &self.windows {
            for (source, round_trips) in window.stamps() {
                out.push(Series::counter(&LINK_STAMPS, attributes.clone().with(Attribute::Stamps, source), *round_trips));
            }
            let attributes = attributes.clone().with(Attribute::Kind, window.kind());
            for (outcome, count) in window.outcomes().unwrap_or_default() {
                out.push(Series::counter(&LINK_PROBES, attributes.clone().with(Attribute::Outcome, outcome), *count));
            }
            for (phase, took) in window.phases() {
                let attributes = attributes.clone().with(Attribute::Phase, phase);
                out.push(Series::histogram(&LINK_PHASE, attributes, took.clone()));
            }
            if !window.total().is_empty() {
                out.push(Series::histogram(&LINK_RTT, attributes, window.total().clone()));
            }
        }
    }

    fn push_verdicts(&self, attributes: &Attributes, out: &mut Vec<Series>) {
        for (kind, verdict) in &self.verdicts {
            let value = match verdict {
                Verdict::Works => 0.0,
                Verdict::Fails => 1.0,
                Verdict::Unclear => continue,
            };
            out.push(Series::gauge(&LINK_DISAGREEMENT, attributes.clone().with(Attribute::Kind, kind), value));
        }
        if let Some(socket) = self.icmp_socket {
            push_states(out, &LINK_ICMP_SOCKET, attributes, IcmpSocket::ALL, socket);
        }
    }

    fn walls(&self, now: Reading, view: &PeerView) -> Walls {
        Walls::of(self.flows.keys(), now, view)
    }

    /// Half the width of the narrowest interval to any agent of the peer: current while that agent was heard within a minute.
    fn clock_error_s(&self, now: Reading, view: &PeerView) -> Known<f64> {
        let error = |agent: &AgentName| {
            let clock = view.clocks.get(agent).filter(|clock| clock.own_epoch == now.epoch)?;
            let age = age_of(*view.heard.get(agent)?, now.raw);
            Some((clock.offset_at(now.raw).width_ns() as f64 / 2e9, age))
        };
        let narrowest = self.flows.keys().filter_map(error).min_by(|a, b| a.0.total_cmp(&b.0));
        match narrowest {
            Some((value, age)) if age <= RECENT => Known::Known { value },
            Some((value, age)) => Known::Stale { value, age_s: age.as_secs_f64() },
            None => Known::unknown(format!("no exchange of clock stamps with {} yet", self.peer)),
        }
    }
}

/// In all other states loss has a known cause; what was lost then is history once the link is well again.
fn is_judged_by_loss(state: LinkState) -> bool {
    matches!(state, LinkState::Ok | LinkState::Lossy)
}

#[cfg(test)]
mod tests;
