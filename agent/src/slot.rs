//! How far those who read a server's log through its logical slots have got, as that server says: what a subscriber has on disk of its
//! publisher's log nobody else knows.

use std::time::Duration;

use lagmesh_model::position::Position;
use lagmesh_model::time::{Epoch, RawNanos};

/// What was not said again for so long is told as stale: it stays true, for what is on disk stays there, but there may be much more by now.
pub const REACH_HELD: Duration = Duration::from_secs(15);

/// What a server said of one of its logical slots when it was asked, by its agent's measuring clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotReach {
    /// The epoch of that clock.
    pub epoch: Epoch,
    /// The server was asked.
    pub began: RawNanos,
    /// The answer was there.
    pub ended: RawNanos,
    /// Everything that was committed before this position is on disk at who reads from the slot.
    pub confirmed: Position,
}
