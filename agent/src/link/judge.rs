//! What state a link is in, and why, from the evidence. Pure and without memory; what must be remembered is in the evidence.

use std::fmt::Write as _;
use std::time::Duration;

use lagmesh_model::fleet::Mesh;
use lagmesh_model::ids::AgentName;
use lagmesh_model::state::{LinkState, ProbeKind};

use crate::link::tally::Counts;

/// Fewer settled probes say nothing about loss: with 30 and none lost, the upper bound (95 %) is 10 %.
pub const SETTLED_MIN: u64 = 30;

/// The flows towards one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFlows {
    /// Its name.
    pub agent: AgentName,
    /// Flows that answer.
    pub alive: u64,
    /// Flows that do not.
    pub dead: u64,
    /// All flows.
    pub all: u64,
}

/// What another kind of probe says about the peer's hosts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Voice {
    /// Nothing: never probed.
    Unmeasured,
    /// It gets answers; the newest is so old.
    Answers(Duration),
    /// It gets none (any more).
    Silent,
}

/// All that the state depends on.
#[derive(Debug)]
pub struct Evidence<'e> {
    /// The peer.
    pub peer: &'e str,
    /// Flows by agent.
    pub agents: &'e [AgentFlows],
    /// For how long some flows have been alive while others are dead.
    pub mixed_for: Option<Duration>,
    /// How long ago the newest STAMP answer came.
    pub answered: Option<Duration>,
    /// How long ago the peer's host last refused STAMP, if nothing was answered since.
    pub refused: Option<Duration>,
    /// How long ago a probe last could not be sent because the name of the peer's agent does not resolve.
    pub unresolved: Option<Duration>,
    /// How long ago the newest valid packet of an agent there came, if it came after the newest answer: a request of its own.
    pub heard: Option<Duration>,
    /// For how long nothing has been known about any flow.
    pub unknown_for: Option<Duration>,
    /// The other kinds.
    pub others: &'e [(ProbeKind, Voice)],
    /// Probes that count for the loss: those to agents that answer.
    pub recent: Counts,
    /// The state before.
    pub before: LinkState,
    /// The thresholds.
    pub mesh: &'e Mesh,
}

/// The state; `None` means: as before, it is too early to tell.
pub fn judge(evidence: &Evidence<'_>) -> (Option<LinkState>, String) {
    let sum = |of: fn(&AgentFlows) -> u64| evidence.agents.iter().map(of).sum::<u64>();
    let (alive, dead, all) = (sum(|flows| flows.alive), sum(|flows| flows.dead), sum(|flows| flows.all));
    let peer = evidence.peer;
    let intervals = |count: u32| evidence.mesh.interval * count;
    if let Some(age) = evidence.refused.filter(|age| alive == 0 && *age <= intervals(3)) {
        let why = format!(
            "the agent in {peer} does not listen: its host refused a probe {:.1} s ago, so the path works",
            age.as_secs_f64()
        );
        return (Some(LinkState::Unknown), why);
    }
    match (alive, dead) {
        (0, 0) => not_measured(evidence),
        (0, _) => silent(evidence, dead, all),
        (_, 0) => by_loss(evidence, alive, all, ""),
        _ => mixed(evidence, alive, dead, all),
    }
}

/// Nothing is known about any flow: at the start, or because our own host stalled, cannot send or does not know where.
fn not_measured(evidence: &Evidence<'_>) -> (Option<LinkState>, String) {
    let peer = evidence.peer;
    if evidence.unresolved.is_some_and(|age| age <= evidence.mesh.interval * 3) {
        let why = format!(
            "the name of the agent in {peer} does not resolve, so nothing is sent: look at its address in the fleet file and at this host's resolver"
        );
        return (Some(LinkState::Unknown), why);
    }
    let too_early = evidence.unknown_for.is_some_and(|span| span <= evidence.mesh.interval * 3);
    if evidence.before != LinkState::Unknown && too_early {
        return (None, format!("our own host stalled or could not send: waiting for the next answer from {peer}"));
    }
    let why = match evidence.answered {
        None => format!("no probe to {peer} is settled yet"),
        Some(age) => format!(
            "nothing could be sent to {peer}, the last answer came {:.1} s ago: look at this agent's own host",
            age.as_secs_f64()
        ),
    };
    (Some(LinkState::Unknown), why)
}

/// No flow answers: then the question is whether anything else does.
fn silent(evidence: &Evidence<'_>, dead: u64, all: u64) -> (Option<LinkState>, String) {
    let peer = evidence.peer;
    let since = match evidence.answered {
        Some(age) => format!("the last answer came {:.1} s ago", age.as_secs_f64()),
        None => "none was ever answered".to_owned(),
    };
    let witnesses = evidence.others.iter().filter_map(|(kind, voice)| match voice {
        Voice::Answers(age) => Some(format!("{kind} {:.1} s ago", age.as_secs_f64())),
        Voice::Silent | Voice::Unmeasured => None,
    });
    let witnesses: Vec<String> = witnesses.collect();
    let direction = direction(evidence);
    if !witnesses.is_empty() {
        let why = format!(
            "the agent in {peer} does not answer, its host does: {dead} of {all} flows are dead ({since}), but an answer came by {}{direction}",
            witnesses.join(" and ")
        );
        return (Some(LinkState::Unknown), why);
    }
    let mut why = format!("{dead} of {all} flows to {peer} are dead ({since})");
    for (kind, voice) in evidence.others {
        let word = if *voice == Voice::Silent { "is silent, too" } else { "is not measured" };
        write!(why, ", {kind} {word}").expect("writing to a string cannot fail");
    }
    (Some(LinkState::Down), why + &direction)
}

/// What packets that come without having been asked for say about the direction of an outage: a request that arrives shows that the way
/// back is open to requests, and nothing about the answers to ours.
fn direction(evidence: &Evidence<'_>) -> String {
    let peer = evidence.peer;
    match evidence.heard.filter(|age| *age <= evidence.mesh.interval * 3) {
        Some(age) => format!(
            "; probes from {peer} still arrive (the newest {:.1} s ago), so the way back is open: the way there is broken, or only answers are lost",
            age.as_secs_f64()
        ),
        None => format!("; nothing from {peer} arrives here either"),
    }
}

/// Some flows answer, others do not.
fn mixed(evidence: &Evidence<'_>, alive: u64, dead: u64, all: u64) -> (Option<LinkState>, String) {
    let peer = evidence.peer;
    // While a path dies or comes back its flows change one after the other, within one interval.
    let settling = evidence.mesh.interval * 5 / 4;
    if evidence.mixed_for.is_none_or(|span| span < settling) {
        return (None, format!("{alive} of {all} flows to {peer} answer, {dead} do not: waiting whether that stays"));
    }
    let gone: Vec<&str> =
        evidence.agents.iter().filter(|flows| flows.alive == 0 && flows.dead > 0).map(|flows| flows.agent.as_str()).collect();
    let grey = evidence.agents.iter().any(|flows| flows.alive > 0 && flows.dead > 0);
    if grey {
        let why =
            format!("{dead} of {all} flows to {peer} are dead while {alive} answer: one of several parallel paths is broken");
        return (Some(LinkState::Grey), why);
    }
    by_loss(evidence, alive, all, &format!("; its agent {} does not answer at all", gone.join(", ")))
}

/// The flows are well: the loss decides.
fn by_loss(evidence: &Evidence<'_>, alive: u64, all: u64, gone: &str) -> (Option<LinkState>, String) {
    let (peer, Counts { settled, answered }) = (evidence.peer, evidence.recent);
    let threshold = if evidence.before == LinkState::Lossy { evidence.mesh.loss_exit } else { evidence.mesh.loss_enter };
    let loss = evidence.recent.loss().filter(|_| settled >= SETTLED_MIN);
    match loss {
        Some(loss) if loss > threshold => {
            let why = format!(
                "{} of {settled} probes to {peer} got no answer in the last minute ({:.1} %, threshold {:.1} %){gone}",
                settled - answered,
                loss * 100.0,
                threshold * 100.0
            );
            (Some(LinkState::Lossy), why)
        }
        Some(loss) => (
            Some(LinkState::Ok),
            format!("{alive} of {all} flows to {peer} answer, {:.1} % loss over {settled} probes{gone}", loss * 100.0),
        ),
        None => (Some(LinkState::Ok), format!("{alive} of {all} flows to {peer} answer{gone}")),
    }
}
