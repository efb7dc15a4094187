//! The sockets towards peers: one connected UDP socket per flow. They do what [`Engine`] says.
//!
//! Everything here runs on one thread of its own, away from busy workers. A probe is stamped by the kernel where that can be believed
//! ([`crate::mesh::kernel`]), else in user space, right before a send and right after a receive: on the safe side for bounds.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lagmesh_daemon::Clock;
use lagmesh_model::fleet::Address;
use lagmesh_model::state::Outcome;
use lagmesh_model::time::{RawNanos, Reading};
use nix::libc::EMSGSIZE;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::measurement::{Observation, Observations, Probe};
use crate::mesh::engine::Engine;
use crate::mesh::kernel::SendIds;
use crate::mesh::peer::{Came, PACKET_MAX};
use crate::mesh::reflector::REQUEST_MAX;
use crate::mesh::resolve::{RESOLVE_TIMEOUT, choose, lookup};
use crate::mesh::socket::{
    Queued, Received, begin_at_largest_hop_limit, never_fragment, queued, receive as receive_one, send_with_hop_limit,
    stamp_both_ways,
};
use crate::mesh::survey::{Errand, SURVEY_MAX};

/// The longest sleep between two looks at what is overdue.
const TICK: Duration = Duration::from_millis(100);
/// How often a name is resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// How often while nothing answers.
const RESOLVE_EVERY_DEAD: Duration = Duration::from_secs(5);
/// How many packets of a flow are taken in before others get their turn: a flood on one socket must not silence the mesh.
const PACKETS_AT_ONCE: usize = 16;

/// How many are taken in before something is called overdue: more than can be out.
const PACKETS_BEFORE_JUDGING: usize = 1024;

/// What the futures of the mesh thread share.
#[derive(Debug)]
pub struct Shared {
    engine: RefCell<Engine>,
    pub(super) clock: Clock,
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
        let reading = self.clock.bracket();
        engine.note(reading);
        let result = act(&mut engine, reading.into());
        let mut unheard = false;
        for observation in engine.observations() {
            trace(&observation);
            let is_change = matches!(observation, Observation::Flow(_));
            if let Observation::Route(flow, route) = &observation {
                tracing::info!(peer = %flow.agent, flow = flow.index, cause = %route.cause, reached = route.reached, %route, "route");
            }
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

/// Whoever wants each single round-trip time finds it in the log, at level `trace`.
fn trace(observation: &Observation) {
    if let Observation::Probe(Probe { peer, outcome, rtt_ns, at, .. }) = observation {
        tracing::trace!(peer = %peer, outcome = outcome.as_str(), rtt_ns, wall_ns = at.wall.0, "probe");
    }
}

/// The sockets towards a peer agent.
#[derive(Debug)]
struct Connected {
    address: SocketAddr,
    flows: Vec<Line>,
}

/// The socket of a flow.
#[derive(Debug)]
struct Line {
    socket: UdpSocket,
    ids: RefCell<SendIds>,
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
        let wait =
            shared.with(|engine, now| engine.peers()[peer].next_due().checked_since(now.raw).unwrap_or(Duration::ZERO).min(TICK));
        sleep(wait).await;
        let sockets = connected.borrow().clone();
        let read = catch_up(shared, peer, sockets.as_deref());
        for flow in shared.with(|engine, now| engine.due(peer, read, now)) {
            send_one(shared, peer, flow, sockets.as_ref().and_then(|sockets| sockets.flows.get(flow)));
        }
        if let Some(connected) = &sockets {
            for errand in shared.with(|engine, now| engine.errands(peer, now)) {
                run_errand(shared, peer, &errand, connected);
            }
        }
    }
}

/// Sends a packet of the survey.
fn run_errand(shared: &Shared, peer: usize, errand: &Errand, connected: &Connected) {
    let Some(line) = connected.flows.get(errand.flow) else { return };
    let mut packet = [0; SURVEY_MAX];
    let (length, ip) = (shared.with(|engine, now| engine.write(peer, errand, now, &mut packet)), connected.address.ip());
    let leave = || match errand.hop_limit {
        Some(limit) => send_with_hop_limit(&line.socket, &packet[..length], ip, limit),
        None => line.socket.try_send(&packet[..length]).map(drop),
    };
    // The first error may be about a packet of before.
    let sent = leave().or_else(|_| {
        take_queued(shared, peer, errand.flow, line);
        leave()
    });
    match sent {
        Ok(()) => line.ids.borrow_mut().sent(None),
        Err(error) => shared.with(|engine, now| engine.errand_not_sent(peer, errand, is_too_long(&error), now)),
    }
    take_queued(shared, peer, errand.flow, line);
}

/// Reads what waits where something would be overdue: this thread may have been held up while the answers came. Returns the moment up
/// to which all is read.
fn catch_up(shared: &Shared, peer: usize, connected: Option<&Connected>) -> RawNanos {
    let (overdue, now) = shared.with(|engine, now| (engine.overdue(peer, now), now.raw));
    let mut packet = [0; REQUEST_MAX];
    for flow in overdue {
        let Some(line) = connected.and_then(|connected| connected.flows.get(flow)) else { continue };
        take_queued(shared, peer, flow, line);
        for _ in 0..PACKETS_BEFORE_JUDGING {
            let Ok(received) = receive_one(&line.socket, &mut packet) else { break };
            shared.with(|engine, now| engine.on_packet(peer, flow, came(&packet, &received), now));
        }
    }
    now
}

fn came<'p>(packet: &'p [u8], received: &Received) -> Came<'p> {
    Came { packet: &packet[..received.length], stamp: received.stamp, hops: received.hops }
}

fn send_one(shared: &Shared, peer: usize, flow: usize, line: Option<&Line>) {
    let Some(line) = line else { return shared.with(|engine, now| engine.not_sent(peer, flow, Outcome::SendError, now)) };
    let mut packet = [0; PACKET_MAX];
    let waiting = shared.with(|engine, now| {
        let length = engine.request(peer, flow, now, &mut packet);
        let mut result = line.socket.try_send(&packet[..length]);
        let mut waiting = Vec::new();
        if result.as_ref().is_err_and(may_be_of_before) {
            // The error may be the answer to an earlier probe, and then this one has not been tried yet.
            waiting = queued(&line.socket);
            waiting.retain(|one| {
                let Queued::Error { number, sequence } = one else { return true };
                engine.on_error(peer, flow, outcome_of_number(*number), *sequence, now);
                false
            });
            result = line.socket.try_send(&packet[..length]);
        }
        match result {
            Ok(_) => line.ids.borrow_mut().sent(Some(engine.sent(peer, flow, now))),
            // Nothing went out, so a refusal is not about this probe.
            Err(error) => match outcome_of(&error) {
                Outcome::Unreachable => engine.not_sent(peer, flow, Outcome::Unreachable, now),
                _ => engine.not_sent(peer, flow, Outcome::SendError, now),
            },
        }
        waiting
    });
    settle(shared, peer, flow, line, waiting);
    // The stamp of this probe is there already, unless it waits in a queue of the host.
    take_queued(shared, peer, flow, line);
}

/// Finds the peer, opens sockets to it, and listens to them; looks again from time to time whether it has moved.
async fn receive(shared: &Shared, peer: usize, address: &Address, own: IpAddr, connected: &RefCell<Option<Rc<Connected>>>) {
    let mut failing = false;
    loop {
        let current = connected.borrow().as_ref().map(|connected| connected.address);
        match find(shared, peer, address, own, current).await {
            Ok(Some(new)) => {
                tracing::info!(peer = %address, address = %new.address, flows = new.flows.len(), "probing");
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
    let (count, class) = shared.with(|engine, _| {
        engine.found(peer, target);
        (engine.peers()[peer].flows(), engine.class())
    });
    let flows = (0..count).map(|_| open(own, target, class)).collect::<io::Result<Vec<_>>>().context("open sockets")?;
    for flow in &flows {
        flow.socket.writable().await.context("open sockets")?;
    }
    Ok(Some(Connected { address: target, flows }))
}

/// A connected socket from a port of its own, whose packets have this traffic class; from our own mesh address if that is a certain
/// one, as peers know us by it.
fn open(own: IpAddr, target: SocketAddr, class: u8) -> io::Result<Line> {
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let any = if target.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let from = if own.is_ipv4() == target.is_ipv4() { own } else { any };
    socket.bind(&SocketAddr::new(from, 0).into())?;
    match target {
        SocketAddr::V4(_) => {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(class))?;
        }
        SocketAddr::V6(_) => {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv6TClass, &i32::from(class))?;
        }
    }
    stamp_both_ways(&socket);
    begin_at_largest_hop_limit(&socket, target.is_ipv4(), target.is_ipv6())?;
    match target {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?,
    }
    never_fragment(&socket, target.is_ipv4())?;
    socket.connect(&target.into())?;
    Ok(Line { socket: UdpSocket::from_std(socket.into())?, ids: RefCell::default() })
}

/// Listens to all flows of a peer; ends only if there are none.
async fn listen(shared: &Shared, peer: usize, connected: Option<&Connected>) {
    let Some(connected) = connected else { return std::future::pending().await };
    let mut flows: FuturesUnordered<_> =
        connected.flows.iter().enumerate().map(|(flow, line)| listen_one(shared, peer, flow, line)).collect();
    while let Some(result) = flows.next().await {
        let Err(error) = result;
        tracing::warn!(peer, %error, "mesh socket failed");
    }
    sleep(RESOLVE_EVERY_DEAD).await;
}

async fn listen_one(shared: &Shared, peer: usize, flow: usize, line: &Line) -> Result<std::convert::Infallible, io::Error> {
    let mut packet = [0; REQUEST_MAX];
    loop {
        let ready = line.socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            take_errors(shared, peer, flow, line);
        }
        for _ in 0..PACKETS_AT_ONCE {
            let received = line.socket.try_io(Interest::READABLE, || receive_one(&line.socket, &mut packet));
            let Ok(received) = received else { break };
            shared.with(|engine, now| engine.on_packet(peer, flow, came(&packet, &received), now));
        }
        tokio::task::yield_now().await;
    }
}

/// Reads the errors that wait at a socket, within the call that marks it as free of errors, so that none is missed.
fn take_errors(shared: &Shared, peer: usize, flow: usize, line: &Line) {
    let mut found = Vec::new();
    let taken: io::Result<()> = line.socket.try_io(Interest::ERROR, || {
        found = queued(&line.socket);
        let pending = line.socket.take_error()?;
        let told = found.iter().any(|one| !matches!(one, Queued::Left { .. }));
        // What a router says of a packet of the survey is no error of a probe, and neither is a packet that was too long.
        let number = pending.filter(|error| !told && !is_too_long(error)).map(|error| error.raw_os_error());
        found.extend(number.map(|number| Queued::Error { number, sequence: None }));
        Err(io::ErrorKind::WouldBlock.into())
    });
    if let Err(error) = taken.or_else(|error| if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }) {
        tracing::debug!(%error, "read the errors of a mesh socket");
    }
    settle(shared, peer, flow, line, found);
}

fn take_queued(shared: &Shared, peer: usize, flow: usize, line: &Line) {
    settle(shared, peer, flow, line, queued(&line.socket));
}

/// Passes on what a socket's queue held.
fn settle(shared: &Shared, peer: usize, flow: usize, line: &Line, found: Vec<Queued>) {
    if found.is_empty() {
        return;
    }
    if found.contains(&Queued::TooLong) || found.iter().any(|one| matches!(one, Queued::Expired { .. })) {
        // The same is pending at the socket, and would be taken for an error of the next probe.
        line.socket.take_error().unwrap_or_default();
    }
    shared.with(|engine, now| {
        for one in found {
            match one {
                Queued::Error { number, sequence } => {
                    engine.on_error(peer, flow, outcome_of_number(number), sequence, now);
                }
                Queued::Expired { from } => engine.on_expired(peer, flow, from, now),
                Queued::TooLong => {}
                Queued::Left { id, stamp } => {
                    if let Some(sequence) = line.ids.borrow_mut().sequence_of(id) {
                        engine.on_kernel_stamp(peer, flow, sequence, stamp);
                    }
                }
            }
        }
    });
}

/// Whether an error of a send may be the answer to an earlier packet.
fn may_be_of_before(error: &io::Error) -> bool {
    outcome_of(error) != Outcome::SendError || is_too_long(error)
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EMSGSIZE)
}

fn outcome_of_number(number: Option<i32>) -> Outcome {
    number.map_or(Outcome::Unreachable, |number| outcome_of(&io::Error::from_raw_os_error(number)))
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
mod tests;
