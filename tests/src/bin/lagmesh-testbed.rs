//! `lagmesh-testbed`: runs scenarios, the testbed's own check, and the benches of mesh, lag and pipeline.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lagmesh_tests::run::{self, report::Verdict};
use lagmesh_tests::scenario::Scenario;
use lagmesh_tests::wan::NotPossible;
use lagmesh_tests::{bench, files, selftest};

/// Something that was expected was not seen, or the testbed itself broke.
const FAILED: u8 = 1;
/// The machine stalled too much for anything to be believed.
const NOT_BELIEVED: u8 = 75;
/// It could not run here.
const NOT_RUN: u8 = 77;
/// The scenario file is wrong; nothing was started.
const WRONG_FILE: u8 = 78;

/// A wide-area network, clocks and databases on one machine, with the truth known: lagmesh is checked against it.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 all passed, 1 something failed, 75 not believed because the machine stalled, 77 not run here, 78 a scenario file is wrong.\nThe format of scenario files: docs/testbed.md"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios one after the other; a line for each expectation, and a JSON report with the raw series
    Run {
        /// Scenario files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The folder for reports [default: build/scenarios of the repository]
        #[arg(long)]
        reports: Option<PathBuf>,
    },
    /// Tell what is wrong with scenario files, and start nothing
    Check {
        /// Scenario files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Hold the emulated network against its own settings
    Selftest,
    /// Measure how right, how cheap and how soon the mesh is; a line for each figure
    BenchMesh {
        /// For how long it measures [s]; less gives fewer samples. What starts and ends takes about 150 s more
        #[arg(long, default_value_t = bench::USUAL_SECONDS)]
        seconds: u32,
        /// Only these parts
        #[arg(long, value_delimiter = ',')]
        only: Vec<bench::Part>,
    },
    /// Measure how right, how cheap and how soon replication lag is told; a line for each figure
    BenchLag {
        /// For how long it measures [s]; less gives fewer samples. What starts and ends takes about 200 s more
        #[arg(long, default_value_t = bench::lag::USUAL_SECONDS)]
        seconds: u32,
        /// Only these parts
        #[arg(long, value_delimiter = ',')]
        only: Vec<bench::lag::Part>,
    },
    /// Measure what the way from agents through a collector takes, holds and keeps; a line for each figure
    BenchPipeline {
        /// For how long it measures [s]; less gives fewer samples. What starts and ends takes about 60 s more
        #[arg(long, default_value_t = bench::pipeline::USUAL_SECONDS)]
        seconds: u32,
        /// Only these parts
        #[arg(long, value_delimiter = ',')]
        only: Vec<bench::pipeline::Part>,
    },
    /// Probe for long without a loss: ten million probes, and what is told of them
    Soak {
        /// For how long [s]
        #[arg(long, default_value_t = bench::SOAK_SECONDS)]
        seconds: u64,
    },
}

fn say(line: &str) {
    // Nobody is left to complain to if stdout is gone.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    drop(rustls::crypto::ring::default_provider().install_default());
    let code = tokio::select! {
        code = carry_out(args.command) => code,
        () = interrupted() => {
            say("interrupted; everything of the run is ended");
            Ok(130)
        }
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lagmesh-testbed: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn carry_out(command: Command) -> Result<u8> {
    match command {
        Command::Selftest => code(selftest::run().await.map(|passed| if passed { 0 } else { FAILED })),
        // A target that is missed is a figure, not a failure.
        Command::BenchMesh { seconds, only } => code(bench::run(seconds, &only).await.map(|()| 0)),
        Command::BenchLag { seconds, only } => code(bench::lag::run(seconds, &only).await.map(|()| 0)),
        Command::BenchPipeline { seconds, only } => code(bench::pipeline::run(seconds, &only).await.map(|()| 0)),
        Command::Soak { seconds } => code(bench::soak(seconds).await.map(|()| 0)),
        Command::Check { files } => {
            let read: Vec<Option<Scenario>> = files.iter().map(|file| read(file)).collect();
            Ok(if read.iter().all(Option::is_some) { 0 } else { WRONG_FILE })
        }
        Command::Run { files, reports } => {
            let reports = reports.map_or_else(|| files::build_folder().map(|build| build.join("scenarios")), Ok)?;
            run_all(&files, &reports).await
        }
    }
}

/// A check's exit code, which is another one if it could not run here.
fn code(checked: Result<u8>) -> Result<u8> {
    match checked {
        Err(error) if NotPossible::is_cause_of(&error) => {
            say(&format!("not run: {error:#}"));
            Ok(NOT_RUN)
        }
        checked => checked,
    }
}

/// A scenario, or `None` if its file is wrong or cannot be read: that has been told.
fn read(file: &Path) -> Option<Scenario> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            return None;
        }
    };
    match Scenario::parse(&file.display().to_string(), &text) {
        Ok(scenario) => Some(scenario),
        Err(errors) => {
            eprintln!("{errors}");
            None
        }
    }
}

async fn run_all(files: &[PathBuf], reports: &Path) -> Result<u8> {
    let scenarios: Vec<Option<Scenario>> = files.iter().map(|file| read(file)).collect();
    let Some(scenarios) = scenarios.into_iter().collect::<Option<Vec<Scenario>>>() else { return Ok(WRONG_FILE) };
    let (mut passed, mut failed, mut not_believed, mut not_run) = (0, 0, 0, 0);
    for (number, scenario) in scenarios.iter().enumerate() {
        say(&format!("scenario {} of {}: {}\n  {}", number + 1, scenarios.len(), scenario.name, scenario.about));
        let quiet = !std::io::stdout().is_terminal() && scenarios.len() > 1;
        let report = run::run(scenario, &mut |line| {
            if !quiet {
                say(&format!("  ... {line}"));
            }
        })
        .await;
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                say(&format!("  FAIL  {}: the testbed broke: {error:#}", scenario.name));
                failed += 1;
                continue;
            }
        };
        for line in report.lines() {
            say(&format!("  {line}"));
        }
        say(&format!("  truth: {}\n  report: {}", report.quality, report.write(reports)?.display()));
        match report.verdict {
            Verdict::Pass => passed += 1,
            Verdict::Fail => failed += 1,
            Verdict::NotBelieved { .. } => not_believed += 1,
            Verdict::NotRun { .. } => not_run += 1,
        }
    }
    say(&format!("scenarios: {passed} passed, {failed} failed, {not_believed} not believed, {not_run} not run"));
    Ok(match (failed, not_believed, not_run) {
        (0, 0, 0) => 0,
        (0, 0, _) => NOT_RUN,
        (0, _, _) => NOT_BELIEVED,
        _ => FAILED,
    })
}
