use clap::{CommandFactory as _, Parser as _};
use std::fs;

use super::*;

const FLEET: &str = r#"
name = "test"
[[region]]
name = "new-york"
[[region.agent]]
mesh = "127.0.0.1:8620"
[[region]]
name = "tokyo"
[[region.agent]]
name = "tokyo-a"
mesh = "127.0.0.2:8630"
[[region.agent]]
name = "tokyo-b"
mesh = "127.0.0.3:8631"
"#;

/// Reads the configuration of a fleet file and more arguments.
fn read(fleet: &str, more: &[&str]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    fs::write(&file, fleet).unwrap();
    let name = file.display().to_string();
    let args = ["lagmesh-agent", "--fleet", &name].into_iter().chain(more.iter().copied());
    let args = Args::try_parse_from(args).unwrap();
    Config::read(&args).map_err(|e| e.to_string().replace(&name, "FILE"))
}

/// The command line is well formed.
#[test]
fn command_line() {
    Args::command().debug_assert();
}

/// The only agent of a region needs no name; of several, one must be named.
#[test]
fn agents() {
    let agent = |more: &[&str]| read(FLEET, more).map(|config| config.agent.to_string());
    assert_eq!(agent(&["--region", "new-york"]), Ok("new-york".to_owned()));
    assert_eq!(agent(&["--region", "tokyo", "--agent", "tokyo-b"]), Ok("tokyo-b".to_owned()));
    assert_eq!(
        agent(&["--region", "tokyo"]),
        Err("FILE: region \"tokyo\" has several agents; say with --agent which one this is: tokyo-a, tokyo-b".to_owned())
    );
    assert_eq!(
        agent(&["--region", "tokyo", "--agent", "x"]),
        Err("FILE: region \"tokyo\" has no agent called \"x\"; it has: tokyo-a, tokyo-b".to_owned())
    );
    assert_eq!(agent(&["--region", "tokio"]), Err("FILE: no region is called \"tokio\"; there are: new-york, tokyo".to_owned()));
}

/// Without being told an agent listens on loopback only if its peers reach it there, and else everywhere, on its own port.
#[test]
fn where_to_listen() {
    for (own, listen) in [
        ("127.0.0.2:8630", "127.0.0.2:8630"),
        ("[::1]:8620", "[::1]:8620"),
        ("localhost:1", "127.0.0.1:1"),
        ("agent.example:8620", "0.0.0.0:8620"),
        ("192.0.2.1:8620", "0.0.0.0:8620"),
        ("[2001:db8::1]:8620", "[::]:8620"),
    ] {
        assert_eq!(listen_for(&own.parse().unwrap()), listen.parse().unwrap(), "{own}");
    }
}

/// A mesh that others can reach needs a key or the word of the fleet file, whichever way it is opened.
#[test]
fn mesh_beside_loopback_needs_a_key() {
    let public = FLEET.replace("127.0.0.2:8630", "192.0.2.1:8630");
    let error = "FILE: the mesh leaves this machine and has no key; make one with `openssl rand -hex 32 > mesh.key` and give it \
                 to every agent with --mesh-key-file, or write insecure = true at the top of the fleet file";
    let here = ["--region", "new-york"];
    let open = ["--region", "new-york", "--mesh-listen", "0.0.0.0:8620"];
    let keyed = |fleet: &str, more: &[&str]| read(fleet, more).map(|config| config.keys.is_some());
    assert_eq!(keyed(FLEET, &here), Ok(false));
    assert_eq!(keyed(&public, &here), Err(error.to_owned()));
    assert_eq!(keyed(FLEET, &open), Err(error.to_owned()));
    assert_eq!(keyed(&format!("insecure = true\n{public}"), &open), Ok(false));

    let missing = keyed(&public, &["--region", "new-york", "--mesh-key-file", "/nonexistent/key"]).unwrap_err();
    assert!(missing.starts_with("mesh key file /nonexistent/key: "), "{missing}");
}

/// Files of authorities that hold none are refused at the start, not at the first request.
#[test]
fn authorities_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, "nothing").unwrap();
    let name = file.display().to_string();
    let error = read(FLEET, &["--region", "new-york", "--otlp-ca-file", &name]).unwrap_err();
    assert_eq!(error, format!("certificate authorities {name}: it holds no certificate"));
    let error = read(FLEET, &["--region", "new-york", "--otlp-ca-file", "/nonexistent"]).unwrap_err();
    assert!(error.starts_with("certificate authorities /nonexistent: "), "{error}");
}

/// Every mistake of a fleet file is one line.
#[test]
fn mistakes_are_lines() {
    let wrong = FLEET.replace("name = \"tokyo\"", "name = \"tokyo\"\ncolour = 1").replace("127.0.0.3:8631", "here");
    let error = read(&wrong, &["--region", "new-york"]).unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(error.lines().all(|line| line.starts_with("FILE:")), "{error}");
}

/// A plan that fits its budget without a key does not with one: an agent that was given a key does not start.
#[test]
fn over_budget() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("mesh.key");
    fs::write(&key, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let with = |budget: f64| format!("{FLEET}[mesh]\nbudget_bits_per_s = {budget:.0}\n");
    let fleet = lagmesh_model::fleet::Fleet::parse("f", FLEET).unwrap();
    let most = |with_key| {
        let rate = |region| lagmesh_model::fleet::traffic::of_region(&fleet, region, with_key).bits_per_s().ceil();
        fleet.regions.iter().map(rate).fold(0.0, f64::max)
    };
    let start = |budget, more: &[&str]| read(&with(budget), &[&["--region", "new-york"], more].concat()).map(|_| ());
    let keyed = ["--mesh-key-file", key.to_str().unwrap()];
    assert_eq!(start(most(false), &[]), Ok(()));
    assert_eq!(start(most(true), &keyed), Ok(()));
    assert!(start(most(false), &keyed).unwrap_err().starts_with("FILE: mesh.budget_bits_per_s: the mesh of tokyo takes "));
}

/// Read again the file is checked as it was at the start: it must be right, know this agent, and be safe with the keys that there are.
#[test]
fn the_fleet_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    fs::write(&file, FLEET).unwrap();
    let name = file.display().to_string();
    let args = Args::try_parse_from(["lagmesh-agent", "--fleet", &name, "--region", "tokyo", "--agent", "tokyo-a"]).unwrap();
    let config = Config::read(&args).unwrap();
    assert_eq!(config.read_fleet_again().unwrap(), *config.fleet);
    let table = [
        (FLEET.replace("new-york", "boston"), None),
        ("name = ".to_owned(), Some("FILE:1: syntax: ")),
        (FLEET.replace("tokyo", "kyoto"), Some("FILE: no region is called \"tokyo\"")),
        (FLEET.replace("tokyo-a", "tokyo-c"), Some("FILE: region \"tokyo\" has no agent called \"tokyo-a\"")),
        (FLEET.replace("127.0.0.1", "192.0.2.1"), Some("FILE: the mesh leaves this machine and has no key")),
    ];
    for (text, said) in table {
        fs::write(&file, text).unwrap();
        let error = config.read_fleet_again().err().map(|error| error.to_string().replace(&name, "FILE"));
        match said {
            None => assert_eq!(error, None),
            Some(said) => assert!(error.as_ref().is_some_and(|error| error.starts_with(said)), "{said}: {error:?}"),
        }
    }
    fs::remove_file(&file).unwrap();
    assert!(config.read_fleet_again().is_err());
}
