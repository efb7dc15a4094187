//! What is different between two fleet files, for an agent that runs. Pure.

use std::collections::BTreeMap;
use std::fmt;

use lagmesh_model::fleet::{Address, Cluster, Fleet, Mesh, Node};
use lagmesh_model::ids::{AgentName, RegionName};

/// An agent of a peer region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAgent {
    /// Its region.
    pub region: RegionName,
    /// Its name.
    pub agent: AgentName,
}

impl PeerAgent {
    /// Those of a region, in the order of the file.
    pub fn all(fleet: &Fleet, own: &RegionName) -> Vec<PeerAgent> {
        peers(fleet, own).map(|(peer, _)| peer).collect()
    }
}

impl fmt::Display for PeerAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.agent)
    }
}

/// Which peers come, go, and are to be found elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// They were no peers before.
    pub added: Vec<PeerAgent>,
    /// They are no peers any more.
    pub removed: Vec<PeerAgent>,
    /// They have another address.
    pub moved: Vec<PeerAgent>,
}

impl Change {
    /// From one file to the other, for an agent of a region.
    pub fn between(old: &Fleet, new: &Fleet, own: &RegionName) -> Change {
        let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (peers(old, own).collect(), peers(new, own).collect());
        let mut change = Change::default();
        for (peer, address) in &new {
            match old.get(peer) {
                None => change.added.push(peer.clone()),
                Some(before) if before != address => change.moved.push(peer.clone()),
                Some(_) => {}
            }
        }
        change.removed = old.into_keys().filter(|peer| !new.contains_key(peer)).collect();
        change
    }
}

fn peers<'f>(fleet: &'f Fleet, own: &RegionName) -> impl Iterator<Item = (PeerAgent, &'f Address)> {
    let peer = |region: &RegionName, agent: &AgentName| PeerAgent { region: region.clone(), agent: agent.clone() };
    fleet.peers_of(own).flat_map(move |region| region.agents.iter().map(move |one| (peer(&region.name, &one.name), &one.mesh)))
}

/// The parts of the file that differ and that an agent of `own` reads only when it starts; none: it can take the new one over.
///
/// This is the one place that says which those are: everything beside the plan of the mesh, the other regions, and nodes elsewhere.
pub fn needs_restart(old: &Fleet, new: &Fleet, own: &RegionName) -> Vec<String> {
    // Whoever adds a part of the file must say here what becomes of it. Of `judge` nothing in an agent depends.
    let Fleet { name, insecure, regions: _, clusters: _, collectors, mesh, export, replication, judge: _, links: _ } = old;
    let mut parts = Vec::new();
    let mut compare = |is_same: bool, part: String| {
        if !is_same {
            parts.push(part);
        }
    };
    compare(*name == new.name, "name".to_owned());
    compare(*insecure == new.insecure, "insecure".to_owned());
    compare(old.region(own) == new.region(own), format!("region {own}, which is our own"));
    for region in old.regions.iter().filter(|region| region.name != *own) {
        // What was measured rests on where the region was thought to be.
        let found = new.region(&region.name);
        compare(
            found.is_none_or(|found| found.coordinates == region.coordinates),
            format!("the coordinates of region {}", region.name),
        );
    }
    compare(nodes(old, own) == nodes(new, own), format!("the nodes of region {own} or what their clusters promise"));
    compare(*collectors == new.collectors, "the collectors".to_owned());
    for (key, is_same) in same_keys(mesh, &new.mesh) {
        compare(is_same, format!("mesh.{key}"));
    }
    compare(*export == new.export, "[export]".to_owned());
    compare(*replication == new.replication, "[replication]".to_owned());
    parts
}

/// Our own nodes, each with what the file says of its cluster beside the nodes elsewhere.
fn nodes<'f>(fleet: &'f Fleet, own: &RegionName) -> Vec<(Cluster, &'f Node)> {
    fleet.nodes_of(own).map(|(cluster, node)| (Cluster { nodes: Vec::new(), ..cluster.clone() }, node)).collect()
}

/// Which keys of `[mesh]` are the same; `plan` says who the peers are, and may change.
fn same_keys(old: &Mesh, new: &Mesh) -> Vec<(&'static str, bool)> {
    let Mesh {
        plan: _,
        budget_bits_per_s,
        flows,
        dscp,
        interval,
        deadline,
        give_up,
        icmp,
        tcp,
        sql_interval,
        sql_kept_interval,
        http_interval,
        third_party,
        loss_enter,
        loss_exit,
    } = old;
    vec![
        ("budget_bits_per_s", *budget_bits_per_s == new.budget_bits_per_s),
        ("flows", *flows == new.flows),
        ("dscp", *dscp == new.dscp),
        ("interval", *interval == new.interval),
        ("deadline", *deadline == new.deadline),
        ("give_up", *give_up == new.give_up),
        ("icmp", *icmp == new.icmp),
        ("tcp", *tcp == new.tcp),
        ("sql_interval", *sql_interval == new.sql_interval),
        ("sql_kept_interval", *sql_kept_interval == new.sql_kept_interval),
        ("http_interval", *http_interval == new.http_interval),
        ("third_party", *third_party == new.third_party),
        ("loss_enter", loss_enter.to_bits() == new.loss_enter.to_bits()),
        ("loss_exit", loss_exit.to_bits() == new.loss_exit.to_bits()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::testing::fleet;

    const OSAKA: &str =
        "[[region]]\nname = \"osaka\"\n[[region.agent]]\nname = \"osaka-a\"\nmesh = \"127.0.0.1:18622\"\n\n[[cluster]]";

    fn oslo() -> RegionName {
        "oslo".parse().unwrap()
    }

    /// Each part of the file that an agent reads only at the start is named if it differs, whatever else differs too; who the peers are
    /// and what nodes stand elsewhere may change.
    #[test]
    fn what_needs_a_restart_is_named() {
        let old = fleet(&[("[[cluster]]", OSAKA)]);
        let table: &[(&str, &str, &[&str])] = &[
            ("name = \"test\"", "name = \"live\"", &["name"]),
            ("insecure = true\n", "\n", &["insecure"]),
            ("tcp = false", "tcp = true\nflows = 4", &["mesh.flows", "mesh.tcp"]),
            ("tcp = false", "tcp = false\ninterval = \"2s\"\nloss_enter = 0.5", &["mesh.interval", "mesh.loss_enter"]),
            ("127.0.0.1:18620", "127.0.0.1:9", &["region oslo, which is our own"]),
            ("host=10.9.0.2", "host=10.9.0.3", &["the nodes of region oslo or what their clusters promise"]),
            (
                "name = \"shop\"",
                "name = \"shop\"\nlag_objective = \"9s\"",
                &["the nodes of region oslo or what their clusters promise"],
            ),
            (
                "name = \"tokyo\"\n",
                "name = \"tokyo\"\nlatitude = 35.7\nlongitude = 139.7\n",
                &["the coordinates of region tokyo"],
            ),
            ("[mesh]", "[export]\ninterval = \"3s\"\n[mesh]", &["[export]"]),
            ("[mesh]", "[replication]\nlag_enter = \"30s\"\n[mesh]", &["[replication]"]),
            ("[mesh]", "[[collector]]\nname = \"c\"\notlp = \"http://127.0.0.1:1\"\n[mesh]", &["the collectors"]),
            ("[mesh]", "[judge]\ndown_after = \"200s\"\n[mesh]", &[]),
            ("127.0.0.1:18621", "127.0.0.1:9", &[]),
            ("host=10.9.1.1", "host=10.9.1.2", &[]),
            ("name = \"tokyo\"\n", "name = \"tokyo\"\nhttp_probe = \"http://127.0.0.1/\"\n", &[]),
            ("[mesh]", "[mesh]\nplan = \"hub\"\nhubs = [\"oslo\"]", &[]),
        ];
        for (from, to, parts) in table {
            let text = OSAKA.replace("osaka-a", "kobe-a").replace("\"osaka\"", "\"kobe\"");
            for peers in [OSAKA, &text, "[[cluster]]"] {
                let new = fleet(&[(from, to), ("[[cluster]]", peers)]);
                assert_eq!(needs_restart(&old, &new, &oslo()), *parts, "{to}");
            }
        }
    }

    /// A peer is who is called the same in a region of the same name: another address is a move, anything else a coming and a going.
    #[test]
    fn who_comes_and_goes() {
        let old = fleet(&[]);
        let names = |peers: &[PeerAgent]| peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let table = [
            (("[mesh]", "[mesh]"), ["", "", ""]),
            (("[[cluster]]", OSAKA), ["osaka/osaka-a", "", ""]),
            (("127.0.0.1:18621", "127.0.0.1:9"), ["", "", "tokyo/tokyo-a"]),
            (("tokyo-a", "tokyo-b"), ["tokyo/tokyo-b", "tokyo/tokyo-a", ""]),
            (("\"tokyo\"", "\"kyoto\""), ["kyoto/tokyo-a", "tokyo/tokyo-a", ""]),
        ];
        for (replace, expected) in table {
            let Change { added, removed, moved } = Change::between(&old, &fleet(&[replace]), &oslo());
            assert_eq!([names(&added), names(&removed), names(&moved)], expected, "{replace:?}");
        }
        assert_eq!(Change::between(&fleet(&[("[[cluster]]", OSAKA)]), &old, &oslo()).removed.len(), 1);
    }
}
