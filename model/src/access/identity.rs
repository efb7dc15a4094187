//! The name of an agent in its certificate: one URI, `lagmesh://FLEET/REGION/AGENT`, among the subject's alternative names.
//!
//! Names hold nothing that a URI would escape, so there is exactly one way to write an agent, and nothing to normalise.

use std::fmt;
use std::str::FromStr;

use crate::ids::{AgentName, BadName, RegionName};

const SCHEME: &str = "lagmesh:";

/// An agent of a fleet, as an authority vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The fleet.
    pub fleet: String,
    /// The region of the agent.
    pub region: RegionName,
    /// The agent.
    pub agent: AgentName,
}

/// Why a certificate names no agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// It has no URI of ours.
    #[error("the certificate names no agent: it needs the URI lagmesh://FLEET/REGION/AGENT among its alternative names")]
    Missing,
    /// It has several, and nobody can say which one is meant.
    #[error("the certificate has {0} URIs that begin with lagmesh: and may have only one")]
    Several(usize),
    /// It has one of another form.
    #[error("the certificate's URI {uri:?} is not of the form lagmesh://FLEET/REGION/AGENT")]
    Form {
        /// The URI.
        uri: String,
    },
    /// It has one with something that is no name.
    #[error("the certificate's URI {uri:?}: {error}")]
    Name {
        /// The URI.
        uri: String,
        /// What is wrong.
        error: BadName,
    },
}

impl Identity {
    /// The agent among the URIs of a certificate. Those of other schemes belong to others and are passed over.
    ///
    /// # Errors
    /// If there is none, or not exactly one of the one form.
    pub fn among<'u>(uris: impl Iterator<Item = &'u str>) -> Result<Identity, BadIdentity> {
        let ours = |uri: &&str| uri.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME));
        let ours: Vec<&str> = uris.filter(ours).collect();
        match ours.as_slice() {
            [] => Err(BadIdentity::Missing),
            [uri] => uri.parse(),
            several => Err(BadIdentity::Several(several.len())),
        }
    }
}

impl FromStr for Identity {
    type Err = BadIdentity;

    fn from_str(uri: &str) -> Result<Identity, BadIdentity> {
        let form = || BadIdentity::Form { uri: uri.to_owned() };
        let name = |error| BadIdentity::Name { uri: uri.to_owned(), error };
        let mut parts = uri.strip_prefix("lagmesh://").ok_or_else(form)?.split('/');
        let (Some(fleet), Some(region), Some(agent), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(form());
        };
        // The fleet file holds a fleet's name to the rules of the other names.
        let fleet = fleet.parse::<RegionName>().map_err(name)?.as_str().to_owned();
        Ok(Identity { fleet, region: region.parse().map_err(name)?, agent: agent.parse().map_err(name)? })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lagmesh://{}/{}/{}", self.fleet, self.region, self.agent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn among(uris: &[&str]) -> Result<Identity, BadIdentity> {
        Identity::among(uris.iter().copied())
    }

    /// A certificate names one agent in one way, whatever else it names; anything near to that names nobody.
    #[test]
    fn one_form() {
        let oslo = among(&["https://example/a", "lagmesh://demo/oslo/oslo-1", "spiffe://x/y"]).unwrap();
        assert_eq!((oslo.fleet.as_str(), oslo.region.as_str(), oslo.agent.as_str()), ("demo", "oslo", "oslo-1"));
        assert_eq!(among(&["https://example/a"]), Err(BadIdentity::Missing));
        assert_eq!(among(&["lagmesh://demo/a/a", "LAGMESH://demo/b/b"]), Err(BadIdentity::Several(2)));
        assert_eq!(among(&["lagmesh://demo/a/a", "lagmesh://demo/a/a"]), Err(BadIdentity::Several(2)));
        for uri in [
            "LAGMESH://demo/a/a",
            "lagmesh:demo/a/a",
            "lagmesh:///demo/a/a",
            "lagmesh://demo/a",
            "lagmesh://demo/a/a/",
            "lagmesh://demo/a/a/b",
            "lagmesh://demo//a",
            "lagmesh://demo/A/a",
            "lagmesh://demo/%61/a",
            "lagmesh://demo/a/a?b",
            "lagmesh://demo/a/a#b",
            "lagmesh://user@demo/a/a",
            "lagmesh://demo:1/a/a",
            "lagmesh://demo/a/a ",
        ] {
            assert!(matches!(among(&[uri]), Err(BadIdentity::Form { .. } | BadIdentity::Name { .. })), "{uri}");
        }
    }

    proptest! {
        /// What is understood is written exactly as it came, so that two texts never mean one agent.
        #[test]
        fn understood_is_written_back(uri in "lagmesh://[a-z0-9._/%A-]{0,20}") {
            if let Ok(identity) = uri.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), uri);
            }
        }
    }
}
