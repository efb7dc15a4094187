//! Snippets and the exact lines that they are answered with.

use super::*;

/// A small scenario that is all right.
pub(crate) const GOOD: &str = r#"name = "small"
run = "10s"

[[region]]
name = "east"
clock = { monotonic = "5000s", boot = "9000s", wall = "-744s", drift_ppm = 30 }

[[region]]
name = "west"

[[link]]
from = "east"
to = "west"
delay = "30ms"
jitter = "1ms"

[[link]]
from = "west"
to = "east"
both = false
delay = "50ms"

[[cluster]]
name = "app"
[[cluster.node]]
name = "east-db"
region = "east"
[[cluster.node]]
name = "west-db"
region = "west"
follows = "east-db"

[[collector]]
name = "main"
region = "east"

[mesh]
interval = "100ms"

[[fault]]
at = "2s"
until = "5s"
do = "freeze"
to = "walreceiver west-db"

[[expect]]
name = "stands still"
of = "replication east-db -> west-db"
value = "state"
from = "2s"
until = "5s"
becomes = ["silent", "disconnected"]
"#;

fn errors(text: &str) -> Vec<String> {
    let found = Scenario::parse("s.toml", text);
    found.err().map(|errors| errors.to_string().lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// The one line that a changed scenario is answered with.
fn told(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let told = errors(&GOOD.replacen(from, to, 1));
    assert_eq!(told.len(), 1, "{told:?}");
    told[0].clone()
}

/// A scenario reads as it is written: both directions of a link, the later table winning, and a fault with its undoing.
#[test]
fn good() {
    let scenario = Scenario::parse("s.toml", GOOD).unwrap();
    let delay_ns = |from: &str| scenario.plan.links.iter().find(|link| link.from == from).unwrap().settings.delay_ns;
    assert_eq!((delay_ns("east"), delay_ns("west")), (30_000_000, 50_000_000));
    assert_eq!(scenario.plan.regions[0].clock.clocks.wall_offset_ns, -744_000_000_000);
    assert!(matches!(
        scenario.faults[..],
        [Fault { at_ns: 2_000_000_000, action: Action::Freeze, .. }, Fault { action: Action::Thaw, .. }]
    ));
    assert_eq!(scenario.expectations[0].seen_by, Observer::Agent("west".to_owned()));
    assert!(scenario.plan.fleet.contains("interval = \"100ms\""));
}

/// Whatever is wrong is told with file, line, key and a way out, before anything is started.
#[test]
fn wrong() {
    let mut wrong = Vec::new();
    for (from, to, line) in [
        ("name = \"small\"", "name = \"small\"\ncolour = 1", "s.toml:2: colour: unknown key; known here: "),
        ("to = \"west\"", "to = \"wets\"", "s.toml:13: link.to: no region is called \"wets\"; did you mean \"west\"?"),
        ("\"freeze\"", "\"freese\"", "s.toml:43: fault.do: nothing is called \"freese\"; did you mean \"freeze\"?"),
        ("walreceiver west-db", "walreceiver north-db", "s.toml:44: fault.to: no node is called \"north-db\""),
        ("walreceiver west-db", "disk of west", "s.toml:44: fault.to: \"disk of west\" is no target for this"),
        ("until = \"5s\"\ndo", "until = \"1s\"\ndo", "s.toml:42: fault.until: must be after `at`"),
        ("at = \"2s\"", "at = \"11s\"", "s.toml:41: fault.at: is after the end of the run"),
        (
            "\"silent\"",
            "\"silnt\"",
            "s.toml:52: expect.becomes: no state of this value is called \"silnt\"; did you mean \"silent\"?",
        ),
        ("becomes = [\"silent\", \"disconnected\"]", "", "s.toml:47: expect.name: expects nothing"),
        ("becomes = [\"silent\", \"disconnected\"]", "between = [\"1s\", \"2s\"]", "s.toml:52: expect.between: is for numbers"),
        (
            "becomes = [\"silent\", \"disconnected\"]",
            "covers_truth = true",
            "s.toml:52: expect.covers_truth: the testbed knows no truth",
        ),
        (
            "value = \"state\"\nfrom = \"2s\"\nuntil = \"5s\"\nbecomes = [\"silent\", \"disconnected\"]",
            "value = \"lag\"\nseen_by = \"collector main\"\ncovers_truth = true",
            "s.toml:50: expect.seen_by: only an agent tells",
        ),
        (
            "value = \"state\"",
            "value = \"stat\"",
            "s.toml:49: expect.value: no value of this subject is called \"stat\"; did you mean \"state\"?",
        ),
        ("interval = \"100ms\"", "interval = \"1ms\"", "s.toml:38: mesh.interval: \"1ms\" is outside"),
        ("interval = \"100ms\"", "intervall = \"100ms\"", "s.toml:38: mesh.intervall: unknown key; did you mean \"interval\"?"),
        ("delay = \"30ms\"", "delay = 30", "s.toml:14: link.delay: must be text in quotes"),
        ("follows = \"east-db\"", "follows = \"west-db\"", "s.toml:31: cluster.node.follows: no earlier node of this cluster"),
    ] {
        let answer = told(from, to);
        if !answer.starts_with(line) {
            wrong.push(format!("{to}\n  {answer}\n  {line}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let cut = GOOD.find("[[expect]]").unwrap();
    assert_eq!(errors(&GOOD[..cut]).len(), 1, "a scenario without expectation");
}
