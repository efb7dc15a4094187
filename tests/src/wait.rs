//! Waiting for something to become true, with an end and a message.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks `probe` until it says `Ok(value)`, at most for `within`; then fails with its last complaint.
///
/// # Errors
/// If the time is over.
pub async fn until<T, P, F>(what: &str, within: Duration, mut probe: P) -> Result<T>
where
    P: FnMut() -> F,
    F: Future<Output = Result<T>>,
{
    let end = tokio::time::Instant::now() + within;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(complaint) if tokio::time::Instant::now() >= end => {
                bail!("waited {within:?} in vain until {what}: {complaint:#}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
