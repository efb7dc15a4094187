//! The truth: what became of every packet, and when it truly left and arrived.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::quality::{Quality, Tally};
use super::truth::{self, RttTruth};
use crate::real::Real;

/// How many records are sealed together; sealed ones are shared with readers instead of copied.
const CHUNK: usize = 65_536;

/// A host: its index in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HostId(pub u8);

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It was handed over.
    Delivered,
    /// It was handed over once more.
    Duplicate,
    /// The link or its path lost it.
    Lost,
    /// Its flow is hashed to a dead path.
    DeadPath,
    /// The link is cut.
    Cut,
    /// The queue of the link had no room.
    QueueFull,
    /// It was longer than what passes.
    TooBig,
    /// It had no hops left.
    HopLimit,
    /// The router itself held as much as it may: its measurements cannot be believed at this moment.
    Overflow,
    /// The system of the receiving host did not take it.
    Refused,
}

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When it left its host.
    pub left: Real,
    /// When it was handed over to the other one: just before.
    pub delivered: Option<Real>,
    /// How much later than that it may have been at most [ns]: how long handing it over took.
    pub within_ns: u32,
    /// By what it is known again: [`super::packet::match_key`].
    pub key: u64,
    /// The host that it left.
    pub from: HostId,
    /// The host that it was for.
    pub to: HostId,
    /// The transport protocol.
    pub protocol: u8,
    /// What became of it.
    pub fate: Fate,
    /// The path that its flow takes.
    pub path: u8,
    /// Whether it is IPv6.
    pub v6: bool,
    /// Source port; 0 if it has none.
    pub source_port: u16,
    /// Destination port; 0 if it has none.
    pub destination_port: u16,
    /// The whole packet [octets].
    pub length_bytes: u16,
    /// Of a UDP payload, the words at octets 0, 24 and 48, 0 where it is shorter: in STAMP the sequence number, and in a reply the
    /// request's one (unauthenticated at 24, authenticated at 48).
    pub words: [u32; 3],
}

/// The log, shared by the router that writes it and whoever asks.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    sealed: VecDeque<Arc<Vec<Record>>>,
    open: Vec<Record>,
    most_chunks: usize,
    forgotten: u64,
    counts: BTreeMap<(HostId, HostId, Fate), u64>,
    tally: Tally,
}

/// What the router has to tell and has not told yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    pub(super) tally: Tally,
}

impl Log {
    /// A log of about this many records; older ones are dropped and counted.
    pub(super) fn new(most_records: usize) -> Log {
        let shared = Shared {
            sealed: VecDeque::new(),
            open: Vec::with_capacity(CHUNK),
            most_chunks: most_records.div_ceil(CHUNK).max(1),
            forgotten: 0,
            counts: BTreeMap::new(),
            tally: Tally::default(),
        };
        Log { shared: Arc::new(Mutex::new(shared)) }
    }

    /// Takes a batch over if no reader is in the way; the router must not wait.
    pub(super) fn try_take(&self, batch: &mut Batch) {
        if let Ok(mut shared) = self.shared.try_lock() {
            shared.take(batch);
        }
    }

    /// Takes a batch over, waiting for readers.
    pub(super) fn take(&self, batch: &mut Batch) {
        self.lock().take(batch);
    }

    /// How many records were dropped because there was no room for more.
    pub fn forgotten(&self) -> u64 {
        self.lock().forgotten
    }

    /// How many packets had which fate since the start, by ordered pair of hosts.
    pub fn counts(&self) -> BTreeMap<(HostId, HostId, Fate), u64> {
        self.lock().counts.clone()
    }

    /// How many packets from one host to another had a fate since the start.
    pub fn count(&self, from: HostId, to: HostId, fate: Fate) -> u64 {
        self.lock().counts.get(&(from, to, fate)).copied().unwrap_or(0)
    }

    /// The packets that left in [since, until) and whose fate is known, in the order of their fates.
    pub fn records(&self, since: Real, until: Real) -> Vec<Record> {
        let chunks = self.lock().chunks();
        chunks.iter().flat_map(|chunk| chunk.iter()).filter(|record| (since..until).contains(&record.left)).copied().collect()
    }

    /// The true round-trip times of the probes that left `from` for `mesh_port` of `to` in [since, until) and came back.
    pub fn rtt_truth(&self, from: HostId, to: HostId, mesh_port: u16, since: Real, until: Real) -> Vec<RttTruth> {
        truth::round_trips(&self.records(since, Real(i64::MAX)), &truth::Probes { from, to, mesh_port, since, until })
    }

    /// How long the packets travelled that left `from` for `to` in [since, until) and arrived [ns].
    pub fn one_way(&self, from: HostId, to: HostId, since: Real, until: Real) -> Vec<i64> {
        let records = self.records(since, until);
        let of_pair = records.iter().filter(|record| (record.from, record.to, record.fate) == (from, to, Fate::Delivered));
        of_pair.filter_map(Record::travelled_ns).collect()
    }

    /// How well the router did its work since the start.
    pub fn quality(&self) -> Quality {
        Quality::of(&self.lock().tally)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn take(&mut self, batch: &mut Batch) {
        for record in batch.records.drain(..) {
            *self.counts.entry((record.from, record.to, record.fate)).or_default() += 1;
            if self.open.len() == CHUNK {
                self.seal();
            }
            self.open.push(record);
        }
        self.tally.add(&mut batch.tally);
    }

    fn seal(&mut self) {
        // One chunk more would be more than there may be.
        if self.sealed.len() + 1 >= self.most_chunks
            && let Some(oldest) = self.sealed.pop_front()
        {
            self.forgotten += oldest.len() as u64;
        }
        self.sealed.push_back(Arc::new(std::mem::replace(&mut self.open, Vec::with_capacity(CHUNK))));
    }

    fn chunks(&self) -> Vec<Arc<Vec<Record>>> {
        let mut chunks: Vec<Arc<Vec<Record>>> = self.sealed.iter().cloned().collect();
        chunks.push(Arc::new(self.open.clone()));
        chunks
    }
}

impl Record {
    /// How long it travelled [ns]; `None` if it did not arrive.
    pub fn travelled_ns(&self) -> Option<i64> {
        self.delivered.map(|delivered| delivered - self.left)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A UDP packet from host 0 to host 1 that left and arrived.
    pub(in crate::wan) fn record(left_ns: i64, delivered_ns: i64) -> Record {
        Record {
            left: Real(left_ns),
            delivered: Some(Real(delivered_ns)),
            within_ns: 2,
            key: 0,
            from: HostId(0),
            to: HostId(1),
            protocol: super::super::packet::UDP,
            fate: Fate::Delivered,
            path: 0,
            v6: false,
            source_port: 5000,
            destination_port: 862,
            length_bytes: 72,
            words: [0; 3],
        }
    }

    /// The log holds about what it may, forgets the oldest first, counts them, and its counts by fate forget nothing.
    #[test]
    fn bounded() {
        let log = Log::new(2 * CHUNK);
        let total = 5 * CHUNK + 10;
        let mut batch = Batch::default();
        batch.records.extend((0..total).map(|n| record(i64::try_from(n).unwrap(), 0)));
        log.take(&mut batch);
        let kept = log.records(Real(0), Real(i64::MAX));
        assert!(kept.len() <= 2 * CHUNK && kept.len() > CHUNK, "{}", kept.len());
        assert_eq!(kept.last().unwrap().left, Real(i64::try_from(total).unwrap() - 1));
        assert_eq!(log.forgotten() + kept.len() as u64, total as u64);
        assert_eq!(log.count(HostId(0), HostId(1), Fate::Delivered), total as u64);
    }

    /// Only what left in the window and arrived counts as a one-way time.
    #[test]
    fn one_way_times() {
        let log = Log::new(100);
        let lost = Record { delivered: None, fate: Fate::Lost, ..record(20, 0) };
        let back = Record { from: HostId(1), to: HostId(0), ..record(20, 50) };
        let mut batch = Batch { records: vec![record(10, 15), record(20, 26), lost, back, record(30, 37)], ..Batch::default() };
        log.take(&mut batch);
        assert_eq!(log.one_way(HostId(0), HostId(1), Real(20), Real(30)), [6]);
    }
}
