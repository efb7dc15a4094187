//! What is wrong with a node, in the words of its state, and what to do. Pure.

use lagmesh_model::state::NodeState;
use lagmesh_postgres::QueryError;
use lagmesh_postgres::connect::{ConnectError, POOLER_ADVICE};
use lagmesh_postgres::conninfo::Host;
use lagmesh_postgres::layout::LayoutFinding;

/// What is wrong with a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The word for it.
    pub(super) state: NodeState,
    /// Why, and what to do.
    pub(super) why: String,
}

impl Trouble {
    /// A trouble in our own words.
    pub(super) fn new(state: NodeState, why: impl Into<String>) -> Trouble {
        Trouble { state, why: why.into() }
    }

    /// A connection failed.
    pub(super) fn connect(error: &ConnectError) -> Trouble {
        let state = match error {
            ConnectError::Refused { .. } | ConnectError::NoSuchDatabase { .. } => NodeState::Refused,
            ConnectError::Tls { .. } | ConnectError::BadSettings { .. } => NodeState::Tls,
            _ => NodeState::Unreachable,
        };
        Trouble::new(state, error.to_string())
    }

    /// A pooler answers instead of the server at `host`.
    pub(super) fn pooled(host: &Host) -> Trouble {
        Trouble::new(NodeState::Pooled, format!("{host}: {POOLER_ADVICE}; no beats are written"))
    }

    /// A statement gave no result; `doing` completes "while ...".
    pub(super) fn query(doing: &str, error: &QueryError) -> Trouble {
        let state = match error {
            QueryError::DeadlineExceeded(_) => NodeState::Hanging,
            QueryError::Failed(failed) => match failed.code() {
                Some(code) => of_sql_state(code.code()),
                None => NodeState::Unreachable,
            },
        };
        Trouble::new(state, format!("{doing}: {error}; {}", state.explain()))
    }

    /// The heartbeat table cannot be used.
    pub(super) fn layout(finding: &LayoutFinding) -> Trouble {
        let state = match finding {
            LayoutFinding::MissingGrants { .. } => NodeState::MissingGrant,
            _ => NodeState::MissingTable,
        };
        Trouble::new(state, finding.to_string())
    }
}

/// The state behind the server's code.
fn of_sql_state(code: &str) -> NodeState {
    match code {
        // insufficient_privilege
        "42501" => NodeState::MissingGrant,
        // undefined_table, undefined_column, undefined_function, invalid_schema_name
        "42P01" | "42703" | "42883" | "3F000" => NodeState::MissingTable,
        // read_only_sql_transaction
        "25006" => NodeState::ReadOnly,
        // lock_not_available, query_canceled (its statement_timeout), a recovery conflict
        "55P03" | "57014" | "40001" => NodeState::Hanging,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout; disk_full and its kind
        code if code.starts_with("57P") || code.starts_with("08") => NodeState::Unreachable,
        _ => NodeState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of refusal has its own word.
    #[test]
    fn codes() {
        let table = [
            ("42501", NodeState::MissingGrant),
            ("42P01", NodeState::MissingTable),
            ("25006", NodeState::ReadOnly),
            ("55P03", NodeState::Hanging),
            ("57P01", NodeState::Unreachable),
            ("53100", NodeState::Unknown),
        ];
        for (code, state) in table {
            assert_eq!(of_sql_state(code), state, "{code}");
        }
    }

    /// A layout finding keeps its advice.
    #[test]
    fn findings() {
        let missing = Trouble::layout(&LayoutFinding::NoTable);
        assert_eq!(missing.state, NodeState::MissingTable);
        assert!(missing.why.contains("lagmesh bootstrap"));
        let grants = LayoutFinding::MissingGrants { role: "ann".to_owned(), grants: vec!["SELECT ON lagmesh.beat"] };
        assert_eq!(Trouble::layout(&grants).state, NodeState::MissingGrant);
    }
}
