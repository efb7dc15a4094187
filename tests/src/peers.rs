//! Programs of others that lagmesh is tested with and measured beside, as `tests/peers.sh` fetches them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::prometheus::repository;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its executable.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
}

impl Peer {
    /// The one of a name, if it is here.
    ///
    /// # Errors
    /// If it is there only in part.
    pub fn find(name: &str) -> Result<Option<Peer>> {
        let home = repository("build/peers");
        let path = home.join("bin").join(name);
        if !path.exists() {
            return Ok(None);
        }
        let version =
            fs::read_to_string(home.join(name).join("version")).with_context(|| format!("read the version of {name}"))?;
        Ok(Some(Peer { path: path.canonicalize()?, version: version.trim().to_owned() }))
    }
}
