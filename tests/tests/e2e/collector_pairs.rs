//! Two collectors that are fed by every agent.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::RegionState;
use lagmesh_model::status::FleetStatus;
use lagmesh_tests::agents::{AgentsBed, Witness};
use lagmesh_tests::alertmanager::Alertmanager;
use lagmesh_tests::feed::{CollectorBed, values_shown};
use lagmesh_tests::files::RunFolder;
use lagmesh_tests::prometheus::Prometheus;
use lagmesh_tests::wait;
use nix::sys::signal::Signal;

const AGENTS: usize = 4;
const FLEET: &str = "[mesh]\ninterval = \"100ms\"\nflows = 2\ngive_up = \"1s\"\nicmp = false\ntcp = false\n\
    [export]\ninterval = \"500ms\"\n\
    [judge]\nsuspect_after = \"3s\"\ndown_after = \"6s\"\nrecover_after = \"2s\"\nrecovered_after = \"4s\"\nhealthy_after = \"3s\"\n";
const WITHIN: Duration = Duration::from_secs(60);
const ALERT: &str = "LagmeshRegionDown";

async fn collector(folder: &Path, name: &str, fleet: &str) -> Result<CollectorBed> {
    let folder = folder.join(name);
    fs::create_dir_all(&folder)?;
    CollectorBed::start(&folder, fleet).await
}

/// The state of each region on each axis.
async fn verdicts(bed: &CollectorBed) -> Result<BTreeMap<(String, String), RegionState>> {
    let status: FleetStatus = serde_json::from_str(&bed.get("v1/status").await?)?;
    let of = |region: &lagmesh_model::status::Region| {
        let name = region.region.to_string();
        region.verdicts.iter().map(|verdict| ((name.clone(), verdict.axis.to_string()), verdict.state)).collect::<Vec<_>>()
    };
    Ok(status.regions.iter().flat_map(of).collect())
}

/// Waits until both say the same, the last region being in this state and all others healthy.
async fn both_say(beds: [&CollectorBed; 2], last: RegionState) -> Result<()> {
    wait::until(&format!("both say that the last region is {last}"), WITHIN, || async {
        let (one, other) = (verdicts(beds[0]).await?, verdicts(beds[1]).await?);
        ensure!(one == other, "{one:?} against {other:?}");
        for ((region, axis), state) in one {
            let wanted = if region == format!("r{:04}", AGENTS - 1) { last } else { RegionState::Healthy };
            ensure!(state == wanted, "{region} is {state} for {axis}");
        }
        Ok(())
    })
    .await
}

fn target(bed: &CollectorBed) -> String {
    bed.url("").trim_start_matches("http://").trim_end_matches('/').to_owned()
}

/// A second collector that starts late catches up from the spools; both reach the same verdicts through an outage of a region, which
/// wakes somebody once, also while one of the two is dead; in the end both show the same totals, and those are exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_agrees_and_wakes_once() -> Result<()> {
    let folder = RunFolder::new("pair")?;
    let mut agents = AgentsBed::new(folder.path(), AGENTS)?;
    let (first, second) = (Witness::unaimed(0.0, 1).await?, Witness::unaimed(0.0, 2).await?);
    let fleet = agents.fleet(&[("first", first.url()), ("second", second.url())], FLEET)?;
    let one = collector(folder.path(), "first", &fleet).await?;
    first.aim(&one.otlp_url());
    agents.start_all()?;
    let missed = |least| {
        let agents = &agents;
        wait::until("the second misses something", WITHIN, move || async move {
            let waiting = agents.exports(0).await?.iter().map(|export| export.pending_batches).max().context("an export")?;
            ensure!(waiting >= least, "only {waiting} wait");
            Ok(())
        })
    };
    missed(10).await?;
    let mut other = collector(folder.path(), "second", &fleet).await?;
    second.aim(&other.otlp_url());
    agents.delivered().await?;
    both_say([&one, &other], RegionState::Healthy).await?;

    let alertmanager = Alertmanager::start(folder.path()).await?;
    let (at_one, at_other) = (target(&one), target(&other));
    let prometheus = Prometheus::with_alerts(folder.path(), &[&at_one, &at_other], Some(&alertmanager.address())).await?;
    wait::until("both are scraped", WITHIN, || async {
        let up = prometheus.query("count(up{job=\"lagmesh\"} == 1)").await?;
        ensure!(up.first().is_some_and(|count| count["value"][1] == "2"), "{up:?}");
        Ok(())
    })
    .await?;
    // What is frozen neither answers nor refuses.
    agents.signal(AGENTS - 1, Signal::SIGSTOP)?;
    both_say([&one, &other], RegionState::Down).await?;
    wait::until("somebody is woken", WITHIN, || async {
        ensure!(!alertmanager.pages(ALERT).is_empty(), "nobody is");
        Ok(())
    })
    .await?;
    other.kill().await?;
    evaluated_again(&prometheus).await?;
    let firing = prometheus.query(&format!("ALERTS{{alertname=\"{ALERT}\", alertstate=\"firing\"}}")).await?;
    let axes: Vec<_> = firing.iter().map(|alert| alert["metric"]["axis"].as_str().unwrap_or_default()).collect();
    ensure!(axes.len() == 2 && axes[0] != axes[1], "one alert for each axis and none for each collector: {firing:?}");
    let pages = alertmanager.pages(ALERT);
    ensure!(pages.len() == 1, "{} notifications for one outage: {pages:?}", pages.len());

    other.start_again().await?;
    agents.signal(AGENTS - 1, Signal::SIGCONT)?;
    both_say([&one, &other], RegionState::Healthy).await?;
    agents.delivered().await?;
    agents.end_all().await?;
    let counted = |witness: &Witness| witness.runs().values().map(|run| run.values).sum::<u64>();
    for (bed, witness) in [(&one, &first), (&other, &second)] {
        let (shown, counted) = (values_shown(&bed.get("metrics").await?)?, counted(witness));
        ensure!(shown == counted && shown > 0, "{shown} values are shown, {counted} were acknowledged");
    }
    ensure!(counted(&first) == counted(&second), "the two have not got the same");
    Ok(())
}

/// Waits until the alert's rule was evaluated twice more: by then a second notification would be due.
async fn evaluated_again(prometheus: &Prometheus) -> Result<()> {
    let last = async || -> Result<String> {
        let rules = prometheus.rules().await?;
        let rule = rules.iter().find(|rule| rule["name"] == ALERT).context("the rule")?;
        Ok(rule["lastEvaluation"].to_string())
    };
    for _ in 0..2 {
        let before = last().await?;
        wait::until("the rule is evaluated again", WITHIN, || async {
            ensure!(last().await? != before, "not yet");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
