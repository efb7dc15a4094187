//! Every batch reaches every collector once, whatever happens in between.

use std::fs;
use std::sync::Arc;

use lagmesh_model::ids::BootId;
use lagmesh_model::series::Batch;
use rusqlite::Connection;

use crate::collector::{Collector, accept};
use crate::program::{Agent, Home, fleet, free_port, wait_for};

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn pending(agent: &Agent) -> u64 {
    agent.status().exports[0].pending_batches
}

/// What waits in a spool that nobody uses.
fn left_in_spool(home: &Home) -> i64 {
    let spool = Connection::open(home.path("state/spool.db")).unwrap();
    spool.query_row("SELECT count(*) FROM pending", [], |row| row.get(0)).unwrap()
}

/// All sequences of a run from the first one on, without a gap.
fn assert_whole(sequences: &[u64]) {
    let count = sequences.len() as u64;
    assert_eq!(sequences, (1..=count).collect::<Vec<_>>());
}

fn boot(agent: &Agent) -> BootId {
    agent.status().boot
}

/// A collector that was away gets every batch exactly once when it comes, the newest first, and the last one when the agent ends.
#[test]
fn outage() {
    let port = free_port();
    let home = Home::new(&fleet(&[("main", url(port))]));
    let agent = home.start(&[]);
    let boot = boot(&agent);
    wait_for("batches in the spool", || (pending(&agent) >= 10).then_some(()));
    let collector = Collector::start(port, accept, None);
    wait_for("the spool to empty", || (pending(&agent) == 0).then_some(()));
    assert!(agent.status().exports[0].acknowledged_age_s.is_known());
    assert_eq!(agent.status().exports[0].error, None);

    assert_eq!(agent.terminate().code(), Some(0));
    assert_eq!(left_in_spool(&home), 0);
    assert_whole(&collector.accepted()[&boot]);
    let answers = collector.answers();
    assert!(answers.values().all(|answers| answers.len() == 1), "{answers:?}");
}

/// What was spooled before a power cut is delivered by the next run; the runs stay apart.
#[test]
fn power_cut() {
    let port = free_port();
    let home = Home::new(&fleet(&[("main", url(port))]));
    let agent = home.start(&[]);
    let first_boot = boot(&agent);
    let spooled = wait_for("batches in the spool", || Some(pending(&agent)).filter(|batches| *batches >= 5));
    agent.kill();

    let collector = Collector::start(port, accept, None);
    let agent = home.start(&[]);
    let second_boot = boot(&agent);
    assert_ne!(first_boot, second_boot);
    wait_for("the batches of the first run", || {
        collector.accepted().get(&first_boot).filter(|sequences| sequences.len() as u64 >= spooled).map(|_| ())
    });
    wait_for("the spool to empty", || (pending(&agent) == 0).then_some(()));
    assert_eq!(agent.terminate().code(), Some(0));
    let accepted = collector.accepted();
    assert_whole(&accepted[&first_boot]);
    assert_whole(&accepted[&second_boot]);
}

/// A corrupt spool is set aside, counted and told; the agent goes on.
#[test]
fn corrupt_spool() {
    let port = free_port();
    let home = Home::new(&fleet(&[("main", url(port))]));
    fs::create_dir(home.path("state")).unwrap();
    fs::write(home.path("state/spool.db"), vec![b'x'; 100_000]).unwrap();
    let collector = Collector::start(port, accept, None);
    let agent = home.start(&[]);
    let boot = boot(&agent);
    wait_for("a batch", || collector.accepted().get(&boot).map(|_| ()));
    assert!(home.path("state/spool.db.bad").exists());
    assert_eq!(agent.metric(&["lagmesh_spool_lost_total{", "reason=\"corrupt\""]), Some(1.0));
    assert!(agent.log().contains("spool is no good"));
}

/// A batch that the collector will never take is given up after one try and counted; those after it arrive.
#[test]
fn refused_batch() {
    fn policy(batch: &Batch) -> &'static str {
        if batch.sequence == 2 { "400 Bad Request" } else { "200 OK" }
    }
    let port = free_port();
    let home = Home::new(&fleet(&[("main", url(port))]));
    let collector = Collector::start(port, policy, None);
    let agent = home.start(&[]);
    let boot = boot(&agent);
    wait_for("later batches", || collector.accepted().get(&boot)?.contains(&5).then_some(()));
    wait_for("the loss to be counted", || {
        (agent.metric(&["lagmesh_spool_lost_total{", "reason=\"refused\""]) == Some(1.0)).then_some(())
    });
    let answers = collector.answers();
    assert_eq!(answers[&("dublin".to_owned(), boot, 2)], ["400 Bad Request"]);
}

/// One collector that is away does not hold up another.
#[test]
fn collectors_are_independent() {
    let (port, away) = (free_port(), free_port());
    let home = Home::new(&fleet(&[("main", url(port)), ("away", url(away))]));
    let collector = Collector::start(port, accept, None);
    let agent = home.start(&[]);
    let boot = boot(&agent);
    wait_for("batches at one", || (collector.accepted().get(&boot)?.len() >= 5).then_some(()));
    wait_for("batches that wait for the other", || {
        let exports = agent.status().exports;
        let by_name = |name: &str| exports.iter().find(|export| export.collector.as_str() == name);
        let (main, away) = (by_name("main")?, by_name("away")?);
        assert_eq!(main.error, None);
        (away.pending_batches >= 5 && away.error.is_some() && main.pending_batches <= 1).then_some(())
    });
    assert_eq!(agent.terminate().code(), Some(0), "a dead collector does not hold up the end either");
}

/// Over TLS an agent trusts the authorities of the file that it was given, and nobody else.
#[test]
fn tls() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let port = free_port();
    let collector = Collector::start(port, accept, Some(Arc::new(server)));
    let home = Home::new(&fleet(&[("main", format!("https://localhost:{port}"))]));
    let authority = home.path("ca.pem");
    fs::write(&authority, issued.cert.pem()).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = home.path("other.pem");
    fs::write(&other, stranger.cert.pem()).unwrap();

    let agent = home.start(&["--otlp-ca-file", other.to_str().unwrap()]);
    let error = wait_for("a refused certificate", || agent.status().exports[0].error.clone());
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(agent.terminate().code(), Some(0));
    assert!(collector.answers().is_empty());

    let agent = home.start(&["--otlp-ca-file", authority.to_str().unwrap()]);
    let boot = boot(&agent);
    wait_for("a batch", || collector.accepted().get(&boot).map(|_| ()));
}
