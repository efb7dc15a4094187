//! Wall clocks as a subject: what hosts say about theirs, how far two of them are apart, and whether what both claim can be true. Pure.
//!
//! Nothing is corrected by it: wall clocks label, the raw ones measure.

use std::time::Duration;

use lagmesh_daemon::clock::{Bracket, ClockClaim};
use lagmesh_model::beat::BeatRow;
use lagmesh_model::interval::{Interval, drift_ns};
use lagmesh_model::time::{Epoch, RawNanos};

/// What a host says about its wall clock at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallClock {
    /// The run of the host's measuring clock.
    pub epoch: Epoch,
    /// Its wall clock minus its measuring clock.
    pub difference: Interval,
    /// What it claims about its wall clock; `None` if it does not say.
    pub claim: Option<ClockClaim>,
}

/// What a peer has said about its wall clock, and ours at the moment when we heard it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeardWall {
    /// The peer's, as of the sending of its answer.
    pub peer: WallClock,
    /// Ours.
    pub own: WallClock,
    /// When the answer came, on our measuring clock.
    pub at: RawNanos,
    /// The answer was on its way for less than that.
    pub took: Duration,
}

/// What two hosts claim that both say they are synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    /// How far off our wall clock is at most, as our host claims [ns].
    pub own_error_ns: u64,
    /// How far off the peer's is at most, as its host claims [ns].
    pub peer_error_ns: u64,
}

/// Claims that cannot both be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction {
    /// The peer's wall clock minus ours.
    pub offset: Interval,
    /// What both claim.
    pub claims: Claims,
}

impl WallClock {
    /// What a reading of the clocks says; `None` if they show a time that cannot be.
    pub fn of(reading: &Bracket, claim: Option<ClockClaim>) -> Option<WallClock> {
        let wall = RawNanos::from_outside(reading.wall.0)?;
        let difference = Interval::between(wall.since_ns(reading.after), wall.since_ns(reading.before))?;
        Some(WallClock { epoch: reading.epoch, difference, claim })
    }

    fn claimed_error_ns(&self) -> Option<u64> {
        match self.claim {
            Some(ClockClaim::Synchronized { error_ns, .. }) => Some(error_ns),
            Some(ClockClaim::Free) | None => None,
        }
    }
}

impl HeardWall {
    /// The peer's wall clock minus ours, given `theta`, the peer's measuring clock minus ours when the answer came. It holds the truth as
    /// long as nobody moved a wall clock while the answer was on its way. `None` if the numbers make no sense.
    pub fn offset(&self, theta: Interval) -> Option<Interval> {
        sum(theta, self.peer.difference, self.own.difference)
    }

    /// The peer's measuring clock minus ours when the answer came, by what both hosts claim: true only if the claims are. `None` if
    /// either claims nothing, or the numbers make no sense.
    pub fn claimed_theta(&self) -> Option<Interval> {
        let wall = self.claims()?.allowed();
        // The peer's measuring clock has drifted since it was read.
        Some(sum(wall, self.own.difference, self.peer.difference)?.widen(drift_ns(self.took)))
    }

    /// What both hosts claim, if both claim to be synchronised.
    pub fn claims(&self) -> Option<Claims> {
        Some(Claims { own_error_ns: self.own.claimed_error_ns()?, peer_error_ns: self.peer.claimed_error_ns()? })
    }
}

/// A wall clock is written with this grain [ns].
const LABEL_GRAIN_NS: u64 = 1_000;

/// How far off a reading's wall clock is at most as a label of the moment just before it was read [ns], by what the host claims; `None` if
/// it claims nothing.
pub fn claimed_error_ns(reading: &Bracket, claim: Option<ClockClaim>) -> Option<u64> {
    let wall = WallClock::of(reading, claim)?;
    Some(wall.claimed_error_ns()?.saturating_add(wall.difference.width_ns().unsigned_abs()).saturating_add(LABEL_GRAIN_NS))
}

/// The clock that wrote a row minus the one of `own` and `at`, by nothing but the label in the row and what both hosts claim about their
/// wall clocks: true only if the claims are. `None` if either claims nothing, or the numbers make no sense.
pub fn theta_by_labels(row: &BeatRow, own: &WallClock, at: RawNanos) -> Option<Interval> {
    let error_ns = row.claimed_error_ns?.checked_add(own.claimed_error_ns()?)?;
    let difference = RawNanos::from_outside(row.sent_wall.0)?.since_ns(row.sent);
    let theta = sum(Interval::exact(0), own.difference, Interval::exact(difference))?;
    // Both clocks have run on since the row was labelled; how long ago that was is told by the labels themselves.
    let since = theta.estimate_ns().checked_add(at.0.cast_signed())?.checked_sub(row.sent.0.cast_signed())?;
    Some(theta.widen(error_ns).widen_for_drift_of_pair(Duration::from_nanos(since.unsigned_abs().saturating_add(error_ns))))
}

/// `base + plus - minus`; `None` if that is beyond 292 years.
fn sum(base: Interval, plus: Interval, minus: Interval) -> Option<Interval> {
    let of = |base_ns: i64, plus_ns: i64, minus_ns: i64| {
        i64::try_from(i128::from(base_ns) + i128::from(plus_ns) - i128::from(minus_ns)).ok()
    };
    Interval::new(
        of(base.lower_ns(), plus.lower_ns(), minus.upper_ns())?,
        of(base.estimate_ns(), plus.estimate_ns(), minus.estimate_ns())?,
        of(base.upper_ns(), plus.upper_ns(), minus.lower_ns())?,
    )
}

impl Claims {
    /// How far apart the two wall clocks are at most if both claims are true.
    fn allowed(self) -> Interval {
        Interval::exact(0).widen(self.own_error_ns.saturating_add(self.peer_error_ns))
    }

    /// Whether they cannot both be true, the two wall clocks being `offset` apart. A lie smaller than that interval cannot be seen.
    pub fn contradiction(self, offset: Interval) -> Option<Contradiction> {
        self.allowed().intersect(offset).is_none().then_some(Contradiction { offset, claims: self })
    }
}

impl Contradiction {
    /// Says it to people: what was measured and what is claimed.
    pub fn words(&self, peer: &str) -> String {
        let ms = |ns: i64| ns as f64 / 1e6;
        let claimed = |ns: u64| ns as f64 / 1e6;
        format!(
            "the wall clock of {peer} is ahead of ours by {:.3} ms to {:.3} ms, but {peer} claims to be off by {:.3} ms at most and our host by \
             {:.3} ms: one of the two is wrong",
            ms(self.offset.lower_ns()),
            ms(self.offset.upper_ns()),
            claimed(self.claims.peer_error_ns),
            claimed(self.claims.own_error_ns)
        )
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::beat::{BeatId, Incarnation, Sequence};
    use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
    use lagmesh_model::state::ClaimSource;
    use lagmesh_model::time::WallNanos;
    use proptest::prelude::*;

    use super::*;

    fn claim(error_ns: u64) -> ClockClaim {
        ClockClaim::Synchronized { error_ns, source: ClaimSource::Kernel }
    }

    fn a_row() -> BeatRow {
        BeatRow {
            id: BeatId { origin: "db".parse().unwrap(), incarnation: Incarnation(1), sequence: Sequence(1) },
            epoch: Epoch(2),
            sent: RawNanos(0),
            sent_wall: WallNanos(0),
            claimed_error_ns: None,
            previous_acknowledged: None,
            position: Position { system: SystemIdentifier(1), timeline: Timeline(1), lsn: Lsn(1) },
        }
    }

    fn wall(epoch: u64, raw: u64, [early, late]: [u64; 2], wall: u64, claim: Option<ClockClaim>) -> WallClock {
        let reading =
            Bracket { epoch: Epoch(epoch), before: RawNanos(raw - early), wall: WallNanos(wall), after: RawNanos(raw + late) };
        WallClock::of(&reading, claim).unwrap()
    }

    proptest! {
        /// Whatever the clocks show and however unsure their readings are, the interval holds the true distance of the two wall clocks.
        /// Claims that are true never contradict each other, and a contradiction means that one of them is not.
        #[test]
        fn the_offset_holds_the_truth(
            raws in proptest::array::uniform2(1_u64 << 20..1 << 61),
            walls in proptest::array::uniform2(0_u64..1 << 61),
            unsure in proptest::array::uniform4(0_u64..1 << 20),
            theta_unsure in proptest::array::uniform2(0_i64..1 << 30),
            near in any::<bool>(),
            off in proptest::array::uniform2(-1_i64 << 32..1 << 32),
            errors in proptest::array::uniform2(0_u64..1 << 32),
        ) {
            // Two clocks that are near each other, as claims are about, or anywhere.
            let true_wall = 1_i64 << 60;
            let walls = if near { off.map(|off| (true_wall + off).cast_unsigned()) } else { walls };
            let own = wall(1, raws[0], [unsure[0], unsure[1]], walls[0], Some(claim(errors[0])));
            let peer = wall(2, raws[1], [unsure[2], unsure[3]], walls[1], Some(claim(errors[1])));
            let theta_ns = raws[1].cast_signed() - raws[0].cast_signed();
            let theta = Interval::between(theta_ns - theta_unsure[0], theta_ns + theta_unsure[1]).unwrap();
            let heard = HeardWall { peer, own, at: RawNanos(raws[0]), took: Duration::ZERO };
            let offset = heard.offset(theta).unwrap();
            prop_assert!(offset.contains(walls[1].cast_signed() - walls[0].cast_signed()));
            let is_true = |n: usize| walls[n].cast_signed().abs_diff(true_wall) <= errors[n];
            let contradiction = heard.claims().unwrap().contradiction(offset);
            prop_assert!(!(is_true(0) && is_true(1)) || contradiction.is_none());
            prop_assert!(!(is_true(0) && is_true(1)) || heard.claimed_theta().unwrap().contains(theta_ns));
        }

        /// If what two hosts claim about their wall clocks is true, the labels that they make with them bound the difference of their raw
        /// clocks, however far these are apart, however long the row was on its way, and whatever they drift meanwhile.
        #[test]
        fn labels_hold_the_truth(
            raws in proptest::array::uniform2(1_u64 << 20..1 << 50),
            on_the_way_ns in 0_u64..10_000_000_000_000,
            drift in -1.0..=1.0_f64,
            off in proptest::array::uniform2(-1.0..=1.0_f64),
            errors in proptest::array::uniform2(0_u64..1 << 32),
            unsure in proptest::array::uniform4(0_u64..1 << 20),
        ) {
            #[expect(clippy::cast_possible_truncation, reason = "parts of what was drawn")]
            let part = |of: u64, share: f64| (of as f64 * share) as i64;
            let true_wall = 1_i64 << 60;
            let shows = |host: usize, at: i64| (at + part(errors[host], off[host])).cast_unsigned();
            // Each raw clock gains up to 50 ppm on true time, in opposite directions.
            let gained = part(on_the_way_ns, drift * 5e-5);
            let way = on_the_way_ns.cast_signed();
            let label = Bracket {
                epoch: Epoch(2),
                before: RawNanos(raws[1]),
                wall: WallNanos(shows(1, true_wall + unsure[2].cast_signed())),
                after: RawNanos(raws[1] + unsure[2] + unsure[3]),
            };
            let grain = WallNanos(label.wall.0 / 1_000 * 1_000);
            let row = BeatRow {
                epoch: Epoch(2),
                sent: label.before,
                sent_wall: grain,
                claimed_error_ns: claimed_error_ns(&label, Some(claim(errors[1]))),
                ..a_row()
            };
            let own_raw = raws[0] + (way + gained).cast_unsigned();
            let own = wall(1, own_raw, [unsure[0], unsure[1]], shows(0, true_wall + way), Some(claim(errors[0])));
            let theta_ns = (raws[1].cast_signed() + way - gained) - own_raw.cast_signed();
            let theta = theta_by_labels(&row, &own, RawNanos(own_raw)).unwrap();
            prop_assert!(theta.contains(theta_ns), "{theta:?} {theta_ns}");
        }

        /// Numbers from outside never overflow.
        #[test]
        fn any_numbers(ends in proptest::array::uniform6(any::<i64>())) {
            let interval = |a: i64, b: i64| Interval::between(a.min(b), a.max(b)).unwrap();
            let wall = |difference| WallClock { epoch: Epoch(1), difference, claim: Some(claim(u64::MAX)) };
            let heard = HeardWall { peer: wall(interval(ends[0], ends[1])), own: wall(interval(ends[2], ends[3])), at: RawNanos(0), took: Duration::ZERO };
            heard.claimed_theta();
            let row = BeatRow {
                sent: RawNanos(ends[0].cast_unsigned() >> 2),
                sent_wall: WallNanos(ends[1].cast_unsigned()),
                claimed_error_ns: Some(ends[2].cast_unsigned()),
                ..a_row()
            };
            theta_by_labels(&row, &heard.own, RawNanos(ends[3].cast_unsigned() >> 2));
            if let Some(offset) = heard.offset(interval(ends[4], ends[5])) {
                prop_assert_eq!(heard.claims().unwrap().contradiction(offset), None);
            }
        }
    }

    /// Two clocks 2 s apart that both claim a millisecond contradict each other, and the words have all the numbers. One that claims
    /// nothing is not wrong.
    #[test]
    fn a_clock_that_lies() {
        let heard = |peer_claim| HeardWall {
            own: wall(1, 1 << 30, [0, 0], 1 << 60, Some(claim(1_000_000))),
            peer: wall(2, 1 << 30, [0, 0], (1 << 60) + 2_000_000_000, peer_claim),
            at: RawNanos(1 << 30),
            took: Duration::ZERO,
        };
        let theta = Interval::between(-5_000_000, 5_000_000).unwrap();
        let lie = heard(Some(claim(1_500_000)));
        let contradiction = lie.claims().unwrap().contradiction(lie.offset(theta).unwrap()).unwrap();
        assert_eq!(
            contradiction.words("tokyo"),
            "the wall clock of tokyo is ahead of ours by 1995.000 ms to 2005.000 ms, but tokyo claims to be off by 1.500 ms at most and our \
             host by 1.000 ms: one of the two is wrong"
        );
        let honest = heard(Some(claim(1_994_000_000)));
        assert_eq!(honest.claims().unwrap().contradiction(honest.offset(theta).unwrap()), None);
        for silent in [None, Some(ClockClaim::Free)] {
            assert_eq!(heard(silent).claims(), None);
        }
    }
}
