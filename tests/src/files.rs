//! The one folder of a run.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// What the names of run folders start with.
const PREFIX: &str = "lagmesh-run-";
/// The file that a run holds locked for as long as it lives.
const LOCK: &str = "run.lock";

/// The folder in which everything of a run lives; removed with all of it unless told to stay.
#[derive(Debug)]
pub struct RunFolder {
    folder: Option<TempDir>,
    path: PathBuf,
    /// Held to the end, so that the next run knows whose folder is still in use.
    _lock: Flock<File>,
}

impl RunFolder {
    /// A new folder in the system's temporary one: an unprivileged PostgreSQL must be able to reach it. What runs that were killed
    /// have left behind is removed first.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(purpose: &str) -> Result<RunFolder> {
        RunFolder::within(&std::env::temp_dir(), purpose)
    }

    fn within(temporary: &Path, purpose: &str) -> Result<RunFolder> {
        remove_abandoned(temporary);
        let folder = tempfile::Builder::new().prefix(&format!("{PREFIX}{purpose}-")).tempdir_in(temporary);
        let folder = folder.context("make the run folder")?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).context("open the run folder")?;
        let path = folder.path().to_owned();
        // Locked before it has the name by which others find it: nobody takes a folder that is just being made for an abandoned one.
        let new = path.join("run.lock.new");
        let file = File::create(&new).context("make the lock of the run folder")?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error).context("lock the run folder")?;
        fs::rename(&new, path.join(LOCK)).context("name the lock of the run folder")?;
        Ok(RunFolder { folder: Some(folder), path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it on disk, for whoever must find out what went wrong.
    pub fn keep(&mut self) {
        if let Some(folder) = self.folder.take() {
            // Without its lock it is nobody's, and stays.
            fs::remove_file(self.path.join(LOCK)).ok();
            drop(folder.keep());
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        release_shared_memory(&self.path);
    }
}

/// Ends what still lives in a folder whose run was killed: a process that was frozen then has not heard that its parent died.
fn end_processes_in(run: &Path) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if fs::read_link(entry.path().join("cwd")).is_ok_and(|folder| folder.starts_with(run)) {
            // If it has ended meanwhile, all is well.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

/// A server that was killed leaves a shared memory segment behind, whose number stands in the seventh line of its `postmaster.pid`
/// ("key id"). A server that ended in order has removed both.
fn release_shared_memory(run: &Path) {
    for entry in fs::read_dir(run).into_iter().flatten().flatten() {
        let Ok(text) = fs::read_to_string(entry.path().join("data/postmaster.pid")) else { continue };
        if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            // If it is gone already, all is well.
            Command::new("ipcrm").args(["--shmem-id", id]).output().ok();
        }
    }
}

/// Removes the folders of runs that were killed: their lock is held by nobody. What cannot be removed belongs to somebody else.
fn remove_abandoned(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(file) = File::open(entry.path().join(LOCK)) else { continue };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            end_processes_in(&entry.path());
            release_shared_memory(&entry.path());
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Writes a file that nobody else may read.
///
/// # Errors
/// If it cannot be written.
pub fn secret(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("close {} to others", path.display()))?;
    Ok(path)
}

/// A key of 32 octets for the mesh, in a file as agents want it.
///
/// # Errors
/// If it cannot be written.
pub fn mesh_key(folder: &Path) -> Result<PathBuf> {
    secret(folder, "mesh.key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n")
}

/// The build folder of the repository, for what a run leaves on purpose (pictures, reports).
///
/// # Errors
/// If it cannot be made.
pub fn build_folder() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build");
    std::fs::create_dir_all(&folder).context("make the build folder")?;
    folder.canonicalize().context("find the build folder")
}

/// A program of this workspace: beside the running one, or in `LAGMESH_BIN_DIR`.
///
/// # Errors
/// If it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = if let Some(folder) = std::env::var_os("LAGMESH_BIN_DIR") {
        PathBuf::from(folder)
    } else {
        let own = std::env::current_exe().context("find our own program")?;
        let beside = own.parent().context("a program stands in a folder")?;
        if beside.ends_with("deps") { beside.join("..") } else { beside.to_owned() }
    };
    let path = folder.join(name);
    path.canonicalize().with_context(|| format!("{} has not been built: run `cargo build --workspace` first", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new run removes the folder of one that was killed, and neither one that lives nor one that was kept on purpose.
    #[test]
    fn abandoned_folders_are_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let new = |purpose| RunFolder::within(temporary.path(), purpose).unwrap();
        let (alive, mut kept, mut killed) = (new("alive"), new("kept"), new("killed"));
        kept.keep();
        // As after a kill: the folder stays and the lock is let go.
        let left = killed.folder.take().unwrap().keep();
        drop(killed);
        assert!(left.join(LOCK).exists());
        let next = new("next");
        assert!(!left.exists(), "the killed run's folder is still there");
        assert!(alive.path().exists() && kept.path().exists() && next.path().exists());
    }
}
