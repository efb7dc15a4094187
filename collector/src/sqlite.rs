//! What the collector's files have in common: whether one is sound.

pub(crate) use lagmesh_daemon::aside::{beside, set_aside};
use std::path::Path;

use rusqlite::{Connection, ErrorCode};

/// Whether a file is damaged, or no database at all, or holds a value that is none of its column.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    let no_value = matches!(
        error,
        E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) | E::InvalidColumnType(..) | E::Utf8Error(..)
    );
    no_value || matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

fn damage(what: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error { code: ErrorCode::DatabaseCorrupt, extended_code: 11 };
    rusqlite::Error::SqliteFailure(code, Some(what.to_owned()))
}

/// That a file is not there without anything in it: SQLite would take it for a new one, and nobody would hear of what was in it.
///
/// # Errors
/// If nothing is left of it: see [`is_damage`].
pub(crate) fn not_emptied(path: &Path) -> rusqlite::Result<()> {
    let empty = std::fs::metadata(path).is_ok_and(|file| file.len() == 0);
    if empty { Err(damage("nothing is left of it")) } else { Ok(()) }
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
    Err(damage(&sound))
}
