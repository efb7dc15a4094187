//! When to look for the next beat of one origin: few queries, most of them close to the moment at which it arrives.
//!
//! Beats leave on a fixed schedule and lag changes slowly, so arrivals on the reader's own clock fall on nearly the same phase of
//! the beat interval, whatever the lag and the clocks of the two hosts are. The plan learns that phase and its spread, guards the
//! range from below with one early poll, spends a few even polls across it, and lets the gaps grow behind it. What disturbs it
//! (an outage, a burst, a heavy tail) is kept out of what it learns.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::time::{RawNanos, nanos};

/// Arrivals that are remembered: half a minute at 1 Hz; more would smear the drift of two clocks (100 us/s) over the range.
const HISTORY: usize = 32;
/// Even polls across the predicted range.
const EVEN_POLLS: i64 = 8;
/// The closest that two planned polls get [ns]: timers have a granularity of 1 ms, closer polls would only collide.
const STEP_MIN_NS: i64 = 1_200_000;
/// The growth of the gaps behind the range.
const GROWTH: f64 = 1.4;
/// The longest gap while a beat is due [ns], with a quarter of the interval as the other limit.
const GAP_MAX_NS: i64 = 100_000_000;
/// After so many intervals without a beat a phase is no longer worth polls close together: the gaps stay at their longest.
const OVERDUE_AFTER: i64 = 2;
/// After so many missed intervals the origin counts as gone and costs one query per interval.
const GONE_AFTER: i64 = 10;
/// So many surprises in a row (arrivals outside of the range) mean that the phase has moved.
const SURPRISES_MAX: u32 = 2;

/// The polls for one origin.
#[derive(Debug, Clone)]
pub struct PollPlan {
    interval_ns: i64,
    /// The centre of the newest learnt arrival.
    anchor: Option<RawNanos>,
    /// Learnt arrivals around the anchor's phase, oldest first.
    arrivals: VecDeque<Arrival>,
    /// The start and the end of the newest poll.
    last: Option<(RawNanos, RawNanos)>,
    /// When the newest beat was found: the end of that poll.
    found: Option<RawNanos>,
    /// The start of the newest poll that found nothing since the last beat (or the one that found it).
    absent: Option<RawNanos>,
    /// How far the guard poll stands before the range [ns], beyond what the spread asks for.
    guard_extra_ns: i64,
    surprises: u32,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// The middle of the interval in which it arrived, relative to the anchor's phase [ns].
    off_ns: i64,
    /// How wide that interval was [ns].
    width_ns: i64,
}

/// Where the next arrival is expected [ns relative to the anchor's phase].
#[derive(Debug, Clone, Copy)]
struct Range {
    guard: i64,
    from: i64,
    to: i64,
    step: i64,
}

impl PollPlan {
    /// A plan for beats that leave every `interval`; it knows nothing yet.
    pub fn new(interval: Duration) -> PollPlan {
        PollPlan {
            interval_ns: nanos(interval).cast_signed().max(1),
            anchor: None,
            arrivals: VecDeque::with_capacity(HISTORY),
            last: None,
            found: None,
            absent: None,
            guard_extra_ns: 0,
            surprises: 0,
        }
    }

    /// When to poll next: never before `now`, and always by the next due time.
    pub fn next_poll(&self, now: RawNanos) -> RawNanos {
        let Some((started, ended)) = self.last else { return now };
        let due = match (self.anchor, self.range()) {
            (Some(anchor), Some(range)) => self.planned(anchor, range, started, ended),
            _ => later(started, self.gap_limit(ended)),
        };
        due.max(now)
    }

    /// Takes note of a poll that was sent at `started` and answered at `ended`, and whether it showed a beat that was new.
    pub fn on_poll(&mut self, started: RawNanos, ended: RawNanos, found_new: bool) {
        if found_new {
            if let Some(absent) = self.absent {
                self.learn(absent, ended);
            }
            self.found = Some(ended);
        }
        self.absent = Some(started);
        self.last = Some((started, ended));
    }

    /// Forgets what was learnt: the writer started anew, on a schedule of its own.
    pub fn forget(&mut self) {
        self.arrivals.clear();
        self.anchor = None;
        self.guard_extra_ns = 0;
        self.surprises = 0;
    }

    /// The first planned moment behind the last poll: of this cycle's range, behind it, or of the next cycle's.
    fn planned(&self, anchor: RawNanos, range: Range, started: RawNanos, ended: RawNanos) -> RawNanos {
        let since_found = self.found.map_or(0, |found| ended.since_ns(found));
        if since_found > OVERDUE_AFTER * self.interval_ns {
            return later(started, self.gap_limit(ended));
        }
        // The cycle of the next beat: a beat found from the guard poll on is the one of that cycle.
        let after_found = self.found.map_or(0, |found| found.since_ns(anchor));
        let first = (after_found - range.guard).div_euclid(self.interval_ns) + 1;
        let behind_ns = ended.since_ns(anchor);
        let cycle = first.max((behind_ns - range.guard).div_euclid(self.interval_ns));
        let at = |off_ns: i64, cycle: i64| later(anchor, off_ns + cycle * self.interval_ns);
        let inside = behind_ns - cycle * self.interval_ns;
        if inside < range.guard {
            return at(range.guard, cycle);
        }
        if inside < range.to {
            return at(range.next_even(inside), cycle);
        }
        let gap = self.growing_gap(inside - range.to, range.step, ended);
        later(ended, gap).min(at(range.guard, cycle + 1))
    }

    /// The gap at `behind_ns` behind the range: gaps that grow by a fixed factor are a fixed part of the way already gone.
    fn growing_gap(&self, behind_ns: i64, step_ns: i64, now: RawNanos) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "a part of the interval")]
        let grown = (behind_ns as f64 * (GROWTH - 1.0)) as i64 + step_ns;
        grown.min(self.gap_limit(now))
    }

    fn gap_limit(&self, now: RawNanos) -> i64 {
        let overdue = self.found.is_some_and(|found| now.since_ns(found) > GONE_AFTER * self.interval_ns);
        if overdue { self.interval_ns } else { (self.interval_ns / 4).min(GAP_MAX_NS) }
    }

    /// Where the next arrival is expected, from the quantiles of the learnt ones.
    fn range(&self) -> Option<Range> {
        let mut offs: Vec<i64> = self.arrivals.iter().map(|arrival| arrival.off_ns).collect();
        let mut widths: Vec<i64> = self.arrivals.iter().rev().take(5).map(|arrival| arrival.width_ns).collect();
        offs.sort_unstable();
        widths.sort_unstable();
        let (low, middle, high) = (nearest_rank(&offs, 0.04)?, nearest_rank(&offs, 0.5)?, nearest_rank(&offs, 0.94)?);
        let pad = nearest_rank(&widths, 0.5)? / 2;
        let (from, to) = (low - pad, high + pad);
        let step = ((to - from) / EVEN_POLLS).max(STEP_MIN_NS);
        let margin = (middle - low) + STEP_MIN_NS + self.guard_extra_ns;
        Some(Range { guard: from - margin.min(self.interval_ns / 4), from, to, step })
    }

    fn learn(&mut self, absent: RawNanos, present: RawNanos) {
        let width_ns = present.since_ns(absent);
        let centre = later(absent, width_ns / 2);
        let overdue = self.found.is_some_and(|found| centre.since_ns(found) > self.interval_ns + self.interval_ns / 2);
        let (Some(anchor), Some(range)) = (self.anchor, self.range()) else {
            if width_ns <= 2 * self.gap_limit(present) {
                self.start_with(centre, width_ns);
            }
            return;
        };
        if overdue {
            // An outage or a burst behind it says nothing about the next arrival.
            return;
        }
        let cycle = (present.since_ns(anchor) - range.guard).div_euclid(self.interval_ns);
        let present_ns = present.since_ns(anchor) - cycle * self.interval_ns;
        let off_ns = present_ns - width_ns / 2;
        let reach = (range.to - range.from).max(4 * STEP_MIN_NS);
        if present_ns - width_ns < range.guard - STEP_MIN_NS {
            // Found by the first poll of the range; if not, the reader itself slept over the range and has learnt nothing.
            if present_ns <= range.to {
                self.early_hit();
            }
        } else if off_ns > range.to + reach {
            self.surprise(centre, width_ns);
        } else {
            self.surprises = 0;
            self.guard_extra_ns -= self.guard_extra_ns / 16;
            self.remember(anchor, cycle, Arrival { off_ns, width_ns });
        }
    }

    fn start_with(&mut self, centre: RawNanos, width_ns: i64) {
        self.forget();
        self.anchor = Some(centre);
        self.arrivals.push_back(Arrival { off_ns: 0, width_ns });
    }

    /// Already there at the guard poll: look earlier next time.
    fn early_hit(&mut self) {
        self.surprises += 1;
        self.guard_extra_ns = (self.guard_extra_ns * 2 + 2 * STEP_MIN_NS).min(self.interval_ns / 4);
        if self.surprises > SURPRISES_MAX {
            self.forget();
        }
    }

    /// Far from where it was expected: once is a hiccup, twice is a new phase.
    fn surprise(&mut self, centre: RawNanos, width_ns: i64) {
        self.surprises += 1;
        if self.surprises >= SURPRISES_MAX && width_ns <= 2 * self.gap_limit(centre) {
            self.start_with(centre, width_ns);
        } else if self.surprises > SURPRISES_MAX {
            self.forget();
        }
    }

    fn remember(&mut self, anchor: RawNanos, cycle: i64, arrival: Arrival) {
        if self.arrivals.len() == HISTORY {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(arrival);
        let mut offs: Vec<i64> = self.arrivals.iter().map(|arrival| arrival.off_ns).collect();
        offs.sort_unstable();
        let shift = nearest_rank(&offs, 0.5).unwrap_or(arrival.off_ns);
        for arrival in &mut self.arrivals {
            arrival.off_ns -= shift;
        }
        self.anchor = Some(later(anchor, cycle * self.interval_ns + shift));
    }
}

impl Range {
    /// The first even poll behind `inside`.
    fn next_even(self, inside: i64) -> i64 {
        if inside < self.from { self.from } else { self.from + ((inside - self.from) / self.step + 1) * self.step }
    }
}

/// The stamp `by_ns` later (or earlier, if negative).
fn later(stamp: RawNanos, by_ns: i64) -> RawNanos {
    RawNanos(stamp.0.saturating_add_signed(by_ns))
}

/// The nearest-rank quantile of sorted values.
fn nearest_rank(sorted: &[i64], q: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the slice")]
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests;
