//! The look around before the table is made.

use std::fmt;

use tokio_postgres::{Client, Error};

use crate::connect::{Connection, POOLER_ADVICE};
use crate::layout::{LayoutFinding, Need, discover};

/// The steps that keep logical replication whole.
pub const SAFE_ORDER: &str = "\
A subscriber that gets a row for a table that it does not have stops applying anything. So:
  1. Keep the agents stopped: as long as nobody writes to lagmesh.beat, nothing breaks.
  2. On every subscriber: run the bootstrap SQL.
  3. Then on every publisher: run it with --despite-publications.
  4. On every subscriber, for each subscription to a publication FOR ALL TABLES or for schema lagmesh:
       ALTER SUBSCRIPTION name REFRESH PUBLICATION WITH (copy_data = false);
     (in a mesh of writers the subscriptions need origin = none, PostgreSQL 16 or later)
  5. Check on the subscribers that pg_stat_subscription still advances, then start the agents.
To keep lagmesh out of such publications instead, use a database of its own or publications FOR TABLE ...";

/// One thing worth knowing before the bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Publications that take in every table.
    PublicationsForAllTables(Vec<String>),
    /// Publications that take in every table of schema lagmesh.
    PublicationsForSchema(Vec<String>),
    /// This database subscribes to others.
    Subscriptions(Vec<String>),
    /// The server is a standby.
    InRecovery,
    /// A pooler answers in the server's place.
    Pooled,
    /// The table is there and as it should be.
    LayoutReady,
    /// The schema or the table is there but not as it should be.
    LayoutWrong(LayoutFinding),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::PublicationsForAllTables(names) => write!(f, "publications FOR ALL TABLES exist: {}", names.join(", ")),
            Finding::PublicationsForSchema(names) => write!(f, "publications for schema lagmesh exist: {}", names.join(", ")),
            Finding::Subscriptions(names) => {
                write!(
                    f,
                    "this database has subscriptions ({}); run the bootstrap here before it is run on their publishers",
                    names.join(", ")
                )
            }
            Finding::InRecovery => f.write_str("this server is a standby; run the bootstrap on its writer"),
            Finding::Pooled => write!(f, "{POOLER_ADVICE}; agents write no beats through it"),
            Finding::LayoutReady => f.write_str("the heartbeat table is there; running the bootstrap again changes nothing"),
            Finding::LayoutWrong(finding) => finding.fmt(f),
        }
    }
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// In the order in which they were looked for.
    pub findings: Vec<Finding>,
}

impl Preflight {
    /// Whether the table must not be made now: on a standby it cannot be, and publications need [`SAFE_ORDER`] first. A table that is
    /// there already is beyond that danger.
    pub fn refuses(&self) -> bool {
        let there = self.findings.contains(&Finding::LayoutReady);
        self.findings.iter().any(|finding| match finding {
            Finding::InRecovery => true,
            Finding::PublicationsForAllTables(_) | Finding::PublicationsForSchema(_) => !there,
            Finding::Subscriptions(_) | Finding::Pooled | Finding::LayoutReady | Finding::LayoutWrong(_) => false,
        })
    }

    /// Whether [`SAFE_ORDER`] is the answer.
    pub fn needs_safe_order(&self) -> bool {
        self.refuses() && !self.findings.contains(&Finding::InRecovery)
    }
}

/// Looks around in the connection's database. Needs no grant.
///
/// # Errors
/// The server's.
pub async fn preflight(connection: &Connection) -> Result<Preflight, Error> {
    let client = connection.client();
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), ARRAY(SELECT pubname::text FROM pg_catalog.pg_publication WHERE puballtables), \
               ARRAY(SELECT s.subname::text FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid \
                     WHERE d.datname = pg_catalog.current_database()), \
               pg_catalog.to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL";
    let row = client.query_typed_one(sql, &[]).await?;
    let (all_tables, subscriptions): (Vec<String>, Vec<String>) = (row.try_get(1)?, row.try_get(2)?);
    let for_schema = if row.try_get(3)? { publications_for_schema(client).await? } else { Vec::new() };
    let mut findings = Vec::new();
    if connection.is_pooled().await? {
        findings.push(Finding::Pooled);
    }
    if row.try_get(0)? {
        findings.push(Finding::InRecovery);
    }
    let some = |names: Vec<String>| Some(names).filter(|names| !names.is_empty());
    findings.extend(some(all_tables).map(Finding::PublicationsForAllTables));
    findings.extend(some(for_schema).map(Finding::PublicationsForSchema));
    findings.extend(some(subscriptions).map(Finding::Subscriptions));
    findings.extend(match discover(client, Need::Read).await? {
        LayoutFinding::NoSchema | LayoutFinding::NoTable => None,
        LayoutFinding::Ready | LayoutFinding::MissingGrants { .. } => Some(Finding::LayoutReady),
        wrong => Some(Finding::LayoutWrong(wrong)),
    });
    Ok(Preflight { findings })
}

/// PostgreSQL 15 and later.
async fn publications_for_schema(client: &Client) -> Result<Vec<String>, Error> {
    let sql = "SELECT p.pubname::text FROM pg_catalog.pg_publication p \
               JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid \
               JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid WHERE n.nspname = 'lagmesh'";
    client.query_typed(sql, &[]).await?.iter().map(|row| row.try_get(0)).collect()
}
