//! Cells in the order in which they came. A row of the tiers holds many buckets of one series, so adding a cell to it means to write all of
//! it anew; what is fresh is therefore put down as it comes, and settles in its rows many cells at a time. Pure.
//!
//! Several entries of one bucket of one series add up to its cell, in whatever order.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use lagmesh_model::time::RawNanos;

use super::body::SeriesId;
use super::book::FINEST_S;
use super::cell::Cell;
use crate::varint::{Cursor, put};

/// Series are taken together in parts of so many: a part settles at once, so this bounds how long that takes.
const PART_SERIES: SeriesId = 1024;
/// After how long a part settles [ns]: as long as a row of the finest tier spans, so that each is written about once.
const SETTLE_AFTER_NS: u64 = 300 * 1_000_000_000;
/// A part that grows beyond this settles before that [bytes as stored].
const SETTLE_BYTES: usize = 2 << 20;

/// Which part a series belongs to.
pub(super) fn part_of(series: SeriesId) -> u32 {
    series / PART_SERIES
}

/// What is not written yet, by part.
#[derive(Debug, Clone, Default)]
pub(super) struct Fresh {
    parts: BTreeMap<u32, Vec<u8>>,
    bytes: usize,
    cell: Vec<u8>,
}

impl Fresh {
    /// Adds a cell of a bucket of the finest tier.
    pub(super) fn put(&mut self, bucket_s: u64, series: SeriesId, cell: &Cell) {
        self.cell.clear();
        cell.put(&mut self.cell, bucket_s);
        let out = self.parts.entry(part_of(series)).or_default();
        let before = out.len();
        put(out, bucket_s / FINEST_S);
        put(out, series % PART_SERIES);
        put(out, self.cell.len() as u64);
        out.extend_from_slice(&self.cell);
        self.bytes += out.len() - before;
    }

    /// How much it is [bytes].
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The parts and what is in them.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.parts.iter().map(|(part, bytes)| (*part, bytes.as_slice()))
    }
}

/// One entry of a part: the start of its bucket [s], its series, its cell as stored.
pub(super) type Put<'a> = (u64, SeriesId, &'a [u8]);

/// The entries of what a part holds, in the order in which they came. Ends at what cannot be read.
pub(super) fn entries(part: u32, bytes: &[u8]) -> impl Iterator<Item = Put<'_>> {
    let mut cursor = Cursor(bytes);
    std::iter::from_fn(move || {
        let bucket_s = cursor.number::<u64>()?.checked_mul(FINEST_S)?;
        let place: SeriesId = cursor.number()?;
        let series = part.checked_mul(PART_SERIES)?.checked_add(place)?;
        let length = cursor.number()?;
        Some((bucket_s, series, cursor.bytes(length)?))
    })
}

/// The cells of one series by bucket, added up. What cannot be read is left out.
pub(super) fn added_up<'a>(entries: impl IntoIterator<Item = Put<'a>>) -> BTreeMap<u64, Cell> {
    let mut cells: BTreeMap<u64, Cell> = BTreeMap::new();
    for (bucket_s, _, bytes) in entries {
        let Some(cell) = Cell::read(bytes, bucket_s) else { continue };
        match cells.entry(bucket_s) {
            Entry::Vacant(vacant) => drop(vacant.insert(cell)),
            Entry::Occupied(mut held) => held.get_mut().add(&cell),
        }
    }
    cells
}

/// The same by wider buckets [s].
pub(super) fn widened(cells: &BTreeMap<u64, Cell>, width_s: u64) -> BTreeMap<u64, Cell> {
    let mut wide: BTreeMap<u64, Cell> = BTreeMap::new();
    for (bucket_s, cell) in cells {
        let held = wide.entry(bucket_s / width_s * width_s);
        held.and_modify(|held| held.add(cell)).or_insert_with(|| cell.clone());
    }
    wide
}

/// Which parts are in the file, and which of them is due to settle.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeMap<u32, (RawNanos, usize)>);

impl Parts {
    /// So much of a part was written [bytes as stored].
    pub(super) fn grew(&mut self, part: u32, bytes: usize, now: RawNanos) {
        self.0.entry(part).or_insert((now, 0)).1 += bytes;
    }

    /// A part has settled.
    pub(super) fn settled(&mut self, part: u32) {
        self.0.remove(&part);
    }

    /// Nothing can settle now: nothing is due for a while.
    pub(super) fn put_off(&mut self, now: RawNanos) {
        self.0.values_mut().for_each(|part| *part = (now, 0));
    }

    /// The part that has been due for the longest; without a moment of which nothing is known, all are.
    pub(super) fn due(&self, now: RawNanos) -> Option<u32> {
        let is_due = |since: RawNanos, bytes: usize| {
            bytes >= SETTLE_BYTES || now.checked_since(since).is_none_or(|for_| for_.as_nanos() >= SETTLE_AFTER_NS.into())
        };
        let due = self.0.iter().filter(|(_, (since, bytes))| is_due(*since, *bytes));
        due.min_by_key(|(_, (since, _))| *since).map(|(part, _)| *part)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cell::Spans;
    use super::*;

    /// What is put is read, part by part, and adds up by bucket and series; what is damaged ends the reading and nothing else.
    #[test]
    fn entries_are_read_as_they_were_put() {
        let cell = |count| Cell::Counter(count, Spans::default());
        let mut fresh = Fresh::default();
        for (bucket_s, series, count) in [(20, 7, 1), (20, 1024 + 7, 100), (10, 7, 2), (20, 7, -4), (20, 8, 50)] {
            fresh.put(bucket_s, series, &cell(count));
        }
        let parts: Vec<(u32, &[u8])> = fresh.parts().collect();
        assert_eq!(parts.iter().map(|(part, _)| *part).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(fresh.bytes(), parts.iter().map(|(_, bytes)| bytes.len()).sum::<usize>());
        let seventh = added_up(entries(0, parts[0].1).filter(|(_, series, _)| *series == 7));
        assert_eq!(seventh, BTreeMap::from([(10, cell(2)), (20, cell(-3))]));
        assert_eq!(widened(&seventh, 60), BTreeMap::from([(0, cell(-1))]));
        assert_eq!(entries(1, parts[1].1).map(|(bucket_s, series, _)| (bucket_s, series)).collect::<Vec<_>>(), [(20, 1031)]);
        assert_eq!(entries(0, &parts[0].1[..parts[0].1.len() - 1]).count(), 3);
        assert_eq!(entries(u32::MAX, parts[0].1).count(), 0);
    }

    /// A part settles when it is old or large, the oldest first, and not before.
    #[test]
    fn old_or_large_parts_are_due() {
        let mut parts = Parts::default();
        let at = |s: u64| RawNanos(s * 1_000_000_000);
        parts.grew(1, 10, at(5));
        parts.grew(2, SETTLE_BYTES, at(6));
        assert_eq!(parts.due(at(6)), Some(2));
        assert_eq!(parts.due(at(305)), Some(1));
        parts.settled(1);
        parts.settled(2);
        parts.grew(1, 10, at(310));
        assert_eq!(parts.due(at(609)), None);
        assert_eq!(parts.due(at(610)), Some(1));
        parts.grew(2, SETTLE_BYTES, at(611));
        parts.put_off(at(611));
        assert_eq!(parts.due(at(900)), None);
        assert_eq!(parts.due(at(911)), Some(1));
    }
}
