//! The files that say who may come in: certificate, key, authority of the clients, tokens. Read at the start, and whenever they change.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use lagmesh_daemon::Followed;
use lagmesh_model::access::Tokens;
use lagmesh_model::document::FileErrors;

use crate::listen::{BadTls, Tls};

/// Certificates, keys and tokens are far smaller [bytes].
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The names of the files, and how they looked when they were last read.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate chain and its key.
    pub server: Option<(PathBuf, PathBuf)>,
    /// Who may vouch for agents.
    pub client_ca: Option<PathBuf>,
    /// The tokens.
    pub tokens: Option<PathBuf>,
    pub(super) tls_seen: Followed,
    pub(super) tokens_seen: Followed,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Certificate, key or authority is no good.
    #[error("{} with {}: {error}", cert.display(), key.display())]
    Tls {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        error: BadTls,
    },
    /// The tokens are no good.
    #[error(transparent)]
    Tokens(#[from] FileErrors),
}

impl Files {
    /// Notes how the files look now: what changes from here on is noticed.
    pub fn new(server: Option<(PathBuf, PathBuf)>, client_ca: Option<PathBuf>, tokens: Option<PathBuf>) -> Files {
        let of_tls = server.iter().flat_map(|(cert, key)| [cert, key]).chain(&client_ca).cloned();
        let (tls_seen, tokens_seen) = (Followed::new(of_tls), Followed::new(tokens.iter().cloned()));
        Files { server, client_ca, tokens, tls_seen, tokens_seen }
    }

    /// How to encrypt and whom to believe, if a certificate was given.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub fn read_tls(&self) -> Result<Option<Tls>, BadFile> {
        let Some((cert, key)) = &self.server else { return Ok(None) };
        let authority = self.client_ca.as_deref().map(read).transpose()?;
        let tls = Tls::from_pem(&read(cert)?, &read(key)?, authority.as_deref());
        tls.map(Some).map_err(|error| BadFile::Tls { cert: cert.clone(), key: key.clone(), error })
    }

    /// The tokens, if a file of them was given.
    ///
    /// # Errors
    /// If it cannot be read, or anything in it is wrong.
    pub fn read_tokens(&self) -> Result<Option<Tokens>, BadFile> {
        let Some(path) = &self.tokens else { return Ok(None) };
        Ok(Some(Tokens::parse(&path.display().to_string(), &read(path)?)?))
    }
}

fn read(path: &Path) -> Result<String, BadFile> {
    let unreadable = |error| BadFile::Unreadable { path: path.to_owned(), error };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {FILE_BYTES_MAX} bytes"))));
    }
    Ok(text)
}
