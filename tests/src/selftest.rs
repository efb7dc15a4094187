//! `make testbed-selftest`: the network of the testbed held against its own settings, with real traffic, and its truth held against
//! the kernel's stamps.

mod checks;
mod table;
mod tcp;
mod timing;
mod traffic;

use std::io::Write;

use anyhow::Result;

use self::table::Row;
pub(crate) use self::table::router as router_line;
use crate::real::Real;
use crate::wan::path::LinkSettings;
use crate::wan::{HostPlan, Wan, WanPlan};

/// A millisecond [ns].
const MS: i64 = 1_000_000;

/// Two hosts in one region, one in another.
struct Bench {
    wan: Wan,
}

/// Runs all checks and prints the table; whether every row passed.
///
/// # Errors
/// If a check could not be run; [`crate::wan::NotPossible`] if this machine or account cannot run a network at all.
pub async fn run() -> Result<bool> {
    say("testbed-selftest: three hosts, two regions; about half a minute");
    let hosts = vec![HostPlan::new("a", "east"), HostPlan::new("a2", "east"), HostPlan::new("b", "west")];
    let bench = Bench { wan: Wan::start(&WanPlan { hosts, ..WanPlan::default() })? };
    let since = Real::now();
    let mut rows: Vec<Row> = Vec::new();
    rows.extend(timing::delays(&bench).await?);
    rows.push(timing::local(&bench).await?);
    rows.push(timing::jitter(&bench).await?);
    rows.push(timing::change(&bench).await?);
    rows.extend(timing::ping(&bench));
    let gentle = table::router("up to 500 packets per second", &bench.wan.quality(), Real::now() - since);
    rows.extend(checks::shares(&bench).await?);
    rows.extend(checks::paths(&bench).await?);
    rows.extend(checks::cuts(&bench).await?);
    rows.push(checks::hops(&bench).await?);
    rows.extend(tcp::sizes(&bench).await?);
    rows.push(tcp::bandwidth(&bench).await?);
    rows.push(tcp::untouched(&bench).await?);
    rows.push(table::taps(&bench.wan.quality()));
    say(&table::print(&rows));
    say(&gentle);
    say(&table::router("the whole run, with TCP at full speed", &bench.wan.quality(), Real::now() - since));
    let failed = rows.iter().filter(|row| row.failed()).count();
    let marked = rows.iter().filter(|row| !row.pass && row.marked).count();
    say(&format!("testbed-selftest: {} rows, {failed} failed, {marked} marked", rows.len()));
    Ok(failed == 0)
}

impl Bench {
    /// Sets both directions between the two regions.
    fn set(&self, there: LinkSettings, back: LinkSettings) -> Result<Real> {
        self.wan.set_link("east", "west", there)?;
        self.wan.set_link("west", "east", back)
    }
}

fn say(line: &str) {
    // Nobody is left to complain to if stdout is gone.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

#[cfg(test)]
mod tests;
