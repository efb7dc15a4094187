//! Writes the ledger of one node: a row every few seconds at the commit level that applications get. Only the ledger may say that writes
//! work, and only its acknowledged sequences count for what a failover lost. It never holds up beats: it has a connection of its own, and
//! a commit that waits for a lost synchronous standby is cancelled, which leaves it in doubt.

use std::convert::Infallible;

use lagmesh_model::beat::{Incarnation, SLOTS, Sequence};
use lagmesh_model::position::{Position, SystemIdentifier};
use lagmesh_model::state::{CommitLevel, WriteOutcome};
use lagmesh_model::time::Reading;
use lagmesh_postgres::discover::{CommitSetting, commit_setting};
use lagmesh_postgres::layout::{self, NewBeat, Stream};
use lagmesh_postgres::{Connection, QueryError};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::database::site::Site;
use crate::database::writer::{fate, took};
use crate::measurement::{Commit, LedgerRow, NodeNews};

/// The ledger of the elected writer of a node.
pub(super) struct Ledger<'w> {
    site: &'w Site,
    incarnation: Incarnation,
    system: SystemIdentifier,
    /// Where the commit setting is told as of the newest look.
    setting: &'w watch::Sender<Option<CommitSetting>>,
    /// The newest row that was sent.
    sequence: Sequence,
    /// When its commit returned, if it did.
    acknowledged: Option<Reading>,
    /// Whether the commit of the newest row may still wait on the server: it could not be cancelled.
    orphaned: bool,
}

impl<'w> Ledger<'w> {
    /// The ledger of this incarnation, whose rows are there.
    pub(super) fn new(
        site: &'w Site,
        incarnation: Incarnation,
        system: SystemIdentifier,
        setting: &'w watch::Sender<Option<CommitSetting>>,
    ) -> Ledger<'w> {
        Ledger { site, incarnation, system, setting, sequence: Sequence(0), acknowledged: None, orphaned: false }
    }

    /// Writes for as long as it is let.
    pub(super) async fn run(mut self) -> Infallible {
        let mut ticks = interval(self.site.ledger_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kept = None;
        loop {
            ticks.tick().await;
            kept = match self.prepare(kept.take()).await {
                Ok((connection, level)) => self.write(&connection, level).await.then_some(connection),
                Err(why) => {
                    self.site.tell(NodeNews::NoLedger(why));
                    None
                }
            };
        }
    }

    /// A session, and the level of its next commit.
    async fn prepare(&self, kept: Option<Connection>) -> Result<(Connection, CommitLevel), String> {
        let connection = match kept {
            Some(connection) => connection,
            None => self.site.connect_directly(&layout::session_sql(Stream::Ledger)).await.map_err(|trouble| trouble.why)?,
        };
        let setting = self.site.query(&connection, "read the commit level", commit_setting(connection.client())).await;
        let setting = setting.map_err(|trouble| trouble.why)?.ok_or("synchronous_commit is a level that is not known here")?;
        self.setting.send_replace(Some(setting));
        Ok((connection, setting.level))
    }

    /// Writes one row. `false` if the connection cannot be used any more.
    async fn write(&mut self, connection: &Connection, level: CommitLevel) -> bool {
        // Over the row of an orphan no second one comes to wait: it gets no lock.
        self.sequence.0 += if self.orphaned { SLOTS } else { 1 };
        let sent = self.site.clock().now();
        let before = self.acknowledged.take().filter(|reading| reading.epoch == sent.epoch);
        let row = NewBeat {
            origin: &self.site.node,
            incarnation: self.incarnation,
            stream: Stream::Ledger,
            sequence: self.sequence,
            sent,
            claimed_error_ns: None,
            previous_acknowledged: before.map(|reading| reading.raw),
            system: self.system,
        };
        let (written, cut) = self.site.commit(connection, layout::write_beat(connection.client(), &row)).await;
        let ended = self.site.clock().now();
        let (outcome, why) = judge(&written, cut);
        match &written {
            Ok(_) => self.orphaned = false,
            Err(QueryError::DeadlineExceeded(exceeded)) => self.orphaned = !exceeded.cancelled,
            Err(QueryError::Failed(_)) => {}
        }
        if outcome == WriteOutcome::Acknowledged {
            self.acknowledged = Some(ended);
        }
        let commit = Commit { level, outcome, took: took(sent, ended) };
        let row = LedgerRow { incarnation: self.incarnation, sequence: self.sequence, commit, why };
        self.site.tell_of(ended, NodeNews::Ledger(row));
        written.is_ok()
    }
}

/// What became of a row, and why if its commit is not known to stand as applications expect it to.
fn judge(written: &Result<Option<Position>, QueryError>, cut: bool) -> (WriteOutcome, String) {
    match written {
        Ok(Some(_)) if cut => {
            let why =
                "someone cancelled a commit's wait for its synchronous standby: it stands here, and nobody knows where else";
            (WriteOutcome::InDoubt, why.to_owned())
        }
        Ok(Some(_)) => (WriteOutcome::Acknowledged, String::new()),
        Ok(None) => (WriteOutcome::Failed, "the row of the ledger was pruned".to_owned()),
        Err(error @ QueryError::DeadlineExceeded(_)) => {
            let why = format!(
                "writes hang as applications get them: {error}; look for SyncRep in pg_stat_activity.wait_event, then whether the \
                 synchronous standbys are in pg_stat_replication"
            );
            (WriteOutcome::InDoubt, why)
        }
        Err(error) => (fate(error), format!("writes fail as applications get them: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lagmesh_model::position::{Lsn, Timeline};
    use lagmesh_postgres::DeadlineExceeded;

    use super::*;

    /// Only a commit that returned and whose wait nobody cut short is acknowledged; one that was cancelled may stand.
    #[test]
    fn only_whole_commits_are_acknowledged() {
        let position = Position { system: SystemIdentifier(1), timeline: Timeline(1), lsn: Lsn(7) };
        let late = || QueryError::DeadlineExceeded(DeadlineExceeded { limit: Duration::from_secs(5), cancelled: true });
        let table = [
            (Ok(Some(position)), false, WriteOutcome::Acknowledged, ""),
            (Ok(Some(position)), true, WriteOutcome::InDoubt, "cancelled"),
            (Ok(None), false, WriteOutcome::Failed, "pruned"),
            (Err(late()), false, WriteOutcome::InDoubt, "hang"),
        ];
        for (written, cut, outcome, word) in table {
            let (found, why) = judge(&written, cut);
            assert_eq!((found, why.is_empty()), (outcome, word.is_empty()), "{written:?}");
            assert!(why.contains(word), "{why}");
        }
    }
}
