//! A copy of a running server's data, by the low-level backup functions that every version has: the fetched versions come without
//! `pg_basebackup`, and a copy through the file system takes no time on a slow network of the testbed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use super::Server;

/// Folders that a copy has but leaves empty, as `pg_basebackup` does.
const EMPTY: [&str; 8] =
    ["pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pg_wal"];

/// Files at the top that belong to the source alone.
const LEFT_OUT: [&str; 6] =
    ["postmaster.pid", "postmaster.opts", "postgresql.auto.conf", "standby.signal", "recovery.signal", "backup_label"];

/// Must be copied last when the source is itself a standby: what it says has to cover everything copied before.
const CONTROL_FILE: &str = "global/pg_control";

/// Copies `source`'s data to `target`, which has none. The log since then is expected from a replication slot made before.
pub(super) async fn copy_data(source: &Server, target: &Server) -> Result<()> {
    let (start, stop) = if source.version() >= 15 {
        ("SELECT pg_backup_start('testbed', true)", "SELECT labelfile FROM pg_backup_stop(false)")
    } else {
        ("SELECT pg_start_backup('testbed', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)")
    };
    // The backup belongs to the session that started it.
    let session = source.connect("postgres").await?;
    session.batch_execute(start).await.with_context(|| format!("start a backup of {}", source.name()))?;
    let (from, to) = (source.data(), target.data());
    fs::create_dir(&to).with_context(|| format!("make {}", to.display()))?;
    fs::set_permissions(&to, fs::metadata(&from)?.permissions())?;
    target.give(&to)?;
    copy_folder(&from, &to, Path::new(""), target)?;
    copy_file(&from.join(CONTROL_FILE), &to.join(CONTROL_FILE), target)?;
    let label: String =
        session.query_one(stop, &[]).await.with_context(|| format!("end the backup of {}", source.name()))?.get(0);
    let path = to.join("backup_label");
    fs::write(&path, label).with_context(|| format!("write {}", path.display()))?;
    target.give(&path)
}

/// Copies what lies in `inside` (relative to both).
fn copy_folder(from: &Path, to: &Path, inside: &Path, target: &Server) -> Result<()> {
    for entry in fs::read_dir(from.join(inside)).with_context(|| format!("read {}", from.join(inside).display()))? {
        let entry = entry?;
        let path = inside.join(entry.file_name());
        let Some(name) = path.to_str() else { continue };
        if LEFT_OUT.contains(&name) || name == CONTROL_FILE || name.contains("pgsql_tmp") {
            continue;
        }
        let Some(kind) = unless_gone(entry.file_type())? else { continue };
        if !kind.is_dir() {
            copy_file(&from.join(&path), &to.join(&path), target)?;
            continue;
        }
        let Some(metadata) = unless_gone(entry.metadata())? else { continue };
        fs::create_dir(to.join(&path)).with_context(|| format!("make {}", to.join(&path).display()))?;
        fs::set_permissions(to.join(&path), metadata.permissions())?;
        target.give(&to.join(&path))?;
        if !EMPTY.contains(&name) {
            copy_folder(from, to, &path, target)?;
        }
    }
    Ok(())
}

/// A running server removes files: one that has gone needs no copy, since the log tells of it.
fn copy_file(from: &Path, to: &Path, target: &Server) -> Result<()> {
    let copied = unless_gone(fs::copy(from, to)).with_context(|| format!("copy {}", from.display()))?;
    if copied.is_some() { target.give(to) } else { Ok(()) }
}

fn unless_gone<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
