//! Whether an expectation was met by what was seen. Pure.

use serde::Serialize;

use super::sample::{Sample, Value};
use crate::real::Real;
use crate::scenario::{Condition, Expectation};

/// The share of samples that must say something before it counts that none of them said a certain thing.
const HEARD_SHARE_MIN: f64 = 0.5;

/// What became of an expectation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Whether it was met.
    pub pass: bool,
    /// What was measured.
    pub measured: String,
    /// What was wanted.
    pub wanted: String,
}

/// Holds an expectation against the samples of its value; `start` is the moment from which its window counts.
pub fn judge(expectation: &Expectation, samples: &[Sample], start: Real) -> Outcome {
    let offset = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
    let (from, until) = (start + offset(expectation.from_ns), start + offset(expectation.until_ns));
    let window: Vec<&Sample> = samples.iter().filter(|sample| sample.at >= from && sample.at <= until).collect();
    let (pass, measured) =
        if window.is_empty() { (false, "no sample in the window".to_owned()) } else { held(expectation, &window, start) };
    Outcome { name: expectation.name.clone(), pass, measured, wanted: wanted(expectation) }
}

fn held(expectation: &Expectation, window: &[&Sample], start: Real) -> (bool, String) {
    let share = expectation.share;
    let is_one_of = |sample: &Sample, words: &[String]| matches!(&sample.value, Value::State(state) if words.contains(state));
    match &expectation.condition {
        Condition::Becomes(words) => match window.iter().find(|sample| is_one_of(sample, words)) {
            Some(sample) => (true, format!("{} at {}", shown(&sample.value), since(sample.at, start))),
            None => (false, seen(window, start)),
        },
        Condition::Stays(words) => most(window, share, |sample| is_one_of(sample, words), || seen(window, start)),
        Condition::Never(words) => match window.iter().find(|sample| is_one_of(sample, words)) {
            Some(sample) => (false, format!("{} at {}", shown(&sample.value), since(sample.at, start))),
            // Who hears nothing cannot say that it was never said.
            None => most(window, HEARD_SHARE_MIN, |sample| matches!(sample.value, Value::State(_)), || seen(window, start)),
        },
        Condition::Says(part) => {
            let says = |sample: &Sample| matches!(&sample.value, Value::State(text) if text.contains(part));
            most(window, share, says, || seen(window, start))
        }
        Condition::Unknown => most(window, share, |sample| matches!(sample.value, Value::Unknown(_)), || seen(window, start)),
        Condition::Known => {
            let known = |sample: &Sample| !matches!(sample.value, Value::Unknown(_) | Value::Silent(_));
            most(window, share, known, || seen(window, start))
        }
        Condition::Between(lower, upper) => {
            let inside = |sample: &Sample| sample.value.estimate().is_some_and(|value| value >= *lower && value <= *upper);
            most(window, share, inside, || range(window))
        }
        Condition::NearTruth(bound_s) => near_truth(window, *bound_s, share),
        Condition::CoversTruth => covers_truth(window, share),
        Condition::Grows(lower, upper) => match slope(window) {
            Some(slope) => (slope >= *lower && slope <= *upper, format!("{slope:.4} per second")),
            None => (false, format!("too few known values: {}", range(window))),
        },
    }
}

fn most(window: &[&Sample], share: f64, holds: impl Fn(&Sample) -> bool, seen: impl Fn() -> String) -> (bool, String) {
    let held = window.iter().filter(|sample| holds(sample)).count();
    let measured = held as f64 / window.len() as f64;
    (measured >= share, format!("{held} of {} samples: {}", window.len(), seen()))
}

/// How far an estimate is from the truth, which is itself known only within bounds [s].
fn error_s(sample: &Sample) -> Option<f64> {
    let (lower, upper) = sample.truth?;
    let estimate = sample.value.estimate()?;
    Some(if estimate < lower { estimate - lower } else { (estimate - upper).max(0.0) })
}

fn near_truth(window: &[&Sample], bound_s: f64, share: f64) -> (bool, String) {
    let mut errors: Vec<f64> = window.iter().filter_map(|sample| error_s(sample)).map(f64::abs).collect();
    errors.sort_by(f64::total_cmp);
    let near = errors.iter().filter(|error| **error <= bound_s).count();
    compared(window, share, near, errors.len(), || {
        let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        format!("near, error p50 {:.3} ms, max {:.3} ms", median * 1e3, worst * 1e3)
    })
}

/// Of a window, how many were compared with a known truth and how many of those agree with it. What lagmesh does not know counts
/// against it; samples whose truth is not known do not count, but half of the window must.
fn compared(window: &[&Sample], share: f64, hits: usize, judged: usize, told: impl Fn() -> String) -> (bool, String) {
    let unknown = window.iter().filter(|sample| matches!(sample.value, Value::Unknown(_) | Value::Silent(_))).count();
    let counted = judged + unknown;
    if judged == 0 || counted * 2 < window.len() {
        return (false, format!("{judged} of {} samples with a known truth, {unknown} unknown", window.len()));
    }
    let measured = format!("{hits} of {counted} {}, {unknown} unknown, {} without truth", told(), window.len() - counted);
    (hits as f64 / counted as f64 >= share, measured)
}

/// The truth is itself an interval: it is covered if the two meet.
fn covers_truth(window: &[&Sample], share: f64) -> (bool, String) {
    let judged: Vec<(bool, f64)> = window.iter().filter_map(|sample| covered(sample)).collect();
    let hits = judged.iter().filter(|(hit, _)| *hit).count();
    let mut widths: Vec<f64> = judged.iter().map(|(_, width)| *width).collect();
    widths.sort_by(f64::total_cmp);
    compared(window, share, hits, judged.len(), || format!("cover it, width p50 {:.3} ms", widths[widths.len() / 2] * 1e3))
}

fn covered(sample: &Sample) -> Option<(bool, f64)> {
    let (truth_lower, truth_upper) = sample.truth?;
    let Value::Interval(lower, _, upper) = sample.value else { return None };
    Some((lower <= truth_upper && upper >= truth_lower, upper - lower))
}

/// The least-squares slope of the known values over time [per second].
fn slope(window: &[&Sample]) -> Option<f64> {
    let first = window.first()?.at;
    let points: Vec<(f64, f64)> =
        window.iter().filter_map(|sample| Some(((sample.at - first) as f64 / 1e9, sample.value.estimate()?))).collect();
    if points.len() < 3 || points.len() * 2 < window.len() {
        return None;
    }
    let count = points.len() as f64;
    let (mean_t, mean_v) = (points.iter().map(|p| p.0).sum::<f64>() / count, points.iter().map(|p| p.1).sum::<f64>() / count);
    let spread: f64 = points.iter().map(|(t, _)| (t - mean_t).powi(2)).sum();
    let together: f64 = points.iter().map(|(t, v)| (t - mean_t) * (v - mean_v)).sum();
    (spread > 0.0).then_some(together / spread)
}

fn since(at: Real, start: Real) -> String {
    format!("{:.2} s", (at - start) as f64 / 1e9)
}

fn shown(value: &Value) -> String {
    match value {
        Value::State(state) => state.clone(),
        Value::Number(number) => format!("{number:.6}"),
        Value::Interval(lower, estimate, upper) => format!("{estimate:.6} [{lower:.6}, {upper:.6}]"),
        Value::Unknown(why) => format!("unknown ({why})"),
        Value::Silent(why) => format!("no answer ({why})"),
    }
}

/// The values in the order in which they came, each once per spell, at most eight.
fn seen(window: &[&Sample], start: Real) -> String {
    let mut spells: Vec<String> = Vec::new();
    let mut last: Option<String> = None;
    for sample in window {
        let word = match &sample.value {
            Value::State(state) => state.clone(),
            Value::Unknown(_) => "unknown".to_owned(),
            Value::Silent(_) => "silent".to_owned(),
            _ => "known".to_owned(),
        };
        if last.as_ref() != Some(&word) {
            spells.push(format!("{} at {}", shown(&sample.value), since(sample.at, start)));
            last = Some(word);
        }
    }
    spells.truncate(8);
    spells.join(", ")
}

fn range(window: &[&Sample]) -> String {
    let values: Vec<f64> = window.iter().filter_map(|sample| sample.value.estimate()).collect();
    match (values.iter().copied().reduce(f64::min), values.iter().copied().reduce(f64::max)) {
        (Some(least), Some(most)) => format!("{least:.6} to {most:.6}, {} unknown", window.len() - values.len()),
        _ => "none known".to_owned(),
    }
}

fn wanted(expectation: &Expectation) -> String {
    let what = match &expectation.condition {
        Condition::Becomes(words) => format!("becomes {}", words.join(" or ")),
        Condition::Stays(words) => format!("stays {}", words.join(" or ")),
        Condition::Never(words) => format!("never {}", words.join(" or ")),
        Condition::Between(lower, upper) => format!("between {lower:.6} and {upper:.6}"),
        Condition::NearTruth(bound_s) => format!("within {:.3} ms of the truth", bound_s * 1e3),
        Condition::CoversTruth => "covers the truth".to_owned(),
        Condition::Unknown => "unknown".to_owned(),
        Condition::Known => "known".to_owned(),
        Condition::Says(part) => format!("says {part:?}"),
        Condition::Grows(lower, upper) => format!("grows by {lower} to {upper} per second"),
    };
    let share = if expectation.share < 1.0 { format!(" in {:.4} of the samples", expectation.share) } else { String::new() };
    let seconds = |ns: u64| ns as f64 / 1e9;
    format!("{what}{share} from {:.1} s to {:.1} s", seconds(expectation.from_ns), seconds(expectation.until_ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::sample::Basis;
    use crate::scenario::{Observer, Quantity};

    /// When [s], what, and what was true.
    type Said = (f64, Value, Option<(f64, f64)>);

    fn outcome(condition: Condition, share: f64, values: &[Said]) -> Outcome {
        let expectation = Expectation {
            name: "x".to_owned(),
            quantity: Quantity::Fleet { value: "regions_reporting".to_owned() },
            seen_by: Observer::Agent("a".to_owned()),
            from_ns: 1_000_000_000,
            until_ns: 9_000_000_000,
            condition,
            share,
        };
        let sample = |(at, value, truth): &Said| {
            #[expect(clippy::cast_possible_truncation, reason = "seconds of a test")]
            let at = Real(5 + (at * 1e9) as i64);
            Sample { at, value: value.clone(), basis: Basis::default(), truth: *truth }
        };
        let samples: Vec<Sample> = values.iter().map(sample).collect();
        judge(&expectation, &samples, Real(5))
    }

    fn states(words: &[(f64, &str)]) -> Vec<Said> {
        words.iter().map(|(at, word)| (*at, Value::State((*word).to_owned()), None)).collect()
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Every kind of condition passes on what it asks for and fails on the opposite; only samples of the window count.
    #[test]
    fn each_condition_can_pass_and_fail() {
        let run = states(&[(0.5, "down"), (1.5, "ok"), (4.0, "grey"), (9.5, "down")]);
        let pass = |condition, values: &[_]| outcome(condition, 1.0, values).pass;
        assert!(pass(Condition::Becomes(words(&["grey"])), &run));
        assert!(!pass(Condition::Becomes(words(&["down"])), &run), "only outside the window");
        assert!(pass(Condition::Stays(words(&["ok", "grey"])), &run));
        assert!(!pass(Condition::Stays(words(&["ok"])), &run));
        let silent = [(2.0, Value::Silent("why".to_owned()), None)];
        assert!(!pass(Condition::Never(words(&["down"])), &silent), "nobody said anything");
        assert!(!pass(Condition::Known, &silent) && !pass(Condition::Unknown, &silent));
        assert!(pass(Condition::Never(words(&["down"])), &run));
        assert!(!pass(Condition::Never(words(&["grey"])), &run));
        let unknown = [(2.0, Value::Unknown("why".to_owned()), None)];
        assert!(pass(Condition::Unknown, &unknown) && !pass(Condition::Known, &unknown));
        assert!(!pass(Condition::Unknown, &run) && pass(Condition::Known, &run));
        let numbers = [(2.0, Value::Number(2.0), None), (3.0, Value::Number(3.0), None), (4.0, Value::Number(4.1), None)];
        let sentence = states(&[(2.0, "a beat was committed 2 s ago")]);
        assert!(pass(Condition::Says("was committed".to_owned()), &sentence));
        assert!(!pass(Condition::Says("was seen".to_owned()), &sentence) && !pass(Condition::Says("d".to_owned()), &silent));
        assert!(pass(Condition::Between(2.0, 5.0), &numbers) && !pass(Condition::Between(2.0, 4.0), &numbers));
        assert!(pass(Condition::Grows(1.0, 1.1), &numbers) && !pass(Condition::Grows(0.0, 1.0), &numbers));
        assert!(!pass(Condition::Between(2.0, 5.0), &unknown), "unknown is not a number");
        assert!(!pass(Condition::Known, &states(&[(0.5, "ok")])), "an empty window shows nothing");
    }

    /// A comparison with the truth counts only samples whose truth is known, and fails where there is none.
    #[test]
    fn truth() {
        let values = [
            (2.0, Value::Interval(0.9, 1.0, 1.1), Some((1.004, 1.006))),
            (3.0, Value::Interval(0.9, 1.0, 1.1), Some((0.8, 0.89))),
            (4.0, Value::Interval(0.9, 1.0, 1.1), None),
        ];
        let unknown = (5.0, Value::Unknown("why".to_owned()), None);
        let blind: Vec<Said> = values[..1].iter().cloned().chain(std::iter::repeat_n(unknown, 3)).collect();
        assert!(!outcome(Condition::CoversTruth, 0.5, &blind).pass, "what is not known does not cover the truth");
        let covers = outcome(Condition::CoversTruth, 0.5, &values);
        assert!(covers.pass && covers.measured.starts_with("1 of 2"), "{covers:?}");
        assert!(!outcome(Condition::CoversTruth, 1.0, &values).pass);
        assert!(outcome(Condition::NearTruth(0.12), 1.0, &values).pass);
        assert!(!outcome(Condition::NearTruth(0.10), 1.0, &values).pass);
        assert!(!outcome(Condition::NearTruth(9.0), 1.0, &values[2..]).pass);
    }
}
