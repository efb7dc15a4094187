//! The fleet file, read again on SIGHUP. What a running agent takes over is who its peers are; a file that is wrong, or in which anything
//! else is different, is refused as a whole, and the old one stays in force.
//!
//! Data flows one way here, too: the task of this module owns the signal and publishes what holds from now on; whoever measures follows.

mod change;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::{Hangups, Shutdown};
use lagmesh_model::fleet::Fleet;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub use change::{Change, PeerAgent, needs_restart};

use crate::config::{Config, ConfigError};
use crate::mesh::opinion::{BadQuestion, questions};

/// How long the file may take to be read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The fleet file that is in force.
pub type Fleets = watch::Receiver<Arc<Fleet>>;

/// Why a file is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// An agent would not start with it.
    #[error(transparent)]
    Wrong(#[from] ConfigError),
    /// Nor with this.
    #[error(transparent)]
    Question(#[from] BadQuestion),
    /// It differs in what is read only at the start.
    #[error("a restart is needed for what is different in {}", Listed(_0))]
    NeedsRestart(Vec<String>),
    /// It cannot be read.
    #[error("reading it took longer than {READ_TIMEOUT:?}")]
    TooSlow,
}

/// Takes over the fleet file whenever SIGHUP comes, until shutdown.
///
/// # Errors
/// If the runtime breaks. A file that is no good is data.
pub async fn run(
    config: Config,
    fleets: watch::Sender<Arc<Fleet>>,
    mut hangups: Hangups,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let again = async {
        loop {
            hangups.next().await;
            let current = Arc::clone(&fleets.borrow());
            match read(&config, current).await? {
                Ok((fleet, change)) => take_over(fleet, &change, &fleets),
                Err(refused) => {
                    let error = refused.to_string().replace('\n', "; ");
                    tracing::error!(file = %config.fleet_file.display(), error, "fleet file refused, the old one stays in force");
                }
            }
        }
    };
    shutdown.run_until_cancelled(again).await.unwrap_or(Ok(()))
}

/// Reads and checks the file on a thread that may wait for a disk.
async fn read(config: &Arc<Config>, current: Arc<Fleet>) -> anyhow::Result<Result<(Fleet, Change), Refused>> {
    let config = Arc::clone(config);
    let reading = spawn_blocking(move || {
        let fleet = config.read_fleet_again()?;
        check(&config, &current, &fleet)?;
        let change = Change::between(&current, &fleet, &config.region);
        Ok((fleet, change))
    });
    match timeout(READ_TIMEOUT, reading).await {
        Ok(read) => Ok(read?),
        Err(_) => Ok(Err(Refused::TooSlow)),
    }
}

fn check(config: &Config, current: &Fleet, fleet: &Fleet) -> Result<(), Refused> {
    let parts = needs_restart(current, fleet, &config.region);
    if !parts.is_empty() {
        return Err(Refused::NeedsRestart(parts));
    }
    questions(fleet, &config.region)?;
    Ok(())
}

fn take_over(fleet: Fleet, change: &Change, fleets: &watch::Sender<Arc<Fleet>>) {
    for warning in fleet.warnings() {
        tracing::warn!(warning, "fleet file");
    }
    let Change { added, removed, moved } = change;
    let (added, removed, moved) = (Listed(added), Listed(removed), Listed(moved));
    tracing::info!(%added, %removed, %moved, "fleet file taken over");
    fleets.send_replace(Arc::new(fleet));
}

/// One after the other, or a dash.
struct Listed<'l, T>(&'l [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        for (index, one) in self.0.iter().enumerate() {
            write!(f, "{}{one}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}
