//! Ends of a number that is not known exactly, wide enough for sums of whatever agents tell [ns]. Pure.

use std::ops::{Add, Sub};

use lagmesh_model::interval::{DRIFT_PPB, Interval};
use lagmesh_model::time::RawNanos;

/// The ends; the number lies within [ns].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) lower: i128,
    pub(super) upper: i128,
}

impl Span {
    pub(super) fn exact(value: i128) -> Span {
        Span { lower: value, upper: value }
    }

    pub(super) fn at(raw: RawNanos) -> Span {
        Span::exact(i128::from(raw.0))
    }

    pub(super) fn of(interval: Interval) -> Span {
        Span { lower: i128::from(interval.lower_ns()), upper: i128::from(interval.upper_ns()) }
    }

    /// The same with its middle as the estimate; `None` if it does not fit.
    pub(super) fn interval(self) -> Option<Interval> {
        Interval::between(i64::try_from(self.lower).ok()?, i64::try_from(self.upper).ok()?)
    }

    /// How far from zero it may be.
    pub(super) fn farthest(self) -> u128 {
        self.lower.unsigned_abs().max(self.upper.unsigned_abs())
    }

    /// The difference of two measuring clocks, so much true time away.
    pub(super) fn drifted(self, away: u128) -> Span {
        self.widened(2 * drift_ns(away))
    }

    /// What passed in true time while this passed on a measuring clock.
    pub(super) fn true_time(self) -> Span {
        self.widened(drift_ns(self.farthest()))
    }

    /// What passed on a measuring clock while this passed in true time.
    pub(super) fn clock_time(self) -> Span {
        self.true_time()
    }

    fn widened(self, by: i128) -> Span {
        Span { lower: self.lower - by, upper: self.upper + by }
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span { lower: self.lower + other.lower, upper: self.upper + other.upper }
    }
}

impl Sub for Span {
    type Output = Span;
    fn sub(self, other: Span) -> Span {
        Span { lower: self.lower - other.upper, upper: self.upper - other.lower }
    }
}

/// What a measuring clock may gain on true time over that long by either of the two, rounded up.
pub(super) fn drift_ns(time: u128) -> i128 {
    // One in ten thousand more than the allowance: the time may have passed on a clock that itself drifts.
    let ppb = u128::from(DRIFT_PPB + DRIFT_PPB / 10_000);
    i128::try_from((time * ppb).div_ceil(1_000_000_000)).unwrap_or(i128::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second on a clock that drifts as much as it may is a true second within what is allowed for, either way round.
    #[test]
    fn drift_of_a_second() {
        for clock in [999_950_000, 1_000_000_000, 1_000_050_000] {
            let second = 1_000_000_000;
            for (from, to) in [(clock, second), (second, clock)] {
                let Span { lower, upper } = Span::exact(from).true_time();
                assert!(lower <= to && to <= upper && upper - lower < 101_000, "{clock}: {lower} {upper}");
            }
        }
        assert_eq!(Span { lower: -7, upper: 3 }.drifted(1_000_000_000), Span { lower: -100_017, upper: 100_013 });
    }
}
