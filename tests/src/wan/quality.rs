//! How well the router does its work: how late it hands packets over, and when the machine stalled.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::real::Real;

/// How late the router wakes at most on a machine that does not stall [ns].
pub const STALL_NS: i64 = 1_000_000;
/// How many stalls are kept.
const MOST_STALLS: usize = 10_000;

/// Why the machine is said to have stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StallKind {
    /// The router, which goes before everything else, woke late or was held up.
    Late,
    /// The hypervisor gave the processors to somebody else.
    Stolen,
}

/// A time in which the machine did not run as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stall {
    /// From.
    pub from: Real,
    /// To.
    pub until: Real,
    /// Why it is said.
    pub kind: StallKind,
}

/// What the router counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How late each packet was handed over [ns].
    pub(super) lateness_ns: Vec<i64>,
    pub(super) stalls: Vec<Stall>,
    pub(super) tap_missed: u64,
    pub(super) stray: u64,
    pub(super) not_taken: u64,
    /// Why the router does not run ahead of everything else; empty if it does.
    pub(super) no_priority: Option<String>,
    histogram: Option<Histogram<u64>>,
    stalls_forgotten: u64,
}

/// How well the router did its work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quality {
    /// How many packets were handed over.
    pub handed_over: u64,
    /// How late half of them were [ns]: when it was done minus when it was due.
    pub lateness_p50_ns: u64,
    /// How late all but one in a hundred were at most [ns].
    pub lateness_p99_ns: u64,
    /// How late the latest was [ns].
    pub lateness_max_ns: u64,
    /// When the machine stalled.
    pub stalls: Vec<Stall>,
    /// How many stalls there were beyond those.
    pub stalls_forgotten: u64,
    /// How many packets have no kernel stamp of their leaving; theirs is when the router read them.
    pub tap_missed: u64,
    /// How many packets were for nobody: multicast, unknown addresses, no IP.
    pub stray: u64,
    /// How many packets a host sent but the router never got, because too many waited.
    pub not_taken: u64,
    /// Why the router does not run ahead of everything else, if it does not.
    pub no_priority: Option<String>,
}

impl Tally {
    /// Moves what another one counted into this one.
    pub(super) fn add(&mut self, other: &mut Tally) {
        let histogram = self.histogram.get_or_insert_with(empty);
        for late_ns in other.lateness_ns.drain(..) {
            histogram.saturating_record(u64::try_from(late_ns).unwrap_or(0));
        }
        for stall in other.stalls.drain(..) {
            if self.stalls.len() < MOST_STALLS {
                self.stalls.push(stall);
            } else {
                self.stalls_forgotten += 1;
            }
        }
        self.tap_missed += std::mem::take(&mut other.tap_missed);
        self.stray += std::mem::take(&mut other.stray);
        self.not_taken += std::mem::take(&mut other.not_taken);
        if other.no_priority.is_some() {
            self.no_priority = other.no_priority.take();
        }
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("one to 10^11 with three digits is a range that it has")
}

impl Quality {
    pub(super) fn of(tally: &Tally) -> Quality {
        let nothing = empty();
        let histogram = tally.histogram.as_ref().unwrap_or(&nothing);
        Quality {
            handed_over: histogram.len(),
            lateness_p50_ns: histogram.value_at_quantile(0.5),
            lateness_p99_ns: histogram.value_at_quantile(0.99),
            lateness_max_ns: histogram.max(),
            stalls: tally.stalls.clone(),
            stalls_forgotten: tally.stalls_forgotten,
            tap_missed: tally.tap_missed,
            stray: tally.stray,
            not_taken: tally.not_taken,
            no_priority: tally.no_priority.clone(),
        }
    }

    /// For how long, of a time, the router woke late or was held up [ns].
    pub fn late_ns(&self, since: Real, until: Real) -> i64 {
        let late = self.stalls.iter().filter(|stall| stall.kind == StallKind::Late);
        late.map(|stall| (stall.until.min(until) - stall.from.max(since)).max(0)).sum()
    }

    /// Whether the machine stalled at any time in [since, until]: what was measured then is marked, not believed.
    pub fn stalled(&self, since: Real, until: Real) -> bool {
        self.stalls_forgotten > 0 || self.stalls.iter().any(|stall| stall.from <= until && stall.until >= since)
    }
}

/// The time that hypervisors took from all processors since boot, in the 10 ms that the kernel counts in: from the text of /proc/stat.
pub(super) fn stolen_ticks(stat: &str) -> Option<u64> {
    stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time is marked if a stall touches it, and every time once stalls had to be forgotten.
    #[test]
    fn windows() {
        let mut tally = Tally::default();
        let stall = Stall { from: Real(10), until: Real(20), kind: StallKind::Late };
        tally.add(&mut Tally { stalls: vec![stall], lateness_ns: vec![5, 7, 1000], ..Tally::default() });
        let quality = Quality::of(&tally);
        assert!(quality.stalled(Real(0), Real(10)) && quality.stalled(Real(12), Real(13)) && quality.stalled(Real(20), Real(90)));
        assert!(!quality.stalled(Real(0), Real(9)) && !quality.stalled(Real(21), Real(22)));
        assert_eq!((quality.handed_over, quality.lateness_p50_ns, quality.lateness_max_ns), (3, 7, 1000));
        tally.add(&mut Tally { stalls: vec![stall; MOST_STALLS], ..Tally::default() });
        let quality = Quality::of(&tally);
        assert_eq!((quality.stalls.len(), quality.stalls_forgotten), (MOST_STALLS, 1));
        assert!(quality.stalled(Real(21), Real(22)), "nobody knows any more");
    }

    /// Stolen time is the eighth number of the line of all processors.
    #[test]
    fn stolen() {
        assert_eq!(stolen_ticks("cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1\n"), Some(88));
        assert_eq!(stolen_ticks("cpu  1 2 3"), None);
        assert_eq!(stolen_ticks("nothing"), None);
    }
}
