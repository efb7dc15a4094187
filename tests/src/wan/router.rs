//! The router: one thread ahead of everything else that moves packets between the hosts.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_timerslack;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::unistd::gettid;

use super::device::Ends;
use super::icmp::{self, Complaint};
use super::link::{Arrival, Link, Verdict};
use super::log::{Batch, Fate, HostId, Log, Record};
use super::packet::{self, Header, UDP};
use super::path::{Cut, LinkSettings};
use super::quality::{STALL_NS, Stall, StallKind};
use super::release::{Release, Releases};
use crate::real::Real;

/// How long before a packet is due the router stops sleeping [ns]: about as long as waking takes.
const SPIN_NS: i64 = 60_000;
/// How often it wakes at least, to see whether it wakes in time [ns].
const TICK_NS: i64 = 10_000_000;
/// How many packets are read from one host before those that are due are handed over.
const BATCH: usize = 32;
/// How many packets are handed over before those that have come meanwhile are read.
const MOST_AT_ONCE: usize = 64;
/// How many records wait for readers of the log before the router waits for them.
const MOST_UNTOLD: usize = 262_144;
/// Its priority among real-time threads, [1, 99].
const PRIORITY: &str = "50";
/// The longest IP packet [octets].
const LONGEST: usize = 65_536;

/// What the router is told while it runs.
#[derive(Debug)]
pub(super) enum Order {
    /// Change the link with this index, and say since when it holds.
    Set { link: usize, settings: Box<LinkSettings>, since: mpsc::SyncSender<Real> },
    /// Drop packets of the host with this index, and say since when.
    Cut { host: usize, cut: Cut, since: mpsc::SyncSender<Real> },
    /// End.
    Stop,
}

/// The network as the router knows it.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) ends: Vec<Ends>,
    /// The host with an address.
    pub(super) hosts: HashMap<IpAddr, usize>,
    /// The region of each host.
    pub(super) regions: Vec<usize>,
    /// What of each host does not pass.
    pub(super) cuts: Vec<Cut>,
    /// Links by region * regions + region.
    pub(super) links: Vec<Link>,
    pub(super) region_count: usize,
    pub(super) database_ports: BTreeSet<u16>,
    pub(super) log: Log,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Something can be read here when there are orders.
    pub(super) wake: UnixStream,
    pub(super) releases: Releases,
    pub(super) batch: Batch,
    /// When we last looked at the clock.
    pub(super) last: Real,
}

impl Router {
    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        // Without it the kernel may wake us 50 us late on purpose; what goes before everything else is woken in time anyway.
        set_timerslack(1).ok();
        self.batch.tally.no_priority = go_first().err();
        let mut buffer = vec![0; LONGEST];
        self.last = Real::now();
        loop {
            let ready = self.wait();
            if ready.first().copied().unwrap_or(false) && self.obey() {
                break;
            }
            for host in (0..self.ends.len()).filter(|host| ready.get(host + 1).copied().unwrap_or(false)) {
                self.read(host, &mut buffer);
            }
            self.hand_over();
            self.tell();
        }
        self.log.take(&mut self.batch);
    }

    /// Sleeps until a packet is due, a host sends, or somebody orders; which of them it was: orders first, then the hosts.
    fn wait(&mut self) -> Vec<bool> {
        let now = self.now();
        let due_ns = self.releases.next().map_or(TICK_NS, |at| at - now);
        let sleep_ns = (due_ns - SPIN_NS).clamp(0, TICK_NS);
        let readable = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut polled: Vec<PollFd> = vec![readable(self.wake.as_fd())];
        polled.extend(self.ends.iter().map(|ends| readable(ends.device.as_fd())));
        let timeout = TimeSpec::nanoseconds(sleep_ns);
        let count = ppoll(&mut polled, Some(timeout), None).unwrap_or(0);
        let ready = polled.iter().map(|polled| polled.any().unwrap_or(false)).collect();
        let woke = Real::now();
        self.last = woke;
        // Whoever was woken by a packet cannot say when it should have been; the stamps do.
        if count == 0 && woke - now > sleep_ns + STALL_NS {
            self.stalled(now + sleep_ns, woke);
        }
        ready
    }

    /// Now; much later than at the last time, though nobody slept, means that the machine did not let us run.
    fn now(&mut self) -> Real {
        let now = Real::now();
        if now - self.last > STALL_NS {
            self.stalled(self.last, now);
        }
        self.last = now;
        now
    }

    fn stalled(&mut self, from: Real, until: Real) {
        self.batch.tally.stalls.push(Stall { from, until, kind: StallKind::Late });
    }

    /// Carries orders out; whether it is the end.
    fn obey(&mut self) -> bool {
        let mut sink = [0; 64];
        drop((&self.wake).read(&mut sink));
        loop {
            match self.orders.try_recv() {
                Ok(Order::Set { link, settings, since }) => {
                    if let Some(link) = self.links.get_mut(link) {
                        link.set(*settings);
                    }
                    since.try_send(Real::now()).ok();
                }
                Ok(Order::Cut { host, cut, since }) => {
                    if let Some(of_host) = self.cuts.get_mut(host) {
                        *of_host = cut;
                    }
                    since.try_send(Real::now()).ok();
                }
                Err(mpsc::TryRecvError::Empty) => return false,
                Ok(Order::Stop) | Err(mpsc::TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn read(&mut self, host: usize, buffer: &mut [u8]) {
        let mut packets: Vec<(Vec<u8>, Real)> = Vec::new();
        while packets.len() < BATCH {
            match self.ends[host].device.recv(buffer) {
                Ok(length) => packets.push((buffer[..length].to_vec(), self.now())),
                Err(_) => break,
            }
        }
        let tap = &mut self.ends[host].tap;
        tap.listen();
        self.batch.tally.not_taken += tap.forget(Real::now());
        for (packet, read) in packets {
            let key = packet::match_key(&packet);
            let stamp = self.ends[host].tap.claim(key);
            self.batch.tally.tap_missed += u64::from(stamp.is_none());
            self.forward(host, packet, key, stamp.unwrap_or(read));
        }
    }

    fn forward(&mut self, host: usize, mut packet: Vec<u8>, key: u64, left: Real) {
        let header = Header::parse(&packet);
        let Some((header, to)) = header.and_then(|header| Some((header, *self.hosts.get(&header.to)?))) else {
            self.batch.tally.stray += 1;
            return;
        };
        if [host, to].iter().any(|host| self.cuts[*host].holds(&header, &self.database_ports)) {
            let record = record_of(&header, &packet, (host, to), key);
            self.batch.records.push(Record { left, fate: Fate::Cut, ..record });
            return;
        }
        let link = &mut self.links[self.regions[host] * self.region_count + self.regions[to]];
        let Verdict { path, arrival } = link.decide(&header, &self.database_ports, left);
        let hops = link.settings().hops;
        let record = record_of(&header, &packet, (host, to), key);
        let record = Record { left, path, ..record };
        match arrival {
            Arrival::At { at, twice } => {
                packet::lower_hop_limit(&mut packet, hops);
                if twice {
                    let second = Record { fate: Fate::Duplicate, ..record };
                    self.send(at, to, packet.clone(), record);
                    self.send(at, to, packet, second);
                } else {
                    self.send(at, to, packet, record);
                }
            }
            Arrival::Never(fate) => {
                self.batch.records.push(Record { fate, ..record });
                self.complain(host, to, &packet, fate, left);
            }
        }
    }

    fn send(&mut self, at: Real, to: usize, packet: Vec<u8>, record: Record) {
        if !self.releases.push(at, to, packet, Some(record)) {
            self.batch.records.push(Record { fate: Fate::Overflow, ..record });
        }
    }

    /// Answers as a router half way would.
    fn complain(&mut self, host: usize, to: usize, packet: &[u8], fate: Fate, left: Real) {
        let (there, back) = (self.regions[host] * self.region_count, self.regions[to] * self.region_count);
        let there = self.links[there + self.regions[to]].settings();
        let complaint = match (fate, there.mtu_bytes) {
            (Fate::TooBig, Some(mtu_bytes)) if !there.mtu_blackhole => Complaint::TooBig(mtu_bytes),
            (Fate::HopLimit, _) => Complaint::TimeExceeded,
            _ => return,
        };
        let back = self.links[back + self.regions[host]].settings();
        let delay_ns = there.delay_ns.midpoint(back.delay_ns);
        if let Some(answer) = icmp::answer(packet, complaint) {
            self.releases.push(left + delay_ns, host, answer, None);
        }
    }

    fn hand_over(&mut self) {
        for _ in 0..MOST_AT_ONCE {
            let now = self.now();
            let Some(Release { at, packet, record, to, .. }) = self.releases.pop_due(now) else { break };
            // Taken before: the packet arrives while it is written.
            let delivered = Real::now();
            let taken = self.ends[to].device.send(&packet).is_ok();
            let within_ns = u32::try_from(Real::now() - delivered).unwrap_or(u32::MAX);
            self.batch.tally.lateness_ns.push(delivered - at);
            if let Some(record) = record {
                let refused = Record { fate: Fate::Refused, ..record };
                self.batch.records.push(if taken { Record { delivered: Some(delivered), within_ns, ..record } } else { refused });
            }
        }
    }

    fn tell(&mut self) {
        if self.batch.records.len() >= MOST_UNTOLD {
            self.log.take(&mut self.batch);
        } else {
            self.log.try_take(&mut self.batch);
        }
    }
}

fn record_of(header: &Header, packet: &[u8], (from, to): (usize, usize), key: u64) -> Record {
    let payload = if header.protocol == UDP { header.udp_payload(packet) } else { &[] };
    let word =
        |at: usize| payload.get(at..at + 4).and_then(|word| word.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word));
    let (source_port, destination_port) = header.ports.unwrap_or((0, 0));
    let host = |index: usize| HostId(u8::try_from(index).unwrap_or(u8::MAX));
    Record {
        left: Real(0),
        delivered: None,
        within_ns: 0,
        key,
        from: host(from),
        to: host(to),
        protocol: header.protocol,
        fate: Fate::Delivered,
        path: 0,
        v6: header.to.is_ipv6(),
        source_port,
        destination_port,
        length_bytes: header.length_bytes,
        words: [word(0), word(24), word(48)],
    }
}

/// Puts the calling thread ahead of all ordinary ones.
fn go_first() -> Result<(), String> {
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", PRIORITY, &gettid().to_string()]).stdin(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("start chrt (part of util-linux): {error}")),
    }
}
