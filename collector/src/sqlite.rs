//! What the collector's files have in common: whether one is sound.

pub(crate) use lagmesh_daemon::aside::{beside, set_aside};
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
