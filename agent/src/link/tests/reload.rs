//! Another fleet file while links are measured.

use super::*;

const OSAKA: &str =
    "[[region]]\nname = \"osaka\"\n[[region.agent]]\nname = \"osaka-a\"\nmesh = \"127.0.0.1:18622\"\n\n[[cluster]]";
const KINDS: (&str, &str) = ("tcp = false", "tcp = true\nflows = 4");

fn series_of(world: &mut World, peer: &str) -> Vec<Series> {
    let mut all = Vec::new();
    world.links.series(reading(world.ms), &PeerView::default(), &mut all);
    all.retain(|series| series.attributes.get(Attribute::Peer) == Some(peer));
    all
}

/// Whoever else comes and goes, a link that stays says the same in all of its series, and one that is gone has none.
#[test]
fn links_that_stay_go_on() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(20, Second { stamp: (3, 1), ..FINE });
    let (series, mut link) = (series_of(&mut world, "tokyo"), world.link());
    assert!(series.len() > 10, "{series:?}");
    world.links.reload(&fleet(&[KINDS, ("[[cluster]]", OSAKA)]));
    assert_eq!(series_of(&mut world, "tokyo"), series);
    assert!(!series_of(&mut world, "osaka").is_empty());
    world.links.reload(&fleet(&[KINDS]));
    assert_eq!((series_of(&mut world, "tokyo"), world.link()), (series.clone(), link.clone()));
    assert_eq!(series_of(&mut world, "osaka"), []);

    // Another agent of the region: its flows are unknown, and all that was counted stays.
    world.links.reload(&fleet(&[KINDS, ("\n        [[region]]\n        name = \"tokyo\"", TOKYO_B)]));
    (link.flows, link.why) = (8, world.link().why);
    assert_eq!((world.link(), series_of(&mut world, "tokyo")), (link, series));

    // Gone and back: it begins anew, with what was counted before nowhere.
    world.links.reload(&fleet(&[KINDS, ("\"tokyo\"", "\"kyoto\"")]));
    assert_eq!(series_of(&mut world, "tokyo"), []);
    world.probe(ProbeKind::Stamp, Outcome::InTime, world.ms);
    world.links.reload(&fleet(&[KINDS]));
    let counted = series_of(&mut world, "tokyo").into_iter().filter(|series| matches!(series.value, Value::Counter(1..)));
    assert_eq!(counted.count(), 0);
}

/// A kind that another file asks for begins with nothing, one that it does not ask for any more ends; the others stay.
#[test]
fn kinds_come_and_go() {
    let mut world = World::new();
    world.flows(Some(true));
    world.run(5, FINE);
    let before = series_of(&mut world, "tokyo");
    let asked = ("name = \"tokyo\"\n", "name = \"tokyo\"\nhttp_probe = \"http://127.0.0.1/\"\n");
    world.links.reload(&fleet(&[KINDS, asked]));
    world.probe(ProbeKind::Http, Outcome::InTime, world.ms);
    let with_http = |world: &mut World| {
        let all = series_of(world, "tokyo").into_iter();
        all.partition::<Vec<_>, _>(|series| series.attributes.get(Attribute::Kind) == Some("http"))
    };
    let (http, others) = with_http(&mut world);
    assert!(http.len() > 1 && others == before, "{http:?}");
    world.links.reload(&fleet(&[KINDS]));
    assert_eq!(with_http(&mut world), (Vec::new(), before));
}

const TOKYO_B: &str =
    "\n        [[region]]\n        name = \"tokyo\"\n[[region.agent]]\nname = \"tokyo-b\"\nmesh = \"127.0.0.1:18623\"";
