//! Why a connection failed, in the words of the one who must repair it.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::conninfo::{ConnInfo, Host, TargetSession};
use crate::passfile::Ignored;
use crate::tls::TlsError;

type Source = Box<dyn Error + Send + Sync>;

/// Why a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there: the name, the network, a firewall, or no server is running.
    #[error(
        "{address} cannot be reached: {source}; check the address, the firewall and listen_addresses, and that the server runs"
    )]
    Unreachable {
        /// The host as given.
        address: String,
        /// Why.
        source: Source,
    },
    /// The server does not let this login in.
    #[error("{address} refuses user {user:?} for database {dbname:?}: {source}; {advice}")]
    Refused {
        /// The host as given.
        address: String,
        /// The role.
        user: String,
        /// The database.
        dbname: String,
        /// What to do.
        advice: String,
        /// The server's words.
        source: Source,
    },
    /// No TLS session that satisfies `sslmode`.
    #[error("{address}: no TLS session: {source}; {advice}")]
    Tls {
        /// The host as given.
        address: String,
        /// What to do.
        advice: &'static str,
        /// What failed.
        source: Source,
    },
    /// There is no such database.
    #[error("{address} has no database {dbname:?}: {source}; create it or correct dbname")]
    NoSuchDatabase {
        /// The host as given.
        address: String,
        /// The database.
        dbname: String,
        /// The server's words.
        source: Source,
    },
    /// The server, the database or the role has no free connection.
    #[error(
        "{address} has no connection left: {source}; raise max_connections or the role's CONNECTION LIMIT, or close idle sessions"
    )]
    TooManyConnections {
        /// The host as given.
        address: String,
        /// The server's words.
        source: Source,
    },
    /// The server is there but takes no sessions now: starting, stopping, or recovering.
    #[error("{address} takes no sessions now: {source}; wait, it is tried again")]
    StartingUp {
        /// The host as given.
        address: String,
        /// The server's words.
        source: Source,
    },
    /// No answer in time.
    #[error("{address} gave no session within {} ms; something on the way drops packets, or the server hangs", waited.as_millis())]
    Timeout {
        /// The host as given.
        address: String,
        /// How long it was given.
        waited: Duration,
    },
    /// A server answered, but not of the kind that `target_session_attrs` wants.
    #[error("{address} is not what target_session_attrs wants ({wanted:?})")]
    WrongSession {
        /// The host as given.
        address: String,
        /// What was wanted.
        wanted: TargetSession,
    },
    /// Our own settings cannot work; no server can help.
    #[error("connection settings: {reason}")]
    BadSettings {
        /// What is wrong and what to do.
        reason: String,
    },
    /// The connection string names no host.
    #[error("connection settings: no host")]
    NoHosts,
    /// Anything else.
    #[error("{address}: {source}")]
    Other {
        /// The host as given.
        address: String,
        /// What happened.
        source: Source,
    },
}

impl From<TlsError> for ConnectError {
    fn from(error: TlsError) -> ConnectError {
        ConnectError::BadSettings { reason: error.to_string() }
    }
}

impl ConnectError {
    /// One word for a label: `unreachable`, `refused`, `tls`, `no-database`, `too-many`, `starting`, `timeout`, `wrong-session`,
    /// `settings`, `other`.
    pub fn kind(&self) -> &'static str {
        match self {
            ConnectError::Unreachable { .. } => "unreachable",
            ConnectError::Refused { .. } => "refused",
            ConnectError::Tls { .. } => "tls",
            ConnectError::NoSuchDatabase { .. } => "no-database",
            ConnectError::TooManyConnections { .. } => "too-many",
            ConnectError::StartingUp { .. } => "starting",
            ConnectError::Timeout { .. } => "timeout",
            ConnectError::WrongSession { .. } => "wrong-session",
            ConnectError::BadSettings { .. } | ConnectError::NoHosts => "settings",
            ConnectError::Other { .. } => "other",
        }
    }

    /// Whether a person must change something before another try can succeed.
    pub fn needs_a_person(&self) -> bool {
        matches!(
            self,
            ConnectError::Refused { .. }
                | ConnectError::Tls { .. }
                | ConnectError::NoSuchDatabase { .. }
                | ConnectError::BadSettings { .. }
                | ConnectError::NoHosts
        )
    }

    /// How much a failure says, to choose one among several hosts' failures: an answer says more than silence.
    pub(super) fn tells(&self) -> u8 {
        match self {
            ConnectError::NoHosts | ConnectError::Unreachable { .. } => 0,
            ConnectError::Timeout { .. } => 1,
            ConnectError::WrongSession { .. } => 2,
            ConnectError::StartingUp { .. } | ConnectError::TooManyConnections { .. } | ConnectError::Other { .. } => 3,
            ConnectError::Tls { .. } | ConnectError::NoSuchDatabase { .. } => 4,
            ConnectError::Refused { .. } | ConnectError::BadSettings { .. } => 5,
        }
    }

    /// Whether the same server may let us in with TLS where it did not without, or the other way round: the handshake failed, or no
    /// line of `pg_hba.conf` fits this kind of connection. A wrong password is wrong either way and is not sent twice.
    pub(super) fn may_be_about_tls(&self) -> bool {
        match self {
            ConnectError::Tls { .. } => true,
            ConnectError::Refused { source, .. } => {
                sql_state(source.as_ref()) == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
            }
            _ => false,
        }
    }

    pub(super) fn unreachable(host: &Host, source: io::Error) -> ConnectError {
        ConnectError::Unreachable { address: host.to_string(), source: source.into() }
    }

    pub(super) fn other(host: &Host, source: impl Into<Source>) -> ConnectError {
        ConnectError::Other { address: host.to_string(), source: source.into() }
    }

    /// Adds the password files that were passed over: they may be why the login failed.
    pub(super) fn with_ignored(mut self, ignored: Vec<Ignored>) -> ConnectError {
        if let ConnectError::Refused { advice, .. } = &mut self {
            for file in ignored {
                write!(advice, "; {file}").expect("a string takes any text");
            }
        }
        self
    }

    /// Sorts what tokio-postgres says.
    pub(super) fn from_server(host: &Host, info: &ConnInfo, error: tokio_postgres::Error) -> ConnectError {
        let address = host.to_string();
        if let Some(state) = error.code().cloned() {
            return from_sql_state(address, info, &state, error);
        }
        // tokio-postgres keeps the kind of an error to itself; its own words are all there is. The tests hold on to them.
        let kind = error.to_string();
        let source = error.into_source().unwrap_or_else(|| kind.clone().into());
        if kind.starts_with("error performing TLS handshake") {
            let advice = tls_advice(&source.to_string());
            return ConnectError::Tls { address, advice, source };
        }
        let login = kind.starts_with("authentication error") || kind.starts_with("invalid configuration");
        if login {
            let advice = "give the password in a password file (~/.pgpass, mode 0600), or correct pg_hba.conf".to_owned();
            return ConnectError::Refused { address, user: info.user.clone(), dbname: info.dbname.clone(), advice, source };
        }
        if kind.starts_with("error connecting to server") || source.is::<io::Error>() {
            return ConnectError::Unreachable { address, source };
        }
        ConnectError::Other { address, source }
    }
}

fn from_sql_state(address: String, info: &ConnInfo, state: &SqlState, error: tokio_postgres::Error) -> ConnectError {
    let source = server_words(error);
    let (user, dbname) = (info.user.clone(), info.dbname.clone());
    let refused = |advice: &str, source| {
        let (address, user, dbname) = (address.clone(), user.clone(), dbname.clone());
        ConnectError::Refused { address, user, dbname, advice: advice.to_owned(), source }
    };
    match state {
        state if *state == SqlState::INVALID_PASSWORD => {
            refused("check the password (psql \\password) and the password file's line", source)
        }
        state if *state == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            refused("check that the role exists and may log in, and add a line for it to pg_hba.conf", source)
        }
        state if *state == SqlState::INSUFFICIENT_PRIVILEGE => refused("GRANT CONNECT ON DATABASE to it", source),
        state if *state == SqlState::INVALID_CATALOG_NAME => ConnectError::NoSuchDatabase { address, dbname, source },
        state if *state == SqlState::TOO_MANY_CONNECTIONS => ConnectError::TooManyConnections { address, source },
        state if [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(state) => {
            ConnectError::StartingUp { address, source }
        }
        state
            if [SqlState::INVALID_PARAMETER_VALUE, SqlState::UNDEFINED_OBJECT, SqlState::CANT_CHANGE_RUNTIME_PARAM]
                .contains(state) =>
        {
            ConnectError::BadSettings { reason: format!("{address} does not accept them: {source}; correct \"options\"") }
        }
        _ => ConnectError::Other { address, source },
    }
}

/// The server's own message instead of tokio-postgres's "db error".
fn server_words(error: tokio_postgres::Error) -> Source {
    error.into_source().unwrap_or_else(|| "the server gave no reason".into())
}

fn sql_state<'e>(source: &'e (dyn Error + 'static)) -> Option<&'e SqlState> {
    source.downcast_ref::<tokio_postgres::error::DbError>().map(tokio_postgres::error::DbError::code)
}

fn tls_advice(reason: &str) -> &'static str {
    let table = [
        ("does not support TLS", "set ssl = on at the server, or choose sslmode=prefer if plain text is acceptable"),
        (
            "NotValidForName",
            "the certificate must carry this host as a subject alternative name; correct host, or reissue the certificate",
        ),
        (
            "not valid for name",
            "the certificate must carry this host as a subject alternative name; correct host, or reissue the certificate",
        ),
        ("UnknownIssuer", "name the authority's certificate with sslrootcert"),
        ("Expired", "renew the server's certificate, and check this machine's clock"),
        ("expired", "renew the server's certificate, and check this machine's clock"),
    ];
    let known = table.iter().find(|(part, _)| reason.contains(part));
    known.map_or("check the certificates and sslmode on both sides", |(_, advice)| advice)
}
