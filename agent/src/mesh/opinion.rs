//! Second opinions: other kinds of probes, one per peer region and interval, each on a schedule of its own.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lagmesh_daemon::{Clock, Crew, Shutdown, Supervisor};
use lagmesh_model::fleet::{Fleet, Mesh};
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::state::{Outcome, Phase, ProbeKind};
use lagmesh_model::time::{Reading, nanos};
use tokio::time::sleep;

use crate::measurement::{Observation, Observations, Probe};
use crate::mesh::flow::{Fate, Timing};
pub use crate::mesh::question::{BadQuestion, Question, Whom, questions};
use crate::mesh::schedule::{Schedule, phase, to_round};
use crate::mesh::{http, icmp, sql, tcp};
use crate::reload::Fleets;

/// How long a task may take to end that is not wanted any more: longer than a goodbye.
const PATIENCE: Duration = Duration::from_secs(5);

/// Attempts of several peers that are due within this are made together: each waking up costs more than an attempt.
const TOGETHER: Duration = Duration::from_millis(200);

/// What came back from one attempt, and the clock before and after it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Before it was made.
    pub started: Reading,
    /// When it ended.
    pub ended: Reading,
    /// How it ended.
    pub end: End,
    /// How long its parts took, as far as they ended [ns, > 0]; empty for kinds that need one round trip only.
    pub phases: Vec<(Phase, u64)>,
}

impl Attempt {
    /// An attempt in one part.
    pub fn new(started: Reading, ended: Reading, end: End) -> Attempt {
        Attempt { started, ended, end, phases: Vec::new() }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The host answered.
    Answered,
    /// Nothing came until the attempt was given up.
    Silence,
    /// It ended like this instead.
    Failed(Outcome),
}

/// The fate of an attempt. What needs several round trips is in time if none of its parts was late. If our own host stalled or its clock began a new epoch meanwhile, nothing can be said.
pub fn fate(attempt: &Attempt, timing: &Timing, stalled: bool) -> Fate {
    let Attempt { started, ended, end, phases } = attempt;
    if stalled || started.epoch != ended.epoch {
        return Fate::of(Outcome::Skipped);
    }
    match end {
        End::Failed(outcome) => Fate::of(*outcome),
        End::Silence => Fate::of(Outcome::Lost),
        End::Answered => {
            let rtt_ns = ended.raw.since_ns(started.raw).max(1).unsigned_abs();
            let longest_ns = phases.iter().map(|(_, took_ns)| *took_ns).max().unwrap_or(rtt_ns);
            let outcome = if longest_ns <= nanos(timing.deadline) { Outcome::InTime } else { Outcome::Late };
            Fate { outcome, rtt_ns: Some(rtt_ns) }
        }
    }
}

/// What every second opinion needs.
#[derive(Debug, Clone)]
pub struct Opinion {
    /// Who is probed.
    pub peer: RegionName,
    /// How.
    pub kind: ProbeKind,
    /// How often, and how long an answer may take.
    pub timing: Timing,
    /// When the first attempt is due after the start.
    pub phase: Duration,
    /// The clock.
    pub clock: Clock,
    /// Where fates go.
    pub observations: Observations,
}

/// The task that has the tasks of all second opinions that the fleet file asks for: one for each kind and peer region.
#[derive(Debug)]
struct Opinions {
    context: OpinionContext,
    pings: icmp::Pings,
    crew: Crew,
    /// What they ask, by their names.
    asked: BTreeMap<String, Question>,
}

/// What second opinions need.
#[derive(Debug)]
pub struct OpinionContext {
    /// The fleet file in force.
    pub fleets: Fleets,
    /// Our region.
    pub region: RegionName,
    /// Our name.
    pub agent: AgentName,
    /// The clock.
    pub clock: Clock,
    /// Where fates go.
    pub observations: Observations,
}

/// Starts the task of the second opinions.
///
/// # Errors
/// If a connection string cannot be understood. Who cannot be reached is data.
pub fn start(context: OpinionContext, supervisor: &mut Supervisor) -> anyhow::Result<()> {
    questions(&context.fleets.borrow(), &context.region)?;
    let crew = Crew::new(supervisor.shutdown());
    let opinions = Opinions { context, pings: icmp::Pings::default(), crew, asked: BTreeMap::new() };
    supervisor.spawn("mesh opinions", opinions.run(supervisor.shutdown()));
    Ok(())
}

impl Opinions {
    /// Follows the fleet file until shutdown.
    async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        loop {
            let fleet = Arc::clone(&self.context.fleets.borrow_and_update());
            self.ask(&fleet).await?;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(self.crew.join().await?),
                early = self.crew.early() => return Err(early.into()),
                Ok(()) = self.context.fleets.changed() => {}
            }
        }
    }

    /// Ends what is not asked any more, or elsewhere, and begins what is new.
    async fn ask(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        let wanted = questions(fleet, &self.context.region)?;
        let mut wanted: BTreeMap<String, Question> = wanted.into_iter().map(|question| (question.name(), question)).collect();
        let ended: Vec<String> = self
            .asked
            .iter()
            .filter(|(name, question)| wanted.get(*name) != Some(question))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            self.crew.end(&name, PATIENCE).await?;
            self.asked.remove(&name);
        }
        wanted.retain(|name, _| !self.asked.contains_key(name));
        for (name, question) in wanted {
            self.begin(&name, &question, &fleet.mesh);
            self.asked.insert(name, question);
        }
        Ok(())
    }

    fn begin(&mut self, name: &str, Question { peer, kind, whom }: &Question, mesh: &Mesh) {
        let OpinionContext { agent, clock, observations, .. } = &self.context;
        let opinion = Opinion {
            peer: peer.clone(),
            kind: *kind,
            timing: Timing { interval: mesh.interval_of(*kind), deadline: mesh.deadline, give_up: mesh.give_up_of(*kind) },
            phase: phase(&[agent.as_str(), peer.as_str(), kind.as_str()], mesh.interval_of(*kind)),
            clock: clock.clone(),
            observations: observations.clone(),
        };
        match whom.clone() {
            Whom::Host(host) => {
                let pings = self.pings.clone();
                self.crew.spawn(name, |stop| icmp::run(opinion, host, pings, stop));
            }
            Whom::Ports(ports) => self.crew.spawn(name, |stop| tcp::run(opinion, ports, stop)),
            Whom::Url(url) => {
                let target = http::Target::of(url, &opinion);
                self.crew.spawn(name, |stop| http::run(opinion, target, stop));
            }
            Whom::Database(info) => {
                let target = sql::Target::of(*info, &opinion);
                self.crew.spawn(name, |stop| sql::run(opinion, target, stop));
            }
        }
    }
}

impl Opinion {
    /// Makes attempts on schedule until shutdown; none waits for the one before. The attempts give up by themselves.
    pub async fn run<A: Future<Output = Attempt>>(&self, mut attempt: impl FnMut() -> A, shutdown: &Shutdown) {
        let start = self.clock.now();
        let first = to_round(start.raw, self.phase, self.timing.interval.min(TOGETHER));
        let (mut epoch, mut schedule) = (start.epoch, Schedule::new(start.raw, first, self.timing.interval));
        let (mut attempts, mut stalled_at) = (FuturesUnordered::<A>::new(), None);
        let attempts_max = self.attempts_max();
        loop {
            let wait = schedule.next().checked_since(self.clock.now().raw).unwrap_or(Duration::ZERO);
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(attempt) = attempts.next() => {
                    let stalled = schedule.is_stalled(attempt.ended.raw) || stalled_at.is_some_and(|at| attempt.started.raw < at);
                    self.tell(fate(&attempt, &self.timing, stalled), attempt.phases, attempt.ended);
                }
                () = sleep(wait.min(self.timing.interval)) => {
                    let now = self.clock.now();
                    if now.epoch != epoch {
                        epoch = now.epoch;
                        schedule.restart(now.raw);
                    }
                    let Some(due) = schedule.take(now.raw) else { continue };
                    stalled_at = if due.skipped > 0 { Some(now.raw) } else { stalled_at };
                    (0..due.skipped).for_each(|_| self.tell(Fate::of(Outcome::Skipped), Vec::new(), now));
                    match due.send {
                        true if attempts.len() < attempts_max => attempts.push(attempt()),
                        true => self.tell(Fate::of(Outcome::SendError), Vec::new(), now),
                        false => {}
                    }
                }
            }
        }
    }

    /// How many attempts may be out.
    fn attempts_max(&self) -> usize {
        match self.kind {
            ProbeKind::Stamp | ProbeKind::Icmp | ProbeKind::Tcp => {
                let out = nanos(self.timing.give_up) / nanos(self.timing.interval).max(1);
                usize::try_from(out).unwrap_or(usize::MAX).saturating_add(2)
            }
            // Each makes a server work.
            ProbeKind::Sql | ProbeKind::SqlKept | ProbeKind::Http => 1,
        }
    }

    /// Tells of the fate of an attempt.
    pub(super) fn tell(&self, fate: Fate, phases: Vec<(Phase, u64)>, at: Reading) {
        let Fate { outcome, rtt_ns } = fate;
        let phases = if outcome == Outcome::Skipped { Vec::new() } else { phases };
        self.observations.tell(Observation::Probe(Probe {
            peer: self.peer.clone(),
            agent: None,
            kind: self.kind,
            outcome,
            rtt_ns,
            phases,
            stamps: None,
            path: None,
            at,
        }));
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::time::{Epoch, RawNanos, WallNanos};

    use super::*;

    /// An answer is in time or late by its own time; silence is a loss; a new clock epoch leaves nothing to say.
    #[test]
    fn fates() {
        let timing =
            Timing { interval: Duration::from_secs(1), deadline: Duration::from_secs(1), give_up: Duration::from_secs(10) };
        let started = Reading { epoch: Epoch(1), raw: RawNanos(5_000), wall: WallNanos(0) };
        let after = |ms| started.after(Duration::from_millis(ms));
        let other = Reading { epoch: Epoch(2), ..after(5) };
        let table = [
            (after(20), End::Answered, Outcome::InTime, Some(20_000_000)),
            (started, End::Answered, Outcome::InTime, Some(1)),
            (after(1_001), End::Answered, Outcome::Late, Some(1_001_000_000)),
            (after(10_000), End::Silence, Outcome::Lost, None),
            (after(1), End::Failed(Outcome::Refused), Outcome::Refused, None),
            (other, End::Answered, Outcome::Skipped, None),
        ];
        for (ended, end, outcome, rtt_ns) in table {
            let attempt = Attempt::new(started, ended, end);
            assert_eq!(fate(&attempt, &timing, false), Fate { outcome, rtt_ns });
            assert_eq!(fate(&attempt, &timing, true), Fate::of(Outcome::Skipped));
        }
    }

    /// Several parts may take longer than the deadline together, but none alone.
    #[test]
    fn parts_are_late_alone() {
        let timing =
            Timing { interval: Duration::from_secs(60), deadline: Duration::from_secs(1), give_up: Duration::from_secs(10) };
        let started = Reading { epoch: Epoch(1), raw: RawNanos(5_000), wall: WallNanos(0) };
        for (connect_ms, query_ms, outcome) in [(900, 1_000, Outcome::InTime), (100, 1_001, Outcome::Late)] {
            let ended = started.after(Duration::from_millis(connect_ms + query_ms));
            let phases = vec![(Phase::Connect, connect_ms * 1_000_000), (Phase::Query, query_ms * 1_000_000)];
            let attempt = Attempt { phases, ..Attempt::new(started, ended, End::Answered) };
            let rtt_ns = Some((connect_ms + query_ms) * 1_000_000);
            assert_eq!(fate(&attempt, &timing, false), Fate { outcome, rtt_ns });
        }
    }
}
