//! Credentials that are replaced while the agent runs: clients made anew take the place of the old ones, each from its next request on.
//! Files that are no good change nothing but a line in the log and a count.

use std::sync::Arc;

use anyhow::Context as _;
use lagmesh_daemon::{Hangups, Occasions, Shutdown};
use lagmesh_model::fleet::Collector;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::credentials::{CredentialFiles, Credentials};
use super::{Clients, REQUEST_DEADLINE};
use crate::send::Client;

/// With what batches are sent at present.
#[derive(Debug, Clone)]
pub struct Showing {
    /// A client of each collector.
    pub clients: Arc<Clients>,
    /// When the certificate ends that they show [s since 1970], if they show one and it can be told.
    pub not_after_s: Option<u64>,
    /// How often files were replaced by such as are no good.
    pub failures: u64,
}

/// The same, followed by those who send.
pub type Showings = watch::Receiver<Showing>;

/// A client of each collector.
///
/// # Errors
/// If TLS cannot be set up, such as with a key that is not the certificate's.
pub(super) fn clients(collectors: &[Collector], credentials: &Credentials) -> anyhow::Result<Clients> {
    let client = |collector: &Collector| {
        let token = credentials.tokens.get(&collector.name);
        let client = Client::new(&collector.otlp, credentials, token, REQUEST_DEADLINE)?;
        Ok((collector.name.clone(), client))
    };
    collectors.iter().map(client).collect()
}

/// Looks at the files whenever SIGHUP comes, and now and then, until shutdown.
///
/// # Errors
/// If the runtime breaks. A file that is no good is data.
pub(super) async fn run(
    files: CredentialFiles,
    collectors: Vec<Collector>,
    told: watch::Sender<Showing>,
    hangups: Hangups,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let again = async {
        let (mut rotation, mut occasions) = (Rotation { files, collectors, told }, Occasions::new(hangups));
        loop {
            let asked = occasions.next().await.is_hangup();
            // Disks may take their time.
            rotation = spawn_blocking(move || {
                rotation.look(asked);
                rotation
            })
            .await?;
        }
    };
    shutdown.run_until_cancelled(again).await.unwrap_or(Ok(()))
}

struct Rotation {
    files: CredentialFiles,
    collectors: Vec<Collector>,
    told: watch::Sender<Showing>,
}

impl Rotation {
    fn look(&mut self, asked: bool) {
        if !self.files.seen.has_changed() && (!asked || self.files.is_empty()) {
            return;
        }
        let made = self.files.read().map_err(anyhow::Error::from).and_then(|credentials| {
            let made = clients(&self.collectors, &credentials).context("the new certificate and key cannot be used together")?;
            Ok((made, credentials.not_after_s))
        });
        match made {
            Ok((clients, not_after_s)) => {
                tracing::info!("credentials for collectors taken over");
                self.told.send_modify(|showing| {
                    showing.clients = Arc::new(clients);
                    showing.not_after_s = not_after_s;
                });
            }
            Err(e) => {
                tracing::error!(error = format!("{e:#}"), "credentials for collectors refused, the old ones stay in force");
                self.told.send_modify(|showing| showing.failures += 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Writes a certificate, and the key of another one if it is to be of no use.
    fn write(folder: &Path, matching: bool) {
        let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let cert = CertificateParams::new(Vec::new()).unwrap().self_signed(&own).unwrap();
        fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
        fs::write(folder.join("key.pem"), if matching { &own } else { &other }.serialize_pem()).unwrap();
        fs::set_permissions(folder.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A certificate with its key is taken over once both are there; a half, or a key that is not its own, is refused once, and the old
    /// clients go on.
    #[test]
    fn only_whole_pairs_are_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), true);
        let path = |name: &str| folder.path().join(name);
        let files = CredentialFiles::new(None, Some((path("cert.pem"), path("key.pem"))), &[]);
        let collectors = vec![Collector { name: "main".parse().unwrap(), otlp: "https://localhost:1".parse().unwrap() }];
        // The system's authorities are not what is tested, and a machine may have none.
        let credentials = Credentials { authorities: crate::send::Authorities::none(), ..files.read().unwrap() };
        let first = Arc::new(clients(&collectors, &credentials).unwrap());
        let (told, showing) =
            watch::channel(Showing { clients: first.clone(), not_after_s: credentials.not_after_s, failures: 0 });
        let mut rotation = Rotation { files, collectors, told };
        let is_first = || Arc::ptr_eq(&showing.borrow().clients, &first);
        let failures = || showing.borrow().failures;

        rotation.look(false);
        assert!(is_first() && failures() == 0, "nothing has changed");
        write(folder.path(), false);
        rotation.look(false);
        rotation.look(false);
        assert!(is_first() && failures() == 1);
        fs::remove_file(path("key.pem")).unwrap();
        rotation.look(false);
        assert!(is_first() && failures() == 2);
        write(folder.path(), true);
        rotation.look(false);
        assert!(!is_first() && failures() == 2);
    }
}
