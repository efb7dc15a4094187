use lagmesh_model::state::Outcome;
use lagmesh_model::time::{Epoch, WallNanos};

use super::*;

const MS: u64 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Reading {
    Reading { epoch: Epoch(1), raw: RawNanos((100_000 + ms) * MS), wall: WallNanos((500_000 + ms) * MS) }
}

/// Answer `number`, which by our stamps took 20 ms, and left the reflector at `500_000 ms` by its own stamp.
fn measured(number: u32) -> Measured {
    let exchange = Exchange { t1: at(0).raw, t2: RawNanos(7), t3: RawNanos(9), t4: at(20).raw };
    Measured {
        fate: Fate { outcome: Outcome::InTime, rtt_ns: Some(20 * MS) },
        stamps: StampSource::Kernel,
        exchange: Some(exchange),
        hop_limits: Directed { forward: None, backward: None },
        number,
        answered: (Timestamp::of(at(0).wall, Format::Ptp), Format::Ptp),
        at: at(20),
    }
}

fn told(number: u32, late_ns: i64, method: Method) -> FollowUp {
    let wall = WallNanos(at(0).wall.0.saturating_add_signed(late_ns));
    FollowUp { number, timestamp: Timestamp::of(wall, Format::Ptp), method }
}

/// What is told when an answer comes: the one before it, and itself.
fn answered(held: &mut Held, measured: Measured, word: Option<FollowUp>) -> [Option<Measured>; 2] {
    [held.follow_up(word), held.hold(measured, word, SECOND)]
}

fn rtts_ns(told: [Option<Measured>; 2]) -> [Option<u64>; 2] {
    told.map(|measured| measured.and_then(|measured| measured.fate.rtt_ns))
}

/// The first answer of a session is told at once; each one after it waits for the next, and is told without the time that the reflector
/// took to let its answer go.
#[test]
fn told_one_answer_later() {
    let mut held = Held::default();
    assert_eq!(rtts_ns(answered(&mut held, measured(0), None)), [None, Some(20 * MS)]);
    assert_eq!(rtts_ns(answered(&mut held, measured(1), Some(told(0, 50_000, Method::Local)))), [None, None]);
    let [corrected, none] = answered(&mut held, measured(2), Some(told(1, 300_000, Method::Local)));
    let corrected = corrected.unwrap();
    assert!(none.is_none());
    assert_eq!((corrected.fate.rtt_ns, corrected.stamps), (Some(20 * MS - 300_000), StampSource::KernelBothEnds));
    assert_eq!(corrected.exchange.unwrap().t3, RawNanos(9 + 300_000));
    assert_eq!(corrected.at, at(20), "settled when its answer came");
}

/// A word about another answer, of the reflector's program, or one that cannot be, changes nothing.
#[test]
fn words_that_do_not_count() {
    let words = [
        None,
        Some(told(5, 300_000, Method::Local)),
        Some(told(1, 300_000, Method::ControlPlane)),
        Some(told(1, -1_000, Method::Local)),
        Some(told(1, 20_000_000, Method::Local)),
        Some(told(1, 200_000_000, Method::Hardware)),
    ];
    for word in words {
        let mut held = Held(Some(measured(1)));
        let [before, _] = answered(&mut held, measured(2), word);
        let before = before.unwrap();
        assert_eq!((before.fate.rtt_ns, before.stamps), (Some(20 * MS), StampSource::Kernel), "{word:?}");
    }
}

/// Nothing waits for a reflector that does not follow up, for ever, or where probes are rare.
#[test]
fn waiting_ends() {
    let mut held = Held(Some(measured(1)));
    assert!(held.overdue(at(1_220).raw, SECOND, || SECOND / 5).is_none());
    assert!(held.overdue(at(1_221).raw, SECOND, || SECOND / 5).is_some());
    assert!(held.give_up().is_none());
    assert_eq!(rtts_ns(answered(&mut held, measured(2), None)), [None, Some(20 * MS)]);
    assert_eq!(held.hold(measured(3), Some(told(2, 0, Method::Local)), 6 * SECOND).map(|told| told.number), Some(3));
    let unknown = Measured { fate: Fate { rtt_ns: None, ..measured(4).fate }, ..measured(4) };
    assert!(answered(&mut held, unknown, Some(told(3, 0, Method::Local)))[1].is_some());
}

/// A stamp that only the agent made stays one, however well the reflector knows its own.
#[test]
fn our_own_end_is_told_as_it_is() {
    for stamps in [StampSource::User, StampSource::KernelReceive] {
        let mut held = Held(Some(Measured { stamps, ..measured(1) }));
        let [before, _] = answered(&mut held, measured(2), Some(told(1, 1_000, Method::Hardware)));
        assert_eq!(before.map(|before| (before.stamps, before.fate.rtt_ns)), Some((stamps, Some(20 * MS - 1_000))));
    }
}
