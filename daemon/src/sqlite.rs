//! What files of SQLite have in common: whether one is sound, what counts as damage, and what happens to one that is no good. It is kept,
//! for whoever wants to know why.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

/// Whether a file is damaged, or no database at all, or holds a value that is none of its column.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    let no_value = matches!(
        error,
        E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) | E::InvalidColumnType(..) | E::Utf8Error(..)
    );
    no_value || matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// Whether the disk has no room.
pub fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// That a file is not there without anything in it: SQLite would take it for a new one, and nobody would hear of what was in it.
///
/// # Errors
/// If nothing is left of it: see [`is_damage`].
pub fn not_emptied(path: &Path) -> rusqlite::Result<()> {
    let empty = std::fs::metadata(path).is_ok_and(|file| file.len() == 0);
    if empty { Err(damage("nothing is left of it")) } else { Ok(()) }
}

/// Reads through a file.
///
/// # Errors
/// If it is damaged: see [`is_damage`].
pub fn check(connection: &Connection) -> rusqlite::Result<()> {
    let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound == "ok" { Ok(()) } else { Err(damage(&sound)) }
}

fn damage(what: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error { code: ErrorCode::DatabaseCorrupt, extended_code: 11 };
    rusqlite::Error::SqliteFailure(code, Some(what.to_owned()))
}

/// A file whose name goes on.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Moves a file of SQLite out of the way with its log, which may hold what tells why, to where its name ends in `.bad`. Files that
/// were bad before give way: one is enough to find out why.
///
/// # Errors
/// If one of them cannot be moved; says which.
pub fn set_aside(path: &Path) -> Result<PathBuf, (PathBuf, io::Error)> {
    let aside = beside(path, ".bad");
    // The log goes first: left beside a new file by a crash in between, it would be taken for the log of that.
    for suffix in ["-wal", "-shm"] {
        let (file, kept) = (beside(path, suffix), beside(&aside, suffix));
        let moved = match std::fs::rename(&file, &kept) {
            // One of an older bad file would be taken for a part of this one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::remove_file(&kept),
            moved => moved,
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((file, error)),
            _ => {}
        }
    }
    std::fs::rename(path, &aside).map_err(|error| (path.to_owned(), error))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A bad file is kept with its own log beside it, and never with the log of one that was bad before.
    #[test]
    fn everything_is_kept_and_nothing_is_mixed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        let read = |suffix: &str| fs::read_to_string(beside(&path, suffix)).ok();
        fs::write(&path, "first").unwrap();
        fs::write(beside(&path, "-wal"), "first log").unwrap();
        assert_eq!(set_aside(&path).unwrap(), beside(&path, ".bad"));
        assert_eq!((read(""), read("-wal")), (None, None));
        assert_eq!((read(".bad").as_deref(), read(".bad-wal").as_deref()), (Some("first"), Some("first log")));

        fs::write(&path, "second").unwrap();
        set_aside(&path).unwrap();
        assert_eq!((read(".bad").as_deref(), read(".bad-wal")), (Some("second"), None));
        assert_eq!(set_aside(&path).unwrap_err().0, path);
    }
}
