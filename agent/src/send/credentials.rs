//! What an agent shows to its collectors, and whom it believes to be one: files, read at the start and whenever they change.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lagmesh_daemon::Followed;
use lagmesh_daemon::certificate::not_after_s;
use lagmesh_model::ids::{BadName, CollectorName};
use reqwest::Identity;
use reqwest::header::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::mesh::keys::is_open_to_others;

use super::post::{Authorities, BadAuthorities};

/// The bundle of all public authorities has about 200 KiB [bytes].
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A token has 72 [bytes].
const TOKEN_BYTES_MAX: usize = 1024;

/// The token of one collector, as the command line says it: `NAME=FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFile {
    /// For which collector.
    pub collector: CollectorName,
    /// Where it stands.
    pub path: PathBuf,
}

/// A word of the command line that names no file of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTokenFile {
    /// There is no `=`.
    #[error("{0:?} is not of the form NAME=FILE, with the name of a collector of the fleet file")]
    Form(String),
    /// There is no name before it.
    #[error(transparent)]
    Name(#[from] BadName),
}

impl FromStr for TokenFile {
    type Err = BadTokenFile;
    fn from_str(word: &str) -> Result<TokenFile, BadTokenFile> {
        let (name, path) = word.split_once('=').ok_or_else(|| BadTokenFile::Form(word.to_owned()))?;
        Ok(TokenFile { collector: name.parse()?, path: path.into() })
    }
}

/// The names of the files, and how they looked when they were last read.
#[derive(Debug, Clone)]
pub struct CredentialFiles {
    authorities: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    tokens: BTreeMap<CollectorName, PathBuf>,
    pub(super) seen: Followed,
}

/// What stands in them.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Who may vouch for a collector.
    pub authorities: Authorities,
    /// The certificate with its key that we show, if we have one.
    pub identity: Option<Identity>,
    /// When that certificate ends [s since 1970], if that can be told.
    pub not_after_s: Option<u64>,
    /// The `Authorization` of each collector that wants one.
    pub tokens: BTreeMap<CollectorName, HeaderValue>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadCredentials {
    /// It cannot be read.
    #[error("{what} {}: {error}", path.display())]
    Unreadable {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is a secret, and others may read it.
    #[error("{what} {}: others may read it (mode {mode:03o}); run chmod 600 on it", path.display())]
    Open {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The authorities are no good.
    #[error("certificate authorities {}: {error}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        error: BadAuthorities,
    },
    /// Certificate or key is no good.
    #[error("client certificate {} with {}: {error}", cert.display(), key.display())]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        error: reqwest::Error,
    },
    /// There is no token.
    #[error("token {}: it must be one line of at most {TOKEN_BYTES_MAX} visible characters, as `lagmesh token` prints it", path.display())]
    Token {
        /// The file.
        path: PathBuf,
    },
}

impl CredentialFiles {
    /// Notes how the files look now: what changes from here on is noticed.
    pub fn new(authorities: Option<PathBuf>, identity: Option<(PathBuf, PathBuf)>, tokens: &[TokenFile]) -> CredentialFiles {
        let own = identity.iter().flat_map(|(cert, key)| [cert, key]);
        let seen = Followed::new(authorities.iter().chain(own).chain(tokens.iter().map(|token| &token.path)).cloned());
        let tokens = tokens.iter().map(|token| (token.collector.clone(), token.path.clone())).collect();
        CredentialFiles { authorities, identity, tokens, seen }
    }

    /// For which collectors there is a token.
    pub fn collectors(&self) -> impl Iterator<Item = &CollectorName> {
        self.tokens.keys()
    }

    /// Whether there is no file at all.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_none() && self.identity.is_none() && self.tokens.is_empty()
    }

    /// What stands in the files now. Waits for the disk.
    ///
    /// # Errors
    /// If one of them cannot be used: then none is.
    pub fn read(&self) -> Result<Credentials, BadCredentials> {
        let authorities = self.authorities.as_deref().map_or(Ok(Authorities::default()), read_authorities)?;
        let shown = self.identity.as_ref().map(|(cert, key)| read_identity(cert, key)).transpose()?;
        let (identity, not_after_s) = shown.map_or((None, None), |(identity, not_after_s)| (Some(identity), not_after_s));
        let tokens =
            self.tokens.iter().map(|(collector, path)| Ok((collector.clone(), read_token(path)?))).collect::<Result<_, _>>()?;
        Ok(Credentials { authorities, identity, not_after_s, tokens })
    }
}

fn read_authorities(path: &Path) -> Result<Authorities, BadCredentials> {
    let pem = read("certificate authorities", path, false)?;
    Authorities::from_pem(pem.as_bytes()).map_err(|error| BadCredentials::Authorities { path: path.to_owned(), error })
}

/// The certificate with its key, and when it ends.
fn read_identity(cert: &Path, key: &Path) -> Result<(Identity, Option<u64>), BadCredentials> {
    let chain = read("client certificate", cert, false)?;
    let not_after_s = CertificateDer::from_pem_slice(chain.as_bytes()).ok().and_then(|own| not_after_s(&own));
    let pem = [read("key of the client certificate", key, true)?, chain].join("\n");
    let bad = |error| BadCredentials::Identity { cert: cert.to_owned(), key: key.to_owned(), error };
    Identity::from_pem(pem.as_bytes()).map(|identity| (identity, not_after_s)).map_err(bad)
}

fn read_token(path: &Path) -> Result<HeaderValue, BadCredentials> {
    let bad = || BadCredentials::Token { path: path.to_owned() };
    let text = read("token", path, true)?;
    let token = text.trim_ascii();
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err(bad());
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| bad())?;
    // Keeps it out of every log.
    value.set_sensitive(true);
    Ok(value)
}

fn read(what: &'static str, path: &Path, is_secret: bool) -> Result<String, BadCredentials> {
    let unreadable = |error| BadCredentials::Unreadable { what, path: path.to_owned(), error };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    if is_secret && is_open_to_others(facts.mode(), facts.uid()) {
        return Err(BadCredentials::Open { what, path: path.to_owned(), mode: facts.mode() & 0o777 });
    }
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {FILE_BYTES_MAX} bytes"))));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn name(text: &str) -> CollectorName {
        text.parse().unwrap()
    }

    /// A token is one line; a file with anything else in it is refused as a whole, and what it holds shows nowhere.
    #[test]
    fn tokens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let allow = |mode: u32| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(&path, "").unwrap();
        allow(0o600);
        let files = CredentialFiles::new(None, None, &[TokenFile { collector: name("main"), path: path.clone() }]);
        for (text, is_good) in
            [("lagmesh_12\n", true), ("x", true), ("", false), ("\n", false), ("a b", false), ("a\nb", false), ("é", false)]
        {
            fs::write(&path, text).unwrap();
            let read = files.read();
            assert_eq!(read.is_ok(), is_good, "{text:?}");
            assert!(!format!("{read:?}").contains("lagmesh_12"));
        }
        fs::write(&path, "x".repeat(TOKEN_BYTES_MAX + 1)).unwrap();
        assert!(matches!(files.read(), Err(BadCredentials::Token { .. })));
        fs::write(&path, "lagmesh_12\n").unwrap();
        assert_eq!(files.read().unwrap().tokens[&name("main")], "Bearer lagmesh_12");
        allow(0o644);
        assert!(matches!(files.read(), Err(BadCredentials::Open { mode: 0o644, .. })), "others could read it");
    }

    /// The command line names a collector and a file; a path may hold what it likes.
    #[test]
    fn token_files() {
        let parsed = |word: &str| word.parse::<TokenFile>();
        assert_eq!(parsed("main=/a=b").unwrap(), TokenFile { collector: name("main"), path: "/a=b".into() });
        assert!(parsed("/etc/token").is_err() && parsed("=x").is_err() && parsed("Main=x").is_err());
    }
}
