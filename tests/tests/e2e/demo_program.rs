//! The demo itself: what `make demo` runs.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use lagmesh_tests::files;

/// Every process of the machine whose command line names `folder`.
fn processes_in(folder: &Path) -> Result<Vec<String>> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&folder) {
            found.push(line);
        }
    }
    Ok(found)
}

fn run_folder(output: &str) -> Result<&Path> {
    let line = output.lines().find_map(|line| line.strip_prefix("demo: run folder "));
    line.map(Path::new).context("the demo names its run folder")
}

/// A running demo that has said `word`, and all that it said until then.
fn demo_until(word: &str) -> Result<(Child, String)> {
    let mut command = Command::new(files::program("lagmesh-demo")?);
    command.args(["--port", "0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut demo = command.spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().context("the demo's output")?).lines();
    let mut text = String::new();
    while !text.contains(word) {
        text.push_str(&lines.next().with_context(|| format!("the demo never said {word:?}:\n{text}"))??);
        text.push('\n');
    }
    // Nobody reads on, but a demo whose output is gone must not mind.
    Ok((demo, text))
}

/// An unattended demo knows every link and every lag at its end, prints them, and leaves neither a process nor a file.
#[test]
fn unattended_demo_knows_everything_and_leaves_nothing() -> Result<()> {
    let output =
        Command::new(files::program("lagmesh-demo")?).args(["--seconds", "3", "--port", "0"]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for wanted in ["new-york", "dublin", "tokyo", "every link and every lag is known"] {
        ensure!(text.contains(wanted), "{wanted:?} is missing in\n{text}");
    }
    let folder = run_folder(&text)?;
    ensure!(!folder.exists(), "{} is still there", folder.display());
    let left = processes_in(folder)?;
    ensure!(left.is_empty(), "still running: {left:?}");
    Ok(())
}

/// Ctrl-C ends a demo in which a visitor has frozen a receiver and killed an agent: soon, with success, and without a trace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_demo_cleans_up_after_its_visitor() -> Result<()> {
    let (mut demo, text) = demo_until("kill -9 ")?;
    let folder = run_folder(&text)?.to_owned();
    for hint in ["kill -STOP ", "kill -9 "] {
        let at = text.find(hint).with_context(|| format!("the demo does not say how to {hint}"))?;
        let command = text[at..].lines().next().context("a line")?;
        ensure!(Command::new("sh").args(["-c", command]).status()?.success(), "{command} fails");
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(demo.id().cast_signed()), nix::sys::signal::Signal::SIGINT)?;
    let status = lagmesh_tests::wait::until("the demo ends", std::time::Duration::from_secs(30), || {
        let ended = demo.try_wait();
        async move { ended?.context("it still runs") }
    })
    .await?;
    ensure!(status.success(), "the demo ended with {status}");
    ensure!(!folder.exists() && processes_in(&folder)?.is_empty(), "something of {} is left", folder.display());
    Ok(())
}

/// Killing the demo outright leaves no process behind either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_demo_leaves_no_process() -> Result<()> {
    let (mut demo, text) = demo_until("demo: run folder ")?;
    let folder = run_folder(&text)?.to_owned();
    demo.kill()?;
    demo.wait()?;
    lagmesh_tests::wait::until("every process of the killed demo ended", std::time::Duration::from_secs(20), || async {
        let left = processes_in(&folder)?;
        ensure!(left.is_empty(), "still running: {left:?}");
        Ok(())
    })
    .await?;
    std::fs::remove_dir_all(&folder).context("remove the killed demo's folder")
}
