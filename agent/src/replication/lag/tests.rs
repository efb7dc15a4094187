use std::collections::BTreeSet;

use lagmesh_daemon::clock::ClockClaim;
use lagmesh_model::beat::{Announcement, BeatId, Incarnation, Sequence};
use lagmesh_model::catalogue::{Attribute, Metric, REPLICATION_DELAY, REPLICATION_STALENESS};
use lagmesh_model::ids::AgentName;
use lagmesh_model::known::Known;
use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
use lagmesh_model::state::ClaimSource;
use lagmesh_model::status::Seconds;
use lagmesh_model::time::{Epoch, WallNanos};
use proptest::prelude::*;

use super::*;
use crate::replication::output::link_series;
use crate::replication::told::Heard;
use crate::wall::{HeardWall, WallClock};

const MS: i64 = 1_000_000;
const OBJECTIVE: Duration = Duration::from_secs(5);
const OWN: Epoch = Epoch(1);
const WRITER: Epoch = Epoch(2);
/// The writer's clock minus ours.
const OFFSET_MS: i64 = 7_000;

/// No other beat can be there.
const NOTHING_ELSE: SincePoll<'_> = SincePoll { told: None, spacing: Duration::from_secs(86_400), stands_still_at: None };

fn at(ms: i64) -> Reading {
    let ns = (100_000 * MS + ms * MS).cast_unsigned();
    Reading { epoch: OWN, raw: RawNanos(ns), wall: WallNanos(ns) }
}

fn on_writer(ms: i64) -> RawNanos {
    at(ms + OFFSET_MS).raw
}

fn row(sequence: u64, sent_ms: i64, previous_acknowledged_ms: Option<i64>) -> BeatRow {
    BeatRow {
        id: BeatId { origin: "db-1".parse().unwrap(), incarnation: Incarnation(5), sequence: Sequence(sequence) },
        epoch: WRITER,
        sent: on_writer(sent_ms),
        sent_wall: WallNanos(0),
        claimed_error_ns: None,
        previous_acknowledged: previous_acknowledged_ms.map(on_writer),
        position: Position { system: SystemIdentifier(1), timeline: Timeline(1), lsn: Lsn(sequence * 100) },
    }
}

fn seen(row: BeatRow, absent_ms: Option<i64>, present_ms: i64) -> Sighting {
    let absent = absent_ms.map(|ms| at(ms).raw);
    Sighting {
        row,
        absent,
        asked: at(present_ms - 1).raw,
        present: at(present_ms).raw,
        guess: None,
        own_wall: None,
        polls: Some(5),
    }
}

/// The newest lag, which rests on the mesh.
fn by_mesh(lag: &Lag) -> Interval {
    let (lag, basis) = lag.last().unwrap();
    assert_eq!(basis, Basis::Mesh);
    lag
}

/// A mesh that knows the writer's clock to a twentieth of a millisecond.
fn view() -> PeerView {
    let agent: AgentName = "far".parse().unwrap();
    let offset = Interval::new(OFFSET_MS * MS - MS / 20, OFFSET_MS * MS, OFFSET_MS * MS + MS / 20).unwrap();
    let clock = PeerClock { epoch: WRITER, own_epoch: OWN, offset, at: at(0).raw };
    PeerView { clocks: [(agent, clock)].into(), ..PeerView::default() }
}

fn told(row: &BeatRow, acknowledged_ms: i64) -> Told {
    let mut told = Told::default();
    let times = BeatTimes { epoch: WRITER, sent: row.sent, acknowledged: on_writer(acknowledged_ms) };
    let announcement = Announcement { id: row.id.clone(), times, position: row.position };
    told.tell(&Heard { announcement: &announcement, at: at(acknowledged_ms).raw, from: None }, || None);
    told
}

fn within_ms(interval: Interval, lower: i64, upper: i64) -> bool {
    // The clocks' error and drift over the few seconds of a test.
    let slack = MS * 13 / 10;
    (interval.lower_ns() - lower * MS).abs() <= slack && (interval.upper_ns() - upper * MS).abs() <= slack
}

/// A beat that the mesh has confirmed gets its lag at once, corrected for the clocks and widened by their error.
#[test]
fn lag_of_a_confirmed_beat() {
    let (mut lag, beat) = (Lag::default(), row(1, 1_000, None));
    let told = told(&beat, 1_002);
    lag.see(seen(beat, Some(1_040), 1_043), &told, at(1_043), &view(), OBJECTIVE);
    let last = by_mesh(&lag);
    assert!(within_ms(last, 38, 43) && last.contains(40 * MS), "{last:?}");
    assert_eq!((lag.totals.met, lag.totals.unknown, lag.totals.mesh.estimate.count()), (1, 0, 1));
    assert_eq!(lag.recent(at(2_000).raw).unwrap().samples, 1);
    assert_eq!(lag.recent(at(62_000).raw), None);
}

/// Both hosts claim something about their wall clocks: the peer's is ahead of ours by `ahead_ms`.
fn view_with_claims(error_ms: [u64; 2], ahead_ms: i64, offset: Interval) -> PeerView {
    let agent: AgentName = "far".parse().unwrap();
    let wall = |epoch, error_ms: u64, difference_ms: i64| WallClock {
        epoch,
        difference: Interval::exact(difference_ms * MS),
        claim: Some(ClockClaim::Synchronized { error_ns: error_ms * MS.cast_unsigned(), source: ClaimSource::Kernel }),
    };
    let heard = HeardWall {
        own: wall(OWN, error_ms[0], 50_000),
        peer: wall(WRITER, error_ms[1], 50_000 - OFFSET_MS + ahead_ms),
        at: at(0).raw,
        took: Duration::from_millis(80),
    };
    let clock = PeerClock { epoch: WRITER, own_epoch: OWN, offset, at: at(0).raw };
    PeerView { clocks: [(agent.clone(), clock)].into(), walls: [(agent, heard)].into(), ..PeerView::default() }
}

/// What both hosts claim makes lag narrower, beside that of the mesh, which stays what it is. Claims that cannot both be true, or are
/// missing, give none.
#[test]
fn lag_by_claims() {
    let wide = Interval::between((OFFSET_MS - 40) * MS, (OFFSET_MS + 40) * MS).unwrap();
    let see = |view: &PeerView| {
        let (mut lag, beat) = (Lag::default(), row(1, 1_000, None));
        let told = told(&beat, 1_002);
        lag.see(seen(beat, Some(1_040), 1_043), &told, at(1_043), view, OBJECTIVE);
        assert!(within_ms(by_mesh(&lag), -2, 83), "{:?}", lag.last());
        (lag.last_claimed(), lag.totals.claimed.estimate.count())
    };
    let (claimed, count) = see(&view_with_claims([1, 2], 0, wide));
    assert!(within_ms(claimed.unwrap(), 35, 46) && count == 1, "{claimed:?}");
    assert_eq!(see(&view_with_claims([1, 2], 60, wide)), (None, 0), "one of them lies");
    let mut silent = view_with_claims([1, 2], 0, wide);
    silent.walls.values_mut().for_each(|heard| heard.peer.claim = Some(ClockClaim::Free));
    assert_eq!(see(&silent), (None, 0));
}

/// The writer's host labels the row, `ahead_ms` ahead of our wall clock, and ours labels the sighting; both claim something.
fn labelled(error_ms: [Option<u64>; 2], ahead_ms: i64) -> Sighting {
    let claim = |error_ms: u64| ClockClaim::Synchronized { error_ns: error_ms * MS.cast_unsigned(), source: ClaimSource::Kernel };
    let label = WallNanos((500_000 * MS + (1_000 + ahead_ms) * MS).cast_unsigned());
    let difference = Interval::exact(500_000 * MS - at(0).raw.0.cast_signed());
    let own = WallClock { epoch: OWN, difference, claim: error_ms[0].map(claim) };
    let row =
        BeatRow { sent_wall: label, claimed_error_ns: error_ms[1].map(|ms| ms * MS.cast_unsigned()), ..row(1, 1_000, None) };
    Sighting { own_wall: Some(own), ..seen(row, Some(1_040), 1_043) }
}

/// Where the mesh never reached the writer, lag and staleness rest on the labels of both hosts and their claims, and say so. A host that
/// claims nothing leaves them unknown; the objective stays open; and what the mesh measures comes first as soon as there is any.
#[test]
fn without_a_mesh() {
    let nothing = PeerView::default();
    let see = |sighting: Sighting, view: &PeerView| {
        let mut lag = Lag::default();
        let told = told(&sighting.row, 1_002);
        lag.see(sighting, &told, at(1_043), view, OBJECTIVE);
        lag
    };
    let lag = see(labelled([Some(1), Some(3)], 2), &nothing);
    let (newest, basis) = lag.last().unwrap();
    assert!(basis == Basis::Claims && within_ms(newest, 38 - 2 - 4, 43 - 2 + 4) && newest.contains(40 * MS), "{newest:?}");
    let (staleness, basis) = lag.staleness(at(2_000), &NOTHING_ELSE).unwrap();
    assert!(basis == Basis::Claims && within_ms(staleness, 998 - 2 - 4, 1_000 - 2 + 4), "{staleness:?}");
    let totals = &lag.totals;
    assert_eq!((totals.met, totals.unknown, totals.mesh.estimate.count(), totals.claimed.estimate.count()), (0, 1, 0, 1));
    assert_eq!(lag.recent(at(1_100).raw).unwrap().samples, 1);
    for silent in [[None, Some(3)], [Some(1), None]] {
        let lag = see(labelled(silent, 2), &nothing);
        assert!(lag.last().is_none() && lag.staleness(at(2_000), &NOTHING_ELSE).is_err(), "{silent:?}");
    }
    let known = see(labelled([Some(1), Some(3)], 2), &view());
    assert!(within_ms(by_mesh(&known), 38, 43) && known.last_claimed().is_none(), "of that host the mesh has heard no claim");
}

/// When the mesh reaches the writer at last, staleness rests on it at once; a lag that rests on claims is not told as one of the mesh.
#[test]
fn the_mesh_comes_late() {
    let (mut lag, sighting) = (Lag::default(), labelled([Some(1), Some(3)], 2));
    let told = told(&sighting.row, 1_002);
    lag.see(sighting, &told, at(1_043), &PeerView::default(), OBJECTIVE);
    lag.hear(&told, at(1_100), &view(), OBJECTIVE);
    let (staleness, basis) = lag.staleness(at(1_200), &NOTHING_ELSE).unwrap();
    let (newest, of_lag) = lag.last().unwrap();
    assert_eq!((basis, of_lag), (Basis::Mesh, Basis::Claims));
    let unknown = serde_json::json!({ "is": "unknown", "why": "" });
    let status = serde_json::json!({
        "cluster": "app", "origin": "db-1", "region": "here", "node": "db-2", "state": "ok", "why": "", "basis": basis,
        "lag": Known::known(Seconds::from(newest)), "staleness": Known::known(Seconds::from(staleness)),
        "lag_recent": unknown, "evidence_age_s": unknown,
    });
    let mut series = Vec::new();
    link_series(&serde_json::from_value(status).unwrap(), &lag, &mut series);
    let told_on = |metric: &Metric| -> BTreeSet<&str> {
        series
            .iter()
            .filter(|one| one.metric.name == metric.name)
            .filter_map(|one| one.attributes.get(Attribute::Basis))
            .collect()
    };
    assert_eq!((told_on(&REPLICATION_DELAY), told_on(&REPLICATION_STALENESS)), (["claims"].into(), ["mesh"].into()));
}

/// Without the mesh's word the next row tells when a beat was acknowledged; a beat whose acknowledgement nobody tells has no lag.
#[test]
fn next_row_settles() {
    let (mut lag, told, view) = (Lag::default(), Told::default(), view());
    let see =
        |lag: &mut Lag, row, absent, present| lag.see(seen(row, Some(absent), present), &told, at(present), &view, OBJECTIVE);
    see(&mut lag, row(1, 1_000, None), 1_040, 1_042);
    assert_eq!((lag.last(), lag.totals.mesh.estimate.count()), (None, 0), "pending");
    see(&mut lag, row(2, 2_000, Some(1_001)), 2_040, 2_042);
    assert!(within_ms(by_mesh(&lag), 39, 42));
    see(&mut lag, row(4, 4_000, Some(3_001)), 4_040, 4_042);
    assert_eq!((lag.totals.met, lag.totals.unknown), (1, 1), "beat 3 was never seen, so beat 2 is never settled");
}

/// What the first poll shows was there before: it tells staleness, never lag.
#[test]
fn first_poll_has_no_lag() {
    let (mut lag, beat) = (Lag::default(), row(9, 1_000, None));
    let told = told(&beat, 1_002);
    lag.see(seen(beat, None, 5_000), &told, at(5_000), &view(), OBJECTIVE);
    assert_eq!((lag.last(), lag.arrived(), lag.totals.met + lag.totals.missed + lag.totals.unknown), (None, None, 0));
    assert!(within_ms(lag.staleness(at(5_000), &NOTHING_ELSE).unwrap().0, 3_998, 4_000));
}

/// A lower end below zero is honest and stays in; an interval wholly below zero is a contradiction and is counted as one.
#[test]
fn negative_lags() {
    let view = view();
    let mut lag = Lag::default();
    let honest = row(1, 1_000, None);
    let slow_commit = told(&honest, 1_080);
    lag.see(seen(honest, Some(1_030), 1_032), &slow_commit, at(1_100), &view, OBJECTIVE);
    assert_eq!((lag.totals.negative, lag.totals.mesh.lower.zero_count(), lag.totals.mesh.upper.zero_count()), (0, 1, 0));
    assert!(by_mesh(&lag).lower_ns() < 0);
    let early = row(2, 2_000, None);
    let confirmed = told(&early, 2_001);
    lag.see(seen(early, Some(1_900), 1_990), &confirmed, at(2_010), &view, OBJECTIVE);
    assert_eq!((lag.totals.negative, lag.totals.unknown, lag.totals.mesh.upper.count()), (1, 1, 1));
}

/// A poll that was long ago does not make lag negative: nothing is visible before it is sent.
#[test]
fn sent_before_visible() {
    let (mut lag, beat) = (Lag::default(), row(1, 1_000, None));
    let told = told(&beat, 1_002);
    lag.see(seen(beat, Some(100), 1_006), &told, at(1_006), &view(), OBJECTIVE);
    let last = by_mesh(&lag);
    assert!(within_ms(last, -2, 6) && (last.estimate_ns() - MS).abs() < MS / 5, "{last:?}");
}

/// Objectives are met or missed only for certain.
#[test]
fn objectives() {
    let view = view();
    for (objective_ms, expected) in [(50, (1, 0, 0)), (40, (0, 0, 1)), (30, (0, 1, 0))] {
        let (mut lag, beat) = (Lag::default(), row(1, 1_000, None));
        let told = told(&beat, 1_001);
        lag.see(seen(beat, Some(1_038), 1_043), &told, at(1_043), &view, Duration::from_millis(objective_ms));
        assert_eq!((lag.totals.met, lag.totals.missed, lag.totals.unknown), expected, "{objective_ms}");
    }
}

/// Staleness grows in real time though nothing is heard any more, and gets wider; without a clock relation it is unknown.
#[test]
fn staleness_goes_on_alone() {
    let (mut lag, beat) = (Lag::default(), row(1, 1_000, None));
    assert!(lag.staleness(at(0), &NOTHING_ELSE).is_err());
    let confirmed = told(&beat, 1_002);
    lag.see(seen(beat.clone(), Some(1_040), 1_043), &confirmed, at(1_043), &view(), OBJECTIVE);
    lag.hear(&confirmed, at(90_000), &PeerView::default(), OBJECTIVE);
    let staleness = lag.staleness(at(101_000), &NOTHING_ELSE).unwrap().0;
    assert!(staleness.contains(99_999 * MS) && staleness.width_ns() > 50 * MS && staleness.width_ns() < 56 * MS, "{staleness:?}");

    let mut unconfirmed = Lag::default();
    unconfirmed.see(seen(beat.clone(), Some(1_040), 1_043), &Told::default(), at(1_043), &view(), OBJECTIVE);
    assert!(within_ms(unconfirmed.staleness(at(2_000), &NOTHING_ELSE).unwrap().0, 957, 1_000));

    let mut no_mesh = Lag::default();
    no_mesh.see(seen(beat, Some(1_040), 1_043), &confirmed, at(1_043), &PeerView::default(), OBJECTIVE);
    assert!(no_mesh.staleness(at(2_000), &NOTHING_ELSE).is_err());
    assert_eq!((no_mesh.totals.unknown, no_mesh.last()), (1, None));
}

/// The lower end allows for whatever beat may have become visible since the newest poll: none before the next may leave, then the one
/// that was told of, then one that nobody knows yet. Where replication stands still it is what the newest poll showed.
#[test]
fn staleness_allows_for_what_was_not_seen_yet() {
    let (mut lag, first, second) = (Lag::default(), row(1, 1_000, None), row(2, 2_000, Some(1_002)));
    let spacing = Duration::from_millis(900);
    lag.see(seen(first.clone(), Some(1_040), 1_043), &told(&first, 1_002), at(1_043), &view(), OBJECTIVE);
    let of_second = told(&second, 2_002);
    let told = Some(&of_second.newest().unwrap().announcement);
    let since = |told, stands_still_at| SincePoll { told, spacing, stands_still_at };
    let (moving, heard, stuck) = (since(None, None), since(told, None), since(told, Some(at(2_900).raw)));
    for (now_ms, since, lower, upper) in [
        (1_890, moving, 888, 890),
        (1_910, moving, 0, 910),
        (2_500, moving, 0, 1_500),
        (2_500, heard, 498, 1_500),
        (2_910, heard, 0, 1_910),
        (3_000, stuck, 1_898, 2_000),
    ] {
        let (staleness, _) = lag.staleness(at(now_ms), &since).unwrap();
        assert!(within_ms(staleness, lower, upper), "{now_ms}: {staleness:?}");
    }
}

proptest! {
    /// The true lag and staleness are inside, however long the lag is and however the two clocks drift: what is known of their distance
    /// now is older at the commit.
    #[test]
    fn drift_between_commit_and_sighting(
        own_ppb in -50_000_i64..=50_000, writer_ppb in -50_000_i64..=50_000, lag_ms in 0_i64..3_600_000, commit_ms in 0_i64..20,
        early_ms in 0_i64..50, confirmed: bool, same_clock: bool,
    ) {
        let writer_ppb = if same_clock { own_ppb } else { writer_ppb };
        let clock = |ppb: i64, true_ms: i64| RawNanos((100_000 * MS + true_ms * MS + true_ms * ppb / 1_000).cast_unsigned());
        let on_own = |ms| Reading { raw: clock(own_ppb, ms), ..at(0) };
        let (sent_ms, committed_ms) = (10_000, 10_000 + commit_ms);
        let visible_ms = committed_ms + lag_ms;
        let mut beat = row(1, 0, None);
        (beat.sent, beat.epoch) = (clock(writer_ppb, sent_ms), if same_clock { OWN } else { WRITER });
        let now = on_own(visible_ms + 1);
        let offset = Interval::exact(clock(writer_ppb, visible_ms + 1).since_ns(now.raw));
        let known = PeerClock { epoch: WRITER, own_epoch: OWN, offset, at: now.raw };
        let view = PeerView { clocks: [("far".parse().unwrap(), known)].into(), ..PeerView::default() };
        let times = BeatTimes { epoch: beat.epoch, sent: beat.sent, acknowledged: clock(writer_ppb, committed_ms + 1) };
        let mut told = Told::default();
        if confirmed {
            let announcement = Announcement { id: beat.id.clone(), times, position: beat.position };
            told.tell(&Heard { announcement: &announcement, at: now.raw, from: None }, || None);
        }
        let absent = on_own(visible_ms - early_ms).raw;
        let mut lag = Lag::default();
        let present = on_own(visible_ms).raw;
        lag.see(Sighting { row: beat, absent: Some(absent), asked: absent, present, guess: None, own_wall: None, polls: None }, &told, now, &view, OBJECTIVE);
        if confirmed {
            prop_assert!(by_mesh(&lag).widen(2).contains(lag_ms * MS), "{:?}", lag.last());
        }
        let (staleness, _) = lag.staleness(now, &NOTHING_ELSE).unwrap();
        prop_assert!(staleness.widen(2).contains((lag_ms + 1) * MS), "{:?}", staleness);
    }
}

/// Falling lag is told from rising lag.
#[test]
fn trend() {
    let view = view();
    for (lags_ms, falling) in [([900, 700, 400, 100], true), ([100, 200, 300, 400], false)] {
        let mut lag = Lag::default();
        for (n, lag_ms) in (1_i64..).zip(lags_ms) {
            let beat = row(n.cast_unsigned(), n * 1_000, None);
            let told = told(&beat, n * 1_000 + 1);
            let present = n * 1_000 + lag_ms;
            lag.see(seen(beat, Some(present - 2), present), &told, at(present), &view, OBJECTIVE);
        }
        assert_eq!(lag.is_falling(), falling);
    }
}

/// Each lag that came out is handed over once, with parts that make up its width; those that nobody takes do not pile up.
#[test]
fn settled_beats_are_handed_over() {
    let mut lag = Lag::default();
    let see = |lag: &mut Lag, sequence: u64| {
        let sent_ms = 1_000 * sequence.cast_signed();
        let beat = row(sequence, sent_ms, None);
        let told = told(&beat, sent_ms + 2);
        lag.see(seen(beat, Some(sent_ms + 40), sent_ms + 43), &told, at(sent_ms + 43), &view(), OBJECTIVE);
    };
    see(&mut lag, 1);
    let settled: Vec<SettledBeat> = lag.take_settled().collect();
    let [beat] = settled[..] else { panic!("{settled:?}") };
    assert_eq!((beat.beat, beat.lag, beat.polls), ((Incarnation(5), Sequence(1)), by_mesh(&lag), Some(5)));
    assert_eq!((beat.poll_gap_ns, beat.poll_ns, beat.commit_ns), (3 * MS, MS, 2 * MS));
    assert_eq!(beat.lag.width_ns(), beat.poll_gap_ns + beat.commit_ns + beat.theta_width_ns);
    assert_eq!(lag.take_settled().count(), 0);
    (2..1_000).for_each(|sequence| see(&mut lag, sequence));
    assert_eq!(lag.take_settled().count(), SETTLED_MAX);
}
