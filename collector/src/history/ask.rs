//! What is asked for, as words of a URL; and which tier answers it. Pure.

use std::time::Duration;

use lagmesh_model::catalogue::{self, Attribute, Kind, Metric};
use lagmesh_model::series::Attributes;
use lagmesh_model::time::{WallNanos, nanos};

use super::table::WIDTHS_S;

/// The most points of one series in an answer.
const POINTS_MAX: u64 = 5000;
/// As many points as a picture needs; the step that nobody chose gives no more.
const POINTS_USUAL: u64 = 240;
/// The steps to choose from if nobody chose one [s].
const STEPS_S: [u64; 9] = [10, 60, 300, 900, 3600, 10_800, 21_600, 86_400, 604_800];
/// What is shown if nobody says from when [s].
const RANGE_USUAL_S: u64 = 6 * 3600;
const NS_PER_S: u64 = 1_000_000_000;

/// A question about the course of a metric.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) metric: &'static Metric,
    pub(super) filters: Filters,
    pub(super) from_s: u64,
    pub(super) to_s: u64,
    pub(super) step_s: Option<u64>,
}

/// Attributes that a series must have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Filters(Vec<(Attribute, String)>);

/// Which tier answers, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) tier: usize,
    /// A multiple of the tier's width [s].
    pub(super) step_s: u64,
    /// A multiple of the step [s].
    pub(super) from_s: u64,
    /// The end, which is not in it; a multiple of the step [s].
    pub(super) to_s: u64,
}

impl Request {
    /// Reads the words.
    ///
    /// # Errors
    /// If something is wrong: what, and what is possible.
    pub(super) fn parse(words: &[(String, String)], now: WallNanos) -> Result<Request, String> {
        let name = words.iter().find(|(word, _)| word == "metric").map(|(_, value)| value.as_str());
        let metric =
            self::metric(name.ok_or("metric is missing; for example metric=lagmesh.link.rtt; lagmesh list-metrics has all")?)?;
        let (mut from, mut to, mut step_s) = (None, now, None);
        let mut filters = Filters::default();
        for (word, value) in words {
            match word.as_str() {
                "metric" => {}
                "from" => from = Some(moment(value, now)?),
                "to" => to = moment(value, now)?,
                "step" => step_s = Some(duration(value)?.as_secs().max(1)),
                _ => filters.add(metric.attributes, word, value, metric.name)?,
            }
        }
        // The second that is under way belongs to the range: without it, what has just come would be missing where it begins a bucket.
        let to_s = to.0.div_ceil(NS_PER_S);
        let from_s = from.map_or(to_s.saturating_sub(RANGE_USUAL_S), |from| from.0 / NS_PER_S);
        if from_s >= to_s {
            return Err("from is not before to".to_owned());
        }
        Ok(Request { metric, filters, from_s, to_s, step_s })
    }

    /// Chooses the tier: the coarsest that is fine enough, and a coarser one if that does not reach back so far.
    ///
    /// # Errors
    /// If that would be too many points.
    pub(super) fn plan(&self, kept_since_s: [u64; 3]) -> Result<Plan, String> {
        let range_s = self.to_s - self.from_s;
        let usual = || STEPS_S.into_iter().find(|step_s| range_s / step_s <= POINTS_USUAL).unwrap_or(range_s);
        let wanted_s = self.step_s.unwrap_or_else(usual);
        let fine_enough = |width_s: &u64| *width_s <= wanted_s && wanted_s.is_multiple_of(*width_s);
        let finest = WIDTHS_S.iter().rposition(fine_enough).unwrap_or(0);
        let reaches = |tier: &usize| kept_since_s[*tier] <= self.from_s;
        let tier = (finest..WIDTHS_S.len()).find(reaches).unwrap_or(WIDTHS_S.len() - 1);
        let step_s = wanted_s.max(WIDTHS_S[tier]).next_multiple_of(WIDTHS_S[tier]);
        let (from_s, to_s) = (self.from_s / step_s * step_s, self.to_s.div_ceil(step_s).saturating_mul(step_s));
        if (to_s - from_s) / step_s > POINTS_MAX {
            return Err(format!("more than {POINTS_MAX} points in a series: ask for a larger step or a shorter range"));
        }
        Ok(Plan { tier, step_s, from_s, to_s })
    }
}

impl Filters {
    /// One more.
    ///
    /// # Errors
    /// If none of the attributes is called that.
    pub(super) fn add(&mut self, possible: &[Attribute], word: &str, value: &str, of: &str) -> Result<(), String> {
        let attribute = Attribute::from_name(word).filter(|attribute| possible.contains(attribute));
        let attribute = attribute.ok_or_else(|| {
            let names: Vec<&str> = possible.iter().map(|attribute| attribute.as_str()).collect();
            format!("{word:?} is not known; {of} has {}, and times are from, to and step", names.join(", "))
        })?;
        self.0.push((attribute, value.to_owned()));
        Ok(())
    }

    /// Whether a series has them all.
    pub(super) fn fit(&self, attributes: &Attributes) -> bool {
        self.0.iter().all(|(attribute, value)| attributes.get(*attribute) == Some(value))
    }
}

/// The metric of a name.
///
/// # Errors
/// If there is none, or it has no history.
pub(super) fn metric(name: &str) -> Result<&'static Metric, String> {
    match catalogue::by_name(name) {
        Some(metric) if metric.kind == Kind::Whole || metric.source != catalogue::Source::Agent => {
            Err(format!("{name} has no history: only what agents measure has"))
        }
        Some(metric) => Ok(metric),
        None => Err(format!("no metric is called {name:?}; lagmesh list-metrics has all")),
    }
}

fn moment(word: &str, now: WallNanos) -> Result<WallNanos, String> {
    if word == "now" {
        return Ok(now);
    }
    if let Some(ago) = word.strip_prefix('-') {
        return Ok(WallNanos(now.0.saturating_sub(nanos(duration(ago)?))));
    }
    let wrong = || format!("{word:?} is no time; write -6h, now or 2026-08-30T12:00:00Z");
    let time = humantime::parse_rfc3339_weak(word).map_err(|_| wrong())?;
    Ok(WallNanos(nanos(time.duration_since(std::time::UNIX_EPOCH).map_err(|_| wrong())?)))
}

fn duration(word: &str) -> Result<Duration, String> {
    humantime::parse_duration(word).map_err(|_| format!("{word:?} is no duration; write 30s, 5m, 6h or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallNanos = WallNanos(1_700_000_000_000_000_000);

    fn request(words: &[(&str, &str)]) -> Result<Request, String> {
        request_at(NOW, words)
    }

    fn request_at(now: WallNanos, words: &[(&str, &str)]) -> Result<Request, String> {
        let words: Vec<(String, String)> = words.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Request::parse(&words, now)
    }

    fn plan(words: &[(&str, &str)], kept_since_s: [u64; 3]) -> (usize, u64) {
        let words = [&[("metric", "lagmesh.link.rtt")], words].concat();
        let plan = request(&words).unwrap().plan(kept_since_s).unwrap();
        (plan.tier, plan.step_s)
    }

    /// The tier is the coarsest that the step allows, and a coarser one where the finer does not reach back.
    #[test]
    fn tiers() {
        assert_eq!(plan(&[("from", "-30m")], [0; 3]), (0, 10));
        assert_eq!(plan(&[], [0; 3]), (1, 300), "six hours");
        assert_eq!(plan(&[("from", "-7d")], [0; 3]), (2, 3600));
        assert_eq!(plan(&[("from", "-300d"), ("step", "1d")], [0; 3]), (2, 86_400));
        assert_eq!(plan(&[("step", "90s")], [0; 3]), (0, 90));
        assert_eq!(plan(&[("from", "-1h"), ("step", "7s")], [0; 3]), (0, 10));
        let now_s = NOW.0 / NS_PER_S;
        assert_eq!(plan(&[("from", "-30m")], [now_s - 60, 0, 0]), (1, 60));
        assert_eq!(plan(&[("from", "-30m")], [now_s; 3]), (2, 3600));
    }

    /// What came a moment ago is in the range although its bucket has only just begun; a bucket that has not begun is not.
    #[test]
    fn the_range_ends_now() {
        let range = |wall_ns, words: &[(&str, &str)]| {
            let words = [&[("metric", "lagmesh.link.rtt"), ("step", "10s")], words].concat();
            let plan = request_at(WallNanos(wall_ns), &words).unwrap().plan([0; 3]).unwrap();
            (NOW.0 / NS_PER_S - plan.from_s, plan.to_s - NOW.0 / NS_PER_S)
        };
        for words in [&[("from", "-10m")][..], &[("from", "-10m"), ("to", "now")]] {
            assert_eq!(range(NOW.0, words), (600, 0));
            assert_eq!(range(NOW.0 + 1, words), (600, 10));
            assert_eq!(range(NOW.0 + 10 * NS_PER_S, words), (590, 10));
        }
        assert_eq!(range(NOW.0 + 1, &[("from", "-20s"), ("to", "-10s")]), (20, 0));
    }

    /// Whoever asks wrongly is told what is possible.
    #[test]
    fn mistakes() {
        let rtt = ("metric", "lagmesh.link.rtt");
        let cases: [(&[(&str, &str)], &str); 8] = [
            (&[], "metric is missing"),
            (&[("metric", "rtt")], "lagmesh list-metrics"),
            (&[("metric", "lagmesh.clock.raw")], "has no history"),
            (&[("metric", "lagmesh.collector.points")], "has no history"),
            (&[rtt, ("node", "a")], "lagmesh.link.rtt has region, peer, kind"),
            (&[rtt, ("from", "yesterday")], "write -6h"),
            (&[rtt, ("step", "1")], "write 30s"),
            (&[rtt, ("from", "now")], "not before"),
        ];
        for (words, said) in cases {
            let why = request(words).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
        let long = request(&[rtt, ("from", "-30d"), ("step", "10s")]).unwrap().plan([0; 3]).unwrap_err();
        assert!(long.contains("larger step"), "{long}");
        assert!(request(&[rtt, ("from", "2023-11-14T00:00:00Z"), ("peer", "a")]).is_ok());
    }
}
