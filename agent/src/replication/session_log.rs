//! How much log the sessions of lagmesh have written on one node, while this agent beats there. Pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use lagmesh_postgres::discover::SessionLog;

/// A count that never falls, out of one per session. What a session wrote between the last look at it and its end is left out.
#[derive(Debug, Default)]
pub(super) struct SessionLogs {
    /// What each session had written at the newest look.
    newest: Option<BTreeMap<(i32, SystemTime), i64>>,
    total_bytes: Option<u64>,
}

impl SessionLogs {
    /// Takes in a look at all sessions. One that was not there at the look before has written all of its log since.
    pub(super) fn see(&mut self, sessions: &[SessionLog]) {
        let key = |session: &SessionLog| (session.pid, session.started);
        let newest = sessions.iter().map(|session| (key(session), session.written_bytes)).collect();
        let before = self.newest.replace(newest);
        let grown = before.map_or(0, |before| {
            let grown = |session| {
                let then = before.get(&key(session)).copied().unwrap_or(0);
                u64::try_from(session.written_bytes.saturating_sub(then)).unwrap_or(0)
            };
            sessions.iter().map(grown).fold(0, u64::saturating_add)
        });
        self.total_bytes = Some(self.total_bytes.unwrap_or(0).saturating_add(grown));
    }

    /// This agent does not beat here any more: what is written from now on is another's to count.
    pub(super) fn end(&mut self) {
        self.newest = None;
    }

    /// The log since the first look [bytes]; `None` if there was none.
    pub(super) fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn session(pid: i32, started_s: u64, written_bytes: i64) -> SessionLog {
        SessionLog { pid, started: UNIX_EPOCH + Duration::from_secs(started_s), written_bytes }
    }

    /// What was written before the first look, and while another agent beat, is not counted; sessions come and go, a process number comes
    /// again, statistics are reset, and the count never falls.
    #[test]
    fn growth_of_sessions() {
        let mut logs = SessionLogs::default();
        assert_eq!(logs.total_bytes(), None, "nobody looked, so it is not zero");
        let see = |logs: &mut SessionLogs, sessions: &[SessionLog]| {
            logs.see(sessions);
            logs.total_bytes().unwrap()
        };
        assert_eq!(see(&mut logs, &[session(1, 10, 5_000)]), 0);
        assert_eq!(see(&mut logs, &[session(1, 10, 5_300), session(2, 60, 70)]), 370);
        assert_eq!(see(&mut logs, &[session(1, 10, 5_400)]), 470, "one that ended takes nothing away");
        assert_eq!(see(&mut logs, &[session(1, 90, 40)]), 510, "the same number, another session");
        assert_eq!(see(&mut logs, &[session(1, 90, 0)]), 510, "statistics were reset");
        logs.end();
        assert_eq!(see(&mut logs, &[session(1, 90, 9_000)]), 510, "another agent's");
        assert_eq!(see(&mut logs, &[session(1, 90, 9_001)]), 511);
    }
}
