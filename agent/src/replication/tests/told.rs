//! What is told: counts that stay, series that fit the catalogue, ages.

use super::*;

/// Counts that were told are in every later batch of the boot, also while their standby is the writer: what came back after a while would
/// be taken for new. Only the counts: a link that is none has no state. What was never a link is not told.
#[test]
fn counts_stand_still_while_there_is_no_link() {
    let mut sim = Sim::new();
    let mut seen: BTreeMap<(&str, Attributes), Value> = BTreeMap::new();
    let mut look = |sim: &mut Sim| {
        let (mut all, now, view) = (Vec::new(), sim.now(), sim.view.clone());
        sim.replications.series(now, &view, &mut all);
        let (counts, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(|one| one.metric.name.starts_with("lagmesh.replication"))
            .partition(|one| matches!(one.value, Value::Counter(_) | Value::Histogram(_)));
        let counts: BTreeMap<_, _> = counts.into_iter().map(|one| ((one.metric.name, one.attributes), one.value)).collect();
        assert!(seen.keys().all(|known| counts.contains_key(known)), "a count is gone");
        seen = counts;
        (seen.clone(), others.len())
    };
    let role = |sim: &mut Sim, role| {
        sim.tell(NodeNews::Facts { facts: facts(role == NodeRole::Standby), role });
    };
    sim.run(2_000);
    role(&mut sim, NodeRole::Writer);
    assert_eq!(look(&mut sim).0.len(), 0, "never a link");
    role(&mut sim, NodeRole::Standby);
    sim.run(20_000);
    let (before, states) = look(&mut sim);
    assert!(before.len() >= 7 && states > 0, "{before:?}");
    role(&mut sim, NodeRole::Writer);
    assert_eq!(look(&mut sim), (before.clone(), 0));
    role(&mut sim, NodeRole::Standby);
    sim.run(5_000);
    let (after, states) = look(&mut sim);
    assert!(after != before && states > 0);
}

/// An unknown is an absent series, never a zero; what is known has exactly the attributes of the catalogue.
#[test]
fn series_fit_the_catalogue() {
    let mut sim = healthy();
    let outcome = WriteOutcome::Acknowledged;
    sim.tell(NodeNews::Written(Write { announcement: None, outcome, took: Some(Duration::from_millis(1)) }));
    let (now, view) = (sim.now(), sim.view.clone());
    let mut series = Vec::new();
    sim.replications.series(now, &view, &mut series);
    assert!(series.len() > 30);
    for one in &series {
        assert!(one.attributes.fit(one.metric), "{one:?}");
    }
    let has = |series: &[Series], name: &str| series.iter().any(|one| one.metric.name == name);
    assert!(has(&series, "lagmesh.replication.staleness") && has(&series, "lagmesh.replication.backlog"));

    let mut blind = Sim::new();
    blind.mesh_works = false;
    blind.run(2_100);
    let (now, view) = (blind.now(), blind.view.clone());
    let mut series = Vec::new();
    blind.replications.series(now, &view, &mut series);
    assert!(!has(&series, "lagmesh.replication.staleness") && !has(&series, "lagmesh.replication.backlog"));
    assert!(has(&series, "lagmesh.replication.state"));
}

/// A node's facts are known, then stale with their age; a fresh one says what it takes writes for.
#[test]
fn nodes_age() {
    let mut sim = healthy();
    let node = sim.replications.nodes(sim.now()).remove(0);
    assert_eq!(
        (node.state, node.role.current(), node.system.current()),
        (NodeState::Ok, Some(&NodeRole::Standby), Some(&SystemIdentifier(7)))
    );
    assert!(node.received.is_known() && node.replayed.is_known() && !node.beat.is_known());
    let later = sim.now().after(Duration::from_secs(30));
    let node = sim.replications.nodes(later).remove(0);
    assert!(!node.role.is_known() && !node.received.is_known());
    let sample =
        WriterSample { in_recovery: false, inserted: Some(Lsn(9)), flushed: Some(Lsn(9)), senders: vec![], confirmed: vec![] };
    sim.tell(NodeNews::Writer { sample, began: sim.now() });
    let node = sim.replications.nodes(sim.now()).remove(0);
    assert_eq!((node.received.current(), node.replayed.current()), (Some(&Lsn(9)), None));
}
