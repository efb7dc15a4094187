//! How the spool's file is opened, and what happens to one that is no good.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lagmesh_daemon::{Reserve, sqlite};
use lagmesh_model::ids::CollectorName;
use rusqlite::{Connection, ErrorCode};

use super::{LossReason, RunEnds, Settings, Store, dead};

/// The version of the layout below, kept in `user_version`.
const LAYOUT: i64 = 2;

const TABLES: &str = "
    CREATE TABLE batch (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        agent TEXT NOT NULL,
        boot INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        made_epoch INTEGER NOT NULL,
        made_raw_ns INTEGER NOT NULL,
        made_wall_ns INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        body BLOB NOT NULL,
        compression TEXT NOT NULL,
        UNIQUE (agent, boot, sequence)
    ) STRICT;
    -- All that the bounds ask for, so that asking reads no bodies.
    CREATE INDEX batch_bounds ON batch (made_epoch, made_raw_ns, made_wall_ns, bytes);
    CREATE TABLE pending (
        collector TEXT NOT NULL,
        batch INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (collector, batch)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX pending_batch ON pending (batch);
    CREATE TABLE lost (
        collector TEXT NOT NULL,
        boot INTEGER NOT NULL,
        reason TEXT NOT NULL,
        batches INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        first_made_wall_ns INTEGER NOT NULL,
        last_made_wall_ns INTEGER NOT NULL,
        PRIMARY KEY (collector, boot, reason)
    ) STRICT, WITHOUT ROWID;
";

/// Of layout 1, which had no dead letters and no compression but gzip, this makes the layout above.
const FROM_LAYOUT_1: &str = "ALTER TABLE batch ADD COLUMN compression TEXT NOT NULL DEFAULT 'gzip';";

/// How long an owner that is about to end is waited for.
const OWNER_WAIT: Duration = Duration::from_secs(1);
/// How many lines of the loss ledger are kept; it would grow with every run of the agent.
const LEDGER_ROWS_MAX: i64 = 1000;

/// Why the spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the spool {0} is in use by another process: does a second agent have the same state directory?")]
    InUse(PathBuf),
    /// The folder or the file cannot be used.
    #[error("cannot use the spool {path}; check that its folder exists and belongs to the user of lagmesh-agent")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// SQLite says so.
    #[error("cannot open the spool {path}: {error}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rusqlite::Error,
    },
}

impl Store {
    /// Opens the file or makes it. One that is corrupt or of another layout is set aside as `.bad`, never waited for.
    ///
    /// # Errors
    /// If there is no way to keep a file there.
    pub fn open(settings: Settings) -> Result<Store, OpenError> {
        let path = settings.path.clone();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| OpenError::Io { path: path.clone(), error })?;
        }
        let explain = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse(path.clone()),
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                OpenError::Io { path: path.clone(), error: io::Error::new(io::ErrorKind::PermissionDenied, error) }
            }
            _ => OpenError::Sqlite { path: path.clone(), error },
        };
        let mut store = match connect(&path).map_err(&explain)? {
            Found::Good(db) => Store::over(db, settings),
            Found::Bad(why) => {
                put_away(&path, &why)?;
                Store::fresh(settings).map_err(&explain)?
            }
        };
        store.forget_removed_collectors().map_err(&explain)?;
        store.begin_run().map_err(&explain)?;
        store.find_run_ends().map_err(&explain)?;
        Ok(store)
    }

    /// Starts again with an empty file, because the one in use turned out to be corrupt. `waiting` is how many batches were
    /// known to wait for each collector.
    ///
    /// # Errors
    /// If there is no way to keep a file there.
    pub fn start_again(self, waiting: &BTreeMap<CollectorName, u64>, why: &str) -> Result<Store, OpenError> {
        let Store { db, settings, lost, letters_dropped, .. } = self;
        // Nothing in a corrupt file is worth waiting for.
        drop(db);
        let path = settings.path.clone();
        put_away(&path, why)?;
        let fresh = Store::fresh(settings).and_then(|mut store| store.begin_run().map(|()| store));
        let mut store = fresh.map_err(|error| OpenError::Sqlite { path, error })?;
        store.letters_dropped = letters_dropped;
        for (key, batches) in lost {
            *store.lost.entry(key).or_default() += batches;
        }
        // `fresh` has counted one for each collector.
        for (collector, batches) in waiting {
            if let Some(more) = batches.checked_sub(1) {
                *store.lost.entry((collector.clone(), LossReason::Corrupt)).or_default() += more;
            }
        }
        Ok(store)
    }

    /// An empty file in the place of a bad one.
    fn fresh(settings: Settings) -> rusqlite::Result<Store> {
        let db = match connect(&settings.path)? {
            Found::Good(db) => db,
            Found::Bad(_) => return Err(rusqlite::Error::InvalidQuery),
        };
        let mut store = Store::over(db, settings);
        for collector in store.settings.collectors.clone() {
            store.lost.insert((collector, LossReason::Corrupt), 1);
        }
        Ok(store)
    }

    fn over(db: Connection, settings: Settings) -> Store {
        let reserve = Reserve::at(sqlite::beside(&settings.path, ".reserve"));
        Store {
            db,
            settings,
            reserve,
            last: None,
            unstored: None,
            run_ends: RunEnds::new(),
            lost: BTreeMap::new(),
            letters_dropped: BTreeMap::new(),
        }
    }

    /// Batches that only a removed collector has not got are waited for no longer.
    fn forget_removed_collectors(&mut self) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        let known: Vec<String> = transaction
            .prepare("SELECT DISTINCT collector FROM pending")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for name in known {
            if !self.settings.collectors.iter().any(|collector| collector.as_str() == name) {
                tracing::info!(collector = name, "collector is no longer in the fleet file, forgetting what waits for it");
                transaction.execute("DELETE FROM pending WHERE collector = ?1", [name])?;
            }
        }
        transaction.execute("DELETE FROM batch WHERE NOT EXISTS (SELECT 1 FROM pending WHERE batch = batch.id)", [])?;
        transaction.execute(
            "DELETE FROM lost WHERE last_made_wall_ns < \
             (SELECT last_made_wall_ns FROM lost ORDER BY last_made_wall_ns DESC LIMIT 1 OFFSET ?1)",
            [LEDGER_ROWS_MAX],
        )?;
        transaction.commit()
    }
}

enum Found {
    Good(Connection),
    Bad(String),
}

fn connect(path: &Path) -> rusqlite::Result<Found> {
    match try_connect(path) {
        Ok(found) => Ok(found),
        Err(e) if sqlite::is_damage(&e) => Ok(Found::Bad(e.to_string())),
        Err(e) => Err(e),
    }
}

fn try_connect(path: &Path) -> rusqlite::Result<Found> {
    sqlite::not_emptied(path)?;
    let db = Connection::open(path)?;
    db.busy_timeout(OWNER_WAIT)?;
    // Nobody else may write this file; and without sharing, no shared memory is needed beside it.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // A transaction that has returned is on the disk.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
    let layout: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if layout == 0 && tables == 0 {
        db.execute_batch(&format!("BEGIN; {TABLES} {} PRAGMA user_version = {LAYOUT}; COMMIT", dead::TABLE))?;
    } else if layout == 1 {
        db.execute_batch(&format!("BEGIN; {FROM_LAYOUT_1} {} PRAGMA user_version = {LAYOUT}; COMMIT", dead::TABLE))?;
    } else if layout != LAYOUT {
        return Ok(Found::Bad(format!("it has layout {layout}, not {LAYOUT}")));
    }
    sqlite::check(&db)?;
    Ok(Found::Good(db))
}

fn put_away(path: &Path, why: &str) -> Result<(), OpenError> {
    let aside = sqlite::set_aside(path).map_err(|(path, error)| OpenError::Io { path, error })?;
    tracing::error!(path = %path.display(), why, kept_as = %aside.display(), "spool is no good, starting with an empty one");
    Ok(())
}
