//! Delay variation as RFC 5481 has it (PDV): by how much each delay is above the least of its time. Bounded memory. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::time::{RawNanos, nanos};

/// How far back the least delay is looked for; by slots, so up to one slot less.
pub const WINDOW: Duration = Duration::from_secs(60);
/// The least delay is kept by so much time.
const SLOT_NS: u64 = 5_000_000_000;

/// The least delay of the last minute.
#[derive(Debug, Default)]
pub struct Least {
    slots: VecDeque<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u64,
    least_ns: u64,
}

impl Least {
    /// Takes in a delay; returns by how much it is above the least of the last minute, itself included [ns]. The first one has nothing that
    /// it could vary from.
    pub fn above(&mut self, at: RawNanos, delay_ns: u64) -> Option<u64> {
        let number = at.0 / SLOT_NS;
        while self.slots.front().is_some_and(|slot| number.abs_diff(slot.number) >= nanos(WINDOW) / SLOT_NS) {
            self.slots.pop_front();
        }
        let is_first = self.slots.is_empty();
        match self.slots.back_mut() {
            Some(slot) if slot.number >= number => slot.least_ns = slot.least_ns.min(delay_ns),
            _ => self.slots.push_back(Slot { number, least_ns: delay_ns }),
        }
        let least_ns = self.slots.iter().map(|slot| slot.least_ns).min().unwrap_or(delay_ns);
        (!is_first).then(|| delay_ns - least_ns.min(delay_ns))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The variation is that against the least delay of the last 55 to 60 seconds, and memory stays bounded.
        #[test]
        fn against_the_least(delays in proptest::collection::vec((0_u64..20_000, 1_u64..1_000_000), 1..200)) {
            let (mut least, mut known, mut now_ms) = (Least::default(), Vec::new(), 1_000_000);
            for (wait_ms, delay_ns) in delays {
                now_ms += wait_ms;
                known.push((now_ms, delay_ns));
                let is_first = least.slots.is_empty();
                let above = least.above(RawNanos(now_ms * 1_000_000), delay_ns);
                prop_assert!(above.is_some() || is_first || wait_ms > 50_000);
                let Some(above) = above else { continue };
                let since = |age_ms: u64| known.iter().filter(|(at, _)| at + age_ms >= now_ms).map(|(_, ns)| *ns).min().unwrap();
                prop_assert!((delay_ns - since(55_000)..=delay_ns - since(60_000)).contains(&above));
                prop_assert!(least.slots.len() <= 12);
            }
        }
    }
}
