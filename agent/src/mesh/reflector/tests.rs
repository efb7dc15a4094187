use lagmesh_model::time::{Epoch, WallNanos};
use proptest::prelude::*;

use super::*;
use crate::mesh::peer::{PACKET_MAX, Peer};
use crate::mesh::stamp::extension::{HEADER_LENGTH, put_header};
use crate::mesh::testing::{announcement_record, fleet};

const SOURCE: &str = "127.0.0.1:40000";

fn now(ms: u64) -> Reading {
    Reading { epoch: Epoch(9), raw: RawNanos(ms * 1_000_000), wall: WallNanos(1_700_000_000_000_000_000 + ms * 1_000_000) }
}

fn hash(agent: &str) -> AgentHash {
    AgentHash::of(&agent.parse().unwrap())
}

/// Oslo's directory in which Tokyo's agent was found at its address of the fleet file.
fn directory() -> Directory {
    let mut directory = Directory::new(&fleet(&[]), &"oslo".parse().unwrap());
    directory.found(hash("tokyo-a"), "127.0.0.1:18621".parse().unwrap());
    directory
}

fn keys(secret: &[u8]) -> MeshKeys {
    MeshKeys::of(&[secret]).unwrap()
}

fn reflector(keys: Option<MeshKeys>) -> Reflector {
    Reflector::new(hash("oslo-a"), keys, 1_000_000)
}

/// A probe as Tokyo's agent sends it to Oslo.
fn request(keys: Option<&MeshKeys>) -> Vec<u8> {
    let (fleet, tokyo, agent) = (fleet(&[]), "tokyo".parse().unwrap(), "tokyo-a".parse().unwrap());
    let peer = Peer::new(&fleet, (&tokyo, &agent), (&"oslo".parse().unwrap(), &"oslo-a".parse().unwrap()), now(0));
    let mut packet = [0; PACKET_MAX];
    let length = peer.request(0, hash("tokyo-a"), now(1), &[announcement_record("tokyo-1", 5)], keys, &mut packet);
    packet[..length].to_vec()
}

fn reflect(reflector: &mut Reflector, packet: &[u8]) -> Result<(Accepted, Vec<u8>), Drop> {
    let accepted = reflector.check(packet, SOURCE.parse().unwrap(), &directory(), now(10))?;
    let mut reply = packet.to_vec();
    reflector.answer(&accepted, &mut reply, now(11), &[announcement_record("oslo-1", 7)]);
    assert_eq!(reply.len(), packet.len());
    Ok((accepted, reply))
}

fn flags(packet: &[u8], base: usize) -> Vec<(u8, u8)> {
    frames(packet, base).map(|frame| (frame.kind, frame.flags)).collect()
}

/// Between agents the private TLVs are heard and answered, in both modes; the answer is as long as the request.
#[test]
fn agents_understand_each_other() {
    let key = keys(b"a key of sixteen");
    for keys in [None, Some(key)] {
        let mode = if keys.is_some() { Mode::Authenticated } else { Mode::Unauthenticated };
        let request = request(keys.as_ref());
        let (accepted, reply) = reflect(&mut reflector(keys.clone()), &request).unwrap();
        assert_eq!(accepted.speaker.map(|clock| clock.agent), Some(hash("tokyo-a")));
        assert_eq!(accepted.records, [announcement_record("tokyo-1", 5)]);
        let base = Reply::decode(mode, &reply).unwrap();
        assert_eq!((base.sender_sequence, base.sender_timestamp), (0, NtpTime::of(now(1).wall)));
        assert_eq!((base.received, base.timestamp), (NtpTime::of(now(10).wall), NtpTime::of(now(11).wall)));
        let bodies: Vec<Body> = frames(&reply, mode.base_length())
            .filter(|frame| frame.kind == TYPE_LAGMESH)
            .map(|frame| tlv::read(frame.value(&reply).unwrap()))
            .collect();
        let clock = ClockBody { agent: hash("oslo-a"), epoch: Epoch(9), t1: now(1).raw, t2: now(10).raw, t3: now(11).raw };
        assert_eq!(bodies, [Body::Clock(clock), Body::Records(vec![announcement_record("oslo-1", 7)])]);
        assert!(flags(&reply, mode.base_length()).iter().all(|(_, flags)| *flags == 0));
        if let Some(keys) = &keys {
            assert!(verify_base(&reply, keys).is_some());
            assert_eq!(verify(&reply, mode.base_length(), keys), Integrity::Good);
        }
    }
}

/// A standard sender without any TLV gets a standard answer, numbered by its flow.
#[test]
fn standard_senders_are_answered() {
    let mut reflector = reflector(None);
    for number in 0..3 {
        let mut packet = vec![0; 44];
        Request { sequence: 100 + number, timestamp: NtpTime(5), error: ErrorEstimate::UNKNOWN, session: 77 }
            .encode(Mode::Unauthenticated, &mut packet);
        let (accepted, reply) = reflect(&mut reflector, &packet).unwrap();
        let reply = Reply::decode(Mode::Unauthenticated, &reply).unwrap();
        assert_eq!((reply.sequence, reply.sender_sequence, reply.session, accepted.speaker), (number, 100 + number, 77, None));
    }
}

/// What a stranger says in private TLVs does not count, and it learns nothing of ours.
#[test]
fn strangers_are_not_listened_to() {
    let stranger: SocketAddr = "127.0.0.2:40000".parse().unwrap();
    let (mut reflector, request) = (reflector(None), request(None));
    let accepted = reflector.check(&request, stranger, &directory(), now(10)).unwrap();
    assert!(accepted.speaker.is_none() && accepted.records.is_empty());
    let mut reply = request.clone();
    reflector.answer(&accepted, &mut reply, now(11), &[announcement_record("oslo-1", 7)]);
    assert_eq!(flags(&reply, 44), [(TYPE_LAGMESH, UNRECOGNIZED), (TYPE_LAGMESH, UNRECOGNIZED)]);
    assert_eq!(reply[44..], request[44..]);
}

/// A wrong key is dropped; a good base packet with spoilt TLVs is answered with the I flag on each of them.
#[test]
fn integrity() {
    let right = keys(b"a key of sixteen");
    let mut reflector = reflector(Some(right.clone()));
    assert_eq!(reflect(&mut reflector, &request(Some(&keys(b"another key of 16")))).unwrap_err(), Drop::BadHmac);
    let mut spoilt = request(Some(&right));
    // One octet of t1: whose agent it is still reads well.
    spoilt[140] ^= 1;
    let (accepted, reply) = reflect(&mut reflector, &spoilt).unwrap();
    assert!(accepted.speaker.is_none());
    assert!(flags(&reply, 112).iter().all(|(_, flags)| flags & INTEGRITY != 0));
}

/// Requests that are too short or too long, and those of another reflector, are dropped by name.
#[test]
fn drops() {
    let mut open = reflector(None);
    assert_eq!(reflect(&mut open, &[0; 43]).unwrap_err(), Drop::TooShort);
    assert_eq!(reflect(&mut open, &[0; REQUEST_MAX + 1]).unwrap_err(), Drop::TooLong);
    let other: SocketAddr = "127.0.0.1:18621".parse().unwrap();
    assert_eq!(open.check(&[0; 44], other, &directory(), now(0)).unwrap_err(), Drop::Loop);
    let mut keyed = reflector(Some(keys(b"a key of sixteen")));
    assert_eq!(reflect(&mut keyed, &[0; 111]).unwrap_err(), Drop::TooShort);
    assert_eq!(reflect(&mut keyed, &[0; 112]).unwrap_err(), Drop::BadHmac);
}

/// Padding is understood, unknown TLVs are marked, a TLV beyond the packet is malformed and ends the walk.
#[test]
fn standard_extensions() {
    let mut packet = vec![0; 44 + 3 * HEADER_LENGTH];
    put_header(&mut packet, 44, TYPE_PADDING, 0);
    put_header(&mut packet, 48, 200, 0);
    put_header(&mut packet, 52, TYPE_PADDING, 9);
    let (_, reply) = reflect(&mut reflector(None), &packet).unwrap();
    assert_eq!(flags(&reply, 44), [(TYPE_PADDING, 0), (200, UNRECOGNIZED), (TYPE_PADDING, MALFORMED)]);
}

/// A source has its budget for a second and gets it back in time; sources do not share it.
#[test]
fn rate_limit() {
    let mut limiter = Limiter::new(10);
    let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let mut admitted = |source, ms, count: u32| (0..count).filter(|_| limiter.admit(source, false, now(ms).raw).is_ok()).count();
    assert_eq!(admitted(a, 0, 100), 10);
    assert_eq!(admitted(b, 0, 5), 5);
    assert_eq!(admitted(a, 500, 100), 5);
    assert_eq!(admitted(a, 60_000, 100), 10);
}

/// The tables are bounded: beyond them new strangers are dropped, configured agents and known sources are not.
#[test]
fn tables_are_bounded() {
    let mut limiter = Limiter::new(10);
    let source = |n: u32| IpAddr::from(n.to_be_bytes());
    for n in 0..u32::try_from(SOURCES_MAX).unwrap() {
        limiter.admit(source(n), false, RawNanos(5)).unwrap();
    }
    assert_eq!(limiter.admit(source(1 << 30), false, RawNanos(5)), Err(Drop::TooManySources));
    assert_eq!(limiter.admit(source(1 << 30), true, RawNanos(5)), Ok(()));
    assert_eq!(limiter.admit(source(7), false, RawNanos(5)), Ok(()));
    assert_eq!(limiter.admit(source(1 << 29), false, now(60_000).raw), Ok(()));
    let mut reflector = reflector(None);
    let flow = |n: usize| SocketAddr::new(source(u32::try_from(n).unwrap()), 1);
    assert!((0..SESSIONS_MAX).all(|n| reflector.count(flow(n), RawNanos(5)) == Some(0)));
    assert_eq!(reflector.count(flow(SESSIONS_MAX), RawNanos(5)), None);
    assert_eq!(reflector.count(flow(0), now(50_000).raw), Some(1));
    assert_eq!(reflector.count(flow(SESSIONS_MAX), now(70_000).raw), Some(0));
    assert_eq!(reflector.sessions.len(), 2);
}

proptest! {
    /// Whatever is changed in a packet or cut off it, nothing panics and no answer is longer than its request.
    #[test]
    fn mutations(
        authenticated: bool, changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        length in 0_usize..400, resign: bool,
    ) {
        let key = keys(b"a key of sixteen");
        let keys = authenticated.then_some(&key);
        let mut packet = request(keys);
        for (at, octet) in &changes {
            let at = at.index(packet.len());
            packet[at] = *octet;
        }
        packet.resize(length, 3);
        if authenticated && resign && length >= 112 {
            seal_base(&mut packet, &key, KeyIndex::FIRST);
        }
        let result = reflect(&mut reflector(keys.cloned()), &packet);
        let least = if authenticated { 112 } else { 44 };
        prop_assert!(result.is_err() || length >= least);
    }

    /// Random octets are never answered in authenticated mode.
    #[test]
    fn noise(packet in proptest::collection::vec(any::<u8>(), 0..1600)) {
        prop_assert!(reflect(&mut reflector(Some(keys(b"a key of sixteen"))), &packet).is_err());
        let _answered = reflect(&mut reflector(None), &packet);
    }
}
