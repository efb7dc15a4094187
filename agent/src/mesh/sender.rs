//! The sockets towards peers: one connected UDP socket per flow. They do what [`Engine`] says.
//!
//! Everything here runs on one thread of its own, away from busy workers. Stamps are taken in user space, right before a send and
//! right after a receive: late or early on the safe side for bounds.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lagmesh_daemon::Clock;
use lagmesh_model::fleet::Address;
use lagmesh_model::state::Outcome;
use lagmesh_model::time::Reading;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::measurement::{Observation, Observations};
use crate::mesh::engine::Engine;
use crate::mesh::peer::PACKET_MAX;
use crate::mesh::reflector::REQUEST_MAX;
use crate::mesh::resolve::{RESOLVE_TIMEOUT, choose, lookup};

/// The longest sleep between two looks at what is overdue.
const TICK: Duration = Duration::from_millis(100);
/// How often a name is resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// How often while nothing answers.
const RESOLVE_EVERY_DEAD: Duration = Duration::from_secs(5);
/// How many queued errors of a socket are read at once.
const ERRORS_AT_ONCE: usize = 16;

/// How many packets of a flow are taken in before others get their turn: a flood on one socket must not silence the mesh.
const PACKETS_AT_ONCE: usize = 16;

/// What made a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampSource {
    /// The process itself.
    User,
}

/// Where the stamps of this shell come from.
pub const STAMP_SOURCE: StampSource = StampSource::User;

/// What the futures of the mesh thread share.
#[derive(Debug)]
pub struct Shared {
    engine: RefCell<Engine>,
    clock: Clock,
    observations: Observations,
    /// Rung when an announcement came.
    pub news: Notify,
}

impl Shared {
    /// Shares an engine.
    pub fn new(engine: Engine, clock: Clock, observations: Observations) -> Shared {
        Shared { engine: RefCell::new(engine), clock, observations, news: Notify::new() }
    }

    /// Does something with the engine now, and passes on what it observed.
    pub fn with<T>(&self, act: impl FnOnce(&mut Engine, Reading) -> T) -> T {
        let mut engine = self.engine.borrow_mut();
        let result = act(&mut engine, self.clock.now());
        let mut unheard = false;
        for observation in engine.observations() {
            let is_change = matches!(observation, Observation::Flow(_));
            unheard |= !self.observations.tell(observation) && is_change;
        }
        if unheard {
            engine.say_again();
        }
        if engine.has_news() {
            self.news.notify_one();
        }
        result
    }
}

/// The sockets towards a peer agent.
#[derive(Debug)]
struct Connected {
    address: SocketAddr,
    flows: Vec<UdpSocket>,
}

/// Probes one peer agent for ever.
///
/// # Errors
/// Never: a peer that cannot be reached is data.
pub async fn probe_peer(shared: &Shared, peer: usize, address: &Address, own: IpAddr) -> anyhow::Result<()> {
    let connected = RefCell::new(None);
    tokio::select! {
        () = send(shared, peer, &connected) => {}
        () = receive(shared, peer, address, own, &connected) => {}
    }
    Ok(())
}

async fn send(shared: &Shared, peer: usize, connected: &RefCell<Option<Rc<Connected>>>) {
    loop {
        let wait = shared.with(|engine, now| {
            let due = engine.peers()[peer].next_due();
            due.map_or(TICK, |due| due.checked_since(now.raw).unwrap_or(Duration::ZERO).min(TICK))
        });
        sleep(wait).await;
        let sockets = connected.borrow().clone();
        for flow in shared.with(|engine, now| engine.due(peer, now)) {
            send_one(shared, peer, flow, sockets.as_ref().and_then(|sockets| sockets.flows.get(flow)));
        }
    }
}

fn send_one(shared: &Shared, peer: usize, flow: usize, socket: Option<&UdpSocket>) {
    let mut packet = [0; PACKET_MAX];
    shared.with(|engine, now| {
        let Some(socket) = socket else { return engine.not_sent(peer, flow, Outcome::SendError, now) };
        let length = engine.request(peer, flow, now, &mut packet);
        let mut result = socket.try_send(&packet[..length]);
        if result.as_ref().is_err_and(|error| outcome_of(error) != Outcome::SendError) {
            // The error may be the answer to an earlier probe, and then this one has not been tried yet.
            for (outcome, sequence) in queued_errors(socket) {
                engine.on_error(peer, flow, outcome, sequence, now);
            }
            result = socket.try_send(&packet[..length]);
        }
        match result {
            Ok(_) => engine.sent(peer, flow, now),
            // Nothing went out, so a refusal is not about this probe.
            Err(error) => match outcome_of(&error) {
                Outcome::Unreachable => engine.not_sent(peer, flow, Outcome::Unreachable, now),
                _ => engine.not_sent(peer, flow, Outcome::SendError, now),
            },
        }
    });
}

/// Finds the peer, opens sockets to it, and listens to them; looks again from time to time whether it has moved.
async fn receive(shared: &Shared, peer: usize, address: &Address, own: IpAddr, connected: &RefCell<Option<Rc<Connected>>>) {
    let mut failing = false;
    loop {
        let current = connected.borrow().as_ref().map(|connected| connected.address);
        match find(shared, peer, address, own, current).await {
            Ok(Some(new)) => {
                tracing::info!(peer = %address, address = %new.address, flows = new.flows.len(), stamps = ?STAMP_SOURCE, "probing");
                *connected.borrow_mut() = Some(Rc::new(new));
                failing = false;
            }
            Ok(None) => failing = false,
            Err(error) if failing => tracing::debug!(peer = %address, error = format!("{error:#}"), "find peer"),
            Err(error) => {
                tracing::warn!(peer = %address, error = format!("{error:#}"), "find peer; check its address in the fleet file");
                failing = true;
            }
        }
        let sockets = connected.borrow().clone();
        let found_at = Instant::now();
        let look_again = async {
            loop {
                sleep(RESOLVE_EVERY_DEAD).await;
                if found_at.elapsed() >= RESOLVE_EVERY || !shared.with(|engine, _| engine.peers()[peer].is_alive()) {
                    break;
                }
            }
        };
        tokio::select! {
            () = listen(shared, peer, sockets.as_deref()) => {}
            () = look_again => {}
        }
    }
}

/// New sockets if the peer is to be found elsewhere than at `current`.
async fn find(
    shared: &Shared,
    peer: usize,
    address: &Address,
    own: IpAddr,
    current: Option<SocketAddr>,
) -> anyhow::Result<Option<Connected>> {
    let found = timeout(RESOLVE_TIMEOUT, lookup(&address.host, address.port)).await.context("name not resolved in time")??;
    let target = choose(&found, current).context("the name has no address")?;
    if current == Some(target) {
        return Ok(None);
    }
    let count = shared.with(|engine, _| {
        engine.found(peer, target);
        engine.peers()[peer].flows()
    });
    let flows = (0..count).map(|_| open(own, target)).collect::<io::Result<Vec<_>>>().context("open sockets")?;
    for flow in &flows {
        flow.writable().await.context("open sockets")?;
    }
    Ok(Some(Connected { address: target, flows }))
}

/// A connected socket from a port of its own; from our own mesh address if that is a certain one, as peers know us by it.
fn open(own: IpAddr, target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let any = if target.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let from = if own.is_ipv4() == target.is_ipv4() { own } else { any };
    socket.bind(&SocketAddr::new(from, 0).into())?;
    match target {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    socket.connect(&target.into())?;
    UdpSocket::from_std(socket.into())
}

/// Listens to all flows of a peer; ends only if there are none.
async fn listen(shared: &Shared, peer: usize, connected: Option<&Connected>) {
    let Some(connected) = connected else { return std::future::pending().await };
    let mut flows: FuturesUnordered<_> =
        connected.flows.iter().enumerate().map(|(flow, socket)| listen_one(shared, peer, flow, socket)).collect();
    while let Some(result) = flows.next().await {
        let Err(error) = result;
        tracing::warn!(peer, %error, "mesh socket failed");
    }
    sleep(RESOLVE_EVERY_DEAD).await;
}

async fn listen_one(
    shared: &Shared,
    peer: usize,
    flow: usize,
    socket: &UdpSocket,
) -> Result<std::convert::Infallible, io::Error> {
    let mut packet = [0; REQUEST_MAX];
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            take_errors(shared, peer, flow, socket);
        }
        for _ in 0..PACKETS_AT_ONCE {
            let Ok(length) = socket.try_recv(&mut packet) else { break };
            shared.with(|engine, now| engine.on_packet(peer, flow, &packet[..length], now));
        }
        tokio::task::yield_now().await;
    }
}

/// Reads the errors that wait at a socket, within the call that marks it as free of errors, so that none is missed.
fn take_errors(shared: &Shared, peer: usize, flow: usize, socket: &UdpSocket) {
    let mut errors = Vec::new();
    let taken: io::Result<()> = socket.try_io(Interest::ERROR, || {
        errors = queued_errors(socket);
        let pending = socket.take_error()?;
        errors.extend(pending.filter(|_| errors.is_empty()).map(|error| (outcome_of(&error), None)));
        Err(io::ErrorKind::WouldBlock.into())
    });
    if let Err(error) = taken.or_else(|error| if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }) {
        tracing::debug!(%error, "read the errors of a mesh socket");
    }
    shared.with(|engine, now| {
        for (outcome, sequence) in errors {
            engine.on_error(peer, flow, outcome, sequence, now);
        }
    });
}

/// Empties a socket's queue of errors: what each means, and the sequence number of the probe that it quotes, if it quotes that much.
fn queued_errors(socket: &UdpSocket) -> Vec<(Outcome, Option<u32>)> {
    let mut errors = Vec::new();
    let mut control = [0; 256];
    while errors.len() < ERRORS_AT_ONCE {
        let mut quoted = [0; 4];
        let mut room = [io::IoSliceMut::new(&mut quoted)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let Ok(message) = recvmsg::<()>(socket.as_raw_fd(), &mut room, Some(&mut control[..]), flags) else { break };
        let number = message.cmsgs().ok().and_then(|mut controls| controls.find_map(|control| error_number(&control)));
        let whole = message.bytes == 4;
        let outcome = number.map_or(Outcome::Unreachable, |number| outcome_of(&io::Error::from_raw_os_error(number)));
        errors.push((outcome, whole.then(|| u32::from_be_bytes(quoted))));
    }
    errors
}

fn error_number(control: &ControlMessageOwned) -> Option<i32> {
    match control {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
            i32::try_from(error.ee_errno).ok()
        }
        _ => None,
    }
}

/// What an error of a socket means for a probe.
pub fn outcome_of(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Outcome::Unreachable,
        _ => Outcome::SendError,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mesh::testing::fleet;

    /// A change that did not fit into the queue is told again once it fits: a dead flow never stays alive by an accident.
    #[test]
    fn changes_are_told_until_they_are_heard() {
        let clock = Clock::new();
        let (oslo, oslo_a) = ("oslo".parse().unwrap(), "oslo-a".parse().unwrap());
        let engine =
            Engine::new(&Arc::new(fleet(&[("tcp = false", "tcp = false\nflows = 1")])), &oslo, &oslo_a, None, clock.now());
        let (observations, mut queue) = Observations::queue(1);
        let shared = Shared::new(engine, clock, observations);
        for _ in 0..2 {
            shared.with(|engine, now| engine.not_sent(0, 0, Outcome::Unreachable, now));
        }
        let mut heard = || std::iter::from_fn(|| queue.try_recv().ok()).any(|said| matches!(said, Observation::Flow(_)));
        assert!(!heard(), "only the first fate fitted");
        shared.with(|engine, now| engine.on_error(0, 0, Outcome::SendError, None, now));
        assert!(heard());
        shared.with(|engine, now| engine.on_error(0, 0, Outcome::SendError, None, now));
        assert!(!heard(), "heard, and not told again");
    }
}
