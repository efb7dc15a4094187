use lagmesh_model::state::Direction;
use proptest::prelude::*;

use super::*;

fn by(number: u32) -> Reflected {
    Reflected { run: 1, number }
}

fn losses(forward: u64, backward: u64, unknown: u64) -> Losses {
    Losses { forward, backward, unknown }
}

/// A flow with so many probes out, sent second by second.
fn sent(start: u32, count: u32) -> Directions {
    let mut directions = Directions::default();
    (0..count).for_each(|n| directions.sent(start.wrapping_add(n), at(n)));
    directions
}

fn at(second: u32) -> RawNanos {
    RawNanos(u64::from(second) * 1_000_000_000)
}

/// Runs probes in order: `Some(n)` is answered with the number n, `None` is lost. All leave first, answers come, losses are given up.
fn told(start: u32, probes: &[Option<u32>]) -> Losses {
    let count = u32::try_from(probes.len()).unwrap();
    let mut directions = sent(start, count);
    for (n, number) in (0..).zip(probes) {
        match number {
            Some(number) => directions.answered(start.wrapping_add(n), Some(by(*number))),
            None => directions.lost(start.wrapping_add(n)),
        }
    }
    let mut told = Losses::default();
    (0..=count).for_each(|second| told += directions.settle(at(second)));
    told
}

/// What reached the reflector was lost on the way back, the rest on the way there; across the wrap-around of either number, too.
#[test]
fn divided() {
    for start in [0, u32::MAX - 1] {
        for base in [0_u32, u32::MAX - 2] {
            let r = |n: u32| Some(base.wrapping_add(n));
            let table = [
                (vec![r(0), None, r(1), r(2)], losses(1, 0, 0)),
                (vec![r(0), None, r(2), r(3)], losses(0, 1, 0)),
                (vec![r(0), None, None, None, r(2), r(3)], losses(2, 1, 0)),
                (vec![r(0), None, r(1), None, r(3), r(4)], losses(1, 1, 0)),
            ];
            for (probes, expected) in table {
                assert_eq!(told(start, &probes), expected, "{start} {base} {probes:?}");
            }
        }
    }
}

/// Where the numbers make no sense nothing is guessed: the reflector began anew, or requests overtook each other across a loss.
#[test]
fn not_guessed() {
    let table = [
        ("began anew", vec![Some(7), None, Some(0), Some(1), Some(2)], losses(0, 0, 1)),
        ("the neighbours overtook each other", vec![Some(5), None, Some(4), Some(6), Some(7)], losses(0, 0, 1)),
        ("the lost one overtook the one before", vec![Some(4), Some(6), None, Some(7), Some(8)], losses(0, 0, 1)),
        ("the lost one was overtaken by the one after", vec![Some(4), None, Some(5), Some(7), Some(8)], losses(0, 0, 1)),
        ("nothing answers any more", vec![Some(4), None, None, None], losses(0, 0, 3)),
        ("nothing answered before", vec![None, None, Some(0), Some(1)], losses(0, 0, 2)),
        ("another gap is not concerned", vec![Some(7), None, Some(0), Some(1), None, Some(3), Some(4)], losses(0, 1, 1)),
    ];
    for (what, probes, expected) in table {
        assert_eq!(told(9, &probes), expected, "{what}");
    }
}

/// Numbers of two runs of a reflector are not compared, even if they fit, nor those of one that is not known to count.
#[test]
fn other_reflectors() {
    for answers in [[Some(by(3)), Some(Reflected { run: 2, number: 4 })], [Some(by(3)), None], [None, Some(by(4))]] {
        let mut directions = sent(0, 4);
        directions.answered(0, answers[0]);
        directions.lost(1);
        directions.answered(2, answers[1]);
        directions.answered(3, answers[1]);
        assert_eq!(directions.settle(at(4)), losses(0, 0, 1), "{answers:?}");
    }
}

/// A probe that our own stall or an error of the network hides leaves the others of its gap known only where that is certain.
#[test]
fn beside_others() {
    let run = |number_after: u32, refused: bool| {
        let mut directions = sent(0, 5);
        directions.answered(0, Some(by(0)));
        if refused {
            directions.refused(1);
        } else {
            directions.open(1);
        }
        directions.lost(2);
        directions.answered(3, Some(by(number_after)));
        directions.answered(4, Some(by(number_after + 1)));
        directions.settle(at(5))
    };
    assert_eq!([1, 2, 3].map(|after| run(after, false)), [losses(1, 0, 0), losses(0, 0, 1), losses(0, 1, 0)]);
    assert_eq!([1, 2, 3].map(|after| run(after, true)), [losses(1, 0, 0), losses(0, 1, 0), losses(0, 0, 1)]);
}

/// While a flow is dead its losses are unknown at once; those that are given up after it came back are known if all went one way.
#[test]
fn after_an_outage() {
    for (number, expected) in [(1, losses(1, 0, 0)), (4, losses(0, 1, 0)), (2, losses(0, 0, 1))] {
        let mut directions = sent(0, 6);
        directions.answered(0, Some(by(0)));
        directions.lost(1);
        directions.lost(2);
        assert_eq!(directions.settle(at(3)), losses(0, 0, 2));
        directions.answered(4, Some(by(number)));
        directions.answered(5, Some(by(number + 1)));
        directions.lost(3);
        assert_eq!(directions.settle(at(6)), expected, "{number}");
    }
}

/// A flow that goes on from another port leaves what is undecided unknown, and loses none; on a new clock nothing is out any more.
#[test]
fn moved() {
    for (new_epoch, later) in [(false, 1), (true, 0)] {
        let mut directions = sent(0, 6);
        directions.answered(0, Some(by(0)));
        directions.lost(1);
        directions.answered(2, Some(by(1)));
        directions.lost(3);
        directions.answered(5, Some(by(2)));
        assert_eq!(directions.settle(at(4)), losses(0, 0, 0));
        if new_epoch {
            directions.new_epoch();
        } else {
            directions.moved();
        }
        assert_eq!(directions.settle(at(4)), losses(0, 0, 2));
        directions.lost(4);
        assert_eq!(directions.settle(at(9)), losses(0, 0, later));
    }
}

/// After so many seconds a probe is given up.
const GIVE_UP: usize = 8;
/// By how many later answers one is overtaken at most.
const ANSWER_HELD_UP_MAX: usize = 2;

/// What a simulated network does to one probe.
#[derive(Debug, Clone, Copy)]
struct Passage {
    /// The request, or else the answer, is lost.
    lost: Option<Direction>,
    /// The request comes twice, the second copy right after the first.
    doubled: bool,
    /// The answer comes twice.
    answer_doubled: bool,
    /// It is overtaken by so many later requests.
    held_up: usize,
    /// The answer is overtaken by so many later ones.
    answer_held_up: usize,
}

fn passage(reorder: usize) -> impl Strategy<Value = Passage> {
    let rare = || prop::bool::weighted(0.1);
    let lost = prop_oneof![8 => Just(None), 1 => Just(Some(Direction::Forward)), 1 => Just(Some(Direction::Backward))];
    (lost, rare(), rare(), 0..=reorder, 0..=ANSWER_HELD_UP_MAX).prop_map(
        |(lost, doubled, answer_doubled, held_up, answer_held_up)| Passage {
            lost,
            doubled,
            answer_doubled,
            held_up,
            answer_held_up,
        },
    )
}

/// Sends all probes one by one over the network, gives up what did not come back, and returns what was told and what was true.
fn simulate(passages: &[Passage], start: (u32, u32)) -> (Losses, Losses) {
    let mut arrivals: Vec<(usize, usize)> = Vec::new();
    for (index, passage) in passages.iter().enumerate().filter(|(_, passage)| passage.lost != Some(Direction::Forward)) {
        arrivals.extend(std::iter::repeat_n((index + passage.held_up, index), if passage.doubled { 2 } else { 1 }));
    }
    arrivals.sort_by_key(|(at, _)| *at);
    let (mut answers, mut seen) = (Vec::new(), std::collections::HashSet::new());
    for (number, (at, index)) in (0_u32..).zip(arrivals) {
        // The second answer to a doubled request comes through: a double of which nothing is seen cannot be told from a loss.
        let is_first = seen.insert(index);
        if is_first && passages[index].lost == Some(Direction::Backward) && !passages[index].doubled {
            continue;
        }
        let copies = if passages[index].answer_doubled { 2 } else { 1 };
        answers.extend(std::iter::repeat_n((at + passages[index].answer_held_up, index, number), copies));
    }
    answers.sort_by_key(|(at, ..)| *at);
    let mut directions = Directions::default();
    let (mut told, mut answered) = (Losses::default(), std::collections::HashSet::new());
    let mut answers = answers.into_iter().peekable();
    let total = passages.len();
    let sequence = |index: usize| start.0.wrapping_add(u32::try_from(index).unwrap());
    let second = |now: usize| at(u32::try_from(now).unwrap());
    for now in 0..total + GIVE_UP {
        if now < total {
            directions.sent(sequence(now), second(now));
        }
        while let Some((_, index, number)) = answers.next_if(|(at, ..)| *at <= now) {
            let number = Some(by(start.1.wrapping_add(number)));
            if answered.insert(index) {
                directions.answered(sequence(index), number);
            } else {
                directions.doubled(number);
            }
        }
        if let Some(index) = now.checked_sub(GIVE_UP) {
            if !answered.contains(&index) {
                directions.lost(sequence(index));
            }
            told += directions.settle(second(index + 1));
        }
        assert!(directions.probes.len() <= GIVE_UP + 1 && directions.doubles.len() <= DOUBLES_MAX);
    }
    let lost: Vec<&Passage> = (0..total).filter(|index| !answered.contains(index)).map(|index| &passages[index]).collect();
    let forward = lost.iter().filter(|passage| passage.lost == Some(Direction::Forward)).count() as u64;
    (told, losses(forward, lost.len() as u64 - forward, 0))
}

const GOOD: Passage = Passage { lost: None, doubled: false, answer_doubled: false, held_up: 0, answer_held_up: 0 };

fn between_good_ones(passages: Vec<Passage>) -> Vec<Passage> {
    [vec![GOOD; 2], passages, vec![GOOD; 12]].concat()
}

/// The same network, but that no run of losses, with the answers behind it held up, lasts until the first of them is given up.
fn with_short_runs(mut passages: Vec<Passage>) -> Vec<Passage> {
    let mut run = 0;
    for passage in &mut passages {
        run = if passage.lost.is_some() { run + 1 } else { 0 };
        if run + ANSWER_HELD_UP_MAX >= GIVE_UP {
            (passage.lost, run) = (None, 0);
        }
    }
    passages
}

proptest! {
    /// On a network that loses and doubles in both directions and lets answers overtake each other, every loss is told in its
    /// direction, as long as no request is overtaken and no run of losses outlasts the patience.
    #[test]
    fn sums_are_exact(passages in proptest::collection::vec(passage(0), 0..300), start: (u32, u32)) {
        let (told, truth) = simulate(&between_good_ones(with_short_runs(passages)), start);
        prop_assert_eq!(told, truth);
    }

    /// Whatever overtakes what, the told losses add up to the true ones.
    #[test]
    fn totals_balance(passages in proptest::collection::vec(passage(3), 0..300), start: (u32, u32)) {
        let (told, truth) = simulate(&between_good_ones(passages), start);
        prop_assert_eq!(told.total(), truth.total());
    }
}
