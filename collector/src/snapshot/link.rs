//! One cell of the mesh: what the agents of one region say about the way to another.

use std::collections::BTreeMap;

use lagmesh_model::catalogue::{self, Attribute, Metric};
use lagmesh_model::disagreement::Disagreement;
use lagmesh_model::fleet::{Fleet, Region};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::RegionName;
use lagmesh_model::known::Known;
use lagmesh_model::series::Attributes;
use lagmesh_model::state::{IcmpSocket, LinkState, Outcome, Phase, ProbeKind, StampSource};
use lagmesh_model::status::{Link, LinkKind, LinkPath, Quantiles, Seconds};
use lagmesh_model::time::Reading;

use super::{evidence_age, silence, sources};
use crate::merge::{View, Witness};

/// Fates of probes that left this host.
const SETTLED: &[Outcome] =
    &[Outcome::InTime, Outcome::Late, Outcome::Lost, Outcome::Refused, Outcome::Unreachable, Outcome::Corrupt];
/// Those that show that the other end is there.
const ANSWERED: &[Outcome] = &[Outcome::InTime, Outcome::Late, Outcome::Refused];

/// The link from one region to another.
pub(super) fn link(fleet: &Fleet, view: &View, from: &RegionName, to: &Region, now: Reading) -> Link {
    let sources = sources(view, from, now);
    let silence = silence(&sources, from);
    let pair = pair(from, &to.name);
    let (state, why) = match (&silence, state(&sources, &pair)) {
        (Some(why), _) => (LinkState::Unknown, why.clone()),
        (None, Some(state)) => (state, state.explain().to_owned()),
        (None, None) => (LinkState::Unknown, format!("the agent of {from} does not say: does it have the same fleet file?")),
    };
    let flows = Flows::of(&sources, &pair);
    let configured = u64::from(fleet.mesh.flows) * to.agents.len() as u64;
    let newest = sources.first();
    let clock_error = newest.and_then(|witness| Some((witness, witness.gauge(&catalogue::CLOCK_ERROR, &pair)?)));
    let refuted = silence.is_none() && sources.iter().any(|witness| refutes(witness, &pair));
    Link {
        region: from.clone(),
        peer: to.name.clone(),
        state,
        why,
        flows_alive: match (newest, &flows) {
            (Some(newest), Some(flows)) => newest.age.of_value(flows.alive),
            _ => Known::unknown(silence.clone().unwrap_or_else(|| "not measured yet".to_owned())),
        },
        flows: flows.map_or(configured, |flows| flows.all),
        floor_s: fleet.soft_floor_s(from, &to.name),
        kinds: kinds(fleet, to).map(|kind| self::kind(&sources, &pair, kind, silence.as_deref())).collect(),
        path: LinkPath::unknown("told by the agents of the region only; its metrics are here"),
        mtu_bytes: mtu_bytes(&sources, &pair, silence.as_deref()),
        route: None,
        disagreement: if silence.is_none() { disagreement(&sources, &pair) } else { None },
        clock_error_s: match clock_error {
            Some((witness, error)) => witness.age.of_value(error),
            None => Known::unknown(silence.unwrap_or_else(|| "the offset between the two clocks is not bounded yet".to_owned())),
        },
        wall_offset_s: wall_offset_s(newest, &pair),
        clock_contradiction: if refuted { Some(refutation(from, &to.name)) } else { None },
        evidence_age_s: evidence_age(&sources, from),
    }
}

fn wall_offset_s(newest: Option<&Witness<'_>>, pair: &Attributes) -> Known<Seconds> {
    let offset = |witness: &Witness<'_>| Some(witness.age.of_value(witness.bounds(&catalogue::CLOCK_OFFSET, pair)?));
    newest.and_then(offset).unwrap_or_else(|| Known::unknown("the two wall clocks have not been compared"))
}

fn refutation(from: &RegionName, to: &RegionName) -> String {
    format!("the hosts of {from} and {to} both claim to be synchronised, and the mesh shows that one of them is not")
}

fn refutes(witness: &Witness<'_>, pair: &Attributes) -> bool {
    witness.gauge(&catalogue::CLOCK_CLAIMS_REFUTED, pair).is_some_and(|refuted| refuted > 0.0)
}

fn pair(from: &RegionName, to: &RegionName) -> Attributes {
    Attributes::new().with(Attribute::Region, from).with(Attribute::Peer, to)
}

/// What the agents of the region say together: the worst that is known, except that one who gets through shows that the region can be
/// reached, and those who do not are broken paths.
fn state(sources: &[Witness<'_>], pair: &Attributes) -> Option<LinkState> {
    let states = sources.iter().filter_map(|witness| witness.state(&catalogue::LINK_STATE, pair, LinkState::ALL));
    states.reduce(|a, b| match (a, b) {
        (same, other) if same == other => same,
        (LinkState::Unknown, known) | (known, LinkState::Unknown) => known,
        (LinkState::Down | LinkState::Grey, _) | (_, LinkState::Down | LinkState::Grey) => LinkState::Grey,
        _ => LinkState::Lossy,
    })
}

struct Flows {
    alive: u64,
    all: u64,
}

impl Flows {
    fn of(sources: &[Witness<'_>], pair: &Attributes) -> Option<Flows> {
        let count = |state: &str| -> Option<u64> {
            let attributes = pair.clone().with(Attribute::State, state);
            let known: Vec<f64> =
                sources.iter().filter_map(|witness| witness.gauge(&catalogue::LINK_FLOWS, &attributes)).collect();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count; hostile values saturate")]
            let sum = known.iter().sum::<f64>() as u64;
            (!known.is_empty()).then_some(sum)
        };
        let (alive, dead) = (count("alive")?, count("dead")?);
        Some(Flows { alive, all: alive.saturating_add(dead) })
    }
}

fn kinds<'f>(fleet: &'f Fleet, to: &'f Region) -> impl Iterator<Item = ProbeKind> + 'f {
    let has_node = fleet.nodes_of(&to.name).next().is_some();
    ProbeKind::ALL.iter().copied().filter(move |kind| fleet.mesh.asks(*kind, to, has_node))
}

fn kind(sources: &[Witness<'_>], pair: &Attributes, kind: ProbeKind, silence: Option<&str>) -> LinkKind {
    let attributes = pair.clone().with(Attribute::Kind, kind);
    let count = |outcomes: &[Outcome]| -> u64 {
        let of = |witness: &Witness<'_>, outcome: &Outcome| {
            witness.recent_count(&catalogue::LINK_PROBES, &attributes.clone().with(Attribute::Outcome, outcome))
        };
        sources.iter().flat_map(|witness| outcomes.iter().filter_map(move |outcome| of(witness, outcome))).sum()
    };
    let socket = sources.iter().find_map(|witness| witness.state(&catalogue::LINK_ICMP_SOCKET, pair, IcmpSocket::ALL));
    LinkKind {
        kind,
        rtt: rtt(sources, &attributes, silence),
        settled: count(SETTLED),
        answered: count(ANSWERED),
        stamps: if kind == ProbeKind::Stamp { stamps(sources, pair) } else { BTreeMap::new() },
        phases: phases(sources, &attributes),
        socket: socket.filter(|_| kind == ProbeKind::Icmp),
    }
}

/// How long the parts of the attempts of the last minute took, where any ended.
fn phases(sources: &[Witness<'_>], attributes: &Attributes) -> BTreeMap<Phase, Quantiles> {
    let quantiles = |phase: &Phase| {
        let attributes = attributes.clone().with(Attribute::Phase, phase);
        let merged = recent(sources, &catalogue::LINK_PHASE, &attributes)?;
        Some((*phase, merged.quantiles()?))
    };
    Phase::ALL.iter().filter_map(quantiles).collect()
}

/// What the agents of the region say together: a kind that fails for one of them fails.
fn disagreement(sources: &[Witness<'_>], pair: &Attributes) -> Option<Disagreement> {
    let says = |kind: ProbeKind| {
        let attributes = pair.clone().with(Attribute::Kind, kind);
        let said = sources.iter().filter_map(|witness| witness.gauge(&catalogue::LINK_DISAGREEMENT, &attributes));
        said.reduce(f64::max)
    };
    let kinds = |failing: bool| -> Vec<ProbeKind> {
        ProbeKind::ALL.iter().copied().filter(|kind| says(*kind).is_some_and(|said| (said > 0.0) == failing)).collect()
    };
    Disagreement::of(&kinds(true), &kinds(false))
}

/// The longest packet that reaches the peer from every agent of the region that knows it.
fn mtu_bytes(sources: &[Witness<'_>], pair: &Attributes, silence: Option<&str>) -> Known<u64> {
    let told = sources.iter().filter_map(|witness| Some((witness.gauge(&catalogue::LINK_MTU, pair)?, witness)));
    match told.min_by(|(a, _), (b, _)| a.total_cmp(b)) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number; hostile values saturate")]
        Some((bytes, witness)) => witness.age.of_value(bytes as u64),
        None => Known::unknown(silence.unwrap_or("not searched for yet, or not found")),
    }
}

/// The round trips of the last minute by what stamped them, where any did.
fn stamps(sources: &[Witness<'_>], pair: &Attributes) -> BTreeMap<StampSource, u64> {
    let count = |source: &StampSource| {
        let attributes = pair.clone().with(Attribute::Stamps, source);
        sources.iter().filter_map(|witness| witness.recent_count(&catalogue::LINK_STAMPS, &attributes)).sum()
    };
    StampSource::ALL.iter().map(|source| (*source, count(source))).filter(|(_, count)| *count > 0).collect()
}

/// The round-trip times of the last minute, of all agents of the region together.
fn rtt(sources: &[Witness<'_>], attributes: &Attributes, silence: Option<&str>) -> Known<Quantiles> {
    let merged = recent(sources, &catalogue::LINK_RTT, attributes);
    let quantiles = merged.as_ref().and_then(Exponential::quantiles);
    match (sources.first(), quantiles, &merged) {
        (Some(newest), Some(quantiles), _) => newest.age.of_value(quantiles),
        (_, None, Some(_)) => Known::unknown(silence.unwrap_or("no answer in the last minute")),
        _ => Known::unknown(silence.unwrap_or("not measured yet: it takes two exports to see the last minute")),
    }
}

/// What was counted in the last minute by all agents of the region; `None` until two exports say so.
fn recent(sources: &[Witness<'_>], metric: &'static Metric, attributes: &Attributes) -> Option<Exponential> {
    let grown = sources.iter().filter_map(|witness| witness.recent_distribution(metric, attributes));
    grown.reduce(|mut sum, grown| {
        sum.merge(&grown);
        sum
    })
}
