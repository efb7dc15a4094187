//! A flood of forged packets at an agent's reflector while it and a real peer probe each other.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::fleet::Mesh;
use lagmesh_model::state::LinkState;
use lagmesh_tests::bench::usage::rss_mib;
use lagmesh_tests::files::{RunFolder, mesh_key};
use lagmesh_tests::real::Real;
use lagmesh_tests::wait;
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

use crate::agent::{Agent, Counts, PATIENCE, fleet_file, mesh_address, since};
use crate::alone;

/// How many forged packets are sent in a second, if the machine can.
const RATE_PER_S: i64 = 100_000;
/// How many leave between two looks at the clock.
const AT_ONCE: u32 = 100;
/// From how many ports they come.
const PORTS: usize = 64;
/// One half of the flood.
const HALF: Duration = Duration::from_secs(4);
/// How much the agent's memory may grow in the second half [MiB].
const GROWTH_MAX_MIB: f64 = 8.0;
/// How many of their probes the two may lose [%]: nothing of theirs stands in one queue with the flood, but they share this machine's
/// processors with it.
const LOST_MAX: u64 = 10;
/// The mesh of the two: probes are given up soon, so that their fates are known soon.
const MESH: &str = "interval = \"100ms\"\nflows = 4\ndeadline = \"500ms\"\ngive_up = \"1s\"";

/// A thread that sends forged packets until it is told to stop.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u32, i64)>>,
}

impl Flood {
    fn start(to: SocketAddrV4) -> Result<Flood> {
        let sockets = (0..PORTS).map(|_| UdpSocket::bind("0.0.0.0:0")).collect::<std::io::Result<Vec<_>>>()?;
        let (stop, to) = (Arc::new(AtomicBool::new(false)), SockaddrIn::from(to));
        let stopped = Arc::clone(&stop);
        let thread = spawn(move || {
            let (began, mut sent) = (Real::now(), 0_u32);
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..AT_ONCE {
                    let (source, packet) = forged(sent);
                    send(&sockets[sent as usize / 16 % PORTS], source, &packet, &to)?;
                    sent += 1;
                }
                let early_ns = i64::from(sent) * (1_000_000_000 / RATE_PER_S) - (Real::now() - began);
                sleep(Duration::from_nanos(u64::try_from(early_ns).unwrap_or(0)));
            }
            Ok((sent, Real::now() - began))
        });
        Ok(Flood { stop, thread })
    }

    /// How many packets it has sent, and in what time [ns].
    fn end(self) -> Result<(u32, i64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?
    }
}

/// Sends a packet from any address of this machine. One that the kernel has no room for is lost, as on any network.
fn send(socket: &UdpSocket, source: Ipv4Addr, packet: &[u8], to: &SockaddrIn) -> Result<()> {
    let from = in_addr { s_addr: u32::from(source).to_be() };
    let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: in_addr { s_addr: 0 } };
    let octets = [std::io::IoSlice::new(packet)];
    match sendmsg(socket.as_raw_fd(), &octets, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::MSG_DONTWAIT, Some(to)) {
        Ok(_) | Err(nix::Error::EAGAIN | nix::Error::ENOBUFS) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("send from {source}")),
    }
}

/// The nth packet of the flood and where it says that it comes from.
fn forged(n: u32) -> (Ipv4Addr, Vec<u8>) {
    let noise = n.wrapping_mul(2_654_435_761);
    let host = |network: u8, count: u32| {
        let [_, high, middle, low] = (1 + (n / 8) % count).to_be_bytes();
        Ipv4Addr::new(127, network + high, middle, low)
    };
    let filled = |length: usize| {
        let mut packet = vec![noise.to_be_bytes()[0]; length];
        packet[..4].copy_from_slice(&n.to_be_bytes());
        packet
    };
    match n % 8 {
        // As long as a probe of an agent, made with a wrong key; each host stays within its budget.
        0 | 1 => (host(16, 2_000), filled(Mesh::PACKET_LENGTH_WITH_KEY)),
        2 => (host(17, 8), filled(4 + noise as usize % 1_400)),
        3 => (host(18, 8), filled(20)),
        4 => (host(19, 8), filled(1_501)),
        // A request of the standard without a key: right, but for those who must have one.
        5 => {
            let mut packet = vec![0; 112];
            packet[..4].copy_from_slice(&n.to_be_bytes());
            (host(20, 200), packet)
        }
        // Hosts that are new for long.
        _ => (host(32, 1 << 20), filled(Mesh::PACKET_LENGTH_WITH_KEY)),
    }
}

fn count(counts: &Counts, words: &[&str]) -> u64 {
    words.iter().filter_map(|word| counts.get(*word)).sum()
}

/// Whatever hits an agent's reflector, with keys alone or open to third parties: what it and its peer ask each other is answered, what is
/// dropped is counted by its reason, nothing that was observed is lost, and memory stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_harms_nobody() -> Result<()> {
    let _alone = alone().await;
    let folder = RunFolder::new("flood")?;
    let key = mesh_key(folder.path())?;
    for third_party in [false, true] {
        let name = if third_party { "flood-open" } else { "flood" };
        let regions = [("a", mesh_address(1)?), ("b", mesh_address(2)?)];
        let fleet = fleet_file(folder.path(), name, &format!("{MESH}\nthird_party = {third_party}"), &regions)?;
        let start = |region| Agent::start(folder.path(), &fleet, region, Some(&key));
        let (flooded, peer) = (start("a")?, start("b")?);
        wait::until("both links are well", PATIENCE, || async {
            for (agent, other) in [(&flooded, "b"), (&peer, "a")] {
                let link = agent.link(other).await?;
                ensure!(link.state == LinkState::Ok, "{link:?}");
            }
            Ok(())
        })
        .await?;
        let before = (flooded.fates().await?, peer.fates().await?, flooded.dropped().await?);
        let flood = Flood::start(regions[0].1)?;
        tokio::time::sleep(HALF).await;
        let middle_mib = rss_mib(flooded.pid())?;
        tokio::time::sleep(HALF).await;
        let (end_mib, link) = (rss_mib(flooded.pid())?, flooded.link("b").await);
        let back = peer.link("a").await;
        let (sent, took_ns) = flood.end()?;
        // Until the last probe of the flood has its fate.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let own = since(&before.0, &flooded.fates().await?);
        let theirs = since(&before.1, &peer.fates().await?);
        let dropped = since(&before.2, &flooded.dropped().await?);
        let unheard = flooded.unheard().await?;
        let per_s = f64::from(sent) / (took_ns as f64 / 1e9);
        eprintln!("{name}: {per_s:.0} forged packets/s; dropped {dropped:?}; memory {middle_mib:.1} to {end_mib:.1} MiB");
        eprintln!("{name}: own probes {own:?}, the peer's {theirs:?}, observations lost: {unheard}");
        ensure!(unheard == 0, "{unheard} observations were lost");
        for (fates, link) in [(own, link?), (theirs, back?)] {
            let (answered, lost) = (count(&fates, &["in-time", "late"]), count(&fates, &["lost"]));
            ensure!(answered > 0 && lost * 100 <= (answered + lost) * LOST_MAX, "probes are lost: {fates:?}");
            ensure!(link.state != LinkState::Down, "{link:?}");
        }
        let kinds = ["too-short", "too-long", "rate-limited"];
        let missing =
            kinds.iter().chain(if third_party { &[][..] } else { &["bad-hmac"] }).find(|kind| !dropped.contains_key(**kind));
        ensure!(missing.is_none(), "nothing was dropped as {missing:?}: {dropped:?}");
        ensure!(end_mib - middle_mib <= GROWTH_MAX_MIB, "memory grows: {middle_mib:.1} to {end_mib:.1} MiB");
    }
    Ok(())
}
