//! What a writer has told of its beats over the mesh (or to us directly, if it is our own): true whatever replication does.

use std::collections::VecDeque;

use lagmesh_model::beat::{Announcement, BeatId, BeatRow, BeatTimes};
use lagmesh_model::ids::AgentName;
use lagmesh_model::position::Position;
use lagmesh_model::time::RawNanos;

/// Beats that are remembered: a minute at 1 Hz, so that a reader that catches up still finds when they were acknowledged.
const REMEMBERED: usize = 64;

/// The beats that one writer has told of, newest last.
#[derive(Debug, Default)]
pub(super) struct Told {
    beats: VecDeque<ToldBeat>,
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
    /// Takes note of an announcement, unless it is known or older than what is known; says whether it was news.
    pub(super) fn tell(&mut self, announcement: &Announcement, at: RawNanos, from: Option<&AgentName>) -> bool {
        if self.newest().is_some_and(|newest| !is_newer(&Mark::of(announcement), &Mark::of(&newest.announcement))) {
            return false;
        }
        if self.beats.len() == REMEMBERED {
            self.beats.pop_front();
        }
        self.beats.push_back(ToldBeat { announcement: announcement.clone(), at, from: from.cloned() });
        true
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
        self.beats.clear();
    }
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
            assert_eq!(told.tell(announcement, RawNanos(n as u64), None), *news, "{n}");
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
            assert!(told.tell(&beat(1, n, 1, n), RawNanos(n), None));
        }
        assert_eq!(told.beats.len(), REMEMBERED);
    }
}
