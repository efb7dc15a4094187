//! What peers have said: who they are, and the newest of each thing. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lagmesh_model::beat::{Announcement, BeatId, Seen};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::{AgentName, NodeHash, NodeName, RegionName, SlotHash};
use lagmesh_model::time::RawNanos;

use crate::measurement::{Heard, LOST_SLOT_HELD, PeerView};
use crate::mesh::tlv::{AgentHash, Record};
use crate::slot::{REACH_HELD, SlotReach};
use crate::wall::HeardWall;

/// So many lost slots of all peers are remembered: as many as one server tells of.
const LOST_SLOTS_MAX: usize = lagmesh_postgres::discover::SLOTS_MAX;

/// Of so many logical slots of all peers it is remembered how far they are confirmed: as many as some servers tell of.
const REACHES_MAX: usize = 8 * lagmesh_postgres::discover::SLOTS_MAX;

/// The agents of the peer regions, by what they are called on the wire, and where they were found.
#[derive(Debug)]
pub struct Directory {
    agents: BTreeMap<AgentHash, Entry>,
}

/// One agent of a peer region.
#[derive(Debug)]
pub struct Entry {
    /// Its region.
    pub region: RegionName,
    /// Its name.
    pub agent: AgentName,
    /// Where its reflector is, if its name could be resolved.
    pub address: Option<SocketAddr>,
}

impl Directory {
    /// The agents of the regions that the plan of the mesh connects with ours.
    pub fn new(fleet: &Fleet, own: &RegionName) -> Directory {
        let entry = |region: &RegionName, agent: &AgentName| {
            (AgentHash::of(agent), Entry { region: region.clone(), agent: agent.clone(), address: None })
        };
        let of_region = |region: &lagmesh_model::fleet::Region| {
            region.agents.iter().map(|agent| entry(&region.name, &agent.name)).collect::<Vec<_>>()
        };
        Directory { agents: fleet.peers_of(own).flat_map(of_region).collect() }
    }

    /// From now on this file is in force: who stays is where it was found.
    pub fn reload(&mut self, fleet: &Fleet, own: &RegionName) {
        let before = std::mem::replace(self, Directory::new(fleet, own));
        for (agent, entry) in before.agents {
            let same = self.agents.get_mut(&agent).filter(|new| (&new.region, &new.agent) == (&entry.region, &entry.agent));
            if let Some(new) = same {
                new.address = entry.address;
            }
        }
    }

    /// An agent by its hash.
    pub fn get(&self, agent: AgentHash) -> Option<&Entry> {
        self.agents.get(&agent)
    }

    /// Notes where an agent was found.
    pub fn found(&mut self, agent: AgentHash, address: SocketAddr) {
        if let Some(entry) = self.agents.get_mut(&agent) {
            entry.address = Some(address);
        }
    }

    /// An agent is not where it was found.
    pub fn lost_sight(&mut self, agent: AgentHash) {
        if let Some(entry) = self.agents.get_mut(&agent) {
            entry.address = None;
        }
    }

    /// The hosts at which agents were found, in order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let of = |entry: &Entry| entry.address.map(|address| address.ip().to_canonical());
        self.agents.values().filter_map(of).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether the agent of that hash is configured at that source address.
    pub fn is_at(&self, agent: AgentHash, source: SocketAddr) -> bool {
        self.get(agent)
            .and_then(|entry| entry.address)
            .is_some_and(|address| address.ip().to_canonical() == source.ip().to_canonical())
    }

    /// Whether any configured agent is at that host.
    pub fn is_known(&self, source: SocketAddr) -> bool {
        let known =
            |entry: &Entry| entry.address.is_some_and(|address| address.ip().to_canonical() == source.ip().to_canonical());
        self.agents.values().any(known)
    }

    /// Whether that is the very socket of another reflector: answering it would make two reflectors answer each other for ever.
    pub fn is_reflector(&self, source: SocketAddr) -> bool {
        self.agents.values().any(|entry| entry.address == Some(source))
    }
}

/// What was heard.
#[derive(Debug)]
pub struct Hearing {
    fleet: Arc<Fleet>,
    own: RegionName,
    /// Everything but the clocks, which are computed for the moment of publication.
    pub view: PeerView,
}

impl Hearing {
    /// Nothing heard.
    pub fn new(fleet: Arc<Fleet>, own: RegionName) -> Hearing {
        Hearing { fleet, own, view: PeerView::default() }
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.view = PeerView::default();
    }

    /// From now on this file is in force: what was heard from who is no peer any more, or of nodes that are gone, is forgotten.
    pub fn reload(&mut self, fleet: &Arc<Fleet>) {
        self.fleet = Arc::clone(fleet);
        let is_peer = |agent: &AgentName| fleet.agent(agent).is_some_and(|(region, _)| fleet.has_link(&self.own, &region.name));
        let is_node = |node: &NodeName| fleet.node(node).is_some();
        self.view.heard.retain(|agent, _| is_peer(agent));
        self.view.walls.retain(|agent, _| is_peer(agent));
        self.view.announcements.retain(|origin, heard| is_node(origin) && is_peer(&heard.from));
        self.view.seen.retain(|(origin, node), heard| is_node(origin) && is_node(node) && is_peer(&heard.from));
        self.view.lost_slots.retain(|(node, _), _| is_node(node));
        self.view.reaches.retain(|(node, _), heard| is_node(node) && is_peer(&heard.from));
    }

    /// A valid packet of an agent, with its records. Returns whether it brought a new announcement.
    pub fn hear(&mut self, region: &RegionName, agent: &AgentName, at: RawNanos, records: Vec<Record>) -> bool {
        match self.view.heard.get_mut(agent) {
            Some(heard) => *heard = at,
            None => drop(self.view.heard.insert(agent.clone(), at)),
        }
        let mut news = false;
        for record in records {
            news |= match record {
                Record::Announcement { origin, incarnation, sequence, times, position } => {
                    // Who announces a beat must stand where it was written.
                    self.node_in(origin, region).is_some_and(|origin| {
                        let what = Announcement { id: BeatId { origin, incarnation, sequence }, times, position };
                        self.hear_announcement(Heard { what, from: agent.clone(), at })
                    })
                }
                Record::Seen { origin, node, incarnation, sequence, held, .. } => {
                    // Who has seen a beat of ours must stand where it was seen.
                    if let (Some(origin), Some(node)) = (self.node_in(origin, &self.own), self.node_in(node, region)) {
                        let what = Seen { id: BeatId { origin, incarnation, sequence }, node, held };
                        self.hear_seen(Heard { what, from: agent.clone(), at });
                    }
                    false
                }
                Record::LostSlot { node, slot } => {
                    // Who says that a slot is lost must stand where it is kept.
                    if let Some(node) = self.node_in(node, region) {
                        self.hear_lost_slot(node, slot, at);
                    }
                    false
                }
                Record::Reach { node, slot, reach } => {
                    // Who says how far a slot is must stand where it is kept.
                    if let Some(node) = self.node_in(node, region) {
                        self.hear_reach((node, slot), Heard { what: reach, from: agent.clone(), at });
                    }
                    false
                }
                // Believed only in answers: a request may have been recorded long ago.
                Record::Wall(_) => false,
            };
        }
        news
    }

    /// Peers are believed, and still they cannot make us remember without end.
    fn hear_lost_slot(&mut self, node: NodeName, slot: SlotHash, at: RawNanos) {
        let (lost, key) = (&mut self.view.lost_slots, (node, slot));
        if has_room(lost, &key, LOST_SLOTS_MAX, |heard| at.checked_since(*heard).is_some_and(|age| age <= LOST_SLOT_HELD)) {
            lost.insert(key, at);
        }
    }

    /// Of two looks by one agent the later counts, in whatever order they come.
    fn hear_reach(&mut self, key: (NodeName, SlotHash), heard: Heard<SlotReach>) {
        let reaches = &mut self.view.reaches;
        let is_older = |known: &Heard<SlotReach>| (heard.what.epoch == known.what.epoch) && heard.what.began < known.what.began;
        let is_current = |known: &Heard<SlotReach>| heard.at.checked_since(known.at).is_some_and(|age| age <= REACH_HELD);
        if !reaches.get(&key).is_some_and(is_older) && has_room(reaches, &key, REACHES_MAX, is_current) {
            reaches.insert(key, heard);
        }
    }

    /// An agent has answered, and told of its wall clock.
    pub fn hear_wall(&mut self, agent: &AgentName, heard: HeardWall) {
        self.view.walls.insert(agent.clone(), heard);
    }

    fn hear_announcement(&mut self, heard: Heard<Announcement>) -> bool {
        let origin = heard.what.id.origin.clone();
        let news = self.view.announcements.get(&origin).is_none_or(|known| is_newer(&known.what, &heard.what));
        if news {
            self.view.announcements.insert(origin, heard);
        }
        news
    }

    /// The first telling of a beat is the best: later ones have drifted longer.
    fn hear_seen(&mut self, heard: Heard<Seen>) {
        let id = &heard.what.id;
        let newer = |known: &Heard<Seen>| known.what.id.incarnation != id.incarnation || known.what.id.sequence < id.sequence;
        let key = (id.origin.clone(), heard.what.node.clone());
        if self.view.seen.get(&key).is_none_or(newer) {
            self.view.seen.insert(key, heard);
        }
    }

    fn node_in(&self, node: NodeHash, region: &RegionName) -> Option<NodeName> {
        self.fleet.node_by_hash(node).filter(|(_, node)| node.region == *region).map(|(_, node)| node.name.clone())
    }
}

/// Whether there is room for a key in what is bounded, perhaps once what is not current has left.
fn has_room<K: Ord, V>(known: &mut BTreeMap<K, V>, key: &K, most: usize, is_current: impl Fn(&V) -> bool) -> bool {
    if known.len() >= most && !known.contains_key(key) {
        known.retain(|_, value| is_current(value));
    }
    known.len() < most || known.contains_key(key)
}

/// Within an incarnation the sequence decides. Between two, as after a restart or when another agent took over, the later on the
/// same clock, or the further in the same log; if nothing can be compared, the newcomer.
fn is_newer(known: &Announcement, new: &Announcement) -> bool {
    if known.id.incarnation == new.id.incarnation {
        return known.id.sequence < new.id.sequence;
    }
    if known.times.epoch == new.times.epoch {
        return known.times.sent < new.times.sent;
    }
    new.position.bytes_ahead_of(&known.position).is_none_or(|ahead| ahead > 0)
}

#[cfg(test)]
mod tests {
    use lagmesh_model::beat::Incarnation;
    use lagmesh_model::interval::Interval;
    use lagmesh_model::position::Lsn;
    use lagmesh_model::time::Epoch;

    use super::*;
    use crate::mesh::testing::{announcement, announcement_record, fleet, reach, seen_record};

    fn hearing() -> Hearing {
        Hearing::new(Arc::new(fleet(&[])), "oslo".parse().unwrap())
    }

    /// A slot is lost if an agent of its server's region says so; however many it makes up, few are remembered.
    #[test]
    fn lost_slots() {
        let (mut hearing, tokyo, agent): (_, RegionName, _) = (hearing(), "tokyo".parse().unwrap(), "tokyo-a".parse().unwrap());
        let lost = |node: &str, slot| Record::LostSlot { node: NodeHash::of(&node.parse().unwrap()), slot: SlotHash(slot) };
        hearing.hear(&tokyo, &agent, RawNanos(1), vec![lost("tokyo-1", 5), lost("oslo-1", 5), lost("nowhere", 5)]);
        hearing.hear(&tokyo, &agent, RawNanos(9), vec![lost("tokyo-1", 5)]);
        let key = ("tokyo-1".parse().unwrap(), SlotHash(5));
        assert_eq!(hearing.view.lost_slots, [(key.clone(), RawNanos(9))].into());
        for slot in 100..300 {
            hearing.hear(&tokyo, &agent, RawNanos(10), vec![lost("tokyo-1", slot)]);
        }
        assert_eq!(hearing.view.lost_slots.len(), LOST_SLOTS_MAX);
        let later = RawNanos(10).after(LOST_SLOT_HELD * 2);
        hearing.hear(&tokyo, &agent, later, vec![lost("tokyo-1", 7)]);
        assert_eq!(hearing.view.lost_slots.len(), 1, "what nobody repeats makes room");
    }

    /// How far a slot is counts if an agent of its server's region says so, and of two looks the later one; few slots are remembered.
    #[test]
    fn reaches() {
        let (mut hearing, tokyo, agent): (_, RegionName, _) = (hearing(), "tokyo".parse().unwrap(), "tokyo-a".parse().unwrap());
        let told = |node: &str, slot, n| {
            let node = NodeHash::of(&node.parse().unwrap());
            Record::Reach { node, slot: SlotHash(slot), reach: reach(n) }
        };
        for (n, at) in [(7, 1), (9, 2), (8, 3)] {
            hearing.hear(&tokyo, &agent, RawNanos(at), vec![told("tokyo-1", 5, n), told("oslo-1", 5, n), told("nowhere", 5, n)]);
        }
        let heard = Heard { what: reach(9), from: agent.clone(), at: RawNanos(2) };
        assert_eq!(hearing.view.reaches, [(("tokyo-1".parse().unwrap(), SlotHash(5)), heard)].into());
        for slot in 0..3_000 {
            hearing.hear(&tokyo, &agent, RawNanos(10), vec![told("tokyo-1", slot, 9)]);
        }
        assert_eq!(hearing.view.reaches.len(), REACHES_MAX);
        hearing.hear(&tokyo, &agent, RawNanos(10).after(REACH_HELD * 2), vec![told("tokyo-1", 9_999, 9)]);
        assert_eq!(hearing.view.reaches.len(), 1, "what nobody repeats makes room");
    }

    /// The newest beat of each writer is kept, told by an agent of the writer's own region; old ones and foreign ones are not news.
    #[test]
    fn announcements() {
        let (mut hearing, tokyo, agent) = (hearing(), "tokyo".parse().unwrap(), "tokyo-a".parse().unwrap());
        let mut hear = |region, origin, sequence| {
            hearing.hear(region, &agent, RawNanos(sequence), vec![announcement_record(origin, sequence)])
        };
        assert!(hear(&tokyo, "tokyo-1", 5));
        assert!(!hear(&tokyo, "tokyo-1", 5));
        assert!(!hear(&tokyo, "tokyo-1", 4));
        assert!(hear(&tokyo, "tokyo-1", 6));
        assert!(!hear(&tokyo, "oslo-1", 7));
        assert!(!hear(&tokyo, "nowhere", 7));
        let heard: Vec<_> = hearing.view.announcements.values().map(|heard| (heard.what.id.sequence.0, heard.at)).collect();
        assert_eq!(heard, [(6, RawNanos(6))]);
        assert_eq!(hearing.view.heard[&agent], RawNanos(7));
    }

    /// After a restart of the writer the new incarnation counts, and an agent that still tells of the old one does not bring it back.
    #[test]
    fn incarnations() {
        let old = announcement("tokyo-1", 900);
        let mut new = announcement("tokyo-1", 1);
        new.id.incarnation = Incarnation(2);
        new.times.epoch = Epoch(77);
        new.position.lsn = Lsn(old.position.lsn.0 + 100);
        assert!(is_newer(&old, &new) && !is_newer(&new, &old));
    }

    /// Only beats of our own nodes, seen at nodes of the speaker's region, are confirmations; the first telling stays.
    #[test]
    fn confirmations() {
        let (mut hearing, tokyo, agent) = (hearing(), "tokyo".parse().unwrap(), "tokyo-a".parse().unwrap());
        let seen = |origin, node, sequence, held| seen_record(origin, node, sequence, Interval::exact(held));
        hearing.hear(
            &tokyo,
            &agent,
            RawNanos(1),
            vec![seen("oslo-1", "tokyo-1", 3, 10), seen("tokyo-1", "tokyo-1", 3, 10), seen("oslo-1", "oslo-2", 3, 10)],
        );
        hearing.hear(&tokyo, &agent, RawNanos(2), vec![seen("oslo-1", "tokyo-1", 3, 99)]);
        let heard: Vec<_> =
            hearing.view.seen.values().map(|heard| (heard.what.id.sequence.0, heard.what.held.lower_ns(), heard.at.0)).collect();
        assert_eq!(heard, [(3, 10, 1)]);
        hearing.hear(&tokyo, &agent, RawNanos(3), vec![seen("oslo-1", "tokyo-1", 4, 20)]);
        assert_eq!(hearing.view.seen.values().next().map(|heard| heard.at.0), Some(3));
    }
}
