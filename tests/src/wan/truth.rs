//! Which reply belongs to which request, and how long the two truly travelled. Pure.

use std::collections::HashMap;

use serde::Serialize;

use super::log::{Fate, HostId, Record};
use super::packet::UDP;
use crate::real::Real;

/// Which probes are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Probes {
    /// The host that sends requests.
    pub from: HostId,
    /// The host that replies.
    pub to: HostId,
    /// The port on which it listens and from which it replies.
    pub mesh_port: u16,
    /// Requests that left at this moment or later.
    pub since: Real,
    /// Requests that left before.
    pub until: Real,
}

/// One probe that came back, as the network saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RttTruth {
    /// When the request left its host.
    pub left: Real,
    /// The round trip without the time inside the responder's host [ns].
    pub rtt_ns: i64,
    /// How long the request travelled [ns].
    pub forward_ns: i64,
    /// How long the reply travelled [ns].
    pub back_ns: i64,
    /// How much longer the two may have travelled at most [ns]: how long handing them over took.
    pub within_ns: i64,
    /// The sender's port: its flow.
    pub source_port: u16,
    /// The request's sequence number.
    pub sequence: u32,
}

/// Requests by port, kind of address and number, and whether they were answered.
type Requests = HashMap<(u16, bool, u32), Vec<(Record, bool)>>;

/// Matches replies to requests by flow and sequence number. A reply belongs to the newest request of its number that had arrived when
/// the reply left; only the first reply to a request counts, as the prober sees it.
pub fn round_trips(records: &[Record], probes: &Probes) -> Vec<RttTruth> {
    let window = probes.since..probes.until;
    let mut requests = Requests::new();
    for record in records.iter().filter(|record| is_request(record, probes) && window.contains(&record.left)) {
        requests.entry((record.source_port, record.v6, record.words[0])).or_default().push((*record, false));
    }
    for of_number in requests.values_mut() {
        of_number.sort_unstable_by_key(|(request, _)| request.delivered);
    }
    let mut replies: Vec<&Record> = records.iter().filter(|record| is_reply(record, probes)).collect();
    replies.sort_unstable_by_key(|reply| reply.delivered);
    let mut found: Vec<RttTruth> = replies.into_iter().filter_map(|reply| match_reply(reply, &mut requests)).collect();
    found.sort_unstable_by_key(|truth| truth.left);
    found
}

fn is_request(record: &Record, probes: &Probes) -> bool {
    (record.from, record.to, record.destination_port) == (probes.from, probes.to, probes.mesh_port) && is_delivered_udp(record)
}

fn is_reply(record: &Record, probes: &Probes) -> bool {
    (record.from, record.to, record.source_port) == (probes.to, probes.from, probes.mesh_port) && is_delivered_udp(record)
}

fn is_delivered_udp(record: &Record) -> bool {
    record.protocol == UDP && record.fate == Fate::Delivered
}

fn match_reply(reply: &Record, requests: &mut Requests) -> Option<RttTruth> {
    // An authenticated reply has its error estimate and session where an unauthenticated one has the number, and the other way round
    // extensions or nothing; the number that names a request is the right one.
    let [_, unauthenticated, authenticated] = reply.words;
    [authenticated, unauthenticated].into_iter().find_map(|sequence| {
        let of_number = requests.get_mut(&(reply.destination_port, reply.v6, sequence))?;
        let (request, answered) = of_number.iter_mut().rfind(|(request, _)| request.delivered <= Some(reply.left))?;
        if std::mem::replace(answered, true) {
            return None;
        }
        let (forward_ns, back_ns) = (request.travelled_ns()?, reply.travelled_ns()?);
        Some(RttTruth {
            left: request.left,
            rtt_ns: forward_ns + back_ns,
            forward_ns,
            back_ns,
            within_ns: i64::from(request.within_ns) + i64::from(reply.within_ns),
            source_port: request.source_port,
            sequence,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::log::tests::record;
    use super::*;

    fn request(sequence: u32, left: i64, delivered: i64) -> Record {
        Record { words: [sequence, 0, 0], ..record(left, delivered) }
    }

    fn reply(words: [u32; 3], left: i64, delivered: i64) -> Record {
        let (from, to) = (HostId(1), HostId(0));
        Record { from, to, source_port: 862, destination_port: 5000, words, ..record(left, delivered) }
    }

    fn trips(records: &[Record]) -> Vec<(u32, i64, i64)> {
        let probes = Probes { from: HostId(0), to: HostId(1), mesh_port: 862, since: Real(0), until: Real(1000) };
        round_trips(records, &probes).iter().map(|truth| (truth.sequence, truth.forward_ns, truth.back_ns)).collect()
    }

    /// Replies find their requests by number, in both modes and out of order; the responder's own time does not count.
    #[test]
    fn matched() {
        let records = [request(1, 10, 40), request(2, 20, 50), reply([9, 0x3F01, 2], 70, 120), reply([8, 1, 0x55], 60, 130)];
        assert_eq!(trips(&records), [(1, 30, 70), (2, 30, 50)]);
    }

    /// A second reply to one request, a reply before its request and a lost reply count as none.
    #[test]
    fn not_matched() {
        let lost = Record { fate: Fate::Lost, delivered: None, ..reply([3, 3, 0], 70, 0) };
        let records = [
            request(1, 10, 40),
            reply([1, 1, 0], 60, 90),
            reply([1, 1, 0], 61, 95),
            request(2, 10, 80),
            reply([2, 2, 0], 60, 90),
            lost,
        ];
        assert_eq!(trips(&records), [(1, 30, 30)]);
    }

    /// A sequence number that comes again after a restart belongs to the newer request; other ports are other programs.
    #[test]
    fn numbers_come_again() {
        let other = Record { source_port: 863, ..reply([1, 1, 0], 520, 530) };
        let records = [request(1, 10, 40), request(1, 500, 510), other, reply([1, 1, 0], 520, 540)];
        assert_eq!(trips(&records), [(1, 10, 20)]);
    }
}
