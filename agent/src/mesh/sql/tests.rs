use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use lagmesh_tests::postgres::{Server, ServerPlan};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{CertificateParams, KeyPair};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;

/// Longer than anything that works takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for whom nobody answers.
const SHORT: Duration = Duration::from_millis(300);

/// A server whose role `probe` logs in with a password.
struct World {
    folder: tempfile::TempDir,
    server: Server,
}

impl World {
    async fn new() -> World {
        let folder = tempfile::Builder::new().prefix("lagmesh-sql-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = Server::primary(&ServerPlan::on_loopback("db").unwrap(), folder.path()).await.unwrap();
        let world = World { folder, server };
        world.sql("CREATE ROLE probe LOGIN PASSWORD 'right'").await;
        world
    }

    async fn sql(&self, statements: &str) -> Option<String> {
        self.server.sql(statements, "postgres").await.unwrap()
    }

    /// Gives the server a certificate for `localhost`, and puts it into a file beside one that nobody has signed for.
    async fn with_tls(&self) {
        let certificate = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let ((certificate_text, key), (other, _)) = (certificate(&["localhost"]), certificate(&["localhost"]));
        let owner = fs::metadata(self.server.folder()).unwrap();
        for (name, text) in [("server.crt", &certificate_text), ("server.key", &key)] {
            let path = self.server.folder().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
            self.sql(&format!("ALTER SYSTEM SET ssl_{}_file = '{}'", &name[7..].replace("crt", "cert"), path.display())).await;
        }
        for (name, text) in [("root.crt", &certificate_text), ("other.crt", &other)] {
            fs::write(self.folder.path().join(name), text).unwrap();
        }
        self.sql("ALTER SYSTEM SET ssl = on").await;
        self.sql("SELECT pg_reload_conf()").await;
        self.until("SELECT current_setting('ssl')", "on").await;
    }

    fn target(&self, more: &str) -> Target {
        let port = self.server.port();
        target(&format!("host=localhost port={port} user=probe password=right dbname=postgres {more}"), PATIENCE)
    }

    /// What the server shows of the probes.
    async fn until(&self, sql: &str, expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.sql(sql).await;
            if found.as_deref() == Some(expected) {
                return;
            }
            assert!(Instant::now() < deadline, "{sql} is {found:?}, not {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn target(dsn: &str, give_up: Duration) -> Target {
    let info = ConnInfo::parse(dsn, |name| (name == "HOME").then(|| "/nonexistent".to_owned())).unwrap();
    Target::new(info, "sql test".to_owned(), &Clock::new(), give_up)
}

fn phases(attempt: &Attempt) -> Vec<Phase> {
    attempt.phases.iter().map(|(phase, _)| *phase).collect()
}

const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lagmesh-probe'";

/// A login on a new connection has its phases, TLS only where there is TLS; they do not add up to more than the whole, and afterwards
/// nobody is there any more.
#[tokio::test]
async fn a_new_connection() {
    let world = World::new().await;
    world.with_tls().await;
    let root = world.folder.path().join("root.crt");
    let verified = format!("sslmode=verify-full sslrootcert={}", root.display());
    let plain = [Phase::Connect, Phase::Auth, Phase::Query];
    let tls = &[Phase::Connect, Phase::Tls, Phase::Auth, Phase::Query][..];
    for (more, expected) in [("sslmode=disable", &plain[..]), ("sslmode=require", tls), (&verified, tls)] {
        let attempt = world.target(more).fresh().await;
        assert_eq!((attempt.end, &phases(&attempt)[..]), (End::Answered, expected), "{more}");
        let sum: u64 = attempt.phases.iter().map(|(_, took_ns)| took_ns).sum();
        assert!(sum <= attempt.ended.raw.since_ns(attempt.started.raw).unsigned_abs(), "{attempt:?}");
        world.until(SESSIONS, "0").await;
    }
}

/// A certificate of somebody else and a wrong password are no answers, and what came before them was measured.
#[tokio::test]
async fn not_let_in() {
    let world = World::new().await;
    world.with_tls().await;
    let other = world.folder.path().join("other.crt");
    let other = format!("sslmode=verify-full sslrootcert={}", other.display());
    for (more, expected) in [
        (other.as_str(), &[Phase::Connect][..]),
        ("password=wrong sslmode=require", &[Phase::Connect, Phase::Tls]),
        ("user=nobody sslmode=disable", &[Phase::Connect]),
    ] {
        let target = world.target(more);
        let attempt = target.fresh().await;
        assert_eq!((attempt.end, &phases(&attempt)[..]), (End::Failed(Outcome::Corrupt), expected), "{more}");
        assert!(target.told.trouble().is_some());
    }
}

/// One session is kept, idle and without a transaction between the queries, and only queries are measured; when the server ends it,
/// one other takes its place.
#[tokio::test]
async fn a_kept_connection() {
    let world = World::new().await;
    let (target, mut kept) = (world.target("sslmode=disable"), None);
    for round in 0..3 {
        let attempt = target.kept(&mut kept).await;
        assert_eq!((attempt.end, &phases(&attempt)[..]), (End::Answered, &[Phase::Query][..]), "{round}");
        world.until(&format!("{SESSIONS} AND state = 'idle' AND xact_start IS NULL AND backend_xmin IS NULL"), "1").await;
        if round == 1 {
            world.sql(&SESSIONS.replace("count(*)", "pg_terminate_backend(pid)")).await;
            let gone = async {
                while !kept.as_ref().is_some_and(Connection::is_closed) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(PATIENCE, gone).await.unwrap();
        }
        world.until(SESSIONS, if round == 1 { "0" } else { "1" }).await;
    }
}

/// A session of the probe can neither write nor work for long, whatever it were asked.
#[tokio::test]
async fn sessions_are_bounded() {
    let world = World::new().await;
    let (target, mut kept) = (world.target(""), None);
    target.kept(&mut kept).await;
    let client = kept.as_ref().unwrap().client();
    for (setting, expected) in [("statement_timeout", "20s"), ("default_transaction_read_only", "on")] {
        let rows = client.query(&format!("SELECT current_setting('{setting}')"), &[]).await.unwrap();
        assert_eq!(rows[0].get::<_, &str>(0), expected, "{setting}");
    }
}

/// A server process that does not answer is silence, and its connection is not kept.
#[tokio::test]
async fn a_frozen_server() {
    let world = World::new().await;
    let (mut target, mut kept) = (world.target(""), None);
    target.kept(&mut kept).await;
    let process: i32 = world.sql(&SESSIONS.replace("count(*)", "pid")).await.unwrap().parse().unwrap();
    kill(Pid::from_raw(process), Signal::SIGSTOP).unwrap();
    target.give_up = SHORT;
    let attempt = target.kept(&mut kept).await;
    kill(Pid::from_raw(process), Signal::SIGCONT).unwrap();
    assert_eq!((attempt.end, phases(&attempt)), (End::Silence, Vec::new()));
    assert!(kept.is_none());
    world.until(SESSIONS, "0").await;
}

/// Who does not listen refuses; who listens and says nothing is silent; who hangs up has answered something else. All are told apart
/// on new and on kept connections.
#[tokio::test]
async fn nobody_there() {
    let closed = lagmesh_tests::ports::free().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rude = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rude_port = rude.local_addr().unwrap().port();
    let hang_up = tokio::spawn(async move {
        loop {
            let (mut stream, _) = rude.accept().await.unwrap();
            stream.read_exact(&mut [0; 8]).await.unwrap();
        }
    });
    for (port, end, expected) in [
        (closed, End::Failed(Outcome::Refused), &[][..]),
        (silent.local_addr().unwrap().port(), End::Silence, &[Phase::Connect]),
        (rude_port, End::Failed(Outcome::Corrupt), &[Phase::Connect]),
    ] {
        let target = target(&format!("host=127.0.0.1 port={port} user=probe sslmode=disable"), SHORT);
        let attempt = target.fresh().await;
        assert_eq!((attempt.end, &phases(&attempt)[..]), (end, expected), "{port}");
        let attempt = target.kept(&mut None).await;
        assert_eq!((attempt.end, phases(&attempt)), (end, Vec::new()), "{port}");
    }
    hang_up.abort();
}

/// A file that is not there and a host that is a folder are our own mistakes, which say nothing of the network.
#[tokio::test]
async fn our_own_mistakes() {
    for dsn in ["host=127.0.0.1 user=probe sslmode=verify-ca sslrootcert=/nonexistent", "host=/tmp user=probe"] {
        assert_eq!(target(dsn, PATIENCE).fresh().await.end, End::Failed(Outcome::SendError), "{dsn}");
    }
}

/// What refuses before the port was open means something else than what comes after it.
#[test]
fn ends() {
    let address = || "db:5432".to_owned();
    let unreachable =
        |kind: std::io::ErrorKind| ConnectError::Unreachable { address: address(), source: Box::new(std::io::Error::from(kind)) };
    let source = || "words".into();
    let failed = End::Failed;
    let table = [
        (unreachable(std::io::ErrorKind::ConnectionRefused), false, failed(Outcome::Refused)),
        (unreachable(std::io::ErrorKind::HostUnreachable), false, failed(Outcome::Unreachable)),
        (unreachable(std::io::ErrorKind::TimedOut), false, End::Silence),
        (unreachable(std::io::ErrorKind::NotFound), false, failed(Outcome::SendError)),
        (unreachable(std::io::ErrorKind::ConnectionReset), true, failed(Outcome::Corrupt)),
        (ConnectError::BadSettings { reason: String::new() }, false, failed(Outcome::SendError)),
        (ConnectError::BadSettings { reason: String::new() }, true, failed(Outcome::Corrupt)),
        (ConnectError::Timeout { address: address(), waited: SHORT }, true, End::Silence),
        (ConnectError::StartingUp { address: address(), source: source() }, true, failed(Outcome::Refused)),
        (ConnectError::TooManyConnections { address: address(), source: source() }, true, failed(Outcome::Refused)),
        (ConnectError::Tls { address: address(), advice: "", source: source() }, true, failed(Outcome::Corrupt)),
    ];
    for (error, open, expected) in table {
        assert_eq!(end_of(&error, open), expected, "{error}");
    }
}
