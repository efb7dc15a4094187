//! What a scenario needs of the machine before anything is started: where it is missing the scenario is not run, which is not failed.

use nix::unistd::{Uid, User};

use crate::plan::Source;
use crate::postgres::{pooler, program_path, version};
use crate::scenario::{Action, Scenario};

/// The first major version whose subscriptions can leave out what came by replication.
const EXCHANGES_SINCE: u32 = 16;

/// What is missing, and how to get it.
pub(super) fn missing(scenario: &Scenario) -> Option<String> {
    program("gcc").or_else(|| servers(scenario)).or_else(|| poolers(scenario)).or_else(|| loads(scenario))
}

fn poolers(scenario: &Scenario) -> Option<String> {
    let wanted = scenario.plan.nodes().any(|node| node.pooler.is_some());
    (wanted && pooler::program().is_none()).then(|| "pgbouncer is not here: `tests/setup.sh testbed` installs it".to_owned())
}

fn program(name: &str) -> Option<String> {
    let found = version::in_path(name).any(|path| path.exists());
    (!found).then(|| format!("{name} is not here: `tests/setup.sh testbed` installs it"))
}

fn servers(scenario: &Scenario) -> Option<String> {
    let here = version::available();
    for node in scenario.plan.nodes() {
        if let Err(error) = program_path("postgres", node.version) {
            return Some(format!("{error:#}"));
        }
        // Where none is asked for it is the newest of the system's packages.
        let major = node.version.or_else(|| program_path("postgres", None).ok().and_then(|path| version::major(&path).ok()));
        if matches!(node.source, Source::Exchanges(_)) && major.is_none_or(|major| major < EXCHANGES_SINCE) {
            return Some(format!(
                "{} exchanges rows, which needs PostgreSQL {EXCHANGES_SINCE}; give it a version ({here:?} are here)",
                node.name
            ));
        }
    }
    let account = !Uid::effective().is_root() || matches!(User::from_name("postgres"), Ok(Some(_)));
    let servers = scenario.plan.nodes().next().is_some();
    (servers && !account).then(|| "there is no account postgres for the servers: install the package postgresql".to_owned())
}

fn loads(scenario: &Scenario) -> Option<String> {
    let later = scenario.faults.iter().any(|fault| matches!(fault.action, Action::StartLoad(..)));
    if scenario.plan.loads.is_empty() && !later {
        return None;
    }
    program_path("pgbench", None).err().map(|error| format!("{error:#}"))
}
