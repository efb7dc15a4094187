//! What the program says before it runs, and how it refuses to.

use std::process::Output;

use crate::program::{Home, fleet, program};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs the program in a region of a fleet file to its end.
fn refused(fleet: &str, more: &[&str]) -> (i32, String) {
    let home = Home::new(fleet);
    let Output { status, stdout, stderr } = home.command().args(more).output().unwrap();
    assert!(stdout.is_empty(), "{}", text(&stdout));
    assert!(!home.path("state").exists(), "nothing is started");
    (status.code().unwrap(), text(&stderr).replace(&home.path("fleet.toml").display().to_string(), "fleet.toml"))
}

#[test]
fn version() {
    let output = program().arg("--version").output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), format!("lagmesh-agent {}\n", env!("CARGO_PKG_VERSION")));
}

/// Help names every flag of the handbook, with its variable and default.
#[test]
fn help() {
    let output = program().arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = text(&output.stdout);
    for word in [
        "--fleet",
        "LAGMESH_FLEET",
        "/etc/lagmesh/fleet.toml",
        "--region",
        "LAGMESH_REGION",
        "--agent",
        "LAGMESH_AGENT",
        "--mesh-listen",
        "LAGMESH_MESH_LISTEN",
        "--mesh-key-file",
        "LAGMESH_MESH_KEY_FILE",
        "--http-listen",
        "LAGMESH_HTTP_LISTEN",
        "127.0.0.1:8621",
        "--state-dir",
        "LAGMESH_STATE_DIR",
        "/var/lib/lagmesh-agent",
        "--otlp-ca-file",
        "--log-format",
        "--log-level",
        "LAGMESH_LOG",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
    assert!(!help.contains("STATE_DIRECTORY"), "what only systemd sets is not shown");
}

/// A wrong command line is told apart from a wrong configuration.
#[test]
fn usage() {
    for arguments in [&["--colour"][..], &[], &["--region", "New York"]] {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", text(&output.stderr));
    }
}

/// Every mistake of the fleet file is one line that names file, line and key, the code is 78, and nothing is started.
#[test]
fn bad_fleet_files() {
    let good = fleet(&[]);
    let line_of = |text: &str, word: &str| text.lines().position(|line| line.contains(word)).unwrap() + 1;
    let here = ["--region", "dublin"];

    let unknown_key = good.replace("[export]", "[export]\ncolour = 1");
    let line = line_of(&unknown_key, "colour");
    let (code, said) = refused(&unknown_key, &here);
    assert_eq!((code, said.lines().count()), (78, 1), "{said}");
    assert!(said.starts_with(&format!("fleet.toml:{line}: export.colour: ")), "{said}");

    let two = good.replace("region = \"tokyo\"", "region = \"tokio\"").replace("name = \"db-dublin\"", "name = \"db-tokyo\"");
    let (code, said) = refused(&two, &here);
    assert_eq!((code, said.lines().count()), (78, 2), "{said}");
    assert!(said.lines().all(|line| line.starts_with("fleet.toml:")), "{said}");

    let (code, said) = refused("name = ", &here);
    assert_eq!((code, said.lines().count()), (78, 1), "{said}");
}

#[test]
fn missing_fleet_file() {
    let output = program().args(["--fleet", "/nonexistent.toml", "--region", "dublin"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        text(&output.stderr),
        "/nonexistent.toml: No such file or directory (os error 2); name the fleet file with --fleet\n"
    );
}

#[test]
fn unknown_region() {
    assert_eq!(
        refused(&fleet(&[]), &["--region", "dublim"]),
        (78, "fleet.toml: no region is called \"dublim\"; there are: dublin, tokyo\n".to_owned())
    );
}

/// Without a key the mesh does not leave this machine, unless the fleet file says that it may.
#[test]
fn missing_key() {
    let public = fleet(&[]).replacen("mesh = \"127.0.0.1:", "mesh = \"192.0.2.1:", 1);
    let (code, said) = refused(&public, &["--region", "dublin"]);
    assert_eq!((code, said.lines().count()), (78, 1), "{said}");
    assert!(said.contains("has no key") && said.contains("--mesh-key-file") && said.contains("insecure = true"), "{said}");
    let (code, said) = refused(&public, &["--region", "dublin", "--mesh-key-file", "/nonexistent.key"]);
    assert_eq!(code, 78);
    assert!(said.contains("/nonexistent.key"), "{said}");
}
