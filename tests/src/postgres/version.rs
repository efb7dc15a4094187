//! Where the programs of each PostgreSQL version are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Where the system's packages put servers, one folder for each major version.
const SYSTEM: &str = "/usr/lib/postgresql";

/// The major versions that lagmesh supports.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 13..=18;

/// A program of PostgreSQL. Without a version: of the newest that the system's packages installed, or one in PATH. With one: of the
/// system's packages, else what `tests/postgres-versions.sh` fetched, else one in PATH if it is of that version.
///
/// # Errors
/// If it is not here; says how to get it.
pub fn program_path(name: &str, version: Option<u32>) -> Result<PathBuf> {
    let Some(version) = version else {
        let newest = system_versions().into_iter().rev().map(|version| in_version(SYSTEM.as_ref(), version, name));
        return newest
            .chain(in_path(name))
            .find(|path| path.exists())
            .with_context(|| format!("{name} is not installed: install the package postgresql (`tests/setup.sh demo` does)"));
    };
    let folders = [PathBuf::from(SYSTEM), fetched_folder()];
    let found = folders.iter().map(|folder| in_version(folder, version, name)).find(|path| path.exists());
    let own = || in_path(name).find(|path| path.exists() && major(path).is_ok_and(|major| major == version));
    found.or_else(own).with_context(|| {
        if folders.iter().any(|folder| in_version(folder, version, "postgres").exists()) {
            format!("the PostgreSQL {version} that is here comes without {name}")
        } else {
            format!("PostgreSQL {version} is not here: `tests/postgres-versions.sh build/postgresql {version}` fetches it")
        }
    })
}

/// Where another account can run a program: as it is, or from a copy of its version in `run` if the way to it is closed to others, as in
/// a checkout that lies in somebody's private folder.
///
/// # Errors
/// If it cannot be copied.
pub fn within_reach(program: PathBuf, run: &Path) -> Result<PathBuf> {
    if is_open(&program)? {
        return Ok(program);
    }
    let (Some(name), Some(home)) = (program.file_name(), program.ancestors().nth(2)) else {
        bail!("{} does not lie in the bin folder of a version", program.display());
    };
    let copy = run.join("postgresql").join(home.file_name().unwrap_or_default());
    if !copy.exists() {
        let unfinished = copy.with_extension("unfinished");
        fs::create_dir_all(run.join("postgresql")).context("make the folder of versions in reach")?;
        let output = Command::new("cp").arg("-a").args([home, &unfinished]).output().context("run cp")?;
        ensure!(output.status.success(), "copy {}: {}", home.display(), String::from_utf8_lossy(&output.stderr).trim());
        fs::rename(&unfinished, &copy).with_context(|| format!("name {}", copy.display()))?;
    }
    Ok(copy.join("bin").join(name))
}

/// Whether everybody can follow the way to a file.
fn is_open(path: &Path) -> Result<bool> {
    let whole = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
    for folder in whole.ancestors().skip(1) {
        let mode = fs::metadata(folder).with_context(|| format!("look at {}", folder.display()))?.permissions().mode();
        if mode & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The supported major versions whose servers are here.
pub fn available() -> Vec<u32> {
    SUPPORTED.filter(|version| program_path("postgres", Some(*version)).is_ok()).collect()
}

/// The major version of a program.
///
/// # Errors
/// If it does not say.
pub fn major(program: &Path) -> Result<u32> {
    let output = Command::new(program).arg("--version").output().with_context(|| format!("run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} --version failed: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    match parse_major(&text) {
        Some(major) => Ok(major),
        None => bail!("{} tells no version but {:?}", program.display(), text.trim()),
    }
}

/// From `postgres (PostgreSQL) 15.18 (Debian ...)`.
fn parse_major(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn in_version(folder: &Path, version: u32, name: &str) -> PathBuf {
    folder.join(version.to_string()).join("bin").join(name)
}

/// Where a program would stand, by the folders of the PATH.
pub(crate) fn in_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).map(|folder| folder.join(name)).collect();
    folders.into_iter()
}

fn system_versions() -> Vec<u32> {
    let entries = fs::read_dir(SYSTEM).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let mut versions: Vec<u32> = entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    versions.sort_unstable();
    versions
}

/// Where `tests/postgres-versions.sh` puts what it fetches.
fn fetched_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/postgresql")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::RunFolder;

    /// The version is the first number that a program tells, whatever its packager adds.
    #[test]
    fn versions_are_read() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_major("pgbench"), None);
    }

    /// A program in a folder that only its owner can enter is copied with its version, once; one that everybody can reach is left alone.
    #[test]
    fn private_versions_are_brought_within_reach() {
        let (private, run) = (tempfile::tempdir().unwrap(), RunFolder::new("version").unwrap());
        fs::set_permissions(private.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let bin = private.path().join("16/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("initdb"), "first").unwrap();
        let copied = within_reach(bin.join("initdb"), run.path()).unwrap();
        assert!(copied.starts_with(run.path()) && copied.ends_with("16/bin/initdb") && is_open(&copied).unwrap(), "{copied:?}");
        fs::write(bin.join("initdb"), "second").unwrap();
        assert_eq!(within_reach(bin.join("initdb"), run.path()).unwrap(), copied);
        assert_eq!(fs::read_to_string(&copied).unwrap(), "first");
        assert_eq!(within_reach(copied.clone(), run.path()).unwrap(), copied);
    }

    /// What cannot be had is an error that names the version and the way to get it.
    #[test]
    fn missing_versions_are_told() {
        let error = program_path("postgres", Some(12)).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 12 is not here") && error.contains("postgres-versions.sh"), "{error}");
    }
}
