//! Every scenario of the library passes; those in `wrong/` fail.

use std::fs;

use anyhow::{Context, Result, ensure};
use lagmesh_tests::files::build_folder;
use lagmesh_tests::scenario::Scenario;

use crate::{alone, run, scenario, shows_nothing};

fn passes(name: &str) -> Result<()> {
    let _alone = alone();
    let ran = run(&[&scenario(&format!("{name}.toml"))], &build_folder()?.join("scenarios"))?;
    if shows_nothing(&format!("scenario {name}"), &ran) {
        return Ok(());
    }
    ensure!(ran.code == Some(0), "{}", ran.text);
    Ok(())
}

macro_rules! library {
    ($($test:ident = $name:literal),+ $(,)?) => {
        $(
            #[test]
            fn $test() -> Result<()> {
                passes($name)
            }
        )+

        /// The scenarios that are run here.
        const LIBRARY: &[&str] = &[$($name),+];
    };
}

library! {
    three_cities = "three-cities",
    dead_path = "dead-path",
    clocks_apart = "clocks-apart",
    clock_that_lies = "clock-that-lies",
    no_udp = "no-udp",
    frozen_walreceiver = "frozen-walreceiver",
    synchronous_standby_lost = "synchronous-standby-lost",
    two_writers = "two-writers",
    one_way_cut = "one-way-cut",
    cut_off = "cut-off",
    paused_replay = "paused-replay",
    lossy_link = "lossy-link",
    loss_one_way = "loss-one-way",
    replication_cut = "replication-cut",
    delayed_cascade = "delayed-cascade",
    logical_one_way = "logical-one-way",
    longest_packet_and_route = "longest-packet-and-route",
    stalled_host = "stalled-host",
    spool_disk_full = "spool-disk-full",
    hub_plan = "hub-plan",
    kernel_stamps_of_another_clock = "kernel-stamps-of-another-clock",
    pooler_in_path = "pooler-in-path",
    dead_writer = "dead-writer",
    slot_lost = "slot-lost",
}

/// Every file of the library is read without a complaint and bears its own name, and every fast one is run here.
#[test]
fn files_are_in_order() -> Result<()> {
    let mut fast = Vec::new();
    for folder in ["", "long", "wrong"] {
        for entry in fs::read_dir(scenario(folder)).context("list the scenarios")?.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
            let read = Scenario::parse(&path.display().to_string(), &fs::read_to_string(&path)?)?;
            ensure!(read.name == name, "{} is called {}", path.display(), read.name);
            ensure!(!read.about.is_empty(), "{name} does not say what it shows");
            if folder.is_empty() {
                fast.push(name);
            }
        }
    }
    fast.sort();
    let mut library = LIBRARY.to_vec();
    library.sort_unstable();
    ensure!(fast == library, "in the folder: {fast:?}, run: {library:?}");
    Ok(())
}

/// Each kind of expectation can fail: where all are wrong, all are told to be, and the exit code says so.
#[test]
fn wrong_expectations_fail() -> Result<()> {
    let _alone = alone();
    let reports = tempfile::tempdir()?;
    let ran = run(&[&scenario("wrong/every-expectation-fails.toml")], reports.path())?;
    if shows_nothing("scenario every-expectation-fails", &ran) {
        return Ok(());
    }
    ensure!(ran.code == Some(1), "{:?}: {}", ran.code, ran.text);
    // A failed run leaves its logs, which nobody needs of this one.
    let logs = ran.text.lines().find_map(|line| line.split_once("logs stay in ")).context("where the logs are")?.1;
    fs::remove_dir_all(logs)?;
    let report = fs::read_to_string(reports.path().join("every-expectation-fails.json"))?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    let outcomes = report["outcomes"].as_array().context("outcomes")?;
    ensure!(outcomes.len() == 12, "{}", ran.text);
    for outcome in outcomes {
        ensure!(outcome["pass"] == false, "{outcome} did not fail:\n{}", ran.text);
    }
    Ok(())
}
