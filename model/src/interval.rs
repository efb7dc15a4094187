//! A number that carries its error: an interval with an estimate inside.

use std::ops::{Add, Neg, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::nanos;

/// How fast one host's raw clock may drift against true time [parts per billion]: 50 ppm, as `ClockBound` assumes.
pub const DRIFT_PPB: u64 = 50_000;

/// `lower <= estimate <= upper`, signed nanoseconds. The true value lies within the ends; the estimate is the best guess.
///
/// A wide interval means "not known well", never "fine". Nothing is clamped: ends may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "a number's name ends in its unit")]
pub struct Interval {
    lower_ns: i64,
    estimate_ns: i64,
    upper_ns: i64,
}

impl Interval {
    /// An interval with its estimate, or `None` if the three are out of order.
    pub fn new(lower_ns: i64, estimate_ns: i64, upper_ns: i64) -> Option<Interval> {
        (lower_ns <= estimate_ns && estimate_ns <= upper_ns).then_some(Interval { lower_ns, estimate_ns, upper_ns })
    }

    /// An interval with its middle as the estimate, or `None` if the ends are out of order.
    pub fn between(lower_ns: i64, upper_ns: i64) -> Option<Interval> {
        Interval::new(lower_ns, midpoint(lower_ns, upper_ns), upper_ns)
    }

    /// A value without error.
    pub fn exact(value_ns: i64) -> Interval {
        Interval { lower_ns: value_ns, estimate_ns: value_ns, upper_ns: value_ns }
    }

    /// The lower end [ns].
    pub fn lower_ns(&self) -> i64 {
        self.lower_ns
    }

    /// The best guess [ns].
    pub fn estimate_ns(&self) -> i64 {
        self.estimate_ns
    }

    /// The upper end [ns].
    pub fn upper_ns(&self) -> i64 {
        self.upper_ns
    }

    /// Upper end minus lower end [ns, >= 0].
    pub fn width_ns(&self) -> i64 {
        self.upper_ns - self.lower_ns
    }

    /// Whether the value may be `value_ns`.
    pub fn contains(&self, value_ns: i64) -> bool {
        (self.lower_ns..=self.upper_ns).contains(&value_ns)
    }

    /// Both ends moved outwards.
    pub fn widen(self, by_ns: u64) -> Interval {
        let by_ns = i64::try_from(by_ns).unwrap_or(i64::MAX);
        Interval {
            lower_ns: self.lower_ns.saturating_sub(by_ns),
            estimate_ns: self.estimate_ns,
            upper_ns: self.upper_ns.saturating_add(by_ns),
        }
    }

    /// With a lower end of at most that.
    pub fn with_lower_at_most(self, lower_ns: i64) -> Interval {
        Interval { lower_ns: self.lower_ns.min(lower_ns), ..self }
    }

    /// Widened by what two drifting clocks may gain on each other during `age`: `2 * rho * age`.
    pub fn widen_for_drift_of_pair(self, age: Duration) -> Interval {
        self.widen(drift_ns(age) * 2)
    }

    /// What both intervals allow, or `None` if they contradict each other. The estimate is this interval's, moved inside.
    pub fn intersect(self, other: Interval) -> Option<Interval> {
        let lower_ns = self.lower_ns.max(other.lower_ns);
        let upper_ns = self.upper_ns.min(other.upper_ns);
        (lower_ns <= upper_ns).then(|| Interval { lower_ns, estimate_ns: self.estimate_ns.clamp(lower_ns, upper_ns), upper_ns })
    }
}

impl Add for Interval {
    type Output = Interval;
    fn add(self, other: Interval) -> Interval {
        Interval {
            lower_ns: self.lower_ns + other.lower_ns,
            estimate_ns: self.estimate_ns + other.estimate_ns,
            upper_ns: self.upper_ns + other.upper_ns,
        }
    }
}

impl Neg for Interval {
    type Output = Interval;
    fn neg(self) -> Interval {
        Interval { lower_ns: -self.upper_ns, estimate_ns: -self.estimate_ns, upper_ns: -self.lower_ns }
    }
}

impl Sub for Interval {
    type Output = Interval;
    fn sub(self, other: Interval) -> Interval {
        self + -other
    }
}

/// What one host's raw clock may gain or lose during `age` [ns], rounded up.
pub fn drift_ns(age: Duration) -> u64 {
    let age_ns = nanos(age);
    // Asked for very often, and of ages below four days all but always: wide numbers are slow.
    if let Some(product) = age_ns.checked_mul(DRIFT_PPB) {
        return product.div_ceil(1_000_000_000);
    }
    let product = u128::from(age_ns) * u128::from(DRIFT_PPB);
    u64::try_from(product.div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
}

fn midpoint(lower_ns: i64, upper_ns: i64) -> i64 {
    i64::midpoint(lower_ns, upper_ns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RANGE: std::ops::Range<i64> = -1_000_000_000_000..1_000_000_000_000;

    fn interval() -> impl Strategy<Value = (Interval, i64)> {
        (RANGE, 0..1_000_000_000_i64, 0.0..=1.0_f64).prop_map(|(lower, width, at)| {
            #[expect(clippy::cast_possible_truncation, reason = "a point of the test interval")]
            let truth = lower + (width as f64 * at) as i64;
            (Interval::between(lower, lower + width).unwrap(), truth.min(lower + width))
        })
    }

    proptest! {
        /// The drift of any age is the exact one, rounded up, whichever way it is reckoned.
        #[test]
        fn drift_is_exact(age_ns in prop_oneof![0..u64::MAX, 0..1_000_000_000_u64, 368_934_881_474_000..368_934_881_475_000_u64]) {
            let exact = (u128::from(age_ns) * 50_000).div_ceil(1_000_000_000);
            prop_assert_eq!(u128::from(drift_ns(Duration::from_nanos(age_ns))), exact);
        }
    }

    proptest! {
        /// A sum or difference of true values lies in the sum or difference of their intervals.
        #[test]
        fn arithmetic_keeps_the_truth((a, x) in interval(), (b, y) in interval()) {
            prop_assert!((a + b).contains(x + y));
            prop_assert!((a - b).contains(x - y));
        }

        /// Two intervals that hold the same truth intersect, the truth stays inside, and the result is no wider than either.
        #[test]
        fn intersection_keeps_the_truth(truth in RANGE, l1 in 0..1000_i64, u1 in 0..1000_i64, l2 in 0..1000_i64, u2 in 0..1000_i64) {
            let a = Interval::between(truth - l1, truth + u1).unwrap();
            let b = Interval::between(truth - l2, truth + u2).unwrap();
            let both = a.intersect(b).unwrap();
            prop_assert!(both.contains(truth) && both.contains(both.estimate_ns()));
            prop_assert!(both.width_ns() <= a.width_ns().min(b.width_ns()));
        }
    }

    /// Intervals that share no point contradict each other: that is news, not an empty number.
    #[test]
    fn contradiction_is_none() {
        assert_eq!(Interval::between(0, 10).unwrap().intersect(Interval::between(11, 20).unwrap()), None);
        assert_eq!(Interval::new(3, 2, 4), None);
    }

    /// A pair of clocks widens by 100 ns per millisecond.
    #[test]
    fn drift_of_a_pair() {
        let widened = Interval::exact(0).widen_for_drift_of_pair(Duration::from_millis(1));
        assert_eq!((widened.lower_ns(), widened.upper_ns()), (-100, 100));
    }
}
