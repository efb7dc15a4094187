//! The last minute of a cumulative count, by exact subtraction of its points.
//!
//! Points are told apart by the sequence of their batch. An agent makes one batch per export interval, so sequences measure the
//! agent's time; delays on the way, a backlog, or a restart of the collector do not bend it.

use std::collections::{BTreeSet, VecDeque};

use lagmesh_model::histogram::Exponential;
use lagmesh_model::series::Value;

/// The most batches over which "recent" may reach, however short the export interval is: bounds the points kept per series.
pub const NEWEST_POINTS_MAX: u64 = 64;

/// How much a count has grown between two of its points.
#[derive(Debug, Clone, PartialEq)]
pub enum Growth {
    /// Of a counter.
    Count(u64),
    /// Of a histogram.
    Distribution(Exponential),
}

/// The sequences of a boot's batches that arrived, within the window.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Seen {
    sequences: BTreeSet<u64>,
    /// Where the window begins: growth is counted from this batch on; 0 is the start of the boot, when every count was 0.
    begin: u64,
}

impl Seen {
    pub(super) fn insert(&mut self, sequence: u64, newest: u64, window: u64) {
        self.begin = newest.max(window) - window;
        if sequence >= self.begin {
            self.sequences.insert(sequence);
        }
        self.sequences = self.sequences.split_off(&self.begin);
    }

    /// The oldest moment of the window at which counts are known.
    fn oldest(&self) -> Option<u64> {
        if self.begin == 0 { Some(0) } else { self.sequences.first().copied() }
    }
}

/// The newest points of one cumulative series, in the order of their batches.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Points(VecDeque<(u64, Value)>);

impl Points {
    pub(super) fn insert(&mut self, sequence: u64, value: Value) {
        if self.0.back().is_none_or(|(last, _)| *last < sequence) {
            self.0.push_back((sequence, value));
        } else if let Err(place) = self.0.binary_search_by_key(&sequence, |(sequence, _)| *sequence) {
            self.0.insert(place, (sequence, value));
        }
    }

    /// Forgets what lies before the window.
    pub(super) fn keep_since(&mut self, seen: &Seen) {
        while self.0.front().is_some_and(|(sequence, _)| *sequence < seen.begin) {
            self.0.pop_front();
        }
    }

    pub(super) fn growth(&self, seen: &Seen) -> Option<Growth> {
        let (newest, value) = self.0.back()?;
        let oldest = seen.oldest().filter(|oldest| oldest < newest)?;
        self.since(value, oldest)
    }

    /// The growth since the batch `earlier`. A batch that arrived without the series stands for a count that had not begun.
    fn since(&self, value: &Value, earlier: u64) -> Option<Growth> {
        let place = self.0.binary_search_by_key(&earlier, |(sequence, _)| *sequence);
        match (value, place.ok().map(|place| &self.0[place].1)) {
            (Value::Counter(now), None) => Some(Growth::Count(*now)),
            (Value::Counter(now), Some(Value::Counter(then))) => now.checked_sub(*then).map(Growth::Count),
            (Value::Histogram(now), None) => Some(Growth::Distribution((**now).clone())),
            (Value::Histogram(now), Some(Value::Histogram(then))) => now.since(then).map(Growth::Distribution),
            _ => None,
        }
    }
}
