//! ICMP echo to the peer agent's host.
//!
//! What the library leaves to its caller: an ICMP error arrives as a reply and must be told by its type, and its own durations may
//! be zero because they start after the send. So types are checked and stamps are our own.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use lagmesh_daemon::{Clock, Shutdown};
use lagmesh_model::state::{IcmpSocket, Outcome};
use surge_ping::{Client, Config, ICMP, IcmpPacket, PingIdentifier, PingSequence, SurgeError};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use crate::measurement::Observation;
use crate::mesh::flow::Fate;
use crate::mesh::line::outcome_of;
use crate::mesh::opinion::{Attempt, End, Opinion};
use crate::mesh::resolve::Host;

/// As many octets of payload as ping sends.
const PAYLOAD: [u8; 56] = [0x6C; 56];
/// The port means nothing to ICMP, but an address needs one.
const NO_PORT: u16 = 0;

/// The ICMP sockets of the process, one per family, opened when first needed. Identifier and sequence number are never used twice
/// at the same time.
#[derive(Debug, Clone, Default)]
pub struct Pings {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    v4: OnceCell<Option<Client>>,
    v6: OnceCell<Option<Client>>,
    sequence: AtomicU16,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("v4", &self.v4.initialized()).field("v6", &self.v6.initialized()).finish_non_exhaustive()
    }
}

impl Pings {
    /// The socket for a family; `None` if this process may not send ICMP, which is logged once.
    async fn client(&self, host: IpAddr) -> Option<&Client> {
        let (cell, kind) = if host.is_ipv4() { (&self.shared.v4, ICMP::V4) } else { (&self.shared.v6, ICMP::V6) };
        let open = || async move {
            match Client::new(&Config::builder().kind(kind).build()) {
                Ok(client) => {
                    tracing::info!(family = ?kind, mode = ?client.get_socket().get_type(), "sending ICMP echo");
                    Some(client)
                }
                Err(error) => {
                    tracing::warn!(family = ?kind, %error, "no ICMP: allow the agent's group in net.ipv4.ping_group_range, or set icmp = false");
                    None
                }
            }
        };
        cell.get_or_init(open).await.as_ref()
    }

    /// Through which socket a host is sent echoes.
    async fn socket(&self, host: IpAddr) -> IcmpSocket {
        match self.client(host).await.map(|client| client.get_socket().get_type()) {
            None => IcmpSocket::None,
            Some(kind) if kind == socket2::Type::RAW => IcmpSocket::Raw,
            Some(_) => IcmpSocket::Unprivileged,
        }
    }

    /// One echo; `None` if this process may not send ICMP: nothing was attempted.
    async fn ping(&self, host: &Host, identifier: PingIdentifier, clock: &Clock, give_up: Duration) -> Option<Attempt> {
        let before = clock.now();
        let Ok(address) = host.address().await.map(|address| address.ip()) else {
            return Some(Attempt::new(before, clock.now(), End::Failed(Outcome::Unresolved)));
        };
        let mut pinger = self.client(address).await?.pinger(address, identifier).await;
        pinger.timeout(give_up);
        let sequence = PingSequence(self.shared.sequence.fetch_add(1, Relaxed));
        let started = clock.now();
        let result = pinger.ping(sequence, &PAYLOAD).await;
        Some(Attempt::new(started, clock.now(), end_of(result.map(|(packet, _)| packet))))
    }
}

/// Probes a host until shutdown.
///
/// # Errors
/// Never: a host that cannot be reached is data, and without the privilege nothing is known.
pub async fn run(opinion: Opinion, host: String, pings: Pings, shutdown: Shutdown) -> anyhow::Result<()> {
    let (host, give_up) = (Arc::new(Host::new(host, NO_PORT)), opinion.timing.give_up);
    let identifier = PingIdentifier(identifier()?);
    tokio::select! {
        // Which socket there is tells whether attempts make sense.
        socket = socket(&opinion, &host, &pings) => if socket == IcmpSocket::None {
            shutdown.cancelled().await;
            return Ok(());
        },
        () = shutdown.cancelled() => return Ok(()),
    }
    let attempt = || {
        let (pings, host, clock) = (pings.clone(), Arc::clone(&host), opinion.clock.clone());
        async move {
            let now = clock.now();
            let nothing = Attempt::new(now, now, End::Failed(Outcome::SendError));
            pings.ping(&host, identifier, &clock, give_up).await.unwrap_or(nothing)
        }
    };
    opinion.run(attempt, &shutdown).await;
    Ok(())
}

/// Through which socket the host is sent echoes, as soon as its family is known; told to the summary.
async fn socket(opinion: &Opinion, host: &Host, pings: &Pings) -> IcmpSocket {
    let address = loop {
        match host.address().await {
            Ok(address) => break address.ip(),
            Err(error) => tracing::debug!(peer = %opinion.peer, %error, "resolve the host to ping"),
        }
        // An attempt like any other, only that it got no further.
        opinion.tell(Fate::of(Outcome::Unresolved), Vec::new(), opinion.clock.now());
        sleep(opinion.timing.interval).await;
    };
    let socket = pings.socket(address).await;
    while !opinion.observations.tell(Observation::IcmpSocket(opinion.peer.clone(), socket)) {
        sleep(opinion.timing.interval).await;
    }
    socket
}

fn identifier() -> anyhow::Result<u16> {
    let mut octets = [0; 2];
    getrandom::fill(&mut octets)?;
    Ok(u16::from_be_bytes(octets))
}

fn end_of(result: Result<IcmpPacket, SurgeError>) -> End {
    match result {
        Ok(IcmpPacket::V4(packet)) => end_of_v4(packet.get_icmp_type().0),
        Ok(IcmpPacket::V6(packet)) => end_of_v6(packet.get_icmpv6_type().0),
        Err(SurgeError::Timeout { .. }) => End::Silence,
        Err(SurgeError::IOError(error)) => End::Failed(outcome_of(&error)),
        Err(SurgeError::MalformedPacket(_)) => End::Failed(Outcome::Corrupt),
        Err(_) => End::Failed(Outcome::SendError),
    }
}

/// Echo reply 0; destination unreachable 3, time exceeded 11 (RFC 792).
fn end_of_v4(kind: u8) -> End {
    match kind {
        0 => End::Answered,
        3 | 11 => End::Failed(Outcome::Unreachable),
        _ => End::Failed(Outcome::Corrupt),
    }
}

/// Echo reply 129; destination unreachable 1, time exceeded 3 (RFC 4443).
fn end_of_v6(kind: u8) -> End {
    match kind {
        129 => End::Answered,
        1 | 3 => End::Failed(Outcome::Unreachable),
        _ => End::Failed(Outcome::Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only an echo reply is an answer, whatever else arrives in its place.
    #[test]
    fn types() {
        assert_eq!(
            [0, 3, 11, 5].map(end_of_v4),
            [End::Answered, End::Failed(Outcome::Unreachable), End::Failed(Outcome::Unreachable), End::Failed(Outcome::Corrupt)]
        );
        assert_eq!(
            [129, 1, 3, 0].map(end_of_v6),
            [End::Answered, End::Failed(Outcome::Unreachable), End::Failed(Outcome::Unreachable), End::Failed(Outcome::Corrupt)]
        );
    }

    /// `make test` counts and prints what could not be tested.
    fn skipped(what: &str) {
        use std::io::Write;
        if let Some(list) = std::env::var_os("LAGMESH_SKIPPED") {
            let mut list = std::fs::File::options().append(true).create(true).open(list).unwrap();
            writeln!(list, "{what}").unwrap();
        }
        eprintln!("skipped: {what}");
    }

    /// What a process may do decides through which socket it sends: each answer is right in a network of its own.
    #[test]
    fn privileges() {
        if !nix::unistd::Uid::effective().is_root() {
            return skipped("ICMP sockets by privilege: needs root for a network of its own");
        }
        let drop = "setpriv --bounding-set=-net_raw --inh-caps=-net_raw";
        // From and to no group, as in a new network; or group 0.
        for (range, with, expected) in [("1 0", "", "raw"), ("0 0", drop, "unprivileged"), ("1 0", drop, "none")] {
            let script = format!(
                "ip link set lo up && echo {range} > /proc/sys/net/ipv4/ping_group_range && \
                 exec {with} \"$0\" --exact mesh::icmp::tests::as_privileged --ignored"
            );
            let program = std::env::current_exe().unwrap();
            let mut command = std::process::Command::new("unshare");
            command.args(["-n", "sh", "-c", &script]).arg(program).env("LAGMESH_TEST_SOCKET", expected);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{range} {with:?}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }

    /// Run by [`privileges`] with more or less privilege.
    #[tokio::test]
    #[ignore = "run by the test above"]
    async fn as_privileged() {
        let (pings, clock) = (Pings::default(), Clock::new());
        let expected = std::env::var("LAGMESH_TEST_SOCKET").unwrap();
        assert_eq!(pings.socket([127, 0, 0, 1].into()).await.as_str(), expected);
        let host = Host::new("127.0.0.1", NO_PORT);
        let attempt = pings.ping(&host, PingIdentifier(7), &clock, Duration::from_secs(5)).await;
        let answered = attempt.map(|attempt| attempt.end);
        assert_eq!(answered, (expected != "none").then_some(End::Answered));
    }

    /// Loopback answers, also to several echoes at once, and never in no time.
    #[tokio::test]
    async fn loopback() {
        let (pings, clock, host) = (Pings::default(), Clock::new(), Host::new("127.0.0.1", NO_PORT));
        let one = || pings.ping(&host, PingIdentifier(7), &clock, Duration::from_secs(5));
        let (a, b, c) = tokio::join!(one(), one(), one());
        if a.is_none() {
            assert!(!nix::unistd::Uid::effective().is_root(), "root may always send an echo");
            return skipped("ICMP echo on loopback: needs CAP_NET_RAW or a place in net.ipv4.ping_group_range");
        }
        for attempt in [a, b, c].map(|attempt| attempt.expect("one client has the privilege for all")) {
            assert_eq!(attempt.end, End::Answered);
            assert!(attempt.ended.raw > attempt.started.raw);
        }
    }
}
