//! Which beats are on their way, so that servers are looked at closely only while one may arrive: looking costs them processor time.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::truth::{BeatId, Stream};

/// How many streams are followed; beyond that, servers are looked at closely all the time.
const STREAMS_MAX: usize = 64;

/// An origin's incarnation and its stream.
type Key = (String, i64, Stream);

/// The beats that writers have asked their servers for, as the taps hear them before the commit.
#[derive(Debug, Default)]
pub(super) struct Underway {
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    newest: HashMap<Key, i64>,
    /// A beat came that no tap had heard of: nothing can be left to the taps any more.
    deaf: bool,
}

/// What has arrived at one node.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    newest: HashMap<Key, i64>,
    /// Where replication does not lead here, nothing is waited for.
    origins: HashSet<String>,
}

impl Underway {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A writer asks for a beat.
    pub(super) fn sent(&self, beat: &BeatId) {
        let mut asked = self.asked();
        let newest = asked.newest.entry(key(beat)).or_insert(beat.sequence);
        *newest = beat.sequence.max(*newest);
        asked.deaf |= asked.newest.len() > STREAMS_MAX;
        drop(asked);
        self.changed.notify_all();
    }

    /// Taps cannot be relied on.
    pub(super) fn go_deaf(&self) {
        self.asked().deaf = true;
        self.changed.notify_all();
    }

    /// Beats became visible at a node while it was watched.
    pub(super) fn arrived(&self, beats: &[BeatId], at: &mut Arrived) {
        let mut asked = self.asked();
        for beat in beats {
            asked.deaf |= asked.newest.get(&key(beat)).is_none_or(|newest| *newest < beat.sequence);
            let newest = at.newest.entry(key(beat)).or_insert(beat.sequence);
            *newest = beat.sequence.max(*newest);
            at.origins.insert(beat.origin.clone());
        }
        asked.deaf |= at.newest.len() > STREAMS_MAX;
    }

    /// Whether nothing is on its way to a node.
    pub(super) fn is_quiet(&self, at: &Arrived) -> bool {
        self.asked().is_quiet(at)
    }

    /// Waits until something is on its way to a node, or for so long.
    pub(super) fn wait_while_quiet(&self, at: &Arrived, up_to: Duration) {
        drop(self.changed.wait_timeout_while(self.asked(), up_to, |asked| asked.is_quiet(at)));
    }
}

impl Asked {
    fn is_quiet(&self, at: &Arrived) -> bool {
        let arrived = |(key, newest): (&Key, &i64)| at.newest.get(key).is_some_and(|seen| seen >= newest);
        !self.deaf && self.newest.iter().all(|stream| !at.origins.contains(&stream.0.0) || arrived(stream))
    }
}

fn key(beat: &BeatId) -> Key {
    (beat.origin.clone(), beat.incarnation, beat.stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(origin: &str, sequence: i64) -> BeatId {
        BeatId { origin: origin.to_owned(), incarnation: 1, stream: Stream::Beat, sequence }
    }

    /// A node is quiet exactly while it has every beat that was asked for at the origins that reach it; a beat that nobody heard being
    /// asked for ends all quiet.
    #[test]
    fn quiet_while_nothing_is_on_its_way() {
        let (underway, mut at) = (Underway::default(), Arrived::default());
        underway.sent(&beat("a", 1));
        assert!(underway.is_quiet(&at), "nothing of a has ever come here");
        underway.arrived(&[beat("a", 1)], &mut at);
        assert!(underway.is_quiet(&at));
        underway.sent(&beat("a", 2));
        underway.sent(&beat("b", 7));
        assert!(!underway.is_quiet(&at));
        underway.arrived(&[beat("a", 2)], &mut at);
        assert!(underway.is_quiet(&at));
        underway.arrived(&[beat("a", 3)], &mut at);
        assert!(!underway.is_quiet(&at), "the third was not heard");
    }
}
