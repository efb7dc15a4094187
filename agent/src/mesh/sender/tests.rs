use std::sync::Arc;

use lagmesh_model::state::StampSource;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::measurement::Probe;
use crate::mesh::responder::{bind_reflector, reflect};
use crate::mesh::testing::fleet;

/// A change that did not fit into the queue is told again once it fits: a dead flow never stays alive by an accident.
#[test]
fn changes_are_told_until_they_are_heard() {
    let clock = Clock::new();
    let (oslo, oslo_a) = ("oslo".parse().unwrap(), "oslo-a".parse().unwrap());
    let engine = Engine::new(&Arc::new(fleet(&[("tcp = false", "tcp = false\nflows = 1")])), &oslo, &oslo_a, None, clock.now());
    let (observations, mut queue) = Observations::queue(1);
    let shared = Shared::new(engine, clock, observations);
    for _ in 0..2 {
        shared.with(|engine, now| engine.not_sent(0, 0, Outcome::Unreachable, now));
    }
    let mut heard = || std::iter::from_fn(|| queue.try_recv().ok()).any(|said| matches!(said, Observation::Flow(_)));
    assert!(!heard(), "only the first fate fitted");
    shared.with(|engine, now| engine.on_error(0, 0, Outcome::SendError, None, now));
    assert!(heard());
    shared.with(|engine, now| engine.on_error(0, 0, Outcome::SendError, None, now));
    assert!(!heard(), "heard, and not told again");
}

fn agent(region: &str, quiet: &str) -> (Shared, Receiver<Observation>) {
    let (clock, fleet) = (Clock::new(), Arc::new(fleet(&[("tcp = false", quiet)])));
    let engine = Engine::new(&fleet, &region.parse().unwrap(), &format!("{region}-a").parse().unwrap(), None, clock.now());
    let (observations, queue) = Observations::queue(100);
    (Shared::new(engine, clock, observations), queue)
}

fn answered(queue: &mut Receiver<Observation>) -> Vec<Probe> {
    let probe = |said| if let Observation::Probe(probe) = said { Some(probe) } else { None };
    std::iter::from_fn(|| queue.try_recv().ok()).filter_map(probe).filter(|probe| probe.rtt_ns.is_some()).collect()
}

/// This thread is held up for a while, which is not the flow's fault: after a lost probe an answer that waits in the socket keeps the flow
/// alive although it would be overdue by now, and by the kernel its round trip ends when it came and not when it was read.
#[tokio::test]
async fn what_waits_is_read_before_anything_is_overdue() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(socket) = bind_reflector(address.parse().unwrap()) else { continue };
        let target = socket.local_addr().unwrap();
        let reflector = UdpSocket::from_std(socket).unwrap();
        // No probe is due while this runs.
        let quiet = "tcp = false\nflows = 1\ninterval = \"60s\"\ngive_up = \"60s\"";
        let ((oslo, mut queue), (tokyo, _)) = (agent("oslo", quiet), agent("tokyo", quiet));
        let place = Address { host: target.ip().to_string(), port: target.port() };
        let connected = find(&oslo, 0, &place, target.ip(), None).await.unwrap().unwrap();
        let line = &connected.flows[0];
        let reflect_all = || async { timeout(Duration::from_millis(20), reflect(&tokyo, &reflector)).await.unwrap_err() };
        let judge = || {
            let read = catch_up(&oslo, 0, Some(&connected));
            oslo.with(|engine, now| engine.due(0, read, now));
            oslo.with(|engine, _| engine.peers()[0].is_alive())
        };

        send_one(&oslo, 0, 0, Some(line));
        reflect_all().await;
        std::thread::sleep(Duration::from_millis(250));
        assert!(!judge(), "{address}: nothing is known yet, and an answer is overdue only after the deadline");
        let mut packet = [0; REQUEST_MAX];
        let received = receive_one(&line.socket, &mut packet).unwrap();
        oslo.with(|engine, now| engine.on_packet(0, 0, came(&packet, &received), now));
        assert!(judge());

        send_one(&oslo, 0, 0, Some(line));
        reflector.readable().await.unwrap();
        receive_one(&reflector, &mut packet).unwrap();
        std::thread::sleep(Duration::from_millis(250));
        assert!(judge(), "{address}: one lost probe is loss, not death");

        send_one(&oslo, 0, 0, Some(line));
        reflect_all().await;
        std::thread::sleep(Duration::from_millis(250));
        assert!(judge(), "{address}: the answer waited to be read");
        for probe in answered(&mut queue) {
            assert_eq!(probe.outcome, Outcome::InTime, "{address}");
            // On a busy machine a stamp of the kernel may come with too wide a reading of the clocks to be believed.
            let by_kernel = probe.stamps != Some(StampSource::User);
            assert!(!by_kernel || probe.rtt_ns.is_some_and(|rtt_ns| rtt_ns < 100_000_000), "{address}: {probe:?}");
        }
    }
}

/// Probes carry the DSCP of the fleet file, over IPv4 and IPv6; the reflector answers with the one that arrived.
#[tokio::test]
async fn probes_carry_the_dscp() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(socket) = bind_reflector(address.parse().unwrap()) else { continue };
        let target = socket.local_addr().unwrap();
        let reflector = UdpSocket::from_std(socket).unwrap();
        let (oslo, _) = agent("oslo", "tcp = false\nflows = 1\ndscp = 46");
        let place = Address { host: target.ip().to_string(), port: target.port() };
        let connected = find(&oslo, 0, &place, target.ip(), None).await.unwrap().unwrap();
        send_one(&oslo, 0, 0, Some(&connected.flows[0]));
        reflector.readable().await.unwrap();
        let received = receive_one(&reflector, &mut [0; REQUEST_MAX]).unwrap();
        assert_eq!(received.class, Some(46 << 2), "{address}");
    }
}
