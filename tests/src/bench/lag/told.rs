//! What agents told of single beats, and each beside its truth. Pure.
//!
//! An agent that is told to logs a line for each beat whose lag came out; it names the beat, so that nothing has to be guessed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use crate::observer::truth::{BeatTruth, Span, Stream, Truth};

/// A beat in an agent's log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Told {
    message: String,
    origin: String,
    node: String,
    incarnation: i64,
    sequence: i64,
    /// The interval of its lag [ns].
    pub(super) lower_ns: i64,
    /// The best guess [ns].
    pub(super) estimate_ns: i64,
    /// The interval's upper end [ns].
    pub(super) upper_ns: i64,
    /// The best guess with the help of what both hosts claim about their clocks [ns]; absent without such claims.
    claimed_estimate_ns: Option<i64>,
    /// From the start of the last poll without it to the end of the first with it [ns].
    pub(super) poll_gap_ns: i64,
    /// How long that last poll took [ns].
    pub(super) poll_ns: i64,
    /// How many polls it took to find it; absent if they were not counted from the beat before.
    pub(super) polls: Option<u32>,
    /// How long its commit took [ns].
    pub(super) commit_ns: i64,
    /// How wide the interval of the two clocks' difference was [ns].
    pub(super) theta_width_ns: i64,
}

/// What an agent told of a beat, and what was true.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair {
    /// The agent's.
    pub(super) told: Told,
    /// The truth, which is a window itself.
    pub(super) truth: Span,
}

/// What pairing came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Pairs {
    /// Beats whose truth is exact.
    pub(super) exact: Vec<Pair>,
    /// Beats whose truth is wider than was asked for: something stalled, and they do not count.
    pub(super) vague: usize,
    /// Beats that the observer has not seen, most of them from before it looked.
    pub(super) unseen: usize,
    /// Beats whose truth is exact and of which the agent told nothing, between two of which it did.
    pub(super) untold: usize,
}

impl Pair {
    /// Whether the truth can lie in the interval.
    pub(super) fn covers(&self) -> bool {
        self.told.lower_ns <= self.truth.upper_ns && self.told.upper_ns >= self.truth.lower_ns
    }

    /// The middle of the true lag's window [ns].
    pub(super) fn true_ns(&self) -> f64 {
        self.truth.lower_ns.midpoint(self.truth.upper_ns) as f64
    }

    /// The estimate less the truth [ns].
    pub(super) fn error_ns(&self) -> f64 {
        self.told.estimate_ns as f64 - self.true_ns()
    }

    /// The estimate by claims less the truth [ns]; `None` without claims.
    pub(super) fn claimed_error_ns(&self) -> Option<f64> {
        Some(self.told.claimed_estimate_ns? as f64 - self.true_ns())
    }

    /// How wide the agent's interval is [ns].
    pub(super) fn width_ns(&self) -> i64 {
        self.told.upper_ns - self.told.lower_ns
    }
}

impl Pairs {
    /// Adds those of another reader.
    pub(super) fn append(&mut self, mut more: Pairs) {
        self.exact.append(&mut more.exact);
        self.vague += more.vague;
        self.unseen += more.unseen;
        self.untold += more.untold;
    }

    /// How many of the exact ones the interval missed.
    pub(super) fn missed(&self) -> usize {
        self.exact.iter().filter(|pair| !pair.covers()).count()
    }

    /// Something of each exact pair.
    pub(super) fn values(&self, of: impl Fn(&Pair) -> f64) -> Vec<f64> {
        self.exact.iter().map(of).collect()
    }
}

/// The beats in an agent's log.
pub(super) fn told(log: &str) -> Vec<Told> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Told>(line).ok());
    lines.filter(|told| told.message == "beat").collect()
}

/// Pairs what was told of beats seen at a node with what is true of them.
pub(super) fn pair(told: Vec<Told>, node: &str, truth: &Truth) -> Pairs {
    let beats = truth.beats.iter().filter(|beat| beat.id.stream == Stream::Beat);
    let index: HashMap<(&str, i64, i64), &BeatTruth> =
        beats.map(|beat| ((beat.id.origin.as_str(), beat.id.incarnation, beat.id.sequence), beat)).collect();
    let mut pairs = Pairs::default();
    let mut numbers: BTreeMap<(String, i64), BTreeSet<i64>> = BTreeMap::new();
    for told in told.into_iter().filter(|told| told.node == node) {
        numbers.entry((told.origin.clone(), told.incarnation)).or_default().insert(told.sequence);
        let beat = index.get(&(told.origin.as_str(), told.incarnation, told.sequence));
        match beat.and_then(|beat| Some((beat, beat.lag(node)?))) {
            None => pairs.unseen += 1,
            // Without the wire the commit is only known by its visibility, which is a little earlier.
            Some((beat, lag)) if beat.from_wire && truth.is_lag_exact(beat, node) => pairs.exact.push(Pair { told, truth: lag }),
            Some(_) => pairs.vague += 1,
        }
    }
    let is_untold = |beat: &&BeatTruth| {
        let told = numbers.get(&(beat.id.origin.clone(), beat.id.incarnation));
        let within = told.and_then(|told| Some(*told.first()?..=*told.last()?));
        within.is_some_and(|within| within.contains(&beat.id.sequence))
            && told.is_some_and(|told| !told.contains(&beat.id.sequence))
            && beat.visible.contains_key(node)
            && truth.is_lag_exact(beat, node)
    };
    pairs.untold = index.into_values().filter(is_untold).count();
    pairs
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::observer::truth::{BeatId, Window};
    use crate::real::Real;

    const LINE: &str = r#"{"timestamp":"x","level":"DEBUG","message":"beat","origin":"w","node":"r","incarnation":7,"sequence":1,"lower_ns":250,"estimate_ns":280,"upper_ns":310,"claimed_estimate_ns":302,"poll_gap_ns":40,"poll_ns":10,"polls":5,"commit_ns":10,"theta_width_ns":10,"target":"lagmesh::beat"}"#;

    pub(in crate::bench::lag) fn beat(sequence: i64, committed: (i64, i64), visible: (i64, i64)) -> BeatTruth {
        let window = |(after, by)| Window { after: Real(after), by: Real(by) };
        let id = BeatId { origin: "w".to_owned(), incarnation: 7, stream: Stream::Beat, sequence };
        let visible = BTreeMap::from([("r".to_owned(), window(visible))]);
        BeatTruth { id, committed: Some(window(committed)), from_wire: true, visible }
    }

    fn line(sequence: i64) -> String {
        LINE.replace("\"sequence\":1", &format!("\"sequence\":{sequence}"))
    }

    /// Lines of beats are read, all others are passed over.
    #[test]
    fn lines() {
        let log = format!("no JSON\n{}\n{{\"message\":\"beat\",\"node\":\"r\"}}\n{}\n", line(1), line(2));
        let told = told(&log);
        assert_eq!(told.iter().map(|told| told.sequence).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((told[0].lower_ns, told[0].upper_ns, told[0].theta_width_ns), (250, 310, 10));
    }

    /// Each beat meets its own truth; one that is not known well, or not at all, is counted and judges nobody.
    #[test]
    fn pairs_by_name() {
        let beats = vec![beat(1, (100, 110), (400, 410)), beat(2, (500, 510), (700, 900)), beat(3, (1000, 1010), (1400, 1410))];
        let truth = Truth { resolution_ns: 50, beats };
        let log = format!("{}\n{}\n{}\n{}\n", line(1), line(2), line(3), line(4));
        let pairs = pair(told(&log), "r", &truth);
        assert_eq!((pairs.exact.len(), pairs.vague, pairs.unseen, pairs.missed()), (2, 1, 1, 1));
        let covered: Vec<bool> = pairs.exact.iter().map(Pair::covers).collect();
        assert_eq!(covered, [true, false], "290 to 310 overlaps 250 to 310, 390 to 410 does not");
        assert_eq!(pairs.exact[0].claimed_error_ns(), Some(2.0), "302 against 300 or 290 to 310");
        assert!((pairs.exact[0].error_ns() + 20.0).abs() < 1e-9 && pairs.exact[0].width_ns() == 60);
        assert!(pair(told(&log), "s", &truth).exact.is_empty());
    }

    /// A beat that became visible between two others and was not told of is noticed; what came before the first may be from another time.
    #[test]
    fn untold() {
        let beats = (1..=5).map(|n| beat(n, (n * 1000, n * 1000 + 10), (n * 1000 + 300, n * 1000 + 310))).collect();
        let truth = Truth { resolution_ns: 50, beats };
        let log = format!("{}\n{}\n", line(2), line(4));
        assert_eq!(pair(told(&log), "r", &truth).untold, 1);
    }

    /// An interval that only touches the truth's window covers it: the truth may be there.
    #[test]
    fn touching_covers() {
        let truth = |lower_ns, upper_ns| Pair { told: told(&line(1)).remove(0), truth: Span { lower_ns, upper_ns } };
        let table = [((310, 330), true), ((311, 330), false), ((200, 250), true), ((200, 249), false), ((0, 900), true)];
        for ((lower_ns, upper_ns), covers) in table {
            assert_eq!(truth(lower_ns, upper_ns).covers(), covers, "{lower_ns} to {upper_ns}");
        }
    }
}
