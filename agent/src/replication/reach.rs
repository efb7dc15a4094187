//! How far the log of one origin has got at one node: what is missing there in bytes and in time, what would be lost with the origin, and
//! how long catching up takes. Pure.

use lagmesh_model::known::Known;
use lagmesh_model::position::Position;
use lagmesh_model::state::{NodeRole, ReplicationState, Stage};
use lagmesh_model::status::{LogReach, Reach, Seconds};
use lagmesh_model::time::RawNanos;

use crate::replication::Cluster;
use crate::replication::decide;
use crate::replication::node::{Look, NodeTrack, PACE_SPAN};
use crate::replication::position_map::{Above, NoTime};
use crate::replication::told::Told;
use crate::replication::track::age;

/// Whose flushed position is not its own to tell.
const AT_THE_PUBLISHER: &str = "how much of it a subscriber has on disk only its slot at the publisher says";

/// Both ends of the log.
pub(super) struct Log<'a> {
    /// What the origin has told of it.
    pub(super) told: Option<&'a Told>,
    /// Where it arrives.
    pub(super) node: &'a NodeTrack,
    /// The cluster of both.
    pub(super) cluster: &'a Cluster,
    /// Now, on our own clock.
    pub(super) now: RawNanos,
}

impl Log<'_> {
    /// What is missing, by stage.
    pub(super) fn reach(&self) -> LogReach {
        LogReach::from_each(|stage| match self.look_at(stage) {
            Ok((look, reached)) => Reach { backlog_bytes: self.backlog(&reached), delay: self.delay(look, &reached) },
            Err(why) => Reach::unknown(why),
        })
    }

    /// What would be lost if the origin vanished now.
    pub(super) fn loss(&self) -> Known<Seconds> {
        let above = match self.look_at(Stage::Flushed) {
            Ok((_, flushed)) => self.above(&flushed),
            Err(why) => return Known::unknown(why),
        };
        let newest = self.told.and_then(|told| told.positions().newest());
        match (above, newest) {
            (Ok(above), Some(newest)) => Known::known(Seconds::from(above.unreached(newest, self.now))),
            (Err(why), _) => Known::unknown(why.to_string()),
            (_, None) => Known::unknown(NoTime::Empty.to_string()),
        }
    }

    /// How long it takes until everything is replayed, if both ends go on as they did of late [s].
    pub(super) fn catch_up_s(&self, state: ReplicationState) -> Known<f64> {
        let backlog = match self.look_at(Stage::Replayed) {
            Ok((_, replayed)) => self.backlog(&replayed),
            Err(why) => return Known::unknown(why),
        };
        let bytes = match backlog {
            // What is on its way on a healthy link is not behind.
            Known::Known { .. } if state == ReplicationState::Ok => return Known::known(0.0),
            Known::Known { value } => value as f64,
            Known::Stale { .. } => return Known::unknown("how far the log goes by now is not known"),
            Known::Unknown { why } => return Known::Unknown { why },
        };
        if state.stands_still() || state == ReplicationState::DelayedOnPurpose {
            return Known::unknown(format!("replication is {state}"));
        }
        let written = self.told.and_then(|told| told.positions().bytes_per_s(PACE_SPAN));
        let (Some(written), Some(replayed)) = (written, self.node.replayed_bytes_per_s(self.now)) else {
            return Known::unknown("how fast the log grows and is replayed is not known yet");
        };
        if replayed <= written {
            return Known::unknown("the log grows as fast as it is replayed, or faster");
        }
        Known::known(bytes / (replayed - written))
    }

    fn look_at(&self, stage: Stage) -> Result<(&Look, Position), &'static str> {
        if self.node.role() == Some(NodeRole::Subscriber) {
            return Err(AT_THE_PUBLISHER);
        }
        let (look, _) = self.node.looks(self.now).ok_or("the node shows no position")?;
        Ok((look, look.reached(stage, self.node.system()).ok_or("the node shows no position")?))
    }

    /// What the origin is known to have written beyond what was reached. It may have written more since it last told us.
    fn backlog(&self, reached: &Position) -> Known<u64> {
        let Some(newest) = self.told.and_then(Told::newest) else { return Known::unknown("the writer has told of no position") };
        let Some(ahead) = newest.announcement.position.bytes_ahead_of(reached) else {
            return Known::unknown(NoTime::OtherLog.to_string());
        };
        // Behind by nothing that is known of: that is what a negative difference says.
        let bytes = if ahead > 0 { ahead.cast_unsigned() } else { 0 };
        let told_age = age(self.now, newest.at);
        if told_age > self.cluster.interval.mul_f64(decide::WRITER_DOWN_INTERVALS) {
            return Known::Stale { value: bytes, age_s: told_age.as_secs_f64() };
        }
        Known::known(bytes)
    }

    fn delay(&self, look: &Look, reached: &Position) -> Known<Seconds> {
        match self.above(reached) {
            Ok(above) => Known::known(Seconds::from(above.waiting(look.began, look.at))),
            Err(why) => Known::unknown(why.to_string()),
        }
    }

    fn above(&self, reached: &Position) -> Result<Above, NoTime> {
        self.told.ok_or(NoTime::Empty)?.positions().above(reached)
    }
}
