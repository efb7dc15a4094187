//! Which batches of which boots have been taken, and in which order boots were last heard of. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lagmesh_model::ids::{AgentName, BootId};

use super::RETIRED_MAX;
use crate::merge::{News, Sequences};

/// All agents, as it is on disk.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Ledger {
    kept: BTreeMap<AgentName, Boots>,
    retired: BTreeMap<AgentName, Retired>,
    /// The number of the last batch that was taken: orders boots by when they were last heard of.
    ordinal: u64,
}

/// The boots of one agent that are kept one by one: which of their batches were taken, and when they were last heard of.
type Boots = BTreeMap<BootId, (Sequences, u64)>;

/// Boots of one agent that are no longer kept one by one.
#[derive(Debug, Clone, PartialEq, Default)]
struct Retired {
    order: VecDeque<BootId>,
    boots: BTreeSet<BootId>,
}

/// A ledger as it will be once what is being written is on disk.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    ledger: &'a Ledger,
    changes: Changes,
}

/// What a draft says otherwise than its ledger.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The kept boots of each agent of which a batch was taken.
    kept: BTreeMap<AgentName, Boots>,
    retired: Vec<(AgentName, BootId)>,
    ordinal: u64,
}

/// What is to be written about a batch that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) news: News,
    pub(super) sequences: Sequences,
    pub(super) ordinal: u64,
}

impl Ledger {
    /// Nothing is changed yet.
    pub(super) fn draft(&self) -> Draft<'_> {
        Draft { ledger: self, changes: Changes { ordinal: self.ordinal, ..Changes::default() } }
    }

    /// Takes over what is on disk now.
    pub(super) fn take_over(&mut self, changes: Changes) {
        self.kept.extend(changes.kept);
        for (agent, boot) in changes.retired {
            self.retired.entry(agent).or_default().remember(boot);
        }
        self.ordinal = changes.ordinal;
    }

    /// As it was stored.
    pub(super) fn restore(&mut self, agent: &AgentName, boot: BootId, sequences: Sequences, ordinal: u64) {
        self.ordinal = self.ordinal.max(ordinal);
        self.kept.entry(agent.clone()).or_default().insert(boot, (sequences, ordinal));
    }

    /// As it was stored, the oldest first.
    pub(super) fn restore_retired(&mut self, agent: &AgentName, boot: BootId) {
        self.retired.entry(agent.clone()).or_default().remember(boot);
    }
}

impl Draft<'_> {
    /// What a batch would be; `None` if its boot is retired, so that its counts are in the totals and stay as they are.
    pub(super) fn news(&self, agent: &AgentName, boot: BootId, sequence: u64) -> Option<News> {
        let kept = self.changes.kept.get(agent).or_else(|| self.ledger.kept.get(agent));
        if let Some((sequences, _)) = kept.and_then(|kept| kept.get(&boot)) {
            return Some(sequences.news(sequence));
        }
        let retired = self.ledger.retired.get(agent).is_some_and(|retired| retired.boots.contains(&boot))
            || self.changes.retired.iter().any(|(whose, which)| whose == agent && *which == boot);
        (!retired).then_some(News::Newest)
    }

    /// Takes a batch.
    pub(super) fn take(&mut self, agent: &AgentName, boot: BootId, sequence: u64, news: News) -> Taken {
        self.changes.ordinal += 1;
        let before = || self.ledger.kept.get(agent).cloned().unwrap_or_default();
        let kept = self.changes.kept.entry(agent.clone()).or_insert_with(before);
        let (sequences, ordinal) = kept.entry(boot).or_default();
        sequences.insert(sequence);
        *ordinal = self.changes.ordinal;
        Taken { news, sequences: sequences.clone(), ordinal: self.changes.ordinal }
    }

    /// Retires the boots of an agent that were heard of the longest ago, until `boots_max` are left.
    pub(super) fn retire_beyond(&mut self, agent: &AgentName, boots_max: usize) -> Vec<BootId> {
        let mut retired = Vec::new();
        while let Some(kept) = self.changes.kept.get_mut(agent).filter(|kept| kept.len() > boots_max) {
            let oldest = kept.iter().min_by_key(|(_, (_, ordinal))| *ordinal).map(|(boot, _)| *boot);
            let Some(oldest) = oldest else { break };
            kept.remove(&oldest);
            self.changes.retired.push((agent.clone(), oldest));
            retired.push(oldest);
        }
        retired
    }

    /// What is to be taken over once it is on disk.
    pub(super) fn into_changes(self) -> Changes {
        self.changes
    }
}

impl Retired {
    fn remember(&mut self, boot: BootId) {
        if self.boots.insert(boot) {
            self.order.push_back(boot);
        }
        while self.order.len() > RETIRED_MAX
            && let Some(forgotten) = self.order.pop_front()
        {
            self.boots.remove(&forgotten);
        }
    }
}
