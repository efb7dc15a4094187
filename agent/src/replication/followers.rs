//! Those who receive a writer's log, by the writer's own word. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use lagmesh_model::ids::NodeName;
use lagmesh_model::known::Known;
use lagmesh_model::position::Lsn;
use lagmesh_model::status::{Follower, Followers, Sending};
use lagmesh_model::time::RawNanos;
use lagmesh_postgres::discover::{WalSender, WalSenderSample};

use super::track::age;

/// So many followers are told one by one.
const FOLLOWERS_MAX: usize = 64;
/// PostgreSQL's names have less than 64 octets; a server that says more is cut short.
const WORD_MAX: usize = 64;

/// The nodes of one cluster, by what a writer may know them by.
#[derive(Debug, Default)]
pub(super) struct Mates {
    /// Each with the slots that it says it uses, as far as our agent sees it.
    pub(super) slots: BTreeMap<NodeName, Vec<String>>,
}

/// The newest look at a writer's followers.
#[derive(Debug, Default)]
pub(super) struct FollowersTrack(Option<Look>);

#[derive(Debug)]
struct Look {
    inserted: Option<Lsn>,
    senders: Vec<WalSender>,
    more: u64,
    began: RawNanos,
}

impl FollowersTrack {
    /// Takes in a look that began at `began`.
    pub(super) fn see(&mut self, inserted: Option<Lsn>, senders: &[WalSender], began: RawNanos) {
        let more = senders.len().saturating_sub(FOLLOWERS_MAX) as u64;
        let senders = senders.iter().take(FOLLOWERS_MAX).cloned().collect();
        self.0 = Some(Look { inserted, senders, more, began });
    }

    /// What was seen says nothing any more.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// What `/v1/status` says of them.
    pub(super) fn status(&self, mates: &Mates, stale_after: Duration, now: RawNanos) -> Known<Followers> {
        let Some(look) = &self.0 else {
            return Known::unknown("only a node out of recovery is asked who follows it, and it has not been reached as such");
        };
        let age = age(now, look.began);
        let followers = look.senders.iter().map(|sender| look.follower(sender, mates)).collect();
        let value = Followers { followers, more: look.more, evidence_age_s: age.as_secs_f64() };
        if age <= stale_after { Known::known(value) } else { Known::Stale { value, age_s: age.as_secs_f64() } }
    }
}

impl Look {
    fn follower(&self, sender: &WalSender, mates: &Mates) -> Follower {
        let sending = match &sender.sample {
            Ok(sample) => Known::known(self.sending(sample)),
            Err(grant) => Known::unknown(grant.to_string()),
        };
        Follower { application_name: word(&sender.application_name), node: self.node(sender, mates), sending }
    }

    /// By its slot if one node alone says that it uses one of that name; else by its name, if no other follower has the same.
    fn node(&self, sender: &WalSender, mates: &Mates) -> Option<NodeName> {
        if let Some(slot) = &sender.slot {
            let mut users = mates.slots.iter().filter(|(_, slots)| slots.contains(slot)).map(|(node, _)| node);
            match (users.next(), users.next()) {
                (Some(node), None) => return Some(node.clone()),
                (Some(_), Some(_)) => return None,
                (None, _) => {}
            }
        }
        let alike = self.senders.iter().filter(|other| other.application_name == sender.application_name).count();
        let mut named = mates.slots.keys().filter(|node| node.as_str() == sender.application_name);
        named.next().filter(|_| alike == 1).cloned()
    }

    /// The writer's end of the log was read after the follower's positions: what seems ahead of it is of another log, and no distance.
    fn sending(&self, sample: &WalSenderSample) -> Sending {
        let behind = |lsn: Option<Lsn>| self.inserted?.0.checked_sub(lsn?.0);
        Sending {
            state: word(&sample.state),
            sync_state: sample.sync_state.as_deref().map(word),
            unsent_bytes: behind(sample.sent),
            unflushed_bytes: behind(sample.flushed),
            unreplayed_bytes: behind(sample.replayed),
            reply_age_s: sample.reply_age_ns.map(|ns| ns as f64 / 1e9),
        }
    }
}

fn word(text: &str) -> String {
    text.chars().take(WORD_MAX).collect()
}

#[cfg(test)]
mod tests {
    use lagmesh_postgres::discover::MissingGrant;

    use super::*;

    fn sender(name: &str, slot: Option<&str>, flushed: u64) -> WalSender {
        let sample = WalSenderSample {
            state: "streaming".to_owned(),
            client_address: None,
            sent: Some(Lsn(90)),
            flushed: Some(Lsn(flushed)),
            replayed: None,
            sync_state: Some("async".to_owned()),
            reply_age_ns: Some(-500_000_000),
        };
        WalSender { application_name: name.to_owned(), slot: slot.map(str::to_owned), sample: Ok(sample) }
    }

    fn told(senders: &[WalSender], mates: &[(&str, &[&str])]) -> Followers {
        let slots = |slots: &[&str]| slots.iter().map(|&slot| slot.to_owned()).collect();
        let mates = Mates { slots: mates.iter().map(|(node, of)| (node.parse().unwrap(), slots(of))).collect() };
        let mut track = FollowersTrack::default();
        track.see(Some(Lsn(100)), senders, RawNanos(1_000_000_000));
        track.status(&mates, Duration::from_secs(3), RawNanos(3_000_000_000)).current().cloned().unwrap()
    }

    /// A follower is a node of the fleet where its slot or its name says so and nothing says otherwise.
    #[test]
    fn nobody_guesses() {
        let mates: &[(&str, &[&str])] = &[("a", &["one"]), ("b", &["two"]), ("c", &["two"]), ("d", &[])];
        let table = [
            (vec![sender("walreceiver", Some("one"), 80)], Some("a")),
            (vec![sender("d", Some("one"), 80)], Some("a")),
            (vec![sender("b", Some("two"), 80)], None),
            (vec![sender("d", Some("other"), 80)], Some("d")),
            (vec![sender("d", None, 80)], Some("d")),
            (vec![sender("d", None, 80), sender("d", None, 70)], None),
            (vec![sender("walreceiver", None, 80)], None),
        ];
        for (senders, node) in table {
            let found = told(&senders, mates).followers[0].node.clone();
            assert_eq!(found.as_ref().map(NodeName::as_str), node, "{senders:?}");
        }
    }

    /// Distances are those of one look, what is hidden is unknown, what is gone from a look is gone, and the list is bounded.
    #[test]
    fn a_look_is_told_as_it_was() {
        let hidden = WalSender { sample: Err(MissingGrant { view: "pg_stat_replication" }), ..sender("h", None, 0) };
        let all = told(&[sender("a", None, 80), sender("ahead", None, 101), hidden], &[]);
        assert!((all.evidence_age_s - 2.0).abs() < 1e-9 && all.more == 0, "{all:?}");
        let of = |n: usize| all.followers[n].sending.current().cloned();
        let first = of(0).unwrap();
        assert_eq!((first.unsent_bytes, first.unflushed_bytes, first.unreplayed_bytes), (Some(10), Some(20), None));
        assert_eq!(first.reply_age_s, Some(-0.5));
        assert_eq!((of(1).unwrap().unflushed_bytes, of(2)), (None, None));
        let many: Vec<WalSender> = (0..70).map(|n| sender(&n.to_string(), None, 80)).collect();
        let many = told(&many, &[]);
        assert_eq!((many.followers.len(), many.more), (FOLLOWERS_MAX, 6));

        let mut track = FollowersTrack::default();
        track.see(Some(Lsn(100)), &[sender("a", None, 80)], RawNanos(1));
        track.see(Some(Lsn(100)), &[], RawNanos(2));
        let (stale, late) = (Duration::from_secs(3), RawNanos(9_000_000_000));
        let now = track.status(&Mates::default(), stale, RawNanos(3));
        assert_eq!(now.current().map(|told| told.followers.len()), Some(0));
        assert!(matches!(track.status(&Mates::default(), stale, late), Known::Stale { .. }));
        track.end();
        assert!(matches!(track.status(&Mates::default(), stale, late), Known::Unknown { .. }));
    }
}
