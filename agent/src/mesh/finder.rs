//! Finds where a peer agent is, by its name, and opens the sockets towards it; looks again from time to time whether it has moved.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use lagmesh_model::fleet::Address;
use tokio::time::{Instant, sleep, timeout};

use crate::mesh::line::{Connected, Line, Lines};
use crate::mesh::resolve::{RESOLVE_TIMEOUT, choose, lookup};
use crate::mesh::shared::Shared;

/// How often a name is resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// How often while nothing answers.
const RESOLVE_EVERY_DEAD: Duration = Duration::from_secs(5);

/// Looks for one peer agent until it is none any more. That it cannot be found is data.
pub async fn find_peer(shared: &Shared, lines: &Lines, peer: usize, own: IpAddr) {
    let mut failing = false;
    let mut known_by: Option<Address> = None;
    while let Some(address) = shared.with(|engine, _| engine.address(peer).cloned()) {
        let found = find(shared, lines, peer, &address, own).await;
        match &found {
            Ok(Some(new)) => tracing::info!(peer = %address, address = %new, "probing"),
            Ok(None) => {}
            Err(error) if failing => tracing::debug!(peer = %address, error = format!("{error:#}"), "find peer"),
            Err(error) => {
                tracing::warn!(peer = %address, error = format!("{error:#}"), "find peer; check its address in the fleet file");
            }
        }
        failing = found.is_err();
        if !failing {
            known_by = Some(address.clone());
        } else if known_by.as_ref().is_some_and(|known_by| *known_by != address) {
            // It was found by another name, and is not to be asked there any more.
            lines.close(peer);
        }
        until_due(shared, peer, &address).await;
    }
}

/// Waits until a peer is to be looked for again: sooner while nothing answers, and at once if the fleet file says something else.
async fn until_due(shared: &Shared, peer: usize, address: &Address) {
    let looked = Instant::now();
    while is_at(shared, peer, address) {
        let (alive, waited) = (shared.with(|engine, _| engine.is_alive(peer)), looked.elapsed());
        if waited >= RESOLVE_EVERY || (waited >= RESOLVE_EVERY_DEAD && !alive) {
            return;
        }
        tokio::select! {
            () = sleep(RESOLVE_EVERY_DEAD) => {}
            () = shared.reloaded.notified() => {}
        }
    }
}

/// Whether a peer is one, and to be found by this name.
fn is_at(shared: &Shared, peer: usize, address: &Address) -> bool {
    shared.with(|engine, _| engine.address(peer) == Some(address))
}

/// Opens new sockets if the peer is to be found elsewhere than before; says where.
async fn find(shared: &Shared, lines: &Lines, peer: usize, address: &Address, own: IpAddr) -> anyhow::Result<Option<SocketAddr>> {
    let current = lines.of(peer).as_ref().map(|connected| connected.address);
    let found = timeout(RESOLVE_TIMEOUT, lookup(&address.host, address.port)).await.context("name not resolved in time")??;
    let target = choose(&found, current).context("the name has no address")?;
    if current == Some(target) || !is_at(shared, peer, address) {
        return Ok(None);
    }
    connect(shared, lines, peer, target, own)?;
    Ok(Some(target))
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
