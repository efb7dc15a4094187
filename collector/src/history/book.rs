//! From batches to buckets. Pure: batches go in, and what is to be added to the stored buckets comes out, together with what says which
//! batches that holds. Both are written in one transaction, so the file is always right about what is in it.
//!
//! Between two neighbouring batches of a boot the increment of a series is a subtraction of what both say, and belongs to the bucket of
//! the later one. A batch that comes late splits the increment in two. The buckets are a function of the set of batches that came, not
//! of their order, and no total ever changes by a split.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lagmesh_model::ids::{AgentName, BootId};
use lagmesh_model::series::{Batch, Value};
use lagmesh_model::time::WallNanos;

use super::body::{Body, Cumulative};
use super::cell::{Cell, Gauge};
use super::fresh::Fresh;
use super::names::{Name, Names};
use super::runs::{Point, Runs};
use super::spread::Spread;

/// The width of the finest buckets [s].
pub(super) const FINEST_S: u64 = 10;
/// The boots of one agent of which batches may still come.
pub(super) const BOOTS_MAX: usize = 2 * crate::store::BOOTS_MAX;
/// The boots of one agent that are remembered as given up: nothing is counted of them again.
pub(super) const GONE_MAX: usize = crate::store::RETIRED_MAX;
/// How far ahead of its arrival a batch may say it was made [ns]: clocks differ, but not by more than ten minutes.
const AHEAD_MAX_NS: u64 = 600 * 1_000_000_000;
/// How long before its arrival a batch may say it was made [ns]: a spool may be a month old.
const BEHIND_MAX_NS: u64 = 32 * 86_400 * 1_000_000_000;

/// Whether the counts of a batch came into the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Entry {
    /// They did.
    #[default]
    New,
    /// They were there already.
    Known,
    /// They may not any more: their boot was given up.
    Retired,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    /// Whether its counts came in.
    pub(super) entry: Entry,
    /// Whether its time was impossible, so that its arrival stands for it.
    pub(super) relabelled: bool,
    /// Whether a gap was given up for it.
    pub(super) gap_given_up: bool,
    /// Series that were left out because there are too many.
    pub(super) series_left_out: u64,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What is to be added to the buckets.
    pub(super) fresh: Fresh,
    /// New series.
    pub(super) names: Vec<Name>,
    /// Boots whose runs changed.
    pub(super) boots: Vec<(AgentName, BootId, u64, Runs)>,
    /// Boots that were given up.
    pub(super) gone: Vec<(AgentName, BootId)>,
}

/// Everything that is known of the streams, and what is not written yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    names: Names,
    agents: BTreeMap<AgentName, Boots>,
    fresh: Fresh,
    changed: BTreeSet<(AgentName, BootId)>,
    gone: Vec<(AgentName, BootId)>,
    /// Orders boots by when they were last heard of.
    ordinal: u64,
}

#[derive(Debug, Clone, Default)]
struct Boots {
    held: BTreeMap<BootId, (u64, Runs)>,
    gone: VecDeque<BootId>,
    gone_set: BTreeSet<BootId>,
}

impl Book {
    /// The dictionary, while it is read.
    pub(super) fn names(&mut self) -> &mut Names {
        &mut self.names
    }

    /// The runs of a boot as they were stored.
    pub(super) fn restore(&mut self, agent: AgentName, boot: BootId, heard: u64, runs: Runs) {
        self.ordinal = self.ordinal.max(heard);
        self.agents.entry(agent).or_default().held.insert(boot, (heard, runs));
    }

    /// A boot that was given up, as it was stored, the oldest first.
    pub(super) fn restore_gone(&mut self, agent: AgentName, boot: BootId) {
        self.agents.entry(agent).or_default().give_up(boot);
    }

    /// How much is not written yet [bytes].
    pub(super) fn pending_bytes(&self) -> usize {
        self.fresh.bytes()
    }

    /// Whether there is nothing to write.
    pub(super) fn is_clean(&self) -> bool {
        self.fresh.bytes() == 0 && self.changed.is_empty() && self.gone.is_empty()
    }

    /// Takes a batch in.
    pub(super) fn take(&mut self, batch: &Batch, arrived: WallNanos) -> Taken {
        let (agent, boot) = (&batch.exporter.agent, batch.exporter.boot);
        let boots = self.agents.entry(agent.clone()).or_default();
        if boots.gone_set.contains(&boot) {
            return Taken { entry: Entry::Retired, ..Taken::default() };
        }
        let known = boots.held.get(&boot).is_some_and(|(_, runs)| runs.knows(batch.sequence));
        if known || batch.sequence == 0 {
            return Taken { entry: Entry::Known, ..Taken::default() };
        }
        let (label_ns, relabelled) = label(batch.time, arrived);
        let mut taken = Taken { relabelled, ..Taken::default() };
        let body = self.body(batch, label_ns, &mut taken);
        let point = Point { sequence: batch.sequence, label_ns, start_ns: batch.start.0, body: Arc::new(body) };

        self.ordinal += 1;
        let boots = self.agents.entry(agent.clone()).or_default();
        let (heard, runs) = boots.held.entry(boot).or_default();
        *heard = self.ordinal;
        let (before, after) = runs.neighbours(point.sequence);
        if let Some(after) = after {
            increments(&mut self.fresh, before, after, -1);
            increments(&mut self.fresh, Some(&point), after, 1);
        }
        increments(&mut self.fresh, before, &point, 1);
        taken.gap_given_up = runs.insert(point);
        self.changed.insert((agent.clone(), boot));
        self.give_up_beyond(agent);
        taken
    }

    /// Forgets a boot.
    pub(super) fn retire(&mut self, agent: &AgentName, boot: BootId) {
        let Some(boots) = self.agents.get_mut(agent) else { return };
        if boots.held.remove(&boot).is_some() {
            boots.give_up(boot);
            self.changed.remove(&(agent.clone(), boot));
            self.gone.push((agent.clone(), boot));
        }
    }

    /// Hands over what is to be written; it counts as written from then on.
    pub(super) fn take_changes(&mut self) -> Changes {
        let runs_of = |(agent, boot): (AgentName, BootId)| {
            let (heard, runs) = self.agents.get(&agent)?.held.get(&boot)?.clone();
            Some((agent, boot, heard, runs))
        };
        let boots = std::mem::take(&mut self.changed).into_iter().filter_map(runs_of).collect();
        Changes {
            fresh: std::mem::take(&mut self.fresh),
            names: self.names.take_added(),
            boots,
            gone: std::mem::take(&mut self.gone),
        }
    }

    /// Packs the counts; puts down the current values.
    fn body(&mut self, batch: &Batch, label_ns: u64, taken: &mut Taken) -> Body {
        let mut counts = Vec::new();
        for series in &batch.series {
            // A whole value is for reckoning, nobody looks at its course; a value that is no number has none.
            if matches!(series.value, Value::Whole(_)) || matches!(series.value, Value::Gauge(value) if !value.is_finite()) {
                continue;
            }
            let Some(id) = self.names.id(series) else {
                taken.series_left_out += 1;
                continue;
            };
            match &series.value {
                Value::Counter(count) => counts.push((id, Cumulative::Counter(*count))),
                Value::Histogram(histogram) => counts.push((id, Cumulative::Histogram(Spread::of(histogram)))),
                Value::Gauge(value) => {
                    let gauge = Gauge::one(*value, label_ns, batch.sequence);
                    self.fresh.put(bucket_s(label_ns), id, &Cell::Gauge(gauge));
                }
                Value::Whole(_) => {}
            }
        }
        Body::of(counts)
    }

    fn give_up_beyond(&mut self, agent: &AgentName) {
        while let Some(boots) = self.agents.get(agent).filter(|boots| boots.held.len() > BOOTS_MAX) {
            let Some(oldest) = boots.held.iter().min_by_key(|(_, (heard, _))| *heard).map(|(boot, _)| *boot) else { return };
            self.retire(agent, oldest);
        }
    }
}

impl Boots {
    fn give_up(&mut self, boot: BootId) {
        if self.gone_set.insert(boot) {
            self.gone.push_back(boot);
        }
        while self.gone.len() > GONE_MAX
            && let Some(forgotten) = self.gone.pop_front()
        {
            self.gone_set.remove(&forgotten);
        }
    }
}

/// Adds what was gained from one batch to the next, or takes it away. Before the first batch that is known counts began at zero.
fn increments(fresh: &mut Fresh, before: Option<&Point>, next: &Point, sign: i64) {
    let begin_ns = before.map_or(next.start_ns, |before| before.label_ns);
    let span_ns = next.label_ns.saturating_sub(begin_ns);
    let earlier = before.map(|before| &*before.body);
    for (id, cell) in next.body.since(earlier, span_ns, sign) {
        fresh.put(bucket_s(next.label_ns), id, &cell);
    }
}

/// The finest bucket of a moment [s].
fn bucket_s(label_ns: u64) -> u64 {
    label_ns / 1_000_000_000 / FINEST_S * FINEST_S
}

/// The moment that a batch is put down for, and whether that is its arrival because what it says is impossible.
fn label(made: WallNanos, arrived: WallNanos) -> (u64, bool) {
    let possible = arrived.0.saturating_sub(BEHIND_MAX_NS)..=arrived.0.saturating_add(AHEAD_MAX_NS);
    if possible.contains(&made.0) { (made.0, false) } else { (arrived.0, true) }
}
