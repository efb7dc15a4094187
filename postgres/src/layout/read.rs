//! What a reader takes from the table.

use std::time::{SystemTime, UNIX_EPOCH};

use lagmesh_model::beat::{BeatId, BeatRow, Incarnation, LAYOUT, Sequence};
use lagmesh_model::ids::NodeName;
use lagmesh_model::position::{Lsn, Position, SystemIdentifier, Timeline};
use lagmesh_model::time::{Epoch, RawNanos, WallNanos};
use tokio_postgres::types::{PgLsn, ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use super::Stream;

/// The size from which a writer stops beating and says so [bytes]: a healthy table of a hundred origins has 4 MB. Vacuum cannot keep up
/// then (an old snapshot, a forgotten slot with `hot_standby_feedback`), and beating on would make it worse.
pub const TABLE_BYTES_MAX: i64 = 8 << 20;

/// The newest beat of one incarnation and stream that the reader has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Who wrote it.
    pub origin: NodeName,
    /// The writer's start.
    pub incarnation: Incarnation,
    /// The stream.
    pub stream: Stream,
    /// The newest sequence seen.
    pub sequence: Sequence,
}

/// What one poll found.
#[derive(Debug, Default)]
pub struct Beats {
    /// The new beats, oldest first within each origin, incarnation and stream.
    pub rows: Vec<(Stream, BeatRow)>,
    /// Rows of another layout or with impossible values: counted, never guessed at.
    pub unreadable: u64,
}

/// Reads the beats that are newer than their marks and those without one: all of a healthy table's, and of a table that somebody filled
/// no more than memory is there for.
///
/// # Errors
/// The server's; on a standby a recovery conflict among them.
pub async fn read_newer(client: &Client, marks: &[Mark]) -> Result<Beats, Error> {
    let sql = "SELECT origin, incarnation, stream, seq, clock_epoch, sent_raw_ns, sent_wall, previous_acknowledged_raw_ns, \
               system_identifier, timeline, lsn, layout, claimed_error_ns FROM lagmesh.beat WHERE seq IS NOT NULL AND NOT EXISTS ( \
               SELECT FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) \
               AS mark (origin, incarnation, stream, seq) \
               WHERE mark.origin = beat.origin AND mark.incarnation = beat.incarnation AND mark.stream = beat.stream \
               AND mark.seq >= beat.seq) ORDER BY origin, incarnation, stream, seq LIMIT 4096";
    let origins: Vec<&str> = marks.iter().map(|mark| mark.origin.as_str()).collect();
    let incarnations: Vec<i64> = marks.iter().map(|mark| mark.incarnation.0).collect();
    let streams: Vec<&str> = marks.iter().map(|mark| mark.stream.as_str()).collect();
    let sequences: Vec<i64> = marks.iter().map(|mark| mark.sequence.0.cast_signed()).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
        (&origins, Type::TEXT_ARRAY),
        (&incarnations, Type::INT8_ARRAY),
        (&streams, Type::TEXT_ARRAY),
        (&sequences, Type::INT8_ARRAY),
    ];
    let mut beats = Beats::default();
    for row in client.query_typed(sql, &parameters).await? {
        match decode(&row)? {
            Some(beat) => beats.rows.push(beat),
            None => beats.unreadable += 1,
        }
    }
    Ok(beats)
}

/// `None` for a row that this version cannot mean.
fn decode(row: &Row) -> Result<Option<(Stream, BeatRow)>, Error> {
    let (origin, stream): (&str, &str) = (row.try_get(0)?, row.try_get(2)?);
    let (sequence, wall): (i64, SystemTime) = (row.try_get(3)?, row.try_get(6)?);
    let (timeline, lsn): (i32, PgLsn) = (row.try_get(9)?, row.try_get(10)?);
    let previous: Option<i64> = row.try_get(7)?;
    let values = || {
        let wall_ns = wall.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        let raw = |ns: i64| u64::try_from(ns).ok().and_then(RawNanos::from_outside);
        Some((origin.parse::<NodeName>().ok()?, Stream::from_column(stream)?, u64::try_from(wall_ns).ok()?, raw))
    };
    let Some((origin, stream, wall_ns, raw)) = values() else { return Ok(None) };
    let (Ok(sequence), Some(sent)) = (u64::try_from(sequence), raw(row.try_get(5)?)) else { return Ok(None) };
    if row.try_get::<_, i16>(11)? != LAYOUT {
        return Ok(None);
    }
    let system: i64 = row.try_get(8)?;
    let claimed: Option<i64> = row.try_get(12)?;
    let epoch: i64 = row.try_get(4)?;
    let beat = BeatRow {
        id: BeatId { origin, incarnation: Incarnation(row.try_get(1)?), sequence: Sequence(sequence) },
        epoch: Epoch(epoch.cast_unsigned()),
        sent,
        sent_wall: WallNanos(wall_ns),
        claimed_error_ns: claimed.and_then(|error_ns| u64::try_from(error_ns).ok()),
        previous_acknowledged: previous.and_then(raw),
        position: Position {
            system: SystemIdentifier(system.cast_unsigned()),
            timeline: Timeline(timeline.cast_unsigned()),
            lsn: Lsn(lsn.into()),
        },
    };
    Ok(Some((stream, beat)))
}

/// How large the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSize {
    /// The table with its index [bytes].
    pub bytes: i64,
    /// Row versions that await vacuum, as the statistics know them.
    pub dead_rows: Option<i64>,
}

impl TableSize {
    /// Whether a writer must stop beating.
    pub fn over_cap(&self) -> bool {
        self.bytes > TABLE_BYTES_MAX
    }
}

/// Measures the table.
///
/// # Errors
/// The server's.
pub async fn table_size(client: &Client) -> Result<TableSize, Error> {
    let sql = "SELECT pg_catalog.pg_total_relation_size(relation), pg_catalog.pg_stat_get_dead_tuples(relation) \
               FROM (SELECT 'lagmesh.beat'::pg_catalog.regclass::pg_catalog.oid) AS beat (relation)";
    let row = client.query_typed_one(sql, &[]).await?;
    Ok(TableSize { bytes: row.try_get(0)?, dead_rows: row.try_get(1)? })
}
