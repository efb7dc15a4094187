//! The rows with which single commit levels are probed: one each, so that a commit that hangs holds up no other level.

use lagmesh_model::beat::{Incarnation, SLOTS};
use lagmesh_model::ids::NodeName;
use lagmesh_model::state::CommitLevel;
use lagmesh_model::time::RawNanos;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

use super::write::insert_slots;
use super::{Stream, session_sql};

/// The session settings of a connection that probes one commit level.
pub fn level_session_sql(level: CommitLevel) -> String {
    format!("{}; SET synchronous_commit = {level}", session_sql(Stream::Ledger))
}

/// The row of a level: behind those of the ledger, in its stream.
fn slot_of(level: CommitLevel) -> i16 {
    let behind = match level {
        CommitLevel::Off => 0,
        CommitLevel::Local => 1,
        CommitLevel::RemoteWrite => 2,
        CommitLevel::On => 3,
        CommitLevel::RemoteApply => 4,
    };
    i16::from(LEDGER_SLOTS) + behind
}

const LEDGER_SLOTS: u8 = SLOTS.to_le_bytes()[0];

/// Inserts the rows of an incarnation for all levels. Doing it again changes nothing.
///
/// # Errors
/// The server's.
pub async fn insert_level_rows(client: &Client, origin: &NodeName, incarnation: Incarnation) -> Result<(), Error> {
    let slots: Vec<i16> = CommitLevel::ALL.iter().map(|level| slot_of(*level)).collect();
    insert_slots(client, origin, incarnation, Stream::Ledger, &slots).await
}

/// Commits a change of the level's row, at whatever level the session has: set it with [`level_session_sql`]. `false`: the row does not
/// exist (pruned).
///
/// # Errors
/// The server's. After a cancel or a lost connection the commit is in doubt.
pub async fn write_level(
    client: &Client,
    origin: &NodeName,
    incarnation: Incarnation,
    level: CommitLevel,
    sent: RawNanos,
) -> Result<bool, Error> {
    // Without a sequence nothing else of the row is meant to be read.
    let sql = "UPDATE lagmesh.beat SET previous_acknowledged_raw_ns = $1 \
               WHERE origin = $2 AND incarnation = $3 AND stream = $4 AND slot = $5";
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&sent.0.cast_signed(), Type::INT8),
        (&origin.as_str(), Type::TEXT),
        (&incarnation.0, Type::INT8),
        (&Stream::Ledger.as_str(), Type::TEXT),
        (&slot_of(level), Type::INT2),
    ];
    Ok(client.execute_typed(sql, &parameters).await? > 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lagmesh_model::beat::Sequence;

    use super::*;
    use crate::layout::slot;

    /// No two levels share a row, and none has a row of the ledger.
    #[test]
    fn rows_are_apart() {
        let levels: BTreeSet<i16> = CommitLevel::ALL.iter().map(|level| slot_of(*level)).collect();
        assert_eq!(levels.len(), CommitLevel::ALL.len());
        assert!((1..=3 * SLOTS).all(|sequence| !levels.contains(&slot(Sequence(sequence)))));
    }
}
