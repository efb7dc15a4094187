//! libpq's `sslmode` on rustls.
//!
//! | sslmode | TLS | chain verified | name verified |
//! |---|---|---|---|
//! | disable | no | - | - |
//! | allow, prefer | maybe | if the root file exists | no |
//! | require | yes | if the root file exists | no |
//! | verify-ca | yes | yes | no |
//! | verify-full | yes | yes | yes |
//!
//! One difference stands: the name must be among the certificate's subject alternative names; the common name is not consulted.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::conninfo::{ClientCert, RootCert, Ssl, SslMode, SslNegotiation};

/// What is wrong with the TLS settings; nothing was sent to any server.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A verifying mode without anything to verify against.
    #[error(
        "sslmode verifies, but the root certificate {path} does not exist; name it with sslrootcert, or use sslrootcert=system"
    )]
    NoRoot {
        /// Where it was looked for.
        path: String,
    },
    /// The system has no trust store.
    #[error("sslrootcert=system, but the system's trust store has no certificates: {reason}; install ca-certificates")]
    NoSystemRoots {
        /// What the search said.
        reason: String,
    },
    /// A PEM file that cannot be used.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What the file should be.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The TLS library has no common ground with itself.
    #[error("the TLS library: {0}")]
    Library(rustls::Error),
    /// A private key that others may read.
    #[error("client key {} has mode {mode:04o}, and others could read it; run chmod 0600 on it", path.display())]
    KeyTooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Makes the connector that the settings ask for. Reads files: not for an async worker.
///
/// # Errors
/// If a file that the settings need is missing, unreadable or not what it should be.
pub fn connector(ssl: &Ssl) -> Result<MakeRustlsConnect, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier { trust: trust(ssl)?, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(TlsError::Library)?.dangerous();
    let builder = builder.with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity(ssl)? {
        None => builder.with_no_client_auth(),
        Some((path, chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::File {
            what: "client certificate",
            path,
            source: error.into(),
        })?,
    };
    if ssl.negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

/// Whom to believe.
#[derive(Debug)]
enum Trust {
    /// Anyone: encryption only.
    Anyone,
    /// Whoever a root vouches for.
    Roots {
        store: RootCertStore,
        /// The same roots whole: a self-signed server certificate may be its own root.
        certificates: Vec<CertificateDer<'static>>,
        /// Whether the name counts.
        name: bool,
    },
}

fn trust(ssl: &Ssl) -> Result<Trust, TlsError> {
    if ssl.mode == SslMode::Disable {
        return Ok(Trust::Anyone);
    }
    let verifies = ssl.mode >= SslMode::VerifyCa;
    let certificates = match &ssl.root {
        RootCert::System => system_roots()?,
        RootCert::File(path) if exists(path) => certificates(path, "root certificate")?,
        RootCert::File(path) if verifies => return Err(TlsError::NoRoot { path: path.display().to_string() }),
        RootCert::None if verifies => return Err(TlsError::NoRoot { path: "~/.postgresql/root.crt".to_owned() }),
        RootCert::File(_) | RootCert::None => return Ok(Trust::Anyone),
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates.iter().cloned());
    match &ssl.root {
        RootCert::File(path) if added == 0 => {
            let source = "it holds no usable certificate".into();
            Err(TlsError::File { what: "root certificate", path: path.clone(), source })
        }
        _ => Ok(Trust::Roots { store, certificates, name: ssl.mode == SslMode::VerifyFull }),
    }
}

/// The certificates that this system trusts. Reads files: not for an async worker.
///
/// # Errors
/// If there are none.
pub fn system_roots() -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reason = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(TlsError::NoSystemRoots { reason });
    }
    Ok(found.certs)
}

/// Only "not found" counts as absent: a file that cannot be looked at must not quietly turn verification off.
fn exists(path: &Path) -> bool {
    !matches!(fs::metadata(path), Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |error: pem::Error| TlsError::File { what, path: path.to_owned(), source: readable(error) };
    CertificateDer::pem_file_iter(path).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)
}

fn readable(error: pem::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        pem::Error::Io(error) => error.into(),
        pem::Error::NoItemsFound => "it holds no PEM item of this kind (an encrypted key is not supported)".into(),
        other => other.to_string().into(),
    }
}

type Identity = (PathBuf, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(ssl: &Ssl) -> Result<Option<Identity>, TlsError> {
    let Some(ClientCert { cert, key, named }) = &ssl.client else { return Ok(None) };
    if ssl.mode == SslMode::Disable || (!named && !exists(cert)) {
        return Ok(None);
    }
    let chain = certificates(cert, "client certificate")?;
    let bad = |source| TlsError::File { what: "client key", path: key.clone(), source };
    let metadata = fs::metadata(key).map_err(|error| bad(error.into()))?;
    // As libpq: a key of root's may be readable by a group.
    let mode = metadata.permissions().mode() & 0o7777;
    let others = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if mode & others != 0 {
        return Err(TlsError::KeyTooOpen { path: key.clone(), mode });
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(readable(error)))?;
    Ok(Some((cert.clone(), chain, secret)))
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Roots { store, certificates, name } = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&certificate, store, intermediates, now, algorithms) {
            // `openssl req -x509` makes such certificates, and PostgreSQL's manual shows how: libpq accepts them. The dates were
            // checked before this error could arise.
            Err(error) if is_own_root(&error) && certificates.iter().any(|root| root == end_entity) => {}
            other => other?,
        }
        if *name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether the only objection is that a certificate authority's certificate serves as a server's.
fn is_own_root(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(_)) && error.to_string().contains("CaUsedAsEndEntity")
}

#[cfg(test)]
mod tests;
