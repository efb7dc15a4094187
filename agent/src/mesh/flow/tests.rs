use proptest::prelude::*;

use super::*;

const TIMING: Timing =
    Timing { interval: Duration::from_secs(1), deadline: Duration::from_secs(1), give_up: Duration::from_secs(10) };

fn at(ms: u64) -> RawNanos {
    RawNanos(1_000_000_000_000 + ms * 1_000_000)
}

fn flow() -> Flow {
    Flow::new(TIMING, at(0), Duration::ZERO)
}

/// Sends what is due at `ms` and says which number it has.
fn send(flow: &mut Flow, ms: u64) -> u32 {
    let due = flow.on_due(at(ms)).expect("due");
    assert!(due.send && due.skipped == 0);
    let sequence = flow.next_sequence();
    assert_eq!(flow.sent(at(ms), Timestamp(ms)), None);
    sequence
}

fn answer(flow: &mut Flow, sequence: u32, sent_ms: u64, ms: u64) -> Settled {
    flow.on_answer(&Answer {
        sequence,
        echo: Timestamp(sent_ms),
        dwell_ns: Some(1_000),
        at: at(ms),
        at_by_kernel: false,
        reflected: None,
    })
}

fn tick(flow: &mut Flow, ms: u64) -> Vec<Outcome> {
    let mut fates = Vec::new();
    flow.on_tick(at(ms), &mut fates);
    fates.into_iter().map(|fate| fate.outcome).collect()
}

fn outcome(settled: Settled) -> Option<Outcome> {
    match settled {
        Settled::Fate { fate, .. } => Some(fate.outcome),
        Settled::Duplicate | Settled::NotAwaited => None,
    }
}

/// An answer is in time until the deadline, late until it is given up, and then none.
#[test]
fn deadlines() {
    for (after_ms, expected) in
        [(1, Some(Outcome::InTime)), (1000, Some(Outcome::InTime)), (1001, Some(Outcome::Late)), (9999, Some(Outcome::Late))]
    {
        let mut flow = flow();
        let sequence = send(&mut flow, 0);
        assert_eq!(outcome(answer(&mut flow, sequence, 0, after_ms)), expected, "{after_ms}");
    }
    let mut flow = flow();
    let sequence = send(&mut flow, 0);
    assert_eq!(tick(&mut flow, 10_000), []);
    assert_eq!(tick(&mut flow, 10_001), [Outcome::Lost]);
    assert_eq!(answer(&mut flow, sequence, 0, 10_002), Settled::NotAwaited);
}

/// A second copy of an answer changes nothing; an answer with another echo is nobody's.
#[test]
fn duplicates_and_strangers() {
    let mut flow = flow();
    let sequence = send(&mut flow, 0);
    assert_eq!(answer(&mut flow, sequence, 7, 5), Settled::NotAwaited);
    assert_eq!(outcome(answer(&mut flow, sequence, 0, 5)), Some(Outcome::InTime));
    assert_eq!(answer(&mut flow, sequence, 0, 6), Settled::Duplicate);
    assert_eq!(answer(&mut flow, sequence + 1, 0, 6), Settled::NotAwaited);
}

/// A round trip is never zero or negative: a little below zero is drift, more is a corrupt answer.
#[test]
fn impossible_round_trips_are_corrupt() {
    let table = [
        (1_000_000, 0, Some(1_000_000)),
        (1_000_000, 1_000_000, Some(1)),
        (1_000_000, 1_000_050, Some(1)),
        (1_000_000, 1_000_200, None),
        (5, -1, None),
        (0, 0, None),
    ];
    for (elapsed_ns, dwell_ns, expected) in table {
        assert_eq!(round_trip_ns(elapsed_ns, dwell_ns), expected, "{elapsed_ns} {dwell_ns}");
    }
}

/// An answer whose responder wrote stamps that are none settles its probe as corrupt, without a round trip.
#[test]
fn no_stamps_no_round_trip() {
    let mut flow = flow();
    let sequence = send(&mut flow, 0);
    let answer = Answer { sequence, echo: Timestamp(0), dwell_ns: None, at: at(20), at_by_kernel: false, reflected: None };
    let Settled::Fate { fate, .. } = flow.on_answer(&answer) else { panic!("its probe is out") };
    assert_eq!(fate, Fate::of(Outcome::Corrupt));
}

/// One lost packet is not a dead flow; two overdue in a row are, 200 ms after the second was sent; one answer revives it.
#[test]
fn death_and_revival() {
    let mut flow = flow();
    for second in 0..3 {
        let sequence = send(&mut flow, second * 1000);
        answer(&mut flow, sequence, second * 1000, second * 1000 + 20);
    }
    send(&mut flow, 3000);
    tick(&mut flow, 3999);
    assert_eq!(flow.alive(), Some(true));
    send(&mut flow, 4000);
    tick(&mut flow, 4200);
    assert_eq!(flow.alive(), Some(true));
    tick(&mut flow, 4201);
    assert_eq!(flow.alive(), Some(false));
    let sequence = send(&mut flow, 5000);
    answer(&mut flow, sequence, 5000, 5020);
    assert_eq!(flow.alive(), Some(true));
    // Probes 3 and 4 stay overdue and lost, but they are history.
    tick(&mut flow, 5900);
    assert_eq!(flow.alive(), Some(true));
}

/// A long way gets more patience, but never beyond the deadline.
#[test]
fn patience() {
    for (rtt_ms, expected_ms) in [(1, 200), (80, 320), (700, 1000)] {
        let mut flow = flow();
        let sequence = send(&mut flow, 0);
        flow.on_answer(&Answer {
            sequence,
            echo: Timestamp(0),
            dwell_ns: Some(0),
            at: at(rtt_ms),
            at_by_kernel: false,
            reflected: None,
        });
        assert_eq!(flow.patience().as_millis(), expected_ms);
    }
    assert_eq!(flow().patience(), TIMING.deadline);
}

/// A flow that was never answered is dead, not unknown, once two probes are overdue.
#[test]
fn dead_from_the_start() {
    let mut flow = flow();
    assert_eq!(flow.alive(), None);
    send(&mut flow, 0);
    send(&mut flow, 1000);
    tick(&mut flow, 1500);
    assert_eq!(flow.alive(), None);
    tick(&mut flow, 2001);
    assert_eq!(flow.alive(), Some(false));
}

/// A stall of our own host accuses nobody: probes that were out are skipped whether answered or not.
#[test]
fn our_own_stall() {
    let mut flow = flow();
    let first = send(&mut flow, 0);
    send(&mut flow, 1000);
    assert!(!flow.is_stalled(at(2500)) && flow.is_stalled(at(2501)));
    flow.on_stall();
    assert_eq!(outcome(answer(&mut flow, first, 0, 2510)), Some(Outcome::Skipped));
    assert_eq!(tick(&mut flow, 11_001), [Outcome::Skipped]);
    assert_ne!(flow.alive(), Some(false));
}

/// Refusals and unreachable hosts settle the probe they name; only the latter speak about the path.
#[test]
fn errors() {
    let mut flow = flow();
    let first = send(&mut flow, 0);
    send(&mut flow, 1000);
    assert_eq!(flow.on_error(Outcome::Refused, Some(first)), Some(Fate::of(Outcome::Refused)));
    flow.on_no_evidence();
    assert_eq!(flow.alive(), None);
    assert_eq!(flow.on_error(Outcome::Unreachable, None), Some(Fate::of(Outcome::Unreachable)));
    assert_eq!(flow.on_error(Outcome::Unreachable, None), None);
    flow.no_way();
    assert_eq!(flow.alive(), Some(false));
}

/// A kernel's stamp of the sending counts for the answer that comes after it, not for one that came before; who stamped what is told.
#[test]
fn kernel_stamps_of_the_sending() {
    let mut flow = flow();
    let first = send(&mut flow, 0);
    assert_eq!(flow.sent_at(first), Some(at(0)));
    flow.on_kernel_stamp(first, at(2));
    let answer = |sequence, sent_ms, ms, at_by_kernel| Answer {
        sequence,
        echo: Timestamp(sent_ms),
        dwell_ns: Some(0),
        at: at(ms),
        at_by_kernel,
        reflected: None,
    };
    let settled = |rtt_ms: u64, sent_ms, stamps| {
        let fate = Fate { outcome: Outcome::InTime, rtt_ns: Some(rtt_ms * 1_000_000) };
        Settled::Fate { fate, sent: at(sent_ms), stamps }
    };
    assert_eq!(flow.on_answer(&answer(first, 0, 20, true)), settled(18, 2, StampSource::Kernel));
    let second = send(&mut flow, 1000);
    assert_eq!(flow.on_answer(&answer(second, 1000, 1020, true)), settled(20, 1000, StampSource::KernelReceive));
    flow.on_kernel_stamp(second, at(1002));
    assert_eq!((flow.sent_at(second), flow.newest_rtt_ns()), (None, Some(20_000_000)));
    let third = send(&mut flow, 2000);
    flow.on_kernel_stamp(third, at(2001));
    assert_eq!(flow.on_answer(&answer(third, 2000, 2020, false)), settled(19, 2001, StampSource::User));
}

proptest! {
    /// Whatever happens, each attempt has exactly one fate: attempts = fates + those still out; and no round trip is zero.
    #[test]
    fn fates_add_up(steps in proptest::collection::vec((0_u8..8, 0_u64..3000, any::<u8>()), 1..300)) {
        let mut flow = flow();
        let (mut now, mut attempts, mut fates) = (0_u64, 0_u64, Vec::new());
        let mut sent: Vec<(u32, u64)> = Vec::new();
        for (step, wait, pick) in steps {
            now += wait;
            let mut tick = Vec::new();
            match step {
                0..=2 => {
                    if let Some(due) = flow.on_due(at(now)) {
                        attempts += due.skipped + u64::from(due.send);
                        tick.extend((0..due.skipped).map(|_| Fate::of(Outcome::Skipped)));
                        if due.send {
                            sent.push((flow.next_sequence(), now));
                            tick.extend(flow.sent(at(now), Timestamp(now)));
                        }
                    }
                }
                3 | 4 => {
                    if let Some((sequence, ms)) = sent.get(usize::from(pick) % sent.len().max(1)) {
                        let dwell_ns = Some(if pick > 250 { i64::MAX / 2 } else { 10 });
                        let answer = Answer { sequence: *sequence, echo: Timestamp(*ms), dwell_ns, at: at(now), at_by_kernel: false, reflected: None };
                        if let Settled::Fate { fate, .. } = flow.on_answer(&answer) {
                            prop_assert!(fate.rtt_ns != Some(0));
                            tick.push(fate);
                        }
                    }
                }
                5 => tick.extend(flow.on_error(Outcome::Refused, (pick > 128).then_some(u32::from(pick)))),
                6 => flow.on_stall(),
                _ => flow.on_tick(at(now), &mut tick),
            }
            fates.extend(tick);
            prop_assert_eq!(attempts, fates.len() as u64 + flow.outstanding.len() as u64);
        }
    }
}
