use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::spool::NAMED_MAX;

const INTERVAL: Duration = Duration::from_secs(10);
const START: RawNanos = RawNanos(1_000_000_000_000);

fn accepted() -> Answer {
    Answer::Accepted { partial: None }
}

fn later(after_s: Option<u64>) -> Answer {
    Answer::Later { after: after_s.map(Duration::from_secs), why: "503".to_owned() }
}

fn failed() -> Answer {
    Answer::Failed { why: "500".to_owned() }
}

/// A collector and a spool for the lanes: batches are made, an outage comes and goes, time is what we say it is.
struct Simulation {
    lanes: Lanes,
    now: RawNanos,
    latency: Duration,
    most_at_a_time: usize,
    /// What is being sent, and when it will have been answered.
    under_way: Vec<(i64, Lane, RawNanos)>,
    waiting: BTreeSet<i64>,
    run_ends: BTreeSet<i64>,
    made: i64,
    next_made: RawNanos,
    delivered: Vec<(i64, RawNanos)>,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let lanes = Lanes::new(INTERVAL, seed);
        Simulation {
            lanes,
            now: START,
            latency: Duration::from_millis(5),
            most_at_a_time: 0,
            under_way: Vec::new(),
            waiting: BTreeSet::new(),
            run_ends: BTreeSet::new(),
            made: 0,
            next_made: START,
            delivered: Vec::new(),
        }
    }

    fn delivered(&self) -> i64 {
        i64::try_from(self.delivered.len()).unwrap()
    }

    fn level(&self) -> Level {
        let newest = self.waiting.last().copied();
        Level {
            batches: self.waiting.len() as u64,
            oldest: self.waiting.iter().copied().map(ParcelId).take(NAMED_MAX).collect(),
            newest: newest.map(ParcelId),
            newest_is_live: newest == Some(self.made) && self.made > 0,
            run_ends: self.run_ends.intersection(&self.waiting).copied().map(ParcelId).take(NAMED_MAX).collect(),
            ..Level::default()
        }
    }

    /// Runs until `end`, answering each batch by `answer` once it has been under way for `latency`.
    fn run_until(&mut self, end: RawNanos, mut answer: impl FnMut(i64, RawNanos) -> Answer) {
        while self.now < end {
            if self.now >= self.next_made {
                self.made += 1;
                self.waiting.insert(self.made);
                self.next_made = self.next_made.after(INTERVAL);
            }
            while let Some(place) = self.under_way.iter().position(|(_, _, there)| *there <= self.now) {
                let (id, lane, _) = self.under_way.remove(place);
                let answer = answer(id, self.now);
                match self.lanes.answered(ParcelId(id), lane, &answer, self.now) {
                    Fate::Kept => {}
                    Fate::Delivered => {
                        assert!(self.waiting.remove(&id));
                        self.delivered.push((id, self.now));
                    }
                    Fate::GivenUp => assert!(self.waiting.remove(&id)),
                }
            }
            let mut next = self.next_made;
            match self.lanes.step(&self.level(), self.now) {
                Step::Idle => {}
                Step::Wait(wait) => next = next.min(self.now.after(wait)),
                Step::Send(id, lane) => {
                    assert!(self.under_way.iter().all(|(other, _, _)| *other != id.0), "{id:?} is sent twice at a time");
                    self.under_way.push((id.0, lane, self.now.after(self.latency)));
                    self.most_at_a_time = self.most_at_a_time.max(self.under_way.len());
                    next = self.now;
                }
            }
            let there = self.under_way.iter().map(|(_, _, there)| *there).min();
            self.now = there.map_or(next, |there| next.min(there)).max(self.now);
        }
    }
}

fn minutes(n: u64) -> RawNanos {
    START.after(Duration::from_secs(60 * n))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After a ten-minute outage the newest batch is there within the back-off's cap and one interval, everything else
    /// within a minute of it, each once, the old ones in the order in which they were made and never faster than agreed.
    #[test]
    fn everything_arrives_after_an_outage(seed: u64, offset_s in 0u64..20) {
        let mut simulation = Simulation::new(seed);
        simulation.run_until(minutes(1), |_, _| accepted());
        let back = minutes(11).after(Duration::from_secs(offset_s));
        simulation.run_until(minutes(13), |_, now| if now < back { later(None) } else { accepted() });

        let ids: BTreeSet<i64> = simulation.delivered.iter().map(|(id, _)| *id).collect();
        prop_assert_eq!(ids.len(), simulation.delivered.len());
        prop_assert_eq!(ids, (1..=simulation.made).collect::<BTreeSet<_>>());

        let after: Vec<_> = simulation.delivered.iter().filter(|(_, at)| *at >= back).copied().collect();
        prop_assert!(after[0].1.checked_since(back).unwrap() <= BACKOFF_CAP_MAX + INTERVAL);
        let made_when_back = i64::try_from(back.checked_since(START).unwrap().as_secs() / 10).unwrap();
        prop_assert!(after[0].0 >= made_when_back, "live first: {:?}", after[0]);
        let missed: Vec<_> = after.iter().filter(|(id, _)| *id < made_when_back - 2).copied().collect();
        prop_assert!(missed.is_sorted_by_key(|(id, _)| *id));
        prop_assert!(missed.windows(2).all(|pair| pair[1].1.checked_since(pair[0].1).unwrap() >= INTERVAL / BACKFILL_SPEED));
        prop_assert!(missed.last().unwrap().1.checked_since(after[0].1).unwrap() <= Duration::from_secs(60));
    }

    /// Attempts at a dead collector become rare and stay so: at most one per half cap once the back-off has grown.
    #[test]
    fn dead_collectors_are_left_alone(seed: u64) {
        let mut simulation = Simulation::new(seed);
        let mut attempts = Vec::new();
        simulation.run_until(minutes(10), |_, now| { attempts.push(now); later(None) });
        prop_assert!((50..=130).contains(&attempts.len()), "{}", attempts.len());
        let gaps = attempts.windows(2).map(|pair| pair[1].checked_since(pair[0]).unwrap());
        prop_assert!(gaps.skip(10).all(|gap| gap >= BACKOFF_CAP_MAX / 2));
    }
}

/// A collector that says when to come again is not asked before.
#[test]
fn retry_after_is_honoured() {
    let mut simulation = Simulation::new(1);
    let mut attempts = Vec::new();
    simulation.run_until(minutes(3), |_, now| {
        attempts.push(now);
        if attempts.len() == 1 { later(Some(60)) } else { accepted() }
    });
    assert!(attempts[1].checked_since(attempts[0]).unwrap() >= Duration::from_secs(60));
}

/// A refused batch is given up at once and holds nothing up.
#[test]
fn refused_batches_do_not_loop() {
    let mut simulation = Simulation::new(1);
    let mut tries = 0;
    simulation.run_until(minutes(2), |id, _| {
        if id == 3 {
            tries += 1;
            Answer::Refused { why: "400".to_owned() }
        } else {
            accepted()
        }
    });
    assert_eq!((tries, simulation.delivered.len()), (1, 11));
}

/// Batches at which the collector always fails are each given up after the same number of tries, also where several of them are under way
/// at a time; the others pass them by.
#[test]
fn poison_is_given_up() {
    for latency in [Duration::from_millis(5), INTERVAL] {
        let mut simulation = Simulation::new(1);
        simulation.latency = latency;
        simulation.waiting.extend(-20..=0);
        let mut tries: BTreeMap<i64, u32> = BTreeMap::new();
        simulation.run_until(minutes(20), |id, _| {
            if (-9..-6).contains(&id) {
                *tries.entry(id).or_default() += 1;
                return failed();
            }
            accepted()
        });
        assert_eq!(tries.into_values().collect::<Vec<_>>(), [BACKFILL_TRIES_MAX; 3]);
        assert!(simulation.waiting.iter().all(|id| *id > 0), "{:?}", simulation.waiting);
    }
}

/// A collector that fails at everything for a while loses nothing, not even what another run of the agent has left: no old
/// batch is tried while no live one is taken.
#[test]
fn broken_collectors_lose_nothing() {
    let mut simulation = Simulation::new(1);
    simulation.waiting.extend(-5..=0);
    simulation.run_until(minutes(10), |_, _| failed());
    simulation.run_until(minutes(13), |_, _| accepted());
    assert_eq!(simulation.delivered(), simulation.made + 6);
}

/// What another run has left waits until a live batch was taken, so that a collector that is in trouble is not asked for more.
#[test]
fn old_batches_wait_for_a_live_one() {
    let mut lanes = Lanes::new(INTERVAL, 1);
    let left = Level { oldest: vec![ParcelId(1)], newest: Some(ParcelId(5)), ..Level::default() };
    assert_eq!(lanes.step(&left, START), Step::Idle);
    let live = Level { newest_is_live: true, ..left };
    assert_eq!(lanes.step(&live, START), Step::Send(ParcelId(5), Lane::Live));
}

/// Whatever is missing, the last batches of earlier runs follow the first live one at once, the oldest first, and let live ones pass; only
/// then comes what else was missed.
#[test]
fn ends_of_runs_follow_the_first_live_batch() {
    let mut simulation = Simulation::new(1);
    simulation.latency = Duration::from_millis(20);
    simulation.waiting.extend(-1000..=0);
    simulation.run_ends.extend((-1000..=0).step_by(2));
    simulation.run_until(minutes(1), |_, _| accepted());
    let order: Vec<i64> = simulation.delivered.iter().map(|(id, _)| *id).collect();
    let ends: Vec<i64> = order.iter().copied().filter(|id| simulation.run_ends.contains(id)).collect();
    assert!(order[0] == 1 && ends.len() == 501 && ends.is_sorted());
    let first_missed = order.iter().position(|id| *id < 0 && id % 2 != 0).unwrap();
    let (before, live) = (&order[..first_missed], order[..first_missed].iter().filter(|id| **id > 0).count());
    assert_eq!(before.len(), ends.len() + live);
    let took = simulation.delivered[first_missed - 1].1.checked_since(START).unwrap();
    assert!(live >= 2 && took < Duration::from_secs(11), "{live} live ones in {took:?}");
}

/// The end of a run at which a collector always fails is given up like any other old batch, and nothing else waits for long.
#[test]
fn a_poisonous_end_of_a_run_is_given_up() {
    let mut simulation = Simulation::new(1);
    simulation.waiting.extend(-5..=0);
    simulation.run_ends.extend([-3, 0]);
    simulation.run_until(minutes(5), |id, _| if id == -3 { failed() } else { accepted() });
    assert_eq!(simulation.waiting, BTreeSet::new());
    assert_eq!(simulation.delivered(), simulation.made + 5);
}

/// Six hours of a collector on the other side of the world are there within eight minutes, and no live batch waits for an old one.
#[test]
fn far_collectors_catch_up() {
    let mut simulation = Simulation::new(1);
    simulation.latency = Duration::from_millis(300);
    simulation.waiting.extend(-2160..=0);
    simulation.run_until(minutes(9), |_, _| accepted());
    let missed: Vec<_> = simulation.delivered.iter().filter(|(id, _)| *id <= 0).collect();
    assert_eq!(missed.len(), 2161);
    assert!(missed.last().unwrap().1 < minutes(8));
    for (id, at) in simulation.delivered.iter().filter(|(id, _)| *id > 0) {
        let made = START.after(INTERVAL * u32::try_from(id - 1).unwrap());
        assert_eq!(at.checked_since(made), Some(simulation.latency), "batch {id}");
    }
}

/// A collector that is far away is sent several old batches at a time, one that is busy but near is not: it answers quickly now and then.
#[test]
fn only_distance_puts_several_under_way() {
    let several = |took: &[u64]| {
        let mut simulation = Simulation::new(1);
        simulation.waiting.extend(-1000..=0);
        for took in took {
            simulation.latency = Duration::from_millis(*took);
            simulation.run_until(simulation.now.after(Duration::from_secs(11)), |_, _| accepted());
        }
        simulation.most_at_a_time
    };
    assert_eq!(several(&[300, 300]), 1 + 2);
    assert_eq!(several(&[900, 900]), 1 + OLD_MAX);
    assert_eq!(several(&[5, 900]), 1 + 1);
}

/// Where a request takes longer than an interval, what live batches have passed by still gets there.
#[test]
fn a_slow_collector_is_caught_up_with() {
    let mut simulation = Simulation::new(1);
    simulation.latency = INTERVAL * 3 / 2;
    simulation.run_until(minutes(60), |_, _| accepted());
    assert!(simulation.waiting.len() <= 4, "{} wait", simulation.waiting.len());
}

/// What was sent before a collector asked for a pause, and is taken during it, does not end the pause.
#[test]
fn a_pause_is_kept_whatever_was_under_way() {
    let mut lanes = Lanes::new(INTERVAL, 1);
    let level = Level { oldest: vec![ParcelId(1)], newest: Some(ParcelId(5)), newest_is_live: true, ..Level::default() };
    lanes.answered(ParcelId(4), Lane::Live, &accepted(), START);
    lanes.answered(ParcelId(5), Lane::Live, &later(Some(60)), START);
    lanes.answered(ParcelId(1), Lane::Backfill, &accepted(), START);
    lanes.hindered(ParcelId(2), START);
    assert_eq!(lanes.step(&level, START), Step::Wait(Duration::from_secs(60)));
}

/// A measuring clock that starts anew far back does not silence the delivery until it is where it was.
#[test]
fn a_clock_that_runs_backwards_holds_up_nothing() {
    let mut lanes = Lanes::new(INTERVAL, 1);
    lanes.answered(ParcelId(1), Lane::Live, &later(Some(300)), START);
    let (one, two) = (Some(ParcelId(1)), Some(ParcelId(2)));
    let level = Level { batches: 2, oldest: vec![ParcelId(1)], newest: two, newest_is_live: true, ..Level::default() };
    assert!(matches!(lanes.step(&level, START), Step::Wait(_)));
    assert_eq!(lanes.step(&level, RawNanos(5)), Step::Send(ParcelId(2), Lane::Live));
    lanes.answered(ParcelId(2), Lane::Live, &accepted(), START);
    let old = Level { newest: one, newest_is_live: false, ..level };
    assert_eq!(lanes.step(&old, RawNanos(5)), Step::Send(ParcelId(1), Lane::Backfill));
}
