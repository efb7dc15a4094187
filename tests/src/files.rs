//! The one folder of a run.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The folder in which everything of a run lives; removed with all of it unless told to stay.
#[derive(Debug)]
pub struct RunFolder {
    folder: Option<TempDir>,
    path: PathBuf,
}

impl RunFolder {
    /// A new folder in the system's temporary one: an unprivileged PostgreSQL must be able to reach it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(purpose: &str) -> Result<RunFolder> {
        let folder = tempfile::Builder::new().prefix(&format!("lagmesh-{purpose}-")).tempdir().context("make the run folder")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).context("open the run folder")?;
        let path = folder.path().to_owned();
        Ok(RunFolder { folder: Some(folder), path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it on disk, for whoever must find out what went wrong.
    pub fn keep(&mut self) {
        if let Some(folder) = self.folder.take() {
            drop(folder.keep());
        }
    }
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
