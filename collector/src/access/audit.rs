//! The audit log: lines of the target `audit` in the log of the process, one for each refusal and each change. Nothing that was shown
//! stands in it, only who it belongs to.

use std::net::SocketAddr;

use axum::http::StatusCode;
use lagmesh_model::access::Role;

/// The most of a path that is written down [bytes].
const PATH_BYTES_MAX: usize = 100;

/// Who wants what, and where from.
#[derive(Debug)]
pub(super) struct Event<'e> {
    /// The name of a certificate or token; `None`: nobody knows.
    pub(super) who: Option<&'e str>,
    /// The role that it takes.
    pub(super) role: Option<Role>,
    /// Where from.
    pub(super) from: Option<SocketAddr>,
    /// What.
    pub(super) what: &'e str,
}

impl Event<'_> {
    /// It was refused.
    pub(super) fn refused(&self, reason: &str, why: &str) {
        let Event { who, role, from, what } = self;
        let (who, role, from) = (who.unwrap_or("-"), role.map(Role::as_str), from.map(|from| from.to_string()));
        tracing::warn!(target: "audit", outcome = "refused", who, role, from, what, reason, why, "refused");
    }

    /// Something may have been changed; the status says whether.
    pub(super) fn changed(&self, status: StatusCode) {
        let Event { who, role, from, what } = self;
        let (who, role, from) = (who.unwrap_or("-"), role.map(Role::as_str), from.map(|from| from.to_string()));
        let outcome = if status.is_success() { "done" } else { "failed" };
        tracing::info!(target: "audit", outcome, who, role, from, what, status = status.as_u16(), "change");
    }
}

/// The beginning of a path, which a client chose.
pub(super) fn excerpt(path: &str) -> String {
    let end = path.char_indices().map(|(at, _)| at).find(|at| *at >= PATH_BYTES_MAX).unwrap_or(path.len());
    path[..end].escape_default().to_string()
}
