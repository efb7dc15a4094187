//! All the pure parts of the mesh behind one face, for the shell that owns the sockets. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::state::Outcome;
use lagmesh_model::time::{Epoch, RawNanos, Reading, nanos};

use crate::measurement::{Observation, Outbox, PeerView};
use crate::mesh::bulletin::Bulletin;
use crate::mesh::hearing::{Directory, Hearing};
use crate::mesh::keys::MeshKeys;
use crate::mesh::peer::{PACKET_MAX, Peer, Told};
use crate::mesh::reflector::{Accepted, Reflector};
use crate::mesh::tlv::AgentHash;

/// A source may send at least so many packets a second [1/s]; more if the fleet's own cadence is higher.
const SOURCE_RATE_MIN: u64 = 200;
/// How far above the fleet's own cadence a source may be: several agents may share an address.
const SOURCE_RATE_FACTOR: u64 = 4;

/// The mesh without its sockets.
#[derive(Debug)]
pub struct Engine {
    fleet: Arc<Fleet>,
    own: AgentHash,
    keys: Option<MeshKeys>,
    peers: Vec<Peer>,
    reflector: Reflector,
    directory: Directory,
    hearing: Hearing,
    /// The epoch of our clock to which all stamps in `hearing` belong.
    epoch: Epoch,
    bulletins: BTreeMap<RegionName, Bulletin>,
    heard: bool,
    news: bool,
    out: Vec<Observation>,
}

impl Engine {
    /// The mesh of an agent, its first probes due within one interval from `now`.
    pub fn new(fleet: &Arc<Fleet>, region: &RegionName, agent: &AgentName, keys: Option<MeshKeys>, now: Reading) -> Engine {
        let own = AgentHash::of(agent);
        let peers_of = |peer: &lagmesh_model::fleet::Region| {
            peer.agents.iter().map(|other| Peer::new(fleet, (region, agent), (&peer.name, &other.name), now)).collect::<Vec<_>>()
        };
        Engine {
            fleet: Arc::clone(fleet),
            own,
            keys: keys.clone(),
            peers: fleet.peers_of(region).flat_map(peers_of).collect(),
            reflector: Reflector::new(own, keys, source_rate_per_s(fleet)),
            directory: Directory::new(fleet, region),
            hearing: Hearing::new(Arc::clone(fleet), region.clone()),
            epoch: now.epoch,
            bulletins: fleet.peers_of(region).map(|peer| (peer.name.clone(), Bulletin::default())).collect(),
            heard: false,
            news: false,
            out: Vec::new(),
        }
    }

    /// All peer agents.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// What was observed since the last call.
    pub fn observations(&mut self) -> std::vec::Drain<'_, Observation> {
        self.out.drain(..)
    }

    /// What was said of the flows was not heard: everything is said again.
    pub fn say_again(&mut self) {
        self.peers.iter_mut().for_each(Peer::say_again);
    }

    /// A peer agent was found at an address.
    pub fn found(&mut self, peer: usize, address: SocketAddr) {
        self.directory.found(self.peers[peer].hash, address);
    }

    /// There is something else to tell.
    pub fn update(&mut self, outbox: &Outbox) {
        for (region, bulletin) in &mut self.bulletins {
            bulletin.update(&self.fleet, region, outbox);
        }
    }

    /// Time has passed for a peer: returns the flows on which a probe must be sent now.
    pub fn due(&mut self, peer: usize, now: Reading) -> Vec<usize> {
        let mut due = Vec::new();
        self.enter(now.epoch);
        self.peers[peer].wake(now, &mut self.out);
        self.peers[peer].take_due(now, &mut due, &mut self.out);
        due
    }

    /// Writes the next probe of a flow; returns its length.
    pub fn request(&mut self, peer: usize, flow: usize, now: Reading, packet: &mut [u8; PACKET_MAX]) -> usize {
        let peer = &self.peers[peer];
        let bulletin = self.bulletins.get_mut(&peer.region);
        let records = bulletin.map(|bulletin| bulletin.next(now, peer.newest_rtt_ns(flow))).unwrap_or_default();
        peer.request(flow, self.own, now, &records, self.keys.as_ref(), packet)
    }

    /// A probe left.
    pub fn sent(&mut self, peer: usize, flow: usize, sent: Reading) {
        self.peers[peer].sent(flow, sent, &mut self.out);
    }

    /// A probe could not leave.
    pub fn not_sent(&mut self, peer: usize, flow: usize, outcome: Outcome, now: Reading) {
        self.peers[peer].not_sent(flow, outcome, now, &mut self.out);
    }

    /// The network answered a probe with an error.
    pub fn on_error(&mut self, peer: usize, flow: usize, outcome: Outcome, sequence: Option<u32>, now: Reading) {
        self.peers[peer].wake(now, &mut self.out);
        self.peers[peer].on_error(flow, outcome, sequence, now, &mut self.out);
    }

    /// A packet came back.
    pub fn on_packet(&mut self, peer: usize, flow: usize, packet: &[u8], now: Reading) {
        self.enter(now.epoch);
        let peer = &mut self.peers[peer];
        peer.wake(now, &mut self.out);
        let Told { recognised, records } = peer.on_packet(flow, packet, now, self.keys.as_ref(), &mut self.out);
        if recognised {
            self.heard = true;
            self.news |= self.hearing.hear(&peer.region, &peer.agent, now.raw, records);
        }
    }

    /// A request came in: whether it is answered.
    pub fn check(&mut self, packet: &[u8], source: SocketAddr, now: Reading) -> Option<Accepted> {
        self.enter(now.epoch);
        match self.reflector.check(packet, source, &self.directory, now) {
            Ok(mut accepted) => {
                let entry = accepted.speaker.and_then(|speaker| self.directory.get(speaker.agent));
                if let Some(entry) = entry {
                    self.heard = true;
                    self.news |= self.hearing.hear(&entry.region, &entry.agent, now.raw, std::mem::take(&mut accepted.records));
                }
                Some(accepted)
            }
            Err(reason) => {
                self.out.push(Observation::MeshDropped(reason.as_str()));
                None
            }
        }
    }

    /// Turns a request into its answer, in place.
    pub fn answer(&mut self, accepted: &Accepted, packet: &mut [u8], now: Reading) {
        let entry = accepted.speaker.and_then(|speaker| self.directory.get(speaker.agent));
        let bulletin = entry.and_then(|entry| self.bulletins.get_mut(&entry.region));
        let records = bulletin.map(|bulletin| bulletin.next(now, None)).unwrap_or_default();
        self.reflector.answer(accepted, packet, now, &records);
    }

    /// Nothing is combined across two epochs of our own clock: what was heard in the old one was heard nobody knows when.
    fn enter(&mut self, epoch: Epoch) {
        if std::mem::replace(&mut self.epoch, epoch) != epoch {
            self.hearing.forget();
            self.heard = true;
        }
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
        view.clocks = self.peers.iter().filter_map(|peer| Some((peer.agent.clone(), peer.clock(now)?))).collect();
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
    use lagmesh_model::time::WallNanos;

    use super::*;
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
        engine.due(0, now);
        assert!(engine.view(now.raw).is_none());
        engine.due(0, Reading { epoch: Epoch(2), ..now });
        let view = engine.view(now.raw).unwrap();
        assert_eq!((view.heard.len(), view.announcements.len(), view.clocks.len()), (0, 0, 0));
    }
}
