//! What a file says of the streams, when it is opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use lagmesh_model::ids::{AgentName, BootId};
use rusqlite::{Connection, Row};

use super::body::Body;
use super::book::Book;
use super::names::{self, Name};
use super::runs::{Point, Run, Runs};
use crate::packed::{self, Encoding};

/// The most that is unpacked in one piece [bytes]: none is written that comes near.
const UNPACKED_BYTES_MAX: usize = 64 << 20;

/// A boot with what could be read of its runs, in order; `None` for a run that could not.
type Stored = (u64, Vec<Option<Run>>);

/// Everything.
pub(super) fn book(connection: &Connection) -> Result<Book, rusqlite::Error> {
    let mut book = Book::default();
    let mut series = connection.prepare("SELECT id, metric, attributes FROM series")?;
    let mut rows = series.query([])?;
    while let Some(row) = rows.next()? {
        let (id, metric, attributes): (u32, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        book.names().pass_over(id);
        // What a version before this one measured keeps its number and waits until it is too old.
        if let Some((metric, attributes)) = names::read(&metric, &attributes) {
            book.names().restore(Name { id, metric: metric.name, attributes });
        }
    }
    gone(connection, &mut book)?;
    let mut boots: BTreeMap<(String, i64), Stored> = BTreeMap::new();
    let mut stored = connection.prepare("SELECT * FROM run ORDER BY agent, boot, first")?;
    let mut rows = stored.query([])?;
    while let Some(row) = rows.next()? {
        let (heard, runs) = boots.entry((row.get(0)?, row.get(1)?)).or_default();
        // Only runs that change are written, so the newest of them says when the boot was last heard of.
        *heard = (*heard).max(row.get::<_, i64>(2)?.cast_unsigned());
        runs.push(run(row)?);
    }
    for ((agent, boot), (heard, runs)) in boots {
        restore(&mut book, &agent, BootId(boot.cast_unsigned()), (heard, runs));
    }
    Ok(book)
}

fn gone(connection: &Connection, book: &mut Book) -> Result<(), rusqlite::Error> {
    let mut gone = connection.prepare("SELECT agent, boot FROM gone ORDER BY ordinal")?;
    let mut rows = gone.query([])?;
    while let Some(row) = rows.next()? {
        if let Ok(agent) = row.get::<_, String>(0)?.parse() {
            book.restore_gone(agent, BootId(row.get::<_, i64>(1)?.cast_unsigned()));
        }
    }
    Ok(())
}

fn restore(streams: &mut Book, agent: &str, boot: BootId, (heard, runs): Stored) {
    let Ok(name) = agent.parse::<AgentName>() else { return };
    if let Some(runs) = runs.into_iter().collect::<Option<Vec<Run>>>().and_then(Runs::restore) {
        streams.restore(name, boot, heard, runs);
    } else {
        // Without its last counts all that came before would be counted again with its next batch.
        tracing::warn!(agent, %boot, "stored counts cannot be read; the history of this start of the agent ends");
        streams.restore_gone(name, boot);
    }
}

fn run(row: &Row<'_>) -> Result<Option<Run>, rusqlite::Error> {
    let body = |index| {
        let bytes = unpack(row.get_ref(index)?.as_blob().map_err(rusqlite::Error::from)?);
        Ok::<_, rusqlite::Error>(bytes.and_then(Body::from_bytes).map(Arc::new))
    };
    let number = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let point = |from, body| {
        Ok::<_, rusqlite::Error>(Point {
            sequence: number(from)?,
            label_ns: number(from + 1)?,
            start_ns: number(from + 2)?,
            body,
        })
    };
    let Some(first_body) = body(6)? else { return Ok(None) };
    let first = point(3, first_body)?;
    if number(7)? == first.sequence {
        return Ok(Some(Run { last: first.clone(), first }));
    }
    let Some(last_body) = body(10)? else { return Ok(None) };
    Ok(Some(Run { first, last: point(7, last_body)? }))
}

/// What was packed; `None` if it cannot be read.
pub(super) fn unpack(bytes: &[u8]) -> Option<Vec<u8>> {
    packed::unpack(Encoding::Zstd, bytes, UNPACKED_BYTES_MAX).ok()
}
