//! How many probes of the last minute were answered, by the second in which they were sent. Bounded memory. Pure.

use std::collections::VecDeque;
use std::ops::Add;
use std::time::Duration;

use lagmesh_model::time::{RawNanos, nanos};

use crate::link::window::RECENT;

/// Counts are kept by the second in which probes were sent.
const SLOT_NS: u64 = 1_000_000_000;

/// Probes that were sent in some time and are settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub settled: u64,
    /// Those that were answered at all; a refusal is an answer: the path works.
    pub answered: u64,
}

impl Counts {
    /// The lost share [0, 1]; `None` if nothing is settled.
    pub fn loss(&self) -> Option<f64> {
        (self.settled > 0).then(|| (self.settled - self.answered) as f64 / self.settled as f64)
    }
}

impl Add for Counts {
    type Output = Counts;
    fn add(self, other: Counts) -> Counts {
        Counts { settled: self.settled + other.settled, answered: self.answered + other.answered }
    }
}

/// Settled probes by second.
#[derive(Debug, Default)]
pub struct Tally {
    slots: VecDeque<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    second: u64,
    counts: Counts,
}

impl Tally {
    /// A probe that was sent at `sent` is settled. What was sent longer ago than a minute and `give_up` may be forgotten.
    pub fn count(&mut self, sent: RawNanos, answered: bool, give_up: Duration) {
        let second = sent.0 / SLOT_NS;
        let place = self.slots.partition_point(|known| known.second < second);
        if self.slots.get(place).is_none_or(|known| known.second != second) {
            self.slots.insert(place, Slot { second, counts: Counts::default() });
        }
        let counts = &mut self.slots[place].counts;
        *counts = *counts + Counts { settled: 1, answered: u64::from(answered) };
        let kept_ns = nanos(RECENT) + nanos(give_up) + SLOT_NS;
        while self.slots.len() as u64 > kept_ns / SLOT_NS + 1 {
            self.slots.pop_front();
        }
    }

    /// Probes sent within the last minute, but not before `since`.
    pub fn recent(&self, now: RawNanos, since: Option<RawNanos>) -> Counts {
        let first = now.0.checked_sub(nanos(RECENT)).map(|start| start / SLOT_NS);
        // A slot that began before `since` may hold probes of before.
        let since = since.map(|since| since.0.div_ceil(SLOT_NS));
        let counts =
            |slot: &&Slot| first.is_none_or(|first| slot.second > first) && since.is_none_or(|since| slot.second >= since);
        self.slots.iter().filter(counts).fold(Counts::default(), |sum, slot| sum + slot.counts)
    }
}
