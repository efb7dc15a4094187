//! How runs begin and end: from any file, without privilege, side by side, interrupted and killed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_tests::files::RunFolder;
use lagmesh_tests::skip::skip;
use lagmesh_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::{NOT_RUN, ONE_AT_A_TIME, alone, run, scenario, shows_nothing, testbed};

/// Two regions without a database: a world that stands within seconds.
const SMALL: &str = "about = \"Small.\"\nrun = \"3s\"\n[[region]]\nname = \"a\"\n[[region]]\nname = \"b\"\n[[link]]\nfrom = \"a\"\nto = \"b\"\n\
                     delay = \"5ms\"\n[[collector]]\nname = \"main\"\nregion = \"a\"\n[mesh]\ninterval = \"200ms\"\n[export]\ninterval = \"500ms\"\n\
                     [[expect]]\nname = \"ok\"\nof = \"link a -> b\"\nvalue = \"state\"\nstays = \"ok\"\n";

fn small(folder: &Path, name: &str) -> Result<std::path::PathBuf> {
    let path = folder.join(format!("{name}.toml"));
    fs::write(&path, format!("name = \"{name}\"\n{SMALL}"))?;
    Ok(path)
}

/// Every process of the machine whose command line or environment names `word`.
fn processes_with(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).replace('\0', " ");
        if text.contains(word) && entry.file_name() != std::process::id().to_string().as_str() {
            found.push(String::from_utf8_lossy(&read("cmdline")).replace('\0', " "));
        }
    }
    found
}

/// A run of a scenario in which a walreceiver has just been frozen, and a word that all its processes carry in their environment.
fn watched_run(folder: &Path, name: &str) -> Result<(Child, String)> {
    let mark = format!("LAGMESH_TEST_MARK={name}-{}", std::process::id());
    let (key, value) = mark.split_once('=').context("a mark")?;
    let file = folder.join(format!("{name}.toml"));
    let text = fs::read_to_string(scenario("frozen-walreceiver.toml"))?;
    let text = text.replace("name = \"frozen-walreceiver\"", &format!("name = \"{name}\""));
    fs::write(&file, text.replace("at = \"4s\"", "at = \"0s\""))?;
    let mut command = testbed()?;
    command.arg("run").arg(&file).env(key, value).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let watching = lines.by_ref().map_while(Result::ok).any(|line| line.contains("Freeze"));
    ensure!(watching, "nothing was ever frozen in {name}: {:?}", child.wait()?);
    Ok((child, mark))
}

async fn until_gone(mark: &str) -> Result<()> {
    wait::until("every process of the run ended", Duration::from_secs(20), || async {
        let left = processes_with(mark);
        ensure!(left.is_empty(), "still running: {left:?}");
        Ok(())
    })
    .await
}

fn folders_of(name: &str) -> Vec<String> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|found| found.starts_with(&format!("lagmesh-run-{name}-"))).collect()
}

/// A file outside the repository runs, and its report goes where it was told.
#[test]
fn any_file_runs() -> Result<()> {
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let ran = run(&[&small(folder.path(), "outside")?], folder.path())?;
    if shows_nothing("a scenario from outside the repository", &ran) {
        return Ok(());
    }
    ensure!(ran.code == Some(0) && folder.path().join("outside.json").exists(), "{}", ran.text);
    Ok(())
}

/// Two runs at once do not collide.
#[test]
fn two_at_once() -> Result<()> {
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let files = [small(folder.path(), "first")?, small(folder.path(), "second")?];
    let ran: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = files.iter().map(|file| scope.spawn(|| run(&[file], folder.path()))).collect();
        runs.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for ran in ran {
        let ran = ran.map_err(|_| anyhow::anyhow!("a run panicked"))??;
        if shows_nothing("two scenarios at once", &ran) {
            return Ok(());
        }
        ensure!(ran.code == Some(0), "{}", ran.text);
    }
    Ok(())
}

/// Without the privilege a run is not run, which is not passed.
#[test]
fn without_privilege_it_is_not_run() -> Result<()> {
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let file = small(folder.path(), "forbidden")?;
    let mut command = testbed()?;
    if Uid::effective().is_root() {
        let mut weak = Command::new("setpriv");
        weak.args(["--bounding-set=-sys_admin,-net_admin", "--"]).arg(command.get_program());
        command = weak;
    }
    let output = command.arg("run").arg(&file).arg("--reports").arg(folder.path()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(NOT_RUN), "{:?}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(text.contains("not run  forbidden: ") && text.contains("0 passed"), "{text}");
    Ok(())
}

/// A wrong file starts nothing and is told with file, line and key.
#[test]
fn a_wrong_file_starts_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = small(folder.path(), "wrong")?;
    fs::write(&file, fs::read_to_string(&file)?.replace("region = \"a\"", "region = \"z\""))?;
    let output = testbed()?.arg("run").arg(&file).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(78), "{:?}: {text}", output.status);
    ensure!(text.contains("wrong.toml:14: collector.region: no region is called \"z\""), "{text}");
    ensure!(output.stdout.is_empty() && folders_of("wrong").is_empty(), "something was started");
    Ok(())
}

/// An interrupted run takes everything with it.
#[tokio::test]
async fn an_interrupted_run_leaves_nothing() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    if !Uid::effective().is_root() {
        skip("an interrupted scenario");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (mut child, mark) = watched_run(folder.path(), "interrupted")?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(130), "{status}");
    until_gone(&mark).await?;
    ensure!(folders_of("interrupted").is_empty(), "its folder is left");
    Ok(())
}

/// A run that is killed takes its processes, namespaces and devices with it; what was frozen then, and the folder, the next run removes.
#[tokio::test]
async fn a_killed_run_leaves_nothing() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    if !Uid::effective().is_root() {
        skip("a killed scenario");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (mut child, mark) = watched_run(folder.path(), "killed")?;
    ensure!(processes_with(&mark).len() > 5, "the mark is not in the processes");
    // Until the freeze has been carried out: what is frozen does not hear that its parent died.
    tokio::time::sleep(Duration::from_millis(500)).await;
    child.kill()?;
    child.wait()?;
    ensure!(folders_of("killed").len() == 1, "nobody was there to remove its folder");
    drop(RunFolder::new("next")?);
    until_gone(&mark).await?;
    ensure!(folders_of("killed").is_empty(), "its folder is left");
    Ok(())
}
