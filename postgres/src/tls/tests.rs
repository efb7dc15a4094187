use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

use super::*;

/// A certificate that is its own root, as `openssl req -x509` makes them, valid until the given year.
fn own_root(name: &str, until: i32) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn verify(certificate: &CertificateDer<'static>, root: &CertificateDer<'static>, name: Option<&str>) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    store.add(root.clone()).unwrap();
    let trust = Trust::Roots { store, certificates: vec![root.clone()], name: name.is_some() };
    let verifier = Verifier { trust, provider: Arc::new(rustls::crypto::ring::default_provider()) };
    let server_name = ServerName::try_from(name.unwrap_or("ignored").to_owned()).unwrap();
    // 2025-01-01
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_735_689_600));
    verifier.verify_server_cert(certificate, &[], &server_name, &[], now).map(|_| ()).map_err(|error| error.to_string())
}

/// A server whose self-signed certificate is the named root is believed, as libpq believes it; not beyond its dates, not under another
/// name, and no other certificate in its place.
#[test]
fn a_certificate_may_be_its_own_root() {
    let (good, twin, old) = (own_root("db", 2099), own_root("db", 2099), own_root("db", 2024));
    assert_eq!(verify(&good, &good, None), Ok(()));
    assert_eq!(verify(&good, &good, Some("db")), Ok(()));
    assert!(verify(&good, &good, Some("other")).unwrap_err().contains("not valid for"));
    assert!(verify(&twin, &good, None).is_err());
    assert!(verify(&old, &old, None).unwrap_err().to_lowercase().contains("expired"));
}

/// Without a mode that uses TLS, no file is looked at.
#[test]
fn disabled_tls_needs_no_files() {
    let nowhere = PathBuf::from("/nonexistent");
    let client = Some(ClientCert { cert: nowhere.clone(), key: nowhere.clone(), named: true });
    let ssl =
        |mode| Ssl { mode, root: RootCert::File(nowhere.clone()), client: client.clone(), negotiation: SslNegotiation::Postgres };
    assert!(connector(&ssl(SslMode::Disable)).is_ok());
    assert!(matches!(connector(&ssl(SslMode::Require)), Err(TlsError::File { what: "client certificate", .. })));
    assert!(matches!(connector(&ssl(SslMode::VerifyCa)), Err(TlsError::NoRoot { .. })));
}
