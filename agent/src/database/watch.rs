//! What one connection of a reader has seen of the heartbeat table: which rows are new, since when they can have been visible at
//! most, and when to look again. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lagmesh_model::beat::{BeatRow, Incarnation, Sequence};
use lagmesh_model::ids::NodeName;
use lagmesh_model::time::{RawNanos, Reading};
use lagmesh_postgres::layout::{Mark, Stream};

use crate::database::poll_plan::{Found, PollPlan};
use crate::measurement::Sighting;

/// Rows of another stream or of nobody's interest are marked with the end of all numbers, so that they never come again.
const NEVER: Sequence = Sequence(i64::MAX.cast_unsigned());
/// Incarnations that are remembered. They only come with restarts of writers; beyond this the watch starts anew.
const MARKS_MAX: usize = 1_024;

/// What one connection has seen.
#[derive(Debug)]
pub(super) struct Watch {
    node: NodeName,
    members: BTreeSet<NodeName>,
    /// Those of them whose rows nobody was interested in at the newest poll: since when they are there is not known.
    newcomers: BTreeSet<NodeName>,
    interval: Duration,
    marks: BTreeMap<(NodeName, Incarnation, Stream), Sequence>,
    plans: BTreeMap<NodeName, (Incarnation, PollPlan)>,
    /// When the newest poll that ended well was sent.
    last: Option<Reading>,
}

impl Watch {
    /// A watch at `node` for beats of the other `members` of its cluster, which leave every `interval`.
    pub(super) fn new(node: NodeName, members: BTreeSet<NodeName>, interval: Duration) -> Watch {
        Watch { node, members, newcomers: BTreeSet::new(), interval, marks: BTreeMap::new(), plans: BTreeMap::new(), last: None }
    }

    /// From now on these are the nodes of its cluster.
    pub(super) fn members(&mut self, members: BTreeSet<NodeName>) {
        self.newcomers.extend(members.difference(&self.members).cloned());
        self.members = members;
        let (newcomers, members) = (&self.newcomers, &self.members);
        // Rows of nobody's interest were marked so that they never come again.
        self.marks.retain(|(origin, ..), _| !newcomers.contains(origin));
        self.plans.retain(|origin, _| members.contains(origin));
    }

    /// What has been seen, for the query.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let mark = |((origin, incarnation, stream), sequence): (&(NodeName, Incarnation, Stream), &Sequence)| Mark {
            origin: origin.clone(),
            incarnation: *incarnation,
            stream: *stream,
            sequence: *sequence,
        };
        self.marks.iter().map(mark).collect()
    }

    /// When to poll next.
    pub(super) fn next_poll(&self, now: Reading) -> RawNanos {
        let Some(last) = self.last.filter(|last| last.epoch == now.epoch) else { return now.raw };
        // An origin that is not known yet shows up within this.
        let discovery = if self.plans.is_empty() { self.interval / 4 } else { self.interval };
        let planned = self.plans.values().map(|(_, plan)| plan.next_poll(now.raw));
        planned.chain([last.raw.after(discovery)]).fold(last.raw.after(self.interval), RawNanos::min).max(now.raw)
    }

    /// Takes in a poll that ended well: the beats that are new, oldest first within each origin.
    pub(super) fn on_poll(&mut self, started: Reading, ended: Reading, rows: Vec<(Stream, BeatRow)>) -> Vec<Sighting> {
        if self.last.is_some_and(|last| last.epoch != ended.epoch) || started.epoch != ended.epoch || self.marks.len() > MARKS_MAX
        {
            *self = Watch::new(self.node.clone(), std::mem::take(&mut self.members), self.interval);
        }
        let absent = self.last.map(|last| last.raw);
        let mut fresh: Vec<BeatRow> = rows.into_iter().filter_map(|(stream, row)| self.mark(stream, row)).collect();
        fresh.sort_by_key(|row| (row.id.origin.clone(), row.position.timeline, row.position.lsn, row.id.sequence));
        let newcomers = std::mem::take(&mut self.newcomers);
        let absent = |origin: &NodeName| absent.filter(|_| !newcomers.contains(origin));
        let arrived: BTreeMap<NodeName, Incarnation> = fresh
            .iter()
            .filter(|row| absent(&row.id.origin).is_some())
            .map(|row| (row.id.origin.clone(), row.id.incarnation))
            .collect();
        for (origin, incarnation) in &arrived {
            let (current, plan) =
                self.plans.entry(origin.clone()).or_insert_with(|| (*incarnation, PollPlan::new(self.interval)));
            if *current != *incarnation {
                // Another start of the writer beats on a schedule of its own.
                *current = *incarnation;
                plan.forget();
            }
        }
        let mut found: BTreeMap<&NodeName, Found> = BTreeMap::new();
        for (origin, (_, plan)) in &mut self.plans {
            found.insert(origin, plan.on_poll(started.raw, ended.raw, arrived.contains_key(origin)));
        }
        self.last = (started.epoch == ended.epoch).then_some(started);
        let sighting = |row: BeatRow| {
            let found = found.get(&row.id.origin);
            Sighting {
                absent: absent(&row.id.origin),
                asked: started.raw,
                present: ended.raw,
                guess: found.and_then(|found| found.guess),
                own_wall: None,
                polls: found.map(|found| found.polls),
                row,
            }
        };
        fresh.into_iter().map(sighting).collect()
    }

    /// Remembers a row; gives it back if it is a beat of another member.
    fn mark(&mut self, stream: Stream, row: BeatRow) -> Option<BeatRow> {
        let wanted = stream == Stream::Beat && row.id.origin != self.node && self.members.contains(&row.id.origin);
        let key = (row.id.origin.clone(), row.id.incarnation, stream);
        let sequence = if wanted { row.id.sequence } else { NEVER };
        let before = self.marks.insert(key, sequence);
        (wanted && before.is_none_or(|before| before < sequence)).then_some(row)
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::beat::BeatId;
    use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
    use lagmesh_model::time::{Epoch, WallNanos};

    use super::*;

    const T: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Reading {
        let ns = 1_000_000_000_000 + ms * 1_000_000;
        Reading { epoch: Epoch(1), raw: RawNanos(ns), wall: WallNanos(ns) }
    }

    fn row(origin: &str, incarnation: i64, sequence: u64) -> BeatRow {
        BeatRow {
            id: BeatId { origin: origin.parse().unwrap(), incarnation: Incarnation(incarnation), sequence: Sequence(sequence) },
            epoch: Epoch(2),
            sent: RawNanos(0),
            sent_wall: WallNanos(0),
            claimed_error_ns: None,
            previous_acknowledged: None,
            position: Position { system: SystemIdentifier(1), timeline: Timeline(1), lsn: Lsn(100 * sequence) },
        }
    }

    fn watch() -> Watch {
        let members = ["a", "b", "c"].map(|name| name.parse().unwrap());
        Watch::new("a".parse().unwrap(), members.into(), T)
    }

    /// Of rows of a node that joins the cluster only those are known to be new that the poll before would have shown.
    #[test]
    fn members_come_and_go() {
        let mut watch = watch();
        watch.on_poll(at(0), at(1), vec![(Stream::Beat, row("b", 5, 7)), (Stream::Beat, row("d", 4, 1))]);
        watch.members(["a", "c", "d"].map(|name| name.parse().unwrap()).into());
        let origins: Vec<_> = watch.marks().into_iter().map(|mark| mark.origin.to_string()).collect();
        assert_eq!(origins, ["b"], "the rows of the newcomer are asked for again");
        let seen = watch.on_poll(at(500), at(501), vec![(Stream::Beat, row("b", 5, 8)), (Stream::Beat, row("d", 4, 1))]);
        assert_eq!(seen.iter().map(|seen| (seen.row.id.origin.as_str(), seen.absent)).collect::<Vec<_>>(), [("d", None)]);
        let seen = watch.on_poll(at(900), at(901), vec![(Stream::Beat, row("d", 4, 2))]);
        assert_eq!(seen.iter().map(|seen| seen.absent).collect::<Vec<_>>(), [Some(at(500).raw)]);
    }

    /// The first poll has no earlier one, so what it shows was there for nobody knows how long; later ones say since when.
    #[test]
    fn absence_is_a_poll_that_did_not_show_it() {
        let mut watch = watch();
        let first = watch.on_poll(at(0), at(1), vec![(Stream::Beat, row("b", 5, 7))]);
        assert_eq!((first.len(), first[0].absent, first[0].present), (1, None, at(1).raw));
        assert!(watch.on_poll(at(500), at(501), vec![]).is_empty());
        let second = watch.on_poll(
            at(900),
            at(901),
            vec![(Stream::Beat, row("c", 3, 9)), (Stream::Beat, row("b", 5, 8)), (Stream::Beat, row("b", 5, 9))],
        );
        assert_eq!(
            second.iter().map(|s| (s.row.id.sequence.0, s.absent)).collect::<Vec<_>>(),
            [(8, Some(at(500).raw)), (9, Some(at(500).raw)), (9, Some(at(500).raw))]
        );
    }

    /// Own rows, the ledger's rows and rows of strangers are no sightings, and are not asked for again.
    #[test]
    fn others_rows_are_ignored() {
        let mut watch = watch();
        let rows = vec![(Stream::Beat, row("a", 1, 1)), (Stream::Ledger, row("b", 1, 1)), (Stream::Beat, row("departed", 1, 1))];
        assert!(watch.on_poll(at(0), at(1), rows).is_empty());
        assert!(watch.marks().iter().all(|mark| mark.sequence == NEVER) && watch.marks().len() == 3);
    }

    /// A poll is due at once after a change of the clock's epoch, and nothing is combined across it.
    #[test]
    fn epochs_are_not_mixed() {
        let mut watch = watch();
        watch.on_poll(at(0), at(1), vec![]);
        let later = Reading { epoch: Epoch(9), ..at(100) };
        assert_eq!(watch.next_poll(later), later.raw);
        let seen = watch.on_poll(later, Reading { epoch: Epoch(9), ..at(101) }, vec![(Stream::Beat, row("b", 5, 7))]);
        assert_eq!(seen[0].absent, None);
    }

    /// Whatever is known, a poll is due within an interval.
    #[test]
    fn always_due() {
        let mut watch = watch();
        assert_eq!(watch.next_poll(at(0)), at(0).raw);
        watch.on_poll(at(0), at(1), vec![]);
        assert_eq!(watch.next_poll(at(1)), at(250).raw);
        for n in 1..50_u64 {
            watch.on_poll(at(n * 1_000), at(n * 1_000 + 1), vec![(Stream::Beat, row("b", 5, n))]);
            let due = watch.next_poll(at(n * 1_000 + 1));
            assert!(due <= at(n * 1_000 + 1_001).raw, "{n}");
        }
    }
}
