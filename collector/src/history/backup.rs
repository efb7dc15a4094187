//! A copy of everything that the collector keeps, made while it runs: `lagmesh-collector --backup-to FOLDER`.
//!
//! `VACUUM INTO` reads one view of a file, whatever is written meanwhile, and leaves nothing out; SQLite's backup interface would begin anew
//! each time that another process writes, which a collector does all the time. A copy stands under its name only once it is on disk and whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use lagmesh_daemon::sqlite;
use rusqlite::{Connection, OpenFlags};

use super::table;
use crate::store;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to copy.
    #[error("{}: {error}; name the folder of the collector's store with --state-dir", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is a backup already.
    #[error("{} is there already: name another folder, or move it away", path.display())]
    There {
        /// The file.
        path: PathBuf,
    },
    /// The folder cannot be written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file cannot be read, or not be written there.
    #[error("copy {}: {error}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rusqlite::Error,
    },
}

/// Copies store and history from one folder to another. Returns the copies.
///
/// # Errors
/// If something cannot be copied. What stands under its name by then is whole.
pub fn backup(from: &Path, to: &Path) -> Result<Vec<PathBuf>, BackupError> {
    fs::create_dir_all(to).map_err(|error| BackupError::Io { path: to.to_owned(), error })?;
    let names = [store::FILE, table::FILE];
    for name in names {
        let (source, copy) = (from.join(name), to.join(name));
        fs::metadata(&source).map_err(|error| BackupError::Missing { path: source, error })?;
        if copy.exists() {
            return Err(BackupError::There { path: copy });
        }
    }
    // The history first: what the store has beyond it comes with the store. The other way round would do as well.
    names.into_iter().rev().map(|name| copy(&from.join(name), &to.join(name))).collect()
}

fn copy(source: &Path, copy: &Path) -> Result<PathBuf, BackupError> {
    let partial = copy.with_extension("partial");
    let failed = |error| BackupError::Database { path: source.to_owned(), error };
    let io = |error| BackupError::Io { path: partial.clone(), error };
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let from = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    from.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    from.execute("VACUUM INTO ?1", [partial.to_string_lossy()]).map_err(failed)?;
    let made = Connection::open_with_flags(&partial, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    sqlite::check(&made).map_err(failed)?;
    drop(made);
    File::open(&partial).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&partial, copy).map_err(io)?;
    let folder = copy.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(copy.to_owned())
}
