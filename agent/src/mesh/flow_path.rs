//! Whether the path of a flow has changed: by the least round-trip time of its windows, and by the hop limits of what arrives. Pure.
//!
//! Jitter alters single delays, a new path alters the least one. So the least round-trip time of a window is held against the median
//! of those of the windows before; if it is off by more than a threshold in the same sense three windows in a row, that is a change.
//! The threshold follows the spread within the windows, so that a noisy path needs a larger shift.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::directed::Directed;
use lagmesh_model::status::Changed;
use lagmesh_model::time::RawNanos;

use crate::mesh::stamp::HOP_LIMIT;

/// How long a window is, and how many answers it has at least; with fewer it lasts longer.
const WINDOW: Duration = Duration::from_secs(10);
const ANSWERS_MIN: usize = 5;
/// Of how many answers of a window the spread is known at most.
const ANSWERS_MAX: usize = 64;
/// So many windows in a row make a change, and a baseline.
const WINDOWS: usize = 3;
/// Of so many windows the baseline is the median.
const BASELINE_WINDOWS: usize = 6;
/// The least shift that counts: this, or so much of the round-trip time, or so many times the spread of windows.
const SHIFT_MIN_NS: u64 = 500_000;
const SHIFT_SHARE: u64 = 50;
const SHIFT_SPREADS: u64 = 2;
/// Packets that arrive with less began at another limit: no path is so long.
const HOP_LIMIT_ARRIVED_MIN: u8 = 129;

/// The path of one flow.
#[derive(Debug, Default)]
pub struct FlowPath {
    window: Window,
    /// Windows before, the newest last.
    baseline: VecDeque<Sum>,
    /// The newest windows, if they are all off in one sense.
    shifted: Vec<Sum>,
    hops: Directed<Hops>,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<RawNanos>,
    rtts_ns: Vec<u64>,
    least_ns: u64,
}

/// What is left of a window.
#[derive(Debug, Clone, Copy)]
struct Sum {
    least_ns: u64,
    /// From the least to the median.
    spread_ns: u64,
}

/// How many routers a way has.
#[derive(Debug, Clone, Copy, Default)]
struct Hops {
    known: Option<u8>,
    /// Another number, once.
    other: Option<u8>,
}

impl FlowPath {
    /// An answer came after `rtt_ns`, with the hop limits with which its request and it arrived. Returns what has changed.
    pub fn on_answer(&mut self, at: RawNanos, rtt_ns: u64, hop_limits: Directed<Option<u8>>) -> Vec<Changed> {
        let hops = self.hops.as_mut().zip(hop_limits).map(|(hops, limit)| hops.take(routers(limit?)?));
        let forward = hops.forward.map(|(before, after)| Changed::HopsForward { before, after });
        let backward = hops.backward.map(|(before, after)| Changed::HopsBackward { before, after });
        if forward.is_some() || backward.is_some() {
            // The new path has another length, which is no second change.
            (self.window, self.baseline, self.shifted) = Default::default();
        }
        let shift = self.window.is_full(at).then(|| self.close()).flatten();
        self.window.take(at, rtt_ns);
        [forward, backward, shift].into_iter().flatten().collect()
    }

    /// How many routers requests and answers pass; `None` if that is not known.
    pub fn hops(&self) -> Directed<Option<u8>> {
        Directed { forward: self.hops.forward.known, backward: self.hops.backward.known }
    }

    /// Our clock began a new epoch: stamps of before mean nothing, lengths do.
    pub fn on_new_epoch(&mut self) {
        self.window = Window::default();
    }

    /// The window is over.
    fn close(&mut self) -> Option<Changed> {
        let sum = std::mem::take(&mut self.window).sum();
        let baseline_ns = median(self.baseline.iter().map(|window| window.least_ns)).filter(|_| self.baseline.len() >= WINDOWS);
        let is_off = |baseline_ns: &u64| sum.least_ns.abs_diff(*baseline_ns) > self.threshold_ns(*baseline_ns, &sum);
        let Some(baseline_ns) = baseline_ns.filter(is_off) else {
            self.shifted.clear();
            self.baseline.push_back(sum);
            if self.baseline.len() > BASELINE_WINDOWS {
                self.baseline.pop_front();
            }
            return None;
        };
        self.shifted.retain(|window| (window.least_ns > baseline_ns) == (sum.least_ns > baseline_ns));
        self.shifted.push(sum);
        if self.shifted.len() < WINDOWS {
            return None;
        }
        self.baseline = std::mem::take(&mut self.shifted).into();
        let after_ns = median(self.baseline.iter().map(|window| window.least_ns))?;
        Some(Changed::Delay { before_s: baseline_ns as f64 / 1e9, after_s: after_ns as f64 / 1e9 })
    }

    fn threshold_ns(&self, baseline_ns: u64, sum: &Sum) -> u64 {
        // By chance a few windows in a row are narrow, and one that saw both paths is as wide as the shift: the second widest counts.
        let mut widths_ns: Vec<u64> = self.baseline.iter().chain([sum]).map(|window| window.spread_ns).collect();
        widths_ns.sort_unstable();
        let spread_ns = widths_ns.iter().rev().nth(1).copied().unwrap_or_default();
        SHIFT_MIN_NS.max(baseline_ns / SHIFT_SHARE).max(spread_ns.saturating_mul(SHIFT_SPREADS))
    }
}

impl Window {
    fn sum(self) -> Sum {
        let Window { least_ns, rtts_ns, .. } = self;
        let median_ns = median(rtts_ns.into_iter()).unwrap_or(least_ns);
        Sum { least_ns, spread_ns: median_ns - least_ns.min(median_ns) }
    }

    fn is_full(&self, at: RawNanos) -> bool {
        let is_over = |began: RawNanos| at.checked_since(began).is_some_and(|age| age >= WINDOW);
        self.rtts_ns.len() >= ANSWERS_MIN && self.began.is_some_and(is_over)
    }

    fn take(&mut self, at: RawNanos, rtt_ns: u64) {
        self.least_ns = if self.began.is_some() { self.least_ns.min(rtt_ns) } else { rtt_ns };
        self.began.get_or_insert(at);
        if self.rtts_ns.len() < ANSWERS_MAX {
            self.rtts_ns.push(rtt_ns);
        }
    }
}

impl Hops {
    /// Takes in a number of routers; returns the one before and the new one, once that has come twice in a row.
    fn take(&mut self, routers: u8) -> Option<(u8, u8)> {
        let before = *self.known.get_or_insert(routers);
        let is_other = before != routers;
        let confirmed = is_other && self.other == Some(routers);
        self.other = is_other.then_some(routers);
        if confirmed {
            (self.known, self.other) = (Some(routers), None);
        }
        confirmed.then_some((before, routers))
    }
}

/// The routers that a packet has passed, by the hop limit with which it arrived.
fn routers(limit: u8) -> Option<u8> {
    (limit >= HOP_LIMIT_ARRIVED_MIN).then(|| HOP_LIMIT - limit)
}

/// The lower median.
fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests;
