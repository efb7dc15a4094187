//! lagmesh and stamp-suite, which was written by others from the same standards, measure each other.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::ProbeKind;
use lagmesh_tests::files::{self, RunFolder, mesh_key};
use lagmesh_tests::process::{Place, Process, Program};
use lagmesh_tests::skip::skip;
use lagmesh_tests::wait;
use serde_json::Value;

use crate::agent::{Agent, Counts, PATIENCE, fleet_file, mesh_address};
use crate::alone;

/// How many packets its sender sends.
const COUNT: u64 = 100;
/// What its sender must have seen: every packet answered once, every TLV understood but perhaps that of the clock (type 3), whose state a
/// kernel need not tell, none spoilt, and nothing missing in either direction by our own counts.
const SEEN: &[(&str, u64)] = &[
    ("/packets_sent", COUNT),
    ("/packets_received", COUNT),
    ("/packets_lost", 0),
    ("/measurements/duplicate_replies", 0),
    ("/measurements/unknown_replies", 0),
    ("/measurements/tlv_validation/evaluated_replies", COUNT),
    ("/measurements/tlv_validation/rejected_replies", 0),
    ("/measurements/tlv_validation/hmac/failed", 0),
    ("/measurements/tlv_validation/flags/malformed", 0),
    ("/measurements/tlv_validation/flags/integrity_failed", 0),
    ("/measurements/tlv_validation/by_type/1/flags/unrecognized", 0),
    ("/measurements/tlv_validation/by_type/5/flags/unrecognized", 0),
    ("/measurements/tlv_validation/by_type/7/flags/unrecognized", 0),
    ("/measurements/direct_measurement/forward_missing", 0),
    ("/measurements/direct_measurement/reverse_missing", 0),
    ("/measurements/follow_up/matched", COUNT - 1),
    ("/measurements/follow_up/unmatched", 0),
];
/// How many of our probes must be answered.
const ANSWERED: u64 = 100;

/// stamp-suite as `tests/setup.sh test` installs it; `None`, and noted as skipped, where it could not be had.
fn stamp_suite(test: &str) -> Result<Option<PathBuf>> {
    let program = files::build_folder()?.join("tools/bin/stamp-suite");
    if program.exists() {
        return Ok(Some(program));
    }
    skip(&format!("{test}: stamp-suite is not installed; tests/setup.sh test does that"));
    Ok(None)
}

/// The flags that give it the key, if there is one.
fn authentication(key: Option<&Path>) -> Vec<String> {
    let with =
        |key: &Path| ["--auth-mode", "A", "--hmac-key-file"].map(str::to_owned).into_iter().chain([key.display().to_string()]);
    key.map(with).into_iter().flatten().collect()
}

/// What its sender reports of a run, as JSON.
fn measure(program: &Path, to: &str, port: u16, key: Option<&Path>) -> Result<Value> {
    let mut command = Command::new(program);
    // From another host than that of any agent: there, nobody without the key is answered.
    command.args(["--local-addr", "127.0.0.9", "--remote-addr", to, "--remote-port", &port.to_string()]);
    command.args(["--count", &COUNT.to_string(), "--send-delay", "20", "--timeout", "5", "--output-format", "json"]);
    command.args(["--timestamp-info", "--direct-measurement", "--follow-up-telemetry", "--extra-padding", "60"]);
    let output = command.args(authentication(key)).output().context("run stamp-suite")?;
    let (said, complaints) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
    ensure!(output.status.success(), "it ended with {}: {complaints}", output.status);
    for word in ["ERROR", "WARN"] {
        ensure!(!complaints.contains(word), "it complains: {complaints}");
    }
    let report = said.lines().find(|line| line.starts_with('{')).with_context(|| format!("no summary in {said}"))?;
    Ok(serde_json::from_str(report)?)
}

/// Its sender measures against an agent that has a key and answers third parties, without the key and with it: every packet is answered
/// in a possible time, and it finds nothing wrong with the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_sender_and_our_reflector() -> Result<()> {
    let Some(program) = stamp_suite("its_sender_and_our_reflector")? else { return Ok(()) };
    let _alone = alone().await;
    let folder = RunFolder::new("stamp-sender")?;
    let (key, own) = (mesh_key(folder.path())?, mesh_address(1)?);
    let regions = [("a", own), ("b", mesh_address(2)?)];
    let fleet = fleet_file(folder.path(), "ours", "third_party = true", &regions)?;
    let agent = Agent::start(folder.path(), &fleet, "a", Some(&key))?;
    wait::until("the agent serves", PATIENCE, || agent.dropped()).await?;
    for key in [None, Some(key.as_path())] {
        let report = measure(&program, &own.ip().to_string(), own.port(), key)?;
        let seen = |path: &str| report.pointer(path).with_context(|| format!("{path} is missing in {report}"));
        for (path, wanted) in SEEN {
            ensure!(seen(path)?.as_u64() == Some(*wanted), "{path} is not {wanted}: {report}");
        }
        let signed = if key.is_some() { COUNT } else { 0 };
        ensure!(seen("/measurements/tlv_validation/hmac/verified")?.as_u64() == Some(signed), "{report}");
        let ms = |path| seen(path)?.as_f64().context("no number");
        let (least, median, most): (f64, f64, f64) = (ms("/min_rtt_ms")?, ms("/median_rtt_ms")?, ms("/max_rtt_ms")?);
        ensure!(least > 0.0 && median < 100.0 && most < 5_000.0, "{report}");
    }
    let dropped = agent.dropped().await?;
    ensure!(dropped.is_empty(), "the agent has dropped {dropped:?}");
    Ok(())
}

/// Our probes against its reflector, without a key and with one: they are answered in time and measured. It knows nothing of our private
/// TLVs, so the relation of the two clocks stays unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_sender_and_its_reflector() -> Result<()> {
    let Some(program) = stamp_suite("our_sender_and_its_reflector")? else { return Ok(()) };
    let _alone = alone().await;
    let folder = RunFolder::new("stamp-reflector")?;
    let key = mesh_key(folder.path())?;
    for (name, key) in [("open", None), ("keyed", Some(key.as_path()))] {
        let (own, theirs) = (mesh_address(1)?, mesh_address(3)?);
        let at = [("--local-addr", theirs.ip().to_string()), ("--local-port", theirs.port().to_string())];
        let mut args = vec!["--is-reflector".to_owned(), "--stateful-reflector".to_owned()];
        args.extend(at.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        args.extend(authentication(key));
        let reflector = Program {
            name: format!("stamp-suite-{name}"),
            path: program.clone(),
            args,
            env: Vec::new(),
            user: None,
            place: Place::default(),
        };
        let reflector = Process::start(reflector, folder.path())?;
        let fleet = fleet_file(folder.path(), name, "interval = \"200ms\"\nflows = 4", &[("a", own), ("b", theirs)])?;
        let agent = Agent::start(folder.path(), &fleet, "a", key)?;
        wait::until("our probes are answered", PATIENCE, || async {
            let fates = agent.fates().await?;
            ensure!(count(&fates, "in-time") >= ANSWERED, "{fates:?}, {:?}; {}", agent.dropped().await?, reflector.last_words());
            Ok(())
        })
        .await?;
        let (fates, dropped, link) = (agent.fates().await?, agent.dropped().await?, agent.link("b").await?);
        eprintln!("{name}: {fates:?}, {dropped:?}, {link:?}");
        ensure!(count(&fates, "corrupt") == 0 && count(&fates, "lost") == 0, "{name}: {fates:?}");
        ensure!(dropped.is_empty(), "{name}: {dropped:?}");
        ensure!(link.rtt(ProbeKind::Stamp).is_known() && link.flows_alive.current() == Some(&4), "{name}: {link:?}");
        ensure!(!link.clock_error_s.is_known(), "{name}: clocks are related without a word of the other: {link:?}");
    }
    Ok(())
}

fn count(counts: &Counts, word: &str) -> u64 {
    counts.get(word).copied().unwrap_or(0)
}
