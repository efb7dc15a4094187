use std::process::Command;

use lagmesh_postgres::bootstrap::{BootstrapOptions, Finding, bootstrap_sql, preflight, uninstall_sql};
use lagmesh_postgres::layout::{self, LayoutFinding, Need};

use crate::support::{Server, Settings, open, run};

/// Everything that the bootstrap could leave behind, as text.
const TRACES: &str = "SELECT concat_ws(';', \
    (SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles), \
    (SELECT string_agg(nspname, ',' ORDER BY nspname) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'), \
    (SELECT count(*) FROM pg_class WHERE relpersistence = 'p'), (SELECT count(*) FROM pg_db_role_setting), \
    (SELECT count(*) FROM pg_auth_members), (SELECT count(*) FROM pg_shdepend), (SELECT count(*) FROM pg_type), \
    (SELECT count(*) FROM pg_description), \
    (SELECT count(*) FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE datname = 'postgres'))";

fn options() -> BootstrapOptions {
    BootstrapOptions {
        reader: Some("it's a \"reader\"".to_owned()),
        agent: "lag mesh".to_owned(),
        owner: "100% o'wner".to_owned(),
        ..BootstrapOptions::default()
    }
}

/// The bootstrap applies again and again without change, and its removal leaves no trace.
#[tokio::test]
async fn applies_twice_and_leaves_nothing() {
    let server = Server::start(&Settings::default());
    let (sql, undo) = (bootstrap_sql(&options()), uninstall_sql(&options()));
    assert!(!sql.to_lowercase().contains("password '"));
    let before = server.ask(TRACES).await;
    server.run(&sql).await;
    let once = server.ask(TRACES).await;
    assert_ne!(once, before);
    server.run(&sql).await;
    assert_eq!(server.ask(TRACES).await, once);
    let reader = open(&server.tcp("user='it\\'s a \"reader\"'")).await;
    assert!(layout::discover(reader.client(), Need::Read).await.unwrap().is_ready());
    let lacking = layout::discover(reader.client(), Need::Write).await.unwrap();
    assert!(matches!(&lacking, LayoutFinding::MissingGrants { grants, .. } if grants.len() == 3), "{lacking}");
    server.run(&undo).await;
    assert_eq!(server.ask(TRACES).await, before);
    server.run(&undo).await;
}

/// psql applies the printed text, as a role that is no superuser.
#[tokio::test]
async fn needs_no_superuser() {
    let server = Server::start(&Settings::default());
    server.run("CREATE ROLE admin LOGIN CREATEROLE; GRANT pg_monitor TO admin WITH ADMIN OPTION; GRANT CREATE ON DATABASE postgres TO admin").await;
    let psql = |sql: String| {
        let file = server.path().join("file.sql");
        std::fs::write(&file, sql).expect("a file");
        run(Command::new(crate::support::binaries().join("psql"))
            .args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", &server.tcp("user=admin"), "-f"])
            .arg(file));
    };
    psql(bootstrap_sql(&BootstrapOptions::default()));
    let agent = open(&server.tcp("user=lagmesh")).await;
    assert!(layout::discover(agent.client(), Need::Write).await.unwrap().is_ready());
    for setting in
        ["lock_timeout=500ms", "statement_timeout=5s", "idle_in_transaction_session_timeout=10s", "search_path=pg_catalog"]
    {
        let (name, value) = setting.split_once('=').unwrap();
        let found: String = agent.client().query_one(&format!("SELECT current_setting('{name}')"), &[]).await.unwrap().get(0);
        assert_eq!(found, value);
    }
    for forbidden in ["DROP TABLE lagmesh.beat", "TRUNCATE lagmesh.beat", "CREATE TABLE lagmesh.other (n int)"] {
        assert!(agent.client().batch_execute(forbidden).await.is_err(), "{forbidden}");
    }
    psql(uninstall_sql(&BootstrapOptions::default()));
    assert_eq!(server.ask("SELECT count(*) FROM pg_roles WHERE rolname ~ '^lagmesh'").await.as_deref(), Some("0"));
}

/// Where a publication would take the table in by itself, both the look around and the SQL itself refuse, until the steps were followed.
#[tokio::test]
async fn publications_stop_it() {
    let server = Server::start(&Settings::default());
    let sql = bootstrap_sql(&BootstrapOptions::default());
    let client = server.superuser().await;
    assert_eq!(preflight(&client).await.unwrap().findings, []);
    for (publication, finding) in [
        ("CREATE PUBLICATION everything FOR ALL TABLES", Finding::PublicationsForAllTables(vec!["everything".to_owned()])),
        (
            "CREATE SCHEMA lagmesh; CREATE PUBLICATION ours FOR TABLES IN SCHEMA lagmesh",
            Finding::PublicationsForSchema(vec!["ours".to_owned()]),
        ),
    ] {
        server.run(publication).await;
        let found = preflight(&client).await.unwrap();
        assert_eq!(found.findings, [finding]);
        assert!(found.refuses() && found.needs_safe_order());
        let error = client.client().batch_execute(&sql).await.unwrap_err();
        assert!(error.as_db_error().unwrap().hint().unwrap().contains("safe order"), "{error:?}");
        client.client().batch_execute("ROLLBACK").await.unwrap();
        server.run("DROP PUBLICATION IF EXISTS everything, ours; DROP SCHEMA IF EXISTS lagmesh").await;
    }
    server.run("CREATE PUBLICATION everything FOR ALL TABLES").await;
    server.run(&bootstrap_sql(&BootstrapOptions { despite_publications: true, ..BootstrapOptions::default() })).await;
    let found = preflight(&client).await.unwrap();
    assert!(!found.refuses() && found.findings.contains(&Finding::LayoutReady), "{found:?}");
    server.run(&sql).await;
}

/// Subscriptions, a standby and a table that is not ours are each reported.
#[tokio::test]
async fn other_findings() {
    let server = Server::start(&Settings::default());
    server.run("CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)").await;
    server.run("CREATE SCHEMA lagmesh; CREATE TABLE lagmesh.beat (n int)").await;
    let standby = server.standby("s", "");
    let client = standby.superuser().await;
    let found = preflight(&client).await.unwrap();
    assert_eq!(found.findings[..2], [Finding::InRecovery, Finding::Subscriptions(vec!["sub".to_owned()])]);
    assert!(matches!(&found.findings[2], Finding::LayoutWrong(LayoutFinding::NotTheTable { .. })), "{found:?}");
    assert!(found.refuses() && !found.needs_safe_order());
}
