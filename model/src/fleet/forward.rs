//! `[[forward]]`: to which back ends collectors pass everything on.

use super::Url;
use super::read::{Unique, all, encrypted};
use crate::document::{Found, Section, parsed, text};
use crate::ids::TargetName;

/// The keys of `[[forward]]`.
pub(super) const FORWARD: &[&str] = &["name", "kind", "url", "histograms"];

/// A back end to which every collector passes on what its `/metrics` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Its name.
    pub name: TargetName,
    /// What it speaks.
    pub kind: ForwardKind,
    /// Where it listens: the whole address for remote write, the base (without `/v1/metrics`) for OTLP.
    pub url: Url,
}

/// What a back end speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardKind {
    /// Prometheus remote write 1.0.
    RemoteWrite(HistogramForm),
    /// Prometheus remote write 2.0.
    RemoteWrite2(HistogramForm),
    /// OTLP over HTTP, with exponential histograms.
    Otlp,
}

/// How a remote write tells histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistogramForm {
    /// A series per bucket, on powers of two of a second. Everything takes them.
    Classic,
    /// One sample with all buckets. Prometheus, Mimir and Thanos take them.
    Native,
}

impl ForwardKind {
    /// The word in the fleet file.
    pub fn as_str(self) -> &'static str {
        match self {
            ForwardKind::RemoteWrite(_) => "remote-write",
            ForwardKind::RemoteWrite2(_) => "remote-write-2",
            ForwardKind::Otlp => "otlp",
        }
    }

    /// How histograms leave, where there is a choice.
    pub fn histograms(self) -> Option<HistogramForm> {
        match self {
            ForwardKind::RemoteWrite(form) | ForwardKind::RemoteWrite2(form) => Some(form),
            ForwardKind::Otlp => None,
        }
    }
}

impl HistogramForm {
    /// The word in the fleet file.
    pub fn as_str(self) -> &'static str {
        match self {
            HistogramForm::Classic => "classic",
            HistogramForm::Native => "native",
        }
    }
}

pub(super) fn forwards(sections: &[Section<'_>], strict: bool) -> Found<Vec<Forward>> {
    let mut names = Unique::new("name of the forward");
    let mut read = |section: &Section<'_>| {
        let name = names.name(section);
        let form = section.get("histograms", |value| match text(value)?.as_str() {
            "classic" => Ok(HistogramForm::Classic),
            "native" => Ok(HistogramForm::Native),
            other => Err(format!("{other:?} is no form of histograms; write \"classic\" or \"native\"")),
        });
        let kind = section.require("kind", |value| match text(value)?.as_str() {
            // What has not learnt 2.0 may not know native histograms either.
            "remote-write" => Ok(ForwardKind::RemoteWrite(HistogramForm::Classic)),
            "remote-write-2" => Ok(ForwardKind::RemoteWrite2(HistogramForm::Native)),
            "otlp" => Ok(ForwardKind::Otlp),
            other => {
                Err(format!("{other:?} is nothing that collectors speak; write \"remote-write\", \"remote-write-2\" or \"otlp\""))
            }
        });
        let url = section.require("url", |value| encrypted(parsed::<Url>(value)?, strict));
        let kind = match (kind?, form?) {
            (ForwardKind::RemoteWrite(_), Some(form)) => ForwardKind::RemoteWrite(form),
            (ForwardKind::RemoteWrite2(_), Some(form)) => ForwardKind::RemoteWrite2(form),
            (ForwardKind::Otlp, Some(_)) => {
                return Err(section.tell("histograms", "OTLP has exponential histograms only; leave this key out"));
            }
            (kind, None) => kind,
        };
        Ok(Forward { name: name?, kind, url: url? })
    };
    all(sections.iter().map(&mut read))
}
