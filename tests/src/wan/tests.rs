use super::*;

/// A network, or `None` where there is no privilege for one: counted, and printed by `make test`.
pub(super) fn network(plan: &WanPlan) -> Option<Wan> {
    match Wan::start(plan) {
        Ok(wan) => Some(wan),
        Err(error) if NotPossible::is_cause_of(&error) => {
            crate::skip::skip(&format!("a network of namespaces: {error:#}"));
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::runtime::Runtime;

use self::log::Fate;
use self::path::Cut;

const MS: i64 = 1_000_000;
/// Where the echoes of these tests listen.
const ECHO: u16 = 7000;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn two_cities(delay_ms: [i64; 2]) -> WanPlan {
    let link = |from: &str, to: &str, delay_ms: i64| LinkPlan {
        from: from.to_owned(),
        to: to.to_owned(),
        settings: LinkSettings::delayed(delay_ms * MS),
    };
    WanPlan {
        hosts: vec![HostPlan::new("a", "east"), HostPlan::new("b", "west")],
        links: vec![link("east", "west", delay_ms[0]), link("west", "east", delay_ms[1])],
        ..WanPlan::default()
    }
}

/// Answers on the echo port of a host, with the number of the request where a reflector has it.
async fn echo(wan: &Wan, host: &str, v6: bool) {
    let address = SocketAddr::new(wan.address(host, v6).unwrap(), ECHO);
    let host = wan.host(host).unwrap();
    let socket = host.run(move || async move { Ok(UdpSocket::bind(address).await?) }).await.unwrap();
    drop(host.handle().spawn(async move {
        let mut packet = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            packet.copy_within(0..4, 24);
            drop(socket.send_to(&packet[..length], from).await);
        }
    }));
}

/// Sends numbered packets to the echo of `to`, and says how long each took there and back [ns]; `None` for those not heard of in time.
async fn probe(wan: &Wan, from: &str, to: &str, v6: bool, count: u32) -> Vec<Option<i64>> {
    let (own, peer) = (wan.address(from, v6).unwrap(), SocketAddr::new(wan.address(to, v6).unwrap(), ECHO));
    let job = move || async move {
        let socket = UdpSocket::bind((own, 0)).await?;
        let mut times = Vec::new();
        for sequence in 1..=count {
            let mut packet = [0; 44];
            packet[..4].copy_from_slice(&sequence.to_be_bytes());
            let sent = Real::now();
            socket.send_to(&packet, peer).await?;
            let heard = tokio::time::timeout(Duration::from_millis(300), socket.recv_from(&mut packet)).await;
            times.push(heard.is_ok_and(|heard| heard.is_ok()).then(|| Real::now() - sent));
        }
        Ok(times)
    };
    wan.host(from).unwrap().run(job).await.unwrap()
}

/// The truth of every probe lies within what the prober saw, above what the links were set to, and both directions are told apart,
/// with IPv4 and IPv6 alike.
#[test]
fn delays_and_their_truth() {
    let Some(wan) = network(&two_cities([20, 30])) else { return };
    let (a, b) = (wan.host("a").unwrap().id(), wan.host("b").unwrap().id());
    runtime().block_on(async {
        for v6 in [false, true] {
            let since = Real::now();
            echo(&wan, "b", v6).await;
            let seen = probe(&wan, "a", "b", v6, 10).await;
            let truth = wan.log().rtt_truth(a, b, ECHO, since, Real::now());
            assert_eq!(truth.len(), 10, "{:?}", wan.log().counts());
            for (seen, truth) in seen.iter().zip(&truth) {
                assert!(truth.forward_ns >= 20 * MS && truth.back_ns >= 30 * MS, "{truth:?}");
                assert!(truth.rtt_ns <= seen.unwrap(), "{truth:?} {seen:?}");
            }
        }
    });
    assert_eq!(wan.quality().tap_missed, 0);
}

/// A cut holds in its direction only, from the moment that it is set to the moment that it is lifted.
#[test]
fn one_direction_is_cut() {
    let Some(wan) = network(&two_cities([1, 1])) else { return };
    runtime().block_on(async {
        echo(&wan, "b", false).await;
        assert!(probe(&wan, "a", "b", false, 1).await[0].is_some());
        wan.set_link("west", "east", LinkSettings { cut: Cut::All, ..LinkSettings::delayed(MS) }).unwrap();
        assert_eq!(probe(&wan, "a", "b", false, 2).await, [None, None]);
        wan.set_link("west", "east", LinkSettings::delayed(MS)).unwrap();
        assert!(probe(&wan, "a", "b", false, 1).await[0].is_some());
    });
    let (a, b) = (wan.host("a").unwrap().id(), wan.host("b").unwrap().id());
    let count = |from, to, fate| wan.log().count(from, to, fate);
    assert_eq!((count(a, b, Fate::Delivered), count(b, a, Fate::Cut)), (4, 2), "requests arrived, replies did not");
}

/// Nothing of a network is left once it is dropped: neither its processes nor its threads.
#[test]
fn nothing_is_left() {
    let Some(wan) = network(&two_cities([1, 1])) else { return };
    let holders: Vec<String> = wan.hosts().iter().map(|host| host.place().enter[1].clone()).collect();
    let namespaces: Vec<&str> = holders.iter().map(|argument| argument.strip_prefix("--net=").unwrap()).collect();
    assert!(namespaces.iter().all(|path| Path::new(path).exists()));
    drop(wan);
    assert!(namespaces.iter().all(|path| !Path::new(path).exists()));
}

/// Two networks at once do not see each other.
#[test]
fn two_at_once() {
    let Some(one) = network(&two_cities([1, 1])) else { return };
    let Some(two) = network(&two_cities([5, 5])) else { return };
    runtime().block_on(async {
        echo(&one, "b", false).await;
        assert_eq!(probe(&two, "a", "b", false, 1).await, [None]);
        assert!(probe(&one, "a", "b", false, 1).await[0].is_some());
    });
}

/// A plan that cannot be is refused, and says why.
#[test]
fn plans_are_checked() {
    let wrong = |change: fn(&mut WanPlan)| {
        let mut plan = two_cities([1, 1]);
        change(&mut plan);
        format!("{:#}", Wan::start(&plan).unwrap_err())
    };
    assert!(wrong(|plan| plan.links[0].to = "north".to_owned()).contains("north"));
    assert!(wrong(|plan| plan.links[0].settings.loss = 2.0).contains("loss"));
    assert!(wrong(|plan| plan.links.push(plan.links[0].clone())).contains("twice"));
    assert!(wrong(|plan| plan.hosts[1].name = "a".to_owned()).contains("same name"));
}
