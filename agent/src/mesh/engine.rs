//! All the pure parts of the mesh behind one face, for the shell that owns the sockets. Pure.
//!
//! Peers are called by numbers. A number is given once only: whoever still holds that of a peer that is gone finds nobody.

mod reload;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::clock::{Bracket, ClockClaim};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::state::Outcome;
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos, nanos};

use crate::measurement::{Observation, Outbox, PeerView};
use crate::mesh::budget::Budget;
use crate::mesh::bulletin::Bulletin;
use crate::mesh::hearing::{Directory, Hearing};
use crate::mesh::kernel::StampClock;
use crate::mesh::keys::MeshKeys;
use crate::mesh::peer::{Came, PACKET_MAX, Peer, Told};
use crate::mesh::reflector::{Accepted, Answered, Origin, Reflector};
use crate::mesh::schedule::{Every, round_of};
use crate::mesh::stamp::ErrorEstimate;
use crate::mesh::survey::{Errand, SURVEY_MAX};
use crate::mesh::tlv::{AgentHash, RECORDS_PER_PACKET, Record};
use crate::wall::{HeardWall, WallClock};
pub use reload::Reloaded;

/// A source may send at least so many packets a second [1/s]; more if the fleet's own cadence is higher.
const SOURCE_RATE_MIN: u64 = 200;
/// How far above the fleet's own cadence a source may be: several agents may share an address.
const SOURCE_RATE_FACTOR: u64 = 4;

/// How often each peer agent is told of our wall clock.
const TELL_WALL_EVERY: Duration = Duration::from_secs(1);

/// What a socket says of when a packet came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The kernel's stamp, if there is one.
    pub stamp: Option<WallNanos>,
    /// When nothing waited there for the last time; `None` if that was never so.
    pub empty: Option<RawNanos>,
}

/// The mesh without its sockets.
#[derive(Debug)]
pub struct Engine {
    fleet: Arc<Fleet>,
    region: RegionName,
    agent: AgentName,
    own: AgentHash,
    /// How far our wall clock may be off, as our host claims.
    error: ErrorEstimate,
    claim: Option<ClockClaim>,
    /// Our wall clock as of the newest reading.
    wall: Option<WallClock>,
    /// When each peer agent was told of it.
    telling_wall: BTreeMap<AgentHash, Every>,
    keys: Option<MeshKeys>,
    peers: BTreeMap<usize, Peer>,
    /// How many numbers were given.
    numbered: usize,
    budget: Budget,
    reflector: Reflector,
    directory: Directory,
    hearing: Hearing,
    stamps: StampClock,
    /// The epoch of our clock to which all stamps in `hearing` belong.
    epoch: Epoch,
    bulletins: BTreeMap<RegionName, Bulletin>,
    heard: bool,
    news: bool,
    /// How late probes left of which nobody was told yet.
    lateness: Exponential,
    /// Requests dropped and stamps of requests refused that nobody was told of yet, by reason.
    dropped: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    out: Vec<Observation>,
}

impl Engine {
    /// The mesh of an agent, its first probes due within one interval from `now`.
    pub fn new(fleet: &Arc<Fleet>, region: &RegionName, agent: &AgentName, keys: Option<MeshKeys>, now: Reading) -> Engine {
        let own = AgentHash::of(agent);
        let mut engine = Engine {
            fleet: Arc::clone(fleet),
            region: region.clone(),
            agent: agent.clone(),
            own,
            error: ErrorEstimate::UNKNOWN,
            claim: None,
            wall: None,
            telling_wall: BTreeMap::new(),
            keys: keys.clone(),
            budget: Budget::new(0, fleet.mesh.interval, now.raw),
            peers: BTreeMap::new(),
            numbered: 0,
            reflector: Reflector::new(own, keys, fleet.mesh.third_party, source_rate_per_s(fleet)),
            directory: Directory::new(fleet, region),
            hearing: Hearing::new(Arc::clone(fleet), region.clone()),
            stamps: StampClock::default(),
            epoch: now.epoch,
            bulletins: BTreeMap::new(),
            heard: false,
            news: false,
            lateness: Exponential::new(),
            dropped: BTreeMap::new(),
            refused: BTreeMap::new(),
            out: Vec::new(),
        };
        engine.reload(fleet, now);
        engine
    }

    /// All peer agents, by number.
    pub fn peers(&self) -> &BTreeMap<usize, Peer> {
        &self.peers
    }

    /// How many flows a peer has; `None` if it is gone.
    pub fn flows(&self, peer: usize) -> Option<usize> {
        self.peers.get(&peer).map(Peer::flows)
    }

    /// Whether any flow of a peer is known to answer.
    pub fn is_alive(&self, peer: usize) -> bool {
        self.peers.get(&peer).is_some_and(Peer::is_alive)
    }

    /// What was observed since the last call.
    pub fn observations(&mut self) -> std::vec::Drain<'_, Observation> {
        self.out.drain(..)
    }

    /// What was said of the flows was not heard: everything is said again.
    pub fn say_again(&mut self) {
        self.peers.values_mut().for_each(Peer::say_again);
    }

    /// What our host claims about its wall clock; `None` if that is not known.
    pub fn claim(&mut self, claim: Option<ClockClaim>) {
        self.reflector.claim(claim);
        self.error = ErrorEstimate::of(claim);
        self.claim = claim;
    }

    /// From one round to the next.
    pub fn round(&self) -> Duration {
        round_of(self.fleet.mesh.interval)
    }

    /// The traffic class of probes: the DSCP of the fleet file.
    pub fn class(&self) -> u8 {
        self.fleet.mesh.dscp << 2
    }

    /// A peer agent was found at an address, where it was not before.
    pub fn found(&mut self, peer: usize, address: SocketAddr) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        self.directory.found(peer.hash, address);
        peer.found(address.ip(), &mut self.out);
    }

    /// A peer agent cannot be found: its name does not resolve, or no sockets can be opened towards it. As long as it has none, that
    /// becomes of its probes.
    pub fn not_found(&mut self, peer: usize, outcome: Outcome) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.is_nowhere(outcome);
        }
    }

    /// The sockets towards a peer agent were closed, and there are no others.
    pub fn lost_sight(&mut self, peer: usize) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            self.directory.lost_sight(peer.hash);
            peer.lost_sight(&mut self.out);
        }
    }

    /// Where other agents are.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.directory.addresses()
    }

    /// There is something else to tell.
    pub fn update(&mut self, outbox: &Outbox) {
        for (region, bulletin) in &mut self.bulletins {
            bulletin.update(&self.fleet, region, outbox);
        }
    }

    /// The clocks were read: must come before anything that happened since. Stamps of the kernel are converted by it.
    pub fn note(&mut self, reading: Bracket) {
        self.stamps.note(reading);
        self.wall = WallClock::of(&reading, self.claim);
    }

    /// Whether what comes must be taken in at once: stamps of the kernel are not believed at present, so the moment of taking in
    /// counts, or others than agents may ask, who may count how long we keep a request.
    pub fn is_eager(&self, now: RawNanos) -> bool {
        self.fleet.mesh.third_party || !self.stamps.is_believed(now)
    }

    /// Time has passed, and all that had come by `read` has been read; peers are judged by that if `judge` says so. Returns the probes
    /// that must be sent now, as peer and flow.
    pub fn due(&mut self, read: RawNanos, judge: bool, now: Reading) -> Vec<(usize, usize)> {
        let (mut sending, mut due) = (Vec::new(), Vec::new());
        let is_new = self.enter(now.epoch);
        for (&number, peer) in &mut self.peers {
            if !(judge || is_new || peer.next_probe() <= now.raw) {
                continue;
            }
            peer.wake(now, &mut self.out);
            if judge || is_new {
                peer.judge(read, now, &mut self.out);
            }
            peer.take_due(now, &mut due, &mut self.lateness, &mut self.out);
            for flow in due.drain(..) {
                if self.budget.take(now.raw) {
                    sending.push((number, flow));
                } else {
                    peer.not_sent(flow, Outcome::HeldBack, now, &mut self.out);
                }
            }
        }
        sending
    }

    /// The packets beside the probes that are to leave now, with their peers.
    pub fn errands(&mut self, now: Reading) -> Vec<(usize, Errand)> {
        let (mut all, mut errands) = (Vec::new(), Vec::new());
        for (&number, peer) in &mut self.peers {
            peer.errands(now.raw, &mut errands, &mut self.out);
            all.extend(errands.drain(..).map(|errand| (number, errand)));
        }
        all
    }

    /// Writes one of them; returns its length.
    pub fn write(&self, peer: usize, errand: &Errand, now: Reading, packet: &mut [u8; SURVEY_MAX]) -> usize {
        self.peers.get(&peer).map_or(0, |peer| peer.write(errand, now, self.keys.as_ref(), packet))
    }

    /// One of them could not leave; `too_long` if our own host says that it is longer than it can send.
    pub fn errand_not_sent(&mut self, peer: usize, errand: &Errand, too_long: bool, now: Reading) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.errand_not_sent(errand, too_long, now.raw);
        }
    }

    /// A router says that the hop limit of a packet ran out there.
    pub fn on_expired(&mut self, peer: usize, flow: usize, from: IpAddr, now: Reading) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.on_expired(flow, from, now.raw);
        }
    }

    /// Writes the next probe of a flow; returns its length.
    pub fn request(&mut self, peer: usize, flow: usize, now: Reading, packet: &mut [u8; PACKET_MAX]) -> usize {
        let Some(peer) = self.peers.get(&peer) else { return 0 };
        let bulletin = self.bulletins.get_mut(&peer.region);
        let records =
            bulletin.map(|bulletin| bulletin.next(RECORDS_PER_PACKET, now, peer.newest_rtt_ns(flow))).unwrap_or_default();
        peer.request(flow, (self.own, self.error), now, &records, self.keys.as_ref(), packet)
    }

    /// A probe left; returns its sequence number.
    pub fn sent(&mut self, peer: usize, flow: usize, sent: Reading) -> u32 {
        self.peers.get_mut(&peer).map_or(0, |peer| peer.sent(flow, sent, &mut self.out))
    }

    /// The kernel says when it sent a probe.
    pub fn on_kernel_stamp(&mut self, peer: usize, flow: usize, sequence: u32, stamp: WallNanos) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.on_kernel_stamp(flow, sequence, stamp, &mut self.stamps, &mut self.out);
        }
    }

    /// A probe could not leave.
    pub fn not_sent(&mut self, peer: usize, flow: usize, outcome: Outcome, now: Reading) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.not_sent(flow, outcome, now, &mut self.out);
        }
    }

    /// A probe could not leave because there is no socket for it.
    pub fn no_socket(&mut self, peer: usize, flow: usize, now: Reading) {
        if let Some(outcome) = self.peers.get(&peer).map(Peer::nowhere) {
            self.not_sent(peer, flow, outcome, now);
        }
    }

    /// The network answered a probe with an error.
    pub fn on_error(&mut self, peer: usize, flow: usize, outcome: Outcome, sequence: Option<u32>, now: Reading) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        peer.wake(now, &mut self.out);
        peer.on_error(flow, outcome, sequence, now, &mut self.out);
    }

    /// A packet came back.
    pub fn on_packet(&mut self, peer: usize, flow: usize, came: Came<'_>, now: Reading) {
        self.enter(now.epoch);
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        peer.wake(now, &mut self.out);
        let Told { recognised, records, took } =
            peer.on_packet(flow, came, (now, &mut self.stamps), self.keys.as_ref(), &mut self.out);
        if recognised {
            self.heard = true;
            let wall = records.iter().find_map(|record| if let Record::Wall(wall) = record { Some(*wall) } else { None });
            if let Some((peer_wall, own)) = wall.zip(self.wall) {
                self.hearing.hear_wall(&peer.agent, HeardWall { peer: peer_wall, own, at: now.raw, took });
            }
            self.news |= self.hearing.hear(&peer.region, &peer.agent, now.raw, records);
        }
    }

    /// A request came in, and `arrival` says what is known of when: whether it is answered.
    pub fn check(&mut self, packet: &[u8], origin: Origin, arrival: Arrival, now: Reading) -> Option<Accepted> {
        self.enter(now.epoch);
        let received = self.received(arrival, now);
        match self.reflector.check(packet, origin, &self.directory, received) {
            Ok(mut accepted) => {
                let entry = accepted.speaker.and_then(|speaker| self.directory.get(speaker.agent));
                if let Some(entry) = entry {
                    self.heard = true;
                    self.news |= self.hearing.hear(&entry.region, &entry.agent, now.raw, std::mem::take(&mut accepted.records));
                }
                Some(accepted)
            }
            Err(reason) => {
                *self.dropped.entry(reason.as_str()).or_default() += 1;
                None
            }
        }
    }

    /// When a request arrived: by the kernel, or else now.
    fn received(&mut self, arrival: Arrival, now: Reading) -> Reading {
        let Some((stamp, empty)) = arrival.stamp.zip(arrival.empty) else { return now };
        match self.stamps.received(empty, stamp) {
            Ok(raw) => Reading { raw, wall: stamp, ..now },
            Err(refusal) => {
                *self.refused.entry(refusal.as_str()).or_default() += 1;
                now
            }
        }
    }

    /// Turns a request into its answer, in place; returns what a stamp of its leaving is about.
    pub fn answer(&mut self, accepted: &Accepted, packet: &mut [u8], now: Reading) -> Option<Answered> {
        let entry = accepted.speaker.and_then(|speaker| self.directory.get(speaker.agent));
        let bulletin = entry.and_then(|entry| self.bulletins.get_mut(&entry.region));
        let wall =
            entry.and(accepted.speaker).and_then(|speaker| tell_wall(&mut self.telling_wall, speaker.agent, self.wall, now));
        let mut records: Vec<Record> = wall.into_iter().collect();
        let room = RECORDS_PER_PACKET - records.len();
        records.extend(bulletin.map(|bulletin| bulletin.next(room, now, None)).unwrap_or_default());
        self.reflector.answer(accepted, packet, now, &records)
    }

    /// The kernel says when an answer left.
    pub fn on_answer_left(&mut self, answered: &Answered, stamp: WallNanos) {
        match self.stamps.sent(answered.at.raw, stamp) {
            Ok(left) => self.reflector.left(answered, left),
            Err(refusal) => *self.refused.entry(refusal.as_str()).or_default() += 1,
        }
    }

    /// Nothing is combined across two epochs of our own clock: what was heard in the old one was heard nobody knows when.
    /// Says whether this is another one than before.
    fn enter(&mut self, epoch: Epoch) -> bool {
        let is_new = std::mem::replace(&mut self.epoch, epoch) != epoch;
        if is_new {
            self.hearing.forget();
            self.heard = true;
        }
        is_new
    }

    /// Says what was only counted since the last call: together, for a flood must not crowd out what else was observed.
    pub fn tell_counts(&mut self) {
        let dropped = std::mem::take(&mut self.dropped).into_iter();
        let refused = std::mem::take(&mut self.refused).into_iter();
        if !self.lateness.is_empty() {
            self.out.push(Observation::Lateness(std::mem::take(&mut self.lateness)));
        }
        self.out.extend(dropped.map(|(reason, count)| Observation::MeshDropped(reason, count)));
        self.out.extend(refused.map(|(reason, count)| Observation::StampRefused(reason, count)));
    }

    /// Whether an announcement came that nobody was told of yet.
    pub fn has_news(&self) -> bool {
        self.news
    }

    /// What the mesh knows now; `None` if nothing was heard since the last call.
    pub fn view(&mut self, now: RawNanos) -> Option<PeerView> {
        if !std::mem::take(&mut self.heard) {
            return None;
        }
        self.news = false;
        let mut view = self.hearing.view.clone();
        view.clocks = self.peers.values().filter_map(|peer| Some((peer.agent.clone(), peer.clock(now)?))).collect();
        Some(view)
    }
}

/// What an answer to an agent says of our wall clock, if it is time to.
fn tell_wall(
    telling: &mut BTreeMap<AgentHash, Every>,
    agent: AgentHash,
    wall: Option<WallClock>,
    now: Reading,
) -> Option<Record> {
    let wall = wall.filter(|wall| wall.epoch == now.epoch)?;
    if telling.get(&agent).is_some_and(|telling| !telling.is_due(now.raw)) {
        return None;
    }
    telling.insert(agent, Every::new(TELL_WALL_EVERY, now.raw));
    Some(Record::Wall(wall))
}

/// What one source host may send: a multiple of what one agent of this fleet sends.
fn source_rate_per_s(fleet: &Fleet) -> u64 {
    let interval_ns = nanos(fleet.mesh.interval).max(1);
    let own_per_s = u64::from(fleet.mesh.flows).saturating_mul(1_000_000_000) / interval_ns;
    own_per_s.saturating_mul(SOURCE_RATE_FACTOR).max(SOURCE_RATE_MIN)
}

#[cfg(test)]
mod tests;
