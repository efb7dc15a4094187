//! A cluster as most are: everything by default, a beat a second. What a beat costs, and whether anybody is alarmed for nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use lagmesh_model::state::ReplicationState;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::bed::Bed;
use crate::bench::figure::Figure;
use crate::bench::{progress, say, say_figures, usage};
use crate::plan::{ClusterPlan, CollectorPlan, NodePlan, Plan, RegionPlan, Source};
use crate::postgres::Server;
use crate::real::Real;
use crate::wan::LinkPlan;
use crate::wan::path::LinkSettings;
use crate::world::World;

/// The region with the writer and one standby, and the other one's.
pub(super) const HOME: &str = "home";
pub(super) const AWAY: &str = "away";
pub(super) const HOME_DB: &str = "home-db";
const NEAR_DB: &str = "near-db";
const AWAY_DB: &str = "away-db";
const DELAY_NS: i64 = 20_000_000;
/// After a checkpoint each page is written in full once: by then a beat has gone to every row in turn, and both servers are at rest.
const PAGES_TOUCHED: Duration = Duration::from_secs(12);
/// How often agents are asked for states.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// The heavy load: as much as two servers and two agents on two processors carry without falling behind.
const LOAD_CLIENTS: u32 = 4;
const LOAD_PER_S: u32 = 400;

/// Two regions: a writer and a standby in one, a standby in the other, an agent in each.
pub(super) fn plan(name: &str, beat_interval: Option<Duration>) -> Plan {
    let region = |name: &str| RegionPlan { name: name.to_owned(), agents: 1, ..RegionPlan::default() };
    let node = |name: &str, region: &str, source: Source| NodePlan {
        name: name.to_owned(),
        region: region.to_owned(),
        source,
        // As a server is set up by itself; with `logical` it logs each new row as a whole.
        settings: vec!["wal_level = replica".to_owned()],
        ..NodePlan::default()
    };
    let link =
        |from: &str, to: &str| LinkPlan { from: from.to_owned(), to: to.to_owned(), settings: LinkSettings::delayed(DELAY_NS) };
    let follows = || Source::Follows(HOME_DB.to_owned());
    Plan {
        name: name.to_owned(),
        seed: 1,
        regions: vec![region(HOME), region(AWAY)],
        links: vec![link(HOME, AWAY), link(AWAY, HOME)],
        clusters: vec![ClusterPlan {
            name: "app".to_owned(),
            nodes: vec![node(HOME_DB, HOME, Source::Own), node(NEAR_DB, HOME, follows()), node(AWAY_DB, AWAY, follows())],
            beat_interval,
            writers_max: 1,
            ..ClusterPlan::default()
        }],
        collectors: vec![CollectorPlan { name: "main".to_owned(), region: AWAY.to_owned() }],
        ..Plan::default()
    }
}

/// A quiet stretch, and one under load.
pub(super) async fn measure(quiet: Duration, loaded: Duration) -> Result<()> {
    progress("a cluster with everything by default");
    let mut bed = Bed::start(plan("bench-lag-usual", None), &[]).await?;
    server(&bed.world)?.sql("CHECKPOINT", "postgres").await?;
    sleep(PAGES_TOUCHED).await;
    quiet_stretch(&mut bed, quiet).await?;
    progress(&format!("the same under load for {} s", loaded.as_secs()));
    bed.world.start_load(HOME_DB, LOAD_CLIENTS, LOAD_PER_S).await?;
    let states = states(&bed.world, &[HOME, AWAY], loaded).await?;
    tell_alarms(
        "load",
        &format!(
            "pgbench writes {LOAD_PER_S} transactions a second over {LOAD_CLIENTS} connections to the writer; both standbys are looked at"
        ),
        loaded,
        &states,
    );
    bed.world.loads().clear();
    say(&bed.stop().await?);
    Ok(())
}

async fn quiet_stretch(bed: &mut Bed, time: Duration) -> Result<()> {
    progress(&format!("nothing but beats for {} s", time.as_secs()));
    let pid = bed.world.agent(HOME)?.pid();
    let (since, cpu_s, wal) = (Real::now(), usage::cpu_s(pid)?, Wal::read(server(&bed.world)?).await?);
    let mut seen = States::default();
    let looking = async {
        seen = states(&bed.world, &[AWAY], time).await?;
        Ok(())
    };
    let near = async {
        sleep(time).await;
        Ok(())
    };
    let (near, away) = tokio::try_join!(bed.queries_per_beat(HOME, NEAR_DB, near), bed.queries_per_beat(AWAY, AWAY_DB, looking))?;
    let (used_s, time_s) = (usage::cpu_s(pid)? - cpu_s, (Real::now() - since) as f64 / 1e9);
    let after = Wal::read(server(&bed.world)?).await?;
    tell_queries(near, away);
    let written = Written::between(server(&bed.world)?, &wal, &after).await?;
    tell_wal(&wal, &after, &written, time_s);
    let how = format!(
        "lag.agent_cpu: an agent that watches a writer and a standby (a beat a second) and has one other agent on its mesh, everything by default (16 flows, ICMP beside, export every 10 s): its processor \
         time over {time_s:.0} s as a share of one core. The library that sets clocks in this testbed is loaded into it and makes each reading of a clock dearer"
    );
    say_figures(&how, &[Figure::new("lag.agent_cpu", "%", used_s / time_s * 100.0, 1.0)]);
    tell_alarms("idle", "nothing but beats is written; the standby of the other region is looked at", time, &seen);
    Ok(())
}

fn tell_queries(near: Option<f64>, away: Option<f64>) {
    let how = "lag.queries_per_beat/…: statements of lagmesh to a standby for each beat, a beat a second, everything by default; in the writer's own region (near) and 20 ms away. Those for positions \
               (once a second) and for facts, slots and traffic (every ten) are among them";
    let figure = |(case, queries): (&str, Option<f64>)| {
        queries
            .map(|queries| Figure { case: Some(case.to_owned()), ..Figure::new("lag.queries_per_beat", "count", queries, 6.0) })
    };
    let figures: Vec<Figure> = [("1hz-near", near), ("1hz-away", away)].into_iter().filter_map(figure).collect();
    say_figures(how, &figures);
}

fn server(world: &World) -> Result<&Server> {
    world.servers().get(HOME_DB).with_context(|| format!("no server {HOME_DB}"))
}

/// What the transactions that touch the heartbeat table wrote to the log between two positions, and all that touched it outside of one:
/// how many transactions, how many bytes. A record counts with its padding.
const LOG_OF_TABLE: &str = "WITH records AS (SELECT xid::text AS xid, end_lsn - start_lsn AS bytes, block_ref LIKE '%' || place.of || '%' AS touches \
     FROM (SELECT 'rel 1663/' || (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || pg_relation_filenode('lagmesh.beat') || ' ' AS of) place, \
     pg_get_wal_records_info('{since}', '{until}')), \
     ours AS (SELECT DISTINCT xid FROM records WHERE touches AND xid <> '0') \
     SELECT (SELECT count(*) FROM ours) || ' ' || coalesce(sum(bytes), 0) FROM records WHERE touches OR xid IN (SELECT xid FROM ours)";

/// Where the writer's log stood.
#[derive(Debug, Clone, PartialEq)]
struct Wal {
    position: String,
    bytes: f64,
    /// The number of the newest beat.
    beats: f64,
}

/// What heartbeats wrote.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Written {
    transactions: f64,
    bytes: f64,
}

impl Wal {
    async fn read(server: &Server) -> Result<Wal> {
        let position = ask(server, "SELECT pg_current_wal_flush_lsn()::text").await?;
        Ok(Wal {
            bytes: number(&ask(server, &format!("SELECT '{position}'::pg_lsn - '0/0'::pg_lsn")).await?)?,
            beats: number(&ask(server, "SELECT max(seq) FROM lagmesh.beat WHERE stream = 'beat'").await?)?,
            position,
        })
    }
}

impl Written {
    async fn between(server: &Server, since: &Wal, until: &Wal) -> Result<Written> {
        server.app("CREATE EXTENSION IF NOT EXISTS pg_walinspect").await?;
        let sql = LOG_OF_TABLE.replace("{since}", &since.position).replace("{until}", &until.position);
        Written::parse(&ask(server, &sql).await?)
    }

    fn parse(text: &str) -> Result<Written> {
        let (transactions, bytes) = text.split_once(' ').with_context(|| format!("{text} is no pair"))?;
        Ok(Written { transactions: number(transactions)?, bytes: number(bytes)? })
    }

    /// `None` if there was none.
    fn bytes_per_transaction(&self) -> Option<f64> {
        (self.transactions > 0.0).then(|| self.bytes / self.transactions)
    }
}

async fn ask(server: &Server, sql: &str) -> Result<String> {
    server.app(sql).await?.with_context(|| format!("nothing came of {sql}"))
}

fn number(text: &str) -> Result<f64> {
    text.parse().with_context(|| format!("{text} is no number"))
}

fn tell_wal(before: &Wal, after: &Wal, written: &Written, time_s: f64) {
    let how = format!(
        "lag.wal_bytes_per_beat: what heartbeats wrote to the writer's log in {time_s:.0} s in which nothing else was written: {:.0} beats, and {:.0} transactions of beats and ledger together, each of which updates one row. All \
         records of these transactions and all that touched the table (pg_walinspect), by the number of transactions, at wal_level = replica. It began {} s after a checkpoint, so that the first writes of whole pages are not in it. The log as a whole \
         grew by {:.0} bytes for each beat: the ledger, and what the server writes by itself (running transactions), are in that",
        after.beats - before.beats,
        written.transactions,
        PAGES_TOUCHED.as_secs(),
        (after.bytes - before.bytes) / (after.beats - before.beats),
    );
    match written.bytes_per_transaction() {
        Some(bytes) => say_figures(&how, &[Figure::new("lag.wal_bytes_per_beat", "By", bytes, 200.0)]),
        None => say(&format!("\n{how}\nlag.wal_bytes_per_beat: not measured: there was no beat")),
    }
}

/// The states that agents told of.
#[derive(Debug, Clone, Default)]
pub(super) struct States {
    answers: usize,
    /// How often each state other than ok began, by link.
    alarms: BTreeMap<(String, ReplicationState), usize>,
    newest: BTreeMap<String, ReplicationState>,
}

impl States {
    /// Takes in a state of a link. One that lasts is one alarm.
    pub(super) fn see(&mut self, link: &str, state: ReplicationState) {
        self.answers += 1;
        let before = self.newest.insert(link.to_owned(), state);
        if state != ReplicationState::Ok && before != Some(state) {
            *self.alarms.entry((link.to_owned(), state)).or_default() += 1;
        }
    }

    fn count(&self) -> usize {
        self.alarms.values().sum()
    }

    fn words(&self) -> String {
        let one = |((link, state), count): (&(String, ReplicationState), &usize)| format!("{count} x {state} of {link}");
        let words: Vec<String> = self.alarms.iter().map(one).collect();
        if words.is_empty() { "every one of them was ok".to_owned() } else { words.join(", ") }
    }
}

/// Asks the agents of some regions again and again for so long.
async fn states(world: &World, regions: &[&str], time: Duration) -> Result<States> {
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = Real::now() + i64::try_from(time.as_nanos())?;
    let mut states = States::default();
    while Real::now() < end {
        ticks.tick().await;
        for region in regions {
            for link in world.agent_status(region).await?.replications {
                states.see(&format!("{} -> {}", link.origin, link.node), link.state);
            }
        }
    }
    Ok(states)
}

fn tell_alarms(case: &str, about: &str, time: Duration, states: &States) {
    let how = format!(
        "lag.false_alarms/{case}: {about}. Agents were asked for their states every {} ms for {} s: {} states, {}. A state other than ok that lasts counts once",
        ASK_EVERY.as_millis(),
        time.as_secs(),
        states.answers,
        states.words()
    );
    let figure = Figure::new("lag.false_alarms", "count", states.count() as f64, 0.0);
    say_figures(&how, &[Figure { case: Some(case.to_owned()), ..figure }]);
}

#[cfg(test)]
mod tests {
    use super::super::cases::tests::fleet;
    use super::*;

    /// An agent at home watches two nodes and has one peer; the other agent watches one.
    #[test]
    fn world() {
        let fleet = fleet(&plan("usual", None));
        let of = |region: &str| fleet.nodes_of(&region.parse().unwrap()).count();
        assert_eq!((fleet.regions.len(), of(HOME), of(AWAY)), (2, 2, 1));
    }

    /// A state that lasts is one alarm, one that comes again is another, and ok is none.
    #[test]
    fn alarms() {
        use ReplicationState as S;
        let mut states = States::default();
        for state in [S::Ok, S::Silent, S::Silent, S::Unknown, S::Ok, S::Silent, S::Ok] {
            states.see("a -> b", state);
        }
        states.see("a -> c", S::Ok);
        assert_eq!((states.count(), states.answers), (3, 8));
        assert_eq!(states.words(), "2 x silent of a -> b, 1 x unknown of a -> b");
    }

    /// The log is shared out among the transactions that wrote it; without one there is nothing to share.
    #[test]
    fn log_per_transaction() {
        let of = |text| Written::parse(text).unwrap().bytes_per_transaction();
        assert_eq!((of("10 1400"), of("0 0")), (Some(140.0), None));
        assert!(Written::parse("10").is_err() && Written::parse("a b").is_err());
    }
}
