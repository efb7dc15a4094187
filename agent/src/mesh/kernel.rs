//! The kernel's stamps of packets, brought from the wall clock onto the measuring clock. Pure.
//!
//! The kernel stamps a packet when it really comes or leaves, but by the wall clock. What a stamp is on the measuring clock follows from
//! two readings of both clocks, one from before the packet and one from after: if the clocks stood alike at both, they did so in between.
//! A stamp counts only if
//!
//! - the clocks did not move against each other from before the packet until now by more than a stamp of user space is off,
//! - it is possible: not in the future, not before the earliest moment at which the packet can have come or left,
//! - the kernel's clock is the one that this process reads. That is not so for a process whose wall clock is made up. Transmit stamps
//!   show it: nearly all are there as soon as the send returns, so they lie between two readings that are microseconds apart.
//!
//! Otherwise the stamp of user space stands. What is made of a stamp errs to the same side as one of user space would: sent is early, received
//! is late, each by no more than the conversion may be off.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_daemon::clock::Bracket;
use lagmesh_model::time::{RawNanos, WallNanos, nanos};

/// A conversion that may be further off is no better than a stamp of user space [ns].
const ERROR_MAX_NS: u64 = 50_000;
/// For how long two readings can vouch for what was between them.
const SPAN_MAX: Duration = Duration::from_secs(10);
/// How far the readings that are kept lie apart at least.
const SPACING: Duration = Duration::from_millis(20);
/// How many are kept.
const READINGS_MAX: usize = 512;
/// A transmit stamp shows whose clock the kernel stamps by only if it was there so soon after the send.
const PROOF_WITHIN: Duration = Duration::from_micros(500);
/// How long that stays shown.
const PROOF_FOR: Duration = Duration::from_secs(60);
/// So long after a refusal stamps are doubted.
const DOUBT_FOR: Duration = Duration::from_secs(10);
/// A packet that the kernel sent so long after it was asked to is stamped by user space. Nor can two probes be mixed up then.
const SENT_WITHIN: Duration = Duration::from_millis(10);

/// Why a stamp of the kernel is not used. The words are the `reason` of `lagmesh.mesh.stamps_refused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The two clocks moved against each other, or were not read closely enough to exclude it.
    Moved,
    /// It lies after the moment at which it was read.
    Future,
    /// It lies before the earliest moment that is possible: that of the probe's own send, or one at which nothing had come yet.
    TooEarly,
    /// The packet waited for too long, or in a queue of the host before it was sent.
    TooOld,
    /// Nothing has shown yet that the kernel's clock is the one that this process reads.
    Unproven,
}

impl Refusal {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Moved => "moved",
            Refusal::Future => "future",
            Refusal::TooEarly => "too-early",
            Refusal::TooOld => "too-old",
            Refusal::Unproven => "unproven",
        }
    }
}

/// A stamp on the measuring clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converted {
    /// When.
    pub at: RawNanos,
    /// How far that may be off [ns].
    pub error_ns: u64,
}

/// What the wall clock showed beyond the measuring clock at a reading, and how far that may be off [ns].
fn difference(reading: &Bracket) -> (i64, u64) {
    let half_ns = reading.after.since_ns(reading.before).unsigned_abs().div_ceil(2);
    let middle = reading.before.0.wrapping_add(half_ns);
    (reading.wall.0.wrapping_sub(middle).cast_signed(), half_ns)
}

/// How far the two clocks moved against each other between two readings, and how far that may be off [ns].
fn movement(before: &Bracket, after: &Bracket) -> (u64, u64) {
    let ((old_ns, old_error_ns), (new_ns, new_error_ns)) = (difference(before), difference(after));
    (new_ns.abs_diff(old_ns), old_error_ns + new_error_ns)
}

/// Brings a stamp of something that happened after `earliest` onto the measuring clock. `before` was read before it happened, `after`
/// after it was known.
///
/// # Errors
/// If the stamp cannot be used, with the reason.
pub fn convert(before: &Bracket, earliest: RawNanos, stamp: WallNanos, after: &Bracket) -> Result<Converted, Refusal> {
    let (moved_ns, unclear_ns) = movement(before, after);
    // Whatever the clocks did in between, at the stamp they stood between what they showed before and after.
    let error_ns = moved_ns.saturating_add(unclear_ns);
    if before.epoch != after.epoch || error_ns > ERROR_MAX_NS {
        return Err(Refusal::Moved);
    }
    if after.before.since_ns(before.before) > nanos(SPAN_MAX).cast_signed() {
        return Err(Refusal::TooOld);
    }
    let at = RawNanos(stamp.0.wrapping_sub(difference(after).0.cast_unsigned()));
    let error = error_ns.cast_signed();
    if at.since_ns(after.before) > error {
        return Err(Refusal::Future);
    }
    if earliest.since_ns(at) > error {
        return Err(Refusal::TooEarly);
    }
    Ok(Converted { at, error_ns })
}

/// The newest readings of the clocks, and whether the kernel stamps by them.
#[derive(Debug, Default)]
pub struct StampClock {
    newest: Option<Bracket>,
    readings: VecDeque<Bracket>,
    /// When the clocks were last seen to have moved.
    moved: Option<RawNanos>,
    /// When a transmit stamp last fitted.
    proven: Option<RawNanos>,
    /// When a stamp was last refused.
    refused: Option<RawNanos>,
}

impl StampClock {
    /// The clocks were read: must come before the stamps of what was known by then.
    pub fn note(&mut self, reading: Bracket) {
        if let Some(newest) = &self.newest {
            let (moved_ns, unclear_ns) = movement(newest, &reading);
            if newest.epoch != reading.epoch || moved_ns.saturating_sub(unclear_ns) > ERROR_MAX_NS {
                self.readings.clear();
                self.moved = Some(reading.before);
                self.proven = None;
            }
        }
        self.newest = Some(reading);
        let apart = |last: &Bracket| reading.before.since_ns(last.before) >= nanos(SPACING).cast_signed();
        if self.readings.back().is_none_or(apart) && difference(&reading).1 <= ERROR_MAX_NS / 2 {
            if self.readings.len() == READINGS_MAX {
                self.readings.pop_front();
            }
            self.readings.push_back(reading);
        }
    }

    /// The moment at which a packet left that was given to the kernel after `asked`: not before that, and early rather than late.
    ///
    /// # Errors
    /// If the kernel's stamp cannot be used, with the reason.
    pub fn sent(&mut self, asked: RawNanos, stamp: WallNanos) -> Result<RawNanos, Refusal> {
        let sent = self.sent_at(asked, stamp);
        self.note_refusal(sent)
    }

    fn sent_at(&mut self, asked: RawNanos, stamp: WallNanos) -> Result<RawNanos, Refusal> {
        let converted = self.convert(asked, stamp);
        let now = self.newest.map_or(asked, |newest| newest.before);
        match converted {
            Ok(_) if now.since_ns(asked) <= nanos(PROOF_WITHIN).cast_signed() => self.proven = Some(now),
            Err(Refusal::Future | Refusal::TooEarly) => self.proven = None,
            _ => {}
        }
        let Converted { at, error_ns } = converted?;
        if at.since_ns(asked) > nanos(SENT_WITHIN).cast_signed() {
            return Err(Refusal::TooOld);
        }
        self.check_proof(now)?;
        Ok(RawNanos(at.0.saturating_sub(error_ns)).max(asked))
    }

    /// The moment at which a packet came that was there before the newest reading and not yet at `earliest`: not after that reading,
    /// and late rather than early.
    ///
    /// # Errors
    /// If the kernel's stamp cannot be used, with the reason.
    pub fn received(&mut self, earliest: RawNanos, stamp: WallNanos) -> Result<RawNanos, Refusal> {
        let received = self.received_at(earliest, stamp);
        self.note_refusal(received)
    }

    fn received_at(&self, earliest: RawNanos, stamp: WallNanos) -> Result<RawNanos, Refusal> {
        let newest = self.newest.ok_or(Refusal::Unproven)?;
        let Converted { at, error_ns } = self.convert(earliest, stamp)?;
        self.check_proof(newest.before)?;
        Ok(RawNanos(at.0.saturating_add(error_ns)).min(newest.before))
    }

    fn note_refusal(&mut self, result: Result<RawNanos, Refusal>) -> Result<RawNanos, Refusal> {
        // Without a proof nothing is believed anyway, and once there is one it holds at once.
        if result.is_err_and(|refusal| refusal != Refusal::Unproven) {
            self.refused = self.newest.map(|newest| newest.before);
        }
        result
    }

    /// Whether stamps are believed at present: nearly all of them are.
    pub fn is_believed(&self, now: RawNanos) -> bool {
        let is_recent = |at: RawNanos| now.since_ns(at) <= nanos(DOUBT_FOR).cast_signed();
        self.check_proof(now).is_ok() && !self.refused.is_some_and(is_recent)
    }

    fn convert(&self, earliest: RawNanos, stamp: WallNanos) -> Result<Converted, Refusal> {
        let newest = self.newest.as_ref().ok_or(Refusal::Unproven)?;
        let known = |reading: &&Bracket| reading.before <= earliest;
        match self.readings.iter().rev().find(known) {
            Some(before) => convert(before, earliest, stamp, newest),
            None if self.moved.is_some_and(|moved| earliest < moved) => Err(Refusal::Moved),
            None => Err(Refusal::TooOld),
        }
    }

    fn check_proof(&self, now: RawNanos) -> Result<(), Refusal> {
        let counts = |proven: RawNanos| now.since_ns(proven) <= nanos(PROOF_FOR).cast_signed();
        if self.proven.is_some_and(counts) { Ok(()) } else { Err(Refusal::Unproven) }
    }
}

/// What a transmit stamp is about. The kernel numbers what a socket sends from 0 on (`SOF_TIMESTAMPING_OPT_ID`); some kernels also number
/// what they then could not send.
#[derive(Debug)]
pub struct SendIds<T> {
    /// The number that the next packet gets at least.
    next: u32,
    /// The newest packets, oldest first; `None` for those of which no stamp is wanted.
    recent: VecDeque<Option<T>>,
    recent_max: usize,
}

impl<T: Copy> SendIds<T> {
    /// Nothing was sent yet; `recent_max` packets are remembered.
    pub fn new(recent_max: usize) -> SendIds<T> {
        SendIds { next: 0, recent: VecDeque::new(), recent_max }
    }

    /// The socket sent a packet.
    pub fn sent(&mut self, what: Option<T>) {
        if self.recent.len() >= self.recent_max {
            self.recent.pop_front();
        }
        self.recent.push_back(what);
        self.next = self.next.wrapping_add(1);
    }

    /// The packet to which the kernel gave a number; `None` if its stamp is not wanted, or it is forgotten.
    pub fn of(&mut self, id: u32) -> Option<T> {
        let newest = self.recent.len().checked_sub(1)?;
        let back = self.next.wrapping_sub(1).wrapping_sub(id);
        if back.cast_signed() < 0 {
            // Nothing newer was sent, so the kernel has numbered something that was not.
            self.next = id.wrapping_add(1);
            return self.recent[newest];
        }
        self.recent[newest.checked_sub(usize::try_from(back).ok()?)?]
    }
}

#[cfg(test)]
mod tests;
