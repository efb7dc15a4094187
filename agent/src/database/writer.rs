//! Writes beats to one node, for as long as this agent is the one that was elected to; beside them go the ledger and the probes of
//! commit levels, under the same election and the same incarnation.

use std::time::Duration;

use lagmesh_daemon::backoff::random_seed;
use lagmesh_model::beat::{Announcement, BeatId, BeatTimes, Incarnation, Sequence};
use lagmesh_model::position::{Position, SystemIdentifier};
use lagmesh_model::state::{NodeState, WriteOutcome};
use lagmesh_model::time::Reading;
use lagmesh_postgres::discover::{session_log, tells_session_log};
use lagmesh_postgres::layout::{self, Need, NewBeat, Stream, TABLE_BYTES_MAX};
use lagmesh_postgres::{Connection, QueryError};
use tokio::sync::watch;

use crate::database::health::{Condition, Part};
use crate::database::ledger::Ledger;
use crate::database::levels;
use crate::database::schedule::BeatSchedule;
use crate::database::site::Site;
use crate::database::trouble::Trouble;
use crate::measurement::{NodeNews, Write};
use crate::wall::claimed_error_ns;

/// How often an agent that stands by asks whether it is its turn: within three beats at 1 Hz.
const ELECTION_INTERVAL: Duration = Duration::from_secs(1);
/// How often the size of the table is looked at.
const SIZE_EVERY: Duration = Duration::from_secs(30);
/// How often own sessions are asked what they have written, where the server tells.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Beats on the node until something fails.
pub(super) async fn run(site: &Site, system: SystemIdentifier) -> Trouble {
    let trouble = Box::pin(beating(site, system)).await.err();
    // Whoever beats next speaks for the node.
    site.post(|outbox| drop(outbox.announcements.remove(&site.node)));
    trouble.unwrap_or_else(|| Trouble::new(NodeState::Unknown, "its rows were pruned: starting anew"))
}

/// `Ok` if the rows are gone and must be made anew.
async fn beating(site: &Site, system: SystemIdentifier) -> Result<(), Trouble> {
    let connection = site.connect_directly(&layout::session_sql(Stream::Beat)).await?;
    let client = connection.client();
    let finding = site.query(&connection, "look at the heartbeat table", layout::discover(client, Need::Write)).await?;
    if !finding.is_ready() {
        return Err(Trouble::layout(&finding));
    }
    await_election(site, &connection).await?;
    // Before the first write: starting again and again must not make a bloated table grow.
    check_size(site, &connection).await?;
    let incarnation = Incarnation((random_seed() >> 1).cast_signed().max(1));
    for stream in Stream::ALL {
        site.query(&connection, "insert own rows", layout::insert_rows(client, &site.node, incarnation, stream)).await?;
    }
    site.query(&connection, "insert own rows", layout::insert_level_rows(client, &site.node, incarnation)).await?;
    let superseded = layout::delete_superseded(client, &site.node, incarnation);
    let superseded = site.query(&connection, "delete superseded rows", superseded).await?;
    tracing::info!(node = %site.node, incarnation = incarnation.0, superseded, "beat");
    let tells_log = site.query(&connection, "look for statistics of sessions", tells_session_log(client)).await?;
    let mut writer = Writer { site, connection: &connection, incarnation, system, sequence: Sequence(0), acknowledged: None };
    // What waits for a synchronous standby lives and ends with the beats, which are elected, and never holds them up.
    let (sender, setting) = watch::channel(None);
    tokio::select! {
        ended = writer.go_on(tells_log) => ended,
        never = Ledger::new(site, incarnation, system, &sender).run() => match never {},
        never = levels::run(site, incarnation, &setting) => match never {},
    }
}

/// Waits until no other agent beats on the node.
async fn await_election(site: &Site, connection: &Connection) -> Result<(), Trouble> {
    loop {
        if site.query(connection, "stand for election", layout::elect(connection.client(), &site.node)).await? {
            return Ok(());
        }
        let why = NodeState::StandingBy.explain();
        site.report(Part::Writer, Condition::Trouble(Trouble::new(NodeState::StandingBy, why)));
        tokio::time::sleep(ELECTION_INTERVAL).await;
    }
}

/// The elected writer of a node.
struct Writer<'w> {
    site: &'w Site,
    connection: &'w Connection,
    incarnation: Incarnation,
    system: SystemIdentifier,
    /// The newest beat that was sent.
    sequence: Sequence,
    /// When its commit returned, if it did.
    acknowledged: Option<Reading>,
}

impl Writer<'_> {
    async fn go_on(&mut self, tells_log: bool) -> Result<(), Trouble> {
        let start = self.site.clock().now();
        let mut alarm = Site::alarm()?;
        let (mut schedule, mut size_due) = (BeatSchedule::new(start.raw, self.site.interval), start.raw);
        let mut log_due = tells_log.then_some(start.raw);
        loop {
            self.site.sleep_until(&mut alarm, schedule.due()).await?;
            let now = self.site.clock().now();
            if now.raw >= size_due {
                check_size(self.site, self.connection).await?;
                size_due = now.raw.after(SIZE_EVERY);
            }
            if log_due.is_some_and(|due| now.raw >= due) {
                tell_log(self.site, self.connection).await?;
                log_due = Some(now.raw.after(LOG_EVERY));
            }
            let claim = self.site.clock().claim();
            let label = self.site.clock().bracket();
            let sent = Reading::from(label);
            if !self.beat(sent, claimed_error_ns(&label, claim)).await? {
                return Ok(());
            }
            let skipped = schedule.advance(sent.raw, self.site.clock().now().raw);
            if skipped > 0 {
                tracing::debug!(node = %self.site.node, skipped, "beats passed over");
            }
        }
    }

    /// Writes one beat. `Ok(false)` if its row is gone.
    async fn beat(&mut self, sent: Reading, claimed_error_ns: Option<u64>) -> Result<bool, Trouble> {
        self.sequence.0 += 1;
        let beat = NewBeat {
            origin: &self.site.node,
            incarnation: self.incarnation,
            stream: Stream::Beat,
            sequence: self.sequence,
            sent,
            claimed_error_ns,
            previous_acknowledged: self
                .acknowledged
                .take()
                .filter(|reading| reading.epoch == sent.epoch)
                .map(|reading| reading.raw),
            system: self.system,
        };
        let written = self.site.bounded(self.connection, layout::write_beat(self.connection.client(), &beat)).await;
        let ended = self.site.clock().now();
        match written {
            Ok(Some(position)) => {
                self.acknowledged = Some(ended);
                self.announce(sent, ended, position);
                self.site.report(Part::Writer, Condition::Fine);
                Ok(true)
            }
            Ok(None) => {
                self.tell(None, WriteOutcome::Failed, sent, ended);
                Ok(false)
            }
            Err(error) => {
                self.tell(None, fate(&error), sent, ended);
                Err(Trouble::query("write a beat", &error))
            }
        }
    }

    fn announce(&self, sent: Reading, acknowledged: Reading, position: Position) {
        let id = BeatId { origin: self.site.node.clone(), incarnation: self.incarnation, sequence: self.sequence };
        let times = BeatTimes { epoch: sent.epoch, sent: sent.raw, acknowledged: acknowledged.raw };
        // Two stamps of different epochs bound nothing.
        let announcement = (sent.epoch == acknowledged.epoch).then_some(Announcement { id, times, position });
        if let Some(announcement) = &announcement {
            self.site.post(|outbox| drop(outbox.announcements.insert(self.site.node.clone(), announcement.clone())));
        }
        self.tell(announcement, WriteOutcome::Acknowledged, sent, acknowledged);
    }

    fn tell(&self, announcement: Option<Announcement>, outcome: WriteOutcome, sent: Reading, ended: Reading) {
        self.site.tell_of(ended, NodeNews::Written(Write { announcement, outcome, took: took(sent, ended) }));
    }
}

/// Whether the table is small enough to beat on.
async fn check_size(site: &Site, connection: &Connection) -> Result<(), Trouble> {
    let table = site.query(connection, "measure the heartbeat table", layout::table_size(connection.client())).await?;
    site.tell(NodeNews::Table(table));
    if !table.over_cap() {
        return Ok(());
    }
    let why = format!(
        "lagmesh.beat has grown to {} bytes (limit {TABLE_BYTES_MAX}), so no more beats are written: find the old snapshot or slot that \
         keeps vacuum from cleaning up (pg_stat_activity.backend_xmin, pg_replication_slots.xmin), then VACUUM FULL lagmesh.beat",
        table.bytes
    );
    Err(Trouble::new(NodeState::Hanging, why))
}

/// Tells what own sessions have written.
async fn tell_log(site: &Site, connection: &Connection) -> Result<(), Trouble> {
    if let Some(sessions) = site.offered(connection, "read statistics of sessions", session_log(connection.client())).await? {
        site.tell(NodeNews::SessionLogs(sessions));
    }
    Ok(())
}

/// How long a write took; not known if the clock began a new epoch meanwhile.
pub(super) fn took(sent: Reading, ended: Reading) -> Option<Duration> {
    ended.raw.checked_since(sent.raw).filter(|_| sent.epoch == ended.epoch)
}

/// What became of a beat that did not return: only the server's own no is a no.
pub(super) fn fate(error: &QueryError) -> WriteOutcome {
    if error.code().is_some() { WriteOutcome::Failed } else { WriteOutcome::InDoubt }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::time::{Epoch, RawNanos, WallNanos};

    use super::*;

    /// A host that slept, or woke up elsewhere, during a commit does not know how long the commit took.
    #[test]
    fn no_time_is_measured_across_epochs() {
        let sent = Reading { epoch: Epoch(1), raw: RawNanos(5_000), wall: WallNanos(0) };
        let ended = sent.after(Duration::from_nanos(700));
        assert_eq!(took(sent, ended), Some(Duration::from_nanos(700)));
        assert_eq!(took(sent, Reading { epoch: Epoch(2), ..ended }), None);
        assert_eq!(took(ended, sent), None);
    }
}
