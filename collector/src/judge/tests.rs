use lagmesh_model::state::{LinkState, NodeRole, NodeState, RegionState, ReplicationState, Vote};

use super::*;
use crate::fixture::{Says, at, fleet, planned_fleet, region};

use LinkState::{Down, Grey, Lossy, Ok as Up, Unknown as Unmeasured};
use RegionState as S;

/// Runs a story: every 10 s each region that is given a voice says what it says; the judge looks every second.
struct Court {
    fleet: Fleet,
    view: View,
    judge: Judge,
    second: u64,
    last: BTreeMap<RegionName, Vec<Verdict>>,
}

impl Court {
    fn new(regions: &[&str], nodes: &[&str]) -> Court {
        Court::of(fleet(regions, nodes))
    }

    fn of(fleet: Fleet) -> Court {
        let (view, judge) = (View::new(fleet.export.interval), Judge::new(&fleet, Vec::new()));
        Court { fleet, view, judge, second: 0, last: BTreeMap::new() }
    }

    fn run(&mut self, seconds: u64, say: impl Fn(u64) -> Vec<Says>) {
        let until = self.second + seconds;
        while self.second < until {
            if self.second.is_multiple_of(10) {
                for says in say(1 + self.second / 10) {
                    self.view.accept(says.batch(), at(self.second));
                }
            }
            self.last = self.judge.step(&self.fleet, &self.view, at(self.second));
            self.second += 1;
        }
    }

    fn verdict(&self, name: &str, axis: Axis) -> &Verdict {
        self.last[&region(name)].iter().find(|verdict| verdict.axis == axis).unwrap()
    }

    #[track_caller]
    fn expect(&self, name: &str, reads: RegionState, writes: RegionState) {
        for (axis, state) in [(Axis::Reads, reads), (Axis::Writes, writes)] {
            let verdict = self.verdict(name, axis);
            assert_eq!(verdict.state, state, "{name} {axis} after {} s: {}", self.second, verdict.why);
        }
    }
}

const THREE: [&str; 3] = ["a", "b", "c"];

/// What region `name` says when its links are `links` (to the other two, in order) and its own node is fine; `a` has the writer.
fn voice(name: &str, sequence: u64, links: [LinkState; 2]) -> Says {
    let peers = THREE.iter().filter(|peer| **peer != name);
    let says = peers.zip(links).fold(Says::new(name, sequence), |says, (peer, state)| says.link(peer, state));
    match name {
        "a" => says.node(NodeState::Ok, Some(NodeRole::Writer)).writes(sequence * 10, 0),
        _ => says.node(NodeState::Ok, Some(NodeRole::Standby)),
    }
}

fn all_well(sequence: u64) -> Vec<Says> {
    THREE.map(|name| voice(name, sequence, [Up, Up])).into()
}

/// Nothing is judged before anything was measured, and the first good evidence makes all axes healthy.
#[test]
fn boot() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(20, |_| Vec::new());
    for name in THREE {
        court.expect(name, S::Unknown, S::Unknown);
    }
    assert_eq!(court.verdict("a", Axis::Reads).why, "no agent at all reports to this collector");
    court.run(40, all_well);
    for name in THREE {
        court.expect(name, S::Healthy, S::Healthy);
    }
    assert!(court.verdict("b", Axis::Writes).why.contains("no writer here"));
    assert!(court.verdict("b", Axis::Reads).votes.iter().all(|vote| vote.vote == Vote::Good));
}

/// Of three regions one dies: suspect after 15 s of bad votes, down after 90 s, and only that one. It comes back through RECOVERING.
#[test]
fn one_of_three_dies_and_returns() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    let dead = |sequence| vec![voice("a", sequence, [Up, Down]), voice("b", sequence, [Up, Down])];
    court.run(14, dead);
    court.expect("c", S::Healthy, S::Healthy);
    court.run(20, dead);
    court.expect("c", S::Suspect, S::Suspect);
    assert!(court.verdict("c", Axis::Reads).why.contains("2 of 2 vantages cannot reach it (a, b)"));
    court.run(70, dead);
    court.expect("c", S::Suspect, S::Suspect);
    court.run(10, dead);
    court.expect("c", S::Down, S::Down);
    court.expect("a", S::Healthy, S::Healthy);
    court.expect("b", S::Healthy, S::Healthy);
    court.run(60, all_well);
    court.expect("c", S::Recovering, S::Recovering);
    court.run(300, all_well);
    court.expect("c", S::Healthy, S::Healthy);
}

/// The 43 s partition of 2018: suspicion, never DOWN.
#[test]
fn a_partition_of_43_seconds_is_not_down() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    let mut worst = Vec::new();
    for second in 0..240 {
        court.run(1, |sequence| {
            if second < 43 {
                vec![voice("a", sequence, [Up, Down]), voice("b", sequence, [Up, Down])]
            } else {
                all_well(sequence)
            }
        });
        worst.push(court.verdict("c", Axis::Reads).state);
    }
    assert!(!worst.contains(&S::Down));
    court.expect("c", S::Healthy, S::Healthy);
}

/// With two regions no verdict goes beyond SUSPECT, however long it lasts, and it says why. A witness changes that.
#[test]
fn two_regions_cannot_tell() {
    let mut court = Court::new(&["a", "b"], &["a", "b"]);
    let both = |sequence| {
        let node = |says: Says, role| says.node(NodeState::Ok, Some(role));
        vec![
            node(Says::new("a", sequence).link("b", Up), NodeRole::Writer),
            node(Says::new("b", sequence).link("a", Up), NodeRole::Standby),
        ]
    };
    court.run(60, both);
    court.expect("b", S::Healthy, S::Healthy);
    court.run(600, |sequence| vec![Says::new("a", sequence).link("b", Down).node(NodeState::Ok, Some(NodeRole::Writer))]);
    court.expect("b", S::Suspect, S::Suspect);
    assert!(court.verdict("b", Axis::Reads).why.contains("cannot tell a partition from an outage"));

    let mut witnessed = Court::new(&THREE, &["a", "b"]);
    let witness = |sequence, to_b| Says::new("c", sequence).link("a", Up).link("b", to_b);
    witnessed.run(60, |sequence| vec![voice("a", sequence, [Up, Up]), voice("b", sequence, [Up, Up]), witness(sequence, Up)]);
    witnessed.expect("c", S::Healthy, S::Healthy);
    assert!(witnessed.verdict("c", Axis::Writes).why.contains("it has no node"));
    witnessed.run(200, |sequence| vec![voice("a", sequence, [Down, Up]), witness(sequence, Down)]);
    witnessed.expect("b", S::Down, S::Down);
}

/// A cut between a and b, both reached by c: nobody goes down, the disagreement is named.
#[test]
fn an_asymmetric_partition_is_grey() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    let cut = |sequence| vec![voice("a", sequence, [Down, Up]), voice("b", sequence, [Up, Up]), voice("c", sequence, [Up, Up])];
    court.run(300, cut);
    court.expect("a", S::Healthy, S::Healthy);
    court.expect("b", S::Degraded, S::Degraded);
    assert_eq!(court.verdict("b", Axis::Reads).why, "vantages disagree: a cannot reach it, c can");
}

/// A region that loses all others loses its vote: it takes nobody down with it, and while it still reports it is not down itself.
#[test]
fn an_isolated_vantage_has_no_vote() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    let isolated =
        |sequence| vec![voice("a", sequence, [Down, Down]), voice("b", sequence, [Down, Up]), voice("c", sequence, [Down, Up])];
    court.run(300, isolated);
    court.expect("b", S::Healthy, S::Healthy);
    court.expect("c", S::Healthy, S::Healthy);
    court.expect("a", S::Suspect, S::Suspect);
    assert!(court.verdict("a", Axis::Reads).why.contains("a partition rather than an outage"));
    let vote = court.verdict("b", Axis::Reads).votes.iter().find(|vote| vote.vantage == region("a")).unwrap();
    assert_eq!((vote.vote, vote.why.as_str()), (Vote::Void, "a is isolated: it reaches 0 of 1 other regions"));
}

/// An agent dies while its region lives: nothing is known about the region, which is not the same as down.
#[test]
fn a_dead_agent_is_unknown() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    let silent = |sequence| vec![voice("a", sequence, [Up, Unmeasured]), voice("b", sequence, [Up, Unmeasured])];
    court.run(300, silent);
    court.expect("c", S::Unknown, S::Unknown);
    court.expect("a", S::Healthy, S::Healthy);
    assert_eq!(court.verdict("c", Axis::Reads).why, "its own agent does not report, and no other region can tell");
}

/// The region's own agent cannot reach its node: that is enough for SUSPECT, and never for DOWN by itself.
#[test]
fn a_negative_self_report_is_decisive_for_suspect() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    let broken = |sequence| {
        let c = Says::new("c", sequence).link("a", Up).link("b", Up).node(NodeState::Unreachable, None);
        vec![voice("a", sequence, [Up, Up]), voice("b", sequence, [Up, Up]), c]
    };
    court.run(300, broken);
    court.expect("c", S::Suspect, S::Suspect);
    assert_eq!(court.verdict("c", Axis::Reads).why, "its own agent cannot reach c-db");
}

/// Reads and writes are separate: late replication hurts reads where it arrives, failing writes hurt writes where they start.
#[test]
fn axes_are_separate() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    let troubled = |sequence: u64| {
        let a = Says::new("a", sequence).link("b", Up).link("c", Up).node(NodeState::Ok, Some(NodeRole::Writer));
        let c = voice("c", sequence, [Up, Up]).replication("a", ReplicationState::Stalled);
        vec![a.writes(60, sequence * 10), voice("b", sequence, [Up, Up]).replication("a", ReplicationState::Ok), c]
    };
    court.run(100, troubled);
    court.expect("a", S::Healthy, S::Suspect);
    court.expect("b", S::Healthy, S::Healthy);
    court.expect("c", S::Degraded, S::Healthy);
    assert_eq!(court.verdict("c", Axis::Reads).why, "replication from a-db to c-db is stalled");
}

/// A writer that announces no beats gets bad votes on writes alone.
#[test]
fn writer_down_is_a_vote_on_writes() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    let silent = |sequence| {
        let standby = |name| voice(name, sequence, [Up, Up]).replication("a", ReplicationState::WriterDown);
        vec![Says::new("a", sequence).link("b", Up).link("c", Up).node(NodeState::Hanging, None), standby("b"), standby("c")]
    };
    court.run(200, silent);
    court.expect("a", S::Suspect, S::Down);
    court.expect("b", S::Healthy, S::Healthy);
}

/// Lossy or grey links degrade a region when most of those that reach it say so, and beats that arrive prove it alive without probes.
#[test]
fn impaired_links() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    court.run(60, |sequence| {
        vec![voice("a", sequence, [Lossy, Up]), voice("b", sequence, [Up, Up]), voice("c", sequence, [Up, Grey])]
    });
    court.expect("b", S::Degraded, S::Degraded);
    court.expect("a", S::Healthy, S::Healthy);
    court.run(200, |sequence| {
        let b = voice("b", sequence, [Down, Up]).replication("a", ReplicationState::Ok);
        vec![voice("a", sequence, [Up, Up]), b, voice("c", sequence, [Up, Up])]
    });
    court.expect("a", S::Healthy, S::Healthy);
}

/// When no agent reports at all the last state stands, marked as stale; a restart resumes it, and agents get time to report.
#[test]
fn blind_holds_the_last_state() {
    let mut court = Court::new(&THREE, &THREE);
    court.run(60, all_well);
    let dead = |sequence| vec![voice("a", sequence, [Up, Down]), voice("b", sequence, [Up, Down])];
    court.run(160, dead);
    court.expect("c", S::Down, S::Down);
    court.run(100, |_| Vec::new());
    court.expect("a", S::Healthy, S::Healthy);
    court.expect("c", S::Down, S::Down);
    assert!(court.verdict("a", Axis::Reads).stale && court.verdict("a", Axis::Reads).why.ends_with("so the last state stands"));

    let memories = court.judge.memories();
    court.judge = Judge::new(&court.fleet, memories);
    court.run(10, |sequence| vec![voice("a", sequence, [Up, Down])]);
    court.expect("b", S::Healthy, S::Healthy);
    court.expect("c", S::Down, S::Down);
    assert!(court.verdict("b", Axis::Reads).stale, "only a has reported since the restart");
    court.run(60, dead);
    assert!(!court.verdict("b", Axis::Reads).stale);
    court.expect("b", S::Healthy, S::Healthy);
    court.expect("c", S::Down, S::Down);
}

/// Two partitions of 43 s with a restart of the collector, or time in which nobody reported, in between are not one of 90 s.
#[test]
fn two_short_partitions_are_not_a_long_one() {
    for is_restart in [true, false] {
        let mut court = Court::new(&THREE, &THREE);
        court.run(60, all_well);
        let dead = |sequence| vec![voice("a", sequence, [Up, Down]), voice("b", sequence, [Up, Down])];
        court.run(80, dead);
        court.expect("c", S::Suspect, S::Suspect);
        if is_restart {
            court.judge = Judge::new(&court.fleet, court.judge.memories());
        }
        court.run(50, |_| Vec::new());
        court.run(50, dead);
        court.expect("c", S::Suspect, S::Suspect);
        court.run(60, dead);
        court.expect("c", S::Down, S::Down);
    }
}

/// An agent that reports but cannot watch its node: nobody can tell how users fare, its silent beats are no votes, and a region that
/// reports is never called down.
#[test]
fn a_hidden_node_is_not_a_dead_region() {
    for state in [NodeState::Refused, NodeState::MissingTable, NodeState::Unknown] {
        let mut court = Court::new(&THREE, &THREE);
        court.run(60, all_well);
        let hidden = |sequence, link| {
            let standby = |name| voice(name, sequence, [link, Up]).replication("a", ReplicationState::WriterDown);
            let a = Says::new("a", sequence).link("b", Up).link("c", Up).node(state, Some(NodeRole::Writer));
            vec![a, standby("b"), standby("c")]
        };
        court.run(300, |sequence| hidden(sequence, Up));
        court.expect("a", S::Unknown, S::Unknown);
        court.run(300, |sequence| hidden(sequence, Down));
        court.expect("a", S::Suspect, S::Suspect);
        assert!(court.verdict("a", Axis::Reads).why.contains("a partition rather than an outage"));
    }
}

/// In a hub plan of two hubs and two others, those that probe a region vote about it and nobody else: two hubs can call a silent
/// region down, and a region that nobody but one hub probes is never called so.
#[test]
fn only_those_vote_who_probe() {
    const FOUR: [&str; 4] = ["a", "b", "c", "d"];
    for (hubs, voters, state) in [("[\"a\", \"b\"]", 2, S::Down), ("[\"a\"]", 1, S::Suspect)] {
        let fleet = planned_fleet(&FOUR, &FOUR, &format!("plan = \"hub\"\nhubs = {hubs}"));
        let say = |sequence, dead: &str| -> Vec<Says> {
            let voice = |name: &&str| {
                let name_of = region(name);
                let peers = fleet.peers_of(&name_of).map(|peer| peer.name.as_str());
                let link = |says: Says, peer| says.link(peer, if peer == dead { Down } else { Up });
                let role = if *name == "a" { NodeRole::Writer } else { NodeRole::Standby };
                peers.fold(Says::new(name, sequence), link).node(NodeState::Ok, Some(role))
            };
            FOUR.iter().filter(|name| **name != dead).map(voice).collect()
        };
        let mut court = Court::of(fleet.clone());
        court.run(60, |sequence| say(sequence, "nobody"));
        court.expect("d", S::Healthy, S::Healthy);
        assert_eq!(court.verdict("d", Axis::Reads).votes.len(), voters);
        court.run(130, |sequence| say(sequence, "d"));
        assert_eq!(court.verdict("d", Axis::Reads).state, state, "{}", court.verdict("d", Axis::Reads).why);
        court.expect("c", S::Healthy, S::Healthy);
    }
}
