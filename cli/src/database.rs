//! Which database is meant, and a connection to it.

use std::path::PathBuf;
use std::time::Duration;

use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::NodeName;
use lagmesh_postgres::{ConnInfo, Connection, connect};

use crate::Failure;
use crate::check::read_fleet;

/// The longest wait for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// The longest wait for an answer.
pub(crate) const STATEMENT_DEADLINE: Duration = Duration::from_secs(10);

/// Which database is meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// A libpq connection string or URI; passwords come from .pgpass or PGPASSWORD
    #[arg(long, value_name = "DSN", conflicts_with = "node")]
    pub(crate) dsn: Option<String>,

    /// A node of the fleet file, in place of --dsn
    #[arg(long, value_name = "NAME", requires = "fleet")]
    pub(crate) node: Option<NodeName>,

    /// The fleet file
    #[arg(long, env = "LAGMESH_FLEET", value_name = "FILE")]
    pub(crate) fleet: Option<PathBuf>,
}

impl Target {
    /// The fleet file, if one is named.
    pub(crate) fn read_fleet(&self) -> Result<Option<Fleet>, Failure> {
        self.fleet.as_deref().map(read_fleet).transpose()
    }

    /// Whether a database is named.
    pub(crate) fn is_named(&self) -> bool {
        self.dsn.is_some() || self.node.is_some()
    }

    /// Connects to the database, if one is named.
    pub(crate) async fn connect(&self, fleet: Option<&Fleet>) -> Result<Option<Connection>, Failure> {
        let dsn = match (&self.dsn, &self.node) {
            (Some(dsn), _) => dsn,
            (None, Some(name)) => {
                let node = fleet.and_then(|fleet| fleet.node(name));
                let (_, node) = node.ok_or_else(|| Failure::Config(format!("no node of the fleet file is called \"{name}\"")))?;
                &node.dsn
            }
            (None, None) => return Ok(None),
        };
        let info =
            ConnInfo::parse(dsn, |variable| std::env::var(variable).ok()).map_err(|error| Failure::Config(error.to_string()))?;
        connect(&info, CONNECT_DEADLINE).await.map(Some).map_err(|error| Failure::Refused(error.to_string()))
    }
}
