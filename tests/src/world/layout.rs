//! Where everything of a world listens, and the fleet file that says so. Pure but for the choice of free ports on loopback.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};

use super::AGENT_ROLE;
use crate::plan::Plan;
use crate::{ports, postgres};

/// The first ports on emulated hosts; each further agent or server of a host takes the next ones.
const MESH_PORT: u16 = 8620;
const AGENT_HTTP_PORT: u16 = 8720;
const DATABASE_PORT: u16 = 5432;
const POOLER_PORT: u16 = 6432;
const COLLECTOR_HTTP_PORT: u16 = 8622;
const COLLECTOR_GRPC_PORT: u16 = 4317;

/// Where everything listens.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// The mesh address of each agent.
    pub mesh: BTreeMap<String, SocketAddr>,
    /// The local HTTP address of each agent.
    pub agent_http: BTreeMap<String, SocketAddr>,
    /// The address of each server.
    pub database: BTreeMap<String, SocketAddr>,
    /// The address of the pooler before each server that has one.
    pub pooler: BTreeMap<String, SocketAddr>,
    /// The HTTP address of each collector.
    pub collector_http: BTreeMap<String, SocketAddr>,
    /// The OTLP/gRPC address of each collector.
    pub collector_grpc: BTreeMap<String, SocketAddr>,
}

/// The name of a collector's host: it has one of its own, so that it can be cut off alone.
pub fn collector_host(collector: &str) -> String {
    format!("collector-{collector}")
}

impl Layout {
    /// Everything on this machine's loopback, on free ports; the first collector's page on `http_port` if that is free.
    ///
    /// # Errors
    /// If no port is free.
    pub fn on_loopback(plan: &Plan, http_port: u16) -> Result<Layout> {
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut layout = Layout::default();
        for agent in plan.regions.iter().flat_map(|region| plan.agents_of(region)) {
            layout.mesh.insert(agent.clone(), local(ports::free()?));
            layout.agent_http.insert(agent, local(ports::free()?));
        }
        for node in plan.nodes() {
            layout.database.insert(node.name.clone(), local(ports::free()?));
            if node.pooler.is_some() {
                layout.pooler.insert(node.name.clone(), local(ports::free()?));
            }
        }
        for (number, collector) in plan.collectors.iter().enumerate() {
            let port = if number == 0 { ports::preferred_or_free(http_port)? } else { ports::free()? };
            layout.collector_http.insert(collector.name.clone(), local(port));
            layout.collector_grpc.insert(collector.name.clone(), local(ports::free()?));
        }
        Ok(layout)
    }

    /// Everything on hosts of its own, whose addresses `address` tells by the name of the host.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn on_hosts(plan: &Plan, address: impl Fn(&str) -> Result<IpAddr>) -> Result<Layout> {
        let mut layout = Layout::default();
        for region in &plan.regions {
            let host = address(&region.name)?;
            for (number, agent) in (0..).zip(plan.agents_of(region)) {
                layout.mesh.insert(agent.clone(), SocketAddr::from((host, MESH_PORT + number)));
                layout.agent_http.insert(agent, SocketAddr::from((Ipv4Addr::LOCALHOST, AGENT_HTTP_PORT + number)));
            }
            let nodes = plan.nodes().filter(|node| node.region == region.name);
            for (number, node) in (0..).zip(nodes) {
                layout.database.insert(node.name.clone(), SocketAddr::from((host, DATABASE_PORT + number)));
                if node.pooler.is_some() {
                    layout.pooler.insert(node.name.clone(), SocketAddr::from((host, POOLER_PORT + number)));
                }
            }
        }
        for collector in &plan.collectors {
            let host = address(&collector_host(&collector.name))?;
            layout.collector_http.insert(collector.name.clone(), SocketAddr::from((host, COLLECTOR_HTTP_PORT)));
            layout.collector_grpc.insert(collector.name.clone(), SocketAddr::from((host, COLLECTOR_GRPC_PORT)));
        }
        Ok(layout)
    }

    /// Every port of a database.
    pub fn database_ports(plan: &Plan) -> impl Iterator<Item = u16> {
        (0..).zip(plan.nodes()).map(|(number, _)| DATABASE_PORT + number)
    }

    /// The fleet file of a plan laid out like this.
    ///
    /// # Errors
    /// If something of the plan is not in the layout.
    pub fn fleet_file(&self, plan: &Plan) -> Result<String> {
        let mut file = format!("# Written by the testbed.\nname = \"{}\"\ninsecure = true\n", plan.name);
        for region in &plan.regions {
            write!(file, "\n[[region]]\nname = \"{}\"\n", region.name)?;
            if let Some(at) = region.coordinates {
                write!(file, "latitude = {}\nlongitude = {}\n", at.latitude, at.longitude)?;
            }
            for agent in plan.agents_of(region) {
                let mesh = self.mesh.get(&agent).with_context(|| format!("no address of {agent}"))?;
                write!(file, "[[region.agent]]\nname = \"{agent}\"\nmesh = \"{mesh}\"\n")?;
            }
        }
        self.clusters(plan, &mut file)?;
        for (name, address) in &self.collector_http {
            write!(file, "\n[[collector]]\nname = \"{name}\"\notlp = \"http://{address}\"\n")?;
        }
        write!(file, "\n{}", plan.fleet)?;
        Ok(file)
    }

    fn clusters(&self, plan: &Plan, file: &mut String) -> Result<()> {
        for cluster in &plan.clusters {
            write!(file, "\n[[cluster]]\nname = \"{}\"\nwriters_max = {}\n", cluster.name, cluster.writers_max)?;
            for (key, value) in [
                ("beat_interval", cluster.beat_interval),
                ("ledger_interval", cluster.ledger_interval),
                ("lag_objective", cluster.lag_objective),
            ] {
                if let Some(value) = value {
                    writeln!(file, "{key} = \"{}\"", humantime::format_duration(value))?;
                }
            }
            for node in &cluster.nodes {
                let at = self.pooler.get(&node.name).or_else(|| self.database.get(&node.name));
                let at = at.with_context(|| format!("no address of {}", node.name))?;
                let dsn = format!("host={} port={} dbname={} user={AGENT_ROLE}", at.ip(), at.port(), postgres::DATABASE);
                write!(file, "[[cluster.node]]\nname = \"{}\"\nregion = \"{}\"\ndsn = \"{dsn}\"\n", node.name, node.region)?;
            }
        }
        Ok(())
    }
}
