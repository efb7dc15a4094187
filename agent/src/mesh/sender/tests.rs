use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::Clock;
use lagmesh_model::state::StampSource;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::measurement::{Observation, Observations, Probe};
use crate::mesh::doors::{Door, Doors};
use crate::mesh::finder;
use crate::mesh::line::Ready;
use crate::mesh::testing::{ends, fleet};

fn agent(region: &str, quiet: &str) -> (Shared, Receiver<Observation>) {
    let (clock, fleet) = (Clock::new(), Arc::new(fleet(&[("tcp = false", quiet)])));
    let engine = Engine::new(&fleet, &region.parse().unwrap(), &format!("{region}-a").parse().unwrap(), None, clock.now());
    let (observations, queue) = Observations::queue(100);
    (Shared::new(engine, clock, ends(observations)), queue)
}

fn answered(queue: &mut Receiver<Observation>) -> Vec<Probe> {
    let probe = |said| if let Observation::Probe(probe) = said { Some(probe) } else { None };
    std::iter::from_fn(|| queue.try_recv().ok()).filter_map(probe).filter(|probe| probe.rtt_ns.is_some()).collect()
}

/// Oslo's sockets towards a reflector at `target`, which is Tokyo's.
fn connect(oslo: &Shared, doors: &Doors) -> Lines {
    let lines = Lines::new(doors).unwrap();
    let target = doors.strangers.socket().local_addr().unwrap();
    finder::connect(oslo, &lines, 0, target, target.ip()).unwrap();
    lines
}

/// This thread is held up for a while, which is not the flow's fault: after a lost probe an answer that waits in the socket keeps the flow
/// alive although it would be overdue by now, and by the kernel its round trip ends when it came and not when it was read.
#[tokio::test]
async fn what_waits_is_read_before_anything_is_overdue() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(mut doors) = Doors::open(address.parse().unwrap()) else { continue };
        // No probe is due while this runs.
        let quiet = "tcp = false\nflows = 1\ninterval = \"60s\"\ngive_up = \"60s\"";
        let ((oslo, mut queue), (tokyo, _)) = (agent("oslo", quiet), agent("tokyo", quiet));
        let lines = connect(&oslo, &doors);
        let stolen = doors.strangers.socket().try_clone().unwrap();
        let judge = || {
            let read = oslo.with(|_, now| now.raw);
            for one in lines.look().unwrap().0 {
                if let Ready::Flow { peer, flow, queued } = one {
                    assert!(take_in(&oslo, &lines, (peer, flow), queued, false), "{address}: all was read");
                }
            }
            oslo.with(|engine, now| engine.due(read, true, now));
            oslo.with(|engine, _| engine.peers()[&0].is_alive())
        };
        let hold_up = || std::thread::sleep(Duration::from_millis(250));

        send_probe(&oslo, &lines, 0, 0);
        assert!(!judge(), "{address}: nothing is known yet");
        assert_eq!(doors.strangers.answer_waiting(&tokyo).taken, 1);
        hold_up();
        assert!(judge());

        send_probe(&oslo, &lines, 0, 0);
        receive(&stolen, &mut [0; REQUEST_MAX]).unwrap();
        hold_up();
        assert!(judge(), "{address}: one lost probe is loss, not death");

        send_probe(&oslo, &lines, 0, 0);
        doors.strangers.answer_waiting(&tokyo);
        hold_up();
        assert!(judge(), "{address}: the answer waited to be read");
        oslo.hand_over(oslo.clock.now().raw);
        let answered = answered(&mut queue);
        assert!(answered.len() <= 2);
        for probe in answered {
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
        let Ok(doors) = Doors::open(address.parse().unwrap()) else { continue };
        let (oslo, _) = agent("oslo", "tcp = false\nflows = 1\ndscp = 46");
        let lines = connect(&oslo, &doors);
        send_probe(&oslo, &lines, 0, 0);
        let received = receive(doors.strangers.socket(), &mut [0; REQUEST_MAX]).unwrap();
        assert_eq!(received.class, Some(46 << 2), "{address}");
    }
}

/// What waits at any socket is told of, and with it whether that is a packet or a stamp; waiting ends once there is something.
#[tokio::test]
async fn all_sockets_are_watched() {
    let mut doors = Doors::open("127.0.0.1:0".parse().unwrap()).unwrap();
    let (oslo, _) = agent("oslo", "tcp = false\nflows = 2\ninterval = \"60s\"");
    let lines = connect(&oslo, &doors);
    assert_eq!(lines.look().unwrap(), (Vec::new(), true));
    lines.wait(Duration::from_millis(1)).unwrap();
    send_probe(&oslo, &lines, 0, 1);
    lines.wait(Duration::from_secs(60)).unwrap();
    assert_eq!(lines.look().unwrap().0, [Ready::Reflector(Door::Strangers)]);
    let (tokyo, _) = agent("tokyo", "tcp = false");
    assert_eq!(doors.strangers.answer_waiting(&tokyo).taken, 1);
    assert_eq!(lines.look().unwrap().0, [Ready::Flow { peer: 0, flow: 1, queued: false }]);
    assert!(take_in(&oslo, &lines, (0, 1), false, true));
    assert_eq!(lines.look().unwrap(), (Vec::new(), true));
}

/// What comes for a peer that is gone by another fleet file meets nobody, and nobody is sent anything in its place.
#[tokio::test]
async fn who_is_gone_is_not_heard() {
    let quiet = "tcp = false\nflows = 1\ninterval = \"60s\"\ngive_up = \"60s\"";
    let mut doors = Doors::open("127.0.0.1:0".parse().unwrap()).unwrap();
    let ((oslo, _queue), (tokyo, _)) = (agent("oslo", quiet), agent("tokyo", quiet));
    let lines = connect(&oslo, &doors);
    let flows = |lines: &Lines| lines.look().unwrap().0.iter().filter(|ready| matches!(ready, Ready::Flow { .. })).count();
    send_probe(&oslo, &lines, 0, 0);
    doors.strangers.answer_waiting(&tokyo);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(flows(&lines), 1);
    let other = Arc::new(fleet(&[("tcp = false", quiet), ("\"tokyo\"", "\"osaka\""), ("tokyo-", "osaka-")]));
    let reloaded = oslo.with(|engine, now| engine.reload(&other, now));
    assert_eq!((&reloaded.added[..], &reloaded.removed[..]), (&[1][..], &[0][..]));
    lines.close(0);
    assert_eq!(flows(&lines), 0);
    assert!(take_in(&oslo, &lines, (0, 0), true, true));
    send_probe(&oslo, &lines, 0, 0);
    assert_eq!(doors.strangers.answer_waiting(&tokyo).taken, 0);
    assert!(lines.of(0).is_none() && lines.of(1).is_none());
}
