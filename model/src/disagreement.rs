//! Kinds of probes of one link that stand against each other: some get through, others do not. Pure.

use serde::{Deserialize, Serialize};

use crate::state::ProbeKind;

/// A standing disagreement; it names the kinds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    /// Kinds that do not get through; at least one.
    pub failing: Vec<ProbeKind>,
    /// Kinds that do; at least one.
    pub working: Vec<ProbeKind>,
    /// What it looks like, in a sentence.
    pub why: String,
}

impl Disagreement {
    /// The disagreement, if there is any: where no kind gets through, all agree.
    pub fn of(failing: &[ProbeKind], working: &[ProbeKind]) -> Option<Disagreement> {
        if failing.is_empty() || working.is_empty() {
            return None;
        }
        let why = format!(
            "{} while {}: {}",
            list(failing, "fails", "fail"),
            list(working, "gets through", "get through"),
            guess(failing, working)
        );
        Some(Disagreement { failing: failing.to_vec(), working: working.to_vec(), why })
    }
}

fn list(kinds: &[ProbeKind], one: &str, several: &str) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    format!("{} {}", names.join(" and "), if kinds.len() == 1 { one } else { several })
}

/// The likeliest cause. STAMP is our own instrument and comes first; ICMP is what networks like to drop.
fn guess(failing: &[ProbeKind], working: &[ProbeKind]) -> &'static str {
    use ProbeKind as K;
    let fails = |kind| failing.contains(&kind);
    match () {
        () if fails(K::Stamp) && working == [K::Icmp] => {
            "the host is there; does its agent run, and do firewalls pass the mesh port and the database port?"
        }
        () if fails(K::Stamp) => "UDP is filtered between the agents, or the peer's agent does not run",
        () if fails(K::Tcp) => "no server takes connections on the peer's database port, or a firewall is in the way",
        () if fails(K::Sql) => {
            "the database port is open, but no login or no query succeeds there; the agent's log says why: role, password, \
             pg_hba.conf, certificate, or no connection left"
        }
        () if fails(K::SqlKept) => {
            "new logins work, connections that are kept do not: something on the way forgets or cuts idle connections"
        }
        () if fails(K::Http) => {
            "what http_probe names does not answer as it should; the agent's log says why: its certificate, its status, or nothing \
             listens there"
        }
        () => "ICMP is filtered or rate limited on the way, which hurts nobody: icmp = false ends the question",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProbeKind::{Http, Icmp, Sql, SqlKept, Stamp, Tcp};

    /// Both sides are named with the likeliest cause, and one side alone is no disagreement.
    #[test]
    fn names_the_kinds() {
        let table: [(&[ProbeKind], &[ProbeKind], &str); 8] = [
            (&[Stamp], &[Icmp, Tcp], "stamp fails while icmp and tcp get through: UDP is filtered"),
            (&[Stamp, Tcp], &[Icmp], "stamp and tcp fail while icmp gets through: the host is there"),
            (&[Tcp], &[Stamp, Icmp], "tcp fails while stamp and icmp get through: no server takes"),
            (&[Icmp], &[Stamp], "icmp fails while stamp gets through: ICMP is filtered"),
            (&[Tcp, Sql], &[Stamp], "tcp and sql fail while stamp gets through: no server takes"),
            (&[Sql, SqlKept], &[Tcp], "sql and sql-kept fail while tcp gets through: the database port is open"),
            (&[Http], &[Tcp], "http fails while tcp gets through: what http_probe names"),
            (&[SqlKept], &[Stamp, Sql], "sql-kept fails while stamp and sql get through: new logins work"),
        ];
        for (failing, working, begin) in table {
            let disagreement = Disagreement::of(failing, working).unwrap();
            assert!(disagreement.why.starts_with(begin), "{}", disagreement.why);
            assert_eq!((disagreement.failing.as_slice(), disagreement.working.as_slice()), (failing, working));
        }
        assert_eq!(Disagreement::of(&[Stamp, Tcp], &[]), None);
        assert_eq!(Disagreement::of(&[], &[Stamp]), None);
    }
}
