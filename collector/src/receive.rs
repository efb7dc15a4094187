//! The way in: OTLP requests become deliveries to the store, and are answered only once they are on disk.
//!
//! [`grpc`] and [`http`] speak the two transports; what they have in common is decided here.

pub mod grpc;
pub mod http;
mod vet;
pub(crate) mod wire;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::Clock;
use lagmesh_model::fleet::Fleet;
use lagmesh_model::otlp::{ExportMetricsServiceRequest, Rejection};
use lagmesh_model::series::Batch;
use lagmesh_model::time::Reading;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use self::vet::{Gate, Vetted};
use crate::access::Caller;
use crate::packed::Packed;
use crate::store::{Delivery, Job, Kept};
use crate::tally::Tally;

/// The largest body as it travels [bytes]. Agents send at most 1 MiB.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Requests that are worked on at once: bounds the memory that bodies take.
const REQUESTS_MAX: usize = 32;
/// How long a request waits for its turn before the client is asked to come back.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// How long a client may take to send a body; a turn is not held for a slow one.
const BODY_WITHIN: Duration = Duration::from_secs(15);
const SLOW: &str = "the request took longer than 15 s: come back later, or send smaller batches";
/// What whoever is no agent is told.
const ABOUT_FOREIGN: &str = "; this collector keeps what lagmesh agents measure: send other metrics to another back end";
/// When an overloaded collector asks clients to come back.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What a request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is on disk.
    Accepted {
        /// Points that will never be taken.
        rejected_points: u64,
        /// How many for which reason; empty if there are none.
        message: String,
    },
    /// It will never be taken.
    Refused {
        /// The word in metrics.
        reason: &'static str,
        /// Why, and what to do.
        why: String,
    },
    /// It is not for this client to send.
    Forbidden {
        /// The word in metrics.
        reason: &'static str,
        /// Which names differ.
        why: String,
    },
    /// It may be taken later.
    Later {
        /// The word in metrics.
        reason: &'static str,
        /// Why.
        why: String,
    },
}

impl Answer {
    fn overload() -> Answer {
        Answer::Later { reason: "overload", why: "too many requests at once: come back later".to_owned() }
    }

    fn slow() -> Answer {
        Answer::Later { reason: "slow", why: SLOW.to_owned() }
    }

    fn refused(reason: &'static str, why: impl Into<String>) -> Answer {
        Answer::Refused { reason, why: why.into() }
    }
}

/// The common part of both transports.
#[derive(Debug, Clone)]
pub struct Intake {
    gate: Arc<Gate>,
    jobs: mpsc::Sender<Job>,
    clock: Clock,
    tally: Tally,
    turns: Arc<Semaphore>,
}

impl Intake {
    /// An intake that delivers to a store.
    pub fn new(fleet: Arc<Fleet>, jobs: mpsc::Sender<Job>, clock: Clock, tally: Tally) -> Intake {
        Intake { gate: Arc::new(Gate::new(fleet)), jobs, clock, tally, turns: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }

    /// The leave to read a body, or `None` under overload.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        timeout(TURN_WITHIN, self.turns.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Works out what a request of this caller holds; `kept` makes the form in which its only batch may be kept. This takes milliseconds: it is not for a
    /// thread that connections wait for.
    fn understand(
        &self,
        request: ExportMetricsServiceRequest,
        caller: &Caller,
        kept: impl FnOnce() -> Option<Packed>,
    ) -> Result<Understood, Outcome> {
        let arrived = self.clock.now();
        let Vetted { batches, rejected } = match self.gate.vet(request) {
            Ok(vetted) => vetted,
            Err(refusal) => {
                let (reason, why) = (refusal.as_str(), refusal.to_string());
                return Err((Answer::Refused { reason, why }, reason));
            }
        };
        if let Err((reason, why)) = batches.iter().try_for_each(|batch| caller.may_send(&batch.exporter)) {
            return Err((Answer::Forbidden { reason, why }, reason));
        }
        let whole = batches.len() == 1 && rejected.is_empty();
        let mut kept = if whole { kept() } else { None };
        let packed = |batch: Batch| {
            let packed = kept.take().unwrap_or_else(|| Packed::of(&batch));
            (batch, packed)
        };
        Ok(Understood { batches: batches.into_iter().map(packed).collect(), rejected, arrived })
    }

    /// Delivers what a request holds, and waits until it is on disk.
    async fn take(&self, understood: Understood) -> Outcome {
        let Understood { batches, rejected, arrived } = understood;
        for (reason, count) in &rejected {
            self.tally.points(reason, *count);
        }
        let points = batches.iter().map(|(batch, _)| batch.series.len() as u64).sum();
        let outcome = if batches.is_empty() { Ok(Kept::New) } else { self.deliver(Delivery { batches, arrived }).await };
        let word = match outcome {
            Ok(Kept::New) => "accepted",
            Ok(Kept::Duplicate) => "duplicate",
            Ok(Kept::Retired) => "retired",
            Err(later) => return later,
        };
        self.tally.points(word, points);
        let mut message = rejected.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ");
        if rejected.contains_key(Rejection::NotAnAgent.as_str()) {
            message.push_str(ABOUT_FOREIGN);
        }
        (Answer::Accepted { rejected_points: rejected.values().sum(), message }, word)
    }

    async fn deliver(&self, delivery: Delivery) -> Result<Kept, Outcome> {
        let (done, stored) = oneshot::channel();
        if self.jobs.try_send(Job::Keep(delivery, done)).is_err() {
            return Err((Answer::overload(), "overload"));
        }
        if let Ok(Ok(kept)) = stored.await {
            return Ok(kept);
        }
        // The store has logged what went wrong; the client keeps its batch.
        let (reason, why) = ("store", "the collector cannot write to its store: come back later".to_owned());
        Err((Answer::Later { reason, why }, reason))
    }
}

/// An answer, and the word for it in metrics.
type Outcome = (Answer, &'static str);

/// What a request holds.
#[derive(Debug)]
struct Understood {
    /// Each with the form in which it is kept.
    batches: Vec<(Batch, Packed)>,
    /// How many points will never be taken, by reason.
    rejected: BTreeMap<&'static str, u64>,
    /// When it arrived.
    arrived: Reading,
}

#[cfg(test)]
mod tests {
    use lagmesh_model::otlp;
    use lagmesh_model::state::LinkState;

    use super::*;
    use crate::fixture::{Says, fleet};
    use crate::store::NotKept;

    fn intake(queue: usize) -> (Intake, mpsc::Receiver<Job>) {
        let (jobs, queue) = mpsc::channel(queue);
        (Intake::new(Arc::new(fleet(&["a", "b"], &["a"])), jobs, Clock::new(), Tally::default()), queue)
    }

    fn request(intake: &Intake) -> Understood {
        intake
            .understand(otlp::encode(&Says::new("a", 1).link("b", LinkState::Ok).batch()), &Caller::everybody(), || None)
            .unwrap()
    }

    /// A full queue, a disk that fails and a store that is gone are temporary: the client keeps its batch and comes back.
    #[tokio::test]
    async fn what_is_temporary_looks_temporary() {
        let (full, _queue) = intake(1);
        full.jobs.try_send(Job::Remember(Vec::new())).unwrap();
        assert!(matches!(full.take(request(&full)).await, (Answer::Later { .. }, "overload")));

        let (failing, mut queue) = intake(1);
        let disk = async {
            if let Some(Job::Keep(_, done)) = queue.recv().await {
                done.send(Err(NotKept)).unwrap();
            }
        };
        let ((answer, word), ()) = tokio::join!(failing.take(request(&failing)), disk);
        assert!(matches!(answer, Answer::Later { .. }) && word == "store");

        let (gone, queue) = intake(1);
        drop(queue);
        assert!(matches!(gone.take(request(&gone)).await, (Answer::Later { .. }, _)));
    }

    /// Nothing is answered before the store has said that it is on disk.
    #[tokio::test]
    async fn acknowledged_only_once_kept() {
        let (intake, mut queue) = intake(1);
        let taking = intake.take(request(&intake));
        tokio::pin!(taking);
        let job = tokio::select! {
            _ = &mut taking => None,
            job = queue.recv() => job,
        };
        let Some(Job::Keep(delivery, done)) = job else { panic!("answered before the store was asked") };
        assert!(timeout(Duration::ZERO, &mut taking).await.is_err());
        assert_eq!(delivery.batches.len(), 1);
        done.send(Ok(Kept::New)).unwrap();
        assert!(matches!(taking.await, (Answer::Accepted { rejected_points: 0, .. }, "accepted")));
    }

    /// Beyond so many requests at once a client waits for its turn, and is asked to come back when that takes too long.
    #[tokio::test(start_paused = true)]
    async fn turns_are_bounded() {
        let (intake, _queue) = intake(1);
        let mut turns = Vec::new();
        for _ in 0..REQUESTS_MAX {
            turns.push(intake.turn().await.unwrap());
        }
        assert!(intake.turn().await.is_none());
        turns.pop();
        assert!(intake.turn().await.is_some());
    }

    /// A body that never ends holds its turn for a bounded time on both transports, and the client is asked to come back.
    #[tokio::test(start_paused = true)]
    async fn slow_bodies_end() {
        use axum::http::header::CONTENT_TYPE;
        use tower::Service as _;

        let (intake, _queue) = intake(1);
        let never = || axum::body::Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let post = |path, media| axum::http::Request::post(path).header(CONTENT_TYPE, media).body(never()).unwrap();
        let started = tokio::time::Instant::now();
        let answer = http::router(&intake).call(post("/v1/metrics", "application/x-protobuf")).await.unwrap();
        assert_eq!(answer.status(), 503);
        let path = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
        let answer = grpc::router(&intake).call(post(path, "application/grpc")).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "14");
        assert!(started.elapsed() < 3 * BODY_WITHIN);
        assert_eq!(intake.turns.available_permits(), REQUESTS_MAX);
    }
}
