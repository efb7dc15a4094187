//! Whether the agent loses probes that were answered.

use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;
use std::time::Duration;

use anyhow::{Context, Result};
use lagmesh_model::state::Outcome;
use tokio::time::sleep;

use super::bed::{Bed, Places, Setup};
use super::figure::Figure;
use super::{progress, say, say_figures};
use crate::real::Real;
use crate::wan::log::Record;
use crate::wan::packet::UDP;
use crate::wan::path::LinkSettings;
use crate::wan::truth::{Probes, round_trips};

const MS: i64 = 1_000_000;
const PEERS: usize = 30;
/// How many probes are wanted within a minute.
const PROBES: u64 = 200_000;
const RATE_PER_S: u64 = PROBES / 60;
/// The agent's own: an answer after this is late, and none after [`GIVE_UP`] is lost.
const DEADLINE_NS: i64 = 1_000 * MS;
pub(super) const GIVE_UP: Duration = Duration::from_secs(2);

/// The network's own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct True {
    /// Probes that left.
    pub(super) sent: u64,
    /// Those whose answer was back within the deadline.
    pub(super) in_time: u64,
}

impl AddAssign for True {
    fn add_assign(&mut self, other: True) {
        self.sent += other.sent;
        self.in_time += other.in_time;
    }
}

pub(super) async fn measure(bed: &Bed, time: Duration) -> Result<()> {
    bed.set_links(&LinkSettings::delayed(20 * MS))?;
    // 16 flows to each of 30 peers: that is 3,333 a second at an interval of 144 ms.
    let interval_ms = PEERS as u64 * 16 * 1000 / RATE_PER_S;
    progress(&format!("{RATE_PER_S} probes/s without loss for {} s", time.as_secs()));
    let mesh = format!("flows = 16\ninterval = \"{interval_ms}ms\"\ngive_up = \"2s\"\nicmp = false\ntcp = false\n");
    let since = Real::now();
    let meter = bed.meter(&Setup { peers: PEERS, mesh, export: "interval = \"1s\"\n", ..Setup::default() }).await?;
    sleep(time + GIVE_UP).await;
    meter.stop().await?;
    // What was still out has its answers in the log, too.
    sleep(Duration::from_millis(200)).await;
    let counted = bed.receiver.newest()?.context("the agent has exported nothing")?.outcomes;
    let truth = truth(&bed.wan.log().records(since, Real(i64::MAX)), &bed.places()?, since, Real(i64::MAX));
    let how = format!(
        "mesh.false_loss: {PEERS} peers with 16 flows every {interval_ms} ms over links that lose nothing, for {} s ({PROBES} probes at the usual length). Probes that the agent \
         counts as lost, late, corrupt, refused or unreachable, less those that the network's own log shows without an answer within 1 s. Log: {} probes left, {} of them \
         were answered in time. Agent, without those that were still out when it ended: {}",
        time.as_secs(),
        truth.sent,
        truth.in_time,
        words(&counted)
    );
    say_figures(&how, &[Figure::new("mesh.false_loss", "count", false_loss(&counted, truth) as f64, 0.0)]);
    if truth.sent < PROBES {
        say(&format!("mesh.false_loss: only {} probes, fewer than the {PROBES} that are wanted", truth.sent));
    }
    Ok(())
}

/// What the agent counted, as text.
pub(super) fn words(counted: &BTreeMap<Outcome, u64>) -> String {
    let words: Vec<String> =
        counted.iter().filter(|(_, count)| **count > 0).map(|(outcome, count)| format!("{count} {outcome}")).collect();
    words.join(", ")
}

/// What became of the measured agent's probes that left in [since, until). Replies may be among `records` that left later.
pub(super) fn truth(records: &[Record], places: &Places, since: Real, until: Real) -> True {
    let mut by_peer: HashMap<(u8, u16), Vec<Record>> = HashMap::new();
    for record in records.iter().filter(|record| record.protocol == UDP) {
        let peer = if record.from == places.meter {
            (record.to.0, record.destination_port)
        } else {
            (record.from.0, record.source_port)
        };
        by_peer.entry(peer).or_default().push(*record);
    }
    let mut truth = True::default();
    for at in &places.peers {
        let Some(records) = by_peer.get(&(at.host.0, at.port)) else { continue };
        let probes = Probes { from: places.meter, to: at.host, mesh_port: at.port, since, until };
        let left = |record: &&Record| record.from == places.meter && (since..until).contains(&record.left);
        truth.sent += records.iter().filter(left).count() as u64;
        truth.in_time += round_trips(records, &probes).iter().filter(|trip| trip.rtt_ns <= DEADLINE_NS).count() as u64;
    }
    truth
}

/// What the agent accuses the network of, beyond what the network did.
pub(super) fn false_loss(counted: &BTreeMap<Outcome, u64>, truth: True) -> u64 {
    let accused = [Outcome::Lost, Outcome::Late, Outcome::Corrupt, Outcome::Refused, Outcome::Unreachable];
    let accused: u64 = accused.iter().filter_map(|outcome| counted.get(outcome)).sum();
    accused.saturating_sub(truth.sent - truth.in_time.min(truth.sent))
}

#[cfg(test)]
mod tests {
    use super::super::bed::At;
    use super::*;
    use crate::wan::log::{Fate, HostId};

    /// What the network lost is no false accusation, what our own host skipped is none either; everything else is.
    #[test]
    fn accusations() {
        let counted = |pairs: &[(Outcome, u64)]| pairs.iter().copied().collect::<BTreeMap<Outcome, u64>>();
        let all_well = True { sent: 100, in_time: 100 };
        assert_eq!(false_loss(&counted(&[(Outcome::InTime, 98), (Outcome::Skipped, 2)]), all_well), 0);
        assert_eq!(false_loss(&counted(&[(Outcome::Lost, 1), (Outcome::Late, 2), (Outcome::Corrupt, 3)]), all_well), 6);
        assert_eq!(false_loss(&counted(&[(Outcome::Lost, 3)]), True { sent: 100, in_time: 98 }), 1);
        assert_eq!(false_loss(&counted(&[]), True { sent: 100, in_time: 98 }), 0);
    }

    /// Each peer's probes meet their own answers; those of another window, of other programs and late answers are not in time.
    #[test]
    fn counted_by_the_network() {
        let meter = HostId(0);
        let packet = |to: (HostId, HostId), ports: (u16, u16), number: u32, left_ms: i64| Record {
            left: Real(left_ms * MS),
            delivered: Some(Real((left_ms + 20) * MS)),
            within_ns: 0,
            key: 0,
            from: to.0,
            to: to.1,
            protocol: UDP,
            fate: Fate::Delivered,
            path: 0,
            v6: false,
            source_port: ports.0,
            destination_port: ports.1,
            length_bytes: 200,
            words: [number, 0, number],
        };
        let ask = |host: u8, port: u16, number: u32, left_ms: i64| packet((meter, HostId(host)), (5000, port), number, left_ms);
        let reply = |host: u8, port: u16, number: u32, left_ms: i64| packet((HostId(host), meter), (port, 5000), number, left_ms);
        let mut late = reply(1, 8620, 7, 50);
        late.delivered = Some(Real(1100 * MS));
        let records = [
            ask(1, 8620, 5, 0),
            reply(1, 8620, 5, 20),
            ask(2, 8620, 5, 1),
            ask(1, 8620, 7, 2),
            late,
            ask(1, 53, 1, 3),
            ask(1, 8620, 9, 500),
            reply(1, 8620, 9, 520),
        ];
        let places = Places { meter, peers: vec![At { host: HostId(1), port: 8620 }, At { host: HostId(2), port: 8620 }] };
        assert_eq!(truth(&records, &places, Real(0), Real(400 * MS)), True { sent: 3, in_time: 1 });
        assert_eq!(truth(&records, &places, Real(400 * MS), Real(i64::MAX)), True { sent: 1, in_time: 1 });
    }
}
