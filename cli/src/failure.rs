//! Why a command did not do what it was asked for.

use std::io;

use lagmesh_daemon::exit;
use lagmesh_model::document::FileErrors;

/// The exit code of a command that refused, or that reached nobody.
const REFUSED: u8 = 1;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Refused, or nobody answers; the text says what to do.
    #[error("lagmesh: {0}")]
    Refused(String),
    /// The fleet file is wrong: one line per mistake.
    #[error(transparent)]
    Fleet(#[from] FileErrors),
    /// Something that was named in the command line cannot be used.
    #[error("lagmesh: {0}")]
    Config(String),
    /// The command line makes no sense.
    #[error("lagmesh: {0}")]
    Usage(&'static str),
    /// Standard output cannot be written.
    #[error("lagmesh: write the output: {0}")]
    Output(#[from] io::Error),
    /// We are broken.
    #[error("lagmesh: {0:#}")]
    Broken(anyhow::Error),
}

impl Failure {
    /// The code with which the process should end.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) | Failure::Output(_) => REFUSED,
            Failure::Fleet(_) | Failure::Config(_) => exit::CONFIG,
            Failure::Usage(_) => exit::USAGE,
            Failure::Broken(_) => exit::SOFTWARE,
        }
    }

    /// Whether the reader of standard output has gone.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
