//! Counts: what is lost, doubled, overtaken, cut off, spread over paths.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::table::Row;
use super::traffic::{LINGER, PORT, Stream, bound, from_many_ports};
use super::{Bench, MS};
use crate::wan::log::Fate;
use crate::wan::path::{Cut, LinkSettings, PathSettings};

/// Loss, duplication and reordering of a tenth each.
pub(super) async fn shares(bench: &Bench) -> Result<Vec<Row>> {
    let stream = Stream { at_once: 2, ..Stream::usual(2000) };
    let count = 2000;
    let usual = LinkSettings::delayed(20 * MS);
    bench.set(LinkSettings { loss: 0.1, ..usual.clone() }, LinkSettings::default())?;
    let seen = stream.send(bench).await?;
    let mut rows = vec![Row::share("loss of 10 %", 0.1, count, count - seen.arrived.len().min(count))];
    bench.set(LinkSettings { duplicate: 0.1, ..usual.clone() }, LinkSettings::default())?;
    let seen = stream.send(bench).await?;
    rows.push(Row::share("duplication of 10 %", 0.1, count, seen.arrived.len().saturating_sub(count)));
    // Two leave every 2 ms, and those that are faster overtake the ones before them.
    bench.set(LinkSettings { reorder: 0.1, reorder_ahead_ns: 7 * MS, ..usual.clone() }, LinkSettings::default())?;
    let seen = stream.send(bench).await?;
    let numbers: Vec<u32> = seen.arrived.iter().map(|(number, _)| *number).collect();
    rows.push(Row::share("reordering of 10 %: packets that overtook", 0.1, count, overtakers(&numbers)));
    bench.set(usual, LinkSettings::default())?;
    let seen = stream.send(bench).await?;
    let in_order: Vec<u32> = seen.arrived.iter().map(|(number, _)| *number).collect();
    rows.push(Row::exact("none of them: packets that came in order", count, count - overtakers(&in_order)));
    rows.push(Row::exact("none of them: packets that came", count, in_order.len()));
    Ok(rows)
}

/// How many arrived before one that has a lower number.
pub(super) fn overtakers(numbers: &[u32]) -> usize {
    let mut lowest_behind = u32::MAX;
    let overtook = numbers.iter().rev().filter(|number| {
        let overtook = **number > lowest_behind;
        lowest_behind = lowest_behind.min(**number);
        overtook
    });
    overtook.count()
}

/// Sixteen paths, one of them dead: flows are spread evenly, and each either passes whole or not at all.
pub(super) async fn paths(bench: &Bench) -> Result<Vec<Row>> {
    let mut paths = vec![PathSettings::default(); 16];
    paths[3].dead = true;
    bench.set(LinkSettings { paths, ..LinkSettings::delayed(MS) }, LinkSettings::default())?;
    let (ports, each) = (400, 3);
    let counts = from_many_ports(bench, ports, each).await?;
    let dead = counts.iter().filter(|count| **count == 0).count();
    let whole = counts.iter().filter(|count| **count == each).count();
    Ok(vec![
        Row::share("one of 16 paths is dead: dead flows", 1.0 / 16.0, usize::from(ports), dead),
        Row::exact("one of 16 paths is dead: flows that are whole or dead", usize::from(ports), dead + whole),
    ])
}

/// One direction is cut: requests arrive, answers do not.
pub(super) async fn cuts(bench: &Bench) -> Result<Vec<Row>> {
    bench.set(LinkSettings::delayed(MS), LinkSettings { cut: Cut::All, ..LinkSettings::delayed(MS) })?;
    let seen = Stream::usual(100).send(bench).await?;
    Ok(vec![
        Row::exact("one direction is cut: requests that arrived", 100, seen.arrived.len()),
        Row::exact("one direction is cut: answers that arrived", 0, seen.back.len()),
    ])
}

/// A link of twelve hops: packets with more hops pass, others do not.
pub(super) async fn hops(bench: &Bench) -> Result<Row> {
    bench.set(LinkSettings { hops: 12, ..LinkSettings::delayed(MS) }, LinkSettings::default())?;
    let (a, b) = (bench.wan.host("a")?, bench.wan.host("b")?);
    let fates = |fate| bench.wan.log().count(a.id(), b.id(), fate);
    let before = (fates(Fate::Delivered), fates(Fate::HopLimit));
    let socket = bound(a, SocketAddr::new(a.address(false), 0)).await?;
    for hop_limit in [12, 13] {
        socket.set_ttl(hop_limit)?;
        socket.send_to(&[0; 44], SocketAddr::new(b.address(false), PORT)).await?;
        sleep(Duration::from_millis(20)).await;
    }
    sleep(LINGER).await;
    let after = (fates(Fate::Delivered), fates(Fate::HopLimit));
    let passed = after.0 - before.0 == 1 && after.1 - before.1 == 1;
    Ok(Row::exact("12 hops: packets with 13 hops that pass, with 12 that do not", 2, if passed { 2 } else { 0 }))
}
