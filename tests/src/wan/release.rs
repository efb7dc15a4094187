//! The packets under way, in the order in which they are due. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::log::Record;
use crate::real::Real;

/// How much is under way at most [octets].
const MOST_BYTES: usize = 256 << 20;

/// A packet under way.
#[derive(Debug)]
pub struct Release {
    /// When it is due.
    pub at: Real,
    /// The packet as it is handed over.
    pub packet: Vec<u8>,
    /// What the log will say of it; `None` for the network's own answers.
    pub record: Option<Record>,
    /// The index of the host that gets it.
    pub to: usize,
    order: u64,
}

/// All packets under way.
#[derive(Debug, Default)]
pub struct Releases {
    heap: BinaryHeap<Reverse<Release>>,
    bytes: usize,
    order: u64,
}

impl Releases {
    /// Adds a packet; `false` if there is no room for it.
    pub fn push(&mut self, at: Real, to: usize, packet: Vec<u8>, record: Option<Record>) -> bool {
        if self.bytes + packet.len() > MOST_BYTES {
            return false;
        }
        self.bytes += packet.len();
        self.order += 1;
        self.heap.push(Reverse(Release { at, packet, record, to, order: self.order }));
        true
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Real> {
        self.heap.peek().map(|Reverse(release)| release.at)
    }

    /// The next one that is due by now; of those due at one moment, the one that was added first.
    pub fn pop_due(&mut self, now: Real) -> Option<Release> {
        if self.next()? > now {
            return None;
        }
        let Reverse(release) = self.heap.pop()?;
        self.bytes -= release.packet.len();
        Some(release)
    }
}

impl PartialEq for Release {
    fn eq(&self, other: &Release) -> bool {
        self.order == other.order
    }
}

impl Eq for Release {}

impl PartialOrd for Release {
    fn partial_cmp(&self, other: &Release) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Release {
    fn cmp(&self, other: &Release) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets come out when they are due, in the order of their times and then of their coming in.
    #[test]
    fn order() {
        let mut releases = Releases::default();
        for (at, name) in [(20, 1), (10, 2), (20, 3), (30, 4)] {
            assert!(releases.push(Real(at), 0, vec![name], None));
        }
        assert_eq!(releases.next(), Some(Real(10)));
        let due: Vec<u8> = std::iter::from_fn(|| releases.pop_due(Real(20))).map(|release| release.packet[0]).collect();
        assert_eq!(due, [2, 1, 3]);
        assert_eq!(releases.bytes, 1);
    }

    /// There is no room beyond the bound, and room again once something has left.
    #[test]
    fn bound() {
        let mut releases = Releases::default();
        assert!(releases.push(Real(0), 0, vec![0; MOST_BYTES], None));
        assert!(!releases.push(Real(0), 0, vec![0], None));
        releases.pop_due(Real(0)).unwrap();
        assert!(releases.push(Real(0), 0, vec![0], None));
    }
}
