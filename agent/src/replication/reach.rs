//! How far the log of one origin has got at one node: what is missing there in bytes and in time, what would be lost with the origin, and
//! how long catching up takes. Pure.

use lagmesh_model::interval::Interval;
use lagmesh_model::known::Known;
use lagmesh_model::position::Position;
use lagmesh_model::state::{ReplicationState, Stage};
use lagmesh_model::status::{LogReach, Reach, Seconds};
use lagmesh_model::time::RawNanos;

use crate::replication::Cluster;
use crate::replication::confirmed::Confirmed;
use crate::replication::decide;
use crate::replication::node::{NodeTrack, PACE_SPAN};
use crate::replication::position_map::{Above, NoTime};
use crate::replication::told::Told;
use crate::replication::track::age;
use crate::slot::REACH_HELD;

/// A subscriber's own positions are of its own log.
const NOT_CONFIRMED: &str = "a subscriber shows none of its publisher's positions, and confirms only what it has on disk";

/// Both ends of the log.
pub(super) struct Log<'a> {
    /// What the origin has told of it.
    pub(super) told: Option<&'a Told>,
    /// Where it arrives.
    pub(super) node: &'a NodeTrack,
    /// What the publisher says, if that is a subscriber.
    pub(super) confirmed: Option<Result<Confirmed, &'static str>>,
    /// The cluster of both.
    pub(super) cluster: &'a Cluster,
    /// Now, on our own clock.
    pub(super) now: RawNanos,
}

/// How far the log has got.
#[derive(Debug, Clone, Copy)]
struct Reached {
    position: Position,
    /// Between which moments that was so.
    began: RawNanos,
    ended: RawNanos,
    beyond: Beyond,
}

/// What is known of the log above that.
#[derive(Debug, Clone, Copy)]
enum Beyond {
    /// It had not got there.
    Missing,
    /// Some of it may have. It had not got beyond the commit above this position when a poll for it began.
    Perhaps(Option<(Position, RawNanos)>),
}

impl Log<'_> {
    /// What is missing, by stage.
    pub(super) fn reach(&self) -> LogReach {
        LogReach::from_each(|stage| match self.look_at(stage) {
            Ok(reached) => Reach { backlog_bytes: self.backlog(&reached), delay: self.delay(&reached) },
            Err(why) => Reach::unknown(why),
        })
    }

    /// What would be lost if the origin vanished now.
    pub(super) fn loss(&self) -> Known<Seconds> {
        let flushed = match self.look_at(Stage::Flushed) {
            Ok(flushed) => flushed,
            Err(why) => return Known::unknown(why),
        };
        let newest = self.told.and_then(|told| told.positions().newest());
        match (self.above(&flushed.position), newest) {
            (Ok(above), Some(newest)) => {
                let unreached = |above: &Above| above.unreached(newest, self.now);
                self.of_its_time(&flushed, self.certainly(&flushed, unreached(&above), |missing, _| unreached(missing)))
            }
            (Err(why), _) => Known::unknown(why.to_string()),
            (_, None) => Known::unknown(NoTime::Empty.to_string()),
        }
    }

    /// How long it takes until everything is replayed, if both ends go on as they did of late [s].
    pub(super) fn catch_up_s(&self, state: ReplicationState) -> Known<f64> {
        let backlog = match self.look_at(Stage::Replayed) {
            Ok(replayed) => self.backlog(&replayed),
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

    fn look_at(&self, stage: Stage) -> Result<Reached, &'static str> {
        if let Some(confirmed) = self.confirmed {
            if stage != Stage::Flushed {
                return Err(NOT_CONFIRMED);
            }
            return confirmed.map(|Confirmed { position, began, ended, missing }| Reached {
                position,
                began,
                ended,
                beyond: Beyond::Perhaps(missing),
            });
        }
        let (look, _) = self.node.looks(self.now).ok_or("the node shows no position")?;
        let position = look.reached(stage, self.node.system()).ok_or("the node shows no position")?;
        Ok(Reached { position, began: look.began, ended: look.at, beyond: Beyond::Missing })
    }

    /// What the origin is known to have written beyond what was reached. It may have written more since it last told us.
    fn backlog(&self, reached: &Reached) -> Known<u64> {
        let Some(newest) = self.told.and_then(Told::newest) else { return Known::unknown("the writer has told of no position") };
        let Some(ahead) = newest.announcement.position.bytes_ahead_of(&reached.position) else {
            return Known::unknown(NoTime::OtherLog.to_string());
        };
        // Behind by nothing that is known of: that is what a negative difference says.
        let bytes = if ahead > 0 { ahead.cast_unsigned() } else { 0 };
        let told_age = age(self.now, newest.at);
        if told_age > self.cluster.interval.mul_f64(decide::WRITER_DOWN_INTERVALS) {
            return Known::Stale { value: bytes, age_s: told_age.as_secs_f64() };
        }
        self.of_its_time(reached, bytes)
    }

    fn delay(&self, reached: &Reached) -> Known<Seconds> {
        match self.above(&reached.position) {
            Ok(above) => {
                let waiting = above.waiting(reached.began, reached.ended);
                let missing = |missing: &Above, polled: RawNanos| missing.waiting(polled.min(reached.began), polled);
                self.of_its_time(reached, self.certainly(reached, waiting, missing))
            }
            Err(why) => Known::unknown(why.to_string()),
        }
    }

    /// How far it had got stays true for who only ever gets further, but after a while it says little.
    fn of_its_time<N, T: From<N>>(&self, reached: &Reached, value: N) -> Known<T> {
        match (reached.beyond, age(self.now, reached.ended)) {
            (Beyond::Perhaps(_), age) if age > REACH_HELD => Known::Stale { value: value.into(), age_s: age.as_secs_f64() },
            _ => Known::known(value.into()),
        }
    }

    /// What follows from a position, if it is not known to be all: then the lower end is what follows from that which is certainly missing.
    fn certainly(
        &self,
        reached: &Reached,
        by_position: Interval,
        by_missing: impl FnOnce(&Above, RawNanos) -> Interval,
    ) -> Interval {
        let Beyond::Perhaps(missing) = reached.beyond else { return by_position };
        // A poll before the look says nothing of what the look shows to have come since.
        let holds = |(position, polled): &(Position, RawNanos)| {
            *polled >= reached.ended || reached.position.bytes_ahead_of(position).is_some_and(|ahead| ahead <= 0)
        };
        let above = missing.filter(holds).and_then(|(position, polled)| Some((self.above(&position).ok()?, polled)));
        let (estimate_ns, upper_ns) = (by_position.estimate_ns(), by_position.upper_ns());
        let lower_ns = above.map_or(0, |(above, polled)| by_missing(&above, polled).lower_ns()).clamp(0, upper_ns.max(0));
        Interval::new(lower_ns, estimate_ns.max(lower_ns), upper_ns.max(lower_ns)).expect("the ends were put in order")
    }

    fn above(&self, reached: &Position) -> Result<Above, NoTime> {
        self.told.ok_or(NoTime::Empty)?.positions().above(reached)
    }
}
