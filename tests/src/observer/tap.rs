//! The thread that listens on the loopback of a server's host for the answers to its beat writer.

use std::collections::HashMap;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use nix::unistd::gettid;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::packet::{Heard, Pairing, segment};
use super::truth::{BeatId, Window};
use super::underway::Underway;
use super::watch::goes_first;
use crate::real::{Real, wall_minus_real_ns};

/// How often a quiet tap asks whether to go on.
const PATIENCE: Duration = Duration::from_millis(100);

/// Every packet, going out and coming in (`ETH_P_ALL`), in network order.
const EVERY_PACKET: i32 = 3_u16.to_be() as i32;

/// How much of a packet is taken [bytes]: a beat's request has about one thousand.
const SNAP_BYTES: u32 = 8192;

/// Room for packets while this thread does not run [bytes].
const BUFFER_BYTES: usize = 4 << 20;

/// How many commits are kept.
const COMMITS_MAX: usize = 500_000;

/// How far a converted stamp may be off: the two clocks are read within this time of each other [ns].
const CONVERSION_NS: i64 = 5_000;

/// What to listen to.
#[derive(Debug, Clone)]
pub(super) struct TapTarget {
    /// The network namespace, as a file.
    pub(super) namespace: PathBuf,
    /// The server's port there.
    pub(super) port: u16,
    /// Who has to know which beats are asked for.
    pub(super) underway: Arc<Underway>,
}

/// A tap's part that others read.
#[derive(Debug, Default)]
pub(super) struct Tap {
    commits: Mutex<HashMap<BeatId, Window>>,
    trouble: Mutex<Option<String>>,
    stop: AtomicBool,
}

impl Tap {
    pub(super) fn commits(&self) -> HashMap<BeatId, Window> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Listens until told to stop. It must have a thread of its own, since the thread enters the host's network.
    pub(super) fn run(&self, target: &TapTarget) {
        if let Err(error) = self.listen(target) {
            target.underway.go_deaf();
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
        }
    }

    fn listen(&self, target: &TapTarget) -> Result<()> {
        let socket = open(target)?;
        // Servers are looked at closely as soon as a request is heard here. Without the permission it is heard a little later.
        goes_first(gettid());
        let mut pairing = Pairing::default();
        let mut packet = vec![0; SNAP_BYTES as usize];
        while !self.stop.load(Ordering::Relaxed) {
            let Some((length, stamp)) = receive(&socket, &mut packet)? else { continue };
            let Some(segment) = segment(&packet[..length]) else { continue };
            match pairing.take(&segment, target.port) {
                Some(Heard::Asked(beat)) => target.underway.sent(&beat),
                Some(Heard::Returned(beat)) => self.keep(beat, stamp),
                None => {}
            }
        }
        Ok(())
    }

    fn keep(&self, beat: BeatId, stamp: Real) {
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if commits.len() < COMMITS_MAX {
            commits.entry(beat).or_insert(Window { after: stamp + -CONVERSION_NS, by: stamp + CONVERSION_NS });
        }
    }
}

/// Enters the namespace and opens the socket in it.
fn open(target: &TapTarget) -> Result<Socket> {
    if !is_own(&target.namespace) {
        let namespace = File::open(&target.namespace).with_context(|| format!("open {}", target.namespace.display()))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the network of the server's host")?;
    }
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(EVERY_PACKET)))
        .context("listen to packets (this needs root)")?;
    socket.attach_filter(&only_port(target.port)).context("listen to the server's port only")?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    setsockopt(&socket, ReceiveTimestampns, &true).context("ask for kernel stamps")?;
    Ok(socket)
}

fn is_own(namespace: &Path) -> bool {
    let read = |path: &Path| std::fs::read_link(path).ok();
    read(namespace).is_some_and(|other| read("/proc/thread-self/ns/net".as_ref()) == Some(other))
}

/// The next packet's length and kernel stamp; `None` if none came.
fn receive(socket: &Socket, packet: &mut [u8]) -> Result<Option<(usize, Real)>> {
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(packet)];
    match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()) {
        Ok(message) => {
            let stamp = message.cmsgs()?.find_map(|part| match part {
                ControlMessageOwned::ScmTimestampns(time) => Some(time.tv_sec() * 1_000_000_000 + time.tv_nsec()),
                _ => None,
            });
            Ok(stamp.map(|wall_ns| (message.bytes, Real(wall_ns - wall_minus_real_ns()))))
        }
        // The device going up or down is told as an error once.
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => Ok(None),
        Err(error) => Err(error).context("listen to packets"),
    }
}

/// TCP from or to a port, on loopback (always the first device of a network namespace), IPv4 without fragments or IPv6.
fn only_port(port: u16) -> [SockFilter; 21] {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF_AT_X: u16 = 0x48;
    const HEADER_TO_X: u16 = 0xb1;
    const AND: u16 = 0x54;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // The device's number: an address that the filter language sets aside for it.
    const DEVICE: u32 = 0xffff_f008;
    let port = u32::from(port);
    [
        SockFilter::new(LOAD_WORD, 0, 0, DEVICE),
        SockFilter::new(EQUAL, 0, 18, 1),
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(AND, 0, 0, 0xf0),
        SockFilter::new(EQUAL, 0, 7, 0x40),
        // IPv4: the protocol, then both ports behind a header of any length.
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(EQUAL, 0, 13, 6),
        SockFilter::new(HEADER_TO_X, 0, 0, 0),
        SockFilter::new(LOAD_HALF_AT_X, 0, 0, 0),
        SockFilter::new(EQUAL, 9, 0, port),
        SockFilter::new(LOAD_HALF_AT_X, 0, 0, 2),
        SockFilter::new(EQUAL, 7, 8, port),
        // IPv6: the same behind its fixed header.
        SockFilter::new(EQUAL, 0, 7, 0x60),
        SockFilter::new(LOAD_BYTE, 0, 0, 6),
        SockFilter::new(EQUAL, 0, 5, 6),
        SockFilter::new(LOAD_HALF, 0, 0, 40),
        SockFilter::new(EQUAL, 2, 0, port),
        SockFilter::new(LOAD_HALF, 0, 0, 42),
        SockFilter::new(EQUAL, 0, 1, port),
        SockFilter::new(RETURN, 0, 0, SNAP_BYTES),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
