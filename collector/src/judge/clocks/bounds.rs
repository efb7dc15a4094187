//! Difference constraints: upper bounds for the differences of some numbers, and all that follows from them together. Pure.
//!
//! `x[j] - x[i] <= a` and `x[k] - x[j] <= b` give `x[k] - x[i] <= a + b`: each number is a place, each bound a way, and the best bound
//! of two places is the shortest way between them (Floyd and Warshall). A way around that is shorter than nothing says that a number is
//! less than itself: not all of its bounds can be true.

use std::collections::BTreeSet;

/// No bound.
const NONE: i128 = i128::MAX;

/// Upper bounds of all differences of `count` numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bounds {
    count: usize,
    /// Of `x[to] - x[from]`, by `from * count + to`.
    upper: Vec<i128>,
    /// Where the way goes first, likewise.
    first: Vec<usize>,
}

impl Bounds {
    /// Nothing known but that each number is itself.
    pub(super) fn new(count: usize) -> Bounds {
        let upper = (0..count * count).map(|at| if at % (count + 1) == 0 { 0 } else { NONE }).collect();
        Bounds { count, upper, first: (0..count * count).map(|at| at % count).collect() }
    }

    /// `x[to] - x[from]` lies within; two different numbers.
    pub(super) fn add(&mut self, from: usize, to: usize, lower: i128, upper: i128) {
        for (at, bound) in [(from * self.count + to, upper), (to * self.count + from, -lower)] {
            self.upper[at] = self.upper[at].min(bound);
        }
    }

    /// Brings every bound to the best that follows from all.
    ///
    /// # Errors
    /// If not all can be true: the numbers on one of the shortest ways that show it.
    pub(super) fn close(&mut self) -> Result<(), BTreeSet<usize>> {
        for via in 0..self.count {
            let around = (0..self.count).filter(|from| self.sum(*from, via, *from).is_some_and(|sum| sum < 0));
            if let Some(shortest) = around.map(|from| self.way_around(from, via)).min_by_key(BTreeSet::len) {
                return Err(shortest);
            }
            for from in 0..self.count {
                if self.upper[from * self.count + via] == NONE {
                    continue;
                }
                for to in 0..self.count {
                    let at = from * self.count + to;
                    if let Some(sum) = self.sum(from, via, to).filter(|sum| *sum < self.upper[at]) {
                        self.upper[at] = sum;
                        self.first[at] = self.first[from * self.count + via];
                    }
                }
            }
        }
        Ok(())
    }

    /// The ends of `x[to] - x[from]`; `None` if nothing bounds it.
    pub(super) fn between(&self, from: usize, to: usize) -> Option<(i128, i128)> {
        let (back, upper) = (self.upper[to * self.count + from], self.upper[from * self.count + to]);
        (back != NONE && upper != NONE).then(|| (-back, upper))
    }

    fn sum(&self, from: usize, via: usize, to: usize) -> Option<i128> {
        let (there, on) = (self.upper[from * self.count + via], self.upper[via * self.count + to]);
        (there != NONE && on != NONE).then(|| there + on)
    }

    fn way_around(&self, from: usize, via: usize) -> BTreeSet<usize> {
        let mut passed = BTreeSet::from([from, via]);
        for (mut at, to) in [(from, via), (via, from)] {
            // No way passes more places than there are.
            for _ in 0..self.count {
                if at == to {
                    break;
                }
                at = self.first[at * self.count + to];
                passed.insert(at);
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(count: usize, all: &[(usize, usize, i128, i128)]) -> Bounds {
        let mut bounds = Bounds::new(count);
        for (from, to, lower, upper) in all {
            bounds.add(*from, *to, *lower, *upper);
        }
        bounds
    }

    /// Two that are not compared are bounded through a third; a wide bound is narrowed by a way around; what nothing connects stays
    /// unbounded.
    #[test]
    fn through_a_third() {
        let mut bounds = bounds(5, &[(0, 1, 10, 20), (2, 1, -5, 5), (0, 3, 0, 100), (1, 3, 30, 31)]);
        bounds.close().unwrap();
        assert_eq!(bounds.between(0, 2), Some((5, 25)));
        assert_eq!(bounds.between(2, 0), Some((-25, -5)));
        assert_eq!(bounds.between(0, 3), Some((40, 51)));
        assert_eq!((bounds.between(0, 4), bounds.between(4, 4)), (None, Some((0, 0))));
    }

    /// Three that cannot all be true are named, and not those beside them; nothing else is.
    #[test]
    fn contradictions_are_named() {
        let honest = [(0, 4, 0, 9), (1, 4, -20, 9), (2, 3, -9, 9), (0, 1, 10, 20), (1, 2, 10, 20)];
        let lie = |lower, upper| bounds(5, &[&honest[..], &[(0, 2, lower, upper)]].concat()).close();
        assert_eq!(lie(41, 50), Err([0, 1, 2].into()));
        assert_eq!(lie(0, 19), Err([0, 1, 2].into()));
        assert_eq!((lie(40, 50), lie(0, 20)), (Ok(()), Ok(())));
        assert_eq!(bounds(2, &[(0, 1, 0, 5), (1, 0, 0, 5)]).close(), Ok(()));
        assert_eq!(bounds(2, &[(0, 1, 1, 5), (1, 0, 0, 5)]).close(), Err([0, 1].into()));
    }
}
