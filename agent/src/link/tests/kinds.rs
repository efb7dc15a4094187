//! Kinds of probes against each other, and what one of them may lack.

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
