//! How the queue's file is opened, and what happens to one that is no good.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lagmesh_daemon::{Reserve, sqlite};
use lagmesh_model::ids::TargetName;
use rusqlite::{Connection, ErrorCode, params};

use super::super::super::answer::Reason;
use super::{Bounds, FORGET, Level, Table, write_loss};

/// The file's name in the state folder.
const FILE: &str = "forward.db";
/// What follows the file's name in that of the reserve.
const RESERVE: &str = ".reserve";
/// The layout of the tables, kept in `user_version`.
const LAYOUT: i64 = 1;
/// How long an owner that is about to end is waited for.
const OWNER_WAIT: Duration = Duration::from_secs(1);

const TABLES: &str = "
    CREATE TABLE snapshot (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        stamp_ms INTEGER NOT NULL UNIQUE,
        made_epoch INTEGER NOT NULL,
        made_raw_ns INTEGER NOT NULL,
        made_wall_ns INTEGER NOT NULL,
        points INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    -- All that the bounds ask for, so that asking reads no bodies.
    CREATE INDEX snapshot_bounds ON snapshot (id, made_epoch, made_raw_ns, made_wall_ns, points, bytes);
    CREATE TABLE target (
        name TEXT PRIMARY KEY,
        cursor INTEGER NOT NULL,
        held INTEGER,
        taken INTEGER NOT NULL,
        newest_epoch INTEGER,
        newest_raw_ns INTEGER,
        newest_wall_ns INTEGER
    ) STRICT;
    CREATE TABLE lost (
        target TEXT NOT NULL,
        reason TEXT NOT NULL,
        points INTEGER NOT NULL,
        PRIMARY KEY (target, reason)
    ) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 1;
";

/// Why the queue cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// Another process has it.
    #[error("the forward queue {0} is in use by another process: does a second collector have the same state folder?")]
    InUse(PathBuf),
    /// The folder or the file cannot be used.
    #[error("cannot use the forward queue {path}; check that its folder exists and belongs to the user of lagmesh-collector")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A newer version wrote the file.
    #[error("{path} has layout {found}, this version knows {LAYOUT}: run the newer version, or move the file away")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
    },
    /// SQLite says so.
    #[error("cannot open the forward queue {path}: {error}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rusqlite::Error,
    },
}

impl Table {
    /// Opens the queue in a folder, or makes it, for these targets: others are forgotten, new ones get what comes from now on. A file
    /// that is damaged is set aside as `.bad`.
    ///
    /// # Errors
    /// If there is no way to keep a file there.
    pub(crate) fn open(folder: &Path, targets: &[TargetName], bounds: Bounds) -> Result<Table, QueueError> {
        fs::create_dir_all(folder).map_err(|error| QueueError::Io { path: folder.to_owned(), error })?;
        let path = folder.join(FILE);
        match Table::open_once(&path, targets, bounds) {
            // What an earlier run has held back for this.
            Err(QueueError::Sqlite { error, .. }) if sqlite::is_full(&error) => {
                Reserve::at(sqlite::beside(&path, RESERVE)).spend();
                Table::open_once(&path, targets, bounds)
            }
            opened => opened,
        }
    }

    fn open_once(path: &Path, targets: &[TargetName], bounds: Bounds) -> Result<Table, QueueError> {
        match connect(path) {
            Err(Bad::Sqlite(e)) if sqlite::is_damage(&e) => Table::anew(path, targets, bounds, &e.to_string()),
            Err(bad) => Err(explained(bad, path)),
            Ok(db) => Table::over(db, path, targets, bounds),
        }
    }

    /// Starts again with an empty file, because the one in use turned out to be damaged.
    pub(super) fn start_again(&mut self, why: &str) -> Result<(), QueueError> {
        let names: Vec<TargetName> = self.levels.keys().cloned().collect();
        let old = std::mem::take(&mut self.levels);
        let mut fresh = Table::anew(&self.path, &names, self.bounds, why)?;
        for (name, level) in old {
            let update = "UPDATE target SET taken = ?2 WHERE name = ?1";
            if let Err(e) = fresh.db.execute(update, params![name.as_str(), level.taken.cast_signed()]) {
                tracing::warn!(error = %e, "carry over what was counted");
            }
            fresh.unwritten.extend(level.lost.into_iter().map(|(reason, points)| ((name.clone(), reason), points)));
        }
        fresh.write_losses();
        fresh.look();
        *self = fresh;
        Ok(())
    }

    fn anew(path: &Path, targets: &[TargetName], bounds: Bounds, why: &str) -> Result<Table, QueueError> {
        tracing::error!(path = %path.display(), why, "forward queue is no good, set aside as .bad, starting with an empty one");
        sqlite::set_aside(path).map_err(|(path, error)| QueueError::Io { path, error })?;
        let db = connect(path).map_err(|bad| explained(bad, path))?;
        let mut table = Table::over(db, path, targets, bounds)?;
        // How much was in it is not known: one says that something was.
        for name in targets {
            write_loss(&table.db, name.as_str(), Reason::Corrupt, 1).map_err(|e| explained(Bad::Sqlite(e), path))?;
        }
        table.look();
        Ok(table)
    }

    fn over(mut db: Connection, path: &Path, targets: &[TargetName], bounds: Bounds) -> Result<Table, QueueError> {
        adopt(&mut db, targets).map_err(|e| explained(Bad::Sqlite(e), path))?;
        let levels = targets.iter().map(|name| (name.clone(), Level::default())).collect();
        let reserve = Reserve::at(sqlite::beside(path, RESERVE));
        let mut table = Table { db, path: path.to_owned(), bounds, levels, reserve, unwritten: BTreeMap::new() };
        table.levels = table.read_levels().map_err(|e| explained(Bad::Sqlite(e), path))?;
        Ok(table)
    }
}

/// Makes the table of targets that of the fleet file.
fn adopt(db: &mut Connection, targets: &[TargetName]) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    let known: Vec<String> =
        transaction.prepare("SELECT name FROM target")?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for name in known.iter().filter(|name| !targets.iter().any(|target| target.as_str() == name.as_str())) {
        tracing::info!(target = name, "target is no longer in the fleet file, forgetting what waits for it");
        transaction.execute("DELETE FROM target WHERE name = ?1", [name])?;
        transaction.execute("DELETE FROM lost WHERE target = ?1", [name])?;
    }
    let newest = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'snapshot'), 0)";
    for name in targets.iter().filter(|target| !known.iter().any(|name| target.as_str() == name)) {
        transaction.execute(&format!("INSERT INTO target (name, cursor, taken) VALUES (?1, ({newest}), 0)"), [name.as_str()])?;
    }
    transaction.execute(FORGET, [])?;
    transaction.commit()
}

enum Bad {
    Sqlite(rusqlite::Error),
    Newer(i64),
}

impl From<rusqlite::Error> for Bad {
    fn from(error: rusqlite::Error) -> Bad {
        Bad::Sqlite(error)
    }
}

fn explained(bad: Bad, path: &Path) -> QueueError {
    let path = path.to_owned();
    match bad {
        Bad::Newer(found) => QueueError::Newer { path, found },
        Bad::Sqlite(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => QueueError::InUse(path),
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                QueueError::Io { path, error: io::Error::new(io::ErrorKind::PermissionDenied, error) }
            }
            _ => QueueError::Sqlite { path, error },
        },
    }
}

fn connect(path: &Path) -> Result<Connection, Bad> {
    sqlite::not_emptied(path)?;
    let db = Connection::open(path)?;
    db.busy_timeout(OWNER_WAIT)?;
    // Nobody else may write this file; and without sharing, no shared memory is needed beside it.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // A transaction that has returned is on the disk.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
    sqlite::check(&db)?;
    match db.query_row("PRAGMA user_version", [], |row| row.get(0))? {
        0 => db.execute_batch(&format!("BEGIN; {TABLES} COMMIT"))?,
        LAYOUT => {}
        found => return Err(Bad::Newer(found)),
    }
    Ok(db)
}
