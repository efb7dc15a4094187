//! Which batches of which boots have been taken, and in which order boots were last heard of. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lagmesh_model::ids::{AgentName, BootId};

use super::RETIRED_MAX;
use crate::merge::{News, Sequences};

/// All agents.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Ledger {
    agents: BTreeMap<AgentName, Boots>,
    /// The number of the last batch that was taken: orders boots by when they were last heard of.
    ordinal: u64,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Boots {
    kept: BTreeMap<BootId, (Sequences, u64)>,
    retired: VecDeque<BootId>,
    retired_set: BTreeSet<BootId>,
}

/// What is to be written about a batch that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) news: News,
    pub(super) sequences: Sequences,
    pub(super) ordinal: u64,
}

impl Ledger {
    /// What concerns some agents only, to be changed by itself.
    pub(super) fn part<'a>(&self, agents: impl Iterator<Item = &'a AgentName>) -> Ledger {
        let boots = |agent: &AgentName| Some((agent.clone(), self.agents.get(agent)?.clone()));
        Ledger { agents: agents.collect::<BTreeSet<_>>().into_iter().filter_map(boots).collect(), ordinal: self.ordinal }
    }

    /// Takes a part over as it has become.
    pub(super) fn take_over(&mut self, part: Ledger) {
        self.agents.extend(part.agents);
        self.ordinal = part.ordinal;
    }

    /// What a batch would be; `None` if its boot is retired, so that its counts are in the totals and stay as they are.
    pub(super) fn news(&self, agent: &AgentName, boot: BootId, sequence: u64) -> Option<News> {
        let Some(boots) = self.agents.get(agent) else { return Some(News::Newest) };
        if boots.retired_set.contains(&boot) {
            return None;
        }
        Some(boots.kept.get(&boot).map_or(News::Newest, |(sequences, _)| sequences.news(sequence)))
    }

    /// Takes a batch.
    pub(super) fn take(&mut self, agent: &AgentName, boot: BootId, sequence: u64, news: News) -> Taken {
        self.ordinal += 1;
        let kept = &mut self.agents.entry(agent.clone()).or_default().kept;
        let (sequences, ordinal) = kept.entry(boot).or_default();
        sequences.insert(sequence);
        *ordinal = self.ordinal;
        Taken { news, sequences: sequences.clone(), ordinal: self.ordinal }
    }

    /// Retires the boots of an agent that were heard of the longest ago, until `boots_max` are left.
    pub(super) fn retire_beyond(&mut self, agent: &AgentName, boots_max: usize) -> Vec<BootId> {
        let mut retired = Vec::new();
        while let Some(boots) = self.agents.get_mut(agent).filter(|boots| boots.kept.len() > boots_max) {
            let oldest = boots.kept.iter().min_by_key(|(_, (_, ordinal))| *ordinal).map(|(boot, _)| *boot);
            let Some(oldest) = oldest else { break };
            boots.kept.remove(&oldest);
            boots.remember(oldest);
            retired.push(oldest);
        }
        retired
    }

    /// As it was stored.
    pub(super) fn restore(&mut self, agent: &AgentName, boot: BootId, sequences: Sequences, ordinal: u64) {
        self.ordinal = self.ordinal.max(ordinal);
        self.agents.entry(agent.clone()).or_default().kept.insert(boot, (sequences, ordinal));
    }

    /// As it was stored, the oldest first.
    pub(super) fn restore_retired(&mut self, agent: &AgentName, boot: BootId) {
        self.agents.entry(agent.clone()).or_default().remember(boot);
    }
}

impl Boots {
    fn remember(&mut self, boot: BootId) {
        if self.retired_set.insert(boot) {
            self.retired.push_back(boot);
        }
        while self.retired.len() > RETIRED_MAX
            && let Some(forgotten) = self.retired.pop_front()
        {
            self.retired_set.remove(&forgotten);
        }
    }
}
