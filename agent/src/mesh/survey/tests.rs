use std::net::Ipv4Addr;

use lagmesh_model::time::{Epoch, WallNanos};

use super::*;
use crate::mesh::reflector::REQUEST_MAX;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));

fn now(ms: u64) -> Reading {
    let ns = 1_000_000_000_000 + ms * 1_000_000;
    Reading { epoch: Epoch(1), raw: RawNanos(ns), wall: WallNanos(ns) }
}

fn errands(survey: &mut Survey, alive: Option<usize>, ms: u64) -> Vec<Errand> {
    let mut errands = Vec::new();
    survey.on_tick(alive, now(ms).raw, &mut errands);
    errands
}

fn answer(errand: &Errand, count: u32) -> Reply {
    let (stamp, error) = (Timestamp(0), ErrorEstimate::UNKNOWN);
    Reply {
        sequence: count,
        timestamp: stamp,
        error,
        session: errand.session,
        received: stamp,
        sender_sequence: errand.sequence,
        sender_timestamp: stamp,
        sender_error: error,
        sender_hops: 0,
    }
}

/// Every length between the base packet and the longest can be made, with and without a key, and reflectors answer no less than that.
#[test]
fn every_length_can_be_written() {
    let keys = MeshKeys::of(&[b"0123456789abcdef0123456789abcdef"]).unwrap();
    for (keys, base) in [(None, 44), (Some(&keys), 112)] {
        let mut packet = [0xAA; SURVEY_MAX];
        for length in (base + 28)..=1500 {
            let errand = Errand { flow: 0, hop_limit: None, session: SESSION_MTU, sequence: 7, length: Some(length) };
            assert_eq!(errand.write(headers_length(PEER), now(0), keys, &mut packet), usize::from(length) - 28);
        }
        let errand = Errand { flow: 0, hop_limit: Some(3), session: SESSION_ROUTE, sequence: 3, length: None };
        assert_eq!(errand.write(headers_length(PEER), now(0), keys, &mut packet), usize::from(base));
        let mode = if keys.is_some() { Mode::Authenticated } else { Mode::Unauthenticated };
        let request = Request::decode(mode, &packet).unwrap();
        assert_eq!((request.session, request.sequence), (SESSION_ROUTE, 3));
    }
    const { assert!(REQUEST_MAX >= SURVEY_MAX - 28, "the longest is no longer than what reflectors take") };
}

/// A dead flow's route is asked for at its own port; the longest packet is searched for on a flow that answers, and on none if none does.
#[test]
fn each_flow_for_its_purpose() {
    let mut survey = Survey::new(now(0).raw, Duration::from_secs(1));
    survey.wish_route(5, RouteCause::Dead, now(0).raw);
    let first = errands(&mut survey, None, 0);
    assert_eq!((first.len(), first[0].flow, first[0].hop_limit), (1, 5, Some(1)));
    survey.on_expired(5, PEER, now(10).raw);
    let second = errands(&mut survey, None, 10);
    assert_eq!(second[0].hop_limit, Some(2));
    survey.on_answer(5, PEER, &answer(&second[0], 0), now(20).raw);
    let route = survey.route().unwrap();
    assert_eq!((route.hops.len(), route.reached), (2, true));

    assert!(errands(&mut survey, None, 70_000).is_empty(), "nothing answers");
    let tried = errands(&mut survey, Some(2), 140_000);
    assert_eq!(
        tried.iter().map(|errand| (errand.flow, errand.length)).collect::<Vec<_>>(),
        [(2, None), (2, Some(1500)), (2, None)]
    );
    survey.on_answer(3, PEER, &answer(&tried[1], 1), now(140_050).raw);
    assert_eq!(survey.mtu(), None, "an answer to another flow");
    survey.on_answer(2, PEER, &answer(&tried[1], 1), now(140_050).raw);
    assert_eq!(survey.mtu().map(|mtu| mtu.length), Some(1500));
}

/// A refusal comes from the peer's host: the route has reached it. What cannot leave ends what it was for.
#[test]
fn refusals_and_failures() {
    let mut survey = Survey::new(now(0).raw, Duration::from_secs(1));
    survey.wish_route(0, RouteCause::Changed, now(0).raw);
    assert_eq!(errands(&mut survey, None, 0).len(), 1);
    survey.on_refused(0, PEER, now(1).raw);
    assert!(survey.route().is_some_and(|route| route.reached && route.hops.len() == 1));
    let tried = errands(&mut survey, Some(0), 100);
    assert_eq!(tried.len(), 3, "a changed path is searched at once");
    survey.on_not_sent(&tried[1], true, now(100).raw);
    let next = errands(&mut survey, Some(0), 100);
    assert!(next[1].length.unwrap() < 1500);
    survey.on_not_sent(&next[0], false, now(100).raw);
    assert!(errands(&mut survey, Some(0), 200).is_empty(), "abandoned for now");
}
