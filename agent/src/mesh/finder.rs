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

/// Looks for one peer agent for ever.
///
/// # Errors
/// Never: a peer that cannot be found is data.
pub async fn find_peer(shared: &Shared, lines: &Lines, peer: usize, address: &Address, own: IpAddr) -> anyhow::Result<()> {
    let mut failing = false;
    loop {
        let found = find(shared, lines, peer, address, own).await;
        match &found {
            Ok(Some(new)) => tracing::info!(peer = %address, address = %new, "probing"),
            Ok(None) => {}
            Err(error) if failing => tracing::debug!(peer = %address, error = format!("{error:#}"), "find peer"),
            Err(error) => {
                tracing::warn!(peer = %address, error = format!("{error:#}"), "find peer; check its address in the fleet file");
            }
        }
        failing = found.is_err();
        let looked = Instant::now();
        loop {
            sleep(RESOLVE_EVERY_DEAD).await;
            if looked.elapsed() >= RESOLVE_EVERY || !shared.with(|engine, _| engine.peers()[peer].is_alive()) {
                break;
            }
        }
    }
}

/// Opens new sockets if the peer is to be found elsewhere than before; says where.
pub(super) async fn find(
    shared: &Shared,
    lines: &Lines,
    peer: usize,
    address: &Address,
    own: IpAddr,
) -> anyhow::Result<Option<SocketAddr>> {
    let current = lines.of(peer).as_ref().map(|connected| connected.address);
    let found = timeout(RESOLVE_TIMEOUT, lookup(&address.host, address.port)).await.context("name not resolved in time")??;
    let target = choose(&found, current).context("the name has no address")?;
    if current == Some(target) {
        return Ok(None);
    }
    let (count, class) = shared.with(|engine, _| (engine.peers()[peer].flows(), engine.class()));
    let flows = (0..count).map(|_| Line::open(own, target, class)).collect::<io::Result<Vec<_>>>().context("open sockets")?;
    lines.connect(peer, Connected { address: target, flows }).context("watch sockets")?;
    shared.with(|engine, _| engine.found(peer, target));
    Ok(Some(target))
}
