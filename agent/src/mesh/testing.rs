//! A small fleet and its words, for the tests of the mesh: Oslo (oslo-a) is us, Tokyo (tokyo-a) is the peer.

use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::Watchdog;
use lagmesh_model::beat::{Announcement, BeatId, BeatTimes, Incarnation, Sequence};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::NodeHash;
use lagmesh_model::interval::Interval;
use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
use lagmesh_model::time::{Epoch, RawNanos};
use tokio::sync::watch;

use crate::measurement::{Confirmation, Observations};
use crate::mesh::shared::Ends;
use crate::mesh::tlv::Record;
use crate::slot::SlotReach;

/// Where everything goes; nobody looks at the view.
pub(crate) fn ends(observations: Observations) -> Ends {
    let progress = Watchdog::new().register("mesh", Duration::from_secs(60));
    Ends { observations, views: watch::channel(Arc::default()).0, progress }
}

/// The fleet; pairs of text are replaced in its file first.
pub(crate) fn fleet(replace: &[(&str, &str)]) -> Fleet {
    let mut text = r#"
        name = "test"
        insecure = true

        [mesh]
        icmp = false
        tcp = false

        [[region]]
        name = "oslo"
        [[region.agent]]
        name = "oslo-a"
        mesh = "127.0.0.1:18620"

        [[region]]
        name = "tokyo"
        [[region.agent]]
        name = "tokyo-a"
        mesh = "127.0.0.1:18621"

        [[cluster]]
        name = "shop"
        [[cluster.node]]
        name = "oslo-1"
        region = "oslo"
        dsn = "host=10.9.0.1 user=lagmesh dbname=shop"
        [[cluster.node]]
        name = "oslo-2"
        region = "oslo"
        dsn = "host=10.9.0.2 user=lagmesh dbname=shop"
        [[cluster.node]]
        name = "tokyo-1"
        region = "tokyo"
        dsn = "host=10.9.1.1 user=lagmesh dbname=shop"
    "#
    .to_owned();
    for (from, to) in replace {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    Fleet::parse("fleet.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

pub(crate) fn announcement(origin: &str, sequence: u64) -> Announcement {
    Announcement {
        id: BeatId { origin: origin.parse().unwrap(), incarnation: Incarnation(1), sequence: Sequence(sequence) },
        times: BeatTimes { epoch: Epoch(5), sent: RawNanos(sequence * 1_000), acknowledged: RawNanos(sequence * 1_000 + 10) },
        position: Position { system: SystemIdentifier(1), timeline: Timeline(1), lsn: Lsn(sequence) },
    }
}

pub(crate) fn announcement_record(origin: &str, sequence: u64) -> Record {
    let Announcement { id, times, position } = announcement(origin, sequence);
    Record::Announcement { origin: NodeHash::of(&id.origin), incarnation: id.incarnation, sequence: id.sequence, times, position }
}

pub(crate) fn seen_record(origin: &str, node: &str, sequence: u64, held: Interval) -> Record {
    let hash = |node: &str| NodeHash::of(&node.parse().unwrap());
    Record::Seen {
        origin: hash(origin),
        node: hash(node),
        incarnation: Incarnation(1),
        sequence: Sequence(sequence),
        held,
        previous_rtt_ns: None,
    }
}

/// A slot of a server whose log stands at `n`, which was looked at then.
pub(crate) fn reach(n: u64) -> SlotReach {
    let Announcement { times, position, .. } = announcement("tokyo-1", n);
    SlotReach { epoch: times.epoch, began: times.sent, ended: times.acknowledged, confirmed: position }
}

pub(crate) fn confirmation(origin: &str, node: &str, sequence: u64, absent: RawNanos, present: RawNanos) -> Confirmation {
    let id = BeatId { origin: origin.parse().unwrap(), incarnation: Incarnation(1), sequence: Sequence(sequence) };
    Confirmation { id, node: node.parse().unwrap(), epoch: Epoch(1), absent, present }
}
