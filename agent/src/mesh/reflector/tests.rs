use std::net::IpAddr;

use lagmesh_model::state::ClaimSource;
use lagmesh_model::time::{Epoch, RawNanos, WallNanos};
use proptest::prelude::*;

use super::limiter::SOURCES_MAX;
use super::sessions::SESSIONS_MAX;
use super::*;
use crate::mesh::peer::{PACKET_MAX, Peer};
use crate::mesh::stamp::extension::{
    HEADER_LENGTH, INTEGRITY, MALFORMED, TYPE_CLASS_OF_SERVICE, TYPE_DIRECT_MEASUREMENT, TYPE_FOLLOW_UP, TYPE_LAGMESH,
    TYPE_PADDING, TYPE_TIMESTAMP_INFORMATION, UNRECOGNIZED, put_header,
};
use crate::mesh::stamp::follow_up::FOLLOW_UP_LENGTH;
use crate::mesh::stamp::{Format, put};
use crate::mesh::testing::{announcement_record, fleet};
use crate::mesh::tlv::Body;

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
    Reflector::new(hash("oslo-a"), keys, false, 1_000_000)
}

/// A probe as Tokyo's agent sends it to Oslo.
fn request(keys: Option<&MeshKeys>) -> Vec<u8> {
    let (fleet, tokyo, agent) = (fleet(&[]), "tokyo".parse().unwrap(), "tokyo-a".parse().unwrap());
    let peer = Peer::new(&fleet, (&tokyo, &agent), (&"oslo".parse().unwrap(), &"oslo-a".parse().unwrap()), now(0));
    let mut packet = [0; PACKET_MAX];
    let own = (hash("tokyo-a"), ErrorEstimate::UNKNOWN);
    let length = peer.request(0, own, now(1), &[announcement_record("tokyo-1", 5)], keys, &mut packet);
    packet[..length].to_vec()
}

/// With which requests arrive here: expedited forwarding, and ECN 1.
const DSCP: u8 = 46;

/// A source of which the socket tells nothing else.
fn bare(source: SocketAddr) -> Origin {
    Origin { source, hops: None, class: None }
}

fn origin(source: &str) -> Origin {
    Origin { source: source.parse().unwrap(), hops: Some(61), class: Some(DSCP << 2 | 1) }
}

fn reflect(reflector: &mut Reflector, packet: &[u8]) -> Result<(Accepted, Vec<u8>), Drop> {
    let accepted = reflector.check(packet, origin(SOURCE), &directory(), now(10))?;
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
        assert_eq!((base.sender_sequence, base.sender_timestamp), (0, Timestamp::ntp(now(1).wall)));
        assert_eq!((base.received, base.timestamp), (Timestamp::ntp(now(10).wall), Timestamp::ntp(now(11).wall)));
        let bodies: Vec<Body> = frames(&reply, mode.base_length())
            .filter(|frame| frame.kind == TYPE_LAGMESH)
            .map(|frame| tlv::read(frame.value(&reply).unwrap()))
            .collect();
        let clock = ClockBody { agent: hash("oslo-a"), epoch: Epoch(9), t1: now(1).raw, t2: now(10).raw, t3: now(11).raw };
        assert_eq!(bodies, [Body::Clock(clock), Body::Records(vec![announcement_record("oslo-1", 7)])]);
        assert!(flags(&reply, mode.base_length()).iter().all(|(_, flags)| *flags == 0));
        if let Some(keys) = &keys {
            assert!(verify_base(&reply, keys).is_some());
            assert_eq!(verify(&reply, mode, keys), Integrity::Good);
        }
    }
}

/// A standard sender without any TLV gets a standard answer, numbered by its flow.
#[test]
fn standard_senders_are_answered() {
    let mut reflector = reflector(None);
    for number in 0..3 {
        let mut packet = vec![0; 44];
        Request { sequence: 100 + number, timestamp: Timestamp(5), error: ErrorEstimate::UNKNOWN, session: 77 }
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
    let accepted = reflector.check(&request, bare(stranger), &directory(), now(10)).unwrap();
    assert!(accepted.speaker.is_none() && accepted.records.is_empty());
    let mut reply = request.clone();
    reflector.answer(&accepted, &mut reply, now(11), &[announcement_record("oslo-1", 7)]);
    assert_eq!(flags(&reply, 44), [(TYPE_LAGMESH, UNRECOGNIZED), (TYPE_LAGMESH, UNRECOGNIZED), (TYPE_FOLLOW_UP, 0)]);
    let private = 44..request.len() - HEADER_LENGTH - FOLLOW_UP_LENGTH;
    assert_eq!(reply[private.clone()], request[private]);
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
    assert_eq!(open.check(&[0; 44], bare(other), &directory(), now(0)).unwrap_err(), Drop::Loop);
    let mut keyed = reflector(Some(keys(b"a key of sixteen")));
    assert_eq!(reflect(&mut keyed, &[0; 111]).unwrap_err(), Drop::TooShort);
    assert_eq!(reflect(&mut keyed, &[0; 112]).unwrap_err(), Drop::BadHmac);
}

/// An unauthenticated request with TLVs of these types and values.
fn with_tlvs(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut packet = vec![0; 44];
    for (kind, value) in tlvs {
        let at = packet.len();
        packet.resize(at + HEADER_LENGTH, 0);
        put_header(&mut packet, at, *kind, u16::try_from(value.len()).unwrap());
        packet.extend_from_slice(value);
    }
    packet
}

fn values(packet: &[u8], base: usize) -> Vec<Vec<u8>> {
    frames(packet, base).map(|frame| frame.value(packet).unwrap().to_vec()).collect()
}

/// Padding is understood, unknown TLVs are marked, a TLV beyond the packet is malformed and ends the walk.
#[test]
fn standard_extensions() {
    let mut packet = with_tlvs(&[(TYPE_PADDING, &[]), (200, &[]), (TYPE_PADDING, &[])]);
    packet[55] = 9;
    let (_, reply) = reflect(&mut reflector(None), &packet).unwrap();
    assert_eq!(flags(&reply, 44), [(TYPE_PADDING, 0), (200, UNRECOGNIZED), (TYPE_PADDING, MALFORMED)]);
}

/// A TLV with another length than the standard gives it is malformed; what follows goes back as it came.
#[test]
fn wrong_length_ends_the_walk() {
    let packet = with_tlvs(&[(200, &[7]), (TYPE_FOLLOW_UP, &[9; 15]), (200, &[7]), (TYPE_CLASS_OF_SERVICE, &[1; 4])]);
    let (_, reply) = reflect(&mut reflector(None), &packet).unwrap();
    let expected = [(200, UNRECOGNIZED), (TYPE_FOLLOW_UP, MALFORMED), (200, UNRECOGNIZED), (TYPE_CLASS_OF_SERVICE, UNRECOGNIZED)];
    assert_eq!(flags(&reply, 44), expected);
    assert_eq!(values(&reply, 44), [vec![7], vec![0; 15], vec![7], vec![1; 4]]);
}

/// Stamps come back in the format in which they were asked for, and the error estimate says so; between them it is the same time.
#[test]
fn both_timestamp_formats() {
    let mut reflector = reflector(None);
    reflector.claim(Some(ClockClaim::Synchronized { error_ns: 1_000_000, source: ClaimSource::Kernel }));
    for format in [Format::Ntp, Format::Ptp] {
        let mut packet = vec![0; 44];
        let error = ErrorEstimate::UNKNOWN.with(format);
        Request { sequence: 1, timestamp: Timestamp(5), error, session: 0 }.encode(Mode::Unauthenticated, &mut packet);
        let (_, reply) = reflect(&mut reflector, &packet).unwrap();
        let reply = Reply::decode(Mode::Unauthenticated, &reply).unwrap();
        assert_eq!((reply.error.format, reply.error.synchronized, reply.sender_error), (format, true, error));
        assert_eq!((reply.received, reply.timestamp), (Timestamp::of(now(10).wall, format), Timestamp::of(now(11).wall, format)));
        assert_eq!((reply.dwell_ns(), reply.sender_hops), (Some(1_000_000), 61));
    }
}

/// What made the stamps is told as far as it is known: nothing if not, by NTP if the host claims so, by itself if it claims nothing.
#[test]
fn timestamp_information() {
    let mut reflector = reflector(None);
    let packet = with_tlvs(&[(TYPE_TIMESTAMP_INFORMATION, &[0; 4])]);
    for (claim, marks, value) in [
        (None, UNRECOGNIZED, [0; 4]),
        (Some(ClockClaim::Synchronized { error_ns: 5, source: ClaimSource::ClockBound }), 0, [1, 2, 1, 2]),
        (Some(ClockClaim::Free), 0, [5, 2, 5, 2]),
    ] {
        reflector.claim(claim);
        let (_, reply) = reflect(&mut reflector, &packet).unwrap();
        assert_eq!(flags(&reply, 44), [(TYPE_TIMESTAMP_INFORMATION, marks)]);
        assert_eq!(values(&reply, 44), [value]);
        let reply = Reply::decode(Mode::Unauthenticated, &reply).unwrap();
        assert_eq!(reply.error, ErrorEstimate::of(claim));
    }
}

/// The class that arrived is told. The answer leaves with it, unless a holder of the key wants another; a wish that is refused is marked.
#[test]
fn class_of_service() {
    let tlv = |dscp: u8| with_tlvs(&[(TYPE_CLASS_OF_SERVICE, &[dscp << 2, 0, 0, 0])]);
    let mut open = reflector(None);
    for (wanted, refused) in [(DSCP, 0), (10, 1)] {
        let (accepted, reply) = reflect(&mut open, &tlv(wanted)).unwrap();
        assert_eq!(values(&reply, 44), [[wanted << 2 | DSCP >> 4, (DSCP & 15) << 4 | 1 << 2 | refused, 0, 0]]);
        assert_eq!(accepted.class, Some(DSCP << 2));
    }
    let unknown = open.check(&tlv(10), bare(SOURCE.parse().unwrap()), &directory(), now(1)).unwrap();
    let mut reply = tlv(10);
    open.answer(&unknown, &mut reply, now(2), &[]);
    assert_eq!((unknown.class, flags(&reply, 44)), (None, vec![(TYPE_CLASS_OF_SERVICE, UNRECOGNIZED)]));

    let key = keys(b"a key of sixteen");
    let mut packet = vec![0; 112];
    packet.extend_from_slice(&with_tlvs(&[(TYPE_CLASS_OF_SERVICE, &[10 << 2, 0, 0, 0]), (TYPE_HMAC, &[0; 16])])[44..]);
    seal_base(&mut packet, &key, KeyIndex::FIRST);
    let (accepted, _) = reflect(&mut reflector(Some(key.clone())), &packet).unwrap();
    assert_eq!(accepted.class, Some(DSCP << 2), "a wish without integrity is none");
    seal(&mut packet, 112, 120, &key, KeyIndex::FIRST);
    let (accepted, reply) = reflect(&mut reflector(Some(key.clone())), &packet).unwrap();
    assert_eq!((accepted.class, reply[117] & 1), (Some(10 << 2), 0));
    assert_eq!(verify(&reply, Mode::Authenticated, &key), Integrity::Good);
}

/// A session's counts tell loss by direction, and each answer tells when the one before it left, by the kernel (2) if that said so in
/// time, else by the program (3); sessions are told apart by their identifier too.
#[test]
fn counts_and_follow_up() {
    let mut reflector = reflector(None);
    let mut ask = |session: u16, answered: bool, ms: u64, left_ms: &[u64]| {
        let mut packet = with_tlvs(&[(TYPE_DIRECT_MEASUREMENT, &[7; 12]), (TYPE_FOLLOW_UP, &[9; 16])]);
        Request { sequence: 50, timestamp: Timestamp(5), error: ErrorEstimate::UNKNOWN, session }
            .encode(Mode::Unauthenticated, &mut packet);
        let accepted = reflector.check(&packet, origin(SOURCE), &directory(), now(ms)).unwrap();
        if answered {
            let answered = reflector.answer(&accepted, &mut packet, now(ms), &[]).unwrap();
            for ms in left_ms {
                reflector.left(&answered, now(*ms).raw);
            }
        }
        let reply = Reply::decode(Mode::Unauthenticated, &packet).unwrap();
        (reply.sequence, values(&packet, 44))
    };
    let counts = |received: u32, answered: u32| [[7; 4], received.to_be_bytes(), answered.to_be_bytes()].concat();
    let sent = |sequence: u32, ms, method: u8| {
        [&sequence.to_be_bytes()[..], &Timestamp::ntp(now(ms).wall).0.to_be_bytes(), &[method, 0, 0, 0]].concat()
    };
    assert_eq!(ask(1, true, 10, &[13]), (0, vec![counts(1, 1), vec![0; 16]]));
    assert_eq!(ask(1, true, 20, &[]), (1, vec![counts(2, 2), sent(0, 13, 2)]));
    ask(1, false, 30, &[]);
    assert_eq!(ask(1, true, 40, &[41]), (2, vec![counts(4, 3), sent(1, 20, 3)]));
    assert_eq!(ask(2, true, 50, &[]), (0, vec![counts(1, 1), vec![0; 16]]));
    assert_eq!(ask(1, true, 60, &[]), (3, vec![counts(5, 4), sent(2, 41, 2)]));
}

/// No answer is answered, neither one of ours nor one that another reflector made of it: two reflectors do not answer each other for ever.
#[test]
fn no_loops_with_other_reflectors() {
    let key = keys(b"a key of sixteen");
    for (keys, format) in [(None, Format::Ntp), (None, Format::Ptp), (Some(&key), Format::Ntp)] {
        let mode = if keys.is_some() { Mode::Authenticated } else { Mode::Unauthenticated };
        let mut reflector = reflector(keys.cloned());
        let mut packet = request(keys);
        if format == Format::Ptp {
            packet[12] |= 0x40;
            put(&mut packet, 4, Timestamp::of(now(1).wall, format).0.to_be_bytes());
        }
        let (_, answer) = reflect(&mut reflector, &packet).unwrap();
        let ours = Reply::decode(mode, &answer).unwrap();
        let mut theirs = answer.clone();
        let (timestamp, received) = (Timestamp(8), Timestamp(7));
        let (sender_timestamp, sender_error) = (ours.timestamp, ours.error);
        Reply { timestamp, received, sender_timestamp, sender_error, ..ours }.encode(mode, &mut theirs);
        keys.inspect(|keys| seal_base(&mut theirs, keys, KeyIndex::FIRST));
        let mut check = |packet: &[u8], ms| reflector.check(packet, origin(SOURCE), &directory(), now(ms)).map(drop);
        assert_eq!((check(&answer, 12), check(&theirs, 12)), (Err(Drop::Loop), Err(Drop::Loop)));
        assert_eq!(check(&theirs, 61_013), Ok(()));
    }
}

/// With a key, senders without one are answered only if the fleet allows it; never at the address of an agent, and never heard.
#[test]
fn third_parties() {
    let key = keys(b"a key of sixteen");
    let mut open = Reflector::new(hash("oslo-a"), Some(key.clone()), true, 1_000_000);
    assert_eq!(reflect(&mut reflector(Some(key.clone())), &[0; 44]).unwrap_err(), Drop::TooShort);
    assert_eq!(open.check(&[0; 44], origin("127.0.0.1:7"), &directory(), now(1)).unwrap_err(), Drop::TooShort);
    assert_eq!(open.check(&[0; 200], origin("127.0.0.1:7"), &directory(), now(1)).unwrap_err(), Drop::BadHmac);
    let stranger = origin("127.0.0.2:7");
    for length in [44, 111, 112, 200] {
        let accepted = open.check(&vec![0; length], stranger, &directory(), now(1)).unwrap();
        let mut reply = vec![0; length];
        open.answer(&accepted, &mut reply, now(2), &[announcement_record("oslo-1", 7)]);
        assert_eq!(Reply::decode(Mode::Unauthenticated, &reply).unwrap().timestamp, Timestamp::ntp(now(2).wall));
    }
    let unsigned = request(None);
    let accepted = open.check(&unsigned, stranger, &directory(), now(1)).unwrap();
    assert!(accepted.speaker.is_none() && accepted.records.is_empty());
    let signed = request(Some(&key));
    let accepted = open.check(&signed, stranger, &directory(), now(1)).unwrap();
    assert_eq!(accepted.speaker.map(|speaker| speaker.agent), Some(hash("tokyo-a")));
}

/// Whoever holds either key of a rotation is answered, with its own key.
#[test]
fn rotation() {
    let (old, new): (&[u8], &[u8]) = (b"the old key, long", b"the new key, long");
    let mut reflector = reflector(Some(MeshKeys::of(&[new, old]).unwrap()));
    for theirs in [keys(old), keys(new)] {
        let (accepted, reply) = reflect(&mut reflector, &request(Some(&theirs))).unwrap();
        assert!(accepted.speaker.is_some() && verify_base(&reply, &theirs).is_some());
        assert_eq!(verify(&reply, Mode::Authenticated, &theirs), Integrity::Good);
    }
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
    let mut sessions = Sessions::default();
    let session = |n: usize, configured| SessionKey {
        source: SocketAddr::new(source(u32::try_from(n).unwrap()), 1),
        identifier: 0,
        configured,
    };
    let mut count = |n, configured, ms| {
        sessions.receive(session(n, configured), now(ms).raw);
        sessions.answer(session(n, configured), now(ms).wall).map(|counts| counts.answered)
    };
    assert!((0..SESSIONS_MAX).all(|n| count(n, false, 5) == Some(0)));
    assert_eq!(count(SESSIONS_MAX, false, 5), None);
    assert_eq!(count(SESSIONS_MAX, true, 5), Some(0));
    assert_eq!(count(0, false, 50_000), Some(1));
    assert_eq!(count(SESSIONS_MAX, false, 70_000), Some(0));
    assert_eq!(sessions.len(), 3);
}

/// A full table is searched for what may go once a second, not for each packet of a flood.
#[test]
fn full_tables_are_searched_seldom() {
    let mut sessions = Sessions::default();
    let session = |n: usize| SessionKey {
        source: SocketAddr::new([10, 0, 0, 1].into(), 1),
        identifier: u16::try_from(n).unwrap(),
        configured: false,
    };
    let mut ask = |n, ms| {
        sessions.receive(session(n), now(ms).raw);
        sessions.len()
    };
    for n in 0..SESSIONS_MAX {
        ask(n, 0);
    }
    // None may go yet; then all may, but the table was searched just now.
    assert_eq!(ask(SESSIONS_MAX, 59_900), SESSIONS_MAX);
    assert_eq!(ask(SESSIONS_MAX, 60_001), SESSIONS_MAX);
    assert_eq!(ask(SESSIONS_MAX, 60_900), 1);
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
