//! Replication from one origin to one node: what the writer has confirmed, what is visible, and what that makes of the link.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::position::Position;
use lagmesh_model::state::ReplicationState;
use lagmesh_model::time::{RawNanos, Reading};

use crate::measurement::{PeerView, Sighting};
use crate::replication::decide::Unseen;
use crate::replication::lag::Lag;
use crate::replication::told::{Mark, Told, ToldBeat, is_newer};

/// Confirmed and invisible beats that are remembered. Of more than these the oldest and the newest are kept.
const UNSEEN_MAX: usize = 64;

/// Replication from one origin to one node.
#[derive(Debug)]
pub(super) struct Track {
    /// The lag of its beats.
    pub(super) lag: Lag,
    /// What was decided last.
    pub(super) state: ReplicationState,
    /// Whether its counts have been told.
    pub(super) is_told: bool,
    since: RawNanos,
    unseen: VecDeque<ToldBeat>,
    /// Confirmed since the newest visible beat, those included that are not remembered.
    unseen_beats: u64,
}

impl Track {
    /// A link that is watched from now on.
    pub(super) fn new(now: RawNanos) -> Track {
        Track {
            lag: Lag::default(),
            state: ReplicationState::Unknown,
            is_told: false,
            since: now,
            unseen: VecDeque::new(),
            unseen_beats: 0,
        }
    }

    /// Takes in what the writer has told.
    pub(super) fn hear(&mut self, told: &Told, now: Reading, view: &PeerView, objective: Duration) {
        self.lag.hear(told, now, view, objective);
        let Some(newest) = told.newest() else { return };
        let mark = Mark::of(&newest.announcement);
        let visible = self.lag.newest().is_some_and(|row| !is_newer(&mark, &Mark::of_row(row)));
        let known = self.unseen.back().is_some_and(|last| !is_newer(&mark, &Mark::of(&last.announcement)));
        if visible || known {
            return;
        }
        if self.unseen.len() == UNSEEN_MAX {
            self.unseen.remove(1);
        }
        self.unseen.push_back(newest.clone());
        self.unseen_beats += 1;
    }

    /// Takes in a sighting.
    pub(super) fn see(&mut self, sighting: Sighting, told: &Told, now: Reading, view: &PeerView, objective: Duration) {
        let row = sighting.row.clone();
        self.unseen.retain(|beat| is_newer(&Mark::of(&beat.announcement), &Mark::of_row(&row)));
        self.unseen_beats = self.unseen.len() as u64;
        self.lag.see(sighting, told, now, view, objective);
    }

    /// Beats that the writer has confirmed and that are not visible.
    pub(super) fn unseen(&self, now: RawNanos) -> Option<Unseen> {
        let oldest = self.unseen.front()?;
        Some(Unseen { sequence: oldest.announcement.id.sequence.0, beats: self.unseen_beats, known_for: age(now, oldest.at) })
    }

    /// Where the writer's log stood when it wrote the oldest invisible beat, and when we heard of it.
    pub(super) fn oldest_unseen_position(&self) -> Option<(Position, RawNanos)> {
        self.unseen.front().map(|beat| (beat.announcement.position, beat.at))
    }

    /// How long the link has been watched.
    pub(super) fn watched(&self, now: RawNanos) -> Duration {
        age(now, self.since)
    }

    /// The newest sign of life of the origin: a beat arrived, or it told of one.
    pub(super) fn sign_of_life(&self, told: Option<&Told>) -> Option<RawNanos> {
        let told = told.and_then(Told::newest).map(|beat| beat.at);
        self.lag.arrived().max(told)
    }

    /// Forgets every stamp of our own clock, which has begun a new epoch.
    pub(super) fn new_epoch(&mut self, now: RawNanos) {
        self.lag.new_epoch();
        self.unseen.clear();
        self.unseen_beats = 0;
        self.since = now;
    }
}

/// From `at` to `now`. Stamps of different threads may cross by microseconds: then no time has passed.
pub(super) fn age(now: RawNanos, at: RawNanos) -> Duration {
    now.checked_since(at).unwrap_or(Duration::ZERO)
}
