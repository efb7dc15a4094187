use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> RawNanos {
    RawNanos(1_000_000 * MS + ms * MS)
}

fn router(hop: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, hop).into()
}

/// Plays a path: what a probe with this hop limit meets, and after how long [ms].
fn play(tracer: &mut Tracer, from_ms: u64, meets: impl Fn(u8) -> Option<(bool, u64)>) -> (Route, u64) {
    let mut now_ms = from_ms;
    for _ in 0..100 {
        while let Some((flow, limit)) = tracer.on_tick(at(now_ms)) {
            match meets(limit) {
                Some((true, took_ms)) => {
                    now_ms += took_ms;
                    tracer.on_reached(flow, router(200), limit, at(now_ms));
                }
                Some((false, took_ms)) => {
                    now_ms += took_ms;
                    tracer.on_expired(flow, router(limit), at(now_ms));
                }
                None => now_ms = now_ms.max((tracer.next_due().unwrap().0 - at(0).0) / MS) + 1,
            }
        }
        if let Some(route) = tracer.found() {
            return (route, now_ms);
        }
        now_ms += 1;
    }
    panic!("no end: {tracer:?}");
}

/// A route of four routers, one of which says nothing, ends at the peer; each hop has its place and its time.
#[test]
fn finds_a_route() {
    let mut tracer = Tracer::default();
    assert_eq!((tracer.on_tick(at(0)), tracer.next_due()), (None, None), "nothing is asked for");
    tracer.wish(3, RouteCause::Dead);
    let (route, _) = play(&mut tracer, 0, |limit| match limit {
        3 => None,
        5 => Some((true, 50)),
        limit => Some((false, u64::from(limit) * 10)),
    });
    assert_eq!((route.flow, route.cause, route.reached, route.at), (3, RouteCause::Dead, true, at(0)));
    let from: Vec<_> = route.hops.iter().map(|hop| hop.from).collect();
    assert_eq!(from, [Some(router(1)), Some(router(2)), None, Some(router(4)), Some(router(200))]);
    assert_eq!(
        route.hops.iter().map(|hop| hop.rtt_ns.map(|ns| ns / MS)).collect::<Vec<_>>(),
        [Some(10), Some(20), None, Some(40), Some(50)]
    );
}

/// Where a path breaks the route ends with the last router that spoke, and not all hop limits are tried.
#[test]
fn ends_where_the_path_breaks() {
    let mut tracer = Tracer::default();
    tracer.wish(0, RouteCause::Dead);
    let (route, took_ms) = play(&mut tracer, 0, |limit| (limit <= 2).then_some((false, 5)));
    assert_eq!((route.hops.len(), route.reached), (2, false));
    assert!(took_ms < 7_000, "{took_ms} ms for six hops without an answer");
}

/// A peer is traced once a minute however often it is wished for; the newest wish waits for its turn, and an answer to another flow
/// or to nothing changes nothing.
#[test]
fn is_rate_limited() {
    let mut tracer = Tracer::default();
    tracer.wish(1, RouteCause::Dead);
    let (first, ended_ms) = play(&mut tracer, 0, |_| Some((true, 1)));
    assert_eq!(first.flow, 1);
    tracer.on_expired(1, router(9), at(ended_ms));
    for flow in 2..9 {
        tracer.wish(flow, RouteCause::Changed);
        assert_eq!(tracer.on_tick(at(59_999)), None);
    }
    assert_eq!(tracer.on_tick(at(60_000)), Some((8, 1)));
    tracer.on_expired(7, router(9), at(60_001));
    tracer.on_reached(7, router(9), 1, at(60_001));
    assert!(tracer.found().is_none());
    tracer.on_reached(8, router(200), 1, at(60_002));
    assert_eq!(tracer.found().map(|route| (route.flow, route.hops.len())), Some((8, 1)));
}

/// A probe that cannot leave ends the route with what is known.
#[test]
fn ends_when_nothing_can_be_sent() {
    let mut tracer = Tracer::default();
    tracer.wish(0, RouteCause::Dead);
    assert_eq!(tracer.on_tick(at(0)), Some((0, 1)));
    tracer.on_expired(0, router(1), at(1));
    assert_eq!(tracer.on_tick(at(1)), Some((0, 2)));
    tracer.on_not_sent();
    let route = tracer.found().unwrap();
    assert_eq!((route.hops.len(), route.reached), (1, false));
}

/// A slow peer's answer to an earlier probe puts it where that probe's limit says.
#[test]
fn late_peer_has_its_place() {
    let mut tracer = Tracer::default();
    tracer.wish(0, RouteCause::Changed);
    assert_eq!(tracer.on_tick(at(0)), Some((0, 1)));
    assert_eq!(tracer.on_tick(at(1_001)), Some((0, 2)));
    assert_eq!(tracer.on_tick(at(2_002)), Some((0, 3)));
    tracer.on_reached(0, router(200), 2, at(2_100));
    let route = tracer.found().unwrap();
    assert_eq!((route.hops.len(), route.hops[1].from, route.reached), (2, Some(router(200)), true));
}

proptest! {
    /// Whatever comes back, and when, a route ends, has at most 30 hops and at most one probe is out.
    #[test]
    fn always_ends(events in prop::collection::vec((0_u8..5, 0_usize..3, 0_u8..40, 0_u64..1_500), 0..300)) {
        let (mut tracer, mut now_ms, mut ended) = (Tracer::default(), 0, 0);
        tracer.wish(0, RouteCause::Dead);
        for (event, flow, limit, wait_ms) in events {
            now_ms += wait_ms;
            match event {
                0 => tracer.on_expired(flow, router(limit), at(now_ms)),
                1 => tracer.on_reached(flow, router(limit), limit, at(now_ms)),
                2 => tracer.on_not_sent(),
                3 => tracer.wish(flow, RouteCause::Changed),
                _ => {
                    if let Some((_, limit)) = tracer.on_tick(at(now_ms)) {
                        prop_assert!((1..=HOPS_MAX).contains(&limit));
                        prop_assert!(tracer.on_tick(at(now_ms)).is_none(), "one at a time");
                    }
                }
            }
            if let Some(route) = tracer.found() {
                prop_assert!(route.hops.len() <= usize::from(HOPS_MAX));
                ended += 1;
            }
        }
        prop_assert!(ended <= 1 + now_ms / 60_000, "{} routes in {} ms", ended, now_ms);
    }
}
