//! Moments on the two clocks of a host: the raw one measures, the wall clock only labels.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One unbroken run of a host's raw monotonic clock. Two stamps may be subtracted only if their epochs are equal.
///
/// Random, so that epochs of different hosts and of different runs never collide by accident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// A stamp of the measuring clock (`CLOCK_MONOTONIC_RAW`), in nanoseconds since an arbitrary start [0, 2^63).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RawNanos(pub u64);

impl RawNanos {
    /// Stamps from here on are nonsense: 146 years of uptime. Below it no sum or difference of two stamps and an offset overflows.
    pub const END: RawNanos = RawNanos(1 << 62);

    /// A stamp that came from outside; `None` if it is nonsense.
    pub fn from_outside(ns: u64) -> Option<RawNanos> {
        (ns < RawNanos::END.0).then_some(RawNanos(ns))
    }

    /// Signed nanoseconds from `earlier` to `self`; negative if `earlier` is in fact later.
    pub fn since_ns(self, earlier: RawNanos) -> i64 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// The time from `earlier` to `self`, or `None` if `earlier` is later.
    pub fn checked_since(self, earlier: RawNanos) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_nanos)
    }

    /// The stamp `span` later.
    pub fn after(self, span: Duration) -> RawNanos {
        RawNanos(self.0 + nanos(span))
    }
}

/// A wall-clock label: nanoseconds since the Unix epoch. It may step; elapsed time is never computed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WallNanos(pub u64);

impl WallNanos {
    /// Seconds since the Unix epoch, as Prometheus writes them.
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

/// Both clocks read at one moment, with the epoch of the measuring one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reading {
    /// Which run of the measuring clock `raw` belongs to.
    pub epoch: Epoch,
    /// The measuring clock.
    pub raw: RawNanos,
    /// The label.
    pub wall: WallNanos,
}

impl Reading {
    /// The same clocks `span` later, as a pure step or a test needs it.
    pub fn after(self, span: Duration) -> Reading {
        Reading { epoch: self.epoch, raw: self.raw.after(span), wall: WallNanos(self.wall.0 + nanos(span)) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A duration in whole nanoseconds; beyond 584 years it stays at the end of the range.
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
