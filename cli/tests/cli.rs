//! The real binary: what it prints where, and with which code it ends.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

const GOOD: &str = include_str!("../../packaging/fleet.toml");

fn lagmesh(args: &[&str]) -> Output {
    lagmesh_in(Path::new("/"), args)
}

fn lagmesh_in(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lagmesh"));
    for variable in ["LAGMESH_FLEET", "LAGMESH_URL", "LAGMESH_CA_FILE"] {
        command.env_remove(variable);
    }
    command.args(args).current_dir(folder).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Checks a fleet file: code, standard output, standard error.
fn check(fleet: &str) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("fleet.toml"), fleet).expect("a file");
    let output = lagmesh_in(folder.path(), &["check", "fleet.toml"]);
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The shipped example is right, and the summary says what it describes and costs.
#[test]
fn good_fleet() {
    let (code, out, err) = check(GOOD);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("fleet.toml: fleet example is right\n\n3 regions, 6 links (full mesh), 16 flows"), "{out}");
    assert!(out.contains("  121.0  ") && out.contains("all, each way") && out.contains("needs a mesh key"), "{out}");
    assert!(!out.contains("warning"), "{out}");
}

/// Warnings stand below the summary and change no code.
#[test]
fn warned_fleet() {
    let (code, out, err) = check("name = \"t\"\n[[region]]\nname = \"a\"\n[[region.agent]]\nmesh = \"127.0.0.1:8620\"\n");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("\nwarning: one region:") && out.contains("\nwarning: no collector:"), "{out}");
}

/// Every mistake is one line that names file, line and key; the code is 78 and nothing is printed to standard output.
#[test]
fn bad_fleets() {
    for (from, to, line) in [
        ("insecure = false", "insecur = false", "fleet.toml:11: insecur: unknown key; did you mean \"insecure\"?\n"),
        (
            "region = \"tokyo\"",
            "region = \"tokio\"",
            "fleet.toml:79: cluster.node.region: no region is called \"tokio\"; did you mean \"tokyo\"?\n",
        ),
        (
            "name = \"spare\"",
            "name = \"main\"",
            "fleet.toml:90: collector.name: \"main\" is the name of the collector of line 86 already\n",
        ),
        ("agent.new-york.example.com:8620", "foo", "fleet.toml:29: region.agent.mesh: \"foo\" is not host:port\n"),
        ("loss_exit = 0.005", "loss_exit = 0.02", "fleet.toml:139: mesh.loss_exit: 0.02 must be below loss_enter (0.01)\n"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let (code, out, err) = check(&GOOD.replacen(from, to, 1));
        assert_eq!((code, out.as_str(), err.as_str()), (Some(78), "", line));
    }
    let dsn = check(&GOOD.replacen("user=lagmesh sslmode=verify-full", "user=lagmesh sslmode=verify-all", 1));
    assert_eq!(dsn.0, Some(78));
    assert!(
        dsn.2.starts_with("fleet.toml:70: cluster.node.dsn: ") && dsn.2.contains("sslmode") && dsn.2.lines().count() == 1,
        "{}",
        dsn.2
    );
    for (probe, expected) in [("host=db user=x sslmode=never", "sslmode"), ("host=/run/postgresql user=x", "other regions")] {
        let (code, _, err) = check(&GOOD.replacen("latitude = 40.71", &format!("sql_probe = \"{probe}\"\nlatitude = 40.71"), 1));
        assert_eq!(code, Some(78), "{err}");
        assert!(
            err.starts_with("fleet.toml:22: region.sql_probe: ") && err.contains(expected) && err.lines().count() == 1,
            "{err}"
        );
    }
    let two = GOOD.replace("insecure = false", "insecure = 7").replace("flows = 16", "flows = 0");
    let (code, _, err) = check(&two);
    assert_eq!(code, Some(78));
    assert_eq!(
        err,
        "fleet.toml:11: insecure: must be true or false, not an integer\nfleet.toml:118: mesh.flows: 0 is outside 1 to 64\n"
    );
}

/// A file that is not there, and one that is no text, are one line and code 78 too.
#[test]
fn unreadable_fleets() {
    let missing = lagmesh(&["check", "/nowhere/fleet.toml"]);
    assert_eq!(missing.status.code(), Some(78));
    assert_eq!(
        text(&missing.stderr),
        "lagmesh: /nowhere/fleet.toml: No such file or directory (os error 2); name the fleet file\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    fs::write(&file, b"name = \"x\"\n# \xff\n").unwrap();
    let binary = lagmesh_in(folder.path(), &["check", "fleet.toml"]);
    assert_eq!((binary.status.code(), text(&binary.stderr).as_str()), (Some(78), "lagmesh: fleet.toml:2: syntax: not UTF-8\n"));
}

/// Every command explains itself with examples, and the version is that of the package.
#[test]
fn help_and_version() {
    let version = lagmesh(&["--version"]);
    assert_eq!((version.status.code(), text(&version.stdout)), (Some(0), format!("lagmesh {}\n", env!("CARGO_PKG_VERSION"))));
    for command in [
        &["--help"][..],
        &["status", "--help"],
        &["check", "--help"],
        &["bootstrap", "--help"],
        &["prune", "--help"],
        &["list-metrics", "--help"],
    ] {
        let help = lagmesh(command);
        assert_eq!(help.status.code(), Some(0));
        assert!(text(&help.stdout).contains("Examples:\n  lagmesh "), "{command:?}");
    }
    for wrong in [
        &["statsu"][..],
        &[],
        &["status", "--watch", "0"],
        &["bootstrap"],
        &["prune", "--origin", "x"],
        &["bootstrap", "--uninstall"],
    ] {
        let output = lagmesh(wrong);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{wrong:?}");
    }
}

/// Nobody answers: one clear error that says what to do, and code 1.
#[test]
fn status_of_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = lagmesh(&["status", "--url", &url]);
    let err = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    assert!(
        err.starts_with(&format!("lagmesh: no answer from {url}/v1/status: "))
            && err.contains("refused")
            && err.contains("--local"),
        "{err}"
    );
    let wrong = lagmesh(&["status", "--url", "collector:8622"]);
    assert_eq!(wrong.status.code(), Some(78));
}

/// Serves one HTTP answer and returns the base URL.
fn serve(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its number"));
    thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        let status = if request.starts_with(b"GET /v1/status HTTP/1.1\r\n") { status } else { "404 Not Found" };
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    });
    url
}

/// A status is shown as tables without colours in a pipe, or as it came.
#[test]
fn status_of_a_collector() {
    const BODY: &str = r#"{"fleet":"f","version":"1","at":0,"regions":[],"regions_reporting":0,"links":[],"nodes":[],"replications":[],"clusters":[]}"#;
    let table = lagmesh(&["status", "--url", &serve("200 OK", BODY)]);
    assert_eq!((table.status.code(), text(&table.stderr).as_str()), (Some(0), ""));
    assert!(text(&table.stdout).contains("no region is known") && !text(&table.stdout).contains('\x1b'));
    let json = lagmesh(&["status", "-o", "json", "--url", &serve("200 OK", BODY)]);
    assert!(text(&json.stdout).contains("\"fleet\": \"f\""));
    let error = lagmesh(&["status", "--url", &serve("503 Service Unavailable", "")]);
    assert_eq!(error.status.code(), Some(1));
    assert!(text(&error.stderr).contains("it answers 503"), "{}", text(&error.stderr));
}

/// The SQL goes to standard output, whole, and carries the guard that refuses by itself.
#[test]
fn bootstrap_prints() {
    let sql = lagmesh(&["bootstrap", "--print-sql", "--agent-role", "watcher"]);
    let out = text(&sql.stdout);
    assert_eq!((sql.status.code(), text(&sql.stderr).as_str()), (Some(0), ""));
    assert!(
        out.contains("BEGIN;") && out.ends_with("COMMIT;\n") && out.contains("\"watcher\"") && out.contains("RAISE EXCEPTION"),
        "{out}"
    );
    let forced = text(&lagmesh(&["bootstrap", "--print-sql", "--force"]).stdout);
    assert!(!forced.contains("RAISE EXCEPTION"));
    let uninstall = text(&lagmesh(&["bootstrap", "--print-sql", "--uninstall"]).stdout);
    assert!(uninstall.contains("DROP TABLE IF EXISTS lagmesh.beat"));
}

/// A server that does not answer is refused, and nothing is printed to standard output.
#[test]
fn bootstrap_without_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let dsn = format!("host=127.0.0.1 port={port} user=postgres");
    let output = lagmesh(&["bootstrap", "--print-sql", "--dsn", &dsn]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    assert!(text(&output.stderr).starts_with("lagmesh: "));
}

/// Every metric of the catalogue is listed, for people and for documents.
#[test]
fn metrics() {
    let table = text(&lagmesh(&["list-metrics"]).stdout);
    let markdown = text(&lagmesh(&["list-metrics", "-o", "markdown"]).stdout);
    for metric in lagmesh_model::catalogue::CATALOGUE {
        let is_shown = !metric.prometheus_series_names().is_empty();
        let prometheus = if is_shown { metric.prometheus_name() } else { "not shown".to_owned() };
        assert!(table.contains(metric.name) && table.contains(&prometheus));
        assert!(markdown.contains(&format!("| `{}` | `{prometheus}` |", metric.name)));
    }
}
