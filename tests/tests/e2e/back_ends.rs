//! The ways out of a collector, with current versions of what takes what comes out; and a way in through what others put between. They
//! are what `tests/peers.sh` fetches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use lagmesh_tests::feed::{CollectorBed, Feed, Posted, fleet_text, values_shown};
use lagmesh_tests::otelcol::Otelcol;
use lagmesh_tests::prometheus::{PROMETHEUS_NEWEST, Prometheus};
use lagmesh_tests::skip::skip;
use lagmesh_tests::{ports, wait};
use tokio::sync::Mutex;

use crate::forward::{CONTENT, Labels, WITHIN, answers, collector, post, remote_write, samples};
use crate::support::install_crypto;

/// How many batches are put in.
const BATCHES: u64 = 5;
/// What the round trips are called on the page.
const RTT: &str = "lagmesh_link_rtt_seconds";
/// Current values that are there only as long as agents report.
const CURRENT: &str = "lagmesh_clock_offset_seconds";

/// How a back end shows what it got.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// Which series are ours.
    ours: &'static str,
    /// Whether distributions are native histograms; else each has series for its count and sum.
    native: bool,
    /// Labels that a page does not have.
    beside: &'static [&'static str],
}

/// Prometheus: labels are those of a scrape, by whatever way.
const PROMETHEUS: Form = Form { ours: "job=\"lagmesh-collector\"", native: true, beside: &[] };
/// VictoriaMetrics makes labels of what OTLP says of the sender.
const VICTORIA: Form = Form {
    ours: "service_name=\"lagmesh-collector\"",
    native: false,
    beside: &["lagmesh_fleet", "scope_name", "scope_version", "service_instance_id", "service_name", "service_version"],
};

/// A back end and how it shows what it got.
struct BackEnd<'a> {
    prometheus: &'a Prometheus,
    form: Form,
}

impl BackEnd<'_> {
    /// The answer to a query, by the labels that a page has; `{}` stands for what selects ours.
    async fn ask(&self, query: &str) -> Result<BTreeMap<Labels, f64>> {
        let answer = answers(self.prometheus, &self.select(query)).await?;
        let strip = |(mut labels, value): (Labels, f64)| {
            labels.retain(|name, _| !self.form.beside.contains(&name.as_str()));
            (labels, value)
        };
        Ok(answer.into_iter().map(strip).collect())
    }

    fn select(&self, query: &str) -> String {
        query.replace("{}", &format!("{{{}}}", self.form.ours))
    }

    /// Whether it shows the names of the page and no others, and of links and regions the same values.
    async fn shows(&self, bed: &CollectorBed) -> Result<()> {
        let page = samples(&bed.get("metrics").await?, "lagmesh_")?;
        let names: BTreeSet<&str> =
            page.keys().map(|labels| labels["__name__"].as_str()).filter(|name| !self.hides(name)).collect();
        let told = self.ask(&format!("{{__name__=~\"lagmesh_.+\",__name__!=\"{RTT}\",{}}}", self.form.ours)).await?;
        let told_names: BTreeSet<&str> = told.keys().map(|labels| labels["__name__"].as_str()).collect();
        let missing: Vec<_> = names.difference(&told_names).collect();
        ensure!(missing.is_empty(), "missing: {missing:?}");
        let more: Vec<_> = told_names.difference(&names).filter(|name| !name.ends_with("_bucket")).collect();
        ensure!(more.is_empty(), "not on the page: {more:?}");
        let steady = |labels: &Labels| {
            ["link_", "region_state", "region_votes", "fleet_"]
                .iter()
                .any(|part| labels["__name__"].starts_with(&format!("lagmesh_{part}")))
        };
        let ours: BTreeMap<_, _> = page.iter().filter(|(labels, _)| steady(labels) && !self.hides(&labels["__name__"])).collect();
        ensure!(ours.len() > 20, "the page has {} samples", ours.len());
        let differ: Vec<_> = ours.iter().filter(|(labels, value)| told.get(**labels) != Some(**value)).take(3).collect();
        ensure!(differ.is_empty(), "{differ:?}");
        Ok(())
    }

    /// What it has in another form than the page.
    fn hides(&self, name: &str) -> bool {
        let suffix = name.strip_prefix(RTT).unwrap_or_default();
        if self.form.native { !suffix.is_empty() } else { suffix == "_bucket" }
    }

    /// Whether the distributions hold so many values together, and every one has the count and the sum of the page to the last, its quantiles within a bucket, and each power of two
    /// splits it where the page says.
    async fn shows_distributions(&self, bed: &CollectorBed, values: u64) -> Result<()> {
        let page = samples(&bed.get("metrics").await?, RTT)?;
        let of = |suffix: &str, le: Option<&str>| -> BTreeMap<Labels, f64> {
            let name = format!("{RTT}{suffix}");
            let of_name =
                page.iter().filter(|(labels, _)| labels["__name__"] == name && labels.get("le").map(String::as_str) == le);
            let strip = |(labels, value): (&Labels, &f64)| {
                let own = labels.iter().filter(|(name, _)| !["__name__", "le"].contains(&name.as_str()));
                (own.map(|(name, value)| (name.clone(), value.clone())).collect(), *value)
            };
            of_name.map(strip).collect()
        };
        let counts = of("_count", None);
        ensure!(
            counts.len() == 4 && (counts.values().sum::<f64>() - values as f64).abs() < 0.5,
            "{counts:?}, not {values} together"
        );
        let (count, sum, quantile) = if self.form.native {
            (format!("histogram_count({RTT}{{}})"), format!("histogram_sum({RTT}{{}})"), format!("{RTT}{{}}"))
        } else {
            let by = "sum by (region, peer, kind)";
            (format!("{by} ({RTT}_count{{}})"), format!("{by} ({RTT}_sum{{}})"), format!("{RTT}_bucket{{}}"))
        };
        ensure!(self.ask(&count).await? == counts, "counts");
        let (told, sums) = (self.ask(&sum).await?, of("_sum", None));
        ensure!(told == sums, "sums {told:?}, not {sums:?}");
        for share in [0.25, 0.5, 0.99] {
            // One value in the middle of each bucket of scale 5 from 1 ms on, 40 of them.
            let expected = 1e-3 * (share * 40.0 / 32.0_f64).exp2();
            let told = self.ask(&format!("histogram_quantile({share}, {quantile})")).await?;
            let near = told.values().all(|told| (told / expected - 1.0).abs() < 0.044);
            ensure!(told.len() == 4 && near, "{share}: {told:?}, not {expected}");
        }
        let bounds: BTreeSet<&str> = page.keys().filter_map(|labels| labels.get("le")).map(String::as_str).collect();
        for le in bounds.into_iter().filter(|le| self.form.native && *le != "+Inf") {
            let told = self.ask(&format!("round({count} * histogram_fraction(0, {le}, {quantile}))")).await?;
            ensure!(told == of("_bucket", Some(le)), "up to {le}: {told:?}");
        }
        Ok(())
    }

    /// How many series it shows of a name.
    async fn shown(&self, selector: &str) -> Result<usize> {
        Ok(self.prometheus.query(&self.select(selector)).await?.len())
    }
}

/// What every way out has in common: what comes out is what was put in, what ends here ends there, and nothing is lost.
async fn comes_out(bed: &mut CollectorBed, back_end: &BackEnd<'_>) -> Result<()> {
    let feed = Mutex::new(Feed::new(0, 1, 1..3, CONTENT)?);
    let current = format!("{CURRENT}{{}}");
    wait::until("what agents report now is shown", WITHIN, || async {
        post(bed, &mut *feed.lock().await).await?;
        ensure!(bed.get("metrics").await?.contains(CURRENT), "the page has none");
        ensure!(back_end.shown(&current).await? > 0, "the back end has none");
        Ok(())
    })
    .await?;
    let values = feed.into_inner().values();
    // Nobody reports any more: links are unknown then, and their current values end.
    wait::until("current values end", WITHIN, || async {
        ensure!(!bed.get("metrics").await?.contains(CURRENT), "the page has some");
        ensure!(back_end.shown(&current).await? == 0, "the back end has some");
        Ok(())
    })
    .await?;
    wait::until("the back end shows what the page shows", WITHIN, || back_end.shows(bed)).await?;
    wait::until("distributions are as they were put in", WITHIN, || back_end.shows_distributions(bed, values)).await?;

    // A region leaves the fleet: its distributions end as well.
    let left = if back_end.form.native { format!("{RTT}{{}}") } else { format!("{RTT}_count{{}}") };
    ensure!(back_end.shown(&left).await? == 4, "distributions of two links");
    bed.kill().await?;
    let fleet = fs::read_to_string(bed.fleet_file()).context("read the fleet file")?;
    let forwards = fleet.split_once("[export]").context("the fleet file has no such part")?.1;
    fs::write(bed.fleet_file(), format!("{}[export]{forwards}", fleet_text(2, 1))).context("write the fleet file")?;
    bed.start_again().await?;
    wait::until("distributions end", WITHIN, || async {
        let shown = back_end.shown(&left).await?;
        ensure!(shown == 2, "{shown} are left");
        Ok(())
    })
    .await?;
    ensure!(!bed.get("metrics").await?.contains("lagmesh_forward_lost_total{"), "something was lost");
    Ok(())
}

fn missing(what: &str, peer: &str) {
    skip(&format!("{what}: {peer} is not here; tests/peers.sh fetches it"));
}

/// What comes out by remote write 2.0 is what was put in, what ends ends there, and the receiver says that it has written everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_write_2() -> Result<()> {
    install_crypto();
    for peer in ["prometheus", PROMETHEUS_NEWEST] {
        let (folder, port) = (tempfile::tempdir()?, ports::free()?);
        let Some(prometheus) = Prometheus::peer(folder.path(), port, peer).await? else {
            missing("remote write 2.0", peer);
            continue;
        };
        let mut bed = collector(folder.path(), &[("receiver", "remote-write-2", remote_write(port), "")]).await?;
        comes_out(&mut bed, &BackEnd { prometheus: &prometheus, form: PROMETHEUS }).await.context(peer)?;
    }
    Ok(())
}

/// What comes out by OTLP is what was put in, under the names that a scrape gives: dashboards and rules need not know the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_to_prometheus() -> Result<()> {
    install_crypto();
    let (folder, port) = (tempfile::tempdir()?, ports::free()?);
    let Some(prometheus) = Prometheus::peer(folder.path(), port, PROMETHEUS_NEWEST).await? else {
        missing("OTLP to Prometheus", PROMETHEUS_NEWEST);
        return Ok(());
    };
    let url = format!("http://127.0.0.1:{port}/api/v1/otlp");
    let mut bed = collector(folder.path(), &[("receiver", "otlp", url, "")]).await?;
    comes_out(&mut bed, &BackEnd { prometheus: &prometheus, form: PROMETHEUS }).await
}

/// The same at a VictoriaMetrics, whose labels say in its own way who has sent them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_to_victoria_metrics() -> Result<()> {
    install_crypto();
    let (folder, port) = (tempfile::tempdir()?, ports::free()?);
    let Some(prometheus) = Prometheus::current_victoria(folder.path(), port).await? else {
        missing("OTLP to VictoriaMetrics", "victoria-metrics");
        return Ok(());
    };
    let url = format!("http://127.0.0.1:{port}/opentelemetry");
    let mut bed = collector(folder.path(), &[("receiver", "otlp", url, "")]).await?;
    comes_out(&mut bed, &BackEnd { prometheus: &prometheus, form: VICTORIA }).await
}

/// An OpenTelemetry Collector between agents and ours changes nothing of what they say, and acknowledges only what ours has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_an_opentelemetry_collector() -> Result<()> {
    install_crypto();
    let folder = tempfile::tempdir()?;
    let mut bed = collector(folder.path(), &[]).await?;
    let Some(between) = Otelcol::start(folder.path(), Some(bed.url("").trim_end_matches('/'))).await? else {
        missing("a way in through an OpenTelemetry Collector", "otelcol");
        return Ok(());
    };
    let mut feed = Feed::new(0, 1, 1..3, CONTENT)?;
    for _ in 0..BATCHES {
        ensure!(between.post(feed.next_body()?).await == Posted::Acknowledged, "a batch is not taken");
    }
    bed.kill().await?;
    let body = feed.next_body()?;
    ensure!(between.post(body.clone()).await != Posted::Acknowledged, "acknowledged, though ours is not there");
    bed.start_again().await?;
    for _ in 0..2 {
        ensure!(between.post(body.clone()).await == Posted::Acknowledged, "a batch is not taken");
    }
    wait::until("the collector shows what was put in, once", WITHIN, || async {
        let shown = values_shown(&bed.get("metrics").await?)?;
        ensure!(shown == feed.values(), "{shown} values of {}", feed.values());
        Ok(())
    })
    .await
}
