//! What became of the probes of one kind on one link: since the start, and in the last minute. Bounded memory. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::AgentName;
use lagmesh_model::known::Known;
use lagmesh_model::state::{Outcome, Phase, ProbeKind, StampSource};
use lagmesh_model::status::Quantiles;
use lagmesh_model::time::{RawNanos, nanos};

use crate::link::streak::Streak;
use crate::link::tally::{Counts, Tally};
use crate::measurement::Probe;

/// How far back "recent" reaches.
pub const RECENT: Duration = Duration::from_secs(60);
/// Round-trip times are kept by five seconds.
const RTT_SLOT_NS: u64 = 5_000_000_000;
/// For how many intervals a round-trip time is current.
pub const CURRENT_INTERVALS: u32 = 3;
/// No answer is old before this, however short the interval: it is told one answer later and handed over ten times a second, and
/// hosts have hiccups.
const CURRENT_MIN: Duration = Duration::from_millis(500);

/// The probes of one kind.
#[derive(Debug)]
pub struct Window {
    kind: ProbeKind,
    interval: Duration,
    give_up: Duration,
    total: Exponential,
    phases: BTreeMap<Phase, Exponential>,
    stamps: BTreeMap<StampSource, u64>,
    outcomes: Vec<(Outcome, u64)>,
    /// By the agent that was probed; `None` where a kind knows none.
    tallies: BTreeMap<Option<AgentName>, Tally>,
    rtts: VecDeque<RttSlot>,
    streak: Streak,
    answered_at: Option<RawNanos>,
    refused_at: Option<RawNanos>,
    unresolved_at: Option<RawNanos>,
    evidence_at: Option<RawNanos>,
}

#[derive(Debug)]
struct RttSlot {
    slot: u64,
    rtts: Exponential,
    phases: BTreeMap<Phase, Exponential>,
    stamps: BTreeMap<StampSource, u64>,
}

impl Window {
    /// Nothing probed.
    pub fn new(kind: ProbeKind, interval: Duration, give_up: Duration) -> Window {
        Window {
            kind,
            interval,
            give_up,
            total: Exponential::new(),
            phases: BTreeMap::new(),
            stamps: BTreeMap::new(),
            outcomes: Outcome::ALL.iter().map(|outcome| (*outcome, 0)).collect(),
            tallies: BTreeMap::new(),
            rtts: VecDeque::new(),
            streak: Streak::default(),
            answered_at: None,
            refused_at: None,
            unresolved_at: None,
            evidence_at: None,
        }
    }

    /// Which kind.
    pub fn kind(&self) -> ProbeKind {
        self.kind
    }

    /// Counts the fate of a probe among all since the start.
    pub fn record_total(&mut self, probe: &Probe) {
        if let Some((_, count)) = self.outcomes.iter_mut().find(|(outcome, _)| *outcome == probe.outcome) {
            *count += 1;
        }
        if let Some(rtt_ns) = probe.rtt_ns {
            self.total.record_ns(rtt_ns);
        }
        for (phase, took_ns) in &probe.phases {
            self.phases.entry(*phase).or_default().record_ns(*took_ns);
        }
        if let Some(source) = probe.stamps {
            *self.stamps.entry(source).or_default() += 1;
        }
    }

    /// Takes the fate of a probe as evidence of the present. Its stamp is of the same clock epoch as those of all others here.
    pub fn record_recent(&mut self, probe: &Probe) {
        let at = probe.at.raw;
        if probe.rtt_ns.is_some() || !probe.phases.is_empty() {
            let slot = self.rtt_slot(at);
            probe.rtt_ns.into_iter().for_each(|rtt_ns| slot.rtts.record_ns(rtt_ns));
            for (phase, took_ns) in &probe.phases {
                slot.phases.entry(*phase).or_default().record_ns(*took_ns);
            }
            if let Some(source) = probe.stamps {
                *slot.stamps.entry(source).or_default() += 1;
            }
        }
        match probe.outcome {
            // Nothing was sent, or our own host stalled: no evidence about anything but ourselves.
            Outcome::Skipped | Outcome::SendError | Outcome::HeldBack => return,
            Outcome::Unresolved => {
                self.unresolved_at = self.unresolved_at.max(Some(at));
                return;
            }
            Outcome::InTime | Outcome::Late => self.answered_at = self.answered_at.max(Some(at)),
            Outcome::Refused => self.refused_at = self.refused_at.max(Some(at)),
            Outcome::Lost | Outcome::Unreachable | Outcome::Corrupt => {}
        }
        self.evidence_at = self.evidence_at.max(Some(at));
        let answered = matches!(probe.outcome, Outcome::InTime | Outcome::Late | Outcome::Refused);
        let (sent, give_up) = (self.sent_at(probe), self.give_up);
        self.streak.record(sent, matches!(probe.outcome, Outcome::InTime | Outcome::Late));
        self.tallies.entry(probe.agent.clone()).or_default().count(sent, answered, give_up);
    }

    /// Forgets all stamps, because our own clock has begun a new epoch. What was counted since the start stays.
    pub fn new_epoch(&mut self) {
        self.tallies.clear();
        self.rtts.clear();
        self.streak = Streak::default();
        (self.answered_at, self.refused_at, self.unresolved_at, self.evidence_at) = (None, None, None, None);
    }

    /// When a probe was sent, to within its responder's time: fates come in at different times after it.
    fn sent_at(&self, probe: &Probe) -> RawNanos {
        let after_ns = match (probe.outcome, probe.rtt_ns) {
            (Outcome::Lost, _) => nanos(self.give_up),
            (_, Some(rtt_ns)) => rtt_ns,
            (_, None) => 0,
        };
        // A start of the raw clock less than ten seconds before the first probe is no reason to fail.
        RawNanos(probe.at.raw.0.saturating_sub(after_ns))
    }

    fn rtt_slot(&mut self, at: RawNanos) -> &mut RttSlot {
        let (slot, span) = (at.0 / RTT_SLOT_NS, nanos(self.span()) / RTT_SLOT_NS);
        while self.rtts.front().is_some_and(|old| slot.abs_diff(old.slot) > span) {
            self.rtts.pop_front();
        }
        if self.rtts.back().is_none_or(|newest| newest.slot < slot) {
            self.rtts.push_back(RttSlot { slot, rtts: Exponential::new(), phases: BTreeMap::new(), stamps: BTreeMap::new() });
        }
        self.rtts.back_mut().expect("a slot was pushed if there was none")
    }

    /// How far back round-trip times count: a minute, or three intervals where that is longer.
    fn span(&self) -> Duration {
        RECENT.max(self.interval * CURRENT_INTERVALS)
    }

    /// Probes sent within the last minute.
    pub fn recent(&self, now: RawNanos) -> Counts {
        self.tallies.values().fold(Counts::default(), |sum, tally| sum + tally.recent(now, None))
    }

    /// Those of them that were sent to one agent, and not before `since`.
    pub fn recent_to(&self, agent: &AgentName, now: RawNanos, since: Option<RawNanos>) -> Counts {
        self.tallies.get(&Some(agent.clone())).map(|tally| tally.recent(now, since)).unwrap_or_default()
    }

    /// The distribution of the last minute [ns inside]; empty if nothing was answered.
    pub fn recent_rtts(&self, now: RawNanos) -> Exponential {
        let mut sum = Exponential::new();
        self.recent_slots(now).for_each(|slot| sum.merge(&slot.rtts));
        sum
    }

    /// The round trips of the last minute by what stamped them.
    pub fn recent_stamps(&self, now: RawNanos) -> BTreeMap<StampSource, u64> {
        let mut sum = BTreeMap::new();
        for (source, count) in self.recent_slots(now).flat_map(|slot| &slot.stamps) {
            *sum.entry(*source).or_default() += count;
        }
        sum
    }

    fn recent_slots(&self, now: RawNanos) -> impl Iterator<Item = &RttSlot> {
        let (newest, span) = (now.0 / RTT_SLOT_NS, nanos(self.span()) / RTT_SLOT_NS);
        self.rtts.iter().filter(move |slot| newest.abs_diff(slot.slot) <= span)
    }

    /// The round-trip time of the last minute: current while the newest answer is at most three intervals (or half a second) old, then
    /// stale, and unknown once nothing was answered for a minute.
    pub fn rtt(&self, now: RawNanos) -> Known<Quantiles> {
        let kind = self.kind;
        let Some(answered_at) = self.answered_at else {
            return Known::unknown(match self.evidence_at {
                Some(_) => format!("no {kind} probe was answered yet"),
                None => format!("no {kind} probe could be sent yet"),
            });
        };
        let age = age_of(answered_at, now);
        match self.recent_rtts(now).quantiles() {
            Some(value) if age <= CURRENT_MIN.max(self.interval * CURRENT_INTERVALS) => Known::Known { value },
            Some(value) if age <= self.span() => Known::Stale { value, age_s: age.as_secs_f64() },
            _ => Known::unknown(format!("no {kind} probe was answered for {:.0} s", age.as_secs_f64())),
        }
    }

    /// How long each part of the recent attempts took; a part that never ended is not there.
    pub fn recent_phases(&self, now: RawNanos) -> BTreeMap<Phase, Quantiles> {
        let mut sum: BTreeMap<Phase, Exponential> = BTreeMap::new();
        for (phase, took) in self.recent_slots(now).flat_map(|slot| &slot.phases) {
            sum.entry(*phase).or_default().merge(took);
        }
        sum.into_iter().filter_map(|(phase, took)| Some((phase, took.quantiles()?))).collect()
    }

    /// How long each part of the attempts took since the start.
    pub fn phases(&self) -> &BTreeMap<Phase, Exponential> {
        &self.phases
    }

    /// All round-trip times since the start.
    pub fn total(&self) -> &Exponential {
        &self.total
    }

    /// Round trips since the start by what stamped them.
    pub fn stamps(&self) -> &BTreeMap<StampSource, u64> {
        &self.stamps
    }

    /// Fates since the start; `None` if nothing was attempted.
    pub fn outcomes(&self) -> Option<&[(Outcome, u64)]> {
        self.outcomes.iter().any(|(_, count)| *count > 0).then_some(&self.outcomes)
    }

    /// When the newest answer came; refusals do not count.
    pub fn answered_at(&self) -> Option<RawNanos> {
        self.answered_at
    }

    /// When the newest refusal came, if no answer came since.
    pub fn refused_at(&self) -> Option<RawNanos> {
        self.refused_at.filter(|refused| self.answered_at.is_none_or(|answered| answered < *refused))
    }

    /// When a probe last could not be sent because nobody knows where; `None` if one was settled since.
    pub fn unresolved_at(&self) -> Option<RawNanos> {
        self.unresolved_at.filter(|at| self.evidence_at.is_none_or(|evidence| evidence <= *at))
    }

    /// When anything was last learnt.
    pub fn evidence_at(&self) -> Option<RawNanos> {
        self.evidence_at
    }

    /// Its newest fates, and whether they are of the present.
    pub fn streak(&self, now: RawNanos) -> (Streak, bool) {
        let silent_max = self.interval * CURRENT_INTERVALS + self.give_up;
        (self.streak, self.evidence_at.is_some_and(|at| age_of(at, now) <= silent_max))
    }

    /// The longest that answers of the last minute took (99th percentile).
    pub fn p99(&self, now: RawNanos) -> Option<Duration> {
        self.recent_rtts(now).quantile_s(0.99).map(Duration::from_secs_f64)
    }
}

/// How long ago something was; nothing if it is just now or, by another thread's reading, a moment ahead.
pub fn age_of(at: RawNanos, now: RawNanos) -> Duration {
    now.checked_since(at).unwrap_or(Duration::ZERO)
}
