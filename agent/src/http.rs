//! The agent's own page for machines: metrics, health, readiness and status, on a listener of its own.

mod listener;

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router};
use lagmesh_daemon::{Readiness, Shutdown};
use lagmesh_model::exposition;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::summary::{NoView, Viewer};
use listener::Bounded;

/// On shutdown: how long answers that are under way may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// What the pages show.
#[derive(Debug, Clone)]
pub struct Pages {
    /// What is known.
    pub viewer: Viewer,
    /// What is still waited for.
    pub readiness: Readiness,
}

/// Serves until `shutdown`, then answers what was asked already.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(listener: TcpListener, pages: Pages, shutdown: Shutdown) -> anyhow::Result<()> {
    serve_on(Bounded::new(listener), router(pages), shutdown).await
}

/// Serves whatever it is until `shutdown`, then answers what was asked already.
///
/// # Errors
/// If the listener breaks.
pub(crate) async fn serve_on<L>(listener: L, router: Router, shutdown: Shutdown) -> anyhow::Result<()>
where
    L: Listener,
    L::Addr: Debug,
{
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
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

async fn index(State(pages): State<Pages>) -> Result<String, Silent<NoView>> {
    let snapshot = pages.viewer.look().await?;
    let status = &snapshot.status;
    Ok(format!(
        "lagmesh-agent {} of region {}, fleet {}\n\n\
         /metrics    everything measured, for Prometheus\n\
         /v1/status  everything measured, as JSON\n\
         /health     200 while the agent does its work\n\
         /ready      200 once every peer was probed and every node was tried\n",
        status.version, status.region, status.fleet
    ))
}

async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> Result<Response, Silent<NoView>> {
    let snapshot = pages.viewer.look().await?;
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let (content_type, page) = exposition::page(accept, &snapshot.series);
    Ok(([(CONTENT_TYPE, content_type)], page).into_response())
}

async fn status(State(pages): State<Pages>) -> Result<Response, Silent<NoView>> {
    let snapshot = pages.viewer.look().await?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(&snapshot.status)).into_response())
}

/// Alive is who still sums up: a process whose summary is stuck is dead, whatever its listener says.
async fn health(State(pages): State<Pages>) -> Result<&'static str, Silent<NoView>> {
    pages.viewer.look().await?;
    Ok("alive\n")
}

/// Who would know does not answer.
pub(crate) struct Silent<E>(E);

impl<E: Error> From<E> for Silent<E> {
    fn from(why: E) -> Silent<E> {
        Silent(why)
    }
}

impl<E: Error> IntoResponse for Silent<E> {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", self.0)).into_response()
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
