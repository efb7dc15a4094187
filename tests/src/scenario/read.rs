//! From the document to the scenario, with every check of a key and between keys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use lagmesh_model::document::{Document, Found, Section, number, text};
use lagmesh_model::fleet::{self, Fleet};
use lagmesh_model::ids::RegionName;
use lagmesh_model::physics::Coordinates;
use toml::de::DeTable;

use super::link::{apply, link_keys};
use super::value::{length_ns, span_ns, words};
use super::{SAMPLES_MAX, Scenario, expect, fault};
use crate::clocks::clockbound::{ClockBound, Layout, Status};
use crate::clocks::{Claim, ClockPlan};
use crate::plan::{ClusterPlan, CollectorPlan, LoadPlan, NodePlan, Plan, RegionClock, RegionPlan, Source};
use crate::postgres::pooler::PoolMode;
use crate::wan::LinkPlan;
use crate::wan::path::LinkSettings;
use crate::world::layout::{self, collector_host};

const TOP: &[&str] = &[
    "name",
    "about",
    "seed",
    "ipv6",
    "ready_within",
    "run",
    "sample_every",
    "region",
    "link",
    "cluster",
    "collector",
    "load",
    "fault",
    "expect",
    "mesh",
    "export",
    "replication",
    "judge",
];
const REGION: &[&str] = &["name", "latitude", "longitude", "agents", "clock", "spool_disk_bytes"];
const CLOCK: &[&str] =
    &["monotonic", "boot", "wall", "drift_ppm", "synchronised", "max_error", "clockbound", "kernel_stamps_true"];
const LINK: &[&str] = link_keys!("from", "to", "both");
const CLUSTER: &[&str] =
    &["name", "beat_interval", "ledger_interval", "lag_objective", "writers_max", "synchronous", "synchronous_commit", "node"];
const NODE: &[&str] = &["name", "region", "follows", "subscribes", "exchanges", "apply_delay", "version", "settings", "pooler"];
const COLLECTOR: &[&str] = &["name", "region"];
const LOAD: &[&str] = &["node", "clients", "rate"];
/// Tables that stand in the fleet file as they stand here.
const FLEET: [(&str, &[&str]); 4] = [
    ("mesh", fleet::MESH_KEYS),
    ("export", fleet::EXPORT_KEYS),
    ("replication", fleet::REPLICATION_KEYS),
    ("judge", fleet::JUDGE_KEYS),
];

/// A run of more than a day is a soak test, not a scenario.
const RUN_MAX: Duration = Duration::from_secs(24 * 3600);
/// For how long a segment that is not refreshed may be believed [s].
const CLOCKBOUND_VALID_S: u32 = 1000;
/// The longest name of a scenario: a Unix socket below its folder has 107 octets in all.
const NAME_LENGTH_MAX: usize = 40;
/// Hosts of one emulated network at most.
const REGIONS_MAX: usize = 60;

pub(super) fn scenario(document: &Document<'_>, table: &DeTable<'_>, text: &str) -> Found<Scenario> {
    let top = Section::top(document, table, TOP);
    let name = scenario_name(&top);
    let about = top.get("about", self::text);
    let run = top.duration("run", Duration::from_millis(100)..=RUN_MAX, Duration::from_secs(10));
    let ready_within = top.duration("ready_within", Duration::from_secs(1)..=RUN_MAX, Duration::from_secs(60));
    let sample_every =
        top.duration("sample_every", Duration::from_millis(10)..=Duration::from_secs(60), Duration::from_millis(200));
    let fleet = fleet_tables(&top, text);
    let (run, mut plan) = (run?, plan(&top)?);
    plan.name = name?;
    plan.fleet = fleet?;
    let run_ns = u64::try_from(run.as_nanos()).unwrap_or(u64::MAX);
    let sample_every = sample_every?;
    if run.as_nanos() / sample_every.as_nanos() > SAMPLES_MAX as u128 {
        return Err(
            top.tell("sample_every", format!("would make more than {SAMPLES_MAX} samples of a run so long; read less often"))
        );
    }
    whole(&top, &plan)?;
    let faults: Found<Vec<_>> =
        all(top.sections("fault", fault::FAULT).iter().map(|section| fault::fault(section, &plan, run_ns)));
    let sections = top.sections("expect", expect::EXPECT);
    if top.has_none("expect") {
        top.tell("expect", "a scenario that expects nothing shows nothing; add [[expect]]");
    }
    let expectations = all(sections.iter().map(|section| expect::expectation(section, &plan, run_ns)));
    let mut faults: Vec<_> = faults?.into_iter().flatten().collect();
    faults.sort_by_key(|fault| fault.at_ns);
    Ok(Scenario {
        name: plan.name.clone(),
        about: about?.unwrap_or_default(),
        plan,
        ready_within: ready_within?,
        run,
        sample_every,
        faults,
        expectations: expectations?,
    })
}

/// A short name: it is part of paths, among them those of Unix sockets.
fn scenario_name(top: &Section<'_>) -> Found<String> {
    let name = name(top)?;
    if name.len() > NAME_LENGTH_MAX {
        Err(top.tell("name", format!("is longer than {NAME_LENGTH_MAX} characters")))
    } else {
        Ok(name)
    }
}

/// What can only be checked of the whole plan: that lagmesh itself would take the fleet, and that names do not collide.
fn whole(top: &Section<'_>, plan: &Plan) -> Found<()> {
    if plan.collectors.is_empty() {
        return Err(top.tell("collector", "there is no collector; add [[collector]] with name and region"));
    }
    let mut hosts = plan.collectors.iter().map(|collector| collector_host(&collector.name));
    if let Some(host) = hosts.find(|host| plan.region(host).is_some()) {
        return Err(top.tell("region", format!("{host} is the name of a collector's host; call the region something else")));
    }
    let anywhere = Ipv4Addr::new(10, 0, 0, 1).into();
    let file = layout::Layout::on_hosts(plan, |_| Ok(anywhere)).and_then(|layout| layout.fleet_file(plan));
    let file = file.map_err(|error| top.tell("name", format!("{error:#}")))?;
    // All hosts have one address here, so that two agents share it is no mistake of the file.
    let wrong = Fleet::parse("", &file).err().map(|wrong| wrong.errors).unwrap_or_default();
    match wrong.into_iter().find(|error| error.key != "region.agent.mesh") {
        Some(error) => {
            Err(top.tell("name", format!("makes a fleet file that lagmesh refuses: {}: {}", error.key, error.message)))
        }
        None => Ok(()),
    }
}

/// Every value, or that one of them was bad; all are read, so that all errors are told.
fn all<T>(found: impl Iterator<Item = Found<T>>) -> Found<Vec<T>> {
    let found: Vec<Found<T>> = found.collect();
    found.into_iter().collect()
}

fn plan(top: &Section<'_>) -> Found<Plan> {
    let mut plan = Plan { seed: top.integer("seed", 0..=u64::MAX, 1)?, ipv6: top.switch("ipv6", false)?, ..Plan::default() };
    let sections = top.sections("region", REGION);
    if sections.is_empty() || sections.len() > REGIONS_MAX {
        return Err(top.tell("region", format!("there are {} regions; write 1 to {REGIONS_MAX}", sections.len())));
    }
    plan.regions = all(sections.iter().map(region))?;
    unique(&sections, "region", plan.regions.iter().map(|region| &region.name))?;
    plan.links = links(top, &plan)?;
    let mut nodes = BTreeMap::new();
    for section in top.sections("cluster", CLUSTER) {
        let cluster = cluster(&section, &plan, &mut nodes)?;
        plan.clusters.push(cluster);
    }
    let sections = top.sections("collector", COLLECTOR);
    plan.collectors = all(sections.iter().map(|section| collector(section, &plan)))?;
    unique(&sections, "collector", plan.collectors.iter().map(|collector| &collector.name))?;
    plan.loads = all(top.sections("load", LOAD).iter().map(|section| load(section, &plan)))?;
    let mut loaded: Vec<&str> = plan.loads.iter().map(|load| load.node.as_str()).collect();
    loaded.sort_unstable();
    if loaded.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(top.tell("load", "a node has two loads; add their clients and rates up"));
    }
    Ok(plan)
}

fn unique<'a>(sections: &[Section<'_>], what: &str, names: impl Iterator<Item = &'a String>) -> Found<()> {
    let mut seen = BTreeMap::new();
    for (section, name) in sections.iter().zip(names) {
        let line = section.document.line(section.at("name"));
        if let Some(first) = seen.insert(name, line) {
            return Err(section.tell("name", format!("{name:?} is the name of the {what} of line {first} already")));
        }
    }
    Ok(())
}

/// A name that regions, nodes and so on may have.
fn name(section: &Section<'_>) -> Found<String> {
    section.require("name", lagmesh_model::document::parsed::<lagmesh_model::ids::RegionName>).map(String::from)
}

fn region(section: &Section<'_>) -> Found<RegionPlan> {
    let latitude = section.get("latitude", |value| number(value, -90.0..=90.0))?;
    let longitude = section.get("longitude", |value| number(value, -180.0..=180.0))?;
    let coordinates = match (latitude, longitude) {
        (Some(latitude), Some(longitude)) => Some(Coordinates { latitude, longitude }),
        (None, None) => None,
        _ => return Err(section.tell("name", "has one of latitude and longitude; write both, or neither")),
    };
    let disk = section.integer("spool_disk_bytes", 0..=1 << 40, 0)?;
    Ok(RegionPlan {
        name: name(section)?,
        coordinates,
        agents: u16::try_from(section.integer("agents", 1..=4, 1)?).unwrap_or(1),
        clock: clock(&section.section("clock", CLOCK))?,
        spool_disk_bytes: (disk > 0).then_some(disk),
    })
}

fn clock(section: &Section<'_>) -> Found<RegionClock> {
    let whole_seconds = |key: &str| {
        section.get(key, |value| {
            let ns = span_ns(value)?;
            if ns < 0 || ns % 1_000_000_000 != 0 {
                Err("must be whole seconds, not below zero".to_owned())
            } else {
                Ok(ns / 1_000_000_000)
            }
        })
    };
    Ok(RegionClock {
        monotonic_s: whole_seconds("monotonic")?.unwrap_or(0),
        boot_s: whole_seconds("boot")?.unwrap_or(0),
        clocks: ClockPlan {
            wall_offset_ns: section.get("wall", span_ns)?.unwrap_or(0),
            drift_ppm: section.get("drift_ppm", |value| number(value, -1000.0..=1000.0))?.unwrap_or(0.0),
            kernel_stamps_true: section.switch("kernel_stamps_true", false)?,
            claim: claim(section)?,
        },
    })
}

/// What the host says about its wall clock; nobody keeps it unless the file says otherwise.
fn claim(section: &Section<'_>) -> Found<Claim> {
    let bound_ns = section.get("clockbound", length_ns)?;
    let clockbound = bound_ns.map(|bound_ns| clockbound(i64::try_from(bound_ns).unwrap_or(i64::MAX)));
    match (section.switch("synchronised", false)?, section.get("max_error", length_ns)?) {
        (true, None) => Err(section.tell("synchronised", "needs max_error: the error that the host admits")),
        (synchronised, max_error_ns) => {
            let unkept = Claim::default();
            Ok(Claim { synchronised, max_error_ns: max_error_ns.unwrap_or(unkept.max_error_ns), clockbound })
        }
    }
}

/// A `ClockBound` daemon that is sure of its clock within `bound_ns`.
fn clockbound(bound_ns: i64) -> ClockBound {
    ClockBound {
        layout: Layout::V2,
        status: Status::Synchronised,
        bound_ns,
        max_drift_ppb: 50_000,
        valid_s: CLOCKBOUND_VALID_S,
        disruption_marker: None,
    }
}

fn links(top: &Section<'_>, plan: &Plan) -> Found<Vec<LinkPlan>> {
    let mut links: Vec<LinkPlan> = Vec::new();
    for section in top.sections("link", LINK) {
        let end = |key: &str| section.require(key, |value| fault::region(&text(value)?, plan));
        let (from, to) = (end("from")?, end("to")?);
        if from == to {
            return Err(section.tell("to", "a region has no link to itself"));
        }
        let both = section.switch("both", true)?;
        let mut set = |from: &str, to: &str| {
            let before = links.iter().position(|link| link.from == from && link.to == to);
            let mut settings = before.map_or_else(LinkSettings::default, |at| links[at].settings.clone());
            apply(&section, &mut settings)?;
            let link = LinkPlan { from: from.to_owned(), to: to.to_owned(), settings };
            match before {
                Some(at) => links[at] = link,
                None => links.push(link),
            }
            Ok(())
        };
        set(&from, &to)?;
        if both {
            set(&to, &from)?;
        }
    }
    Ok(links)
}

fn cluster(section: &Section<'_>, plan: &Plan, nodes: &mut BTreeMap<String, usize>) -> Found<ClusterPlan> {
    let optional = |key: &str| -> Found<Option<Duration>> {
        let ns = section.get(key, length_ns)?;
        Ok(ns.map(Duration::from_nanos))
    };
    let mut cluster = ClusterPlan {
        name: name(section)?,
        nodes: Vec::new(),
        synchronous_standby_names: section.get("synchronous", text)?,
        synchronous_commit: section.get("synchronous_commit", text)?,
        beat_interval: optional("beat_interval")?,
        ledger_interval: optional("ledger_interval")?,
        lag_objective: optional("lag_objective")?,
        writers_max: section.integer("writers_max", 1..=64, 1)?,
    };
    if cluster.synchronous_commit.is_some() && cluster.synchronous_standby_names.is_none() {
        return Err(section.tell("synchronous_commit", "waits for nobody without synchronous; write that too"));
    }
    if plan.clusters.iter().any(|other| other.name == cluster.name) {
        return Err(section.tell("name", "is the name of another cluster already"));
    }
    if section.has_none("node") {
        return Err(section.tell("node", "the cluster has no node; add [[cluster.node]] with name and region"));
    }
    for inner in section.sections("node", NODE) {
        let node = node(&inner, plan, &cluster)?;
        let line = inner.document.line(inner.at("name"));
        if let Some(first) = nodes.insert(node.name.clone(), line) {
            return Err(inner.tell("name", format!("{:?} is the name of the node of line {first} already", node.name)));
        }
        cluster.nodes.push(node);
    }
    Ok(cluster)
}

fn node(section: &Section<'_>, plan: &Plan, cluster: &ClusterPlan) -> Found<NodePlan> {
    let other = |key: &str| {
        section.get(key, |value| {
            let names = cluster.nodes.iter().map(|node| node.name.as_str());
            fault::known("earlier node of this cluster", &text(value)?, names)
        })
    };
    let sources: Vec<Source> = [
        other("follows")?.map(Source::Follows),
        other("subscribes")?.map(Source::Subscribes),
        other("exchanges")?.map(Source::Exchanges),
    ]
    .into_iter()
    .flatten()
    .collect();
    if sources.len() > 1 {
        return Err(section.tell("name", "has two sources; write one of follows, subscribes and exchanges"));
    }
    let delay_ns = section.get("apply_delay", length_ns)?;
    let source = sources.into_iter().next().unwrap_or_default();
    if delay_ns.is_some() && !matches!(source, Source::Follows(_)) {
        return Err(section.tell("apply_delay", "only a node that follows another one can apply late"));
    }
    if delay_ns.is_some_and(|delay_ns| delay_ns % 1_000_000 != 0) {
        return Err(section.tell("apply_delay", "must be whole milliseconds"));
    }
    let settings = section.get("settings", words)?.unwrap_or_default();
    if let Some(wrong) = settings.iter().find(|setting| !setting.contains('=')) {
        return Err(section.tell("settings", format!("{wrong:?} is no setting; write \"name = value\"")));
    }
    let version =
        section.integer("version", 13..=18, 0).map(|version| u32::try_from(version).ok().filter(|version| *version > 0));
    Ok(NodePlan {
        name: name(section)?,
        region: section.require("region", |value| fault::region(&text(value)?, plan))?,
        version: version?,
        source,
        apply_delay_ms: delay_ns.map(|ns| ns / 1_000_000),
        settings,
        pooler: section.get("pooler", |value| {
            PoolMode::from_word(&text(value)?).ok_or_else(|| "must be \"session\" or \"transaction\"".to_owned())
        })?,
    })
}

fn collector(section: &Section<'_>, plan: &Plan) -> Found<CollectorPlan> {
    Ok(CollectorPlan { name: name(section)?, region: section.require("region", |value| fault::region(&text(value)?, plan))? })
}

fn load(section: &Section<'_>, plan: &Plan) -> Found<LoadPlan> {
    let node = section.require("node", |value| {
        let name = fault::node(&text(value)?, plan)?;
        match plan.node(&name).map(|(_, node)| &node.source) {
            Some(Source::Follows(_)) => Err(format!("{name} is a standby, which takes no writes")),
            _ => Ok(name),
        }
    })?;
    let clients = section.integer("clients", 1..=64, 2)?;
    let rate = section.integer("rate", 1..=1_000_000, 100)?;
    Ok(LoadPlan { node, clients: u32::try_from(clients).unwrap_or(1), rate_per_s: u32::try_from(rate).unwrap_or(1) })
}

/// The tables that the fleet file takes over, checked by the fleet file's own reader.
fn fleet_tables(top: &Section<'_>, text: &str) -> Found<String> {
    let sections = FLEET.map(|(key, known)| (key, top.section(key, known)));
    let whole: toml::Table = text.parse().map_err(|_| top.tell("name", "is not TOML"))?;
    // A plan of the mesh names regions; where the names are wrong is told where they stand.
    let names = whole.get("region").and_then(toml::Value::as_array).into_iter().flatten();
    let around = around(&names.filter_map(|region| region.get("name")?.as_str()?.parse().ok()).collect());
    let taken: toml::Table = whole.into_iter().filter(|(key, _)| FLEET.iter().any(|(name, _)| name == key)).collect();
    let taken = toml::to_string(&taken).map_err(|error| top.tell("name", error.to_string()))?;
    let Err(wrong) = Fleet::parse("", &format!("{around}{taken}")) else { return Ok(taken) };
    let mut told = Ok(taken);
    for error in wrong.errors {
        let (table, key) = error.key.split_once('.').unwrap_or((error.key.as_str(), ""));
        let section = sections.iter().find(|(name, _)| *name == table).map_or(top, |(_, section)| section);
        told = Err(section.tell(key, error.message));
    }
    told
}

/// A fleet file of these regions, or of any one, around tables that are to be checked.
fn around(names: &BTreeSet<RegionName>) -> String {
    let region =
        |(name, port): (&str, u16)| format!("[[region]]\nname = \"{name}\"\n[[region.agent]]\nmesh = \"127.0.0.1:{port}\"\n");
    let names = names.iter().map(RegionName::as_str).chain(names.is_empty().then_some("x"));
    std::iter::once("name = \"x\"\n".to_owned()).chain(names.zip(1..).map(region)).collect()
}
