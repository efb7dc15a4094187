//! A C program that tells what it sees of the clocks, one line for one line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::super::{HostClock, NS_PER_S, library};
use crate::real::Real;

/// How far the truth may be off where a real moment was found by reading two clocks one after the other [ns].
const READING_NS: i64 = 1000;

/// The running program. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Probe {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _folder: TempDir,
}

/// One clock, read through the C library between two readings of the kernel's own [ns].
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    first: i64,
    pub(super) shown: i64,
    last: i64,
}

/// All clocks. The last two readings are gettimeofday (rounded down to microseconds) and time (to seconds).
#[derive(Debug, Clone)]
pub(super) struct Readings {
    clocks: Vec<Reading>,
    before: i64,
    after: i64,
}

impl Probe {
    pub(super) fn start(what: &str, env: &[(String, String)]) -> Probe {
        Probe::start_in(&[], what, env)
    }

    /// Starts it by a command that becomes what follows it.
    pub(super) fn start_in(enter: &[&str], what: &str, env: &[(String, String)]) -> Probe {
        static COMPILED: OnceLock<Vec<u8>> = OnceLock::new();
        let bytes = COMPILED.get_or_init(|| library::compile(include_str!("../../../clock/probe.c"), &[]).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let (written, path) = (folder.path().join("written"), folder.path().join("probe"));
        std::fs::write(&written, bytes).unwrap();
        // Whoever is forked meanwhile by another test has what we write open, and a program that somebody can write does not start.
        assert!(Command::new("install").args(["-m", "755"]).args([&written, &path]).status().unwrap().success());
        let mut command = Command::new(enter.first().copied().unwrap_or("env"));
        command.args(enter.iter().skip(1)).arg(&path).arg(what);
        command.envs(env.iter().cloned()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Probe { child, input, output, _folder: folder }
    }

    /// The numbers of its answer to one line.
    pub(super) fn ask(&mut self, line: &str) -> Vec<i64> {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.split_whitespace().map(|word| word.parse().unwrap_or_else(|_| panic!("answered {answer:?}"))).collect()
    }

    pub(super) fn reading(&mut self) -> Readings {
        let numbers = self.ask("");
        let (clocks, around) = numbers.split_at(numbers.len() - 2);
        let clocks = clocks.chunks(3).map(|part| Reading { first: part[0], shown: part[1], last: part[2] }).collect();
        Readings { clocks, before: around[0], after: around[1] }
    }

    /// Of many readings, each checked, the one that took least time.
    pub(super) fn narrow_reading(&mut self, host: &HostClock) -> Readings {
        let readings = (0..100).map(|_| self.reading()).inspect(|reading| reading.check(host));
        readings.min_by_key(|reading| reading.fine().map(|clock| clock.last - clock.first).max()).unwrap()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Reading {
    /// The middle of the kernel's readings [ns].
    pub(super) fn middle(self) -> i64 {
        self.first + (self.last - self.first) / 2
    }
}

impl Readings {
    /// Wall, monotonic, raw and boot clock, without the coarse ones.
    pub(super) fn fine(&self) -> impl Iterator<Item = Reading> {
        [0, 2, 4, 5].into_iter().map(|index| self.clocks[index])
    }

    /// Each clock shows what the library's arithmetic makes of some moment between the kernel's two readings (exactly), and what the
    /// truth says of some real moment while it was read.
    pub(super) fn check(&self, host: &HostClock) {
        let inner = host.lock();
        let tracks = [&inner.tracks.wall, &inner.tracks.monotonic, &inner.tracks.raw, &inner.tracks.boot];
        let clocks = [(0, 1), (0, 1), (1, 1), (1, 1), (2, 1), (3, 1), (0, 1000), (0, NS_PER_S)];
        for (reading, (track, unit_ns)) in self.clocks.iter().zip(clocks) {
            let [low, high] = [reading.first, reading.last].map(|ns| tracks[track].shown(ns));
            let low = low.div_euclid(unit_ns) * unit_ns;
            assert!(
                (low..=high).contains(&reading.shown),
                "clock {track}: {low} <= shown <= {high}, {reading:?}, {:?}",
                tracks[track]
            );
        }
        drop(inner);
        let around = [self.before, self.after].map(|ns| Real(ns - host.namespace.monotonic));
        let shows = [HostClock::wall_at, HostClock::monotonic_at, HostClock::raw_at, HostClock::boottime_at];
        for (reading, shows) in self.fine().zip(shows) {
            let (low, high) = (shows(host, around[0]) - READING_NS, shows(host, around[1]) + READING_NS);
            assert!((low..=high).contains(&reading.shown), "{low} <= {} <= {high}", reading.shown);
        }
    }
}
