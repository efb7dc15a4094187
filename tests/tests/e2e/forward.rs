//! The ways out of a collector, with the real programs that take what comes out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_tests::disk::Disk;
use lagmesh_tests::feed::{CollectorBed, Content, Feed, Posted, fleet_text};
use lagmesh_tests::process::Place;
use lagmesh_tests::prometheus::Prometheus;
use lagmesh_tests::skip::skip;
use lagmesh_tests::{ports, wait};

use crate::support::install_crypto;

/// Snapshots leave each second; what comes in the way of the machine comes in the way of them.
pub(crate) const WITHIN: Duration = Duration::from_secs(30);
pub(crate) const CONTENT: Content = Content { gauges: true, buckets: 40 };

/// Of a disk that is filled.
const DISK_BYTES: u64 = 16 * 1024 * 1024;

/// A collector that passes on to these, each with a name, a kind, a URL and further keys.
pub(crate) async fn collector(folder: &Path, forwards: &[(&str, &str, String, &str)]) -> Result<CollectorBed> {
    CollectorBed::start(folder, &fleet(forwards)?).await
}

fn fleet(forwards: &[(&str, &str, String, &str)]) -> Result<String> {
    let mut fleet = fleet_text(3, 1) + "[export]\ninterval = \"1s\"\n";
    for (name, kind, url, more) in forwards {
        writeln!(fleet, "[[forward]]\nname = \"{name}\"\nkind = \"{kind}\"\nurl = \"{url}\"\n{more}")?;
    }
    Ok(fleet)
}

/// Where remote writes go on a port.
pub(crate) fn remote_write(port: u16) -> String {
    format!("http://127.0.0.1:{port}/api/v1/write")
}

pub(crate) async fn post(bed: &CollectorBed, feed: &mut Feed) -> Result<()> {
    ensure!(bed.post(feed.next_body()?).await == Posted::Acknowledged, "the collector does not take a batch");
    Ok(())
}

/// Labels of a series beside those that are given on the way, without those of a page's `le`.
pub(crate) type Labels = BTreeMap<String, String>;

/// Samples of a page whose name begins so.
pub(crate) fn samples(page: &str, start: &str) -> Result<BTreeMap<Labels, f64>> {
    let lines = page.lines().filter(|line| line.starts_with(start));
    let read = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').context("a sample has a value")?;
        let (name, labels) = series.split_once('{').context("a sample has labels")?;
        let labels = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
        let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()));
        Ok((labels.chain([("__name__".to_owned(), name.to_owned())]).collect(), value.parse()?))
    });
    read.collect()
}

/// The answer to a query, by labels without `job` and `instance`.
pub(crate) async fn answers(prometheus: &Prometheus, query: &str) -> Result<BTreeMap<Labels, f64>> {
    let mut found = BTreeMap::new();
    for series in prometheus.query(query).await? {
        let labels = series["metric"].as_object().context("a series has labels")?;
        let own = labels.iter().filter(|(name, _)| !["job", "instance"].contains(&name.as_str()));
        let labels = own.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        found.insert(labels, series["value"][1].as_str().context("a series has a value")?.parse()?);
    }
    Ok(found)
}

/// A Prometheus that scrapes in protobuf and one that gets native histograms by remote write find in them what was put in: counts and
/// sums to the last, quantiles within a bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_histograms() -> Result<()> {
    install_crypto();
    let folder = tempfile::tempdir()?;
    let port = ports::free()?;
    let bed = collector(folder.path(), &[("receiver", "remote-write", remote_write(port), "histograms = \"native\"")]).await?;
    let mut feed = Feed::new(0, 1, 1..3, CONTENT)?;
    for _ in 0..5 {
        post(&bed, &mut feed).await?;
    }
    let target = bed.url("");
    let target = target.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let prometheus = Prometheus::receiver(folder.path(), port, Some(&target)).await?;
    let page = samples(&bed.get("metrics").await?, "lagmesh_link_rtt_seconds")?;
    let of = |suffix: &str| -> Vec<f64> {
        let name = format!("lagmesh_link_rtt_seconds{suffix}");
        page.iter().filter(|(labels, _)| labels["__name__"] == name).map(|(_, value)| *value).collect()
    };
    let (counts, sums) = (of("_count"), of("_sum"));
    ensure!(counts.len() == 4 && counts.iter().all(|count| (*count - 200.0).abs() < 0.5), "{counts:?}");
    for job in ["lagmesh", "lagmesh-collector"] {
        let series = format!("lagmesh_link_rtt_seconds{{job=\"{job}\"}}");
        wait::until(&format!("native histograms of {job} are as they were put in"), WITHIN, || async {
            let told: Vec<f64> = answers(&prometheus, &format!("histogram_count({series})")).await?.into_values().collect();
            ensure!(told == counts, "counts {told:?}");
            let told: Vec<f64> = answers(&prometheus, &format!("histogram_sum({series})")).await?.into_values().collect();
            ensure!(told == sums, "sums {told:?}, not {sums:?}");
            for quantile in [0.25, 0.5, 0.99] {
                // One value in the middle of each bucket of scale 5 from 1 ms on, 40 of them.
                let expected = 1e-3 * (quantile * 40.0 / 32.0_f64).exp2();
                let told = answers(&prometheus, &format!("histogram_quantile({quantile}, {series})")).await?;
                ensure!(
                    told.len() == 4 && told.values().all(|told| (told / expected - 1.0).abs() < 0.044),
                    "{quantile}: {told:?}, {expected}"
                );
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What a target shows of the round trips is what the collector's page shows, classic buckets included, with the same names and labels.
pub(crate) async fn same_as_page(bed: &CollectorBed, target: &Prometheus) -> Result<()> {
    wait::until("the target shows what the page shows", WITHIN, || async {
        let page = samples(&bed.get("metrics").await?, "lagmesh_link_")?;
        let told = answers(target, "{__name__=~\"lagmesh_link_.+\", job=\"lagmesh-collector\"}").await?;
        ensure!(page.len() > 100, "the page has {} samples", page.len());
        let differ: Vec<_> = page.iter().filter(|(labels, value)| told.get(*labels) != Some(value)).take(3).collect();
        ensure!(differ.is_empty() && told.len() == page.len(), "{} of {}: {differ:?}", told.len(), page.len());
        Ok(())
    })
    .await
}

/// The moments [s] at which a target has samples of a series that each snapshot holds.
async fn moments(target: &Prometheus) -> Result<Vec<f64>> {
    let all = target.query("lagmesh_collector_info[15m]").await?;
    let values = all.first().and_then(|series| series["values"].as_array()).context("there is no such series")?;
    ensure!(all.len() == 1, "{} series", all.len());
    Ok(values.iter().filter_map(|value| value[0].as_f64()).collect())
}

/// A target that is away for a while gets everything in the end, in order and once, and another one has not waited for it; what both
/// show is what the page shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_was_away_gets_everything() -> Result<()> {
    install_crypto();
    let folder = tempfile::tempdir()?;
    let (port, other_port) = (ports::free()?, ports::free()?);
    let victoria = Prometheus::victoria_metrics(folder.path(), other_port).await?;
    let mut forwards = vec![("prometheus", "remote-write", remote_write(port), "")];
    if victoria.is_some() {
        forwards.push(("victoria", "remote-write", remote_write(other_port), ""));
    } else {
        skip("remote write to VictoriaMetrics: package victoria-metrics is not installed");
    }
    let prometheus = Prometheus::receiver(folder.path(), port, None).await?;
    let mut bed = collector(folder.path(), &forwards).await?;
    let mut feed = Feed::new(0, 1, 1..3, CONTENT)?;
    post(&bed, &mut feed).await?;
    same_as_page(&bed, &prometheus).await?;
    let before = moments(&prometheus).await?.len();
    prometheus.stop().await?;

    let pending = async |target: &str, least: f64| {
        let page = bed.get("metrics").await?;
        let label = format!("lagmesh_forward_pending_bytes{{target=\"{target}\"}}");
        let bytes: f64 = page.lines().find_map(|line| line.strip_prefix(&label)).context("no such series")?.trim().parse()?;
        ensure!(bytes >= least, "{bytes} bytes wait for {target}");
        Ok::<f64, anyhow::Error>(bytes)
    };
    wait::until("snapshots wait for the target", WITHIN, || pending("prometheus", 12_000.0)).await?;
    post(&bed, &mut feed).await?;
    // What waits is on the disk.
    bed.kill().await?;
    bed.start_again().await?;
    if let Some(victoria) = &victoria {
        same_as_page(&bed, victoria).await?;
    }
    let prometheus = Prometheus::receiver(folder.path(), port, None).await?;
    wait::until("nothing waits any more", WITHIN * 2, || async {
        let page = bed.get("metrics").await?;
        ensure!(page.contains("lagmesh_forward_pending_bytes{target=\"prometheus\"} 0"), "something waits");
        Ok(())
    })
    .await?;
    same_as_page(&bed, &prometheus).await?;
    let page = bed.get("metrics").await?;
    ensure!(!page.contains("lagmesh_forward_lost_total{"), "something was lost");
    let times = moments(&prometheus).await?;
    ensure!(times.len() > before + 4, "{} moments, {before} before", times.len());
    ensure!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    // While it was away, moments follow each other as they do elsewhere: a gap of some seconds is the restart of the collector.
    let gaps = times.windows(2).filter(|pair| pair[1] - pair[0] > 2.5).count();
    ensure!(gaps <= 1, "{times:?}");
    if let Some(victoria) = &victoria {
        let theirs = moments(victoria).await?;
        let missing: Vec<_> = theirs.iter().filter(|time| !times.contains(time) && **time <= times[times.len() - 1]).collect();
        ensure!(missing.is_empty(), "what the other has got is missing: {missing:?}");
    }
    Ok(())
}

/// The number behind a series of the page.
async fn number(bed: &CollectorBed, series: &str) -> Result<f64> {
    let page = bed.get("metrics").await?;
    let value = page.lines().find_map(|line| line.strip_prefix(series)).with_context(|| format!("there is no {series}"))?;
    Ok(value.trim().parse()?)
}

/// A disk that fills up costs the snapshots that it has no room for, counted as such: what waits reaches the target meanwhile, all goes on
/// once there is room, and the queue is sound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk() -> Result<()> {
    install_crypto();
    let folder = tempfile::tempdir()?;
    let disk = match Disk::mount("collector", &folder.path().join("collector"), DISK_BYTES).await {
        Ok(disk) => disk,
        Err(error) => {
            skip(&format!("forwarding with a full disk: a disk of its own: {error:#}"));
            return Ok(());
        }
    };
    let port = ports::free()?;
    let forwards = [("receiver", "remote-write", remote_write(port), "")];
    let place = Place { enter: disk.enter(), env: Vec::new() };
    let mut bed = CollectorBed::start_in(folder.path(), &fleet(&forwards)?, place).await?;
    let mut feed = Feed::new(0, 1, 1..3, CONTENT)?;
    post(&bed, &mut feed).await?;
    let (pending, lost) =
        ("lagmesh_forward_pending_bytes{target=\"receiver\"}", "lagmesh_forward_lost_total{reason=\"disk\",target=\"receiver\"}");
    let wait_for = |series: &'static str, least: f64| {
        let bed = &bed;
        wait::until("the queue has come so far", WITHIN * 2, move || async move {
            let number = number(bed, series).await?;
            ensure!(number >= least, "{series} is {number}, not {least}");
            Ok(())
        })
    };
    wait_for(pending, 12_000.0).await?;
    disk.fill()?;
    wait_for(lost, 1.0).await?;
    // What waits goes out while the disk is full, so that there is room for what comes.
    let prometheus = Prometheus::receiver(folder.path(), port, None).await?;
    wait::until("the target has the present", WITHIN * 2, || async {
        let age_s = number(&bed, "lagmesh_forward_age_seconds{target=\"receiver\"}").await?;
        ensure!(age_s < 5.0, "it is {age_s} s behind");
        Ok(())
    })
    .await?;
    disk.free()?;
    let body = feed.next_body()?;
    wait::until("the collector takes batches", WITHIN, || async {
        ensure!(bed.post(body.clone()).await == Posted::Acknowledged, "it does not");
        Ok(())
    })
    .await?;
    same_as_page(&bed, &prometheus).await?;
    let before = number(&bed, lost).await?;
    bed.kill().await?;
    bed.start_again().await?;
    same_as_page(&bed, &prometheus).await?;
    let page = bed.get("metrics").await?;
    let losses: Vec<&str> = page.lines().filter(|line| line.starts_with("lagmesh_forward_lost_total")).collect();
    ensure!(losses.len() == 1 && (number(&bed, lost).await? - before).abs() < 0.5, "{losses:?}, not {before}");
    let times = moments(&prometheus).await?;
    ensure!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    Ok(())
}
