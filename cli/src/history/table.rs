//! Courses and baselines as text. Pure.

use std::time::{Duration, SystemTime};

use lagmesh_model::history::{Baseline, Baselines, Course, History, Hour, Numbers, Point};
use lagmesh_model::known::Known;

use crate::table::units::{bytes, seconds};
use crate::table::{Cell, Grid, Style, Tone};

/// How wide a picture of a course is [characters].
const PICTURE: usize = 40;
/// From the lowest to the highest.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Where nothing is known.
const GAP: char = '·';
/// The newest points that are listed if there is one series.
const LISTED_MAX: usize = 30;
/// A median that is so much larger than it was is worth a look.
const SLOWER: f64 = 1.5;

/// The course of each series on a line; of a single one its points too.
pub(super) fn history(told: &History, style: Style) -> String {
    let head = format!("{} from {} to {}, a point for each {}\n", told.metric, told.from, told.to, step(told.step_s));
    let mut text = Cell::plain(head.trim_end()).text + "\n";
    if let Some(since) = told.kept_since.as_ref().filter(|since| **since > told.from) {
        let kept = format!("  buckets of {} are kept since {since}", step(told.bucket_s));
        text = text + &Cell::plain(kept).text + "\n";
    }
    let first = told.series.iter().find_map(|course| course.points.first());
    let Some(first) = first else { return text + "nothing is known of it in that time\n" };
    let columns: &[&str] = match first.numbers {
        Numbers::Counter { .. } => &["series", "increase", "most", "newest", "course"],
        Numbers::Histogram { .. } => &["series", "values", "newest p50", "newest p99", "highest p99", "course of p50"],
        Numbers::Gauge { .. } => &["series", "min", "max", "newest", "course"],
    };
    let mut grid = Grid::new(columns.iter().copied());
    for course in &told.series {
        grid.push(row(course, told));
    }
    text += "\n";
    text += &grid.render(style);
    if let [course] = told.series.as_slice() {
        text += "\n";
        text += &points(course, &told.unit, style);
    }
    if told.series.iter().flat_map(|course| &course.points).any(|point| point.span_s.is_some()) {
        text += "\nsome points hold what was counted over a longer time than theirs (span_s in -o json): an outage, or an agent older than \
                 this history\n";
    }
    text
}

fn row(course: &Course, told: &History) -> Vec<Cell> {
    let names = course.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
    let show = |value: f64| self::value(value, &told.unit);
    let newest = course.points.last().map(|point| point.numbers);
    let of_all = |number: fn(&Numbers) -> Option<f64>| course.points.iter().filter_map(move |point| number(&point.numbers));
    let highest = |number| of_all(number).fold(f64::NEG_INFINITY, f64::max);
    let numbers = match newest {
        Some(Numbers::Counter { increase }) => {
            let sum: f64 = of_all(main).sum();
            vec![show(sum), show(highest(main)), show(increase as f64)]
        }
        Some(Numbers::Histogram { p50, p99, .. }) => {
            let count: u64 = course.points.iter().map(|point| count(&point.numbers)).sum();
            let shown = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), show);
            vec![count.to_string(), shown(p50), shown(p99), shown(of_all(p99_of).reduce(f64::max))]
        }
        Some(Numbers::Gauge { last, .. }) => {
            let lowest = of_all(min_of).fold(f64::INFINITY, f64::min);
            vec![show(lowest), show(highest(max_of)), show(last)]
        }
        None => Vec::new(),
    };
    let cells = std::iter::once(names).chain(numbers).chain([picture(course, told)]);
    cells.map(Cell::plain).collect()
}

/// What the picture shows.
fn main(numbers: &Numbers) -> Option<f64> {
    match numbers {
        Numbers::Counter { increase } => Some(*increase as f64),
        Numbers::Histogram { p50, .. } => *p50,
        // The share of a state is what moves; its last value jumps.
        Numbers::Gauge { last, share, .. } => Some(share.unwrap_or(*last)),
    }
}

fn p99_of(numbers: &Numbers) -> Option<f64> {
    if let Numbers::Histogram { p99, .. } = numbers { *p99 } else { None }
}

fn min_of(numbers: &Numbers) -> Option<f64> {
    if let Numbers::Gauge { min, .. } = numbers { Some(*min) } else { None }
}

fn max_of(numbers: &Numbers) -> Option<f64> {
    if let Numbers::Gauge { max, .. } = numbers { Some(*max) } else { None }
}

fn count(numbers: &Numbers) -> u64 {
    match numbers {
        Numbers::Counter { increase } => *increase,
        Numbers::Histogram { count, .. } | Numbers::Gauge { count, .. } => *count,
    }
}

/// Bars from the lowest to the highest value; of several points in one bar the highest shows. Gaps stay gaps.
fn picture(course: &Course, told: &History) -> String {
    let moment = |text: &str| humantime::parse_rfc3339(text).ok();
    let (Some(from), Some(to)) = (moment(&told.from), moment(&told.to)) else { return String::new() };
    let Some(range) = to.duration_since(from).ok().filter(|range| !range.is_zero()) else { return String::new() };
    let steps = usize::try_from(range.as_secs() / told.step_s.max(1)).unwrap_or(PICTURE);
    let mut bars: Vec<Option<f64>> = vec![None; steps.clamp(1, PICTURE)];
    for point in &course.points {
        let (Some(place), Some(value)) = (place(point, from, range, bars.len()), main(&point.numbers)) else { continue };
        bars[place] = Some(bars[place].map_or(value, |held| held.max(value)));
    }
    let known = || bars.iter().flatten().copied();
    let (lowest, highest) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
    bars.iter().map(|value| value.map_or(GAP, |value| bar(value, lowest, highest))).collect()
}

fn place(point: &Point, from: SystemTime, range: Duration, bars: usize) -> Option<usize> {
    let since = humantime::parse_rfc3339(&point.at).ok()?.duration_since(from).ok()?;
    let place = since.as_secs().checked_mul(bars as u64)? / range.as_secs().max(1);
    usize::try_from(place).ok().filter(|place| *place < bars)
}

fn bar(value: f64, lowest: f64, highest: f64) -> char {
    if highest <= lowest {
        return BARS[0];
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fraction of the number of bars")]
    let height = ((value - lowest) / (highest - lowest) * BARS.len() as f64) as usize;
    BARS[height.min(BARS.len() - 1)]
}

/// The newest points of a series.
fn points(course: &Course, unit: &str, style: Style) -> String {
    let skipped = course.points.len().saturating_sub(LISTED_MAX);
    let mut grid = match course.points.first().map(|point| point.numbers) {
        Some(Numbers::Counter { .. }) => Grid::new(["from", "increase"]),
        Some(Numbers::Histogram { .. }) => Grid::new(["from", "values", "p50", "p90", "p99", "max"]),
        _ => Grid::new(["from", "reports", "min", "max", "last", "share"]),
    };
    let show = |number: f64| value(number, unit);
    let shown = |number: Option<f64>| number.map_or_else(|| "none".to_owned(), show);
    for point in &course.points[skipped..] {
        let at = point.at.clone();
        let cells = match point.numbers {
            Numbers::Counter { increase } => vec![at, show(increase as f64)],
            Numbers::Histogram { count, p50, p90, p99, max, .. } => {
                vec![at, count.to_string(), shown(p50), shown(p90), shown(p99), shown(max)]
            }
            Numbers::Gauge { count, min, max, last, share } => {
                let share = share.map_or_else(String::new, |share| format!("{:.1} %", share * 100.0));
                vec![at, count.to_string(), show(min), show(max), show(last), share]
            }
        };
        grid.push(cells.into_iter().map(Cell::plain).collect());
    }
    let more = if skipped > 0 { format!("{skipped} older points: -o json has all\n") } else { String::new() };
    grid.render(style) + &more
}

/// The last hour of each series against the one before.
pub(super) fn baselines(told: &Baselines, style: Style) -> String {
    let head = Cell::plain(format!("the hour from {} to {} against the same hour before", told.from, told.to)).text + "\n";
    if told.series.is_empty() {
        return head + "nothing is known of either\n";
    }
    let mut grid =
        Grid::new(["metric", "series", "values", "p50", "p99", "against", "values then", "p50 then", "p50 ×", "p99 ×"]);
    let mut reasons: Vec<String> = Vec::new();
    for one in &told.series {
        grid.push(baseline(one, &mut reasons));
    }
    let notes: Vec<String> = reasons.iter().map(|why| Cell::plain(format!("  unknown: {why}")).text + "\n").collect();
    format!("{head}\n{}{}", grid.render(style), notes.concat())
}

fn baseline(one: &Baseline, reasons: &mut Vec<String>) -> Vec<Cell> {
    let names = one.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
    let time = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), seconds);
    let then = |show: fn(&Hour) -> String| Cell::plain(one.then.as_ref().map_or_else(|| "unknown".to_owned(), show));
    let mut ratio = |ratio: &Known<f64>| match ratio {
        Known::Known { value } | Known::Stale { value, .. } => {
            Cell::new(format!("{value:.2}"), if *value >= SLOWER { Tone::Warn } else { Tone::Plain })
        }
        Known::Unknown { why } => {
            if !reasons.contains(why) && reasons.len() < LISTED_MAX {
                reasons.push(why.clone());
            }
            Cell::new("unknown", Tone::Dim)
        }
    };
    let against = one.against.as_deref().map_or_else(|| "nothing".to_owned(), |ago| format!("a {ago} ago"));
    vec![
        Cell::plain(one.metric.as_str()),
        Cell::plain(names),
        Cell::plain(one.now.samples.to_string()),
        Cell::plain(time(one.now.p50_s)),
        Cell::plain(time(one.now.p99_s)),
        Cell::plain(against),
        then(|hour| hour.samples.to_string()),
        then(|hour| hour.p50_s.map_or_else(|| "none".to_owned(), seconds)),
        ratio(&one.p50_ratio),
        ratio(&one.p99_ratio),
    ]
}

fn value(value: f64, unit: &str) -> String {
    match unit {
        "s" => seconds(value),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a size; what is negative or too large saturates"
        )]
        "By" => bytes(value as u64),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate; what is negative or too large saturates"
        )]
        "By/s" => format!("{}/s", bytes(value as u64)),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}

fn step(step_s: u64) -> String {
    humantime::format_duration(Duration::from_secs(step_s)).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn told(points: &[(u64, Numbers)]) -> History {
        let at = |minute: u64| format!("2026-01-01T00:{minute:02}:00Z");
        let points = points.iter().map(|(minute, numbers)| Point { at: at(*minute), numbers: *numbers, span_s: None }).collect();
        let attributes = BTreeMap::from([("region".to_owned(), "a".to_owned())]);
        History {
            metric: "lagmesh.link.rtt".to_owned(),
            unit: "s".to_owned(),
            from: at(0),
            to: at(8),
            step_s: 60,
            bucket_s: 60,
            kept_since: None,
            series: vec![Course { attributes, points }],
        }
    }

    fn rtt(ms: f64) -> Numbers {
        let value = Some(ms / 1e3);
        Numbers::Histogram { count: 10, sum: ms / 1e2, p50: value, p90: value, p99: value, max: value }
    }

    /// A course is a line with a picture whose gaps are gaps, and of one series the points.
    #[test]
    fn a_course() {
        let shown = history(&told(&[(0, rtt(10.0)), (1, rtt(80.0)), (4, rtt(20.0)), (7, rtt(46.0))]), Style::PLAIN);
        assert!(shown.contains("▁█··▂··▅"), "{shown}");
        assert!(shown.contains("region=a  40      46.0 ms     46.0 ms     80.0 ms"), "{shown}");
        assert!(shown.contains("2026-01-01T00:04:00Z  10      20.0 ms"), "{shown}");
        let nothing = history(&told(&[]), Style::PLAIN);
        assert!(nothing.contains("nothing is known"), "{nothing}");
        let counted =
            history(&told(&[(0, Numbers::Counter { increase: 0 }), (1, Numbers::Counter { increase: 4 })]), Style::PLAIN);
        assert!(counted.contains("▁█······"), "{counted}");
    }

    /// What was counted over a longer time, or is not kept any more, is said.
    #[test]
    fn honest() {
        let mut told = told(&[(0, rtt(10.0))]);
        told.series[0].points[0].span_s = Some(3600);
        told.kept_since = Some("2026-01-01T00:05:00Z".to_owned());
        let shown = history(&told, Style::PLAIN);
        assert!(shown.contains("longer time") && shown.contains("kept since 2026-01-01T00:05:00Z"), "{shown}");
    }

    /// A ratio that is not known is unknown, with the reason once.
    #[test]
    fn against_before() {
        let hour = Hour { samples: 600, p50_s: Some(0.02), p99_s: Some(0.03) };
        let known = Baseline {
            metric: "lagmesh.link.rtt".to_owned(),
            attributes: BTreeMap::from([("peer".to_owned(), "b".to_owned())]),
            now: hour,
            against: Some("week".to_owned()),
            then: Some(Hour { p50_s: Some(0.01), ..hour }),
            p50_ratio: Known::known(2.0),
            p99_ratio: Known::known(1.0),
        };
        let none = Known::unknown("nothing to compare with");
        let unknown = Baseline { against: None, then: None, p50_ratio: none.clone(), p99_ratio: none, ..known.clone() };
        let (from, to) = ("a".to_owned(), "b".to_owned());
        let shown = baselines(&Baselines { from, to, series: vec![known, unknown] }, Style::PLAIN);
        assert!(shown.contains("a week ago  600          10.0 ms   2.00     1.00"), "{shown}");
        assert_eq!(shown.matches("nothing to compare with").count(), 1, "{shown}");
        assert_eq!(shown.lines().last(), Some("  unknown: nothing to compare with"), "{shown}");
    }

    /// What a collector tells is read as it was, of every kind.
    #[test]
    fn kinds_are_told_apart() {
        let kinds = [
            Numbers::Counter { increase: u64::MAX },
            Numbers::Histogram { count: 0, sum: 0.0, p50: None, p90: None, p99: None, max: None },
            rtt(3.0),
            Numbers::Gauge { count: 1, min: -1.0, max: 1.0, last: 0.5, share: None },
            Numbers::Gauge { count: 1, min: 0.0, max: 1.0, last: 1.0, share: Some(0.5) },
        ];
        for numbers in kinds {
            let point = Point { at: "2026-01-01T00:00:00Z".to_owned(), numbers, span_s: Some(120) };
            let text = serde_json::to_string(&point).unwrap();
            assert_eq!(serde_json::from_str::<Point>(&text).unwrap(), point, "{text}");
        }
    }
}
