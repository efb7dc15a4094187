//! What leaves: series, and what is said of wall clocks and stamps.

use super::*;

/// Every series fits the catalogue; what is unknown has none, but the state always has; fates add up to the probes.
#[test]
fn series() {
    let coordinates = [
        ("name = \"oslo\"", "name = \"oslo\"\nlatitude = 59.91\nlongitude = 10.75"),
        ("name = \"tokyo\"", "name = \"tokyo\"\nlatitude = 35.68\nlongitude = 139.69"),
        ("tcp = false", "tcp = true\nflows = 4"),
    ];
    let mut world = World::of(&coordinates);
    let names = |series: &[Series]| {
        let mut names: Vec<&str> = series.iter().map(|series| series.metric.name).collect();
        names.dedup();
        names
    };
    let mut out = Vec::new();
    world.links.series(reading(0), &PeerView::default(), &mut out);
    assert_eq!(names(&out), ["lagmesh.link.state", "lagmesh.link.floor"]);
    world.flows(Some(true));
    world.run(12, Second { stamp: (3, 1), ..FINE });
    let agent: AgentName = "tokyo-a".parse().unwrap();
    let offset = Interval::new(-30_000_000, 0, 10_000_000).unwrap();
    let now = reading(world.ms);
    let clock = PeerClock { epoch: Epoch(2), own_epoch: Epoch(1), offset, at: now.raw };
    let view = PeerView { clocks: [(agent.clone(), clock)].into(), heard: [(agent, now.raw)].into(), ..PeerView::default() };
    out.clear();
    world.links.series(now, &view, &mut out);
    assert!(out.iter().all(|series| series.attributes.fit(series.metric)));
    for name in [
        "lagmesh.link.rtt",
        "lagmesh.link.probes",
        "lagmesh.link.state",
        "lagmesh.link.flows",
        "lagmesh.link.floor",
        "lagmesh.link.stretch",
        "lagmesh.clock.error",
    ] {
        assert!(out.iter().any(|series| series.metric.name == name), "{name}");
    }
    let stamp = |series: &&Series| series.attributes.get(Attribute::Kind) == Some("stamp");
    let probes: u64 =
        out.iter().filter(stamp).map(|series| if let Value::Counter(count) = series.value { count } else { 0 }).sum();
    assert_eq!(probes, 48);
    let error = out.iter().find(|series| series.metric.name == "lagmesh.clock.error").map(|series| series.value.clone());
    assert_eq!(error, Some(Value::Gauge(0.02)));
    let states: f64 = out
        .iter()
        .filter(|s| s.metric.name == "lagmesh.link.state")
        .map(|s| if let Value::Gauge(value) = s.value { value } else { 0.0 })
        .sum();
    assert!((states - 1.0).abs() < f64::EPSILON);
}

/// Where both hosts claim to be synchronised and cannot both be, the link says so with the numbers; a host that claims nothing is not
/// wrong, and what is old is neither shown as new nor judged.
#[test]
fn wall_clocks_that_contradict_their_claims() {
    let mut world = World::new();
    let agent: AgentName = "tokyo-a".parse().unwrap();
    let claim = |error_ns| Some(ClockClaim::Synchronized { error_ns, source: ClaimSource::Kernel });
    let wall = |epoch, difference_ns, claim| WallClock { epoch: Epoch(epoch), difference: Interval::exact(difference_ns), claim };
    let now = reading(world.ms);
    let view_of = |peer_claim, now: Reading| {
        let clock = PeerClock {
            epoch: Epoch(2),
            own_epoch: Epoch(1),
            offset: Interval::between(-5_000_000, 5_000_000).unwrap(),
            at: now.raw,
        };
        let heard = HeardWall {
            peer: wall(2, 2_000_000_000, peer_claim),
            own: wall(1, 0, claim(1_000_000)),
            at: now.raw,
            took: Duration::ZERO,
        };
        PeerView { clocks: [(agent.clone(), clock)].into(), walls: [(agent.clone(), heard)].into(), ..PeerView::default() }
    };
    let mut shown = |view: &PeerView, now: Reading| {
        let mut out = Vec::new();
        world.links.series(now, view, &mut out);
        assert!(out.iter().all(|series| series.attributes.fit(series.metric)));
        let of = |name: &str| -> Vec<Value> {
            out.iter().filter(|series| series.metric.name == name).map(|series| series.value.clone()).collect()
        };
        let link = world.links.status(now, view).into_iter().find(|link| link.peer.as_str() == "tokyo").unwrap();
        (of("lagmesh.clock.offset"), of("lagmesh.clock.claims_refuted"), link)
    };
    let gauges = |values: &[f64]| values.iter().map(|value| Value::Gauge(*value)).collect::<Vec<_>>();
    let (offset, refuted, link) = shown(&view_of(claim(1_000_000), now), now);
    assert_eq!((offset, refuted), (gauges(&[1.995, 2.0, 2.005]), gauges(&[1.0])));
    assert_eq!(link.wall_offset_s.current().map(|offset| offset.estimate_s), Some(2.0));
    assert!(link.clock_contradiction.unwrap().contains("1995.000 ms to 2005.000 ms"));
    let (offset, refuted, link) = shown(&view_of(claim(3_000_000_000), now), now);
    assert_eq!((offset.len(), refuted, link.clock_contradiction), (3, gauges(&[0.0]), None));
    let (offset, refuted, link) = shown(&view_of(Some(ClockClaim::Free), now), now);
    assert_eq!((offset.len(), refuted, link.clock_contradiction), (3, vec![], None));
    let later = now.after(RECENT + Duration::from_secs(1));
    let (offset, refuted, link) = shown(&view_of(claim(1_000_000), now), later);
    assert_eq!((offset, refuted, link.clock_contradiction), (vec![], vec![], None));
    assert!(matches!(link.wall_offset_s, Known::Stale { .. }));
    assert!(!shown(&PeerView::default(), now).2.wall_offset_s.is_known());
}

/// Round trips are counted by what stamped them: since the start in the series, of the last minute in the status.
#[test]
fn what_stamped_round_trips() {
    let mut world = World::new();
    let mut out = Vec::new();
    world.run(4, Second { stamp: (3, 1), ..FINE });
    world.stamps = StampSource::Kernel;
    world.run(61, Second { stamp: (2, 2), ..FINE });
    world.links.series(reading(world.ms), &PeerView::default(), &mut out);
    let stamps = out.iter().filter(|series| series.metric.name == "lagmesh.link.stamps");
    let stamps: Vec<_> = stamps.map(|series| (series.attributes.get(Attribute::Stamps).unwrap(), series.value.clone())).collect();
    assert_eq!(stamps, [("user", Value::Counter(12)), ("kernel", Value::Counter(122))]);
    let link = world.link();
    let kinds: Vec<_> = link.kinds.iter().map(|kind| (kind.kind, kind.stamps.keys().copied().collect::<Vec<_>>())).collect();
    assert_eq!(kinds[0], (ProbeKind::Stamp, vec![StampSource::Kernel]));
    assert!(kinds[1..].iter().all(|(_, stamps)| stamps.is_empty()), "{kinds:?}");
}
