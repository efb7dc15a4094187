//! The secrets with which agents of one fleet recognise each other.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::mesh::stamp::HMAC_LENGTH;

/// The shortest secret [octets].
pub const SECRET_LENGTH_MIN: usize = 16;
/// The largest key file [octets].
const FILE_LENGTH_MAX: u64 = 4096;
/// How many keys may be accepted at once: the old one and the new one of a rotation.
const KEYS_MAX: usize = 2;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("mesh key file {}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Others may read it.
    #[error("mesh key file {}: others may read it (mode {mode:03o}); run chmod 600 on it", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is no plain file, or far too large for a key.
    #[error("mesh key file {}: not a plain file of at most {FILE_LENGTH_MAX} octets", path.display())]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// Its secret is too short.
    #[error("mesh key file {}: the key has {length} octets, at least {SECRET_LENGTH_MIN} are needed; make one with: openssl rand -hex 32", path.display())]
    Short {
        /// Which.
        path: PathBuf,
        /// How long it is [octets].
        length: usize,
    },
    /// None, or more than a rotation needs.
    #[error("{0} mesh key files given: give one, or two during a rotation (the first signs)")]
    Count(usize),
}

/// The accepted keys: one, or two during a rotation. The first signs.
#[derive(Clone)]
pub struct MeshKeys {
    keys: Vec<Hmac<Sha256>>,
}

/// Which of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyIndex(usize);

impl KeyIndex {
    /// The one that signs.
    pub const FIRST: KeyIndex = KeyIndex(0);
}

impl fmt::Debug for MeshKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshKeys({} redacted)", self.keys.len())
    }
}

impl MeshKeys {
    /// Reads the key files: hexadecimal digits, or any octets as they are (a newline at the end does not count).
    ///
    /// # Errors
    /// If a file cannot be read, is open to others, or holds too short a key.
    pub fn read(paths: &[PathBuf]) -> Result<MeshKeys, KeyError> {
        let secrets: Vec<Vec<u8>> = paths.iter().map(|path| read_secret(path)).collect::<Result<_, _>>()?;
        let secrets: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
        MeshKeys::of(&secrets)
    }

    /// Keys from secrets at hand.
    ///
    /// # Errors
    /// If there are none or too many.
    ///
    /// # Panics
    /// Never: HMAC takes a key of any length.
    pub fn of(secrets: &[&[u8]]) -> Result<MeshKeys, KeyError> {
        if secrets.is_empty() || secrets.len() > KEYS_MAX {
            return Err(KeyError::Count(secrets.len()));
        }
        let keyed = |secret: &&[u8]| Hmac::new_from_slice(secret).expect("HMAC takes a key of any length");
        Ok(MeshKeys { keys: secrets.iter().map(keyed).collect() })
    }

    /// The HMAC of the parts, one after the other.
    pub fn sign(&self, key: KeyIndex, parts: &[&[u8]]) -> [u8; HMAC_LENGTH] {
        let whole = mac(&self.keys[key.0], parts).finalize().into_bytes();
        let mut tag = [0; HMAC_LENGTH];
        tag.copy_from_slice(&whole[..HMAC_LENGTH]);
        tag
    }

    /// The key that made the HMAC of the parts, if one of ours did. Takes the same time whatever the tag.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> Option<KeyIndex> {
        if tag.len() != HMAC_LENGTH {
            return None;
        }
        let made_it = |key: &Hmac<Sha256>| mac(key, parts).verify_truncated_left(tag).is_ok();
        self.keys.iter().position(made_it).map(KeyIndex)
    }
}

fn mac(key: &Hmac<Sha256>, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    mac
}

fn read_secret(path: &Path) -> Result<Vec<u8>, KeyError> {
    let unreadable = |error| KeyError::Unreadable { path: path.to_owned(), error };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() || facts.len() > FILE_LENGTH_MAX {
        return Err(KeyError::NoFile { path: path.to_owned() });
    }
    if is_open_to_others(facts.mode(), facts.uid()) {
        return Err(KeyError::Open { path: path.to_owned(), mode: facts.mode() & 0o777 });
    }
    let mut octets = Vec::new();
    file.take(FILE_LENGTH_MAX).read_to_end(&mut octets).map_err(unreadable)?;
    let secret = secret_of(&octets);
    if secret.len() < SECRET_LENGTH_MIN {
        return Err(KeyError::Short { path: path.to_owned(), length: secret.len() });
    }
    Ok(secret)
}

/// Root may let a group read its files (0640), as libpq allows for private keys; anybody else's key must be theirs alone.
pub(crate) fn is_open_to_others(mode: u32, owner: u32) -> bool {
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    mode & forbidden != 0
}

fn secret_of(file: &[u8]) -> Vec<u8> {
    let trimmed = file.trim_ascii_end();
    let digit = |octet: &u8| char::from(*octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Option<Vec<u8>> = trimmed.iter().map(digit).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect(),
        _ => trimmed.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(folder: &tempfile::TempDir, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A key is hexadecimal digits or raw octets, long enough, and nobody else's business.
    #[test]
    fn files() {
        let folder = tempfile::tempdir().unwrap();
        let hex = file(&folder, "hex", b"000102030405060708090a0b0c0d0e0f\n", 0o600);
        let raw = file(&folder, "raw", b"sixteen octets !", 0o400);
        let open = file(&folder, "open", b"sixteen octets !", 0o604);
        let short = file(&folder, "short", b"00010203040506070809", 0o600);
        let keys = MeshKeys::read(&[hex, raw.clone()]).unwrap();
        let octets: Vec<u8> = (0..16).collect();
        assert_eq!(keys.sign(KeyIndex::FIRST, &[b"x"]), MeshKeys::of(&[&octets]).unwrap().sign(KeyIndex::FIRST, &[b"x"]));
        assert!(matches!(MeshKeys::read(&[open]), Err(KeyError::Open { mode: 0o604, .. })));
        assert!(matches!(MeshKeys::read(&[short]), Err(KeyError::Short { length: 10, .. })));
        assert!(matches!(MeshKeys::read(&[]), Err(KeyError::Count(0))));
        assert!(matches!(MeshKeys::read(&[raw.clone(), raw.clone(), raw]), Err(KeyError::Count(3))));
        assert!(matches!(MeshKeys::read(&[folder.path().join("none")]), Err(KeyError::Unreadable { .. })));
        assert!(is_open_to_others(0o640, 1000) && !is_open_to_others(0o640, 0) && is_open_to_others(0o644, 0));
    }

    /// During a rotation both keys are accepted and the first one signs; a stranger's is not.
    #[test]
    fn rotation() {
        let (old, new): (&[u8], &[u8]) = (b"the old key, long", b"the new key, long");
        let ours = MeshKeys::of(&[new, old]).unwrap();
        let sign = |secret| MeshKeys::of(&[secret]).unwrap().sign(KeyIndex::FIRST, &[b"a", b"b"]);
        assert_eq!(ours.verify(&[b"ab"], &sign(new)), Some(KeyIndex(0)));
        assert_eq!(ours.verify(&[b"ab"], &sign(old)), Some(KeyIndex(1)));
        assert_eq!(ours.verify(&[b"ab"], &sign(b"a stranger's secret")), None);
        assert_eq!(ours.verify(&[b"ab"], &sign(new)[..15]), None);
        assert_eq!(ours.sign(KeyIndex::FIRST, &[b"ab"]), sign(new));
        assert!(!format!("{ours:?}").contains("old"));
    }

    /// The HMAC is HMAC-SHA-256 as RFC 4231 computes it (test case 2), cut to 16 octets.
    #[test]
    fn known_answer() {
        let tag = MeshKeys::of(&[b"Jefe"]).unwrap().sign(KeyIndex::FIRST, &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(tag, [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75, 0xc7]);
    }
}
