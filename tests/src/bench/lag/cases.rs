//! The worlds in which lag is measured: a writer in one region, a standby with several readers in each of the others. Pure data.

use std::time::Duration;

use lagmesh_model::physics::Coordinates;

use crate::clocks::{Claim, ClockPlan};
use crate::plan::{ClusterPlan, CollectorPlan, NodePlan, Plan, RegionClock, RegionPlan, Source};
use crate::wan::LinkPlan;
use crate::wan::path::{Jitter, LinkSettings};

const MS: i64 = 1_000_000;
const SECOND: i64 = 1_000 * MS;
/// The region of the writer.
pub(super) const WRITER: &str = "writer";
/// The writer.
pub(super) const WRITER_DB: &str = "writer-db";
/// As many agents read each standby as a region may have, where many beats count: each counts its beats by itself.
const READERS: u16 = 4;
/// The highest rate that a fleet file allows.
pub(super) const FAST: Duration = Duration::from_millis(50);
/// Where lag varies: fast enough for some hundred beats, slow enough for the polls of one beat to be away from the next, and for two
/// processors to have time left while the observer looks.
const STEADY: Duration = Duration::from_millis(200);
/// The mesh that tells clocks: few flows, because nobody looks at paths here.
const MESH: &str = "[mesh]\nflows = 2\ninterval = \"250ms\"\nicmp = false\ntcp = false\n\n[export]\ninterval = \"5s\"\n";
/// Between regions without a delay of their own [ns].
const FAR_NS: i64 = 15 * MS;
/// New York, Chicago and Atlanta, about 1,150 km from each other.
const PLACES: [(f64, f64); 3] = [(40.71, -74.01), (41.88, -87.63), (33.75, -84.39)];

/// A standby in a region of its own.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// The case; also the name of its region.
    pub(super) name: &'static str,
    /// What is special about it.
    pub(super) about: &'static str,
    at: Option<Coordinates>,
    clock: RegionClock,
    /// From the writer, and back.
    links: [LinkSettings; 2],
    /// Whether its wall clock and the writer's are stepped again and again.
    pub(super) steps: bool,
}

/// A world: a writer and standbys.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    name: &'static str,
    /// From beat to beat.
    pub(super) interval: Duration,
    at: Option<Coordinates>,
    clock: RegionClock,
    /// How many agents read each standby.
    readers: u16,
    /// Its standbys.
    pub(super) cases: Vec<Case>,
}

impl Case {
    fn new(name: &'static str, about: &'static str) -> Case {
        let links = [LinkSettings::delayed(FAR_NS), LinkSettings::delayed(FAR_NS)];
        Case { name, about, at: None, clock: RegionClock::default(), links, steps: false }
    }

    /// Its standby.
    pub(super) fn node(&self) -> String {
        format!("{}-db", self.name)
    }

    fn region(&self, readers: u16) -> RegionPlan {
        RegionPlan {
            name: self.name.to_owned(),
            coordinates: self.at,
            agents: readers,
            clock: self.clock.clone(),
            ..RegionPlan::default()
        }
    }
}

impl Setting {
    /// The least time one way between the writer and a case that bounds may rely on [ns].
    pub(super) fn floor_ns(&self, case: &Case) -> i64 {
        self.at.zip(case.at).map_or(0, |(writer, reader)| writer.one_way_floor_ns(&reader))
    }

    /// What is built.
    pub(super) fn plan(&self) -> Plan {
        let writer = RegionPlan {
            name: WRITER.to_owned(),
            coordinates: self.at,
            agents: 1,
            clock: self.clock.clone(),
            ..RegionPlan::default()
        };
        let standby = |case: &Case| NodePlan {
            name: case.node(),
            region: case.name.to_owned(),
            source: Source::Follows(WRITER_DB.to_owned()),
            ..NodePlan::default()
        };
        let origin = NodePlan { name: WRITER_DB.to_owned(), region: WRITER.to_owned(), ..NodePlan::default() };
        Plan {
            name: format!("bench-lag-{}", self.name),
            seed: 1,
            regions: std::iter::once(writer).chain(self.cases.iter().map(|case| case.region(self.readers))).collect(),
            links: self.links(),
            clusters: vec![ClusterPlan {
                name: "app".to_owned(),
                nodes: std::iter::once(origin).chain(self.cases.iter().map(standby)).collect(),
                beat_interval: Some(self.interval),
                writers_max: 1,
                ..ClusterPlan::default()
            }],
            collectors: vec![CollectorPlan { name: "main".to_owned(), region: WRITER.to_owned() }],
            fleet: MESH.to_owned(),
            ..Plan::default()
        }
    }

    fn links(&self) -> Vec<LinkPlan> {
        let link = |from: &str, to: &str, settings: LinkSettings| LinkPlan { from: from.to_owned(), to: to.to_owned(), settings };
        let mut links = Vec::new();
        for case in &self.cases {
            let [there, back] = case.links.clone();
            links.extend([link(WRITER, case.name, there), link(case.name, WRITER, back)]);
            let others = self.cases.iter().filter(|other| other.name != case.name);
            links.extend(others.map(|other| link(case.name, other.name, LinkSettings::delayed(FAR_NS))));
        }
        links
    }
}

fn clock(monotonic_s: i64, wall_s: i64, drift_ppm: f64) -> RegionClock {
    let clocks = ClockPlan { wall_offset_ns: wall_s * SECOND, drift_ppm, ..ClockPlan::default() };
    RegionClock { monotonic_s, boot_s: monotonic_s, clocks }
}

/// A clock that is right, and claims to be so within a fifth of a millisecond.
fn synchronised() -> RegionClock {
    claiming(RegionClock::default(), MS.unsigned_abs() / 5)
}

/// A clock that claims to be right within so much, whatever it shows.
fn claiming(mut clock: RegionClock, max_error_ns: u64) -> RegionClock {
    clock.clocks.claim = Claim { synchronised: true, max_error_ns, ..clock.clocks.claim };
    clock
}

/// Where an interval may go wrong: clocks and paths.
pub(super) fn hard() -> [Setting; 3] {
    let [writer_at, west, south] = PLACES.map(|(latitude, longitude)| Coordinates { latitude, longitude });
    let floor = |at: Coordinates| LinkSettings::delayed(writer_at.one_way_floor_ns(&at));
    let varying = |sd_ns: i64| LinkSettings { jitter: Jitter::Normal { sd_ns }, ..LinkSettings::delayed(FAR_NS) };
    let slow = LinkSettings::delayed(FAR_NS);
    let apart = Case {
        clock: claiming(clock(30, 300, 0.0), MS.unsigned_abs()),
        ..Case::new("apart", "wall clocks ten minutes apart that claim to be right, monotonic clocks 100,000 s apart, 30 ppm")
    };
    let drifting = Case {
        clock: clock(9_000, 0, 45.0),
        ..Case::new("drifting", "all clocks of the standby 45 ppm too fast, of the writer 30 ppm too slow")
    };
    let stepping = Case {
        steps: true,
        ..Case::new("stepping", "the wall clocks of standby and writer step by ten minutes, to and fro, every five seconds")
    };
    let jitter = Case {
        links: [varying(3 * MS), varying(3 * MS)],
        ..Case::new("jitter", "each packet takes 15 ms with a standard deviation of 3 ms, both ways")
    };
    let there = Case {
        at: Some(west),
        links: [floor(west), slow.clone()],
        ..Case::new("floor-there", "packets from the writer are as fast as light, those back take 15 ms; coordinates are given")
    };
    let back = Case {
        at: Some(south),
        links: [slow, floor(south)],
        ..Case::new("floor-back", "packets to the writer are as fast as light, those from it take 15 ms; coordinates are given")
    };
    let setting = |name, clock, cases| Setting { name, interval: FAST, at: None, clock, readers: READERS, cases };
    [
        setting("clocks", clock(100_000, -300, -30.0), vec![apart, drifting]),
        setting("steps", RegionClock::default(), vec![stepping, jitter]),
        Setting { at: Some(writer_at), ..setting("floors", clock(5_000, 0, 0.0), vec![there, back]) },
    ]
}

/// Where only the time of replication varies, and clocks are synchronised.
pub(super) fn varying() -> Setting {
    let case = |name, about, sd_ns| {
        let there = LinkSettings { jitter: Jitter::Normal { sd_ns }, ..LinkSettings::delayed(40 * MS) };
        Case { links: [there, LinkSettings::delayed(40 * MS)], clock: synchronised(), ..Case::new(name, about) }
    };
    let cases = vec![
        case("sd-1ms", "packets from the writer take 40 ms with a standard deviation of 1 ms, those back 40 ms", MS),
        case("sd-5ms", "packets from the writer take 40 ms with a standard deviation of 5 ms, those back 40 ms", 5 * MS),
    ];
    Setting { name: "varying", interval: STEADY, at: None, clock: synchronised(), readers: 1, cases }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr};

    use lagmesh_model::fleet::Fleet;

    use super::*;
    use crate::world::layout::Layout;

    /// The fleet of a plan, with an address for each host.
    pub(in crate::bench::lag) fn fleet(plan: &Plan) -> Fleet {
        let address = |host: &str| {
            let number = plan.regions.iter().position(|region| region.name == host).map_or(0, |number| number + 1);
            Ok(IpAddr::from(Ipv4Addr::new(10, 0, 0, u8::try_from(number).unwrap())))
        };
        let layout = Layout::on_hosts(plan, address).unwrap();
        Fleet::parse("fleet.toml", &layout.fleet_file(plan).unwrap()).unwrap()
    }

    /// Each world is one that lagmesh itself takes, with all links set both ways, and no case comes twice.
    #[test]
    fn worlds() {
        let mut names = BTreeSet::new();
        for setting in hard().into_iter().chain([varying()]) {
            let plan = setting.plan();
            let fleet = fleet(&plan);
            assert_eq!((fleet.clusters[0].beat_interval, plan.links.len()), (setting.interval, 6), "{}", plan.name);
            assert_eq!(plan.agents_of(&plan.regions[1]).len(), usize::from(setting.readers));
            assert!(setting.cases.iter().all(|case| names.insert(case.name)));
        }
    }

    /// Where coordinates are given, one direction is exactly as fast as bounds allow, and none is faster.
    #[test]
    fn floors() {
        let [_, _, setting] = hard();
        for case in &setting.cases {
            let floor_ns = setting.floor_ns(case);
            assert!(floor_ns > 3 * MS, "{floor_ns}");
            assert_eq!(case.links.iter().map(|link| link.delay_ns).min(), Some(floor_ns));
        }
        assert_eq!(setting.floor_ns(&Case::new("nowhere", "")), 0);
        let between = setting.cases[0].at.unwrap().one_way_floor_ns(&setting.cases[1].at.unwrap());
        assert!(between <= FAR_NS);
    }
}
