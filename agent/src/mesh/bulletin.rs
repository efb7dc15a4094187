//! What to tell the agents of one peer region: news first, then everything again in rotation, for packets get lost. Pure.

use lagmesh_model::beat::Announcement;
use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::{NodeHash, NodeName, RegionName, SlotHash};
use lagmesh_model::interval::Interval;
use lagmesh_model::time::Reading;

use crate::measurement::{Confirmation, Outbox};
use crate::mesh::tlv::Record;
use crate::slot::SlotReach;

/// What is to be told to one peer region.
#[derive(Debug, Default)]
pub struct Bulletin {
    items: Vec<Item>,
    told: u64,
}

#[derive(Debug)]
struct Item {
    notice: Notice,
    /// The turn in which it was last told; `None` if it is news.
    told: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Notice {
    Announcement(Announcement),
    Confirmation(Confirmation),
    LostSlot(NodeName, SlotHash),
    Reach((NodeName, SlotHash), SlotReach),
}

impl Bulletin {
    /// Takes over what there is to tell: every announcement, those confirmations whose beats were written in `peer`, every
    /// lost slot, how far every logical slot is confirmed.
    pub fn update(&mut self, fleet: &Fleet, peer: &RegionName, outbox: &Outbox) {
        let concerns =
            |confirmation: &&Confirmation| fleet.node(&confirmation.id.origin).is_some_and(|(_, node)| node.region == *peer);
        let announcements = outbox.announcements.values().cloned().map(Notice::Announcement);
        let confirmations = outbox.confirmations.values().filter(concerns).cloned().map(Notice::Confirmation);
        let lost_slots = outbox.lost_slots.iter().map(|(node, slot)| Notice::LostSlot(node.clone(), *slot));
        let reaches = outbox.reaches.iter().map(|(slot, reach)| Notice::Reach(slot.clone(), *reach));
        let old = std::mem::take(&mut self.items);
        let item = |notice: Notice| {
            let told = old.iter().find(|item| notice.keeps_the_turn_of(&item.notice)).and_then(|item| item.told);
            Item { notice, told }
        };
        self.items = announcements.chain(confirmations).chain(lost_slots).chain(reaches).map(item).collect();
    }

    /// The records for a packet that has room for so many, and is sent at `now` over a flow with the given previous round-trip time.
    pub fn next(&mut self, room: usize, now: Reading, previous_rtt_ns: Option<u64>) -> Vec<Record> {
        let mut records = Vec::new();
        for _ in 0..room.min(self.items.len()) {
            self.told += 1;
            let turn = self.told;
            if let Some(item) = self.items.iter_mut().min_by_key(|item| item.told) {
                item.told = Some(turn);
                records.extend(item.notice.record(now, previous_rtt_ns));
            }
        }
        records
    }
}

impl Notice {
    /// Slots are looked at all the time: if each look were news, many slots would leave no room for anything else.
    fn keeps_the_turn_of(&self, old: &Notice) -> bool {
        match (self, old) {
            (Notice::Reach(slot, _), Notice::Reach(same, _)) => slot == same,
            _ => self == old,
        }
    }

    fn record(&self, now: Reading, previous_rtt_ns: Option<u64>) -> Option<Record> {
        match self {
            Notice::Announcement(Announcement { id, times, position }) => Some(Record::Announcement {
                origin: NodeHash::of(&id.origin),
                incarnation: id.incarnation,
                sequence: id.sequence,
                times: *times,
                position: *position,
            }),
            Notice::Confirmation(confirmation) => {
                // Across two epochs of our clock nobody knows how long it was held: such a confirmation cannot be told.
                if confirmation.epoch != now.epoch {
                    return None;
                }
                let (least, most) = (now.raw.checked_since(confirmation.present)?, now.raw.checked_since(confirmation.absent)?);
                let ns = |span: std::time::Duration| i64::try_from(span.as_nanos()).ok();
                Some(Record::Seen {
                    origin: NodeHash::of(&confirmation.id.origin),
                    node: NodeHash::of(&confirmation.node),
                    incarnation: confirmation.id.incarnation,
                    sequence: confirmation.id.sequence,
                    held: Interval::between(ns(least)?, ns(most)?)?,
                    previous_rtt_ns,
                })
            }
            Notice::LostSlot(node, slot) => Some(Record::LostSlot { node: NodeHash::of(node), slot: *slot }),
            Notice::Reach((node, slot), reach) => Some(Record::Reach { node: NodeHash::of(node), slot: *slot, reach: *reach }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lagmesh_model::beat::Sequence;
    use lagmesh_model::time::{Epoch, RawNanos, WallNanos};

    use super::*;
    use crate::mesh::testing::{announcement, confirmation, fleet, reach};
    use crate::mesh::tlv::RECORDS_PER_PACKET;

    fn at(raw_ns: u64) -> Reading {
        Reading { epoch: Epoch(1), raw: RawNanos(raw_ns), wall: WallNanos(0) }
    }

    fn sequences(records: &[Record]) -> Vec<u64> {
        let sequence = |record: &Record| match record {
            Record::Announcement { sequence, .. } | Record::Seen { sequence, .. } => sequence.0,
            Record::Wall(_) | Record::LostSlot { .. } | Record::Reach { .. } => panic!("no beat: {record:?}"),
        };
        records.iter().map(sequence).collect()
    }

    fn outbox(announcements: &[(&str, u64)], confirmations: &[(&str, &str, u64)]) -> Outbox {
        let mut outbox = Outbox::default();
        for (origin, sequence) in announcements {
            let announcement = announcement(origin, *sequence);
            outbox.announcements.insert(announcement.id.origin.clone(), announcement);
        }
        for (origin, node, sequence) in confirmations {
            let confirmation = confirmation(origin, node, *sequence, RawNanos(100), RawNanos(200));
            outbox.confirmations.insert((confirmation.id.origin.clone(), confirmation.node.clone()), confirmation);
        }
        outbox
    }

    /// News come first, everything else in turn; a peer hears only confirmations of its own beats.
    #[test]
    fn rotation() {
        let (fleet, tokyo) = (fleet(&[]), "tokyo".parse().unwrap());
        let mut bulletin = Bulletin::default();
        assert_eq!(bulletin.next(RECORDS_PER_PACKET, at(300), None), []);
        let told = outbox(&[("oslo-1", 1), ("oslo-2", 2)], &[("tokyo-1", "oslo-1", 3), ("oslo-1", "oslo-2", 4)]);
        bulletin.update(&fleet, &tokyo, &told);
        assert_eq!(sequences(&bulletin.next(RECORDS_PER_PACKET, at(300), None)), [1, 2]);
        assert_eq!(sequences(&bulletin.next(RECORDS_PER_PACKET, at(300), None)), [3, 1]);
        let told = outbox(&[("oslo-1", 1), ("oslo-2", 9)], &[("tokyo-1", "oslo-1", 3)]);
        bulletin.update(&fleet, &tokyo, &told);
        assert_eq!(sequences(&bulletin.next(RECORDS_PER_PACKET, at(300), None)), [9, 3]);
    }

    /// A lost slot is told to every peer, again and again, until it is no longer there.
    #[test]
    fn lost_slots_are_told_until_they_are_gone() {
        let (fleet, tokyo) = (fleet(&[]), "tokyo".parse().unwrap());
        let mut bulletin = Bulletin::default();
        let (node, slot): (NodeName, _) = ("oslo-1".parse().unwrap(), SlotHash::of("tokyo_1"));
        let told = Outbox { lost_slots: [(node.clone(), slot)].into(), ..outbox(&[("oslo-1", 1)], &[]) };
        bulletin.update(&fleet, &tokyo, &told);
        let lost = Record::LostSlot { node: NodeHash::of(&node), slot };
        for _ in 0..3 {
            assert!(bulletin.next(RECORDS_PER_PACKET, at(300), None).contains(&lost));
        }
        bulletin.update(&fleet, &tokyo, &outbox(&[("oslo-1", 1)], &[]));
        assert!(!bulletin.next(RECORDS_PER_PACKET, at(300), None).contains(&lost));
    }

    /// However often many slots move on, beats are told as soon as they are there, and every slot is told in its turn as it is by then.
    #[test]
    fn slots_leave_room_for_beats() {
        let (fleet, tokyo) = (fleet(&[]), "tokyo".parse().unwrap());
        let (mut bulletin, mut turns) = (Bulletin::default(), BTreeMap::new());
        for look in 1..=200_u64 {
            let mut told = outbox(&[("oslo-1", look)], &[("tokyo-1", "oslo-1", look)]);
            told.reaches = (0..SLOTS).map(|slot| (("oslo-1".parse().unwrap(), SlotHash(slot)), reach(look))).collect();
            bulletin.update(&fleet, &tokyo, &told);
            let records: Vec<_> = (0..2).flat_map(|_| bulletin.next(RECORDS_PER_PACKET, at(300), None)).collect();
            let (beats, slots): (Vec<_>, Vec<_>) =
                records.into_iter().partition(|record| !matches!(record, Record::Reach { .. }));
            assert_eq!(sequences(&beats), [look, look]);
            for record in slots {
                let Record::Reach { slot, reach: told, .. } = record else { panic!() };
                assert_eq!(told, reach(look));
                *turns.entry(slot).or_insert(0) += 1;
            }
        }
        assert!(turns.len() as u64 == SLOTS && turns.values().all(|turns| (39..=41).contains(turns)), "{turns:?}");
    }

    const SLOTS: u64 = 10;

    /// The time for which a beat was held counts to the moment of sending, never from the future or from another epoch of the clock.
    #[test]
    fn held() {
        let (fleet, tokyo) = (fleet(&[]), "tokyo".parse().unwrap());
        let mut bulletin = Bulletin::default();
        bulletin.update(&fleet, &tokyo, &outbox(&[], &[("tokyo-1", "oslo-1", 3)]));
        let Record::Seen { held, sequence, previous_rtt_ns, .. } = &bulletin.next(RECORDS_PER_PACKET, at(1_000), Some(5))[0]
        else {
            panic!()
        };
        assert_eq!((held.lower_ns(), held.upper_ns(), *sequence, *previous_rtt_ns), (800, 900, Sequence(3), Some(5)));
        assert_eq!(bulletin.next(RECORDS_PER_PACKET, at(150), None), []);
        assert_eq!(bulletin.next(RECORDS_PER_PACKET, Reading { epoch: Epoch(2), ..at(1_000) }, None), []);
    }
}
