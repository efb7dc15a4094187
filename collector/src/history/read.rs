//! Answers from the file: rows looked up one by one, their buckets added up to the steps that were asked for.

use std::collections::{BTreeMap, BTreeSet};

use lagmesh_model::catalogue::{Attribute, Metric};
use lagmesh_model::history::{Course, History, Numbers, Point};
use lagmesh_model::series::Attributes;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::ask::{Filters, Plan, Request};
use super::block::Block;
use super::body::SeriesId;
use super::cell::Cell;
use super::fresh::{added_up, entries, part_of, widened};
use super::names;
use super::table::{self, BLOCKS_S, TIERS, WIDTHS_S, kept_since, lookup};

/// The most series in one answer.
const SERIES_MAX: usize = 256;
/// The most rows that are looked up for one answer.
const LOOKUPS_MAX: u64 = 100_000;
/// The clock is looked at once for so many look-ups.
const LOOKUPS_PER_CHECK: u64 = 16;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The question is wrong: what to do.
    #[error("{0}")]
    Wrong(String),
    /// It took too long.
    #[error("the answer took too long: ask for a larger step, a shorter range or fewer series")]
    Slow,
    /// The file cannot be read.
    #[error("the history cannot be read: {0}")]
    Database(#[from] rusqlite::Error),
}

/// Counts look-ups and says when it is enough.
pub(super) struct Patience<'a> {
    looked: u64,
    late: &'a dyn Fn() -> bool,
}

impl<'a> Patience<'a> {
    /// Ends once `late` says so.
    pub(super) fn until(late: &'a dyn Fn() -> bool) -> Patience<'a> {
        Patience { looked: 0, late }
    }

    fn look(&mut self) -> Result<(), Failed> {
        self.looked += 1;
        let check = self.looked.is_multiple_of(LOOKUPS_PER_CHECK);
        if check && (self.late)() { Err(Failed::Slow) } else { Ok(()) }
    }
}

/// The answer to a question.
pub(super) fn answer(connection: &Connection, request: &Request, patience: &mut Patience<'_>) -> Result<History, Failed> {
    // One view of the file, however long it takes.
    let view = connection.unchecked_transaction()?;
    let kept = kept_since(&view)?;
    let plan = request.plan(kept).map_err(Failed::Wrong)?;
    let found = find(&view, request.metric, &request.filters)?;
    let rows = (plan.to_s - plan.from_s) / BLOCKS_S[plan.tier] + 1;
    if found.len() > SERIES_MAX {
        let names: Vec<&str> = request.metric.attributes.iter().map(|attribute| attribute.as_str()).collect();
        let (count, names) = (found.len(), names.join(", "));
        return Err(Failed::Wrong(format!("{count} series fit, at most {SERIES_MAX} are shown: choose by {names}")));
    }
    if rows.saturating_mul(found.len() as u64) > LOOKUPS_MAX {
        return Err(Failed::Wrong("too much to read at once: ask for a larger step, a shorter range or fewer series".to_owned()));
    }
    let (rows, mut series) = (Rows::of(&view, found.iter().map(|(id, _)| *id), patience)?, Vec::new());
    for (id, attributes) in found {
        let points = course(&rows, id, request.metric, &plan, patience)?;
        if !points.is_empty() {
            let attributes = attributes.iter().map(|(name, value)| (name.as_str().to_owned(), value.to_owned())).collect();
            series.push(Course { attributes, points });
        }
    }
    let kept_since_s = kept[plan.tier];
    Ok(History {
        metric: request.metric.name.to_owned(),
        unit: request.metric.unit.ucum().to_owned(),
        from: text(plan.from_s),
        to: text(plan.to_s),
        step_s: plan.step_s,
        bucket_s: WIDTHS_S[plan.tier],
        kept_since: (kept_since_s > 0).then(|| text(kept_since_s)),
        series,
    })
}

/// The series of a metric that fit, in the order of their attributes.
pub(super) fn find(connection: &Connection, metric: &Metric, filters: &Filters) -> Result<Vec<(SeriesId, Attributes)>, Failed> {
    let mut all = connection.prepare("SELECT id, attributes FROM series WHERE metric = ?1")?;
    let mut rows = all.query([metric.name])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, text): (SeriesId, String) = (row.get(0)?, row.get(1)?);
        if let Some((_, attributes)) = names::read(metric.name, &text).filter(|(_, attributes)| filters.fit(attributes)) {
            found.push((id, attributes));
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(found)
}

/// Some series as one view of the file has them.
pub(super) struct Rows<'a> {
    view: &'a Connection,
    kept: [u64; 3],
    /// What has not settled in rows of the tiers: the buckets of the finest [s] and their cells as stored.
    fresh: BTreeMap<SeriesId, Vec<(u64, Vec<u8>)>>,
}

impl<'a> Rows<'a> {
    /// Those of these series.
    pub(super) fn of(
        view: &'a Connection,
        series: impl Iterator<Item = SeriesId>,
        patience: &mut Patience<'_>,
    ) -> Result<Rows<'a>, Failed> {
        let mut fresh: BTreeMap<SeriesId, Vec<(u64, Vec<u8>)>> = series.map(|id| (id, Vec::new())).collect();
        let parts: BTreeSet<u32> = fresh.keys().map(|id| part_of(*id)).collect();
        for part in parts {
            for piece in table::fresh(view, part)? {
                patience.look()?;
                for (bucket_s, id, cell) in entries(part, &piece) {
                    if let Some(held) = fresh.get_mut(&id) {
                        held.push((bucket_s, cell.to_vec()));
                    }
                }
            }
        }
        Ok(Rows { view, kept: kept_since(view)?, fresh })
    }

    /// The cells of a series in a tier from one bucket to before another, each bucket once.
    pub(super) fn cells(
        &self,
        series: SeriesId,
        tier: usize,
        range_s: std::ops::Range<u64>,
        patience: &mut Patience<'_>,
        mut each: impl FnMut(u64, Cell),
    ) -> Result<(), Failed> {
        let (width_s, block_s) = (WIDTHS_S[tier], BLOCKS_S[tier]);
        let mut fresh = self.fresh(series, tier, &range_s);
        let mut get = lookup(self.view, tier)?;
        let ends = format!("SELECT min(block), max(block) FROM {}", TIERS[tier]);
        let (first_s, last_s) = self.view.prepare(&ends)?.query_row([], |row| {
            let ends: (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok((ends.0.map_or(u64::MAX, i64::cast_unsigned), ends.1.map_or(0, i64::cast_unsigned)))
        })?;
        let mut start_s = range_s.start.max(first_s) / block_s * block_s;
        while start_s < range_s.end && start_s <= last_s {
            patience.look()?;
            let row: Option<Vec<u8>> = get.query_row(params![start_s.cast_signed(), series], |row| row.get(0)).optional()?;
            for (bucket_s, mut cell) in (Block { start_s, width_s }).cells(row.as_deref().unwrap_or_default()) {
                if range_s.contains(&bucket_s) {
                    if let Some(more) = fresh.remove(&bucket_s) {
                        cell.add(&more);
                    }
                    each(bucket_s, cell);
                }
            }
            start_s += block_s;
        }
        for (bucket_s, cell) in fresh {
            each(bucket_s, cell);
        }
        Ok(())
    }

    /// What is to be added to the buckets of a tier. What is older than the tier is not.
    fn fresh(&self, series: SeriesId, tier: usize, range_s: &std::ops::Range<u64>) -> BTreeMap<u64, Cell> {
        let width_s = WIDTHS_S[tier];
        let belongs = |bucket_s: u64| range_s.contains(&bucket_s) && bucket_s >= self.kept[tier];
        let held = self.fresh.get(&series).into_iter().flatten();
        let asked = held.filter(|(bucket_s, _)| belongs(bucket_s / width_s * width_s));
        widened(&added_up(asked.map(|(bucket_s, bytes)| (*bucket_s, series, bytes.as_slice()))), width_s)
    }
}

fn course(
    rows: &Rows<'_>,
    series: SeriesId,
    metric: &Metric,
    plan: &Plan,
    patience: &mut Patience<'_>,
) -> Result<Vec<Point>, Failed> {
    let mut sums: BTreeMap<u64, Cell> = BTreeMap::new();
    rows.cells(series, plan.tier, plan.from_s..plan.to_s, patience, |bucket_s, cell| {
        let step_s = bucket_s / plan.step_s * plan.step_s;
        sums.entry(step_s).and_modify(|held| held.add(&cell)).or_insert(cell);
    })?;
    Ok(sums.into_iter().filter_map(|(at_s, cell)| shown(at_s, &cell, metric)).collect())
}

fn shown(at_s: u64, cell: &Cell, metric: &Metric) -> Option<Point> {
    let (numbers, span_s) = match cell {
        Cell::Counter(increase, spans) => (Numbers::Counter { increase: u64::try_from(*increase).ok()? }, spans.longest_s()),
        Cell::Histogram(spread, spans) => {
            let histogram = spread.histogram()?;
            let quantile = |q| histogram.quantile_s(q);
            let numbers = Numbers::Histogram {
                count: histogram.count(),
                sum: spread.sum_s(),
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                max: histogram.max_s(),
            };
            (numbers, spans.longest_s())
        }
        Cell::Gauge(gauge) => {
            // Other numbers come by state too, such as how many flows are in it.
            let is_state = metric.attributes.contains(&Attribute::State) && gauge.min >= 0.0 && gauge.max <= 1.0;
            let share = is_state.then(|| gauge.ones as f64 / gauge.count as f64);
            (Numbers::Gauge { count: gauge.count, min: gauge.min, max: gauge.max, last: gauge.last, share }, None)
        }
    };
    Some(Point { at: text(at_s), numbers, span_s })
}

/// A moment as RFC 3339 has it; what lies beyond its years is told as its last second.
pub(super) fn text(seconds: u64) -> String {
    const END_S: u64 = 253_402_300_799;
    let since = std::time::Duration::from_secs(seconds.min(END_S));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}
