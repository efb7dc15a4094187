//! What is true about each beat, and what follows from it. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::real::Real;

/// Which of the two heartbeat streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Every second, never waiting for a standby.
    Beat,
    /// Every few seconds, at the level that applications get.
    Ledger,
}

/// One beat.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct BeatId {
    /// The node that it was written to, as its row says.
    pub origin: String,
    /// The writer's start.
    pub incarnation: i64,
    /// The stream.
    pub stream: Stream,
    /// Its number, from 1.
    pub sequence: i64,
}

/// Something happened later than `after` and no later than `by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    /// It had not happened yet.
    pub after: Real,
    /// It had happened.
    pub by: Real,
}

/// A time that lies between two bounds [ns]; it may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The least that it can be [ns].
    pub lower_ns: i64,
    /// The most that it can be [ns].
    pub upper_ns: i64,
}

/// What is true about one beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BeatTruth {
    /// Which.
    pub id: BeatId,
    /// When its commit returned to the one who wrote it, if that was seen.
    pub committed: Option<Window>,
    /// Whether that was seen on the wire; else it is when the beat became visible at the writer, just before the commit returned.
    pub from_wire: bool,
    /// When it became visible, by node.
    pub visible: BTreeMap<String, Window>,
}

/// What is true about every beat that was written while the observer looked.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Truth {
    /// The resolution that was asked for [ns]; a wider window says that a host or the server stalled, and is not to be relied on.
    pub resolution_ns: i64,
    /// The beats, in the order of their commits; those whose commit was not seen come first.
    pub beats: Vec<BeatTruth>,
}

impl Window {
    /// How long it is [ns].
    pub fn width_ns(&self) -> i64 {
        self.by - self.after
    }
}

impl Span {
    /// Whether a value can be the truth [ns].
    pub fn holds(&self, value_ns: i64) -> bool {
        (self.lower_ns..=self.upper_ns).contains(&value_ns)
    }
}

impl BeatTruth {
    /// From the return of the commit until a query at `node` saw the beat.
    pub fn lag(&self, node: &str) -> Option<Span> {
        let (visible, committed) = (self.visible.get(node)?, self.committed?);
        Some(Span { lower_ns: visible.after - committed.by, upper_ns: visible.by - committed.after })
    }
}

impl Truth {
    /// Whether a window is as narrow as was asked for.
    pub fn is_exact(&self, window: &Window) -> bool {
        window.width_ns() <= self.resolution_ns
    }

    /// Whether both windows that a lag is made of are as narrow as was asked for.
    pub fn is_lag_exact(&self, beat: &BeatTruth, node: &str) -> bool {
        beat.committed.iter().chain(beat.visible.get(node)).all(|window| self.is_exact(window))
    }

    /// The beats of an origin's stream, in the order of their commits.
    pub fn of<'t>(&'t self, origin: &'t str, stream: Stream) -> impl Iterator<Item = &'t BeatTruth> {
        self.beats.iter().filter(move |beat| beat.id.origin == origin && beat.id.stream == stream)
    }

    /// How old what `node` shows of `origin` was at a moment: that moment less the commit of the newest beat that was visible there.
    pub fn staleness(&self, origin: &str, node: &str, at: Real) -> Option<Span> {
        let (mut surely, mut perhaps): (Option<Window>, Option<Window>) = (None, None);
        for beat in self.of(origin, Stream::Beat) {
            let (Some(visible), Some(committed)) = (beat.visible.get(node), beat.committed) else { continue };
            if visible.by <= at {
                surely = Some(surely.map_or(committed, |newest| newest.later(committed)));
            }
            if visible.after < at {
                perhaps = Some(perhaps.map_or(committed, |newest| newest.later(committed)));
            }
        }
        let (surely, perhaps) = (surely?, perhaps?);
        Some(Span { lower_ns: at - perhaps.by, upper_ns: at - surely.after })
    }
}

impl Window {
    fn later(self, other: Window) -> Window {
        if other.by > self.by { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(sequence: i64, committed: (i64, i64), visible: (i64, i64)) -> BeatTruth {
        let window = |(after, by)| Window { after: Real(after), by: Real(by) };
        let id = BeatId { origin: "w".to_owned(), incarnation: 1, stream: Stream::Beat, sequence };
        let visible = BTreeMap::from([("r".to_owned(), window(visible))]);
        BeatTruth { id, committed: Some(window(committed)), from_wire: true, visible }
    }

    /// Lag is widest apart and closest together of the two windows: whatever happened inside them, the true lag is in the span.
    #[test]
    fn lag_holds_every_possible_truth() {
        let beat = beat(1, (100, 110), (400, 450));
        assert_eq!(beat.lag("r"), Some(Span { lower_ns: 290, upper_ns: 350 }));
        assert_eq!(beat.lag("nobody"), None);
    }

    /// Staleness counts from the newest commit that was surely visible for its upper end and possibly visible for its lower one.
    #[test]
    fn staleness_holds_every_possible_truth() {
        let beats = vec![beat(1, (100, 110), (400, 450)), beat(2, (1100, 1110), (1400, 1450))];
        let truth = Truth { resolution_ns: 50, beats };
        assert_eq!(truth.staleness("w", "r", Real(300)), None, "nothing was visible");
        assert_eq!(truth.staleness("w", "r", Real(1000)), Some(Span { lower_ns: 890, upper_ns: 900 }));
        assert_eq!(
            truth.staleness("w", "r", Real(1420)),
            Some(Span { lower_ns: 310, upper_ns: 1320 }),
            "the second may be there"
        );
        assert_eq!(truth.staleness("w", "r", Real(1500)), Some(Span { lower_ns: 390, upper_ns: 400 }));
    }
}
