//! Which batches of one boot are in the history, as runs of consecutive numbers; the counts at both ends of each run, from which
//! everything that may still come is subtracted. Pure.

use std::sync::Arc;

use super::body::Body;

/// The most runs of one boot. A backlog beside live batches makes two or three; further gaps are of batches that nobody kept.
pub(super) const RUNS_MAX: usize = 16;

/// One batch of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Point {
    /// Its number, from 1.
    pub(super) sequence: u64,
    /// The moment that it is put down for [ns since the Unix epoch].
    pub(super) label_ns: u64,
    /// When the counting began, by the same clock [ns since the Unix epoch].
    pub(super) start_ns: u64,
    /// Its counts.
    pub(super) body: Arc<Body>,
}

/// Consecutive batches, by the first and the last of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: Point,
    pub(super) last: Point,
}

/// All runs of a boot, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Runs(Vec<Run>);

impl Runs {
    /// The runs as they were stored, in order; `None` if they overlap.
    pub(super) fn restore(runs: Vec<Run>) -> Option<Runs> {
        let ordered = runs.windows(2).all(|pair| pair[0].last.sequence < pair[1].first.sequence);
        let whole = runs.iter().all(|run| run.first.sequence <= run.last.sequence);
        (ordered && whole).then_some(Runs(runs))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.0.iter()
    }

    /// Whether a batch is in the history, or in a gap that was given up.
    pub(super) fn knows(&self, sequence: u64) -> bool {
        self.0.iter().any(|run| (run.first.sequence..=run.last.sequence).contains(&sequence))
    }

    /// The batches that are known on both sides of one that is not.
    pub(super) fn neighbours(&self, sequence: u64) -> (Option<&Point>, Option<&Point>) {
        let place = self.place(sequence);
        (place.checked_sub(1).map(|before| &self.0[before].last), self.0.get(place).map(|after| &after.first))
    }

    /// Takes in a batch that is not known. Says whether the oldest gap had to be given up for it.
    pub(super) fn insert(&mut self, point: Point) -> bool {
        let place = self.place(point.sequence);
        self.0.insert(place, Run { first: point.clone(), last: point });
        self.join(place);
        if let Some(before) = place.checked_sub(1) {
            self.join(before);
        }
        let full = self.0.len() > RUNS_MAX;
        if full {
            let second = self.0.remove(1);
            self.0[0].last = second.last;
        }
        full
    }

    /// How many runs end before a batch.
    fn place(&self, sequence: u64) -> usize {
        self.0.partition_point(|run| run.last.sequence < sequence)
    }

    fn join(&mut self, place: usize) {
        let follows = self.0.get(place + 1).is_some_and(|next| self.0[place].last.sequence + 1 == next.first.sequence);
        if follows {
            self.0[place].last = self.0.remove(place + 1).last;
            let first = &mut self.0[place].first;
            if first.sequence == 1 {
                // Nothing can come before it.
                first.body = Arc::default();
            }
        }
    }
}
