//! The mesh on real sockets, on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::{Clock, Shutdown, Supervisor, Watchdog};
use lagmesh_model::beat::Sequence;
use lagmesh_model::fleet::Fleet;
use lagmesh_model::state::{Outcome, ProbeKind};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::measurement::{Confirmation, Observation, Observations, Outbox, PeerViews};
use crate::mesh::socket::receive;
use crate::mesh::stamp::{Mode, Reply};
use crate::mesh::testing::{announcement, confirmation, fleet};
use crate::mesh::{MeshContext, MeshKeys, start};

mod truth;

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    fleets: watch::Sender<Arc<Fleet>>,
    observed: mpsc::Receiver<Observation>,
    views: PeerViews,
    outbox: watch::Sender<Arc<Outbox>>,
    clock: Clock,
    shutdown: Shutdown,
    supervisor: tokio::task::JoinHandle<()>,
}

/// A fleet whose two agents listen on free ports, with probes every 100 ms.
fn loopback_fleet() -> (Arc<Fleet>, [SocketAddr; 2]) {
    let free = || SocketAddr::from(([127, 0, 0, 1], lagmesh_tests::ports::free().unwrap()));
    let (oslo, tokyo) = (free(), free());
    let (oslo_text, tokyo_text) = (oslo.to_string(), tokyo.to_string());
    let quick = "tcp = false\nflows = 4\ninterval = \"100ms\"";
    let replaced = fleet(&[("127.0.0.1:18620", &oslo_text), ("127.0.0.1:18621", &tokyo_text), ("tcp = false", quick)]);
    (Arc::new(replaced), [oslo, tokyo])
}

fn run(fleet: &Arc<Fleet>, region: &str, listen: SocketAddr, keys: Option<MeshKeys>) -> Running {
    let (observations, observed) = Observations::queue(10_000);
    let (outbox, told) = watch::channel(Arc::default());
    let (fleets, in_force) = watch::channel(Arc::clone(fleet));
    let (clock, shutdown) = (Clock::new(), Shutdown::new());
    let mut supervisor = Supervisor::new(shutdown.clone());
    let context = MeshContext {
        fleets: in_force,
        region: region.parse().unwrap(),
        agent: format!("{region}-a").parse().unwrap(),
        listen,
        keys,
        clock: clock.clone(),
        observations,
        outbox: told,
        progress: Watchdog::new().register("mesh", PATIENCE),
    };
    let views = start(context, &mut supervisor).unwrap();
    let supervisor = tokio::spawn(async move { supervisor.run(Duration::from_secs(5)).await.unwrap() });
    Running { fleets, observed, views, outbox, clock, shutdown, supervisor }
}

impl Running {
    /// Waits for an observation.
    async fn until(&mut self, mut wanted: impl FnMut(&Observation) -> bool) -> Observation {
        let search = async {
            loop {
                let observation = self.observed.recv().await.expect("the mesh runs");
                if wanted(&observation) {
                    return observation;
                }
            }
        };
        timeout(PATIENCE, search).await.expect("observed in time")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.supervisor.await.unwrap();
    }
}

fn is_probe(observation: &Observation, wanted: Outcome) -> bool {
    matches!(observation, Observation::Probe(probe) if probe.outcome == wanted && probe.kind == ProbeKind::Stamp)
}

fn key(secret: &[u8]) -> MeshKeys {
    MeshKeys::of(&[secret]).unwrap()
}

/// Two agents with one key measure each other, learn each other's clock, and tell each other about beats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents() {
    for keys in [Some(key(b"a key of sixteen")), None] {
        let (fleet, [oslo, tokyo]) = loopback_fleet();
        let mut oslo = run(&fleet, "oslo", oslo, keys.clone());
        let tokyo = run(&fleet, "tokyo", tokyo, keys);
        let Observation::Probe(probe) = oslo.until(|observation| is_probe(observation, Outcome::InTime)).await else { panic!() };
        assert!(probe.rtt_ns.is_some_and(|rtt_ns| rtt_ns > 0 && rtt_ns < 1_000_000_000), "{probe:?}");
        let mut told = Outbox::default();
        told.announcements.insert("oslo-1".parse().unwrap(), announcement("oslo-1", 42));
        let now = oslo.clock.now();
        let seen = Confirmation { epoch: now.epoch, ..confirmation("tokyo-1", "oslo-1", 9, now.raw, now.raw) };
        told.confirmations.insert((seen.id.origin.clone(), seen.node.clone()), seen);
        oslo.outbox.send_replace(Arc::new(told));
        let mut views = tokyo.views.clone();
        let complete = views.wait_for(|view| !view.announcements.is_empty() && !view.seen.is_empty() && !view.clocks.is_empty());
        let view = Arc::clone(&timeout(PATIENCE, complete).await.expect("told in time").unwrap());
        let heard = view.announcements.values().next().unwrap();
        assert_eq!((heard.what.id.sequence, heard.from.as_str()), (Sequence(42), "oslo-a"));
        let held = view.seen.values().next().unwrap().what.held;
        assert!(held.lower_ns() > 0 && held.upper_ns() < 20_000_000_000);
        // Both clocks are this host's: the true offset is zero.
        let offset = view.offset_of(oslo.clock.now().epoch, tokyo.clock.now()).expect("the clock of the peer is known");
        assert!(offset.contains(0) && offset.width_ns() < 1_000_000_000, "{offset:?}");
        oslo.stop().await;
        tokyo.stop().await;
    }
}

/// Agents with different keys do not hear each other, and the drop has its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_key() {
    let (fleet, [oslo, tokyo]) = loopback_fleet();
    let mut oslo = run(&fleet, "oslo", oslo, Some(key(b"a key of sixteen")));
    let tokyo = run(&fleet, "tokyo", tokyo, Some(key(b"another key of 16")));
    oslo.until(|observation| matches!(observation, Observation::MeshDropped("bad-hmac", _))).await;
    oslo.until(|observation| matches!(observation, Observation::Flow(change) if change.alive == Some(false))).await;
    assert!(oslo.views.borrow().clocks.is_empty());
    oslo.stop().await;
    tokyo.stop().await;
}

/// Where nobody listens the host's refusal is seen as that; when the agent starts, its flows come alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_then_answered() {
    let (fleet, [oslo, tokyo]) = loopback_fleet();
    let mut oslo = run(&fleet, "oslo", oslo, None);
    oslo.until(|observation| is_probe(observation, Outcome::Refused)).await;
    let tokyo = run(&fleet, "tokyo", tokyo, None);
    oslo.until(|observation| matches!(observation, Observation::Flow(change) if change.alive == Some(true))).await;
    oslo.stop().await;
    tokyo.stop().await;
}

/// Packets that are too short, too long or noise are dropped and counted; no answer has more octets than its request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_is_not_amplified() {
    let (fleet, [oslo, _]) = loopback_fleet();
    let mut agent = run(&fleet, "oslo", oslo, None);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(oslo).await.unwrap();
    for (length, dropped) in [(0, "too-short"), (43, "too-short"), (1501, "too-long"), (4000, "too-long")] {
        socket.send(&vec![0xA5; length]).await.unwrap();
        agent.until(|observation| matches!(observation, Observation::MeshDropped(reason, _) if *reason == dropped)).await;
    }
    let mut answer = [0; 4000];
    for length in [44, 45, 48, 300, 1500] {
        socket.send(&vec![0xA5; length]).await.unwrap();
        let received = timeout(PATIENCE, socket.recv(&mut answer)).await.expect("answered").unwrap();
        assert_eq!(received, length);
    }
    let started = Instant::now();
    agent.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// A reflector that listens on all addresses answers from the one that was asked, over IPv4 and IPv6 alike; it tells the hop limit with
/// which the request arrived, and answers with the DSCP of the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_from_the_address_that_was_asked() {
    for (listen, asked) in [("0.0.0.0:0", "127.0.0.9"), ("[::]:0", "::1"), ("[::]:0", "127.0.0.9")] {
        let listen: SocketAddr = listen.parse().unwrap();
        let Ok(free) = std::net::UdpSocket::bind(listen).and_then(|socket| socket.local_addr()) else { continue };
        let agent = run(&loopback_fleet().0, "oslo", free, None);
        let asked = SocketAddr::new(asked.parse().unwrap(), free.port());
        let own = if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(own).await.unwrap();
        mark(&socket, asked.is_ipv4()).unwrap();
        socket.connect(asked).await.unwrap();
        socket.send(&[0; 44]).await.unwrap();
        timeout(PATIENCE, socket.readable()).await.expect("answered from the address that was asked").unwrap();
        let mut answer = [0; 100];
        let received = receive(&socket, &mut answer).unwrap();
        let reply = Reply::decode(Mode::Unauthenticated, &answer).unwrap();
        assert_eq!((received.length, reply.sender_hops, received.class), (44, HOPS, Some(DSCP << 2)), "{listen} {asked}");
        agent.stop().await;
    }
}

const HOPS: u8 = 33;
const DSCP: u8 = 46;

/// Sends with an unusual hop limit and DSCP, and has the kernel tell those of what comes in.
fn mark(socket: &UdpSocket, ipv4: bool) -> nix::Result<()> {
    let (hops, class) = (i32::from(HOPS), i32::from(DSCP << 2));
    if ipv4 {
        setsockopt(socket, sockopt::Ipv4Ttl, &hops)?;
        setsockopt(socket, sockopt::Ipv4Tos, &class)?;
        setsockopt(socket, sockopt::IpRecvTos, &true)
    } else {
        setsockopt(socket, sockopt::Ipv6Ttl, &hops)?;
        setsockopt(socket, sockopt::Ipv6TClass, &class)?;
        setsockopt(socket, sockopt::Ipv6RecvTClass, &true)
    }
}

/// A peer whose address is another one in a new fleet file is found there at once; while the new one does not resolve its probes say so,
/// and nothing is lost on the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_moves() {
    let (fleet, [oslo, tokyo]) = loopback_fleet();
    let elsewhere = lagmesh_tests::ports::free().unwrap();
    let mut before = Fleet::clone(&fleet);
    before.regions[1].agents[0].mesh.port = elsewhere;
    let mut oslo = run(&Arc::new(before), "oslo", oslo, None);
    let tokyo = run(&fleet, "tokyo", tokyo, None);
    oslo.until(|observation| is_probe(observation, Outcome::Refused)).await;
    oslo.fleets.send_replace(Arc::clone(&fleet));
    let moved = tokio::time::Instant::now();
    oslo.until(|observation| is_probe(observation, Outcome::InTime)).await;
    assert!(moved.elapsed() < Duration::from_secs(4), "sooner than names are looked at again");

    let mut nowhere = Fleet::clone(&fleet);
    nowhere.regions[1].agents[0].mesh.host = "nowhere.invalid".to_owned();
    oslo.fleets.send_replace(Arc::new(nowhere));
    let mut is_lost = false;
    let seen = oslo.until(|observation| {
        is_lost |= is_probe(observation, Outcome::Lost);
        is_probe(observation, Outcome::Unresolved)
    });
    seen.await;
    assert!(!is_lost, "what was out accuses nobody");
    oslo.fleets.send_replace(Arc::clone(&fleet));
    oslo.until(|observation| is_probe(observation, Outcome::InTime)).await;
    oslo.stop().await;
    tokyo.stop().await;
}

/// Second opinions of who comes begin, and of who goes or is asked elsewhere end, while all others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_opinions_come_and_go() {
    let (fleet, [oslo, _]) = loopback_fleet();
    let mut asked = Fleet::clone(&fleet);
    asked.mesh.http_interval = Duration::from_secs(1);
    let asking = |port: u16| {
        let mut fleet = asked.clone();
        fleet.regions[1].http_probe = Some(format!("http://127.0.0.1:{port}/").parse().unwrap());
        Arc::new(fleet)
    };
    let [first, second] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
    let mut oslo = run(&Arc::new(asked.clone()), "oslo", oslo, None);
    for listener in [&first, &second] {
        listener.set_nonblocking(true).unwrap();
        oslo.fleets.send_replace(asking(port(listener)));
        let end = Instant::now() + PATIENCE;
        while listener.accept().is_err() {
            assert!(Instant::now() < end, "asked in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    while first.accept().is_ok() {}
    oslo.fleets.send_replace(Arc::new(asked.clone()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    while second.accept().is_ok() {}
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(first.accept().is_err() && second.accept().is_err(), "nobody is asked any more");
    oslo.until(|observation| is_probe(observation, Outcome::Refused)).await;
    oslo.stop().await;
}
