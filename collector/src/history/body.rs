//! The counts of one batch, packed: what the next batch of the boot is subtracted from. Pure.

use std::iter;

use super::cell::{Cell, Spans};
use super::spread::Spread;
use crate::varint::{Cursor, put};

/// Number of a series in the dictionary.
pub(super) type SeriesId = u32;

const COUNTER: u8 = 0;
const HISTOGRAM: u8 = 1;

/// A cumulative value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cumulative {
    Counter(u64),
    Histogram(Spread),
}

/// Cumulative values of many series, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    /// The values, in whatever order. Of two of one series the first counts.
    pub(super) fn of(mut values: Vec<(SeriesId, Cumulative)>) -> Body {
        values.sort_by_key(|(id, _)| *id);
        values.dedup_by_key(|(id, _)| *id);
        let (mut out, mut before) = (Vec::new(), 0);
        for (id, value) in values {
            put(&mut out, id - before);
            before = id;
            match value {
                Cumulative::Counter(count) => {
                    out.push(COUNTER);
                    put(&mut out, count);
                }
                Cumulative::Histogram(spread) => {
                    out.push(HISTOGRAM);
                    spread.put(&mut out);
                }
            }
        }
        out.shrink_to_fit();
        Body(out)
    }

    /// The bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A body of bytes; `None` if they are none.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Option<Body> {
        let mut cursor = Cursor(&bytes);
        let mut id = 0;
        while !cursor.is_empty() {
            next(&mut cursor, &mut id)?;
        }
        Some(Body(bytes))
    }

    fn values(&self) -> impl Iterator<Item = (SeriesId, Cumulative)> {
        let (mut cursor, mut id) = (Cursor(&self.0), 0);
        iter::from_fn(move || next(&mut cursor, &mut id))
    }

    /// What every series of this body gained since an earlier one, with the mark of so long a span [ns]; `sign` takes it away.
    ///
    /// A series that the earlier body lacks had not begun; one whose count is lower began anew.
    pub(super) fn since(&self, earlier: Option<&Body>, span_ns: u64, sign: i64) -> impl Iterator<Item = (SeriesId, Cell)> {
        let mut before = earlier.into_iter().flat_map(Body::values).peekable();
        self.values().map(move |(id, value)| {
            while before.next_if(|(earlier, _)| *earlier < id).is_some() {}
            let was = before.next_if(|(earlier, _)| *earlier == id).map(|(_, was)| was);
            (id, gained(value, was, Spans::one(span_ns, sign), sign))
        })
    }
}

fn gained(value: Cumulative, was: Option<Cumulative>, spans: Spans, sign: i64) -> Cell {
    match (value, was) {
        (Cumulative::Counter(now), was) => {
            let then = if let Some(Cumulative::Counter(then)) = was { then } else { 0 };
            Cell::Counter(i128::from(sign) * i128::from(now.checked_sub(then).unwrap_or(now)), spans)
        }
        (Cumulative::Histogram(now), was) => {
            let grown = if let Some(Cumulative::Histogram(then)) = was { now.since(&then).unwrap_or(now) } else { now };
            let mut signed = Spread::default();
            signed.add(&grown, sign);
            Cell::Histogram(signed, spans)
        }
    }
}

fn next(cursor: &mut Cursor<'_>, id: &mut SeriesId) -> Option<(SeriesId, Cumulative)> {
    *id = id.checked_add(cursor.number()?)?;
    let value = match cursor.byte()? {
        COUNTER => Cumulative::Counter(cursor.number()?),
        HISTOGRAM => Cumulative::Histogram(Spread::read(cursor)?),
        _ => return None,
    };
    Some((*id, value))
}
