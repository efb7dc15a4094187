//! The kernel's own word on when a packet left a host, or arrived there: a packet socket with kernel stamps.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::packet::{KEY_COVERS, match_key};
use crate::real::{Real, wall_minus_real_ns};

/// All protocols (`ETH_P_ALL`).
const ALL_PROTOCOLS: u16 = 3;
/// Where classic BPF finds facts beside the packet (`SKF_AD_OFF`).
const BESIDE: u32 = 0xFFFF_F000;
/// The kind of packet among them (`SKF_AD_PKTTYPE`).
const KIND: u32 = BESIDE + 4;
/// The index of the device among them (`SKF_AD_IFINDEX`).
const DEVICE: u32 = BESIDE + 8;
/// Load a word (`BPF_LD | BPF_W | BPF_ABS`).
const LOAD: u16 = 0x20;
/// Jump if equal (`BPF_JMP | BPF_JEQ | BPF_K`).
const IF_EQUAL: u16 = 0x15;
/// Return (`BPF_RET | BPF_K`).
const RETURN: u16 = 0x06;
/// How much waits for us in the kernel [octets]: some ten thousand packets.
const BUFFER_BYTES: usize = 16 << 20;
/// How many stamps wait for their packet.
const MOST_STAMPS: usize = 4096;
/// How long a stamp waits for its packet [ns]; a packet that has not come by then was dropped on its way to the router.
const STAMP_WAITS_NS: i64 = 1_000_000_000;

/// Which packets a tap hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that leave the host.
    Leaving,
    /// Those that arrive there.
    Arriving,
}

/// A packet socket on one device.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
    stamps: VecDeque<(u64, Real)>,
    unclaimed: u64,
}

impl Tap {
    /// Listens on the device with this index, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(device: u32, direction: Direction) -> Result<Tap> {
        let protocol = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).context("open a packet socket")?;
        let kind = match direction {
            Direction::Arriving => 0,
            Direction::Leaving => 4,
        };
        let filter = [
            SockFilter::new(LOAD, 0, 0, KIND),
            SockFilter::new(IF_EQUAL, 0, 3, kind),
            SockFilter::new(LOAD, 0, 0, DEVICE),
            SockFilter::new(IF_EQUAL, 0, 1, device),
            SockFilter::new(RETURN, 0, 0, u32::try_from(KEY_COVERS)?),
            SockFilter::new(RETURN, 0, 0, 0),
        ];
        socket.attach_filter(&filter).context("filter the packet socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).context("give the packet socket room")?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context("stamp the packets")?;
        // A device that came up while we listened left an error behind.
        drop(socket.take_error());
        Ok(Tap { socket, stamps: VecDeque::new(), unclaimed: 0 })
    }

    /// Takes all that was heard so far.
    pub fn listen(&mut self) {
        let ahead_ns = wall_minus_real_ns();
        let mut control = cmsg_space!(TimeSpec);
        while self.stamps.len() < MOST_STAMPS {
            let mut packet = [0; KEY_COVERS];
            match receive(&self.socket, &mut packet, &mut control) {
                Ok((length, Some(wall_ns))) => {
                    self.stamps.push_back((match_key(&packet[..length]), Real(wall_ns - ahead_ns)));
                }
                // The device's errors wait in the socket; each is reported once.
                Ok((_, None)) | Err(Errno::ENETDOWN | Errno::EINTR) => {}
                Err(_) => break,
            }
        }
    }

    /// When the packet with this key passed; each stamp is given once.
    pub fn claim(&mut self, key: u64) -> Option<Real> {
        let at = self.stamps.iter().position(|(of, _)| *of == key)?;
        self.stamps.remove(at).map(|(_, stamp)| stamp)
    }

    /// Drops the stamps whose packet never came, and says how many there were since the last call.
    pub fn forget(&mut self, now: Real) -> u64 {
        while self.stamps.front().is_some_and(|(_, stamp)| now - *stamp > STAMP_WAITS_NS) {
            self.stamps.pop_front();
            self.unclaimed += 1;
        }
        std::mem::take(&mut self.unclaimed)
    }

    /// All stamps that nobody has claimed, by key.
    pub fn rest(&mut self) -> Vec<(u64, Real)> {
        self.stamps.drain(..).collect()
    }
}

fn receive(socket: &Socket, packet: &mut [u8], control: &mut [u8]) -> nix::Result<(usize, Option<i64>)> {
    let mut slices = [IoSliceMut::new(packet)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(control), flags)?;
    let stamp = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(time) => Some(time.tv_sec() * 1_000_000_000 + time.tv_nsec()),
        _ => None,
    });
    Ok((message.bytes, stamp))
}
