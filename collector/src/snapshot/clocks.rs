//! How far the wall clocks of every two hosts are apart, by what all agents have measured together.

use std::collections::BTreeMap;

use lagmesh_model::catalogue::{Attribute, FLEET_CLOCK_CONTRADICTED, FLEET_CLOCK_OFFSET};
use lagmesh_model::fleet::{Agent, Fleet, Region};
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::known::Known;
use lagmesh_model::series::{Attributes, Series};
use lagmesh_model::status::{Clocks, WallOffset};
use lagmesh_model::time::Reading;

use crate::judge::clocks::{Compared, Missing, compare};
use crate::merge::View;

/// Every two agents of different regions, known or not.
pub(super) fn clocks(fleet: &Fleet, view: &View, now: Reading) -> Clocks {
    let mut told = view.clocks(now);
    // Who is no longer in the fleet file stands between nobody.
    told.retain(|one| fleet.agent(&one.agent).is_some());
    let compared = compare(&told);
    let agents: Vec<(&Region, &Agent)> = fleet.agents().collect();
    let pairs = agents.iter().enumerate().flat_map(|(at, one)| agents[at + 1..].iter().map(move |other| (one, other)));
    let offsets = pairs.filter(|((region, _), (peer, _))| region.name != peer.name);
    Clocks {
        offsets: offsets.map(|(one, other)| offset(&compared, *one, *other)).collect(),
        contradictions: compared.contradictions.iter().map(|set| set.iter().copied().cloned().collect()).collect(),
    }
}

fn offset(compared: &Compared<'_>, (region, agent): (&Region, &Agent), (peer, peer_agent): (&Region, &Agent)) -> WallOffset {
    let (one, other) = (&agent.name, &peer_agent.name);
    WallOffset {
        region: region.name.clone(),
        agent: one.clone(),
        peer: peer.name.clone(),
        peer_agent: other.clone(),
        offset_s: match compared.wall_offset(one, other) {
            Ok(offset) => Known::known(offset.into()),
            Err(missing) => Known::unknown(why(missing)),
        },
        is_measured: compared.is_measured(one, other),
    }
}

fn why(missing: Missing<'_>) -> String {
    match missing {
        Missing::Untold(agent) => format!("the agent {agent} has told nothing of its clocks of late"),
        Missing::Apart => "no chain of agents that measure each other connects the two".to_owned(),
        Missing::NotTogether => {
            "the two hosts' reports are of different times, between which wall clocks may have been moved".to_owned()
        }
        Missing::Contradiction => "what agents tell of each other's clocks cannot all be true".to_owned(),
        Missing::Impossible => "the two wall clocks are impossibly far apart".to_owned(),
    }
}

/// What is known, both ways; and of every agent that tells of its clocks, whether that can be.
pub(super) fn series(fleet: &Fleet, view: &View, clocks: &Clocks, now: Reading, out: &mut Vec<Series>) {
    for offset in &clocks.offsets {
        let Some(seconds) = offset.offset_s.current().copied() else { continue };
        let WallOffset { region, agent, peer, peer_agent, .. } = offset;
        let one = attributes(region, agent).with(Attribute::Peer, peer).with(Attribute::PeerAgent, peer_agent);
        let other = attributes(peer, peer_agent).with(Attribute::Peer, region).with(Attribute::PeerAgent, agent);
        for (attributes, seconds) in [(one, seconds), (other, seconds.reversed())] {
            for (bound, seconds) in seconds.each() {
                let attributes = attributes.clone().with(Attribute::Bound, bound);
                out.push(Series::gauge(&FLEET_CLOCK_OFFSET, attributes, seconds));
            }
        }
    }
    let telling = view.clocks(now).into_iter().map(|told| (told.agent, 0.0));
    let named = clocks.contradictions.iter().flatten().map(|agent| (agent.clone(), 1.0));
    let contradicted: BTreeMap<AgentName, f64> = telling.chain(named).collect();
    for (agent, value) in contradicted {
        let Some((region, _)) = fleet.agent(&agent) else { continue };
        out.push(Series::gauge(&FLEET_CLOCK_CONTRADICTED, attributes(&region.name, &agent), value));
    }
}

fn attributes(region: &RegionName, agent: &AgentName) -> Attributes {
    Attributes::new().with(Attribute::Region, region).with(Attribute::Agent, agent)
}
