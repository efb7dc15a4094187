use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lagmesh_model::state::Phase;
use lagmesh_model::stopwatch::Stopwatch;
use lagmesh_model::time::RawNanos;
use lagmesh_postgres::deadline::CANCEL_DEADLINE;
use lagmesh_postgres::{Connection, DeadlineExceeded, QueryError, prepare, with_deadline};
use tokio::time::Instant;

use crate::support::{Server, Settings, info, open, run};

const LIMIT: Duration = Duration::from_millis(300);

async fn exceed(connection: &Connection, sql: &str) -> DeadlineExceeded {
    match with_deadline(connection, LIMIT, connection.client().batch_execute(sql)).await {
        Err(QueryError::DeadlineExceeded(exceeded)) => exceeded,
        other => panic!("{other:?}"),
    }
}

/// On the deadline the server stops working too: the statement is gone from its activity.
#[tokio::test]
async fn statements_are_cancelled_on_the_server() {
    let server = Server::start(&Settings::default());
    for text in [server.local("application_name=sleeper"), server.tcp("application_name=sleeper")] {
        let connection = open(&text).await;
        assert!(exceed(&connection, "SELECT pg_sleep(60)").await.cancelled);
        server.until("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sleeper' AND state = 'active'", "0").await;
        let answer = with_deadline(&connection, LIMIT * 10, connection.client().query_one("SELECT 7", &[])).await.unwrap();
        assert_eq!(answer.get::<_, i32>(0), 7);
    }
}

/// A connection that was made in phases can be cancelled as any other, and one that is closed says goodbye.
#[tokio::test]
async fn phased_connections_are_cancelled() {
    let server = Server::start(&Settings::default());
    let info = info(&server.tcp("application_name=phased"));
    let watch = Stopwatch::start(Arc::new(|| RawNanos(0)));
    let connection = prepare(&info, &info.hosts[0]).await.unwrap().connect(&watch).await.unwrap();
    let phases: Vec<Phase> = watch.phases().into_iter().map(|(phase, _)| phase).collect();
    assert_eq!(phases, [Phase::Connect, Phase::Auth]);
    assert!(exceed(&connection, "SELECT pg_sleep(60)").await.cancelled);
    server.until("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'phased' AND state = 'active'", "0").await;
    connection.close(Duration::from_secs(5)).await;
    server.until("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'phased'", "0").await;
}

/// A commit that waits for a synchronous standby is ended as well, and stays in doubt: it stands on this server.
#[tokio::test]
async fn commits_in_wait_are_cancelled() {
    let server = Server::start(&Settings::default());
    server.run("CREATE TABLE t (n int)").await;
    server.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    server.run("SELECT pg_reload_conf()").await;
    server.until("SELECT current_setting('synchronous_standby_names')", "nobody").await;
    let connection = open(&server.local("application_name=waiter options='-c statement_timeout=100ms'")).await;
    assert!(exceed(&connection, "INSERT INTO t VALUES (1)").await.cancelled);
    server.until("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "0").await;
    server.until("SELECT count(*) FROM t", "1").await;
}

/// A wait that someone else cut short looks like success to the session; the connection counts it all the same.
#[tokio::test]
async fn cut_waits_are_counted() {
    let server = Server::start(&Settings { conf: "synchronous_standby_names = 'nobody'", ..Settings::default() });
    server.run("SET synchronous_commit = local; CREATE TABLE t (n int)").await;
    let connection = open(&server.local("application_name=waiter")).await;
    let insert = connection.client().batch_execute("INSERT INTO t VALUES (1)");
    let cut = async {
        server
            .until("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiter' AND wait_event = 'SyncRep'", "1")
            .await;
        server.run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'waiter'").await;
    };
    let (inserted, ()) = tokio::join!(insert, cut);
    inserted.expect("PostgreSQL calls it a success");
    assert_eq!(connection.cut_waits(), 1);
}

/// A server process that is frozen cannot be cancelled; the caller is back in time and knows that.
#[tokio::test]
async fn frozen_servers_are_left_in_time() {
    let server = Server::start(&Settings::default());
    let connection = open(&server.local("")).await;
    let process: i32 = connection.client().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    run(Command::new("kill").args(["-STOP", &process.to_string()]));
    let started = Instant::now();
    let exceeded = exceed(&connection, "SELECT 1").await;
    assert!(!exceeded.cancelled && started.elapsed() < LIMIT + CANCEL_DEADLINE + Duration::from_secs(1));
    run(Command::new("kill").args(["-CONT", &process.to_string()]));
}

/// What is quick enough is not touched, and the server's own errors come through with their words.
#[tokio::test]
async fn quick_statements_pass() {
    let server = Server::start(&Settings::default());
    let connection = open(&server.local("")).await;
    let error = with_deadline(&connection, LIMIT * 10, connection.client().batch_execute("SELECT 1/0")).await.unwrap_err();
    assert_eq!(error.to_string(), "division by zero (SQLSTATE 22012)");
}
