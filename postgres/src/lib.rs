//! How lagmesh talks to PostgreSQL, in order of use: read a connection string as libpq does, find its password, agree on TLS,
//! connect, bound every statement, learn what the server is, read and write heartbeat rows, and set all of it up or remove it.

#![warn(missing_docs)]

pub mod conninfo;
pub mod passfile;
pub mod tls;

pub mod connect;
pub mod deadline;

pub mod discover;
pub mod layout;

pub mod bootstrap;

pub use connect::{ConnectError, Connection, connect, prepare};
pub use conninfo::ConnInfo;
pub use deadline::{CancelOnDrop, DeadlineExceeded, QueryError, with_deadline};
pub use tokio_postgres::{Client, Error as PgError};
