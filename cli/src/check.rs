//! `lagmesh check`: is the fleet file right, and what does the fleet cost?

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use lagmesh_model::document::{FileError, FileErrors};
use lagmesh_model::fleet::traffic::{self, Traffic};
use lagmesh_model::fleet::{Fleet, Mesh, Node, Plan, Region};
use lagmesh_model::ids::RegionName;
use lagmesh_postgres::ConnInfo;
use lagmesh_postgres::conninfo::{Host, Target};
use toml::Spanned;
use toml::de::DeValue;

use crate::Failure;
use crate::table::{Cell, Grid, Style, Tone};
use crate::terminal;

/// A fleet file is written by people; a larger file is something else [bytes].
const FLEET_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The port on which `PgBouncer` listens unless it is told otherwise.
const POOLER_PORT: u16 = 6432;

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

/// The environment of an agent may complete a connection string, so a user that is not named there is no mistake.
fn environment(variable: &str) -> Option<String> {
    (variable == "USER").then(|| "lagmesh".to_owned())
}

/// Whether agents will understand every connection string, down to its keywords.
fn connection_strings(file: &str, text: &str, fleet: &Fleet) -> Result<(), FileErrors> {
    let mistake = |(_, node): (_, &Node)| {
        let message = ConnInfo::parse(&node.dsn, environment).err()?.to_string();
        Some(FileError { line: dsn_line(text, node.name.as_str())?, key: "cluster.node.dsn".to_owned(), message })
    };
    let probe_mistake = |region: &Region| {
        let info = ConnInfo::parse(region.sql_probe.as_ref()?, environment);
        let on_a_socket = |host: &Host| matches!(host.target, Target::Socket(_));
        let message = match info {
            Err(error) => error.to_string(),
            Ok(info) if info.hosts.iter().any(on_a_socket) => {
                "needs a host that agents of other regions reach: host=NAME".to_owned()
            }
            Ok(_) => return None,
        };
        Some(FileError { line: probe_line(text, region.name.as_str())?, key: "region.sql_probe".to_owned(), message })
    };
    let errors = fleet.nodes().filter_map(mistake).chain(fleet.regions.iter().filter_map(probe_mistake));
    let errors: Vec<FileError> = errors.collect();
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

/// Where the `sql_probe` of a region stands.
fn probe_line(text: &str, region: &str) -> Option<usize> {
    let table = toml::de::DeTable::parse(text).ok()?.into_inner();
    let regions = table.get("region")?.get_ref().as_array()?;
    let found =
        regions.iter().find(|entry| entry.get_ref().get("name").and_then(|name| name.get_ref().as_str()) == Some(region))?;
    Some(line(text.as_bytes(), found.get_ref().get("sql_probe")?.span().start))
}

/// What a good file describes and costs.
fn summary(file: &str, fleet: &Fleet, style: Style) -> String {
    let Mesh { flows, interval, ref plan, .. } = fleet.mesh;
    let regions = fleet.regions.len();
    let links: usize = fleet.regions.iter().map(|region| fleet.peers_of(&region.name).count()).sum();
    let interval = humantime::format_duration(interval);
    let key = if fleet.needs_mesh_key() { "needs a mesh key (--mesh-key-file)" } else { "works without a mesh key" };
    let head = format!(
        "{file}: fleet {} is right\n\n\
         {regions} regions, {links} links ({}), {flows} flows per pair of agents, one probe per flow every {interval}; {key}\n",
        fleet.name,
        plan_words(plan),
    );
    let grids = [agents(fleet), costs(fleet), nodes(fleet), collectors(fleet), forwards(fleet)];
    let grids = grids.iter().filter(|grid| !grid.is_empty()).map(|grid| format!("\n{}", grid.render(style)));
    let warnings: Vec<String> = fleet
        .warnings()
        .iter()
        .chain(&poolers(fleet))
        .map(|text| format!("{} {text}\n", Tone::Warn.paint("warning:", style)))
        .collect();
    let gap = if warnings.is_empty() { "" } else { "\n" };
    std::iter::once(head).chain(grids).chain([gap.to_owned()]).chain(warnings).collect()
}

/// Nodes whose port is the one that `PgBouncer` listens on: nothing is contacted, so it is a guess. The agent and `lagmesh bootstrap --node`
/// find out.
fn poolers(fleet: &Fleet) -> Vec<String> {
    let pooled = |(_, node): &(_, &Node)| {
        ConnInfo::parse(&node.dsn, environment).is_ok_and(|info| info.hosts.iter().any(|host| host.port == POOLER_PORT))
    };
    let warning = |(_, node): (_, &Node)| {
        format!(
            "port {POOLER_PORT} of node {} is PgBouncer's usual one: agents write no beats through a pooler; name the server's own port",
            node.name
        )
    };
    fleet.nodes().filter(pooled).map(warning).collect()
}

fn plan_words(plan: &Plan) -> String {
    match plan {
        Plan::Full => "full mesh".to_owned(),
        Plan::Hub(hubs) => format!("all with {}", hubs.iter().map(RegionName::as_str).collect::<Vec<_>>().join(", ")),
        Plan::Pairs(pairs) => format!("{} listed pairs", pairs.len()),
    }
}

fn agents(fleet: &Fleet) -> Grid {
    let mut grid = Grid::new(["agent", "region", "mesh"]);
    for (region, agent) in fleet.agents() {
        let cells = [agent.name.as_str(), region.name.as_str(), &agent.mesh.to_string()].map(Cell::plain);
        grid.push(cells.to_vec());
    }
    grid
}

/// What the mesh takes by region; nothing where there is nobody to probe.
fn costs(fleet: &Fleet) -> Grid {
    let mut grid = Grid::new(["mesh of", "peers", "packets/s", "kbit/s", "GB/month", "of budget"]);
    let with_key = fleet.needs_mesh_key();
    let mut all = Vec::new();
    for region in &fleet.regions {
        let traffic = traffic::of_region(fleet, region, with_key);
        let share = fleet.mesh.budget_bits_per_s.map(|budget| traffic.bits_per_s() / budget as f64);
        let share = share.map_or_else(|| "no budget".to_owned(), |share| format!("{:.0} %", 100.0 * share));
        grid.push(cost(region.name.as_str(), &fleet.peers_of(&region.name).count().to_string(), traffic, &share));
        all.push(traffic);
    }
    if fleet.regions.len() > 1 {
        grid.push(cost("all, each way", "", all.into_iter().sum(), ""));
    }
    grid
}

fn cost(name: &str, peers: &str, traffic: Traffic, share: &str) -> Vec<Cell> {
    let numbers = [traffic.packets_per_s, traffic.bits_per_s() / 1e3, traffic.bytes_per_month() / 1e9];
    let [packets, kilobits, gigabytes] = numbers.map(|number| format!("{number:.1}"));
    [name, peers, &packets, &kilobits, &gigabytes, share].map(Cell::plain).to_vec()
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

fn forwards(fleet: &Fleet) -> Grid {
    let mut grid = Grid::new(["forward", "kind", "histograms", "to"]);
    for forward in &fleet.forwards {
        let histograms = forward.kind.histograms().map_or("exponential", lagmesh_model::fleet::HistogramForm::as_str);
        let words = [forward.name.as_str(), forward.kind.as_str(), histograms];
        grid.push(words.into_iter().map(Cell::plain).chain([Cell::plain(forward.url.to_string())]).collect());
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the shipped example says what the arithmetic says: per region its peers and what it sends, and the sum at the end.
    #[test]
    fn costs_of_the_example() {
        let fleet = Fleet::parse("fleet.toml", include_str!("../../packaging/fleet.toml")).unwrap();
        let text = costs(&fleet).render(Style::PLAIN);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        // 16 flows to three agents elsewhere, requests and replies; 3 echo requests and replies, 3 connections of 4 packets each way
        // (to dublin's database, to tokyo's, and 3 from there), all hosts reckoned as IPv6.
        let stamp = 16.0 * 2.0 * 3.0 * 400.0;
        let bits = 8.0 * (stamp + 5.0 * 104.0 + 5.0 * 296.0);
        let month = bits / 8.0 * 30.4375 * 86400.0 / 1e9;
        assert_eq!(rows[1], ["new-york", "2", "121.0", &format!("{:.1}", bits / 1e3), &format!("{month:.1}"), "no", "budget"]);
        assert_eq!(rows.last().unwrap()[..3], ["all,", "each", "way"]);
        let sum: f64 = rows[1..4].iter().map(|row| row[3].parse::<f64>().unwrap()).sum();
        assert!((rows[4][4].parse::<f64>().unwrap() - sum).abs() < 0.2, "{text}");
    }

    /// A node that is reached where a pooler usually listens is warned of, and no other.
    #[test]
    fn poolers_are_guessed_by_their_port() {
        let text = include_str!("../../packaging/fleet.toml");
        assert_eq!(poolers(&Fleet::parse("f", text).unwrap()), [] as [String; 0]);
        let text = text.replacen("dsn = \"", "dsn = \"port=6432 ", 1);
        let found = poolers(&Fleet::parse("f", &text).unwrap());
        assert!(found.len() == 1 && found[0].contains("port 6432 of node "), "{found:?}");
    }

    /// A plan is named, its links are counted, and with a budget the table says how much of it is taken.
    #[test]
    fn plans_and_budgets() {
        let text = include_str!("../../packaging/fleet.toml");
        let text = text.replace("plan = \"full\"", "plan = \"hub\"\nhubs = [\"dublin\"]\nbudget_bits_per_s = 1000000");
        let summary = summary("f", &Fleet::parse("f", &text).unwrap(), Style::PLAIN);
        assert!(summary.contains("3 regions, 4 links (all with dublin), 16 flows"), "{summary}");
        let mut rows = summary.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let dublin = rows.find(|row| row.starts_with(&["dublin", "2"])).unwrap();
        assert_eq!(dublin.last(), Some(&"%"), "{dublin:?}");
        assert!(summary.contains("DOWN is unreachable") && summary.contains("nodes in new-york and tokyo"), "{summary}");
    }
}
