//! The real binary against real servers: bootstrap looks before it prints, prune deletes only what is surely nobody's.

#[path = "../../postgres/tests/real/support.rs"]
#[expect(dead_code, reason = "the servers of lagmesh-postgres's tests; not every test needs all that they can")]
mod support;

use std::process::{Command, Output};

use support::{Server, Settings};

fn lagmesh(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lagmesh"));
    command.args(args).env_remove("LAGMESH_FLEET").output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A server that replicates nothing by itself takes the printed SQL, twice, and its removal.
#[tokio::test]
async fn bootstrap_and_back() {
    let server = Server::start(&Settings::default());
    let dsn = server.local("");
    for round in ["first", "again"] {
        let printed = lagmesh(&["bootstrap", "--print-sql", "--dsn", &dsn]);
        assert_eq!(printed.status.code(), Some(0), "{round}: {}", text(&printed.stderr));
        server.run(&text(&printed.stdout)).await;
    }
    let looked = lagmesh(&["bootstrap", "--dsn", &dsn]);
    assert!(looked.status.success() && text(&looked.stderr).contains("heartbeat table is there"), "{}", text(&looked.stderr));
    server.run(&text(&lagmesh(&["bootstrap", "--print-sql", "--uninstall"]).stdout)).await;
    let gone = "SELECT (pg_catalog.to_regclass('lagmesh.beat') IS NULL AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname LIKE 'lagmesh%'))::text";
    server.until(gone, "true").await;
}

/// Where a publication takes every table in, nothing is printed and the safe order of steps is told; the SQL by itself refuses with
/// the same steps; who has followed them may go on.
#[tokio::test]
async fn bootstrap_refuses() {
    let server = Server::start(&Settings::default());
    server.run("CREATE PUBLICATION everything FOR ALL TABLES").await;
    let dsn = server.local("");
    let refused = lagmesh(&["bootstrap", "--print-sql", "--dsn", &dsn]);
    assert_eq!((refused.status.code(), text(&refused.stdout).as_str()), (Some(1), ""));
    let told = text(&refused.stderr);
    assert!(told.contains("everything") && told.contains("1. Keep the agents stopped"), "{told}");

    let blind = text(&lagmesh(&["bootstrap", "--print-sql"]).stdout);
    let error = server.superuser().await.client().batch_execute(&blind).await.expect_err("the guard refuses");
    let error = error.as_db_error().expect("an answer of the server");
    assert!(error.message().contains("everything"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("1. Keep the agents stopped")), "{:?}", error.hint());

    let forced = lagmesh(&["bootstrap", "--print-sql", "--force", "--dsn", &dsn]);
    assert_eq!(forced.status.code(), Some(0), "{}", text(&forced.stderr));
    server.run(&text(&forced.stdout)).await;
}

/// Rows of an origin that has been quiet for an hour go, those of others stay; a recent origin needs --force.
#[tokio::test]
async fn prune_deletes_the_departed() {
    let server = Server::start(&Settings::default());
    server.run(&text(&lagmesh(&["bootstrap", "--print-sql"]).stdout)).await;
    server
        .run(
            "INSERT INTO lagmesh.beat (origin, incarnation, stream, slot, seq, clock_epoch, sent_raw_ns, sent_wall, system_identifier,
                                       timeline, lsn, layout)
             SELECT origin, 1, 'beat', slot, slot + 1, 1, 1, now() - age, 1, 1, '0/1', 1
             FROM (VALUES ('gone', interval '2 hours'), ('alive', interval '1 second')) AS o (origin, age), generate_series(0, 2) AS slot",
        )
        .await;
    // With the grants of an agent, not as a superuser.
    let dsn = server.tcp("").replace("user=postgres", "user=lagmesh");
    let prune = |more: &[&str]| lagmesh(&[&["prune", "--dsn", &dsn, "--origin"], more].concat());
    let tried = prune(&["gone", "--dry-run"]);
    assert_eq!(tried.status.code(), Some(0), "{}", text(&tried.stderr));
    assert_eq!(text(&tried.stdout), "would delete 3 rows of gone (the newest written 2h 00m ago)\n");
    let recent = prune(&["alive"]);
    assert_eq!((recent.status.code(), text(&recent.stdout).as_str()), (Some(1), ""));
    assert!(text(&recent.stderr).contains("add --force"), "{}", text(&recent.stderr));
    assert_eq!(text(&prune(&["gone"]).stdout), "deleted 3 rows of gone (the newest written 2h 00m ago)\n");
    assert_eq!(text(&prune(&["gone"]).stdout), "nothing to delete: gone has no rows; there are rows of alive (3 rows)\n");
    server.until("SELECT count(*)::text FROM lagmesh.beat WHERE origin = 'alive'", "3").await;
    assert_eq!(prune(&["alive", "--force"]).status.code(), Some(0));
}
