//! Which of several targets is asked.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Stays with one target as long as it answers; moves on when the newest attempt has not been answered by the time of the next.
#[derive(Debug)]
pub struct Rotation<T> {
    targets: Vec<T>,
    current: AtomicUsize,
    attempts: AtomicU64,
    answered: AtomicU64,
}

impl<T> Rotation<T> {
    /// The targets in the order in which they are asked; at least one.
    pub fn new(targets: Vec<T>) -> Rotation<T> {
        Rotation { targets, current: AtomicUsize::new(0), attempts: AtomicU64::new(0), answered: AtomicU64::new(0) }
    }

    /// The number of the attempt, from 1, and its target.
    pub fn next(&self) -> (u64, &T) {
        let before = self.attempts.fetch_add(1, Relaxed);
        if self.answered.load(Relaxed) < before {
            self.current.fetch_add(1, Relaxed);
        }
        (before + 1, &self.targets[self.current.load(Relaxed) % self.targets.len()])
    }

    /// The attempt of this number was answered.
    pub fn answered(&self, number: u64) {
        self.answered.fetch_max(number, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The target stays while it answers, and the next one gets its turn when it does not.
    #[test]
    fn turns() {
        let rotation = Rotation::new(vec![1, 2]);
        let mut asked = Vec::new();
        for answered in [true, true, false, true, false, false] {
            let (number, target) = rotation.next();
            asked.push(*target);
            if answered {
                rotation.answered(number);
            }
        }
        assert_eq!(asked, [1, 1, 1, 2, 2, 1]);
    }
}
