//! `lagmesh check`: is the fleet file right, and what does the fleet cost?

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use lagmesh_model::document::{FileError, FileErrors};
use lagmesh_model::fleet::{Agent, Fleet, Mesh, Node, Region};
use lagmesh_postgres::ConnInfo;
use toml::Spanned;
use toml::de::DeValue;

use crate::Failure;
use crate::table::{Cell, Grid, Style, Tone};
use crate::terminal;

/// A fleet file is written by people; a larger file is something else [bytes].
const FLEET_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The headers of UDP and of IPv4 or IPv6 [bytes].
const UDP_BYTES: f64 = 8.0;
const IPV4_BYTES: f64 = 20.0;
const IPV6_BYTES: f64 = 40.0;

/// Check a fleet file; nothing is contacted
///
/// Every mistake is one line on standard error that names file, line and key. What is allowed but probably not meant is a
/// warning below the summary.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  lagmesh check /etc/lagmesh/fleet.toml
  lagmesh check fleet.toml && systemctl restart lagmesh-agent

Exit codes: 0 the file is right, 78 it is not.")]
pub(crate) struct Args {
    /// The fleet file
    #[arg(env = "LAGMESH_FLEET", value_name = "FLEET.TOML", default_value = "/etc/lagmesh/fleet.toml")]
    file: PathBuf,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let name = args.file.display().to_string();
    let text = read_text(&args.file)?;
    let fleet = Fleet::parse(&name, &text)?;
    connection_strings(&name, &text, &fleet)?;
    out.write_all(summary(&name, &fleet, terminal::style()).as_bytes())?;
    Ok(())
}

/// Reads a fleet file.
pub(crate) fn read_fleet(file: &Path) -> Result<Fleet, Failure> {
    Ok(Fleet::parse(&file.display().to_string(), &read_text(file)?)?)
}

fn read_text(file: &Path) -> Result<String, Failure> {
    let name = file.display();
    let unreadable = |error: std::io::Error| Failure::Config(format!("{name}: {error}; name the fleet file"));
    let mut bytes = Vec::new();
    File::open(file).map_err(unreadable)?.take(FLEET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FLEET_BYTES_MAX) {
        return Err(Failure::Config(format!("{name}: larger than {FLEET_BYTES_MAX} bytes; this is no fleet file")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = line(error.as_bytes(), error.utf8_error().valid_up_to());
        Failure::Config(format!("{name}:{line}: syntax: not UTF-8"))
    })
}

/// The line of a byte [1 and up].
fn line(text: &[u8], at: usize) -> usize {
    text[..at].split(|byte| *byte == b'\n').count()
}

/// Whether agents will understand every connection string, down to its keywords. The environment of an agent may complete a
/// string, so a user that is not named here is no mistake.
fn connection_strings(file: &str, text: &str, fleet: &Fleet) -> Result<(), FileErrors> {
    let environment = |variable: &str| (variable == "USER").then(|| "lagmesh".to_owned());
    let mistake = |(_, node): (_, &Node)| {
        let message = ConnInfo::parse(&node.dsn, environment).err()?.to_string();
        Some(FileError { line: dsn_line(text, node.name.as_str())?, key: "cluster.node.dsn".to_owned(), message })
    };
    let errors: Vec<FileError> = fleet.nodes().filter_map(mistake).collect();
    if errors.is_empty() { Ok(()) } else { Err(FileErrors { file: file.to_owned(), errors }) }
}

/// Where the connection string of a node stands.
fn dsn_line(text: &str, node: &str) -> Option<usize> {
    let table = toml::de::DeTable::parse(text).ok()?.into_inner();
    let inner = |value: &Spanned<DeValue<'_>>, key: &str| Some(value.get_ref().get(key)?.span().start);
    let clusters = table.get("cluster")?.get_ref().as_array()?;
    let mut nodes = clusters.iter().filter_map(|cluster| cluster.get_ref().get("node")?.get_ref().as_array()).flatten();
    let found = nodes.find(|entry| entry.get_ref().get("name").and_then(|name| name.get_ref().as_str()) == Some(node))?;
    Some(line(text.as_bytes(), inner(found, "dsn")?))
}

/// What a good file describes and costs.
fn summary(file: &str, fleet: &Fleet, style: Style) -> String {
    let Mesh { flows, interval, .. } = fleet.mesh;
    let regions = fleet.regions.len();
    let (links, interval) = (regions * (regions - 1), humantime::format_duration(interval));
    let key = if fleet.needs_mesh_key() { "needs a mesh key (--mesh-key-file)" } else { "works without a mesh key" };
    let head = format!(
        "{file}: fleet {} is right\n\n\
         {regions} regions, {links} links, {flows} flows per pair of agents, one probe per flow every {interval}; {key}\n",
        fleet.name
    );
    let grids = [agents(fleet), nodes(fleet), collectors(fleet)];
    let grids = grids.iter().filter(|grid| !grid.is_empty()).map(|grid| format!("\n{}", grid.render(style)));
    let warnings: Vec<String> =
        fleet.warnings().iter().map(|text| format!("{} {text}\n", Tone::Warn.paint("warning:", style))).collect();
    let gap = if warnings.is_empty() { "" } else { "\n" };
    std::iter::once(head).chain(grids).chain([gap.to_owned()]).chain(warnings).collect()
}

fn agents(fleet: &Fleet) -> Grid {
    let mut grid = Grid::new(["agent", "region", "mesh", "peers", "packets/s", "kbit/s"]);
    for (region, agent) in fleet.agents() {
        let load = Load::of(fleet, region, agent);
        grid.push(vec![
            Cell::plain(agent.name.as_str()),
            Cell::plain(region.name.as_str()),
            Cell::plain(agent.mesh.to_string()),
            Cell::plain(load.peers.to_string()),
            Cell::plain(format!("{:.0} out, {:.0} in", load.packets_per_s, load.packets_per_s)),
            Cell::plain(format!("{:.0} out, {:.0} in", load.bits_per_s / 1e3, load.bits_per_s / 1e3)),
        ]);
    }
    grid
}

/// What the UDP mesh costs one agent, in each direction: a reply is as large as its request.
struct Load {
    peers: usize,
    packets_per_s: f64,
    bits_per_s: f64,
}

impl Load {
    fn of(fleet: &Fleet, region: &Region, agent: &Agent) -> Load {
        let peers: Vec<&Agent> = fleet.peers_of(&region.name).flat_map(|peer| &peer.agents).collect();
        let probes_per_s = f64::from(fleet.mesh.flows) / fleet.mesh.interval.as_secs_f64();
        let payload = if fleet.needs_mesh_key() { Mesh::PACKET_LENGTH_WITH_KEY } else { Mesh::PACKET_LENGTH } as f64;
        // Our request goes to the peer's address, our reply to one of the family of ours.
        let bytes = |host: &str| payload + UDP_BYTES + if host.contains(':') { IPV6_BYTES } else { IPV4_BYTES };
        let bytes_per_s: f64 = peers.iter().map(|peer| probes_per_s * (bytes(&peer.mesh.host) + bytes(&agent.mesh.host))).sum();
        Load { peers: peers.len(), packets_per_s: 2.0 * probes_per_s * peers.len() as f64, bits_per_s: 8.0 * bytes_per_s }
    }
}

fn nodes(fleet: &Fleet) -> Grid {
    let mut grid = Grid::new(["node", "cluster", "region", "dsn"]);
    for (cluster, node) in fleet.nodes() {
        let names = [node.name.as_str(), cluster.name.as_str(), node.region.as_str(), &node.dsn];
        grid.push(names.into_iter().map(Cell::plain).collect());
    }
    grid
}

fn collectors(fleet: &Fleet) -> Grid {
    let mut grid = Grid::new(["collector", "OTLP"]);
    for collector in &fleet.collectors {
        grid.push(vec![Cell::plain(collector.name.as_str()), Cell::plain(collector.otlp.to_string())]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped example costs its agents what the arithmetic says: 16 flows, a request and a reply per second and peer agent.
    #[test]
    fn load() {
        let fleet = Fleet::parse("fleet.toml", include_str!("../../packaging/fleet.toml")).unwrap();
        let (region, agent) = fleet.agents().next().unwrap();
        let load = Load::of(&fleet, region, agent);
        assert_eq!((load.peers, load.packets_per_s), (3, 96.0));
        // Two peers over IPv4, one over IPv6.
        let bytes_per_s = 16.0 * (2.0 * 2.0 * 360.0 + 360.0 + 380.0);
        assert!((load.bits_per_s - 8.0 * bytes_per_s).abs() < 1e-6);
    }
}
