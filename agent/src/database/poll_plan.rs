//! When to look for the next beat of one origin: few queries, most of them close to the moment at which it arrives.
//!
//! Beats leave on a fixed schedule and lag changes slowly, so arrivals on the reader's own clock fall on nearly the same phase of
//! the beat interval, whatever the lag and the clocks of the two hosts are. The plan learns that phase and how far arrivals spread
//! to either side of it, and polls at fixed scores of that spread: one early guard, then closer and closer together the likelier it is
//! that the beat comes just now, and with growing gaps behind. What disturbs it (an outage, a burst, a heavy tail) is kept out of what
//! it learns.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::time::{RawNanos, nanos};

/// Arrivals that are remembered: half a minute at 1 Hz; more would smear the drift of two clocks (100 us/s) over the range.
const HISTORY: usize = 32;
/// When to poll behind the guard, in spreads around the middle of what was learnt. They minimise the mean gap in which a beat is found plus
/// a quarter of a spread for each poll, by dynamic programming over a normal distribution, one part in fifty of which comes late: 4.7 polls
/// for each beat.
const USUAL_SCORES: &[f64] = &[-1.5, -0.6, 0.05, 0.55, 1.0, 1.4, 1.75, 2.15, 2.6, 3.15, 4.0];
/// Where there is room for more, 5 polls for each beat. They minimise the mean square of the guess's error, in spreads, plus 0.016 for each
/// poll, which leaves a wide spread less of what polls can tell.
const CLOSE_SCORES: &[f64] = &[-1.45, -0.7, -0.15, 0.35, 0.8, 1.2, 1.6, 2.0, 2.4, 2.85, 3.4, 4.05];
/// Beats that follow each other faster than this have the room [ns]: a beat may cost a server six statements, and those for positions come
/// by the second.
const CLOSE_BELOW_NS: i64 = 500_000_000;
/// A spread of more polls than this can use them [polls one behind the other]: in a smaller one they would only follow each other without a
/// pause.
const CLOSE_ABOVE_POLLS: i64 = 3;
/// Where the guard stands, in spreads before the middle, or before the earliest arrival that was learnt: a beat that is already there has a
/// gap as long as the interval, and a spread that is known from few arrivals may be larger than it seems.
const GUARD: (f64, f64) = (4.6, 2.0);
/// By which ranks the spread to either side is told, as shares of what was learnt and as scores of a normal distribution. The mean of
/// three is steadier than one, and what lies outside of them may be anything.
const RANKS: [(f64, f64); 3] = [(0.07, 1.476), (0.16, 0.994), (0.31, 0.496)];
/// The smallest spread that is planned for [ns]: the polls of a smaller one would only follow each other without a pause.
const SPREAD_MIN_NS: i64 = 500_000;
/// Whatever comes within this of the last planned poll teaches where beats come, however close together the polls are [ns].
const NEAR_NS: i64 = 2_400_000;
/// So many arrivals tell their spread by themselves.
const LEARNT: usize = 8;
/// At how many points of a gap it is asked how likely an arrival there is.
const GUESS_POINTS: u32 = 32;
/// How likely an arrival is anywhere, against one in the middle: hiccups know no spread.
const ANYWHERE: f64 = 0.01;
/// How many polls tell how long one takes.
const POLLS_TIMED: usize = 9;
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
    /// The newest poll: none shows a beat that the one before it showed, so a new one came since that.
    last: Option<Poll>,
    /// When the newest beat was found: the end of that poll.
    found: Option<RawNanos>,
    /// How far the guard poll stands before the range [ns], beyond what the spread asks for.
    guard_extra_ns: i64,
    surprises: u32,
    /// Polls since the newest beat was found.
    polls: u32,
    /// How long the newest polls took [ns], oldest first.
    took_ns: VecDeque<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Poll {
    started: RawNanos,
    ended: RawNanos,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// The middle of the interval in which it arrived, relative to the anchor's phase [ns].
    off_ns: i64,
    /// How wide that interval was [ns].
    width_ns: i64,
}

/// What the plan says of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// How many polls there were since the last beat, this one among them.
    pub polls: u32,
    /// If it showed a beat: when that came, by when those before it did. `None` as long as nothing is learnt.
    pub guess: Option<RawNanos>,
}

/// Where the next arrival is expected [ns relative to the anchor's phase].
#[derive(Debug, Clone, Copy)]
struct Range {
    middle: i64,
    /// How far arrivals spread before and behind it.
    spread: (i64, i64),
    guard: i64,
    /// When to poll behind the guard, in spreads.
    scores: &'static [f64],
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
            guard_extra_ns: 0,
            surprises: 0,
            polls: 0,
            took_ns: VecDeque::with_capacity(POLLS_TIMED),
        }
    }

    /// When to poll next: never before `now`, and always by the next due time.
    pub fn next_poll(&self, now: RawNanos) -> RawNanos {
        let Some(last) = self.last else { return now };
        let due = match (self.anchor, self.range()) {
            (Some(anchor), Some(range)) => self.planned(anchor, range, last),
            _ => later(last.started, self.gap_limit(last.ended)),
        };
        due.max(now)
    }

    /// Takes note of a poll that was sent at `started` and answered at `ended`, and whether it showed a beat that was new.
    pub fn on_poll(&mut self, started: RawNanos, ended: RawNanos, found_new: bool) -> Found {
        if self.took_ns.len() == POLLS_TIMED {
            self.took_ns.pop_front();
        }
        let poll = Poll { started, ended };
        self.took_ns.push_back(poll.took_ns());
        let polls = self.polls.saturating_add(1);
        self.polls = if found_new { 0 } else { polls };
        let mut guess = None;
        if found_new {
            if let Some(absent) = self.last {
                let expected = self.anchor.zip(self.range());
                guess = expected.and_then(|expected| self.guess(expected, absent, poll));
                self.learn(expected, absent, poll);
            }
            self.found = Some(ended);
        }
        self.last = Some(poll);
        Found { polls, guess }
    }

    /// Forgets what was learnt: the writer started anew, on a schedule of its own.
    pub fn forget(&mut self) {
        self.arrivals.clear();
        self.anchor = None;
        self.guard_extra_ns = 0;
        self.surprises = 0;
    }

    /// The first planned moment behind the last poll: of this cycle's range, behind it, or of the next cycle's.
    fn planned(&self, anchor: RawNanos, range: Range, last: Poll) -> RawNanos {
        let Poll { started, ended } = last;
        let since_found = self.found.map_or(0, |found| ended.since_ns(found));
        if since_found > OVERDUE_AFTER * self.interval_ns {
            return later(started, self.gap_limit(ended));
        }
        // The cycle of the next beat: a beat found from the guard poll on is the one of that cycle.
        let after_found = self.found.map_or(0, |found| found.since_ns(anchor));
        let first = self.cycle(&range, after_found) + 1;
        let behind_ns = ended.since_ns(anchor);
        let cycle = first.max(self.cycle(&range, behind_ns));
        let at = |off_ns: i64, cycle: i64| later(anchor, off_ns + cycle * self.interval_ns);
        let inside = behind_ns - cycle * self.interval_ns;
        if inside < range.guard {
            return at(range.guard, cycle);
        }
        if let Some(next) = range.polls().find(|poll| inside < *poll) {
            return at(next, cycle);
        }
        let gap = self.growing_gap(inside - range.last(), range.spread.1, ended);
        later(ended, gap).min(at(range.guard, cycle + 1))
    }

    /// In which interval after the anchor's a moment lies; each begins with its guard.
    fn cycle(&self, range: &Range, since_anchor_ns: i64) -> i64 {
        (since_anchor_ns - range.guard).div_euclid(self.interval_ns)
    }

    /// The gap at `behind_ns` behind the range: gaps that grow by a fixed factor are a fixed part of the way already gone.
    fn growing_gap(&self, behind_ns: i64, first_ns: i64, now: RawNanos) -> i64 {
        (scaled(behind_ns, GROWTH - 1.0) + first_ns).min(self.gap_limit(now))
    }

    fn gap_limit(&self, now: RawNanos) -> i64 {
        let overdue = self.found.is_some_and(|found| now.since_ns(found) > GONE_AFTER * self.interval_ns);
        if overdue { self.interval_ns } else { (self.interval_ns / 4).min(GAP_MAX_NS) }
    }

    /// Where the next arrival is expected, by how far the learnt ones lie from their middle.
    fn range(&self) -> Option<Range> {
        let mut offs: Vec<i64> = self.arrivals.iter().map(|arrival| arrival.off_ns).collect();
        offs.sort_unstable();
        let middle = nearest_rank(&offs, 0.5)?;
        let before = spread_ns(|rank| Some(middle - nearest_rank(&offs, rank)?))?;
        let behind = spread_ns(|rank| Some(nearest_rank(&offs, 1.0 - rank)? - middle))?;
        // While little is known, what was found is known no better than by the gap in which it was found.
        let doubt = if offs.len() < LEARNT { self.newest_width_ns()? / 2 } else { 0 };
        let usual_poll_ns = self.usual_poll_ns()?;
        let least = SPREAD_MIN_NS.max(usual_poll_ns).max(doubt);
        let spread = (before.max(least), behind.max(least));
        let earliest = *offs.first()?;
        let guard = (middle - scaled(spread.0, GUARD.0)).min(earliest - scaled(spread.0, GUARD.1)) - self.guard_extra_ns;
        let guard = guard.max(middle - self.interval_ns / 2);
        Some(Range { middle, spread, guard, scores: self.scores(spread, usual_poll_ns) })
    }

    /// How close together the polls stand.
    fn scores(&self, (before, behind): (i64, i64), usual_poll_ns: i64) -> &'static [f64] {
        let is_wide = before.min(behind) > CLOSE_ABOVE_POLLS * usual_poll_ns;
        if is_wide && self.interval_ns < CLOSE_BELOW_NS { CLOSE_SCORES } else { USUAL_SCORES }
    }

    /// The middle one of how wide the newest arrivals are [ns].
    fn newest_width_ns(&self) -> Option<i64> {
        middle_of(self.arrivals.iter().rev().take(5).map(|arrival| arrival.width_ns))
    }

    /// The middle one of how long the newest polls took [ns].
    fn usual_poll_ns(&self) -> Option<i64> {
        middle_of(self.took_ns.iter().copied())
    }

    /// When a poll looked, as far as can be told: the way back of the fastest poll before its end. What takes longer comes before the look
    /// on most servers, because a session that has slept has to be woken and to find a processor first.
    fn looked(&self, poll: Poll) -> Option<RawNanos> {
        let way_back_ns = self.took_ns.iter().min()? / 2;
        Some(later(poll.ended, -way_back_ns))
    }

    /// When a beat came that was found between two looks: the mean of what was learnt, as far as it lies between them. What is set in
    /// motion by a beat that arrives delays a poll that is under way, so the longer the poll took that found it, the likelier it came in it.
    fn guess(&self, (anchor, range): (RawNanos, Range), absent: Poll, present: Poll) -> Option<RawNanos> {
        let (from, to) = (self.looked(absent)?, self.looked(present)?);
        let start_ns = from.since_ns(anchor) - self.cycle(&range, present.ended.since_ns(anchor)) * self.interval_ns;
        let late = Late {
            from_ns: present.started.since_ns(from),
            times: (present.took_ns() as f64 / self.usual_poll_ns()?.max(1) as f64).max(1.0),
        };
        (to > from).then(|| later(from, range.mean_offset_ns(start_ns, to.since_ns(from), late)))
    }

    fn learn(&mut self, expected: Option<(RawNanos, Range)>, absent: Poll, found: Poll) {
        let (present, width_ns) = (found.ended, found.ended.since_ns(absent.started));
        let centre = later(absent.started, width_ns / 2);
        let overdue = self.found.is_some_and(|found| centre.since_ns(found) > self.interval_ns + self.interval_ns / 2);
        let Some((anchor, range)) = expected else {
            if width_ns <= 2 * self.gap_limit(present) {
                self.start_with(centre, width_ns);
            }
            return;
        };
        if overdue {
            // An outage or a burst behind it says nothing about the next arrival.
            return;
        }
        let cycle = self.cycle(&range, present.since_ns(anchor));
        let present_ns = present.since_ns(anchor) - cycle * self.interval_ns;
        let off_ns = present_ns - width_ns / 2;
        if present_ns - width_ns < range.guard - range.spread.0 {
            // Found by the first poll of the range; if not, the reader itself slept over the range and has learnt nothing.
            if present_ns <= range.last() {
                self.early_hit(range.spread.0);
            }
        } else if off_ns > range.last() + NEAR_NS.max((range.last() - range.first()) / 2) {
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
    fn early_hit(&mut self, spread_ns: i64) {
        self.surprises += 1;
        self.guard_extra_ns = (self.guard_extra_ns * 2 + 2 * spread_ns).min(self.interval_ns / 4);
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
        let shift = middle_of(self.arrivals.iter().map(|arrival| arrival.off_ns)).unwrap_or(arrival.off_ns);
        for arrival in &mut self.arrivals {
            arrival.off_ns -= shift;
        }
        self.anchor = Some(later(anchor, cycle * self.interval_ns + shift));
    }
}

/// From where in a gap on an arrival is likelier than by its spread alone, and how many times.
#[derive(Debug, Clone, Copy)]
struct Late {
    from_ns: i64,
    times: f64,
}

impl Poll {
    fn took_ns(self) -> i64 {
        self.ended.since_ns(self.started)
    }
}

impl Range {
    /// The mean arrival in a gap of `width_ns` from `start_ns` on, from its start.
    fn mean_offset_ns(&self, start_ns: i64, width_ns: i64, late: Late) -> i64 {
        let (mut weights, mut sum) = (0.0, 0.0);
        for point in 0..GUESS_POINTS {
            let offset = (f64::from(point) + 0.5) / f64::from(GUESS_POINTS) * width_ns as f64;
            let from_middle = start_ns as f64 + offset - self.middle as f64;
            let spread = self.spread_towards(from_middle);
            let likelier = if offset > late.from_ns as f64 { late.times } else { 1.0 };
            let weight = ((-(from_middle / spread as f64).powi(2) / 2.0).exp() + ANYWHERE) * likelier;
            weights += weight;
            sum += weight * offset;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a part of the gap")]
        let mean_ns = (sum / weights) as i64;
        mean_ns
    }

    /// The planned polls behind the guard, in order.
    fn polls(&self) -> impl Iterator<Item = i64> {
        self.scores.iter().map(|score| self.at(*score))
    }

    /// The moment of a score.
    fn at(&self, score: f64) -> i64 {
        self.middle + scaled(self.spread_towards(score), score)
    }

    /// The spread on the side of the middle on which something lies.
    fn spread_towards(&self, from_middle: f64) -> i64 {
        if from_middle < 0.0 { self.spread.0 } else { self.spread.1 }
    }

    /// The first planned poll behind the guard.
    fn first(&self) -> i64 {
        self.scores.first().map_or(self.middle, |score| self.at(*score))
    }

    /// The last planned poll.
    fn last(&self) -> i64 {
        self.scores.last().map_or(self.middle, |score| self.at(*score))
    }
}

/// The spread to one side [ns]: the mean of what each rank says, by how far it lies from the middle.
fn spread_ns(distance: impl Fn(f64) -> Option<i64>) -> Option<i64> {
    let spreads = RANKS.iter().map(|(rank, score)| Some(scaled(distance(*rank)?, 1.0 / score)));
    let sum: i64 = spreads.sum::<Option<i64>>()?;
    Some(scaled(sum, 1.0 / RANKS.len() as f64))
}

#[expect(clippy::cast_possible_truncation, reason = "a few times a part of the interval")]
fn scaled(ns: i64, factor: f64) -> i64 {
    (ns as f64 * factor) as i64
}

/// The stamp `by_ns` later (or earlier, if negative).
fn later(stamp: RawNanos, by_ns: i64) -> RawNanos {
    RawNanos(stamp.0.saturating_add_signed(by_ns))
}

/// The middle one of some values.
fn middle_of(values: impl Iterator<Item = i64>) -> Option<i64> {
    let mut values: Vec<i64> = values.collect();
    values.sort_unstable();
    nearest_rank(&values, 0.5)
}

/// The nearest-rank quantile of sorted values.
fn nearest_rank(sorted: &[i64], q: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the slice")]
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests;
