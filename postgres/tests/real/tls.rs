use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lagmesh_postgres::{ConnectError, QueryError, with_deadline};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::support::{Server, Settings, binaries, open, try_connect};

/// A certificate authority, a server certificate for `localhost` alone, and a client certificate for `certified`.
struct Papers {
    folder: tempfile::TempDir,
    server: (String, String),
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    (certificate, Issuer::new(params, key))
}

fn leaf(
    issuer: &Issuer<'static, KeyPair>,
    names: &[&str],
    common_name: &str,
    usage: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.extended_key_usages = vec![usage];
    (params.signed_by(&key, issuer).expect("a certificate").pem(), key.serialize_pem())
}

impl Papers {
    fn new() -> Papers {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file");
            let chmod = Command::new("chmod").arg("0600").arg(&path).status().expect("chmod");
            assert!(chmod.success());
        };
        let ((ca, issuer), (other, _)) = (authority("lagmesh test authority"), authority("somebody else"));
        let client = leaf(&issuer, &[], "certified", ExtendedKeyUsagePurpose::ClientAuth);
        for (name, text) in [("ca.crt", &ca), ("other.crt", &other), ("client.crt", &client.0), ("client.key", &client.1)] {
            write(name, text);
        }
        Papers { server: leaf(&issuer, &["localhost"], "localhost", ExtendedKeyUsagePurpose::ServerAuth), folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn server(&self, hba: &str) -> Server {
        let server = Server::start(&Settings { conf: "", hba });
        server.write("server.crt", &self.server.0);
        server.write("server.key", &self.server.1);
        server.write("ca.crt", &fs::read_to_string(self.path("ca.crt")).expect("the authority"));
        server
    }
}

async fn with_tls(papers: &Papers, hba: &str) -> Server {
    let server = papers.server(hba);
    server.run("ALTER SYSTEM SET ssl = on").await;
    server.run("ALTER SYSTEM SET ssl_ca_file = 'ca.crt'").await;
    server.run("SELECT pg_reload_conf()").await;
    server.until("SELECT current_setting('ssl')", "on").await;
    server
}

/// Whether the session is encrypted, or the kind of the failure.
async fn outcome(text: &str) -> Result<bool, &'static str> {
    match try_connect(text).await {
        Ok(connection) => {
            assert!(!connection.is_pooled().await.expect("a number"), "{text}: a server is taken for a pooler");
            let row = connection.client().query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
            Ok(row.expect("pg_stat_ssl").get(0))
        }
        Err(error) => Err(error.kind()),
    }
}

/// The same through libpq.
fn libpq(text: &str, home: &Path) -> Result<bool, ()> {
    let mut psql = Command::new(binaries().join("psql"));
    psql.args(["-XAtq", "-c", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", "-d", text])
        .env_clear()
        .env("HOME", home);
    let output = psql.output().expect("psql runs");
    output.status.success().then(|| output.stdout == b"t\n").ok_or(())
}

/// For every sslmode, root certificate, way of naming the host and rule of the server, the outcome is libpq's own: plain, encrypted or
/// refused.
#[tokio::test]
async fn every_mode_does_what_libpq_does() {
    let papers = Papers::new();
    let any = "host all all 127.0.0.1/32 trust";
    let servers = [
        ("no TLS", papers.server(any)),
        ("TLS", with_tls(&papers, any).await),
        ("TLS only", with_tls(&papers, "hostssl all all 127.0.0.1/32 trust").await),
        ("plain only", with_tls(&papers, "hostnossl all all 127.0.0.1/32 trust").await),
    ];
    let home = tempfile::tempdir().unwrap();
    let mut encrypted = 0;
    for (rule, server) in &servers {
        for mode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
            for root in ["none.crt", "ca.crt", "other.crt"] {
                for host in ["host=localhost hostaddr=127.0.0.1", "host=127.0.0.1", "hostaddr=127.0.0.1"] {
                    let text = format!(
                        "{host} port={} user=postgres dbname=postgres sslmode={mode} sslrootcert={}",
                        server.port,
                        papers.path(root)
                    );
                    let (ours, theirs) = (outcome(&text).await, libpq(&text, home.path()));
                    assert_eq!(ours.map_err(|_| ()), theirs, "{rule}: {text}: {ours:?}");
                    encrypted += usize::from(ours == Ok(true));
                }
            }
        }
    }
    assert!(encrypted > 20, "only {encrypted} sessions were encrypted: the table proves nothing");
}

/// A failed verification says what to do about it.
#[tokio::test]
async fn failures_say_what_to_do() {
    let papers = Papers::new();
    let (plain, server) = (papers.server(""), with_tls(&papers, "").await);
    let table = [
        (server.tcp(&format!("sslmode=verify-full sslrootcert={}", papers.path("ca.crt"))), "tls", "subject alternative name"),
        (server.tcp(&format!("sslmode=verify-ca sslrootcert={}", papers.path("other.crt"))), "tls", "sslrootcert"),
        (
            server.tcp(&format!("sslmode=verify-ca sslrootcert={}", papers.path("none.crt"))),
            "settings",
            "none.crt does not exist",
        ),
        (server.tcp(&format!("sslmode=verify-ca sslrootcert={}", papers.path("client.key"))), "settings", "client.key"),
        (server.tcp(&format!("sslmode=require sslcert={}", papers.path("none.crt"))), "settings", "none.crt"),
        (server.tcp("sslmode=verify-full sslrootcert=system"), "tls", "127.0.0.1"),
        (plain.tcp("sslmode=require"), "tls", "ssl = on"),
    ];
    for (text, kind, advice) in table {
        let error = try_connect(&text).await.expect_err(&text);
        assert_eq!(error.kind(), kind, "{text}: {error}");
        assert!(error.to_string().contains(advice), "{text}: {error}");
    }
}

/// A client certificate logs in without a password, a password login can be bound to the TLS session, and a key that others may read is
/// refused.
#[tokio::test]
async fn client_certificates_and_channel_binding() {
    let papers = Papers::new();
    let hba = "hostssl all certified 127.0.0.1/32 cert\nhostssl all ann 127.0.0.1/32 scram-sha-256";
    let server = with_tls(&papers, hba).await;
    server.run("CREATE ROLE certified LOGIN; CREATE ROLE ann LOGIN PASSWORD 'good'").await;
    let base =
        format!("host=127.0.0.1 port={} dbname=postgres sslmode=verify-ca sslrootcert={}", server.port, papers.path("ca.crt"));
    let certified = format!("{base} user=certified sslcert={} sslkey={}", papers.path("client.crt"), papers.path("client.key"));
    assert_eq!(outcome(&certified).await, Ok(true));
    assert_eq!(outcome(&format!("{base} user=certified")).await, Err("refused"));
    assert_eq!(outcome(&format!("{base} user=ann password=good channel_binding=require")).await, Ok(true));
    let plain = format!("{} user=ann password=good channel_binding=require", base.replace("verify-ca", "disable"));
    assert_eq!(outcome(&plain).await, Err("refused"));

    assert!(Command::new("chmod").args(["0644", &papers.path("client.key")]).status().unwrap().success());
    let error = try_connect(&certified).await.unwrap_err();
    assert!(matches!(error, ConnectError::BadSettings { .. }) && error.to_string().contains("chmod 0600"), "{error}");
}

/// The cancel takes the same way as the session: where only TLS gets in, it gets in.
#[tokio::test]
async fn cancels_go_through_tls() {
    let papers = Papers::new();
    let server = with_tls(&papers, "hostssl all all 127.0.0.1/32 trust").await;
    let text = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=postgres application_name=sleeper sslmode=verify-full sslrootcert={}",
        server.port,
        papers.path("ca.crt")
    );
    let connection = open(&text).await;
    let error = with_deadline(&connection, Duration::from_millis(300), connection.client().batch_execute("SELECT pg_sleep(60)"))
        .await
        .unwrap_err();
    assert!(matches!(error, QueryError::DeadlineExceeded(exceeded) if exceeded.cancelled), "{error}");
    server.until("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sleeper' AND state = 'active'", "0").await;
}
