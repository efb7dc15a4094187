//! The answers over HTTP. Each question has a connection of its own that can only read, on a thread that may block; few at a time, and none
//! for long, so that whoever asks too much harms himself alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lagmesh_daemon::Clock;
use rusqlite::Connection;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::read::{Failed, Patience};
use super::{ask, baseline, read, table};

/// Questions that are answered at once.
const AT_ONCE: usize = 2;
/// How long a question waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Where the history is, for those who ask.
#[derive(Debug, Clone)]
pub struct Archive {
    folder: Arc<PathBuf>,
    clock: Clock,
    turns: Arc<Semaphore>,
}

impl Archive {
    /// The history in a folder.
    pub fn new(folder: PathBuf, clock: Clock) -> Archive {
        Archive { folder: Arc::new(folder), clock, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    async fn ask<A: Serialize>(
        self,
        answer: impl FnOnce(&Connection, &mut Patience<'_>) -> Result<A, Failed> + Send + 'static,
    ) -> Response {
        let Ok(Ok(turn)) = timeout(TURN_WITHIN, self.turns.clone().acquire_owned()).await else {
            return (StatusCode::SERVICE_UNAVAILABLE, "too many ask for history at once: ask again\n").into_response();
        };
        let answered = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let begun = self.clock.now().raw;
            let late = || self.clock.now().raw.checked_since(begun).is_none_or(|passed| passed > ANSWER_WITHIN);
            let connection = table::reader(&self.folder)?;
            let answer = answer(&connection, &mut Patience::until(&late))?;
            serde_json::to_vec(&answer).map_err(|e| Failed::Wrong(e.to_string()))
        });
        let failed = |status, why: String| (status, format!("{why}\n")).into_response();
        match answered.await {
            Ok(Ok(body)) => ([(axum::http::header::CONTENT_TYPE, "application/json")], body).into_response(),
            Ok(Err(e @ (Failed::Wrong(_) | Failed::Slow))) => failed(StatusCode::BAD_REQUEST, e.to_string()),
            Ok(Err(e @ Failed::Database(_))) => failed(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
            Err(e) => failed(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        }
    }
}

/// The routes.
pub fn router(archive: Archive) -> Router {
    Router::new().route("/v1/history", get(history)).route("/v1/baseline", get(compared)).with_state(archive)
}

pub(super) type Words = Query<Vec<(String, String)>>;

pub(super) async fn history(State(archive): State<Archive>, Query(words): Words) -> Response {
    match ask::Request::parse(&words, archive.clock.now().wall) {
        Ok(request) => archive.ask(move |connection, patience| read::answer(connection, &request, patience)).await,
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

pub(super) async fn compared(State(archive): State<Archive>, Query(words): Words) -> Response {
    match baseline::Request::parse(&words, archive.clock.now().wall) {
        Ok(request) => archive.ask(move |connection, patience| baseline::answer(connection, &request, patience)).await,
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}
