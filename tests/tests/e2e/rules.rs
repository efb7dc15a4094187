//! The alert rules, the Alertmanager example and the dashboards as their own tools and conventions want them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lagmesh_postgres::layout::TABLE_BYTES_MAX;
use lagmesh_tests::prometheus::repository;
use serde_json::Value;

fn succeeds(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).current_dir(repository("alerts")).output();
    let output = output.with_context(|| format!("run {program} (`tests/setup.sh test` installs it)"))?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {args:?}:\n{text}");
    Ok(text)
}

/// promtool accepts the rules and their unit tests pass; amtool accepts the example.
#[test]
fn rules_pass_their_own_tests() -> Result<()> {
    succeeds("promtool", &["check", "rules", "lagmesh.rules.yml", "lagmesh.recording.rules.yml"])?;
    succeeds("promtool", &["test", "rules", "tests/lagmesh.test.yml", "tests/lagmesh.recording.test.yml"])?;
    succeeds("amtool", &["check-config", "alertmanager.example.yml"])?;
    Ok(())
}

/// Every alert has a unit test that expects it to fire and a runbook of its name, and every runbook has an alert.
#[test]
fn every_alert_has_a_test_and_a_runbook() -> Result<()> {
    let rules = fs::read_to_string(repository("alerts/lagmesh.rules.yml"))?;
    let tests = fs::read_to_string(repository("alerts/tests/lagmesh.test.yml"))?;
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(alerts.len() >= 7, "only {alerts:?}");
    let mut runbooks = BTreeSet::new();
    for entry in fs::read_dir(repository("alerts/runbooks"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        runbooks.insert(name.strip_suffix(".md").with_context(|| format!("{name} is no runbook"))?.to_owned());
    }
    ensure!(alerts.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>() == runbooks, "{alerts:?} against {runbooks:?}");
    for alert in alerts {
        let fires = tests
            .split("- eval_time:")
            .any(|case| case.contains(&format!("alertname: {alert}\n")) && case.contains("exp_labels"));
        ensure!(fires, "no unit test expects {alert} to fire");
        ensure!(rules.contains(&format!("/runbooks/{alert}.md")), "{alert} does not link its runbook");
    }
    Ok(())
}

/// The alert on the heartbeat table comes at three quarters of the size at which beats stop.
#[test]
fn the_table_is_told_of_before_beats_stop() -> Result<()> {
    let rules = fs::read_to_string(repository("alerts/lagmesh.rules.yml"))?;
    let bound = format!("(lagmesh_heartbeat_table_bytes) > {}\n", TABLE_BYTES_MAX / 4 * 3);
    ensure!(rules.contains(&bound), "no rule has {bound}");
    Ok(())
}

/// Panels have a title, a description, a unit, the datasource variable, and a place of their own within 24 columns.
#[test]
fn dashboards_follow_the_conventions() -> Result<()> {
    for entry in fs::read_dir(repository("dashboards"))?.flatten() {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(entry.path())?)?;
        ensure!(dashboard["editable"] == false && dashboard["uid"].is_string(), "{:?}: editable or without uid", entry.path());
        let mut taken = BTreeSet::new();
        for panel in dashboard["panels"].as_array().context("no panels")? {
            let title = panel["title"].as_str().context("a panel without a title")?;
            let place = |key: &str| panel["gridPos"][key].as_u64().with_context(|| format!("{title}: no {key}"));
            let (x, y, w, h) = (place("x")?, place("y")?, place("w")?, place("h")?);
            ensure!(x + w <= 24, "{title} sticks out");
            for cell in (x..x + w).flat_map(|column| (y..y + h).map(move |line| (column, line))) {
                ensure!(taken.insert(cell), "{title} lies on another panel");
            }
            if panel["type"] == "row" {
                continue;
            }
            ensure!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}: no description");
            ensure!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}: no unit");
            ensure!(panel["datasource"]["uid"] == "${datasource}", "{title}: a fixed datasource");
            for target in panel["targets"].as_array().with_context(|| format!("{title}: no targets"))? {
                let expression = target["expr"].as_str().context("no expr")?;
                ensure!(expression.contains("job=~\"$job\""), "{title}: does not obey the job variable");
                let counts = expression.contains("rate(") || expression.contains("increase(");
                ensure!(!counts || expression.contains("$__rate_interval"), "{title}: a rate over a fixed interval");
            }
        }
    }
    Ok(())
}
