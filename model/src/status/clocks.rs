//! How far the wall clocks of a fleet's hosts are apart, by what all agents have measured together.

use serde::{Deserialize, Serialize};

use super::Seconds;
use crate::ids::{AgentName, RegionName};
use crate::known::Known;

/// The clocks of all hosts with an agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    /// Every two agents of different regions, once, in the order of the fleet file; empty from a collector that does not compare clocks.
    pub offsets: Vec<WallOffset>,
    /// Each a set of agents of whose measuring clocks not everything can be true that was measured.
    pub contradictions: Vec<Vec<AgentName>>,
}

/// The wall clock of one host against that of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WallOffset {
    /// The region of the one.
    pub region: RegionName,
    /// The agent there.
    pub agent: AgentName,
    /// The region of the other.
    pub peer: RegionName,
    /// The agent there.
    pub peer_agent: AgentName,
    /// The peer's wall clock minus the region's, at some moment for which both hosts have told theirs.
    pub offset_s: Known<Seconds>,
    /// Whether the two measure each other; if not, all that is known comes through third ones.
    pub is_measured: bool,
}

impl Clocks {
    /// The wall clock of `peer` minus that of `region`, and whether that was measured between the two; of several agents what is
    /// known best. `None` if the two are not compared.
    pub fn between(&self, region: &RegionName, peer: &RegionName) -> Option<(Known<Seconds>, bool)> {
        let one = |offset: &WallOffset| match (offset.region == *region, offset.peer == *peer) {
            (true, true) => Some((offset.offset_s.clone(), offset.is_measured)),
            _ if offset.region == *peer && offset.peer == *region => {
                Some((offset.offset_s.clone().map(Seconds::reversed), offset.is_measured))
            }
            _ => None,
        };
        let width_s = |(offset, _): &(Known<Seconds>, bool)| offset.current().map_or(f64::INFINITY, |s| s.upper_s - s.lower_s);
        self.offsets.iter().filter_map(one).min_by(|a, b| width_s(a).total_cmp(&width_s(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair can be asked for from both ends, the signs turn with it, and of several hosts the best known pair is shown.
    #[test]
    fn both_ways() {
        let offset = |agent: &str, offset_s| WallOffset {
            region: "oslo".parse().unwrap(),
            agent: agent.parse().unwrap(),
            peer: "tokyo".parse().unwrap(),
            peer_agent: "tokyo".parse().unwrap(),
            offset_s,
            is_measured: true,
        };
        let seconds = |lower_s, estimate_s, upper_s| Known::known(Seconds { lower_s, estimate_s, upper_s });
        let offsets = vec![
            offset("oslo-1", Known::unknown("silent")),
            offset("oslo-2", seconds(1.0, 2.0, 4.0)),
            offset("oslo-3", seconds(0.0, 2.0, 4.0)),
        ];
        let clocks = Clocks { offsets, contradictions: Vec::new() };
        let (oslo, tokyo) = ("oslo".parse().unwrap(), "tokyo".parse().unwrap());
        assert_eq!(clocks.between(&oslo, &tokyo), Some((seconds(1.0, 2.0, 4.0), true)));
        assert_eq!(clocks.between(&tokyo, &oslo), Some((seconds(-4.0, -2.0, -1.0), true)));
        assert_eq!(clocks.between(&oslo, &oslo), None);
    }
}
