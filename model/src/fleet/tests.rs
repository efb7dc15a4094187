//! Snippets and the exact lines that they are answered with, and the shipped example.

mod mistakes;
mod properties;

use std::time::Duration;

use properties::printed;

use super::*;

/// Two regions and a cluster, all right.
const GOOD: &str = r#"name = "test"

[[region]]
name = "east"
latitude = 40
longitude = -74.5
[[region.agent]]
mesh = "127.0.0.1:8620"

[[region]]
name = "west"
[[region.agent]]
mesh = "localhost:8621"

[[cluster]]
name = "app"
[[cluster.node]]
name = "db-east"
region = "east"
dsn = "host=/run/postgresql dbname=app"

[[collector]]
name = "main"
otlp = "http://127.0.0.1:8622"
"#;

fn parse(text: &str) -> Result<Fleet, FileErrors> {
    Fleet::parse("fleet.toml", text)
}

fn errors(text: &str) -> Vec<String> {
    parse(text).err().map(|errors| errors.to_string().lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// A small fleet reads as it is written, defaults filled in, an only agent named like its region.
#[test]
fn good() {
    let fleet = parse(GOOD).unwrap();
    let east: RegionName = "east".parse().unwrap();
    assert_eq!(fleet.region(&east).unwrap().coordinates, Some(Coordinates { latitude: 40.0, longitude: -74.5 }));
    assert_eq!(fleet.agent(&"west".parse().unwrap()).unwrap().1.mesh.to_string(), "localhost:8621");
    assert_eq!(fleet.peers_of(&east).map(|region| region.name.as_str()).collect::<Vec<_>>(), ["west"]);
    let (cluster, node) = fleet.nodes_of(&east).next().unwrap();
    assert_eq!(
        (cluster.lag_objective, cluster.beat_interval, cluster.ledger_interval, cluster.writers_max),
        (Duration::from_secs(5), Duration::from_secs(1), Duration::from_secs(5), 1)
    );
    assert_eq!(fleet.node_by_hash(NodeHash::of(&node.name)), Some((cluster, node)));
    assert_eq!((&fleet.mesh, &fleet.judge), (&Mesh::default(), &Judge::default()));
    assert!(!fleet.needs_mesh_key());
    assert_eq!(fleet.soft_floor_s(&east, &"west".parse().unwrap()), None);
    assert_eq!(fleet.one_way_floor_ns(&east, &"west".parse().unwrap()), 0);
}

/// The shipped example parses, its values are the defaults, and it names every key that there is.
#[test]
fn example_is_the_defaults() {
    let text = include_str!("../../../packaging/fleet.toml");
    let fleet = parse(text).unwrap();
    assert_eq!(fleet.mesh, Mesh::default());
    assert_eq!(fleet.export, Export::default());
    assert_eq!(fleet.replication, Replication::default());
    assert_eq!(fleet.judge, Judge::default());
    let cluster = &fleet.clusters[0];
    assert_eq!(
        (cluster.lag_objective, cluster.beat_interval, cluster.ledger_interval, cluster.writers_max),
        (Cluster::LAG_OBJECTIVE, Cluster::BEAT_INTERVAL, Cluster::LEDGER_INTERVAL, Cluster::WRITERS_MAX)
    );
    assert!(fleet.needs_mesh_key() && !fleet.insecure);
    assert_eq!(fleet.warnings(), [] as [String; 0]);
    let all = printed(&fleet);
    assert_eq!(toml_keys(text), toml_keys(&all));
    assert_eq!(parse(&all).unwrap(), fleet);
}

/// Every distinct word before a `=` that is no comment.
fn toml_keys(text: &str) -> std::collections::BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(" = ")).map(|(key, _)| key).collect()
}

/// Beside loopback the mesh needs a key, unless the file says that it may go without.
#[test]
fn security() {
    let outside = GOOD.replace("127.0.0.1:8620", "10.0.0.1:8620");
    assert!(parse(&outside).unwrap().needs_mesh_key());
    let insecure = outside.replace("\"test\"", "\"test\"\ninsecure = true").replace("http://127.0.0.1", "http://c.example");
    let fleet = parse(&insecure).unwrap();
    assert!(!fleet.needs_mesh_key());
    assert_eq!(fleet.warnings().iter().filter(|w| w.starts_with("insecure")).count(), 2);
}

/// One attempt at a time: it is given up so early that a cancel of it ends before the next is due.
#[test]
fn one_at_a_time() {
    let table = [("60s", "10s", 10_000), ("10s", "10s", 5_000), ("5s", "10s", 2_500), ("5s", "1s", 1_000)];
    for (interval, give_up, expected_ms) in table {
        let text = format!(
            "[mesh]\nsql_interval = \"{interval}\"\nsql_kept_interval = \"{interval}\"\nhttp_interval = \"{interval}\"\ngive_up = \"{give_up}\"\n"
        );
        let mesh = parse(&GOOD.replace("[[collector]]", &format!("{text}[[collector]]"))).unwrap().mesh;
        for kind in [ProbeKind::Sql, ProbeKind::SqlKept, ProbeKind::Http] {
            assert_eq!(mesh.give_up_of(kind), Duration::from_millis(expected_ms), "{interval}");
        }
        assert_eq!(mesh.give_up_of(ProbeKind::Tcp), mesh.give_up);
    }
}

/// Agents log in only where the file says how; what is probably not meant is told of.
#[test]
fn sql_probes() {
    let probed = |east: &str, west: &str| {
        let text = GOOD.replace("name = \"east\"\nlatitude", &format!("name = \"east\"\nsql_probe = \"{east}\"\nlatitude"));
        parse(&text.replace("name = \"west\"", &format!("name = \"west\"\nsql_probe = \"{west}\""))).unwrap()
    };
    let fleet = probed("host=a", "host=b");
    for (fleet, asked) in [(&parse(GOOD).unwrap(), false), (&fleet, true)] {
        assert_eq!(fleet.mesh.asks(ProbeKind::Sql, &fleet.regions[0], true), asked);
        assert_eq!(fleet.mesh.asks(ProbeKind::SqlKept, &fleet.regions[0], false), asked);
    }
    let told = |fleet: &Fleet| fleet.warnings().into_iter().filter(|warning| warning.contains("sql_probe")).collect::<Vec<_>>();
    let no_node = "region west has a sql_probe, but no cluster has a node there: does it lead to another region?";
    assert_eq!(told(&fleet), [no_node]);
    let twin = "regions east and west have the same sql_probe: one of them is measured twice";
    assert_eq!(told(&probed("host=a", "host=a")), [no_node, twin]);
    let mut alone = fleet;
    alone.regions[0].http_probe = Some("https://app.example/health".parse().unwrap());
    assert!(
        alone.mesh.asks(ProbeKind::Http, &alone.regions[0], false) && !alone.mesh.asks(ProbeKind::Http, &alone.regions[1], true)
    );
    assert_eq!(alone.warnings().iter().filter(|warning| warning.contains("http_probe")).count(), 0);
    alone.mesh.plan = Plan::Pairs(std::collections::BTreeSet::new());
    assert_eq!(told(&alone).len(), 3);
    assert_eq!(alone.warnings().iter().filter(|warning| warning.contains("http_probe")).count(), 1);
}

/// A plan that takes more than its budget is refused with the numbers; one bit too much is enough.
#[test]
fn budget() {
    let with = |budget: u64| GOOD.replace("\n[[collector]]", &format!("\n[mesh]\nbudget_bits_per_s = {budget}\n[[collector]]"));
    let fleet = parse(GOOD).unwrap();
    let most = fleet.regions.iter().map(|region| traffic::of_region(&fleet, region, false).bits_per_s()).fold(0.0, f64::max);
    let enough: u64 = format!("{most:.0}").parse().unwrap();
    assert!(parse(&with(enough)).is_ok());
    assert_eq!(
        errors(&with(enough - 1)),
        [format!(
            "fleet.toml:23: mesh.budget_bits_per_s: the mesh of west takes {most:.0} bit/s each way (peers: 1), the budget is {}; \
             probe less often (interval), on fewer flows, between fewer regions (plan), or allow more",
            enough - 1
        )]
    );
    assert!(parse(&with(enough)).unwrap().over_budget(true).is_some(), "with a key packets are longer");
}

/// A plan that cannot do what a fleet file wants is told of.
#[test]
fn plan_warnings() {
    let region = |name: &str, port| {
        format!(
            "[[region]]\nname = \"{name}\"\nlatitude = 1\nlongitude = {port}\n[[region.agent]]\nmesh = \"localhost:{port}\"\n"
        )
    };
    let regions: String = ["a", "b", "c", "d"].iter().zip(1..).map(|(name, port)| region(name, port)).collect();
    let node = |name: &str| format!("[[cluster.node]]\nname = \"n{name}\"\nregion = \"{name}\"\ndsn = \"host=x\"\n");
    let rest = "[[collector]]\nname = \"m\"\notlp = \"http://127.0.0.1:1\"\n";
    let warnings = |plan: &str| {
        let cluster = format!("[[cluster]]\nname = \"app\"\n{}{}", node("b"), node("c"));
        parse(&format!("name = \"t\"\n{regions}{cluster}{rest}[mesh]\n{plan}")).unwrap().warnings()
    };
    assert_eq!(warnings("plan = \"full\""), [] as [&str; 0]);
    assert_eq!(warnings("plan = \"hub\"\nhubs = [\"b\", \"d\"]"), [] as [&str; 0]);
    let single = "the mesh plan lets only one region probe b, c, d: DOWN is unreachable there, because one vantage cannot tell a \
                  partition from an outage; let two regions probe each";
    let apart = "cluster app has nodes in b and c, which the mesh plan does not connect: how late beats are between them is not \
                 measured; connect the two";
    assert_eq!(warnings("plan = \"hub\"\nhubs = [\"a\"]"), [single, apart]);
    let lonely = "the mesh plan lets nobody probe d: nothing is known of the way there, and no other region can judge it";
    let single = "the mesh plan lets only one region probe a, c: DOWN is unreachable there, because one vantage cannot tell a \
                  partition from an outage; let two regions probe each";
    assert_eq!(warnings("plan = \"pairs\"\npairs = [[\"a\", \"b\"], [\"b\", \"c\"]]"), [lonely, single]);
}

/// What is probably not meant is said.
#[test]
fn warnings() {
    assert_eq!(
        parse(GOOD).unwrap().warnings(),
        [
            "two regions: DOWN is unreachable, because one vantage cannot tell a partition from an outage; \
             add a third region with an agent and no database as a witness",
            "no coordinates for west: their links have no physical floor and wider clock bounds",
            "cluster app has one node only: there is no replication to measure",
        ]
    );
    let bare = "name = \"x\"\n[[region]]\nname = \"a\"\n[[region.agent]]\nmesh = \"localhost:1\"";
    assert_eq!(parse(bare).unwrap().warnings().len(), 3);
}
