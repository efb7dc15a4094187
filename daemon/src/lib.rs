//! How a lagmesh process lives: it reads its clocks in one place, logs in one way, runs every task under one supervisor,
//! says when it is ready and whether it still makes progress, and ends under one deadline.
//!
//! Modules stand in the order in which they build on each other: how a process ends and is called, what time it is,
//! what it waits for, what it runs, and what it tells the service manager.

#![warn(missing_docs)]

pub mod exit;
pub mod logging;
pub mod args;
pub mod limits;
pub mod clock;
pub mod alarm;
pub mod backoff;
pub mod reserve;
pub mod sqlite;
pub mod reply;
pub mod progress;
pub mod readiness;
pub mod supervise;
pub mod ending;
pub mod signal;
pub mod certificate;
pub mod follow;
pub mod notify;

pub use alarm::Alarm;
pub use args::LogArgs;
pub use backoff::Backoff;
pub use clock::Clock;
pub use ending::RunError;
pub use follow::{Followed, Occasion, Occasions};
pub use logging::LogFormat;
pub use progress::{Progress, Watchdog};
pub use readiness::{Latch, Readiness};
pub use reserve::Reserve;
pub use signal::{Hangups, cancel_on_signal};
pub use supervise::crew::Crew;
pub use supervise::{Ended, Supervisor};
pub use tokio_util::sync::CancellationToken as Shutdown;
