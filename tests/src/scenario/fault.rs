//! `[[fault]]`: what happens to the world, and when.

use lagmesh_model::document::{Found, Section, nearest, number, text};

use super::link::{apply, cut_word, link_keys};
use super::value::{length_ns, length_or, span_ns};
use crate::clocks::Claim;
use crate::plan::{Plan, Source};
use crate::wan::path::{Cut, LinkSettings};

pub(super) const FAULT: &[&str] = link_keys!(
    "at",
    "until",
    "do",
    "to",
    "only",
    "by",
    "ppm",
    "sql",
    "slot",
    "synchronised",
    "max_error",
    "clients",
    "rate",
    "as"
);

/// Something that happens.
#[derive(Debug, Clone)]
pub struct Fault {
    /// When, after the world is ready [ns].
    pub at_ns: u64,
    /// What.
    pub action: Action,
    /// To whom.
    pub target: Target,
}

/// To whom it happens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// An agent, by name.
    Agent(String),
    /// A collector, by name.
    Collector(String),
    /// A server, by the name of its node.
    Server(String),
    /// The walreceiver of a node.
    Walreceiver(String),
    /// An ordered pair of regions.
    Link(String, String),
    /// A region with all its links.
    Region(String),
}

/// New settings of a link: whatever is written is changed, the rest is as at the start.
#[derive(Debug, Clone)]
pub struct LinkChange {
    /// All of them.
    pub settings: LinkSettings,
    /// Whether they speak of what is cut; if not, that stays as it is.
    pub cuts: bool,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Action {
    /// SIGSTOP.
    Freeze,
    /// SIGCONT.
    Thaw,
    /// SIGKILL.
    Kill,
    /// An orderly stop.
    Stop,
    /// Start again after kill or stop.
    Start,
    /// Packets are dropped: those of a link, or of all links from and to a region.
    Cut(Cut),
    /// Nothing is cut any more.
    Heal,
    /// The link gets these settings.
    Link(Box<LinkChange>),
    /// `pg_wal_replay_pause()`.
    PauseReplay,
    /// `pg_wal_replay_resume()`.
    ResumeReplay,
    /// A transaction on a standby holds its snapshot while the writer vacuums.
    HoldSnapshot,
    /// That transaction ends.
    ReleaseSnapshot,
    /// The replication slot of a standby is dropped at its source.
    DropSlot(String),
    /// `pg_promote()`.
    Promote,
    /// A node is started again as a standby of the node named, rewound to it.
    Rejoin(String),
    /// A statement, as the superuser.
    Sql(String),
    /// The subscription is disabled.
    DisableSubscription,
    /// The subscription is enabled.
    EnableSubscription,
    /// A row that conflicts stops the subscription's apply worker.
    BreakSubscription,
    /// The wall clock of a region steps by so much [ns].
    StepClock(i64),
    /// All clocks of a region drift by so much from now on [ppm].
    Drift(f64),
    /// The region's host claims another error of its clock [ns], or to be unsynchronised.
    Claim(Claim),
    /// The disk of the agent's spool is filled to the last byte.
    FillDisk,
    /// It is emptied again.
    FreeDisk,
    /// A write load starts: clients, transactions per second.
    StartLoad(u32, u32),
    /// It ends.
    StopLoad,
}

/// Each word of `do`, the kinds of target that it takes, and the word that undoes it at `until`.
const VERBS: &[(&str, &[&str], Option<&str>)] = &[
    ("freeze", &["agent", "collector", "server", "walreceiver"], Some("thaw")),
    ("thaw", &["agent", "collector", "server", "walreceiver"], None),
    ("kill", &["agent", "collector", "server", "walreceiver"], Some("start")),
    ("stop", &["agent", "collector", "server"], Some("start")),
    ("start", &["agent", "collector", "server"], None),
    ("cut", &["link", "region", "agent", "collector", "server"], Some("heal")),
    ("heal", &["link", "region", "agent", "collector", "server"], None),
    ("link", &["link"], None),
    ("pause-replay", &["server"], Some("resume-replay")),
    ("resume-replay", &["server"], None),
    ("hold-snapshot", &["server"], Some("release-snapshot")),
    ("release-snapshot", &["server"], None),
    ("drop-slot", &["server"], None),
    ("promote", &["server"], None),
    ("rejoin", &["server"], None),
    ("sql", &["server"], None),
    ("disable-subscription", &["server"], Some("enable-subscription")),
    ("enable-subscription", &["server"], None),
    ("break-subscription", &["server"], None),
    ("step-clock", &["region"], None),
    ("drift", &["region"], None),
    ("claim", &["region"], None),
    ("fill-disk", &["agent"], Some("free-disk")),
    ("free-disk", &["agent"], None),
    ("start-load", &["server"], Some("stop-load")),
    ("stop-load", &["server"], None),
];

/// The fault, and its undoing if it has an end.
pub(super) fn fault(section: &Section<'_>, plan: &Plan, run_ns: u64) -> Found<Vec<Fault>> {
    let at_ns = length_or(section, "at", 0)?;
    if at_ns > run_ns {
        return Err(section.tell("at", "is after the end of the run"));
    }
    let words: Vec<&str> = VERBS.iter().map(|(word, ..)| *word).collect();
    let (verb, kinds, undo) = *section.require("do", |value| {
        let word = text(value)?;
        VERBS.iter().find(|(verb, ..)| *verb == word).ok_or_else(|| match nearest(&word, words.iter().copied()) {
            Some(meant) => format!("nothing is called {word:?}; did you mean {meant:?}?"),
            None => format!("nothing is called {word:?}; there are: {}", words.join(", ")),
        })
    })?;
    let target = section.require("to", |value| target(&text(value)?, kinds, plan))?;
    extra_keys(section, verb)?;
    makes_sense(section, verb, &target, plan)?;
    let action = action(section, verb, &target, plan)?;
    let mut faults = vec![Fault { at_ns, action, target: target.clone() }];
    if let Some(until_ns) = section.get("until", length_ns)? {
        let Some(undo) = undo else {
            return Err(section.tell("until", format!("{verb} is not undone by itself; write another fault")));
        };
        if until_ns <= at_ns || until_ns > run_ns {
            return Err(section.tell("until", "must be after `at` and within the run"));
        }
        faults.push(Fault { at_ns: until_ns, action: self::action(section, undo, &target, plan)?, target });
    }
    Ok(faults)
}

/// The keys that a verb takes beside `at`, `until`, `do` and `to`.
fn keys_of(verb: &str) -> &'static [&'static str] {
    match verb {
        "cut" => &["only"],
        "link" => link_keys!(),
        "drop-slot" => &["slot"],
        "rejoin" => &["as"],
        "sql" => &["sql"],
        "step-clock" => &["by"],
        "drift" => &["ppm"],
        "claim" => &["synchronised", "max_error"],
        "start-load" => &["clients", "rate"],
        _ => &[],
    }
}

/// A key that belongs to another verb would be passed over in silence.
fn extra_keys(section: &Section<'_>, verb: &str) -> Found<()> {
    let own = keys_of(verb);
    for key in FAULT.iter().filter(|key| !["at", "until", "do", "to"].contains(key) && !own.contains(key)) {
        if section.get(key, |_| Ok(()))?.is_some() {
            return Err(section.tell(key, format!("means nothing to {verb}")));
        }
    }
    Ok(())
}

/// What a verb needs of its target.
fn makes_sense(section: &Section<'_>, verb: &str, target: &Target, plan: &Plan) -> Found<()> {
    let is_written = |key: &str| section.get(key, |_| Ok(())).is_ok_and(|written| written.is_some());
    let source = |name: &str| plan.node(name).map(|(_, node)| &node.source);
    let wrong = match (verb, target) {
        ("kill", Target::Walreceiver(_)) if is_written("until") => {
            Some(("until", "a walreceiver is started again by its server, not by us; leave until out"))
        }
        ("cut", Target::Agent(_) | Target::Collector(_) | Target::Server(_)) if is_written("only") => {
            Some(("only", "is for links and regions; an agent, a collector or a server is cut off as what it is"))
        }
        ("hold-snapshot" | "pause-replay", Target::Server(name)) if !matches!(source(name), Some(Source::Follows(_))) => {
            Some(("to", "must be a standby: a node that follows another one"))
        }
        ("break-subscription" | "disable-subscription" | "enable-subscription", Target::Server(name))
            if !matches!(source(name), Some(Source::Subscribes(_) | Source::Exchanges(_))) =>
        {
            Some(("to", "must be a node that subscribes to another one"))
        }
        ("fill-disk" | "free-disk", Target::Agent(name))
            if plan.region_of_agent(name).is_none_or(|region| region.spool_disk_bytes.is_none()) =>
        {
            Some(("to", "has no disk of its own; give its region spool_disk_bytes"))
        }
        _ => None,
    };
    wrong.map_or(Ok(()), |(key, message)| Err(section.tell(key, message)))
}

fn action(section: &Section<'_>, verb: &str, target: &Target, plan: &Plan) -> Found<Action> {
    Ok(match verb {
        "freeze" => Action::Freeze,
        "thaw" => Action::Thaw,
        "kill" => Action::Kill,
        "stop" => Action::Stop,
        "start" => Action::Start,
        "cut" => {
            let only = section.get("only", |value| {
                let word = text(value)?;
                cut_word(&word)
                    .filter(|cut| *cut != Cut::None)
                    .ok_or_else(|| "must be \"all\", \"mesh\" or \"replication\"".to_owned())
            })?;
            Action::Cut(only.unwrap_or(Cut::All))
        }
        "heal" => Action::Heal,
        "link" => {
            let mut settings = match target {
                Target::Link(from, to) => initial(plan, from, to),
                _ => LinkSettings::default(),
            };
            apply(section, &mut settings)?;
            let cuts = section.get("cut", |_| Ok(()))?.is_some();
            Action::Link(Box::new(LinkChange { settings, cuts }))
        }
        "pause-replay" => Action::PauseReplay,
        "resume-replay" => Action::ResumeReplay,
        "hold-snapshot" => Action::HoldSnapshot,
        "release-snapshot" => Action::ReleaseSnapshot,
        "drop-slot" => Action::DropSlot(section.require("slot", text)?),
        "promote" => Action::Promote,
        "rejoin" => Action::Rejoin(section.require("as", |value| {
            let word = text(value)?;
            let itself = |node: &str| matches!(target, Target::Server(name) if name == node);
            match word.strip_prefix("standby of ").filter(|node| plan.node(node).is_some() && !itself(node)) {
                Some(node) => Ok(node.to_owned()),
                None => Err("must be \"standby of NODE\" with another node of this file".to_owned()),
            }
        })?),
        "sql" => Action::Sql(section.require("sql", text)?),
        "disable-subscription" => Action::DisableSubscription,
        "enable-subscription" => Action::EnableSubscription,
        "break-subscription" => Action::BreakSubscription,
        "step-clock" => Action::StepClock(section.require("by", span_ns)?),
        "drift" => Action::Drift(section.require("ppm", |value| number(value, -1000.0..=1000.0))?),
        "claim" => Action::Claim(Claim {
            synchronised: section.switch("synchronised", true)?,
            max_error_ns: section.require("max_error", length_ns)?,
            ..Claim::default()
        }),
        "fill-disk" => Action::FillDisk,
        "free-disk" => Action::FreeDisk,
        "start-load" => {
            let clients = section.integer("clients", 1..=64, 2)?;
            let rate = section.integer("rate", 1..=1_000_000, 100)?;
            Action::StartLoad(u32::try_from(clients).unwrap_or(u32::MAX), u32::try_from(rate).unwrap_or(u32::MAX))
        }
        _ => Action::StopLoad,
    })
}

/// A link's settings before the first fault.
fn initial(plan: &Plan, from: &str, to: &str) -> LinkSettings {
    let link = plan.links.iter().find(|link| link.from == from && link.to == to);
    link.map(|link| link.settings.clone()).unwrap_or_default()
}

/// A target of one of the `kinds`, as in `agent tokyo` or `link dublin -> tokyo`.
pub(super) fn target(written: &str, kinds: &[&str], plan: &Plan) -> Result<Target, String> {
    let how = || {
        let examples = kinds.iter().map(|kind| match *kind {
            "link" => "\"link FROM -> TO\"".to_owned(),
            kind => format!("\"{kind} NAME\""),
        });
        format!("{written:?} is no target for this; write {}", examples.collect::<Vec<_>>().join(" or "))
    };
    let (kind, name) = written.split_once(' ').ok_or_else(how)?;
    if !kinds.contains(&kind) {
        return Err(how());
    }
    let name = name.trim();
    match kind {
        "link" => {
            let (from, to) = link(name, plan)?;
            Ok(Target::Link(from, to))
        }
        "region" => region(name, plan).map(Target::Region),
        "agent" => agent(name, plan).map(Target::Agent),
        "collector" => collector(name, plan).map(Target::Collector),
        "server" => node(name, plan).map(Target::Server),
        _ => node(name, plan).map(Target::Walreceiver),
    }
}

pub(super) fn link(written: &str, plan: &Plan) -> Result<(String, String), String> {
    let (from, to) = written.split_once("->").ok_or_else(|| format!("{written:?} is no link; write FROM -> TO"))?;
    let (from, to) = (region(from.trim(), plan)?, region(to.trim(), plan)?);
    if from == to { Err(format!("{from} has no link to itself")) } else { Ok((from, to)) }
}

pub(super) fn region(name: &str, plan: &Plan) -> Result<String, String> {
    known("region", name, plan.regions.iter().map(|region| region.name.as_str()))
}

pub(super) fn agent(name: &str, plan: &Plan) -> Result<String, String> {
    let names: Vec<String> = plan.regions.iter().flat_map(|region| plan.agents_of(region)).collect();
    known("agent", name, names.iter().map(String::as_str))
}

pub(super) fn collector(name: &str, plan: &Plan) -> Result<String, String> {
    known("collector", name, plan.collectors.iter().map(|collector| collector.name.as_str()))
}

pub(super) fn node(name: &str, plan: &Plan) -> Result<String, String> {
    known("node", name, plan.nodes().map(|node| node.name.as_str()))
}

/// `name`, if it is one of `names`; else what it should be.
pub(super) fn known<'a>(what: &str, name: &str, names: impl Iterator<Item = &'a str>) -> Result<String, String> {
    let names: Vec<&str> = names.collect();
    if names.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(match nearest(name, names.iter().copied()) {
        Some(meant) => format!("no {what} is called {name:?}; did you mean {meant:?}?"),
        None => format!("no {what} is called {name:?}; there are: {}", names.join(", ")),
    })
}
