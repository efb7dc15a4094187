//! A disk that is full or slow for one program, without the right to mount anything.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clocks::compile;

/// The program that says no, or takes its time.
const SOURCE: &str = concat!(include_str!("../../disk/files.c"), include_str!("../../disk/trouble.c"));
/// There is room for everything.
const ANY: i64 = -1;
/// The places of the four numbers in the file.
const ROOM_AT: u64 = 0;
const SYNC_AT: u64 = 8;
const BEGUN_AT: u64 = 16;
const DONE_AT: u64 = 24;

/// The disk below one folder, as the programs see it that find it in their environment.
#[derive(Debug)]
pub struct TroubledDisk {
    folder: PathBuf,
    library: PathBuf,
    told: PathBuf,
    file: File,
}

impl TroubledDisk {
    /// A disk that has room and is fast. What it needs lies in `run`, beside the folder.
    ///
    /// # Errors
    /// If there is no C compiler, or the folder cannot be written.
    pub fn new(run: &Path, folder: &Path) -> Result<TroubledDisk> {
        let library = run.join("trouble.so");
        fs::write(&library, compile(SOURCE, &["-shared", "-fPIC"])?).context("write the library of the disk")?;
        let told = run.join("trouble");
        let file =
            File::options().create(true).truncate(true).read(true).write(true).open(&told).context("write what the disk does")?;
        let disk = TroubledDisk { folder: folder.to_owned(), library, told, file };
        [(ROOM_AT, ANY), (SYNC_AT, 0), (BEGUN_AT, 0), (DONE_AT, 0)]
            .into_iter()
            .try_for_each(|(at, number)| disk.tell(at, number))?;
        Ok(disk)
    }

    /// What a program needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let path = |name: &str, path: &Path| (name.to_owned(), path.display().to_string());
        vec![path("LD_PRELOAD", &self.library), path("LAGMESH_DISK_FOLDER", &self.folder), path("LAGMESH_DISK_FILE", &self.told)]
    }

    /// So much fits from now on [bytes]; `None`: everything.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_room(&self, bytes: Option<u64>) -> Result<()> {
        self.tell(ROOM_AT, bytes.map_or(Ok(ANY), i64::try_from)?)
    }

    /// Each sync takes so long on top from now on.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_sync(&self, takes: Duration) -> Result<()> {
        self.tell(SYNC_AT, i64::try_from(takes.as_millis())?)
    }

    /// How many syncs have begun and how many are done.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn syncs(&self) -> Result<(i64, i64)> {
        Ok((self.read(BEGUN_AT)?, self.read(DONE_AT)?))
    }

    fn read(&self, at: u64) -> Result<i64> {
        let mut number = [0; 8];
        self.file.read_exact_at(&mut number, at).context("read what the disk did")?;
        Ok(i64::from_ne_bytes(number))
    }

    fn tell(&self, at: u64, number: i64) -> Result<()> {
        self.file.write_all_at(&number.to_ne_bytes(), at).context("write what the disk does")
    }
}
