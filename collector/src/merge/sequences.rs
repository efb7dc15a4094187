//! Which batches of one (agent, boot) have been taken: retries are told from news, and a backlog may arrive in any order.

use serde::{Deserialize, Serialize};

/// The most ranges that are kept. Live batches overtaking a backlog make two; a thousand gaps mean that nobody is waiting for them.
const RANGES_MAX: usize = 1024;

/// What a sequence number is to those that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Higher than all before: its counts are the newest.
    Newest,
    /// Not seen before, but a higher one was: it changes no total.
    Late,
    /// Seen before.
    Duplicate,
}

/// A set of sequence numbers from 1 on, as closed ranges in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sequences(Vec<(u64, u64)>);

impl Sequences {
    /// What `sequence` would be.
    pub fn news(&self, sequence: u64) -> News {
        if sequence > self.newest() {
            return News::Newest;
        }
        let seen = self.0.iter().any(|(first, last)| (*first..=*last).contains(&sequence));
        if seen { News::Duplicate } else { News::Late }
    }

    /// The highest; 0 if there is none.
    pub fn newest(&self) -> u64 {
        self.0.last().map_or(0, |(_, last)| *last)
    }

    /// Takes `sequence` in. With too many gaps the oldest is closed as if it had been delivered: its batches would change no total.
    pub fn insert(&mut self, sequence: u64) {
        if self.news(sequence) == News::Duplicate {
            return;
        }
        let at = self.0.partition_point(|(_, last)| *last < sequence);
        self.0.insert(at, (sequence, sequence));
        self.join(at);
        if let Some(before) = at.checked_sub(1) {
            self.join(before);
        }
        if self.0.len() > RANGES_MAX {
            let (_, last) = self.0.remove(1);
            self.0[0].1 = last;
        }
    }

    fn join(&mut self, at: usize) {
        let Some(&(next_first, next_last)) = self.0.get(at + 1) else { return };
        if self.0[at].1 + 1 == next_first {
            self.0[at].1 = next_last;
            self.0.remove(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In whatever order sequences come, each is news exactly once, and adjacent ones take no room.
        #[test]
        fn agrees_with_a_plain_set(order in proptest::collection::vec(1_u64..200, 0..400)) {
            let (mut plain, mut ranges) = (BTreeSet::new(), Sequences::default());
            for sequence in order {
                let expected = match plain.last() {
                    _ if plain.contains(&sequence) => News::Duplicate,
                    Some(newest) if sequence < *newest => News::Late,
                    _ => News::Newest,
                };
                prop_assert_eq!(ranges.news(sequence), expected);
                ranges.insert(sequence);
                plain.insert(sequence);
            }
            prop_assert_eq!(ranges.newest(), plain.last().copied().unwrap_or(0));
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }

    /// Endless gaps cost bounded room, and the newest stays right.
    #[test]
    fn gaps_are_bounded() {
        let mut sequences = Sequences::default();
        for sequence in 1..5000 {
            sequences.insert(sequence * 2);
        }
        assert_eq!(sequences.0.len(), RANGES_MAX);
        assert_eq!(sequences.newest(), 9998);
        assert_eq!(sequences.news(9997), News::Late);
    }
}
