//! What else a node says of itself: its slots, what it does for everybody, how much log it writes, how large the heartbeat table is. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use lagmesh_model::catalogue::{self, Attribute, Metric};
use lagmesh_model::ids::SlotHash;
use lagmesh_model::known::Known;
use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
use lagmesh_model::series::{Attributes, Series, push_states};
use lagmesh_model::state::SlotState;
use lagmesh_model::status::{Slot, Slots};
use lagmesh_model::time::RawNanos;
use lagmesh_postgres::discover::{SlotSample, SlotsSample, TrafficSample};
use lagmesh_postgres::layout::TableSize;

use crate::replication::session_log::SessionLogs;
use crate::replication::track::age;
use crate::replication::wal::WalMeter;

/// Slots and traffic are read every few seconds, seldom where beats are: what is older than three of the longest such times is stale.
const STALE: Duration = Duration::from_secs(30);
/// The table is measured every 30 s.
const TABLE_STALE: Duration = Duration::from_secs(100);

/// What else is known of one node.
#[derive(Debug, Default)]
pub(super) struct FactsTrack {
    /// The growth of its log.
    pub(super) wal: WalMeter,
    /// What lagmesh itself writes there.
    pub(super) sessions: SessionLogs,
    slots: Option<(SlotsSample, RawNanos)>,
    /// How far its logical slots are confirmed, and between which moments that was so.
    reaches: BTreeMap<SlotHash, Position>,
    reached: Option<(RawNanos, RawNanos)>,
    connections: Option<(Option<i64>, i64, RawNanos)>,
    table: Option<(TableSize, RawNanos)>,
    commits: Tally,
    rollbacks: Tally,
    conflicts: BTreeMap<String, Tally>,
    subscription_errors: BTreeMap<String, Tally>,
}

/// A count that never falls, of one that falls when its statistics are reset or a database is dropped. What was counted between the last
/// look before that and the first one after it is left out.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    last: Option<i64>,
    total: u64,
}

impl Tally {
    fn see(&mut self, count: i64) {
        let grown = self.last.replace(count).map_or(0, |last| count.saturating_sub(last));
        self.total += u64::try_from(grown).unwrap_or(0);
    }

    /// The count since the first look; `None` if there was none.
    fn total(&self) -> Option<u64> {
        self.last.map(|_| self.total)
    }
}

impl FactsTrack {
    /// Takes in a look at the slots.
    pub(super) fn see_slots(&mut self, slots: SlotsSample, at: RawNanos) {
        self.slots = Some((slots, at));
    }

    /// Takes in how far logical slots are confirmed, as seen between two moments: none of a log that is not known.
    pub(super) fn see_reaches(
        &mut self,
        confirmed: &[(String, Lsn)],
        (system, timeline): (Option<SystemIdentifier>, Option<Timeline>),
        between: (RawNanos, RawNanos),
    ) {
        let reach = |(slot, lsn): &(String, Lsn)| {
            Some((SlotHash::of(slot), Position { system: system?, timeline: timeline?, lsn: *lsn }))
        };
        self.reaches = confirmed.iter().filter_map(reach).collect();
        self.reached = Some(between);
    }

    /// How far a logical slot is confirmed, and between which moments that was so.
    pub(super) fn reach(&self, slot: SlotHash) -> Option<(Position, RawNanos, RawNanos)> {
        let (began, ended) = self.reached?;
        self.reaches.get(&slot).map(|position| (*position, began, ended))
    }

    /// Takes in a look at traffic.
    pub(super) fn see_traffic(&mut self, traffic: TrafficSample, at: RawNanos) {
        self.connections = Some((traffic.connections, traffic.connections_max, at));
        for (tally, count) in [(&mut self.commits, traffic.commits), (&mut self.rollbacks, traffic.rollbacks)] {
            if let Some(count) = count {
                tally.see(count);
            }
        }
        let counts = [(&mut self.conflicts, traffic.conflicts), (&mut self.subscription_errors, traffic.subscription_errors)];
        for (tallies, counts) in counts {
            for (word, count) in counts {
                tallies.entry(word).or_default().see(count);
            }
        }
    }

    /// Takes in the size of the heartbeat table.
    pub(super) fn see_table(&mut self, table: TableSize, at: RawNanos) {
        self.table = Some((table, at));
    }

    /// This agent does not write beats here any more.
    pub(super) fn end_of_beats(&mut self) {
        self.table = None;
        self.sessions.end();
    }

    /// Forgets every stamp of our own clock, which has begun a new epoch.
    pub(super) fn new_epoch(&mut self) {
        self.wal.new_epoch();
        (self.slots, self.connections, self.table, self.reached) = (None, None, None, None);
    }

    /// What `/v1/status` says of the slots.
    pub(super) fn slots(&self, now: RawNanos) -> Known<Slots> {
        let Some((sample, at)) = &self.slots else {
            return Known::unknown("the server does not show its slots, or has not been reached");
        };
        let rate = self.wal.bytes_per_s(now);
        let slots = sample.slots.iter().map(|slot| status_of(slot, rate)).collect();
        let slots = Slots { slots, more: sample.more };
        match age(now, *at) {
            age if age <= STALE => Known::known(slots),
            age => Known::Stale { value: slots, age_s: age.as_secs_f64() },
        }
    }

    /// The slots that are lost, as they are called on the wire.
    pub(super) fn lost_slots(&self, now: RawNanos) -> impl Iterator<Item = SlotHash> {
        let fresh = self.slots.iter().filter(move |(_, at)| age(now, *at) <= STALE);
        fresh.flat_map(|(sample, _)| sample.lost())
    }

    /// Everything as series.
    pub(super) fn series(&self, node: &Attributes, now: RawNanos, out: &mut Vec<Series>) {
        let mut count = |metric: &'static Metric, attributes: &Attributes, total: Option<u64>| {
            out.extend(total.map(|total| Series::counter(metric, attributes.clone(), total)));
        };
        count(&catalogue::NODE_COMMITS, node, self.commits.total());
        count(&catalogue::NODE_ROLLBACKS, node, self.rollbacks.total());
        count(&catalogue::NODE_WAL, node, self.wal.total_bytes());
        count(&catalogue::HEARTBEAT_WAL, node, self.sessions.total_bytes());
        for (cause, tally) in &self.conflicts {
            count(&catalogue::NODE_CONFLICTS, &node.clone().with(Attribute::Cause, cause), tally.total());
        }
        for (kind, tally) in &self.subscription_errors {
            count(&catalogue::SUBSCRIPTION_ERRORS, &node.clone().with(Attribute::Kind, kind), tally.total());
        }
        let mut gauge = |metric: &'static Metric, value: Option<f64>| {
            out.extend(value.map(|value| Series::gauge(metric, node.clone(), value)));
        };
        let connections = self.connections.filter(|(.., at)| age(now, *at) <= STALE);
        gauge(&catalogue::NODE_CONNECTIONS, connections.and_then(|(used, ..)| used).map(|used| used as f64));
        gauge(&catalogue::NODE_CONNECTIONS_MAX, connections.map(|(_, max, _)| max as f64));
        let table = self.table.filter(|(_, at)| age(now, *at) <= TABLE_STALE).map(|(table, _)| table);
        gauge(&catalogue::HEARTBEAT_TABLE, table.map(|table| table.bytes as f64));
        gauge(&catalogue::HEARTBEAT_DEAD_ROWS, table.and_then(|table| table.dead_rows).map(|rows| rows as f64));
        if let Some(Slots { slots, more }) = self.slots(now).current() {
            let all = slots.len() as u64 + more;
            out.push(Series::gauge(&catalogue::NODE_SLOTS, node.clone(), all as f64));
            for slot in slots {
                slot_series(slot, node, out);
            }
        }
    }
}

fn slot_series(slot: &Slot, node: &Attributes, out: &mut Vec<Series>) {
    let attributes = node.clone().with(Attribute::Slot, &slot.slot);
    push_states(out, &catalogue::SLOT_STATE, &attributes, SlotState::ALL, slot.state);
    let active = if slot.active { 1.0 } else { 0.0 };
    let gauges = [
        (&catalogue::SLOT_RETAINED, slot.retained_bytes.map(|bytes| bytes as f64)),
        (&catalogue::SLOT_SAFE, slot.safe_bytes.map(|bytes| bytes as f64)),
        (&catalogue::SLOT_ACTIVE, Some(active)),
        (&catalogue::SLOT_EXHAUSTION, slot.exhaustion_s),
    ];
    out.extend(gauges.into_iter().filter_map(|(metric, value)| Some(Series::gauge(metric, attributes.clone(), value?))));
}

fn status_of(slot: &SlotSample, rate: Option<f64>) -> Slot {
    Slot {
        slot: slot.name.clone(),
        logical: Some(slot.logical),
        active: slot.active,
        state: slot.state,
        retained_bytes: slot.retained_bytes,
        safe_bytes: slot.safe_bytes,
        exhaustion_s: exhaustion_s(slot.safe_bytes, rate),
        // A clock that was set back says nothing.
        inactive_s: slot.inactive_ns.filter(|ns| *ns >= 0).map(|ns| ns as f64 / 1e9),
        invalidation_reason: slot.invalidation_reason.clone(),
    }
}

/// How long what may still be written lasts at this rate [s]: not known without a limit, without a rate, or where nothing is written.
fn exhaustion_s(safe_bytes: Option<i64>, bytes_per_s: Option<f64>) -> Option<f64> {
    let rate = bytes_per_s.filter(|rate| *rate > 0.0)?;
    Some(safe_bytes?.max(0) as f64 / rate)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Time to exhaustion needs a limit and a rate; nothing left is no time left.
    #[test]
    fn exhaustion() {
        let table = [
            (Some(6_000), Some(100.0), Some(60.0)),
            (Some(0), Some(100.0), Some(0.0)),
            (Some(-5), Some(100.0), Some(0.0)),
            (Some(6_000), Some(0.0), None),
            (Some(6_000), None, None),
            (None, Some(100.0), None),
        ];
        for (safe_bytes, rate, expected) in table {
            assert_eq!(exhaustion_s(safe_bytes, rate), expected, "{safe_bytes:?} {rate:?}");
        }
    }

    /// What is not known has no series, a lost slot is no healthy one, and all of it ends when nothing comes any more.
    #[test]
    fn unknown_has_no_series() {
        let node = Attributes::new().with(Attribute::Cluster, "app").with(Attribute::Region, "east").with(Attribute::Node, "db");
        let series = |facts: &FactsTrack, second: u64| {
            let mut out = Vec::new();
            facts.series(&node, RawNanos(second * 1_000_000_000), &mut out);
            assert!(out.iter().all(|series| series.attributes.fit(series.metric)));
            out
        };
        let mut facts = FactsTrack::default();
        assert_eq!(series(&facts, 100), []);
        let slot = SlotSample {
            name: "s".to_owned(),
            logical: false,
            active: false,
            state: SlotState::Lost,
            retained_bytes: None,
            safe_bytes: None,
            inactive_ns: Some(-1),
            invalidation_reason: None,
        };
        facts.see_slots(SlotsSample { slots: vec![slot], more: 3 }, RawNanos(100_000_000_000));
        let names: Vec<_> = series(&facts, 101).iter().map(|series| series.metric.name).collect();
        let of_slot = [vec!["lagmesh.slot.state"; SlotState::ALL.len()], vec!["lagmesh.slot.active"]].concat();
        assert_eq!(names, [vec!["lagmesh.node.slots"], of_slot].concat());
        let status = facts.slots(RawNanos(101_000_000_000)).current().cloned().unwrap();
        assert_eq!((status.more, status.slots[0].inactive_s), (3, None));
        assert_eq!(series(&facts, 131), []);
    }

    proptest! {
        /// However often statistics are reset, what is told never falls and never exceeds what was counted.
        #[test]
        fn tallies_never_fall(spans in prop::collection::vec(prop::collection::vec(0_i64..1_000, 1..10), 1..10)) {
            let (mut tally, mut before, mut counted) = (Tally::default(), 0, 0);
            for span in spans {
                let mut sum = 0;
                for growth in span {
                    sum += growth;
                    counted += growth.unsigned_abs();
                    tally.see(sum);
                    let total = tally.total().unwrap();
                    prop_assert!(total >= before && total <= counted);
                    before = total;
                }
            }
        }
    }
}
