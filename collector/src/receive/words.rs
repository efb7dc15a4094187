//! The words that agents may use in attributes: what is not one of them names no series here, so that nobody can invent series
//! without end. Names of the fleet file are checked where the fleet file is. Pure.

use lagmesh_model::catalogue::{self, Attribute, Metric};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::state::{
    Basis, Bound, ClaimSource, CommitLevel, Direction, IcmpSocket, LinkState, NodeRole, NodeState, Outcome, PathCause, Phase,
    ProbeKind, ReplicationState, RouteCause, SlotState, Stage, StampSource, WriteOutcome,
};

/// The two heartbeat streams.
const STREAMS: [&str; 2] = ["beat", "ledger"];
/// Whether an objective was met, `unknown` where the interval holds it.
const OBJECTIVES: [&str; 3] = ["met", "missed", "unknown"];
/// The states of flows.
const FLOWS: [&str; 2] = ["alive", "dead"];
/// Reasons and versions are the agent's own words; longer ones are none [bytes].
const OWN_WORD_BYTES_MAX: usize = 48;
/// The longest name of a replication slot [bytes].
const SLOT_BYTES_MAX: usize = 63;

/// Whether an agent may say this of this metric.
pub(super) fn is_word(fleet: &Fleet, metric: &Metric, attribute: Attribute, word: &str) -> bool {
    let is = |other: &Metric| metric.name == other.name;
    match attribute {
        Attribute::Phase => Phase::from_word(word).is_some(),
        Attribute::Kind if is(&catalogue::SUBSCRIPTION_ERRORS) => word.len() <= OWN_WORD_BYTES_MAX,
        Attribute::Kind => ProbeKind::from_word(word).is_some(),
        Attribute::Outcome if is(&catalogue::HEARTBEAT_WRITES) || is(&catalogue::HEARTBEAT_LEDGER) => {
            WriteOutcome::from_word(word).is_some()
        }
        Attribute::Outcome => Outcome::from_word(word).is_some(),
        Attribute::State if is(&catalogue::LINK_STATE) => LinkState::from_word(word).is_some(),
        Attribute::State if is(&catalogue::LINK_ICMP_SOCKET) => IcmpSocket::from_word(word).is_some(),
        Attribute::State if is(&catalogue::LINK_FLOWS) => FLOWS.contains(&word),
        Attribute::State if is(&catalogue::NODE_STATE) => NodeState::from_word(word).is_some(),
        Attribute::State if is(&catalogue::SLOT_STATE) => SlotState::from_word(word).is_some(),
        Attribute::State => ReplicationState::from_word(word).is_some(),
        Attribute::Direction if is(&catalogue::LINK_LOSS) => Direction::from_word(word).is_some(),
        Attribute::Direction => Direction::from_word(word).is_some_and(|direction| direction != Direction::Unknown),
        Attribute::Bound => Bound::from_word(word).is_some(),
        Attribute::Basis => Basis::from_word(word).is_some(),
        Attribute::Source => ClaimSource::from_word(word).is_some(),
        Attribute::Stage => Stage::from_word(word).is_some(),
        Attribute::Role => NodeRole::from_word(word).is_some(),
        Attribute::Stream => STREAMS.contains(&word),
        Attribute::Cause if is(&catalogue::NODE_CONFLICTS) => word.len() <= OWN_WORD_BYTES_MAX,
        Attribute::Cause => PathCause::from_word(word).is_some() || RouteCause::from_word(word).is_some(),
        Attribute::Stamps => StampSource::from_word(word).is_some(),
        Attribute::Level => CommitLevel::from_word(word).is_some(),
        Attribute::Objective => OBJECTIVES.contains(&word),
        Attribute::System => word.parse::<u64>().is_ok(),
        Attribute::Collector => fleet.collectors.iter().any(|collector| collector.name.as_str() == word),
        Attribute::Slot => word.len() <= SLOT_BYTES_MAX && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')),
        Attribute::Reason | Attribute::Version => word.len() <= OWN_WORD_BYTES_MAX,
        // Names of the fleet file and of its regions.
        Attribute::Cluster
        | Attribute::Origin
        | Attribute::Region
        | Attribute::Peer
        | Attribute::Node
        | Attribute::Agent
        | Attribute::PeerAgent => true,
        // Words of the collector alone.
        Attribute::Axis | Attribute::Vantage | Attribute::Transport | Attribute::Target => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word belongs to its metric: the fate of a heartbeat row is none of a probe, and the other way round.
    #[test]
    fn words_belong_to_their_metric() {
        let fleet = crate::fixture::fleet(&["a"], &[]);
        let table = [
            (&catalogue::HEARTBEAT_LEDGER, Attribute::Outcome, "in-doubt", "lost"),
            (&catalogue::HEARTBEAT_LEDGER, Attribute::Level, "remote_apply", "remote-apply"),
            (&catalogue::HEARTBEAT_WRITES, Attribute::Outcome, "acknowledged", "in-time"),
            (&catalogue::LINK_PROBES, Attribute::Outcome, "lost", "in-doubt"),
            (&catalogue::SLOT_STATE, Attribute::State, "unreserved", "grey"),
            (&catalogue::LINK_STATE, Attribute::State, "grey", "unreserved"),
        ];
        for (metric, attribute, own, foreign) in table {
            assert!(is_word(&fleet, metric, attribute, own), "{metric}: {own}");
            assert!(!is_word(&fleet, metric, attribute, foreign), "{metric}: {foreign}");
        }
    }
}
