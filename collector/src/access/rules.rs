//! Who may do what. Pure: what a client asks for and shows, and the rules, give a caller or a refusal.

use std::sync::Arc;

use axum::http::Method;
use lagmesh_model::access::{Identity, Role, Token, Tokens};
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::series::Exporter;
use lagmesh_model::time::WallNanos;

use super::credentials::{Certificate, Shown};
use crate::tally::Transport;

/// What holds for everybody who comes in.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The tokens, if there is a file of them.
    pub tokens: Option<Tokens>,
    /// Whether an authority vouches for agents.
    pub certificates: bool,
    /// Whether who shows nothing may read, as long as there are no tokens: only where nobody else can come, or by declaration.
    pub open_to_read: bool,
}

/// Why somebody is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The word in metrics and in the audit log.
    pub reason: &'static str,
    /// Why, and what to do.
    pub why: String,
    /// Whether who shows something better may get in, or whether who this is may not do that.
    pub kind: Kind,
    /// Who it is, as far as that is known.
    pub who: Option<String>,
}

/// What a refusal says about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has not shown who it is (401).
    Unknown,
    /// It may not do that, whoever it is (403).
    Forbidden,
}

/// For whom a caller may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// For all agents: nobody is asked who they are, or the token is bound to none.
    Everybody,
    /// For the agent that the certificate names.
    Agent(Identity),
    /// For what the token is bound to.
    Bound {
        /// The only region, if it is bound to one.
        region: Option<RegionName>,
        /// The only agent, if it is bound to one.
        agent: Option<AgentName>,
    },
    /// For nobody: what never came past the door.
    Nobody,
}

/// Somebody who may do what they ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// The name in logs, and for limits; `None`: nobody was asked.
    pub name: Option<Arc<str>>,
    /// For whom they may send.
    pub scope: Scope,
}

/// The role that a request needs; `None` for what is open to everybody. What is not known here changes something, until it is.
pub fn needed(transport: Transport, method: &Method, path: &str) -> Option<Role> {
    match (transport, path) {
        (Transport::Grpc, _) | (Transport::Http, "/v1/metrics") => Some(Role::Ingest),
        (Transport::Http, "/health" | "/ready") => None,
        (Transport::Http, _) if matches!(*method, Method::GET | Method::HEAD) => Some(Role::Read),
        (Transport::Http, _) => Some(Role::Operate),
    }
}

impl Rules {
    /// Whether somebody may do what needs a role.
    ///
    /// # Errors
    /// Why not.
    pub fn decide(&self, role: Role, certificate: &Certificate, shown: &Shown, now: WallNanos) -> Result<Allowed, Refusal> {
        if role == Role::Ingest
            && let Certificate::Agent(identity) = certificate
        {
            return Ok(Allowed { name: Some(identity.to_string().into()), scope: Scope::Agent(identity.clone()) });
        }
        match (&self.tokens, shown) {
            (Some(tokens), Shown::Token(token)) => with_token(role, tokens.find(token), now),
            (Some(_), Shown::Malformed) => Err(unknown(
                "malformed-credentials",
                "the Authorization header is of no form that is known here: send Bearer TOKEN".to_owned(),
            )),
            _ => self.without_token(role, certificate),
        }
    }

    fn without_token(&self, role: Role, certificate: &Certificate) -> Result<Allowed, Refusal> {
        let anybody = Allowed { name: None, scope: Scope::Everybody };
        match role {
            Role::Ingest if !self.certificates && self.tokens.is_none() => Ok(anybody),
            Role::Ingest => Err(match certificate {
                Certificate::Nobody(why) => forbidden("no-identity", why.clone()),
                _ => unknown("no-credentials", format!("who sends here must show {}", self.wanted())),
            }),
            Role::Read if self.tokens.is_none() && self.open_to_read => Ok(anybody),
            Role::Read | Role::Operate if self.tokens.is_some() => {
                Err(unknown("no-credentials", format!("this needs a token with the role {role}")))
            }
            Role::Read | Role::Operate => Err(forbidden(
                "no-tokens",
                format!("this needs a token with the role {role}, and this collector knows none: give it --tokens-file"),
            )),
        }
    }

    fn wanted(&self) -> &'static str {
        match (self.certificates, self.tokens.is_some()) {
            (true, true) => "a client certificate or a token with the role ingest",
            (true, false) => "a client certificate",
            (false, _) => "a token with the role ingest",
        }
    }
}

fn with_token(role: Role, token: Option<&Token>, now: WallNanos) -> Result<Allowed, Refusal> {
    let Some(token) = token else {
        return Err(unknown(
            "unknown-token",
            "this token is not known here: it was mistyped, taken back, or is another collector's".to_owned(),
        ));
    };
    let named = |refusal: Refusal| Refusal { who: Some(token.name.to_string()), ..refusal };
    if token.has_expired(now) {
        return Err(named(unknown(
            "expired-token",
            format!("the token of {} has expired: make a new one with `lagmesh token`", token.name),
        )));
    }
    if !token.role.allows(role) {
        let why = format!("the token of {} has the role {} and this needs {role}", token.name, token.role);
        return Err(named(forbidden("wrong-role", why)));
    }
    let scope = match (&token.region, &token.agent) {
        (None, None) => Scope::Everybody,
        (region, agent) => Scope::Bound { region: region.clone(), agent: agent.clone() },
    };
    Ok(Allowed { name: Some(token.name.as_str().into()), scope })
}

impl Scope {
    /// Whether a batch of this exporter is theirs to send.
    ///
    /// # Errors
    /// The word in metrics, and which names differ.
    pub fn covers(&self, exporter: &Exporter) -> Result<(), (&'static str, String)> {
        let theirs = [exporter.fleet.as_str(), exporter.region.as_str(), exporter.agent.as_str()];
        let (ours, shown) = match self {
            Scope::Everybody => return Ok(()),
            Scope::Nobody => return Err(("no-credentials", "this request did not come past the door".to_owned())),
            Scope::Agent(Identity { fleet, region, agent }) => {
                ([Some(fleet.as_str()), Some(region.as_str()), Some(agent.as_str())], "certificate")
            }
            Scope::Bound { region, agent } => {
                ([None, region.as_ref().map(RegionName::as_str), agent.as_ref().map(AgentName::as_str)], "token")
            }
        };
        let words = [("fleet", "identity-fleet"), ("region", "identity-region"), ("agent", "identity-agent")];
        let differing: Vec<_> = (words.into_iter().zip(ours).zip(theirs))
            .filter_map(|((word, ours), theirs)| ours.filter(|ours| *ours != theirs).map(|ours| (word, ours, theirs)))
            .collect();
        let Some(((_, reason), ..)) = differing.first() else { return Ok(()) };
        let each = differing
            .iter()
            .map(|((what, _), ours, theirs)| format!("{what} \"{ours}\" and the batch comes from {what} \"{theirs}\""));
        Err((reason, format!("the {shown} is for {}", each.collect::<Vec<_>>().join(", for "))))
    }
}

fn unknown(reason: &'static str, why: String) -> Refusal {
    Refusal { reason, why, kind: Kind::Unknown, who: None }
}

fn forbidden(reason: &'static str, why: String) -> Refusal {
    Refusal { reason, why, kind: Kind::Forbidden, who: None }
}

#[cfg(test)]
mod tests;
