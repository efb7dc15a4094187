//! A little disk space that is kept back, because deleting needs some and a full disk has none.

use std::fs;
use std::io;
use std::path::PathBuf;

/// Enough for the log of many deletions [bytes].
const RESERVE_BYTES: usize = 1024 * 1024;

/// A file whose only purpose is to be deleted.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// Takes the space if there is some.
    pub fn at(path: PathBuf) -> Reserve {
        let mut reserve = Reserve { path, held: false };
        reserve.refill();
        reserve
    }

    /// Gives the space back to the disk.
    pub fn spend(&mut self) {
        if fs::remove_file(&self.path).is_ok() {
            self.held = false;
        }
    }

    /// Takes the space again once there is some.
    pub fn refill(&mut self) {
        if self.held {
            return;
        }
        match self.fill() {
            Ok(()) => self.held = true,
            Err(e) => {
                // Half a reserve would take space from what it is there for and be of no use.
                fs::remove_file(&self.path).ok();
                tracing::debug!(error = %e, "hold disk space in reserve");
            }
        }
    }

    fn fill(&self) -> io::Result<()> {
        let there = fs::metadata(&self.path).is_ok_and(|file| file.len() == RESERVE_BYTES as u64);
        if there { Ok(()) } else { fs::write(&self.path, vec![0x5a; RESERVE_BYTES]) }
    }
}
