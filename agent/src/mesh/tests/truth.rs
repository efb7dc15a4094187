//! The mesh over the emulated network, held against what the network saw.

use std::sync::Arc;
use std::time::Duration;

use lagmesh_model::state::{Outcome, StampSource};
use lagmesh_tests::real::Real;
use lagmesh_tests::skip::skip;
use lagmesh_tests::wan::path::LinkSettings;
use lagmesh_tests::wan::{HostPlan, LinkPlan, NotPossible, Wan, WanPlan};

use super::{Running, key, run};
use crate::measurement::{Observation, Probe};
use crate::mesh::MeshKeys;
use crate::mesh::testing::fleet;

const PORT: u16 = 18_620;
const WATCHED: Duration = Duration::from_secs(6);
/// How often it is looked at before it counts: a mistake of ours stays, a processor that was taken away comes back.
const ATTEMPTS: u32 = 3;
/// What the median may be beyond the truth on a machine that is busy [ns].
const MEDIAN_NS: i64 = 1_000_000;
/// What bringing a stamp onto another clock may cost [ns].
const CONVERTED_NS: i64 = 20_000;

fn network() -> anyhow::Result<Wan> {
    let link = |from: &str, to: &str, delay_ns| LinkPlan {
        from: from.to_owned(),
        to: to.to_owned(),
        settings: LinkSettings::delayed(delay_ns),
    };
    let hosts = vec![HostPlan::new("oslo", "oslo"), HostPlan::new("tokyo", "tokyo")];
    let links = vec![link("oslo", "tokyo", 3_000_000), link("tokyo", "oslo", 5_000_000)];
    Wan::start(&WanPlan { hosts, links, ..WanPlan::default() })
}

/// The round trips that came in while it was watched, in their order.
async fn watch(running: &mut Running) -> Vec<Probe> {
    let mut probes = Vec::new();
    while let Some(said) = running.observed.recv().await {
        match said {
            Observation::Probe(probe) if matches!(probe.outcome, Outcome::InTime | Outcome::Late) => probes.push(probe),
            _ => {}
        }
    }
    probes
}

fn quantile(sorted: &[i64], percent: usize) -> i64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// No round trip is shorter than the true one, and most are hardly longer; over IPv4 and IPv6, with a key and without. Kernel stamps are
/// what makes it so: most are used, all but few on a machine that is not busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_trips_are_the_true_ones() {
    let wan = match network() {
        Ok(wan) => wan,
        Err(error) if NotPossible::is_cause_of(&error) => {
            return skip(&format!("round trips over the emulated network: {error:#}"));
        }
        Err(error) => panic!("{error:#}"),
    };
    for (v6, keys) in [(false, None), (true, Some(key(b"a key of sixteen")))] {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (probes, truth_ns) = measured(&wan, v6, keys.clone()).await;
            match judged(&probes, &truth_ns, wan.log().quality().lateness_p99_ns) {
                Ok(()) => break,
                Err(why) if attempts < ATTEMPTS => eprintln!("{why}: looked at once more"),
                Err(why) => panic!("{why}"),
            }
        }
    }
}

/// What an agent measured in a while, and what the network saw, probe by probe.
async fn measured(wan: &Wan, v6: bool, keys: Option<MeshKeys>) -> (Vec<Probe>, Vec<i64>) {
    let address = |host: &str| std::net::SocketAddr::new(wan.address(host, v6).unwrap(), PORT);
    let (oslo, tokyo) = (address("oslo"), address("tokyo"));
    let replaced = [
        ("127.0.0.1:18620", oslo.to_string()),
        ("127.0.0.1:18621", tokyo.to_string()),
        ("tcp = false", "tcp = false\nflows = 16\ninterval = \"100ms\"".to_owned()),
    ];
    let fleet = Arc::new(fleet(&replaced.each_ref().map(|(from, to)| (*from, to.as_str()))));
    let start = async |region: &'static str, listen| {
        let (fleet, keys) = (Arc::clone(&fleet), keys.clone());
        wan.host(region).unwrap().run(async move || Ok(run(&fleet, region, listen, keys))).await.unwrap()
    };
    let since = Real::now();
    let (mut oslo, tokyo) = (start("oslo", oslo).await, start("tokyo", tokyo).await);
    let shutdown = oslo.shutdown.clone();
    let ((), mut probes) = tokio::join!(
        async {
            tokio::time::sleep(WATCHED).await;
            shutdown.cancel();
        },
        watch(&mut oslo)
    );
    tokyo.stop().await;
    // One that waits for the reflector's word is told later than it was answered.
    probes.sort_by_key(|probe| probe.at.raw);
    let (from, to) = (wan.host("oslo").unwrap().id(), wan.host("tokyo").unwrap().id());
    let mut truth = wan.log().rtt_truth(from, to, PORT, since, Real::now());
    // The last ones may have been on their way when the agent ended.
    truth.sort_unstable_by_key(|truth| truth.left + truth.rtt_ns);
    truth.truncate(probes.len());
    (probes, truth.iter().map(|truth| truth.rtt_ns).collect())
}

/// `late_ns` is how late the network itself was with its packets, and so may be with its stamps of them.
fn judged(probes: &[Probe], truth_ns: &[i64], late_ns: u64) -> Result<(), String> {
    let require = |holds: bool, why: String| if holds { Ok(()) } else { Err(why) };
    let (all, seen) = (probes.len(), truth_ns.len());
    require(all > 500 && seen == all, format!("{all} probes, {seen} in the network"))?;
    let error = |(probe, truth_ns): (&Probe, &i64)| Some(probe.rtt_ns?.cast_signed() - truth_ns);
    let mut errors: Vec<i64> = probes.iter().zip(truth_ns).filter_map(error).collect();
    require(errors.len() * 2 > all, format!("{} of {all} are known", errors.len()))?;
    errors.sort_unstable();
    let [least, p1, p10, p50, p90, p99, most] = [0, 1, 10, 50, 90, 99, 100].map(|percent| quantile(&errors, percent));
    eprintln!(
        "{} round trips beyond the truth [ns]: {least}, p1 {p1}, p10 {p10}, p50 {p50}, p90 {p90}, p99 {p99}, {most}",
        errors.len()
    );
    let by_kernel = probes.iter().filter(|probe| probe.stamps == Some(StampSource::KernelBothEnds)).count();
    require(by_kernel * 2 > all, format!("{by_kernel} of {all} by the kernels of both ends"))?;
    // Where a processor is taken away in between, the network's own stamp of a release is late; not of half of them.
    require(p50 > -CONVERTED_NS, format!("half of the round trips are shorter than the true ones: {p50} ns"))?;
    let least_ns = -CONVERTED_NS - late_ns.cast_signed();
    require(
        p10 > least_ns,
        format!("round trips shorter than the true ones: {p10} ns, where {late_ns} ns may be the network's"),
    )?;
    require(p50 < MEDIAN_NS, format!("the median is {p50} ns beyond the truth"))
}
