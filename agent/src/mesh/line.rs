//! The sockets towards peers: one connected UDP socket per flow, and one place at which to ask which of all of them has something.

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use lagmesh_model::state::Outcome;
use nix::libc::EMSGSIZE;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::mesh::doors::{Door, Doors};
use crate::mesh::kernel::SendIds;
use crate::mesh::socket::{Queued, begin_at_largest_hop_limit, never_fragment, queued, stamp_both_ways};

/// How many sockets that have something are told of at once.
const READY_AT_ONCE: usize = 256;
/// Of how many packets of a flow the stamps find their probes.
const SENT_MAX: usize = 64;
/// Which sockets are the reflector's.
const AGENTS: u64 = u64::MAX;
const STRANGERS: u64 = u64::MAX - 1;

/// All sockets of the mesh.
#[derive(Debug)]
pub struct Lines {
    /// Not watched by the runtime: nobody is woken by what comes.
    ready: Epoll,
    /// By the number of the peer, which is never given twice: what is told of a socket never meets another peer's.
    peers: RefCell<BTreeMap<usize, Connected>>,
}

/// The sockets towards a peer agent.
#[derive(Debug)]
pub struct Connected {
    /// Where it was found.
    pub address: SocketAddr,
    /// By flow.
    pub flows: Vec<Line>,
}

/// The socket of a flow.
#[derive(Debug)]
pub struct Line {
    /// It never blocks.
    pub socket: UdpSocket,
    /// Which of its packets is the probe of which sequence number.
    pub ids: RefCell<SendIds<u32>>,
}

/// A socket that has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// One of the reflector's: packets, or stamps of answers.
    Reflector(Door),
    /// That of a flow.
    Flow {
        /// Of which peer.
        peer: usize,
        /// Which one.
        flow: usize,
        /// Whether there is an error or a transmit stamp.
        queued: bool,
    },
}

impl Lines {
    /// No sockets towards peers yet, and those of the reflector.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(doors: &Doors) -> io::Result<Lines> {
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        ready.add(doors.agents.socket(), EpollEvent::new(EpollFlags::EPOLLIN, AGENTS))?;
        ready.add(doors.strangers.socket(), EpollEvent::new(EpollFlags::EPOLLIN, STRANGERS))?;
        Ok(Lines { ready, peers: RefCell::default() })
    }

    /// The sockets towards a peer; `None` if there are none.
    pub fn of(&self, peer: usize) -> Option<Ref<'_, Connected>> {
        Ref::filter_map(self.peers.borrow(), |peers| peers.get(&peer)).ok()
    }

    /// Closes the sockets towards a peer. The kernel stops watching them by that.
    pub fn close(&self, peer: usize) {
        self.peers.borrow_mut().remove(&peer);
    }

    /// Takes over new sockets towards a peer; those of before are closed.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn connect(&self, peer: usize, connected: Connected) -> io::Result<()> {
        for (flow, line) in connected.flows.iter().enumerate() {
            let name = (peer as u64) << 16 | flow as u64;
            self.ready.add(&line.socket, EpollEvent::new(EpollFlags::EPOLLIN, name))?;
        }
        self.peers.borrow_mut().insert(peer, connected);
        Ok(())
    }

    /// The sockets that have something now, and whether those are all.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn look(&self) -> io::Result<(Vec<Ready>, bool)> {
        let mut events = [EpollEvent::empty(); READY_AT_ONCE];
        let count = self.ask(&mut events, EpollTimeout::ZERO)?;
        Ok((events[..count].iter().map(Ready::of).collect(), count < READY_AT_ONCE))
    }

    /// Waits until any of them has something, for so long at most.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn wait(&self, at_most: Duration) -> io::Result<()> {
        // A part of a millisecond is a whole one here: none would be no waiting at all.
        let timeout = EpollTimeout::try_from(at_most + Duration::from_micros(999)).unwrap_or(EpollTimeout::ZERO);
        self.ask(&mut [EpollEvent::empty()], timeout).map(drop)
    }

    fn ask(&self, events: &mut [EpollEvent], timeout: EpollTimeout) -> io::Result<usize> {
        match self.ready.wait(events, timeout) {
            Err(nix::errno::Errno::EINTR) => Ok(0),
            result => Ok(result?),
        }
    }
}

impl Ready {
    fn of(event: &EpollEvent) -> Ready {
        match event.data() {
            AGENTS => Ready::Reflector(Door::Agents),
            STRANGERS => Ready::Reflector(Door::Strangers),
            name => Ready::Flow {
                peer: (name >> 16) as usize,
                flow: (name & 0xFFFF) as usize,
                queued: event.events().contains(EpollFlags::EPOLLERR),
            },
        }
    }
}

impl Line {
    /// A connected socket from a port of its own, whose packets have this traffic class; from our own mesh address if that is a certain
    /// one, as peers know us by it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn open(own: IpAddr, target: SocketAddr, class: u8) -> io::Result<Line> {
        let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        let any = if target.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let from = if own.is_ipv4() == target.is_ipv4() { own } else { any };
        socket.bind(&SocketAddr::new(from, 0).into())?;
        match target {
            SocketAddr::V4(_) => {
                setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
                setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(class))?;
                setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            }
            SocketAddr::V6(_) => {
                setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
                setsockopt(&socket, sockopt::Ipv6TClass, &i32::from(class))?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            }
        }
        stamp_both_ways(&socket);
        begin_at_largest_hop_limit(&socket, target.is_ipv4(), target.is_ipv6())?;
        never_fragment(&socket, target.is_ipv4())?;
        socket.connect(&target.into())?;
        Ok(Line { socket: socket.into(), ids: RefCell::new(SendIds::new(SENT_MAX)) })
    }

    /// The errors and transmit stamps that wait. An error that is pending without being queued is one, too.
    ///
    /// # Errors
    /// If the socket cannot be asked.
    pub fn errors(&self) -> io::Result<Vec<Queued>> {
        let mut found = queued(&self.socket);
        let pending = self.socket.take_error()?;
        let told = found.iter().any(|one| !matches!(one, Queued::Left { .. }));
        // What a router says of a packet of the survey is no error of a probe, and neither is a packet that was too long.
        let number = pending.filter(|error| !told && !is_too_long(error)).map(|error| error.raw_os_error());
        found.extend(number.map(|number| Queued::Error { number, sequence: None }));
        Ok(found)
    }
}

/// Whether an error of a send may be the answer to an earlier packet.
pub fn may_be_of_before(error: &io::Error) -> bool {
    outcome_of(error) != Outcome::SendError || is_too_long(error)
}

/// Whether a packet was longer than the path, or our own host, can carry.
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EMSGSIZE)
}

/// What the number of an error means for a probe.
pub fn outcome_of_number(number: Option<i32>) -> Outcome {
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
