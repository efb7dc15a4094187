//! Whether a pooler stands between us and the server.
//!
//! A server names its process in the login (`BackendKeyData`). A pooler logs in by itself and keeps the servers' numbers to itself: its
//! clients get one that it made up, in every pooling mode, because a cancel must find the client and not the server that happens to
//! serve it. So the number of the login and that of `pg_backend_pid()` are the same on a connection to the server, and on no other. What
//! only moves bytes (a TCP proxy, a tunnel, NAT) changes neither. A middleman that repeats the server's own numbers is not recognised.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::CancelToken;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::Connection;

/// What to do about a pooler; completes "HOST: ".
pub const POOLER_ADVICE: &str = "a connection pooler (PgBouncer or its like) answers in the server's place: session locks, settings and \
                                 cancels are not the server's own, and it may be another server each time; name the server's own address \
                                 and port in the connection string";

/// The code of a cancel request, where a login has its version.
const CANCEL_REQUEST: i32 = 80_877_102;
/// The code of the question whether TLS is spoken, which comes before anything else.
const TLS_REQUEST: i32 = 80_877_103;

impl Connection {
    /// Whether what answered the login is not the server that answers statements. One statement.
    ///
    /// # Errors
    /// The server's.
    pub async fn is_pooled(&self) -> Result<bool, tokio_postgres::Error> {
        let named = named_process(&self.canceller.token).await;
        let row = self.client.query_typed_one("SELECT pg_catalog.pg_backend_pid()", &[]).await?;
        let answering: i32 = row.try_get(0)?;
        Ok(named != Some(answering))
    }
}

/// The process that the login named. tokio-postgres tells nobody, but it writes the number into every cancel request: one is made here
/// and goes nowhere.
async fn named_process(token: &CancelToken) -> Option<i32> {
    let tape = Tape::default();
    token.cancel_query_raw(tape.clone(), InTheClear).await.ok()?;
    let written = tape.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    process_of(&written)
}

/// The process in a cancel request, which the question for TLS may precede.
fn process_of(written: &[u8]) -> Option<i32> {
    let word = |at: usize| Some(i32::from_be_bytes(written.get(at..at + 4)?.try_into().ok()?));
    // Each message: its length, its code, and in a cancel request the process.
    let start = if word(4)? == TLS_REQUEST { 8 } else { 0 };
    if word(start + 4)? == CANCEL_REQUEST { word(start + 8) } else { None }
}

/// Takes in what is written, and says yes to the question for TLS.
#[derive(Debug, Clone, Default)]
struct Tape(Arc<Mutex<Vec<u8>>>);

impl AsyncRead for Tape {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buffer.put_slice(b"S");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tape {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Tape {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// TLS without TLS: a tape reads what would have been encrypted.
struct InTheClear;

impl TlsConnect<Tape> for InTheClear {
    type Stream = Tape;
    type Error = Infallible;
    type Future = Ready<Result<Tape, Infallible>>;

    fn connect(self, tape: Tape) -> Self::Future {
        ready(Ok(tape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The process stands behind the code of a cancel request, with or without the question for TLS before it; anything else names none.
    #[test]
    fn the_process_of_a_cancel_request_is_found() {
        let message = |words: &[i32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let (question, cancel) = (message(&[8, TLS_REQUEST]), message(&[16, CANCEL_REQUEST, 4711, -5]));
        assert_eq!(process_of(&cancel), Some(4711));
        assert_eq!(process_of(&[question.clone(), cancel.clone()].concat()), Some(4711));
        for other in [message(&[8, 196_608, 4711, 0]), question, cancel[..11].to_vec(), Vec::new()] {
            assert_eq!(process_of(&other), None, "{other:?}");
        }
    }
}
