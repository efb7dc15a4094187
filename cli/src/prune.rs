//! `lagmesh prune`: rows that nobody writes any more.

use std::io::Write;
use std::time::Duration;

use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::NodeName;
use lagmesh_postgres::layout::{self, origins};
use lagmesh_postgres::{Connection, PgError, with_deadline};
use tokio_postgres::types::Type;

use crate::Failure;
use crate::database::{STATEMENT_DEADLINE, Target};
use crate::table::units::span;

/// An origin whose newest row is younger than this may still be alive.
const QUIET_MIN: Duration = Duration::from_secs(3600);

/// Delete the heartbeat rows of a node that has left the fleet
///
/// Agents remove their own old rows; those of a node that is gone stay until somebody removes them. Run it on the writer. It refuses
/// a node that still stands in the fleet file, and one that has written within the last hour.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  lagmesh prune --dsn 'host=db.example dbname=orders user=lagmesh' --origin orders-sydney --dry-run
  lagmesh prune --fleet fleet.toml --node orders-dublin --origin orders-sydney

Exit codes: 0 done (also if there was nothing to delete), 1 refused or the server does not answer, 64 wrong command line,
78 wrong fleet file.")]
pub(crate) struct Args {
    /// The node whose rows are deleted
    #[arg(long, value_name = "NODE")]
    origin: NodeName,

    /// Tell what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,

    /// Delete even if the node has written within the last hour, or nobody knows when
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    target: Target,
}

/// What is known about an origin's rows.
#[derive(Debug, Clone, PartialEq)]
struct Rows {
    count: i64,
    /// How long ago the newest was written [s], by the writer's clock against this server's; `None` if none ever was.
    quiet_s: Option<f64>,
}

pub(crate) async fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let fleet = args.target.read_fleet()?;
    refuse_member(fleet.as_ref(), &args.origin)?;
    let Some(connection) = args.target.connect(fleet.as_ref()).await? else {
        return Err(Failure::Usage("name the writer with --dsn, or with --fleet and --node"));
    };
    let rows = ask(&connection, rows(&connection, &args.origin)).await?;
    if rows.count == 0 {
        let known = ask(&connection, origins(connection.client())).await?;
        let known: Vec<String> = known.into_iter().map(|(origin, count)| format!("{origin} ({count} rows)")).collect();
        let known =
            if known.is_empty() { "the table is empty".to_owned() } else { format!("there are rows of {}", known.join(", ")) };
        writeln!(out, "nothing to delete: {} has no rows; {known}", args.origin)?;
        return Ok(());
    }
    if !args.force {
        refuse_recent(&args.origin, &rows)?;
    }
    let quiet =
        rows.quiet_s.map_or_else(|| "never written".to_owned(), |quiet_s| format!("the newest written {} ago", span(quiet_s)));
    if args.dry_run {
        writeln!(out, "would delete {} rows of {} ({quiet})", rows.count, args.origin)?;
        return Ok(());
    }
    let deleted = ask(&connection, delete(&connection, &args.origin)).await?;
    writeln!(out, "deleted {deleted} rows of {} ({quiet})", args.origin)?;
    Ok(())
}

async fn ask<T>(connection: &Connection, work: impl Future<Output = Result<T, PgError>>) -> Result<T, Failure> {
    let answer = with_deadline(connection, STATEMENT_DEADLINE, work).await;
    answer.map_err(|error| Failure::Refused(format!("{}: {error}", connection.host())))
}

async fn rows(connection: &Connection, origin: &NodeName) -> Result<Rows, PgError> {
    let sql = "SELECT pg_catalog.count(*), \
               EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.max(sent_wall))::float8 FROM lagmesh.beat WHERE origin = $1";
    let row = connection.client().query_typed_one(sql, &[(&origin.as_str(), Type::TEXT)]).await?;
    Ok(Rows { count: row.try_get(0)?, quiet_s: row.try_get(1)? })
}

async fn delete(connection: &Connection, origin: &NodeName) -> Result<u64, PgError> {
    // Neither a lock nor a synchronous standby may hold us up.
    connection.client().batch_execute("SET lock_timeout = '2s'; SET synchronous_commit = local").await?;
    layout::prune(connection.client(), origin.as_str()).await
}

fn refuse_member(fleet: Option<&Fleet>, origin: &NodeName) -> Result<(), Failure> {
    match fleet.and_then(|fleet| fleet.node(origin)) {
        Some((cluster, _)) => Err(Failure::Refused(format!(
            "{origin} still stands in the fleet file (cluster {}): take it out there and on every agent first",
            cluster.name
        ))),
        None => Ok(()),
    }
}

fn refuse_recent(origin: &NodeName, rows: &Rows) -> Result<(), Failure> {
    let advice = "stop its agent first, or add --force";
    match rows.quiet_s {
        Some(quiet_s) if quiet_s >= QUIET_MIN.as_secs_f64() => Ok(()),
        Some(quiet_s) => Err(Failure::Refused(format!("{origin} has written {} ago: {advice}", span(quiet_s)))),
        None => Err(Failure::Refused(format!(
            "{origin} has rows in which nothing was written yet, it may just be starting: {advice}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only an origin that is surely quiet goes without --force: not a recent one, one from the future, or one that never wrote.
    #[test]
    fn recent_rows_are_refused() {
        let origin: NodeName = "gone".parse().unwrap();
        let verdict = |quiet_s| refuse_recent(&origin, &Rows { count: 3, quiet_s }).is_ok();
        assert_eq!([Some(3600.0), Some(3599.0), Some(-5.0), None].map(verdict), [true, false, false, false]);
    }

    /// A node that stands in the fleet file is never pruned.
    #[test]
    fn members_are_refused() {
        let fleet = Fleet::parse("fleet.toml", include_str!("../../packaging/fleet.toml")).unwrap();
        let verdict = |name: &str| refuse_member(Some(&fleet), &name.parse().unwrap()).is_ok();
        assert_eq!(["orders-tokyo", "orders-sydney"].map(verdict), [false, true]);
    }
}
