//! A real Prometheus that scrapes a collector which asks who it is.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Result, ensure};
use lagmesh_tests::prometheus::Prometheus;
use lagmesh_tests::wait;

use crate::forward::answers;
use crate::security::{Authority, PATIENCE, Yard, furnished};

/// Over TLS with the token of a reader, as docs/security.md says, Prometheus gets the collector's metrics; without a token, with one of another
/// role or without the authority it gets nothing and `up` says so, while the first goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_shows_a_token() -> Result<()> {
    let yard = Yard::start(furnished("scrape", &Authority::new("right")?)?)?;
    let path = |name: &str| yard.path(name).display().to_string();
    for name in ["reader", "sender"] {
        // As `lagmesh token` writes it: a line.
        fs::write(yard.path(&format!("{name}.token")), format!("{name}\n"))?;
    }
    let authority = format!("    tls_config:\n      ca_file: {}\n", path("ca.crt"));
    let token = |name: &str| format!("    authorization:\n      credentials_file: {}\n", path(&format!("{name}.token")));
    let jobs = [
        ("reader", authority.clone() + &token("reader"), 1.0),
        ("nobody", authority.clone(), 0.0),
        ("sender", authority.clone() + &token("sender"), 0.0),
        ("credulous", token("reader"), 0.0),
    ];
    let mut scrapes = "scrape_configs:\n".to_owned();
    for (job, more, _) in &jobs {
        let port = yard.port;
        writeln!(
            scrapes,
            "  - job_name: {job}\n    scheme: https\n{more}    static_configs:\n      - targets: [\"localhost:{port}\"]"
        )?;
    }
    let folder = tempfile::tempdir()?;
    let prometheus = Prometheus::with_scrapes(folder.path(), &scrapes).await?;
    wait::until("only the reader gets in", PATIENCE, || async {
        for (job, _, expected) in &jobs {
            let up: Vec<f64> = answers(&prometheus, &format!("up{{job=\"{job}\"}}")).await?.into_values().collect();
            ensure!(up == [*expected], "up of {job}: {up:?}");
        }
        let expected = answers(&prometheus, "lagmesh_fleet_regions{state=\"expected\"}").await?;
        ensure!(expected.len() == 1 && expected.values().all(|regions| (*regions - 2.0).abs() < 0.5), "{expected:?}");
        Ok(())
    })
    .await?;
    let others = prometheus.query("{__name__=~\"lagmesh_.+\", job!=\"reader\"}").await?;
    ensure!(others.is_empty(), "others have got something: {others:?}");
    prometheus.stop().await
}
