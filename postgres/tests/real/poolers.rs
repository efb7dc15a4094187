use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use lagmesh_postgres::Connection;
use lagmesh_postgres::bootstrap::{Finding, preflight};
use lagmesh_tests::postgres::pooler;
use lagmesh_tests::skip::skip;
use tokio::time::Instant;

use crate::support::{PATIENCE, Server, Settings, open, try_connect};

/// A `PgBouncer` before a server, under the server's account; dropping it ends it.
struct Pooler {
    process: Child,
    port: u16,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Pooler {
    fn start(program: &Path, server: &Server, mode: &str) -> Pooler {
        let port = lagmesh_tests::ports::free().expect("a free port");
        // With `auth_type = any` the database names the user of the server connections.
        let settings = format!(
            "[databases]\n* = user=postgres host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\n",
            server.port
        );
        let file = server.path().join(format!("{mode}.ini"));
        fs::write(&file, settings).expect("a file");
        let log = fs::File::create(server.path().join(format!("{mode}.log"))).expect("a log");
        let mut command = server.command(program);
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Pooler { process: command.spawn().expect("pgbouncer starts"), port }
    }

    async fn open(&self) -> Connection {
        let text = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match try_connect(&text).await {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A pooler is recognised in every mode, also where a session stays with one server process, and a server is taken for what it is,
/// however it is reached.
#[tokio::test]
async fn a_pooler_is_recognised_and_a_server_is_not_taken_for_one() {
    let server = Server::start(&Settings::default());
    for text in [server.local(""), server.tcp(""), server.tcp("sslmode=prefer")] {
        let connection = open(&text).await;
        assert!(!connection.is_pooled().await.unwrap(), "{text}");
        assert_eq!(preflight(&connection).await.unwrap().findings, []);
    }
    let Some(program) = pooler::program() else { return skip("PgBouncer in the path: pgbouncer is not here") };
    for mode in ["session", "transaction", "statement"] {
        let pooler = Pooler::start(&program, &server, mode);
        for _ in 0..3 {
            let connection = pooler.open().await;
            assert!(connection.is_pooled().await.unwrap(), "{mode}");
            assert_eq!(preflight(&connection).await.unwrap().findings, [Finding::Pooled], "{mode}");
        }
    }
}
