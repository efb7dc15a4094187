//! How an agent gets on with a node, out of how its parts get on: the gravest word wins. Pure.

use std::collections::BTreeMap;

use lagmesh_model::state::NodeState;

use crate::database::trouble::Trouble;

/// A part of the work on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The connection that watches role and positions.
    Status,
    /// What that connection may not see.
    Grants,
    /// The one that writes beats.
    Writer,
    /// The one that reads them.
    Reader,
    /// Whether the server itself answers.
    Path,
}

/// How a part gets on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// It has begun and has no result yet.
    Starting,
    /// It works.
    Fine,
    /// It does not.
    Trouble(Trouble),
}

/// How all parts get on.
#[derive(Debug, Default)]
pub(super) struct Health {
    parts: BTreeMap<Part, Condition>,
    told: Option<Trouble>,
    /// What was told was not heard.
    unheard: bool,
}

impl Health {
    /// Takes note of a part's condition; gives the node's state if that makes it another one.
    pub(super) fn set(&mut self, part: Part, condition: Condition) -> Option<Trouble> {
        self.parts.insert(part, condition);
        self.changed()
    }

    /// Forgets the parts that no longer run: the node's role has changed, or the connection went.
    pub(super) fn clear(&mut self, parts: &[Part]) {
        self.parts.retain(|part, _| !parts.contains(part));
    }

    /// What was last told was not heard: it is told again with the next condition.
    pub(super) fn say_again(&mut self) {
        self.unheard = true;
    }

    /// Whether a part works.
    pub(super) fn is_fine(&self, part: Part) -> bool {
        self.parts.get(&part) == Some(&Condition::Fine)
    }

    fn changed(&mut self) -> Option<Trouble> {
        let now = self.now();
        let same = self.told.as_ref() == Some(&now) && !std::mem::take(&mut self.unheard);
        (!same).then(|| {
            self.told = Some(now.clone());
            now
        })
    }

    /// The gravest trouble, or what is still awaited, or that all is well.
    fn now(&self) -> Trouble {
        let troubles = self.parts.values().filter_map(|condition| match condition {
            Condition::Trouble(trouble) => Some(trouble),
            Condition::Starting | Condition::Fine => None,
        });
        if let Some(gravest) = troubles.min_by_key(|trouble| gravity(trouble.state)) {
            return gravest.clone();
        }
        if self.parts.values().any(|condition| *condition == Condition::Starting) {
            // What was said last stands until there is a result.
            return self.told.clone().unwrap_or_else(|| Trouble::new(NodeState::Unknown, "connecting"));
        }
        Trouble::new(NodeState::Ok, "")
    }
}

/// The order of gravity, gravest first: what keeps more from being known comes before what keeps less.
fn gravity(state: NodeState) -> u8 {
    match state {
        NodeState::Unreachable => 0,
        NodeState::Refused => 1,
        NodeState::Tls => 2,
        NodeState::Hanging => 3,
        NodeState::MissingTable => 4,
        NodeState::ReadOnly => 5,
        NodeState::Pooled => 6,
        NodeState::Unknown => 7,
        NodeState::MissingGrant => 8,
        NodeState::StandingBy => 9,
        NodeState::Ok => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(state: NodeState) -> Condition {
        Condition::Trouble(Trouble::new(state, "because"))
    }

    /// The gravest trouble is told, and each change once.
    #[test]
    fn gravest_wins() {
        let mut health = Health::default();
        let mut set = |part, condition| health.set(part, condition).map(|trouble| trouble.state);
        assert_eq!(set(Part::Status, Condition::Starting), Some(NodeState::Unknown));
        assert_eq!(set(Part::Status, Condition::Fine), Some(NodeState::Ok));
        assert_eq!(set(Part::Grants, trouble(NodeState::MissingGrant)), Some(NodeState::MissingGrant));
        assert_eq!(set(Part::Writer, trouble(NodeState::StandingBy)), None);
        assert_eq!(set(Part::Reader, trouble(NodeState::Hanging)), Some(NodeState::Hanging));
        assert_eq!(set(Part::Reader, Condition::Fine), Some(NodeState::MissingGrant));
        assert_eq!(set(Part::Grants, Condition::Fine), Some(NodeState::StandingBy));
        assert_eq!(set(Part::Writer, Condition::Fine), Some(NodeState::Ok));
        assert_eq!(set(Part::Writer, Condition::Fine), None);
    }

    /// What nobody heard is told again, once.
    #[test]
    fn unheard_is_told_again() {
        let mut health = Health::default();
        health.set(Part::Status, Condition::Fine);
        let gone = health.set(Part::Status, trouble(NodeState::Unreachable));
        assert_eq!(health.set(Part::Status, trouble(NodeState::Unreachable)), None);
        health.say_again();
        assert_eq!(health.set(Part::Status, trouble(NodeState::Unreachable)), gone);
        assert_eq!(health.set(Part::Status, trouble(NodeState::Unreachable)), None);
    }

    /// A part that starts again does not hide what was wrong until it has a result.
    #[test]
    fn starting_again_is_no_news() {
        let mut health = Health::default();
        health.set(Part::Status, trouble(NodeState::Unreachable));
        assert_eq!(health.set(Part::Status, Condition::Starting), None);
        assert_eq!(health.set(Part::Status, Condition::Fine).map(|trouble| trouble.state), Some(NodeState::Ok));
    }

    /// Parts that no longer run have no say.
    #[test]
    fn cleared_parts_are_silent() {
        let mut health = Health::default();
        health.set(Part::Writer, trouble(NodeState::StandingBy));
        health.clear(&[Part::Writer]);
        assert_eq!(health.set(Part::Status, Condition::Fine).map(|trouble| trouble.state), Some(NodeState::Ok));
    }
}
