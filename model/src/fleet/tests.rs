//! Snippets and the exact lines that they are answered with, and the shipped example.

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

/// What is put in place of what in a good file, and how that is told.
const MISTAKES: &[(&str, &str, &str)] = &[
    // Keys and types.
    ("latitude =", "latitud =", r#"fleet.toml:5: region.latitud: unknown key; did you mean "latitude"?"#),
    (
        "[[cluster]]",
        "[[cluster]]\npriority = 1",
        "fleet.toml:16: cluster.priority: unknown key; known here: name, lag_objective, beat_interval, ledger_interval, writers_max, node",
    ),
    ("[[collector]]", "[meshes]\n[[collector]]", r#"fleet.toml:22: meshes: unknown key; did you mean "mesh"?"#),
    ("\"test\"", "7", "fleet.toml:1: name: must be text in quotes, not an integer"),
    ("name = \"test\"", "", "fleet.toml:1: name: is missing"),
    (
        "\"test\"",
        "\"My Fleet\"",
        "fleet.toml:1: name: \"My Fleet\" is no name: use 1 to 63 characters of a-z, 0-9, '-', '_' and '.'",
    ),
    ("\"test\"", "\"test\"\ninsecure = 1", "fleet.toml:2: insecure: must be true or false, not an integer"),
    ("\"test\"", "\"test\"\nmesh = 1", "fleet.toml:2: mesh: must be a table [mesh], not an integer"),
    ("[[collector]]", "[collector]", "fleet.toml:22: collector: write it as [[collector]], with two brackets, once for each"),
    // Forwards.
    (
        "[[collector]]",
        "[[forward]]\nname = \"a\"\nkind = \"kafka\"\nurl = \"https://a\"\n[[collector]]",
        "fleet.toml:24: forward.kind: \"kafka\" is nothing that collectors speak; write \"remote-write\", \"remote-write-2\" or \"otlp\"",
    ),
    (
        "[[collector]]",
        "[[forward]]\nname = \"a\"\nkind = \"remote-write\"\nurl = \"http://a.example/api/v1/write\"\n[[collector]]",
        "fleet.toml:25: forward.url: \"http://a.example/api/v1/write\" would carry telemetry in plain text; use https://, or write insecure = true at the top",
    ),
    (
        "[[collector]]",
        "[[forward]]\nname = \"a\"\nkind = \"otlp\"\nurl = \"https://a\"\nhistograms = \"native\"\n[[collector]]",
        "fleet.toml:26: forward.histograms: OTLP has exponential histograms only; leave this key out",
    ),
    (
        "[[collector]]",
        "[[forward]]\nname = \"a\"\nkind = \"remote-write-2\"\nurl = \"https://a\"\nhistograms = \"exponential\"\n[[collector]]",
        "fleet.toml:26: forward.histograms: \"exponential\" is no form of histograms; write \"classic\" or \"native\"",
    ),
    // Syntax.
    ("\"test\"", "\"test", "fleet.toml:1: syntax: invalid basic string, expected `\"`"),
    ("\"test\"", "\"test\"\nname = \"again\"", "fleet.toml:2: syntax: duplicate key"),
    // Names.
    ("name = \"west\"", "name = \"east\"", "fleet.toml:11: region.name: \"east\" is the name of the region of line 4 already"),
    (
        "name = \"west\"",
        "name = \"West Coast\"",
        "fleet.toml:11: region.name: \"West Coast\" is no name: use 1 to 63 characters of a-z, 0-9, '-', '_' and '.'",
    ),
    (
        "mesh = \"localhost:8621\"",
        "mesh = \"localhost:8621\"\nname = \"east\"",
        "fleet.toml:14: region.agent.name: \"east\" is the name of the agent of line 7 already",
    ),
    (
        "mesh = \"localhost:8621\"",
        "mesh = \"localhost:8621\"\n[[region.agent]]\nname = \"b\"\nmesh=\"localhost:1\"",
        "fleet.toml:12: region.agent.name: is missing; it may be left out only by the one agent of a region",
    ),
    (
        "[[collector]]",
        "[[collector]]\nname = \"main\"\notlp = \"http://127.0.0.1:1\"\n[[collector]]",
        "fleet.toml:26: collector.name: \"main\" is the name of the collector of line 23 already",
    ),
    (
        "[[collector]]",
        "[[cluster.node]]\nname = \"db-east\"\nregion = \"west\"\ndsn = \"host=x\"\n[[collector]]",
        "fleet.toml:23: cluster.node.name: \"db-east\" is the name of the node of line 18 already",
    ),
    (
        "[[collector]]",
        "[[cluster]]\nname = \"app\"\n[[cluster.node]]\nname = \"b\"\nregion = \"west\"\ndsn = \"host=x\"\n[[collector]]",
        "fleet.toml:23: cluster.name: \"app\" is the name of the cluster of line 16 already",
    ),
    // Places.
    (
        "region = \"east\"",
        "region = \"esat\"",
        r#"fleet.toml:19: cluster.node.region: no region is called "esat"; did you mean "east"?"#,
    ),
    (
        "region = \"east\"",
        "region = \"eastt\"",
        r#"fleet.toml:19: cluster.node.region: no region is called "eastt"; did you mean "east"?"#,
    ),
    ("127.0.0.1:8620", "foo", r#"fleet.toml:8: region.agent.mesh: "foo" is not host:port"#),
    ("127.0.0.1:8620", "foo:0", r#"fleet.toml:8: region.agent.mesh: "foo:0" has port 0; write a port from 1 to 65535"#),
    (
        "127.0.0.1:8620",
        "0.0.0.0:1",
        r#"fleet.toml:8: region.agent.mesh: "0.0.0.0:1" is a wildcard, to which nobody can send; write the address at which peers reach this agent"#,
    ),
    (
        "127.0.0.1:8620",
        "localhost:8621",
        "fleet.toml:13: region.agent.mesh: \"localhost:8621\" is the address of the agent of line 8 already",
    ),
    ("latitude = 40", "latitude = 90.5", "fleet.toml:5: region.latitude: 90.5 is outside -90 to 90"),
    ("longitude = -74.5", "longitude = nan", "fleet.toml:6: region.longitude: nan is outside -180 to 180"),
    ("latitude = 40", "latitude = \"40N\"", "fleet.toml:5: region.latitude: must be a number, not a string"),
    ("latitude = 40\n", "", "fleet.toml:5: region.longitude: stands alone; write latitude too, or neither"),
    ("longitude = -74.5\n", "", "fleet.toml:5: region.latitude: stands alone; write longitude too, or neither"),
    (
        "[[region.agent]]\nmesh = \"localhost:8621\"",
        "",
        "fleet.toml:10: region.agent: the region has no agent; add [[region.agent]] with mesh = \"host:8620\"",
    ),
    // Second opinions.
    (
        "[[region]]\nname = \"west\"",
        "[[region]]\nname = \"west\"\nsql_probe = \"host=db password=hunter2\"",
        "fleet.toml:12: region.sql_probe: holds a password, but secrets never stand in the fleet file; put it into .pgpass or PGPASSWORD and take it out here",
    ),
    (
        "[[collector]]",
        "[mesh]\nsql_interval = \"4s\"\n[[collector]]",
        "fleet.toml:23: mesh.sql_interval: \"4s\" is outside 5s to 10m",
    ),
    (
        "[[collector]]",
        "[mesh]\nsql_kept_interval = \"1h\"\n[[collector]]",
        "fleet.toml:23: mesh.sql_kept_interval: \"1h\" is outside 5s to 10m",
    ),
    (
        "[[region]]\nname = \"west\"",
        "[[region]]\nname = \"west\"\nhttp_probe = \"http://app.example/health\"",
        "fleet.toml:12: region.http_probe: \"http://app.example/health\" would be asked in plain text; use https://, or write insecure = true at the top",
    ),
    (
        "[[region]]\nname = \"west\"",
        "[[region]]\nname = \"west\"\nhttp_probe = \"https://me:secret@app.example\"",
        "fleet.toml:12: region.http_probe: a user or password stands in the URL, but secrets never stand in the fleet file",
    ),
    (
        "[[collector]]",
        "[mesh]\nhttp_interval = \"1s\"\n[[collector]]",
        "fleet.toml:23: mesh.http_interval: \"1s\" is outside 5s to 10m",
    ),
    // Databases.
    ("dsn = \"host=/run/postgresql dbname=app\"", "", "fleet.toml:17: cluster.node.dsn: is missing"),
    (
        "host=/run/postgresql dbname=app",
        "",
        r#"fleet.toml:20: cluster.node.dsn: is empty; write a connection string such as "host=db.example dbname=postgres user=lagmesh""#,
    ),
    (
        "dbname=app",
        "password=hunter2",
        "fleet.toml:20: cluster.node.dsn: holds a password, but secrets never stand in the fleet file; put it into .pgpass or PGPASSWORD and take it out here",
    ),
    ("dbname=app", "app", "fleet.toml:20: cluster.node.dsn: is not a connection string: a word without '='"),
    (
        "\"app\"\n[[cluster.node]]",
        "\"app\"\nlag_objective = \"0s\"\n[[cluster.node]]",
        "fleet.toml:17: cluster.lag_objective: must be longer than zero",
    ),
    (
        "\"app\"\n[[cluster.node]]",
        "\"app\"\nbeat_interval = \"1ms\"\n[[cluster.node]]",
        "fleet.toml:17: cluster.beat_interval: \"1ms\" is outside 50ms to 10s",
    ),
    (
        "\"app\"\n[[cluster.node]]",
        "\"app\"\nledger_interval = \"30s\"\n[[cluster.node]]",
        "fleet.toml:17: cluster.ledger_interval: \"30s\" is outside 1s to 20s",
    ),
    (
        "\"app\"\n[[cluster.node]]",
        "\"app\"\nwriters_max = 0\n[[cluster.node]]",
        "fleet.toml:17: cluster.writers_max: 0 is below 1",
    ),
    // Collectors.
    (
        "http://127.0.0.1:8622",
        "127.0.0.1:8622",
        "fleet.toml:24: collector.otlp: the URL must start with https:// (or http:// on loopback)",
    ),
    (
        "http://127.0.0.1:8622",
        "http://collector.example:8622",
        "fleet.toml:24: collector.otlp: \"http://collector.example:8622\" would carry telemetry in plain text; use https://, or write insecure = true at the top",
    ),
    (
        "http://127.0.0.1:8622",
        "https://me:secret@c:1",
        "fleet.toml:24: collector.otlp: a user or password stands in the URL, but secrets never stand in the fleet file",
    ),
];

/// Each mistake is told in one line that names file, line and key; nothing else is told beside it.
#[test]
fn one_mistake_one_line() {
    for (from, to, line) in MISTAKES {
        assert!(GOOD.contains(from), "{from:?}");
        assert_eq!(errors(&GOOD.replacen(from, to, 1)), [*line], "{from:?} -> {to:?}");
    }
}

/// What follows from a bad name, in nodes and agents that use it, is not told again.
#[test]
fn no_echo() {
    let both = GOOD.replace("\"east\"", "\"East Coast\"");
    assert_eq!(
        errors(&both),
        ["fleet.toml:4: region.name: \"East Coast\" is no name: use 1 to 63 characters of a-z, 0-9, '-', '_' and '.'"]
    );
}

/// Thresholds and durations: each mistake in a section is told at its key, whichever of two keys is written.
#[test]
fn sections() {
    for (section, line) in [
        ("[mesh]\nflows = 0", "fleet.toml:2: mesh.flows: 0 is outside 1 to 64"),
        ("[mesh]\nflows = 65", "fleet.toml:2: mesh.flows: 65 is outside 1 to 64"),
        ("[mesh]\nflows = -1", "fleet.toml:2: mesh.flows: -1 is outside 1 to 64"),
        ("[mesh]\nflows = 99999999999999999999", "fleet.toml:2: mesh.flows: 99999999999999999999 is outside 1 to 64"),
        ("[mesh]\nflows = \"16\"", "fleet.toml:2: mesh.flows: must be a whole number, not a string"),
        ("[mesh]\nplan = \"star\"", "fleet.toml:2: mesh.plan: \"star\" is no plan; there are: full, hub, pairs"),
        ("[mesh]\nplan = \"hub\"", "fleet.toml:1: mesh.hubs: is missing"),
        ("[mesh]\nplan = \"pairs\"", "fleet.toml:1: mesh.pairs: is missing"),
        (
            "[mesh]\nhubs = [\"east\"]",
            "fleet.toml:2: mesh.hubs: means nothing with plan = \"full\"; write plan = \"hub\" or take it out",
        ),
        ("[mesh]\nplan = \"hub\"\nhubs = []", "fleet.toml:3: mesh.hubs: must be a list of regions, such as [\"a\", \"b\"]"),
        (
            "[mesh]\nplan = \"hub\"\nhubs = [\"est\"]",
            "fleet.toml:3: mesh.hubs: no region is called \"est\"; did you mean \"east\"?",
        ),
        ("[mesh]\nplan = \"hub\"\nhubs = [\"east\", \"east\"]", "fleet.toml:3: mesh.hubs: \"east\" stands twice"),
        (
            "[mesh]\nplan = \"pairs\"\npairs = [[\"east\", \"west\"], [\"west\", \"east\"]]",
            "fleet.toml:3: mesh.pairs: the pair \"east\", \"west\" stands twice; each pair is probed both ways",
        ),
        ("[mesh]\nplan = \"pairs\"\npairs = [[\"east\", \"east\"]]", "fleet.toml:3: mesh.pairs: \"east\" cannot probe itself"),
        (
            "[mesh]\nplan = \"pairs\"\npairs = [\"east\", \"west\"]",
            "fleet.toml:3: mesh.pairs: must be a list of pairs of regions, such as [[\"a\", \"b\"], [\"a\", \"c\"]]",
        ),
        ("[mesh]\ndscp = 64", "fleet.toml:2: mesh.dscp: 64 is outside 0 to 63"),
        ("[mesh]\nbudget_bits_per_s = 0", "fleet.toml:2: mesh.budget_bits_per_s: 0 is below 1"),
        (
            "[mesh]\ninterval = 1",
            "fleet.toml:2: mesh.interval: must be a duration, not an integer; write a duration in quotes, such as \"5s\" or \"250ms\"",
        ),
        (
            "[mesh]\ninterval = \"-1s\"",
            "fleet.toml:2: mesh.interval: \"-1s\" is no duration; write a duration in quotes, such as \"5s\" or \"250ms\"",
        ),
        ("[mesh]\ninterval = \"0s\"", "fleet.toml:2: mesh.interval: must be longer than zero"),
        ("[mesh]\ninterval = \"1ms\"", "fleet.toml:2: mesh.interval: \"1ms\" is outside 10ms to 1year 18h"),
        ("[mesh]\ngive_up = \"500ms\"", "fleet.toml:2: mesh.give_up: 500ms must not be below deadline (1s)"),
        ("[mesh]\ndeadline = \"20s\"", "fleet.toml:2: mesh.give_up: 10s must not be below deadline (20s)"),
        ("[mesh]\nloss_exit = 0.01", "fleet.toml:2: mesh.loss_exit: 0.01 must be below loss_enter (0.01)"),
        ("[mesh]\n\nloss_enter = 0.001", "fleet.toml:3: mesh.loss_exit: 0.005 must be below loss_enter (0.001)"),
        ("[mesh]\ngive_up = \"2min\"", "fleet.toml:2: mesh.give_up: \"2min\" is outside 0s to 1m"),
        ("[export]\ninterval = \"1ms\"", "fleet.toml:2: export.interval: \"1ms\" is outside 100ms to 1year 18h"),
        ("[mesh]\nloss_enter = 1.5", "fleet.toml:2: mesh.loss_enter: 1.5 is outside 0 to 1"),
        ("[export]\nspool_bytes_max = 0", "fleet.toml:2: export.spool_bytes_max: 0 is below 1"),
        (
            "[export]\ncompression = \"br\"",
            "fleet.toml:2: export.compression: \"br\" is no compression; write \"gzip\", \"zstd\" or \"none\"",
        ),
        ("[export]\nspool_age_max = \"99years\"", "fleet.toml:2: export.spool_age_max: \"99years\" is outside 0s to 1year 18h"),
        ("[replication]\nlag_exit = \"10s\"", "fleet.toml:2: replication.lag_exit: 10s must be below lag_enter (10s)"),
        ("[judge]\nsuspect_after = \"90s\"", "fleet.toml:2: judge.suspect_after: 1m 30s must be below down_after (1m 30s)"),
        ("[judge]\ndown_after = \"0s\"", "fleet.toml:2: judge.down_after: must be longer than zero"),
        ("mesh.deadline = \"0s\"", "fleet.toml:1: mesh.deadline: must be longer than zero"),
    ] {
        let rest = GOOD.replacen("name = \"test\"\n", "", 1);
        let text = format!("{section}\n{rest}");
        let found: Vec<String> = errors(&text).into_iter().filter(|line| !line.ends_with(": name: is missing")).collect();
        assert_eq!(found, [line], "{section}");
    }
}

/// Everything that is wrong is told at once, in the order of the lines.
#[test]
fn all_errors_are_told() {
    let text =
        GOOD.replace("127.0.0.1:8620", "foo").replace("region = \"east\"", "region = \"nowhere\"").replace("\"main\"", "\"\"");
    assert_eq!(
        errors(&text),
        [
            r#"fleet.toml:8: region.agent.mesh: "foo" is not host:port"#,
            r#"fleet.toml:19: cluster.node.region: no region is called "nowhere"; there are: east, west"#,
            "fleet.toml:23: collector.name: \"\" is no name: use 1 to 63 characters of a-z, 0-9, '-', '_' and '.'",
        ]
    );
    assert_eq!(
        errors(""),
        [
            "fleet.toml:1: name: is missing",
            "fleet.toml:1: region: there is no region; add [[region]] with a name and its [[region.agent]]"
        ]
    );
    assert_eq!(
        errors("name = \"x\"\nregion = []"),
        ["fleet.toml:2: region: there is no region; add [[region]] with a name and its [[region.agent]]"]
    );
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
