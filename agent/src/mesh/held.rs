//! Answered probes whose round trip waits for the reflector's word on when its answer really left. Pure.
//!
//! The time of a reflector's stamp of its answer (t3) is that of its program: what passes until the packet is on its way, and that is
//! much where the host is busy, counts as network. The next answer tells how much it was. So a round trip is told one answer later,
//! where the reflector follows up at all; the flow's life and what the peer told us do not wait for it.

use std::time::Duration;

use lagmesh_model::directed::Directed;
use lagmesh_model::state::StampSource;
use lagmesh_model::time::{RawNanos, Reading, nanos};

use crate::mesh::flow::{Fate, PATIENCE_MIN};
use crate::mesh::offset::Exchange;
use crate::mesh::stamp::follow_up::{FollowUp, Method};
use crate::mesh::stamp::{Format, Timestamp};

/// No round trip waits for longer: where probes are rarer it is told at once, as it is.
const HELD_MAX: Duration = Duration::from_secs(5);
/// An answer does not leave so long after its stamp [ns], or that is no stamp of it.
const LATE_MAX_NS: i64 = 100_000_000;

/// An answered probe, and all that its answer says of the path.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// What became of it.
    pub fate: Fate,
    /// What made its stamps.
    pub stamps: StampSource,
    /// The stamps of the measuring clocks, if the reflector has one.
    pub exchange: Option<Exchange>,
    /// The hop limits with which request and answer arrived, as far as they are known.
    pub hop_limits: Directed<Option<u8>>,
    /// The number that the reflector gave its answer.
    pub number: u32,
    /// Its own stamp of that (t3).
    pub answered: (Timestamp, Format),
    /// When it was settled.
    pub at: Reading,
}

impl Measured {
    /// The same as the reflector's word makes it, if that is about this answer and is possible.
    fn followed_up(self, follow_up: Option<FollowUp>) -> Measured {
        let of_this = follow_up.filter(|told| told.number == self.number && told.method != Method::ControlPlane);
        let (stamp, format) = self.answered;
        let Some(late_ns) = of_this
            .and_then(|told| told.timestamp.since_ns(stamp, format))
            .and_then(|late_ns| u64::try_from(late_ns).ok())
            .filter(|late_ns| late_ns.cast_signed() <= LATE_MAX_NS)
        else {
            return self;
        };
        let Some(rtt_ns) = self.fate.rtt_ns.and_then(|rtt_ns| rtt_ns.checked_sub(late_ns)).filter(|rtt_ns| *rtt_ns > 0) else {
            return self;
        };
        let stamps = if self.stamps == StampSource::Kernel { StampSource::KernelBothEnds } else { self.stamps };
        let later = |exchange: Exchange| Exchange { t3: RawNanos(exchange.t3.0.saturating_add(late_ns)), ..exchange };
        Measured { fate: Fate { rtt_ns: Some(rtt_ns), ..self.fate }, stamps, exchange: self.exchange.map(later), ..self }
    }
}

/// The newest answered probe of a flow, as long as it waits.
#[derive(Debug, Default)]
pub struct Held(Option<Measured>);

impl Held {
    /// The next answer came, with the reflector's word on the one before it: returns that, which need not wait any longer.
    pub fn follow_up(&mut self, follow_up: Option<FollowUp>) -> Option<Measured> {
        self.0.take().map(|measured| measured.followed_up(follow_up))
    }

    /// Has an answer wait for the next one if its reflector follows up, as it has just shown; else returns it.
    pub fn hold(&mut self, measured: Measured, follow_up: Option<FollowUp>, interval: Duration) -> Option<Measured> {
        if follow_up.is_none() || measured.fate.rtt_ns.is_none() || interval > HELD_MAX {
            return Some(measured);
        }
        self.0.replace(measured)
    }

    /// Whether an answer waits.
    pub fn waits(&self) -> bool {
        self.0.is_some()
    }

    /// Nothing more is heard of it: as it is it has to do.
    pub fn give_up(&mut self) -> Option<Measured> {
        self.0.take()
    }

    /// The same if the next answer should have been here by `now`, after an interval and the patience of the flow: that is asked for only
    /// if it may be over, as it takes long to find out.
    pub fn overdue(&mut self, now: RawNanos, interval: Duration, patience: impl Fn() -> Duration) -> Option<Measured> {
        let beyond = |at: RawNanos, patience| now.since_ns(at) > nanos(interval + patience).cast_signed();
        self.0.take_if(|measured| beyond(measured.at.raw, PATIENCE_MIN) && beyond(measured.at.raw, patience()))
    }
}

#[cfg(test)]
mod tests;
