//! Second opinions: other kinds of probes, one per peer region and interval, each on a schedule of its own.

use std::future::Future;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lagmesh_daemon::{Clock, Shutdown, Supervisor};
use lagmesh_model::ids::RegionName;
use lagmesh_model::state::{Outcome, ProbeKind};
use lagmesh_model::time::{Reading, nanos};
use tokio::time::sleep;

use crate::measurement::{Observation, Observations, Probe};
use crate::mesh::flow::{Fate, Timing};
use crate::mesh::schedule::{Schedule, phase};
use crate::mesh::{MeshContext, icmp, tcp};

/// What came back from one attempt, and the clock before and after it.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Before it was made.
    pub started: Reading,
    /// When it ended.
    pub ended: Reading,
    /// How it ended.
    pub end: End,
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

/// The fate of an attempt. If our own host stalled or its clock began a new epoch meanwhile, nothing can be said.
pub fn fate(attempt: &Attempt, timing: &Timing, stalled: bool) -> Fate {
    let Attempt { started, ended, end } = attempt;
    if stalled || started.epoch != ended.epoch {
        return Fate::of(Outcome::Skipped);
    }
    match end {
        End::Failed(outcome) => Fate::of(*outcome),
        End::Silence => Fate::of(Outcome::Lost),
        End::Answered => {
            let rtt_ns = ended.raw.since_ns(started.raw).max(1).unsigned_abs();
            let outcome = if rtt_ns <= nanos(timing.deadline) { Outcome::InTime } else { Outcome::Late };
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

/// Starts the tasks of all second opinions that the fleet file asks for.
pub fn start(context: &MeshContext, supervisor: &mut Supervisor) {
    let mesh = &context.fleet.mesh;
    let opinion = |peer: &RegionName, kind: ProbeKind| Opinion {
        peer: peer.clone(),
        kind,
        timing: Timing { interval: mesh.interval_of(kind), deadline: mesh.deadline, give_up: mesh.give_up },
        phase: phase(&[context.agent.as_str(), peer.as_str(), kind.as_str()], mesh.interval_of(kind)),
        clock: context.clock.clone(),
        observations: context.observations.clone(),
    };
    let pings = icmp::Pings::default();
    for peer in context.fleet.peers_of(&context.region) {
        if let Some(agent) = peer.agents.first().filter(|_| mesh.icmp) {
            let (opinion, host) = (opinion(&peer.name, ProbeKind::Icmp), agent.mesh.host.clone());
            let (pings, shutdown) = (pings.clone(), supervisor.shutdown());
            supervisor.spawn(format!("mesh icmp {}", peer.name), async move { icmp::run(opinion, host, pings, shutdown).await });
        }
        let targets = tcp::targets(&context.fleet, &peer.name);
        if mesh.tcp && !targets.is_empty() {
            let (opinion, shutdown) = (opinion(&peer.name, ProbeKind::Tcp), supervisor.shutdown());
            supervisor.spawn(format!("mesh tcp {}", peer.name), async move { tcp::run(opinion, targets, shutdown).await });
        }
    }
}

impl Opinion {
    /// Makes attempts on schedule until shutdown; none waits for the one before. The attempts give up by themselves.
    pub async fn run<A: Future<Output = Attempt>>(&self, mut attempt: impl FnMut() -> A, shutdown: &Shutdown) {
        let start = self.clock.now();
        let (mut epoch, mut schedule) = (start.epoch, Schedule::new(start.raw, self.phase, self.timing.interval));
        let (mut attempts, mut stalled_at) = (FuturesUnordered::<A>::new(), None);
        let attempts_max = usize::try_from(nanos(self.timing.give_up) / nanos(self.timing.interval).max(1))
            .unwrap_or(usize::MAX)
            .saturating_add(2);
        loop {
            let wait = schedule.next().checked_since(self.clock.now().raw).unwrap_or(Duration::ZERO);
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(attempt) = attempts.next() => {
                    let stalled = schedule.is_stalled(attempt.ended.raw) || stalled_at.is_some_and(|at| attempt.started.raw < at);
                    self.tell(fate(&attempt, &self.timing, stalled), attempt.ended);
                }
                () = sleep(wait.min(self.timing.interval)) => {
                    let now = self.clock.now();
                    if now.epoch != epoch {
                        epoch = now.epoch;
                        schedule.restart(now.raw);
                    }
                    let Some(due) = schedule.take(now.raw) else { continue };
                    stalled_at = if due.skipped > 0 { Some(now.raw) } else { stalled_at };
                    (0..due.skipped).for_each(|_| self.tell(Fate::of(Outcome::Skipped), now));
                    match due.send {
                        true if attempts.len() < attempts_max => attempts.push(attempt()),
                        true => self.tell(Fate::of(Outcome::SendError), now),
                        false => {}
                    }
                }
            }
        }
    }

    fn tell(&self, fate: Fate, at: Reading) {
        let Fate { outcome, rtt_ns } = fate;
        self.observations.tell(Observation::Probe(Probe {
            peer: self.peer.clone(),
            agent: None,
            kind: self.kind,
            outcome,
            rtt_ns,
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
            let attempt = Attempt { started, ended, end };
            assert_eq!(fate(&attempt, &timing, false), Fate { outcome, rtt_ns });
            assert_eq!(fate(&attempt, &timing, true), Fate::of(Outcome::Skipped));
        }
    }
}
