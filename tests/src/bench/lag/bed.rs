//! A running world whose agents log each beat, and what a stretch of it came to.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use super::cases::{Case, Setting, WRITER};
use super::told::{Pairs, pair, told};
use crate::bench::progress;
use crate::observer::truth::Truth;
use crate::observer::{Observer, RESOLUTION, Watched};
use crate::plan::Plan;
use crate::real::Real;
use crate::run::sample::{Value, of_metrics};
use crate::wait;
use crate::wan::truth::RttTruth;
use crate::world::{Options, World};

/// What makes an agent log each beat.
pub(super) const EACH_BEAT: &[(&str, &str)] = &[("LAGMESH_LOG_FORMAT", "json"), ("LAGMESH_LOG", "info,lagmesh::beat=debug")];
/// How long a world may take until every lag is known.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long beats run before they count: polls learn when to come.
pub(super) const SETTLE: Duration = Duration::from_secs(5);
/// How long an agent may take to tell what it has counted.
const COUNTED_WITHIN: Duration = Duration::from_secs(30);
/// How long it takes until the last beats have arrived and are in the log.
const LAST_BEATS: Duration = Duration::from_secs(2);

/// A world that is ready.
pub(super) struct Bed {
    pub(super) world: World,
    since: Real,
}

/// What a stretch of time came to at the standby of a case, over all its readers.
pub(super) struct Measured {
    /// What was told beside what was true.
    pub(super) pairs: Pairs,
    /// Statements that lagmesh sent to the standby for each beat, the mean over all readers; those of positions and facts are among them.
    pub(super) queries_per_beat: Option<f64>,
    /// The fastest round trip between one of its agents and the writer's, without the time inside the answering host [ns].
    pub(super) fastest_ns: Option<i64>,
}

/// What an agent has counted of a node.
#[derive(Debug, Clone, Copy)]
struct Counted {
    queries: f64,
    beats: f64,
}

impl Bed {
    /// Builds a world and waits until every lag in it is known.
    ///
    /// # Errors
    /// If that is not possible here, or something stays unknown.
    pub(super) async fn start(plan: Plan, agent_env: &'static [(&'static str, &'static str)]) -> Result<Bed> {
        let options = Options { emulated: true, http_port: 0, agent_env };
        let mut world = World::start(plan, &options, &mut |line| progress(line)).await?;
        world.ready_within(READY_WITHIN).await?;
        Ok(Bed { world, since: Real::now() })
    }

    /// Watches all servers of a setting for so long, while `meanwhile` goes on, which ends when it likes.
    ///
    /// # Errors
    /// If an agent does not answer, or the observer cannot look.
    pub(super) async fn watch(
        &mut self,
        setting: &Setting,
        time: Duration,
        meanwhile: impl Future<Output = Result<()>>,
    ) -> Result<(Vec<Measured>, Truth)> {
        sleep(SETTLE).await;
        // Not while the observer looks: it goes first, and on a busy machine nobody else would get round to answering.
        let (since, before) = (Real::now(), self.counts(setting).await?);
        let watched: Vec<Watched> =
            self.world.servers().iter().map(|(node, server)| Watched::new(node, server)).collect::<Result<_>>()?;
        let observer = Observer::start(&watched, RESOLUTION)?;
        let ((), meanwhile) = tokio::join!(sleep(time), meanwhile);
        sleep(LAST_BEATS).await;
        let (truth, reports) = tokio::task::spawn_blocking(move || observer.stop()).await.context("end the observer")?;
        meanwhile?;
        let after = self.counts(setting).await?;
        for report in reports {
            progress(&report.to_string());
        }
        let mut measured = Vec::new();
        for (number, case) in setting.cases.iter().enumerate() {
            measured.push(Measured {
                pairs: self.pairs(case, &truth)?,
                queries_per_beat: per_beat(&before[number], &after[number]),
                fastest_ns: self.fastest_ns(case, since)?,
            });
        }
        Ok((measured, truth))
    }

    /// The agents of a case.
    fn readers(&self, case: &Case) -> Result<Vec<String>> {
        let plan = self.world.plan();
        Ok(plan.agents_of(plan.region(case.name).with_context(|| format!("no region {}", case.name))?))
    }

    /// What each reader of each case has counted.
    async fn counts(&self, setting: &Setting) -> Result<Vec<Vec<Counted>>> {
        let mut counts = Vec::new();
        for case in &setting.cases {
            let mut of_case = Vec::new();
            for agent in self.readers(case)? {
                of_case.push(self.counted(&agent, &case.node()).await?);
            }
            counts.push(of_case);
        }
        Ok(counts)
    }

    async fn counted(&self, agent: &str, node: &str) -> Result<Counted> {
        let client = self.world.agent_client(agent)?;
        // Statements and beats stand on one page, so it may come late on a busy machine.
        wait::until(&format!("{agent} tells what it has counted at {node}"), COUNTED_WITHIN, || async {
            counted(&client.get("metrics").await?, node).context("it has counted nothing there")
        })
        .await
    }

    /// Statements for each beat that an agent saw at a node, over so long.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub(super) async fn queries_per_beat(
        &self,
        agent: &str,
        node: &str,
        time: impl Future<Output = Result<()>>,
    ) -> Result<Option<f64>> {
        let before = self.counted(agent, node).await?;
        time.await?;
        Ok(per_beat(&[before], &[self.counted(agent, node).await?]))
    }

    fn pairs(&mut self, case: &Case, truth: &Truth) -> Result<Pairs> {
        let mut pairs = Pairs::default();
        for agent in self.readers(case)? {
            let log = self.world.agent(&agent)?.output()?;
            pairs.append(pair(told(&log), &case.node(), truth));
        }
        Ok(pairs)
    }

    /// Either may probe the other: both learn from it.
    fn fastest_ns(&self, case: &Case, since: Real) -> Result<Option<i64>> {
        let wan = self.world.wan().context("there is no emulated network")?;
        let (writer, reader) = (wan.host(WRITER)?.id(), wan.host(case.name)?.id());
        let mut fastest: Option<i64> = None;
        for (from, to, region) in [(reader, writer, WRITER), (writer, reader, case.name)] {
            for port in self.world.mesh_ports(region)? {
                let trips = wan.log().rtt_truth(from, to, port, since, Real::now());
                fastest = trips.iter().map(|RttTruth { rtt_ns, .. }| *rtt_ns).chain(fastest).min();
            }
        }
        Ok(fastest)
    }

    /// Ends everything, and says how well the network did its work.
    ///
    /// # Errors
    /// If a program has ended by itself.
    pub(super) async fn stop(mut self) -> Result<String> {
        let fallen = self.world.fallen();
        let quality =
            self.world.wan().map(|wan| crate::selftest::router_line("this world", &wan.quality(), Real::now() - self.since));
        if !fallen.is_empty() {
            self.world.keep_folder();
        }
        // What was frozen or held up may not end well; what matters has been asked.
        self.world.stop().await.ok();
        ensure!(fallen.is_empty(), "{}", fallen.join("; "));
        Ok(quality.unwrap_or_default())
    }
}

fn counted(page: &str, node: &str) -> Option<Counted> {
    let of = |name: &str| match of_metrics(page, name, &[("node".to_owned(), node.to_owned())]) {
        Value::Number(number) => Some(number),
        _ => None,
    };
    Some(Counted { queries: of("lagmesh_node_queries_total")?, beats: of("lagmesh_replication_beats_total")? })
}

/// The mean over all readers, each of which looks for each beat by itself; `None` without a beat.
fn per_beat(before: &[Counted], after: &[Counted]) -> Option<f64> {
    let sum = |of: fn(&Counted) -> f64, counts: &[Counted]| counts.iter().map(of).sum::<f64>();
    let grown = |of: fn(&Counted) -> f64| sum(of, after) - sum(of, before);
    let beats = grown(|counted| counted.beats);
    (beats > 0.0).then(|| grown(|counted| counted.queries) / beats)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is counted of other nodes does not count, and a node that is not there is not zero.
    #[test]
    fn counts() {
        let page = "lagmesh_node_queries_total{node=\"a\"} 70\nlagmesh_node_queries_total{node=\"b\"} 9\n\
                    lagmesh_replication_beats_total{node=\"a\",objective=\"met\"} 10\nlagmesh_replication_beats_total{node=\"a\",objective=\"unknown\"} 2\n";
        let counted = counted(page, "a").unwrap();
        assert!((counted.queries - 70.0).abs() < 1e-9 && (counted.beats - 12.0).abs() < 1e-9);
        assert!(super::counted(page, "c").is_none());
    }

    /// Statements per beat are those of all readers by the beats of all readers; without a beat there are none.
    #[test]
    fn queries() {
        let at = |queries, beats| Counted { queries, beats };
        let (before, after) = ([at(100.0, 10.0), at(0.0, 0.0)], [at(160.0, 20.0), at(40.0, 10.0)]);
        assert_eq!(per_beat(&before, &after), Some(5.0));
        assert_eq!(per_beat(&before, &before), None);
    }
}
