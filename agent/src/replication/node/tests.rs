use lagmesh_model::time::{Epoch, WallNanos};

use super::*;

/// Where a standby does not tell how far it has received, what it replayed is not taken for that, and a receiver that it does not show
/// is not called missing.
#[test]
fn what_is_refused_is_unknown() {
    let sample = |tells_received, received| StandbySample {
        in_recovery: true,
        replayed: Some(Lsn(70)),
        received,
        pause: None,
        apply_delay: None,
        conflicts: None,
        tells_received,
        receiver: Receiver::Absent,
        slot: None,
    };
    let look = |sample| Look { began: RawNanos(1), at: RawNanos(2), sample, timeline: Some(Timeline(1)) };
    let lsn = |look: &Look| look.received(Some(SystemIdentifier(1))).map(|position| position.lsn);
    let table = [
        (sample(true, Some(Lsn(90))), Some(Lsn(90)), decide::Receiver::Missing),
        (sample(true, None), Some(Lsn(70)), decide::Receiver::Missing),
        (sample(false, None), None, decide::Receiver::Unknown),
    ];
    for (sample, received, receiver) in table {
        let look = look(sample);
        assert_eq!((lsn(&look), look.receiver()), (received, receiver), "{look:?}");
        assert_eq!(look.standby(None, false).unreplayed_bytes, received.map(|lsn| lsn.0 - 70));
    }
}

/// An apply worker fails as long as its errors go on to rise; errors of long ago, or a reset of the statistics, say nothing.
#[test]
fn errors_that_rise_are_news() {
    let interval = Duration::from_secs(1);
    let mut node = NodeTrack::new("orders".parse().unwrap(), "db".parse().unwrap(), interval, interval * 5);
    let at = |second: u64| Reading { epoch: Epoch(1), raw: RawNanos(second * 1_000_000_000), wall: WallNanos(0) };
    assert_eq!(node.subscriber(at(100).raw), None);
    let mut fails = |second, apply_errors| {
        node.record(NodeNews::Subscriber(SubscriberSample { carries_beats: true, apply_errors, slots: Vec::new() }), at(second));
        node.subscriber(at(second).raw).unwrap().fails
    };
    let table = [
        (100, Some(9), false),
        (101, Some(9), false),
        (102, Some(10), true),
        (106, Some(10), true),
        (107, Some(11), true),
        (128, Some(11), false),
        (129, Some(0), false),
        (130, None, false),
        (131, Some(5), false),
    ];
    for (second, errors, expected) in table {
        assert_eq!(fails(second, errors), expected, "{second}");
    }
    assert_eq!(node.subscriber(at(135).raw), None, "too old");
}
