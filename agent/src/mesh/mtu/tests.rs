use proptest::prelude::*;

use super::*;

const SHORTEST: u16 = 140;
const PATIENCE: Duration = Duration::from_secs(1);

fn at(ms: u64) -> RawNanos {
    RawNanos((1_000_000 + ms) * 1_000_000)
}

/// A path that swallows what is longer than it carries, in each direction, and loses what it is told to.
struct Path {
    there: u16,
    back: u16,
    loses: Box<dyn FnMut() -> bool>,
    count: u32,
}

impl Path {
    fn carries(there: u16, back: u16) -> Path {
        Path { there, back, loses: Box::new(|| false), count: u32::MAX - 7 }
    }

    fn answer(&mut self, length: u16) -> Option<u32> {
        if length > self.there || (self.loses)() {
            return None;
        }
        self.count = self.count.wrapping_add(1);
        (length <= self.back && !(self.loses)()).then_some(self.count)
    }
}

/// Searches until it ends; returns what was found, and when [ms].
fn search(search: &mut MtuSearch, path: &mut Path, mut now_ms: u64) -> (Option<PathMtu>, u64) {
    for _ in 0..10_000 {
        let ran = search.running.is_some();
        if let Some(Try { sequence, length }) = search.on_tick(at(now_ms)) {
            assert!((SHORTEST..=LENGTH_MAX).contains(&length));
            let answers = [SHORTEST, length, SHORTEST].map(|length| path.answer(length));
            for (n, count) in (0..).zip(answers) {
                if let Some(count) = count {
                    search.on_answer(sequence.wrapping_add(n), count, at(now_ms + 80));
                }
            }
        }
        if let Some(found) = search.found() {
            return (Some(found), now_ms);
        }
        if ran && search.running.is_none() {
            return (None, now_ms);
        }
        now_ms += 100;
    }
    panic!("no end: {search:?}");
}

/// The exact size is found where long packets vanish without a word; a path that carries all takes one try.
#[test]
fn exact_on_a_black_hole() {
    for there in [SHORTEST, SHORTEST + 1, 576, 1280, 1281, 1400, 1492, 1499, 1500, 9000] {
        let mut searched = MtuSearch::new(SHORTEST, PATIENCE, at(0));
        let (found, took_ms) = search(&mut searched, &mut Path::carries(there, 9000), 0);
        let found = found.unwrap();
        assert_eq!(found.length, there.min(LENGTH_MAX));
        assert!(if there >= LENGTH_MAX { took_ms == 0 } else { took_ms < 10_000 }, "{took_ms} ms");
        assert_eq!(searched.on_tick(at(took_ms + 299_000)), None, "the next search is due after five minutes");
        assert!(searched.on_tick(at(took_ms + 301_000)).is_some());
    }
}

/// A path that carries long packets there and not back is not blamed on the way there.
#[test]
fn directions_are_kept_apart() {
    let (found, _) = search(&mut MtuSearch::new(SHORTEST, PATIENCE, at(0)), &mut Path::carries(1500, 1400), 0);
    assert_eq!(found.map(|found| found.length), Some(1500));
    let (found, _) = search(&mut MtuSearch::new(SHORTEST, PATIENCE, at(0)), &mut Path::carries(1400, 1300), 0);
    assert_eq!(found.map(|found| found.length), Some(1400));
}

/// What our own host refuses to send is too long without further tries.
#[test]
fn own_host_refuses() {
    let mut search = MtuSearch::new(SHORTEST, PATIENCE, at(0));
    let mut tries = 0;
    let found = loop {
        let Try { sequence, length } = search.on_tick(at(0)).unwrap();
        tries += 1;
        if length > 1420 {
            search.on_too_long(at(0));
        } else {
            search.on_answer(sequence + 1, 0, at(0));
        }
        if let Some(found) = search.found() {
            break found;
        }
    };
    assert!(found.length == 1420 && tries <= 13, "{found:?} after {tries}");
}

/// A changed path is searched at once, but no search is begun within another; one that is abandoned says nothing.
#[test]
fn searches_anew() {
    let mut searched = MtuSearch::new(SHORTEST, PATIENCE, at(0));
    let (_, ended_ms) = search(&mut searched, &mut Path::carries(1500, 1500), 0);
    searched.search_now(at(ended_ms + 1));
    assert!(searched.on_tick(at(ended_ms + 1)).is_some());
    searched.search_now(at(ended_ms + 2));
    assert_eq!(searched.on_tick(at(ended_ms + 2)), None);
    searched.abandon(at(ended_ms + 3));
    assert_eq!((searched.found(), searched.on_tick(at(ended_ms + 59_000))), (None, None));
    assert!(searched.on_tick(at(ended_ms + 60_004)).is_some());
}

proptest! {
    /// Loss never makes a path look narrower than it is by more than three losses of one length in a row explain: with losses below
    /// that the result is exact or there is none.
    #[test]
    fn loss_is_no_mtu(there in SHORTEST..1600, lost in prop::collection::vec(any::<bool>(), 0..400)) {
        // Never two of the six packets of a try and the next one in a row: each length has a try of three that goes well.
        let mut lost = lost.into_iter();
        let mut quiet = 0;
        let mut path = Path::carries(there, 9000);
        path.loses = Box::new(move || {
            if quiet > 0 {
                quiet -= 1;
                return false;
            }
            let loses = lost.next().unwrap_or(false);
            quiet = if loses { 12 } else { 0 };
            loses
        });
        let (found, _) = search(&mut MtuSearch::new(SHORTEST, PATIENCE, at(0)), &mut path, 0);
        if let Some(found) = found {
            prop_assert_eq!(found.length, there.min(LENGTH_MAX));
        }
    }
}
