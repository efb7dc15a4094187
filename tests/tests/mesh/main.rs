//! The mesh among others: with another implementation of STAMP, and under a flood of forged packets. A program of its own, because a
//! flood takes the processor from whatever is tested beside it.

mod agent;
mod flood;
mod interoperability;

use tokio::sync::{Mutex, MutexGuard};

/// What is timed and counted here would disturb the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().await
}
