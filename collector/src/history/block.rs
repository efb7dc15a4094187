//! Buckets of one series that are stored in one row: a row of its own would take several times the room of what is in a bucket. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::cell::Cell;
use crate::varint::{Cursor, put};

/// The buckets of a row: where they begin, and how wide each is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) start_s: u64,
    pub(super) width_s: u64,
}

impl Block {
    /// The cells of a row, in order. What cannot be read is left out.
    pub(super) fn cells(self, bytes: &[u8]) -> impl Iterator<Item = (u64, Cell)> {
        entries(bytes).filter_map(move |(place, cell)| {
            let bucket_s = self.start_s.checked_add(self.width_s.checked_mul(place)?)?;
            Some((bucket_s, Cell::read(cell, bucket_s)?))
        })
    }

    /// The row with cells added, by the start of their buckets. The other cells are not even looked at.
    pub(super) fn with(self, bytes: &[u8], added: BTreeMap<u64, Cell>) -> Vec<u8> {
        let mut held: BTreeMap<u64, Cow<'_, [u8]>> = entries(bytes).map(|(place, cell)| (place, Cow::Borrowed(cell))).collect();
        for (bucket_s, mut cell) in added {
            let place = (bucket_s - self.start_s) / self.width_s;
            if let Some(before) = held.get(&place).and_then(|bytes| Cell::read(bytes, bucket_s)) {
                cell.add(&before);
            }
            held.insert(place, Cow::Owned(cell.bytes(bucket_s)));
        }
        let mut out = Vec::new();
        for (place, cell) in held {
            put(&mut out, place);
            put(&mut out, cell.len() as u64);
            out.extend_from_slice(&cell);
        }
        out
    }
}

/// The number of each bucket within the row, and the bytes of its cell.
fn entries(bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut cursor = Cursor(bytes);
    std::iter::from_fn(move || {
        let (place, length) = (cursor.number()?, cursor.number()?);
        Some((place, cursor.bytes(length)?))
    })
}
