//! What to send next and when: live first, then the last batch of every run before this one, then what was missed, at a bounded rate. Pure.
//!
//! A batch holds all counts of its run so far, so the last one of a run makes the totals right, and what was missed before it adds
//! nothing but their course. Last batches are therefore not held back to any rate: a collector that has been told of a new run has soon been
//! told the end of those before it, however many there were and however much of them waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lagmesh_daemon::Backoff;
use lagmesh_model::time::RawNanos;

use super::answer::{Answer, RETRY_AFTER_MAX};
use crate::spool::{Level, ParcelId};

/// After a failure: first wait and jitter. The longest wait is one export interval within these bounds, so that a collector that is
/// back learns within one interval how things stand, and well before a judge gets suspicious (15 s).
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_JITTER: f64 = 0.5;
const BACKOFF_CAP_MIN: Duration = Duration::from_secs(1);
const BACKOFF_CAP_MAX: Duration = Duration::from_secs(10);

/// What was missed is sent this many times as fast as it was made: ten minutes in 13 s, six hours in eight minutes. A collector takes
/// that of forty agents at once beside what is new, and one that does not asks them to come back later.
const BACKFILL_SPEED: u32 = 48;
/// The shortest time from one old batch to the next, however short the export interval is.
const BACKFILL_PAUSE_MIN: Duration = Duration::from_millis(20);
/// The most old batches that are under way at a time: with it the pace is kept up to a third of a second away.
const OLD_MAX: usize = 3;
/// Of so many answers the quickest tells how far away the collector is.
const DISTANCE_ANSWERS: usize = 32;
/// An old batch at which a collector that takes others has failed this often is refused for good.
const BACKFILL_TRIES_MAX: u32 = 8;

/// The state of the sending to one collector.
#[derive(Debug)]
pub struct Lanes {
    pause: Duration,
    under_way: UnderWay,
    /// How long the last batches took that the collector has taken.
    took: VecDeque<Duration>,
    /// The longest that anything is ever waited for.
    wait_max: Duration,
    /// Spreads the start of backfill over one export interval, because all agents see a collector come back at once.
    spread: Backoff,
    backoff: Backoff,
    /// Nothing is sent before.
    hold_until: Option<RawNanos>,
    /// Nothing that was missed is sent before, and no end of a run while this is `None`: until the collector has taken a live batch since it
    /// last failed.
    backfill_from: Option<RawNanos>,
    /// The old batches that fail while live ones are taken, and how often they have.
    suspects: BTreeMap<ParcelId, u32>,
}

/// Which of the lanes a batch is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The batch says how things stand now.
    Live,
    /// The batch says how things stood when an earlier run ended.
    RunEnd,
    /// The batch says how things stood.
    Backfill,
}

/// What is being sent, and since when: at most one batch that is live, and a few that are not.
#[derive(Debug, Default)]
struct UnderWay {
    live: Option<(ParcelId, RawNanos)>,
    old: BTreeMap<ParcelId, RawNanos>,
}

impl UnderWay {
    fn begin(&mut self, id: ParcelId, lane: Lane, now: RawNanos) {
        match lane {
            Lane::Live => self.live = Some((id, now)),
            Lane::RunEnd | Lane::Backfill => drop(self.old.insert(id, now)),
        }
    }

    /// The sending has ended. Since when it went on.
    fn end(&mut self, id: ParcelId) -> Option<RawNanos> {
        match self.live.take_if(|(live, _)| *live == id) {
            Some((_, since)) => Some(since),
            None => self.old.remove(&id),
        }
    }

    fn has(&self, id: ParcelId) -> bool {
        self.live.is_some_and(|(live, _)| live == id) || self.old.contains_key(&id)
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send this batch.
    Send(ParcelId, Lane),
    /// Nothing to do until so much time has passed or there is news from the spool.
    Wait(Duration),
    /// Nothing to do until there is news from the spool.
    Idle,
}

/// What to do with a batch after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The collector has it.
    Delivered,
    /// It stays in the spool.
    Kept,
    /// It is given up.
    GivenUp,
}

impl Lanes {
    /// Nothing sent yet. `interval` is the time between two batches; `seed` that of the random waits.
    ///
    /// # Panics
    /// Never: the constants make a back-off.
    pub fn new(interval: Duration, seed: u64) -> Lanes {
        let interval = interval.max(BACKFILL_PAUSE_MIN);
        let cap = interval.clamp(BACKOFF_CAP_MIN, BACKOFF_CAP_MAX);
        let backoff = Backoff::try_new(BACKOFF_FIRST, cap, BACKOFF_JITTER, seed).expect("the constants make sense");
        let spread = Backoff::try_new(interval, interval, 0.99, !seed).expect("the interval is longer than zero");
        let pause = (interval / BACKFILL_SPEED).max(BACKFILL_PAUSE_MIN);
        let wait_max = RETRY_AFTER_MAX.max(interval);
        Lanes {
            pause,
            under_way: UnderWay::default(),
            took: VecDeque::new(),
            wait_max,
            spread,
            backoff,
            hold_until: None,
            backfill_from: None,
            suspects: BTreeMap::new(),
        }
    }

    /// What to do at `now`, when `level` waits. What is to be sent is under way from then on, until it is [answered](Lanes::answered) or
    /// [hindered](Lanes::hindered).
    pub fn step(&mut self, level: &Level, now: RawNanos) -> Step {
        let step = self.next(level, now);
        if let Step::Send(id, lane) = step {
            self.under_way.begin(id, lane, now);
            if lane == Lane::Backfill {
                self.backfill_from = Some(now.after(self.pause));
            }
        }
        step
    }

    fn next(&self, level: &Level, now: RawNanos) -> Step {
        let Some(newest) = level.newest else { return Step::Idle };
        if let Some(wait) = self.held(now) {
            return Step::Wait(wait);
        }
        if level.newest_is_live && self.under_way.live.is_none() {
            return Step::Send(newest, Lane::Live);
        }
        let has_room = self.under_way.old.len() < self.old_max();
        let Some(from) = self.backfill_from.filter(|_| has_room) else { return Step::Idle };
        let is_free = |id: &&ParcelId| !self.under_way.has(**id);
        if let Some(end) = level.run_ends.iter().find(is_free) {
            return Step::Send(*end, Lane::RunEnd);
        }
        let old = level.oldest.iter().find(is_free).filter(|old| **old != newest || !level.newest_is_live);
        match (old, self.wait(from, now)) {
            (None, _) => Step::Idle,
            (Some(_), Some(wait)) => Step::Wait(wait),
            (Some(old), None) => Step::Send(*old, Lane::Backfill),
        }
    }

    /// How many old batches may be under way: as many as it takes to keep the pace over this distance. A collector that is merely busy
    /// answers quickly now and then, and gets no more at a time.
    fn old_max(&self) -> usize {
        let Some(distance) = self.took.iter().min() else { return 1 };
        usize::try_from(distance.as_nanos().div_ceil(self.pause.as_nanos())).map_or(OLD_MAX, |fit| fit.clamp(1, OLD_MAX))
    }

    /// How long nothing is to be sent.
    fn held(&self, now: RawNanos) -> Option<Duration> {
        self.hold_until.and_then(|until| self.wait(until, now))
    }

    /// How long it is until `until`. Nothing is waited for that long: then the measuring clock began a new epoch, and the wait is over.
    fn wait(&self, until: RawNanos, now: RawNanos) -> Option<Duration> {
        until.checked_since(now).filter(|wait| !wait.is_zero() && *wait <= self.wait_max)
    }

    /// Takes the answer to a batch, which came at `now`, and says what becomes of the batch.
    pub fn answered(&mut self, id: ParcelId, lane: Lane, answer: &Answer, now: RawNanos) -> Fate {
        let since = self.under_way.end(id);
        match answer {
            Answer::Accepted { .. } => {
                self.measure(since.and_then(|since| now.checked_since(since)));
                self.works(id, lane, now);
                Fate::Delivered
            }
            Answer::Refused { .. } => {
                // A collector that answers works, and the batch stands in nobody's way any more.
                self.works(id, lane, now);
                Fate::GivenUp
            }
            Answer::Later { after, .. } => {
                self.fails(*after, now);
                Fate::Kept
            }
            Answer::Failed { .. } if lane == Lane::Live => {
                self.fails(None, now);
                Fate::Kept
            }
            Answer::Failed { .. } if self.is_poison(id) => {
                self.works(id, lane, now);
                Fate::GivenUp
            }
            Answer::Failed { .. } => {
                self.hold(None, now);
                Fate::Kept
            }
        }
    }

    /// An attempt came to nothing without a verdict on the collector: wait before the next one.
    pub fn hindered(&mut self, id: ParcelId, now: RawNanos) {
        self.under_way.end(id);
        self.hold(None, now);
    }

    fn measure(&mut self, time: Option<Duration>) {
        self.took.extend(time);
        if self.took.len() > DISTANCE_ANSWERS {
            self.took.pop_front();
        }
    }

    fn works(&mut self, id: ParcelId, lane: Lane, now: RawNanos) {
        // What was sent before the other lane failed says nothing about how things are since.
        if self.held(now).is_none() {
            self.hold_until = None;
            self.backoff.reset();
        }
        self.suspects.remove(&id);
        if lane == Lane::Live && self.backfill_from.is_none() {
            self.backfill_from = Some(now.after(self.spread.next()));
        }
    }

    fn fails(&mut self, after: Option<Duration>, now: RawNanos) {
        self.backfill_from = None;
        self.suspects.clear();
        self.hold(after, now);
    }

    /// Nothing is sent for a while, and for so long at least. What fails while that is so was sent before, and makes the wait no longer.
    fn hold(&mut self, at_least: Option<Duration>, now: RawNanos) {
        let wait = self.held(now).unwrap_or_else(|| self.backoff.next());
        self.hold_until = Some(now.after(at_least.map_or(wait, |at_least| at_least.max(wait))));
    }

    /// Old batches are tried only while live ones are taken, so it is this batch that the collector fails at.
    fn is_poison(&mut self, id: ParcelId) -> bool {
        // One that the spool has dropped meanwhile is heard of no more.
        while self.suspects.len() > 2 * OLD_MAX {
            self.suspects.pop_first();
        }
        let tries = self.suspects.entry(id).or_default();
        *tries += 1;
        *tries >= BACKFILL_TRIES_MAX
    }
}

#[cfg(test)]
mod tests;
