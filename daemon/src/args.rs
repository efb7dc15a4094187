//! The parts of a command line that all lagmesh programs share.

use clap::Parser;

use crate::exit;
use crate::logging::{self, LogFormat};

/// How the program logs; flatten this into a `clap` parser.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct LogArgs {
    /// Log lines as text or as one JSON object each, to standard error
    #[arg(long, env = "LAGMESH_LOG_FORMAT", value_enum, value_name = "FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,

    /// What to log: off, error, warn, info, debug or trace, or directives such as info,hyper=warn
    #[arg(long, env = "LAGMESH_LOG", value_name = "LEVEL", default_value = "info", global = true, value_parser = level)]
    pub log_level: String,
}

impl LogArgs {
    /// Starts logging as asked for.
    pub fn init(&self) {
        logging::init(self.log_format, &self.log_level);
    }
}

/// Reads the command line and the environment, or ends with the code that the process should end with: 0 after `--help`
/// and `--version`, [`exit::USAGE`] after a mistake that has been explained on standard error.
///
/// # Errors
/// The exit code, if the program has nothing to run.
pub fn parse<Args: Parser>() -> Result<Args, u8> {
    Args::try_parse().map_err(|e| {
        // A closed pipe (`--help | head`) is no reason to end in another way.
        e.print().ok();
        if e.use_stderr() { exit::USAGE } else { exit::OK }
    })
}

fn level(text: &str) -> Result<String, logging::BadLevel> {
    logging::check_level(text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        log: LogArgs,
    }

    /// The group is well formed, has the documented defaults, and refuses a level that would log nothing.
    #[test]
    fn log_arguments() {
        Program::command().debug_assert();
        let defaults = Program::try_parse_from(["p"]).unwrap().log;
        assert_eq!(defaults, LogArgs { log_format: LogFormat::Text, log_level: "info".to_owned() });
        let chosen = Program::try_parse_from(["p", "--log-format", "json", "--log-level", "debug"]).unwrap().log;
        assert_eq!(chosen, LogArgs { log_format: LogFormat::Json, log_level: "debug".to_owned() });
        let refused = Program::try_parse_from(["p", "--log-level", "inof"]).unwrap_err().to_string();
        assert!(refused.contains("is no log level"), "{refused}");
    }
}
