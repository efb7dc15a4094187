//! The aggregates that Prometheus records of the fleet, from agents and from a collector that it scrapes, against each other and against what
//! the collector itself has added up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::history::{History, Numbers};
use lagmesh_tests::plan::{Plan, REGIONS};
use lagmesh_tests::prometheus::Prometheus;
use lagmesh_tests::wait;
use lagmesh_tests::world::{Options, World};
use nix::sys::signal::Signal;

use crate::forward::{Labels, answers};
use crate::support::install_crypto;

const WITHIN: Duration = Duration::from_secs(60);
/// Of what only the fleet file knows an agent's page says nothing.
const OF_COLLECTORS_ONLY: [&str; 1] = ["cluster:lagmesh_replication_beats:expected_regions"];
/// Classic buckets are powers of two, so what is told of a quantile and the truth are within a factor of two of each other; what history
/// keeps is within 1.14 %.
const QUANTILE_FACTOR: f64 = 2.0 * 1.0114;
/// The first bucket reaches down to zero [s]; within it nothing is told apart, and loopback is that fast.
const FIRST_BUCKET_S: f64 = 1.0 / 16384.0;

/// What a query gives from one of the two sources.
async fn recorded(prometheus: &Prometheus, name: &str, source: &str) -> Result<BTreeMap<Labels, f64>> {
    let mut found = answers(prometheus, &format!("sum without (source) ({{__name__=\"{name}\", source=\"{source}\"}})")).await?;
    // Kinds and bases of which nothing came yet at either.
    found.retain(|_, value| value.is_finite());
    Ok(found)
}

/// Whether one is within the bound of the other.
fn is_near(one: f64, other: f64) -> bool {
    let (low, high) = (one.min(other).max(FIRST_BUCKET_S), one.max(other).max(FIRST_BUCKET_S));
    high <= low * QUANTILE_FACTOR
}

/// Of the same series, quantiles from agents and from the collector are within the width of a bucket.
async fn sources_agree(prometheus: &Prometheus, names: &BTreeSet<String>) -> Result<()> {
    for name in names.iter().filter(|name| !OF_COLLECTORS_ONLY.contains(&name.as_str())) {
        let (agents, collector) = (recorded(prometheus, name, "agents").await?, recorded(prometheus, name, "collector").await?);
        ensure!(!agents.is_empty(), "{name}: nothing from agents");
        ensure!(agents.keys().eq(collector.keys()), "{name}: {:?} against {:?}", agents.keys(), collector.keys());
        for (labels, value) in &agents {
            let other = collector[labels];
            let same = if name.contains(":p") {
                is_near(*value, other)
            } else if name.ends_with("_regions") {
                value.to_bits() == other.to_bits()
            } else {
                // Rates over windows that do not begin and end together.
                true
            };
            ensure!(same, "{name} {labels:?}: {value} from agents, {other} from the collector");
        }
    }
    Ok(())
}

async fn regions(prometheus: &Prometheus, source: &str, what: &str) -> Result<Vec<f64>> {
    let name = format!("fleet:lagmesh_fleet_regions:{what}_regions");
    Ok(recorded(prometheus, &name, source).await?.into_values().collect())
}

/// Totals of a region by label, as its agents' own pages together have them and as the collector has; sums of seconds are whole nanoseconds before
/// Prometheus adds them up as floats.
async fn totals(prometheus: &Prometheus, selector: &str) -> Result<[BTreeMap<Labels, f64>; 2]> {
    let agents = format!("sum without (job, instance) ({selector} unless on (job, instance) lagmesh_collector_info)");
    let collector = format!("sum without (job, instance) ({selector} and on (job, instance) lagmesh_collector_info)");
    let whole =
        |found: BTreeMap<Labels, f64>| found.into_iter().map(|(labels, value)| (labels, (value * 1e9).round() / 1e9)).collect();
    Ok([whole(answers(prometheus, &agents).await?), whole(answers(prometheus, &collector).await?)])
}

/// Each link's quantiles by `PromQL` from the agents' classic buckets lie where the collector's history has them, and the counts are the same.
async fn history_agrees(world: &World, prometheus: &Prometheus, region: &str) -> Result<()> {
    let path = format!("v1/history?metric=lagmesh.link.rtt&region={region}&kind=stamp&from=-1h&step=1h");
    let history: History = serde_json::from_str(&world.get(&path).await?)?;
    ensure!(history.series.len() == REGIONS.len() - 1, "{} series in history", history.series.len());
    for series in &history.series {
        let peer = series.attributes.get("peer").context("a link without a peer")?;
        let of =
            |suffix: &str| format!("lagmesh_link_rtt_seconds{suffix}{{region=\"{region}\", peer=\"{peer}\", kind=\"stamp\"}}");
        let mut known = (0, Vec::new(), Vec::new());
        for point in &series.points {
            let Numbers::Histogram { count, p50: Some(p50), p99: Some(p99), .. } = point.numbers else { continue };
            known.0 += count;
            known.1.push(p50);
            known.2.push(p99);
        }
        let [counted, _] = totals(prometheus, &of("_count")).await?;
        let counted: Vec<f64> = counted.into_values().collect();
        ensure!(counted == [known.0 as f64], "{peer}: agents have counted {counted:?}, history {}", known.0);
        for (quantile, steps) in [(0.5, &known.1), (0.99, &known.2)] {
            let buckets = format!("sum by (le) ({} unless on (job, instance) lagmesh_collector_info)", of("_bucket"));
            let told = answers(prometheus, &format!("histogram_quantile({quantile}, {buckets})")).await?;
            let told = told.into_values().next().context("no quantile")?;
            // That of the whole lies between the smallest and the largest of its parts.
            let (low, high) = (steps.iter().copied().fold(f64::MAX, f64::min), steps.iter().copied().fold(0.0, f64::max));
            let fits = is_near(told, told.clamp(low, high));
            ensure!(fits, "{peer}: the quantile {quantile} is {told} by PromQL, {steps:?} by history");
        }
    }
    Ok(())
}

/// From the agents' pages `PromQL` comes to what the collector has added up: the same series, regions, counts and sums to the last, and quantiles
/// within a bucket; when two of three regions fall silent, both say that one is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promql_and_the_collector_agree() -> Result<()> {
    install_crypto();
    let (stays, go) = ("dublin", REGIONS.iter().filter(|name| **name != "dublin"));
    let mut plan = Plan::three_cities("recording", Duration::from_secs(1), false);
    // What two agents count of one link is one number.
    plan.regions.iter_mut().filter(|region| region.name == stays).for_each(|region| region.agents = 2);
    let agents: Vec<String> =
        REGIONS.iter().flat_map(|region| plan.agents_of(plan.region(region).expect("of the plan"))).collect();
    let mut world = World::start(plan, &Options { emulated: false, http_port: 0, agent_env: &[] }, &mut |_| {}).await?;
    world.ready().await?;
    let folder = tempfile::tempdir()?;
    let pages: Result<Vec<String>> = agents.iter().map(|agent| world.agent_page(agent)).chain([Ok(world.page())]).collect();
    let pages: Vec<String> =
        pages?.iter().map(|page| page.trim_start_matches("http://").trim_end_matches('/').to_owned()).collect();
    let targets: Vec<&str> = pages.iter().map(String::as_str).collect();
    let prometheus = Prometheus::with_alerts(folder.path(), &targets, None).await?;

    let rules = prometheus.rules().await?;
    let names = rules.iter().filter(|rule| rule["type"] == "recording").filter_map(|rule| rule["name"].as_str());
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    ensure!(names.len() > 20, "only {names:?} are recorded");
    wait::until("both sources agree on the whole fleet", WITHIN, || async {
        for (source, what) in
            [("agents", "expected"), ("agents", "reporting"), ("collector", "expected"), ("collector", "reporting")]
        {
            let told = regions(&prometheus, source, what).await?;
            ensure!(told == [3.0], "{what} regions by {source}: {told:?}");
        }
        sources_agree(&prometheus, &names).await
    })
    .await?;
    let replicas = recorded(&prometheus, OF_COLLECTORS_ONLY[0], "collector").await?;
    ensure!(replicas.values().eq(&[2.0]), "regions with replicas: {replicas:?}");

    // Without those who answer and without beats nothing of this grows any more, so that what is the same must be so to the last.
    for agent in go.flat_map(|region| agents.iter().filter(move |agent| agent.starts_with(region))) {
        world.stop_agent(agent, Signal::SIGTERM).await?;
    }
    wait::until("totals are the same", WITHIN, || async {
        for metric in ["lagmesh_link_rtt_seconds_bucket", "lagmesh_link_rtt_seconds_count", "lagmesh_link_rtt_seconds_sum"] {
            let [agents, collector] = totals(&prometheus, &format!("{metric}{{region=\"{stays}\", kind=\"stamp\"}}")).await?;
            ensure!(!agents.is_empty() && agents == collector, "{metric}: {agents:?} from agents, {collector:?}");
        }
        for selector in [
            format!("lagmesh_replication_beats_total{{region=\"{stays}\"}}"),
            format!("lagmesh_link_probes_total{{region=\"{stays}\", kind=\"stamp\", outcome=\"in-time\"}}"),
        ] {
            let [agents, collector] = totals(&prometheus, &selector).await?;
            ensure!(!agents.is_empty() && agents == collector, "{selector}: {agents:?} from agents, {collector:?}");
        }
        history_agrees(&world, &prometheus, stays).await
    })
    .await?;
    wait::until("one region of three is left", WITHIN, || async {
        for (source, what, expected) in [
            ("agents", "expected", 3.0),
            ("agents", "reporting", 1.0),
            ("collector", "expected", 3.0),
            ("collector", "reporting", 1.0),
        ] {
            let told = regions(&prometheus, source, what).await?;
            ensure!(told == [expected], "{what} regions by {source}: {told:?}");
        }
        let links = recorded(&prometheus, "kind:lagmesh_link_rtt_seconds:reporting_regions", "agents").await?;
        let stamp = links.iter().find(|(labels, _)| labels.get("kind").is_some_and(|kind| kind == "stamp"));
        ensure!(stamp.is_some_and(|(_, count)| count.to_bits() == 1.0_f64.to_bits()), "{links:?}");
        Ok(())
    })
    .await?;
    prometheus.stop().await?;
    world.stop().await
}
