//! What the collector's files have in common: whether one is sound, and what happens to one that is not.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

/// Whether a file is damaged, or no database at all.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// Reads through a file.
///
/// # Errors
/// If it is damaged: see [`is_damage`].
pub(crate) fn check(connection: &Connection) -> rusqlite::Result<()> {
    let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound == "ok" {
        return Ok(());
    }
    let damage = rusqlite::ffi::Error { code: ErrorCode::DatabaseCorrupt, extended_code: 11 };
    Err(rusqlite::Error::SqliteFailure(damage, Some(sound)))
}

/// Moves a file out of the way, with what belongs to it. An older `.bad` file gives way: one is enough to find out why.
///
/// # Errors
/// If one of them cannot be moved or removed; says which.
pub(crate) fn set_aside(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    std::fs::rename(path, beside(path, ".bad")).map_err(|error| (path.to_owned(), error))?;
    for suffix in ["-wal", "-shm"] {
        let file = beside(path, suffix);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((file, error)),
            _ => {}
        }
    }
    Ok(())
}

/// A file whose name goes on.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
