//! What changes something in an agent is asked for on a Unix socket in its state folder: whoever may open that may read the spool
//! anyway. The HTTP address, which anybody on the host may ask, only tells.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use axum::extract::{Path as Word, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lagmesh_daemon::Shutdown;
use lagmesh_model::dead_letter::{CONTROL_SOCKET, DEAD_LETTERS, DeadLetter};
use tokio::net::{UnixListener, UnixSocket};

use crate::http::{Silent, serve_on};
use crate::spool::{Resent, Spool, Unavailable};

/// How many connections may wait.
const BACKLOG: u32 = 16;

/// Listens in the state folder, for the owner of the files alone. An agent that cannot measures all the same, so that is no error.
pub(crate) fn listen(state_dir: &Path) -> Option<UnixListener> {
    let path = state_dir.join(CONTROL_SOCKET);
    bind(&path)
        .inspect_err(
            |error| tracing::warn!(path = %path.display(), %error, "no control socket: `lagmesh dead-letters` cannot ask"),
        )
        .ok()
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    // The spool is locked by us: nobody else listens here, it is left over.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    // Nobody can connect before it listens.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)
}

/// Serves until `shutdown`.
///
/// # Errors
/// If the listener breaks.
pub(crate) async fn serve(listener: UnixListener, spool: Spool, shutdown: Shutdown) -> anyhow::Result<()> {
    let router = Router::new()
        .route(DEAD_LETTERS, get(list))
        .route(&format!("{DEAD_LETTERS}/{{id}}"), get(export).delete(forget))
        .route(&format!("{DEAD_LETTERS}/{{id}}/resend"), post(resend))
        .with_state(spool);
    serve_on(listener, router, shutdown).await
}

async fn list(State(spool): State<Spool>) -> Result<Json<Vec<DeadLetter>>, Silent<Unavailable>> {
    Ok(Json(spool.dead_letters().await?))
}

async fn export(State(spool): State<Spool>, Word(id): Word<i64>) -> Result<Response, Silent<Unavailable>> {
    Ok(match spool.dead_letter(id).await? {
        Some((compression, body)) => {
            let headers = [(CONTENT_TYPE, "application/x-protobuf"), (CONTENT_ENCODING, compression.content_coding())];
            (headers, body).into_response()
        }
        None => unknown(id),
    })
}

async fn forget(State(spool): State<Spool>, Word(id): Word<i64>) -> Result<Response, Silent<Unavailable>> {
    let dropped = spool.drop_dead_letter(id).await?;
    tracing::info!(id, dropped, "dead letter dropped by request");
    Ok(if dropped { StatusCode::NO_CONTENT.into_response() } else { unknown(id) })
}

async fn resend(State(spool): State<Spool>, Word(id): Word<i64>) -> Result<Response, Silent<Unavailable>> {
    let resent = spool.resend(id).await?;
    tracing::info!(id, ?resent, "dead letter to be sent again by request");
    Ok(match resent {
        Resent::Waits => StatusCode::NO_CONTENT.into_response(),
        Resent::Unknown => unknown(id),
        Resent::CollectorGone => {
            (StatusCode::CONFLICT, "its collector is not in the fleet file any more\n".to_owned()).into_response()
        }
    })
}

fn unknown(id: i64) -> Response {
    (StatusCode::NOT_FOUND, format!("there is no dead letter {id}\n")).into_response()
}
