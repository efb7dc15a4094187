//! The apply lag of the beats of one origin at one node: each beat's interval, their distributions, and how old what is visible is.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::beat::{Announcement, BeatRow, BeatTimes, Incarnation, Sequence, Visibility, apply_lag, staleness};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::interval::{Interval, drift_ns};
use lagmesh_model::state::{Basis, Bound};
use lagmesh_model::status::Quantiles;
use lagmesh_model::time::{RawNanos, Reading, nanos};

use crate::measurement::{PeerClock, PeerView, SettledBeat, Sighting};
use crate::replication::told::{Mark, Told, is_newer};
use crate::replication::track::age;
use crate::wall::theta_by_labels;

/// Sightings that wait to learn when their beat was acknowledged; the next row tells, so more than a few means a catch-up.
const PENDING_MAX: usize = 32;
/// Beats whose lag came out and that nobody has taken yet: a few seconds at the highest beat rate.
const SETTLED_MAX: usize = 128;
/// The span of the recent distribution.
const RECENT: Duration = Duration::from_secs(60);
/// The most values of the recent distribution: a minute at the highest beat rate.
const RECENT_MAX: usize = 1_200;
/// Over so many beats lag must fall to be called falling.
const TREND_BEATS: usize = 3;

/// Beats of one origin seen at one node.
#[derive(Debug, Default)]
pub(super) struct Lag {
    newest: Option<Visible>,
    /// When a beat was last seen arriving, on our clock.
    arrived: Option<RawNanos>,
    pending: VecDeque<Pending>,
    /// The newest lag that is known, and when its beat was found.
    last: Option<LastLag>,
    recent: VecDeque<(RawNanos, i64)>,
    /// Whose lag came out, for whoever wants each of them; the oldest go if nobody does.
    settled: VecDeque<SettledBeat>,
    /// The writer's clock, as the mesh last knew it: kept beyond the moment at which the mesh loses the writer, it only gets wider.
    offset: Option<PeerClock>,
    /// The same by the labels in the newest row and what both hosts claim: for where the mesh never reached the writer.
    labelled: Option<PeerClock>,
    /// What goes out.
    pub(super) totals: Totals,
}

/// What goes out: counts since the start.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// All lags that are known.
    pub(super) mesh: Lags,
    /// Those that are known with the help of the clocks' own claims, too: true only if the claims are.
    pub(super) claimed: Lags,
    /// Beats whose whole interval lies below zero: in none of the distributions.
    pub(super) negative: u64,
    /// Beats within the objective for certain.
    pub(super) met: u64,
    /// Beats beyond the objective for certain.
    pub(super) missed: u64,
    /// Beats of which neither is certain.
    pub(super) unknown: u64,
}

/// The distributions of lag on one basis. Ends and guesses below zero (honest where a row is visible before its commit returns) count
/// as zero.
#[derive(Debug, Default)]
pub(super) struct Lags {
    /// Lower ends.
    pub(super) lower: Exponential,
    /// Best guesses.
    pub(super) estimate: Exponential,
    /// Upper ends.
    pub(super) upper: Exponential,
}

/// The newest visible beat.
#[derive(Debug, Clone)]
struct Visible {
    row: BeatRow,
    present: RawNanos,
    acknowledged: Option<RawNanos>,
}

/// A sighting whose beat's acknowledgement is not known yet.
#[derive(Debug)]
struct Pending {
    sighting: Sighting,
    absent: RawNanos,
    at: Reading,
    /// The writer's clock by the labels in the row.
    labelled: Option<PeerClock>,
}

/// The newest known lag.
#[derive(Debug, Clone, Copy)]
struct LastLag {
    /// When its beat was found.
    at: RawNanos,
    /// By what the mesh has measured; `None` where it never reached the writer.
    lag: Option<Interval>,
    /// With the help of the clocks' own claims; `None` without them.
    claimed: Option<Interval>,
    beat: (Incarnation, Sequence),
}

/// What may have become visible since the newest poll: the lower end of staleness must allow for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SincePoll<'t> {
    /// The newest beat that the writer told of.
    pub(super) told: Option<&'t Announcement>,
    /// Two beats of a writer are at least this far apart.
    pub(super) spacing: Duration,
    /// When the newest poll began, if replication stands still: nothing has become visible until then.
    pub(super) stands_still_at: Option<RawNanos>,
}

impl Lag {
    /// The newest visible beat.
    pub(super) fn newest(&self) -> Option<&BeatRow> {
        self.newest.as_ref().map(|visible| &visible.row)
    }

    /// When a beat was last seen arriving (absent in one poll, present in the next), on our clock.
    pub(super) fn arrived(&self) -> Option<RawNanos> {
        self.arrived
    }

    /// The lag of the newest beat whose lag is known, and what it rests on: the mesh, or where that never reached the writer the clocks' own
    /// claims.
    pub(super) fn last(&self) -> Option<(Interval, Basis)> {
        self.last.as_ref().and_then(LastLag::best)
    }

    /// The same with the help of the clocks' own claims in any case; `None` without them.
    pub(super) fn last_claimed(&self) -> Option<Interval> {
        self.last.and_then(|last| last.claimed)
    }

    /// The beat whose lag that is.
    pub(super) fn last_beat(&self) -> Option<(Incarnation, Sequence)> {
        self.last.map(|last| last.beat)
    }

    /// Since its beat was found.
    pub(super) fn last_age(&self, now: RawNanos) -> Option<Duration> {
        self.last.map(|last| age(now, last.at))
    }

    /// The beats whose lag came out since the last time, oldest first.
    pub(super) fn take_settled(&mut self) -> impl Iterator<Item = SettledBeat> + '_ {
        self.settled.drain(..)
    }

    /// Whether lag has been falling over the last few beats.
    pub(super) fn is_falling(&self) -> bool {
        let mut back = self.recent.iter().rev();
        match (back.next(), back.nth(TREND_BEATS - 1)) {
            (Some((_, newest)), Some((_, before))) => newest < before,
            _ => false,
        }
    }

    /// Best guesses of the last minute; `None` if there are none.
    pub(super) fn recent(&self, now: RawNanos) -> Option<Quantiles> {
        let since = |at: RawNanos| now.since_ns(at) <= nanos(RECENT).cast_signed();
        let mut lags: Vec<i64> = self.recent.iter().filter(|(at, _)| since(*at)).map(|(_, lag_ns)| *lag_ns).collect();
        lags.sort_unstable();
        let rank = |percent: usize| lags.get((lags.len() * percent).div_ceil(100).checked_sub(1)?).copied();
        let seconds = |ns: i64| ns as f64 / 1e9;
        Some(Quantiles {
            samples: lags.len() as u64,
            min_s: seconds(*lags.first()?),
            p50_s: seconds(rank(50)?),
            p99_s: seconds(rank(99)?),
            max_s: seconds(*lags.last()?),
        })
    }

    /// Takes in a sighting; the lag follows once the beat's acknowledgement is known.
    pub(super) fn see(&mut self, sighting: Sighting, told: &Told, at: Reading, view: &PeerView, objective: Duration) {
        // Commits become visible in their order: an older row is a leftover of an earlier start of the writer.
        if self.newest().is_some_and(|newest| !is_newer(&Mark::of_row(&sighting.row), &Mark::of_row(newest))) {
            return;
        }
        self.settle_before(&sighting.row, view, objective);
        let labelled = labelled(&sighting, at);
        self.labelled = labelled.or(self.labelled);
        self.newest = Some(Visible { row: sighting.row.clone(), present: sighting.present, acknowledged: None });
        // What the first poll shows has been there for nobody knows how long.
        if let Some(absent) = sighting.absent {
            self.arrived = Some(sighting.present);
            if self.pending.len() == PENDING_MAX {
                self.pending.pop_front();
                self.totals.unknown += 1;
            }
            self.pending.push_back(Pending { sighting, absent, at, labelled });
        }
        self.hear(told, at, view, objective);
    }

    /// Uses what the writer has told since.
    pub(super) fn hear(&mut self, told: &Told, now: Reading, view: &PeerView, objective: Duration) {
        if let Some(newest) = &mut self.newest {
            let times = told.times_of(&newest.row.id);
            newest.acknowledged = newest.acknowledged.or(times.map(|times| times.acknowledged));
            if let Some(offset) = view.offset_of(newest.row.epoch, now) {
                self.offset = Some(PeerClock { epoch: newest.row.epoch, own_epoch: now.epoch, offset, at: now.raw });
            }
        }
        for pending in std::mem::take(&mut self.pending) {
            match told.times_of(&pending.sighting.row.id) {
                Some(times) => self.settle(&pending, times.acknowledged, view, objective),
                None => self.pending.push_back(pending),
            }
        }
    }

    /// How old what is visible is. The newest beat that was seen gives guess and upper end. The lower end allows for one that became
    /// visible since the newest poll, as far as such a beat can exist; where replication stands still it is that of the poll. Says what it
    /// rests on.
    ///
    /// # Errors
    /// If it is not known: says why.
    pub(super) fn staleness(&self, now: Reading, since: &SincePoll<'_>) -> Result<(Interval, Basis), &'static str> {
        let newest = self.newest.as_ref().ok_or("no beat has been seen")?;
        let of = |kept: Option<PeerClock>, basis| Some((kept?.offset_of(newest.row.epoch, now)?, basis));
        let (offset, basis) = of(self.offset, Basis::Mesh)
            .or_else(|| of(self.labelled, Basis::Claims))
            .ok_or("the clock of the writer's agent is not known: it is not heard on the mesh, and one of the two hosts claims nothing about its own")?;
        let (theta, sent) = (theta_at_commit(offset, &newest.row, now), newest.row.sent);
        let known = if let Some(acknowledged) = newest.acknowledged {
            staleness(now.raw, &BeatTimes { epoch: newest.row.epoch, sent, acknowledged }, theta)
        } else {
            // Committed before it was visible, and after it was sent.
            let visible = now.raw.checked_since(newest.present).map_or(0, |visible| nanos(visible) - drift_ns(visible));
            let (lower, upper) = (visible.cast_signed(), now.raw.since_ns(sent) - theta.lower_ns());
            let estimate = now.raw.since_ns(sent) - theta.estimate_ns();
            Interval::new(lower, estimate.max(lower).min(upper), upper)
        }
        .ok_or("the clocks contradict each other")?;
        let lower_ns = match since.stands_still_at {
            Some(polled) => known.lower_ns() - now.raw.since_ns(polled),
            None => youngest_possible_ns(newest, since, offset, now).unwrap_or(known.lower_ns()),
        };
        Ok((known.with_lower_at_most(lower_ns), basis))
    }

    /// Forgets every stamp of our own clock, which has begun a new epoch. What was counted stays.
    pub(super) fn new_epoch(&mut self) {
        let totals = std::mem::take(&mut self.totals);
        *self = Lag { totals, ..Lag::default() };
    }

    /// The row of the next beat says when the one before it was acknowledged; of any older one nobody will say it any more.
    fn settle_before(&mut self, row: &BeatRow, view: &PeerView, objective: Duration) {
        let is_next_of = |of: &BeatRow| of.id.incarnation == row.id.incarnation && of.id.sequence.0 + 1 == row.id.sequence.0;
        for pending in std::mem::take(&mut self.pending) {
            match row.previous_acknowledged.filter(|_| is_next_of(&pending.sighting.row)) {
                Some(acknowledged) => self.settle(&pending, acknowledged, view, objective),
                None if is_newer(&Mark::of_row(row), &Mark::of_row(&pending.sighting.row)) => self.totals.unknown += 1,
                None => self.pending.push_back(pending),
            }
        }
    }

    fn settle(&mut self, pending: &Pending, acknowledged: RawNanos, view: &PeerView, objective: Duration) {
        let row = &pending.sighting.row;
        let times = BeatTimes { epoch: row.epoch, sent: row.sent, acknowledged };
        let kept = || self.offset.and_then(|kept| kept.offset_of(row.epoch, pending.at));
        let offset = view.offset_of(row.epoch, pending.at).or_else(kept);
        let lag = offset.and_then(|offset| pending.lag(&times, offset));
        // What the mesh has refuted is not believed because the row says it again.
        let by_claims = match offset {
            Some(_) => view.claimed_offset_of(row.epoch, pending.at),
            None => pending.labelled.map(|labelled| labelled.offset),
        };
        let claimed = by_claims.and_then(|offset| pending.lag(&times, offset)).map(|(_, claimed)| claimed);
        let claimed = claimed.filter(|claimed| claimed.upper_ns() >= 0);
        if let Some(claimed) = claimed {
            self.totals.claimed.record(claimed);
        }
        match lag {
            Some((theta, lag)) => {
                self.keep_settled(pending.settled(&times, theta, lag, claimed));
                self.totals.record(lag, objective);
            }
            // An objective is met or missed for certain, or neither is known.
            None => self.totals.unknown += 1,
        }
        let last = LastLag {
            at: pending.sighting.present,
            lag: lag.map(|(_, lag)| lag),
            claimed,
            beat: (row.id.incarnation, row.id.sequence),
        };
        if let Some((guess, basis)) = last.best() {
            self.remember(last.at, guess, basis);
            self.last = Some(last);
        }
    }

    /// Best guesses of the last minute, all on one basis.
    fn remember(&mut self, at: RawNanos, lag: Interval, basis: Basis) {
        if self.last().is_some_and(|(_, before)| before != basis) {
            self.recent.clear();
        }
        // A contradiction is no lag.
        if lag.upper_ns() < 0 {
            return;
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((at, lag.estimate_ns()));
    }

    fn keep_settled(&mut self, settled: SettledBeat) {
        if self.settled.len() == SETTLED_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(settled);
    }
}

impl LastLag {
    fn best(&self) -> Option<(Interval, Basis)> {
        self.lag.map(|lag| (lag, Basis::Mesh)).or_else(|| self.claimed.map(|claimed| (claimed, Basis::Claims)))
    }
}

impl Pending {
    /// The reader's clock minus the writer's, and the lag that follows from it; `offset` is the writer's clock minus the reader's.
    fn lag(&self, times: &BeatTimes, offset: Interval) -> Option<(Interval, Interval)> {
        let theta = theta_at_commit(offset, &self.sighting.row, self.at);
        let visible = Visibility { absent: self.absent, present: self.sighting.present, guess: self.sighting.guess };
        Some((theta, apply_lag(&visible, times, theta)?))
    }

    /// What its interval is made of.
    fn settled(&self, times: &BeatTimes, theta: Interval, lag: Interval, claimed: Option<Interval>) -> SettledBeat {
        let sighting = &self.sighting;
        SettledBeat {
            beat: (sighting.row.id.incarnation, sighting.row.id.sequence),
            lag,
            claimed_estimate_ns: claimed.map(|claimed| claimed.estimate_ns()),
            poll_gap_ns: sighting.present.since_ns(self.absent),
            poll_ns: sighting.present.since_ns(sighting.asked),
            polls: sighting.polls,
            commit_ns: times.acknowledged.since_ns(times.sent),
            theta_width_ns: theta.width_ns(),
        }
    }
}

/// The offset of the writer's clock by the labels in a row and what both hosts claim, if they do.
fn labelled(sighting: &Sighting, at: Reading) -> Option<PeerClock> {
    let own = sighting.own_wall.filter(|own| own.epoch == at.epoch)?;
    let offset = theta_by_labels(&sighting.row, &own, at.raw)?;
    Some(PeerClock { epoch: sighting.row.epoch, own_epoch: at.epoch, offset, at: at.raw })
}

impl Totals {
    /// Counts one lag. An interval wholly below zero is a clock contradiction and stays out of the distributions.
    fn record(&mut self, lag: Interval, objective: Duration) {
        if lag.upper_ns() < 0 {
            self.negative += 1;
            self.unknown += 1;
            return;
        }
        self.mesh.record(lag);
        let objective_ns = nanos(objective).cast_signed();
        if lag.upper_ns() <= objective_ns {
            self.met += 1;
        } else if lag.lower_ns() > objective_ns {
            self.missed += 1;
        } else {
            self.unknown += 1;
        }
    }
}

impl Lags {
    /// Each with its word.
    pub(super) fn each(&self) -> [(Bound, &Exponential); 3] {
        [(Bound::Lower, &self.lower), (Bound::Estimate, &self.estimate), (Bound::Upper, &self.upper)]
    }

    fn record(&mut self, lag: Interval) {
        self.lower.record_difference_ns(lag.lower_ns());
        self.estimate.record_difference_ns(lag.estimate_ns());
        self.upper.record_difference_ns(lag.upper_ns());
    }
}

/// The reader's clock minus the writer's when the beat was committed, from the writer's minus the reader's at `now`: widened by what the
/// two may have gained on each other since, and by what the reader's own rate makes of the time that it measures.
fn theta_at_commit(offset: Interval, row: &BeatRow, now: Reading) -> Interval {
    let since_ns = now.raw.since_ns(row.sent) + offset.upper_ns();
    let since = Duration::from_nanos(u64::try_from(since_ns).map_or(0, |ns| ns));
    let clocks = if row.epoch == now.epoch { 1 } else { 3 };
    let gained_ns = clocks * drift_ns(since);
    (-offset).widen(gained_ns + drift_ns(Duration::from_nanos(gained_ns)))
}

/// The least age of a beat that may have become visible since the newest poll [ns]: of the newest that the writer told of, or zero if
/// it may have sent another. `None` if there is none but the one that was seen.
fn youngest_possible_ns(newest: &Visible, since: &SincePoll<'_>, offset: Interval, now: Reading) -> Option<i64> {
    let seen = Mark::of_row(&newest.row);
    let told = since.told.filter(|told| is_newer(&Mark::of(told), &seen));
    let (epoch, sent) = told.map_or((newest.row.epoch, newest.row.sent), |told| (told.times.epoch, told.times.sent));
    if epoch != newest.row.epoch || now.raw.since_ns(sent) + offset.upper_ns() >= nanos(since.spacing).cast_signed() {
        return Some(0);
    }
    told.map(|told| now.raw.since_ns(told.times.acknowledged) + offset.lower_ns())
}

#[cfg(test)]
mod tests;
