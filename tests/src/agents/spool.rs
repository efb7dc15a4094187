//! What is in the spool of an agent that does not run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use lagmesh_model::ids::BootId;
use rusqlite::{Connection, OptionalExtension as _};

/// What a run has left.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// The run that wrote last, if it did not end in an orderly way.
    pub(super) died: Option<BootId>,
    /// What waits: boots and sequences.
    pub(super) waiting: BTreeSet<(u64, u64)>,
}

/// Reads a copy, so that the agent finds its spool as it left it.
pub(super) fn read(state: &Path) -> Result<Left> {
    let folder = tempfile::tempdir().context("make a folder for the copy")?;
    for name in ["spool.db", "spool.db-wal"] {
        let from = state.join(name);
        if from.exists() {
            fs::copy(&from, folder.path().join(name)).with_context(|| format!("copy {}", from.display()))?;
        }
    }
    let connection = Connection::open(folder.path().join("spool.db"))?;
    let is_there = "SELECT count(*) FROM sqlite_schema WHERE name = 'run'";
    if connection.query_row(is_there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Left::default());
    }
    let died = connection.query_row("SELECT boot FROM run WHERE ended = 0", [], |row| row.get::<_, i64>(0)).optional()?;
    let mut waiting = connection.prepare("SELECT boot, sequence FROM batch")?;
    let waiting =
        waiting.query_map([], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned())))?;
    Ok(Left { died: died.map(|boot| BootId(boot.cast_unsigned())), waiting: waiting.collect::<rusqlite::Result<_>>()? })
}
