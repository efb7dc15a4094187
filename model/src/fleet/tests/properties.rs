//! What holds for every fleet and for every text.

use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::parse;
use crate::fleet::*;

/// A fleet as a file with every key written out.
pub(super) fn printed(fleet: &Fleet) -> String {
    let text = |duration: Duration| format!("{:?}", humantime::format_duration(duration).to_string());
    let mut file = format!("name = {:?}\ninsecure = {}\n", fleet.name, fleet.insecure);
    for region in &fleet.regions {
        write!(file, "[[region]]\nname = \"{}\"\n", region.name).unwrap();
        if let Some(Coordinates { latitude, longitude }) = region.coordinates {
            write!(file, "latitude = {latitude:?}\nlongitude = {longitude:?}\n").unwrap();
        }
        if let Some(dsn) = &region.sql_probe {
            writeln!(file, "sql_probe = {dsn:?}").unwrap();
        }
        if let Some(url) = &region.http_probe {
            writeln!(file, "http_probe = \"{url}\"").unwrap();
        }
        for agent in &region.agents {
            write!(file, "[[region.agent]]\nname = \"{}\"\nmesh = \"{}\"\n", agent.name, agent.mesh).unwrap();
        }
    }
    for cluster in &fleet.clusters {
        let (objective, beat, writers) = (text(cluster.lag_objective), text(cluster.beat_interval), cluster.writers_max);
        let ledger = text(cluster.ledger_interval);
        write!(
            file,
            "[[cluster]]\nname = \"{}\"\nlag_objective = {objective}\nbeat_interval = {beat}\nledger_interval = {ledger}\nwriters_max = {writers}\n",
            cluster.name
        )
        .unwrap();
        for node in &cluster.nodes {
            write!(file, "[[cluster.node]]\nname = \"{}\"\nregion = \"{}\"\ndsn = {:?}\n", node.name, node.region, node.dsn)
                .unwrap();
        }
    }
    for collector in &fleet.collectors {
        write!(file, "[[collector]]\nname = \"{}\"\notlp = \"{}\"\n", collector.name, collector.otlp).unwrap();
    }
    for forward in &fleet.forwards {
        write!(
            file,
            "[[forward]]\nname = \"{}\"\nkind = \"{}\"\nurl = \"{}\"\n",
            forward.name,
            forward.kind.as_str(),
            forward.url
        )
        .unwrap();
        if let Some(form) = forward.kind.histograms() {
            writeln!(file, "histograms = \"{}\"", form.as_str()).unwrap();
        }
    }
    let m = &fleet.mesh;
    let (interval, deadline, give_up) = (text(m.interval), text(m.deadline), text(m.give_up));
    file += &plan(m);
    writeln!(file, "dscp = {}", m.dscp).unwrap();
    let (fresh, kept) = (text(m.sql_interval), text(m.sql_kept_interval));
    writeln!(file, "http_interval = {}", text(m.http_interval)).unwrap();
    write!(file, "sql_interval = {fresh}\nsql_kept_interval = {kept}\n").unwrap();
    write!(file, "flows = {}\ninterval = {interval}\ndeadline = {deadline}\ngive_up = {give_up}\n", m.flows).unwrap();
    write!(
        file,
        "icmp = {}\ntcp = {}\nthird_party = {}\nloss_enter = {:?}\nloss_exit = {:?}\n",
        m.icmp, m.tcp, m.third_party, m.loss_enter, m.loss_exit
    )
    .unwrap();
    let e = &fleet.export;
    write!(file, "[export]\ninterval = {}\nspool_bytes_max = {}\n", text(e.interval), e.spool_bytes_max).unwrap();
    writeln!(file, "spool_age_max = {}\ncompression = \"{}\"", text(e.spool_age_max), e.compression.as_str()).unwrap();
    write!(
        file,
        "[replication]\nlag_enter = {}\nlag_exit = {}\n",
        text(fleet.replication.lag_enter),
        text(fleet.replication.lag_exit)
    )
    .unwrap();
    let j = &fleet.judge;
    write!(file, "[judge]\nsuspect_after = {}\ndown_after = {}\n", text(j.suspect_after), text(j.down_after)).unwrap();
    write!(file, "degraded_after = {}\nhealthy_after = {}\n", text(j.degraded_after), text(j.healthy_after)).unwrap();
    write!(file, "recover_after = {}\nrecovered_after = {}\n", text(j.recover_after), text(j.recovered_after)).unwrap();
    file
}

/// The head of the table of the mesh.
fn plan(mesh: &Mesh) -> String {
    let mut text = format!("[mesh]\nplan = \"{}\"\n", mesh.plan.as_str());
    match &mesh.plan {
        Plan::Full => {}
        Plan::Hub(hubs) => writeln!(text, "hubs = {:?}", hubs.iter().map(RegionName::as_str).collect::<Vec<_>>()).unwrap(),
        Plan::Pairs(pairs) => {
            let pairs: Vec<[&str; 2]> = pairs.iter().map(|pair| [pair.names().0.as_str(), pair.names().1.as_str()]).collect();
            writeln!(text, "pairs = {pairs:?}").unwrap();
        }
    }
    if let Some(budget) = mesh.budget_bits_per_s {
        writeln!(text, "budget_bits_per_s = {budget}").unwrap();
    }
    text
}

/// A plan for regions of these names: full where `hubs` and `pairs` choose nothing.
fn any_plan(names: &[RegionName], hubs: &[prop::sample::Index], pairs: &[(prop::sample::Index, prop::sample::Index)]) -> Plan {
    let pairs = pairs.iter().filter_map(|(a, b)| Pair::new(a.get(names).clone(), b.get(names).clone()));
    match (hubs, pairs.collect::<std::collections::BTreeSet<_>>()) {
        ([], pairs) if pairs.is_empty() => Plan::Full,
        ([], pairs) => Plan::Pairs(pairs),
        (hubs, _) => Plan::Hub(hubs.iter().map(|hub| hub.get(names).clone()).collect()),
    }
}

prop_compose! {
    fn any_mesh()(
        flows in 1..=FLOWS_MAX,
        dscp in 0..=DSCP_MAX,
        interval_ms in 10_u64..100_000,
        deadline_us in 1_u64..10_000_000,
        patience_us in 0_u64..10_000_000,
        (icmp, tcp, third_party, generous) in any::<(bool, bool, bool, bool)>(),
        loss_enter in 0.000_001..=1.0_f64,
        below in 0.0..0.999_f64,
        (sql_ms, kept_ms, http_ms) in (5_000_u64..600_000, 5_000_u64..600_000, 5_000_u64..600_000),
    ) -> Mesh {
        let deadline = Duration::from_micros(deadline_us);
        Mesh {
            flows, dscp, icmp, tcp, third_party, deadline, loss_enter,
            plan: Plan::Full,
            budget_bits_per_s: generous.then_some(u64::MAX >> 1),
            interval: Duration::from_millis(interval_ms),
            sql_interval: Duration::from_millis(sql_ms),
            sql_kept_interval: Duration::from_millis(kept_ms),
            http_interval: Duration::from_millis(http_ms),
            give_up: deadline + Duration::from_micros(patience_us),
            loss_exit: loss_enter * below,
        }
    }
}

prop_compose! {
    fn any_fleet()(
        mesh in any_mesh(),
        insecure in any::<bool>(),
        places in prop::collection::vec((prop::option::of((-90.0..=90.0_f64, -180.0..=180.0_f64)), 1..4_u16), 1..5),
        clusters in prop::collection::vec((1_u64..1_000_000, 50_u64..5_000, 1..u64::MAX >> 1, prop::collection::vec((any::<prop::sample::Index>(), "[a-z ]{0,8}"), 1..4)), 0..3),
        collectors in 0..3_u16,
        forwards in prop::collection::vec(0..5_u8, 0..3),
        seconds in prop::array::uniform9(1_u64..100_000),
        spool_bytes_max in 1..u64::MAX >> 1,
        compression in prop::sample::select(Compression::ALL),
        hubs in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        pairs in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..4),
    ) -> Fleet {
        let second = |i: usize| Duration::from_secs(seconds[i]);
        let regions: Vec<Region> = places.iter().enumerate().map(|(r, (at, agents))| Region {
            name: format!("region-{r}").parse().unwrap(),
            coordinates: at.map(|(latitude, longitude)| Coordinates { latitude, longitude }),
            agents: (0..*agents).map(|a| Agent {
                name: format!("agent-{r}.{a}").parse().unwrap(),
                mesh: format!("[2001:db8::{r}]:{}", a + 1).parse().unwrap(),
            }).collect(),
            sql_probe: at.map(|_| format!("host='db-{r}' user=probe")),
            http_probe: at.map(|_| format!("https://app-{r}.example:8443/health").parse().unwrap()),
        }).collect();
        let clusters = clusters.into_iter().enumerate().map(|(c, (lag_ms, beat_ms, writers_max, nodes))| Cluster {
            name: format!("cluster-{c}").parse().unwrap(),
            lag_objective: Duration::from_millis(lag_ms),
            beat_interval: Duration::from_millis(beat_ms),
            ledger_interval: Duration::from_millis(1_000 + beat_ms),
            writers_max,
            nodes: nodes.into_iter().enumerate().map(|(n, (region, host))| Node {
                name: format!("node-{c}-{n}").parse().unwrap(),
                region: region.get(&regions).name.clone(),
                dsn: format!("host='{host}' options='\\\"'"),
            }).collect(),
        }).collect();
        let names: Vec<RegionName> = regions.iter().map(|region| region.name.clone()).collect();
        Fleet {
            links: Links::default(),
            name: "any".to_owned(), insecure, regions, clusters,
            mesh: Mesh { plan: any_plan(&names, &hubs, &pairs), ..mesh },
            forwards: forwards.iter().enumerate().map(|(f, kind)| Forward {
                name: format!("target-{f}").parse().unwrap(),
                kind: match kind {
                    0 => ForwardKind::RemoteWrite(HistogramForm::Classic),
                    1 => ForwardKind::RemoteWrite(HistogramForm::Native),
                    2 => ForwardKind::RemoteWrite2(HistogramForm::Classic),
                    3 => ForwardKind::RemoteWrite2(HistogramForm::Native),
                    _ => ForwardKind::Otlp,
                },
                url: format!("https://target.example:{}/api/v1/write", f + 1).parse().unwrap(),
            }).collect(),
            collectors: (0..collectors).map(|c| Collector {
                name: format!("collector-{c}").parse().unwrap(),
                otlp: format!("https://c{c}.example:4318/base").parse().unwrap(),
            }).collect(),
            export: Export { interval: second(0), spool_bytes_max, spool_age_max: second(1), compression },
            replication: Replication { lag_enter: second(2) + second(3), lag_exit: second(3) },
            judge: Judge {
                suspect_after: second(4), down_after: second(4) + second(5),
                degraded_after: second(6), healthy_after: second(7), recover_after: second(8), recovered_after: second(0),
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A fleet that is written out reads back as the same fleet.
    #[test]
    fn a_printed_fleet_parses(fleet in any_fleet()) {
        prop_assert_eq!(parse(&printed(&fleet)).map_err(|e| TestCaseError::fail(e.to_string()))?, fleet);
    }

    /// Whatever the file holds, reading it ends with a fleet or with errors of one line each.
    #[test]
    fn no_text_panics(text in any::<String>()) {
        prop_assert!(parse(&text).is_err());
    }

    /// Damage to a good file ends with a fleet or with errors that name a line of the file.
    #[test]
    fn no_damage_panics(cuts in prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\]\"=.a-z0-9#{},\\\\\n]{0,3}"), 1..4)) {
        let mut text = include_str!("../../../../packaging/fleet.toml").to_owned();
        for (index, patch) in cuts {
            let at = index.index(text.len());
            text.replace_range(at..=at, &patch);
        }
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.errors.is_empty());
            prop_assert_eq!(errors.to_string().lines().count(), errors.errors.len());
            for error in &errors.errors {
                prop_assert!((1..=text.lines().count() + 1).contains(&error.line), "{}", error.line);
            }
        }
    }
}
