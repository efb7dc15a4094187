//! How many beats pass until a frozen replication is named, by topology, and what the usual queries say meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lagmesh_model::state::ReplicationState;
use lagmesh_model::status::AgentStatus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::bed::Bed;
use super::usual_queries::{Asker, Sample, words};
use crate::bench::figure::Figure;
use crate::bench::{progress, say};
use crate::plan::{ClusterPlan, CollectorPlan, NodePlan, Plan, RegionPlan, Source};
use crate::real::Real;
use crate::wait;
use crate::wan::LinkPlan;
use crate::wan::path::LinkSettings;
use crate::world::World;

const MS: i64 = 1_000_000;
const EAST: &str = "east";
const WEST: &str = "west";
const DELAY_NS: i64 = 20 * MS;
/// The default, in which beats are counted [ns].
const BEAT_NS: i64 = 1_000 * MS;
/// What the delayed standby holds back on purpose.
const APPLY_DELAY_MS: u64 = 2_000;
const APPLY_DELAY_NS: i64 = 2_000 * MS;
/// How often the agent is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How often the usual queries are asked [ns].
const OTHERS_EVERY_NS: i64 = 500 * MS;
/// From fault to fault [ns]: no divisor of a beat's interval, so that each falls elsewhere in it.
const APART_NS: i64 = 773 * MS;
/// For how long everything stays frozen once the last one is [ns].
const HELD_NS: i64 = 10_000 * MS;
const WELL_WITHIN: Duration = Duration::from_secs(60);
/// How many beats may pass.
const TARGET: f64 = 3.0;

/// A kind of replication: one link of the world.
struct Topology {
    name: &'static str,
    about: &'static str,
    /// The writer of its cluster.
    origin: &'static str,
    /// The standby or subscriber.
    node: &'static str,
    /// What it streams from.
    source: &'static str,
    is_logical: bool,
    /// What it holds back on purpose [ns].
    delay_ns: i64,
}

impl Topology {
    const fn streaming(name: &'static str, about: &'static str, origin: &'static str, node: &'static str) -> Topology {
        Topology { name, about, origin, node, source: origin, is_logical: false, delay_ns: 0 }
    }
}

/// In the order in which they freeze: a cascade before what feeds it.
const TOPOLOGIES: [Topology; 6] = [
    Topology {
        source: "stream-db",
        ..Topology::streaming("cascade", "the walreceiver of a standby of a standby", "plain-db", "cascade-db")
    },
    Topology::streaming("streaming", "the walreceiver of an asynchronous standby", "plain-db", "stream-db"),
    Topology::streaming("synchronous", "the walreceiver of the only synchronous standby", "sync-db", "synced-db"),
    Topology::streaming(
        "quorum",
        "the walreceiver of one of two standbys of which any one is waited for",
        "quorum-db",
        "quorum-1-db",
    ),
    Topology {
        delay_ns: APPLY_DELAY_NS,
        ..Topology::streaming(
            "delayed",
            "the walreceiver of a standby that applies 2 s late on purpose (beats count from 2 s after that)",
            "plain-db",
            "delayed-db",
        )
    },
    Topology {
        is_logical: true,
        ..Topology::streaming("logical", "the apply worker of a subscription", "logical-db", "subscriber-db")
    },
];

/// One freeze.
#[derive(Debug, Clone, Default)]
struct Try {
    pid: Option<Pid>,
    since: Option<Real>,
    named: Option<(Real, ReplicationState)>,
    others: Vec<Sample>,
}

pub(super) fn plan() -> Plan {
    let region = |name: &str| RegionPlan { name: name.to_owned(), agents: 1, ..RegionPlan::default() };
    let link =
        |from: &str, to: &str| LinkPlan { from: from.to_owned(), to: to.to_owned(), settings: LinkSettings::delayed(DELAY_NS) };
    let node = |name: &str, region: &str, source: Source| NodePlan {
        name: name.to_owned(),
        region: region.to_owned(),
        source,
        ..NodePlan::default()
    };
    let follows = |name: &str, source: &str| node(name, WEST, Source::Follows(source.to_owned()));
    let own = |name: &str| node(name, EAST, Source::Own);
    let cluster = |name: &str, nodes| ClusterPlan { name: name.to_owned(), nodes, writers_max: 1, ..ClusterPlan::default() };
    let waits = |names: &str, cluster: ClusterPlan| ClusterPlan { synchronous_standby_names: Some(names.to_owned()), ..cluster };
    let delayed = NodePlan { apply_delay_ms: Some(APPLY_DELAY_MS), ..follows("delayed-db", "plain-db") };
    let subscriber = node("subscriber-db", WEST, Source::Subscribes("logical-db".to_owned()));
    let plain = vec![own("plain-db"), follows("stream-db", "plain-db"), follows("cascade-db", "stream-db"), delayed];
    let quorum = vec![own("quorum-db"), follows("quorum-1-db", "quorum-db"), follows("quorum-2-db", "quorum-db")];
    Plan {
        name: "bench-lag-frozen".to_owned(),
        seed: 1,
        regions: vec![region(EAST), region(WEST)],
        links: vec![link(EAST, WEST), link(WEST, EAST)],
        clusters: vec![
            cluster("plain", plain),
            waits("FIRST 1 (\"synced-db\")", cluster("sync", vec![own("sync-db"), follows("synced-db", "sync-db")])),
            waits("ANY 1 (\"quorum-1-db\", \"quorum-2-db\")", cluster("quorum", quorum)),
            ClusterPlan { writers_max: 2, ..cluster("logical", vec![own("logical-db"), subscriber]) },
        ],
        collectors: vec![CollectorPlan { name: "main".to_owned(), region: EAST.to_owned() }],
        ..Plan::default()
    }
}

/// Freezes everything so many times.
pub(super) async fn measure(rounds: u32) -> Result<()> {
    progress("six kinds of replication");
    let bed = Bed::start(plan(), &[]).await?;
    let mut askers = Vec::new();
    for topology in TOPOLOGIES.iter().filter(|topology| !topology.is_logical) {
        askers.push((topology.node, Asker::new(&bed.world, topology.node, topology.source).await?));
    }
    let mut rounds_of_tries = Vec::new();
    for round in 1..=rounds {
        well(&bed.world).await?;
        // No round begins in the same part of a beat as another.
        sleep(Duration::from_millis(u64::from(round) * 317)).await;
        progress(&format!("round {round} of {rounds}: each replication freezes"));
        let mut tries: Vec<Try> = TOPOLOGIES.iter().map(|_| Try::default()).collect();
        let frozen = freeze_all(&bed.world, &askers, &mut tries).await;
        for pid in tries.iter().filter_map(|one| one.pid) {
            // Whoever has gone need not go on.
            kill(pid, Signal::SIGCONT).ok();
        }
        frozen?;
        rounds_of_tries.push(tries);
    }
    for (number, topology) in TOPOLOGIES.iter().enumerate() {
        tell(topology, &rounds_of_tries.iter().map(|tries| &tries[number]).collect::<Vec<_>>());
    }
    say(&bed.stop().await?);
    Ok(())
}

/// Waits until every link is as it should be.
async fn well(world: &World) -> Result<()> {
    wait::until("every replication is well", WELL_WITHIN, || async {
        let status = world.agent_status(WEST).await?;
        for topology in &TOPOLOGIES {
            let state = state_of(&status, topology)?;
            ensure!(!is_named(topology, state), "{} is {state}", topology.node);
        }
        Ok(())
    })
    .await
}

fn state_of(status: &AgentStatus, topology: &Topology) -> Result<ReplicationState> {
    let link =
        status.replications.iter().find(|link| link.origin.as_str() == topology.origin && link.node.as_str() == topology.node);
    Ok(link.with_context(|| format!("no replication {} -> {}", topology.origin, topology.node))?.state)
}

/// Whether a state says that something is wrong: that a standby is delayed on purpose says nothing of the kind.
fn is_named(topology: &Topology, state: ReplicationState) -> bool {
    let usual = topology.delay_ns > 0 && state == ReplicationState::DelayedOnPurpose;
    state != ReplicationState::Ok && !usual
}

/// Freezes one after the other, asks until each is named, and holds all for a while.
async fn freeze_all(world: &World, askers: &[(&str, Asker)], tries: &mut [Try]) -> Result<()> {
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut next, mut others, mut last) = (Real::now(), Real::now(), None);
    loop {
        ticks.tick().await;
        let now = Real::now();
        if now >= next
            && let Some(number) = tries.iter().position(|one| one.since.is_none())
        {
            let pid = worker(world, &TOPOLOGIES[number]).await?;
            kill(pid, Signal::SIGSTOP).with_context(|| format!("freeze process {pid}"))?;
            let since = Real::now();
            (tries[number].pid, tries[number].since, last, next) = (Some(pid), Some(since), Some(since), now + APART_NS);
        }
        let status = world.agent_status(WEST).await?;
        let now = Real::now();
        for (topology, one) in
            TOPOLOGIES.iter().zip(tries.iter_mut()).filter(|(_, one)| one.since.is_some() && one.named.is_none())
        {
            let state = state_of(&status, topology)?;
            one.named = is_named(topology, state).then_some((now, state));
        }
        if now >= others {
            others = now + OTHERS_EVERY_NS;
            ask_others(askers, tries).await?;
        }
        let all = tries.iter().all(|one| one.since.is_some());
        if all && last.is_some_and(|last| now - last > HELD_NS) {
            return Ok(());
        }
    }
}

async fn ask_others(askers: &[(&str, Asker)], tries: &mut [Try]) -> Result<()> {
    for (topology, one) in TOPOLOGIES.iter().zip(tries.iter_mut()).filter(|(_, one)| one.since.is_some()) {
        if let Some((_, asker)) = askers.iter().find(|(node, _)| *node == topology.node) {
            one.others.push(asker.ask().await?);
        }
    }
    Ok(())
}

/// The process that brings the log.
async fn worker(world: &World, topology: &Topology) -> Result<Pid> {
    let server = world.servers().get(topology.node).with_context(|| format!("no server {}", topology.node))?;
    if !topology.is_logical {
        return server.walreceiver().await;
    }
    let sql = "SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL AND relid IS NULL";
    let Some(pid) = server.app(sql).await? else { bail!("no apply worker runs on {}", topology.node) };
    Ok(Pid::from_raw(pid.parse()?))
}

/// Beats from a freeze, or from the end of what is held back on purpose, until it was named; `None` if it never was. Named before what was
/// held back is used up, it took none.
fn beats(one: &Try, delay_ns: i64) -> Option<f64> {
    let ((at, _), since) = one.named.zip(one.since)?;
    Some(((at - since - delay_ns) as f64 / BEAT_NS as f64).max(0.0))
}

fn tell(topology: &Topology, tries: &[&Try]) {
    let beats: Vec<Option<f64>> = tries.iter().map(|one| beats(one, topology.delay_ns)).collect();
    let each: Vec<String> = tries
        .iter()
        .zip(&beats)
        .map(|(one, beats)| match (beats, one.named) {
            (Some(beats), Some((_, state))) => format!("{beats:.2} ({state})"),
            _ => "never".to_owned(),
        })
        .collect();
    say(&format!(
        "\nlag.frozen_beats/{}: {} stops (SIGSTOP); beats leave once a second; until the first answer of the reader's /v1/status, asked every {} ms, that is not ok. Tries: {}, which took {} beats; the largest",
        topology.name,
        topology.about,
        ASK_EVERY.as_millis(),
        tries.len(),
        each.join(", ")
    ));
    if topology.is_logical {
        say("the usual queries do not apply: the subscriber is not in recovery, for which the exporter's says 0");
    } else {
        for one in tries {
            let held_s = one.since.zip(one.others.last()).map_or(0.0, |(since, last)| (last.at - since) as f64 / 1e9);
            say(&format!("while it was frozen for {held_s:.0} s, {}", words(&one.others)));
        }
    }
    let largest = beats.iter().copied().try_fold(0.0_f64, |most, beats| Some(most.max(beats?)));
    match largest.filter(|_| !beats.is_empty()) {
        Some(most) => {
            let figure = Figure::new("lag.frozen_beats", "count", most, TARGET);
            say(&Figure { case: Some(topology.name.to_owned()), ..figure }.to_string());
        }
        None => say(&format!("lag.frozen_beats/{}: not measured: it was not named while everything was held", topology.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cases::tests::fleet;
    use super::*;

    /// The world is one that lagmesh takes, and each topology is a link of it from what its source says.
    #[test]
    fn world() {
        let plan = plan();
        assert_eq!(fleet(&plan).clusters.len(), 4);
        let links = plan.replications();
        for topology in &TOPOLOGIES {
            assert!(links.contains(&(topology.origin, topology.node)), "{}", topology.name);
            let (_, node) = plan.node(topology.node).unwrap();
            let source = topology.source.to_owned();
            assert!([Source::Follows(source.clone()), Source::Subscribes(source)].contains(&node.source), "{}", topology.name);
        }
    }

    /// Beats count from the freeze, or from when what was held back is used up; what was never named has no number.
    #[test]
    fn counting() {
        let one = |named: Option<i64>| Try {
            since: Some(Real(1_000 * MS)),
            named: named.map(|ms| (Real(ms * MS), ReplicationState::Silent)),
            ..Try::default()
        };
        assert_eq!(beats(&one(Some(3_500)), 0), Some(2.5));
        assert_eq!(beats(&one(Some(3_500)), 2_000 * MS), Some(0.5));
        assert_eq!(beats(&one(Some(1_500)), 2_000 * MS), Some(0.0));
        assert_eq!(beats(&one(None), 0), None);
    }

    /// Being delayed on purpose alarms nobody where it is on purpose.
    #[test]
    fn names() {
        use ReplicationState as S;
        let [cascade, .., delayed, _] = &TOPOLOGIES;
        let table = [
            (cascade, S::Ok, false),
            (cascade, S::DelayedOnPurpose, true),
            (delayed, S::DelayedOnPurpose, false),
            (delayed, S::Silent, true),
        ];
        for (topology, state, named) in table {
            assert_eq!(is_named(topology, state), named, "{} {state}", topology.name);
        }
    }
}
