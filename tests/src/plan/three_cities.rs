//! The world of the demo and of the end-to-end tests: a writer in New York, streaming standbys in Dublin and Tokyo, one collector.

use std::time::Duration;

use lagmesh_model::physics::Coordinates;

use super::{ClusterPlan, CollectorPlan, NodePlan, Plan, RegionPlan, Source};
use crate::wan::LinkPlan;
use crate::wan::path::{Jitter, LinkSettings};

/// The regions; the first holds the writer. Each has a node called like it with `-db` behind.
pub const REGIONS: [&str; 3] = ["new-york", "dublin", "tokyo"];

/// The collector.
pub const COLLECTOR: &str = "main";

/// Where the cities are [degrees north, degrees east].
const COORDINATES: [(f64, f64); 3] = [(40.71, -74.01), (53.35, -6.26), (35.68, 139.69)];

/// One-way delays between them [ms] that make the round trips between public clouds' regions there: 69, 154 and 206 ms. The way back is
/// the longer one.
const DELAYS_MS: [(usize, usize, i64); 6] = [(0, 1, 32), (1, 0, 37), (0, 2, 71), (2, 0, 83), (1, 2, 95), (2, 1, 111)];

/// By how much delays vary [ns, standard deviation].
const JITTER_NS: i64 = 300_000;

impl Plan {
    /// The three cities; `name` says what for. With `distances` they are as far apart as they are; without, nothing is said about where
    /// they are, for loopback undercuts every physical floor.
    pub fn three_cities(name: &str, export_interval: Duration, distances: bool) -> Plan {
        let region = |(name, (latitude, longitude)): (&&str, (f64, f64))| RegionPlan {
            name: (*name).to_owned(),
            coordinates: distances.then_some(Coordinates { latitude, longitude }),
            agents: 1,
            ..RegionPlan::default()
        };
        let node = |region: &&str| NodePlan {
            name: format!("{region}-db"),
            region: (*region).to_owned(),
            source: if *region == REGIONS[0] { Source::Own } else { Source::Follows(format!("{}-db", REGIONS[0])) },
            ..NodePlan::default()
        };
        let link = |(from, to, delay_ms): (usize, usize, i64)| LinkPlan {
            from: REGIONS[from].to_owned(),
            to: REGIONS[to].to_owned(),
            settings: LinkSettings {
                delay_ns: delay_ms * 1_000_000,
                jitter: Jitter::Normal { sd_ns: JITTER_NS },
                ..LinkSettings::default()
            },
        };
        Plan {
            name: name.to_owned(),
            seed: 1,
            regions: REGIONS.iter().zip(COORDINATES).map(region).collect(),
            links: if distances { DELAYS_MS.into_iter().map(link).collect() } else { Vec::new() },
            clusters: vec![ClusterPlan {
                name: "app".to_owned(),
                nodes: REGIONS.iter().map(node).collect(),
                writers_max: 1,
                ..ClusterPlan::default()
            }],
            collectors: vec![CollectorPlan { name: COLLECTOR.to_owned(), region: REGIONS[0].to_owned() }],
            fleet: format!("[export]\ninterval = \"{}ms\"\n", export_interval.as_millis()),
            ..Plan::default()
        }
    }
}
