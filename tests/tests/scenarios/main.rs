//! The library of scenarios, run as a user runs it: with the released programs, one after the other.

mod library;
mod life;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use lagmesh_tests::prometheus::repository;

/// Scenarios measure time: two at once on a small machine would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The exit code of a scenario that could not run here.
const NOT_RUN: i32 = 77;

/// The released testbed; what a debug build does to timing is not what is shown here.
fn testbed() -> Result<Command> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository("target"), PathBuf::from);
    let program = target.join("release/lagmesh-testbed");
    ensure!(program.exists(), "{} is not built: `make test` does, or cargo build --release --workspace --bins", program.display());
    Ok(Command::new(program))
}

fn scenario(name: &str) -> PathBuf {
    repository("tests/scenarios").join(name)
}

/// What a finished run has said, and its exit code.
struct Ran {
    code: Option<i32>,
    text: String,
}

fn run(files: &[&Path], reports: &Path) -> Result<Ran> {
    let output = testbed()?.arg("run").args(files).arg("--reports").arg(reports).output().context("run the testbed")?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(Ran { code: output.status.code(), text })
}
