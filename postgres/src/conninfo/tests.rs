use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<ConnInfo, ConnInfoError> {
    with(text, &[("USER", "ann"), ("HOME", "/home/ann")])
}

fn with(text: &str, environment: &[(&str, &str)]) -> Result<ConnInfo, ConnInfoError> {
    ConnInfo::parse(text, |name| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

fn hosts(info: &ConnInfo) -> Vec<String> {
    info.hosts.iter().map(ToString::to_string).collect()
}

/// Both grammars say the same thing in the same words as libpq's documentation.
#[test]
fn both_grammars() {
    let pairs = parse("host=db1,db2 port=5433,5434 dbname='my db' user = o\\'neil password='it\\'s \\\\ secret'").unwrap();
    let address = parse("postgresql://o'neil:it's%20%5C%20secret@db1:5433,db2:5434/my%20db").unwrap();
    assert_eq!(pairs, address);
    assert_eq!(hosts(&pairs), ["db1:5433", "db2:5434"]);
    assert_eq!((pairs.user.as_str(), pairs.dbname.as_str()), ("o'neil", "my db"));
    assert_eq!(pairs.password.unwrap().reveal(), "it's \\ secret");
}

/// Addresses of every shape of libpq's examples are read.
#[test]
fn addresses() {
    let table: [(&str, &[&str], &str); 8] = [
        ("postgresql://", &["/var/run/postgresql/.s.PGSQL.5432", "/tmp/.s.PGSQL.5432"], "ann"),
        ("postgresql://localhost", &["localhost:5432"], "ann"),
        ("postgres://localhost:5433", &["localhost:5433"], "ann"),
        ("postgresql://localhost/mydb", &["localhost:5432"], "mydb"),
        ("postgresql://other@localhost/otherdb?connect_timeout=10&application_name=myapp", &["localhost:5432"], "otherdb"),
        ("postgresql://[2001:db8::1234]:6000/database", &["[2001:db8::1234]:6000"], "database"),
        ("postgresql://%2Fvar%2Flib%2Fpg:5433/dbname", &["/var/lib/pg/.s.PGSQL.5433"], "dbname"),
        ("postgresql:///dbname?host=/run/pg&port=7", &["/run/pg/.s.PGSQL.7"], "dbname"),
    ];
    for (text, expected, dbname) in table {
        let info = parse(text).unwrap();
        assert_eq!(
            (hosts(&info).as_slice(), info.dbname.as_str()),
            (expected.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice(), dbname),
            "{text}"
        );
    }
}

/// The string goes before the environment, the environment before the defaults; an empty value asks for the default.
#[test]
fn precedence() {
    let environment = [
        ("PGHOST", "envhost"),
        ("PGPORT", "6000"),
        ("PGUSER", "envuser"),
        ("PGDATABASE", "envdb"),
        ("PGPASSWORD", "envsecret"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "/ca.pem"),
        ("PGAPPNAME", "envapp"),
        ("PGCONNECT_TIMEOUT", "7"),
        ("PGPASSFILE", "/pass"),
        ("USER", "ann"),
        ("HOME", "/home/ann"),
    ];
    assert_eq!(hosts(&with("host='' port=1", &environment).unwrap()), ["/var/run/postgresql/.s.PGSQL.1", "/tmp/.s.PGSQL.1"]);
    let info = with("user=me", &environment).unwrap();
    assert_eq!(hosts(&info), ["envhost:6000"]);
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("me", "envdb"));
    assert_eq!(info.password, Some(Password::from("envsecret".to_owned())));
    assert_eq!((info.ssl.mode, info.ssl.root), (SslMode::VerifyFull, RootCert::File("/ca.pem".into())));
    assert_eq!((info.application_name.as_deref(), info.connect_timeout), (Some("envapp"), Some(Duration::from_secs(7))));
    assert_eq!(info.passfile.named, Some("/pass".into()));

    let bare = with("", &[("USER", "ann"), ("HOME", "/h"), ("CREDENTIALS_DIRECTORY", "/run/credentials/x")]).unwrap();
    assert_eq!((bare.user.as_str(), bare.dbname.as_str(), bare.ssl.mode), ("ann", "ann", SslMode::Prefer));
    assert_eq!(
        bare.passfile,
        Passfile { named: None, credentials: Some("/run/credentials/x".into()), home: Some("/h/.pgpass".into()) }
    );
    assert_eq!(bare.ssl.root, RootCert::File("/h/.postgresql/root.crt".into()));
}

/// What cannot be meant is refused in words that name the keyword.
#[test]
fn refusals() {
    let table = [
        ("hots=x", "\"hots\""),
        ("service=x", "does not support \"service\""),
        ("sslmode=yes", "sslmode cannot be \"yes\""),
        ("port=0", "port cannot be \"0\""),
        ("port=70000", "port cannot be"),
        ("hostaddr=db", "an IP address"),
        ("host=a,b port=1,2,3", "3 ports for 2 hosts"),
        ("host=a hostaddr=1.2.3.4,1.2.3.5", "1 host names for 2 hosts"),
        ("connect_timeout=soon", "a whole number"),
        ("target_session_attrs=leader", "prefer-standby"),
        ("gssencmode=require", "no GSSAPI"),
        ("sslrootcert=system sslmode=require", "sslmode=verify-full"),
        ("sslnegotiation=direct", "sslmode=require"),
        ("host='a", "no closing quote"),
        ("postgresql://[::1", "no closing \"]\""),
        ("postgresql://h/?x", "no \"=\""),
        ("postgresql://h/%zz", "two hexadecimal digits"),
        ("postgresql://h/%00", "other than 00"),
        ("host=a secret", "without \"=\""),
    ];
    for (text, expected) in table {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
        assert!(!message.contains("secret"), "a stray word may be a password: {message}");
    }
    assert_eq!(with("host=a", &[]).unwrap_err(), ConnInfoError::NoUser);
}

/// The units are libpq's: seconds, but milliseconds for `tcp_user_timeout`; zero means "not set".
#[test]
fn units() {
    let info =
        parse("keepalives=0 keepalives_idle=30 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=1500 connect_timeout=0")
            .unwrap();
    let keepalive =
        Keepalive { on: false, idle: Some(Duration::from_secs(30)), interval: Some(Duration::from_secs(5)), count: Some(3) };
    assert_eq!(
        (info.keepalive, info.tcp_user_timeout, info.connect_timeout),
        (keepalive, Some(Duration::from_millis(1500)), None)
    );
}

/// `sslrootcert=system` alone means verify-full, as in libpq.
#[test]
fn system_roots_verify_fully() {
    assert_eq!(parse("sslrootcert=system").unwrap().ssl.mode, SslMode::VerifyFull);
}

/// Neither the log form nor the debug form of a connection string shows the password.
#[test]
fn passwords_stay_out_of_logs() {
    let info = parse("host=h password=hunter2").unwrap();
    assert!(!format!("{info:?} {info}").contains("hunter2"));
    assert_eq!(info.to_string(), "h:5432 database ann as ann");
}

proptest! {
    /// Any value survives being quoted in pairs and percent-encoded in an address.
    #[test]
    fn any_value_survives(value in "[^\\x00]{1,20}") {
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        let encoded: Vec<String> = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let pairs = parse(&format!("host=h dbname='{quoted}'")).unwrap();
        prop_assert_eq!(&pairs.dbname, &value);
        prop_assert_eq!(parse(&format!("postgresql://h/{}", encoded.concat())).unwrap(), pairs);
    }

    /// No text makes the reader panic.
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}", prefix in prop::sample::select(vec!["", "postgresql://", "host="])) {
        match parse(&format!("{prefix}{text}")) {
            Ok(info) => prop_assert!(!info.hosts.is_empty()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
