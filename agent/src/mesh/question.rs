//! What is asked of each peer region beside the probes of the mesh, as the fleet file says. Pure.

use lagmesh_model::fleet::{Address, Fleet, Region, Url};
use lagmesh_model::ids::RegionName;
use lagmesh_model::state::ProbeKind;
use lagmesh_postgres::ConnInfo;

use crate::mesh::tcp;

/// One kind of probes of one peer region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who is probed.
    pub peer: RegionName,
    /// How.
    pub kind: ProbeKind,
    /// Where.
    pub whom: Whom,
}

/// Where a region is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// A host.
    Host(String),
    /// Ports, of which one is asked at a time; at least one.
    Ports(Vec<Address>),
    /// A database.
    Database(Box<ConnInfo>),
    /// A web server.
    Url(Url),
}

/// A question that cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("region {region}: sql_probe in the fleet file: {why}")]
pub struct BadQuestion {
    /// Which region could not be asked.
    region: RegionName,
    why: String,
}

impl Question {
    /// The name of the task that asks it.
    pub fn name(&self) -> String {
        format!("mesh {} {}", self.kind, self.peer)
    }
}

/// All questions of an agent of a region.
///
/// # Errors
/// If a connection string cannot be understood.
pub fn questions(fleet: &Fleet, own: &RegionName) -> Result<Vec<Question>, BadQuestion> {
    let mut all = Vec::new();
    for peer in fleet.peers_of(own) {
        let host = peer.agents.first().filter(|_| fleet.mesh.icmp).map(|agent| Whom::Host(agent.mesh.host.clone()));
        let ports = Some(tcp::targets(fleet, &peer.name)).filter(|ports| fleet.mesh.tcp && !ports.is_empty()).map(Whom::Ports);
        let database = database(peer)?;
        let asked = [
            (ProbeKind::Icmp, host),
            (ProbeKind::Tcp, ports),
            (ProbeKind::Http, peer.http_probe.clone().map(Whom::Url)),
            (ProbeKind::Sql, database.clone()),
            (ProbeKind::SqlKept, database),
        ];
        let question = |(kind, whom): (ProbeKind, Option<Whom>)| Some(Question { peer: peer.name.clone(), kind, whom: whom? });
        all.extend(asked.into_iter().filter_map(question));
    }
    Ok(all)
}

fn database(peer: &Region) -> Result<Option<Whom>, BadQuestion> {
    let Some(dsn) = &peer.sql_probe else { return Ok(None) };
    match ConnInfo::parse(dsn, |name| std::env::var(name).ok()) {
        Ok(info) => Ok(Some(Whom::Database(Box::new(info)))),
        Err(error) => Err(BadQuestion { region: peer.name.clone(), why: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::testing::fleet;

    /// Each kind that the file asks for is one question of each peer, and of nobody else; a string that nobody understands is named.
    #[test]
    fn what_is_asked() {
        let oslo = "oslo".parse().unwrap();
        let names = |replace: &[(&str, &str)]| -> Vec<String> {
            questions(&fleet(replace), &oslo).unwrap().iter().map(Question::name).collect()
        };
        assert_eq!(names(&[]), Vec::<String>::new());
        assert_eq!(names(&[("icmp = false", "icmp = true")]), ["mesh icmp tokyo"]);
        // The agents are local, so that the ports of nodes elsewhere are taken for what they are.
        assert_eq!(names(&[("tcp = false", "tcp = true")]), ["mesh tcp tokyo"]);
        let probes = "name = \"tokyo\"\nsql_probe = \"host=h user=u dbname=d\"\nhttp_probe = \"http://127.0.0.1/\"\n";
        assert_eq!(names(&[("name = \"tokyo\"\n", probes)]), ["mesh http tokyo", "mesh sql tokyo", "mesh sql-kept tokyo"]);
        let bad = fleet(&[("name = \"tokyo\"\n", "name = \"tokyo\"\nsql_probe = \"host=h user=u dbname=d port=none\"\n")]);
        let error = questions(&bad, &oslo).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.starts_with("region tokyo: sql_probe")), "{error:?}");
    }
}
