//! Clocks of whole hosts: a time namespace beneath, a real PostgreSQL on top.

use anyhow::Context;
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use super::*;
use crate::postgres::{self, Server, ServerPlan};
use crate::process::{Place, Process, Program};
use crate::skip::skip;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(30);

/// In a time namespace both show: its thousands of seconds, and the drift and wall clock on top.
#[test]
fn on_top_of_a_time_namespace() {
    let enter = ["unshare", "--time", "--monotonic", "5000", "--boottime", "9000", "--fork", "--kill-child"];
    let works = Command::new(enter[0]).args(&enter[1..]).arg("true").output().is_ok_and(|output| output.status.success());
    if !works {
        assert!(!Uid::effective().is_root(), "root may always make a time namespace");
        return skip("clocks on top of a time namespace: needs CAP_SYS_ADMIN");
    }
    let folder = RunFolder::new("clocks").unwrap();
    let plan = ClockPlan { wall_offset_ns: -744 * S, drift_ppm: 50.0, ..ClockPlan::default() };
    let host = HostClock::new(&folder.path().join("host"), "host", &plan, 5000, 9000).unwrap();
    let mut program = Probe::start_in(&enter, "clocks", &host.env());
    program.reading().check(&host);
    host.set_drift(-50.0).unwrap();
    host.step_wall(S).unwrap();
    let reading = program.narrow_reading(&host);
    let raw_ns = reading.fine().nth(2).unwrap().shown;
    let ahead_ns = raw_ns - read_ns(ClockId::CLOCK_MONOTONIC_RAW) - 5000 * S;
    assert!(ahead_ns.abs() < 10 * S, "{ahead_ns}");
}

/// What the server's wall clock shows, checked against the truth, while it is asked.
async fn check_server(server: &Server, host: &HostClock) -> Result<()> {
    let before = Real::now();
    let answer = server.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint", "postgres").await?;
    let shown_ns: i64 = answer.context("a row")?.parse::<i64>()? * 1000;
    let (low, high) = (host.wall_at(before) - 2000, host.wall_at(Real::now()) + 1000);
    ensure!((low..=high).contains(&shown_ns), "{low} <= {shown_ns} <= {high}");
    Ok(())
}

/// A real PostgreSQL server lives on its host's clocks: it tells their time, survives a step of -744 s and one back, checkpoints after
/// it and shuts down cleanly.
#[tokio::test]
async fn postgresql_lives_on_the_hosts_clocks() -> Result<()> {
    let folder = RunFolder::new("clocks")?;
    let plan = ClockPlan { wall_offset_ns: 100 * S, drift_ppm: -50.0, ..ClockPlan::default() };
    let host = clock(&folder, &plan);
    let mut server = Server::primary(&ServerPlan::on_loopback("server")?, folder.path()).await?;
    server.stop(Signal::SIGINT).await?;
    let data = server.folder().join("data").display().to_string();
    let program = Program {
        name: "faked-server".to_owned(),
        path: postgres::program_path("postgres", None)?,
        args: vec!["-D".to_owned(), data.clone()],
        env: host.env(),
        user: Uid::effective().is_root().then(|| "postgres".to_owned()),
        place: Place::default(),
    };
    let mut process = Process::start(program, server.folder())?;
    wait::until("the server answers", PATIENCE, || check_server(&server, &host)).await.with_context(|| process.last_words())?;
    for by_ns in [-744 * S, 744 * S] {
        server
            .app(&format!("CREATE TABLE at_{} AS SELECT generate_series(1, 1000)", by_ns.unsigned_abs() + u64::from(by_ns > 0)))
            .await?;
        host.step_wall(by_ns)?;
        check_server(&server, &host).await?;
        server.app("CHECKPOINT").await?;
        check_server(&server, &host).await?;
    }
    let status = process.stop(Signal::SIGINT, PATIENCE).await.with_context(|| process.last_words())?;
    ensure!(status.success(), "{status}: {}", process.last_words());
    let about = Command::new(postgres::program_path("pg_controldata", None)?).arg(data).output()?;
    let about = String::from_utf8(about.stdout)?;
    ensure!(about.lines().any(|line| line.starts_with("Database cluster state:") && line.ends_with(" shut down")), "{about}");
    ensure!(!process.output()?.contains("PANIC"), "{}", process.output()?);
    Ok(())
}

/// What an intercepted reading of a clock costs, told beside a plain one. No more than a few times as much, even on a busy machine.
#[test]
fn a_reading_costs_little() {
    let folder = RunFolder::new("clocks").unwrap();
    let host = clock(&folder, &ClockPlan { wall_offset_ns: S, drift_ppm: 50.0, ..ClockPlan::default() });
    let best_ps = |env: &[(String, String)]| {
        let mut program = Probe::start("cost", env);
        (0..20).map(|_| program.ask("200000")[0]).min().unwrap()
    };
    let (plain_ps, ours_ps) = (best_ps(&[]), best_ps(&host.env()));
    println!(
        "clock_gettime: {}.{} ns, under the library {}.{} ns",
        plain_ps / 1000,
        plain_ps % 1000,
        ours_ps / 1000,
        ours_ps % 1000
    );
    assert!(ours_ps < plain_ps * 4 + 200_000, "{plain_ps} ps, under the library {ours_ps} ps");
}
