use proptest::prelude::*;

use super::*;

const SYSTEM: SystemIdentifier = SystemIdentifier(7);

fn at(lsn: u64) -> Position {
    Position { system: SYSTEM, timeline: Timeline(1), lsn: Lsn(lsn) }
}

/// A log as it was really written: by moments, what it had reached. One more byte than the moment before, or many.
fn written(growth: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let (mut moment, mut lsn) = (1_000_000_u64, 5_000_u64);
    growth
        .iter()
        .map(|(wait, bytes)| {
            (moment, lsn) = (moment + wait, lsn + bytes);
            (moment, lsn)
        })
        .collect()
}

proptest! {
    /// Whatever the log's growth, the beats and the position, what really lies right above the position was written within the bounds,
    /// and something lies there whenever that is said.
    #[test]
    fn bounds_hold_the_truth(
        growth in prop::collection::vec((1_u64..5_000_000, 1_u64..4_000), 3..200),
        beats in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..1_000_000, 1_u64..1_000_000), 1..40),
        reached in any::<prop::sample::Index>(), inside in 0.0..1.0_f64,
    ) {
        let log = written(&growth);
        let mut map = PositionMap::default();
        let mut noted: Vec<(usize, u64, u64)> = beats.iter().map(|(index, early, late)| (index.index(log.len() - 1), *early, *late)).collect();
        noted.sort_unstable();
        for (index, early, late) in noted {
            // The position was read when the log stood there, and the beat's own commit is the next thing that was written.
            let (moment, lsn) = log[index];
            let committed = log[index + 1].0;
            map.note(&at(lsn), RawNanos(moment - early), RawNanos(committed + late));
        }
        let index = reached.index(log.len() - 1);
        let (below, above) = (log[index], log[index + 1]);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a byte of the log")]
        let lsn = below.1 + ((above.1 - below.1) as f64 * inside) as u64;
        let really = RawNanos(above.0);
        match map.above(&at(lsn)) {
            Ok(Above::Nothing { after }) => prop_assert!(after <= really),
            Ok(Above::Something { after, guess, before }) => {
                prop_assert!(after <= really && really <= before, "{after:?} {really:?} {before:?}");
                prop_assert!(after <= guess && guess <= before);
            }
            Err(why) => prop_assert_eq!(why, NoTime::TooOld),
        }
    }
}

/// However long a writer beats, memory is bounded, the newest two minutes are whole, and older gaps are small for their age.
#[test]
fn thinning_keeps_what_matters() {
    let mut map = PositionMap::default();
    let second = 1_000_000_000_u64;
    for beat in 0..10_000 {
        map.note(&at(100 + beat * 100), RawNanos(beat * second), RawNanos(beat * second + 1_000_000));
    }
    assert_eq!(map.entries.len(), ENTRIES_MAX);
    let newest = map.entries.last().unwrap().second;
    let mut whole = 0;
    for pair in map.entries.windows(2) {
        let (age, gap) = (newest.since_ns(pair[0].second) as f64, pair[1].second.since_ns(pair[0].second) as f64);
        whole += usize::from(gap <= second as f64);
        assert!(gap <= second as f64 || gap / age < 0.03, "gap {gap} at age {age}");
    }
    assert!(whole >= KEPT_WHOLE - 1, "{whole}");
}

fn three_beats() -> PositionMap {
    let mut map = PositionMap::default();
    for (lsn, first, second) in [(1_000, 10, 12), (2_000, 20, 23), (3_000, 30, 31)] {
        map.note(&at(lsn), RawNanos(first), RawNanos(second));
    }
    map
}

/// Where nothing was told of, nothing is made up; between two beats lies what was written between them.
#[test]
fn between_beats() {
    let map = three_beats();
    let something =
        |after, guess, before| Ok(Above::Something { after: RawNanos(after), guess: RawNanos(guess), before: RawNanos(before) });
    assert_eq!(map.above(&at(999)), Err(NoTime::TooOld));
    assert_eq!(map.above(&at(1_000)), something(10, 11, 12));
    assert_eq!(map.above(&at(1_500)), something(10, 16, 23));
    assert_eq!(map.above(&at(3_000)), something(30, 30, 31), "the newest beat's own commit");
    assert_eq!(map.above(&at(3_001)), Ok(Above::Nothing { after: RawNanos(30) }));
    assert_eq!(PositionMap::default().above(&at(1)), Err(NoTime::Empty));
    assert_eq!(map.above(&Position { timeline: Timeline(2), ..at(1_500) }), Err(NoTime::OtherLog));
}

/// A promotion starts another timeline: what was known of the one before says nothing about it.
#[test]
fn timelines_are_not_mixed() {
    let mut map = three_beats();
    map.note(&Position { timeline: Timeline(2), ..at(2_500) }, RawNanos(40), RawNanos(41));
    assert_eq!(map.above(&at(1_500)), Err(NoTime::OtherLog));
    assert_eq!(map.entries.len(), 1);
}

/// How long the log waits grows with our own clock, and is never less than nothing.
#[test]
fn waiting() {
    let second = 1_000_000_000;
    let above = Above::Something { after: RawNanos(0), guess: RawNanos(second), before: RawNanos(2 * second) };
    let waits = above.waiting(RawNanos(12 * second), RawNanos(13 * second));
    assert_eq!(waits, Interval::new(9_999_500_000, 12_000_000_000, 13_000_650_000).unwrap());
    assert_eq!(above.waiting(RawNanos(second), RawNanos(second)).lower_ns(), 0, "it may not have been there yet");
    let nothing = Above::Nothing { after: RawNanos(second) }.waiting(RawNanos(2 * second), RawNanos(2 * second));
    assert_eq!(nothing, Interval::new(0, 0, 1_000_050_000).unwrap());
}

/// The speed is that of the recent past, and unknown before there is one.
#[test]
fn speed() {
    let mut map = PositionMap::default();
    let span = Duration::from_secs(10);
    for second in 0..60_u64 {
        let bytes = if second < 30 { second * 1_000_000 } else { 30_000_000 + second * 100 };
        let moment = second * 1_000_000_000;
        map.note(&at(1 + bytes), RawNanos(moment), RawNanos(moment));
        if second < 5 {
            assert_eq!(map.bytes_per_s(span), None);
        }
    }
    assert!((map.bytes_per_s(span).unwrap() - 100.0).abs() < 1e-6);
}
