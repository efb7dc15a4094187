//! How much one client may take: token buckets, a bounded number of them. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use lagmesh_model::time::RawNanos;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How much flows in [units per second, at least 1].
    pub per_s: u64,
    /// How much it holds [units, at least 1].
    pub burst: u64,
}

impl Rate {
    /// How long so many units take to flow in [ns].
    fn span_ns(self, units: u64) -> u64 {
        let span = u128::from(units) * 1_000_000_000 / u128::from(self.per_s.max(1));
        u64::try_from(span).unwrap_or(u64::MAX)
    }
}

/// One bucket, kept as the moment at which it will be full again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    full_at: RawNanos,
}

impl Bucket {
    const FULL: Bucket = Bucket { full_at: RawNanos(0) };

    fn lacks_ns(self, now: RawNanos) -> u64 {
        self.full_at.0.saturating_sub(now.0)
    }

    /// How long to wait until a whole unit is in it; `None` if one is.
    fn wait(self, rate: Rate, now: RawNanos) -> Option<Duration> {
        let over = self.lacks_ns(now).saturating_add(rate.span_ns(1)).saturating_sub(rate.span_ns(rate.burst));
        (over > 0).then(|| Duration::from_nanos(over))
    }

    /// Takes so many units out, more than are in it if need be: what was sent cannot be given back, only waited for.
    fn charge(&mut self, rate: Rate, units: u64, now: RawNanos) {
        self.full_at = RawNanos(self.full_at.0.max(now.0).saturating_add(rate.span_ns(units)));
    }
}

/// A bucket for each key, up to a bound; keys beyond share one.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    keys_max: usize,
    each: BTreeMap<K, Bucket>,
    rest: Bucket,
}

impl<K: Ord + Clone> Buckets<K> {
    /// Full buckets.
    pub fn new(rate: Rate, keys_max: usize) -> Buckets<K> {
        Buckets { rate, keys_max, each: BTreeMap::new(), rest: Bucket::FULL }
    }

    /// Whether the key's bucket has a whole unit in it.
    ///
    /// # Errors
    /// How long to wait until it has.
    pub fn check(&self, key: &K, now: RawNanos) -> Result<(), Duration> {
        let bucket = match self.each.get(key) {
            Some(bucket) => *bucket,
            None if self.each.len() < self.keys_max => Bucket::FULL,
            None => self.rest,
        };
        bucket.wait(self.rate, now).map_or(Ok(()), Err)
    }

    /// Takes units out of the key's bucket, more than are in it if need be.
    pub fn charge(&mut self, key: &K, units: u64, now: RawNanos) {
        let rate = self.rate;
        self.bucket(key, now).charge(rate, units, now);
    }

    /// One unit, if there is one.
    ///
    /// # Errors
    /// How long to wait until there is one.
    pub fn take(&mut self, key: &K, now: RawNanos) -> Result<(), Duration> {
        self.check(key, now)?;
        self.charge(key, 1, now);
        Ok(())
    }

    fn bucket(&mut self, key: &K, now: RawNanos) -> &mut Bucket {
        if !self.each.contains_key(key) && self.each.len() >= self.keys_max {
            // A full bucket is as good as none.
            self.each.retain(|_, bucket| bucket.lacks_ns(now) > 0);
        }
        if self.each.contains_key(key) || self.each.len() < self.keys_max {
            self.each.entry(key.clone()).or_insert(Bucket::FULL)
        } else {
            &mut self.rest
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;

    /// A burst passes at once, then as much as flows in; who comes too early is told when to come, and who waits so long gets in.
    #[test]
    fn burst_then_rate() {
        let mut buckets = Buckets::new(Rate { per_s: 2, burst: 3 }, 10);
        let mut at = RawNanos(5 * S);
        assert!((0..3).all(|_| buckets.take(&"a", at).is_ok()));
        let wait = buckets.take(&"a", at).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        assert!(buckets.take(&"b", at).is_ok(), "another key has a bucket of its own");
        at = at.after(wait);
        assert!(buckets.take(&"a", at).is_ok() && buckets.take(&"a", at).is_err());
    }

    /// What was sent beyond the bucket is waited for in full.
    #[test]
    fn debts_are_paid() {
        let mut buckets = Buckets::new(Rate { per_s: 100, burst: 50 }, 10);
        buckets.charge(&"a", 250, RawNanos(0));
        let wait = buckets.check(&"a", RawNanos(0)).unwrap_err();
        assert!(wait >= Duration::from_secs(2) && wait <= Duration::from_millis(2010), "{wait:?}");
        assert!(buckets.check(&"a", RawNanos(S)).is_err() && buckets.check(&"a", RawNanos(0).after(wait)).is_ok());
    }

    /// However many keys come, so many buckets are kept: those that were used of late; all others share one.
    #[test]
    fn bounded() {
        let mut buckets = Buckets::new(Rate { per_s: 1, burst: 1 }, 4);
        let taken = (0..1000_u32).filter(|key| buckets.take(key, RawNanos(0)).is_ok()).count();
        assert_eq!((taken, buckets.each.len()), (5, 4));
        assert!(buckets.take(&5000, RawNanos(2 * S)).is_ok());
        assert_eq!(buckets.each.len(), 1, "the others were full again");
    }

    proptest! {
        /// In no stretch of time more passes than the bucket held and what flowed in.
        #[test]
        fn never_more_than_promised(per_s in 1_u64..50, burst in 1_u64..20, gaps in proptest::collection::vec(0_u64..300_000_000, 1..200)) {
            let mut buckets = Buckets::new(Rate { per_s, burst }, 1);
            let (mut at, mut passed) = (RawNanos(0), Vec::new());
            for gap in gaps {
                at = RawNanos(at.0 + gap);
                if buckets.take(&(), at).is_ok() {
                    passed.push(at.0);
                }
            }
            for (index, from) in passed.iter().enumerate() {
                for (more, to) in passed[index..].iter().enumerate() {
                    let allowed = u128::from(burst) * u128::from(S) + u128::from(to - from) * u128::from(per_s);
                    prop_assert!((more as u128 + 1) * u128::from(S) <= allowed + u128::from(per_s), "{} in {} ns", more + 1, to - from);
                }
            }
        }
    }
}
