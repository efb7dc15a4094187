//! `make demo`: three regions on this machine, a live table, and the address of the status page.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lagmesh_tests::plan::Plan;
use lagmesh_tests::wait;
use lagmesh_tests::wan::NotPossible;
use lagmesh_tests::world::{Options, World};

/// How often the table is printed on a terminal.
const REDRAW: Duration = Duration::from_secs(2);

/// How often agents export: more often than in a real fleet, so that visitors see at once what they did.
const EXPORT_INTERVAL: Duration = Duration::from_secs(2);

/// How long a hiccup of the machine at the very end may last.
const HICCUP: Duration = Duration::from_secs(5);

/// How often it is printed into a file or a pipe.
const REPRINT: Duration = Duration::from_secs(15);

/// Starts three regions (New York writes, Dublin and Tokyo stream from it), an agent in each and a collector, and shows a live
/// table. Ctrl-C ends everything.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// End after this many seconds of a ready fleet, and succeed only if every link and every lag is known at the end.
    #[arg(long, env = "DEMO_SECONDS")]
    seconds: Option<u64>,
    /// The port on which people would like the status page; another one is taken if it is in use.
    #[arg(long, default_value_t = 8622)]
    port: u16,
    /// Do not emulate the network between the cities, even where that is possible.
    #[arg(long)]
    loopback: bool,
    /// Leave the run folder with all logs on disk.
    #[arg(long)]
    keep: bool,
}

fn say(line: &str) {
    // Nobody is left to complain to if stdout is gone.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut interrupt = Interrupt::new()?;
    let mut world = tokio::select! {
        world = start(&args) => world?,
        () = interrupt.wait() => return Ok(()),
    };
    let result = show(&mut world, &args, &mut interrupt).await;
    finish(world, result, &args).await
}

/// With the distances between the cities where the network can be emulated, else without.
async fn start(args: &Args) -> Result<World> {
    let mut tell = |line: &str| say(&format!("demo: {line}"));
    let plan = |distances| Plan::three_cities("demo", EXPORT_INTERVAL, distances);
    let options = |emulated| Options { emulated, http_port: args.port, agent_env: &[] };
    if !args.loopback {
        match World::start(plan(true), &options(true), &mut tell).await {
            Err(error) if NotPossible::is_cause_of(&error) => {
                say(&format!("demo: {error:#}: no distances; round trips are those of loopback"));
            }
            started => return started,
        }
    }
    World::start(plan(false), &options(false), &mut tell).await
}

async fn show(world: &mut World, args: &Args, interrupt: &mut Interrupt) -> Result<()> {
    say(&format!("demo: run folder {}", world.folder().display()));
    tokio::select! {
        ready = world.ready() => { ready?; }
        () = interrupt.wait() => return Ok(()),
    }
    say(&format!("demo: ready; status page {}   (Ctrl-C ends)\n{}", world.page(), world.things_to_try()));
    let end = args.seconds.map(|seconds| tokio::time::Instant::now() + Duration::from_secs(seconds));
    let live = std::io::stdout().is_terminal();
    let mut ticks = tokio::time::interval(if live { REDRAW } else { REPRINT });
    loop {
        tokio::select! {
            _ = ticks.tick() => print_table(world, live).await,
            () = interrupt.wait() => return Ok(()),
            () = until(end) => return final_verdict(world).await,
        }
    }
}

async fn until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// A collector that was killed on purpose is part of the show, not the end of it.
async fn print_table(world: &World, live: bool) {
    let clear = if live { "\x1b[H\x1b[2J" } else { "" };
    let table = match world.fleet_status().await {
        Ok(status) => lagmesh_cli::table::fleet(&status, lagmesh_cli::terminal::style()),
        Err(error) => format!("the collector does not answer: {error:#}"),
    };
    say(&format!("{clear}{table}\nstatus page {}   (Ctrl-C ends)", world.page()));
    if live {
        say(&world.things_to_try());
    }
}

async fn final_verdict(world: &World) -> Result<()> {
    let known = wait::until("every link and every lag is known at the end", HICCUP, || async {
        let status = world.fleet_status().await?;
        let unknown = world.unknown_parts(&status);
        ensure!(unknown.is_empty(), "unknown: {}", unknown.join(", "));
        Ok(status)
    });
    let status = known.await?;
    say(&lagmesh_cli::table::fleet(&status, lagmesh_cli::table::Style::PLAIN));
    say("demo: every link and every lag is known");
    Ok(())
}

/// What died while somebody watched, they have killed themselves or seen; unattended it is a failure.
async fn finish(mut world: World, result: Result<()>, args: &Args) -> Result<()> {
    if args.keep || result.is_err() {
        say(&format!("demo: logs stay in {}", world.folder().display()));
        world.keep_folder();
    }
    say("demo: stopping");
    let stopped = match world.stop().await.context("stop the demo") {
        Err(error) if args.seconds.is_none() => {
            say(&format!("demo: {error:#}"));
            Ok(())
        }
        stopped => stopped,
    };
    result.and(stopped)
}

/// Ctrl-C or SIGTERM.
struct Interrupt {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupt {
    fn new() -> Result<Interrupt> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Interrupt { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
