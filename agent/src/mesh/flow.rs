//! One flow's sender: which probes are out, what became of them, and whether the flow is alive. Pure.
//!
//! Every attempt ends in exactly one [`Fate`]. A stall of our own host accuses nobody: probes that were out while it lasted end
//! as [`Outcome::Skipped`] and say nothing about the flow.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::interval::drift_ns;
use lagmesh_model::state::{Outcome, StampSource};
use lagmesh_model::status::Losses;
use lagmesh_model::time::{RawNanos, nanos};

use crate::mesh::direction::{Directions, Reflected};
use crate::mesh::schedule::{Due, Schedule};
use crate::mesh::stamp::Timestamp;

/// A flow is never called dead sooner than this after a probe should have been answered.
pub const PATIENCE_MIN: Duration = Duration::from_millis(200);
/// Beyond how many 99th percentiles of its round-trip time a flow's answer is overdue.
const PATIENCE_FACTOR: u64 = 4;
/// How many overdue probes in a row make a dead flow: one lost packet is loss, not death.
const OVERDUE_MIN: u32 = 2;
/// How many round-trip times a flow remembers; the 99th percentile (nearest rank) of no more than 100 values is the largest.
const RTTS_MAX: usize = 64;
/// The largest number of probes out at once, whatever the configuration says.
const OUTSTANDING_MAX: usize = 1024;

/// The times that rule a flow.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From probe to probe.
    pub interval: Duration,
    /// An answer after this is late.
    pub deadline: Duration,
    /// An answer after this is none.
    pub give_up: Duration,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// The outcome.
    pub outcome: Outcome,
    /// The round-trip time without the responder's own [ns, > 0]; only if it was answered.
    pub rtt_ns: Option<u64>,
}

impl Fate {
    /// A fate without a round-trip time.
    pub fn of(outcome: Outcome) -> Fate {
        Fate { outcome, rtt_ns: None }
    }
}

/// What came back.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// The number of the request that it answers.
    pub sequence: u32,
    /// The request's stamp as it was sent back.
    pub echo: Timestamp,
    /// How long the responder kept it, on the responder's clock [ns]; `None` if its stamps are none, which is corrupt.
    pub dwell_ns: Option<i64>,
    /// When it arrived (t4).
    pub at: RawNanos,
    /// Whether that is the kernel's stamp.
    pub at_by_kernel: bool,
    /// The number that the reflector gave it; `None` if it is not known to count.
    pub reflected: Option<Reflected>,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It settles its probe.
    Fate {
        /// What became of it.
        fate: Fate,
        /// When it was sent (t1).
        sent: RawNanos,
        /// What made its stamps.
        stamps: StampSource,
    },
    /// Its probe was answered before.
    Duplicate,
    /// No probe waits for it: never sent, or given up.
    NotAwaited,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    sequence: u32,
    at: RawNanos,
    at_by_kernel: bool,
    echo: Timestamp,
    overdue: bool,
    stalled: bool,
}

impl Sent {
    fn is_newly_overdue(&self, now: RawNanos, patience_ns: i64) -> bool {
        !self.overdue && !self.stalled && now.since_ns(self.at) > patience_ns
    }
}

/// One flow.
#[derive(Debug)]
pub struct Flow {
    timing: Timing,
    schedule: Schedule,
    outstanding: VecDeque<Sent>,
    outstanding_max: usize,
    next_sequence: u32,
    /// Bit n: the probe `next_sequence - 1 - n` was answered.
    answered: u64,
    rtts_ns: VecDeque<u64>,
    overdue: u32,
    alive: Option<bool>,
    directions: Directions,
}

impl Flow {
    /// A flow whose first probe is due at `now` plus `phase`.
    pub fn new(timing: Timing, now: RawNanos, phase: Duration) -> Flow {
        let in_flight = nanos(timing.give_up) / nanos(timing.interval).max(1);
        let outstanding_max = usize::try_from(in_flight).unwrap_or(OUTSTANDING_MAX).saturating_add(2).min(OUTSTANDING_MAX);
        Flow {
            timing,
            schedule: Schedule::new(now, phase, timing.interval),
            outstanding: VecDeque::new(),
            outstanding_max,
            next_sequence: 0,
            answered: 0,
            rtts_ns: VecDeque::with_capacity(RTTS_MAX),
            overdue: 0,
            alive: None,
            directions: Directions::default(),
        }
    }

    /// When the next probe is due.
    pub fn next_due(&self) -> RawNanos {
        self.schedule.next()
    }

    /// Whether `now` is so late for the next probe that our own host must have stalled.
    pub fn is_stalled(&self, now: RawNanos) -> bool {
        self.schedule.is_stalled(now)
    }

    /// Takes what is due. Skipped attempts are already fates; an attempt to be made is followed by [`Flow::sent`] or has its fate
    /// in the error that prevented it.
    pub fn on_due(&mut self, now: RawNanos) -> Option<Due> {
        self.schedule.take(now)
    }

    /// The number for the next probe.
    pub fn next_sequence(&self) -> u32 {
        self.next_sequence
    }

    /// A probe left. Returns the fate of the oldest one if there are too many out.
    pub fn sent(&mut self, at: RawNanos, echo: Timestamp) -> Option<Fate> {
        let full = self.outstanding.len() >= self.outstanding_max;
        let oldest = if full { self.outstanding.pop_front() } else { None };
        let (sequence, at_by_kernel) = (self.next_sequence, false);
        self.outstanding.push_back(Sent { sequence, at, at_by_kernel, echo, overdue: false, stalled: false });
        self.directions.sent(sequence, at);
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.answered <<= 1;
        oldest.map(|sent| self.give_up(&sent))
    }

    /// Whether any probe is still out.
    pub fn awaits(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// When the probe of this number was sent; `None` if it is not out.
    pub fn sent_at(&self, sequence: u32) -> Option<RawNanos> {
        self.outstanding.iter().find(|sent| sent.sequence == sequence).map(|sent| sent.at)
    }

    /// The kernel says when the probe of this number left. Once answered or given up it is what it is.
    pub fn on_kernel_stamp(&mut self, sequence: u32, at: RawNanos) {
        if let Some(sent) = self.outstanding.iter_mut().find(|sent| sent.sequence == sequence) {
            (sent.at, sent.at_by_kernel) = (at, true);
        }
    }

    /// A valid answer came.
    pub fn on_answer(&mut self, answer: &Answer) -> Settled {
        let Some(place) = self.outstanding.iter().position(|sent| sent.sequence == answer.sequence && sent.echo == answer.echo)
        else {
            if self.was_answered(answer.sequence) {
                self.directions.doubled(answer.reflected);
                return Settled::Duplicate;
            }
            return Settled::NotAwaited;
        };
        let sent = self.outstanding[place];
        self.directions.answered(answer.sequence, answer.reflected);
        let stamps = match (sent.at_by_kernel, answer.at_by_kernel) {
            (_, false) => StampSource::User,
            (false, true) => StampSource::KernelReceive,
            (true, true) => StampSource::Kernel,
        };
        let settled = |fate| Settled::Fate { fate, sent: sent.at, stamps };
        let elapsed_ns = answer.at.since_ns(sent.at);
        let Some(rtt_ns) = answer.dwell_ns.and_then(|dwell_ns| round_trip_ns(elapsed_ns, dwell_ns)) else {
            self.outstanding.remove(place);
            return settled(Fate::of(Outcome::Corrupt));
        };
        self.outstanding.remove(place);
        self.mark_answered(answer.sequence);
        self.alive = Some(true);
        self.overdue = 0;
        if sent.stalled {
            return settled(Fate::of(Outcome::Skipped));
        }
        self.remember(rtt_ns);
        let in_time = elapsed_ns.unsigned_abs() <= nanos(self.timing.deadline);
        settled(Fate { outcome: if in_time { Outcome::InTime } else { Outcome::Late }, rtt_ns: Some(rtt_ns) })
    }

    /// An error came back that names a probe, or none; then it means the newest one that is out.
    pub fn on_error(&mut self, outcome: Outcome, sequence: Option<u32>) -> Option<Fate> {
        let named = |number| self.outstanding.iter().position(|sent| sent.sequence == number);
        let place = sequence.map_or_else(|| self.outstanding.len().checked_sub(1), named)?;
        let sent = self.outstanding.remove(place)?;
        self.directions.refused(sent.sequence);
        if sent.stalled {
            return Some(Fate::of(Outcome::Skipped));
        }
        if outcome == Outcome::Unreachable && !sent.overdue {
            self.count_overdue();
        }
        Some(Fate::of(outcome))
    }

    /// A probe could not leave because there is no way: that, too, is a probe without an answer.
    pub fn no_way(&mut self) {
        self.count_overdue();
    }

    /// Nothing can be said about the path: the peer says that nobody listens, or our own host cannot send.
    pub fn on_no_evidence(&mut self) {
        self.overdue = 0;
        self.alive = None;
    }

    /// Whether an answer is overdue, and none came since.
    pub fn misses_answer(&self) -> bool {
        self.overdue > 0
    }

    /// All that had come by `now` has been read: gives up probes and notices overdue ones.
    pub fn on_tick(&mut self, now: RawNanos, fates: &mut Vec<Fate>) {
        let give_up_ns = nanos(self.timing.give_up).cast_signed();
        while let Some(sent) = self.outstanding.front().filter(|sent| now.since_ns(sent.at) > give_up_ns).copied() {
            self.outstanding.pop_front();
            fates.push(self.give_up(&sent));
        }
        let Some(patience_ns) = self.newly_overdue_after(now) else { return };
        let overdue = |sent: &&mut Sent| sent.is_newly_overdue(now, patience_ns);
        let newly = self.outstanding.iter_mut().filter(overdue).map(|sent| sent.overdue = true).count();
        for _ in 0..newly {
            self.count_overdue();
        }
    }

    fn give_up(&mut self, sent: &Sent) -> Fate {
        if sent.stalled {
            self.directions.open(sent.sequence);
            return Fate::of(Outcome::Skipped);
        }
        self.directions.lost(sent.sequence);
        Fate::of(Outcome::Lost)
    }

    /// In which directions probes were lost of which that has become known by now; after [`Flow::on_tick`] at the same moment.
    pub fn losses(&mut self, now: RawNanos) -> Losses {
        let give_up_ns = nanos(self.timing.give_up);
        now.0.checked_sub(give_up_ns).map_or(Losses::default(), |before| self.directions.settle(RawNanos(before)))
    }

    /// The flow goes on from another port: the reflector counts it anew.
    pub fn moved(&mut self) {
        self.directions.moved();
    }

    /// The patience [ns], if any probe has used it up just now.
    fn newly_overdue_after(&self, now: RawNanos) -> Option<i64> {
        let any = |patience_ns: i64| self.outstanding.iter().any(|sent| sent.is_newly_overdue(now, patience_ns));
        // Most of the time nothing is out for long; then the patience need not be known.
        if !any(nanos(PATIENCE_MIN).cast_signed()) {
            return None;
        }
        let patience_ns = nanos(self.patience()).cast_signed();
        any(patience_ns).then_some(patience_ns)
    }

    /// Our own host stalled: what is out accuses nobody.
    pub fn on_stall(&mut self) {
        for sent in &mut self.outstanding {
            sent.stalled = true;
        }
        self.overdue = 0;
        self.alive = None;
    }

    /// Our own clock began a new epoch: stamps of before mean nothing now.
    pub fn on_new_epoch(&mut self, now: RawNanos, fates: &mut Vec<Fate>) {
        fates.extend(self.outstanding.drain(..).map(|_| Fate::of(Outcome::Skipped)));
        self.directions.new_epoch();
        self.overdue = 0;
        self.alive = None;
        self.schedule.restart(now);
    }

    /// Whether the flow answers; `None` if that is not known.
    pub fn alive(&self) -> Option<bool> {
        self.alive
    }

    /// How long an answer may take before it is overdue: four times the 99th percentile of the round-trip time, at most the
    /// deadline, at least 200 ms; the deadline as long as nothing was ever answered.
    pub fn patience(&self) -> Duration {
        let longest = self.rtts_ns.iter().max().map(|rtt_ns| Duration::from_nanos(rtt_ns.saturating_mul(PATIENCE_FACTOR)));
        longest.unwrap_or(self.timing.deadline).min(self.timing.deadline).max(PATIENCE_MIN)
    }

    /// The round-trip time of the newest exchange [ns].
    pub fn newest_rtt_ns(&self) -> Option<u64> {
        self.rtts_ns.back().copied()
    }

    fn count_overdue(&mut self) {
        self.overdue += 1;
        if self.overdue >= OVERDUE_MIN {
            self.alive = Some(false);
        }
    }

    fn remember(&mut self, rtt_ns: u64) {
        if self.rtts_ns.len() == RTTS_MAX {
            self.rtts_ns.pop_front();
        }
        self.rtts_ns.push_back(rtt_ns);
    }

    fn bit(&self, sequence: u32) -> Option<u64> {
        let back = self.next_sequence.wrapping_sub(sequence).checked_sub(1)?;
        (back < 64).then(|| 1 << back)
    }

    fn mark_answered(&mut self, sequence: u32) {
        if let Some(bit) = self.bit(sequence) {
            self.answered |= bit;
        }
    }

    fn was_answered(&self, sequence: u32) -> bool {
        self.bit(sequence).is_some_and(|bit| self.answered & bit != 0)
    }
}

/// The round-trip time without the responder's own. Two clocks may differ in rate, so a difference a little below zero is a short
/// trip; one further below, or a responder that kept the packet for less than no time, is impossible.
fn round_trip_ns(elapsed_ns: i64, dwell_ns: i64) -> Option<u64> {
    if dwell_ns < 0 || elapsed_ns <= 0 {
        return None;
    }
    let allowance_ns = (2 * drift_ns(Duration::from_nanos(dwell_ns.unsigned_abs()))).cast_signed();
    let rtt_ns = elapsed_ns - dwell_ns;
    (rtt_ns + allowance_ns > 0).then(|| rtt_ns.max(1).unsigned_abs())
}

#[cfg(test)]
mod tests;
