//! The last hour against the same hour a week ago: what is usual at this hour of this day. Where history does not reach back so far,
//! against yesterday.

use lagmesh_model::catalogue::{self, Metric};
use lagmesh_model::history::{Baseline, Baselines, Hour};
use lagmesh_model::known::Known;
use lagmesh_model::series::Attributes;
use lagmesh_model::time::WallNanos;
use rusqlite::Connection;

use super::ask::{self, Filters};
use super::body::SeriesId;
use super::cell::Cell;
use super::read::{Failed, Patience, Rows, find, text};
use super::spread::Spread;

/// What has a baseline.
static METRICS: [&Metric; 2] = [&catalogue::LINK_RTT, &catalogue::REPLICATION_LAG];
/// The tier that is read: a minute is fine enough for an hour, and is kept for more than a week.
const TIER: usize = 1;
const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;
/// A median of fewer values says nothing of an hour.
const MEDIAN_COUNT_MIN: u64 = 30;
/// Of a p99 at least five values must lie above it.
const P99_COUNT_MIN: u64 = 500;
/// The most series in one answer.
const SERIES_MAX: usize = 4096;

/// The words of a question.
#[derive(Debug, Default)]
pub(super) struct Request {
    metrics: Vec<(&'static Metric, Filters)>,
    now_s: u64,
}

impl Request {
    /// Reads the words: a metric, or none for all, and attributes.
    ///
    /// # Errors
    /// If something is wrong: what, and what is possible.
    pub(super) fn parse(words: &[(String, String)], now: WallNanos) -> Result<Request, String> {
        let metric = words.iter().find(|(word, _)| word == "metric").map(|(_, value)| ask::metric(value)).transpose()?;
        if let Some(metric) = metric.filter(|metric| !METRICS.iter().any(|known| known.name == metric.name)) {
            let names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
            return Err(format!("{metric} has no baseline; these have one: {}", names.join(", ")));
        }
        let mut request = Request { metrics: Vec::new(), now_s: now.0 / 1_000_000_000 };
        let mut refused = None;
        for one in METRICS.into_iter().filter(|one| metric.is_none_or(|metric| metric.name == one.name)) {
            let mut filters = Filters::default();
            let mut others = words.iter().filter(|(word, _)| word != "metric");
            match others.try_for_each(|(word, value)| filters.add(one.attributes, word, value, one.name)) {
                Ok(()) => request.metrics.push((one, filters)),
                Err(why) => refused = Some(why),
            }
        }
        // An attribute that only one of the metrics has chooses that one.
        match refused {
            Some(why) if request.metrics.is_empty() => Err(why),
            _ => Ok(request),
        }
    }
}

/// The answer to a question.
pub(super) fn answer(connection: &Connection, request: &Request, patience: &mut Patience<'_>) -> Result<Baselines, Failed> {
    let view = connection.unchecked_transaction()?;
    let to_s = request.now_s / 60 * 60;
    let from_s = to_s.saturating_sub(HOUR_S);
    let mut series = Vec::new();
    for (metric, filters) in &request.metrics {
        let found = find(&view, metric, filters)?;
        let rows = Rows::of(&view, found.iter().map(|(id, _)| *id), patience)?;
        for (id, attributes) in found {
            if series.len() == SERIES_MAX {
                return Err(Failed::Wrong(format!("more than {SERIES_MAX} series fit: choose by region, peer, cluster or node")));
            }
            let mut hour = |ago_s: u64| hour(&rows, id, from_s.saturating_sub(ago_s)..to_s.saturating_sub(ago_s), patience);
            let (now, week, day) = (hour(0)?, hour(7 * DAY_S)?, hour(DAY_S)?);
            let nothing = Spread::default();
            if [&now, &week, &day].iter().any(|hour| **hour != nothing) {
                series.push(compare(metric, &attributes, &now, &week, &day));
            }
        }
    }
    Ok(Baselines { from: text(from_s), to: text(to_s), series })
}

/// What was measured within an hour. What was counted over more than an hour is not of this one.
fn hour(rows: &Rows<'_>, id: SeriesId, range_s: std::ops::Range<u64>, patience: &mut Patience<'_>) -> Result<Spread, Failed> {
    let mut sum = Spread::default();
    rows.cells(id, TIER, range_s, patience, |_, cell| {
        if let Cell::Histogram(spread, spans) = cell
            && spans.longest_s().is_none_or(|span_s| span_s <= HOUR_S)
        {
            sum.add(&spread, 1);
        }
    })?;
    Ok(sum)
}

fn compare(metric: &Metric, attributes: &Attributes, now: &Spread, week: &Spread, day: &Spread) -> Baseline {
    let now = of(now);
    let (week, day) = (("week", of(week)), ("day", of(day)));
    let against = [week, day].into_iter().find(|(_, hour)| hour.samples >= MEDIAN_COUNT_MIN);
    let ratio = |count_min: u64, quantile: fn(&Hour) -> Option<f64>| {
        let Some((_, then)) = against else { return Known::unknown("nothing to compare with a week or a day ago") };
        if now.samples < count_min || then.samples < count_min {
            return Known::unknown(format!("fewer than {count_min} samples: {} now, {} then", now.samples, then.samples));
        }
        match (quantile(&now), quantile(&then)) {
            (Some(now), Some(then)) if then > 0.0 => Known::known(now / then),
            _ => Known::unknown("it was zero then"),
        }
    };
    Baseline {
        metric: metric.name.to_owned(),
        attributes: attributes.iter().map(|(name, value)| (name.as_str().to_owned(), value.to_owned())).collect(),
        now,
        against: against.map(|(word, _)| word.to_owned()),
        then: against.map(|(_, hour)| hour),
        p50_ratio: ratio(MEDIAN_COUNT_MIN, |hour| hour.p50_s),
        p99_ratio: ratio(P99_COUNT_MIN, |hour| hour.p99_s),
    }
}

fn of(spread: &Spread) -> Hour {
    let Some(histogram) = spread.histogram() else { return Hour::default() };
    Hour { samples: histogram.count(), p50_s: histogram.quantile_s(0.5), p99_s: histogram.quantile_s(0.99) }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::histogram::Exponential;

    use super::*;

    fn spread(count: u64, ms: u64) -> Spread {
        let mut histogram = Exponential::new();
        (0..count).for_each(|_| histogram.record_ns(ms * 1_000_000));
        Spread::of(&histogram)
    }

    fn compared(now: &Spread, week: &Spread, day: &Spread) -> Baseline {
        compare(&catalogue::LINK_RTT, &Attributes::new(), now, week, day)
    }

    /// The ratio is that of the quantiles; it is unknown, and never 1, where there are too few values on either side.
    #[test]
    fn ratios() {
        let nothing = Spread::default();
        let twice = compared(&spread(600, 20), &spread(600, 10), &spread(600, 20));
        assert_eq!(twice.against.as_deref(), Some("week"));
        assert!(matches!(twice.p50_ratio, Known::Known { value } if (value - 2.0).abs() < 0.05));
        assert!(matches!(twice.p99_ratio, Known::Known { value } if (value - 2.0).abs() < 0.05));
        let yesterday = compared(&spread(100, 20), &nothing, &spread(100, 20));
        assert_eq!(yesterday.against.as_deref(), Some("day"));
        assert!(matches!(yesterday.p50_ratio, Known::Known { value } if (value - 1.0).abs() < 1e-9));
        assert!(matches!(yesterday.p99_ratio, Known::Unknown { .. }));
        for (now, then) in [(&spread(100, 20), &nothing), (&nothing, &spread(100, 20)), (&spread(29, 1), &spread(100, 1))] {
            assert!(matches!(compared(now, then, &nothing).p50_ratio, Known::Unknown { .. }));
        }
        assert!(matches!(compared(&spread(50, 1), &spread(50, 0), &nothing).p50_ratio, Known::Unknown { .. }));
    }

    /// An attribute of one of the metrics chooses it; one of none is refused.
    #[test]
    fn words() {
        let parse = |words: &[(&str, &str)]| {
            let words: Vec<(String, String)> = words.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            Request::parse(&words, WallNanos(0)).map(|request| request.metrics.len())
        };
        assert_eq!(parse(&[]), Ok(2));
        assert_eq!(parse(&[("region", "a")]), Ok(2));
        assert_eq!(parse(&[("peer", "a")]), Ok(1));
        assert_eq!(parse(&[("metric", "lagmesh.link.rtt")]), Ok(1));
        assert!(parse(&[("metric", "lagmesh.link.loss")]).unwrap_err().contains("has no baseline"));
        assert!(parse(&[("slot", "a")]).is_err());
    }
}
