use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use lagmesh_model::beat::{Incarnation, Sequence};
use lagmesh_model::ids::NodeName;
use lagmesh_model::position::SystemIdentifier;
use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos};
use lagmesh_postgres::bootstrap::{BootstrapOptions, bootstrap_sql};
use lagmesh_postgres::layout::{NewBeat, Stream as Column, insert_rows, session_sql, write_beat};
use nix::sched::{CloneFlags, setns};
use tokio_postgres::{Client, NoTls};

use super::truth::Stream;
use super::*;
use crate::files::RunFolder;
use crate::postgres::ServerPlan;
use crate::process::Place;
use crate::real::Real;

const ORIGIN: &str = "writer-db";
const DELAY: Duration = Duration::from_millis(300);
const BEATS: u64 = 60;

/// The product's own way of writing beats, over TCP as an agent does.
struct Writer {
    client: Client,
    origin: NodeName,
}

impl Writer {
    async fn connect(host: &str, port: u16) -> Result<Writer> {
        let settings = format!("host={host} port={port} user=lagmesh password=lagmesh dbname={DATABASE}");
        let (client, connection) = tokio_postgres::connect(&settings, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(&session_sql(Column::Beat)).await?;
        let origin: NodeName = ORIGIN.parse()?;
        insert_rows(&client, &origin, Incarnation(77), Column::Beat).await?;
        Ok(Writer { client, origin })
    }

    /// Writes a beat and says when it was sent and when it was known to be committed.
    async fn beat(&self, sequence: u64) -> Result<(Real, Real)> {
        let beat = NewBeat {
            origin: &self.origin,
            incarnation: Incarnation(77),
            stream: Column::Beat,
            sequence: Sequence(sequence),
            sent: Reading { epoch: Epoch(1), raw: RawNanos::from_outside(1).context("a time")?, wall: WallNanos(1) },
            claimed_error_ns: None,
            previous_acknowledged: None,
            system: SystemIdentifier(1),
        };
        let sent = Real::now();
        write_beat(&self.client, &beat).await?.context("the row is there")?;
        Ok((sent, Real::now()))
    }
}

/// With a replay that is delayed by 300 ms the truth says at least 300 ms and little more; each commit's return lies where its writer
/// saw it; nothing holds a snapshot between looks; and what it cost is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_truth_about_a_delayed_standby() -> Result<()> {
    let run = RunFolder::new("observer")?;
    let server = Server::primary(&ServerPlan::on_loopback("writer")?, run.path()).await?;
    server.app(&bootstrap_sql(&BootstrapOptions::default())).await?;
    let standby = Server::standby(&ServerPlan::on_loopback("reader")?, run.path(), &server).await?;
    server.app("ALTER ROLE lagmesh PASSWORD 'lagmesh'").await?;
    let writer = Writer::connect(&server.address().to_string(), server.port()).await?;
    standby.delay_apply(DELAY).await?;

    let watched = [Watched::new(ORIGIN, &server)?, Watched::new("reader-db", &standby)?];
    let observer = Observer::start(&watched, RESOLUTION)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (mut acknowledged, mut holding) = (Vec::new(), 0);
    for sequence in 1..=BEATS {
        acknowledged.push(writer.beat(sequence).await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
        holding += snapshots_while_idle(&standby).await?;
    }
    let staleness_at = Real::now();
    tokio::time::sleep(2 * DELAY).await;
    let (truth, reports) = observer.stop();
    for report in &reports {
        eprintln!("{report}");
    }

    let beats: Vec<&BeatTruth> = truth.of(ORIGIN, Stream::Beat).collect();
    assert_eq!(beats.len(), acknowledged.len());
    for (beat, (sent, known)) in beats.iter().zip(&acknowledged) {
        let committed = beat.committed.context("the commit was seen")?;
        assert!(beat.from_wire, "beat {} was not seen on the wire", beat.id.sequence);
        assert!(committed.by > *sent && committed.after < *known, "{committed:?} is not within {sent:?} to {known:?}");
        let visible = beat.visible[ORIGIN];
        assert!(visible.after < committed.by, "visible at the writer {visible:?} before its commit returned {committed:?}");
        let arrived = beat.visible["reader-db"].by - *sent;
        assert!(
            arrived >= 300_000_000,
            "{arrived} ns: replay is delayed by 300 ms of the commit's own stamp, which is later than sent"
        );
    }
    let mut lags: Vec<i64> = beats.iter().filter_map(|beat| beat.lag("reader-db")).map(|lag| lag.lower_ns).collect();
    lags.sort_unstable();
    eprintln!(
        "lag, lower end: {} .. {} .. {} ms",
        lags[0] / 1_000_000,
        lags[lags.len() / 2] / 1_000_000,
        lags[lags.len() - 1] / 1_000_000
    );
    assert!(lags[lags.len() / 2] < 330_000_000, "{lags:?}");
    let stale = truth.staleness(ORIGIN, "reader-db", staleness_at).context("something was visible")?;
    assert!(stale.lower_ns > 250_000_000 && stale.upper_ns < 700_000_000, "{stale:?}");

    assert_eq!(holding, 0, "a snapshot was held while nothing was asked");
    for report in &reports {
        assert!(report.width_p50_p99_max_ns.is_some(), "{report}");
        assert!(report.cost.server_cpu_ns > 0 && report.looks_per_s() > 100.0, "{report}");
    }
    Ok(())
}

/// How many of the observer's idle sessions hold a snapshot back.
async fn snapshots_while_idle(server: &Server) -> Result<u32> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'testbed-observer' AND state <> 'active' \
               AND backend_xmin IS NOT NULL";
    Ok(server.app(sql).await?.context("a count")?.parse()?)
}

/// In a network of its own the server's answers are found all the same; and when the server was killed and started again the observer
/// goes on by itself, with the beats of the time between marked as not seen exactly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_network_and_a_restart() -> Result<()> {
    let run = RunFolder::new("observer-host")?;
    if !nix::unistd::Uid::effective().is_root() {
        crate::skip::skip("the observer in another network: needs root");
        return Ok(());
    }
    let enter = ["unshare", "--net", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
    let place = Place { enter: enter.map(str::to_owned).to_vec(), env: Vec::new() };
    let mut server = Server::primary(&ServerPlan::on_host("writer", place, &[Ipv4Addr::LOCALHOST.into()]), run.path()).await?;
    server.app(&bootstrap_sql(&BootstrapOptions::default())).await?;
    let watched = Watched::new(ORIGIN, &server)?;
    let observer = Observer::start(&[watched], RESOLUTION)?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    beats_from_inside(&server, 1..=5).await?;
    let before = observer.truth();
    server.kill().await?;
    server.start().await?;
    // A new network stands in the new server's place, so only visibility is seen from here on.
    beats_from_inside(&server, 6..=6).await?;
    let (after, reports) = observer.stop();
    eprintln!("{}", reports[0]);

    assert_eq!(before.of(ORIGIN, Stream::Beat).filter(|beat| beat.from_wire).count(), 5, "{before:?}");
    let last = after.of(ORIGIN, Stream::Beat).last().context("a beat after the restart")?;
    assert_eq!((last.id.sequence, last.from_wire), (6, false));
    assert!(reports[0].cost.sessions >= 2 && reports[0].cost.trouble.is_some(), "{}", reports[0]);
    Ok(())
}

/// Writes beats from within the server's own network.
async fn beats_from_inside(server: &Server, sequences: std::ops::RangeInclusive<u64>) -> Result<()> {
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", server.pid()?))?;
    server.app("ALTER ROLE lagmesh PASSWORD 'lagmesh'").await?;
    let (address, port) = (server.address(), server.port());
    let write = move || -> Result<()> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let writer = Writer::connect(&address.to_string(), port).await?;
            for sequence in sequences {
                writer.beat(sequence).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        })
    };
    let thread = std::thread::spawn(write);
    tokio::task::spawn_blocking(move || thread.join()).await?.map_err(|_| anyhow::anyhow!("it panicked"))?
}
