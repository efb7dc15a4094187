//! Clocks as real programs see them, against the truth.

mod claims;
mod hosts;
mod probe;
mod rust;

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::files::RunFolder;
use probe::Probe;
use scale::PIECES;

const S: i64 = NS_PER_S;
/// A change that comes so long after the last one [ns], steps by so much [ns] and sets a rate [ppb].
type Turn = (i64, i64, i64);

const STILL: Piece = Piece { anchor_ns: 0, offset_ns: 0, rate_ppb: 0 };

fn clock(folder: &RunFolder, plan: &ClockPlan) -> HostClock {
    HostClock::new(&folder.path().join("host"), "host", plan, 0, 0).unwrap()
}

fn told(pieces: [Piece; PIECES]) -> State {
    State { clocks: [pieces; 4], kernel_stamps_true: false, synchronised: false, max_error_ns: 0 }
}

/// A program that is told by `state`, and the file through which it is told.
fn told_program(folder: &Path, what: &str, state: &State) -> (Probe, ControlFile) {
    let library = library::install(folder).unwrap();
    let control = ControlFile::create(&folder.join("clock"), state).unwrap();
    let preload = ("LD_PRELOAD".to_owned(), library.display().to_string());
    let file = ("LAGMESH_CLOCK_FILE".to_owned(), folder.join("clock").display().to_string());
    (Probe::start(what, &[preload, file]), control)
}

fn piece() -> impl Strategy<Value = Piece> {
    let large = 4_000_000_000_000_000_000_i64;
    (-large..large, -large / 4..large / 4, -100_000_000_i64..100_000_000).prop_map(|(anchor_ns, offset_ns, rate_ppb)| Piece {
        anchor_ns,
        offset_ns,
        rate_ppb,
    })
}

/// The truth is the arithmetic of the library to the nanosecond: any clock, any change of it, any moment around the change and far
/// from it.
#[test]
fn arithmetic_is_the_librarys() {
    let folder = tempfile::tempdir().unwrap();
    let (program, control) = told_program(folder.path(), "shown", &told([STILL; PIECES]));
    let (program, control) = (RefCell::new(program), RefCell::new(control));
    let near = prop_oneof![Just(-1_i64), Just(0), Just(1), -3_600 * S..3_600 * S, any::<i64>().prop_map(|ns| ns / 4)];
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(3000) });
    let property = |(first, changes, which, near, clock): (Piece, Vec<Turn>, prop::sample::Index, i64, usize)| {
        let (mut track, mut anchors) = (Track::new(first), vec![first.anchor_ns]);
        for (later_ns, step_ns, rate_ppb) in changes {
            anchors.push(anchors[anchors.len() - 1] + later_ns);
            track = track.changed(anchors[anchors.len() - 1], step_ns, rate_ppb);
        }
        let mut state = told([STILL; PIECES]);
        state.clocks[clock] = track.newest();
        control.borrow_mut().write(&state).unwrap();
        let real_ns = which.get(&anchors) + near;
        let answer = program.borrow_mut().ask(&format!("{clock} {real_ns}"));
        prop_assert_eq!(answer, [track.shown(real_ns)]);
        Ok(())
    };
    let change = (1..1_000_000 * S, -1_000_000 * S..1_000_000 * S, -100_000_000_i64..100_000_000);
    let changes = prop::collection::vec(change, 0..PIECES);
    runner.run(&(piece(), changes, any::<prop::sample::Index>(), near, 0..4_usize), property).unwrap();
}

/// A reader never sees half of a change, however fast changes follow each other.
#[test]
fn changes_are_seen_whole() {
    let folder = tempfile::tempdir().unwrap();
    let real_ns = 1_700_000_000 * S;
    // Ever other offsets and rates which all show one and the same time at one moment.
    let same = |rate_ppb: i64| Piece { anchor_ns: 0, offset_ns: -(1_700_000_000 * rate_ppb), rate_ppb };
    let (mut program, mut control) = told_program(folder.path(), "whole", &told([same(0); PIECES]));
    let reader = std::thread::spawn(move || program.ask(&format!("30000000 {real_ns}")));
    let mut written = 0;
    while !reader.is_finished() {
        written += 1;
        control.write(&told([same(written % 100_000); PIECES])).unwrap();
    }
    assert!(written > 1000, "only {written} changes");
    assert_eq!(reader.join().unwrap(), [0], "wrong answers during {written} changes");
}

/// Every clock of a host, coarse or not, shows what the truth says it does, by whichever function it is read.
#[test]
fn clocks_show_the_truth() {
    let folder = RunFolder::new("clocks").unwrap();
    let plan = ClockPlan { wall_offset_ns: -744 * S, drift_ppm: 50.0, ..ClockPlan::default() };
    let host = clock(&folder, &plan);
    let mut program = Probe::start("clocks", &host.env());
    for _ in 0..50 {
        program.reading().check(&host);
    }
}

/// A program that runs on sees every step at the moment at which it is said to have happened, and no clock but the wall clock moves.
#[test]
fn steps_while_a_program_runs() {
    let folder = RunFolder::new("clocks").unwrap();
    let host = clock(&folder, &ClockPlan { drift_ppm: -30.0, ..ClockPlan::default() });
    let mut program = Probe::start("clocks", &host.env());
    let mut wall_ns = 0;
    for by_ns in [744 * S, -744 * S, -10_000_000, 1] {
        program.reading().check(&host);
        let before = Real::now();
        let change = host.step_wall(by_ns).unwrap();
        program.reading().check(&host);
        wall_ns += by_ns;
        assert!(change.at > before && Real::now() >= change.settled, "{change:?}");
        assert_eq!(host.wall_at(change.at) - host.wall_at(change.at + -1), by_ns + 1, "nothing else happens in that nanosecond");
        let off_ns = host.wall_at(change.at) - (change.at.0 + machine::at(change.at).wall_ns);
        assert!((off_ns - wall_ns).abs() < 1_000_000, "ahead by {off_ns} instead of {wall_ns}");
    }
    assert_eq!(host.changes().len(), 4);
}

/// In two seconds at 50 ppm every clock gains 100 us on the kernel's, and no reading goes back when the drift turns.
#[test]
fn drift_is_seen_to_the_microsecond() {
    let folder = RunFolder::new("clocks").unwrap();
    let host = clock(&folder, &ClockPlan::default());
    let mut program = Probe::start("clocks", &host.env());
    let change = host.set_drift(50.0).unwrap();
    let first = program.narrow_reading(&host);
    std::thread::sleep(Duration::from_secs(2));
    let last = program.narrow_reading(&host);
    for (first, last) in first.fine().zip(last.fine()) {
        let elapsed_ns = last.middle() - first.middle();
        let gained_ns = (last.shown - first.shown) - elapsed_ns;
        let expected_ns = elapsed_ns * 50 / 1_000_000;
        assert!((gained_ns - expected_ns).abs() < 3000, "gained {gained_ns} ns in {elapsed_ns} ns, expected {expected_ns}");
    }
    let turned = host.set_drift(-50.0).unwrap();
    for at in [change.at, turned.at] {
        for shows in [HostClock::wall_at, HostClock::monotonic_at, HostClock::raw_at, HostClock::boottime_at] {
            let [before, then] = [-1, 0].map(|ns| shows(&host, at + ns));
            assert!((0..=2).contains(&(then - before)), "moved by {} ns", then - before);
        }
    }
    program.reading().check(&host);
}

/// A real program that knows nothing of us prints the host's wall clock.
#[test]
fn date_shows_the_offset() {
    let folder = RunFolder::new("clocks").unwrap();
    let host = clock(&folder, &ClockPlan { wall_offset_ns: 86_400 * S + 500_000_000, ..ClockPlan::default() });
    let mut command = Command::new("date");
    let output = command.args(["+%s%N"]).envs(host.env()).output().unwrap();
    let shown_ns: i64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let late_ns = host.wall_at(Real::now()) - shown_ns;
    assert!((0..10 * S).contains(&late_ns), "{late_ns}");
    let means = host.real_of_wall(shown_ns, Real::now()).unwrap();
    assert!((0..=1).contains(&(shown_ns - host.wall_at(means))) && Real::now() - means < 10 * S);
}

/// Without a control file, or with one that is none, programs see the true clocks, and are told so.
#[test]
fn passes_through() {
    let folder = tempfile::tempdir().unwrap();
    let library = library::install(folder.path()).unwrap();
    fs::write(folder.path().join("short"), "lagclock").unwrap();
    fs::write(folder.path().join("other"), [0; 4096]).unwrap();
    for (file, complains) in [(None, false), (Some("missing"), true), (Some("short"), true), (Some("other"), true)] {
        let mut command = Command::new("date");
        command.args(["+%s%N"]).env("LD_PRELOAD", &library);
        if let Some(file) = file {
            command.env("LAGMESH_CLOCK_FILE", folder.path().join(file));
        }
        let before_ns = read_ns(ClockId::CLOCK_REALTIME);
        let output = command.output().unwrap();
        let shown_ns: i64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        assert!((before_ns..read_ns(ClockId::CLOCK_REALTIME)).contains(&shown_ns), "{file:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).contains("true clocks"), complains, "{file:?}");
    }
}

/// The true offset of two hosts is that of their raw clocks, whatever their wall clocks do, and wall clocks have one of their own.
#[test]
fn offsets_of_two_hosts() {
    let folder = RunFolder::new("clocks").unwrap();
    let plan = |wall_offset_ns, drift_ppm| ClockPlan { wall_offset_ns, drift_ppm, ..ClockPlan::default() };
    let own = HostClock::new(&folder.path().join("a"), "a", &plan(-S, 20.0), 5000, 9000).unwrap();
    let peer = HostClock::new(&folder.path().join("b"), "b", &plan(743 * S, -30.0), 2000, 9000).unwrap();
    peer.step_wall(S).unwrap();
    let now = Real::now();
    let near = |ns: i64, expected_ns: i64| assert!((ns - expected_ns).abs() < 100_000, "{ns} instead of {expected_ns}");
    near(offset_ns(&own, &peer, now), -3000 * S);
    near(wall_offset_ns(&own, &peer, now), 745 * S);
    let moved_ns = offset_ns(&own, &peer, now + 100 * S) - offset_ns(&own, &peer, now);
    assert!((moved_ns + 5_000_000).abs() <= 2, "50 ppm apart for 100 s: {moved_ns}");
    assert_eq!(offset_ns(&own, &peer, now), -offset_ns(&peer, &own, now));
}

/// What no clock can be is refused, and a host has clocks only once.
#[test]
fn refuses_impossible_plans() {
    let folder = RunFolder::new("clocks").unwrap();
    let host = folder.path().join("host");
    let fast = ClockPlan { drift_ppm: 200_000.0, ..ClockPlan::default() };
    assert!(HostClock::new(&host, "host", &fast, 0, 0).is_err());
    let clock = HostClock::new(&host, "host", &ClockPlan::default(), 0, 0).unwrap();
    assert!(clock.set_drift(f64::INFINITY).is_err() && clock.changes().is_empty());
    assert!(HostClock::new(&host, "host", &ClockPlan::default(), 0, 0).is_err());
}
