//! Whole screens against golden text.

use std::collections::BTreeMap;

use lagmesh_model::directed::Directed;
use lagmesh_model::known::Known;
use lagmesh_model::state::{
    Axis, Basis, CommitLevel, LinkState, NodeRole, NodeState, ProbeKind, RegionState, ReplicationState, SlotState, Vote,
    WriteOutcome,
};
use lagmesh_model::status::{
    CastVote, Changed, Clocks, Cluster, Export, Ledger, Link, LinkKind, LinkPath, LogReach, Losses, Node, PathChange, Quantiles,
    Reach, Region, Replication, Seconds, Slot, Slots, Verdict, WallOffset,
};
use lagmesh_model::time::WallNanos;

use super::*;

const WHEN: WallNanos = WallNanos(1_790_000_000_000_000_000);

fn quantiles(p50_s: f64) -> Quantiles {
    Quantiles { samples: 960, min_s: p50_s * 0.99, p50_s, p99_s: p50_s * 1.1, max_s: p50_s * 2.0 }
}

fn link(region: &str, peer: &str, rtt_s: f64, lost: u64) -> Link {
    Link {
        region: region.parse().unwrap(),
        peer: peer.parse().unwrap(),
        state: if lost > 0 { LinkState::Lossy } else { LinkState::Ok },
        why: if lost > 0 { "loss over all flows is above 1 %".to_owned() } else { String::new() },
        flows_alive: Known::known(16),
        flows: 16,
        floor_s: None,
        kinds: vec![LinkKind {
            kind: ProbeKind::Stamp,
            rtt: Known::known(quantiles(rtt_s)),
            settled: 960,
            answered: 960 - lost,
            stamps: BTreeMap::new(),
            phases: BTreeMap::new(),
            socket: None,
        }],
        path: path(),
        disagreement: None,
        clock_error_s: Known::known(0.001),
        wall_offset_s: Known::unknown("not told"),
        clock_contradiction: None,
        mtu_bytes: Known::known(1500),
        route: None,
        evidence_age_s: Known::known(2.0),
    }
}

fn path() -> LinkPath {
    let oneway = |estimate_s: f64| Known::known(Seconds { lower_s: estimate_s - 0.002, estimate_s, upper_s: estimate_s + 0.002 });
    LinkPath {
        oneway: Directed { forward: oneway(0.033), backward: oneway(0.038) },
        delay_variation: Known::known(quantiles(0.000_4)),
        hops: Directed { forward: Known::known(11), backward: Known::unknown("no hop limit") },
        lost: Known::known(Losses { forward: 3, backward: 0, unknown: 1 }),
        changes: Known::known(1),
        newest_change: Some(PathChange {
            agent: "new-york-1".parse().unwrap(),
            flow: 7,
            age_s: 90.0,
            what: Changed::Delay { before_s: 0.071, after_s: 0.076 },
        }),
    }
}

fn silent_link(region: &str, peer: &str) -> Link {
    let why = "the agent of tokyo is silent";
    let kinds = vec![LinkKind {
        kind: ProbeKind::Stamp,
        rtt: Known::unknown(why),
        settled: 0,
        answered: 0,
        stamps: BTreeMap::new(),
        phases: BTreeMap::new(),
        socket: None,
    }];
    Link {
        state: LinkState::Unknown,
        why: why.to_owned(),
        kinds,
        path: LinkPath::unknown(why),
        flows_alive: Known::unknown(why),
        ..link(region, peer, 1.0, 0)
    }
}

fn replication(node: &str, region: &str, lag_s: f64) -> Replication {
    let seconds =
        |estimate_s: f64| Known::known(Seconds { lower_s: estimate_s - 0.000_6, estimate_s, upper_s: estimate_s + 0.000_6 });
    Replication {
        cluster: "orders".parse().unwrap(),
        origin: "ny-1".parse().unwrap(),
        region: region.parse().unwrap(),
        node: node.parse().unwrap(),
        state: ReplicationState::Ok,
        why: String::new(),
        lag: seconds(lag_s),
        lag_beat: Known::unknown("not read"),
        lag_recent: Known::known(quantiles(lag_s)),
        staleness: seconds(lag_s + 0.5),
        basis: Basis::Mesh,
        log: log(Known::known(0), Known::known(12_595)),
        loss: seconds(0.9),
        catch_up_s: Known::known(0.0),
        evidence_age_s: Known::known(2.0),
    }
}

fn log(to_receive: Known<u64>, to_replay: Known<u64>) -> LogReach {
    let reach = |backlog_bytes| Reach { backlog_bytes, ..Reach::default() };
    LogReach { received: reach(to_receive.clone()), flushed: reach(to_receive), replayed: reach(to_replay) }
}

fn node(name: &str, region: &str, role: NodeRole) -> Node {
    Node {
        cluster: "orders".parse().unwrap(),
        region: region.parse().unwrap(),
        node: name.parse().unwrap(),
        state: NodeState::Ok,
        why: String::new(),
        role: Known::known(role),
        version: Known::known(160_004),
        system: Known::unknown("not read"),
        timeline: Known::known(lagmesh_model::position::Timeline(1)),
        received: Known::unknown("not read"),
        replayed: Known::unknown("not read"),
        beat: Known::unknown("not read"),
        ledger: Known::unknown("not read"),
        slots: Known::unknown("not read"),
        followers: Known::unknown("not read"),
        evidence_age_s: Known::known(1.5),
    }
}

fn slot(name: &str, state: SlotState, exhaustion_s: Option<f64>) -> Slot {
    let keeps = state != SlotState::Lost;
    Slot {
        slot: name.to_owned(),
        logical: None,
        active: exhaustion_s.is_none() && keeps,
        state,
        retained_bytes: keeps.then_some(48 << 20),
        safe_bytes: exhaustion_s.map(|_| 16 << 20),
        exhaustion_s,
        inactive_s: None,
        invalidation_reason: (!keeps).then(|| "wal_removed".to_owned()),
    }
}

fn ledger(outcome: WriteOutcome, why: &str) -> Known<Ledger> {
    let why = why.to_owned();
    Known::known(Ledger { outcome, level: CommitLevel::On, why, acknowledged: None, acknowledged_age_s: Some(3.2) })
}

fn region(name: &str, state: RegionState, why: &str) -> Region {
    let verdict = |axis| Verdict { axis, state, stale: false, for_s: 725.0, why: why.to_owned(), votes: Vec::new() };
    let verdicts = Axis::ALL.iter().copied().map(verdict).collect();
    Region { region: name.parse().unwrap(), coordinates: None, verdicts, evidence_age_s: Known::known(4.0) }
}

/// Tokyo's agent is silent, New York loses packets to Dublin, the rest is well.
fn status() -> FleetStatus {
    let silent = "tokyo's agent has sent nothing for 2m 05s";
    let mut tokyo = region("tokyo", RegionState::Unknown, silent);
    tokyo.evidence_age_s = Known::Stale { value: 125.0, age_s: 125.0 };
    let mut to_tokyo = replication("tk-1", "tokyo", 0.1);
    to_tokyo.state = ReplicationState::Unknown;
    to_tokyo.why = silent.to_owned();
    to_tokyo.lag = Known::Stale { value: Seconds { lower_s: 0.099, estimate_s: 0.1, upper_s: 0.101 }, age_s: 125.0 };
    to_tokyo.staleness = Known::unknown(silent);
    to_tokyo.log = log(Known::unknown(silent), Known::unknown(silent));
    to_tokyo.loss = Known::unknown(silent);
    let mut tk = node("tk-1", "tokyo", NodeRole::Standby);
    tk.state = NodeState::Unknown;
    tk.why = silent.to_owned();
    tk.role = Known::unknown(silent);
    tk.ledger = Known::unknown(silent);
    tk.slots = Known::unknown(silent);
    let mut ny = node("ny-1", "new-york", NodeRole::Writer);
    ny.ledger = ledger(WriteOutcome::Acknowledged, "");
    ny.slots = Known::known(Slots { slots: vec![slot("db_1", SlotState::Reserved, None)], more: 0 });
    let mut db = node("db-1", "dublin", NodeRole::Standby);
    db.slots = Known::known(Slots { slots: Vec::new(), more: 0 });
    FleetStatus {
        fleet: "demo".to_owned(),
        version: "0.1.0".to_owned(),
        at: WHEN,
        regions: vec![region("new-york", RegionState::Healthy, ""), region("dublin", RegionState::Healthy, ""), tokyo],
        regions_reporting: 2,
        plan: "full".to_owned(),
        links: vec![
            link("new-york", "dublin", 0.071_2, 12),
            silent_link("new-york", "tokyo"),
            link("dublin", "new-york", 0.071_3, 0),
            silent_link("dublin", "tokyo"),
        ],
        nodes: vec![ny, db, tk],
        replications: vec![replication("db-1", "dublin", 0.038_1), to_tokyo],
        clusters: vec![Cluster {
            cluster: "orders".parse().unwrap(),
            writers: vec!["ny-1".parse().unwrap()],
            writers_max: 1,
            lag_objective_s: 5.0,
        }],
        clocks: clocks(),
    }
}

/// Dublin's wall clock is 2 s ahead; Tokyo measures nobody but Dublin.
fn clocks() -> Clocks {
    let offset = |region: &str, peer: &str, estimate_s: f64, error_s: f64, is_measured| WallOffset {
        region: region.parse().unwrap(),
        agent: region.parse().unwrap(),
        peer: peer.parse().unwrap(),
        peer_agent: peer.parse().unwrap(),
        offset_s: Known::known(Seconds { lower_s: estimate_s - error_s, estimate_s, upper_s: estimate_s + error_s }),
        is_measured,
    };
    let offsets = vec![
        offset("new-york", "dublin", 2.0, 0.036, true),
        offset("new-york", "tokyo", 0.010, 0.120, false),
        WallOffset { offset_s: Known::unknown("tokyo is silent"), ..offset("dublin", "tokyo", 0.0, 0.0, true) },
    ];
    Clocks { offsets, contradictions: Vec::new() }
}

/// The same from Dublin's agent, whose collector refuses it.
fn agent_status() -> AgentStatus {
    let FleetStatus { fleet, version, at, links, nodes, replications, .. } = status();
    let dublin = "dublin".parse().unwrap();
    AgentStatus {
        fleet,
        agent: "dublin-1".parse().unwrap(),
        boot: lagmesh_model::ids::BootId(7),
        version,
        at,
        links: links.into_iter().filter(|link| link.region == dublin).collect(),
        nodes: nodes.into_iter().filter(|node| node.region == dublin).collect(),
        replications: replications.into_iter().filter(|link| link.region == dublin).collect(),
        exports: vec![Export {
            collector: "main".parse().unwrap(),
            pending_bytes: 20_480,
            pending_batches: 3,
            acknowledged_age_s: Known::unknown("nothing was acknowledged yet"),
            error: Some("503 Service Unavailable".to_owned()),
        }],
        region: dublin,
    }
}

fn golden(shown: &str, golden: &str) {
    assert_eq!(shown, golden, "shown:\n{shown}");
}

/// A collector's status as a file shows it.
#[test]
fn wide() {
    golden(&fleet(&status(), Style::PLAIN), include_str!("golden/wide.txt"));
}

/// The same in a terminal of 72 columns: nothing is lost, and only the head and names are longer than a line.
#[test]
fn narrow() {
    let shown = fleet(&status(), Style { color: false, width: Some(72) });
    assert!(shown.lines().skip(1).all(|line| line.chars().count() <= 72));
    golden(&shown, include_str!("golden/narrow.txt"));
}

/// In a terminal that is too narrow for a matrix the links are a list.
#[test]
fn very_narrow() {
    let shown = fleet(&status(), Style { color: false, width: Some(36) });
    assert!(shown.contains("new-york -> dublin  71.2 ms  1.25 %\n    lossy\n"), "{shown}");
}

/// An agent's status shows its own links and its collectors.
#[test]
fn one_agent() {
    golden(&agent(&agent_status(), Style::PLAIN), include_str!("golden/agent.txt"));
}

/// Colours change no letter.
#[test]
fn colors() {
    let plain = fleet(&status(), Style::PLAIN);
    let colored = fleet(&status(), Style { color: true, width: None });
    let mut stripped = String::new();
    for (number, piece) in colored.split("\x1b[").enumerate() {
        stripped.push_str(if number == 0 { piece } else { piece.split_once('m').unwrap().1 });
    }
    assert_eq!(stripped, plain);
    assert!(colored.contains("\x1b[32mHEALTHY"), "{colored:?}");
}

/// A number of the last minute is not the present of a link that is unknown now.
#[test]
fn unknown_links_have_a_past() {
    let mut status = status();
    status.links[0] =
        Link { state: LinkState::Unknown, why: "not measured".to_owned(), ..link("new-york", "dublin", 0.071_2, 0) };
    let shown = fleet(&status, Style { color: true, width: None });
    assert!(shown.contains("\x1b[2mwas 71.2 ms\x1b[0m"), "{shown}");
    assert!(!shown.contains("0 %  unknown"), "{shown}");
}

/// Two clocks whose claims cannot both be true are named even where the link itself is well.
#[test]
fn clocks_that_contradict_their_claims() {
    let mut status = status();
    let words = "the two cannot both be right";
    status.links[0] = Link { clock_contradiction: Some(words.to_owned()), ..link("new-york", "dublin", 0.071_2, 0) };
    let shown = fleet(&status, Style::PLAIN);
    assert!(shown.contains(&format!("new-york -> dublin: {words}")), "{shown}");
}

/// Agents whose measurements cannot all be true are named; a collector that compares no clocks has no such section.
#[test]
fn wall_clocks() {
    let mut status = status();
    let [a, b] = ["ny-1", "db-1"].map(|name| name.parse().unwrap());
    status.clocks.contradictions = vec![vec![a, b]];
    let shown = fleet(&status, Style::PLAIN);
    assert!(shown.contains("ny-1, db-1: what these agents measured of each other's clocks cannot all be true"), "{shown}");
    let narrow = fleet(&status, Style { color: false, width: Some(44) });
    assert!(narrow.contains("new-york -> dublin  2.00 s ± 36.0 ms"), "{narrow}");
    status.clocks = Clocks::default();
    assert!(!fleet(&status, Style::PLAIN).contains("CLOCKS"));
}

/// A verdict that only stands is not shown as the present, and one of this moment has no digits.
#[test]
fn verdicts() {
    let mut status = status();
    status.regions[0].verdicts[0].for_s = 0.0;
    status.regions[1].verdicts[0].stale = true;
    status.regions[1].verdicts[0].why = "stale: no agent at all reports".to_owned();
    let shown = fleet(&status, Style { color: true, width: None });
    assert!(shown.contains("HEALTHY just now\x1b[0m"), "{shown}");
    assert!(shown.contains("\x1b[33mHEALTHY, stale\x1b[0m"), "{shown}");
    assert!(shown.contains("dublin (reads): stale: no agent at all reports"), "{shown}");
}

/// Who votes against a region that is not well, or may not vote, is told with the reason: that decides between outage and partition.
#[test]
fn votes_against() {
    let mut status = status();
    let cast = |vantage: &str, vote| CastVote { vantage: vantage.parse().unwrap(), vote, why: "its link".to_owned() };
    status.regions[1].verdicts[0].state = RegionState::Suspect;
    status.regions[1].verdicts[0].votes = vec![cast("new-york", Vote::Bad), cast("tokyo", Vote::Void), cast("paris", Vote::Good)];
    let shown = fleet(&status, Style::PLAIN);
    assert!(
        shown.contains("dublin (reads): new-york votes bad: its link\n  dublin (reads): tokyo votes void: its link"),
        "{shown}"
    );
    assert!(!shown.contains("paris"), "{shown}");
}

/// A lag within its own error has no digits of an estimate; one that is wholly negative is a contradiction and shown as it is.
#[test]
fn lag_within_its_error() {
    for (lower_s, upper_s, text) in [
        (-0.002, 0.003, "  at most 3.00 ms  "),
        (0.001, 0.003, "  2.00 ms ± 1.00 ms  "),
        (-0.003, -0.001, "  -2.00 ms ± 1.00 ms  "),
    ] {
        let mut status = status();
        status.replications[0].lag = Known::known(Seconds { lower_s, estimate_s: f64::midpoint(lower_s, upper_s), upper_s });
        let shown = fleet(&status, Style::PLAIN);
        assert!(shown.contains(text), "{shown}");
    }
}

/// Regions that are not planned to probe each other show a dash, in a list nothing, and one line says why; a link that the plan has
/// and nobody measures is unknown still.
#[test]
fn not_planned() {
    let mut status = status();
    status.plan = "hub".to_owned();
    let wide = fleet(&status, Style::PLAIN);
    let tokyo = wide.lines().filter(|line| line.starts_with("tokyo ")).nth(1).unwrap();
    assert_eq!(tokyo.split_whitespace().collect::<Vec<_>>(), ["tokyo", "—", "—", "·"]);
    assert_eq!(wide.matches("not planned: by the mesh plan (hub)").count(), 1, "{wide}");
    assert!(wide.contains("dublin -> tokyo: the agent of tokyo is silent"), "{wide}");
    let list = fleet(&status, Style { color: false, width: Some(36) });
    assert!(!list.contains("tokyo -> new-york") && list.contains("new-york -> tokyo"), "{list}");
}

/// What is unknown never shows as a number: a status without any evidence has no digit but those of its head and counts.
#[test]
fn nothing_known() {
    let mut status = status();
    status.links.clear();
    status.regions_reporting = 0;
    for link in &mut status.replications {
        link.lag = Known::unknown("no beat was seen");
        link.staleness = Known::unknown("no beat was seen");
        link.log = log(Known::unknown("no position"), Known::unknown("no position"));
        link.loss = Known::unknown("no position");
        link.evidence_age_s = Known::unknown("nothing came");
    }
    let shown = fleet(&status, Style::PLAIN);
    let links = shown.split("\nLINKS").nth(1).unwrap().split("\nREPLICATION").next().unwrap();
    assert!(!links.contains(|c: char| c.is_ascii_digit()), "{links}");
    let replication = shown.split("\nREPLICATION").nth(1).unwrap().split("\nCLUSTERS").next().unwrap();
    let rows: Vec<&str> = replication.lines().filter(|line| line.starts_with("ny-1 ->")).collect();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.matches("unknown").count() >= 5 && !row.contains('0')), "{replication}");
    assert!(replication.contains("(lag, staleness): no beat was seen"), "{replication}");
}

/// Writes that hang stand in the row of the node with how long ago they worked, and the reason below; a standby has no writes, which is
/// no trouble, and what worked once does not work now.
#[test]
fn writes_that_hang() {
    let mut status = status();
    status.nodes[0].ledger = ledger(WriteOutcome::InDoubt, "writes hang as applications get them");
    let shown = fleet(&status, Style { color: true, width: None });
    assert!(shown.contains("\x1b[31;1min-doubt, worked 3 s ago"), "{shown}");
    assert!(shown.contains("ny-1 (writes): writes hang as applications get them"), "{shown}");
    assert!(!shown.contains("db-1 (writes)"), "{shown}");
    let Known::Known { value } = ledger(WriteOutcome::Acknowledged, "") else { panic!() };
    status.nodes[0].ledger = Known::Stale { value, age_s: 60.0 };
    assert!(fleet(&status, Style::PLAIN).contains("  was work, 3 s ago  "), "{shown}");
}

/// Slots that end soon or have ended are loud and say what that means; one without a limit and one that keeps nothing do not look alike,
/// and what was read of a server that is silent is the past.
#[test]
fn slots_of_all_kinds() {
    let mut status = status();
    let slots = vec![
        slot("gone", SlotState::Lost, None),
        slot("late", SlotState::Unreserved, Some(600.0)),
        slot("idle", SlotState::Extended, Some(90_000.0)),
        slot("db_1", SlotState::Reserved, None),
    ];
    status.nodes[0].slots = Known::known(Slots { slots: slots.clone(), more: 2 });
    let shown = fleet(&status, Style { color: true, width: None });
    assert!(shown.contains("\x1b[31;1m10m 00s"), "within an hour is loud: {shown}");
    let plain = fleet(&status, Style::PLAIN);
    let row = |name: &str| {
        let line = plain.lines().find(|line| line.starts_with("ny-1") && line.contains(name)).unwrap();
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).skip(2).collect::<Vec<_>>()
    };
    assert_eq!(row("gone"), ["lost", "no", "—", "—", "—"]);
    assert_eq!(row("idle"), ["extended", "no", "48.0 MiB", "16.0 MiB", "1d 01h"]);
    assert_eq!(row("db_1"), ["reserved", "yes", "48.0 MiB", "no limit", "—"]);
    assert!(plain.contains("gone: lost (wal_removed): ") && plain.contains("ny-1: 2 more slots"), "{plain}");
    status.nodes[0].slots = Known::Stale { value: Slots { slots, more: 0 }, age_s: 60.0 };
    assert!(fleet(&status, Style::PLAIN).contains("ny-1  late  was unreserved"), "{plain}");
}
