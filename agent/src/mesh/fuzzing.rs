//! What the fuzz targets in `agent/fuzz` run: packets from anywhere, and what must hold whatever they are. An ordinary test runs the same
//! over the committed corpus. Pure: time is made up.
//!
//! The first octet of an input chooses the [`Situation`], the rest is the packet.

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lagmesh_daemon::clock::ClockClaim;
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::state::{ClaimSource, Outcome};
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos};

use crate::measurement::Observation;
use crate::mesh::hearing::Directory;
use crate::mesh::kernel::StampClock;
use crate::mesh::keys::{KeyIndex, MeshKeys};
use crate::mesh::peer::{Came, PACKET_MAX, Peer, Told};
use crate::mesh::reflector::{Accepted, Origin, Reflector};
use crate::mesh::stamp::extension::{
    HMAC_TLV_LENGTH, Integrity, TYPE_HMAC, frames, seal, seal_base, verify, verify_base, vouched,
};
use crate::mesh::stamp::{ErrorEstimate, Mode};
use crate::mesh::testing::{announcement_record, fleet};
use crate::mesh::tlv::{self, AgentHash, Body};

/// The situation has a key.
pub const KEYED: u8 = 0x01;
/// Standard senders are answered although there is a key.
pub const THIRD_PARTY: u8 = 0x02;
/// The packet comes from the address of an agent, not from a stranger's.
pub const AGENT: u8 = 0x04;
/// The packet's HMACs are made anew with the right key before it is taken in, so that what lies behind them is reached.
pub const SEALED: u8 = 0x08;
/// The socket tells hop limit, traffic class and a stamp.
pub const TOLD: u8 = 0x10;
/// The answer comes at the second flow.
pub const SECOND: u8 = 0x20;

/// Why the reflector may drop a packet.
const REQUEST_DROPS: [&str; 6] = ["too-short", "too-long", "bad-hmac", "rate-limited", "too-many-sources", "loop"];
/// Why an answer may be dropped.
const ANSWER_DROPS: [&str; 5] = ["too-short", "bad-hmac", "wrong-agent", "duplicate", "not-awaited"];
/// How often reflectors may answer each other until one of them notices: a first answer bears the stamp that the request had.
const ROUNDS_MAX: usize = 3;
/// More than any packet here: what a reflector may send in a second to one source.
const RATE_PER_S: u64 = 1_000;
/// The time between two inputs [ms]: budgets are full again, and sessions of strangers outlive the inputs after them.
const STEP_MS: u64 = 10;

/// What surrounds a packet.
#[derive(Debug, Clone, Copy)]
struct Situation(u8);

impl Situation {
    fn is(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    fn keys(self) -> Option<MeshKeys> {
        self.is(KEYED).then(keys)
    }
}

/// The key of the fleet.
fn keys() -> MeshKeys {
    MeshKeys::of(&[b"a key of sixteen"]).expect("one key")
}

fn region(name: &str) -> RegionName {
    name.parse().expect("a name")
}

fn agent(name: &str) -> AgentName {
    name.parse().expect("a name")
}

fn hash(name: &str) -> AgentHash {
    AgentHash::of(&agent(name))
}

fn at(ms: u64) -> Reading {
    Reading { epoch: Epoch(9), raw: RawNanos(ms * 1_000_000), wall: WallNanos(1_700_000_000_000_000_000 + ms * 1_000_000) }
}

fn is_signed(packet: &[u8]) -> bool {
    packet.len() >= Mode::Authenticated.base_length() && verify_base(packet, &keys()).is_some()
}

/// Makes the HMACs of a packet anew, where it has room for them.
fn make_good(packet: &mut [u8], keys: &MeshKeys) {
    let base = Mode::Authenticated.base_length();
    if packet.len() < base {
        return;
    }
    let tlv = frames(packet, base).find(|frame| frame.kind == TYPE_HMAC && frame.at + HMAC_TLV_LENGTH <= packet.len());
    if let Some(tlv) = tlv {
        seal(packet, base, tlv.at, keys, KeyIndex::FIRST);
    }
    seal_base(packet, keys, KeyIndex::FIRST);
}

/// Oslo's reflectors of every kind: without a key, with one, and with one that answers standard senders too. Their tables live on from
/// input to input.
#[derive(Debug)]
pub struct Reflectors {
    open: Reflector,
    keyed: Reflector,
    third_party: Reflector,
    directory: Directory,
    inputs: u64,
}

impl Default for Reflectors {
    fn default() -> Reflectors {
        let mut directory = Directory::new(&fleet(&[]), &region("oslo"));
        directory.found(hash("tokyo-a"), SocketAddr::from(([127, 0, 0, 1], 18621)));
        let reflector = |keys, third_party| Reflector::new(hash("oslo-a"), keys, third_party, RATE_PER_S);
        Reflectors {
            open: reflector(None, false),
            keyed: reflector(Some(keys()), false),
            third_party: reflector(Some(keys()), true),
            directory,
            inputs: 0,
        }
    }
}

impl Reflectors {
    /// A request comes in; returns how often it, and then its answers, were answered.
    ///
    /// # Panics
    /// If something does not hold that must.
    pub fn run(&mut self, input: &[u8]) -> usize {
        let Some((situation, packet)) = input.split_first() else { return 0 };
        let (situation, mut packet) = (Situation(*situation), packet.to_vec());
        if situation.is(SEALED) {
            make_good(&mut packet, &keys());
        }
        self.inputs += 1;
        let (now, source) = (at(self.inputs * STEP_MS), self.source(situation));
        let told = situation.is(TOLD);
        let origin = Origin { source, hops: told.then_some(61), class: told.then_some(0xB9) };
        let reflector = match (situation.is(KEYED), situation.is(THIRD_PARTY)) {
            (false, _) => &mut self.open,
            (true, false) => &mut self.keyed,
            (true, true) => &mut self.third_party,
        };
        reflector.claim(told.then_some(ClockClaim::Synchronized { error_ns: 5, source: ClaimSource::Kernel }));
        let mut rounds = 0;
        loop {
            let accepted = match reflector.check(&packet, origin, &self.directory, now) {
                Ok(accepted) => accepted,
                Err(reason) => {
                    assert!(REQUEST_DROPS.contains(&reason.as_str()), "{reason:?} is not documented");
                    break;
                }
            };
            rounds += 1;
            assert!(rounds <= ROUNDS_MAX, "two reflectors answer each other for ever");
            check_trust(situation, &accepted, &packet);
            let mut answer = packet.clone();
            reflector.answer(&accepted, &mut answer, now, &[announcement_record("oslo-1", 7)]);
            assert!(answer.len() <= packet.len(), "an answer is longer than its request");
            assert!(!is_signed(&packet) || !situation.is(KEYED) || is_signed(&answer), "an answer without its request's HMAC");
            packet = answer;
        }
        let (sources, sessions) = reflector.remembered();
        assert!(sources <= SOURCES_BOUND && sessions <= SESSIONS_BOUND, "{sources} sources, {sessions} sessions");
        rounds
    }

    /// Every stranger is another one, by IPv4 and IPv6 in turn.
    fn source(&self, situation: Situation) -> SocketAddr {
        let number = u32::try_from(self.inputs % (1 << 20)).expect("20 bits");
        let address = match number % 2 {
            _ if situation.is(AGENT) => IpAddr::from([127, 0, 0, 1]),
            0 => IpAddr::from((10_u32 << 24 | number).to_be_bytes()),
            _ => IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(number) << 64)),
        };
        SocketAddr::new(address, 40_000)
    }
}

/// The documented bounds: 4096 hosts and the agents, 8192 sessions of strangers and as many of agents.
const SOURCES_BOUND: usize = 4096 + 1;
const SESSIONS_BOUND: usize = 2 * 8192;

/// What is private counts only with the key, or without any key from the address of an agent.
fn check_trust(situation: Situation, accepted: &Accepted, packet: &[u8]) {
    assert!(accepted.speaker.is_some() || accepted.records.is_empty(), "records of nobody");
    let Some(speaker) = accepted.speaker else { return };
    assert_eq!(speaker.agent, hash("tokyo-a"), "an agent that is not configured");
    if situation.is(KEYED) {
        assert!(is_signed(packet), "believed without the key");
        assert_eq!(verify(packet, Mode::Authenticated, &keys()), Integrity::Good, "believed without the key");
    } else {
        assert!(situation.is(AGENT), "a stranger is believed");
    }
}

/// When Oslo has sent its first probes [ms].
const PROBED_MS: u64 = 1_000;
/// When the packet comes [ms].
const CAME_MS: u64 = 1_030;
const FLOWS: usize = 2;

/// Packets and the flows on which they left.
type Probes = Vec<(usize, Vec<u8>)>;

/// Oslo, which has sent probes to Tokyo on two flows: those probes, by flow, and what was observed.
fn asked(keys: Option<&MeshKeys>) -> (Peer, Probes, Vec<Observation>) {
    let fleet = fleet(&[("tcp = false", "tcp = false\nflows = 2")]);
    let (oslo, tokyo) = ((region("oslo"), agent("oslo-a")), (region("tokyo"), agent("tokyo-a")));
    let mut peer = Peer::new(&fleet, (&oslo.0, &oslo.1), (&tokyo.0, &tokyo.1), at(0));
    let (mut out, mut probes) = (Vec::new(), Vec::new());
    peer.found(IpAddr::from([127, 0, 0, 1]), &mut out);
    for ms in (0..=PROBED_MS).step_by(50) {
        let mut due = Vec::new();
        peer.wake(at(ms), &mut out);
        peer.judge(at(ms).raw, at(ms), &mut out);
        peer.take_due(at(ms), &mut due, &mut Exponential::new(), &mut out);
        for flow in due {
            let mut packet = [0; PACKET_MAX];
            let length = peer.request(flow, (hash("oslo-a"), ErrorEstimate::UNKNOWN), at(ms), &[], keys, &mut packet);
            peer.sent(flow, at(ms), &mut out);
            probes.push((flow, packet[..length].to_vec()));
        }
    }
    out.clear();
    (peer, probes, out)
}

/// A packet comes back at a flow's socket, twice; returns what became of it the first time: settled, dropped, or neither.
///
/// # Panics
/// If something does not hold that must.
pub fn answer(input: &[u8]) -> (usize, usize) {
    let Some((situation, packet)) = input.split_first() else { return (0, 0) };
    let (situation, mut packet) = (Situation(*situation), packet.to_vec());
    let keys = situation.keys();
    if let Some(keys) = keys.as_ref().filter(|_| situation.is(SEALED)) {
        make_good(&mut packet, keys);
    }
    let (mut peer, probes, mut out) = asked(keys.as_ref());
    let (flow, now, mut stamps) = (usize::from(situation.is(SECOND)) % FLOWS, at(CAME_MS), StampClock::default());
    let stamp = situation.is(TOLD).then_some(at(CAME_MS - 1).wall);
    let came = Came { packet: &packet, stamp, hops: situation.is(TOLD).then_some(61), prompt: true };
    let mut take = |out: &mut Vec<Observation>| {
        let (first, waited) = (out.len(), peer.waiting());
        let told = peer.on_packet(flow, came, (now, &mut stamps), keys.as_ref(), out);
        assert!(peer.waiting() >= waited, "no answer tells of another flow's probe");
        counted(&out[first..], &told, peer.waiting() - waited)
    };
    let once = take(&mut out);
    assert!(once.0 + once.1 <= 1, "one packet has two fates");
    assert_eq!(take(&mut out).0, 0, "the same answer settles two probes");

    // In a new epoch of our clock all that is still out ends.
    let later = Reading { epoch: Epoch(10), ..at(CAME_MS + 1) };
    peer.wake(later, &mut out);
    let fates = out.iter().filter(|said| matches!(said, Observation::Probe(_))).count();
    assert_eq!(fates, probes.len(), "every probe has exactly one fate");
    once
}

/// How many probes a packet settled, with those that wait for another word of the reflector, and how many packets were dropped.
fn counted(said: &[Observation], told: &Told, waiting: usize) -> (usize, usize) {
    let (mut settled, mut dropped) = (waiting, 0);
    for observation in said {
        match observation {
            Observation::Probe(probe) => {
                settled += 1;
                assert_ne!(probe.outcome, Outcome::Lost, "an answer makes no loss");
                let possible = |rtt_ns: u64| rtt_ns > 0 && rtt_ns <= CAME_MS * 1_000_000;
                assert!(probe.rtt_ns.is_none_or(possible), "{:?} ns is longer than the probe was out", probe.rtt_ns);
            }
            Observation::MeshDropped(reason, _) => {
                dropped += 1;
                assert!(ANSWER_DROPS.contains(reason), "{reason} is not documented");
            }
            _ => {}
        }
    }
    assert!(!told.recognised || settled == 1, "an agent is recognised by what settles nothing");
    assert!(told.records.is_empty() || settled == 1, "records of an answer to nothing");
    (settled, dropped)
}

/// TLVs and the value of a private one; returns whether the octets are a value that is understood.
///
/// # Panics
/// If something does not hold that must.
pub fn values(octets: &[u8]) -> bool {
    let mut end = 0;
    for frame in frames(octets, 0) {
        assert_eq!(frame.at, end, "TLVs overlap or leave a gap");
        assert!(frame.malformed || frame.end() <= octets.len(), "a TLV reaches beyond the packet");
        end = frame.end();
    }
    assert!(vouched(octets, 0).count() <= frames(octets, 0).count());
    tlv::told(octets, frames(octets, 0));
    let mut again = vec![0xEE; octets.len()];
    match tlv::read(octets) {
        Body::Clock(clock) => {
            tlv::put_clock(&mut again, &clock);
            assert_eq!(tlv::read(&again), Body::Clock(clock), "a clock changes when it is said again");
        }
        Body::Records(records) => {
            assert_eq!(tlv::put_records(&mut again, &records), records.len(), "records grow when they are said again");
            assert_eq!(tlv::read(&again), Body::Records(records), "records change when they are said again");
        }
        Body::Unknown => return false,
    }
    true
}
