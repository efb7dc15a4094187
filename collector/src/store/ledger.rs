//! Which batches of which boots have been taken, and in which order boots were last heard of. Pure.

use std::collections::{BTreeMap, VecDeque};

use lagmesh_model::ids::{AgentName, BootId};

use super::{GROWING_MAX, RETIRED_MAX};
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
    /// The newest batch of each; `None` once its counts can no longer grow.
    newest: BTreeMap<BootId, Option<u64>>,
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
    /// Boots that were retired, in this order.
    retired: Vec<(AgentName, BootId)>,
    /// The newest batches of those, and of boots that were retired before and have grown.
    newest: BTreeMap<(AgentName, BootId), u64>,
    ordinal: u64,
}

/// What a batch is to the boot that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The boot is kept by itself, or new.
    Kept(News),
    /// The boot is retired, and this batch holds more than what it was retired with.
    RetiredWithLess,
    /// The boot is retired with all that this batch holds, or so long ago that nobody can say.
    Retired,
}

/// What is to be written about a batch that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) sequences: Sequences,
    pub(super) ordinal: u64,
}

impl Ledger {
    /// Nothing is changed yet.
    pub(super) fn draft(&self) -> Draft<'_> {
        Draft { ledger: self, changes: Changes { ordinal: self.ordinal, ..Changes::default() } }
    }

    /// Takes over what is on disk now.
    pub(super) fn take_over(&mut self, mut changes: Changes) {
        self.kept.extend(changes.kept);
        for one in changes.retired {
            let newest = changes.newest.remove(&one);
            let (agent, boot) = one;
            self.retired.entry(agent).or_default().remember(boot, newest);
        }
        for ((agent, boot), newest) in changes.newest {
            self.retired.entry(agent).or_default().grow(boot, newest);
        }
        self.ordinal = changes.ordinal;
    }

    /// As it was stored.
    pub(super) fn restore(&mut self, agent: &AgentName, boot: BootId, sequences: Sequences, ordinal: u64) {
        self.ordinal = self.ordinal.max(ordinal);
        self.kept.entry(agent.clone()).or_default().insert(boot, (sequences, ordinal));
    }

    /// As it was stored, the oldest first, with the newest batch of one that can still grow.
    pub(super) fn restore_retired(&mut self, agent: &AgentName, boot: BootId, newest: Option<u64>) {
        self.retired.entry(agent.clone()).or_default().remember(boot, newest);
    }
}

impl Draft<'_> {
    /// What a batch would be.
    pub(super) fn standing(&self, agent: &AgentName, boot: BootId, sequence: u64) -> Standing {
        let kept = self.changes.kept.get(agent).or_else(|| self.ledger.kept.get(agent));
        if let Some((sequences, _)) = kept.and_then(|kept| kept.get(&boot)) {
            return Standing::Kept(sequences.news(sequence));
        }
        let before = || self.ledger.retired.get(agent)?.newest.get(&boot).copied();
        let retired = self.changes.newest.get(&(agent.clone(), boot)).map(|newest| Some(*newest)).or_else(before);
        match retired {
            None => Standing::Kept(News::Newest),
            Some(Some(newest)) if sequence > newest => Standing::RetiredWithLess,
            Some(_) => Standing::Retired,
        }
    }

    /// Takes a batch of a boot that was retired with less.
    pub(super) fn grow(&mut self, agent: &AgentName, boot: BootId, sequence: u64) {
        self.changes.newest.insert((agent.clone(), boot), sequence);
    }

    /// Takes a batch.
    pub(super) fn take(&mut self, agent: &AgentName, boot: BootId, sequence: u64) -> Taken {
        self.changes.ordinal += 1;
        let before = || self.ledger.kept.get(agent).cloned().unwrap_or_default();
        let kept = self.changes.kept.entry(agent.clone()).or_insert_with(before);
        let (sequences, ordinal) = kept.entry(boot).or_default();
        sequences.insert(sequence);
        *ordinal = self.changes.ordinal;
        Taken { sequences: sequences.clone(), ordinal: self.changes.ordinal }
    }

    /// Retires the boots of an agent that were heard of the longest ago, until `boots_max` are left. Which, with their newest batches.
    pub(super) fn retire_beyond(&mut self, agent: &AgentName, boots_max: usize) -> Vec<(BootId, u64)> {
        let mut retired = Vec::new();
        while let Some(kept) = self.changes.kept.get_mut(agent).filter(|kept| kept.len() > boots_max) {
            let oldest = kept.iter().min_by_key(|(_, (_, ordinal))| *ordinal).map(|(boot, _)| *boot);
            let Some((boot, (sequences, _))) = oldest.and_then(|oldest| kept.remove_entry(&oldest)) else { break };
            self.changes.retired.push((agent.clone(), boot));
            self.changes.newest.insert((agent.clone(), boot), sequences.newest());
            retired.push((boot, sequences.newest()));
        }
        retired
    }

    /// What is to be taken over once it is on disk.
    pub(super) fn into_changes(self) -> Changes {
        self.changes
    }
}

impl Retired {
    /// One more. Of those that were retired too long before it nothing grows any more, and still earlier ones are forgotten.
    fn remember(&mut self, boot: BootId, newest: Option<u64>) {
        if self.newest.insert(boot, newest).is_none() {
            self.order.push_back(boot);
        }
        if let Some(done) = self.order.len().checked_sub(GROWING_MAX + 1) {
            self.newest.insert(self.order[done], None);
        }
        while self.order.len() > RETIRED_MAX
            && let Some(forgotten) = self.order.pop_front()
        {
            self.newest.remove(&forgotten);
        }
    }

    fn grow(&mut self, boot: BootId, newest: u64) {
        if let Some(Some(held)) = self.newest.get_mut(&boot) {
            *held = newest;
        }
    }
}
