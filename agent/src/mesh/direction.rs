//! In which direction a flow's probes get lost, from the numbers that the reflector gives its answers. Pure.
//!
//! A stateful reflector numbers its answers within a flow (RFC 8762, section 4.3). Between two answers `a` and `b` that are
//! neighbours in the sender's own numbers, `r(b) - r(a) - 1` further requests have reached it: so many were lost on the way back,
//! the others on the way there. That is told once the time for answers to all of them is over, and once the answer behind `b`
//! shows that nothing was overtaken across them. Where numbers contradict that (requests that overtook each other, a reflector that
//! began anew), where nothing answers any more, or where a stall of our own host hides what became of a probe, the direction is
//! unknown.

use std::collections::VecDeque;

use lagmesh_model::status::Losses;
use lagmesh_model::time::RawNanos;

/// How many answers to doubled requests are remembered.
const DOUBLES_MAX: usize = 64;

/// The number that a reflector gave an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reflected {
    /// Which run of which reflector counts: numbers of two runs are never compared.
    pub run: u64,
    /// The number, from zero in each flow, with wrap-around.
    pub number: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Still out.
    Out,
    /// Answered; without a number if the reflector is not known to count.
    Answered(Option<Reflected>),
    /// Given up: its direction is to be told.
    Lost,
    /// Without an answer, but not lost: whether it reached the reflector is not known.
    Open,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    sequence: u32,
    at: RawNanos,
    fate: Fate,
}

/// Probes without an answer between two that have theirs.
#[derive(Debug, Clone, Copy, Default)]
struct Gap {
    /// Lost, and not told yet.
    lost: u64,
    /// The others, told or not lost.
    open: u64,
}

/// The losses of one flow.
#[derive(Debug, Default)]
pub struct Directions {
    /// The answer before the gap that is open.
    before: Option<Reflected>,
    gap: Gap,
    /// What was sent after it, as long as answers may come.
    probes: VecDeque<Sent>,
    /// Numbers of answers to requests that had been answered before: the network doubled the request.
    doubles: VecDeque<u32>,
    /// Of the gap before this one, until the end of this one confirms it.
    waiting: Losses,
    /// The gap before this one made no sense.
    was_broken: bool,
    told: Losses,
}

impl Directions {
    /// A probe left.
    pub fn sent(&mut self, sequence: u32, at: RawNanos) {
        self.probes.push_back(Sent { sequence, at, fate: Fate::Out });
    }

    /// A probe was answered.
    pub fn answered(&mut self, sequence: u32, by: Option<Reflected>) {
        self.end(sequence, Fate::Answered(by));
    }

    /// A probe that had its answer was answered once more.
    pub fn doubled(&mut self, by: Option<Reflected>) {
        let Some(by) = by.filter(|by| !self.doubles.contains(&by.number)) else { return };
        if self.doubles.len() == DOUBLES_MAX {
            self.doubles.pop_front();
        }
        self.doubles.push_back(by.number);
    }

    /// A probe was given up.
    pub fn lost(&mut self, sequence: u32) {
        self.end(sequence, Fate::Lost);
    }

    /// What became of a probe is not known.
    pub fn open(&mut self, sequence: u32) {
        self.end(sequence, Fate::Open);
    }

    /// An error says that a probe has not reached the reflector.
    pub fn refused(&mut self, sequence: u32) {
        self.probes.retain(|sent| sent.sequence != sequence);
    }

    /// The flow goes on from another port: the reflector counts anew, and what is undecided stays unknown.
    pub fn moved(&mut self) {
        let lost = self.probes.iter().filter(|sent| sent.fate == Fate::Lost).count() as u64;
        self.told += not_known(self.gap.lost + lost + self.waiting.total());
        self.probes.retain(|sent| sent.fate == Fate::Out);
        let (told, probes) = (self.told, std::mem::take(&mut self.probes));
        *self = Directions { probes, told, ..Directions::default() };
    }

    /// Our clock began a new epoch: nothing that was out will ever have a fate.
    pub fn new_epoch(&mut self) {
        self.moved();
        self.probes.clear();
    }

    /// The time is over for answers to what was sent before that moment: returns what has become known since the last call.
    pub fn settle(&mut self, before: RawNanos) -> Losses {
        // What is still out has its fate within moments: the flow may know a later stamp of its sending.
        let is_over = |sent: &&Sent| sent.at.since_ns(before) < 0 && sent.fate != Fate::Out;
        while let Some(sent) = self.probes.front().filter(is_over).copied() {
            self.probes.pop_front();
            match sent.fate {
                Fate::Lost => self.gap.lost += 1,
                Fate::Answered(by) => self.close(by),
                Fate::Open | Fate::Out => self.gap.open += 1,
            }
        }
        if self.gap.lost > 0 && !self.probes.iter().any(|sent| matches!(sent.fate, Fate::Answered(_))) {
            // Nothing answers any more: who knows when there will be a second end to the gap.
            self.told += not_known(self.gap.lost);
            self.told += std::mem::take(&mut self.waiting);
            self.gap = Gap { lost: 0, open: self.gap.open + self.gap.lost };
        }
        std::mem::take(&mut self.told)
    }

    fn end(&mut self, sequence: u32, fate: Fate) {
        if let Some(sent) = self.probes.iter_mut().find(|sent| sent.sequence == sequence) {
            sent.fate = fate;
        }
    }

    /// The gap ends with an answer.
    fn close(&mut self, after: Option<Reflected>) {
        let gap = std::mem::take(&mut self.gap);
        let before = std::mem::replace(&mut self.before, after);
        let reached = before.zip(after).filter(|(before, after)| before.run == after.run);
        let verdict = match reached.map(|(before, after)| self.reached(before.number, after.number)) {
            Some(reached) => gap.divide(reached),
            None => Some(not_known(gap.lost)),
        };
        let told = match verdict {
            // A gap beside one that makes no sense may hold what is missing there.
            None => not_known(gap.lost + std::mem::take(&mut self.waiting).total()),
            Some(losses) if self.was_broken => not_known(losses.total()),
            Some(losses) => std::mem::replace(&mut self.waiting, losses),
        };
        self.was_broken = verdict.is_none();
        self.told += told;
        let number = after.map(|after| after.number);
        self.doubles.retain(|double| number.is_some_and(|number| distance(number, *double) > 0));
    }

    /// How many requests have reached the reflector between two answers, without those that are known to be doubles; below zero if
    /// the second answer was given first.
    fn reached(&self, before: u32, after: u32) -> i64 {
        let all = distance(before, after) - 1;
        let is_between = |double: &&u32| (1..=all).contains(&distance(before, **double));
        all - self.doubles.iter().filter(is_between).map(|_| 1).sum::<i64>()
    }
}

impl Gap {
    /// Divides the losses; `None` if the number makes no sense.
    fn divide(self, reached: i64) -> Option<Losses> {
        let Gap { lost, open } = self;
        let reached = u64::try_from(reached).ok()?;
        let not_reached = (lost + open).checked_sub(reached)?;
        Some(match (reached, not_reached, open) {
            (0, _, _) => Losses { forward: lost, ..Losses::default() },
            (_, 0, _) => Losses { backward: lost, ..Losses::default() },
            (_, _, 0) => Losses { forward: not_reached, backward: reached, unknown: 0 },
            _ => not_known(lost),
        })
    }
}

fn not_known(count: u64) -> Losses {
    Losses { unknown: count, ..Losses::default() }
}

/// From one number to another, across the wrap-around.
fn distance(from: u32, to: u32) -> i64 {
    i64::from(to.wrapping_sub(from).cast_signed())
}

#[cfg(test)]
mod tests;
