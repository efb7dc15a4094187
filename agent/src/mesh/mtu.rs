//! The largest packet that reaches a peer, found with padded probes that may not be fragmented. Pure.
//!
//! A try is three probes in a row from one port: a short one, a long one, a short one. The reflector numbers its answers, so the answers
//! to the short ones tell whether the long one arrived, even where its own answer does not come back: that would be the other direction,
//! which the peer's agent measures from its side. What the network says by itself (ICMP "too big") is not asked for: a path that
//! swallows long packets without a word is the case for which this is made.

use std::time::Duration;

use lagmesh_model::time::{RawNanos, nanos};

use crate::measurement::PathMtu;

/// The longest packet that is tried [octets, with its IP header]: that of Ethernet.
pub const LENGTH_MAX: u16 = 1500;
/// From one search to the next.
pub const EVERY: Duration = Duration::from_secs(300);
/// From a search that came to nothing to the next.
const AGAIN: Duration = Duration::from_secs(60);
/// So many tries without a sign of the long packet mean that it does not pass: one is loss.
const TRIES: u32 = 3;
/// How many tries a search may take: the steps between the shortest and the longest packet, each again where packets get lost.
const TRIES_MAX: u32 = 60;

/// Three probes to be sent now, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Try {
    /// The number of the first; the others follow.
    pub sequence: u32,
    /// The length of the second [octets, with its IP header]. The others are as short as can be.
    pub length: u16,
}

/// The search towards one peer, again and again.
#[derive(Debug)]
pub struct MtuSearch {
    /// What is known to pass [octets]: the length of an ordinary probe.
    shortest: u16,
    patience: Duration,
    due: RawNanos,
    sequence: u32,
    running: Option<Running>,
    found: Option<PathMtu>,
}

#[derive(Debug)]
struct Running {
    /// What has arrived, and the shortest that has not [octets].
    arrived: u16,
    missing: Option<u16>,
    attempt: Attempt,
    tries_left: u32,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    length: u16,
    /// So many tries of this length have shown that it did not arrive.
    in_vain: u32,
    out: Option<Out>,
}

/// A try that is out: what came of its probes.
#[derive(Debug, Clone, Copy)]
struct Out {
    sequence: u32,
    sent: RawNanos,
    before: Option<u32>,
    after: Option<u32>,
    returned: bool,
}

impl MtuSearch {
    /// A search that begins at `due`. Packets of `shortest` octets pass wherever probes are answered; `patience` is for an answer.
    pub fn new(shortest: u16, patience: Duration, due: RawNanos) -> MtuSearch {
        MtuSearch { shortest, patience, due, sequence: 0, running: None, found: None }
    }

    /// When it has something to do next.
    pub fn next_due(&self) -> RawNanos {
        match self.running.as_ref().map(|running| running.attempt.out) {
            Some(Some(out)) => out.sent.after(self.patience),
            Some(None) | None => self.due,
        }
    }

    /// The path changed: what is known may not hold any more.
    pub fn search_now(&mut self, now: RawNanos) {
        if self.running.is_none() {
            self.due = self.due.min(now);
        }
    }

    /// Time passes: the probes that are to leave now. Call it only while the flow answers.
    pub fn on_tick(&mut self, now: RawNanos) -> Option<Try> {
        if self.out().is_some_and(|out| now.since_ns(out.sent) > nanos(self.patience).cast_signed()) {
            self.conclude(now);
        }
        if self.running.is_none() && self.due <= now {
            let attempt = Attempt { length: LENGTH_MAX, in_vain: 0, out: None };
            self.running = Some(Running { arrived: self.shortest, missing: None, attempt, tries_left: TRIES_MAX });
        }
        let running = self.running.as_mut().filter(|running| running.attempt.out.is_none())?;
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(3);
        running.tries_left -= 1;
        running.attempt.out = Some(Out { sequence, sent: now, before: None, after: None, returned: false });
        Some(Try { sequence, length: running.attempt.length })
    }

    /// An answer to one of the probes: `count` is the reflector's number of it.
    pub fn on_answer(&mut self, sequence: u32, count: u32, now: RawNanos) {
        let Some(out) = self.running.as_mut().and_then(|running| running.attempt.out.as_mut()) else { return };
        match sequence.wrapping_sub(out.sequence) {
            0 => out.before = Some(count),
            1 => out.returned = true,
            2 => out.after = Some(count),
            _ => return,
        }
        // The answer to the long one may be the slowest: if it is on its way, there is still time.
        let did_not_arrive = out.before.zip(out.after).is_some_and(|(before, after)| after.wrapping_sub(before) == 1);
        if out.returned || did_not_arrive {
            self.conclude(now);
        }
    }

    /// Our own host says that a packet of this length cannot leave.
    pub fn on_too_long(&mut self, now: RawNanos) {
        if let Some(running) = &mut self.running {
            running.attempt.in_vain = TRIES;
            running.missing = Some(running.attempt.length);
            self.step(now);
        }
    }

    /// The flow does not answer any more, or the clock began a new epoch: the search ends without a result.
    pub fn abandon(&mut self, now: RawNanos) {
        if self.running.take().is_some() {
            self.due = now.after(AGAIN);
        }
    }

    /// Our own clock began a new epoch: everything begins anew at `due`.
    pub fn restart(&mut self, due: RawNanos) {
        (self.running, self.found, self.due) = (None, None, due);
    }

    /// What was found, once.
    pub fn found(&mut self) -> Option<PathMtu> {
        self.found.take()
    }

    fn out(&self) -> Option<Out> {
        self.running.as_ref()?.attempt.out
    }

    /// The try that is out has ended: what it says of its length.
    fn conclude(&mut self, now: RawNanos) {
        let Some(running) = &mut self.running else { return };
        let Some(out) = running.attempt.out.take() else { return };
        let between = out.before.zip(out.after).map(|(before, after)| after.wrapping_sub(before));
        match (out.returned, between) {
            (true, _) | (_, Some(2)) => running.arrived = running.arrived.max(running.attempt.length),
            (false, Some(1)) => {
                running.attempt.in_vain += 1;
                if running.attempt.in_vain >= TRIES {
                    running.missing = Some(running.attempt.length);
                }
            }
            // A short one was lost, or the reflector began to count anew: nothing can be said.
            _ => {}
        }
        self.step(now);
    }

    /// Chooses the next length, or ends the search.
    fn step(&mut self, now: RawNanos) {
        let Some(running) = &mut self.running else { return };
        let known = if running.arrived == LENGTH_MAX { Some(LENGTH_MAX + 1) } else { running.missing };
        if let Some(missing) = known.filter(|missing| missing - running.arrived == 1) {
            self.found = Some(PathMtu { length: missing - 1, at: now });
            self.running = None;
            self.due = now.after(EVERY);
            return;
        }
        if running.tries_left == 0 {
            return self.abandon(now);
        }
        let length = known.map_or(LENGTH_MAX, |missing| running.arrived.midpoint(missing));
        let in_vain = if length == running.attempt.length { running.attempt.in_vain } else { 0 };
        running.attempt = Attempt { length, in_vain, out: None };
    }
}

#[cfg(test)]
mod tests;
