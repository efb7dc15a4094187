//! What a collector refuses for good can be looked at and sent again while the agent runs, by whoever owns its files.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use lagmesh_model::dead_letter::DeadLetter;
use lagmesh_model::series::Batch;

use crate::collector::{Collector, accept};
use crate::program::{Home, fleet, free_port, wait_for};

/// Asks on the control socket: the status and the body.
fn ask(home: &Home, method: &str, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(home.path("state/control.sock")).unwrap();
    write!(stream, "{method} /v1/dead-letters{path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split_whitespace().nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn letters(home: &Home) -> Vec<DeadLetter> {
    let (status, body) = ask(home, "GET", "");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// A refused batch is a letter that says who, which, when and why; once the collector is mended it is sent again and arrives as the
/// batch that it is, and nothing is left of it. It survives a restart of the agent, and nobody else on the host can ask.
#[test]
fn a_refused_batch_is_sent_again() {
    static MENDED: AtomicBool = AtomicBool::new(false);
    fn policy(batch: &Batch) -> &'static str {
        let bad = batch.sequence <= 2 && !MENDED.load(Ordering::SeqCst);
        if bad { "400 Bad Request" } else { "200 OK" }
    }
    let port = free_port();
    let home = Home::new(&fleet(&[("main", format!("http://127.0.0.1:{port}"))]));
    let collector = Collector::start(port, policy, None);
    let agent = home.start(&[]);
    let boot = agent.status().boot;
    wait_for("later batches", || collector.accepted().get(&boot)?.contains(&5).then_some(()));
    assert_eq!(agent.terminate().code(), Some(0));

    let agent = home.start(&[]);
    let kept = letters(&home);
    assert_eq!(kept.iter().map(|letter| (letter.boot, letter.sequence)).collect::<Vec<_>>(), [(boot, 1), (boot, 2)]);
    assert_eq!((kept[0].collector.as_str(), kept[0].agent.as_str()), ("main", "dublin"));
    assert!(kept[0].reason.starts_with("HTTP status 400") && kept[0].refused >= kept[0].made, "{kept:?}");
    assert_eq!(agent.metric(&["lagmesh_spool_dead_letters{"]), Some(2.0));
    let mode = std::fs::metadata(home.path("state/control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let [first, second] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(ask(&home, "GET", &format!("/{}", first.id)).0, 200);
    assert_eq!(ask(&home, "POST", &format!("/{}/resend", second.id + 1)).0, 404);
    assert_eq!(ask(&home, "DELETE", &format!("/{}", first.id)).0, 204);
    MENDED.store(true, Ordering::SeqCst);
    assert_eq!(ask(&home, "POST", &format!("/{}/resend", second.id)).0, 204);
    wait_for("the batch that was refused", || collector.accepted().get(&boot)?.contains(&2).then_some(()));
    assert_eq!(letters(&home), []);
    assert!(!collector.accepted()[&boot].contains(&1), "it was dropped");
    wait_for("the count to fall", || (agent.metric(&["lagmesh_spool_dead_letters{"]) == Some(0.0)).then_some(()));
}

/// Each compression of the fleet file is what its word says, and a collector can read the batches.
#[test]
fn compressions() {
    for compression in ["gzip", "zstd", "none"] {
        let port = free_port();
        let text = fleet(&[("main", format!("http://127.0.0.1:{port}"))]);
        let text = text.replacen("[export]\n", &format!("[export]\ncompression = \"{compression}\"\n"), 1);
        assert!(text.contains("compression"), "{text}");
        let home = Home::new(&text);
        let collector = Collector::start(port, accept, None);
        let agent = home.start(&[]);
        let boot = agent.status().boot;
        wait_for("a batch", || collector.accepted().get(&boot).map(|_| ()));
        let expected = if compression == "none" { "identity" } else { compression };
        assert!(collector.encodings().iter().all(|encoding| encoding == expected), "{compression}: {:?}", collector.encodings());
    }
}
