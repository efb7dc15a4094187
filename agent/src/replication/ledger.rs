//! What the ledger of one node says: whether writes work at the level that applications get. Pure.

use std::time::Duration;

use lagmesh_model::beat::{Incarnation, Sequence};
use lagmesh_model::known::Known;
use lagmesh_model::state::WriteOutcome;
use lagmesh_model::status;
use lagmesh_model::time::RawNanos;

use crate::measurement::LedgerRow;
use crate::replication::track::age;

/// A row that hangs is told of when its deadline has passed and it was cancelled, and the next one takes a new connection: what is not older
/// than this is not stale.
const STALE_MIN: Duration = Duration::from_secs(15);

/// What the ledger of one node says.
#[derive(Debug)]
pub(super) struct LedgerTrack {
    interval: Duration,
    /// The newest row, and when its fate was known.
    newest: Option<(LedgerRow, RawNanos)>,
    /// The newest row that was acknowledged, and when.
    acknowledged: Option<(Incarnation, Sequence, RawNanos)>,
    /// Why the one after the newest row could not be tried.
    failure: Option<(String, RawNanos)>,
}

impl LedgerTrack {
    /// A ledger with a row every `interval`, of which nothing is known.
    pub(super) fn new(interval: Duration) -> LedgerTrack {
        LedgerTrack { interval, newest: None, acknowledged: None, failure: None }
    }

    /// Takes in the fate of a row.
    pub(super) fn see(&mut self, row: LedgerRow, at: RawNanos) {
        if row.commit.outcome == WriteOutcome::Acknowledged {
            self.acknowledged = Some((row.incarnation, row.sequence, at));
        }
        self.newest = Some((row, at));
        self.failure = None;
    }

    /// No row could be tried.
    pub(super) fn fail(&mut self, why: String, at: RawNanos) {
        self.failure = Some((why, at));
    }

    /// This agent does not write it any more, or the clock began a new epoch.
    pub(super) fn end(&mut self) {
        *self = LedgerTrack::new(self.interval);
    }

    /// Since the newest row was acknowledged.
    pub(super) fn acknowledged_age(&self, now: RawNanos) -> Option<Duration> {
        self.acknowledged.map(|(.., at)| age(now, at))
    }

    /// What `/v1/status` says of it.
    pub(super) fn status(&self, now: RawNanos) -> Known<status::Ledger> {
        if let Some((why, _)) = &self.failure {
            return Known::unknown(why);
        }
        let Some((row, at)) = &self.newest else { return Known::unknown("no ledger was written here by this agent") };
        let value = status::Ledger {
            outcome: row.commit.outcome,
            level: row.commit.level,
            why: row.why.clone(),
            acknowledged: self.acknowledged.map(|(incarnation, sequence, _)| (incarnation, sequence)),
            acknowledged_age_s: self.acknowledged_age(now).map(|age| age.as_secs_f64()),
        };
        let age = age(now, *at);
        if age <= STALE_MIN.max(self.interval * 3) {
            Known::known(value)
        } else {
            Known::Stale { value, age_s: age.as_secs_f64() }
        }
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::state::CommitLevel;

    use super::*;
    use crate::measurement::Commit;

    fn row(sequence: u64, outcome: WriteOutcome) -> LedgerRow {
        let commit = Commit { level: CommitLevel::On, outcome, took: None };
        LedgerRow { incarnation: Incarnation(7), sequence: Sequence(sequence), commit, why: String::new() }
    }

    fn at(second: u64) -> RawNanos {
        RawNanos(second * 1_000_000_000)
    }

    /// While rows stay in doubt the newest acknowledged one stands, and its age grows; silence turns stale, and a ledger that ended says
    /// nothing at all.
    #[test]
    fn acknowledged_rows_age() {
        let mut ledger = LedgerTrack::new(Duration::from_secs(5));
        assert!(matches!(ledger.status(at(100)), Known::Unknown { .. }));
        ledger.see(row(1, WriteOutcome::Acknowledged), at(100));
        for (sequence, second) in [(2, 107), (3, 114)] {
            ledger.see(row(sequence, WriteOutcome::InDoubt), at(second));
        }
        let status = ledger.status(at(115)).current().cloned().unwrap();
        assert_eq!(
            (status.outcome, status.acknowledged, status.acknowledged_age_s),
            (WriteOutcome::InDoubt, Some((Incarnation(7), Sequence(1))), Some(15.0))
        );
        assert!(matches!(ledger.status(at(130)), Known::Stale { .. }));
        ledger.fail("too many connections".to_owned(), at(131));
        assert!(matches!(ledger.status(at(131)), Known::Unknown { why } if why.contains("connections")));
        ledger.see(row(4, WriteOutcome::Acknowledged), at(132));
        assert_eq!(ledger.acknowledged_age(at(133)), Some(Duration::from_secs(1)));
        ledger.end();
        assert_eq!((ledger.acknowledged_age(at(133)), ledger.status(at(133)).is_known()), (None, false));
    }
}
