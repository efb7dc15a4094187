//! Times: delays, jitter, changes; and the truth against the kernel's stamps.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use super::table::{Row, quantile, time};
use super::traffic::{PORT, Stream};
use super::{Bench, MS};
use crate::real::Real;
use crate::wan::device;
use crate::wan::log::{Fate, HostId, Record};
use crate::wan::path::{Jitter, LinkSettings};
use crate::wan::quality::Quality;
use crate::wan::tap::{Direction, Tap};

/// How far the truth may be from the kernel's stamps in 99 of 100 cases [ns].
const TRUTH_P99_NS: i64 = 25_000;
/// How far a kernel stamp may be off after it has been converted to the real clock [ns].
const CONVERTED_NS: i64 = 2_000;
/// How far half of the packets may be from their setting [ns].
const USUALLY_NS: i64 = 20_000;
/// How far 99 of 100 packets may be from their setting, on a machine that does not stall [ns].
const MOSTLY_NS: i64 = 250_000;
/// How long before and after a packet a stall still counts as its own [ns].
const NEAR_NS: i64 = 5 * MS;

/// 30 ms there, 50 ms back, 500 probes per second, with both kinds of address.
pub(super) async fn delays(bench: &Bench) -> Result<Vec<Row>> {
    bench.set(LinkSettings::delayed(30 * MS), LinkSettings::delayed(50 * MS))?;
    let mut rows = Vec::new();
    for (v6, kind) in [(false, "IPv4"), (true, "IPv6")] {
        let mut taps = (tap(bench, "a").await?, tap(bench, "b").await?);
        let since = Real::now();
        let seen = Stream { v6, ..Stream::usual(1500) }.send(bench).await?;
        rows.push(Row::exact(&format!("{kind}: probes answered"), seen.sent.len(), seen.back.len()));
        let (a, b) = (bench.wan.host("a")?.id(), bench.wan.host("b")?.id());
        let quality = bench.wan.quality();
        for (from, to, name, wanted_ns) in [(a, b, "there", 30 * MS), (b, a, "back", 50 * MS)] {
            let mut times = believed(&bench.wan.log().records(since, Real::now()), &quality, (from, to));
            let touched = seen.sent.len().saturating_sub(times.len());
            rows.push(Row::time(&format!("{kind}: delay {name}, p50"), wanted_ns, USUALLY_NS, quantile(&mut times, 0.5)));
            let slowest = Row::time(&format!("{kind}: delay {name}, p99"), wanted_ns, MOSTLY_NS, quantile(&mut times, 0.99));
            rows.push(slowest.of_run(touched, seen.sent.len()));
        }
        let truth = bench.wan.log().rtt_truth(a, b, PORT, since, Real::now());
        rows.push(Row::exact(&format!("{kind}: probes whose truth is known"), seen.sent.len(), truth.len()));
        let back: HashMap<u32, Real> = seen.back.into_iter().collect();
        let outside = truth.iter().filter_map(|truth| {
            let sent = *seen.sent.get(usize::try_from(truth.sequence).ok()?)?;
            Some((*back.get(&truth.sequence)? - sent) - truth.rtt_ns)
        });
        let mut outside: Vec<i64> = outside.collect();
        rows.push(outside_truth(&format!("{kind}: RTT of the programs minus truth, p1 (p50)"), &mut outside));
        let mut stamps = HashMap::new();
        for tap in [&mut taps.0, &mut taps.1] {
            tap.listen();
            stamps.extend(tap.rest());
        }
        let records = bench.wan.log().records(since, Real::now());
        rows.push(truth_bounds(kind, &records, &stamps));
        rows.push(truth_error(kind, &records, &quality, &stamps));
    }
    Ok(rows)
}

/// Programs can only be slower than the network.
fn outside_truth(name: &str, outside_ns: &mut [i64]) -> Row {
    let (least_ns, p50_ns) = (quantile(outside_ns, 0.01), quantile(outside_ns, 0.5));
    Row {
        setting: name.to_owned(),
        wanted: "> 0".to_owned(),
        measured: format!("{} ({})", time(least_ns), time(p50_ns)),
        error: "-".to_owned(),
        pass: least_ns > 0,
        marked: false,
    }
}

async fn tap(bench: &Bench, host: &str) -> Result<Tap> {
    let open = || async { Tap::open(if_nametoindex(device::NAME).context("find the device")?, Direction::Arriving) };
    bench.wan.host(host)?.run(open).await
}

/// The sum over request and reply of how much later the kernel stamped their arrival than the truth says.
fn truth_error(kind: &str, records: &[Record], quality: &Quality, stamps: &HashMap<u64, Real>) -> Row {
    let touched = records.iter().filter(|record| stalled(record, quality)).count();
    let mut by_probe: HashMap<(u16, u32), Vec<i64>> = HashMap::new();
    for record in records.iter().filter(|record| !stalled(record, quality)) {
        let (Some(stamp), Some(delivered)) = (stamps.get(&record.key), record.delivered) else { continue };
        let flow = if record.destination_port == PORT { record.source_port } else { record.destination_port };
        by_probe.entry((flow, record.words[0])).or_default().push(*stamp - delivered);
    }
    let of_both = by_probe.values().filter(|errors| errors.len() == 2).map(|errors| errors.iter().sum());
    let mut errors: Vec<i64> = of_both.collect();
    let [p50, p99] = [0.5, 0.99].map(|share| quantile(&mut errors, share));
    Row {
        setting: format!("{kind}: truth of RTT against kernel stamps, p99 (p50) of {}", errors.len()),
        wanted: format!("0 +- {}", time(TRUTH_P99_NS)),
        measured: format!("{} ({})", time(p99), time(p50)),
        error: time(p99),
        pass: p99.abs() <= TRUTH_P99_NS && p50.abs() <= TRUTH_P99_NS && errors.len() > 500,
        marked: false,
    }
    .of_run(touched, records.len())
}

/// The kernel stamps no arrival outside the bounds that the truth gives for it.
fn truth_bounds(kind: &str, records: &[Record], stamps: &HashMap<u64, Real>) -> Row {
    let errors = records.iter().filter_map(|record| Some((record, *stamps.get(&record.key)? - record.delivered?)));
    let outside =
        errors.filter(|(record, error_ns)| !(-CONVERTED_NS..=i64::from(record.within_ns) + CONVERTED_NS).contains(error_ns));
    Row::exact(&format!("{kind}: kernel stamps outside the bounds of the truth"), 0, outside.count())
}

/// How long the packets of a pair took that no stall touched [ns].
fn believed(records: &[Record], quality: &Quality, (from, to): (HostId, HostId)) -> Vec<i64> {
    let of_pair = records.iter().filter(|record| (record.from, record.to, record.fate) == (from, to, Fate::Delivered));
    of_pair.filter(|record| !stalled(record, quality)).filter_map(Record::travelled_ns).collect()
}

/// Whether a stall touches the leaving or the arrival of a packet; in between it is only waiting.
fn stalled(record: &Record, quality: &Quality) -> bool {
    let near = |moment: Real| quality.stalled(moment + -NEAR_NS, moment + NEAR_NS);
    near(record.left) || record.delivered.is_some_and(near)
}

/// Two hosts of one region see each other at once.
pub(super) async fn local(bench: &Bench) -> Result<Row> {
    let since = Real::now();
    Stream { to: "a2", ..Stream::usual(500) }.send(bench).await?;
    let (a, a2) = (bench.wan.host("a")?.id(), bench.wan.host("a2")?.id());
    let mut times = believed(&bench.wan.log().records(since, Real::now()), &bench.wan.quality(), (a, a2));
    // No less than what the router takes to wake, which is all there is.
    Ok(Row::time("hosts of one region: delay, p50", 0, 250_000, quantile(&mut times, 0.5)))
}

/// Exponential jitter with a mean of 2 ms.
pub(super) async fn jitter(bench: &Bench) -> Result<Row> {
    let jitter = Jitter::Exponential { mean_ns: 2 * MS };
    let there = LinkSettings { jitter, jitter_reorders: true, ..LinkSettings::delayed(10 * MS) };
    bench.set(there, LinkSettings::default())?;
    let since = Real::now();
    Stream::usual(1500).send(bench).await?;
    let (a, b) = (bench.wan.host("a")?.id(), bench.wan.host("b")?.id());
    let times = believed(&bench.wan.log().records(since, Real::now()), &bench.wan.quality(), (a, b));
    let count = i64::try_from(times.len())?.max(1);
    // Four standard deviations of the mean of so many.
    let tolerance_ns = 4 * 2 * MS / count.isqrt().max(1);
    Ok(Row::time("jitter, exponential with mean 2 ms: mean delay", 12 * MS, tolerance_ns, times.iter().sum::<i64>() / count))
}

/// The delay is changed while packets flow: from the stated moment on, each takes the new one.
pub(super) async fn change(bench: &Bench) -> Result<Row> {
    bench.set(LinkSettings::delayed(10 * MS), LinkSettings::default())?;
    let since = Real::now();
    let change = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        bench.wan.set_link("east", "west", LinkSettings::delayed(40 * MS))
    };
    let (seen, changed) = tokio::join!(Stream::usual(300).send(bench), change);
    let (seen, changed) = (seen?, changed?);
    let (a, b) = (bench.wan.host("a")?.id(), bench.wan.host("b")?.id());
    let records = bench.wan.log().records(since, Real::now());
    // A packet that left just before was perhaps read just after.
    let fits = |record: &&Record| match record.travelled_ns() {
        Some(took_ns) if record.left >= changed => took_ns >= 40 * MS,
        Some(took_ns) if record.left < changed + -MS => {
            (10 * MS..40 * MS).contains(&took_ns) || stalled(record, &bench.wan.quality())
        }
        _ => true,
    };
    let fitting = records.iter().filter(|record| (record.from, record.to) == (a, b)).filter(fits).count();
    Ok(Row::exact("delay changed from 10 to 40 ms: packets with the delay of their time", seen.sent.len(), fitting))
}

/// The system's own ping, where it is installed.
pub(super) fn ping(bench: &Bench) -> Option<Row> {
    bench.set(LinkSettings::delayed(30 * MS), LinkSettings::delayed(50 * MS)).ok()?;
    let (host, address) = (bench.wan.host("a").ok()?, bench.wan.address("b", false).ok()?);
    Command::new("ping").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    let mut command = host.place().command("ping");
    let output = command.args(["-q", "-n", "-c", "20", "-i", "0.02", &address.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // rtt min/avg/max/mdev = 80.1/80.2/80.3/0.1 ms
    let average = text.rsplit_once(" = ").and_then(|(_, times)| times.split('/').nth(1)?.parse::<f64>().ok());
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds, and few of them")]
    Some(Row::time("ping: average RTT", 80 * MS, 2 * MS, average.map_or(0, |ms| (ms * 1e6) as i64)))
}
