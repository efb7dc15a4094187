//! How much each host may ask. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use lagmesh_model::time::{RawNanos, nanos};

use super::Drop;

/// How many sources have a budget of their own at once.
pub(super) const SOURCES_MAX: usize = 4096;

/// A token bucket for each source host (for IPv6 each /64): so many packets per second, and one second's worth at once.
#[derive(Debug)]
pub(super) struct Limiter {
    rate_per_s: u64,
    sources: HashMap<IpAddr, Bucket>,
}

/// Tokens are counted in nanoseconds: one packet costs `1 s / rate`.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    filled_ns: u64,
    at: RawNanos,
}

const BUCKET_MAX_NS: u64 = 1_000_000_000;

impl Limiter {
    /// Each source may send `rate_per_s` packets a second.
    pub(super) fn new(rate_per_s: u64) -> Limiter {
        Limiter { rate_per_s: rate_per_s.max(1), sources: HashMap::new() }
    }

    /// Takes one packet off the budget of a source; `known` ones always get a budget.
    pub(super) fn admit(&mut self, source: IpAddr, known: bool, now: RawNanos) -> Result<(), Drop> {
        let source = network_of(source);
        // Configured agents always find room: there are not many of them.
        if self.sources.len() >= SOURCES_MAX && !known && !self.sources.contains_key(&source) {
            self.sources.retain(|_, bucket| bucket.fill(now) < BUCKET_MAX_NS);
            if self.sources.len() >= SOURCES_MAX {
                return Err(Drop::TooManySources);
            }
        }
        let bucket = self.sources.entry(source).or_insert(Bucket { filled_ns: BUCKET_MAX_NS, at: now });
        let (filled_ns, cost_ns) = (bucket.fill(now), BUCKET_MAX_NS / self.rate_per_s);
        let left_ns = filled_ns.checked_sub(cost_ns);
        *bucket = Bucket { filled_ns: left_ns.unwrap_or(filled_ns), at: now };
        left_ns.map(drop).ok_or(Drop::RateLimited)
    }

    /// How many sources have one.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }
}

impl Bucket {
    fn fill(&self, now: RawNanos) -> u64 {
        let gained_ns = now.checked_since(self.at).map_or(0, nanos);
        self.filled_ns.saturating_add(gained_ns).min(BUCKET_MAX_NS)
    }
}

fn network_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}
