//! What a writer has told of its beats over the mesh (or to us directly, if it is our own): true whatever replication does.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::beat::{Announcement, BeatId, BeatRow, BeatTimes};
use lagmesh_model::ids::AgentName;
use lagmesh_model::interval::Interval;
use lagmesh_model::position::Position;
use lagmesh_model::time::RawNanos;

use crate::replication::position_map::PositionMap;

/// Beats that are remembered: a minute at 1 Hz, so that a reader that catches up still finds when they were acknowledged.
const REMEMBERED: usize = 64;

/// The beats that one writer has told of, newest last.
#[derive(Debug, Default)]
pub(super) struct Told {
    beats: VecDeque<ToldBeat>,
    positions: PositionMap,
}

/// An announcement that is heard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard<'a> {
    /// What.
    pub(super) announcement: &'a Announcement,
    /// When, on our clock.
    pub(super) at: RawNanos,
    /// From whom; `None` if we wrote the beat ourselves.
    pub(super) from: Option<&'a AgentName>,
}

/// A beat that the writer has told of.
#[derive(Debug, Clone)]
pub(super) struct ToldBeat {
    /// The beat.
    pub(super) announcement: Announcement,
    /// When we first heard of it, on our clock.
    pub(super) at: RawNanos,
    /// Which agent told us; `None` if we wrote it ourselves.
    pub(super) from: Option<AgentName>,
}

impl Told {
    /// Takes note of an announcement that came from an agent, unless it is known or older than what is known; says whether it was
    /// news. `offset` is the writer's clock minus ours when it came, if that is known.
    pub(super) fn tell(&mut self, heard: &Heard<'_>, offset: impl FnOnce() -> Option<Interval>) -> bool {
        let &Heard { announcement, at, from } = heard;
        if self.newest().is_some_and(|newest| !is_newer(&Mark::of(announcement), &Mark::of(&newest.announcement))) {
            return false;
        }
        if self.beats.len() == REMEMBERED {
            self.beats.pop_front();
        }
        self.beats.push_back(ToldBeat { announcement: announcement.clone(), at, from: from.cloned() });
        if let Some((first, second)) =
            offset().map(|offset| on_our_clock((announcement.times.sent, announcement.times.acknowledged), offset, at))
        {
            self.positions.note(&announcement.position, first, second);
        }
        true
    }

    /// Where the writer's log stood, and when.
    pub(super) fn positions(&self) -> &PositionMap {
        &self.positions
    }

    /// The newest.
    pub(super) fn newest(&self) -> Option<&ToldBeat> {
        self.beats.back()
    }

    /// When a beat was sent and acknowledged, if the writer told of it and it is remembered.
    pub(super) fn times_of(&self, id: &BeatId) -> Option<BeatTimes> {
        self.beats.iter().rev().find(|beat| beat.announcement.id == *id).map(|beat| beat.announcement.times)
    }

    /// Forgets everything: our own clock has begun a new epoch.
    pub(super) fn clear(&mut self) {
        *self = Told::default();
    }
}

/// The two moments between which something was asked of a server and answered, on our own clock, from the clock of the server's agent minus ours
/// at `at`, when we heard of it.
pub(super) fn on_our_clock((asked, answered): (RawNanos, RawNanos), offset: Interval, at: RawNanos) -> (RawNanos, RawNanos) {
    let earliest = RawNanos(asked.0.saturating_add_signed(-offset.upper_ns()));
    let offset = offset.widen_for_drift_of_pair(Duration::from_nanos(at.0.abs_diff(earliest.0)));
    let first = asked.0.saturating_add_signed(-offset.upper_ns());
    let second = answered.0.saturating_add_signed(-offset.lower_ns());
    // It was answered when we heard so.
    (RawNanos(first), RawNanos(second.min(at.0)))
}

/// What tells which of two beats of one origin is newer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mark<'b> {
    id: &'b BeatId,
    position: Position,
}

impl<'b> Mark<'b> {
    /// Of an announcement.
    pub(super) fn of(announcement: &'b Announcement) -> Mark<'b> {
        Mark { id: &announcement.id, position: announcement.position }
    }

    /// Of a row.
    pub(super) fn of_row(row: &'b BeatRow) -> Mark<'b> {
        Mark { id: &row.id, position: row.position }
    }
}

/// Whether `a` was written after `b`: by number within one incarnation, by position across incarnations. On a system that was made
/// anew positions say nothing, and another incarnation counts as newer.
pub(super) fn is_newer(a: &Mark<'_>, b: &Mark<'_>) -> bool {
    if a.id.incarnation == b.id.incarnation {
        return a.id.sequence > b.id.sequence;
    }
    let place = |mark: &Mark<'_>| (mark.position.timeline, mark.position.lsn);
    a.position.system != b.position.system || place(a) > place(b)
}

#[cfg(test)]
mod tests {
    use lagmesh_model::beat::{Incarnation, Sequence};
    use lagmesh_model::position::{Lsn, SystemIdentifier, Timeline};
    use lagmesh_model::time::Epoch;

    use super::*;

    fn beat(incarnation: i64, sequence: u64, timeline: u32, lsn: u64) -> Announcement {
        Announcement {
            id: BeatId { origin: "db-1".parse().unwrap(), incarnation: Incarnation(incarnation), sequence: Sequence(sequence) },
            times: BeatTimes { epoch: Epoch(1), sent: RawNanos(lsn), acknowledged: RawNanos(lsn + 1) },
            position: Position { system: SystemIdentifier(7), timeline: Timeline(timeline), lsn: Lsn(lsn) },
        }
    }

    fn heard(announcement: &Announcement, at: u64) -> Heard<'_> {
        Heard { announcement, at: RawNanos(at), from: None }
    }

    /// Whatever the clocks' distance, what was told lies between the two moments on our own clock; none of them lies behind the hearing.
    #[test]
    fn positions_are_told_on_our_clock() {
        let mut told = Told::default();
        // Sent at 1,000,000 and acknowledged one later on a clock that is 600,000 ahead of ours, give or take 50; heard 90 later.
        let offset = Interval::new(599_950, 600_000, 600_050).unwrap();
        assert!(told.tell(&heard(&beat(5, 1, 1, 1_000_000), 400_091), || Some(offset)));
        let entry = *told.positions().newest().unwrap();
        assert_eq!((entry.lsn, entry.first, entry.second), (Lsn(1_000_000), RawNanos(399_948), RawNanos(400_053)));
        assert!(told.tell(&heard(&beat(5, 2, 1, 1_000_100), 400_120), || Some(offset)));
        assert_eq!(told.positions().newest().unwrap().second, RawNanos(400_120));
        assert!(told.tell(&heard(&beat(5, 3, 1, 1_000_200), 500_000), || None));
        assert_eq!(told.positions().newest().unwrap().lsn, Lsn(1_000_100), "without a clock there is no time");
    }

    /// What an agent that no longer beats goes on to repeat never replaces what its successor says.
    #[test]
    fn only_news_is_taken() {
        let mut told = Told::default();
        let table = [
            (beat(5, 1, 1, 100), true),
            (beat(5, 1, 1, 100), false),
            (beat(5, 2, 1, 200), true),
            (beat(5, 1, 1, 100), false),
            (beat(3, 1, 1, 300), true),
            (beat(5, 2, 1, 200), false),
            (beat(9, 1, 2, 250), true),
            (beat(3, 9, 1, 900), false),
        ];
        for (n, (announcement, news)) in table.iter().enumerate() {
            assert_eq!(told.tell(&heard(announcement, n as u64), || None), *news, "{n}");
        }
        assert_eq!(told.newest().unwrap().announcement.id, beat(9, 1, 2, 250).id);
        assert_eq!(told.times_of(&beat(5, 2, 1, 200).id).unwrap().sent, RawNanos(200));
        assert_eq!(told.times_of(&beat(5, 3, 1, 200).id), None);
    }

    /// The memory is bounded.
    #[test]
    fn memory_is_bounded() {
        let mut told = Told::default();
        for n in 1..1_000 {
            assert!(told.tell(&heard(&beat(1, n, 1, n), n), || None));
        }
        assert_eq!(told.beats.len(), REMEMBERED);
    }
}
