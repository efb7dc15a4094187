use super::*;

const MS: i64 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);

/// A seeded source of normal and uniform numbers.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64) / (1_u64 << 53) as f64
    }

    fn normal(&mut self, mean: f64, deviation: f64) -> f64 {
        mean + deviation * ((0..12).map(|_| self.uniform()).sum::<f64>() - 6.0)
    }
}

/// What a run of the plan against simulated arrivals cost and gave.
struct Run {
    /// Queries per beat.
    queries: Vec<usize>,
    /// Width of the interval in which each beat was found [ns].
    widths_ns: Vec<i64>,
    /// How far off the guess and the middle of that interval are [ns].
    guess_off_ns: Vec<i64>,
    middle_off_ns: Vec<i64>,
}

impl Run {
    fn mean_queries(&self) -> f64 {
        self.queries.iter().sum::<usize>() as f64 / self.queries.len() as f64
    }

    fn width_ms(&self, q: f64) -> f64 {
        let mut widths = self.widths_ns.clone();
        widths.sort_unstable();
        nearest_rank(&widths, q).unwrap() as f64 / 1e6
    }
}

/// Runs the plan over the arrivals (ns on the reader's clock, rising); timers wake up to 0.2 ms late, a poll takes 0.4 to 0.8 ms.
#[expect(clippy::cast_possible_truncation, reason = "simulated times are small")]
fn simulate(plan: &mut PollPlan, arrivals: &[i64], random: &mut Random, mut now: i64) -> (Run, i64) {
    let mut run = Run { queries: Vec::new(), widths_ns: Vec::new(), guess_off_ns: Vec::new(), middle_off_ns: Vec::new() };
    let mut next = 0;
    let mut queries = 0;
    let mut absent = None;
    while next < arrivals.len() {
        let due = plan.next_poll(RawNanos(now.cast_unsigned())).0.cast_signed();
        assert!(due >= now, "a plan never asks for the past");
        assert!(due <= now + 1_000 * MS, "always a poll within an interval");
        let started = due + (random.uniform() * 2e5) as i64;
        let seen_at = started + (2e5 + random.uniform() * 2e5) as i64;
        let ended = seen_at + (2e5 + random.uniform() * 2e5) as i64;
        queries += 1;
        let arrived = arrivals[next..].iter().take_while(|at| **at <= seen_at).count();
        let found = plan.on_poll(RawNanos(started.cast_unsigned()), RawNanos(ended.cast_unsigned()), arrived > 0);
        if arrived > 0 {
            if let (Some(absent), Some(guess)) = (absent, found.guess) {
                let middle: i64 = i64::midpoint(absent, ended);
                assert!((absent..=ended).contains(&guess.0.cast_signed()), "a guess lies within its gap");
                run.guess_off_ns.push((guess.0.cast_signed() - arrivals[next]).abs());
                run.middle_off_ns.push((middle - arrivals[next]).abs());
            }
            next += arrived;
            run.queries.push(queries);
            if let Some(absent) = absent {
                run.widths_ns.push(ended - absent);
            }
            queries = 0;
        }
        absent = Some(started);
        now = ended;
    }
    (run, now)
}

#[expect(clippy::cast_possible_truncation, reason = "simulated times are small")]
fn steady(random: &mut Random, from: i64, count: i64, mean_ms: f64, deviation_ms: f64) -> Vec<i64> {
    (from..from + count).map(|n| n * 1_000 * MS + (random.normal(mean_ms, deviation_ms) * 1e6) as i64).collect()
}

/// Where arrivals spread normally the mean gap is within 1.7 times the best that so many polls could reach at all: `2.07 s / (Q - 1/2)` and
/// the length of a poll. Beats that come fast and spread wide are guessed more closely, by more polls.
#[test]
fn near_the_frontier() {
    for (interval_ms, deviation_ms, polls, off_max_ms) in
        [(1_000, 1.0, 3.5..4.2, 0.6), (1_000, 5.0, 4.4..5.0, 1.9), (200, 1.0, 3.5..4.2, 0.6), (200, 5.0, 4.8..5.3, 1.6)]
    {
        let mut random = Random(13);
        let mut plan = PollPlan::new(Duration::from_millis(interval_ms));
        let interval = i64::try_from(interval_ms).unwrap() * MS;
        #[expect(clippy::cast_possible_truncation, reason = "simulated times are small")]
        let mut arrivals = |from: i64, count: i64| -> Vec<i64> {
            (from..from + count).map(|n| n * interval + (random.normal(40.0, deviation_ms) * 1e6) as i64).collect()
        };
        let (learnt, measured) = (arrivals(1, 60), arrivals(61, 4_000));
        let (_, now) = simulate(&mut plan, &learnt, &mut random, 0);
        let (run, _) = simulate(&mut plan, &measured, &mut random, now);
        let mean_ms = run.widths_ns.iter().sum::<i64>() as f64 / run.widths_ns.len() as f64 / 1e6;
        let best_ms = 2.07 * deviation_ms / (run.mean_queries() - 0.5) + 0.6;
        println!(
            "every {interval_ms} ms, +- {deviation_ms} ms: {:.2} polls for each beat, mean gap {mean_ms:.2} ms, {:.2} times the frontier; p50/p90/p99 {:.2}/{:.2}/{:.2} ms",
            run.mean_queries(),
            mean_ms / best_ms,
            run.width_ms(0.5),
            run.width_ms(0.9),
            run.width_ms(0.99),
        );
        assert!(mean_ms < 1.7 * best_ms && polls.contains(&run.mean_queries()), "{mean_ms} {best_ms} {}", run.mean_queries());
        let off_ms = |offs: &[i64], q: f64| {
            let mut offs = offs.to_vec();
            offs.sort_unstable();
            nearest_rank(&offs, q).unwrap() as f64 / 1e6
        };
        for q in [0.5, 0.9, 0.99] {
            let (guess_ms, middle_ms) = (off_ms(&run.guess_off_ns, q), off_ms(&run.middle_off_ns, q));
            println!("  guess off by {guess_ms:.2} ms, the middle by {middle_ms:.2} ms at {q}");
            assert!(guess_ms <= middle_ms * 1.05, "a guess is no worse than the middle");
        }
        assert!(off_ms(&run.guess_off_ns, 0.9) < off_max_ms);
    }
}

/// On a steady link the plan costs few queries per beat and finds beats within a few milliseconds.
#[test]
fn steady_link_is_cheap_and_narrow() {
    for (mean_ms, deviation_ms, queries_max, width_max_ms) in
        [(40.0, 3.0, 7.0, 5.0), (1.0, 0.3, 7.0, 5.0), (300.0, 10.0, 8.0, 14.0)]
    {
        let mut random = Random(7);
        let mut plan = PollPlan::new(SECOND);
        let (_, now) = simulate(&mut plan, &steady(&mut random, 1, 30, mean_ms, deviation_ms), &mut random, 0);
        let (run, _) = simulate(&mut plan, &steady(&mut random, 31, 2_000, mean_ms, deviation_ms), &mut random, now);
        println!(
            "lag {mean_ms} +- {deviation_ms} ms: {:.2} queries per beat, width p50/p90/p99 {:.2}/{:.2}/{:.2} ms",
            run.mean_queries(),
            run.width_ms(0.5),
            run.width_ms(0.9),
            run.width_ms(0.99),
        );
        assert!(run.mean_queries() < queries_max && run.width_ms(0.5) < width_max_ms);
    }
}

fn locked(random: &mut Random) -> (PollPlan, i64) {
    let mut plan = PollPlan::new(SECOND);
    let (_, now) = simulate(&mut plan, &steady(random, 1, 40, 40.0, 3.0), random, 0);
    (plan, now)
}

/// The longer the poll took that found a beat, the likelier the beat came while it was under way: the guess is later, and within the gap.
#[test]
fn a_long_poll_was_under_way() {
    let (plan, now) = locked(&mut Random(17));
    let absent = plan.next_poll(RawNanos(now.cast_unsigned())).0.cast_signed();
    let ended = absent + 24 * MS;
    let guess = |took_ns: i64| {
        let (mut plan, raw) = (plan.clone(), |ns: i64| RawNanos(ns.cast_unsigned()));
        plan.on_poll(raw(absent), raw(absent + MS / 2), false);
        plan.on_poll(raw(ended - took_ns), raw(ended), true).guess.unwrap().0.cast_signed()
    };
    let guesses = [MS / 2, 3 * MS, 6 * MS].map(guess);
    println!("{:?}", guesses.map(|guess| (guess - absent) as f64 / 1e6));
    assert!(guesses.is_sorted_by(|a, b| a < b) && absent < guesses[0] && guesses[2] < ended);
}

/// An outage is searched with short gaps, then costs one query per interval; it teaches nothing, so the next beat is found at once.
#[test]
fn outage_is_bounded_and_forgotten() {
    let mut random = Random(11);
    let (mut plan, now) = locked(&mut random);
    let resumed = 101 * 1_000 * MS;
    let (mut at, mut early, mut late) = (now, 0, 0);
    while at < resumed {
        let due = plan.next_poll(RawNanos(at.cast_unsigned())).0.cast_signed();
        let since_last = due - now;
        assert!(due - at <= if since_last < 10_000 * MS { 1_000 * MS } else { 1_001 * MS });
        if since_last < 10_000 * MS {
            early += 1;
        } else {
            late += 1;
        }
        plan.on_poll(RawNanos(due.cast_unsigned()), RawNanos((due + MS).cast_unsigned()), false);
        at = due + MS;
    }
    println!("outage: {early} queries in the first 10 s, {late} in the 50 s after");
    assert!(early < 260 && late < 60, "{early} {late}");
    // The backlog comes at once, then beats arrive as before.
    let mut arrivals = vec![resumed + 500 * MS];
    arrivals.extend(steady(&mut random, 103, 100, 40.0, 3.0));
    let (run, _) = simulate(&mut plan, &arrivals, &mut random, at);
    assert!(
        run.widths_ns[1] < 110 * MS && run.mean_queries() < 8.0 && run.width_ms(0.5) < 5.0,
        "{} {}",
        run.widths_ns[1],
        run.mean_queries()
    );
}

/// When lag changes for good, or the writer starts on another schedule, the plan is narrow again within a few beats.
#[test]
fn new_phase_is_learnt() {
    for shift_ms in [80.0, 400.0, -30.0, 700.0] {
        let mut random = Random(5);
        let (mut plan, now) = locked(&mut random);
        let (before, now) = simulate(&mut plan, &steady(&mut random, 41, 12, 40.0 + shift_ms, 3.0), &mut random, now);
        let (after, _) = simulate(&mut plan, &steady(&mut random, 53, 100, 40.0 + shift_ms, 3.0), &mut random, now);
        println!(
            "shift by {shift_ms} ms: {:.1} queries per beat at first, then {:.1} and width {:.1} ms",
            before.mean_queries(),
            after.mean_queries(),
            after.width_ms(0.5)
        );
        assert!(before.mean_queries() < 25.0 && after.mean_queries() < 8.0 && after.width_ms(0.5) < 5.0, "{shift_ms}");
    }
}

/// Two clocks that drift against each other by twice their allowance do not shake the plan off.
#[test]
#[expect(clippy::cast_possible_truncation, reason = "simulated times are small")]
fn drift_is_followed() {
    for drift in [1e-4, -1e-4] {
        let mut random = Random(3);
        let mut plan = PollPlan::new(SECOND);
        let arrivals: Vec<i64> =
            (1..2_000).map(|n| ((f64::from(n) * (1.0 + drift) * 1e3 + random.normal(40.0, 1.0)) * 1e6) as i64).collect();
        let (run, _) = simulate(&mut plan, &arrivals, &mut random, 0);
        println!(
            "drift {drift}: {:.2} queries per beat, width p50/p99 {:.2}/{:.2} ms",
            run.mean_queries(),
            run.width_ms(0.5),
            run.width_ms(0.99)
        );
        assert!(run.mean_queries() < 8.0 && run.width_ms(0.5) < 5.0);
    }
}

/// Heavy tails (one beat in ten is late by up to 300 ms) widen the few, not the many.
#[test]
#[expect(clippy::cast_possible_truncation, reason = "simulated times are small")]
fn heavy_tail_does_not_explode_the_range() {
    let mut random = Random(9);
    let mut plan = PollPlan::new(SECOND);
    let arrivals: Vec<i64> = (1..2_000)
        .map(|n| {
            let tail = if random.uniform() < 0.1 { random.uniform() * 300.0 } else { 0.0 };
            ((f64::from(n) * 1e3 + random.normal(40.0, 2.0) + tail) * 1e6) as i64
        })
        .collect();
    let (run, _) = simulate(&mut plan, &arrivals, &mut random, 0);
    println!(
        "heavy tail: {:.2} queries per beat, width p50/p90/p99 {:.2}/{:.2}/{:.2} ms",
        run.mean_queries(),
        run.width_ms(0.5),
        run.width_ms(0.9),
        run.width_ms(0.99)
    );
    assert!(run.mean_queries() < 9.0 && run.width_ms(0.5) < 6.0);
}
