//! Measures what a commit costs at each level of `synchronous_commit` that makes a difference, each on a row, a connection and a deadline
//! of its own: a level that hangs holds up no other.

use std::convert::Infallible;
use std::time::Duration;

use lagmesh_model::beat::Incarnation;
use lagmesh_model::state::{CommitLevel, WriteOutcome};
use lagmesh_postgres::discover::CommitSetting;
use lagmesh_postgres::{Connection, layout};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::database::site::Site;
use crate::database::writer::took;
use crate::measurement::{Commit, NodeNews};

/// How often each level is measured.
const LEVEL_INTERVAL: Duration = Duration::from_secs(10);
/// The levels do not come all at once, but so long after each other.
const LEVEL_OFFSET: Duration = Duration::from_secs(2);

/// Measures for as long as it is let; `setting` is what the ledger read last.
pub(super) async fn run(site: &Site, incarnation: Incarnation, setting: &watch::Receiver<Option<CommitSetting>>) -> Infallible {
    let probe = async |level, turn| {
        tokio::time::sleep(LEVEL_OFFSET * turn).await;
        again_and_again(site, incarnation, level, setting.clone()).await
    };
    tokio::select! {
        never = probe(CommitLevel::Off, 1) => never,
        never = probe(CommitLevel::RemoteWrite, 2) => never,
        never = probe(CommitLevel::On, 3) => never,
        never = probe(CommitLevel::RemoteApply, 4) => never,
    }
}

/// Whether a level is measured here: beats measure `local`, the ledger the session's own, and where no standby is synchronous the levels
/// from `local` up are one and the same.
fn is_probed(level: CommitLevel, setting: CommitSetting) -> bool {
    let differs = level == CommitLevel::Off || (level.waits_for_standby() && setting.has_standby_names);
    differs && level != setting.level
}

async fn again_and_again(
    site: &Site,
    incarnation: Incarnation,
    level: CommitLevel,
    setting: watch::Receiver<Option<CommitSetting>>,
) -> Infallible {
    let mut ticks = interval(LEVEL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept = None;
    loop {
        ticks.tick().await;
        let current = *setting.borrow();
        kept = match current {
            Some(setting) if is_probed(level, setting) => probe(site, incarnation, level, kept.take()).await,
            _ => None,
        };
    }
}

/// Measures once; gives the connection back if it can be used again. What goes wrong here is told by the ledger and the beats.
async fn probe(site: &Site, incarnation: Incarnation, level: CommitLevel, kept: Option<Connection>) -> Option<Connection> {
    let connection = match kept {
        Some(connection) => connection,
        None => site.connect_directly(&layout::level_session_sql(level)).await.ok()?,
    };
    let sent = site.clock().now();
    let work = layout::write_level(connection.client(), &site.node, incarnation, level, sent.raw);
    let (written, cut) = site.commit(&connection, work).await;
    let ended = site.clock().now();
    match written {
        Ok(true) if !cut => {
            let commit = Commit { level, outcome: WriteOutcome::Acknowledged, took: took(sent, ended) };
            site.tell_of(ended, NodeNews::Committed(commit));
            Some(connection)
        }
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(node = %site.node, %level, %error, "probe of a commit level");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use CommitLevel as L;

    use super::*;

    /// Each level is measured by exactly one instrument (beats, ledger or probe) where it differs from the others, and else by none.
    #[test]
    fn each_level_once() {
        let table: [(_, _, &[CommitLevel]); 5] = [
            (L::On, false, &[L::Off]),
            (L::Off, false, &[]),
            (L::On, true, &[L::Off, L::RemoteWrite, L::RemoteApply]),
            (L::RemoteApply, true, &[L::Off, L::RemoteWrite, L::On]),
            (L::Local, true, &[L::Off, L::RemoteWrite, L::On, L::RemoteApply]),
        ];
        for (level, has_standby_names, expected) in table {
            let setting = CommitSetting { level, has_standby_names };
            let probed: Vec<_> = CommitLevel::ALL.iter().copied().filter(|level| is_probed(*level, setting)).collect();
            assert_eq!(probed, expected, "{setting:?}");
        }
    }
}
