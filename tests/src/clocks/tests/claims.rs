//! What a host says about its clock.

use super::*;

/// `STA_PLL` and `STA_UNSYNC` of `adjtimex`, its two results, and `EPERM`.
const KEPT: i64 = 0x0001;
const UNKEPT: i64 = 0x0040;
const TIME_OK: i64 = 0;
const TIME_ERROR: i64 = 5;
const REFUSED: i64 = 1;

/// The kernel's claim is what the host was told to say, in both directions and while a program runs; its time is the host's; and no
/// program can turn the machine's own clock.
#[test]
fn adjtimex_says_what_it_was_told() {
    let folder = RunFolder::new("clocks").unwrap();
    let claim = Claim { synchronised: true, max_error_ns: 1_234_567, clockbound: None };
    let host = clock(&folder, &ClockPlan { wall_offset_ns: 744 * S, claim, ..ClockPlan::default() });
    let mut program = Probe::start("timex", &host.env());
    let mut ask = || {
        let before = Real::now();
        let answer = program.ask("");
        let shown_ns = answer[4];
        let bounds = host.wall_at(before) - 1000..host.wall_at(Real::now()) + 1000;
        assert!(bounds.contains(&shown_ns), "{shown_ns} not in {bounds:?}");
        (answer[..4].to_vec(), answer[5])
    };
    assert_eq!(ask(), (vec![TIME_OK, KEPT, 1235, 1235], REFUSED));
    host.set_claim(Claim { synchronised: false, max_error_ns: 16_000_000_000, clockbound: None }).unwrap();
    assert_eq!(ask(), (vec![TIME_ERROR, UNKEPT, 16_000_000, 16_000_000], REFUSED));
    assert!(matches!(host.changes().as_slice(), [Change { what: What::Claim(_), .. }]));
}

fn clockbound(layout: Layout) -> ClockBound {
    ClockBound {
        layout,
        status: Status::Synchronised,
        bound_ns: 250_000,
        max_drift_ppb: 50_000,
        valid_s: 1000,
        disruption_marker: None,
    }
}

/// Numbers of a segment: generation, as of [ns], void after [ns], bound [ns].
fn segment(host: &HostClock) -> [i64; 4] {
    let bytes = fs::read(host.clockbound_path()).unwrap();
    let word = |at: usize| i64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let generation = i64::from(u16::from_ne_bytes([bytes[14], bytes[15]]));
    [generation, word(16) * S + word(24), word(32) * S + word(40), word(48)]
}

/// A segment is as of the host's own coarse monotonic clock, drift and time namespace included, never of the future; it is kept fresh
/// by whoever refreshes it and ages when its daemon is gone.
#[test]
fn clockbound_lives_on_the_hosts_clock() {
    let folder = RunFolder::new("clocks").unwrap();
    let claim = Claim { clockbound: Some(clockbound(Layout::V1)), ..Claim::default() };
    let plan = ClockPlan { drift_ppm: scale::DRIFT_MAX_PPM, claim, ..ClockPlan::default() };
    let host = HostClock::new(&folder.path().join("host"), "host", &plan, 5000, 0).unwrap();
    let [generation, first_ns, ..] = segment(&host);
    assert_eq!(generation, 2);
    std::thread::sleep(Duration::from_millis(200));
    let now = Real::now();
    host.refresh(now).unwrap();
    let coarse = Real(read_ns(ClockId::CLOCK_MONOTONIC_COARSE));
    let [generation, as_of_ns, void_after_ns, bound_ns] = segment(&host);
    assert_eq!((generation, void_after_ns - as_of_ns, bound_ns), (4, 1000 * S, 250_000));
    assert!(as_of_ns <= host.monotonic_at(coarse), "{as_of_ns} is the future for a reader");
    let old_ns = host.monotonic_at(now) - as_of_ns;
    assert!((0..10 * S).contains(&old_ns) && as_of_ns > first_ns + 100_000_000, "{old_ns} {first_ns} {as_of_ns}");
    assert!(as_of_ns > now.0 + 5000 * S, "what the clock gained in 200 ms, 20 ms, is in it");

    host.set_claim(Claim { clockbound: Some(clockbound(Layout::V2)), ..claim }).unwrap();
    assert_eq!((segment(&host)[0], fs::read(host.clockbound_path()).unwrap().len()), (2, 80));
    let last = segment(&host);
    host.set_claim(Claim::default()).unwrap();
    host.refresh(Real::now()).unwrap();
    assert_eq!(segment(&host), last);
}

/// Version 1 has no words for a disruption.
#[test]
fn claims_that_cannot_be_written() {
    let folder = RunFolder::new("clocks").unwrap();
    let host = clock(&folder, &ClockPlan::default());
    for odd in [
        ClockBound { status: Status::Disrupted, ..clockbound(Layout::V1) },
        ClockBound { disruption_marker: Some(1), ..clockbound(Layout::V1) },
    ] {
        assert!(host.set_claim(Claim { clockbound: Some(odd), ..Claim::default() }).is_err());
    }
    assert!(!host.clockbound_path().exists() && host.changes().is_empty());
}
