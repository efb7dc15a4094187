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
use crate::mesh::schedule::round_of;
use crate::mesh::stamp::ErrorEstimate;
use crate::mesh::survey::{Errand, SURVEY_MAX};
use crate::mesh::tlv::AgentHash;
pub use reload::Reloaded;

/// A source may send at least so many packets a second [1/s]; more if the fleet's own cadence is higher.
const SOURCE_RATE_MIN: u64 = 200;
/// How far above the fleet's own cadence a source may be: several agents may share an address.
const SOURCE_RATE_FACTOR: u64 = 4;

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
        let records = bulletin.map(|bulletin| bulletin.next(now, peer.newest_rtt_ns(flow))).unwrap_or_default();
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
        let Told { recognised, records } = peer.on_packet(flow, came, (now, &mut self.stamps), self.keys.as_ref(), &mut self.out);
        if recognised {
            self.heard = true;
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

    /// Turns a request into its answer, in place.
    /// Returns what a stamp of its leaving is about.
    pub fn answer(&mut self, accepted: &Accepted, packet: &mut [u8], now: Reading) -> Option<Answered> {
        let entry = accepted.speaker.and_then(|speaker| self.directory.get(speaker.agent));
        let bulletin = entry.and_then(|entry| self.bulletins.get_mut(&entry.region));
        let records = bulletin.map(|bulletin| bulletin.next(now, None)).unwrap_or_default();
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

/// What one source host may send: a multiple of what one agent of this fleet sends.
fn source_rate_per_s(fleet: &Fleet) -> u64 {
    let interval_ns = nanos(fleet.mesh.interval).max(1);
    let own_per_s = u64::from(fleet.mesh.flows).saturating_mul(1_000_000_000) / interval_ns;
    own_per_s.saturating_mul(SOURCE_RATE_FACTOR).max(SOURCE_RATE_MIN)
}

#[cfg(test)]
mod tests {
    use lagmesh_model::state::StampSource;

    use super::*;
    use crate::measurement::Probe;
    use crate::mesh::testing::{announcement_record, fleet};

    /// What was heard in one epoch of our clock is not said to have been heard in the next: the view is published without it.
    #[test]
    fn nothing_heard_outlives_an_epoch() {
        let now = Reading { epoch: Epoch(1), raw: RawNanos(1_000_000_000_000), wall: WallNanos(0) };
        let (region, agent): (RegionName, AgentName) = ("tokyo".parse().unwrap(), "tokyo-a".parse().unwrap());
        let mut engine = Engine::new(&Arc::new(fleet(&[])), &"oslo".parse().unwrap(), &"oslo-a".parse().unwrap(), None, now);
        engine.heard = engine.hearing.hear(&region, &agent, now.raw, vec![announcement_record("tokyo-1", 5)]);
        let view = engine.view(now.raw).unwrap();
        assert_eq!((view.heard.len(), view.announcements.len()), (1, 1));
        engine.due(now.raw, true, now);
        assert!(engine.view(now.raw).is_none());
        engine.due(now.raw, true, Reading { epoch: Epoch(2), ..now });
        let view = engine.view(now.raw).unwrap();
        assert_eq!((view.heard.len(), view.announcements.len(), view.clocks.len()), (0, 0, 0));
    }

    /// A flood of forged requests is one observation with its number, so that it crowds out no other.
    #[test]
    fn drops_are_told_together() {
        let now = reading(0);
        let mut engine = Engine::new(&Arc::new(fleet(&[])), &"oslo".parse().unwrap(), &"oslo-a".parse().unwrap(), None, now);
        let origin = Origin { source: "192.0.2.1:5".parse().unwrap(), hops: None, class: None };
        for _ in 0..1_000 {
            assert!(engine.check(&[0; 3], origin, Arrival { stamp: None, empty: None }, now).is_none());
        }
        assert_eq!(engine.observations().count(), 0);
        for told in [1, 0] {
            engine.tell_counts();
            let counts =
                engine.observations().filter(|said| matches!(said, Observation::MeshDropped("too-short", 1_000))).count();
            assert_eq!(counts, told);
        }
    }

    const WALL_AHEAD_NS: u64 = 1_700_000_000_000_000_000;

    fn reading(us: u64) -> Reading {
        let raw = RawNanos(1_000_000_000_000 + us * 1_000);
        Reading { epoch: Epoch(1), raw, wall: WallNanos(raw.0 + WALL_AHEAD_NS) }
    }

    fn note(engine: &mut Engine, us: u64) -> Reading {
        let Reading { epoch, raw, wall } = reading(us);
        engine.note(Bracket { epoch, before: raw, wall, after: raw });
        reading(us)
    }

    /// Sends a probe at that moment; the kernel lets it go 100 us later.
    fn probe(engine: &mut Engine, us: u64) -> Vec<u8> {
        let mut packet = [0; PACKET_MAX];
        note(engine, us - 1_000);
        let now = note(engine, us);
        let length = engine.request(0, 0, now, &mut packet);
        let sequence = engine.sent(0, 0, now);
        note(engine, us + 150);
        engine.on_kernel_stamp(0, 0, sequence, reading(us + 100).wall);
        packet[..length].to_vec()
    }

    fn engine_of(region: &str) -> Engine {
        let agent = format!("{region}-a").parse().unwrap();
        Engine::new(&Arc::new(fleet(&[])), &region.parse().unwrap(), &agent, None, reading(0))
    }

    /// A request of Oslo that was sent at `us` and is at Tokyo 20 ms later, by its kernel. It is read there 3 ms late; the answer is made
    /// 50 us after that, leaves `leaving_us` later and is at Oslo after 20 ms, where it is read late, too.
    fn exchange(oslo: &mut Engine, tokyo: &mut Engine, us: u64, is_empty_known: bool, leaving_us: u64) -> Vec<Probe> {
        let mut packet = probe(oslo, us);
        let empty = note(tokyo, us + 19_000).raw;
        let read = note(tokyo, us + 23_000);
        let origin = Origin { source: "127.0.0.1:45000".parse().unwrap(), hops: None, class: None };
        let arrival = Arrival { stamp: Some(reading(us + 20_100).wall), empty: is_empty_known.then_some(empty) };
        let accepted = tokyo.check(&packet, origin, arrival, read).unwrap();
        let now = note(tokyo, us + 23_050);
        let answered = tokyo.answer(&accepted, &mut packet, now).unwrap();
        note(tokyo, us + 23_050 + leaving_us + 10);
        tokyo.on_answer_left(&answered, reading(us + 23_050 + leaving_us).wall);
        let read = note(oslo, us + 48_000);
        let stamp = Some(reading(us + 43_050 + leaving_us).wall);
        oslo.on_packet(0, 0, Came { packet: &packet, stamp, hops: None, prompt: false }, read);
        let probes = oslo.observations().filter_map(|said| if let Observation::Probe(probe) = said { Some(probe) } else { None });
        probes.collect()
    }

    /// Both ends run late by milliseconds, but the kernels stamped in time: the round trip is that of the network, and so is the clock's
    /// interval. One reflector that cannot tell when its socket was empty stamps by itself.
    #[test]
    fn kernel_stamps_take_lateness_out() {
        for (is_empty_known, expected_us) in [(true, 40_000), (false, 42_900)] {
            let (mut oslo, mut tokyo) = (engine_of("oslo"), engine_of("tokyo"));
            tokyo.found(0, "127.0.0.1:18620".parse().unwrap());
            probe(&mut tokyo, 1_000);
            let answered = exchange(&mut oslo, &mut tokyo, 1_000, is_empty_known, 0);
            assert_eq!((answered[0].rtt_ns, answered[0].stamps), (Some(expected_us * 1_000), Some(StampSource::Kernel)));
            let clock = oslo.peers()[&0].clock(reading(49_000).raw).unwrap();
            assert!(
                clock.offset.contains(0) && clock.offset.width_ns() < (expected_us * 1_000 + 20_000).cast_signed(),
                "{clock:?}"
            );
        }
    }

    /// What a busy reflector takes from its own stamp to the leaving of its answer is told with the next one, and taken out: only the very
    /// first round trip of a session has it in it.
    #[test]
    fn the_next_answer_takes_out_what_the_reflector_took() {
        let (mut oslo, mut tokyo) = (engine_of("oslo"), engine_of("tokyo"));
        tokyo.found(0, "127.0.0.1:18620".parse().unwrap());
        probe(&mut tokyo, 1_000);
        let told: Vec<_> = [1_000, 61_000, 121_000]
            .iter()
            .flat_map(|us| exchange(&mut oslo, &mut tokyo, *us, true, 400))
            .map(|probe| (probe.rtt_ns, probe.stamps, probe.at.raw))
            .collect();
        let at = |us: u64| reading(us).raw;
        assert_eq!(
            told,
            [
                (Some(40_400_000), Some(StampSource::Kernel), at(49_000)),
                (Some(40_000_000), Some(StampSource::KernelBothEnds), at(109_000)),
            ]
        );
    }

    /// What is beyond the plan is not sent, each probe of it has its fate, and nobody else is accused.
    #[test]
    fn beyond_the_plan_nothing_is_sent() {
        let now = Reading { epoch: Epoch(1), raw: RawNanos(1_000_000_000_000), wall: WallNanos(0) };
        let mut engine = Engine::new(&Arc::new(fleet(&[])), &"oslo".parse().unwrap(), &"oslo-a".parse().unwrap(), None, now);
        engine.budget = Budget::new(0, Duration::from_secs(1), now.raw);
        let later = now.after(Duration::from_millis(400));
        let due = engine.peers()[&0].flows();
        assert_eq!(engine.due(later.raw, true, later), []);
        let fates: Vec<Outcome> = engine
            .observations()
            .filter_map(|said| if let Observation::Probe(probe) = said { Some(probe.outcome) } else { None })
            .collect();
        assert!(!fates.is_empty() && fates.len() < due && fates.iter().all(|fate| *fate == Outcome::HeldBack), "{fates:?}");
        assert!(!engine.peers()[&0].is_alive());
    }
}
