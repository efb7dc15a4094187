//! The program: arguments -> configuration -> logging -> runtime -> run -> exit code.

use std::path::Path;
use std::process::ExitCode;

use lagmesh_collector::config::{Args, Config, state_dir};
use lagmesh_collector::{Collector, history};
use lagmesh_daemon::{Shutdown, Supervisor, args, cancel_on_signal, exit};

/// Batches are built by the threads that receive them and dropped by those that keep them, which this one is made for. How it is set
/// stands in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args: Args = match args::parse() {
        Ok(args) => args,
        Err(code) => return code.into(),
    };
    if let Some(folder) = &args.backup_to {
        return backup(&args, folder);
    }
    let config = match Config::read(&args) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("{e}");
            return exit::CONFIG.into();
        }
    };
    args.log.init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!(error = %e, "start the runtime");
            return exit::SOFTWARE.into();
        }
    };
    let code = runtime.block_on(run(config));
    // A file that hangs must not hold up the end.
    runtime.shutdown_background();
    code.into()
}

/// Copies what a collector keeps; needs neither a fleet file nor the collector.
fn backup(args: &Args, folder: &Path) -> ExitCode {
    match history::backup(&state_dir(args), folder) {
        Ok(copies) => {
            for copy in copies {
                eprintln!("{} is whole", copy.display());
            }
            exit::OK.into()
        }
        Err(e) => {
            eprintln!("{e}");
            exit::SOFTWARE.into()
        }
    }
}

async fn run(config: Config) -> u8 {
    let mut supervisor = Supervisor::new(Shutdown::new());
    cancel_on_signal(&mut supervisor);
    let ended = match Collector::start_under(&config, supervisor) {
        Ok(collector) => collector.run().await,
        Err(e) => Err(e),
    };
    match ended {
        Ok(()) => {
            tracing::info!("stopped");
            exit::OK
        }
        Err(e) => {
            tracing::error!(error = %e, "ended");
            e.exit_code()
        }
    }
}
