//! The library of scenarios, run as a user runs it: with the released programs, one after the other.

mod library;
mod life;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lagmesh_tests::prometheus::repository;
use lagmesh_tests::skip::skip;
use tokio::sync::{Mutex, MutexGuard};

/// Scenarios measure time: two at once on a small machine would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.blocking_lock()
}

/// The exit code of a scenario that could not run here.
const NOT_RUN: i32 = 77;

/// The released testbed; what a debug build does to timing is not what is shown here.
fn testbed() -> Result<Command> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository("target"), PathBuf::from);
    let program = target.join("release/lagmesh-testbed");
    ensure!(
        program.exists(),
        "{} is not built: `make test` does, or cargo build --release --workspace --bins",
        program.display()
    );
    Ok(Command::new(program))
}

fn scenario(name: &str) -> PathBuf {
    repository("tests/scenarios").join(name)
}

/// Whether a run shows nothing, because it could not run here or cannot be believed; then it is noted as skipped.
fn shows_nothing(what: &str, ran: &Ran) -> bool {
    let nothing = matches!(ran.code, Some(NOT_RUN | NOT_BELIEVED));
    if nothing {
        let why = ran.text.lines().find(|line| line.trim_start().starts_with("not ")).unwrap_or_default().trim();
        skip(&format!("{what}: {why}"));
    }
    nothing
}

/// What a finished run has said, and its exit code.
struct Ran {
    code: Option<i32>,
    text: String,
}

/// The exit code of a scenario on a machine that stalled too much.
const NOT_BELIEVED: i32 = 75;

/// How often a run that cannot be believed is repeated.
const TRIES: usize = 3;

/// Runs until a run can be believed; what the last one said.
fn run(files: &[&Path], reports: &Path) -> Result<Ran> {
    let mut ran = run_once(files, reports)?;
    for _ in 1..TRIES {
        if ran.code != Some(NOT_BELIEVED) {
            break;
        }
        ran = run_once(files, reports)?;
    }
    Ok(ran)
}

fn run_once(files: &[&Path], reports: &Path) -> Result<Ran> {
    let output = testbed()?.arg("run").args(files).arg("--reports").arg(reports).output().context("run the testbed")?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(Ran { code: output.status.code(), text })
}
