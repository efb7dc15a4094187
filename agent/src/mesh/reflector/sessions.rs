//! What a stateful reflector remembers of each session, so that its sender can tell loss by direction. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use lagmesh_model::time::{RawNanos, WallNanos, nanos};

use crate::mesh::stamp::follow_up::Method;

/// How many sessions of strangers are counted at once, and as many again of configured agents; towards those beyond that the reflector
/// is stateless.
pub(super) const SESSIONS_MAX: usize = 8192;
/// A session that was silent for so long is forgotten when room is needed.
const SESSION_IDLE: Duration = Duration::from_secs(60);

/// How often a full table is searched for sessions that may be forgotten: it takes long, and a flood of new ones would ask for it with
/// each of its packets.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Which session: its sender and the identifier that it chose (RFC 8972, section 3). Our own end is one and the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SessionKey {
    pub(super) source: SocketAddr,
    pub(super) identifier: u16,
    /// Whether a configured agent sends: strangers cannot take their room.
    pub(super) configured: bool,
}

/// What there is to tell in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// How many requests came, with this one.
    pub(super) received: u32,
    /// How many answers were sent before this one: its number.
    pub(super) answered: u32,
    /// The answer before this one.
    pub(super) previous: Option<Previous>,
}

/// An answer that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Previous {
    /// Its number.
    pub(super) number: u32,
    /// When it was sent.
    pub(super) at: WallNanos,
    /// Who says so.
    pub(super) method: Method,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    counts: Counts,
    newest: RawNanos,
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    configured: Table,
    strangers: Table,
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<SessionKey, Session>,
    swept: Option<RawNanos>,
}

impl Sessions {
    /// A request came. Without room its session is not counted.
    pub(super) fn receive(&mut self, key: SessionKey, now: RawNanos) {
        let Table { sessions, swept } = self.table(key);
        if sessions.len() >= SESSIONS_MAX && !sessions.contains_key(&key) {
            let since = swept.and_then(|swept| now.checked_since(swept));
            if since.is_none_or(|since| since >= SWEEP_EVERY) {
                *swept = Some(now);
                sessions.retain(|_, session| now.since_ns(session.newest) < nanos(SESSION_IDLE).cast_signed());
            }
            if sessions.len() >= SESSIONS_MAX {
                return;
            }
        }
        let new = Session { counts: Counts { received: 0, answered: 0, previous: None }, newest: now };
        let session = sessions.entry(key).or_insert(new);
        session.counts.received = session.counts.received.wrapping_add(1);
        session.newest = now;
    }

    /// An answer is made at `wall`: what it tells. `None` if the session is not counted.
    pub(super) fn answer(&mut self, key: SessionKey, wall: WallNanos) -> Option<Counts> {
        let session = self.table(key).sessions.get_mut(&key)?;
        let told = session.counts;
        session.counts.previous = Some(Previous { number: told.answered, at: wall, method: Method::ControlPlane });
        session.counts.answered = told.answered.wrapping_add(1);
        Some(told)
    }

    /// The kernel says when an answer left. Only the newest one is of interest.
    pub(super) fn left(&mut self, key: SessionKey, number: u32, wall: WallNanos) {
        let session = self.table(key).sessions.get_mut(&key);
        let previous = session.and_then(|session| session.counts.previous.as_mut());
        if let Some(previous) = previous.filter(|previous| previous.number == number) {
            *previous = Previous { number, at: wall, method: Method::Local };
        }
    }

    /// How many are counted.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn len(&self) -> usize {
        self.configured.sessions.len() + self.strangers.sessions.len()
    }

    fn table(&mut self, key: SessionKey) -> &mut Table {
        if key.configured { &mut self.configured } else { &mut self.strangers }
    }
}
