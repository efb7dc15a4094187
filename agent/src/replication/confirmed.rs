//! How far a subscriber has its publisher's log on disk: the publisher's slot says so, and what of it is certainly missing the beats say that
//! the subscriber does not show. Pure.

use lagmesh_model::ids::SlotHash;
use lagmesh_model::position::Position;
use lagmesh_model::state::NodeRole;
use lagmesh_model::time::{RawNanos, Reading};

use crate::measurement::PeerView;
use crate::replication::told::on_our_clock;
use crate::replication::{Link, Replications, offset_at};

/// What a subscriber has on disk, on our own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Confirmed {
    /// At least so much of the publisher's log; what confirms more may be on its way.
    pub(super) position: Position,
    /// The publisher was not asked before this moment,
    pub(super) began: RawNanos,
    /// and had answered by this one.
    pub(super) ended: RawNanos,
    /// Where the publisher's log stood when it wrote the oldest beat that the subscriber did not show in its newest poll although it had been
    /// told of, and when that poll began: what is not visible has not been applied.
    pub(super) missing: Option<(Position, RawNanos)>,
}

/// Nobody has said it.
const UNTOLD: &str =
    "how much of it a subscriber has on disk only its slot at the publisher says, of which the agents there have not told";
/// Its place in time is not known.
const NO_CLOCK: &str = "the publisher's agent has told how far the slot is, but its clock is not known";

impl Replications {
    /// How far the subscriber of a link is with its publisher's log; `None` if it is none.
    pub(super) fn confirmed(&self, link: &Link, now: Reading, view: &PeerView) -> Option<Result<Confirmed, &'static str>> {
        let node = self.nodes.get(&link.node).filter(|node| node.role() == Some(NodeRole::Subscriber))?;
        let slots = node.slots_used(now.raw).map(|name| self.slot(link, SlotHash::of(name), now, view));
        // Which of several subscriptions to one publisher is behind is no matter: what the last of them lacks is missing.
        let least = slots.flatten().reduce(|one, other| match (one, other) {
            (Ok(one), Ok(other)) if other.0.bytes_ahead_of(&one.0).is_some_and(|ahead| ahead < 0) => Ok(other),
            (Ok(_), Err(why)) => Err(why),
            (one, _) => one,
        });
        Some(least.unwrap_or(Err(UNTOLD)).map(|(position, began, ended)| Confirmed {
            position,
            began,
            ended,
            missing: self.missing(link, now),
        }))
    }

    /// How far a slot of the link's origin is, between which moments on our clock; `None` if nobody has said it.
    fn slot(
        &self,
        link: &Link,
        slot: SlotHash,
        now: Reading,
        view: &PeerView,
    ) -> Option<Result<(Position, RawNanos, RawNanos), &'static str>> {
        if let Some(own) = self.nodes.get(&link.origin) {
            return own.around.reach(slot).map(Ok);
        }
        let heard = view.reaches.get(&(link.origin.clone(), slot))?;
        let reach = heard.what;
        let Some(offset) = offset_at(heard.at, reach.epoch, now, view) else { return Some(Err(NO_CLOCK)) };
        let (began, ended) = on_our_clock((reach.began, reach.ended), offset, heard.at);
        Some(Ok((reach.confirmed, began, ended)))
    }

    /// Of a beat that was told of too late for the newest poll nothing is known.
    fn missing(&self, link: &Link, now: Reading) -> Option<(Position, RawNanos)> {
        let node = self.nodes.get(&link.node)?;
        let polled = node.poll_began().filter(|_| node.subscriber(now.raw).is_some_and(|subscriber| subscriber.carries_beats))?;
        let (position, told_at) = self.tracks.get(link)?.oldest_unseen_position()?;
        (told_at <= polled).then_some((position, polled))
    }
}
