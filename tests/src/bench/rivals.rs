//! The cost of a probe beside that of programs of others, at the same rate, on the same host, in the same run.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::bed::{Bed, Setup};
use super::cost::{Used, used};
use super::figure::Figure;
use super::{progress, say_figures, usage};
use crate::process::{Place, Program};
use crate::real::Real;
use crate::wan::packet::ICMP;
use crate::wan::path::LinkSettings;

/// How long a program runs before it is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// 62 peers with 16 flows once a second, rounded.
const RATE_PER_S: usize = 1000;
const PEERS: usize = 62;
/// How often each program gets its turn.
const ROUNDS: u32 = 3;

/// A program of somebody else.
struct Rival {
    name: &'static str,
    program: &'static str,
    /// The share of its cost that ours may have.
    share: f64,
    /// What it took where that share was chosen, which stands for it where it is not installed [us of processor time per probe].
    usual_us: f64,
    args: fn(&[IpAddr], &Path) -> Vec<String>,
}

const RIVALS: [Rival; 2] = [
    Rival { name: "fping", program: "fping", share: 0.5, usual_us: 48.0, args: fping },
    Rival {
        name: "smokeping_prober",
        program: "prometheus-smokeping-prober",
        share: 0.05,
        usual_us: 875.0,
        args: smokeping_prober,
    },
];

/// The hosts in turn, a packet each 0.9 ms at the soonest (at 1 ms it falls behind its period); nothing but a summary each hour is printed, which is its cheapest way (`-l -q` prints
/// every answer).
fn fping(hosts: &[IpAddr], _: &Path) -> Vec<String> {
    let every_ms = hosts.len() * 1000 / RATE_PER_S;
    let options = ["-l", "-Q", "3600", "-i", "0.9", "-p"].map(str::to_owned);
    options.into_iter().chain([every_ms.max(1).to_string()]).chain(hosts.iter().map(IpAddr::to_string)).collect()
}

/// Each host at the same rate; nobody scrapes it. Its own file, which names further hosts where it is installed, is put aside.
fn smokeping_prober(hosts: &[IpAddr], config: &Path) -> Vec<String> {
    let every_ms = hosts.len() * 1000 / RATE_PER_S;
    let options = [
        format!("--ping.interval={}ms", every_ms.max(1)),
        format!("--config.file={}", config.display()),
        "--web.listen-address=127.0.0.1:9374".to_owned(),
    ];
    options.into_iter().chain(hosts.iter().map(IpAddr::to_string)).collect()
}

/// What one program used: round by round, so that a machine that is slow for a while is seen.
struct Cost {
    name: &'static str,
    rounds: Vec<Used>,
}

impl Cost {
    /// Over all rounds.
    fn us_per_probe(&self) -> f64 {
        let (cpu_s, probes) =
            self.rounds.iter().fold((0.0, 0), |(cpu_s, probes), used| (cpu_s + used.cpu_s, probes + used.probes));
        cpu_s * 1e6 / probes as f64
    }

    fn words(&self) -> String {
        let each =
            |of: fn(&Used) -> f64| self.rounds.iter().map(|used| format!("{:.1}", of(used))).collect::<Vec<_>>().join(", ");
        let rate = self.rounds.iter().map(|used| used.probes as f64 / used.time_s).sum::<f64>() / self.rounds.len() as f64;
        let rss_mib = self.rounds.last().map_or(0.0, |used| used.rss_mib);
        format!("{}: {} us in the rounds at {rate:.0} probes/s, {rss_mib:.1} MiB", self.name, each(|used| used.us_per_probe()))
    }
}

pub(super) async fn measure(bed: &Bed, time: Duration) -> Result<()> {
    progress(&format!("the cost of a probe at {RATE_PER_S} probes/s, {ROUNDS} rounds of one program after the other"));
    bed.set_links(&LinkSettings::delayed(20_000_000))?;
    let round = time / ROUNDS;
    let mut ours = Cost { name: "lagmesh-agent", rounds: Vec::new() };
    let mut theirs: Vec<Result<Cost>> = RIVALS.iter().map(|rival| Ok(Cost { name: rival.name, rounds: Vec::new() })).collect();
    for _ in 0..ROUNDS {
        ours.rounds.push(of_ours(bed, round).await?);
        for (rival, cost) in RIVALS.iter().zip(&mut theirs) {
            let Ok(so_far) = cost else { continue };
            match of_rival(bed, rival, round).await {
                Ok(used) => so_far.rounds.push(used),
                Err(error) => *cost = Err(error),
            }
        }
    }
    let (mut figures, mut details) = (Vec::new(), vec![ours.words()]);
    for (rival, cost) in RIVALS.iter().zip(&theirs) {
        let peer = cost.as_ref().ok().map(|cost| (rival.name, cost.us_per_probe()));
        details.push(match cost {
            Ok(cost) => cost.words(),
            Err(error) => format!("{} was not measured: {error:#}", rival.name),
        });
        let target = rival.share * peer.map_or(rival.usual_us, |(_, theirs_us)| theirs_us);
        figures.push(Figure { peer, ..Figure::new("mesh.cpu_per_probe", "us", ours.us_per_probe(), target) });
    }
    let hosts = bed.host_addresses()?;
    let options = |rival: &Rival| {
        let mut args = (rival.args)(&hosts, Path::new("none.yml"));
        args.truncate(args.len() - hosts.len());
        args.join(" ")
    };
    let how = format!(
        "mesh.cpu_per_probe: processor time (user and system, all threads) per probe that the network's log shows leaving, {ROUNDS} rounds of {:.0} s each, one program after the \
         other on the same host at about {RATE_PER_S} probes/s over links of 20 ms; no other kind of probe beside. Ours: {PEERS} peers, 16 flows, once a second, with HMAC. \
         fping: `{}` and {} hosts; smokeping_prober: `{}` and the same. Target: half of fping's, a twentieth of smokeping_prober's. {}",
        round.as_secs_f64(),
        options(&RIVALS[0]),
        hosts.len(),
        options(&RIVALS[1]),
        details.join("; "),
    );
    say_figures(&how, &figures);
    Ok(())
}

async fn of_ours(bed: &Bed, time: Duration) -> Result<Used> {
    let mesh = "flows = 16\nicmp = false\ntcp = false\n".to_owned();
    let meter = bed.meter(&Setup { peers: PEERS, mesh, ..Setup::default() }).await?;
    sleep(SETTLE).await;
    let used = used(bed, &meter, time).await?;
    meter.stop().await?;
    Ok(used)
}

async fn of_rival(bed: &Bed, rival: &Rival, time: Duration) -> Result<Used> {
    let there = Command::new(rival.program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(there.is_ok(), "{} is not installed, and this system's packages may not have it", rival.program);
    let program = Program {
        name: rival.name.to_owned(),
        path: rival.program.into(),
        args: (rival.args)(&bed.host_addresses()?, &bed.file("rival.yml", "targets: []\n")?),
        env: Vec::new(),
        user: None,
        place: Place::default(),
    };
    // Dropping it kills it.
    let mut process = bed.beside(program)?;
    sleep(SETTLE).await;
    ensure!(process.ended()?.is_none(), "it ended; {}", process.last_words());
    let (since, before_s) = (Real::now(), usage::cpu_s(process.pid())?);
    sleep(time).await;
    let (until, after_s) = (Real::now(), usage::cpu_s(process.pid())?);
    let rss_mib = usage::rss_mib(process.pid())?;
    let meter = bed.meter_id()?;
    let records = bed.wan.log().records(since, until);
    let probes = records.iter().filter(|record| record.from == meter && record.protocol == ICMP).count();
    ensure!(probes > 0, "it sends nothing; {}", process.last_words());
    Ok(Used { cpu_s: after_s - before_s, time_s: (until - since) as f64 / 1e9, probes, rss_mib })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both programs of others are asked for the same rate, whatever the number of hosts.
    #[test]
    fn same_rate() {
        let hosts: Vec<IpAddr> = (1..=10).map(|last| IpAddr::from([10, 77, last, 1])).collect();
        let (fping, smokeping) = (fping(&hosts, Path::new("")), smokeping_prober(&hosts, Path::new("x.yml")));
        assert_eq!(fping[3..8], ["-i", "0.9", "-p", "10", "10.77.1.1"]);
        assert_eq!(smokeping[..2], ["--ping.interval=10ms", "--config.file=x.yml"]);
        assert_eq!((fping.len(), smokeping.len()), (17, 13));
    }
}
