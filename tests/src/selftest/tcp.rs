//! TCP: bandwidth, sizes of packets, and that nothing is lost that need not be.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, timeout};

use super::table::Row;
use super::{Bench, MS};
use crate::real::Real;
use crate::wan::host::Host;
use crate::wan::log::Fate;
use crate::wan::path::LinkSettings;

/// How long a connection is waited for.
const CONNECT: Duration = Duration::from_secs(3);
/// The port that takes bulk.
const PORT: u16 = 8621;

/// What a receiver got: moments and octets so far.
type Progress = Vec<(Real, u64)>;

/// Sends as much as will go from a to b for a time; how much had arrived when.
async fn bulk(bench: &Bench, v6: bool, during: Duration) -> Result<Progress> {
    let (a, b) = (bench.wan.host("a")?, bench.wan.host("b")?);
    let peer = SocketAddr::new(b.address(v6), PORT);
    let listener = b.run(move || async move { listen(peer) }).await?;
    let receiving = b.handle().spawn(receive(listener, during));
    let sending = a.handle().spawn(send(SocketAddr::new(a.address(v6), 0), peer));
    let progress = receiving.await.context("the receiver died")?;
    sending.abort();
    // It ends as cancelled or with a broken connection; both are what we asked for.
    drop(sending.await);
    progress
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(8)?)
}

async fn receive(listener: TcpListener, during: Duration) -> Result<Progress> {
    let (mut connection, _) = timeout(CONNECT, listener.accept()).await.context("nobody connects")??;
    let (mut progress, mut total, mut buffer) = (Progress::new(), 0, vec![0; 1 << 18]);
    let end = Instant::now() + during;
    while let Ok(read) = tokio::time::timeout_at(end, connection.read(&mut buffer)).await {
        match read? {
            0 => break,
            length => total += length as u64,
        }
        progress.push((Real::now(), total));
    }
    Ok(progress)
}

async fn send(own: SocketAddr, peer: SocketAddr) -> Result<()> {
    let socket = if own.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.bind(own)?;
    let mut connection = timeout(CONNECT, socket.connect(peer)).await.context("no connection")??;
    let chunk = vec![0; 1 << 16];
    loop {
        connection.write_all(&chunk).await?;
    }
}

/// 20 Mbit/s: what arrives after the first second, IP headers and TCP headers with it.
pub(super) async fn bandwidth(bench: &Bench) -> Result<Row> {
    const WANTED_BPS: f64 = 20e6;
    let narrow = LinkSettings { bandwidth_bps: Some(20_000_000), queue_bytes: 200_000, ..LinkSettings::delayed(10 * MS) };
    bench.set(narrow, LinkSettings::delayed(10 * MS))?;
    let since = Real::now();
    let progress = bulk(bench, false, Duration::from_secs(4)).await?;
    let (a, b) = (bench.wan.host("a")?.id(), bench.wan.host("b")?.id());
    let (first, last) = progress.first().zip(progress.last()).context("nothing arrived")?;
    let (from, until) = (first.0 + 1_000 * MS, last.0);
    // Packets as they were handed over: what the programs read comes in heaps.
    let arrived = bench.wan.log().records(since, until).into_iter().filter(|record| {
        (record.from, record.to) == (a, b) && record.delivered.is_some_and(|delivered| (from..until).contains(&delivered))
    });
    let octets: u64 = arrived.map(|record| u64::from(record.length_bytes)).sum();
    let measured_bps = octets as f64 * 8e9 / (until - from) as f64;
    let error = measured_bps / WANTED_BPS - 1.0;
    Ok(Row {
        setting: format!("bandwidth of 20 Mbit/s: TCP ({} octets read)", last.1),
        wanted: "20.00 +- 1.00 Mbit/s".to_owned(),
        measured: format!("{:.2} Mbit/s", measured_bps / 1e6),
        error: format!("{:+.2} %", error * 100.0),
        pass: error.abs() <= 0.05 && last.1 as f64 * 8e9 / (last.0 - first.0) as f64 > 0.85 * WANTED_BPS,
        marked: false,
    })
}

/// Packets of 1400 octets pass at most: TCP learns of it from ICMP, and hangs if nobody tells it.
pub(super) async fn sizes(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    // The black hole first: a host remembers what ICMP said.
    for (mtu_blackhole, name) in [(true, "in a black hole"), (false, "with ICMP")] {
        let narrow = LinkSettings { mtu_bytes: Some(1400), mtu_blackhole, ..LinkSettings::delayed(5 * MS) };
        bench.set(narrow, LinkSettings::delayed(5 * MS))?;
        for (v6, kind) in [(false, "IPv4"), (true, "IPv6")] {
            let progress = bulk(bench, v6, Duration::from_secs(1)).await?;
            let octets = progress.last().map_or(0, |(_, octets)| *octets);
            let (wanted, pass) = if mtu_blackhole { ("0", octets == 0) } else { ("> 1000000", octets > 1_000_000) };
            rows.push(Row {
                setting: format!("MTU 1400, {kind} {name}: octets through TCP"),
                wanted: wanted.to_owned(),
                measured: octets.to_string(),
                error: "-".to_owned(),
                pass,
                marked: false,
            });
        }
    }
    Ok(rows)
}

/// A long way without a bandwidth: the network loses nothing, and TCP sends nothing again.
pub(super) async fn untouched(bench: &Bench) -> Result<Row> {
    bench.set(LinkSettings::delayed(40 * MS), LinkSettings::delayed(40 * MS))?;
    let a = bench.wan.host("a")?;
    let (lost_before, again_before) = (dropped(bench), sent_again(a).await?);
    let progress = bulk(bench, false, Duration::from_secs(3)).await?;
    let (dropped_now, again) = (dropped(bench) - lost_before, sent_again(a).await? - again_before);
    let (first, last) = progress.first().zip(progress.last()).context("nothing arrived")?;
    let rate_bps = last.1 as f64 * 8e9 / (last.0 - first.0).max(1) as f64;
    Ok(Row {
        setting: "no bandwidth, 40 ms each way: TCP, packets lost and sent again".to_owned(),
        wanted: "0 and 0".to_owned(),
        measured: format!("{dropped_now} and {again} at {:.0} Mbit/s", rate_bps / 1e6),
        error: "-".to_owned(),
        pass: dropped_now == 0 && again == 0,
        marked: false,
    })
}

/// How many packets did not arrive since the start.
fn dropped(bench: &Bench) -> u64 {
    let counts = bench.wan.log().counts();
    let arrived = |fate: Fate| matches!(fate, Fate::Delivered | Fate::Duplicate);
    let dropped: u64 = counts.iter().filter(|((_, _, fate), _)| !arrived(*fate)).map(|(_, count)| count).sum();
    dropped + bench.wan.quality().not_taken
}

/// How many segments a host's TCP has sent again.
async fn sent_again(host: &Host) -> Result<u64> {
    // The thread's, since only the thread is in the host's network.
    let read = || async { std::fs::read_to_string("/proc/thread-self/net/snmp").context("read the counters of TCP") };
    let text = host.run(read).await?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("the counters of TCP are there")?;
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "RetransSegs").context("segments sent again are counted")?;
    Ok(value.parse()?)
}
