//! What the mesh sends, computed from the fleet file alone. Pure.
//!
//! Reckoned are IP packets with their headers, without what a link adds around them. What is not known is taken as the larger: a
//! host that is written as a name counts as IPv6. Requests, the replies to them and the second opinions are in it; lookups of names,
//! exports to collectors and what the databases say are not.

use super::{Address, Fleet, Mesh, Region};
use crate::state::ProbeKind;

/// The headers of UDP and ICMP [octets].
const UDP_OCTETS: u64 = 8;
const ICMP_OCTETS: u64 = 8;
/// What an echo request carries: as much as ping sends [octets].
pub const ECHO_PAYLOAD: usize = 56;
/// The headers of IP [octets].
const IPV4_OCTETS: u64 = 20;
const IPV6_OCTETS: u64 = 40;
/// A TCP connection that is opened and closed at once takes at most four packets each way, with the options of Linux: one of 40 octets
/// (SYN) and three of 32.
const TCP_PACKETS: u64 = 4;
const TCP_OCTETS: u64 = 40 + 3 * 32;
/// A login with TLS and a query, and a query on a kept connection with its acknowledgement. Taken is what the server sends, which is
/// more because of its certificates; a long chain takes more. Packets and octets without the headers of IP.
const SQL_PACKETS: u64 = 16;
const SQL_OCTETS: u64 = 6000;
const SQL_KEPT_PACKETS: u64 = 2;
const SQL_KEPT_OCTETS: u64 = 300;
/// A handshake of TLS, a request and a short answer; likewise.
const HTTP_PACKETS: u64 = 12;
const HTTP_OCTETS: u64 = 6000;
/// An average month: 365.25 days over 12 [s].
const MONTH_S: f64 = 365.25 * 24.0 * 3600.0 / 12.0;

/// What is sent in one direction. In and out are the same: a reply is as large as its request.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Traffic {
    /// Packets a second.
    pub packets_per_s: f64,
    /// Octets a second.
    pub bytes_per_s: f64,
}

impl Traffic {
    /// Bits a second.
    pub fn bits_per_s(&self) -> f64 {
        8.0 * self.bytes_per_s
    }

    /// Octets in an average month.
    pub fn bytes_per_month(&self) -> f64 {
        self.bytes_per_s * MONTH_S
    }

    fn add(&mut self, packets: u64, bytes: u64, per_s: f64) {
        self.packets_per_s += packets as f64 * per_s;
        self.bytes_per_s += bytes as f64 * per_s;
    }
}

impl std::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Traffic>>(all: I) -> Traffic {
        all.fold(Traffic::default(), |a, b| Traffic {
            packets_per_s: a.packets_per_s + b.packets_per_s,
            bytes_per_s: a.bytes_per_s + b.bytes_per_s,
        })
    }
}

/// What all hosts of a region send by the plan, to all of its peers together; `with_key` if packets are authenticated.
pub fn of_region(fleet: &Fleet, region: &Region, with_key: bool) -> Traffic {
    fleet.peers_of(&region.name).map(|peer| of_link(fleet, region, peer, with_key)).sum()
}

/// What the hosts of a region send to those of a peer.
fn of_link(fleet: &Fleet, region: &Region, peer: &Region, with_key: bool) -> Traffic {
    let mesh = &fleet.mesh;
    let per_s = |kind| 1.0 / mesh.interval_of(kind).as_secs_f64();
    let mut sum = Traffic::default();
    let length = if with_key { Mesh::PACKET_LENGTH_WITH_KEY } else { Mesh::PACKET_LENGTH } as u64;
    // A packet and its answer travel between the same two addresses: those of who was asked.
    let both = region.agents.iter().flat_map(|ours| peer.agents.iter().map(move |theirs| (ours, theirs)));
    for (ours, theirs) in both {
        for asked in [&theirs.mesh, &ours.mesh] {
            sum.add(1, length + UDP_OCTETS + ip(asked), f64::from(mesh.flows) * per_s(ProbeKind::Stamp));
        }
    }
    for (from, to) in [(region, peer), (peer, region)] {
        let agents = from.agents.len() as u64;
        // Only the first agent of a region is asked for an echo.
        if let Some(asked) = to.agents.first().filter(|_| mesh.icmp) {
            let octets = ECHO_PAYLOAD as u64 + ICMP_OCTETS + ip(&asked.mesh);
            sum.add(agents, agents * octets, per_s(ProbeKind::Icmp));
        }
        let has_node = fleet.nodes_of(&to.name).next().is_some();
        let kinds = [
            (ProbeKind::Tcp, TCP_PACKETS, TCP_OCTETS),
            (ProbeKind::Sql, SQL_PACKETS, SQL_OCTETS),
            (ProbeKind::SqlKept, SQL_KEPT_PACKETS, SQL_KEPT_OCTETS),
            (ProbeKind::Http, HTTP_PACKETS, HTTP_OCTETS),
        ];
        for (kind, packets, octets) in kinds.into_iter().filter(|(kind, ..)| mesh.asks(*kind, to, has_node)) {
            sum.add(agents * packets, agents * (octets + packets * IPV6_OCTETS), per_s(kind));
        }
    }
    sum
}

fn ip(address: &Address) -> u64 {
    if address.is_ipv4() { IPV4_OCTETS } else { IPV6_OCTETS }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The regions of a test, `agents` each, the first with a database; `mesh` is what stands in the table.
    fn fleet(hosts: &[&[&str]], mesh: &str) -> Fleet {
        let mut text = "name = \"t\"\ninsecure = true\n".to_owned();
        for (r, hosts) in hosts.iter().enumerate() {
            write!(text, "[[region]]\nname = \"r{r}\"\n").unwrap();
            for (a, host) in hosts.iter().enumerate() {
                let port = 1000 + r * 10 + a;
                write!(text, "[[region.agent]]\nname = \"a{r}-{a}\"\nmesh = \"{host}:{port}\"\n").unwrap();
            }
        }
        text += "[[cluster]]\nname = \"c\"\n[[cluster.node]]\nname = \"n\"\nregion = \"r0\"\ndsn = \"host=db\"\n";
        Fleet::parse("t", &format!("{text}[mesh]\n{mesh}")).unwrap()
    }

    fn rate(fleet: &Fleet, region: usize, with_key: bool) -> (f64, f64) {
        let Traffic { packets_per_s, bytes_per_s } = of_region(fleet, &fleet.regions[region], with_key);
        (packets_per_s, bytes_per_s)
    }

    /// Sixteen requests and sixteen replies a second between two agents, each 380 octets with a key over IPv4; IPv6 and names cost 20
    /// octets more at the end that has them; without a key packets are shorter.
    #[test]
    fn mesh_packets() {
        const QUIET: &str = "icmp = false\ntcp = false";
        let two = fleet(&[&["10.0.0.1"], &["10.0.0.2"]], QUIET);
        assert_eq!(rate(&two, 0, true), (32.0, 32.0 * 380.0));
        assert_eq!(rate(&two, 0, false), (32.0, 32.0 * 292.0));
        for host in ["[2001:db8::1]", "agent.example"] {
            let mixed = fleet(&[&["10.0.0.1"], &[host]], QUIET);
            assert_eq!(rate(&mixed, 0, true), (32.0, 16.0 * (380.0 + 400.0)));
            assert_eq!(rate(&mixed, 0, true), rate(&mixed, 1, true));
        }
        let slow = fleet(&[&["10.0.0.1"], &["10.0.0.2"]], "icmp = false\ntcp = false\nflows = 4\ninterval = \"2s\"");
        assert_eq!(rate(&slow, 0, true), (4.0, 4.0 * 380.0));
        let many = fleet(&[&["10.0.0.1", "10.0.0.3"], &["10.0.0.2"]], QUIET);
        assert_eq!(rate(&many, 0, true), (64.0, 64.0 * 380.0));
    }

    /// An echo request and an echo reply of 84 octets a second, however short the interval, and a connection to the one database.
    #[test]
    fn second_opinions() {
        let mesh = |more| format!("flows = 1\ninterval = \"100ms\"\n{more}");
        let hosts: &[&[&str]] = &[&["10.0.0.1"], &["10.0.0.2"]];
        let bytes = |more| rate(&fleet(hosts, &mesh(more)), 0, true).1;
        let alone = bytes("icmp = false\ntcp = false");
        assert!((bytes("tcp = false") - alone - 2.0 * 84.0).abs() < 1e-6);
        assert!((bytes("icmp = false") - alone - (60.0 + 20.0 + 3.0 * (52.0 + 20.0))).abs() < 1e-6);
    }

    /// Logins, queries and requests count for the region that asks and for the one that answers, and only where the file asks for them.
    #[test]
    fn applications() {
        let quiet = fleet(&[&["10.0.0.1"], &["10.0.0.2"], &["10.0.0.3"]], "icmp = false\ntcp = false");
        let mut asked = quiet.clone();
        asked.regions[0].sql_probe = Some("host=db".to_owned());
        let more = |region| rate(&asked, region, true).1 - rate(&quiet, region, true).1;
        let each = (6000.0 + 16.0 * 40.0) / 60.0 + (300.0 + 2.0 * 40.0) / 10.0;
        for (region, expected) in [(0, 2.0 * each), (1, each), (2, each)] {
            assert!((more(region) - expected).abs() < 1e-6, "{region}");
        }
        let mut asked = quiet.clone();
        asked.regions[0].http_probe = Some("https://app".parse().unwrap());
        let more = |region| rate(&asked, region, true).1 - rate(&quiet, region, true).1;
        let each = (6000.0 + 12.0 * 40.0) / 10.0;
        for (region, expected) in [(0, 2.0 * each), (1, each), (2, each)] {
            assert!((more(region) - expected).abs() < 1e-6, "{region}");
        }
    }

    /// A full mesh costs in proportion to the square of its regions, a hub plan in proportion to their number.
    #[test]
    fn growth() {
        let total = |n: usize, plan: &str| -> f64 {
            let hosts: Vec<String> = (0..n).map(|r| format!("10.0.{r}.1")).collect();
            let regions: Vec<Vec<&str>> = hosts.iter().map(|host| vec![host.as_str()]).collect();
            let regions: Vec<&[&str]> = regions.iter().map(Vec::as_slice).collect();
            let fleet = fleet(&regions, &format!("icmp = false\ntcp = false\n{plan}"));
            let all: Traffic = fleet.regions.iter().map(|region| of_region(&fleet, region, true)).sum();
            all.packets_per_s / 32.0
        };
        for n in [4, 10, 40] {
            let count = n as f64;
            assert!((total(n, "") - count * (count - 1.0)).abs() < 1e-6);
            assert!((total(n, "plan = \"hub\"\nhubs = [\"r1\"]") - 2.0 * (count - 1.0)).abs() < 1e-6);
            let two = total(n, "plan = \"hub\"\nhubs = [\"r1\", \"r2\"]");
            assert!((two - 2.0 * (2.0 * (count - 2.0) + 1.0)).abs() < 1e-6);
        }
        assert!((total(4, "plan = \"pairs\"\npairs = [[\"r1\", \"r2\"]]") - 2.0).abs() < 1e-6);
    }
}
