//! Certificates and tokens that are replaced while the collector runs. New connections and requests follow the new ones; a file that is
//! no good changes nothing but a line in the log and a count.

use std::sync::Arc;

use lagmesh_daemon::{Hangups, Occasions, Shutdown};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::files::{BadFile, Files};
use super::rules::Rules;
use crate::listen::SharedTls;
use crate::tally::Tally;

/// Who reads the files again, and to whom the result goes.
#[derive(Debug)]
pub struct Reload {
    /// The files.
    pub files: Files,
    /// What both addresses encrypt with.
    pub tls: Option<SharedTls>,
    /// The rules of the door.
    pub rules: watch::Sender<Arc<Rules>>,
    /// Where failures are counted.
    pub tally: Tally,
}

/// Looks at the files whenever SIGHUP comes, and now and then, until shutdown.
///
/// # Errors
/// If the runtime breaks. A file that is no good is data.
pub async fn run(reload: Reload, hangups: Hangups, shutdown: Shutdown) -> anyhow::Result<()> {
    let again = async {
        let (mut reload, mut occasions) = (reload, Occasions::new(hangups));
        loop {
            let asked = occasions.next().await.is_hangup();
            // Disks may take their time.
            reload = spawn_blocking(move || {
                reload.look(asked);
                reload
            })
            .await?;
        }
    };
    shutdown.run_until_cancelled(again).await.unwrap_or(Ok(()))
}

impl Reload {
    /// Reads what has changed since it was last read, or everything if somebody asks for it.
    pub(super) fn look(&mut self, asked: bool) {
        if asked {
            tracing::info!("SIGHUP: certificates and tokens are read again; the fleet file needs a restart");
        }
        if self.files.tls_seen.has_changed() || asked {
            match self.files.read_tls() {
                Ok(tls) => self.take_tls(tls),
                Err(error) => self.failed("certificates", &error),
            }
        }
        if self.files.tokens_seen.has_changed() || asked {
            match self.files.read_tokens() {
                Ok(tokens) => {
                    if let Some(tokens) = &tokens {
                        tracing::info!(tokens = tokens.count(), "tokens taken over");
                    }
                    self.rules.send_modify(|rules| *rules = Arc::new(Rules { tokens, ..Rules::clone(rules) }));
                }
                Err(error) => self.failed("tokens", &error),
            }
        }
    }

    fn take_tls(&self, tls: Option<crate::listen::Tls>) {
        if let (Some(shared), Some(tls)) = (&self.tls, tls) {
            self.tally.certificate_not_after(tls.not_after_s);
            shared.replace(tls);
            tracing::info!("certificates taken over for new connections");
        }
    }

    fn failed(&self, what: &'static str, error: &BadFile) {
        let error = error.to_string().replace('\n', "; ");
        tracing::error!(error, "{what} refused, the old ones stay in force");
        self.tally.reload_failure(what);
    }
}
