use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lagmesh_postgres::{ConnInfo, ConnectError, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::{Server, Settings, info, open, try_connect};

/// Sockets, TCP and lists of hosts lead to the server, and the session is what the string asked for.
#[tokio::test]
async fn sessions() {
    let server = Server::start(&Settings::default());
    let ask = "SELECT current_setting('application_name') || ' ' || current_setting('work_mem')";
    for text in [server.local(""), server.tcp(""), format!("host=127.0.0.1,127.0.0.1 port=1,{} user=postgres", server.port)] {
        let connection =
            open(&format!("{text} application_name=app options='-c work_mem=77MB' keepalives_idle=9 tcp_user_timeout=5000"))
                .await;
        let found: String = connection.client().query_one(ask, &[]).await.unwrap().get(0);
        assert_eq!(found, "app 77MB");
    }
    for (kind, fits) in [
        ("any", true),
        ("read-write", true),
        ("primary", true),
        ("prefer-standby", true),
        ("read-only", false),
        ("standby", false),
    ] {
        let outcome = try_connect(&server.tcp(&format!("target_session_attrs={kind}"))).await;
        match outcome {
            Ok(_) => assert!(fits, "{kind}"),
            Err(error) => assert!(!fits && matches!(error, ConnectError::WrongSession { .. }), "{kind}: {error}"),
        }
    }
}

/// Each way of not getting in has its own kind, and its message says what to do.
#[tokio::test]
async fn refusals() {
    let hba = "host all trusted 127.0.0.1/32 trust\nhost all ann 127.0.0.1/32 scram-sha-256\nhost all old 127.0.0.1/32 md5";
    let server = Server::start(&Settings { hba, ..Settings::default() });
    server
        .run("CREATE ROLE trusted LOGIN CONNECTION LIMIT 1; CREATE ROLE ann LOGIN PASSWORD 'good'; CREATE ROLE stranger LOGIN")
        .await;
    server.run("SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'good'").await;
    server.run("CREATE DATABASE closed").await;
    server.run("REVOKE ALL ON DATABASE closed FROM PUBLIC").await;
    let (port, base) = (server.port, format!("host=127.0.0.1 port={} dbname=postgres", server.port));
    for user in ["ann", "old"] {
        open(&format!("{base} user={user} password=good")).await;
    }
    let held = open(&format!("{base} user=trusted")).await;
    let table = [
        (format!("{base} user=ann password=bad"), "refused", "check the password"),
        (format!("{base} user=old password=bad"), "refused", "check the password"),
        (format!("{base} user=ann"), "refused", "password file"),
        (format!("{base} user=stranger"), "refused", "pg_hba.conf"),
        (format!("host=127.0.0.1 port={port} user=ann password=good dbname=nope"), "no-database", "correct dbname"),
        (format!("host=127.0.0.1 port={port} user=ann password=good dbname=closed"), "refused", "GRANT CONNECT"),
        (format!("{base} user=trusted"), "too-many", "CONNECTION LIMIT"),
        (format!("{base} user=ann password=good options='-c no_such=1'"), "settings", "options"),
        ("host=127.0.0.1 port=1 user=u".to_owned(), "unreachable", "listen_addresses"),
        ("host=/nonexistent user=u".to_owned(), "unreachable", "check the address"),
        ("host=no-such-host.invalid user=u".to_owned(), "unreachable", "no-such-host.invalid"),
    ];
    for (text, kind, advice) in table {
        let error = try_connect(&text).await.expect_err(&text);
        assert_eq!(error.kind(), kind, "{text}: {error}");
        assert!(error.to_string().contains(advice), "{text}: {error}");
    }
    drop(held);
}

/// The password comes from the password file, and a file that others may read is named as the reason of the refusal.
#[tokio::test]
async fn password_files() {
    let server = Server::start(&Settings { hba: "host all all 127.0.0.1/32 scram-sha-256", ..Settings::default() });
    server.run("CREATE ROLE ann LOGIN PASSWORD 'to:ken'").await;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    fs::write(&file, format!("127.0.0.1:{}:postgres:ann:to\\:ken\n", server.port)).unwrap();
    let environment = |name: &str| (name == "HOME").then(|| home.path().display().to_string());
    let info = ConnInfo::parse(&format!("host=127.0.0.1 port={} user=ann dbname=postgres", server.port), environment).unwrap();

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let error = connect(&info, Duration::from_secs(10)).await.unwrap_err();
    assert!(error.to_string().contains("chmod 0600"), "{error}");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    connect(&info, Duration::from_secs(10)).await.unwrap();
}

/// A server that takes the connection and says nothing costs no more than the deadline, or `connect_timeout` if that is less.
#[tokio::test]
async fn silence_is_bounded() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!("host=127.0.0.1 port={} user=u", silent.local_addr().unwrap().port());
    for (text, deadline) in
        [(text.clone(), Duration::from_millis(200)), (format!("{text} connect_timeout=1"), Duration::from_secs(60))]
    {
        let started = Instant::now();
        let error = connect(&info(&text), deadline).await.unwrap_err();
        assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

/// A server that is just starting is told apart from one that refuses, and the next host is tried.
#[tokio::test]
async fn starting_server() {
    let starting = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = starting.local_addr().unwrap().port();
    let answers = tokio::spawn(async move {
        loop {
            let (mut socket, _) = starting.accept().await.unwrap();
            let mut request = [0; 1024];
            // The request for TLS, then the start of the session.
            assert_eq!(socket.read(&mut request).await.unwrap(), 8);
            socket.write_all(b"N").await.unwrap();
            assert!(socket.read(&mut request).await.unwrap() > 8);
            let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
            let length = u32::try_from(fields.len() + 4).unwrap();
            socket.write_all(&[b"E".as_slice(), &length.to_be_bytes(), fields].concat()).await.unwrap();
        }
    });
    let error = try_connect(&format!("host=127.0.0.1 port={port} user=u")).await.unwrap_err();
    assert!(matches!(error, ConnectError::StartingUp { .. }) && error.to_string().contains("starting up"), "{error}");

    let server = Server::start(&Settings::default());
    let both = open(&format!("host=127.0.0.1,127.0.0.1 port={port},{} user=postgres", server.port)).await;
    assert_eq!(both.host().port, server.port);
    answers.abort();
}

/// Dropping a connection closes its socket even while a statement waits for its answer.
#[tokio::test]
async fn dropped_connections_close_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!("host=127.0.0.1 port={} user=u sslmode=disable", silent.local_addr().unwrap().port());
    let server = async {
        let (mut socket, _) = silent.accept().await.unwrap();
        let mut request = [0; 1024];
        assert!(socket.read(&mut request).await.unwrap() > 8);
        // The login is accepted, and the session is ready.
        socket.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await.unwrap();
        socket
    };
    let (connection, mut socket) = tokio::join!(open(&text), server);
    let mut request = [0; 1024];
    tokio::select! {
        answer = connection.client().batch_execute("SELECT 1") => panic!("{answer:?}"),
        length = socket.read(&mut request) => assert_eq!(request[..length.unwrap()][0], b'Q'),
    }
    drop(connection);
    let end = tokio::time::timeout(Duration::from_secs(10), socket.read(&mut request)).await;
    assert_eq!(end.expect("the socket is closed").unwrap(), 0);
}

/// Dropping a connection ends its session at the server.
#[tokio::test]
async fn dropped_connections_leave_nothing() {
    let server = Server::start(&Settings::default());
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dropped'";
    let connection = open(&server.tcp("application_name=dropped")).await;
    server.until(count, "1").await;
    drop(connection);
    server.until(count, "0").await;
}

/// A certificate file that hangs does not hang the caller.
#[tokio::test]
async fn a_hanging_file_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("root.crt");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let text = format!("host=127.0.0.1 port=1 user=x dbname=x sslmode=verify-full sslrootcert={}", pipe.display());
    let started = Instant::now();
    let outcome = connect(&info(&text), Duration::from_millis(300)).await;
    // Lets go of the thread that waits for someone to write.
    drop(fs::OpenOptions::new().write(true).open(&pipe).unwrap());
    assert!(matches!(outcome, Err(ConnectError::Timeout { .. })) && started.elapsed() < Duration::from_secs(5), "{outcome:?}");
}
