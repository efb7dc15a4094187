//! Real traffic between the hosts.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::Bench;
use crate::real::Real;
use crate::wan::host::Host;

/// How long packets under way are waited for.
pub(super) const LINGER: Duration = Duration::from_millis(400);
/// The size of a probe [octets]: an unauthenticated STAMP packet.
const PROBE: usize = 44;
/// The port on which probes are answered.
pub(super) const PORT: u16 = 8620;

/// A stream of numbered packets from one host to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) v6: bool,
    pub(super) count: u32,
    /// How many leave each millisecond or two.
    pub(super) at_once: u32,
    pub(super) every: Duration,
}

/// What the programs at both ends saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When each packet was sent, just before; the first has number 0.
    pub(super) sent: Vec<Real>,
    /// What arrived, in this order, and when the program had it.
    pub(super) arrived: Vec<(u32, Real)>,
    /// What came back, likewise.
    pub(super) back: Vec<(u32, Real)>,
}

type Arrivals = Arc<Mutex<Vec<(u32, Real)>>>;

impl Stream {
    /// From a to b, 500 packets per second for this many packets.
    pub(super) fn usual(count: u32) -> Stream {
        Stream { from: "a", to: "b", v6: false, count, at_once: 1, every: Duration::from_millis(2) }
    }

    /// Sends it, and has every packet answered.
    pub(super) async fn send(self, bench: &Bench) -> Result<Seen> {
        let (sender, receiver) = (bench.wan.host(self.from)?, bench.wan.host(self.to)?);
        let peer = SocketAddr::new(receiver.address(self.v6), PORT);
        let listening = bound(receiver, peer).await?;
        let sending = bound(sender, SocketAddr::new(sender.address(self.v6), 0)).await?;
        let (arrived, back) = (Arrivals::default(), Arrivals::default());
        let answering = receiver.handle().spawn(hear(listening, Arc::clone(&arrived), true));
        let hearing = sender.handle().spawn(hear(Arc::clone(&sending), Arc::clone(&back), false));
        let sent = sender.run(move || self.pace(sending, peer)).await?;
        sleep(LINGER).await;
        for task in [answering, hearing] {
            task.abort();
            // It ends as cancelled; that is what we asked for.
            drop(task.await);
        }
        let take = |arrivals: Arrivals| std::mem::take(&mut *arrivals.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Seen { sent, arrived: take(arrived), back: take(back) })
    }

    async fn pace(self, socket: Arc<UdpSocket>, peer: SocketAddr) -> Result<Vec<Real>> {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = Vec::new();
        for sequence in 0..self.count {
            if sequence % self.at_once == 0 {
                ticks.tick().await;
            }
            let mut packet = [0; PROBE];
            packet[..4].copy_from_slice(&sequence.to_be_bytes());
            sent.push(Real::now());
            socket.send_to(&packet, peer).await?;
        }
        Ok(sent)
    }
}

/// A UDP socket in a host's network.
pub(super) async fn bound(host: &Host, address: SocketAddr) -> Result<Arc<UdpSocket>> {
    host.run(move || async move { Ok(Arc::new(UdpSocket::bind(address).await?)) }).await
}

/// Notes what comes until it is aborted; answers like a reflector, if asked to.
async fn hear(socket: Arc<UdpSocket>, arrivals: Arrivals, answer: bool) {
    let mut packet = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut packet).await {
        let at = Real::now();
        let number = if answer { &packet[..4] } else { &packet[24..28] };
        let sequence = number.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
        if answer {
            packet.copy_within(0..4, 24);
            drop(socket.send_to(&packet[..length], from).await);
        }
        arrivals.lock().unwrap_or_else(PoisonError::into_inner).push((sequence, at));
    }
}

/// Sends `each` packets from every one of many source ports of host a to b; how many of each arrived.
pub(super) async fn from_many_ports(bench: &Bench, ports: u16, each: usize) -> Result<Vec<usize>> {
    let (a, b) = (bench.wan.host("a")?, bench.wan.host("b")?);
    let (own, peer): (IpAddr, _) = (a.address(false), SocketAddr::new(b.address(false), PORT));
    let listening = bound(b, peer).await?;
    let heard = b.handle().spawn(async move {
        let (mut counts, mut packet) = (std::collections::BTreeMap::<u16, usize>::new(), [0; PROBE]);
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            tokio::select! {
                received = timeout(LINGER * 2, listening.recv_from(&mut packet)) => match received {
                    Ok(Ok((_, from))) => *counts.entry(from.port()).or_default() += 1,
                    _ => return counts,
                },
                () = sleep_until(end) => return counts,
            }
        }
    });
    let first: u16 = 20_000;
    let send = move || async move {
        for port in first..first + ports {
            let socket = UdpSocket::bind((own, port)).await?;
            for _ in 0..each {
                socket.send_to(&[0; PROBE], peer).await?;
            }
            // A burst of them all would overflow the receiver's buffer, which is no loss of the network.
            if port % 8 == 0 {
                sleep(Duration::from_millis(2)).await;
            }
        }
        Ok(())
    };
    a.run(send).await?;
    let counts = heard.await?;
    Ok((first..first + ports).map(|port| counts.get(&port).copied().unwrap_or(0)).collect())
}
