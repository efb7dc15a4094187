//! The agent's own page for machines: metrics, health, readiness and status, from the last snapshot, on a listener of its own.

mod listener;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lagmesh_daemon::{Clock, Readiness, Shutdown};
use lagmesh_model::exposition;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::summary::Snapshot;
use listener::Bounded;

/// A snapshot is made twice a second; one that is older than this shows that the agent is stuck.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(10);
/// On shutdown: how long answers that are under way may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// What the pages show.
#[derive(Debug, Clone)]
pub struct Pages {
    /// The last snapshot.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is still waited for.
    pub readiness: Readiness,
    /// The clocks.
    pub clock: Clock,
}

/// Serves until `shutdown`, then answers what was asked already.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(listener: TcpListener, pages: Pages, shutdown: Shutdown) -> anyhow::Result<()> {
    let router = router(pages);
    let server = axum::serve(Bounded::new(listener), router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let drained = async {
        shutdown.cancelled().await;
        sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        end = server => Ok(end?),
        () = drained => Ok(()),
    }
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/v1/status", get(status))
        .with_state(pages)
}

async fn index(State(pages): State<Pages>) -> String {
    let snapshot = pages.snapshots.borrow().clone();
    let status = &snapshot.status;
    format!(
        "lagmesh-agent {} of region {}, fleet {}\n\n\
         /metrics    everything measured, for Prometheus\n\
         /v1/status  everything measured, as JSON\n\
         /health     200 while the agent does its work\n\
         /ready      200 once every peer was probed and every node was tried\n",
        status.version, status.region, status.fleet
    )
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let snapshot = pages.snapshots.borrow().clone();
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], exposition::text(&snapshot.series)).into_response()
}

async fn status(State(pages): State<Pages>) -> Response {
    let snapshot = pages.snapshots.borrow().clone();
    ([(CACHE_CONTROL, "no-store")], Json(&snapshot.status)).into_response()
}

/// Alive is who still makes snapshots: a process whose summary is stuck is dead, whatever its listener says.
async fn health(State(pages): State<Pages>) -> (StatusCode, String) {
    let made = pages.snapshots.borrow().made;
    match pages.clock.now().raw.checked_since(made.raw) {
        Some(age) if age > SNAPSHOT_AGE_MAX => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("stuck: nothing was summed up for {} s\n", age.as_secs()))
        }
        _ => (StatusCode::OK, "alive\n".to_owned()),
    }
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    let waiting_for = pages.readiness.waiting_for();
    if waiting_for.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for:\n{}\n", waiting_for.join("\n")))
    }
}

#[cfg(test)]
mod tests;
