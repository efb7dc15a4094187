//! The operator's command: what a fleet says, whether a fleet file is right, what a database needs.

mod bootstrap;
mod check;
mod database;
mod dead_letters;
mod failure;
mod fetch;
mod history;
mod metrics;
mod output;
mod prune;
mod status;
pub mod table;
pub mod terminal;
mod token;

use std::io::{self, Write};

pub use failure::Failure;

use lagmesh_daemon::exit;

/// Shows what a lagmesh fleet measures, checks its fleet file, and prepares its databases.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "lagmesh", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  lagmesh check /etc/lagmesh/fleet.toml             is the fleet file right?
  lagmesh bootstrap --print-sql | psql -d orders    prepare a database
  lagmesh status                                    what does the collector on this machine say?
  lagmesh status --local --watch                    what does the agent on this machine see?
  lagmesh token --name grafana --role read          let somebody in
  lagmesh history lagmesh.link.rtt peer=tokyo       how did it go in the last hours?
  sudo lagmesh dead-letters list                    what did collectors refuse for good, and why?

Exit codes: 0 done, 1 refused or not reached, 64 wrong command line, 78 wrong fleet file.";

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    Status(status::Args),
    History(history::Args),
    Check(check::Args),
    Bootstrap(bootstrap::Args),
    Prune(prune::Args),
    Token(token::Args),
    DeadLetters(dead_letters::Args),
    ListMetrics(metrics::Args),
}

/// Does what is asked for; the code with which the process should end.
pub fn run(args: &Args) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say(&Failure::Broken(anyhow::Error::new(error).context("start the runtime"))),
    };
    let mut out = io::stdout();
    let done = runtime.block_on(async {
        match &args.command {
            Command::Status(args) => status::run(args, &mut out).await,
            Command::History(args) => history::run(args, &mut out).await,
            Command::Check(args) => check::run(args, &mut out),
            Command::Bootstrap(args) => bootstrap::run(args, &mut out).await,
            Command::Prune(args) => prune::run(args, &mut out).await,
            Command::Token(args) => token::run(args, &mut out),
            Command::DeadLetters(args) => dead_letters::run(args, &mut out).await,
            Command::ListMetrics(args) => metrics::run(args, &mut out),
        }
    });
    match done.and_then(|()| Ok(out.flush()?)) {
        // Whoever read (`lagmesh status | head`) has seen enough.
        Err(failure) if failure.is_closed_pipe() => exit::OK,
        Err(failure) => say(&failure),
        Ok(()) => exit::OK,
    }
}

/// Tells the failure on standard error.
fn say(failure: &Failure) -> u8 {
    // With standard error closed there is nobody left to tell.
    writeln!(io::stderr(), "{failure}").ok();
    failure.exit_code()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// The command line is well formed.
    #[test]
    fn command_line() {
        super::Args::command().debug_assert();
    }
}
