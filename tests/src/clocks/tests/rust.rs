//! Clocks and packet stamps as a program in Rust sees them: this one, run again.

use std::io::{BufRead, BufReader, IoSliceMut, Write, stdin};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, TimestampingFlag, recvmmsg, recvmsg, setsockopt, sockopt,
};

use super::*;

/// What the run-again program does; without it the test below does nothing.
const ROLE: &str = "LAGMESH_CLOCK_CHILD";
/// What our lines begin with among those of the test harness.
const MARK: &str = "@ ";

/// This program, run again under a host's clocks.
struct Again {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Again {
    fn start(role: &str, host: &HostClock) -> Again {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "clocks::tests::rust::child", "--nocapture"]).env(ROLE, role).envs(host.env());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Again { child, input, output }
    }

    /// Its answer to one line.
    fn ask(&mut self) -> Vec<i64> {
        writeln!(self.input).unwrap();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.split_whitespace().map(|word| word.parse().unwrap()).collect();
            }
        }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The other side: no test unless it was run again for it.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let began = began();
    for _ in stdin().lines() {
        let numbers = match role.as_str() {
            "clocks" => clocks(began),
            _ => stamps(),
        };
        let words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        println!("{MARK}{}", words.join(" "));
    }
}

#[expect(clippy::disallowed_methods, reason = "what the standard library makes of the clocks is the question")]
fn began() -> std::time::Instant {
    std::time::Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "what the standard library makes of the clocks is the question")]
fn clocks(began: std::time::Instant) -> Vec<i64> {
    let raw_ns = read_ns(ClockId::CLOCK_MONOTONIC_RAW);
    let elapsed_ns = i64::try_from(began.elapsed().as_nanos()).unwrap();
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    vec![raw_ns, elapsed_ns, i64::try_from(wall.as_nanos()).unwrap()]
}

/// Every kind of stamp that the kernel gives a packet on loopback, between the wall clock before it was sent and after it was received:
/// before, after, then the stamps.
fn stamps() -> Vec<i64> {
    let before_ns = read_ns(ClockId::CLOCK_REALTIME);
    let micros = received(|socket| setsockopt(socket, sockopt::ReceiveTimestamp, &true).unwrap(), MsgFlags::empty());
    let nanos = received(|socket| setsockopt(socket, sockopt::ReceiveTimestampns, &true).unwrap(), MsgFlags::empty());
    let software = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    let arriving = software | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE;
    let leaving = software | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE;
    let received_at = received(|socket| setsockopt(socket, sockopt::Timestamping, &arriving).unwrap(), MsgFlags::empty());
    let sent_at = received(|socket| setsockopt(socket, sockopt::Timestamping, &leaving).unwrap(), MsgFlags::MSG_ERRQUEUE);
    let batch = received_in_batch();
    vec![before_ns, read_ns(ClockId::CLOCK_REALTIME), micros, nanos, received_at, sent_at, batch[0], batch[1]]
}

/// A socket that sends to itself.
fn looped() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(socket.local_addr().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn received(prepare: impl Fn(&UdpSocket), flags: MsgFlags) -> i64 {
    let socket = looped();
    prepare(&socket);
    // The kernel begins to stamp only some time after the first socket asked for it.
    let stamp = (0..1000).find_map(|_| {
        socket.send(b"packet").unwrap();
        let (mut data, mut control) = ([0; 128], nix::cmsg_space!([nix::sys::time::TimeSpec; 3], [u8; 64]));
        let mut parts = [IoSliceMut::new(&mut data)];
        let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags).unwrap();
        let stamp = message.cmsgs().unwrap().find_map(|part| stamp_ns(&part));
        if stamp.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        stamp
    });
    stamp.expect("a stamp")
}

fn received_in_batch() -> Vec<i64> {
    let socket = looped();
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).unwrap();
    socket.send(b"one").unwrap();
    socket.send(b"two").unwrap();
    let mut data = [[0; 16]; 2];
    let mut parts: Vec<[IoSliceMut<'_>; 1]> = data.iter_mut().map(|part| [IoSliceMut::new(part)]).collect();
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(2, Some(nix::cmsg_space!(nix::sys::time::TimeSpec)));
    let messages = recvmmsg(socket.as_raw_fd(), &mut headers, parts.iter_mut(), MsgFlags::empty(), None).unwrap();
    messages.map(|message| message.cmsgs().unwrap().find_map(|part| stamp_ns(&part)).expect("a stamp")).collect()
}

fn stamp_ns(message: &ControlMessageOwned) -> Option<i64> {
    match message {
        ControlMessageOwned::ScmTimestamp(time) => Some(time.tv_sec() * S + time.tv_usec() * 1000),
        ControlMessageOwned::ScmTimestampns(time) => Some(time.tv_sec() * S + time.tv_nsec()),
        ControlMessageOwned::ScmTimestampsns(stamps) => Some(stamps.system.tv_sec() * S + stamps.system.tv_nsec()),
        _ => None,
    }
}

/// The standard library and nix see the host's clocks, through steps and drift: between what they were when we asked and when the
/// answer had come.
#[test]
fn standard_library_sees_the_hosts_clocks() {
    let folder = RunFolder::new("clocks").unwrap();
    let host = clock(&folder, &ClockPlan { wall_offset_ns: 10 * S, drift_ppm: 1000.0, ..ClockPlan::default() });
    let mut program = Again::start("clocks", &host);
    let mut ask = || {
        let before = Real::now();
        let answer = program.ask();
        let after = Real::now();
        for (shown_ns, shows) in [(answer[0], HostClock::raw_at as fn(&HostClock, Real) -> i64), (answer[2], HostClock::wall_at)]
        {
            let (low, high) = (shows(&host, before) - 1000, shows(&host, after) + 1000);
            assert!((low..=high).contains(&shown_ns), "{low} <= {shown_ns} <= {high}");
        }
        (before, answer[1], after)
    };
    ask();
    let first = ask();
    host.step_wall(-744 * S).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let last = ask();
    let gained_ns = |elapsed_ns: i64| (last.1 - first.1) - elapsed_ns - elapsed_ns / 1000;
    assert!(gained_ns(last.2 - first.0) <= 1000 && gained_ns(last.0 - first.2) >= -1000, "Instant drifts: {first:?} {last:?}");
}

/// Kernel stamps of packets, received and sent, are on the host's own wall clock, through recvmsg, recvmmsg and the error queue; and
/// on the machine's if the plan says so.
#[test]
fn kernel_stamps_are_on_the_hosts_clock() {
    let folder = RunFolder::new("clocks").unwrap();
    for kernel_stamps_true in [false, true] {
        let plan = ClockPlan { wall_offset_ns: 744 * S, drift_ppm: 50.0, kernel_stamps_true, ..ClockPlan::default() };
        let host = HostClock::new(&folder.path().join(kernel_stamps_true.to_string()), "host", &plan, 0, 0).unwrap();
        let mut program = Again::start("stamps", &host);
        let answer = program.ask();
        let off_ns = if kernel_stamps_true { 744 * S } else { 0 };
        let (low, high) = (answer[0] - off_ns - 100_000, answer[1] - off_ns);
        for stamp_ns in &answer[2..] {
            assert!((low..=high).contains(stamp_ns), "{low} <= {stamp_ns} <= {high} of {answer:?}");
        }
        host.step_wall(-S).unwrap();
        let stepped = program.ask();
        let moved = if kernel_stamps_true { 0..10 * S } else { -S..-S / 2 };
        assert!(
            answer[2..].iter().zip(&stepped[2..]).all(|(first, then)| moved.contains(&(then - first))),
            "{answer:?} {stepped:?}"
        );
    }
}
