//! The reflector's two sockets at one address: one for the agents of the fleet, one for everybody else, each with a queue of its own. A
//! flood of strangers fills theirs; what agents ask does not stand behind it.
//!
//! The kernel sorts by source address, with a small program (classic BPF) that it runs for each packet. Who is sorted wrongly is answered
//! all the same.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Context as _;
use nix::libc::{
    BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_RSH, BPF_W, SKF_NET_OFF, sock_filter,
    sock_fprog,
};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::mesh::responder::Responder;
use crate::mesh::shared::Shared;
use crate::mesh::socket::{begin_at_largest_hop_limit, stamp_both_ways};

/// The room that each asks the kernel for [octets].
const RECEIVE_BUFFER: usize = 4 << 20;
/// The longest program that the kernel takes.
const PROGRAM_MAX: usize = 4096;
/// Which socket of the group is whose: the kernel numbers them in the order in which they were bound.
const AGENTS: u32 = 0;
const STRANGERS: u32 = 1;

/// Both sockets.
#[derive(Debug)]
pub struct Doors {
    /// For the agents of the fleet.
    pub agents: Responder,
    /// For everybody else.
    pub strangers: Responder,
    /// Where agents are, by what was last told to the kernel.
    told: Vec<IpAddr>,
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// That for agents.
    Agents,
    /// That for everybody else.
    Strangers,
}

impl Doors {
    /// Binds both; as long as nothing else is told everybody is a stranger.
    ///
    /// # Errors
    /// If the address is not ours or taken.
    pub fn open(listen: SocketAddr) -> anyhow::Result<Doors> {
        let open = || {
            // The first binds alone, so that an address that is in use is noticed; only then may the second join it.
            let first = socket(listen)?;
            first.bind(&listen.into())?;
            first.set_reuse_port(true)?;
            let second = socket(listen)?;
            second.set_reuse_port(true)?;
            second.bind(&first.local_addr()?)?;
            io::Result::Ok((first.into(), second.into()))
        };
        let (agents, strangers): (UdpSocket, UdpSocket) =
            open().with_context(|| format!("listen for mesh packets on {listen} (UDP); see --mesh-listen"))?;
        let mut doors = Doors { agents: Responder::new(agents), strangers: Responder::new(strangers), told: Vec::new() };
        doors.sort(&[]);
        Ok(doors)
    }

    /// Takes over where agents are.
    pub fn follow(&mut self, shared: &Shared) {
        let addresses = shared.with(|engine, _| engine.addresses());
        if addresses != self.told {
            self.sort(&addresses);
            self.told = addresses;
        }
    }

    fn sort(&mut self, agents: &[IpAddr]) {
        let mut program = program(agents);
        let length = u16::try_from(program.len()).expect("the program is bounded");
        let told = sock_fprog { len: length, filter: program.as_mut_ptr() };
        if let Err(error) = setsockopt(self.agents.socket(), sockopt::AttachReusePortCbpf, &told) {
            tracing::warn!(%error, "requests of agents and strangers wait in the same queues: a flood of these may crowd out those");
        }
    }
}

fn socket(listen: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    if listen.is_ipv6() {
        socket.set_only_v6(!listen.ip().is_unspecified())?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?;
    }
    // What comes by IPv4 to a socket for both is told as IPv4 tells it.
    if listen.is_ipv4() || listen.ip().is_unspecified() {
        setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        setsockopt(&socket, sockopt::IpRecvTos, &true)?;
    }
    if listen.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    stamp_both_ways(&socket);
    begin_at_largest_hop_limit(&socket, listen.is_ipv4() || listen.ip().is_unspecified(), listen.is_ipv6())?;
    Ok(socket)
}

/// The program that sorts: it returns [`AGENTS`] for a packet from one of the addresses, else [`STRANGERS`]. Addresses for which there is
/// no more room are those of strangers.
fn program(agents: &[IpAddr]) -> Vec<sock_filter> {
    let (mut v4, mut v6) = (vec![load(BPF_W, 12)], Vec::new());
    for address in agents {
        let block = match address.to_canonical() {
            IpAddr::V4(address) => vec![unless(u32::from(address), 1), verdict(AGENTS)],
            IpAddr::V6(address) => {
                let octets = address.octets();
                let word = |n: usize| u32::from_be_bytes([octets[n], octets[n + 1], octets[n + 2], octets[n + 3]]);
                // The source stands at octet 8. Any word that is another one leads behind the block.
                let words = [(0, 8, 7), (4, 12, 5), (8, 16, 3), (12, 20, 1)];
                let compared = words.into_iter().flat_map(|(n, at, rest)| [load(BPF_W, at), unless(word(n), rest)]);
                compared.chain([verdict(AGENTS)]).collect()
            }
        };
        if v4.len() + v6.len() + block.len() + 6 > PROGRAM_MAX {
            break;
        }
        if address.to_canonical().is_ipv4() { v4.extend(block) } else { v6.extend(block) }
    }
    v6.push(verdict(STRANGERS));
    v4.push(verdict(STRANGERS));
    let over_v6 = u32::try_from(v6.len()).expect("the program is bounded");
    let mut program = vec![
        load(BPF_B, 0),
        instruction(BPF_ALU | BPF_RSH | BPF_K, 4, 0, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 4, 0, 1),
        instruction(BPF_JMP | BPF_JA, over_v6, 0, 0),
    ];
    program.extend(v6);
    program.extend(v4);
    program
}

/// Loads what stands at that octet of the IP header.
fn load(size: u32, octet: u32) -> sock_filter {
    instruction(BPF_LD | size | BPF_ABS, SKF_NET_OFF.cast_unsigned().wrapping_add(octet), 0, 0)
}

/// Goes on with the next instruction if that was loaded, else skips so many.
fn unless(value: u32, skipped: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skipped)
}

fn verdict(socket: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, socket, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("codes have 16 bits"), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Sends from one address of this host to the reflector: at which door the packet is.
    fn comes_to(doors: &Doors, from: &str, port: u16) -> Door {
        let to = if from.contains(':') { "::1" } else { "127.0.0.1" };
        let sender = UdpSocket::bind((from, 0)).unwrap();
        sender.send_to(&[7; 50], (to, port)).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let [agents, strangers] = [&doors.agents, &doors.strangers].map(|door| {
            let mut packet = [0; 60];
            door.socket().recv(&mut packet).is_ok()
        });
        assert_ne!(agents, strangers, "one of them has it");
        if agents { Door::Agents } else { Door::Strangers }
    }

    /// What agents send comes to their own door, over IPv4 and IPv6, to sockets of one family and of both; all others come to the other.
    #[test]
    fn sorted_by_source() {
        let many = (0..300_u16).map(|n| IpAddr::from([10, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]]));
        let agents: Vec<IpAddr> = ["127.0.0.2", "2001:db8::7", "::1"].iter().map(|a| a.parse().unwrap()).chain(many).collect();
        for (listen, sources) in [
            ("127.0.0.1:0", &[("127.0.0.2", Door::Agents), ("127.0.0.3", Door::Strangers)][..]),
            ("[::1]:0", &[("::1", Door::Agents)]),
            ("[::]:0", &[("::1", Door::Agents), ("127.0.0.2", Door::Agents), ("127.0.0.3", Door::Strangers)]),
        ] {
            let Ok(mut doors) = Doors::open(listen.parse().unwrap()) else { continue };
            let port = doors.agents.socket().local_addr().unwrap().port();
            for (from, _) in sources {
                assert_eq!(comes_to(&doors, from, port), Door::Strangers, "nobody is known yet");
            }
            doors.sort(&agents);
            for (from, door) in sources {
                assert_eq!(comes_to(&doors, from, port), *door, "{listen} {from}");
            }
            doors.sort(&agents[1..2]);
            for (from, _) in sources {
                assert_eq!(comes_to(&doors, from, port), Door::Strangers, "{listen} {from}");
            }
        }
    }

    /// Where somebody listens already, be it another agent, that is an error and not a share of the packets.
    #[test]
    fn an_address_in_use_is_noticed() {
        let doors = Doors::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Doors::open(doors.agents.socket().local_addr().unwrap()).unwrap_err();
        assert!(format!("{error:#}").contains("in use"), "{error:#}");
    }

    /// However many agents there are, the kernel takes the program.
    #[test]
    fn the_program_is_bounded() {
        let v6 = |n: u32| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, (n >> 16) as u16, (n & 0xFFFF) as u16]);
        for count in [1, 454, 455, 10_000] {
            let program = program(&(0..count).map(v6).collect::<Vec<_>>());
            assert!(program.len() <= PROGRAM_MAX && (count < 1_000 || program.len() > PROGRAM_MAX - 10), "{}", program.len());
        }
        let mut doors = Doors::open("127.0.0.1:0".parse().unwrap()).unwrap();
        doors.sort(&(0..10_000).map(v6).collect::<Vec<_>>());
    }
}
