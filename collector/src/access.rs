//! The door: who asks, what they may do, how much of it, and what is written down about it.
//!
//! [`credentials`] and [`rules`] decide without doing anything; [`layer`] stands before every route of both addresses; [`files`] and
//! [`reload`] bring what is in force. Whoever comes past the door is a [`Caller`], who is asked again for whom a batch speaks.

mod audit;
pub mod credentials;
pub mod files;
pub mod layer;
pub mod limit;
pub mod reload;
pub mod rules;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use lagmesh_daemon::Clock;
use lagmesh_model::access::Role;
use lagmesh_model::series::Exporter;
use tokio::sync::watch;

use self::audit::Event;
use self::credentials::{Certificate, Shown};
use self::limit::{Buckets, Rate};
use self::rules::{Allowed, Kind, Refusal, Rules, Scope, needed};
use crate::tally::{Tally, Transport};

/// Refusals of one source address that are written down each: then as many as a person can read.
const FAILURES: Rate = Rate { per_s: 1, burst: 10 };
/// Source addresses that are told apart; those beyond share one bucket.
const SOURCES_MAX: usize = 1024;
/// Callers that are told apart: the agents of a large fleet and all tokens.
const CALLERS_MAX: usize = 2048;

/// What one caller may take at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests.
    pub requests: Rate,
    /// Bodies that they send, as they travel [bytes].
    pub bytes: Rate,
}

/// What is known of the connection on which a request comes.
#[derive(Debug)]
pub struct Connection {
    /// Where from.
    pub from: SocketAddr,
    /// Whom its certificate names.
    pub certificate: Certificate,
}

/// The door, shared by all who stand at it.
#[derive(Debug, Clone)]
pub struct Access(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: watch::Receiver<Arc<Rules>>,
    requests: Mutex<Buckets<Arc<str>>>,
    bytes: Mutex<Buckets<Arc<str>>>,
    failures: Mutex<Buckets<IpAddr>>,
    clock: Clock,
    tally: Tally,
}

/// Somebody who came past the door.
#[derive(Debug, Clone)]
pub struct Caller {
    access: Option<Access>,
    name: Option<Arc<str>>,
    scope: Scope,
    from: Option<SocketAddr>,
}

/// Why a request does not come past the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It shows the wrong thing, or nothing.
    Refused(Refusal),
    /// It comes too soon.
    TooSoon {
        /// The word in metrics.
        reason: &'static str,
        /// Why.
        why: String,
        /// When it may come again.
        after: Duration,
    },
}

impl Denied {
    fn reason(&self) -> &'static str {
        match self {
            Denied::Refused(refusal) => refusal.reason,
            Denied::TooSoon { reason, .. } => reason,
        }
    }
}

impl Access {
    /// A door at which these rules hold, and whatever takes their place.
    pub fn new(rules: watch::Receiver<Arc<Rules>>, limits: Limits, clock: Clock, tally: Tally) -> Access {
        Access(Arc::new(Shared {
            rules,
            requests: Mutex::new(Buckets::new(limits.requests, CALLERS_MAX)),
            bytes: Mutex::new(Buckets::new(limits.bytes, CALLERS_MAX)),
            failures: Mutex::new(Buckets::new(FAILURES, SOURCES_MAX)),
            clock,
            tally,
        }))
    }

    /// Whether a request may come in, and as whom; `Ok(None)` where nobody is asked. What is refused is counted and written down.
    pub(crate) fn enter(
        &self,
        (transport, method, path): (Transport, &Method, &str),
        headers: &HeaderMap,
        connection: Option<&Connection>,
    ) -> Result<Option<(Caller, Role)>, Denied> {
        let Some(role) = needed(transport, method, path) else { return Ok(None) };
        let from = connection.map(|connection| connection.from);
        let certificate = connection.map_or(&Certificate::None, |connection| &connection.certificate);
        let rules = self.0.rules.borrow().clone();
        let entered = match rules.decide(role, certificate, &Shown::read(headers), self.0.clock.now().wall) {
            Ok(Allowed { name, scope }) => {
                let caller = Caller { access: Some(self.clone()), name, scope, from };
                self.limit(&caller).map(|()| Some((caller, role)))
            }
            Err(refusal) => {
                let what = format!("{method} {}", audit::excerpt(path));
                let event = Event { who: refusal.who.as_deref(), role: Some(role), from, what: &what };
                Err(self.refused(&event, refusal.clone()))
            }
        };
        if let (Err(denied), Role::Ingest) = (&entered, role) {
            self.0.tally.request(transport, denied.reason());
        }
        entered
    }

    /// Writes a refusal down, unless this source has had its share of lines: then a wrong secret is told to come later. Whoever shows
    /// the right one is not asked how often others of the same address were wrong, so nobody can shut others out.
    fn refused(&self, event: &Event<'_>, refusal: Refusal) -> Denied {
        match self.tell(event, refusal.reason, &refusal.why) {
            Err(after) if refusal.kind == Kind::Unknown && refusal.reason != "no-credentials" => {
                let why = format!("too many refused requests from this address; the last one: {}", refusal.why);
                Denied::TooSoon { reason: refusal.reason, why, after }
            }
            _ => Denied::Refused(refusal),
        }
    }

    /// Counts a refusal, and writes it down if its source has not had its share of lines.
    fn tell(&self, event: &Event<'_>, reason: &'static str, why: &str) -> Result<(), Duration> {
        self.0.tally.refusal(reason);
        let source = event.from.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |from| source_of(from.ip()));
        let told = lock(&self.0.failures).take(&source, self.0.clock.now().raw);
        if told.is_ok() {
            event.refused(reason, why);
        }
        told
    }

    /// Whether a caller has not had their share.
    fn limit(&self, caller: &Caller) -> Result<(), Denied> {
        let Some(name) = &caller.name else { return Ok(()) };
        let now = self.0.clock.now().raw;
        let too_soon = |reason: &'static str, what: &'static str| {
            move |after| {
                self.0.tally.refusal(reason);
                Denied::TooSoon { reason, why: format!("{name} has sent too many {what}: come back later"), after }
            }
        };
        lock(&self.0.bytes).check(name, now).map_err(too_soon("too-many-bytes", "bytes"))?;
        lock(&self.0.requests).take(name, now).map_err(too_soon("too-many-requests", "requests"))
    }

    /// A client with which there is no connection, because its certificate is no good or it speaks something else.
    pub(crate) fn handshake_failed(&self, from: SocketAddr, error: &std::io::Error) {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(_)) = cause {
            let event = Event { who: None, role: None, from: Some(from), what: "TLS handshake" };
            // Who is refused here gets no answer in which a wait could stand.
            self.tell(&event, "bad-certificate", &error.to_string()).ok();
        } else {
            self.0.tally.refusal("bad-handshake");
        }
    }
}

impl Caller {
    /// Who did not come past a door: may do nothing.
    pub fn nobody() -> Caller {
        Caller { access: None, name: None, scope: Scope::Nobody, from: None }
    }

    /// Who need not show anything.
    #[cfg(test)]
    pub(crate) fn everybody() -> Caller {
        Caller { scope: Scope::Everybody, ..Caller::nobody() }
    }

    /// Whether a batch of this exporter is theirs to send. If not, that is counted and written down.
    ///
    /// # Errors
    /// The word in metrics, and which names differ.
    pub fn may_send(&self, exporter: &Exporter) -> Result<(), (&'static str, String)> {
        self.scope.covers(exporter).inspect_err(|(reason, why)| self.refused("a batch", Role::Ingest, reason, why))
    }

    /// Somebody whom the door let in is refused behind it: that is counted and written down.
    fn refused(&self, what: &str, role: Role, reason: &'static str, why: &str) {
        if let Some(access) = &self.access {
            let event = Event { who: self.name.as_deref(), role: Some(role), from: self.from, what };
            // Its share of lines is the log's concern; the answer is the same.
            access.tell(&event, reason, why).ok();
        }
    }

    /// So many bytes of a body have come from them.
    fn charge(&self, bytes: usize) {
        if let (Some(access), Some(name)) = (&self.access, &self.name) {
            let now = access.0.clock.now().raw;
            lock(&access.0.bytes).charge(name, bytes as u64, now);
        }
    }
}

/// What counts as one source: an address, or the network of 64 bits of which one host has as many addresses as it likes.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip @ IpAddr::V4(_) => ip,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
