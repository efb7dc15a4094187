//! The corpus from which fuzzing starts: for each target inputs by name. All are made up here, so that they follow the wire format.

use lagmesh_model::ids::{NodeHash, SlotHash};
use lagmesh_model::interval::Interval;

use super::*;
use crate::mesh::stamp::extension::{
    HEADER_LENGTH, TYPE_CLASS_OF_SERVICE, TYPE_DIRECT_MEASUREMENT, TYPE_FOLLOW_UP, TYPE_LAGMESH, TYPE_PADDING,
    TYPE_TIMESTAMP_INFORMATION,
};
use crate::mesh::stamp::{Format, Reply, Request, Timestamp, put};
use crate::mesh::survey::{SESSION_MTU, SESSION_ROUTE};
use crate::mesh::testing::{reach, seen_record};
use crate::mesh::tlv::{CLOCK_LENGTH, ClockBody, RECORDS_LENGTH, Record};
use crate::slot::SlotReach;
use crate::wall::WallClock;

/// Inputs by name.
pub(super) type Seeds = Vec<(String, Vec<u8>)>;

fn input(situation: u8, packet: &[u8]) -> Vec<u8> {
    [&[situation], packet].concat()
}

fn tlv_of(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[0x80, kind], &length[..], value].concat()
}

/// A base packet and what follows it.
fn packet(mode: Mode, session: u16, tlvs: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = vec![0; mode.base_length()];
    Request { sequence: 7, timestamp: Timestamp::ntp(at(5).wall), error: ErrorEstimate::UNKNOWN, session }
        .encode(mode, &mut packet);
    packet.extend(tlvs.concat());
    packet
}

/// A probe as Tokyo's agent sends it.
fn probe(keys: Option<&MeshKeys>) -> Vec<u8> {
    let (tokyo, oslo) = ((region("tokyo"), agent("tokyo-a")), (region("oslo"), agent("oslo-a")));
    let peer = Peer::new(&fleet(&[]), (&tokyo.0, &tokyo.1), (&oslo.0, &oslo.1), at(0));
    let mut packet = [0; PACKET_MAX];
    let records = [announcement_record("tokyo-1", 5), seen_record("oslo-1", "tokyo-1", 4, Interval::exact(9))];
    let length = peer.request(0, (hash("tokyo-a"), ErrorEstimate::UNKNOWN), at(1), &records, keys, &mut packet);
    packet[..length].to_vec()
}

fn clock(body: ClockBody) -> Vec<u8> {
    let mut value = vec![0; CLOCK_LENGTH];
    tlv::put_clock(&mut value, &body);
    value
}

fn records(records: &[Record]) -> Vec<u8> {
    let mut value = vec![0; RECORDS_LENGTH];
    tlv::put_records(&mut value, records);
    value
}

/// Values of private TLVs, good ones and such as a stranger would make up.
fn private_values() -> Seeds {
    let tokyo = ClockBody { agent: hash("tokyo-a"), epoch: Epoch(3), t1: at(1).raw, t2: RawNanos(0), t3: RawNanos(0) };
    let seen = seen_record("oslo-1", "tokyo-1", 4, Interval::between(-5, 1 << 40).unwrap());
    let claim = Some(ClockClaim::Synchronized { error_ns: 5, source: ClaimSource::ClockBound });
    let wall = WallClock { epoch: Epoch(3), difference: Interval::between(-7, 9).unwrap(), claim };
    let both = records(&[announcement_record("tokyo-1", 5), seen.clone()]);
    let changed = |octets: &[u8], at: usize, octet: u8| {
        let mut octets = octets.to_vec();
        octets[at] = octet;
        octets
    };
    let good = clock(tokyo);
    [
        ("clock", good.clone()),
        ("clock-longer", [&good[..], &[1; 9]].concat()),
        ("clock-short", good[..CLOCK_LENGTH - 1].to_vec()),
        ("clock-late", clock(ClockBody { t1: RawNanos(RawNanos::END.0 - 1), ..tokyo })),
        ("clock-beyond", [&good[..20], &[0xFF; 24]].concat()),
        ("version-2", changed(&good, 0, 2)),
        ("kind-9", changed(&good, 1, 9)),
        ("not-ours", changed(&good, 2, b'X')),
        ("prefix-only", good[..4].to_vec()),
        ("records", both.clone()),
        ("records-none", records(&[])),
        ("records-wall", records(&[Record::Wall(wall), announcement_record("tokyo-1", 5)])),
        ("records-wall-beyond", changed(&records(&[Record::Wall(wall)]), 18, 0x80)),
        (
            "records-lost-slot",
            records(&[Record::LostSlot { node: NodeHash(7), slot: SlotHash(9) }, announcement_record("tokyo-1", 5)]),
        ),
        (
            "records-reach",
            records(&[
                Record::Reach { node: NodeHash(7), slot: SlotHash(9), reach: reach(3) },
                Record::Reach { node: NodeHash(7), slot: SlotHash(8), reach: SlotReach { ended: RawNanos(0), ..reach(3) } },
            ]),
        ),
        ("records-seen", records(&[seen.clone(), seen])),
        ("records-count-255", changed(&both, 4, 255)),
        ("records-count-0", changed(&both, 4, 0)),
        ("record-type-77", changed(&both, 8, 77)),
        ("record-length-0", changed(&both, 9, 0)),
        ("record-length-255", changed(&both, 9, 255)),
        ("record-shorter", changed(&both, 9, 67)),
        ("records-cut", both[..70].to_vec()),
        ("records-ones", [&both[..8], &[0xFF; 144]].concat()),
        ("records-tiny", [&both[..4], &[255, 0, 0, 0], &[9, 0].repeat(100)[..]].concat()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Chains of TLVs behind a base packet, right and wrong ones.
fn chains() -> Seeds {
    let hmac = || tlv_of(TYPE_HMAC, &[7; 16]);
    let padding = |length: usize| tlv_of(TYPE_PADDING, &vec![0; length]);
    let private = tlv_of(TYPE_LAGMESH, &private_values()[0].1);
    let beyond = [&[0x80, TYPE_PADDING, 0xFF, 0xFF][..], &[1, 2, 3]].concat();
    [
        ("none", vec![]),
        ("padding", vec![padding(5)]),
        ("padding-empty", vec![padding(0); 40]),
        (
            "standard",
            vec![
                tlv_of(TYPE_TIMESTAMP_INFORMATION, &[0; 4]),
                tlv_of(TYPE_CLASS_OF_SERVICE, &[46 << 2, 0, 0, 0]),
                tlv_of(TYPE_DIRECT_MEASUREMENT, &[0; 12]),
                tlv_of(TYPE_FOLLOW_UP, &[0; 16]),
                tlv_of(2, &[0; 8]),
                tlv_of(6, &[1, 2, 3, 4]),
                hmac(),
            ],
        ),
        ("class-of-service-sealed", vec![tlv_of(TYPE_CLASS_OF_SERVICE, &[10 << 2, 0, 0, 0]), hmac(), padding(3)]),
        ("class-of-service-short", vec![tlv_of(TYPE_CLASS_OF_SERVICE, &[46 << 2, 0, 0]), hmac()]),
        ("class-of-service-empty", vec![tlv_of(TYPE_CLASS_OF_SERVICE, &[]), hmac()]),
        ("timestamp-long", vec![tlv_of(TYPE_TIMESTAMP_INFORMATION, &[0; 5]), padding(2)]),
        ("direct-short", vec![tlv_of(TYPE_DIRECT_MEASUREMENT, &[0; 11])]),
        ("follow-up-short", vec![tlv_of(TYPE_FOLLOW_UP, &[9; 15])]),
        ("hmac-short", vec![padding(2), tlv_of(TYPE_HMAC, &[7; 15])]),
        ("hmac-twice", vec![private.clone(), hmac(), hmac()]),
        ("hmac-first", vec![hmac(), private.clone()]),
        ("hmac-missing", vec![private.clone()]),
        ("private-twice", vec![private.clone(), private, hmac()]),
        ("unknown", vec![tlv_of(200, &[1; 9]), tlv_of(0, &[]), hmac()]),
        ("beyond", vec![padding(1), beyond]),
        ("header-cut", vec![padding(1), vec![0x80, TYPE_PADDING, 0]]),
        ("flags-set", vec![[&[0xE0, TYPE_PADDING, 0, 2][..], &[1, 2]].concat(), hmac()]),
    ]
    .map(|(name, tlvs)| (name.to_owned(), tlvs.concat()))
    .to_vec()
}

/// Requests for the reflector.
pub(super) fn reflector() -> Seeds {
    let (open, key) = (probe(None), keys());
    let keyed = probe(Some(&key));
    let bare = |mode| packet(mode, 0, &[]);
    let sealed = |mut packet: Vec<u8>| {
        make_good(&mut packet, &key);
        packet
    };
    let ptp = |mut packet: Vec<u8>, error: usize, stamp: usize| {
        packet[error] |= 0x40;
        put(&mut packet, stamp, Timestamp::of(at(5).wall, Format::Ptp).0.to_be_bytes());
        packet
    };
    let wrong_key = probe(Some(&MeshKeys::of(&[b"another key of 16"]).unwrap()));
    let answered = answers(None).remove(0).1;
    let padded = |mode: Mode, length: usize| {
        let rest = length - mode.base_length() - HEADER_LENGTH;
        packet(mode, SESSION_MTU, &[tlv_of(TYPE_PADDING, &vec![0; rest])])
    };
    let (plain, signed) = (Mode::Unauthenticated, Mode::Authenticated);
    let mut seeds: Seeds = [
        ("empty", input(0, &[])),
        ("agent-open", input(AGENT | TOLD, &open)),
        ("agent-open-not-told", input(AGENT, &open)),
        ("stranger-open", input(TOLD, &open)),
        ("agent-keyed", input(KEYED | AGENT | TOLD, &keyed)),
        ("agent-keyed-elsewhere", input(KEYED, &keyed)),
        ("agent-keyed-third-party", input(KEYED | THIRD_PARTY | TOLD, &keyed)),
        ("wrong-key", input(KEYED | AGENT, &wrong_key)),
        ("wrong-key-third-party", input(KEYED | THIRD_PARTY, &wrong_key)),
        ("open-where-keyed", input(KEYED | AGENT, &open)),
        ("open-third-party", input(KEYED | THIRD_PARTY, &open)),
        ("one-octet", input(0, &[0])),
        ("open-43", input(0, &bare(plain)[..43])),
        ("open-44", input(TOLD, &bare(plain))),
        ("zeros", input(0, &[0; 44])),
        ("ones", input(TOLD, &[0xFF; 300])),
        ("keyed-111", input(KEYED, &sealed(bare(signed))[..111])),
        ("keyed-112", input(KEYED | TOLD, &sealed(bare(signed)))),
        ("keyed-zeros", input(KEYED, &[0; 112])),
        ("cut-in-clock", input(AGENT, &open[..60])),
        ("cut-in-records", input(KEYED | AGENT | SEALED, &keyed[..200])),
        ("cut-in-hmac", input(KEYED | AGENT, &keyed[..keyed.len() - 1])),
        ("one-more", input(KEYED | AGENT, &[&keyed[..], &[0]].concat())),
        ("route", input(TOLD, &packet(plain, SESSION_ROUTE, &[]))),
        ("longest-open", input(0, &padded(plain, 1_472))),
        ("longest-keyed", input(KEYED | SEALED, &padded(signed, 1_472))),
        ("length-1500", input(0, &padded(plain, 1_500))),
        ("length-1501", input(0, &padded(plain, 1_501))),
        ("ptp-open", input(TOLD, &ptp(bare(plain), 12, 4))),
        ("ptp-keyed", input(KEYED | SEALED, &ptp(bare(signed), 24, 16))),
        ("answer-of-ours", input(0, &answered[1..])),
    ]
    .map(|(name, input)| (name.to_owned(), input))
    .to_vec();
    for (name, chain) in chains() {
        seeds.push((format!("open-tlv-{name}"), input(TOLD, &packet(plain, 9, std::slice::from_ref(&chain)))));
        seeds.push((format!("keyed-tlv-{name}"), input(KEYED | SEALED | TOLD, &packet(signed, 9, &[chain]))));
    }
    for (name, value) in private_values() {
        let chain = [tlv_of(TYPE_LAGMESH, &value), tlv_of(TYPE_HMAC, &[0; 16])];
        seeds.push((format!("open-private-{name}"), input(AGENT, &packet(plain, 0, &chain[..1]))));
        seeds.push((format!("keyed-private-{name}"), input(KEYED | SEALED, &packet(signed, 0, &chain))));
    }
    seeds
}

/// What Tokyo's reflector answers to the probes that [`asked`] sends, first the one on the first flow.
fn answers(keys: Option<&MeshKeys>) -> Seeds {
    let (_, probes, _) = asked(keys);
    let mut directory = Directory::new(&fleet(&[]), &region("tokyo"));
    directory.found(hash("oslo-a"), SocketAddr::from(([127, 0, 0, 1], 18620)));
    let mut reflector = Reflector::new(hash("tokyo-a"), keys.cloned(), false, RATE_PER_S);
    let mode = if keys.is_some() { KEYED } else { 0 };
    let mut answered = |flow: usize, probe: &[u8]| {
        let origin = Origin { source: SocketAddr::from(([127, 0, 0, 1], 45_000)), hops: Some(61), class: Some(0) };
        let accepted = reflector.check(probe, origin, &directory, at(CAME_MS - 9)).unwrap();
        let mut answer = probe.to_vec();
        reflector.answer(&accepted, &mut answer, at(CAME_MS - 8), &[announcement_record("tokyo-1", 3)]);
        input(if flow == 0 { mode } else { mode | SECOND } | TOLD, &answer)
    };
    let mut answers: Vec<(usize, Vec<u8>)> = probes.iter().map(|(flow, probe)| (*flow, answered(*flow, probe))).collect();
    answers.sort();
    answers.into_iter().map(|(flow, answer)| (format!("flow-{flow}"), answer)).collect()
}

/// Answers for a peer.
pub(super) fn peer() -> Seeds {
    let mut seeds = vec![("empty".to_owned(), input(0, &[]))];
    for (prefix, keys, mode) in [("open", None, Mode::Unauthenticated), ("keyed", Some(keys()), Mode::Authenticated)] {
        let all = answers(keys.as_ref());
        let (situation, answer) = (all[0].1[0], all[0].1[1..].to_vec());
        let base = mode.base_length();
        let reply = Reply::decode(mode, &answer).unwrap();
        let other = |change: &dyn Fn(&mut Reply)| {
            let (mut reply, mut packet) = (reply, answer.clone());
            change(&mut reply);
            reply.encode(mode, &mut packet);
            packet
        };
        // A value of a clock TLV stands four octets behind the base packet, its fields another four behind.
        let field = |n: usize, value: u64| {
            let mut packet = answer.clone();
            put(&mut packet, base + HEADER_LENGTH + 4 + 8 * n, value.to_be_bytes());
            packet
        };
        let flagged = |flag: u8| {
            let mut packet = answer.clone();
            packet[base] |= flag;
            packet
        };
        let variants = [
            ("again-other-flow", input(situation ^ SECOND, &answer)),
            ("cut-in-base", input(situation, &answer[..base - 1])),
            ("base-only", input(situation | SEALED, &answer[..base])),
            ("cut-in-clock", input(situation | SEALED, &answer[..base + 20])),
            ("one-less", input(situation, &answer[..answer.len() - 1])),
            ("longest", input(situation, &[&answer[..], &vec![0; 1_500 - answer.len()][..]].concat())),
            ("changed", input(situation, &field(1, 1))),
            ("unrecognized", input(situation | SEALED, &flagged(0x80))),
            ("malformed", input(situation | SEALED, &flagged(0x40))),
            ("integrity", input(situation | SEALED, &flagged(0x20))),
            ("wrong-agent", input(situation | SEALED, &field(0, hash("oslo-a").0))),
            ("received-at-0", input(situation | SEALED, &field(3, 0))),
            ("received-last", input(situation | SEALED, &field(3, RawNanos::END.0 - 1))),
            ("answered-before", input(situation | SEALED, &field(4, 0))),
            ("answered-last", input(situation | SEALED, &field(4, RawNanos::END.0 - 1))),
            ("answered-beyond", input(situation | SEALED, &field(4, u64::MAX))),
            ("never-sent", input(situation | SEALED, &other(&|reply| reply.sender_sequence = u32::MAX))),
            ("wrong-echo", input(situation | SEALED, &other(&|reply| reply.sender_timestamp.0 ^= 1))),
            ("number-last", input(situation | SEALED, &other(&|reply| reply.sequence = u32::MAX))),
            ("route", input(situation | SEALED, &other(&|reply| reply.session = SESSION_ROUTE))),
            ("mtu", input(situation | SEALED, &other(&|reply| reply.session = SESSION_MTU))),
            ("ptp", input(situation | SEALED, &other(&|reply| reply.error.format = Format::Ptp))),
            ("no-hops", input(situation & !TOLD | SEALED, &other(&|reply| reply.sender_hops = 0))),
        ];
        seeds.extend(all.into_iter().map(|(name, answer)| (format!("{prefix}-{name}"), answer)));
        seeds.extend(variants.map(|(name, input)| (format!("{prefix}-{name}"), input)));
    }
    seeds
}

/// Values and chains of TLVs.
pub(super) fn tlv() -> Seeds {
    let chains = chains().into_iter().map(|(name, chain)| (format!("chain-{name}"), chain));
    private_values().into_iter().chain(chains).collect()
}
