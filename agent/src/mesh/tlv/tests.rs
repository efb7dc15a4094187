use proptest::prelude::*;

use super::*;

fn record() -> impl Strategy<Value = Record> {
    let seen = (any::<[u64; 3]>(), any::<i64>(), 0..1_i64 << 40, 0..1_i64 << 40, 0_u64..1 << 40).prop_map(
        |(n, i, lower, width, rtt)| Record::Seen {
            origin: NodeHash(n[0]),
            node: NodeHash(n[1]),
            incarnation: Incarnation(i),
            sequence: Sequence(n[2]),
            held: Interval::between(lower, lower + width).unwrap(),
            previous_rtt_ns: Some(rtt).filter(|rtt| *rtt > 0),
        },
    );
    let announcement = (any::<[u64; 5]>(), any::<i64>(), 0..1_u64 << 60, 0..1_u64 << 60, any::<u32>()).prop_map(
        |(n, i, sent, took, timeline)| Record::Announcement {
            origin: NodeHash(n[0]),
            incarnation: Incarnation(i),
            sequence: Sequence(n[1]),
            times: BeatTimes { epoch: Epoch(n[2]), sent: RawNanos(sent), acknowledged: RawNanos(sent + took) },
            position: Position { system: SystemIdentifier(n[3]), timeline: Timeline(timeline), lsn: Lsn(n[4]) },
        },
    );
    let claim = prop_oneof![
        Just(None),
        Just(Some(ClockClaim::Free)),
        (any::<u64>(), proptest::sample::select(ClaimSource::ALL))
            .prop_map(|(error_ns, source)| Some(ClockClaim::Synchronized { error_ns, source })),
    ];
    let wall = (any::<u64>(), -1_i64 << 61..1 << 61, 0..1_i64 << 59, claim).prop_map(|(epoch, lower, width, claim)| {
        let difference = Interval::between(lower, lower + width).unwrap();
        Record::Wall(WallClock { epoch: Epoch(epoch), difference, claim })
    });
    let lost_slot = any::<[u64; 2]>().prop_map(|n| Record::LostSlot { node: NodeHash(n[0]), slot: SlotHash(n[1]) });
    let reach = (any::<[u64; 5]>(), 0..1_u64 << 60, 0..1_u64 << 60, any::<u32>()).prop_map(|(n, began, took, timeline)| {
        let confirmed = Position { system: SystemIdentifier(n[3]), timeline: Timeline(timeline), lsn: Lsn(n[4]) };
        let (began, ended) = (RawNanos(began), RawNanos(began + took));
        let reach = SlotReach { epoch: Epoch(n[2]), began, ended, confirmed };
        Record::Reach { node: NodeHash(n[0]), slot: SlotHash(n[1]), reach }
    });
    prop_oneof![seen, announcement, wall, lost_slot, reach]
}

proptest! {
    /// What is told is heard: any two records fit into a packet and come out as they went in.
    #[test]
    fn records_round_trip(records in proptest::collection::vec(record(), 0..=RECORDS_PER_PACKET)) {
        let mut value = [0xEE; RECORDS_LENGTH];
        prop_assert_eq!(put_records(&mut value, &records), records.len());
        prop_assert_eq!(read(&value), Body::Records(records));
    }

    /// The clock body comes out as it went in, also with octets of a later version behind it.
    #[test]
    fn clock_round_trip(agent: u64, epoch: u64, t in proptest::array::uniform3(0..RawNanos::END.0), more in 0_usize..9) {
        let body = ClockBody { agent: AgentHash(agent), epoch: Epoch(epoch), t1: RawNanos(t[0]), t2: RawNanos(t[1]), t3: RawNanos(t[2]) };
        let mut value = vec![0xEE; CLOCK_LENGTH + more];
        put_clock(&mut value, &body);
        prop_assert_eq!(read(&value), Body::Clock(body));
        prop_assert_eq!(read(&value[..CLOCK_LENGTH - 1]), Body::Unknown);
    }

    /// Any octets are read without a panic, and nothing beyond the room is written.
    #[test]
    fn any_octets(value in proptest::collection::vec(any::<u8>(), 0..220), records in proptest::collection::vec(record(), 0..4)) {
        let mut value = value;
        for start in [None, Some(prefix(KIND_CLOCK)), Some(prefix(KIND_RECORDS))] {
            if let (Some(start), true) = (start, value.len() >= PREFIX_LENGTH) {
                value[..PREFIX_LENGTH].copy_from_slice(&start);
            }
            read(&value);
        }
        prop_assert!(put_records(&mut value, &records) <= records.len());
    }
}

/// Unknown versions, kinds and record types are skipped; known records around them still count.
#[test]
fn the_unknown_is_skipped() {
    let seen = Record::Seen {
        origin: NodeHash(1),
        node: NodeHash(2),
        incarnation: Incarnation(3),
        sequence: Sequence(4),
        held: Interval::exact(5),
        previous_rtt_ns: None,
    };
    let mut value = [0; 200];
    put_records(&mut value, [&seen]);
    let mut later = value;
    later[0] = 2;
    assert_eq!(read(&later), Body::Unknown);
    later = value;
    later[1] = 9;
    assert_eq!(read(&later), Body::Unknown);
    later = value;
    later[3] = 0;
    assert_eq!(read(&later), Body::Unknown, "somebody else's experiment");
    // A record of an unknown type with 3 octets before the known one.
    later = [0; 200];
    later[..8].copy_from_slice(&[1, 2, b'L', b'M', 2, 0, 0, 0]);
    later[8..13].copy_from_slice(&[77, 3, 1, 2, 3]);
    later[13..13 + 58].copy_from_slice(&value[8..66]);
    assert_eq!(read(&later), Body::Records(vec![seen]));
}

/// Values with which later arithmetic could overflow are not let in.
#[test]
fn nonsense_stays_outside() {
    let mut value = [0; RECORDS_LENGTH];
    let seen = Record::Seen {
        origin: NodeHash(1),
        node: NodeHash(2),
        incarnation: Incarnation(3),
        sequence: Sequence(4),
        held: Interval::between(-(1 << 61), 0).unwrap(),
        previous_rtt_ns: None,
    };
    put_records(&mut value, [&seen]);
    assert_eq!(read(&value), Body::Records(vec![]));
}

/// A look that ended before it began is no look.
#[test]
fn looks_end_after_they_began() {
    let confirmed = Position { system: SystemIdentifier(1), timeline: Timeline(1), lsn: Lsn(1) };
    let reach = SlotReach { epoch: Epoch(1), began: RawNanos(8), ended: RawNanos(7), confirmed };
    let mut value = [0; RECORDS_LENGTH];
    put_records(&mut value, [&Record::Reach { node: NodeHash(1), slot: SlotHash(2), reach }]);
    assert_eq!(read(&value), Body::Records(vec![]));
}
