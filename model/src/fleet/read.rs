//! From the document to the fleet, with every check of a key and between keys.

mod plan;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{
    APPLICATION_INTERVAL_MAX, APPLICATION_INTERVAL_MIN, Address, Agent, BEAT_INTERVAL_MAX, BEAT_INTERVAL_MIN, Cluster, Collector,
    Compression, DSCP_MAX, DURATION_MAX, EXPORT_INTERVAL_MIN, Export, FLOWS_MAX, Fleet, GIVE_UP_MAX, Judge, LEDGER_INTERVAL_MAX,
    LEDGER_INTERVAL_MIN, Links, Mesh, Node, PROBE_INTERVAL_MIN, Region, Replication, Url, dsn, forward,
};
use crate::document::{Document, FileErrors, Found, Reported, Section, nearest, number, parsed, text};
use crate::ids::{AgentName, RegionName};
use crate::physics::Coordinates;
use toml::de::DeValue;

/// Durations without other bounds.
const ANY: RangeInclusive<Duration> = Duration::ZERO..=DURATION_MAX;

// The keys of each table.
const TOP: &[&str] = &["name", "insecure", "region", "cluster", "collector", "forward", "mesh", "export", "replication", "judge"];
const REGION: &[&str] = &["name", "latitude", "longitude", "agent", "sql_probe", "http_probe"];
const AGENT: &[&str] = &["name", "mesh"];
const CLUSTER: &[&str] = &["name", "lag_objective", "beat_interval", "ledger_interval", "writers_max", "node"];
const NODE: &[&str] = &["name", "region", "dsn"];
const COLLECTOR: &[&str] = &["name", "otlp"];
/// The keys of `[mesh]`.
pub const MESH_KEYS: &[&str] = &[
    "plan",
    "hubs",
    "pairs",
    "budget_bits_per_s",
    "flows",
    "dscp",
    "interval",
    "deadline",
    "give_up",
    "icmp",
    "tcp",
    "sql_interval",
    "sql_kept_interval",
    "http_interval",
    "third_party",
    "loss_enter",
    "loss_exit",
];
/// The keys of `[export]`.
pub const EXPORT_KEYS: &[&str] = &["interval", "spool_bytes_max", "spool_age_max", "compression"];
/// The keys of `[replication]`.
pub const REPLICATION_KEYS: &[&str] = &["lag_enter", "lag_exit"];
/// The keys of `[judge]`.
pub const JUDGE_KEYS: &[&str] =
    &["suspect_after", "down_after", "degraded_after", "healthy_after", "recover_after", "recovered_after"];

pub(super) fn fleet(file: &str, text: &str) -> Result<Fleet, FileErrors> {
    let document = Document::new(file, text);
    let found = document.parse().and_then(|table| whole(&Section::top(&document, &table, TOP)));
    document.finish(found)
}

fn whole(top: &Section<'_>) -> Found<Fleet> {
    // The same rules as for every other name.
    let name = top.require("name", parsed::<RegionName>).map(String::from);
    let insecure = top.switch("insecure", false);
    // Security is judged as if a broken `insecure` were true: its own error is enough.
    let strict = matches!(insecure, Ok(false));

    let region_sections = top.sections("region", REGION);
    if top.has_none("region") {
        top.tell("region", "there is no region; add [[region]] with a name and its [[region.agent]]");
    }
    let known = known_names(&region_sections);
    let regions = regions(&region_sections, strict);
    let clusters = clusters(&top.sections("cluster", CLUSTER), &known);
    let collectors = collectors(&top.sections("collector", COLLECTOR), strict);
    let forwards = forward::forwards(&top.sections("forward", forward::FORWARD), strict);
    let mesh_section = top.section("mesh", MESH_KEYS);
    let mesh = mesh(&mesh_section, &known);
    let export = export(&top.section("export", EXPORT_KEYS));
    let replication = replication(&top.section("replication", REPLICATION_KEYS));
    let judge = judge(&top.section("judge", JUDGE_KEYS));
    let fleet = Fleet {
        links: Links::default(),
        name: name?,
        insecure: insecure?,
        regions: regions?,
        clusters: clusters?,
        collectors: collectors?,
        forwards: forwards?,
        mesh: mesh?,
        export: export?,
        replication: replication?,
        judge: judge?,
    };
    match fleet.over_budget(fleet.needs_mesh_key()) {
        Some(over) => Err(mesh_section.tell("budget_bits_per_s", over)),
        None => Ok(fleet),
    }
}

/// Names that were seen, each with its line: two of one kind must not have the same.
pub(super) struct Unique {
    what: &'static str,
    seen: BTreeMap<String, usize>,
}

impl Unique {
    pub(super) fn new(what: &'static str) -> Unique {
        Unique { what, seen: BTreeMap::new() }
    }

    /// The table's `name`.
    pub(super) fn name<T: FromStr<Err: Display> + Display>(&mut self, section: &Section<'_>) -> Found<T> {
        let name = section.require("name", parsed::<T>)?;
        self.check(section, "name", &name).map(|()| name)
    }

    fn check(&mut self, section: &Section<'_>, key: &str, name: &impl Display) -> Found<()> {
        let line = section.document.line(section.at(key));
        match self.seen.insert(name.to_string(), line) {
            Some(first) => Err(section.tell(key, format!("\"{name}\" is the {} of line {first} already", self.what))),
            None => Ok(()),
        }
    }
}

/// The names of regions as they are written, good or bad: a bad one is told once, not again by every node there.
fn known_names(sections: &[Section<'_>]) -> Vec<String> {
    let quiet = |section: &Section<'_>| section.get("name", |value| Ok(value.as_str().map(str::to_owned)));
    sections.iter().filter_map(|section| quiet(section).ok().flatten().flatten()).collect()
}

fn regions(sections: &[Section<'_>], strict: bool) -> Found<Vec<Region>> {
    let (mut names, mut agent_names) = (Unique::new("name of the region"), Unique::new("name of the agent"));
    let mut addresses = Unique::new("address of the agent");
    let mut read = |section: &Section<'_>| {
        let name: Found<RegionName> = names.name(section);
        let coordinates = coordinates(section);
        let agents = section.sections("agent", AGENT);
        if section.has_none("agent") {
            section.tell("agent", "the region has no agent; add [[region.agent]] with mesh = \"host:8620\"");
        }
        let alone = agents.len() == 1;
        let agent = |section: &Section<'_>| agent(section, alone.then_some(&name), &mut agent_names, &mut addresses);
        let agents = all(agents.iter().map(agent));
        let sql_probe = section.get("sql_probe", dsn_without_secret);
        let http_probe = section.get("http_probe", |value| {
            let url = parsed::<Url>(value)?;
            if strict && !url.is_tls() && !url.is_loopback() {
                return Err(format!("\"{url}\" would be asked in plain text; use https://, or write insecure = true at the top"));
            }
            Ok(url)
        });
        Ok(Region { name: name?, coordinates: coordinates?, agents: agents?, sql_probe: sql_probe?, http_probe: http_probe? })
    };
    all(sections.iter().map(&mut read))
}

fn coordinates(section: &Section<'_>) -> Found<Option<Coordinates>> {
    let latitude = section.get("latitude", |value| number(value, -90.0..=90.0));
    let longitude = section.get("longitude", |value| number(value, -180.0..=180.0));
    match (latitude?, longitude?) {
        (Some(latitude), Some(longitude)) => Ok(Some(Coordinates { latitude, longitude })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(section.tell("latitude", "stands alone; write longitude too, or neither")),
        (None, Some(_)) => Err(section.tell("longitude", "stands alone; write latitude too, or neither")),
    }
}

/// `only_of` is the name of the region if this is its only agent.
fn agent(section: &Section<'_>, only_of: Option<&Found<RegionName>>, names: &mut Unique, addresses: &mut Unique) -> Found<Agent> {
    let name = match (section.get("name", parsed::<AgentName>), only_of) {
        (Ok(Some(name)), _) => Ok(name),
        (Ok(None), Some(region)) => region.clone().and_then(|region| taken_over(section, region)),
        (Ok(None), None) => Err(section.tell("name", "is missing; it may be left out only by the one agent of a region")),
        (Err(reported), _) => Err(reported),
    };
    let name = name.and_then(|name| names.check(section, "name", &name).map(|()| name));
    let mesh = section.require("mesh", parsed::<Address>);
    let mesh = mesh.and_then(|mesh| addresses.check(section, "mesh", &mesh).map(|()| mesh));
    Ok(Agent { name: name?, mesh: mesh? })
}

fn taken_over(section: &Section<'_>, region: RegionName) -> Found<AgentName> {
    AgentName::try_from(String::from(region)).map_err(|error| section.tell("name", error.to_string()))
}

fn clusters(sections: &[Section<'_>], regions: &[String]) -> Found<Vec<Cluster>> {
    let (mut names, mut node_names) = (Unique::new("name of the cluster"), Unique::new("name of the node"));
    let mut read = |section: &Section<'_>| {
        let name = names.name(section);
        let lag_objective = section.duration("lag_objective", ANY, Cluster::LAG_OBJECTIVE);
        let beat_interval = section.duration("beat_interval", BEAT_INTERVAL_MIN..=BEAT_INTERVAL_MAX, Cluster::BEAT_INTERVAL);
        let ledger_interval =
            section.duration("ledger_interval", LEDGER_INTERVAL_MIN..=LEDGER_INTERVAL_MAX, Cluster::LEDGER_INTERVAL);
        let writers_max = section.integer("writers_max", 1..=u64::MAX, Cluster::WRITERS_MAX);
        let nodes = section.sections("node", NODE);
        if section.has_none("node") {
            section.tell("node", "the cluster has no node; add [[cluster.node]] with name, region and dsn");
        }
        let nodes = all(nodes.iter().map(|section| node(section, regions, &mut node_names)));
        Ok(Cluster {
            name: name?,
            lag_objective: lag_objective?,
            beat_interval: beat_interval?,
            ledger_interval: ledger_interval?,
            writers_max: writers_max?,
            nodes: nodes?,
        })
    };
    all(sections.iter().map(&mut read))
}

fn node(section: &Section<'_>, regions: &[String], names: &mut Unique) -> Found<Node> {
    let name = names.name(section);
    let region = section.require("region", |value| region_name(value, regions));
    let dsn = section.require("dsn", dsn_without_secret);
    let region = region.and_then(|region| region.parse().map_err(|_| Reported::elsewhere()));
    Ok(Node { name: name?, region: region?, dsn: dsn? })
}

fn dsn_without_secret(value: &DeValue<'_>) -> Result<String, String> {
    let dsn = text(value)?;
    dsn::check(&dsn).map(|()| dsn).map_err(|error| error.to_string())
}

/// The name of one of the regions, as it is written.
fn region_name(value: &DeValue<'_>, regions: &[String]) -> Result<String, String> {
    let written = text(value)?;
    let hint = || match nearest(&written, regions.iter().map(String::as_str)) {
        Some(meant) => format!("; did you mean {meant:?}?"),
        None => format!("; there are: {}", regions.join(", ")),
    };
    if regions.contains(&written) { Ok(written) } else { Err(format!("no region is called {written:?}{}", hint())) }
}

fn collectors(sections: &[Section<'_>], strict: bool) -> Found<Vec<Collector>> {
    let mut names = Unique::new("name of the collector");
    let mut read = |section: &Section<'_>| {
        let name = names.name(section);
        let otlp = section.require("otlp", |value| encrypted(parsed::<Url>(value)?, strict));
        Ok(Collector { name: name?, otlp: otlp? })
    };
    all(sections.iter().map(&mut read))
}

/// An address to which telemetry may go.
pub(super) fn encrypted(url: Url, strict: bool) -> Result<Url, String> {
    if strict && !url.is_tls() && !url.is_loopback() {
        return Err(format!("\"{url}\" would carry telemetry in plain text; use https://, or write insecure = true at the top"));
    }
    Ok(url)
}

fn mesh(section: &Section<'_>, regions: &[String]) -> Found<Mesh> {
    let default = Mesh::default();
    let plan = plan::plan(section, regions);
    let budget_bits_per_s = plan::budget(section);
    let flows = section.integer("flows", 1..=u64::from(FLOWS_MAX), u64::from(default.flows));
    let dscp = section.integer("dscp", 0..=u64::from(DSCP_MAX), u64::from(default.dscp));
    let interval = section.duration("interval", PROBE_INTERVAL_MIN..=DURATION_MAX, default.interval);
    let deadline = section.duration("deadline", ANY, default.deadline);
    let give_up = section.duration("give_up", Duration::ZERO..=GIVE_UP_MAX, default.give_up);
    let (icmp, tcp) = (section.switch("icmp", default.icmp), section.switch("tcp", default.tcp));
    let slow = |key, default| section.duration(key, APPLICATION_INTERVAL_MIN..=APPLICATION_INTERVAL_MAX, default);
    let sql_interval = slow("sql_interval", default.sql_interval);
    let http_interval = slow("http_interval", default.http_interval);
    let sql_kept_interval = slow("sql_kept_interval", default.sql_kept_interval);
    let third_party = section.switch("third_party", default.third_party);
    let ratio = |key, default| Ok(section.get(key, |value| number(value, 0.0..=1.0))?.unwrap_or(default));
    let (loss_enter, loss_exit) = (ratio("loss_enter", default.loss_enter), ratio("loss_exit", default.loss_exit));
    let patient = match (give_up, deadline) {
        (Ok(give_up), Ok(deadline)) if give_up < deadline => {
            Err(not_below(section, "give_up", &shown(give_up), "deadline", &shown(deadline), "must not be below"))
        }
        _ => Ok(()),
    };
    let hysteresis = match (loss_exit, loss_enter) {
        (Ok(exit), Ok(enter)) if exit >= enter => {
            Err(not_below(section, "loss_exit", &exit, "loss_enter", &enter, "must be below"))
        }
        _ => Ok(()),
    };
    let dscp = dscp.and_then(|dscp| u8::try_from(dscp).map_err(|_| section.tell("dscp", "is too large")));
    let flows = flows.and_then(|flows| u16::try_from(flows).map_err(|_| section.tell("flows", "is too large")));
    patient.and(hysteresis)?;
    Ok(Mesh {
        plan: plan?,
        budget_bits_per_s: budget_bits_per_s?,
        flows: flows?,
        dscp: dscp?,
        interval: interval?,
        deadline: deadline?,
        give_up: give_up?,
        icmp: icmp?,
        tcp: tcp?,
        sql_interval: sql_interval?,
        sql_kept_interval: sql_kept_interval?,
        http_interval: http_interval?,
        third_party: third_party?,
        loss_enter: loss_enter?,
        loss_exit: loss_exit?,
    })
}

fn export(section: &Section<'_>) -> Found<Export> {
    let default = Export::default();
    let interval = section.duration("interval", EXPORT_INTERVAL_MIN..=DURATION_MAX, default.interval);
    let spool_bytes_max = section.integer("spool_bytes_max", 1..=u64::MAX, default.spool_bytes_max);
    let spool_age_max = section.duration("spool_age_max", ANY, default.spool_age_max);
    let compression = section.get("compression", |value| {
        let word = text(value)?;
        let known = Compression::ALL.iter().copied().find(|compression| compression.as_str() == word);
        known.ok_or_else(|| format!("{word:?} is no compression; write \"gzip\", \"zstd\" or \"none\""))
    });
    Ok(Export {
        interval: interval?,
        spool_bytes_max: spool_bytes_max?,
        spool_age_max: spool_age_max?,
        compression: compression?.unwrap_or(default.compression),
    })
}

fn replication(section: &Section<'_>) -> Found<Replication> {
    let default = Replication::default();
    let lag_enter = section.duration("lag_enter", ANY, default.lag_enter);
    let lag_exit = section.duration("lag_exit", ANY, default.lag_exit);
    if let (Ok(exit), Ok(enter)) = (lag_exit, lag_enter)
        && exit >= enter
    {
        return Err(not_below(section, "lag_exit", &shown(exit), "lag_enter", &shown(enter), "must be below"));
    }
    Ok(Replication { lag_enter: lag_enter?, lag_exit: lag_exit? })
}

fn judge(section: &Section<'_>) -> Found<Judge> {
    let default = Judge::default();
    let suspect_after = section.duration("suspect_after", ANY, default.suspect_after);
    let down_after = section.duration("down_after", ANY, default.down_after);
    let degraded_after = section.duration("degraded_after", ANY, default.degraded_after);
    let healthy_after = section.duration("healthy_after", ANY, default.healthy_after);
    let recover_after = section.duration("recover_after", ANY, default.recover_after);
    let recovered_after = section.duration("recovered_after", ANY, default.recovered_after);
    if let (Ok(suspect), Ok(down)) = (suspect_after, down_after)
        && suspect >= down
    {
        return Err(not_below(section, "suspect_after", &shown(suspect), "down_after", &shown(down), "must be below"));
    }
    Ok(Judge {
        suspect_after: suspect_after?,
        down_after: down_after?,
        degraded_after: degraded_after?,
        healthy_after: healthy_after?,
        recover_after: recover_after?,
        recovered_after: recovered_after?,
    })
}

/// Tells that two keys of a table are in the wrong order, at whichever of the two is written.
fn not_below(section: &Section<'_>, key: &str, value: &dyn Display, than: &str, other: &dyn Display, rule: &str) -> Reported {
    section.tell_pair(key, than, format!("{value} {rule} {than} ({other})"))
}

fn shown(duration: Duration) -> impl Display {
    humantime::format_duration(duration)
}

/// Every value, or that one of them was bad; all are read, so that all errors are told.
pub(super) fn all<T>(found: impl Iterator<Item = Found<T>>) -> Found<Vec<T>> {
    let found: Vec<Found<T>> = found.collect();
    found.into_iter().collect()
}
