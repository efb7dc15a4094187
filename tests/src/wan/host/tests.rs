use nix::time::ClockId;

use super::super::tests::network;
use super::super::{HostPlan, WanPlan};
use crate::real::read_ns;

/// Set in the child that tells its clocks.
const TELL: &str = "LAGMESH_TELL_CLOCKS";
const CLOCKS: [ClockId; 4] =
    [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_MONOTONIC_RAW, ClockId::CLOCK_BOOTTIME, ClockId::CLOCK_REALTIME];

/// No test by itself: what [`programs_have_their_hosts_clocks`] runs inside a host.
#[test]
fn tells_its_clocks() {
    if std::env::var_os(TELL).is_some() {
        println!("clocks {} {}", std::process::id(), CLOCKS.map(|clock| read_ns(clock).to_string()).join(" "));
    }
}

/// A program that runs in a host keeps the process id that it was started with, and finds the host's clocks: monotonic and raw ones
/// shifted alike, the boot clock by its own shift, the wall clock as it is. What it reads them through is the library, so without a
/// system call.
#[test]
fn programs_have_their_hosts_clocks() {
    let plan = HostPlan { monotonic_s: 5000, boottime_s: 90_000, ..HostPlan::new("a", "a") };
    let Some(wan) = network(&WanPlan { hosts: vec![plan], ..WanPlan::default() }) else { return };
    let mut command = wan.host("a").unwrap().place().command(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "wan::host::tests::tells_its_clocks"]).env(TELL, "1");
    let before = CLOCKS.map(read_ns);
    let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let after = CLOCKS.map(read_ns);
    let line = said.lines().find_map(|line| line.split_once("clocks ")).expect(&said).1;
    let mut numbers = line.split_whitespace().map(|number| number.parse::<i64>().unwrap());
    assert_eq!(numbers.next(), Some(pid.into()));
    let shifts_s = [5000, 5000, 90_000, 0];
    for (((told, before), after), shift_s) in numbers.zip(before).zip(after).zip(shifts_s) {
        let shifted = before + shift_s * 1_000_000_000..=after + shift_s * 1_000_000_000;
        assert!(shifted.contains(&told), "{told} instead of {shifted:?} with {shift_s} s");
    }
}

/// A job runs in its host's network: it can take the host's address, and another host's it cannot.
#[test]
fn jobs_run_in_their_hosts_network() {
    let hosts = vec![HostPlan::new("a", "a"), HostPlan::new("b", "b")];
    let Some(wan) = network(&WanPlan { hosts, ..WanPlan::default() }) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for v6 in [false, true] {
        for (host, other, possible) in [("a", "a", true), ("b", "b", true), ("a", "b", false)] {
            let address = wan.address(other, v6).unwrap();
            let bound = wan.host(host).unwrap().run(move || async move { Ok(tokio::net::UdpSocket::bind((address, 0)).await?) });
            assert_eq!(runtime.block_on(bound).is_ok(), possible, "{host} takes the address of {other}");
        }
    }
}
