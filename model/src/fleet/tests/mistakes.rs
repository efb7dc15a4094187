//! Every mistake of a fleet file is told where it stands, once.

use super::*;

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
