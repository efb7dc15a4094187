//! The demo itself: what `make demo` runs.

use std::path::Path;
use std::process::{Command, Stdio};

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

/// Killing the demo outright leaves no process behind either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_demo_leaves_no_process() -> Result<()> {
    use std::io::{BufRead, BufReader};
    let mut demo = Command::new(files::program("lagmesh-demo")?)
        .args(["--port", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let lines = BufReader::new(demo.stdout.take().context("the demo's output")?).lines();
    let mut text = String::new();
    for line in lines {
        text.push_str(&line?);
        text.push('\n');
        if text.contains("demo: run folder ") {
            break;
        }
    }
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
