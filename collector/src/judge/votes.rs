//! What the evidence of one moment amounts to: who says what about a region, who may vote, and what the votes add up to.

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::{NodeName, RegionName};
use lagmesh_model::series::Attributes;
use lagmesh_model::state::{Axis, LinkState, ReplicationState, Vote};
use lagmesh_model::status::CastVote;
use lagmesh_model::time::Reading;

use super::report::{self, Report};
use crate::merge::{View, Witness};

/// The least number of vantages outside a region that must agree before it may be called down: one alone may itself be cut off.
const VANTAGES_MIN: usize = 2;

/// What the evidence says at one moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// All evidence is good.
    Good(String),
    /// It works, worse than the thresholds allow.
    Degraded(String),
    /// It is gone, as far as those can tell who may vote.
    Gone {
        /// Whether a majority from at least two vantages says so and nothing speaks against it: only then can it become DOWN.
        confirmed: bool,
        /// Who says so.
        why: String,
    },
    /// No evidence that is fresh enough.
    Missing(String),
}

impl Finding {
    /// The reason, in a sentence.
    pub fn why(&self) -> &str {
        match self {
            Finding::Good(why) | Finding::Degraded(why) | Finding::Missing(why) | Finding::Gone { why, .. } => why,
        }
    }
}

/// The votes and what they add up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Poll {
    /// One per region that probes this one by the plan of the mesh: nobody else can tell.
    pub votes: Vec<CastVote>,
    /// The result.
    pub finding: Finding,
}

/// Asks every region that probes this one, and the region itself.
pub fn poll(fleet: &Fleet, view: &View, region: &RegionName, axis: Axis, now: Reading) -> Poll {
    let report = report::of(fleet, view, region, axis, now);
    // Where our own agent cannot write beats, that none are announced says nothing about users.
    let beats_count = axis == Axis::Writes && !matches!(report, Report::Mute(_));
    let ballots: Vec<Ballot> =
        fleet.peers_of(region).map(|vantage| ballot(fleet, view, &vantage.name, region, beats_count, now)).collect();
    let finding = count(&ballots, report);
    Poll { votes: ballots.into_iter().map(|ballot| ballot.cast).collect(), finding }
}

struct Ballot {
    cast: CastVote,
    /// It gets through, but loses too much, or some of its paths are dead.
    impaired: bool,
}

/// The vote of one vantage about a region; `beats_count` if a writer there that announces no beats is a reason to vote against it.
fn ballot(fleet: &Fleet, view: &View, vantage: &RegionName, region: &RegionName, beats_count: bool, now: Reading) -> Ballot {
    let cast = |vote, why: String| Ballot { cast: CastVote { vantage: vantage.clone(), vote, why }, impaired: false };
    let witnesses = fresh(view, vantage, now);
    if witnesses.is_empty() {
        return cast(Vote::Void, format!("no agent of {vantage} has reported lately"));
    }
    let beats = beats_of(fleet, &witnesses, region);
    if beats_count && beats.contains(&ReplicationState::WriterDown) {
        return cast(Vote::Bad, format!("the writer in {region} announces no beats to {vantage}"));
    }
    let arriving = beats
        .iter()
        .any(|state| matches!(state, ReplicationState::Ok | ReplicationState::Lagging | ReplicationState::CatchingUp));
    match reach(&witnesses, vantage, region) {
        Reach::Through(state) => {
            let impaired = state != LinkState::Ok;
            Ballot { impaired, ..cast(Vote::Good, format!("its link is {state}: {}", state.explain())) }
        }
        Reach::Nothing | Reach::Unmeasured if arriving => {
            cast(Vote::Good, format!("its probes do not get through, but beats from {region} still arrive"))
        }
        Reach::Unmeasured => cast(Vote::Void, format!("its link is not measured: {}", LinkState::Unknown.explain())),
        Reach::Nothing => match isolation(fleet, &witnesses, vantage, region) {
            Some(why) => cast(Vote::Void, why),
            None => cast(Vote::Bad, format!("its link is down: {}", LinkState::Down.explain())),
        },
    }
}

/// Adds up what was said. The region's own good report is evidence but no vote; its own bad report is enough for suspicion.
fn count(ballots: &[Ballot], report: Report) -> Finding {
    let names = |vote| -> Vec<&str> {
        ballots.iter().filter(|ballot| ballot.cast.vote == vote).map(|ballot| ballot.cast.vantage.as_str()).collect()
    };
    let (good, bad) = (names(Vote::Good), names(Vote::Bad));
    let eligible = good.len() + bad.len();
    let majority_bad = 2 * bad.len() > eligible;
    let seen_bad = || format!("{} of {eligible} vantages cannot reach it ({})", bad.len(), bad.join(", "));
    match report {
        Report::Gone(why) => Finding::Gone {
            confirmed: majority_bad && bad.len() >= VANTAGES_MIN,
            why: if bad.is_empty() { why } else { format!("{why}; {}", seen_bad()) },
        },
        _ if majority_bad && bad.len() < VANTAGES_MIN => Finding::Gone {
            confirmed: false,
            why: format!("{}: one vantage alone cannot tell a partition from an outage", seen_bad()),
        },
        Report::Good(_) | Report::Degraded(_) | Report::Mute(_) if majority_bad => Finding::Gone {
            confirmed: false,
            why: format!("{}, but its own agent still reports: a partition rather than an outage", seen_bad()),
        },
        Report::Silent(_) if majority_bad => Finding::Gone { confirmed: true, why: seen_bad() },
        Report::Silent(why) | Report::Mute(why) if good.is_empty() => {
            Finding::Missing(format!("{why}, and no other region can tell"))
        }
        Report::Silent(why) | Report::Mute(why) => Finding::Missing(format!("{} can reach it, but {why}", good.join(", "))),
        Report::Good(_) | Report::Degraded(_) if !bad.is_empty() => {
            Finding::Degraded(format!("vantages disagree: {} cannot reach it, {} can", bad.join(", "), good.join(", ")))
        }
        Report::Degraded(why) => Finding::Degraded(why),
        Report::Good(why) => {
            let impaired: Vec<&Ballot> = ballots.iter().filter(|ballot| ballot.impaired).collect();
            if 2 * impaired.len() > good.len() {
                let links: Vec<&str> = impaired.iter().map(|ballot| ballot.cast.vantage.as_str()).collect();
                Finding::Degraded(format!("most links to it are impaired (from {})", links.join(", ")))
            } else if good.is_empty() {
                Finding::Good(format!("{why}, by its own report alone"))
            } else {
                Finding::Good(format!("{why}; reached from {}", good.join(", ")))
            }
        }
    }
}

enum Reach {
    /// Some agent gets through, over a link in this state.
    Through(LinkState),
    /// Every agent that measures says that nothing gets through.
    Nothing,
    /// Nobody measures.
    Unmeasured,
}

/// What the agents of `vantage` say about the way to `region`: one that gets through is enough.
fn reach(witnesses: &[Witness<'_>], vantage: &RegionName, region: &RegionName) -> Reach {
    let attributes = Attributes::new().with(Attribute::Region, vantage).with(Attribute::Peer, region);
    let states: Vec<LinkState> =
        witnesses.iter().filter_map(|witness| witness.state(&catalogue::LINK_STATE, &attributes, LinkState::ALL)).collect();
    let through = [LinkState::Ok, LinkState::Lossy, LinkState::Grey].into_iter().find(|state| states.contains(state));
    match through {
        Some(state) => Reach::Through(state),
        None if states.contains(&LinkState::Down) => Reach::Nothing,
        None => Reach::Unmeasured,
    }
}

/// Why a vantage that cannot reach `region` may not say so: it does not reach most of the other regions either, so the trouble is its
/// own. Links that nobody measures prove nothing, so with no other region to compare with a vantage keeps its vote.
fn isolation(fleet: &Fleet, witnesses: &[Witness<'_>], vantage: &RegionName, region: &RegionName) -> Option<String> {
    let (mut reached, mut known) = (0_usize, 0_usize);
    for other in fleet.peers_of(vantage).filter(|other| other.name != *region) {
        match reach(witnesses, vantage, &other.name) {
            Reach::Through(_) => (reached, known) = (reached + 1, known + 1),
            Reach::Nothing => known += 1,
            Reach::Unmeasured => {}
        }
    }
    (known > 0 && 2 * reached <= known).then(|| format!("{vantage} is isolated: it reaches {reached} of {known} other regions"))
}

/// The states of replication from writers in `region` to the vantage's nodes.
fn beats_of(fleet: &Fleet, witnesses: &[Witness<'_>], region: &RegionName) -> Vec<ReplicationState> {
    let mut states = Vec::new();
    for (_, origin) in fleet.nodes_of(region) {
        for witness in witnesses {
            let current = witness.having(&catalogue::REPLICATION_STATE, Attribute::Origin, origin.name.as_str());
            let current = current
                .filter(|attributes| witness.gauge(&catalogue::REPLICATION_STATE, attributes).is_some_and(|one| one > 0.5));
            states.extend(current.filter_map(|attributes| ReplicationState::from_word(attributes.get(Attribute::State)?)));
        }
    }
    states
}

/// The nodes of `region` from which any fresh agent of the fleet sees beats come.
pub(super) fn origins(fleet: &Fleet, view: &View, region: &RegionName, now: Reading) -> Vec<NodeName> {
    let witnesses: Vec<Witness<'_>> = fleet.regions.iter().flat_map(|other| fresh(view, &other.name, now)).collect();
    let sends = |node: &NodeName| {
        let mut towards = witnesses.iter();
        towards.any(|witness| witness.having(&catalogue::REPLICATION_STATE, Attribute::Origin, node.as_str()).next().is_some())
    };
    fleet.nodes_of(region).map(|(_, node)| &node.name).filter(|name| sends(name)).cloned().collect()
}

/// The agents of a region whose evidence is fresh: older evidence is no vote.
pub(super) fn fresh<'a>(view: &'a View, region: &RegionName, now: Reading) -> Vec<Witness<'a>> {
    view.witnesses(region, now).into_iter().filter(|witness| witness.age.fresh).collect()
}
