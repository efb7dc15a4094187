//! What all agents have measured of each other's clocks, taken together: how far any two of their hosts' wall clocks are apart, also of
//! hosts that do not measure each other, and which agents' measurements cannot all be true. Pure.
//!
//! Wall clocks are moved at will, so what is known of two of them at different moments cannot be chained. Measuring clocks only drift:
//! differences of theirs are brought to one moment, each widened by what the two may have gained on each other in between, and what then
//! holds of all of them together is a matter of `bounds`. The wall clocks come last, each by its own host's reading.
//!
//! How far the moments of two reports are apart no wall clock is asked either. That follows from the reports: who tells the
//! offset of a peer tells what the peer's clock showed at that moment, and the peer tells what it showed at the moment of its own report.
//!
//! For n agents a step takes n^3 additions, and as many again for each contradiction among three or more, up to `ROUNDS_MAX`.

mod bounds;
mod spans;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lagmesh_model::ids::AgentName;
use lagmesh_model::interval::Interval;
use lagmesh_model::time::Epoch;

use crate::merge::{ToldClocks, WallReadings};
use bounds::Bounds;
use spans::Span;

/// So many contradictions among three or more are told apart; with more of them nothing is believed.
const ROUNDS_MAX: usize = 8;

/// What follows from all reports.
#[derive(Debug)]
pub struct Compared<'t> {
    clocks: Vec<Clock<'t>>,
    index: BTreeMap<&'t AgentName, usize>,
    /// Who measures whom.
    measured: BTreeSet<(usize, usize)>,
    known: Option<Known>,
    /// Each a set of agents of whose clocks not everything can be true that was told; what they told of each other is not used.
    pub contradictions: Vec<BTreeSet<&'t AgentName>>,
}

/// Why the wall clocks of two hosts cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing<'t> {
    /// This agent tells nothing.
    Untold(&'t AgentName),
    /// No chain of agents that measure each other leads from one to the other.
    Apart,
    /// Their hosts have read their wall clocks at different times.
    NotTogether,
    /// Too much of what was told cannot be true.
    Contradiction,
    /// The numbers are beyond 292 years.
    Impossible,
}

/// One host's measuring clock, of one run.
#[derive(Debug)]
struct Clock<'t> {
    agent: &'t AgentName,
    epoch: Epoch,
    /// What its own agent told; `None` if only others tell of it.
    told: Option<&'t ToldClocks>,
}

/// That the clock `of` was ahead of the clock `by` when the agent of `by` reported.
#[derive(Debug, Clone, Copy)]
struct Fact {
    by: usize,
    of: usize,
    ahead: Span,
}

/// Where a clock stands at the common moment, which is that of one report of its group: of all clocks that facts connect.
#[derive(Debug, Clone, Copy)]
struct Place {
    group: usize,
    /// What it showed at the common moment.
    showed: Span,
    /// When its agent reported, after the common moment, in true time; `None` if it did not report.
    reported: Option<Span>,
}

/// Everything that is known for the common moment.
#[derive(Debug)]
struct Known {
    places: Vec<Place>,
    bounds: Bounds,
}

/// A while during which a host surely had its wall clock read; both ends in true time after the common moment of its group [ns].
#[derive(Debug)]
struct Look {
    /// It had begun then.
    began: i128,
    /// It had not ended before.
    ended: i128,
    /// The wall clock minus the measuring clock at every reading.
    wall: Interval,
}

/// Takes all reports together; no agent has two.
pub fn compare(told: &[ToldClocks]) -> Compared<'_> {
    let clocks = clocks(told);
    let index: BTreeMap<&AgentName, usize> = clocks.iter().enumerate().map(|(at, clock)| (clock.agent, at)).collect();
    let mut facts = facts(&clocks, &index);
    let measured = facts.iter().map(|fact| (fact.by, fact.of)).collect();
    let mut sets = contradicting_pairs(&clocks, &mut facts);
    let mut known = None;
    for _ in 0..ROUNDS_MAX {
        let set = match Known::of(&clocks, &facts) {
            Ok(all) => {
                known = Some(all);
                break;
            }
            Err(around) => accountable(&clocks, &facts, around),
        };
        facts.retain(|fact| !(set.contains(&fact.by) && set.contains(&fact.of)));
        sets.push(set);
    }
    let names = |set: &BTreeSet<usize>| set.iter().map(|at| clocks[*at].agent).collect();
    let contradictions = sets.iter().map(names).collect();
    Compared { clocks, index, measured, known, contradictions }
}

impl<'t> Compared<'t> {
    /// The wall clock of `other`'s host minus that of `one`'s, at some moment at which both hosts had theirs read for their last two reports:
    /// as long as no wall clock was moved there and back between two readings, it holds the truth.
    ///
    /// # Errors
    /// If it is not known, and why.
    pub fn wall_offset<'a>(&self, one: &'a AgentName, other: &'a AgentName) -> Result<Interval, Missing<'a>> {
        let (from, own) = self.told(one)?;
        let (to, peer) = self.told(other)?;
        let known = self.known.as_ref().ok_or(Missing::Contradiction)?;
        let offset = known.offset(from, to).ok_or(Missing::Apart)?;
        let both = [(from, own), (to, peer)].map(|(at, told)| Some(Look::all(known.places[at].reported?, told)));
        let [Some(own), Some(peer)] = both else { return Err(Missing::Apart) };
        let pairs = own.iter().flatten().flat_map(|one| peer.iter().flatten().map(move |other| (one, other)));
        let met = pairs.filter_map(|(one, other)| Some((one.common(other)?, one, other)));
        let (moment, one, other) = met.max_by_key(|(moment, ..)| *moment).ok_or(Missing::NotTogether)?;
        let offset = offset.drifted(moment.unsigned_abs()) + Span::of(other.wall) - Span::of(one.wall);
        offset.interval().ok_or(Missing::Impossible)
    }

    /// Whether one of the two measures the other.
    pub fn is_measured(&self, one: &AgentName, other: &AgentName) -> bool {
        let both = self.index.get(one).zip(self.index.get(other));
        both.is_some_and(|(one, other)| self.measured.contains(&(*one, *other)) || self.measured.contains(&(*other, *one)))
    }

    fn told<'a>(&self, agent: &'a AgentName) -> Result<(usize, &'t ToldClocks), Missing<'a>> {
        let at = self.index.get(agent).copied();
        at.and_then(|at| Some((at, self.clocks[at].told?))).ok_or(Missing::Untold(agent))
    }
}

impl Look {
    /// Those for the newest report, which was made `reported` after the common moment, and for the one before.
    fn all(reported: Span, told: &ToldClocks) -> [Option<Look>; 2] {
        let of = |readings: WallReadings| {
            let until = reported - Span::exact(i128::from(told.newest.at.0) - i128::from(readings.at.0)).true_time();
            let read_for = Span::exact(i128::from(readings.at.since_ns(readings.since))).true_time();
            Look { began: until.upper - read_for.lower, ended: until.lower, wall: readings.wall }
        };
        [Some(of(told.newest)), told.before.map(of)]
    }

    /// The last moment at which the readings of both surely went on, if there is one.
    fn common(&self, other: &Look) -> Option<i128> {
        let (began, ended) = (self.began.max(other.began), self.ended.min(other.ended));
        (began <= ended).then_some(ended)
    }
}

/// The clock of each agent that reported or of which others tell. One that did not report stands in the run that most tell of.
fn clocks(told: &[ToldClocks]) -> Vec<Clock<'_>> {
    let reported: BTreeMap<&AgentName, &ToldClocks> = told.iter().map(|one| (&one.agent, one)).collect();
    let mut others: BTreeMap<&AgentName, BTreeMap<Epoch, usize>> = BTreeMap::new();
    for (agent, (epoch, _)) in reported.values().flat_map(|one| &one.peers).filter(|(agent, _)| !reported.contains_key(agent)) {
        *others.entry(agent).or_default().entry(*epoch).or_default() += 1;
    }
    let own = reported.values().map(|one| Clock { agent: &one.agent, epoch: one.epoch, told: Some(one) });
    let foreign = others.into_iter().filter_map(|(agent, epochs)| {
        let (epoch, _) = epochs.into_iter().max_by_key(|(_, times)| *times)?;
        Some(Clock { agent, epoch, told: None })
    });
    own.chain(foreign).collect()
}

/// What was told of clocks in the runs in which they stand.
fn facts(clocks: &[Clock<'_>], index: &BTreeMap<&AgentName, usize>) -> Vec<Fact> {
    let by = |(by, clock): (usize, &Clock<'_>)| {
        let peers = clock.told.into_iter().flat_map(|told| &told.peers);
        let of = |(agent, (epoch, offset)): (&AgentName, &(Epoch, Interval))| {
            let of = *index.get(agent)?;
            (of != by && clocks[of].epoch == *epoch).then(|| Fact { by, of, ahead: Span::of(*offset) })
        };
        peers.filter_map(of).collect::<Vec<_>>()
    };
    clocks.iter().enumerate().flat_map(by).collect()
}

/// Takes out what two agents told of each other that cannot both be true, judged by nothing but these two.
fn contradicting_pairs(clocks: &[Clock<'_>], facts: &mut Vec<Fact>) -> Vec<BTreeSet<usize>> {
    let all: BTreeMap<(usize, usize), Span> = facts.iter().map(|fact| ((fact.by, fact.of), fact.ahead)).collect();
    let contradicts = |by: usize, of: usize, ahead: Span| {
        let back = *all.get(&(of, by))?;
        let (one, other) = (clocks[by].told?, clocks[of].told?);
        // On the other's clock, from the one's report to its own.
        let passed = Span::at(other.newest.at) - (Span::at(one.newest.at) + ahead);
        let ahead = ahead.drifted(passed.true_time().farthest());
        Some(ahead.lower > -back.lower || ahead.upper < -back.upper)
    };
    let is_first = |by: usize, of: usize| by < of;
    let pairs: BTreeSet<(usize, usize)> = all
        .iter()
        .filter(|((by, of), ahead)| is_first(*by, *of) && contradicts(*by, *of, **ahead) == Some(true))
        .map(|(pair, _)| *pair)
        .collect();
    facts.retain(|fact| !pairs.contains(&(fact.by.min(fact.of), fact.by.max(fact.of))));
    pairs.into_iter().map(|(one, other)| BTreeSet::from([one, other])).collect()
}

/// Who must answer for a way around that cannot be. What was told along it was brought to the common moment by what others
/// told, so these are held to account as well, unless it cannot be by what its own agents told of each other alone.
fn accountable(clocks: &[Clock<'_>], facts: &[Fact], around: BTreeSet<usize>) -> BTreeSet<usize> {
    let own: Vec<Fact> = facts.iter().filter(|fact| around.contains(&fact.by) && around.contains(&fact.of)).copied().collect();
    if Known::of(clocks, &own).is_err() {
        return around;
    }
    let places = places(clocks, facts);
    let is_of_group = |at: &usize| around.first().is_some_and(|first| places[*at].group == places[*first].group);
    (0..clocks.len()).filter(is_of_group).collect()
}

impl Known {
    /// Everything that follows, or who stands on a way around that shows that not all can be true.
    fn of(clocks: &[Clock<'_>], facts: &[Fact]) -> Result<Known, BTreeSet<usize>> {
        let places = places(clocks, facts);
        let mut bounds = Bounds::new(clocks.len());
        for fact in facts {
            let reported = places[fact.by].reported.expect("who tells has reported");
            let ahead = fact.ahead.drifted(reported.farthest());
            bounds.add(fact.by, fact.of, ahead.lower, ahead.upper);
        }
        bounds.close()?;
        Ok(Known { places, bounds })
    }

    /// The measuring clock `to` minus the clock `from` at the common moment.
    fn offset(&self, from: usize, to: usize) -> Option<Span> {
        let (lower, upper) = self.bounds.between(from, to)?;
        Some(Span { lower, upper })
    }
}

/// Finds out from the facts when each agent reported, and what each clock showed then: from clock to clock, beginning in each group
/// with the one of which most is told.
fn places(clocks: &[Clock<'_>], facts: &[Fact]) -> Vec<Place> {
    let mut touching: Vec<Vec<Fact>> = vec![Vec::new(); clocks.len()];
    for fact in facts {
        touching[fact.by].push(*fact);
        touching[fact.of].push(*fact);
    }
    let mut order: Vec<usize> = (0..clocks.len()).collect();
    // Who did not report is reached from who told of it, or stands alone.
    order.sort_by_key(|at| (clocks[*at].told.is_none(), std::cmp::Reverse(touching[*at].len())));
    let mut places: Vec<Option<Place>> = vec![None; clocks.len()];
    for (group, first) in order.into_iter().enumerate() {
        if places[first].is_some() {
            continue;
        }
        let showed = clocks[first].told.map_or(Span::exact(0), |told| Span::at(told.newest.at));
        places[first] = Some(Place::of(&clocks[first], group, showed));
        let mut queue = VecDeque::from([first]);
        while let Some(at) = queue.pop_front() {
            let Some(here) = places[at] else { continue };
            for fact in &touching[at] {
                let next = if fact.by == at { fact.of } else { fact.by };
                if places[next].is_none() {
                    places[next] = here.beside(fact, at, &clocks[next]);
                    queue.push_back(next);
                }
            }
        }
    }
    places.into_iter().map(|place| place.expect("each is reached, or the first of its group")).collect()
}

impl Place {
    fn of(clock: &Clock<'_>, group: usize, showed: Span) -> Place {
        let reported = clock.told.map(|told| (Span::at(told.newest.at) - showed).true_time());
        Place { group, showed, reported }
    }

    /// The place of the clock at the other end of a fact.
    fn beside(&self, fact: &Fact, at: usize, next: &Clock<'_>) -> Option<Place> {
        if fact.by == at {
            let ahead = fact.ahead.drifted(self.reported?.farthest());
            return Some(Place::of(next, self.group, self.showed + ahead));
        }
        // The other end told what this clock showed when it reported.
        let told_at = Span::at(next.told?.newest.at);
        let reported = (told_at + fact.ahead - self.showed).true_time();
        Some(Place { group: self.group, showed: told_at - reported.clock_time(), reported: Some(reported) })
    }
}
