//! Names of things in the fleet file. A name is 1 to 63 characters of `a-z 0-9 - _ .`, so that it is safe as a label everywhere. A copy
//! of a name shares its text: every observation carries some.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The longest name [characters]; that of a DNS label.
pub const NAME_LENGTH_MAX: usize = 63;

/// A name that breaks the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name: use 1 to {NAME_LENGTH_MAX} characters of a-z, 0-9, '-', '_' and '.'")]
pub struct BadName(pub String);

fn check(name: &str) -> Result<(), BadName> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if (1..=NAME_LENGTH_MAX).contains(&name.len()) && name.chars().all(good) { Ok(()) } else { Err(BadName(name.to_owned())) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(name: &str) -> Result<Self, BadName> {
                check(name).map(|()| $name(name.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(name: String) -> Result<Self, BadName> {
                check(&name).map(|()| $name(name.into()))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A place: holds one agent or several, and nodes.
    RegionName
);
name!(
    /// One lagmesh-agent of the fleet.
    AgentName
);
name!(
    /// One replicated database.
    ClusterName
);
name!(
    /// One PostgreSQL server of a cluster; unique in the fleet.
    NodeName
);
name!(
    /// One collector of the fleet.
    CollectorName
);
name!(
    /// One back end to which collectors pass everything on.
    TargetName
);
name!(
    /// Who holds a token of a collector.
    TokenName
);

/// One start of a process: random, so that counters of two runs are never taken for one. Text outside: 64 bits are more than a
/// browser's numbers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<BootId> for String {
    fn from(boot: BootId) -> String {
        boot.to_string()
    }
}

impl TryFrom<String> for BootId {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<BootId, Self::Error> {
        text.parse()
    }
}

impl FromStr for BootId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<BootId, Self::Err> {
        u64::from_str_radix(text, 16).map(BootId)
    }
}

/// A node's name on the wire: the first eight bytes of SHA-256 over the name. Every agent has the same fleet file, so every agent
/// can turn it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeHash(pub u64);

impl NodeHash {
    /// The hash of a node's name.
    pub fn of(node: &NodeName) -> NodeHash {
        NodeHash(first_octets(node.as_str()))
    }
}

/// A replication slot's name on the wire: made as a node's. Nobody needs to turn it back: who uses a slot knows its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotHash(pub u64);

impl SlotHash {
    /// The hash of a slot's name.
    pub fn of(slot: &str) -> SlotHash {
        SlotHash(first_octets(slot))
    }
}

fn first_octets(name: &str) -> u64 {
    let digest = Sha256::digest(name);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only names that are safe as a label, a path and a host part are accepted.
    #[test]
    fn names() {
        for good in ["new-york", "db.1", "a", "x_9"] {
            assert_eq!(good.parse::<RegionName>().unwrap().as_str(), good);
        }
        for bad in ["", "New York", "ü", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<RegionName>().is_err(), "{bad:?}");
        }
    }
}
