//! Another fleet file: who stays goes on as if nothing had happened. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use lagmesh_model::fleet::{Address, Fleet};
use lagmesh_model::time::Reading;

use crate::mesh::engine::Engine;
use crate::mesh::peer::Peer;
use crate::reload::PeerAgent;

/// Who came and who went, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Their names are to be resolved.
    pub added: Vec<usize>,
    /// Their sockets are to be closed.
    pub removed: Vec<usize>,
}

impl Engine {
    /// From now on this file is in force. What there is to tell must be told anew ([`Engine::update`]).
    pub fn reload(&mut self, fleet: &Arc<Fleet>, now: Reading) -> Reloaded {
        self.fleet = Arc::clone(fleet);
        let mut wanted = PeerAgent::all(fleet, &self.region);
        let (mut reloaded, mut known) = (Reloaded::default(), BTreeSet::new());
        self.peers.retain(|number, peer| {
            let name = PeerAgent { region: peer.region.clone(), agent: peer.agent.clone() };
            let stays = wanted.contains(&name);
            if !stays {
                reloaded.removed.push(*number);
            }
            known.insert(name);
            stays
        });
        wanted.retain(|name| !known.contains(name));
        for PeerAgent { region, agent } in &wanted {
            let peer = Peer::new(fleet, (&self.region, &self.agent), (region, agent), now);
            self.peers.insert(self.numbered, peer);
            reloaded.added.push(self.numbered);
            self.numbered += 1;
        }
        self.budget.resize(self.peers.values().map(Peer::flows).sum(), now.raw);
        self.directory.reload(fleet, &self.region);
        self.hearing.reload(fleet);
        self.telling_wall.retain(|agent, _| self.directory.get(*agent).is_some());
        self.heard = true;
        let regions = fleet.peers_of(&self.region);
        self.bulletins = regions.map(|peer| (peer.name.clone(), self.bulletins.remove(&peer.name).unwrap_or_default())).collect();
        reloaded
    }

    /// Where a peer is by the file that is in force; `None` if it is gone.
    pub fn address(&self, peer: usize) -> Option<&Address> {
        let name = &self.peers.get(&peer)?.agent;
        self.fleet.agent(name).map(|(_, agent)| &agent.mesh)
    }
}

#[cfg(test)]
mod tests;
