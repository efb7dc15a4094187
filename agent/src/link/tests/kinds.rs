//! Kinds of probes against each other, and what one of them may lack.

use lagmesh_model::state::Phase;

use super::*;

/// Where UDP is dropped and TCP passes, the kinds are named after half a minute, and no longer soon after UDP passes again.
#[test]
fn kinds_disagree() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(30, FINE);
    assert_eq!(world.link().disagreement, None);
    world.flows(Some(false));
    let udp_dropped = Second { stamp: (0, 4), ..FINE };
    world.run(20, udp_dropped);
    assert_eq!(world.link().disagreement, None);
    world.run(1, udp_dropped);
    let disagreement = world.link().disagreement.unwrap();
    assert_eq!((disagreement.failing, disagreement.working), (vec![ProbeKind::Stamp], vec![ProbeKind::Tcp]));
    let gauge = |world: &mut World, kind: &str| {
        let mut out = Vec::new();
        world.links.series(reading(world.ms), &PeerView::default(), &mut out);
        let found = out.into_iter().find(|series| {
            series.metric.name == "lagmesh.link.disagreement" && series.attributes.get(Attribute::Kind) == Some(kind)
        });
        found.map(|series| series.value)
    };
    assert_eq!(gauge(&mut world, "stamp"), Some(Value::Gauge(1.0)));
    assert_eq!(gauge(&mut world, "tcp"), Some(Value::Gauge(0.0)));
    world.flows(Some(true));
    world.run(1, FINE);
    assert_eq!(world.link().disagreement, None);
    // What nothing gets through is a cut and no disagreement.
    world.run(60, CUT);
    assert_eq!((world.link().disagreement, gauge(&mut world, "stamp")), (None, None));
}

/// The fate of one attempt on one of the slower kinds, after so many seconds.
fn slow(world: &mut World, kind: ProbeKind, outcome: Outcome, phases: &[(Phase, u64)]) {
    let answered = matches!(outcome, Outcome::InTime | Outcome::Late);
    world.links.record_probe(&Probe {
        peer: "tokyo".parse().unwrap(),
        agent: None,
        kind,
        outcome,
        rtt_ns: answered.then_some(phases.iter().map(|(_, took_ns)| took_ns).sum()),
        phases: phases.to_vec(),
        stamps: None,
        path: None,
        at: Reading { epoch: world.epoch, ..reading(world.ms) },
    });
}

fn with_sql() -> World {
    let probed = "name = \"tokyo\"\n        sql_probe = \"host=db user=probe\"";
    World::of(&[("tcp = false", "tcp = true\nflows = 4"), ("name = \"tokyo\"", probed)])
}

/// Parts of attempts are counted by kind, those of failed attempts as far as they went, and shown until nothing new has come for
/// three intervals.
#[test]
fn phases_are_kept() {
    let mut world = with_sql();
    world.flows(Some(true));
    world.run(1, FINE);
    let whole = [(Phase::Connect, 20_000_000), (Phase::Auth, 60_000_000), (Phase::Query, 20_000_000)];
    slow(&mut world, ProbeKind::Sql, Outcome::InTime, &whole);
    slow(&mut world, ProbeKind::Sql, Outcome::Corrupt, &whole[..1]);
    slow(&mut world, ProbeKind::SqlKept, Outcome::InTime, &whole[2..]);
    let counts = |world: &mut World, kind: ProbeKind| {
        let link = world.link();
        let found = link.kinds.iter().find(|one| one.kind == kind).unwrap();
        found.phases.iter().map(|(phase, quantiles)| (*phase, quantiles.samples)).collect::<Vec<_>>()
    };
    let all = [(Phase::Connect, 2), (Phase::Auth, 1), (Phase::Query, 1)];
    assert_eq!(counts(&mut world, ProbeKind::Sql), all);
    assert_eq!(counts(&mut world, ProbeKind::SqlKept), [(Phase::Query, 1)]);
    assert_eq!(counts(&mut world, ProbeKind::Tcp), []);
    let mut out = Vec::new();
    world.links.series(reading(world.ms), &PeerView::default(), &mut out);
    let exported = out.iter().filter(|series| series.metric.name == "lagmesh.link.phase").map(|series| {
        let Value::Histogram(took) = &series.value else { panic!("{series:?}") };
        assert!(series.attributes.fit(series.metric));
        (series.attributes.get(Attribute::Kind).unwrap(), series.attributes.get(Attribute::Phase).unwrap(), took.count())
    });
    let exported: Vec<_> = exported.collect();
    assert_eq!(exported, [("sql", "connect", 2), ("sql", "auth", 1), ("sql", "query", 1), ("sql-kept", "query", 1)]);
    world.run(170, FINE);
    assert_eq!(counts(&mut world, ProbeKind::Sql), all);
    assert_eq!(counts(&mut world, ProbeKind::SqlKept), []);
    world.run(20, FINE);
    assert_eq!(counts(&mut world, ProbeKind::Sql), []);
}

/// An outage is news at once, although a slow kind was answered just before it; what it hears after the flows fell silent shows that
/// the peer is there, unless it is asked too rarely to tell.
#[test]
fn slow_kinds_as_witnesses() {
    for (kind, expected) in [(ProbeKind::SqlKept, LinkState::Unknown), (ProbeKind::Sql, LinkState::Down)] {
        let mut world = with_sql();
        world.flows(Some(true));
        world.run(30, FINE);
        world.ms -= 500;
        slow(&mut world, kind, Outcome::InTime, &[(Phase::Query, 20_000_000)]);
        world.ms += 500;
        world.flows(Some(false));
        world.run(5, CUT);
        assert_eq!(world.state(), LinkState::Down, "{kind}");
        slow(&mut world, kind, Outcome::InTime, &[(Phase::Query, 20_000_000)]);
        assert_eq!(world.state(), expected, "{kind}");
        world.run(30, CUT);
        assert_eq!(world.state(), LinkState::Down, "{kind}");
    }
}

/// A login that fails while the port is open stands out like any other kind, after three failures.
#[test]
fn a_login_that_fails() {
    let mut world = with_sql();
    world.flows(Some(true));
    for failures in 0..4 {
        world.run(60, FINE);
        let failing = world.link().disagreement.map(|disagreement| disagreement.failing);
        assert_eq!(failing, (failures >= 3).then(|| vec![ProbeKind::Sql]), "{failures}");
        slow(&mut world, ProbeKind::Sql, Outcome::Corrupt, &[(Phase::Connect, 20_000_000)]);
    }
}

/// A kind that this host may not send is unknown with the reason, and all others are as before.
#[test]
fn no_privilege_for_icmp() {
    let mut world = World::of(&[("icmp = false", "icmp = true"), ("tcp = false", "tcp = true\nflows = 4")]);
    world.links.record_icmp_socket(&"tokyo".parse().unwrap(), IcmpSocket::None);
    world.flows(Some(true));
    world.run(60, FINE);
    let link = world.link();
    let Known::Unknown { why } = link.rtt(ProbeKind::Icmp) else { panic!("{link:?}") };
    assert!(why.contains("CAP_NET_RAW"), "{why}");
    assert_eq!(link.kinds.iter().map(|kind| kind.socket).collect::<Vec<_>>(), [None, Some(IcmpSocket::None), None]);
    assert!(link.state == LinkState::Ok && link.disagreement.is_none() && link.rtt(ProbeKind::Tcp).is_known(), "{link:?}");
    let mut out = Vec::new();
    world.links.series(reading(world.ms), &PeerView::default(), &mut out);
    let sockets = out.iter().filter(|series| series.metric.name == "lagmesh.link.icmp_socket");
    let said: Vec<_> = sockets.map(|series| (series.attributes.get(Attribute::State), &series.value)).collect();
    let [no, yes] = [Value::Gauge(0.0), Value::Gauge(1.0)];
    assert_eq!(said, [(Some("raw"), &no), (Some("unprivileged"), &no), (Some("none"), &yes)]);
}
