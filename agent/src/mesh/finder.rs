//! Finds where a peer agent is, by its name, and opens the sockets towards it; looks again from time to time whether it has moved, and
//! tries its other addresses where nothing answers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use lagmesh_model::fleet::Address;
use lagmesh_model::state::Outcome;
use tokio::time::{Instant, sleep, timeout};

use crate::mesh::line::{Connected, Line, Lines};
use crate::mesh::resolve::{InUse, RESOLVE_TIMEOUT, choose_or_move_on, lookup};
use crate::mesh::shared::Shared;

/// How often a name is resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// How often while nothing answers.
const RESOLVE_EVERY_DEAD: Duration = Duration::from_secs(5);

/// What the search for one peer agent remembers.
#[derive(Debug, Default)]
struct Search {
    failing: bool,
    /// By which address of the fleet file it was found.
    known_by: Option<Address>,
    /// Since when it has been probed where it is probed now.
    since: Option<Instant>,
    /// Where something answered last.
    proven: Option<SocketAddr>,
}

/// Looks for one peer agent until it is none any more. That it cannot be found is data.
pub async fn find_peer(shared: &Shared, lines: &Lines, peer: usize, own: IpAddr) {
    let mut search = Search::default();
    while let Some(address) = shared.with(|engine, _| engine.address(peer).cloned()) {
        let found = search.find(shared, lines, peer, &address, own).await;
        match &found {
            Ok(Some(new)) => tracing::info!(peer = %address, address = %new, "probing"),
            Ok(None) => {}
            Err(error) if search.failing => tracing::debug!(peer = %address, error = format!("{error:#}"), "find peer"),
            Err(error) => {
                tracing::warn!(peer = %address, error = format!("{error:#}"), "find peer; check its address in the fleet file");
            }
        }
        search.failing = found.is_err();
        if !search.failing {
            search.known_by = Some(address.clone());
        } else if search.known_by.take_if(|known_by| *known_by != address).is_some() {
            // It was found by another name, and is not to be asked there any more.
            lines.close(peer);
            shared.with(|engine, _| engine.lost_sight(peer));
        }
        search.until_due(shared, lines, peer, &address).await;
    }
}

impl Search {
    /// Opens new sockets if the peer is to be found elsewhere than before; says where.
    async fn find(
        &mut self,
        shared: &Shared,
        lines: &Lines,
        peer: usize,
        address: &Address,
        own: IpAddr,
    ) -> anyhow::Result<Option<SocketAddr>> {
        let resolved = addresses(address).await;
        let what_of_probes = if resolved.is_ok() { Outcome::SendError } else { Outcome::Unresolved };
        shared.with(|engine, _| engine.not_found(peer, what_of_probes));
        let (answers, current) = (shared.with(|engine, _| engine.is_alive(peer)), in_use(lines, peer));
        let target = choose_or_move_on(&resolved?, current.map(|current| self.in_use(current, answers)));
        // Another fleet file may have come while the name was resolved.
        let Some(target) = target.filter(|target| current != Some(*target) && is_at(shared, peer, address)) else {
            return Ok(None);
        };
        connect(shared, lines, peer, target, own)?;
        self.since = Some(Instant::now());
        Ok(Some(target))
    }

    fn in_use(&self, address: SocketAddr, answers: bool) -> InUse {
        let tried = self.since.map(|since| since.elapsed()).unwrap_or_default();
        InUse { address, answers, proven: self.proven == Some(address), tried }
    }

    /// Waits until a peer is to be looked for again: sooner while nothing answers, and at once if the fleet file says something else.
    async fn until_due(&mut self, shared: &Shared, lines: &Lines, peer: usize, address: &Address) {
        let looked = Instant::now();
        while is_at(shared, peer, address) {
            let (alive, waited) = (shared.with(|engine, _| engine.is_alive(peer)), looked.elapsed());
            if alive {
                self.proven = in_use(lines, peer);
            }
            if waited >= RESOLVE_EVERY || (waited >= RESOLVE_EVERY_DEAD && !alive) {
                return;
            }
            tokio::select! {
                () = sleep(RESOLVE_EVERY_DEAD) => {}
                () = shared.reloaded.notified() => {}
            }
        }
    }
}

/// Where a peer is probed.
fn in_use(lines: &Lines, peer: usize) -> Option<SocketAddr> {
    lines.of(peer).map(|connected| connected.address)
}

/// Whether a peer is one, and to be found by this name.
fn is_at(shared: &Shared, peer: usize, address: &Address) -> bool {
    shared.with(|engine, _| engine.address(peer) == Some(address))
}

/// All addresses of a name.
async fn addresses(address: &Address) -> anyhow::Result<Vec<SocketAddr>> {
    let found = timeout(RESOLVE_TIMEOUT, lookup(&address.host, address.port)).await.context("name not resolved in time")??;
    anyhow::ensure!(!found.is_empty(), "the name has no address");
    Ok(found)
}

/// Opens new sockets towards a peer; those of before are closed.
pub(super) fn connect(shared: &Shared, lines: &Lines, peer: usize, target: SocketAddr, own: IpAddr) -> anyhow::Result<()> {
    let (count, class) = shared.with(|engine, _| (engine.flows(peer), engine.class()));
    let open = |_| Line::open(own, target, class);
    let flows = (0..count.unwrap_or_default()).map(open).collect::<io::Result<Vec<_>>>().context("open sockets")?;
    lines.connect(peer, Connected { address: target, flows }).context("watch sockets")?;
    shared.with(|engine, _| engine.found(peer, target));
    Ok(())
}
