//! The series that an exporter has named before. Agents say the same thousand names in every batch: the second time they are found
//! instead of being built and judged anew, and all batches share their memory. Pure.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};

use super::point_attributes;
use crate::catalogue::Metric;
use crate::otlp::Rejection;
use crate::series::Attributes;

/// The most series of one exporter at once, far more than any fleet file leads to.
pub const SERIES_MAX: usize = 50_000;
/// A series that was not named in so many batches may be forgotten.
const KEPT_BATCHES: u64 = 16;

/// Why a series is not for its exporter to tell, in a word for metrics and answers.
pub type Misfit = &'static str;

/// The series of one exporter.
#[derive(Debug, Clone, Default)]
pub struct Names {
    known: HashMap<u64, Name>,
    hashing: RandomState,
    /// The number of the batch that is read.
    batch: u64,
    /// The batch in which room was last made.
    swept: u64,
}

#[derive(Debug, Clone)]
struct Name {
    metric: &'static Metric,
    attributes: Attributes,
    misfit: Option<Misfit>,
    /// The last batch that named it.
    batch: u64,
}

/// What a point is told about its series.
#[derive(Debug)]
pub(super) enum Named {
    Series(Attributes),
    Misfit(Misfit),
}

impl Names {
    /// None yet.
    pub fn new() -> Names {
        Names::default()
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Another batch begins, in which each series may be named once.
    pub(super) fn begin(&mut self) {
        self.batch += 1;
    }

    /// The series that the words of a point name. `misfit` is asked about it when it is named for the first time.
    pub(super) fn name(
        &mut self,
        metric: &'static Metric,
        words: &[KeyValue],
        value_len_max: usize,
        misfit: impl FnOnce(&Attributes) -> Option<Misfit>,
    ) -> Result<Named, Rejection> {
        let hash = self.hash(metric, words);
        if let Some(name) = self.known.get_mut(&hash)
            && name.is_said_by(metric, words)
        {
            return name.said_in(self.batch);
        }
        let attributes = point_attributes(metric, words, value_len_max)?;
        if let Some(name) = self.known.get_mut(&hash)
            && name.metric.name == metric.name
            && name.attributes == attributes
        {
            // The same words in another order.
            return name.said_in(self.batch);
        }
        self.make_room()?;
        let misfit = misfit(&attributes);
        let name = Name { metric, attributes: attributes.clone(), misfit, batch: self.batch };
        self.known.insert(hash, name);
        Ok(misfit.map_or(Named::Series(attributes), Named::Misfit))
    }

    /// The same for the same words in any order.
    fn hash(&self, metric: &Metric, words: &[KeyValue]) -> u64 {
        words.iter().fold(self.hashing.hash_one(metric.name), |sum, word| {
            let mut hasher = self.hashing.build_hasher();
            hasher.write(word.key.as_bytes());
            hasher.write_u8(0xff);
            hasher.write(text(word).unwrap_or_default().as_bytes());
            sum.wrapping_add(hasher.finish())
        })
    }

    fn make_room(&mut self) -> Result<(), Rejection> {
        if self.known.len() < SERIES_MAX {
            return Ok(());
        }
        if self.swept < self.batch {
            self.swept = self.batch;
            let batch = self.batch;
            self.known.retain(|_, name| name.batch + KEPT_BATCHES > batch);
        }
        if self.known.len() < SERIES_MAX { Ok(()) } else { Err(Rejection::TooManySeries) }
    }
}

impl Name {
    fn is_said_by(&self, metric: &'static Metric, words: &[KeyValue]) -> bool {
        self.metric.name == metric.name
            && words.len() == metric.attributes.len()
            && self
                .attributes
                .iter()
                .zip(words)
                .all(|((name, value), word)| word.key == name.as_str() && text(word) == Some(value))
    }

    fn said_in(&mut self, batch: u64) -> Result<Named, Rejection> {
        if self.batch == batch {
            return Err(Rejection::Duplicate);
        }
        self.batch = batch;
        Ok(self.misfit.map_or_else(|| Named::Series(self.attributes.clone()), Named::Misfit))
    }
}

/// The value of a word if it is a string.
pub(super) fn text(word: &KeyValue) -> Option<&str> {
    match word.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::AnyValue;

    use super::*;
    use crate::catalogue::{LINK_FLOOR, NODE_SLOTS};

    fn word(key: &str, value: &str) -> KeyValue {
        let value = any_value::Value::StringValue(value.to_owned());
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn link(region: &str, peer: &str) -> Vec<KeyValue> {
        vec![word("region", region), word("peer", peer)]
    }

    fn series(names: &mut Names, words: &[KeyValue]) -> Result<Attributes, Rejection> {
        match names.name(&LINK_FLOOR, words, 256, |_| None)? {
            Named::Series(attributes) => Ok(attributes),
            Named::Misfit(misfit) => panic!("{misfit}"),
        }
    }

    /// A series is built and judged once, shared from then on, and found by its words in any order; twice in a batch it is a duplicate.
    #[test]
    fn built_and_judged_once() {
        let mut names = Names::new();
        names.begin();
        let first = series(&mut names, &link("a", "b")).unwrap();
        let turned: Vec<KeyValue> = link("a", "b").into_iter().rev().collect();
        assert_eq!(series(&mut names, &turned), Err(Rejection::Duplicate));
        assert!(series(&mut names, &link("b", "a")).is_ok_and(|other| other != first), "a word belongs to its name");
        names.begin();
        let again = names.name(&LINK_FLOOR, &turned, 256, |_| panic!("judged twice")).unwrap();
        assert!(matches!(again, Named::Series(again) if again.is_shared_with(&first)));
        assert_eq!(names.len(), 2);
    }

    /// What is not the exporter's to tell stays so, and is not asked about again.
    #[test]
    fn misfits_stay_misfits() {
        let mut names = Names::new();
        for asked in [true, false] {
            names.begin();
            let judge = |_: &Attributes| {
                assert!(asked, "asked again");
                Some("foreign-region")
            };
            assert!(matches!(names.name(&LINK_FLOOR, &link("a", "b"), 256, judge), Ok(Named::Misfit("foreign-region"))));
        }
    }

    /// A word that stands there twice does not pass for another that is missing, whether the series is known or not.
    #[test]
    fn a_repeated_word_is_no_other_one() {
        let mut names = Names::new();
        for _ in 0..2 {
            names.begin();
            assert_eq!(series(&mut names, &[word("region", "a"), word("region", "a")]), Err(Rejection::WrongAttributes));
            assert!(series(&mut names, &link("a", "a")).is_ok());
        }
    }

    /// An exporter that invents names is stopped; those that it has given up make room.
    #[test]
    fn names_are_bounded() {
        let mut names = Names::new();
        names.begin();
        let fill = |names: &mut Names, round: usize| {
            for n in 0..SERIES_MAX {
                series(names, &link("a", &format!("{round}-{n}"))).unwrap();
            }
        };
        fill(&mut names, 0);
        assert_eq!(series(&mut names, &link("a", "one-more")), Err(Rejection::TooManySeries));
        for _ in 0..KEPT_BATCHES {
            names.begin();
        }
        fill(&mut names, 1);
        assert_eq!(names.len(), SERIES_MAX);
        let words = [word("cluster", "c"), word("region", "a"), word("node", "n")];
        assert!(matches!(names.name(&NODE_SLOTS, &words, 256, |_| None), Err(Rejection::TooManySeries)));
    }
}
