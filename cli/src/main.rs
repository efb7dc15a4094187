//! `lagmesh`: the operator's command.

use std::process::ExitCode;

use lagmesh_cli::Args;

fn main() -> ExitCode {
    let code = lagmesh_daemon::args::parse::<Args>().map_or_else(|code| code, |args| lagmesh_cli::run(&args));
    ExitCode::from(code)
}
