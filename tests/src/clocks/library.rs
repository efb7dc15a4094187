//! The preload library: compiled once per process, put where a host's programs can load it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

const SOURCE: &str = include_str!("../../clock/clock.c");

/// Puts the library into `folder`, under a name of its own, and returns where it is.
///
/// # Errors
/// If there is no C compiler or the folder cannot be written.
pub(super) fn install(folder: &Path) -> Result<PathBuf> {
    static COMPILED: OnceLock<std::result::Result<Vec<u8>, String>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| compile(SOURCE, &["-shared", "-fPIC"]).map_err(|error| format!("{error:#}")));
    let bytes = compiled.as_ref().map_err(|error| anyhow!("{error}")).context("compile the preload library of the clocks")?;
    let path = folder.join("clock.so");
    replace(&path, bytes, 0o755)?;
    Ok(path)
}

/// Compiles one file of C with every warning an error.
pub(crate) fn compile(source: &str, how: &[&str]) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("make a folder to compile in")?;
    let (input, output) = (folder.path().join("source.c"), folder.path().join("compiled"));
    fs::write(&input, source).context("write what to compile")?;
    let mut command = Command::new("gcc");
    command.args(how).args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&output).arg(&input);
    let result = command.output().context("run gcc (`tests/setup.sh` installs it)")?;
    if !result.status.success() {
        bail!("gcc failed: {}", String::from_utf8_lossy(&result.stderr).trim());
    }
    fs::read(&output).context("read what was compiled")
}

/// Puts a file in place as a whole: whoever has the old one mapped keeps it.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes).with_context(|| format!("write {}", new.display()))?;
    fs::set_permissions(&new, Permissions::from_mode(mode)).with_context(|| format!("open {} to all", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("put {} in place", path.display()))
}
