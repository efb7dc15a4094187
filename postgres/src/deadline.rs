//! A bound on every statement that holds on both sides: the caller goes on, and the server stops working.
//!
//! Dropping a future leaves the server's process running, and `statement_timeout` does not bound a commit that waits for a synchronous
//! standby; a cancel from a second connection ends both.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use crate::connect::{Canceller, Connection};

/// How long the cancel may take, connection and the statement's end included.
pub const CANCEL_DEADLINE: Duration = Duration::from_secs(2);

/// A statement took too long. A commit among what was cut short is in doubt: it may stand.
///
/// Drop the connection after this: unless `cancelled`, the cancel may still be under way and would hit its next statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} ms; the statement {}", limit.as_millis(), fate(*cancelled))]
pub struct DeadlineExceeded {
    /// The time that it had.
    pub limit: Duration,
    /// Whether the server was seen to end the statement after the cancel.
    pub cancelled: bool,
}

fn fate(cancelled: bool) -> &'static str {
    if cancelled { "was cancelled" } else { "may still run on the server" }
}

/// Why a statement gave no result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// It took too long.
    #[error(transparent)]
    DeadlineExceeded(#[from] DeadlineExceeded),
    /// The server said no, or the connection broke.
    #[error("{}", words(.0))]
    Failed(#[from] tokio_postgres::Error),
}

impl QueryError {
    /// The server's code, if the server said no.
    pub fn code(&self) -> Option<&tokio_postgres::error::SqlState> {
        match self {
            QueryError::Failed(error) => error.code(),
            QueryError::DeadlineExceeded(_) => None,
        }
    }
}

/// What the server said, where tokio-postgres says only "db error".
pub fn words(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Asks the server to end the session's statement if this is dropped, as it is with the future that waits for the statement: a commit that
/// waits for a synchronous standby would go on waiting, and hold its row, for as long as that standby is away.
///
/// Drop the connection with it: the cancel would hit its next statement. It is a request: where the runtime ends first it is not sent.
#[derive(Debug)]
pub struct CancelOnDrop(Option<Canceller>);

impl CancelOnDrop {
    /// A guard over what runs on `connection` from now on.
    pub fn new(connection: &Connection) -> CancelOnDrop {
        CancelOnDrop(Some(connection.canceller()))
    }

    /// The statement has ended.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let (Some(canceller), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else { return };
        runtime.spawn(async move {
            if !matches!(timeout(CANCEL_DEADLINE, canceller.cancel()).await, Ok(Ok(()))) {
                tracing::debug!("a statement that nobody waits for any more could not be cancelled");
            }
        });
    }
}

/// Runs `work`, statements on `connection` and nothing else, for at most `limit`; then cancels it on the server.
///
/// Takes at most `limit` + [`CANCEL_DEADLINE`].
///
/// # Errors
/// The work's own, or [`DeadlineExceeded`] even if the work ended well during the cancel: its commit is then in doubt.
pub async fn with_deadline<T>(
    connection: &Connection,
    limit: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, QueryError> {
    let mut work = pin!(work);
    if let Ok(result) = timeout(limit, work.as_mut()).await {
        return Ok(result?);
    }
    let by_second_connection = connection.canceller();
    let cancel = async {
        let asked = by_second_connection.cancel().await;
        if let Err(error) = &asked {
            tracing::debug!(host = %connection.host(), %error, "cancel statement");
        }
        if asked.is_ok() { Some(work.await) } else { None }
    };
    let ended = timeout(CANCEL_DEADLINE, cancel).await;
    let cancelled = match ended {
        Ok(Some(Ok(_))) => true,
        // An answer of the server's; a broken connection says nothing about the statement.
        Ok(Some(Err(error))) => error.code().is_some(),
        Ok(None) | Err(_) => false,
    };
    Err(DeadlineExceeded { limit, cancelled }.into())
}
