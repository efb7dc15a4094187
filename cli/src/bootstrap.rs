//! `lagmesh bootstrap`: what a database needs, and whether it can have it now.

use std::io::{self, Write};

use lagmesh_postgres::bootstrap::{BootstrapOptions, Preflight, SAFE_ORDER, bootstrap_sql, preflight, uninstall_sql};
use lagmesh_postgres::with_deadline;

use crate::Failure;
use crate::database::{STATEMENT_DEADLINE, Target};

/// Print the SQL that prepares a database: roles, schema, heartbeat table, grants
///
/// Run the SQL as a superuser on the writer. It can be run again at any time; it sets no password. With --dsn or --node the server
/// is looked at first, and nothing is printed where the heartbeat table would stop logical replication (publications FOR ALL TABLES
/// or for its schema): the safe order of steps is told instead. Without, the SQL checks the same when it is run.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  lagmesh bootstrap --print-sql | psql -v ON_ERROR_STOP=1 -d orders
  lagmesh bootstrap --print-sql --dsn 'host=db.example dbname=orders user=postgres' > bootstrap.sql
  lagmesh bootstrap --fleet fleet.toml --node orders-dublin      look only
  lagmesh bootstrap --print-sql --uninstall > uninstall.sql

Exit codes: 0 done, 1 refused or the server does not answer, 64 wrong command line, 78 wrong fleet file.")]
pub(crate) struct Args {
    /// Print the SQL to standard output
    #[arg(long)]
    print_sql: bool,

    /// Print the SQL that removes everything again
    #[arg(long, requires = "print_sql", conflicts_with_all = ["dsn", "node", "reader_role"])]
    uninstall: bool,

    /// The role with which agents log in
    #[arg(long, value_name = "NAME", default_value_t = BootstrapOptions::default().agent)]
    agent_role: String,

    /// The role that owns the table; nobody logs in with it
    #[arg(long, value_name = "NAME", default_value_t = BootstrapOptions::default().owner)]
    owner_role: String,

    /// A further role that may only read
    #[arg(long, value_name = "NAME")]
    reader_role: Option<String>,

    /// Go on where publications would take the table in: for those who have followed the safe order of steps
    #[arg(long, alias = "force")]
    despite_publications: bool,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    if !args.print_sql && !args.target.is_named() {
        return Err(Failure::Usage("nothing to do; add --print-sql, or --dsn or --node to look at a server"));
    }
    let options = BootstrapOptions {
        owner: args.owner_role.clone(),
        agent: args.agent_role.clone(),
        reader: args.reader_role.clone(),
        despite_publications: args.despite_publications,
        ..BootstrapOptions::default()
    };
    let found = if args.target.is_named() { Some(look(args).await?) } else { None };
    if args.print_sql {
        let sql = if args.uninstall { uninstall_sql(&options) } else { bootstrap_sql(&options) };
        out.write_all(sql.as_bytes())?;
    } else if let Some(found) = found {
        let quiet = found.findings.is_empty();
        writeln!(
            out,
            "{}",
            if quiet { "the server can take the bootstrap" } else { "see above; nothing stands against the bootstrap" }
        )?;
    }
    Ok(())
}

/// Looks at the server; findings go to standard error, so that the SQL can be piped.
async fn look(args: &Args) -> Result<Preflight, Failure> {
    let fleet = if args.target.node.is_some() { args.target.read_fleet()? } else { None };
    let Some(connection) = args.target.connect(fleet.as_ref()).await? else {
        return Err(Failure::Usage("name the server with --dsn or --node"));
    };
    let found = with_deadline(&connection, STATEMENT_DEADLINE, preflight(&connection)).await;
    let found = found.map_err(|error| Failure::Refused(format!("look at {}: {error}", connection.host())))?;
    judge(found, args.despite_publications)
}

fn judge(found: Preflight, despite_publications: bool) -> Result<Preflight, Failure> {
    let findings: Vec<String> = found.findings.iter().map(ToString::to_string).collect();
    if found.refuses() && !(despite_publications && found.needs_safe_order()) {
        let steps = if found.needs_safe_order() { format!("\n{SAFE_ORDER}") } else { String::new() };
        return Err(Failure::Refused(format!("{}{steps}", findings.join("; "))));
    }
    for finding in findings {
        // With standard error closed there is nobody left to tell.
        writeln!(io::stderr(), "lagmesh: {finding}").ok();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use lagmesh_postgres::bootstrap::Finding;

    use super::*;

    /// Publications are refused with the safe order, unless it was followed; a standby is refused always.
    #[test]
    fn verdicts() {
        let all_tables = || Preflight { findings: vec![Finding::PublicationsForAllTables(vec!["everything".to_owned()])] };
        let refused = judge(all_tables(), false).unwrap_err().to_string();
        assert!(refused.contains("everything") && refused.contains(SAFE_ORDER), "{refused}");
        assert!(judge(all_tables(), true).is_ok());
        let standby = Preflight { findings: vec![Finding::InRecovery] };
        assert!(judge(standby.clone(), false).is_err() && judge(standby, true).is_err());
        assert!(judge(Preflight { findings: Vec::new() }, false).is_ok());
    }
}
